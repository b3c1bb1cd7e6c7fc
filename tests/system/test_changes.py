# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an upper has changed is told as a process inside would see it: each way of changing, against what the mount shows."""

from __future__ import annotations

import os
import subprocess

import drive
import pytest

from module_utils._kernel import syscalls
from module_utils._model.errors import BulkheadError

MAKE = """
mkdir -p base/etc/apt base/dir/sub base/gone/deep base/link.d app/etc app/dir
echo one >base/etc/one; echo two >base/etc/two; echo three >base/etc/three; echo app >app/etc/app; echo sub >base/dir/sub/file
echo base >base/dir/base; echo app >app/dir/app; echo deep >base/gone/deep/file; ln -s one base/etc/link; mkfifo base/etc/fifo
echo list >base/etc/apt/list; echo a >base/file; echo c >base/copied; mknod base/etc/null c 1 3; ln -s dir base/todir; echo h >base/hidden
mknod app/hidden c 0 0
touch -d 2020-01-01 base/etc/* base/dir/* app/etc/app app/dir/app base/file base/copied
"""


@pytest.fixture
def over(tmp_path, converge):
    """over(script): what the info module tells after a script was run in the overlay."""
    top = str(tmp_path)
    syscalls.mount("test", top, "tmpfs", 0, "mode=755")
    subprocess.run(["sh", "-ec", MAKE], cwd=top, check=True)
    declared = dict(path=top + "/mnt", lower=[top + "/app", top + "/base"], upper=top + "/upper", work=top + "/work")
    converge("overlay", **declared)

    def act(script):
        subprocess.run(["sh", "-ec", script], cwd=top + "/mnt", check=True)
        return drive.info("overlay", path=top + "/mnt", changes=True)["overlays"][0]["changes"]

    yield act
    converge("overlay", path=top + "/mnt", state="absent", remove_data=True)
    syscalls.umount(top, syscalls.MNT_DETACH)


def found(added=(), modified=(), deleted=()):
    return {"added": list(added), "modified": list(modified), "deleted": list(deleted)}


CASES = [
    ("true", found()),
    ("echo x >etc/new; mkdir -p deep/er; ln -s x etc/newlink", found(["/deep", "/deep/er", "/etc/new", "/etc/newlink"])),
    ("echo more >>etc/one", found(modified=["/etc/one"])),
    ("printf 'ONE\\n' >etc/one; touch -d 2020-01-01 etc/one", found(modified=["/etc/one"])),  # of the same size and time
    (": >>copied", found()),  # copied up by being opened, and the same
    ("touch -d 2021-01-01 file", found(modified=["/file"])),
    ("chmod 600 etc/one; chown 5 etc/app", found(modified=["/etc/app", "/etc/one"])),
    ("python3 -c 'import os; os.setxattr(\"etc/two\", \"user.x\", b\"y\")'", found(modified=["/etc/two"])),
    ("chmod 700 dir", found(modified=["/dir"])),
    ("ln -sfn two etc/link", found(modified=["/etc/link"])),
    ("rm etc/one etc/app", found(deleted=["/etc/app", "/etc/one"])),
    ("rm -r gone", found(deleted=["/gone"])),
    ("rm etc/one; mkdir etc/one; echo x >etc/one/x", found(["/etc/one/x"], ["/etc/one"])),
    ("rm -r dir; mkdir dir; echo new >dir/new; cp -a ../base/dir/base dir/base", found(["/dir/new"], deleted=["/dir/app", "/dir/sub"])),
    ("rm etc/one; cp -a ../base/etc/one etc/one", found()),
    ("rm -r dir; echo file >dir", found(modified=["/dir"])),
    ("rm todir; mkdir todir; echo x >todir/x", found(["/todir/x"], ["/todir"])),
    ("echo again >hidden", found(["/hidden"])),  # the upper layer had taken it away
    ("rm etc/null etc/fifo; mknod etc/null c 1 5; mkfifo etc/fifo; touch -d 2020-01-01 etc/null etc/fifo", found(modified=["/etc/null"])),
    ("echo x >'etc/a b'; echo x >\"$(printf 'etc/\\377')\"", found(["/etc/a b", "/etc/\udcff"])),
]


@pytest.mark.parametrize("script, told", CASES)
def test_each_way_of_changing(over, script, told):
    assert over(script) == told


def test_what_is_nested_too_deep_is_told(over):
    """By an error, not by a traceback: a process inside may nest as deep as it likes."""
    with pytest.raises(BulkheadError, match="nested more than 200 deep"):
        over("mkdir -p %s" % "/".join(["d"] * 1000))


def test_an_overlay_without_an_upper_has_none(tmp_path, converge):
    for name in ("one", "two"):
        os.mkdir(str(tmp_path / name))
    path = str(tmp_path / "mnt")
    converge("overlay", path=path, lower=[str(tmp_path / "one"), str(tmp_path / "two")], read_only=True)
    assert drive.info("overlay", path=path, changes=True)["overlays"][0]["changes"] is None
    assert "changes" not in drive.info("overlay", path=path)["overlays"][0]
    converge("overlay", path=path, state="absent")
