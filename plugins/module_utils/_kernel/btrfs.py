# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The subvolumes of btrfs, and how much they may hold (quota groups), by the ioctls of linux/btrfs.h."""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from . import syscalls, trees

MAGIC = 0x9123683E
_CREATE, _SNAPSHOT, _DESTROY = 0x5000940E, 0x50009417, 0x5000940F
_GET_FLAGS, _SET_FLAGS = 0x80089419, 0x4008941A
_READ_ONLY = 2
_QUOTAS, _RESCAN_WAIT, _QGROUP, _LIMIT = 0xC0109428, 0x942E, 0x4010942A, 0x8030942B
_LOOKUP, _FILE_SYSTEM = 0xD0009412, 0x8400941F
_ENABLE, _REFERENCED, _NO_LIMIT = 1, 1, (1 << 64) - 1
_FIRST_INODE = 256  # of the directory at the top of a subvolume


def is_subvolume(path):
    """Is this the top directory of a subvolume?"""
    return os.lstat(path).st_ino == _FIRST_INODE and syscalls.fs_magic(path) == MAGIC


def create(parent, name):
    """Make an empty subvolume in an open directory."""
    _ask(parent, _CREATE, "q4088s", 0, os.fsencode(name))


def snapshot(source, parent, name):
    """Make a subvolume, which can be written, of what an open one holds now; subvolumes in it are empty directories there."""
    _ask(parent, _SNAPSHOT, "qQQ32x4040s", source, 0, 0, os.fsencode(name))


def make_read_only(fd):
    flags, = struct.unpack("Q", _ask(fd, _GET_FLAGS, "Q", 0))
    _ask(fd, _SET_FLAGS, "Q", flags | _READ_ONLY)


def held(fd, sys):
    """(bytes that an open subvolume holds, its limit or None), as its quota group counts; None where quotas are not on."""
    place = "%s/fs/btrfs/%s/qgroups/0_%d/" % (sys, _file_system(fd), _number(fd))
    try:
        found = [_read(place + name) for name in ("referenced", "limit_flags", "max_referenced")]
    except FileNotFoundError:
        return None
    return found[0], found[2] if found[1] & _REFERENCED else None


def _read(path):
    with open(path, encoding="ascii") as stream:
        return int(stream.read())


def count(fd):
    """Turn quotas on, on the file system of an open subvolume, and wait until all is counted."""
    _ask(fd, _QUOTAS, "QQ", _ENABLE, 0)
    fcntl.ioctl(fd, _RESCAN_WAIT)


def limit(fd, size):
    """Limit what an open subvolume may hold, in bytes, shared with others or not; None: no limit."""
    _ask(fd, _LIMIT, "6Q", 0, _REFERENCED, _NO_LIMIT if size is None else size, 0, 0, 0)


def _number(fd):
    data = _ask(fd, _LOOKUP, "QQ4080x", 0, _FIRST_INODE)
    return struct.unpack_from("Q", data)[0]


def _file_system(fd):
    word = bytes(_ask(fd, _FILE_SYSTEM, "1024x")[16:32]).hex()
    return "-".join((word[:8], word[8:12], word[12:16], word[16:20], word[20:]))


def remove(parent, name):
    """Remove the subvolume or directory ``name`` of an open directory, with the subvolumes that somebody has made in it."""
    try:
        _ask(parent, _DESTROY, "q4088s", 0, os.fsencode(name))
    except FileNotFoundError:
        return
    except OSError as exc:
        if exc.errno not in (errno.EINVAL, errno.ENOTEMPTY, errno.ENOTTY):  # no subvolume, or with others in it
            raise
        trees.remove_tree(parent, name)  # rmdir(2) removes an empty subvolume


def _ask(fd, number, form, *values):
    """ioctl(2) with a structure, as it is afterwards."""
    data = bytearray(struct.pack(form, *values))
    fcntl.ioctl(fd, number, data)
    return data
