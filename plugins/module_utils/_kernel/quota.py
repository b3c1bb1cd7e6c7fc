# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Project quotas (quotactl(2), ext4(5), xfs(5)): what is in a directory counts for the project of that, and a project has a limit.

A file gets the project of the directory that it is made in, and is not moved to a directory of another. The owner of a file may
give it another project, unless he is in a user namespace.
"""

from __future__ import annotations

import errno
import fcntl
import struct

from . import syscalls

_GET_ATTRIBUTES, _SET_ATTRIBUTES = 0x801C581F, 0x401C5820  # FS_IOC_FSGETXATTR, FS_IOC_FSSETXATTR
_ATTRIBUTES = "=5I8x"  # struct fsxattr: flags, extent size, extents, project, extent size for copy on write
_INHERIT = 0x200  # FS_XFLAG_PROJINHERIT
_GET, _SET, _PROJECT = 0x800007, 0x800008, 2
_QUOTA = "=8QI4x"  # struct if_dqblk: hard and soft limit in KiB, bytes in use, the same of inodes, two times, what is valid
_LIMITS_OF_SPACE = 1
OPTIONS = ("prjquota", "pquota")  # in a mount table: limits of projects hold there


def project(directory):
    """The project that is given to what is made in an open directory; 0: none."""
    buffer = bytearray(struct.calcsize(_ATTRIBUTES))
    try:
        fcntl.ioctl(directory, _GET_ATTRIBUTES, buffer)
    except OSError as exc:
        if exc.errno in (errno.ENOTTY, errno.EOPNOTSUPP):
            return 0
        raise
    found = struct.unpack(_ATTRIBUTES, buffer)
    return found[3] if found[0] & _INHERIT else 0


def set_project(directory, number):
    """What is made in an open directory from now on is of this project; 0: of none."""
    buffer = bytearray(struct.calcsize(_ATTRIBUTES))
    fcntl.ioctl(directory, _GET_ATTRIBUTES, buffer)
    flags, extent, extents, unused, copied = struct.unpack(_ATTRIBUTES, buffer)
    flags = flags | _INHERIT if number else flags & ~_INHERIT
    fcntl.ioctl(directory, _SET_ATTRIBUTES, struct.pack(_ATTRIBUTES, flags, extent, extents, number, copied))


def read(directory, number, device):
    """(limit in bytes, bytes in use, inodes in use) of a project on the file system of an open directory; a limit of 0 is none.

    ``device``: the block device of that file system, for kernels before 5.14. ESRCH: quotas are not on.
    """
    buffer = bytearray(struct.calcsize(_QUOTA))
    try:
        syscalls.quotactl(directory, device, _GET, _PROJECT, number, buffer)
    except OSError as exc:
        if exc.errno != errno.ENOENT:  # xfs: nothing is known of this project
            raise
    found = struct.unpack(_QUOTA, buffer)
    return found[0] << 10, found[2], found[5]


def set_limit(directory, number, size, device):
    """Limit what a project may use, in bytes; 0: no limit."""
    kib = -(-size >> 10)
    buffer = bytearray(struct.pack(_QUOTA, kib, 0, 0, 0, 0, 0, 0, 0, _LIMITS_OF_SPACE))
    syscalls.quotactl(directory, device, _SET, _PROJECT, number, buffer)


def works(directory, device):
    """Whether quotas of projects can be asked for on the file system of an open directory."""
    try:
        read(directory, 0, device)
    except OSError:
        return False
    return True
