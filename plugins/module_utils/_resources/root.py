# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The prepared root of a sandbox, compared with the mount table inside its pinned mount namespace.

Binds, tmpfs, devices, masks and read-only paths change in the living namespace, one step each. What needs another root
(other layers, another base, a lost /proc) is told to the composite as stale: it makes namespace and root anew.
"""

from __future__ import annotations

import os
import stat

from .._kernel import inside, nsfs, overlayfs, syscalls, trees
from .._model.errors import BulkheadError
from .._model.root import MASKED, NODES, READ_ONLY, WORDS
from .._model.sandbox import PREFIX
from . import _furnish, _layers, _live, _mapped, overlay

NOUN = "root"
acting = _mapped.acting  # as the root inside, for who furnishes from the host's user namespace
_NODES = {name: (os.makedev(*number), stat.S_IFCHR | mode) for name, number, mode in NODES}


class _View:
    """What is read inside, in one visit; host paths mean nothing there, so it is compared afterwards.

    ``mounts`` {path: the Mount on top}, ``paths`` {target: where it leads, None: it is not there}, ``stats`` of binds and
    tmpfs by target, ``nodes`` stats of devices by name.
    """

    __slots__ = ("mounts", "root", "paths", "stats", "nodes")

    def __init__(self, host, spec, wants, noted=()):
        self.paths, self.stats, self.nodes = {}, {}, {}
        with inside.Inside(pin(host, spec.name), host.proc) as there:
            self.mounts, self.root = _visible(there.table()), os.fstat(there.root)
            for want in wants:
                path = self.paths[want.target] = self._real(there, want.target)
                if path is not None and want.live and want.kind in ("bind", "tmpfs"):
                    self.stats[want.target] = _stat(there.root, path)
            for target in noted:
                if target not in self.paths:
                    self.paths[target] = self._real(there, target)
            self._look_at_nodes(there, list(_NODES) + [device[0] for device in spec.devices])

    def _real(self, there, target):
        """Where a target leads: the literal path first, as that costs nothing."""
        if target in self.mounts:
            return target
        try:
            fd = trees.resolve(there.root, target)
        except OSError:
            return None
        try:
            return os.readlink("self/fd/%d" % fd, dir_fd=there.procfs)
        finally:
            os.close(fd)

    def _look_at_nodes(self, there, names):
        try:
            dev = trees.resolve(there.root, "/dev", syscalls.O_PATH | os.O_DIRECTORY)
        except OSError:
            return
        try:
            for name in names:
                if "/" in name:
                    self.nodes[name] = _stat(dev, name, os.O_NOFOLLOW)
                    continue
                try:
                    self.nodes[name] = os.stat(name, dir_fd=dev, follow_symlinks=False)
                except OSError:
                    self.nodes[name] = None
        finally:
            os.close(dev)


def _visible(table):
    """{path: the Mount that a walk ends on}. Mostly nothing is stacked or hidden, which is seen without walking."""
    found = {mount.target: mount for mount in table.mounts}
    if len(found) == len(table.mounts) and all(_above(found, mount) in (None, mount.parent) for mount in table.mounts):
        return found
    return {path: top for path, top in ((path, table.top(path)) for path in found) if top is not None}


def _above(found, mount):
    """The id of the mount with the nearest target above this one's."""
    path = mount.target
    while path != "/":
        path = path.rpartition("/")[0] or "/"
        if path in found:
            return found[path].id
    return None


def _stat(root, path, flags=0):
    try:
        fd = trees.resolve(root, path, syscalls.O_PATH | flags)
    except OSError:
        return None
    try:
        return os.fstat(fd)
    finally:
        os.close(fd)


class _Now:
    """How the root is: ``stale`` {key: (before, after)}, and the live changes."""

    __slots__ = ("alive", "stale", "changes")

    def __init__(self, alive):
        self.alive, self.stale, self.changes = alive, {}, []


