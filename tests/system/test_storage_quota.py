# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Size limits by project quota, on the file systems that have them. Where this kernel has none, there is nothing to look at: on a test
host it has (tests/hosts/test_storage_limits.py)."""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess

import boxes
import drive
import pytest
from boxes import SIZE, TYPES, made, reboot, sandbox, sandboxes, started, told, writer

from module_utils._kernel import quota, syscalls

LIB = "/var/lib/bulkhead"
GET, SET = 0x801C581F, 0x401C5820
MAPPED = dict(types=TYPES + ["net", "user"], uid_map=["0 100000 65536"], gid_map=["0 100000 65536"])
QUOTA = dict(size=SIZE, limit="quota")


MAKE = {"ext4": ["mkfs.ext4", "-q", "-F", "-O", "quota,project"], "xfs": ["mkfs.xfs", "-q"]}
REFUSED = {"ext4": "quota exceeded", "xfs": "No space left on device"}  # what who is at the limit is told


@pytest.fixture(autouse=True, params=MAKE)
def place(request, leaves_nothing, tmp_path_factory):
    """Its kind; /var/lib/bulkhead lies on it."""
    if not shutil.which(MAKE[request.param][0]):
        pytest.skip("there is no " + MAKE[request.param][0])
    image = str(tmp_path_factory.mktemp("disk") / "image")
    with open(image, "wb") as stream:
        stream.truncate(512 << 20)
    subprocess.run([*MAKE[request.param], image], check=True)
    if subprocess.run(["mount", "--no-mtab", "-o", "loop,prjquota", image, LIB], capture_output=True, check=False).returncode:
        pytest.skip("this kernel has no quotas of projects")
    disk = os.stat(LIB).st_dev
    with boxes.place():
        yield request.param
    while os.stat(LIB).st_dev == disk:
        syscalls.umount(LIB)


def measured(name="box"):
    return drive.info("sandbox", names=[name], storage=True)["sandboxes"][0]["storage"]


def test_every_state(full_cycle):
    made()
    full_cycle("sandbox", sandboxes(sandbox(storage=QUOTA)), sandboxes(sandbox(state="absent")))
    assert not os.path.exists(LIB + "/uppers/box")


def test_a_writer_is_stopped_at_its_limit_and_nobody_notices(converge, refuse, place):
    made()
    boxes = [writer("box", storage=QUOTA), sandbox("beside", storage=QUOTA), sandbox("free")]
    converge("sandbox", **sandboxes(*boxes))
    said = told("box")
    assert REFUSED[place] in said["error"] and said["status"] == "1" and SIZE * 0.9 < said["size"] <= SIZE
    assert measured()["size"] == SIZE and measured("beside")["written"] < SIZE / 10
    for name in ("beside", "free"):
        with open("/proc/%s/root/srv/mine" % started(name), "wb") as stream:
            stream.write(b"x" * (SIZE // 2))
            os.fsync(stream.fileno())
    assert not converge("sandbox", **sandboxes(*boxes))["changed"]
    pid = started("box")
    for storage, size in ((dict(QUOTA, size=SIZE * 4), SIZE * 4), (dict(QUOTA, size=SIZE * 2), SIZE * 2), (dict(), None)):
        boxes[0] = writer("box", storage=storage)
        converge("sandbox", **sandboxes(*boxes))
        assert measured()["size"] == size and started("box") == pid
        assert not converge("sandbox", **sandboxes(*boxes))["changed"]
    boxes[0] = writer("box", storage=dict(QUOTA, size=SIZE // 2))
    assert "are written" in refuse("sandbox", **sandboxes(*boxes))


def test_it_is_there_after_a_reboot_and_with_what_was_written(converge):
    made()
    declared = sandboxes(sandbox(storage=QUOTA))
    converge("sandbox", **declared)
    with open("/proc/%s/root/srv/mine" % started("box"), "wb") as stream:
        stream.write(b"x" * (SIZE // 2))
    reboot()
    converge("sandbox", **declared)
    assert os.stat("/proc/%s/root/srv/mine" % started("box")).st_size == SIZE // 2 <= measured()["written"] and measured()["size"] == SIZE
    converge("snapshot", sandbox="box", name="one")
    os.unlink("/proc/%s/root/srv/mine" % started("box"))
    converge("snapshot", sandbox="box", name="one", state="restored")
    assert os.stat("/proc/%s/root/srv/mine" % started("box")).st_size == SIZE // 2 <= measured()["written"] and measured()["size"] == SIZE
    assert not converge("sandbox", **declared)["changed"]


def leave(pid, path):
    """What somebody gets who runs in the namespaces of a process, as root there, and takes a file out of its project."""
    def act():
        for kind in ("user", "mnt"):
            fd = os.open("/proc/%s/ns/%s" % (pid, kind), os.O_RDONLY)
            syscalls.setns(fd)
            os.close(fd)
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        fd = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
        words = bytearray(28)
        fcntl.ioctl(fd, GET, words)
        struct.pack_into("I", words, 12, 0)
        try:
            fcntl.ioctl(fd, SET, bytes(words))
        except OSError as exc:
            return exc.errno
        return 0
    return drive.isolated(act)


def test_in_a_user_namespace_it_is_what_is_chosen_and_nobody_leaves_it(converge):
    made()
    converge("sandbox", **sandboxes(sandbox(storage=dict(size=SIZE), namespaces=MAPPED), sandbox("plain", storage=dict(size=SIZE))))
    assert (measured()["limit"], measured("plain")["limit"]) == ("quota", "loop")
    assert leave(started("box"), "/srv/mine") == 22  # EINVAL
    assert measured()["size"] == SIZE


def test_where_quotas_are_not_on_any_more(converge, refuse):
    made()
    declared = sandboxes(sandbox(storage=QUOTA))
    converge("sandbox", **declared)
    fd = os.open(LIB + "/uppers/box", os.O_RDONLY)
    try:
        assert quota.project(fd)
        quota.set_limit(fd, quota.project(fd), 0, "")
        assert converge("sandbox", **declared)["actions"] == ["limit %s/uppers/box to %d bytes" % (LIB, SIZE)]
    finally:
        os.close(fd)
