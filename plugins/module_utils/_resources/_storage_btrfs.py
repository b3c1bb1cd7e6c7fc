# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Storage driver btrfs: a root is a snapshot of its base, which is a subvolume; what may be written is limited by its quota group."""

from __future__ import annotations

import contextlib
import os

from .._kernel import btrfs, syscalls, trees
from . import _storage_written


class Btrfs(_storage_written.Counted):
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
        size, base = storage and storage.size, _storage_written.base(source)
        with _opened(source + "/tree") as one, _opened(place) as parent:
            if size is not None:
                btrfs.count(one)
            btrfs.snapshot(one, parent, "tree")
        if size is not None:
            with _opened(place + "/tree") as fd:
                base = base or btrfs.held(fd, host.sys)[0]
                btrfs.limit(fd, base + size)
        if base is not None:
            _storage_written.set_base(place, base)

    def plan_ready(self, host, name, place, storage, plan):
        now = self._held(host, place)
        if now is None and storage.size is not None:
            _storage_written.refuse_unlimited(name, storage.size)
        if now is not None:
            _storage_written.plan_size(name, storage, now[1], now[0], lambda size: self._limit(place, size), plan)

    @staticmethod
    def _limit(place, size):
        with _opened(place + "/tree") as fd:
            btrfs.count(fd)
            btrfs.limit(fd, None if size is None else _storage_written.base(place) + size)

    def _held(self, host, place):
        """(bytes that were written, how many may be or None) in a tree that was made with a limit; None: it was not."""
        base = _storage_written.base(place)
        if base is None:
            return None
        with _opened(place + "/tree") as fd:
            held, limit = btrfs.held(fd, host.sys) or (base, None)
        return max(held - base, 0), None if limit is None else limit - base

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
