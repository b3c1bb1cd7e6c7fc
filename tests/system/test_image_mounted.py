# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Layers that are a squashfs or an erofs: mounted and never unpacked, there again after a reboot, gone with their image."""

from __future__ import annotations

import os
import shutil
import subprocess

import archives
import drive
import filesystems
import jail
import pytest
from filesystems import LIB, loops

from module_utils._engine import engine
from module_utils._engine.plan import Plan, run_plan
from module_utils._kernel import syscalls
from module_utils._model.errors import Problems
from module_utils._program import host as program
from module_utils._program import whole
from module_utils._supervisor import entry as service_entry

BASE = "/run/mounted"
FLAGS = syscalls.MS_RDONLY | syscalls.MS_NOSUID | syscalls.MS_NODEV
KINDS = ("squashfs", "erofs")


@pytest.fixture(autouse=True)
def place(leaves_nothing):
    os.makedirs(BASE)
    yield
    for path in drive.resource("overlay").names(drive.new_host()):
        drive.converge("overlay", dict(path=path, state="absent", remove_data=True))
    jail.clear()
    service_entry.clear(drive.new_host())
    for found in drive.info("image")["images"]:
        drive.converge("image", dict(name=found["name"], state="absent"))
    drive.converge("image", dict(prune=True))
    shutil.rmtree(BASE)
    assert not loops()


def tree(*more):
    """A small root file system, with all that such a file system can hold."""
    top = BASE + "/tree"
    archives.write(top + "/etc/passwd", b"root")
    archives.write(top + "/data", os.urandom(200000))
    os.makedirs(top + "/srv/deep", 0o1777)
    os.link(top + "/data", top + "/srv/same")
    os.symlink("etc/passwd", top + "/link")
    os.mkfifo(top + "/pipe")
    os.setxattr(top + "/etc", "user.colour", b"blue\0green")
    os.chown(top + "/etc/passwd", 5, 6)
    os.utime(top + "/etc/passwd", ns=(0, 7 * 10 ** 9))
    with open("/bin/busybox", "rb") as stream:
        os.chmod(archives.write(top + "/bin/busybox", stream.read()), 0o755)
    os.symlink("busybox", top + "/bin/sleep")
    for name in ("proc", "sys", "dev") + more:
        os.mkdir(top + "/" + name)
    return top


def made(kind, *options):
    return filesystems.make(kind, "%s/it.%s" % (BASE, kind), tree(), *options)


def layer(name="it"):
    return drive.info("image", name=name)["images"][0]["layers"][0]


def mounted(path):
    """[(options, type, source)] of what is mounted at a path."""
    found = []
    for line in jail.text("/proc/self/mountinfo").splitlines():
        left, right = line.split(" - ")
        if left.split()[4] == path:
            found.append((left.split()[5],) + tuple(right.split()[:2]))
    return found


def stored():
    return os.listdir(LIB + "/layers") if os.path.isdir(LIB + "/layers") else []


def reboot():
    """Take away what a reboot takes."""
    plan, problems = Plan(), Problems()
    program.plan(drive.new_host(), program.parse(dict(state="absent", clear=True), "", problems), plan)
    run_plan(plan)


@pytest.mark.parametrize("kind", KINDS)
def test_mounted_and_not_unpacked(converge, full_cycle, refuse, kind):
    path = made(kind)
    options = {"name": "it", kind: path}
    full_cycle("image", options, dict(name="it", state="absent"))
    assert not stored() and not loops()
    converge("image", **options)
    found, digest = layer(), subprocess.run(["sha256sum", path], capture_output=True, check=True).stdout.decode().split()[0]
    assert found["digest"] == "sha256:" + digest and found["filesystem"] == kind and found["mounted"] is True and found["size"] == os.path.getsize(path)
    assert sorted(os.listdir(os.path.dirname(found["path"]))) == ["file", "layer.json", "tree"]
    (flags, fstype, source), = mounted(found["path"])
    assert {"ro", "nosuid", "nodev"} <= set(flags.split(",")) and fstype == kind
    assert loops() == {os.path.basename(source): 5}  # read-only, and ended by its last user
    os.mkdir(BASE + "/empty")
    converge("overlay", path=BASE + "/mnt", lower=[found["path"], BASE + "/empty"])
    top, original = BASE + "/mnt/", BASE + "/tree/"
    names = sorted(os.path.relpath(os.path.join(where, name), original) for where, folders, files in os.walk(original) for name in folders + files)
    assert names == sorted(os.path.relpath(os.path.join(where, name), top) for where, folders, files in os.walk(top) for name in folders + files)
    for name in names:
        stats = [os.lstat(each + name) for each in (original, top)]
        assert len({(stat.st_mode, stat.st_uid, stat.st_gid, int(stat.st_mtime)) for stat in stats}) == 1, name
    assert open(top + "srv/same", "rb").read() == open(original + "data", "rb").read() and os.getxattr(top + "etc", "user.colour") == b"blue\0green"
    assert len(names) + 1 == found["entries"] and not converge("image", verify=True, **options)["changed"]
    shutil.copy(path, BASE + "/other")  # the same file elsewhere is the same layer
    converge("image", **{"name": "other", kind: BASE + "/other"})
    assert layer("other")["shared_by"] == ["it"] and len(loops()) == 1
    assert "Set allow" not in refuse("image", **{"name": "it", kind: path, "digest": "sha256:" + "0" * 64})


