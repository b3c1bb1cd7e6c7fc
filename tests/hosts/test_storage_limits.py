# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Size limits on hosts whose kernel has quotas of projects: the tests of tests/system, in a private host beside what systemd runs."""

from __future__ import annotations

import pytest
from test_storage import EXT2, SUITE, TOOLS

XFS = {"debian12": ("xfsprogs", "libinih1", "liburcu8"), "debian13": ("xfsprogs", "libinih1", "liburcu8t64")}


@pytest.fixture
def ready(fresh_host):
    fresh_host.install(EXT2[fresh_host.name], *TOOLS, *SUITE, *XFS[fresh_host.name])
    fresh_host.run("ldconfig")
    return fresh_host


@pytest.mark.proves("size limits")
def test_project_quotas_of_ext4_and_xfs(ready):
    assert ready.suite("tests/system/test_storage_quota.py") == 10


@pytest.mark.proves("size limits")
def test_a_file_system_in_a_file_and_memory(ready):
    assert ready.suite("tests/system/test_storage_limit.py -k 'writer or in_place or after_a_reboot'") >= 9