def pin(host, name):
    return nsfs.pin_path(host, name, "mnt")


def wanted_mounts(host, spec):
    """What is to be mounted in a root; of the usual masks those that this kernel has something for."""
    unified = host.cached("unified", lambda: os.path.isdir(host.cgroup) and syscalls.fs_magic(host.cgroup) == 0x63677270)
    # Where systemd makes the cgroups, keepers live elsewhere, and so is what a cgroup namespace is rooted in.
    group = host.cgroups().path(PREFIX + spec.name, "unified") if host.systemd and "cgroup" in spec.types else None
    names = "%s/%s" % (host.names, spec.name)
    return [want for want in spec.wants(unified, group, names) if want.target not in host.cached("not masked", lambda: _not_there(host))]


def _not_there(host):
    return {path for path in MASKED + READ_ONLY
            if not os.path.exists((host.proc if path.startswith("/proc/") else host.sys) + path[path.index("/", 1):])}


def _now(host, spec):
    return host.cached((NOUN, spec.name), lambda: _compare(host, spec))


def _compare(host, spec):
    now = _Now(nsfs.look(pin(host, spec.name), "mnt").alive)
    if not now.alive:
        return now
    wants, claim = wanted_mounts(host, spec), _live.claim(host, spec.name)
    view = _View(host, spec, wants, claim.get("targets", ()))
    _compare_base(host, spec, view, claim, now)
    _compare_devices(host, spec, view, claim, now)  # first: a mask of a file is a bind of /dev/null
    wanted = set()
    for want in wants:
        path = view.paths[want.target]
        if path is None and want.kind in ("mask", "read_only"):
            continue
        wanted.add(path)
        _compare_want(host, spec, view, want, path or want.target, now)
    for path in [view.paths[target] for target in claim.get("targets", ())]:
        if path not in wanted and path in view.mounts:
            now.changes.append(_live.unmount(host, spec, path, _shown(view.mounts[path])))
    return now


def _compare_base(host, spec, view, claim, now):
    mount = view.mounts.get("/")
    if isinstance(spec.base, str):
        # What is mounted again before this root is looked into is not there yet.
        identity = None if ("directory", spec.base) in host.promised else _layers.identity(spec.base)
        if identity is not None and identity != [view.root.st_dev, view.root.st_ino]:
            now.stale["root"] = (_shown(mount), spec.base)
            return
    elif mount is None or mount.fstype != "overlay":
        now.stale["overlay"] = (_shown(mount), spec.base.lower)
        return
    else:
        shown = _layers.read(host, mount)
        if claim.get("replaced"):
            now.stale["root"] = ("over what was written before", "over what is written now")
            return
        for key, pair in overlay.wanted(host, spec.base, shown, claim.get("layers", {}))[1].items():
            now.stale["overlay." + key] = pair
    if spec.maps:
        _compare_owner(spec, view, now)
    if ("ro" in mount.options) != spec.read_only and not now.stale:
        now.changes.append(_live.attributes(host, spec, "/", {"ro": not spec.read_only, "nodev": True},
                                            {"ro": spec.read_only, "nodev": True}))


def _compare_owner(spec, view, now):
    """The maps by which the base is shown: who owns its top directory here, beside who owns it where it is stored."""
    layers = None if isinstance(spec.base, str) else spec.base.layers()
    declared = _mapped.owner(spec, spec.base if layers is None else layers.upper or layers.lower[0])
    for key, before, after in zip(("uid_map", "gid_map"), (view.root.st_uid, view.root.st_gid), declared or ()):
        if before != after:
            now.stale[key] = ("/ owned by %d" % before, "/ owned by %d" % after)


def _shown(mount):
    if mount is None:
        return None
    return " ".join([mount.fstype if mount.root == "/" else "bind of %s" % mount.root] +
                    [word for bit, word in WORDS if word in mount.options])


