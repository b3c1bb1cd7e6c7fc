# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one thing in which drivers whose root is a plain tree differ: how a tree comes to be, and how it is copied.

A **place** is a directory of root's alone that holds `tree` and what the pieces keep beside it; it is renamed as a whole, and what is
mounted on `tree` goes along.
"""

from __future__ import annotations

import contextlib
import os

from .._kernel import trees


class Pieces:
    """The interface, with what is the same where a tree is a directory and no more. All but probe() and plan_…() are acts.

    ``storage`` is the StorageSpec of a root, for a base without a size; None for saved copies.
    """

    name = None

    def probe(self, host):
        """None where this host can, else (reason, advice)."""
        return None

    def plan_room(self, host, name, storage, plan):
        """Refuse what stands against making a root of sandbox ``name``; add the steps that it needs ahead."""

    def create(self, host, place, storage=None):
        """Make place/tree, empty and ready to be written."""
        os.mkdir(place + "/tree", 0o755)

    def snapshot(self, host, source, place, storage=None):
        """Make place/tree what source/tree is, ready to be written; what is written to one is not seen in the other."""
        raise NotImplementedError

    def snapshot_in_use(self, host, source, place, still):
        """The same of what is in use, as it is within ``still``, a context manager in which nobody writes to it."""
        with still:
            self.snapshot(host, source, place)

    def seal(self, host, place):
        """It is a base, or a saved copy: nobody writes to it any more."""

    def is_ready(self, host, place):
        """Is place/tree what it should be, as it is? After a reboot it may have to be mounted."""
        return True

    def plan_ready(self, host, name, place, storage, plan):
        """Steps that make the root of sandbox ``name`` in this place ready, and its limit what is declared."""

    def refuse_stopped(self, host, name, place):
        """An error where place/tree is mounted and answers nothing any more."""

    def mounts(self, host, place):
        """The mounts of ours in this place."""
        return []

    @contextlib.contextmanager
    def opened(self, host, place):
        """A descriptor of place/tree, which is made ready for that as long."""
        fd = os.open(place + "/tree", trees.DIRECTORY)
        try:
            yield fd
        finally:
            os.close(fd)

    def remove(self, host, place):
        """Remove place/tree and what the pieces keep beside it, however much of it there is."""
        fd = os.open(place, trees.DIRECTORY)
        try:
            trees.remove_tree(fd, "tree")
        finally:
            os.close(fd)

    def size(self, host, place):
        """The limit of what may be written there, in bytes; None: none."""
        return None

    def written(self, host, place):
        """The bytes that were written there, where the kernel counts them; None: where it does not."""
        return None

    def measured(self, host):
        """What else there is to tell of what roots lie in."""
        return {}
