# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every source file says under which licence it is, and no source file grows into two ideas."""

from __future__ import annotations

import os

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
SOURCES = ("plugins", "roles", "playbooks", "extensions", "tests", "scripts", "meta")
ENTRY = "plugins/module_utils/_program/enter.py"  # one file by its nature: it is run alone, and imports nothing of ours


def sources():
    for top in SOURCES:
        for folder, folders, names in os.walk(os.path.join(ROOT, top)):
            folders[:] = [name for name in folders if name not in ("output", "__pycache__")]
            for name in names:
                path = os.path.join(folder, name)
                if name.endswith((".py", ".yml", ".yaml")) and os.path.getsize(path):
                    yield os.path.relpath(path, ROOT)


@pytest.mark.parametrize("path", sorted(sources()))
def test_header(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as source:
        assert "SPDX-License-Identifier: GPL-3.0-or-later" in source.read(1000)


@pytest.mark.parametrize("path", sorted(path for path in sources() if "module_utils" in path and path != ENTRY))
def test_length(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as source:
        assert len(source.readlines()) < 400
