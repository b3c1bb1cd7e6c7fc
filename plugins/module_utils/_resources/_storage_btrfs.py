# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Storage driver btrfs: a root is a snapshot of its base, which is a subvolume."""

from __future__ import annotations

import contextlib
import os

from .._kernel import btrfs, syscalls, trees
from ._storage_pieces import Pieces


class Btrfs(Pieces):
    """See `_storage_pieces.Pieces`."""

    name = "btrfs"

    def probe(self, host):
        place = host.lib + "/roots"
        while not os.path.isdir(place):
            place = os.path.dirname(place)
        if syscalls.fs_magic(place) != btrfs.MAGIC:
            return "%s/roots is not on a btrfs" % host.lib, "Mount one there, or on %s, or name another driver" % host.lib
        return None

    def create(self, host, place, storage=None):
        with _opened(place) as parent:
            btrfs.create(parent, "tree")

    def snapshot(self, host, source, place, storage=None):
        with _opened(source + "/tree") as one, _opened(place) as parent:
            btrfs.snapshot(one, parent, "tree")

    def seal(self, host, place):
        with _opened(place + "/tree") as fd:
            btrfs.make_read_only(fd)

    def remove(self, host, place):
        with _opened(place) as parent:
            btrfs.remove(parent, "tree")


@contextlib.contextmanager
def _opened(path):
    fd = os.open(path, trees.DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


PIECES = Btrfs()
