# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Loop devices: a file as a block device, that lets go of its file with its last user (loop(4), Linux 5.8)."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct

from . import syscalls

KINDS = ("squashfs", "erofs")  # file systems that are made to be read from a file
CONTROL, MAJOR = "/dev/loop-control", 7
_CONTROL_NUMBER = 10, 237
_GET_FREE, _CONFIGURE, _GET_STATUS, _SET_CAPACITY = 0x4C82, 0x4C0A, 0x4C05, 0x4C07
_READ_ONLY, _AUTOCLEAR = 1, 4
_INFO, _FLAGS_AT = 232, 52  # size of struct loop_info64, and where in it lo_flags is
_ATTEMPTS = 64  # somebody else may take the device that was free


def there():
    """Has this host loop devices? The node is there before the module is loaded, which an open of it brings about."""
    try:
        found = os.stat(CONTROL)
    except OSError:
        return False
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == os.makedev(*_CONTROL_NUMBER)


def mount(path, target, fstype, flags, data=None, written=False):
    """Mount the file system that is in the file ``path``, to be ``written`` or only read.

    With the mount the device goes, and with a process that is killed before.
    """
    with attached(path, written) as device:
        syscalls.mount(device, target, fstype, flags | (0 if written else syscalls.MS_RDONLY), data)


def in_use(path):
    """Has any device the file ``path`` behind it, be it mounted or not?"""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        found = _find(file, "/".join(path.split("/")[-2:]))
    finally:
        os.close(file)
    if found:
        os.close(found[0])
    return found is not None


def is_of(device, path):
    """Is a device MAJOR:MINOR, as a mount table shows it, a loop device of the file ``path``?"""
    major, dummy, minor = device.partition(":")
    if major != str(MAJOR):
        return False
    try:
        found, fd = os.stat(path), os.open("/dev/loop" + minor, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return _file(fd) == (found.st_dev, found.st_ino)
    finally:
        os.close(fd)


def fit(path):
    """Tell the device of a file that this has got another size."""
    with attached(path, True) as device:
        fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, _SET_CAPACITY, 0)
        finally:
            os.close(fd)


@contextlib.contextmanager
def attached(path, written):
    """The path of a device with the file behind it: the one that has it, so that what is mounted twice is one file system, or a new one."""
    file = os.open(path, (os.O_RDWR if written else os.O_RDONLY) | os.O_CLOEXEC)
    try:
        fd, device = _find(file, "/".join(path.split("/")[-2:])) or _attach(file, written)
        try:
            yield device
        finally:
            os.close(fd)
    finally:
        os.close(file)


def _attach(file, written):
    control = os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        for attempt in range(_ATTEMPTS):
            device = "/dev/loop%d" % fcntl.ioctl(control, _GET_FREE)
            fd = os.open(device, (os.O_RDWR if written else os.O_RDONLY) | os.O_CLOEXEC)
            info = bytearray(_INFO)
            struct.pack_into("I", info, _FLAGS_AT, _AUTOCLEAR | (0 if written else _READ_ONLY))
            try:
                fcntl.ioctl(fd, _CONFIGURE, struct.pack("II", file, 0) + bytes(info) + bytes(64))
                return fd, device
            except OSError as exc:
                os.close(fd)
                if exc.errno != errno.EBUSY or attempt == _ATTEMPTS - 1:
                    raise
    finally:
        os.close(control)


def _find(file, word):
    """(descriptor, path) of a device with this file behind it; ``word`` is in the file's path. As long as it is open, it has that file."""
    wanted = os.fstat(file)
    for name in os.listdir("/sys/block"):
        try:
            with open("/sys/block/%s/loop/backing_file" % name, encoding="utf-8", errors="replace") as stream:
                if word not in stream.read():
                    continue
            fd = os.open("/dev/" + name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            continue
        if _file(fd) == (wanted.st_dev, wanted.st_ino):
            return fd, "/dev/" + name
        os.close(fd)
    return None


def _file(fd):
    """(st_dev, st_ino) of the file behind an open loop device; None where it has none."""
    info = bytearray(_INFO)
    try:
        fcntl.ioctl(fd, _GET_STATUS, info)
    except OSError:
        return None
    return struct.unpack_from("QQ", info)
