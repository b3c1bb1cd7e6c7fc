# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The mount table: octal escapes, optional fields, and which of several mounts on a path is the one that a walk reaches."""

from __future__ import annotations

import pytest
from ansible_collections.bulkhead.isolation.plugins.module_utils._kernel import mountinfo
from hypothesis import given, settings
from hypothesis import strategies as st

TABLE = """\
20 1 254:0 / / rw,relatime - ext4 /dev/vda rw
21 20 0:21 / /proc rw,relatime shared:5 master:3 propagate_from:2 - proc proc rw
22 20 0:30 / /mnt rw - tmpfs a rw
23 22 0:31 /sub /mnt/in\\040side ro,nosuid - overlay over\\134lay rw,lowerdir=/a\\054b:/c
24 20 0:32 / /mnt rw - tmpfs b rw
25 24 0:33 / /mnt/x rw unbindable - tmpfs c rw
26 22 0:34 / /mnt rw - tmpfs d rw
"""


def test_fields():
    table = mountinfo.Table(TABLE)
    proc = table.top("/proc")
    assert (proc.id, proc.parent, proc.device, proc.fstype) == (21, 20, "0:21", "proc")
    assert proc.propagation == ["shared:5", "master:3", "propagate_from:2"] and proc.shared
    inside = table.by_id[23]
    assert (inside.target, inside.root, inside.source) == ("/mnt/in side", "/sub", "over\\lay")
    assert inside.options == ["ro", "nosuid"]
    assert inside.super_options == "rw,lowerdir=/a\\054b:/c"  # escaped: commas are split before


def test_the_top_is_what_a_walk_reaches_and_not_the_last_line():
    table = mountinfo.Table(TABLE)
    # 24 covers 22 on the root; 26 lies on 22 and is hidden with it.
    assert table.top("/mnt").id == 24
    assert [mount.id for mount in table.at("/mnt")] == [22, 24, 26]
    assert table.top("/mnt/x").id == 25
    assert table.top("/mnt/in side") is None
    assert table.top("/nowhere") is None
    assert table.holder("/mnt/x/deep/er").id == 25
    assert table.holder("/mnt/in side").id == 24
    assert table.holder("/etc").id == 20
    assert [mount.id for mount in table.below("/mnt/x")] == [25]


def test_what_lies_in_a_directory():
    """By whatever name the directory is known, and where the mount is covered; a directory beside it does not count."""
    table = mountinfo.Table("""\
20 1 254:0 / / rw - ext4 /dev/vda rw
21 20 0:21 / /srv/upper/in rw - tmpfs a rw
22 20 254:0 /srv /other rw - ext4 /dev/vda rw
23 22 0:23 / /other/upper/deep/er rw - tmpfs b rw
24 20 0:24 / /srv/upper/in rw - tmpfs c rw
25 22 0:25 / /other/upper2 rw - tmpfs d rw
26 24 0:26 /sub /srv/upper/in/more rw - tmpfs e rw
""")
    for name in ("/srv/upper", "/other/upper"):
        assert [mount.id for mount in table.inside(name)] == [21, 23, 24]
    assert [mount.id for mount in table.inside("/srv/upper/deep")] == [23]
    assert [mount.id for mount in table.inside("/srv/upper2")] == [25]  # known as /other/upper2, too
    assert [mount.id for mount in table.inside("/srv/upper/in")] == [24, 26]
    assert table.inside("/srv/upper/none") == [] and table.inside("/srv/upper/in/more/none") == []


@pytest.mark.parametrize("escaped, plain", [
    ("a", "a"), ("a\\040b", "a b"), ("\\134", "\\"), ("\\011\\012", "\t\n"), ("\\9", "\\9"), ("\\", "\\"), ("\\04", "\\04")])
def test_unescape(escaped, plain):
    assert mountinfo.unescape(escaped) == plain


@settings(max_examples=300, deadline=None)
@given(path=st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"])))
def test_every_path_survives_the_kernel_s_escapes(path):
    escaped = "".join("\\%03o" % ord(char) if char in " \t\n\\#" else char for char in path)
    assert mountinfo.unescape(escaped) == path


def test_this_process_s_own_table():
    table = mountinfo.read()
    assert table.top("/") is not None
    assert table.holder("/proc/self").fstype == "proc"
