# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""File systems that are in one file and only read: what the head of such a file says (fs/squashfs/squashfs_fs.h, fs/erofs/erofs_fs.h)."""

from __future__ import annotations

import struct

from .tarstream import ArchiveError

_BIGGEST = 16  # log2 of a block: no page of memory is larger
_AGAIN = "Make it anew, for Linux as it is here"


def entries(region, kind):
    """How many files there are in it at the least; ArchiveError where it is no file system of this kind, or not all of one."""
    count, size = {"squashfs": _squashfs, "erofs": _erofs}[kind](region)
    if size > region.size:
        raise ArchiveError("it is cut off: of %d bytes there are %d" % (size, region.size), advice="Bring all of it")
    return count


def _squashfs(region):
    head = region.read(0, 96)
    if len(head) < 96 or head[:4] != b"hsqs":
        raise ArchiveError("it is no squashfs", advice="Name a file that is one")
    count, (major, minor), (size,) = struct.unpack_from("<I", head, 4)[0], struct.unpack_from("<HH", head, 28), struct.unpack_from("<Q", head, 40)
    if major != 4:
        raise ArchiveError("it is a squashfs of version %d.%d, and Linux reads 4.0" % (major, minor), advice=_AGAIN)
    return count, size


def _erofs(region):
    head = region.read(1024, 128)
    if len(head) < 128 or head[:4] != b"\xe2\xe1\xf5\xe0":
        raise ArchiveError("it is no erofs", advice="Name a file that is one")
    (count,), (blocks,), (devices,) = struct.unpack_from("<Q", head, 16), struct.unpack_from("<I", head, 36), struct.unpack_from("<H", head, 86)
    if devices:
        raise ArchiveError("it is an erofs that keeps its data in %d other files" % devices, advice="Make one that is whole in itself")
    if head[12] > _BIGGEST:
        raise ArchiveError("it has blocks of 2^%d bytes" % head[12], advice=_AGAIN)
    return count, blocks << head[12]
