# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the upper of an overlay has changed against its layers, read from both without mounting anything.

An upper holds whole files, also those that were only opened for writing. So what is in it is compared, and what is the same in
all but the kernel's own notes is not told. The upper may be in use: what goes away while it is read is not told either.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from . import beneath, manifest
from .below import Below

_NOTES = ("trusted.overlay.", "user.overlay.")
_DEEP = 200  # directories: whoever writes an upper may nest more of them than we have room to follow


def between(upper, lowers):
    """{added, modified, deleted}: lists of paths below /, sorted; ``upper`` and ``lowers`` (the top one first) are directories.

    ``modified``: another type, mode, owner, content, target, device number or extended attribute, or of what is no directory another
    time. ``deleted`` names a directory, not what was in it; ``added`` names both.
    """
    with contextlib.ExitStack() as opened:
        def descriptor(path):
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            opened.callback(os.close, fd)
            return fd

        reader = _Reader(Below([descriptor(path) for path in lowers]))
        reader.directory(descriptor(upper), b"", True)
    return {key: sorted("/" + os.fsdecode(path) for path in paths) for key, paths in reader.found.items()}


class _Reader:
    def __init__(self, below):
        self.below = below
        self.found = {"added": [], "modified": [], "deleted": []}

    def directory(self, fd, path, merged):
        """One directory of the upper; ``merged``: what the layers have there shows through."""
        if path.count(b"/") >= _DEEP:
            raise OSError(errno.ENAMETOOLONG, "its directories are nested more than %d deep" % _DEEP, path)
        for name in sorted(map(os.fsencode, os.listdir(fd))):
            with contextlib.suppress(FileNotFoundError):  # it went away
                self._entry(fd, name, path + b"/" + name if path else name, merged)

    def _entry(self, parent, name, path, merged):
        now = os.stat(name, dir_fd=parent, follow_symlinks=False)
        before = self.below.entry(path) if merged else None
        if stat.S_ISCHR(now.st_mode) and not now.st_rdev:
            self.found["deleted"] += [path] if before else []
            return
        xattrs = manifest.xattrs(parent, name) if not stat.S_ISSOCK(now.st_mode) else {}
        if before is None:
            self.found["added"].append(path)
        elif self._differs(parent, name, path, now, xattrs, *before):
            self.found["modified"].append(path)
        if stat.S_ISDIR(now.st_mode):
            self._inside(parent, name, path, xattrs, before)

    def _inside(self, parent, name, path, xattrs, before):
        both = before is not None and stat.S_ISDIR(before[0].st_mode)
        opaque = any(xattrs.get(note + "opaque") == b"y" for note in _NOTES)
        fd = os.open(name, os.O_RDONLY | beneath.DIRECTORY, dir_fd=parent)
        try:
            self.directory(fd, path, both)
            if both and opaque:
                self._hidden(fd, path)
        finally:
            os.close(fd)

    def _hidden(self, fd, path):
        """What the layers have in a directory that shows nothing of theirs, and that is not in it again."""
        there, known = set(map(os.fsencode, os.listdir(fd))), set()
        for tree in self.below.directory(path)[1]:
            lower = beneath.open_at(tree, path)
            try:
                known.update(map(os.fsencode, os.listdir(lower)))
            finally:
                os.close(lower)
        self.found["deleted"] += [each for each in (path + b"/" + name for name in known - there) if self.below.entry(each)]

    def _differs(self, parent, name, path, now, xattrs, before, tree):
        if (now.st_mode, now.st_uid, now.st_gid, now.st_rdev) != (before.st_mode, before.st_uid, before.st_gid, before.st_rdev):
            return True
        above, unused, last = path.rpartition(b"/")
        lower = beneath.open_at(tree, above)
        try:
            if _own(xattrs) != _own(manifest.xattrs(lower, last)):
                return True
            if stat.S_ISDIR(now.st_mode):
                return False
            if now.st_mtime_ns != before.st_mtime_ns:
                return True
            if stat.S_ISLNK(now.st_mode):
                return os.readlink(name, dir_fd=parent) != os.readlink(last, dir_fd=lower)
            return stat.S_ISREG(now.st_mode) and (now.st_size != before.st_size or not _same(parent, name, lower, last))
        finally:
            os.close(lower)


def _own(xattrs):
    return {key: value for key, value in xattrs.items() if not key.startswith(_NOTES)}


def _same(*places):
    """Have two files (descriptor of the directory, name, twice) one content?"""
    with contextlib.ExitStack() as opened:
        streams = [opened.enter_context(open(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent), "rb"))
                   for parent, name in zip(places[::2], places[1::2])]
        return manifest.same_content(*streams)
