# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A layer as a tar archive, as an OCI image has it: the same tree is always the same bytes.

What an overlay has as device 0:0 and as trusted.overlay.opaque becomes `.wh.NAME` and `.wh..wh..opq`.
"""

from __future__ import annotations

import os
import stat

from . import manifest
from .tarstream import BLOCK

_TYPES = {stat.S_IFREG: b"0", stat.S_IFLNK: b"2", stat.S_IFCHR: b"3", stat.S_IFBLK: b"4", stat.S_IFDIR: b"5", stat.S_IFIFO: b"6"}


def archive(root):
    """The bytes, in chunks, of the tree ``root`` (descriptor)."""
    first = {}
    for entry in manifest.walk(root):
        found, kind, name = entry.stat, _TYPES.get(stat.S_IFMT(entry.stat.st_mode)), entry.path or b"."
        if kind is None:
            continue  # a socket
        if kind == b"3" and found.st_rdev == 0:
            parent, slash, last = name.rpartition(b"/")
            yield _header(parent + slash + b".wh." + last, b"0", 0, found)
            continue
        link, size = b"", 0
        if kind == b"2":
            link = os.fsencode(entry.target())
        elif kind != b"5" and found.st_nlink > 1 and first.setdefault(found.st_ino, name) != name:
            kind, link = b"1", first[found.st_ino]
        elif kind == b"0":
            size = found.st_size
        opaque = entry.xattrs.pop(manifest.OPAQUE, None) is not None
        yield _header(name, kind, size, found, link, entry.xattrs)
        if size:
            left = size
            for chunk in entry.chunks():
                left -= len(chunk)
                yield chunk
            if left:
                raise OSError(5, "it was changed while it was read", entry.path)
            yield bytes(-size % BLOCK)
        if opaque:
            yield _header((entry.path + b"/" if entry.path else b"") + b".wh..wh..opq", b"0", 0, found)
    yield bytes(2 * BLOCK)


def file_header(name, size):
    """The header of a file of root's alone; it is of one length, whatever the size. Not for long names."""
    text = _record(b"size", b"%020d" % size)
    return _block(b"PaxHeaders/" + name.encode(), b"x", len(text), 0o600) + text + bytes(-len(text) % BLOCK) + _block(
        name.encode(), b"0", size % 8 ** 11, 0o600)


def _header(name, kind, size, found, link=b"", xattrs=None):
    """The header of an entry, behind one of what does not fit into it."""
    seconds, fraction = divmod(found.st_mtime_ns, 10 ** 9)
    more = {}
    for key, value, width in ((b"path", name, 100), (b"linkpath", link, 100)):
        if len(value) > width:
            more[key] = value
    for key, value, most in ((b"uid", found.st_uid, 8 ** 7), (b"gid", found.st_gid, 8 ** 7), (b"size", size, 8 ** 11)):
        if value >= most:
            more[key] = b"%d" % value
    if fraction or not 0 <= seconds < 8 ** 11:
        more[b"mtime"] = b"-%d.%09d" % divmod(-found.st_mtime_ns, 10 ** 9) if seconds < 0 else b"%d.%09d" % (seconds, fraction)
    more.update((b"SCHILY.xattr." + os.fsencode(key), value) for key, value in (xattrs or {}).items())
    before = b""
    if more:
        text = b"".join(_record(key, more[key]) for key in sorted(more))
        before = _block(b"PaxHeaders/" + name[-80:], b"x", len(text), 0o644) + text + bytes(-len(text) % BLOCK)
    device = (os.major(found.st_rdev), os.minor(found.st_rdev)) if kind in b"34" else (0, 0)
    return before + _block(name[:100], kind, size % 8 ** 11, stat.S_IMODE(found.st_mode), found.st_uid % 8 ** 7, found.st_gid % 8 ** 7,
                           seconds if 0 <= seconds < 8 ** 11 else 0, link[:100], device)


def _record(key, value):
    rest = len(key) + len(value) + 3
    length = rest + len(b"%d" % rest)
    if len(b"%d" % length) + rest != length:
        length += 1
    return b"%d %s=%s\n" % (length, key, value)


def _block(name, kind, size, mode, uid=0, gid=0, mtime=0, link=b"", device=(0, 0)):
    text = b"%s%07o\0%07o\0%07o\0%011o\0%011o\0        %s%s%s%s%07o\0%07o\0" % (
        name.ljust(100, b"\0"), mode, uid, gid, size, mtime, kind, link.ljust(100, b"\0"), b"ustar\x0000", bytes(64), *device)
    text = text.ljust(BLOCK, b"\0")
    return b"%s%06o\0 %s" % (text[:148], sum(text), text[156:])
