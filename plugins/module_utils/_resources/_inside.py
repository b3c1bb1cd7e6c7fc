# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is set inside the namespaces of a set: host name, sysctls, `lo`; and what can be read of id maps, clocks and cgroup."""

from __future__ import annotations

import os
import time

from .._kernel import nsfs
from .._kernel import syscalls as sc
from .._model.errors import BulkheadError
from .._model.namespace import sysctl_type
from .._supervisor import subtree

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


def refuse_initial(host, spec, kinds):
    """Refuse what the kernel would refuse in new namespaces of these types, as far as the host's own tell."""
    for key in spec.sysctls or ():
        parts = key.split("/")
        # Those of an interface, as in net/ipv4/conf/eth0/…, are there when the interface is.
        if sysctl_type(key) in kinds and not (len(parts) > 4 and parts[2] in ("conf", "neigh")):
            if not os.path.isfile("%s/sys/%s" % (host.proc, key)):
                raise _no_sysctl(spec, key)
    if "time" in kinds:
        for clock, seconds in (spec.time_offsets or {}).items():
            now = time.clock_gettime(time.CLOCK_BOOTTIME if clock == "boottime" else time.CLOCK_MONOTONIC)
            if now + seconds < 0:
                raise BulkheadError("Cannot create namespaces %s: with the offset of %d s its clock %s would be before 0. Use %d or more." % (
                    spec.name, seconds, clock, -int(now)))


def _no_sysctl(spec, key):
    return BulkheadError("Cannot set the sysctl %s of namespaces %s: there is none of that name in a namespace. Look below /proc/sys inside." % (
        key, spec.name))


def changes(host, spec, now, kinds):
    """Changes of what is declared in the living namespaces of these types."""
    found = []
    paths = {kind: now.pins[kind].path for kind in kinds}
    for key, kind, value in _wanted(host, spec, now, kinds):
        if kind == "net" and key == "loopback":
            with nsfs.visit({"net": paths["net"]}, host.proc):
                current = nsfs.loopback()
            words, act = "bring %s lo" % ("up" if value else "down"), _lo(host, paths["net"])
        elif key in _NAMES:
            current = _read(host, paths, kind, _NAMES[key])
            words, act = "set " + key, _namer(host, paths[kind], key)
        else:
            try:
                current = _read(host, paths, kind, key)
            except FileNotFoundError:
                raise _no_sysctl(spec, key) from None
            words, act = "set sysctl " + key, _writer(host, paths, kind, key)
        if current != value:
            found.append(Change(key if words[:3] != "set" or key in _NAMES else "sysctls." + key, words, current, value, act))
    return found


def _wanted(host, spec, now, kinds):
    """(key, type, value) of what is declared, and of what was and is not any more: the value that a new namespace has."""
    if "uts" in kinds:
        for key in _NAMES:
            if getattr(spec, key) is not None:
                yield key, "uts", getattr(spec, key)
            elif key in spec.reset:  # a new one has a copy of the host's
                yield key, "uts", nsfs.read_sysctl(_NAMES[key], host.proc)
    for key, value in (spec.sysctls or {}).items():
        if sysctl_type(key) in kinds:
            yield key, sysctl_type(key), value
    for entry in spec.reset:
        head, slash, key = entry.partition("/")
        kind = sysctl_type(key)
        if slash and kind in kinds:
            yield key, kind, nsfs.child({}, lambda key=key, kind=kind: _fresh(kind, key, host.proc))
    if "net" in kinds:
        if spec.loopback is not None:
            yield "loopback", "net", spec.loopback
        elif now.unfinished("net") or "loopback" in spec.reset:
            yield "loopback", "net", True


def _fresh(kind, key, proc):
    sc.unshare(nsfs.FLAGS[kind])
    return nsfs.read_sysctl(key, proc)


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
        return {key: [[int(word) for word in line.split()] for line in _text(host, pid, key).splitlines()]
                for key in ("uid_map", "gid_map")}
    return _through(host, now, "user", "user", read)


def time_offsets(host, now):
    """{monotonic, boottime} in seconds of the time namespace."""
    def read(pid):
        lines = [line.split() for line in _text(host, pid, "timens_offsets").splitlines()]
        return {words[0]: int(words[1]) for words in lines if len(words) == 3}
    return _through(host, now, "time", "time_for_children", read)


def _text(host, pid, name):
    with open("%s/%d/%s" % (host.proc, pid, name), "rb", buffering=0) as stream:  # buffers and decoders cost more than the reading
        return stream.read().decode("utf-8", "surrogateescape")


def other_cgroup(host, pid, name):
    """The cgroup that a keeper lives in, when it is not the one that is declared; else None."""
    trees, paths = host.cgroups(), {}
    try:
        for line in _text(host, pid, "cgroup").splitlines():
            number, controllers, path = line.split(":", 2)
            for word in controllers.split(","):  # '' is cgroup2
                paths[word] = path
    except OSError:
        return None
    if host.systemd and not trees.join_files(name, "keeper"):  # its keeper lives beside what systemd makes, whatever that is called
        home = "/%s/%s" % (subtree.UNIT, subtree.KEEPERS)
        return None if paths.get("", home).endswith(home) else paths[""]
    for key in trees.roots:
        if key != "unified":
            path, wanted = paths.get(key.split(",", 1)[0]), "/" + name
        elif trees.mode == "unified" or os.path.isdir(trees.path(name, key)):
            path, wanted = paths.get(""), "/%s/keeper" % name
        else:
            continue
        if path is not None and not path.endswith(wanted):
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
