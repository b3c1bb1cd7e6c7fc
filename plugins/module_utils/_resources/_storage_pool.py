# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The thin pool of a host, which the volumes of storage driver devicemapper are in (`_storage_thin.py`): a block device, or a file.

    the first MiB     whose it is: a line of words, and one of JSON {"identity", "metadata"}
    metadata          a hundredth of it
    data              in chunks that volumes share until one of them writes
    the last MiB      nothing

Two linear devices divide it. Each place that has a volume names the pool; the last one to go takes it along. A file has all its
blocks from the beginning, and keeps them, so that the host's own file system is never full below what the pool has promised.
A pool that is full answers with an error at once: nobody waits for room.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import os
import stat

from .._kernel import built, devmapper, ext4, loopdev
from .._kernel.devmapper import SECTOR
from .._model.errors import BulkheadError
from . import _storage_places, _store, preflight

POOL, PREFIX = "bulkhead-pool", "bulkhead-"
FULL = 90  # percent, from which on no root is made
SIZE = 10 << 30  # of a file, where nothing is declared
_MAGIC = b"bulkhead storage pool 1\n"
_EDGE = 1 << 20
_CHUNK = 128  # sectors
_LEAST = 64 << 20
_METADATA = (4 << 20, 15 << 30)  # at least, at most: the kernel takes no more than 15.8 GiB
_DEVICE_TOOLS = {devmapper.TOOL: "dmsetup", ext4.TOOL: "e2fsprogs", "blkid": "util-linux"}


class Head:
    """What the first MiB says: the pool's ``identity``, and how many sectors of ``metadata`` it has."""

    __slots__ = ("identity", "metadata")

    def __init__(self, identity, metadata):
        self.identity, self.metadata = identity, metadata


class Status:
    """How full it is in percent (the fuller of data and metadata), and in words what is wrong with it, or None."""

    __slots__ = ("used", "wrong")

    def __init__(self, words):
        self.used, self.wrong = 0, None
        if len(words) < 5:  # Fail, Error
            self.wrong = "it has failed"
            return
        pairs = [[int(number) for number in words[place].split("/")] for place in (1, 2)]
        self.used = max(100 * used // total for used, total in pairs)
        if "needs_check" in words:
            self.wrong = "its metadata needs to be checked"
        elif "ro" in words:
            self.wrong = "its metadata is full or damaged, so that nothing can be written"


def lacks(host):
    """None, or (what this host lacks for such a pool, what to do)."""
    if built.lacks("DM_THIN_PROVISIONING", "dm-thin-pool", proc=host.proc, sys=host.sys):
        return "this kernel has no thin pools of the device mapper (dm-thin-pool)", "Name another driver"
    for tool, package in _DEVICE_TOOLS.items():
        if preflight.which(tool) is None:
            return "%s is not installed" % tool, "Install %s" % package
    return None


def tool():
    """The path of dmsetup."""
    found = preflight.which(devmapper.TOOL)
    if found is None:
        raise BulkheadError("Cannot use the storage driver devicemapper: dmsetup is not installed. Install dmsetup.")
    return found


# -- who is in it

def volume(place):
    """What the place of a volume says of it (`_storage_thin.py`); None where it has none."""
    try:
        with open(place + "/volume", "rb") as stream:
            value = json.loads(stream.read())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) and isinstance(value.get("pool"), str) else None


def record(place, value):
    """Write that, onto the disk."""
    _store.write(place + "/volume.new", json.dumps(value, sort_keys=True).encode())
    os.rename(place + "/volume.new", place + "/volume")
    _store.flush(place)


def volumes(host):
    """{place: what it says} of all places, half-made ones too."""
    top = glob.escape(_storage_places.roots(host))
    found = {os.path.dirname(path): None for what in ("*", ".new-*", ".old-*", ".bases-*/*", ".bases-*/.*", ".saved/*/*", ".saved/*/.*")
             for path in glob.glob("%s/%s/volume" % (top, what))}
    found = {place: volume(place) for place in sorted(found)}
    return {place: value for place, value in found.items() if value is not None}


