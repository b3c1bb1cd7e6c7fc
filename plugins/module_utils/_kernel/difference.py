# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What has become different in a tree that began as a copy of another, in the form of a layer over that.

Both are read by descriptors, and no link is followed. A snapshot or a clone of a file has its inode number and its time of change
until it is changed; where these differ, as in a copy, everything is compared, up to the content. The tree may be in use: what goes
away while it is read is left out.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from . import beneath, manifest

_SAME, _TIMES, _DIFFERS = 0, 1, 2  # _TIMES: of a directory its time alone, of a file the number of its names
_WHITEOUT = os.stat_result((stat.S_IFCHR, 0, 0, 1, 0, 0, 0, 0, 0, 0), dict.fromkeys(("st_atime_ns", "st_mtime_ns", "st_rdev", "st_blocks"), 0))


def between(base, tree):
    """{added, modified, deleted}: sorted paths, as `changes.between` tells them of an overlay; ``base`` and ``tree`` are descriptors."""
    found = {"added": [], "modified": [], "deleted": []}
    for entry, before, how in _compare(base, tree, _by_content):
        if entry.stat is _WHITEOUT:
            found["deleted"].append(entry.path)
        elif not before:
            found["added"].append(entry.path)
        elif how == _DIFFERS and entry.path:
            found["modified"].append(entry.path)
    return {key: sorted("/" + os.fsdecode(path) for path in paths) for key, paths in found.items()}


def written(base, tree):
    """The Entries of a layer that makes the base what the tree is, parents first; removed names are whiteouts.

    Above each stand the directories that it is in, as in the upper of an overlay. Their descriptors are good until the next one.
    """
    above = []  # directories that are open, and are told of when something in them is
    for entry, dummy, how in _compare(base, tree, _by_content):
        while above and not entry.path.startswith(above[-1].path + b"/" if above[-1].path else b""):
            above.pop()
        if how != _SAME:
            yield from above
            above = []
            yield entry
        elif stat.S_ISDIR(entry.stat.st_mode):
            above.append(entry)


def space(base, tree):
    """The bytes on the disk of files that are new, or differ by size, time or attributes."""
    seen, blocks = set(), 0
    for entry, dummy, how in _compare(base, tree, _by_stat):
        if how != _SAME and entry.stat.st_ino not in seen:
            seen.add(entry.stat.st_ino)
            blocks += entry.stat.st_blocks
    return blocks * 512


def has_data(base, tree):
    """Is anything different but mount points: directories, and empty files without permissions?"""
    return any(how == _DIFFERS and not stat.S_ISDIR(entry.stat.st_mode) and not (
        stat.S_ISREG(entry.stat.st_mode) and not entry.stat.st_size and not stat.S_IMODE(entry.stat.st_mode))
        for entry, dummy, how in _compare(base, tree, _by_stat))


def _compare(base, tree, differ):
    """(Entry of the tree, is there one of the same name in the base?, how they differ): all of the tree, and whiteouts."""
    looked = _Base(base)
    try:
        for entry in manifest.walk(tree, moving=True):
            if stat.S_ISSOCK(entry.stat.st_mode):
                continue  # it means nothing without the process that made it
            before = looked.entry(entry.path)
            try:
                how = differ(before, entry) if before else _DIFFERS
                both = before and stat.S_ISDIR(before.stat.st_mode) and stat.S_ISDIR(entry.stat.st_mode)
                gone = looked.names(entry.path) - _names(entry) if both else ()
            except OSError as exc:
                if exc.errno not in manifest.GONE:
                    raise
                if exc.errno != errno.ESTALE:
                    continue
                how, gone = _DIFFERS, ()  # something else has its name since it was looked at
            yield entry, bool(before), how
            for name in sorted(gone):
                whiteout = manifest.Entry(entry.path + b"/" + name if entry.path else name, -1, name, _WHITEOUT, {})
                yield whiteout, True, _DIFFERS
    finally:
        looked.close()


class _Base:
    """The Entries of the base by their paths; the directory of the last one is held open."""

    def __init__(self, root):
        self._root, self._path, self._fd = root, None, None

    def entry(self, path):
        above, dummy, name = path.rpartition(b"/")
        fd = self._open(above)
        try:
            return None if fd is None else manifest.Entry(path, fd, name or b".", os.stat(name or b".", dir_fd=fd, follow_symlinks=False))
        except FileNotFoundError:
            return None

    def names(self, path):
        fd = beneath.open_at(self._root, path)
        try:
            return set(map(os.fsencode, os.listdir(fd)))
        finally:
            os.close(fd)

    def _open(self, path):
        if path != self._path:
            self.close()
            self._path = path
            try:
                self._fd = beneath.open_at(self._root, path)
            except OSError as exc:
                if exc.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    raise
        return self._fd

    def close(self):
        if self._fd is not None:
            os.close(self._fd)
        self._path = self._fd = None


def _names(entry):
    fd = os.open(entry.name, os.O_RDONLY | beneath.DIRECTORY, dir_fd=entry.parent)
    try:
        return set(map(os.fsencode, os.listdir(fd)))
    finally:
        os.close(fd)


def _by_stat(before, now):
    """How two entries of one name differ, by what costs no reading of content."""
    old, new = before.stat, now.stat
    if (old.st_ino, old.st_ctime_ns) == (new.st_ino, new.st_ctime_ns):
        return _SAME
    if (old.st_mode, old.st_uid, old.st_gid, old.st_rdev) != (new.st_mode, new.st_uid, new.st_gid, new.st_rdev) or before.xattrs != now.xattrs:
        return _DIFFERS
    if stat.S_ISDIR(new.st_mode):
        return _SAME if old.st_mtime_ns == new.st_mtime_ns else _TIMES
    if old.st_mtime_ns != new.st_mtime_ns or old.st_size != new.st_size or stat.S_ISLNK(new.st_mode) and before.target() != now.target():
        return _DIFFERS
    return _SAME if old.st_nlink == new.st_nlink else _TIMES


def _by_content(before, now):
    how = _by_stat(before, now)
    if how == _DIFFERS or not stat.S_ISREG(now.stat.st_mode) or (before.stat.st_ino, before.stat.st_ctime_ns) == (now.stat.st_ino, now.stat.st_ctime_ns):
        return how
    return how if _same(before, now) else _DIFFERS


def _same(*entries):
    with contextlib.ExitStack() as opened:
        streams = [opened.enter_context(open(each.open(), "rb")) for each in entries]
        return manifest.same_content(*streams)