@pytest.mark.parametrize("kind", KINDS)
def test_a_mount_that_was_taken_away(converge, refuse, kind):
    options = {"name": "it", kind: made(kind)}
    converge("image", **options)
    path = layer()["path"]
    for again in (dict(options), dict(name="it")):
        syscalls.umount(path)
        assert layer()["mounted"] is False
        answers = [converge("image", check=check, **again) for check in (True, False)]
        assert answers[0]["diff"] == answers[1]["diff"] and [each["actions"] for each in answers] == [["mount layer " + layer()["digest"][:19]]] * 2
        assert layer()["mounted"] and not converge("image", **again)["changed"]
    # Beneath an overlay that lives: it is the same file system again, and who declares the overlay mends the mount, too.
    overlay = dict(path=BASE + "/mnt", lower=[path], upper=BASE + "/upper", work=BASE + "/work")
    converge("overlay", **overlay)
    syscalls.umount(path)
    assert len(loops()) == 1 and not os.listdir(path)
    assert converge("overlay", check=True, **overlay)["actions"] == converge("overlay", **overlay)["actions"] == ["mount layer " + layer()["digest"][:19]]
    assert not converge("overlay", **overlay)["changed"] and len(loops()) == 1 and os.listdir(path)
    syscalls.mount(None, path, None, syscalls.MS_REMOUNT | syscalls.MS_BIND | syscalls.MS_RDONLY)
    assert converge("image", **options)["diff"]["before"] == {"layer " + layer()["digest"][:19]: "mounted without nosuid, nodev"}
    assert {"ro", "nosuid", "nodev"} <= set(mounted(path)[0][0].split(","))
    syscalls.mount("x", path, "tmpfs", 0)
    assert "something else is mounted on it" in refuse("image", **options) and "Unmount that" in refuse("overlay", **overlay)
    syscalls.umount(path)


@pytest.mark.parametrize("kind", KINDS)
def test_sandbox_reboot_and_commit(converge, kind):
    converge("image", **{"name": "it", kind: made(kind), "config": dict(command=["/bin/sleep", "1000"])})
    sandbox = dict(sandboxes=[dict(name="box", image="it", namespaces=dict(types=["net", "uts", "ipc", "mnt", "pid"]), services=[dict(name="app")])])
    maps = [dict(inside=0, outside=100000, count=65536)]
    user = dict(sandboxes=[dict(name="mapped", image="it", namespaces=dict(types=["user", "mnt", "pid", "net"], uid_map=maps, gid_map=maps))])
    converge("sandbox", **sandbox)
    converge("sandbox", **user)
    converge("overlay", path=BASE + "/mnt", lower=[layer()["path"], BASE + "/tree"], upper=LIB + "/uppers/by-hand/upper", work=LIB + "/uppers/by-hand/work")
    archives.write(BASE + "/mnt/etc/new", b"new")
    pid = jail.until(lambda: next((pid for pid in filter(str.isdigit, os.listdir("/proc")) if jail.text("/proc/%s/cmdline" % pid) == "/bin/sleep\x001000\0"), None))
    archives.write("/proc/%s/root/etc/mine" % pid, b"mine")
    os.unlink("/proc/%s/root/data" % pid)
    path = layer()["path"]
    syscalls.umount(path)  # what is committed is over it all the same
    assert converge("image", name="made", commit="box")["actions"][0].startswith("mount layer")
    lower = drive.info("image", name="made")["images"][0]["lower"]
    assert lower[1:] == [path] and os.listdir(lower[0] + "/etc") == ["mine"] and os.stat(lower[0] + "/data").st_rdev == 0
    reboot()
    assert not loops() and not mounted(path) and stored()
    done, failed = whole.restore(drive.new_host())
    assert not failed and "mount layer " + layer()["digest"][:19] in done and len(loops()) == 1 and len(mounted(path)) == 1
    assert os.listdir(BASE + "/mnt/etc") and open(BASE + "/mnt/etc/new", "rb").read() == b"new"
    for options in (sandbox, user):
        assert not converge("sandbox", **options)["changed"]
    assert not converge("image", name="made")["changed"]
    os.rename(os.path.dirname(path) + "/file", BASE + "/away")  # without it nothing of it is made, and each says so
    reboot()
    done, failed = whole.restore(drive.new_host())
    assert sorted(record.name for record, message in failed) == ["box", "mapped"] + [BASE[1:] + "/mnt"]
    os.rename(BASE + "/away", os.path.dirname(path) + "/file")
    assert not whole.restore(drive.new_host())[1]
