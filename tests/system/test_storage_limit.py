# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Size limits of sandboxes: who writes too much is told so, by the kernel, and nobody else notices; sizes change in place; and a mount
that is missing after a reboot is made again before anybody takes what it covers for empty."""

from __future__ import annotations

import os
import signal

import boxes
import drive
import filesystems
import jail
import pytest
from boxes import BASE, LEAST, SIZE, TYPES, made, reboot, sandbox, sandboxes, started, told, writer

from module_utils._kernel import syscalls

LIB = "/var/lib/bulkhead"
KINDS = [dict(limit="loop"), dict(limit="tmpfs", keep=False), dict(keep=False), dict(), dict(limit="loop", keep=False)]


@pytest.fixture(autouse=True)
def place(leaves_nothing):
    with boxes.place():
        yield


def stored(**more):
    return dict(dict(size=SIZE), **more)


def measured(name="box"):
    return drive.info("sandbox", names=[name], storage=True)["sandboxes"][0]["storage"]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_every_state(full_cycle, kind):
    made()
    full_cycle("sandbox", sandboxes(sandbox(storage=stored(**kind))), sandboxes(sandbox(state="absent")))
    assert not os.path.exists(LIB + "/uppers/box") and not os.path.exists(LIB + "/uppers/.box.img") and not filesystems.loops()


@pytest.mark.proves("size limits")
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_writer_is_stopped_at_its_limit_and_nobody_notices(converge, kind):
    made()
    free = os.statvfs(LIB).f_bavail * os.statvfs(LIB).f_frsize
    boxes = [writer("box", storage=stored(**kind)), sandbox("beside", storage=stored(**kind)), sandbox("free")]
    converge("sandbox", **sandboxes(*boxes))
    said = told("box")
    assert "No space left on device" in said["error"] and said["status"] == "1"
    assert LEAST <= said["size"] <= SIZE
    now = measured()
    assert now["size"] == SIZE and LEAST <= now["written"] <= SIZE
    assert measured("beside")["written"] < SIZE / 10 and measured("beside")["size"] == SIZE
    for name in ("beside", "free"):
        with open("/proc/%s/root/srv/mine" % started(name), "wb") as stream:
            stream.write(b"x" * (SIZE // 2))
            os.fsync(stream.fileno())
    assert free - os.statvfs(LIB).f_bavail * os.statvfs(LIB).f_frsize < 4 * SIZE
    assert not converge("sandbox", **sandboxes(*boxes))["changed"]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_sizes_change_in_place(converge, refuse, kind):
    made()
    converge("sandbox", **sandboxes(writer("box", storage=stored(**kind))))
    told("box")
    pid = started("box")
    for size in (SIZE * 20, SIZE * 2 + 1, SIZE * 1000):
        declared = sandboxes(writer("box", storage=dict(kind, size=size)))
        assert converge("sandbox", check=True, **declared)["actions"] == converge("sandbox", **declared)["actions"]
        assert 0 <= measured()["size"] - size < 4096
        assert not converge("sandbox", check=True, **declared)["changed"] and not converge("sandbox", **declared)["changed"]
    said = refuse("sandbox", **sandboxes(writer("box", storage=dict(kind, size=SIZE // 2))))
    assert said.startswith("Cannot limit %s/uppers/box to %d bytes: " % (LIB, SIZE // 2)) and "are written" in said
    assert started("box") == pid  # the same process, all the time


def test_limits_that_cannot_be(converge, refuse):
    made()
    assert "sandboxes[0].storage.size: is of an upper in its own place" in refuse("sandbox", **sandboxes(sandbox(
        storage=stored(), overlay=dict(upper="/srv/upper", work="/srv/work"))))
    assert refuse("sandbox", **sandboxes(sandbox(storage=stored(limit="quota")))).endswith(
        " has no quotas of projects on. Mount it with prjquota (of ext4, after tune2fs -O project,quota).")
    converge("sandbox", **sandboxes(sandbox()))
    with open("/proc/%s/root/srv/mine" % started("box"), "wb") as stream:
        stream.write(b"x")
    assert "something was written there without a limit" in refuse("sandbox", **sandboxes(sandbox(storage=stored())))
    converge("sandbox", **sandboxes(sandbox("other", storage=stored())))
    for storage, why in ((dict(), "Cannot take the limit off"), (stored(limit="tmpfs", keep=False), "Cannot change storage.limit")):
        assert why in refuse("sandbox", **sandboxes(sandbox("other", storage=storage)))


def test_a_limit_for_a_sandbox_that_has_written_nothing(converge, refuse):
    made()
    converge("sandbox", **sandboxes(sandbox()))
    assert "Set on_mismatch: recreate to do so" in refuse("sandbox", **sandboxes(sandbox(storage=stored())))
    declared = dict(sandboxes(writer("box", storage=stored())), on_mismatch="recreate")
    assert converge("sandbox", check=True, **declared)["actions"] == converge("sandbox", **declared)["actions"]
    assert "No space left" in told("box")["error"]
    assert not converge("sandbox", **declared)["changed"]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_after_a_reboot(converge, kind):
    made()
    declared = sandboxes(sandbox(storage=stored(**kind)))
    converge("sandbox", **declared)
    with open("/proc/%s/root/srv/mine" % started("box"), "w", encoding="utf-8") as stream:
        stream.write("kept")
    reboot()
    assert not filesystems.loops() and not os.path.exists(LIB + "/uppers/box/upper")
    assert converge("sandbox", check=True, **declared)["actions"] == converge("sandbox", **declared)["actions"]
    kept = "/proc/%s/root/srv/mine" % started("box")
    if kind.get("keep") is False:
        assert not os.path.exists(kept)
    else:
        assert jail.text(kept) == "kept"
    assert measured()["size"] == SIZE and not converge("sandbox", **declared)["changed"]


def test_what_cannot_be_mounted_is_not_taken_for_empty(converge, refuse):
    made()
    declared = sandboxes(sandbox(storage=stored()))
    converge("sandbox", **declared)
    with open("/proc/%s/root/srv/mine" % started("box"), "w", encoding="utf-8") as stream:
        stream.write("lost")
    reboot()
    with open(LIB + "/uppers/.box.img", "r+b") as stream:
        stream.write(bytes(1 << 20))
    for dummy in range(2):
        said = refuse("sandbox", **declared)
        assert said.startswith("Cannot mount /var/lib/bulkhead/uppers/.box.img on /var/lib/bulkhead/uppers/box: ") and "e2fsck" in said
    assert not os.path.exists(LIB + "/uppers/box/upper") and not filesystems.loops()
    assert "upper" in refuse("image", name="copy", commit="box")
    converge("sandbox", **sandboxes(sandbox(state="absent")))
    converge("sandbox", **declared)
    assert os.listdir("/proc/%s/root/srv" % started("box")) == []


@pytest.mark.parametrize("keep", [True, False])
def test_unmounted_by_hand(converge, refuse, keep):
    made()
    declared = sandboxes(sandbox(storage=stored(keep=keep)))
    converge("sandbox", **declared)
    pid = started("box")
    with open("/proc/%s/root/srv/mine" % pid, "w", encoding="utf-8") as stream:
        stream.write("kept")
    syscalls.umount(LIB + "/uppers/box", syscalls.MNT_DETACH)
    if not keep:  # what nobody can reach any more is not found again
        assert "Set on_mismatch: recreate" in refuse("sandbox", **declared)
        declared["on_mismatch"] = "recreate"
    assert converge("sandbox", check=True, **declared)["actions"] == converge("sandbox", **declared)["actions"]
    assert not converge("sandbox", **declared)["changed"]
    assert os.path.exists(LIB + "/uppers/box/upper/srv/mine") == keep and (started("box") == pid) == keep


def test_without_a_limit_what_is_not_kept_goes_at_a_reboot_a_recreation_and_a_removal(converge):
    made()
    declared = sandboxes(sandbox(storage=dict(keep=False)))
    for way in ("reboot", "recreate", "remove"):
        converge("sandbox", **declared)
        with open("/proc/%s/root/srv/mine" % started("box"), "w", encoding="utf-8") as stream:
            stream.write("gone")
        if way == "reboot":
            reboot()
        elif way == "recreate":
            keeper = drive.info("sandbox", names=["box"])["sandboxes"][0]["namespaces"]["keeper"]
            os.kill(keeper, signal.SIGKILL)
            os.waitpid(keeper, 0)  # the engine that made it was this process
        else:
            converge("sandbox", **dict(sandboxes(sandbox(state="absent")), remove_data=False))
            assert not os.path.exists(LIB + "/uppers/box")
        converge("sandbox", on_mismatch="recreate", **declared)
        assert not os.path.exists("/proc/%s/root/srv/mine" % started("box"))


def test_what_was_written_stays_without_remove_data(converge):
    made()
    declared = sandboxes(sandbox(storage=stored()))
    converge("sandbox", **declared)
    with open("/proc/%s/root/srv/mine" % started("box"), "w", encoding="utf-8") as stream:
        stream.write("kept")
    gone = dict(sandboxes(sandbox(state="absent")), remove_data=False)
    assert converge("sandbox", check=True, **gone)["actions"] == converge("sandbox", **gone)["actions"]
    assert not converge("sandbox", **gone)["changed"] and not filesystems.loops() and not os.path.ismount(LIB + "/uppers/box")
    converge("sandbox", **declared)
    assert jail.text("/proc/%s/root/srv/mine" % started("box")) == "kept"
    reset = dict(declared, reset=["box"])
    assert converge("sandbox", check=True, **reset)["actions"] == converge("sandbox", **reset)["actions"]
    assert not os.path.exists("/proc/%s/root/srv/mine" % started("box")) and measured()["size"] == SIZE


@pytest.mark.parametrize("kind", [dict(limit="loop"), dict(limit="tmpfs", keep=False)], ids=str)
def test_in_a_user_namespace(converge, kind):
    made()
    mapped = dict(types=TYPES + ["net", "user"], uid_map=["0 100000 65536"], gid_map=["0 100000 65536"])
    declared = sandboxes(writer("box", storage=stored(**kind), namespaces=mapped))
    os.chmod(BASE + "/out/box", 0o777)
    converge("sandbox", **declared)
    said = told("box")
    assert "No space left on device" in said["error"] and LEAST <= said["size"] <= SIZE
    assert not converge("sandbox", **declared)["changed"]
