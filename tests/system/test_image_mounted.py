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

BASE = "/run/mounted"
FLAGS = syscalls.MS_RDONLY | syscalls.MS_NOSUID | syscalls.MS_NODEV
KINDS = ("squashfs", "erofs")


@pytest.fixture(autouse=True)
def place(leaves_nothing):
    os.makedirs(BASE)
    yield
    for path in drive.resource("overlay").names(drive.new_host()):
        drive.converge("overlay", dict(path=path, state="absent", remove_data=True))
    jail.clear_images()
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


def test_sandbox_reboot_and_commit(converge):
    """One sandbox over a squashfs, one whose root is another user outside over an erofs, and an overlay that somebody has declared."""
    converge("image", name="it", squashfs=made("squashfs"), config=dict(command=["/bin/sleep", "1000"]))
    converge("image", name="too", erofs=filesystems.make("erofs", BASE + "/too", BASE + "/tree"))
    maps = [dict(inside=0, outside=100000, count=65536)]
    sandboxes = [dict(name="box", image="it", namespaces=dict(types=["net", "uts", "ipc", "mnt", "pid"]), services=[dict(name="app")]),
                 dict(name="mapped", image="too", namespaces=dict(types=["user", "mnt", "pid", "net"], uid_map=maps, gid_map=maps))]
    converge("sandbox", sandboxes=sandboxes)
    assert os.stat("/proc/%s/root/etc/passwd" % init_of("mapped")).st_uid == 100005
    converge("overlay", path=BASE + "/mnt", lower=[layer()["path"], BASE + "/tree"], upper=LIB + "/uppers/by-hand/upper", work=LIB + "/uppers/by-hand/work")
    archives.write(BASE + "/mnt/etc/new", b"new")
    root = "/proc/%s/root/" % init_of("box")
    archives.write(root + "etc/mine", b"mine")
    os.unlink(root + "data")
    paths, steps = [layer(name)["path"] for name in ("it", "too")], ["mount layer " + layer(name)["digest"][:19] for name in ("it", "too")]
    syscalls.umount(paths[0])  # what is committed is over it all the same
    assert converge("image", name="made", commit="box")["actions"][0] == steps[0]
    lower = drive.info("image", name="made")["images"][0]["lower"]
    assert lower[1:] == paths[:1] and os.listdir(lower[0] + "/etc") == ["mine"] and os.stat(lower[0] + "/data").st_rdev == 0
    syscalls.umount(paths[1])  # a sandbox that lives has its layers mended, too
    assert converge("sandbox", sandboxes=sandboxes)["actions"] == steps[1:] and not converge("sandbox", sandboxes=sandboxes)["changed"]
    reboot()
    assert not loops() and not mounted(paths[0]) and len(stored()) == 3
    done, failed = whole.restore(drive.new_host())
    assert not failed and set(steps) <= set(done) and len(loops()) == 2 and [len(mounted(path)) for path in paths] == [1, 1]
    assert text(BASE + "/mnt/etc/new") == b"new" and not converge("sandbox", sandboxes=sandboxes)["changed"]
    assert not converge("image", name="made")["changed"]
    reboot()
    os.rename(os.path.dirname(paths[0]) + "/file", LIB + "/away")  # nothing is built over an empty directory
    done, failed = whole.restore(drive.new_host())
    assert sorted(record.name for record, message in failed) == [BASE + "/mnt", "box"]
    os.rename(LIB + "/away", os.path.dirname(paths[0]) + "/file")
    assert not whole.restore(drive.new_host())[1]
    converge("sandbox", sandboxes=[dict(name="box", state="absent")], remove_data=True, kill=True)


def init_of(name):
    """The keeper of a sandbox."""
    wanted = "pid:[%d]" % os.stat("/run/bulkhead/ns/%s/pid" % name).st_ino
    return min(int(pid) for pid in filter(str.isdigit, os.listdir("/proc")) if os.readlink("/proc/%s/ns/pid" % pid) == wanted)


def text(path):
    with open(path, "rb") as stream:
        return stream.read()


