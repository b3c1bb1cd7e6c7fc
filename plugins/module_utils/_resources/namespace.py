# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sets of pinned namespaces: what is missing is born, what can be set inside is set, what is broken is mended.

For the composite, a NamespaceSpec has two hooks:
  ``spec.furnish(host)`` is called when the step is applied, in the host's namespaces; it opens what the prepared root is made
  of as detached mounts and returns (inside, close). ``inside()`` is called in the new mount namespace, as pid 1 of the
  set's pid namespace when it has one, and with all its other namespaces; ``close()`` always follows in the parent.
  ``spec.root_stale`` says that the prepared root must be made anew: its mount namespace and with it the pid namespace, whose
  init lives in that root.
plan() answers in ``spec.made`` which types it makes, and in ``spec.renewed`` which living ones it takes away, to make them
again or for good, so that what lives in them can be stopped before.
A prepared root captures pid (/proc), net (/sys), ipc, cgroup and user: where one of these is made anew, so is mnt.
"""

from __future__ import annotations

import os

from .._kernel import keeper, nsfs
from .._model.errors import BulkheadError
from .._model.namespace import TYPES, NamespaceSpec
from .._supervisor import subtree
from . import _inside, _members, _pins
from ._birth import Request, birth
from ._nets import Net, together

NOUN = "namespace"
_CAPTURED = frozenset(("pid", "net", "ipc", "cgroup", "user"))
members = _members.members  # who lives in a set, also for the composite


class Found:
    """A set as it is: its pins by type, and what our claim says of them."""

    __slots__ = ("name", "pins", "claim", "directory")

    def __init__(self, host, name):
        self.name = name
        self.pins = {kind: nsfs.look(nsfs.pin_path(host, name, kind), kind, lambda: _inits(host)) for kind in TYPES}
        self.claim = host.claims.read(NOUN, name)
        self.directory = os.path.isdir("%s/ns/%s" % (host.state, name))

    @property
    def exists(self):
        return any(pin.state != "absent" for pin in self.pins.values())

    def ours(self, kind):
        """Did we make what is pinned here, or were we about to?"""
        known = self.claim.get("identity") if self.claim else {}
        if known is None:
            return True
        found = self.pins[kind].identity
        return kind in known and (known[kind] is None or found is None or tuple(known[kind]) == found)

    def unfinished(self, kind):
        """Were we killed while we made it?"""
        known = self.claim.get("identity") if self.claim else {}
        return known is None or (kind in known and known[kind] is None)

    def foreign(self):
        """Types whose living namespace somebody else made, or in whose place, which was never ours, lies something else of theirs."""
        known = self.claim.get("identity") if self.claim else {}
        claimed = TYPES if known is None else known
        return [kind for kind, pin in self.pins.items() if pin.alive and not self.ours(kind) or
                pin.state in ("wrong", "taken") and kind not in claimed]

    def keeper(self, host):
        """The pid of our keeper, or None."""
        init = self.pins["pid"].init
        if init is None:
            return None
        return init if self.ours("pid") or _members.command(host, init) == keeper.NAME.decode() else None

    def identities(self):
        """What a claim says of all that is ours."""
        return {kind: list(pin.identity) for kind, pin in self.pins.items() if pin.alive and self.ours(kind)}


def _inits(host):
    return host.cached("inits", lambda: nsfs.census_inits(host.proc))


def parse(options, path, problems):
    return NamespaceSpec.from_options(options, path, problems)


def find(host, specs):
    """Nothing is read before it is asked for: a set costs some 40 µs."""


def found(host, name):
    """The Found of this run."""
    return host.cached((NOUN, name), lambda: Found(host, name))


def plan(host, spec, plan):
    """See `_engine/plan.py`."""
    (_absent if spec.state == "absent" else _present)(host, spec, plan, found(host, spec.name))


# -- present

def _present(host, spec, plan, now):
    pins = now.pins
    mismatch = _mismatch(host, spec, now)
    make = {kind for kind in spec.types if not pins[kind].alive}
    for key, (before, after, kinds) in mismatch.items():
        if spec.on_mismatch != "recreate" and not all(now.unfinished(kind) for kind in kinds):
            raise BulkheadError("Cannot change %s of namespaces %s: the kernel fixes it when they are made (it is %s). "
                                "Set on_mismatch: recreate to make %s again." % (key, spec.name, before, ", ".join(kinds)), key=key)
        make.update(kinds)
    if spec.furnish and (spec.root_stale or make & _CAPTURED or "mnt" in make):
        make.update(kind for kind in ("mnt", "pid") if kind in spec.types)
    extra = [kind for kind in TYPES if spec.exact and kind not in spec.types and pins[kind].state != "absent"]
    replaced = [kind for kind in TYPES if (kind in make or kind in extra) and pins[kind].state != "absent"]
    spec.made = [kind for kind in TYPES if kind in make]
    spec.renewed = [kind for kind in replaced if pins[kind].alive]
    kept = [kind for kind in spec.types if kind not in make]
    changes = _inside.changes(host, spec, now, kept)
    unlinked = "mnt" in kept and not _pins.linked(host, spec.name)
    if not spec.exact:
        _record(host, spec, plan)
    if not (make or extra or changes or unlinked):
        return
    foreign = now.foreign()
    if foreign and not spec.force:
        raise BulkheadError("Cannot change namespaces %s: its %s was made by somebody else. Set force: true to change it all the same, "
                            "or use another name." % (spec.name, ", ".join(foreign)), foreign=foreign)
    _foresee(host, spec, make, plan)
    _refuse_devices(host, spec)
    if not spec.kill:
        _members.refuse(host, now, spec.renewed, "make anew" if make else "remove")
    if make or extra:
        plan.differ("types", [kind for kind in TYPES if pins[kind].alive],
                    [kind for kind in TYPES if kind in spec.types or (pins[kind].alive and kind not in extra)])
    if replaced:
        states = {kind: pins[kind].state for kind in replaced if not pins[kind].alive}
        if states:
            plan.differ("stale", states, {})
        plan.add("remove %s of namespaces %s" % (", ".join(replaced), spec.name), lambda: _remove(host, spec, now, replaced))
    if make:
        order = spec.made
        net = Net(spec.name, dict(now.identities(), **dict.fromkeys(order)))
        owned = spec.owner is not None or "user" in spec.types or pins["user"].alive  # then it is to be born inside that one
        plan.add("create %s of namespaces %s" % (", ".join(order), spec.name), lambda: _create(host, spec, order, net),
                 lambda: _undo_create(host, spec.name, order), together if "net" in order and not (replaced or owned) else None, net)
        for key, value in _inside.initial(spec, make).items():
            plan.differ(key, None, value)
    for key, (before, after, kinds) in mismatch.items():
        if key != "types":
            plan.differ(key, before, after)
    if unlinked:
        plan.differ("link", None, nsfs.pin_path(host, spec.name, "mnt"))
        plan.add("link mnt of namespaces %s" % spec.name, lambda: _pins.link(host, spec.name))
    for change in changes:
        plan.differ(change.key, change.before, change.after)
        plan.add("%s of namespaces %s" % (change.words, spec.name), change.apply, change.undo)


def _mismatch(host, spec, now):
    """{option: (before, after, types to make again)} of what the kernel fixes at the making of the namespaces that live."""
    live = [kind for kind in spec.types if now.pins[kind].alive]
    found = {}
    owner, key = None, "owner"
    if "user" in spec.types:
        owner, key = now.pins["user"].alive and now.pins["user"].identity, "types"
    elif spec.owner is not None:
        owner = _owner(host, spec).alive and _owner(host, spec).identity
    elif "owner" in spec.reset:
        owner = nsfs.identity(host.proc + "/self/ns/user")
    if owner is not None:
        strangers = [kind for kind in live if kind != "user" and nsfs.owner(now.pins[kind].path) != owner]
        if strangers:
            found[key] = ("%s owned by another user namespace" % ", ".join(strangers),
                          "owned by %s" % (spec.owner or "its own"), strangers)
    if "user" in live and (spec.uid_map or spec.gid_map):
        maps = _inside.maps(host, now)
        for key in ("uid_map", "gid_map"):
            declared = getattr(spec, key)
            if declared is not None and sorted(declared) != sorted(maps[key]):
                found[key] = (maps[key], declared, list(live))
    declared = spec.time_offsets or ({"monotonic": 0, "boottime": 0} if "time_offsets" in spec.reset else None)
    if "time" in live and declared is not None:
        offsets = _inside.time_offsets(host, now)
        if offsets != declared:
            found["time_offsets"] = (offsets, declared, ["time"])
    keeper_pid = now.keeper(host) if spec.cgroup and "pid" in live else None
    elsewhere = keeper_pid and _inside.other_cgroup(host, keeper_pid, spec.cgroup)
    if elsewhere:
        found["cgroup"] = (elsewhere, spec.cgroup, [kind for kind in ("cgroup", "pid") if kind in live])
    return found


def _record(host, spec, plan):
    """What is declared now, with what was before of the same set: other types, and other sysctls of theirs."""
    recorded = host.records.options(NOUN, spec.name) or {}
    options = dict(spec.options, types=[kind for kind in TYPES if kind in spec.types or kind in recorded.get("types", ())])
    if spec.sysctls:
        options["sysctls"] = dict(recorded.get("sysctls") or {}, **spec.sysctls)
    plan.record(NOUN, spec.name, options, merge=True)


def _foresee(host, spec, make, plan):
    """What the making will need. What an earlier task of the play may make is not there yet in check mode: a warning."""
    _inside.refuse_initial(host, spec, make)
    if make and spec.owner is not None and (NOUN, spec.owner) not in host.promised and not _owner(host, spec).alive:
        _lacking(host, plan, spec, "there is no user namespace of the name %s to own them. Make it first, with types: [user]" % spec.owner)
    if spec.cgroup is not None and make & {"pid", "cgroup"} and ("cgroup", spec.cgroup) not in host.promised:
        if not host.cgroups().exists(spec.cgroup):
            _lacking(host, plan, spec, "there is no cgroup %s. Make it first, with the module cgroup" % spec.cgroup)


def _lacking(host, plan, spec, what):
    text = "Cannot create namespaces %s: %s." % (spec.name, what)
    if not host.check:
        raise BulkheadError(text)
    plan.warn(text + " An earlier task is expected to do so.")


def _owner(host, spec):
    return nsfs.look(nsfs.pin_path(host, spec.owner, "user"), "user")


def _create(host, spec, order, net):
    now = Found(host, spec.name)  # as it is now: what had to be replaced is gone
    ahead = {"net"} if net.made else set()
    request = Request(spec.name, set(order) - ahead)
    claim = {kind: identity for kind, identity in now.identities().items() if kind not in order}
    close = None
    try:
        _prepare(host, spec, request, now, ahead)
        host.claims.complete(NOUN, spec.name, dict(claim, **dict.fromkeys(order)))
        if spec.furnish:
            request.furnish, close = spec.furnish(host)
        made, unused = birth(host, request)
    except BaseException:
        if ahead:
            _pins.unpin(host, spec.name, ahead)
        _restore_claim(host, spec.name, claim, order)
        raise
    finally:
        if close is not None:
            close()
    made.update((kind, now.pins[kind].identity) for kind in ahead)
    try:
        host.claims.complete(NOUN, spec.name, dict(claim, **{kind: list(identity) for kind, identity in made.items()}))
    except OSError:  # a step that fails leaves nothing, as those before it are undone below it
        _undo_create(host, spec.name, order)
        raise


def _prepare(host, spec, request, now, ahead):
    """What is to be born, and what joined. ``ahead``: types of which there is a new namespace already."""
    if request.make & {"pid", "cgroup"}:
        _house(host, spec, request)
    if spec.owner is not None and not _owner(host, spec).alive:
        raise BulkheadError("Cannot create namespaces %s: there is no user namespace of the name %s to own them. "
                            "Make it first, with types: [user]." % (spec.name, spec.owner))
    stays = {kind: pin.path for kind, pin in now.pins.items()
             if pin.alive and kind not in request.make and (kind in spec.types or not spec.exact)}
    if "user" not in request.make:
        request.owner = stays.pop("user", None) or (spec.owner and nsfs.pin_path(host, spec.owner, "user"))
    request.join = stays if request.make & {"pid", "mnt"} else {kind: stays[kind] for kind in ahead}
    request.uid_map, request.gid_map, request.time_offsets = spec.uid_map, spec.gid_map, spec.time_offsets
    request.settle = lambda kinds: _inside.settle(spec, ahead.union(kinds), host.proc)


def _house(host, spec, request):
    """The cgroup that the keeper lives in: that of the set where we make cgroups, else one beside those that systemd makes."""
    if spec.cgroup is not None:
        trees = host.cgroups()
        if not trees.exists(spec.cgroup):
            raise BulkheadError("Cannot create namespaces %s: there is no cgroup %s. Make it first, with the module cgroup."
                                % (spec.name, spec.cgroup))
        trees.make_leaf(spec.cgroup, "keeper")
        request.cgroup_files = trees.join_files(spec.cgroup, "keeper")
        if request.cgroup_files and trees.mode == "unified":
            # A cgroup namespace is rooted where its maker is: in the cgroup itself, then the keeper moves on.
            request.cgroup_leaf = request.cgroup_files.pop()
            request.cgroup_files.append(os.path.dirname(os.path.dirname(request.cgroup_leaf)) + "/cgroup.procs")
    if host.systemd and not request.cgroup_files:
        request.cgroup_files = ["%s/%s/cgroup.procs" % (subtree.ensure(host), subtree.KEEPERS)]


def _restore_claim(host, name, claim, order):
    rest = {kind: identity for kind, identity in claim.items() if kind not in order}
    if rest:
        host.claims.complete(NOUN, name, rest)
    else:
        host.claims.drop(NOUN, name)


def _undo_create(host, name, order):
    host.drop("inits")  # taken before the keeper was there that has to end
    now = Found(host, name)
    _remove_pins(host, now, order)
    _restore_claim(host, name, now.identities(), order)


# -- absent

def _absent(host, spec, plan, now):
    kinds = [kind for kind in (spec.types or TYPES) if now.pins[kind].state != "absent"]
    spec.renewed = [kind for kind in kinds if now.pins[kind].alive]
    whole = all(now.pins[kind].state == "absent" or kind in kinds for kind in TYPES)
    if not spec.exact:
        recorded = host.records.options(NOUN, spec.name) or {}
        rest = [kind for kind in recorded.get("types", ()) if kind not in (spec.types or TYPES)]
        plan.record(NOUN, spec.name, dict(recorded, types=rest) if rest else None)
    if not kinds:
        if whole and (now.claim is not None or now.directory):
            plan.add("forget namespaces %s" % spec.name, lambda: _remove(host, spec, now, []))
        return
    foreign = [kind for kind in now.foreign() if kind in kinds]
    if foreign and not spec.force:
        raise BulkheadError("Cannot remove namespaces %s: its %s was made by somebody else. Set force: true to remove it all the same."
                            % (spec.name, ", ".join(foreign)), foreign=foreign)
    _refuse_devices(host, spec)
    if not spec.kill:
        _members.refuse(host, now, spec.renewed, "remove")
    plan.differ("types", [kind for kind in TYPES if now.pins[kind].state != "absent"],
                [kind for kind in TYPES if now.pins[kind].state != "absent" and kind not in kinds])
    plan.add("remove %s of namespaces %s" % (", ".join(kinds), spec.name), lambda: _remove(host, spec, now, kinds))


def _refuse_devices(host, spec):
    """A device of the host that was moved in would be lost, or come back under a name that nobody knows. (The composite moves it back.)"""
    if spec.exact or "net" not in spec.renewed:
        return
    for key in host.claims.names("interface"):
        origin = ((host.claims.read("interface", key) or {}).get("identity") or {}).get("origin")
        if origin and key.partition("/")[0] == spec.name:
            raise BulkheadError("Cannot remove net of namespaces %s: the device %s of the host is in it, as %s. Remove that interface first, which "
                                "moves it back." % (spec.name, origin["name"], key), device=origin["name"])


def _remove(host, spec, now, kinds):
    """The keeper dies first: a run that is killed in between leaves a dead pin, which is seen, and not a process, which is not."""
    if spec.kill:
        _members.kill(host, now, kinds)
    _remove_pins(host, now, kinds)
    _restore_claim(host, now.name, now.identities(), kinds)


def _remove_pins(host, now, kinds):
    if "pid" in kinds and now.pins["pid"].init is not None:
        _members.end(host, now.pins["pid"].init, now.pins["pid"])
    _pins.unpin(host, now.name, [kind for kind in reversed(TYPES) if kind in kinds])


# -- shown

def show(host, name):
    """A set as `namespace_info` shows it, None when there is none."""
    now = found(host, name)
    if not now.exists:
        return None
    shown = {"name": name, "state": "present", "keeper": now.keeper(host),
             "owned": now.claim is not None and not now.foreign(), "types": {}}
    for kind in TYPES:
        pin = now.pins[kind]
        if pin.state != "absent":
            shown["types"][kind] = {"path": pin.path, "identity": pin.link, "alive": pin.alive, "condition": pin.state}
    shown.update(_inside.show(host, now))
    return shown


def maps(host, name):
    """(uid_map, gid_map) of a set's living user namespace, else None."""
    now = found(host, name)
    if not now.pins["user"].alive:
        return None
    shown = _inside.maps(host, now)
    return shown["uid_map"], shown["gid_map"]


def names(host):
    """All sets: of pins of ours, of what `ip netns` shows, and of claims."""
    known = set(host.claims.names(NOUN))
    for directory in (host.state + "/ns", host.state + "/mntns", host.netns):
        try:
            known.update(entry for entry in os.listdir(directory) if not entry.startswith("."))
        except OSError:
            pass
    return sorted(name for name in known if found(host, name).exists)


def result(host, params, outcome):
    """What the module returns beside the common keys."""
    return {NOUN: show(host, params["name"]) or {"name": params["name"], "state": "absent", "types": {}}}


def info(host, params):
    """What the _info module returns."""
    wanted = [params["name"]] if params.get("name") else names(host)
    return {"namespaces": [shown for shown in (show(host, name) for name in wanted) if shown is not None]}
