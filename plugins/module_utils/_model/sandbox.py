# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The sandbox: one document that declares namespaces, cgroup, root, interfaces and services under one name.

A declaration is the whole: what it leaves out is the kernel's default, and lists are exact. Its parts are the Specs of the
single modules, with names, paths and the cgroup that follow from the sandbox's own name.
"""

from __future__ import annotations

from . import values
from .cgroup import CgroupSpec
from .errors import Problems
from .namespace import NamespaceSpec
from .overlay import OverlaySpec
from .root import RootSpec
from .service import ServiceSpec
from .storage import StorageSpec
from .upgrade import BESIDE, UpgradeSpec, of_trial

PREFIX = "bulkhead/"  # sandbox `web` lives in the cgroup bulkhead/web
UPPERS = "/var/lib/bulkhead/uppers"
IMAGES = "/var/lib/bulkhead/images"
ROOT_KEYS = ("bind", "tmpfs", "devices", "masked_paths", "read_only_paths")
POLICY = ("on_mismatch", "on_change", "remove_data", "kill", "force", "purge", "reset", "restore")  # of the run; not part of what is declared
NETWORK_KEYS = ("network", "interfaces")
KEYS = ("name", "state", "namespaces", "cgroup", "image", "storage", "upgrade", "overlay", "root", "services") + NETWORK_KEYS + ROOT_KEYS
STATES = ("present", "absent", "rolled_back")


class SandboxSpec:
    """One sandbox; ``options`` is the declaration as it is recorded.

    With ``image`` the layers of the overlay, and services that name no command (``of_image``: {place in the list: what is declared of
    it}), are stand-ins until the image is read; ``chain`` then are the digests of its layers, the lowest first.
    """

    __slots__ = ("key", "state", "options", "cgroup", "namespaces", "image", "chain", "storage", "upgrade", "overlay", "root", "interfaces", "services",
                 "of_image", "policy", "purged")

    def __init__(self, name, policy):
        self.key = name
        self.state = "present"
        self.options = {}
        self.cgroup = self.namespaces = self.image = self.chain = self.storage = self.upgrade = self.overlay = self.root = None
        self.interfaces, self.services, self.of_image = [], [], {}
        self.policy = policy
        self.purged = False

    @classmethod
    def absent(cls, name, policy):
        """A sandbox that is recorded and no longer declared."""
        spec = cls(name, policy)
        spec.state, spec.purged = "absent", True
        return spec

    @classmethod
    def from_options(cls, options, path, problems, policy):
        """Read one entry of `sandboxes:`, with the defaults merged in already."""
        options = values.mapping(options, path, problems, known=KEYS)
        name = values.name(options.get("name"), path + ".name", problems)
        spec = cls(name, policy)
        spec.state = values.choice(options.get("state", "present"), path + ".state", problems, STATES)
        spec.options = {key: value for key, value in options.items() if key != "state"}
        spec.upgrade = UpgradeSpec.from_options(options.get("upgrade"), path + ".upgrade", problems)
        if spec.state == "rolled_back":  # present, with the image before
            spec.state, spec.upgrade.back = "present", True
        if options.get("image") is None and (options.get("upgrade") is not None or spec.upgrade.back):
            problems.add(path + (".state" if spec.upgrade.back else ".upgrade"), "belongs to a sandbox of an image. Give image")
        spec.key = name or "unnamed"  # so that the errors of its parts are found with that of its name
        spec._parts(options, path, problems)
        spec.key = name
        return spec

    def _parts(self, options, path, problems):
        name, group = self.key, PREFIX + self.key
        wanted = values.mapping(options.get("namespaces"), path + ".namespaces", problems)
        if wanted.get("cgroup") is not None:
            problems.add(path + ".namespaces.cgroup", "follows from the sandbox's name: it is %s. Leave it out" % group)
        if wanted.get("types"):
            wanted = dict(wanted, cgroup=group)
            self.namespaces = NamespaceSpec.from_options(wanted, path + ".namespaces", problems, name=name)
            self.namespaces.on_mismatch = self.policy["on_mismatch"]
        elif wanted:
            problems.add(path + ".namespaces.types", "is missing. Name the types, such as [net, uts, ipc, mnt, pid, cgroup]")
        self.cgroup = CgroupSpec.from_options(values.mapping(options.get("cgroup"), path + ".cgroup", problems),
                                              path + ".cgroup", problems, name=group)
        self._interfaces(options, path, problems)
        self._root(options, path, problems)
        seen = set()
        for index, service in enumerate(values.items(options.get("services"), path + ".services", problems)):
            here = "%s.services[%d]" % (path, index)
            service = values.mapping(service, here, problems)
            if self.image and service and service.get("command") is None:
                self.of_image[index], service = service, dict(service, command=["/"])
            parsed = ServiceSpec.from_options(service, here, problems, sandbox=self)
            if parsed.name in seen:
                problems.add(here + ".name", "%s is the name of two services" % values.quoted(service["name"]))
            elif parsed.name is not None:
                seen.add(parsed.name)
            self.services.append(parsed)

    def _interfaces(self, options, path, problems):
        given = [key for key in NETWORK_KEYS if options.get(key) is not None]
        if not given:
            return
        self.interfaces = interfaces_of(self.key, options, path, problems)
        for each in self.interfaces:
            each.on_mismatch = self.policy["on_mismatch"]
        if self.namespaces is None or "net" not in (self.namespaces.types or ()):
            problems.add("%s.%s" % (path, given[0]), "belongs to a net namespace. Name net among the types of namespaces")

    def _root(self, options, path, problems):
        """The overlay or the directory that is the root, and what is mounted in it."""
        prepared = self.namespaces is not None and "mnt" in (self.namespaces.types or ())
        given, self.image = options.get("overlay"), None
        if options.get("image") is not None:
            self.image = values.name(options["image"], path + ".image", problems)
            given = values.mapping(given, path + ".overlay", problems)
            if given.get("lower") is not None:
                problems.add(path + ".overlay.lower", "the layers are those of the image. Leave it out")
            given = dict(given, lower=["%s/%s.json" % (IMAGES, self.image)])
        if given is not None and options.get("root") is not None:
            problems.add(path + ".root", "a sandbox has one root: give overlay, image or root")
            return
        if given is not None:
            self.overlay = OverlaySpec.from_options(values.mapping(given, path + ".overlay", problems),
                                                    path + ".overlay", problems, defaults=overlay_defaults(self.key))
            self.overlay.on_mismatch = self.policy["on_mismatch"]
        self._storage(options, path, problems, prepared)
        base = self.overlay
        if options.get("root") is not None:
            base = values.absolute(options["root"], path + ".root", problems)
        if not prepared and base is not None and self.namespaces is not None and "user" in (self.namespaces.types or ()):
            problems.add(path + ".namespaces.types", "user needs mnt, too: only there a root has the ids of its user namespace")
        extra = {key: options[key] for key in ROOT_KEYS if options.get(key) is not None}
        if prepared and (base is not None):
            self.root = RootSpec.from_options(extra, path, problems, name=self.key, base=base, types=self.namespaces.types,
                                              maps=(self.namespaces.uid_map, self.namespaces.gid_map))
            self.root.named = any(each.network for each in self.interfaces)
        elif extra:
            problems.add("%s.%s" % (path, sorted(extra)[0]), "belongs to a prepared root. Give overlay, image or root, and the namespace type mnt")

    def _storage(self, options, path, problems, prepared):
        self.storage, here = StorageSpec.from_options(options.get("storage"), path + ".storage", problems), path + ".storage"
        self.storage.on_mismatch = self.policy["on_mismatch"]
        if options.get("storage") is None:
            return
        if self.overlay is None:
            problems.add(here, "belongs to a root of layers. Give image or overlay")
        elif self.storage.driver not in (None, "overlay"):
            if self.image is None:
                problems.add(here + ".driver", "%s makes roots of images. Give image" % self.storage.driver)
            if options.get("overlay") is not None:
                problems.add(path + ".overlay", "belongs to storage.driver overlay. Leave it out")
        if self.storage.size is not None and self.overlay is not None and self.overlay.upper != overlay_defaults(self.key)["upper"]:
            problems.add(here + ".size", "is of an upper in its own place. Leave read_only, upper and work of overlay out")
        if not (self.storage.keep or prepared):
            problems.add(here + ".keep", "false belongs to a prepared root. Name mnt among the types of namespaces")


def overlay_defaults(name):
    """What follows from a sandbox's name. The path is used where the sandbox has no mount namespace of its own."""
    return {"path": "/run/bulkhead/mnt/" + name, "upper": "%s/%s/upper" % (UPPERS, name), "work": "%s/%s/work" % (UPPERS, name)}


