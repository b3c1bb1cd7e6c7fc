# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is set inside the namespaces of a set: host name, sysctls, `lo`; and what can be read of id maps, clocks and cgroup."""

from __future__ import annotations

import os

from .._kernel import nsfs
from .._model.errors import BulkheadError
from .._model.namespace import sysctl_type

_NAMES = {"hostname": "kernel/hostname", "domainname": "kernel/domainname"}


class Change:
    """One difference that is made in place."""

    __slots__ = ("key", "words", "before", "after", "apply", "undo")

    def __init__(self, key, words, before, after, act):
        self.key, self.words, self.before, self.after = key, words, before, after
        self.apply, self.undo = (lambda: act(after)), (lambda: act(before))


def settle(spec, kinds, proc="/proc"):
    """Set in new namespaces of these types, within which the caller is, what is declared and what is the default (`lo` up)."""
    if "uts" in kinds:
        nsfs.set_names(spec.hostname, spec.domainname)
    for key, value in (spec.sysctls or {}).items():
        if sysctl_type(key) in kinds:
            nsfs.write_sysctl(key, value, proc)
    if "net" in kinds:
        nsfs.loopback(spec.loopback is not False)


def initial(spec, kinds):
    """What settle() sets of what was declared: {key: value}."""
    found = {}
    for key, kind in (("hostname", "uts"), ("domainname", "uts"), ("loopback", "net"), ("uid_map", "user"), ("gid_map", "user"),
                      ("time_offsets", "time")):
        if kind in kinds and getattr(spec, key) is not None:
            found[key] = getattr(spec, key)
    for key, value in (spec.sysctls or {}).items():
        if sysctl_type(key) in kinds:
            found["sysctls." + key] = value
    return found


def changes(host, spec, now, kinds):
    """Changes of what is declared in the living namespaces of these types."""
    found = []
    paths = {kind: now.pins[kind].path for kind in kinds}
    if "uts" in kinds:
        for key in ("hostname", "domainname"):
            if getattr(spec, key) is not None:
                current = _read(host, paths, "uts", _NAMES[key])
                if current != getattr(spec, key):
                    found.append(Change(key, "set " + key, current, getattr(spec, key), _namer(host, paths["uts"], key)))
    for key, value in (spec.sysctls or {}).items():
        kind = sysctl_type(key)
        if kind in kinds:
            try:
                current = _read(host, paths, kind, key)
            except FileNotFoundError:
                raise BulkheadError("Cannot set the sysctl %s of namespaces %s: there is none of that name in a namespace." % (key, spec.name)) from None
            if current != value:
                found.append(Change("sysctls." + key, "set sysctl " + key, current, value, _writer(host, paths, kind, key)))
    wanted = spec.loopback
    if "net" in kinds and wanted is None and now.unfinished("net"):
        wanted = True
    if "net" in kinds and wanted is not None:
        with nsfs.visit({"net": paths["net"]}, host.proc):
            current = nsfs.loopback()
        if current != wanted:
            found.append(Change("loopback", "bring %s lo" % ("up" if wanted else "down"), current, wanted, _lo(host, paths["net"])))
    return found


def _read(host, paths, kind, key):
    if kind == "user":  # such a namespace cannot be left again
        return nsfs.child({kind: paths[kind]}, lambda: nsfs.read_sysctl(key, host.proc))
    with nsfs.visit({kind: paths[kind]}, host.proc):
        return nsfs.read_sysctl(key, host.proc)


def _namer(host, path, key):
    def act(value):
        with nsfs.visit({"uts": path}, host.proc):
            nsfs.set_names(**{key: value})
    return act


def _writer(host, paths, kind, key):
    def act(value):
        if kind == "user":
            nsfs.child({kind: paths[kind]}, lambda: nsfs.write_sysctl(key, value, host.proc))
            return
        with nsfs.visit({kind: paths[kind]}, host.proc):
            nsfs.write_sysctl(key, value, host.proc)
    return act


def _lo(host, path):
    def act(value):
        with nsfs.visit({"net": path}, host.proc):
            nsfs.loopback(value)
    return act


# -- read through a process that is inside: the keeper, or a child for the moment

def _through(host, now, kind, link, read):
    init = now.pins["pid"].init
    if init is not None and nsfs.identity("%s/%d/ns/%s" % (host.proc, init, link)) == now.pins[kind].identity:
        return read(init)
    return nsfs.child({kind: now.pins[kind].path}, lambda: None, read)


def maps(host, now):
    """{uid_map, gid_map} of the user namespace: [[inside, outside, count], …]."""
    def read(pid):
        return {key: [[int(word) for word in line.split()] for line in _text(host, pid, key).splitlines()] for key in ("uid_map", "gid_map")}
    return _through(host, now, "user", "user", read)


def time_offsets(host, now):
    """{monotonic, boottime} in seconds of the time namespace."""
    def read(pid):
        lines = [line.split() for line in _text(host, pid, "timens_offsets").splitlines()]
        return {words[0]: int(words[1]) for words in lines if len(words) == 3}
    return _through(host, now, "time", "time_for_children", read)


def _text(host, pid, name):
    with open("%s/%d/%s" % (host.proc, pid, name), encoding="ascii") as stream:
        return stream.read()


def other_cgroup(host, pid, name):
    """The cgroup that a keeper lives in, when it is not the one that is declared; else None."""
    trees = host.cgroups()
    try:
        lines = [line.split(":", 2) for line in _text(host, pid, "cgroup").splitlines()]
    except OSError:
        return None
    for key in trees.roots:
        for number, controllers, path in lines:
            if key == "unified":
                if controllers or not (trees.mode == "unified" or os.path.isdir(trees.path(name, key))):
                    continue
                wanted = "/%s/keeper" % name
            elif key.split(",", 1)[0] in controllers.split(","):
                wanted = "/" + name
            else:
                continue
            if not path.endswith(wanted):
                return path
    return None


def show(host, now):
    """The part of `namespace_info` that is read inside."""
    shown, pins = {}, now.pins
    if pins["uts"].alive:
        with nsfs.visit({"uts": pins["uts"].path}, host.proc):
            shown.update((key, nsfs.read_sysctl(path, host.proc)) for key, path in _NAMES.items())
    if pins["net"].alive:
        with nsfs.visit({"net": pins["net"].path}, host.proc):
            shown["loopback"] = nsfs.loopback()
    if pins["user"].alive:
        shown.update(maps(host, now))
    if pins["time"].alive:
        shown["time_offsets"] = time_offsets(host, now)
    return shown
