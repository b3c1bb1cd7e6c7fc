# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What only a pure cgroup2 tree has. Run by test_cgroup.py in `tests/alone --cgroup v2`."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from test_cgroup import NAME, read, removed, trees, twice  # pylint: disable=unused-import

NOBODY, OTHER = 65534, 65533


def as_user(uid, code):
    """The exit status of Python code run as a user."""
    return subprocess.run([sys.executable, "-ISc", "import os\nos.setgid(%d)\nos.setuid(%d)\n%s" % (uid, uid, code)],
                          stderr=subprocess.DEVNULL, check=False).returncode


def test_core_limits(twice, trees):
    made = twice(name=NAME, max_depth=3, max_descendants=20, pressure=False)
    assert made["actions"][1:] == ["set cgroup.max.descendants of " + NAME, "set cgroup.max.depth of " + NAME, "set cgroup.pressure of " + NAME]
    twice(name=NAME, max_depth="max", unified={"cgroup.max.descendants": "30"})
    assert read(trees.path(NAME, "unified") + "/cgroup.max.descendants") == "30\n"


def test_depth_is_kept_by_the_kernel(twice, trees):
    twice(name=NAME, max_depth=1)
    path = trees.path(NAME, "unified")
    os.makedirs(path + "/a")
    with pytest.raises(BlockingIOError):
        os.mkdir(path + "/a/b")


def test_controllers_that_are_not_there(refuse):
    assert "memory_max needs the controller memory" in refuse("cgroup", name=NAME, memory_max="1M")


def test_delegation_lets_that_user_and_nobody_else(twice, trees):
    twice(name=NAME, delegate={"user": NOBODY, "group": NOBODY})
    path = trees.path(NAME, "unified")
    assert as_user(NOBODY, "os.mkdir(%r)" % (path + "/mine")) == 0
    assert as_user(OTHER, "os.mkdir(%r)" % (path + "/theirs")) != 0
    assert as_user(NOBODY, "open(%r, 'w').write('5')" % (path + "/cgroup.max.depth")) != 0  # limits are not handed over
    with open("/sys/kernel/cgroup/delegate", encoding="ascii") as stream:
        given = stream.read().split()
    for file in os.listdir(path):
        if not os.path.isdir(path + "/" + file):
            assert (os.stat(path + "/" + file).st_uid == NOBODY) == (file in given), file
    twice(name=NAME, delegate={"user": "root", "group": "root"})
    assert as_user(NOBODY, "os.mkdir(%r)" % (path + "/more")) != 0


def test_threaded_has_no_way_back(twice, refuse):
    twice(name=NAME, type="domain")
    twice(name=NAME, type="threaded")
    assert "no way back" in refuse("cgroup", name=NAME, type="domain")


def test_leaves(twice, trees):
    twice(name=NAME)
    trees.make_leaf(NAME, "nginx")
    assert trees.join_files(NAME, "nginx") == [trees.path(NAME, "unified") + "/nginx/cgroup.procs"]
    twice(name=NAME, state="absent")
