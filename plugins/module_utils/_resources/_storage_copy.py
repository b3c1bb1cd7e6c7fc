# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Storage driver copy: a root is a copy of its base, file by file; where the file system can share blocks (xfs, btrfs) they are shared.

What may be written is limited by project quota or an ext4 of that size (`_limit.py`), which holds the base, too.
"""

from __future__ import annotations

import contextlib
import copy
import os

from .._kernel import copytree, livecopy, trees
from .._model.errors import BulkheadError
from . import _limit, _storage_written


class Copy(_storage_written.Counted):
    """See `_storage_pieces.Pieces`."""

    name = "copy"

    def plan_room(self, host, name, storage, plan):
        if storage.limit == "tmpfs":
            raise BulkheadError("Cannot make the root of sandbox %s with storage.limit tmpfs: the driver copy would have its layers in memory, too. "
                                "Name another limit, or the driver overlay." % name)
        if storage.size is not None:
            _limit.choose(host, host.lib + "/roots", _kept(storage), False)

    def snapshot(self, host, source, place, storage=None):
        self.create(host, place, storage)
        size, base, tree = storage and storage.size, _storage_written.base(source), place + "/tree"
        with self.opened(host, source) as one:
            if size is not None:
                kind = _limit.choose(host, tree, _kept(storage), False)
                _limit.make(host, tree, 2 * trees.disk_space(one) + size + _limit.SPARE, kind)
            with super().opened(host, place) as other:
                copytree.copy(one, other)
        if size is not None:
            base = base or _limit.measure(host, tree)[0]
            _limit.resize(host, tree, base + size, forced=True)
        if base is not None:
            _storage_written.set_base(place, base)

    def snapshot_in_use(self, host, source, place, still):
        self.create(host, place)
        base = _storage_written.base(source)
        with self.opened(host, source) as one, self.opened(host, place) as other:
            livecopy.copy(one, other, still)
        if base is not None:
            _storage_written.set_base(place, base)

    def is_ready(self, host, place):
        now = _limit.find(host, place + "/tree")
        return now is None or now.ready

    def plan_ready(self, host, name, place, storage, plan):
        base, tree = _storage_written.base(place), place + "/tree"
        if base is None:
            if storage.size is not None:
                _storage_written.refuse_unlimited(name, storage.size)
            return
        wanted = _kept(storage)
        wanted.size = None if storage.size is None else base + storage.size
        limits, now = _limit.Plans(host, tree, wanted, [tree], alive=True), self._held(host, place)
        if storage.size is None or now is None:
            limits.make(plan)
            return
        limits.refuse_change()
        if _limit.rounded(limits.now.kind, wanted.size) != now[1] + base:
            _storage_written.plan_size(name, storage, now[1], now[0], lambda size: _limit.resize(host, tree, base + size), plan)

    def mounts(self, host, place):
        top = host.mounts().top(os.path.realpath(place + "/tree"))
        return [top] if top is not None and _limit.find(host, place + "/tree") is not None else []

    @contextlib.contextmanager
    def opened(self, host, place):
        tree = place + "/tree"
        closed = not self.is_ready(host, place)
        if closed:
            _limit.mount(host, tree, None)
        try:
            with super().opened(host, place) as fd:
                yield fd
        finally:
            if closed:
                _limit.unmount(host, tree)

    def remove(self, host, place):
        if os.path.isdir(place + "/tree"):
            _limit.remove(host, place + "/tree")
        super().remove(host, place)

    def _held(self, host, place):
        """(bytes that were written, how many may be) in a tree that has a limit; None: it has none, or is not mounted now."""
        base, now = _storage_written.base(place), _limit.measure(host, place + "/tree")
        return None if base is None or now is None else (max(now[0] - base, 0), now[1] - base)


def _kept(storage):
    """The same, of a tree that is as it is when it is mounted again; where it is not to be kept, all of it is made anew."""
    kept = copy.copy(storage)
    kept.keep = True
    return kept


PIECES = Copy()