def test_in_use(converge, refuse):
    """A layer stays mounted as long as anything uses it, in whatever namespace, and is unmounted by who removes it then."""
    converge("image", name="it", squashfs=made("squashfs"))
    path = layer()["path"]
    converge("namespace", name="keeps", types=["mnt"])
    converge("overlay", path="/mnt", namespace="keeps", lower=[path, BASE + "/tree"])
    drive.new_host().records.drop("overlay", "keeps:mnt")
    os.mkdir(BASE + "/bind")
    syscalls.mount(path + "/etc", BASE + "/bind", None, syscalls.MS_BIND)
    answer = converge("image", name="it", state="absent")
    assert "stays, as it is in use" in answer["warnings"][0] and mounted(path) and not converge("image", prune=True)["changed"]
    converge("namespace", name="keeps", state="absent", kill=True)
    converge("overlay", path="/mnt", namespace="keeps", state="absent")
    assert drive.info("image")["layers"][0]["in_use_by"].startswith("the mount on %s/bind" % BASE)
    syscalls.umount(BASE + "/bind")
    with open(path + "/data", "rb"):
        assert "in use by " in refuse("image", prune=True) and "open file" in refuse("image", prune=True, check=True) and mounted(path)
    assert converge("image", prune=True, check=True)["changed"] and converge("image", prune=True)["changed"] and not stored() and not loops()
    converge("image", name="it", squashfs=BASE + "/it.squashfs")
    os.rename(LIB + "/images/it.json", LIB + "/images/.it.json.gone")  # by a run that was killed; who came since does not block all others
    with open(path + "/data", "rb"):
        assert converge("image", name="other", directory=BASE + "/bind")["changed"] and len(stored()) == 1 and loops()


@pytest.mark.parametrize("kind", KINDS)
def test_verified_and_mended(converge, refuse, kind):
    options = {"name": "it", kind: made(kind)}
    converge("image", **options)
    file = os.path.dirname(layer()["path"]) + "/file"
    with open(file, "r+b") as stream:
        stream.seek(-1, 2)
        last = stream.read(1)
        stream.seek(-1, 2)
        stream.write(bytes([last[0] ^ 1]))
    assert "its file differs in content" in refuse("image", name="it", verify=True) and not converge("image", **options)["changed"]
    with open(layer()["path"] + "/data", "rb"):
        assert "in use by" in refuse("image", verify=True, **options)
    predicted = converge("image", verify=True, check=True, **options)
    assert converge("image", verify=True, **options)["diff"] == predicted["diff"] and not converge("image", verify=True, **options)["changed"]
    assert len(loops()) == 1 and layer()["mounted"]
    os.unlink(file)
    assert "is missing" in refuse("image", name="it")
    assert converge("image", **options)["changed"] and not converge("image", verify=True, **options)["changed"] and len(loops()) == 1


def test_built_upon(converge, full_cycle):
    """A build takes it as its parent, and mounts it first where that is to be."""
    converge("image", name="it", squashfs=made("squashfs"))
    steps = [dict(write=dict(dest="/etc/step", content="step")), dict(run=["/bin/busybox", "rm", "/data"], network="none")]
    full_cycle("image", {"name": "made", "from": "it", "steps": steps}, dict(name="made", state="absent"))
    syscalls.umount(layer()["path"])
    answer = converge("image", **{"name": "made", "from": "it", "steps": steps})
    assert answer["actions"][0].startswith("mount layer ") and layer("made") == dict(layer(), shared_by=["it"])
    assert not converge("image", **{"name": "made", "from": "it", "steps": steps})["changed"]
    converge("overlay", path=BASE + "/mnt", lower=drive.info("image", name="made")["images"][0]["lower"])
    assert text(BASE + "/mnt/etc/step") == b"step" and text(BASE + "/mnt/etc/passwd") == b"root" and "data" not in os.listdir(BASE + "/mnt")


def test_exported(converge):
    """What is exported is the tree, as of the directory that it was made of."""
    converge("image", name="it", squashfs=made("squashfs"), export=BASE + "/out")
    for where, folders, files in os.walk(BASE + "/tree"):
        for name in folders + files + ["."]:
            path = os.path.join(where, name)
            os.utime(path, ns=(0, int(os.lstat(path).st_mtime) * 10 ** 9), follow_symlinks=False)  # a squashfs keeps seconds
    converge("image", name="same", directory=BASE + "/tree", export=BASE + "/same")
    blobs = [{entry.name for entry in os.scandir("%s/%s/blobs/sha256" % (BASE, name)) if entry.stat().st_size > 10000} for name in ("out", "same")]
    assert blobs[0] == blobs[1] and len(blobs[0]) == 1
    assert not converge("image", name="it", export=BASE + "/out")["changed"]


def test_absent_with_the_host(converge):
    converge("image", name="it", squashfs=made("squashfs"))
    host = drive.new_host()
    for options, left in ((dict(state="absent"), 1), (dict(state="absent", remove_data=True), 0)):
        assert engine.converge(host, program, options).changed and not loops() and len(stored()) == left
    assert not engine.converge(drive.new_host(), program, dict(state="absent", remove_data=True)).changed
