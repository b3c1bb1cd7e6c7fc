# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Storage driver devicemapper: a root is a thin snapshot of its base, which is a thin volume of the pool (`_storage_pool.py`).

    PLACE/volume    {"pool", "identity", "id", "sectors", "size", "layers"}: which volume it is; `size` bytes may be written beside `layers`
    PLACE/tree      the ext4 that is on it; mounted as long as it is a root, and otherwise only while somebody looks

The number of a volume is written, and on the disk, before there is a volume of that number, and goes after it: a run that is killed
leaves none that no place names. All volumes are as large as ext4 may ever have to grow; what it may hold, it is told at each mount.
"""

from __future__ import annotations

import contextlib
import errno
import os

from .._kernel import devmapper, ext4, holders, mountinfo, syscalls
from .._kernel.devmapper import SECTOR
from .._model.errors import BulkheadError
from . import _storage_pool, preflight
from ._storage_pieces import Pieces
from ._storage_pool import PREFIX

SIZE = 10 << 30  # of a root, where nothing is declared
_ROOM = 64 << 30  # bytes of a volume, at the least; its blocks come from the pool when they are written
# A fresh volume reads as zeros: to write them would only fill the pool. What is removed goes back to it (discard): ext4 takes blocks that are
# new again and again, so that a root would have more of the pool than it may write.
_OPTIONS = "noinit_itable,errors=remount-ro,discard"
_FORMAT = ("nodiscard", "lazy_itable_init=1")
_NUMBERS = 1 << 24


class Thin(Pieces):
    """See `_storage_pieces.Pieces`."""

    name = "devicemapper"

    def probe(self, host):
        return _storage_pool.lacks(host)

    def plan_room(self, host, name, storage, plan):
        _storage_pool.plan_size(host, storage, plan)
        _storage_pool.plan_use(host, name, storage, plan)

    # -- acts

    def create(self, host, place, storage=None):
        number, pool = self._new(host, place, storage, _limit(place, storage), _storage_pool.named(host) or storage.pool, "create_thin %d")
        device = _activate(host, place)
        status, said = ext4.format_device(host.run, preflight.which(ext4.TOOL), device.node, more=_FORMAT)
        if status:
            raise BulkheadError("Cannot make the file system of volume %d of the pool %s: %s said: %s. Mend that and run again." % (
                number, pool, ext4.TOOL, said or "status %d" % status))
        os.mkdir(place + "/tree", 0o755)
        _mount(host, place, device)
        os.rmdir(place + "/tree/lost+found")

    def snapshot(self, host, source, place, storage=None):
        there = _volume(source)
        _storage_pool.ensure(host, there["pool"], identity=there["identity"])
        self._new(host, place, storage, _limit(place, storage, there), there["pool"], "create_snap %%d %d" % there["id"], there, _device(host, there))
        os.mkdir(place + "/tree", 0o755)
        _mount(host, place, _activate(host, place))

    @staticmethod
    def _new(host, place, storage, size, path, words, like=None, held=None):
        """A volume of the pool, which the place names before: (its number, the pool). ``like``: what the volume that it is a snapshot
        of says; ``held``: the device that stands still for that."""
        value = {"pool": path, "identity": None, "id": None, "sectors": like and like["sectors"], "size": size, "layers": like["layers"] if like else 0}
        _storage_pool.record(place, value)
        value["identity"] = _storage_pool.ensure(host, path, storage and storage.pool_size)
        pool = _storage_pool.device(host)
        value["sectors"] = value["sectors"] or max(_ROOM // SECTOR, pool.sectors)
        number = max([each["id"] for each in _storage_pool.volumes(host).values() if each["id"] is not None], default=-1)
        while True:
            number = (number + 1) % _NUMBERS
            _storage_pool.record(place, dict(value, id=number))
            try:
                if held is None:
                    devmapper.message(host.run, _storage_pool.tool(), pool.name, words % number)
                else:
                    devmapper.message_while(host.run, _storage_pool.tool(), held.name, pool.name, words % number)
                return number, path
            except OSError as exc:
                if exc.errno != errno.EEXIST:
                    raise
                host.warn("The pool %s has a volume %d that nobody knows. If it is not to be found elsewhere, remove it: "
                          "dmsetup message %s 0 'delete %d'." % (path, number, pool.name, number))

    def seal(self, host, place):
        if os.path.exists(place + "/base.json"):
            _storage_pool.record(place, dict(_volume(place), layers=ext4.space(place + "/tree", host.sys)[1]))
        _close(host, place, _volume(place))

    @contextlib.contextmanager
    def opened(self, host, place):
        value = _volume(place)
        found = _mounted(host, place, value)
        here = found is not None and "ro" not in found.options  # read-only it is what somebody looked at who was killed
        if found is None:
            _storage_pool.ensure(host, value["pool"], identity=value["identity"])
            _mount(host, place, _activate(host, place), syscalls.MS_RDONLY)
        try:
            with super().opened(host, place) as fd:
                yield fd
        finally:
            if not here:
                _close(host, place, value)

    def remove(self, host, place):
        value = _storage_pool.volume(place)
        if value is not None:
            self._remove(host, place, value)
        super().remove(host, place)

    @staticmethod
    def _remove(host, place, value):
        path = value["pool"]
        there = os.path.exists(path) and _storage_pool.head(path) is not None
        if value["id"] is not None and path.startswith("/dev/") and not os.path.exists(path):
            raise BulkheadError("Cannot remove the volume of %s: there is no device %s, on which it is. Bring it back; if it is gone for "
                                "good, remove the file %s/volume." % (place, path, place))
        if there and value["id"] is not None:
            _storage_pool.ensure(host, path, identity=value["identity"])
            _close(host, place, value)
            try:
                devmapper.message(host.run, _storage_pool.tool(), _storage_pool.POOL, "delete %d" % value["id"])
            except OSError as exc:
                if exc.errno != errno.ENODATA:  # it is gone, or was never made
                    raise
        if not [each for each in _storage_pool.volumes(host) if each != place]:
            _storage_pool.release(host, path)

    # -- roots

    def mounts(self, host, place):
        value = _storage_pool.volume(place)
        found = value and _mounted(host, place, value)
        return [found] if found else []

    def is_ready(self, host, place):
        value = _storage_pool.volume(place)
        device = value and _device(host, value)
        found = device and _mounted(host, place, value)
        return bool(found) and not device.suspended and "ro" not in found.options

    def plan_ready(self, host, name, place, storage, plan):
        value = _volume(place)
        if storage.pool is not None and os.path.realpath(storage.pool) != os.path.realpath(value["pool"]):
            raise BulkheadError("Cannot change storage.pool of sandbox %s from %s to %s: what was written is there. Commit the sandbox to an image "
                                "if it is to be kept, remove it with remove_data: true, and make it anew." % (name, value["pool"], storage.pool))
        _storage_pool.plan_size(host, storage, plan)
        _storage_pool.look(host)
        size = _rounded(storage.size or SIZE)
        if not self.is_ready(host, place):
            top = _table(host).top(os.path.realpath(place) + "/tree")
            if top is not None and not self.mounts(host, place):
                raise BulkheadError("Cannot mount the root of sandbox %s: something else is mounted on %s/tree. Unmount that." % (name, place))
            plan.differ("mounted", False, True)
            plan.add("mount root of sandbox %s" % name, lambda: self._ready(host, name, place, size))
            return
        now, used = _space(host, place, value)
        if now != size:
            _refuse_less(name, size, used)
            plan.differ("size", now, size)
            plan.add("set size of root of sandbox %s" % name, lambda: self._resize(host, place, size), lambda: self._resize(host, place, now))
        if _errors(host, place):
            plan.warn("The file system of the root of sandbox %s has met errors, and may be read-only: see the log of the kernel, and dmsetup status "
                      "%s for whether the pool is full. What is written is whole again when the root is mounted again." % (name, _storage_pool.POOL))

    def refuse_stopped(self, host, name, place):
        if self.mounts(host, place) and _errors(host, place) and ext4.has_stopped(place + "/tree"):
            raise BulkheadError("Cannot use the root of sandbox %s: its file system has stopped, as its journal could not be written, and nothing in it can be "
                                "read. See in the log of the kernel and by `dmsetup status %s` that the disk is sound and the pool has room, and reboot "
                                "the host, which mounts it anew; or reset the sandbox." % (name, _storage_pool.POOL))

    @staticmethod
    def _ready(host, name, place, size):
        value = _volume(place)
        _storage_pool.ensure(host, value["pool"], identity=value["identity"])
        device = _activate(host, place)
        found = _mounted(host, place, value)
        if found is not None and "ro" in found.options:  # somebody was killed who looked at it
            syscalls.umount(place + "/tree")
            found = None
        _storage_pool.record(place, dict(value, size=size))
        if found is None:
            _mount(host, place, device)

    @staticmethod
    def _resize(host, place, size):
        value = _volume(place)
        _storage_pool.record(place, dict(value, size=size))
        ext4.set_space(place + "/tree", host.sys, size + value["layers"])

    def size(self, host, place):
        value = _storage_pool.volume(place)
        if value is None:
            return None
        return _space(host, place, value)[0] if _mounted(host, place, value) else value["size"]

    def measured(self, host):
        return {"pool": _storage_pool.look(host)}


def _limit(place, storage, like=None):
    """The size of a volume that is to be made: a base has none, and a copy that of what it is of."""
    if os.path.exists(place + "/base.json"):
        return None
    return like["size"] if storage is None else _rounded(storage.size or SIZE)


def _rounded(size):
    return -(-size // ext4.BLOCK) * ext4.BLOCK


def _volume(place):
    value = _storage_pool.volume(place)
    if value is None or value["id"] is None:
        raise BulkheadError("Cannot use %s: what its file `volume` should say is not there. Remove that root, or bring the file back." % place)
    return value


def _name(value):
    return "%s%d" % (PREFIX, value["id"])


def _device(host, value):
    """The volume as the kernel has it, or None."""
    found = None if value["id"] is None else devmapper.devices(host.sys, PREFIX).get(_name(value))
    return found if found is not None and found.uuid == _uuid(value) and found.sectors else None


def _uuid(value):
    return "%s%s-%d" % (PREFIX, value["identity"], value["id"])


def _activate(host, place):
    """The volume of a place as a device that works; the pool does. What a killed run has left of one is not believed."""
    value = _volume(place)
    found = _device(host, value)
    if found is None:
        if _name(value) in devmapper.devices(host.sys, PREFIX):
            devmapper.remove(host.run, _storage_pool.tool(), _name(value))
        devmapper.create(host.run, _storage_pool.tool(), _name(value), _uuid(value), "0 %d thin %s %d" % (
            value["sectors"], _storage_pool.device(host).number, value["id"]))
        found = _device(host, value)
    elif found.suspended:
        devmapper.resume(host.run, _storage_pool.tool(), found.name)
    return found


def _mount(host, place, device, flags=0):
    """Mount it, to be written with its limit; or read."""
    syscalls.mount(device.node, place + "/tree", "ext4", flags, _OPTIONS)
    host.drop("mounts")
    value = _volume(place)
    if not flags and value["size"] is not None:
        _refuse_less(os.path.basename(place), value["size"], _space(host, place, value)[1])
        ext4.set_space(place + "/tree", host.sys, value["size"] + value["layers"])


def _space(host, place, value):
    """(bytes that may be written, bytes that are), layers not counted."""
    size, used = ext4.space(place + "/tree", host.sys)
    return size - value["layers"], max(0, used - value["layers"])


def _refuse_less(name, size, used):
    if size < used:
        raise BulkheadError("Cannot limit the root of sandbox %s to %d bytes: it has %d already. Set storage.size to more." % (
            name.replace(".new-", ""), size, used))


def _table(host):
    """The mounts as they are now: a place may have got another name in this run, and what is mounted in it goes along."""
    return mountinfo.read(host.proc)


def _mounted(host, place, value):
    """The mount of its volume on place/tree, or None."""
    found, device = _table(host).top(os.path.realpath(place) + "/tree"), _device(host, value)
    return found if found is not None and device is not None and found.device == device.number else None


def _close(host, place, value):
    """Unmount it and take its device away."""
    device = _device(host, value)
    if device is not None and device.suspended:
        devmapper.resume(host.run, _storage_pool.tool(), device.name)
    while _mounted(host, place, value):
        try:
            syscalls.umount(place + "/tree")
        except OSError as exc:
            _refuse_busy(host, place, device, exc)
    host.drop("mounts")
    name = _name(value) if value["id"] is not None else None
    if name in devmapper.devices(host.sys, PREFIX):
        try:
            devmapper.remove(host.run, _storage_pool.tool(), name)
        except OSError as exc:
            _refuse_busy(host, place, device, exc)


def _refuse_busy(host, place, device, exc):
    if exc.errno != errno.EBUSY or device is None:
        raise exc
    users = holders.processes(host.proc, os.makedev(*map(int, device.number.split(":"))))
    who = "%s (pid %d: %s)" % ((holders.command(host.proc, users[0][0]),) + tuple(users[0])) if users else "another mount namespace"
    raise BulkheadError("Cannot unmount %s/tree: it is in use by %s. Stop that first." % (place, who)) from exc


def _errors(host, place):
    number = os.stat(place + "/tree").st_dev
    node = os.path.basename(os.path.realpath("%s/dev/block/%d:%d" % (host.sys, os.major(number), os.minor(number))))
    try:
        with open("%s/fs/ext4/%s/errors_count" % (host.sys, node), encoding="ascii") as stream:
            return int(stream.read()) > 0
    except (OSError, ValueError):
        return False


PIECES = Thin()
