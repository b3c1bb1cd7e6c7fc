# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Storage driver copy: a root is a copy of its base, file by file; where the file system can share blocks (xfs, btrfs) they are shared."""

from __future__ import annotations

import os

from .._kernel import copytree, trees
from ._storage_pieces import Pieces


class Copy(Pieces):
    """See `_storage_pieces.Pieces`."""

    name = "copy"

    def snapshot(self, host, source, place, storage=None):
        self.create(host, place, storage)
        one, other = (os.open(path + "/tree", trees.DIRECTORY) for path in (source, place))
        try:
            copytree.copy(one, other)
        finally:
            os.close(one)
            os.close(other)


PIECES = Copy()