def _compare_want(host, spec, view, want, path, now):
    mount = view.mounts.get(path)
    if not want.live:
        if mount is None or mount.fstype != want.kind or _wrong_flags(host, want, mount):
            now.stale[path] = (_shown(mount), " ".join([want.kind] + want.words))
        return
    if mount is None:
        now.changes.append(_live.mount(host, spec, want, path))
        return
    if want.kind == "mask":
        fits = mount.root.startswith("/null") or (mount.fstype == "tmpfs" and "ro" in mount.options)
    elif want.kind == "read_only":
        fits = "ro" in mount.options
    else:
        found = view.stats.get(want.target)
        fits = found is not None and (mount.fstype == "tmpfs" if want.kind == "tmpfs" else
                                      _layers.identity(want.source) == [found.st_dev, found.st_ino])
        if fits:
            if _wrong_flags(host, want, mount):
                now.changes.append(_live.attributes(host, spec, path, {word: word in mount.options for bit, word in WORDS},
                                                    {word: word in want.words for bit, word in WORDS}))
            if want.kind == "tmpfs":
                _compare_tmpfs(host, spec, want, path, mount, found, now)
    if not fits:
        now.changes.append(_live.unmount(host, spec, path, _shown(mount)))
        now.changes.append(_live.mount(host, spec, want, path))


