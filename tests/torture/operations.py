# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The table of all operations: every act of every module."""

from __future__ import annotations

import importlib

from operation import TABLE

for noun in ("cgroups", "namespaces", "overlays", "services", "sandboxes", "several", "images", "mounted", "networks", "limits", "roots", "upgrades",
             "units"):
    importlib.import_module(noun)  # each puts its own into the table

__all__ = ("TABLE",)
