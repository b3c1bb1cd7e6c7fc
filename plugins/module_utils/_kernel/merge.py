# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Layers laid over a tree: what an overlay of them would show, made of files.

A layer is in the form that overlayfs takes: a whiteout (character device 0:0) removes a name, a directory with the extended attribute
trusted.overlay.opaque=y hides what was in it. Everything is done by descriptors, and no link is followed.
"""

from __future__ import annotations

import errno
import os
import stat

from . import manifest, trees
from .copytree import Copy

_NOTES = "trusted.overlay."
_FORM = tuple(_NOTES + word for word in ("redirect", "metacopy"))  # what makes an entry mean something of another layer's


def apply(layer, tree):
    """Lay the directory ``layer`` over the directory ``tree`` (descriptors). OSError; what was made before it stays."""
    lay(manifest.walk(layer), tree)


def lay(entries, tree):
    """The same of Entries, parents first, as `manifest.walk` gives them of a layer and `difference.written` of what was changed."""
    made = _Over(tree)
    try:
        for entry in entries:
            made.add(entry)
        made.finish()
    finally:
        made.close()


class _Over(Copy):
    """Makes room for each entry before it is copied."""

    def add(self, entry):
        kind = stat.S_IFMT(entry.stat.st_mode)
        if any(key in entry.xattrs for key in _FORM):
            raise OSError(errno.EINVAL, "it is a redirect or metacopy, which means nothing without its overlay", entry.path)
        gone = kind == stat.S_IFCHR and not entry.stat.st_rdev
        if kind == stat.S_IFDIR and self._merges(entry):
            return
        if entry.path:
            self._remove(entry)
        if not gone:
            super().add(entry)

    def _merges(self, entry):
        """A directory over a directory: it gets the upper one's attributes, and keeps what is in it unless that is opaque."""
        if not entry.path:
            fd = os.dup(self.root)
        else:
            try:
                fd = os.open(entry.name, trees.DIRECTORY, dir_fd=self._parent(entry.path))
            except (FileNotFoundError, NotADirectoryError):
                return False
            except OSError as exc:
                if exc.errno != errno.ELOOP:  # a link
                    raise
                return False
        try:
            if entry.xattrs.get(manifest.OPAQUE) == b"y":
                trees.empty_tree(fd)
            wanted = self.xattrs(entry)
            for key in os.listxattr(fd):
                if key not in wanted and not key.startswith(("security.selinux", "btrfs.")):
                    os.removexattr(fd, key)
        finally:
            os.close(fd)
        self._directories.append((entry.path, entry.stat, wanted))
        return True

    def _remove(self, entry):
        parent = self._parent(entry.path)
        try:
            os.unlink(entry.name, dir_fd=parent)
        except FileNotFoundError:
            pass
        except IsADirectoryError:
            trees.remove_tree(parent, entry.name)

    @staticmethod
    def xattrs(entry):
        return {key: value for key, value in Copy.xattrs(entry).items() if not key.startswith(_NOTES)}