def _compare_tmpfs(host, spec, want, path, mount, found, now):
    declared = dict(word.split("=") for word in want.data.split(","))
    size = 0
    for word in mount.super_options.split(","):
        if word.startswith("size="):
            size = int(word[5:].rstrip("k")) * (1024 if word.endswith("k") else 1)
    page = os.sysconf("SC_PAGE_SIZE")
    if size != -(-int(declared["size"]) // page) * page:
        now.changes.append(_live.resize(host, spec, path, size, int(declared["size"])))
    mode = int(declared["mode"], 8)
    if stat.S_IMODE(found.st_mode) != mode:
        now.changes.append(_live.chmod(host, spec, path, stat.S_IMODE(found.st_mode), mode))


def _wrong_flags(host, want, mount):
    """The flags that a mount lacks, or has although neither declared nor those of the mount that it is a clone of."""
    have, wanted = {word for bit, word in WORDS if word in mount.options}, set(want.words)
    if want.kind == "bind" and have - wanted:
        source = host.mounts().holder(os.path.realpath(want.source))
        have -= (have - wanted).intersection(source.options if source is not None else ())
    return have != wanted


def _compare_devices(host, spec, view, claim, now):
    declared, sources = dict(_NODES), {}
    if "user" in spec.types:
        sources.update((name, "/dev/" + name) for name in _NODES)
    for name, source, mode in spec.devices:
        try:
            number, kind = _furnish.device(source)
        except OSError:
            continue  # _check_sources says so
        declared[name] = (number, kind if mode is None else stat.S_IFMT(kind) | mode)
        if "user" in spec.types:
            sources[name] = source
    for name, (number, mode) in declared.items():
        found = view.nodes.get(name)
        if found is None or found.st_rdev != number or stat.S_IFMT(found.st_mode) != stat.S_IFMT(mode):
            now.changes.append(_live.node(host, spec, name, None if found is None else "there", number, mode, sources.get(name)))
        elif name not in _NODES and found.st_mode != mode and "user" not in spec.types:  # there it is the host's own
            now.changes.append(_live.node(host, spec, name, "%o" % found.st_mode, number, mode, sources.get(name)))
    for name in claim.get("devices", ()):
        if name not in declared:
            now.changes.append(_live.no_node(host, spec, name))


# -- what the composite calls

def prepare(host, spec, plan):
    """Steps before the namespaces: the directories of the overlay. Refuses what cannot be made."""
    now = _now(host, spec)
    if not isinstance(spec.base, str):
        _layers.plan_mounts(host, spec.base.lower or (), plan)
    if not now.alive or now.stale:
        if not overlayfs.can_detach():
            raise BulkheadError("Cannot prepare the root of %s: this kernel has no detached mounts (open_tree, Linux 5.2). "
                                "Leave mnt out of the namespaces, for a plain chroot." % spec.name)
        if isinstance(spec.base, str):
            if not os.path.isdir(spec.base) and (NOUN, spec.name) not in host.promised:
                _refuse(host, spec, "the directory %s does not exist" % spec.base, "Make it first")
        else:
            _layers.check(host, "as root of %s" % spec.name, spec.base.layers(), own=spec.name)
            _layers.plan_directories(host, spec.base.layers(), plan)
        if spec.maps:
            _mapped.check(host, spec)
    _check_sources(host, spec)


def _check_sources(host, spec):
    for want in spec.bind:
        if not os.path.exists(want.source):
            _refuse(host, spec, "the source %s of the bind on %s does not exist" % (want.source, want.target), "Make it first")
    for name, source, mode in spec.devices:
        try:
            _furnish.device(source)
        except OSError as exc:
            _refuse(host, spec, "the device %s cannot be used: %s" % (source, exc.strerror), "Name a device of the host")
        if mode is not None and "user" in spec.types:
            raise BulkheadError("Cannot prepare the root of %s: in a user namespace the device /dev/%s is the host's own, with its mode. "
                                "Leave its mode out." % (spec.name, name))
    for path in spec.masked_paths + spec.read_only_paths:
        if path == "/":
            _refuse(host, spec, "/ itself cannot be masked or read-only this way", "Use read_only of the overlay")


def _refuse(host, spec, why, advice):
    if not host.check:
        raise BulkheadError("Cannot prepare the root of %s: %s. %s." % (spec.name, why, advice))
    host.warn("The root of %s: %s yet; an earlier task is expected to change that." % (spec.name, why))


def plan(host, spec, plan, fresh=False):
    """The live changes; returns the keys that need another root. ``fresh``: there is no namespace yet, all is made by furnish()."""
    now = _now(host, spec)
    if fresh or not now.alive:
        plan.differ("root", None, spec.base if isinstance(spec.base, str) else spec.base.lower)
        return []
    if now.stale:
        for key, (before, after) in now.stale.items():
            plan.differ(key, before, after)
        return sorted(now.stale)
    for change in now.changes:
        plan.differ(change.key, change.before, change.after)
        plan.add(change.words, change.apply, change.undo)
    if now.changes:
        plan.add("note the mounts in the root of %s" % spec.name, lambda: _finish(host, spec, now.changes))
    return []


def _finish(host, spec, changes):
    _live.note(host, spec, wanted_mounts(host, spec))
    for change in changes:
        change.release()


def furnish(host, spec):
    """(inside, close) for the birth of the namespaces: open in the host's what the root is made of, and claim it."""
    wants = wanted_mounts(host, spec)
    furniture = _furnish.Furniture(host, spec, wants)
    _live.note(host, spec, wants)
    return furniture, furniture.close


def plan_removal(host, name, plan):
    """Forget what was noted about a root that is gone with its namespace."""
    if host.claims.read(NOUN, name) is not None:
        plan.add("forget the root of %s" % name, lambda: _forget(host, name))


def _forget(host, name):
    host.claims.drop(NOUN, name)
    _layers.drop_links(host)


def show(host, name):
    """The mounts of the root, in order; None when there is no such namespace."""
    path = pin(host, name)
    if not nsfs.look(path, "mnt").alive:
        return None
    table = host.cached(("mounts", name), lambda: inside.table(path, host.proc))
    top = table.top("/")
    shown = _layers.read(host, top) if top is not None and top.fstype == "overlay" else None
    return {
        "lower": shown.lower if shown else [], "upper": shown.upper if shown else None, "work": shown.work if shown else None,
        "options": shown.options if shown else {},
        "mounts": [{"target": mount.target, "type": mount.fstype, "source": mount.source, "root": mount.root,
                    "read_only": "ro" in mount.options, "options": mount.options} for mount in table.mounts],
    }
