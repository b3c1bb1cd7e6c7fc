# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an overlay is declared to be."""

from __future__ import annotations

import os
import zlib

from .._kernel import overlayfs
from . import values

STATES = ("mounted", "unmounted", "absent")
ON_MISMATCH = ("fail", "recreate")
KEYS = ("path", "lower", "data", "upper", "work", "options", "read_only", "namespace", "state",
        "reset", "remove_data", "on_mismatch", "force", "lazy")
_PART = ("lower", "data", "upper", "work", "options", "read_only")  # what a sandbox declares; the rest follows from it
_ACTS = ("reset", "remove_data", "force", "lazy")  # said of one run, never recorded


class OverlaySpec:
    """None means that the task does not name it: then it is neither compared nor changed."""

    __slots__ = KEYS + ("key", "attributes", "declared", "whole", "sandbox")

    @classmethod
    def from_options(cls, options, path, problems, defaults=None):
        """``defaults``: path, upper and work that follow from a sandbox's name; what else is not named then is the kernel's default."""
        spec, prefix = cls(), path + "." if path else ""
        spec.whole = defaults is not None
        spec.sandbox = os.path.basename(defaults["path"]) if defaults else None
        options = values.mapping(options, path or "overlay", problems, _PART if defaults else KEYS)
        spec.declared = {key: value for key, value in options.items() if key not in _ACTS and value is not None}
        if defaults:
            fill = dict(defaults)
            if options.get("upper") is not None or options.get("read_only"):
                fill.pop("upper", None)
                fill.pop("work", None)
            fill.update((key, value) for key, value in options.items() if key in _PART and value is not None)
            options = fill

        def each(key, parse, *rest):
            value = options.get(key)
            return None if value is None else parse(value, prefix + key, problems, *rest)

        for key in ("path", "upper", "work"):
            setattr(spec, key, each(key, values.absolute))
        for key in ("lower", "data"):
            setattr(spec, key, each(key, _paths))
        spec.read_only = each("read_only", values.boolean)
        for key in _ACTS:
            setattr(spec, key, each(key, values.boolean) or False)
        spec.namespace = each("namespace", values.name)
        spec.state = each("state", values.choice, STATES) or "mounted"
        spec.on_mismatch = each("on_mismatch", values.choice, ON_MISMATCH) or "fail"
        spec.options, spec.attributes = _options(options.get("options"), prefix + "options", problems)
        spec.key = spec.path and key_of(spec.namespace, spec.path)
        spec._check(options, prefix, problems)
        return spec

    def _check(self, options, prefix, problems):
        if options.get("path") is None:
            problems.add(prefix + "path", "this is required")
        elif self.path == "/":
            problems.add(prefix + "path", "an overlay cannot be mounted on / itself")
        if self.state == "mounted":
            if not options.get("lower"):
                problems.add(prefix + "lower", "at least one layer is required")
            if (options.get("upper") is None) != (options.get("work") is None):
                problems.add(prefix + ("work" if options.get("work") is None else "upper"),
                             "upper and work go together: both on one file system, the work directory empty")
        if self.reset and options.get("upper") is None:
            problems.add(prefix + "reset", "there is no upper to empty")
        count = len(self.lower or ()) + len(self.data or ())
        if count > overlayfs.MAXIMUM_LAYERS:
            problems.add(prefix + "lower", "%d layers are more than the kernel's limit of %d" % (count, overlayfs.MAXIMUM_LAYERS))
        layers = [("lower[%d]" % index, layer) for index, layer in enumerate(self.lower or ())]
        layers += [("data[%d]" % index, layer) for index, layer in enumerate(self.data or ())]
        seen = {}
        for where, layer in layers + [("upper", self.upper), ("work", self.work)]:
            if layer is not None and seen.setdefault(layer, where) != where:
                problems.add(prefix + where, "%s is named by %s already" % (values.quoted(layer), prefix + seen[layer]))
        if self.upper and self.work and (_inside(self.work, self.upper) or _inside(self.upper, self.work)):
            problems.add(prefix + "work", "upper and work must not be inside each other")
        for where in ("upper", "work"):
            place = getattr(self, where)
            if place and self.path and (_inside(self.path, place)):
                problems.add(prefix + "path", "the mount point must not be inside %s" % where)
        if self.state == "mounted" and self.lower and not problems.errors and not overlayfs.fits(self.layers()):
            problems.add(prefix + "lower", "the names of the layers are too long for the kernel")

    def layers(self):
        return overlayfs.Layers(self.lower or [], self.upper, self.work, self.data or [], self.options)


def key_of(namespace, path):
    """The name of an overlay, for claims and records: known by (mount namespace, path); fit for a file name."""
    key = (namespace or "") + path.replace("%", "%25").replace(":", "%3a")
    return key if len(key.encode("utf-8", "surrogateescape")) <= 200 else "%s%%%08x" % (key[:40], zlib.crc32(os.fsencode(key)))


def _inside(path, parent):
    return path != parent and (path + "/").startswith(parent.rstrip("/") + "/")


def _paths(value, path, problems):
    if isinstance(value, str):
        value = [value]
    return [values.absolute(item, "%s[%d]" % (path, index), problems) for index, item in enumerate(values.items(value, path, problems))]


def _options(value, path, problems):
    """(options of the file system, attributes of the mount), both only those that are declared."""
    options, attributes = {}, {}
    for key, word in values.mapping(value, path, problems, sorted(list(overlayfs.OPTIONS) + list(overlayfs.ATTRIBUTES))).items():
        where = "%s.%s" % (path, key)
        if key in overlayfs.ATTRIBUTES:
            attributes[key] = values.boolean(word, where, problems)
        elif key in overlayfs.OPTIONS:
            allowed = overlayfs.OPTIONS[key]
            if True in allowed:
                options[key] = values.boolean(word, where, problems)
                continue
            if isinstance(word, bool):  # YAML reads on and off as truth values
                word = "on" if word else "off"
            options[key] = values.choice(word, where, problems, allowed)
    for key, other, wanted in (("userxattr", "redirect_dir", ("off", "nofollow", "follow")), ("userxattr", "metacopy", ("off",))):
        if options.get(key) is True and options.get(other) not in wanted + (None,):
            problems.add("%s.%s" % (path, other), "%s cannot be together with userxattr" % options[other])
    if options.get("nfs_export") == "on" and options.get("index") == "off":
        problems.add(path + ".index", "nfs_export=on needs index=on")
    if options.get("nfs_export") == "on" and options.get("metacopy") == "on":
        problems.add(path + ".metacopy", "nfs_export=on and metacopy=on exclude each other")
    if options.get("verity") in ("on", "require") and options.get("metacopy") == "off":
        problems.add(path + ".metacopy", "verity needs metacopy=on")
    if options.get("metacopy") == "on" and options.get("redirect_dir") in ("off", "nofollow", "follow"):
        problems.add(path + ".redirect_dir", "metacopy=on needs redirect_dir=on")
    return options, attributes
