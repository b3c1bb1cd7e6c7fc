# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How much may be written in a directory, where the storage driver has no limit of its own.

    quota     the directory is a project of a file system that has project quotas on
    loop      an ext4 of that size, in the file .NAME.img beside the directory NAME, is mounted on it
    tmpfs     memory is mounted on it

Which one it is, and of which size, is what the kernel shows. A mount goes with a reboot; then there is the file, or, of a tmpfs,
nothing, and plan() has it mounted again before anybody looks in.
"""

from __future__ import annotations

import errno
import os
import time

from .._kernel import ext4, loopdev, mountinfo, syscalls
from .._model.errors import BulkheadError, reason
from . import _layers, _limit_quota, preflight

_SOURCE = "bulkhead"  # of a tmpfs that is ours
SPARE = 1 << 20  # bytes that a file system may need beside what is copied into it
_PATIENCE = 2.0  # seconds
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Limit:
    """What there is: its ``kind``, ``size`` and ``used`` in bytes (None where that is not known), and whether it is ``ready``."""

    __slots__ = ("kind", "size", "used", "ready")

    def __init__(self, kind, size=None, used=None, ready=True):
        self.kind, self.size, self.used, self.ready = kind, size, used, ready


def find(host, directory, table=None):
    """The Limit of a directory, or None."""
    mount = (table or host.mounts()).top(os.path.realpath(directory))
    image = image_of(directory)
    if mount is not None and mount.fstype == "ext4" and os.path.exists(image) and loopdev.is_of(mount.device, image):
        return Limit("loop", *ext4.space(directory, host.sys))
    if mount is not None and mount.fstype == "tmpfs" and mount.source == _SOURCE:
        now = os.statvfs(directory)
        return Limit("tmpfs", now.f_blocks * now.f_frsize, (now.f_blocks - now.f_bfree) * now.f_frsize)
    if mount is None and os.path.exists(image):
        return Limit("loop", ready=False)
    found = _limit_quota.find(host, directory)
    return None if found is None else Limit("quota", *found)


def image_of(directory):
    """The file that has the file system of a directory. No name of ours begins with a dot."""
    return "%s/.%s.img" % os.path.split(directory)


def left(host, directory):
    """Is there a file system of a directory, be it half-made?"""
    image = image_of(directory)
    return bool(os.path.exists(image) or os.path.exists(image + ".new") or host.mounts().at(os.path.realpath(directory)))


def measure(host, directory):
    """(bytes in use, limit in bytes) of a directory that has a limit; None: it has none, or is not mounted now."""
    now = find(host, directory)
    return None if now is None or now.size is None else (now.used, now.size)


def lacks(host, kind, directory):
    """None, or (what this host lacks for limits of this kind, what to do)."""
    if kind == "tmpfs":
        return None
    if kind == "quota":
        return _limit_quota.lacks(host, directory)
    from . import _mounted  # more code, for the one who needs it

    why = _mounted.lacks(host, "ext4")
    if why is None and preflight.which(ext4.TOOL) is None:
        why = "%s is not installed" % ext4.TOOL, "Install e2fsprogs"
    return why


def choose(host, directory, spec, mapped):
    """The kind of a limit that is to be made. ``mapped``: the services are in a user namespace, where nobody takes a file out of a project."""
    if spec.limit is not None:
        why = lacks(host, spec.limit, directory)
        if why:
            raise BulkheadError("Cannot limit %s by %s: %s. %s." % ((directory, spec.limit) + why))
        return spec.limit
    kinds = ["quota"] * mapped + (["loop"] if spec.keep else ["tmpfs"])
    wrong = None
    for kind in kinds:
        wrong = lacks(host, kind, directory)
        if wrong is None:
            return kind
    raise BulkheadError("Cannot limit %s: %s. %s, name another limit, or leave size out." % ((directory,) + wrong))


def rounded(kind, size):
    """The size that the kernel makes of one."""
    unit = {"quota": 1024, "loop": ext4.BLOCK, "tmpfs": _PAGE}[kind]
    return -(-size // unit) * unit


# -- acts

def make(host, directory, size, kind, keep=True):
    """Limit what may be written in a directory, which is there and, unless ``kind`` is quota, empty."""
    if kind == "quota":
        _limit_quota.make(host, directory, size)
    elif kind == "loop":
        image = image_of(directory)
        _make_image(host, image, size, keep)
        mount(host, directory, size, ours=True)
    else:
        syscalls.mount(_SOURCE, directory, "tmpfs", 0, "mode=0700,size=%d" % size)
    host.drop("mounts")


def _make_image(host, image, size, keep):
    new = image + ".new"
    _unlink(new)  # of a run that was killed
    status, said = ext4.make(host.run, preflight.which(ext4.TOOL), new, size, keep)
    if status:
        raise BulkheadError("Cannot make the file system %s: %s said: %s. Mend that and run again." % (image, ext4.TOOL, said or "status %d" % status))
    os.rename(new, image)


def mount(host, directory, size, ours=False):
    """Mount what is in the file of a directory, so that it holds ``size`` bytes; None: as it is, for who looks in and writes nothing.

    ``ours``: right in it is nothing that somebody else has named, and what a killed run has left there goes.
    """
    image = image_of(directory)
    try:
        loopdev.mount(image, directory, "ext4", 0, "discard,errors=remount-ro", written=True)
    except OSError as exc:
        raise BulkheadError("Cannot mount %s on %s: %s. The log of the kernel says more; e2fsck may mend it, and a removal with remove_data: true "
                            "gives it up." % (image, directory, reason(exc))) from exc
    host.drop("mounts")
    if ours:
        _layers.remove_if_empty(directory + "/lost+found")
    for name in os.listdir(directory) if ours else ():
        if name.endswith(_layers.DISCARDED):
            _layers.discard(host, "%s/%s" % (directory, name))
    if size is not None:
        resize(host, directory, size)


def resize(host, directory, size, forced=False):
    """Let a limited directory hold ``size`` bytes; 0: as many as there are (quota). ``forced``: also where more are written, or were just now."""
    now = find(host, directory, mountinfo.read(host.proc))
    if now is None or not now.ready:
        raise BulkheadError("Cannot limit %s: nothing is mounted there any more. Run again." % directory)
    if size and size < (now.used or 0) and not forced:
        raise _too_small(directory, size, now.used)
    if now.kind == "quota":
        _limit_quota.set_limit(host, directory, size)
    elif now.kind == "loop":
        ext4.set_space(directory, host.sys, size)
    else:
        _resize_tmpfs(directory, size, _PATIENCE if forced else 0)


def _resize_tmpfs(directory, size, patience):
    """The kernel has no size below what is in use, and what was removed may be so for a moment."""
    end = time.monotonic() + patience
    while True:
        try:
            return syscalls.mount(None, directory, None, syscalls.MS_REMOUNT, "size=%d" % size)
        except OSError as exc:
            if exc.errno != errno.EINVAL or time.monotonic() >= end:
                raise
        time.sleep(0.02)


def unmount(host, directory):
    """Unmount what is mounted on a limited directory; what is in a file stays."""
    while True:
        now = find(host, directory, mountinfo.read(host.proc))
        if now is None or not now.ready or now.kind == "quota":
            break
        syscalls.umount(os.path.realpath(directory), syscalls.UMOUNT_NOFOLLOW | syscalls.MNT_DETACH)  # its overlay may be going just now
    host.drop("mounts")


def remove(host, directory):
    """Take the limit off, with all that was written where that is a file system of its own. The directory stays."""
    unmount(host, directory)
    _unlink(image_of(directory))
    if os.path.isdir(directory):
        _limit_quota.remove(host, directory)


def _unlink(path):
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def _too_small(directory, size, used):
    return BulkheadError("Cannot limit %s to %d bytes: %d are written. Give at least so many, or reset the sandbox." % (directory, size, used))


# -- plans

class Plans:
    """The plans of one limited directory. ``inside``: the directories that belong in it; ``alive``: a root that uses it is mounted."""

    def __init__(self, host, directory, spec, inside=(), alive=False, mapped=False):
        self.host, self.directory, self.spec, self.inside = host, directory, spec, inside
        self.alive, self.mapped = alive, mapped
        self.now = find(host, directory)

    def make(self, plan):
        """Steps so that the directory is there, limited as declared, and mounted. True: the root that uses it has to be made anew."""
        now, spec = self.now, self.spec
        self._sweep(plan)
        if spec.size is None:
            self._unlimited(plan)
            return False
        self.refuse_change()
        if now is None:
            return self._new(plan)
        size = rounded(now.kind, spec.size)
        if not now.ready:
            self._again(plan, size)
        elif now.size != size:
            self._resize(plan, size)
        return False

    def refuse_change(self):
        """Refuse a limit of another kind than the one that is there."""
        now, spec = self.now, self.spec
        if now is not None and (spec.limit not in (None, now.kind) or now.kind == "tmpfs" and spec.keep):
            raise BulkheadError("Cannot change storage.limit of %s from %s to %s: what was written is there. Commit the sandbox to an image if it "
                                "is to be kept, remove it with remove_data: true, and make it anew." % (
                                    self.directory, now.kind, spec.limit or "one that keeps it"))

    def _sweep(self, plan):
        new = image_of(self.directory) + ".new"
        if os.path.lexists(new):
            plan.add("remove %s, which a killed run has left" % new, lambda: _unlink(new))

    def _unlimited(self, plan):
        now = self.now
        if now is not None and now.kind != "quota":
            raise BulkheadError("Cannot take the limit off %s: it is a file system of its own (%s). Give a larger storage.size; or commit the sandbox to "
                                "an image, remove it with remove_data: true, and make it anew." % (self.directory, now.kind))
        if now is not None and now.size:
            plan.differ("size", now.size, None)
            plan.add("take the limit off %s" % self.directory, lambda: resize(self.host, self.directory, 0),
                     lambda: resize(self.host, self.directory, now.size))

    def _new(self, plan):
        host, directory, spec = self.host, self.directory, self.spec
        kind = choose(host, directory, spec, self.mapped)
        if kind != "quota" and _layers.has_data(directory):
            raise BulkheadError("Cannot limit %s to %d bytes: something was written there without a limit. Commit the sandbox to an image if it is to be "
                                "kept, remove it with remove_data: true, and make it anew." % (directory, spec.size))
        if self.alive and spec.on_mismatch != "recreate":
            raise BulkheadError("Cannot limit %s to %d bytes: its root has to be made anew for that, and its services restarted. Set "
                                "on_mismatch: recreate to do so." % (directory, spec.size))
        size = rounded(kind, spec.size)
        made = not os.path.isdir(directory)
        plan.differ("size", None, size)
        plan.differ("limit", None, kind)
        plan.add("limit %s to %d bytes (%s)" % (directory, size, kind), lambda: self._act_new(kind, size), lambda: self._undo_new(kind, made))
        self._promise(fresh=True)
        return self.alive

    def _act_new(self, kind, size):
        _layers.make(self.directory)
        make(self.host, self.directory, size, kind, self.spec.keep)
        self._fill()

    def _undo_new(self, kind, made):
        if kind != "quota" and _layers.has_data(self.directory):
            raise BulkheadError("there is data in it")
        remove(self.host, self.directory)
        if made:
            self._clear_place()

    def _again(self, plan, size):
        """What a reboot or an unmount by hand has taken away."""
        host, directory = self.host, self.directory
        fresh = not self.spec.keep and not loopdev.in_use(image_of(directory))  # nobody has it mounted: it is of before the reboot
        plan.differ("limit", "not mounted", "mounted")
        if fresh:
            plan.add("make the file system of %s anew" % directory, lambda: remove(host, directory))
            plan.add("limit %s to %d bytes (loop)" % (directory, size), lambda: self._act_new("loop", size), lambda: remove(host, directory))
        else:
            plan.add("mount %s on %s" % (image_of(directory), directory), lambda: self._act_again(size), lambda: unmount(host, directory))
        self._promise(fresh)

    def _act_again(self, size):
        _layers.make(self.directory)
        mount(self.host, self.directory, size, ours=self.directory not in self.inside)
        self._fill()

    def _fill(self):
        for path in self.inside:
            _layers.make(path)

    def _promise(self, fresh):
        for path in self.inside:
            self.host.promised.add(("directory", path))
            if fresh:
                self.host.promised.add(("emptied", path))

    def _resize(self, plan, size):
        host, directory, before = self.host, self.directory, self.now.size
        if before is not None and size < self.now.used and not _layers.leftovers(self.inside):  # those go before
            raise _too_small(directory, size, self.now.used)
        plan.differ("size", before, size)
        plan.add("limit %s to %d bytes" % (directory, size), lambda: resize(host, directory, size),
                 lambda: resize(host, directory, before or 0))

    def remove(self, plan, remove_data):
        """Steps after those that unmount the root: the mount goes, and with ``remove_data``, or where nothing was written, all of it."""
        host, directory, now = self.host, self.directory, self.now
        self._sweep(plan)
        if now is None:
            return
        if now.kind == "quota":
            project = _limit_quota.number(directory)
            plan.add("forget the limit of %s" % directory, lambda: self._forget(project))
            return
        gone = remove_data or now.kind == "tmpfs" or now.ready and not _layers.has_data(directory)
        if now.ready:
            plan.add("unmount %s" % directory, self._act_unmount, self._mount_back(now))
        if gone:
            plan.differ("limit", now.kind, None)
            plan.add("remove %s" % (image_of(directory) if now.kind == "loop" else directory), self._act_remove)

    def _mount_back(self, now):
        return (lambda: self._act_again(now.size)) if now.kind == "loop" else None

    def _act_unmount(self):
        unmount(self.host, self.directory)
        self._clear_place()

    def _act_remove(self):
        remove(self.host, self.directory)
        self._clear_place()

    def _clear_place(self):
        """The directory that the mount has covered, with what was there before the limit."""
        for path in [self.directory] if os.path.isdir(self.directory) and not _layers.has_data(self.directory) else []:
            _layers.discard(self.host, path)

    def _forget(self, project):
        if not os.path.isdir(self.directory):
            _limit_quota.release(self.host, os.path.dirname(self.directory), project)
