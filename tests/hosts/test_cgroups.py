# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""cgroup where systemd is init: slices, and the delegated subtree. The tests themselves are in cgroups.py, which runs on the host."""

from __future__ import annotations

import os
import re

import pytest
import remote

with open(os.path.join(os.path.dirname(os.path.realpath(__file__)), "cgroups.py"), encoding="utf-8") as source:
    NAMES = re.findall("^def test_([a-z_]+)", source.read(), re.MULTILINE)


@pytest.mark.parametrize("name", NAMES)
def test_cgroups(host, name):
    host.run(["python3", remote.TREE + "/tests/hosts/cgroups.py", "test_" + name])
