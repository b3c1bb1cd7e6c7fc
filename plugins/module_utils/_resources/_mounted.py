# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Layers that are a file system in a file, squashfs or erofs: kept as they are, mounted by a loop device, and never unpacked.

    layers/HEX/file       the file, of which HEX is the sha256
    layers/HEX/tree       where it is mounted, in the mount namespace that the engine works in

The mount is the kernel's and goes with a reboot; whoever is about to use a layer has a step that makes it again.
"""

from __future__ import annotations

import hashlib
import os

from .._kernel import holders, loopdev, mountinfo, syscalls
from .._model.errors import BulkheadError, reason
from . import _store

FLAGS = syscalls.MS_RDONLY | syscalls.MS_NOSUID | syscalls.MS_NODEV
_WORDS = ("ro", "nosuid", "nodev")
_COVERED = "something else is mounted on it"


def lacks(host, kind):
    """None, or what this host lacks for such layers and what to do: (words, words). A module of the kernel is loaded by its use."""
    if not loopdev.there():
        return "this host has no loop devices: there is no %s" % loopdev.CONTROL, "Load the kernel module loop"
    with open(host.proc + "/filesystems", encoding="ascii") as stream:
        if kind in stream.read().split():
            return None
    for name in ("modules.dep", "modules.builtin"):
        try:
            with open("/lib/modules/%s/%s" % (os.uname().release, name), encoding="utf-8", errors="replace") as stream:
                if "/%s.ko" % kind in stream.read():
                    return None
        except OSError:
            pass
    return "this kernel has no %s" % kind, "Make a layer of another kind"


def wrong(host, digest, table=None):
    """None, or in words how the mount of a layer in the store differs from what it should be; of one that is unpacked, nothing."""
    kind = _store.layers(host).get(digest, {}).get("filesystem")
    if kind is None:
        return None
    path = _store.place(host, digest)
    mount = (table or host.mounts()).top(os.path.realpath(path) + "/tree")
    if mount is None:
        return "not mounted"
    if mount.fstype != kind or not loopdev.is_of(mount.device, path + "/file"):
        return _COVERED
    missing = [word for word in _WORDS if word not in mount.options]
    return "mounted without %s" % ", ".join(missing) if missing else None


def plan_mounts(host, digests, plan):
    """Steps that mount those of these layers that should be and are not. What is not in the store is left to others."""
    for digest in dict.fromkeys(digests):
        now = wrong(host, digest)
        if now is None:
            continue
        if now == _COVERED:
            raise BulkheadError("Cannot use layer %s: %s, on %s. Unmount that." % (_store.short(digest), now, _store.tree(host, digest)))
        why = lacks(host, _store.layers(host)[digest]["filesystem"])
        if why:
            raise BulkheadError("Cannot mount layer %s: %s. %s." % ((_store.short(digest),) + why))
        plan.differ("layer " + _store.short(digest), now, "mounted")
        plan.add("mount layer %s" % _store.short(digest), lambda digest=digest: _mount(host, digest))


def plan_lower(host, paths, plan):
    """The same, for the lower directories of an overlay. One whose file is gone is an empty directory, and nothing to build on."""
    top = _store.layers_of(host) + "/"
    mine = [path for path in paths if path.startswith(top)]
    places = {_store.tree(host, digest): digest for digest in _store.layers(host)} if mine else {}
    for path in mine:
        if path not in places and os.path.exists(path) and not os.path.exists(os.path.dirname(path) + "/manifest"):
            raise BulkheadError("Cannot use the layer %s: its file is missing. Import its image again." % path)
    plan_mounts(host, [places[path] for path in mine if path in places], plan)


def _mount(host, digest):
    """Another plan of this run may have done it meanwhile."""
    path, now = _store.place(host, digest), wrong(host, digest, mountinfo.read(host.proc))
    try:
        if now == "not mounted":
            loopdev.mount(path + "/file", path + "/tree", _store.layers(host)[digest]["filesystem"], FLAGS)
        elif now is not None:
            syscalls.mount(None, path + "/tree", None, syscalls.MS_REMOUNT | syscalls.MS_BIND | FLAGS)
    except OSError as exc:
        raise BulkheadError("Cannot mount layer %s: %s. The log of the kernel may say more; import its image again where its file is damaged." % (
            _store.short(digest), reason(exc))) from exc
    host.drop("mounts")


def damage(host, digest):
    """None, or what is wrong with the file of a layer: (name, what is different)."""
    found = hashlib.sha256()
    with open(_store.place(host, digest) + "/file", "rb") as stream:
        for chunk in iter(lambda: stream.read(1 << 20), b""):
            found.update(chunk)
    return None if "sha256:" + found.hexdigest() == digest else ("its file", "differs in content")


def images(host):
    """The names of the images that have layers to be mounted."""
    mounted = {digest for digest, known in _store.layers(host).items() if known.get("filesystem")}
    return [name for name, known in sorted(_store.images(host).items()) if mounted.intersection(known["layers"])]


def refuse_busy(host, digests):
    """Refuse to take away what a process is in, or has a file of open."""
    for digest in digests:
        if _store.layers(host).get(digest, {}).get("filesystem") is None:
            continue
        for mount in host.mounts().at(os.path.realpath(_store.place(host, digest)) + "/tree"):
            users = holders.processes(host.proc, os.makedev(*map(int, mount.device.split(":"))))
            if users:
                raise BulkheadError("Cannot remove layer %s: it is in use by %s (pid %d: %s). Stop that first." % (
                    _store.short(digest), holders.command(host.proc, users[0][0]), *users[0]))


def clear(host):
    """Unmount all layers; they stay in the store."""
    for name in os.listdir(_store.layers_of(host)):
        _store.unmount(host, "%s/%s" % (_store.layers_of(host), name))
    host.drop("mounts")
