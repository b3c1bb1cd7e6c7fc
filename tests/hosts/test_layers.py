# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Layers that are mounted, on a host where systemd is init: out of its sight, by modules of the kernel that are loaded when they are needed."""

from __future__ import annotations

import os
import sys

import remote

sys.path.insert(1, os.path.join(remote.ROOT, "tests", "system"))

import filesystems  # noqa: E402  pylint: disable=wrong-import-position

TREE = "/srv/bulkhead-tests"
MOUNTED = "grep -cE ' (squashfs|erofs) ' /proc/1/mountinfo; nsenter --mount=/run/bulkhead/engine grep -cE ' (squashfs|erofs) ' /proc/self/mountinfo"
LOOPS = "losetup --noheadings --list --output BACK-FILE,RO,AUTOCLEAR"


def test_mounted_layers_and_a_reboot(fresh_host, tmp_path):
    """An overlay that everybody sees, over layers that only the engine has mounted; all of it is there after a reboot, and gone with its images."""
    host, layers = fresh_host, {}
    host.python("import drive; from module_utils._program import host; drive.engine.converge(drive.new_host(), host, {})")
    host.run("mkdir %s" % TREE)
    for kind in ("squashfs", "erofs"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / kind).write_text("of " + kind)
        with open(filesystems.make(kind, str(tmp_path / "made"), str(tmp_path / kind)), "rb") as stream:
            host.run("cat >%s/%s" % (TREE, kind), stream.read())
        said, did, quiet = host.converges("image", [True, False, True], **{"name": kind, kind: "%s/%s" % (TREE, kind)})
        assert "error" not in did and said["actions"] == did["actions"] and said["diff"] == did["diff"] and not quiet["changed"], (said, did, quiet)
        layers[kind] = host.run("ls -d /var/lib/bulkhead/layers/%s/tree" % host.run("sha256sum <%s/%s" % (TREE, kind)).split()[0]).strip()
    overlay = dict(path=TREE + "/mnt", lower=sorted(layers.values()))
    answer = host.converge("overlay", **overlay)
    assert "error" not in answer, answer
    for again in range(2):
        assert host.run("cat %s/mnt/squashfs %s/mnt/erofs" % (TREE, TREE)) == "of squashfs" + "of erofs"
        assert host.attempt(MOUNTED)[1].split() == ["0", "2"]  # none that pid 1 sees
        assert [line.split()[1:] for line in host.run(LOOPS).splitlines()] == [["1", "1"]] * 2
        assert host.attempt("systemctl list-units --all --plain --no-legend --type=mount | grep layers")[1] == ""
        if not again:
            host.reboot()
    assert not host.converge("image", check=True, name="squashfs")["changed"] and not host.converge("overlay", check=True, **overlay)["changed"]
    for noun, options in (("overlay", dict(path=TREE + "/mnt", state="absent")), ("image", dict(name="squashfs", state="absent"))):
        answer = host.converge(noun, **options)
        assert answer.get("changed") and not answer.get("warnings"), answer
    assert host.attempt(MOUNTED)[1].split() == ["0", "1"]
    host.python("import drive; from module_utils._program import host; drive.engine.converge(drive.new_host(), host, {'state': 'absent'})")
    assert host.run(LOOPS) == "" and host.run("ls /var/lib/bulkhead/layers").split() == [layers["erofs"].split("/")[-2]]
