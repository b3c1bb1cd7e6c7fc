# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Makes ``ansible_collections.bulkhead.isolation`` this tree, in whatever folder it lies."""

from __future__ import annotations

import os
import sys
import types

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))


def claim(name, folders):
    """Make ``name`` a package whose parts are looked up in ``folders``, as a namespace package is."""
    package = types.ModuleType(name)
    package.__path__ = folders
    sys.modules[name] = package
    parent, dummy, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, package)


if "ansible_collections.bulkhead.isolation" not in sys.modules:
    claim("ansible_collections", [])
    claim("ansible_collections.bulkhead", [])
    claim("ansible_collections.bulkhead.isolation", [ROOT])
