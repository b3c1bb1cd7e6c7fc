# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The tests of what stands on the kernel, again on other kinds of hosts: mounts shared, newer system calls missing, cgroup2 alone.

Each kind is a private host in this one. `open_tree` brings with it move_mount and mount_setattr: then the kernel is one before
5.2, which cannot prepare roots, and the tests of that are refused by name.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

HERE = os.path.dirname(os.path.realpath(__file__))
ALONE = os.path.join(os.path.dirname(HERE), "alone")
FILES = ("trees", "namespace", "overlay", "root", "cgroup")
KINDS = {
    "shared": (["--root", "shared"], FILES),
    "without-openat2": (["--block", "openat2"], FILES),
    "without-fsopen": (["--block", "fsopen"], FILES),
    "without-statmount": (["--block", "statmount"], FILES),
    "before-5.2": (["--block", "openat2,fsopen,open_tree,mount_setattr,statmount"], FILES),
    "cgroup2": (["--cgroup", "v2"], FILES[:-1]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kind(kind):
    options, files = KINDS[kind]
    argv = [ALONE, *options, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short"]
    ended = subprocess.run(argv + ["%s/test_%s.py" % (HERE, name) for name in files], capture_output=True, text=True, timeout=900, check=False)
    assert ended.returncode == 0, ended.stdout[-6000:] + ended.stderr[-2000:]
    assert int(re.search(r"(\d+) passed", ended.stdout).group(1)) > 80
