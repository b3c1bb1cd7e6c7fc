# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An exact copy of a tree, by descriptors, so that nothing that lies in it leads outside.

Content, holes, owners, modes, times, hard links, devices (whiteouts of an overlay are such), fifos and all extended attributes are
as they were. Sockets are left out: they mean nothing without the process that made them. Where the file system can (FICLONE: btrfs,
xfs), content is shared until one of both writes.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat

from . import beneath, manifest, syscalls
from .tarstream import shown

FICLONE = 0x40049409  # ioctl_ficlone(2); where the number is another one, files are copied
_NEVER = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.ENOSYS, errno.EPERM)  # what has no chance for the next file either
_CHUNK = 1 << 20
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OF_THE_DEVICE = "btrfs."  # how the file system is to store a file
_LABEL = "security.selinux"  # a mount may have one label for all that is on it


def copy(source, target):
    """Make the empty directory ``target`` what the directory ``source`` is (descriptors; they may be on two file systems).

    Who writes the source has to be stopped: a file that changes meanwhile is an error (ESTALE). What was copied before an error stays.
    """
    made = Copy(target)
    try:
        for entry in manifest.walk(source):
            made.add(entry)
        made.finish()
    finally:
        made.close()


class Copy:
    """A tree in the making: add() its entries, parents first, then finish()."""

    def __init__(self, root):
        self.root = root
        self._here, self._fd = None, -1  # the last parent
        self._links = {}  # inode of the source: path of its first name
        self._directories = []  # (path, stat, extended attributes), parents first
        self._clones, self._ranges = True, hasattr(os, "copy_file_range")

    def add(self, entry):
        """Make one entry of the source."""
        found, kind = entry.stat, stat.S_IFMT(entry.stat.st_mode)
        if kind == stat.S_IFDIR:
            xattrs = self.xattrs(entry)  # first: where it is gone, nothing is made
            if entry.path:
                os.mkdir(entry.name, 0o700, dir_fd=self._parent(entry.path))
            self._directories.append((entry.path, found, xattrs))
            return
        if kind == stat.S_IFSOCK:
            return
        parent = self._parent(entry.path)
        if found.st_nlink > 1:
            if self._links.setdefault(found.st_ino, entry.path) != entry.path:
                self._link(self._links[found.st_ino], entry.name, parent)
                return
        if kind == stat.S_IFREG:
            self._file(entry, parent)
        elif kind == stat.S_IFLNK:
            os.symlink(entry.target(), entry.name, dir_fd=parent)
            self._name(entry, parent)
        else:
            os.mknod(entry.name, kind | 0o600, found.st_rdev, dir_fd=parent)
            self._name(entry, parent)

    def finish(self):
        """Directories get their owner, mode and time when nothing more is made in them."""
        for path, found, xattrs in reversed(self._directories):
            fd = beneath.open_at(self.root, path)
            try:
                _finish(fd, found, xattrs, path)
            finally:
                os.close(fd)

    def close(self):
        if self._fd >= 0:
            os.close(self._fd)
        self._here, self._fd = None, -1

    def _parent(self, path):
        """The descriptor of the directory that a path is in."""
        above = path.rpartition(b"/")[0]
        if above != self._here:
            fd = beneath.open_at(self.root, above)
            self.close()
            self._here, self._fd = above, fd
        return self._fd

    def _link(self, first, name, parent):
        above, dummy, old = first.rpartition(b"/")
        fd = beneath.open_at(self.root, above)
        try:
            os.link(old, name, src_dir_fd=fd, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(fd)

    def _file(self, entry, parent):
        source = entry.open()
        try:
            fd = os.open(entry.name, _NEW, 0o600, dir_fd=parent)
            try:
                self._content(source, fd, entry.stat.st_size)
                now = os.fstat(source)
                if (now.st_size, now.st_mtime_ns) != (entry.stat.st_size, entry.stat.st_mtime_ns):
                    raise OSError(errno.ESTALE, "it was changed while it was copied", entry.path)
                _finish(fd, entry.stat, self.xattrs(entry), entry.path)
            finally:
                os.close(fd)
        finally:
            os.close(source)

    def _content(self, source, fd, size):
        if self._clones and size:
            try:
                fcntl.ioctl(fd, FICLONE, source)
                return
            except OSError as exc:
                if exc.errno in _NEVER:
                    self._clones = False
                elif exc.errno != errno.EINVAL:  # this file cannot be shared
                    raise
        at = 0
        while at < size:
            try:
                at = os.lseek(source, at, os.SEEK_DATA)
                end = min(os.lseek(source, at, os.SEEK_HOLE), size)
            except OSError as exc:
                if exc.errno != errno.ENXIO:
                    raise
                break  # a hole up to its end, or it has become shorter
            while at < end:
                count = self._piece(source, fd, at, end - at)
                if not count:
                    return  # it has become shorter
                at += count
        os.ftruncate(fd, size)

    def _piece(self, source, fd, at, left):
        """Copy up to ``left`` bytes from the place ``at``; how many it were."""
        if self._ranges:
            try:
                return os.copy_file_range(source, fd, left, at, at)
            except OSError as exc:
                if exc.errno not in _NEVER + (errno.EINVAL,):
                    raise
                self._ranges = False
        return os.pwrite(fd, os.pread(source, min(left, _CHUNK), at), at)

    @staticmethod
    def xattrs(entry):
        """The extended attributes that a copy gets."""
        return {key: value for key, value in manifest.xattrs(entry.parent, entry.name, left_out=()).items() if not key.startswith(_OF_THE_DEVICE)}

    def _name(self, entry, parent):
        """Owner, mode, extended attributes and times of what is not opened."""
        found, name = entry.stat, entry.name
        os.chown(name, found.st_uid, found.st_gid, dir_fd=parent, follow_symlinks=False)
        for key, value in self.xattrs(entry).items():
            _set(b"/proc/self/fd/%d/%s" % (parent, name), key, value, entry.path)
        if not stat.S_ISLNK(found.st_mode):
            fd = os.open(name, syscalls.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
            try:
                os.chmod("/proc/self/fd/%d" % fd, stat.S_IMODE(found.st_mode))  # the descriptor itself, whatever has its name now
            finally:
                os.close(fd)
        os.utime(name, ns=(found.st_atime_ns, found.st_mtime_ns), dir_fd=parent, follow_symlinks=False)


def _finish(fd, found, xattrs, path):
    """Owner before mode and capabilities, which it would take away, and the times last."""
    os.fchown(fd, found.st_uid, found.st_gid)
    for key, value in xattrs.items():
        _set(fd, key, value, path)
    os.fchmod(fd, stat.S_IMODE(found.st_mode))
    os.utime(fd, ns=(found.st_atime_ns, found.st_mtime_ns))


def _set(place, key, value, path):
    try:
        os.setxattr(place, key, value, follow_symlinks=isinstance(place, int))
    except OSError as exc:
        if exc.errno != errno.EOPNOTSUPP:
            raise
        if key != _LABEL:
            raise OSError(exc.errno, "the file system of the copy cannot hold the extended attribute %s" % shown(os.fsencode(key)), path or b".") from exc