def interfaces_of(name, options, path="", problems=None):
    """The InterfaceSpecs of a sandbox's declaration; read only where there are some, for that is much code."""
    if all(options.get(key) in (None, []) for key in NETWORK_KEYS):
        return []
    from .interface import of_sandbox

    return of_sandbox(options, path, problems or Problems(), name)


def _check_interfaces(specs, problems):
    """What two interfaces of the host cannot both have."""
    found = []
    for index, spec in enumerate(specs):
        if spec.interfaces and spec.state == "present":
            first = ["network"] if spec.options.get("network") is not None else []
            places = first + ["interfaces[%d]" % number for number in range(len(spec.interfaces) - len(first))]
            found += [(each, "sandboxes[%d].%s" % (index, place)) for each, place in zip(spec.interfaces, places)]
    if found:
        from .interface import check_list

        check_list([each for each, path in found], [path for each, path in found], problems)


class SandboxList(list):
    """The Specs of one run, and what holds for all of them."""

    policy = {}


def parse(options, path, problems):
    """The host's whole list: a Spec for each entry of `sandboxes:`."""
    policy = {key: options.get(key) for key in POLICY}
    policy["on_mismatch"] = policy["on_mismatch"] or "fail"
    if isinstance(policy["reset"], str):  # of a template
        policy["reset"] = values.boolean(policy["reset"], "reset", problems)
    if policy["reset"] not in (None, True, False):
        policy["reset"] = [values.name(each, "reset[%d]" % index, problems) for index, each in enumerate(values.items(policy["reset"], "reset", problems))]
    defaults = values.mapping(options.get("defaults"), "defaults", problems, known=[key for key in KEYS if key not in ("name", "state")])
    specs, names, uppers = SandboxList(), {}, {}
    specs.policy = policy
    for index, entry in enumerate(values.items(options.get("sandboxes"), "sandboxes", problems)):
        here = "sandboxes[%d]" % index
        entry = values.merge(defaults, values.mapping(entry, here, problems))
        spec = SandboxSpec.from_options(entry, here, problems, policy)
        if of_trial(spec.key or ""):
            problems.add(here + ".name", "%s is kept for the trial of an upgrade of %s. Use another name" % (spec.key, of_trial(spec.key)))
        if (spec.key or "").endswith(BESIDE):
            problems.add(here + ".name", "%s ends as what an upgrade keeps beside a sandbox. Use another name" % spec.key)
        if spec.key is not None and names.setdefault(spec.key, index) != index:
            problems.add(here + ".name", "%s is declared twice (also sandboxes[%d])" % (spec.key, names[spec.key]))
        upper = spec.overlay.upper if spec.overlay is not None and spec.state == "present" else None
        if upper is not None and uppers.setdefault(upper, spec.key) != spec.key:
            problems.add(here + ".overlay.upper", "%s is the upper of %s too. Give each sandbox its own" % (upper, uppers[upper]))
        specs.append(spec)
    for index, name in enumerate(policy["reset"] or () if policy["reset"] is not True else ()):
        if name is not None and name not in names:
            problems.add("reset[%d]" % index, "%s is not among the sandboxes of this run" % values.quoted(name))
    _check_interfaces(specs, problems)
    if problems.errors and defaults:
        _blame(defaults, policy, problems)
    return specs


def _blame(defaults, policy, problems):
    """An error that is in the defaults is told once, where it was written, and not for each sandbox."""
    alone = Problems()
    SandboxSpec.from_options(dict(defaults, name="any"), "", alone, policy)
    found = {}
    for error in problems.errors:
        place, bracket, rest = error.partition("]")
        inherited = place.startswith("sandboxes[") and rest in alone.errors
        found.setdefault("defaults" + rest if inherited else error)
    problems.errors = list(found)
