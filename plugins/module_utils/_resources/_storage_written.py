# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the kernel counts for a tree that is limited as a whole, and how much of that is its base: the rest was written.

    PLACE/base      the bytes that were counted when the tree was made of its base and nothing was written yet
"""

from __future__ import annotations

from .._model.errors import BulkheadError
from . import _store
from ._storage_pieces import Pieces

_FILE = "/base"


class Counted(Pieces):
    """Pieces whose trees may be limited so."""

    def _held(self, host, place):
        """(bytes that were written, how many may be or None) in a tree that was made with a limit; None: it was not, or cannot be told now."""
        raise NotImplementedError

    def size(self, host, place):
        now = self._held(host, place)
        return now and now[1]

    def written(self, host, place):
        now = self._held(host, place)
        return now and now[0]


def base(place):
    """The bytes of the base of a tree that is limited; None: it is not."""
    try:
        with open(place + _FILE, encoding="ascii") as stream:
            return int(stream.read())
    except (FileNotFoundError, ValueError):
        return None


def set_base(place, count):
    _store.write(place + _FILE, b"%d" % count)


def plan_size(name, storage, now, used, resize, plan):
    """A step that changes the limit of what sandbox ``name`` may write; ``now`` and ``used`` in bytes, without the base."""
    if storage.size == now:
        return
    if storage.size is not None and storage.size < used:
        raise BulkheadError("Cannot limit what sandbox %s writes to %d bytes: %d are written. Give at least so many, or reset the sandbox." % (
            name, storage.size, used))
    plan.differ("size", now, storage.size)
    plan.add("limit what sandbox %s writes to %s" % (name, "no size" if storage.size is None else "%d bytes" % storage.size),
             lambda: resize(storage.size), lambda: resize(now))


def refuse_unlimited(name, size):
    """There is a root without a limit, and one is declared."""
    raise BulkheadError("Cannot limit what sandbox %s writes to %d bytes: its root was made without a limit. Commit the sandbox to an image if it is to "
                        "be kept, remove it with remove_data: true, and make it anew." % (name, size))