def named(host):
    """The path of the pool that this host has; None."""
    return next((value["pool"] for value in volumes(host).values()), None)


# -- plans

def plan_use(host, name, storage, plan):
    """Refuse what stands against a new root in the pool that is declared."""
    path, there = storage.pool, named(host)
    if there is not None and not _same(there, path):
        raise BulkheadError("Cannot make the root of sandbox %s in the pool %s: the pool of this host is %s, and it has one. Name that." % (name, path, there))
    capacity = _capacity(host, name, storage)
    if storage.size is not None and storage.size > capacity:
        raise BulkheadError("Cannot make the root of sandbox %s: storage.size is %d bytes, and the pool %s has %d. Make it smaller." % (
            name, storage.size, path, capacity))
    host.promised.add(("pool", name, storage.size or SIZE))
    promised = _promised(host, volumes(host), [each[1:] for each in host.promised if each[0] == "pool" and len(each) == 3])
    if promised > capacity:
        plan.warn("The pool %s has %d bytes, and %d are promised to its roots. Where it is full, all of them suffer (see docs/storage.md). Make it "
                  "larger, or each storage.size smaller." % (path, capacity, promised))
    if there is None:
        plan.differ("pool", None, path)
        return
    now = status(host)
    if now is None:
        return
    if now.wrong is not None:
        raise BulkheadError("Cannot make the root of sandbox %s: the pool %s does not work: %s. See docs/storage.md." % (name, path, now.wrong))
    if now.used >= FULL:
        raise BulkheadError("Cannot make the root of sandbox %s: the pool %s is full to %d percent. Remove what is not needed, or make it larger." % (
            name, path, now.used))


def _capacity(host, name, storage):
    """The bytes of the device or file, which is to be empty or ours."""
    path = storage.pool
    verb = "Cannot make the pool %s for sandbox %s: " % (path, name)
    if not os.path.exists(path):
        if os.path.lexists(path) or path.startswith("/dev/"):
            raise BulkheadError(verb + "there is no such device. Name one that is there, or a file that may be made.")
        size, folder = storage.pool_size or SIZE, os.path.dirname(path)
        while not os.path.isdir(folder):
            folder = os.path.dirname(folder)
        free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
        if size > free:
            raise BulkheadError(verb + "it is to have %d bytes, and %s has %d left. Set storage.pool_size, or name a block device." % (size, folder, free))
    else:
        block = stat.S_ISBLK(os.stat(path).st_mode)
        if not block and not stat.S_ISREG(os.stat(path).st_mode):
            raise BulkheadError(verb + "it is neither a block device nor a file. Name one.")
        size = length(path)
        if head(path) is None:
            what = on_it(host, path) if block else "it is a file that is there already"
            if what is not None:
                raise BulkheadError(verb + "%s. Name another%s." % (what, ", or empty it by `wipefs --all` and `blkdiscard --zeroout`" if block else ""))
    if size < _LEAST:
        raise BulkheadError(verb + "it has %d bytes. Give it %d at the least." % (size, _LEAST))
    return size


def plan_size(host, storage, plan):
    """A pool that has become larger, or is to become so, is used whole; it never shrinks."""
    path = named(host)
    now = None if path is None else devmapper.devices(host.sys, PREFIX).get(POOL)
    known = head(path) if now is not None and os.path.exists(path) else None
    if known is None:
        return
    has, wanted = length(path), storage.pool_size if stat.S_ISREG(os.stat(path).st_mode) else None
    if wanted is not None and wanted < has:
        raise BulkheadError("Cannot make the pool %s smaller than it is, %d bytes: thin pools do not shrink. Give that, or more." % (path, has))
    size = max(has, wanted or 0)
    if _data(size, known) > now.sectors and ("pool", path) not in host.promised:  # by another sandbox of this run
        host.promised.add(("pool", path))
        plan.differ("pool_size", now.sectors * SECTOR, _data(size, known) * SECTOR)
        plan.add("enlarge pool %s" % path, lambda: _enlarge(host, path, size))


