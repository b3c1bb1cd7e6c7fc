# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The table of all operations: every act of every module."""

from __future__ import annotations

import cgroups  # noqa: F401
import namespaces  # noqa: F401
import overlays  # noqa: F401
import sandboxes  # noqa: F401
import services  # noqa: F401
from operation import TABLE

__all__ = ("TABLE",)
