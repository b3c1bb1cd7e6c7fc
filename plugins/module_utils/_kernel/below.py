# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What layers show together, looked at without mounting them: by descriptors, and no link is followed."""

from __future__ import annotations

import os
import stat

from . import beneath, manifest, syscalls
from .tarstream import ArchiveError

_PATH = syscalls.O_PATH | beneath.DIRECTORY


class Below:
    """``trees``: descriptors of the layers, the top one first. Paths are bytes, plain parts, without a slash in front."""

    def __init__(self, trees=()):
        self.trees, self._seen = list(trees), {}

    def directory(self, path):
        """((stat, xattrs) or None, the trees that have part in it) of a directory."""
        if path not in self._seen:
            above, dummy, name = path.rpartition(b"/")
            seen, shares = None, []
            for tree in self.directory(above)[1] if path else self.trees:
                try:
                    fd = beneath.open_at(tree, above, _PATH)
                except FileNotFoundError:
                    continue
                try:
                    found, xattrs = os.stat(name or b".", dir_fd=fd, follow_symlinks=False), manifest.xattrs(fd, name or b".")
                except FileNotFoundError:
                    continue
                finally:
                    os.close(fd)
                if stat.S_ISLNK(found.st_mode) and not shares:
                    raise ArchiveError("is a directory here, and a symbolic link in a layer below; no entry says which it is to be", path)
                if not stat.S_ISDIR(found.st_mode):
                    break
                seen = seen or (found, xattrs)
                shares.append(tree)
                if manifest.OPAQUE in xattrs:
                    break
            self._seen[path] = seen, shares
        return self._seen[path]

    def entry(self, path):
        """(stat, the tree that it is in) of whatever has this name, None when nothing has; its parent is a directory or not there."""
        above, dummy, name = path.rpartition(b"/")
        for tree in self.directory(above)[1]:
            try:
                fd = beneath.open_at(tree, above, _PATH)
            except FileNotFoundError:
                continue
            try:
                found = os.stat(name or b".", dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:
                continue
            finally:
                os.close(fd)
            return None if stat.S_ISCHR(found.st_mode) and not found.st_rdev else (found, tree)
        return None

    def read(self, path, most):
        """The content of a regular file, None when there is none or it is larger than so many bytes."""
        found = self.entry(path)
        if found is None or not stat.S_ISREG(found[0].st_mode) or found[0].st_size > most:
            return None
        fd = beneath.open_at(found[1], path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as stream:
            return stream.read(most)