def on_it(host, path):
    """What is on a block device, in words; None where that is nothing."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC)
    except OSError as exc:
        if exc.errno == errno.EBUSY:
            return "it is in use"
        raise
    try:
        size = os.lseek(fd, 0, os.SEEK_END)
        empty = not any(any(os.pread(fd, _EDGE, at)) for at in (0, max(0, size - _EDGE)))
    finally:
        os.close(fd)
    if empty:
        return None
    output = host.run([preflight.which("blkid"), "-p", "-o", "value", "-s", "TYPE", "-s", "PTTYPE", path])[1].split()
    return "there is something on it already (%s)" % (", ".join(output) or "of a kind that blkid does not know")


def look(host):
    """What there is to tell of the pool: {"path", "size": bytes for data, "used": percent, "promised": bytes that may be written to all roots
    together}; None where it does not work now. The run warns where it runs full."""
    now = host.cached("pool", lambda: status(host))
    if now is None:
        return None
    path, there = named(host), volumes(host)
    if now.wrong is not None:
        host.warn("The pool %s does not work: %s. See docs/storage.md." % (path, now.wrong))
    elif now.used >= FULL:
        host.warn("The pool %s is full to %d percent. Where it is full, nothing new can be written to the roots in it, and what is not on the disk "
                  "yet is lost. Remove what is not needed, or make it larger." % (path, now.used))
    return {"path": path, "size": device(host).sectors * SECTOR, "used": now.used, "promised": _promised(host, there)}


def _promised(host, there, more=()):
    """Bytes that may be written to all roots together; ``more``: [(name, size)] of those that are to be made."""
    sizes = {os.path.basename(place): value["size"] or 0 for place, value in there.items() if os.path.dirname(place) == _storage_places.roots(host)}
    return sum(size for name, size in dict(sizes, **dict(more)).items() if not name.startswith("."))


# -- acts

def ensure(host, path, size=None, identity=None):
    """The pool is there and works: its identity. ``size``: of a file that is to be made. ``identity``: that it has to have."""
    known = head(path) if os.path.exists(path) else None
    if identity is not None and (known is None or known.identity != identity):
        raise BulkheadError("Cannot use the pool %s: it is not there any more. Bring the device back under this name." % path)
    if known is None:
        known = _make(host, path, size or SIZE)
    there = devmapper.devices(host.sys, PREFIX)
    if POOL in there and there[POOL].sectors:
        if there[POOL].uuid != _uuid(known, "pool"):
            raise BulkheadError("Cannot use the pool %s: the device %s is of another one. Remove that." % (path, POOL))
        if there[POOL].suspended:
            devmapper.resume(host.run, tool(), POOL)
    else:
        _activate(host, path, known, there)
    return known.identity


def device(host):
    """The pool as the kernel shows it."""
    return devmapper.devices(host.sys, PREFIX).get(POOL)


def status(host):
    """How the pool is, or None where it does not work now."""
    return Status(devmapper.status(host.run, tool(), POOL)) if device(host) is not None else None


def release(host, path):
    """Nothing is in it any more: the pool goes. A file is removed, a device empty again."""
    known = head(path) if os.path.exists(path) else None
    there = devmapper.devices(host.sys, PREFIX)
    for part in ("pool", "data", "metadata"):
        if PREFIX + part in there and (known is None or there[PREFIX + part].uuid == _uuid(known, part)):
            devmapper.remove(host.run, tool(), PREFIX + part)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(_partial(path))
    if known is None:
        return
    if stat.S_ISREG(os.stat(path).st_mode):
        os.unlink(path)
        return
    fd = os.open(path, os.O_WRONLY | os.O_EXCL | os.O_CLOEXEC)
    try:
        for at in (_EDGE, 0):  # what says whose it is goes last
            os.pwrite(fd, bytes(1 << 16), at)
            os.fsync(fd)
    finally:
        os.close(fd)


def _make(host, path, size):
    """Write its head. The kernel makes metadata where there are zeros."""
    new = _partial(path)
    block = os.path.exists(path)
    if not block and (os.path.lexists(path) or path.startswith("/dev/")):
        raise BulkheadError("Cannot make the pool %s: there is no such device. Name one that is there." % path)
    if block:
        what = on_it(host, path) if stat.S_ISBLK(os.stat(path).st_mode) else "it is a file that is there already"
        if what is not None:
            raise BulkheadError("Cannot make the pool %s: %s. Name another." % (path, what))
        size = length(path)
    else:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new)
    metadata = min(max(size // 100, _METADATA[0]), _METADATA[1]) // (_CHUNK * SECTOR) * _CHUNK
    known = Head(os.urandom(8).hex(), metadata)
    text = _MAGIC + json.dumps({"identity": known.identity, "metadata": known.metadata}).encode() + b"\n"
    fd = os.open(path if block else new, os.O_RDWR | os.O_CLOEXEC | (os.O_EXCL if block else os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW), 0o600)
    try:
        if not block:
            os.posix_fallocate(fd, 0, size)
        os.pwrite(fd, text.ljust(4096, b"\0"), 0)
        os.fsync(fd)
    finally:
        os.close(fd)
    if not block:
        os.rename(new, path)
        _store.flush(os.path.dirname(path))
    return known


def _activate(host, path, known, there):
    for part in ("pool", "data", "metadata"):  # what a killed run has left
        if PREFIX + part in there:
            devmapper.remove(host.run, tool(), PREFIX + part)
    with _block(path) as node:
        for part, table in _tables(node, length(node), known).items():
            devmapper.create(host.run, tool(), PREFIX + part, _uuid(known, part), table)
    there = devmapper.devices(host.sys, PREFIX)
    devmapper.create(host.run, tool(), POOL, _uuid(known, "pool"), _pool_table(path, there))


def _enlarge(host, path, size):
    known = head(path)
    if stat.S_ISREG(os.stat(path).st_mode):
        fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.posix_fallocate(fd, 0, size)
        finally:
            os.close(fd)
        loopdev.fit(path)
    with _block(path) as node:
        devmapper.reload(host.run, tool(), PREFIX + "data", _tables(node, length(node), known)["data"])
    devmapper.reload(host.run, tool(), POOL, _pool_table(path, devmapper.devices(host.sys, PREFIX)))


def _tables(node, size, known):
    number = os.stat(node).st_rdev
    number = "%d:%d" % (os.major(number), os.minor(number))
    return {"metadata": "0 %d linear %s %d" % (known.metadata, number, _EDGE // SECTOR),
            "data": "0 %d linear %s %d" % (_data(size, known), number, _EDGE // SECTOR + known.metadata)}


def _pool_table(path, there):
    features = ["error_if_no_space"] + ["no_discard_passdown"] * stat.S_ISREG(os.stat(path).st_mode)
    data = there[PREFIX + "data"]
    return "0 %d thin-pool %s %s %d 0 %d %s" % (
        data.sectors, there[PREFIX + "metadata"].number, data.number, _CHUNK, len(features), " ".join(features))


def _data(size, known):
    """Sectors for data in a pool of ``size`` bytes."""
    return ((size - 2 * _EDGE) // SECTOR - known.metadata) // _CHUNK * _CHUNK


@contextlib.contextmanager
def _block(path):
    """The node of a block device; of a file, that of a loop device, which stays as long as another device is made of it."""
    if stat.S_ISBLK(os.stat(path).st_mode):
        yield path
    else:
        with loopdev.attached(path, True) as node:
            yield node


def head(path):
    """The Head of a device or file; None where it has none of ours."""
    if os.path.isdir(path):
        return None
    with open(path, "rb") as stream:
        magic, text = stream.read(len(_MAGIC)), stream.readline(4096)
    if magic != _MAGIC:
        return None
    value = json.loads(text)
    return Head(value["identity"], value["metadata"])


def length(path):
    """The bytes of a file or block device."""
    with open(path, "rb") as stream:
        return stream.seek(0, os.SEEK_END)


def _partial(path):
    return "%s/.%s.new" % os.path.split(path)


def _uuid(known, part):
    return "%s%s-%s" % (PREFIX, known.identity, part)


def _same(one, other):
    return os.path.realpath(one) == os.path.realpath(other)
