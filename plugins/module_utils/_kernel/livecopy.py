# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An exact copy of a tree that is in use: most of it is copied ahead, and what has changed since once more while the tree stands still.

What has changed is told by inode and time of change (ctime), which no process can set: a file that was not changed since before the first
pass began was read whole in it. What processes have mapped is written back ahead, for the kernel notes a change by a mapping
when a page that is clean is written to. That holds for file systems with blocks that are known to us; a tmpfs writes nothing back. Of others
nothing is copied ahead.
"""

from __future__ import annotations

import os
import stat
import time

from . import beneath, manifest, syscalls, trees
from .copytree import Copy

_CLOCK = 5  # CLOCK_REALTIME_COARSE of clock_gettime(2): what times of change are taken from; no later one is before it
_KNOWN = (0xEF53, 0x58465342, 0x9123683E, 0xF2F52010)  # ext4, xfs, btrfs, f2fs (statfs(2))


def copy(source, target, still):
    """Make the empty directory ``target`` what the directory ``source`` (descriptors) is within ``still``, a context manager in which
    nobody writes to it."""
    made = LiveCopy(target)
    try:
        if syscalls.fs_magic(source) in _KNOWN:
            made.ahead(source)
        with still:
            made.rest(source)
        made.finish()
    finally:
        made.close()


class LiveCopy(Copy):
    """A copy in the making: ahead() while the source is in use, then rest() and finish()."""

    def __init__(self, root):
        super().__init__(root)
        self._noted = {}  # path: (inode, time of change) of what is copied; None: what may be half there
        self._kept = set()  # inodes with several names that are as they were copied ahead

    def ahead(self, source):
        """Copy what can be had of it."""
        began = time.clock_gettime_ns(_CLOCK)
        syscalls.syncfs(source)
        for entry in manifest.walk(source, moving=True):
            self._noted[entry.path] = None
            try:
                self.add(entry)
            except OSError as exc:
                if exc.errno not in manifest.GONE:
                    raise
            else:
                if entry.stat.st_ctime_ns < began:
                    self._noted[entry.path] = _known(entry.stat)

    def rest(self, source):
        """Bring the copy to what the source is now."""
        noted, self._links = self._noted, {}
        directories, self._directories = {each[0]: each for each in self._directories}, []
        for entry in manifest.walk(source):
            path, there = entry.path, entry.path in noted
            same = noted.pop(path, None) == _known(entry.stat)
            if same and entry.stat.st_nlink > 1 and not stat.S_ISDIR(entry.stat.st_mode):
                same = self._links.setdefault(entry.stat.st_ino, path) == path or entry.stat.st_ino in self._kept
                if same:
                    self._kept.add(entry.stat.st_ino)  # else another name of it has come, and is a file of its own already
            if stat.S_ISDIR(entry.stat.st_mode) and path in directories:
                self._directories.append(directories[path] if same else (path, entry.stat, self.xattrs(entry)))
            elif not same:
                if there:
                    self._remove(path)
                self.add(entry)
        for path in noted:  # what is there no more
            self._remove(path)

    def _remove(self, path):
        self.close()  # it may be the parent of what came last
        above, dummy, name = path.rpartition(b"/")
        try:
            fd = beneath.open_at(self.root, above)
        except OSError as exc:
            if exc.errno not in manifest.GONE:
                raise
            return  # with what it was in
        try:
            if stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
                trees.remove_tree(fd, os.fsdecode(name))
            else:
                os.unlink(name, dir_fd=fd)
        except FileNotFoundError:
            pass
        finally:
            os.close(fd)


def _known(found):
    return found.st_ino, found.st_ctime_ns
