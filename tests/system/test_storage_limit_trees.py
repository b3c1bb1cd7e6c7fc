# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Size limits of roots that are plain trees: the layers do not count, whoever writes too much is told so, and nobody else notices."""

from __future__ import annotations

import os

import drive
import pytest
import storage
from boxes import SIZE, made, reboot, sandbox, sandboxes, started, told, writer

from module_utils._kernel import syscalls

LIB = "/var/lib/bulkhead"
DRIVERS = ["btrfs", "copy"]


@pytest.fixture(autouse=True)
def place(leaves_nothing):
    with storage.place():
        yield


def stored(driver, size=SIZE, **more):
    return dict(dict(driver=driver, size=size), **more)


def measured(name="box"):
    return drive.info("sandbox", names=[name], storage=True)["sandboxes"][0]["storage"]


def write(count, name="box"):
    with open("/proc/%s/root/srv/mine" % started(name), "wb") as stream:
        stream.write(b"x" * count)
        os.fsync(stream.fileno())


@pytest.mark.parametrize("driver", DRIVERS)
def test_every_state(full_cycle, driver):
    made()
    full_cycle("sandbox", sandboxes(sandbox(storage=stored(driver))), sandboxes(sandbox(state="absent")))


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_writer_is_stopped_at_its_limit_and_nobody_notices(converge, refuse, driver):
    made()
    all_of_them = [writer("box", storage=stored(driver)), sandbox("beside", storage=stored(driver)), sandbox("free", storage=dict(driver=driver))]
    converge("sandbox", **sandboxes(*all_of_them))
    said = told("box")
    assert "No space left on device" in said["error"] or "quota exceeded" in said["error"]
    assert said["status"] == "1" and SIZE * 0.9 < said["size"] <= SIZE
    now = measured()
    assert (now["driver"], now["size"]) == (driver, SIZE) and SIZE * 0.8 < now["written"] <= SIZE
    for name in ("beside", "free"):
        write(SIZE // 2, name)
    assert measured("free")["size"] is None and measured("beside")["size"] == SIZE
    assert not converge("sandbox", **sandboxes(*all_of_them))["changed"]
    pid = started("box")
    for size in (SIZE * 8, SIZE * 2):
        all_of_them[0] = writer("box", storage=stored(driver, size))
        declared = sandboxes(*all_of_them)
        assert converge("sandbox", check=True, **declared)["actions"] == converge("sandbox", **declared)["actions"]
        assert measured()["size"] == size and started("box") == pid
        assert not converge("sandbox", **declared)["changed"]
    all_of_them[0] = writer("box", storage=stored(driver, SIZE // 2))
    assert "are written" in refuse("sandbox", **sandboxes(*all_of_them))
    all_of_them[0] = sandbox("free", storage=stored(driver))
    assert "was made without a limit" in refuse("sandbox", **sandboxes(all_of_them[0]))


@pytest.mark.parametrize("driver", DRIVERS)
def test_it_is_there_after_a_reboot_a_reset_and_a_snapshot(converge, driver):
    made()
    declared = sandboxes(sandbox(storage=stored(driver)))
    converge("sandbox", **declared)
    write(SIZE // 2)
    for dummy in range(2):
        converge("snapshot", sandbox="box", name="one")
        write(10)
        converge("snapshot", sandbox="box", name="one", state="restored")
        assert os.stat("/proc/%s/root/srv/mine" % started("box")).st_size == SIZE // 2
        now = measured()
        assert SIZE // 2 <= now["written"] < SIZE * 0.6 and now["size"] == SIZE
        converge("snapshot", sandbox="box", name="one", state="absent")
    reboot()
    assert converge("sandbox", check=True, **declared)["actions"] == converge("sandbox", **declared)["actions"]
    assert not converge("sandbox", **declared)["changed"]
    assert os.stat("/proc/%s/root/srv/mine" % started("box")).st_size == SIZE // 2 and measured()["size"] == SIZE
    converge("sandbox", **dict(declared, reset=["box"]))
    assert not os.path.exists("/proc/%s/root/srv/mine" % started("box")) and measured()["size"] == SIZE
    assert measured()["written"] < SIZE / 10


def reboot_of_its_limit():
    reboot()
    syscalls.umount(LIB + "/roots/box/tree")


def test_names_that_mean_something_to_us_elsewhere_are_its_own(converge):
    """The root of a copy is the file system that its limit is of, and what is in that is the sandbox's, whatever it is called."""
    made()
    declared = sandboxes(sandbox(storage=stored("copy")))
    converge("sandbox", **declared)
    root = "/proc/%s/root" % started("box")
    write(10)
    os.makedirs(root + "/lost+found/more")
    os.mkdir(root + "/old.bulkhead-discarded")
    with open(root + "/a.bulkhead-discarded", "wb") as stream:
        stream.write(b"data")
    for dummy in range(2):
        reboot_of_its_limit()
        assert converge("sandbox", check=True, **declared)["actions"] == converge("sandbox", **declared)["actions"]
        assert not converge("sandbox", **declared)["changed"]
        root = "/proc/%s/root" % started("box")
        assert {"lost+found", "old.bulkhead-discarded", "a.bulkhead-discarded"} <= set(os.listdir(root))
        if os.path.isdir(root + "/lost+found/more"):  # then an empty one, and at last a link
            os.rmdir(root + "/lost+found/more")
        elif not os.path.islink(root + "/lost+found"):
            os.rmdir(root + "/lost+found")
            os.symlink("/etc", root + "/lost+found")
    reboot_of_its_limit()
    converge("sandbox", **declared)
    assert os.readlink("/proc/%s/root/lost+found" % started("box")) == "/etc"
