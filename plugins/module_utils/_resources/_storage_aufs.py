# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Storage driver aufs, which few kernels have: refused by name where there is none."""

from __future__ import annotations

from ._storage_pieces import Pieces


class Aufs(Pieces):
    """See `_storage_pieces.Pieces`."""

    name = "aufs"

    def probe(self, host):
        return "this kernel has no aufs", "Name another driver"


PIECES = Aufs()
