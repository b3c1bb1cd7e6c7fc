# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Storage drivers on hosts whose kernel has thin pools and where systemd is init: a root of each, and what may happen to a pool."""

from __future__ import annotations

import json
import subprocess
import time

import pytest
import remote

TOOLS = ("dmsetup", "libdevmapper1.02.1", "e2fsprogs", "libcom-err2", "libss2", "logsave", "busybox-static")
EXT2 = {"debian12": "libext2fs2", "debian13": "libext2fs2t64"}
SUITE = ("python3-pytest", "python3-attr", "python3-pluggy", "python3-iniconfig", "python3-packaging", "btrfs-progs", "liblzo2-2", "runit", "tini")
POOL = "/var/lib/bulkhead/pool.img"
DEVICES = "dmsetup ls; losetup --noheadings --list --output BACK-FILE"


@pytest.fixture
def ready(fresh_host):
    """A host with the tools, an image, and `bulkhead restore` at boot."""
    fresh_host.install(EXT2[fresh_host.name], *TOOLS)
    fresh_host.run("ldconfig")
    fresh_host.python("import drive; from module_utils._program import host; drive.engine.converge(drive.new_host(), host, {})")
    fresh_host.python("import os, storage; os.makedirs(storage.BASE); storage.image()")
    return fresh_host


def boxes(*names, pool=POOL, state="present", **more):
    return declared(names, dict(dict(driver="devicemapper", pool=pool), **more), state)


def declared(names, storage=None, state="present", **more):
    each = dict(image="it", namespaces=dict(types=["uts", "ipc", "mnt", "pid"]), storage=storage, services=[dict(name="app")], state=state, **more)
    return dict(sandboxes=[dict(name=name, state="absent") if state == "absent" else dict(each, name=name) for name in names], remove_data=state == "absent")


def inside(host, name, line, patience=300):
    """(exit status, output, errors) of a line of the shell in its root."""
    pid = host.run("systemctl show --value --property=MainPID bulkhead-%s-app.service" % name).strip()
    return host.attempt(["nsenter", "--target", pid, "--all", "/bin/busybox", "sh", "-c", line], patience=patience)


def check_run_check_run(host, options, noun="sandbox"):
    """The check says what the run does, and then there is nothing to do."""
    said, did, quiet, again = host.converges(noun, (True, False, True, False), patience=900, **options)
    assert "error" not in did, did["error"]
    assert said["actions"] == did["actions"] and said["diff"] == did["diff"], (said, did)
    assert not quiet["changed"] and not again["changed"], (quiet, again)


def all_gone(host, *names):
    if names:
        check_run_check_run(host, boxes(*names, state="absent"))
    answer = host.converge("image", name="it", state="absent")
    assert answer.get("changed"), answer
    assert host.run(DEVICES).replace("No devices found", "").split() == []
    assert host.run("ls -A /var/lib/bulkhead").split() == ["images", "layers"]


@pytest.mark.proves("storage driver devicemapper")
def test_suite_of_all_drivers(fresh_host):
    """Beside what systemd runs, in a private host."""
    fresh_host.install(EXT2[fresh_host.name], *TOOLS + SUITE)
    fresh_host.run("ldconfig")
    assert fresh_host.suite("tests/system/test_storage.py", BULKHEAD_TEST_DRIVERS="devicemapper") > 20


@pytest.mark.proves("snapshots")
@pytest.mark.parametrize("driver", [
    pytest.param("devicemapper", marks=pytest.mark.proves("storage driver devicemapper")),
    pytest.param("btrfs", marks=pytest.mark.proves("storage driver btrfs")),
    pytest.param("copy", marks=pytest.mark.proves("storage driver copy"))])
def test_a_root_of_each_driver(ready, driver):
    """Nobody else sees what is written; it is there after a reboot, an upgrade and its rollback, and as it was with a snapshot put back."""
    host, storage, fresh = ready, dict(driver=driver, **(dict(pool=POOL, pool_size="300M") if driver == "devicemapper" else {})), dict(upper="fresh")
    if driver == "btrfs":
        host.install("btrfs-progs", "liblzo2-2")
        host.run("truncate --size 512M /srv/roots; mkfs.btrfs -q /srv/roots; mkdir -m 700 /var/lib/bulkhead/roots; "
                 "echo '/srv/roots /var/lib/bulkhead/roots btrfs loop' >>/etc/fstab; systemctl daemon-reload; mount /var/lib/bulkhead/roots")
    check_run_check_run(host, declared(["one", "two"], storage))
    assert inside(host, "one", "echo mine >/srv/mine; rm /srv/gone; sync")[0] == 0
    assert inside(host, "two", "ls /srv")[1].split() == ["file", "gone", "kept", "same"]
    check_run_check_run(host, dict(sandbox="one", name="first"), "snapshot")
    assert inside(host, "one", "echo other >/srv/mine; rm /srv/file; sync")[0] == 0
    host.python("import storage; from archives import *; storage.image(tar(directory(b'usr'), entry(b'usr/newer', b'newer')))")
    both = declared(["one"], storage, upgrade=fresh)
    check_run_check_run(host, both)
    assert inside(host, "one", "cat /usr/newer; echo; ls /srv")[1].split() == ["newer", "file", "gone", "kept", "same"]
    host.reboot(settled=False)
    assert host.settle() == "running", host.run("systemctl --failed; journalctl -b -u bulkhead-restore")
    assert not host.converge("sandbox", **both)["changed"] and inside(host, "one", "cat /usr/newer")[1] == "newer"
    check_run_check_run(host, declared(["one"], storage, "rolled_back", upgrade=fresh))
    assert inside(host, "one", "cat /srv/mine; ls /srv; test ! -e /usr/newer && echo older")[1].split() == ["other", "kept", "mine", "same", "older"]
    said, did = host.converges("snapshot", (True, False), patience=900, sandbox="one", name="first", state="restored")
    assert "error" not in did and said["actions"] == did["actions"], (said, did)
    assert inside(host, "one", "cat /srv/mine; ls /srv")[1].split() == ["mine", "file", "kept", "mine", "same"]
    assert not host.converge("sandbox", **declared(["one"], storage, "rolled_back", upgrade=fresh))["changed"]
    check_run_check_run(host, declared(["one", "two"], state="absent"))
    if driver == "btrfs":
        host.run("umount /var/lib/bulkhead/roots; rm /srv/roots; sed -i '/ btrfs loop$/d' /etc/fstab; rmdir /var/lib/bulkhead/roots")
    all_gone(host)


@pytest.mark.proves("storage driver devicemapper")
def test_reboot_size_and_power_cuts(ready):
    host, options = ready, boxes("one", "two", pool_size="300M", size="200M")
    check_run_check_run(host, options)
    assert inside(host, "one", "echo mine >/srv/mine; sync")[0] == 0
    host.reboot()
    assert not host.converge("sandbox", **options)["changed"]
    assert inside(host, "one", "cat /srv/mine")[1] == "mine\n" and inside(host, "two", "ls /srv/mine")[0] != 0
    status, dummy, errors = inside(host, "one", "dd if=/dev/zero of=/srv/big bs=1M count=250 conv=fsync")
    assert status and "No space left" in errors
    larger = boxes("one", "two", pool_size="300M", size="280M")
    check_run_check_run(host, larger)
    assert inside(host, "one", "rm /srv/big; dd if=/dev/zero of=/srv/big bs=1M count=20 conv=fsync")[0] == 0
    refused = host.converge("sandbox", **boxes("one", "two", size="10M"))
    assert "it has" in refused["error"] and "Set storage.size to more" in refused["error"]
    three = ["three", "four", "five"]
    for moment in (4, 8):  # seconds; a root takes some here
        with subprocess.Popen(host.shell("cd / && exec python3 %s/tests/system/drive.py sandbox '%s'" % (
                remote.TREE, json.dumps(boxes("one", *three, size="280M")))), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
            time.sleep(moment)
            host.poweroff()
            running.wait()
        host.start()
        answers = host.converges("sandbox", [False, False], patience=900, **boxes("one", "two", *three, size="280M"))
        assert "error" not in answers[0] and not answers[1]["changed"], answers
        assert inside(host, "one", "cat /srv/mine")[1] == "mine\n" and inside(host, "five", "cat /srv/file")[1] == "file"
        check_run_check_run(host, boxes(*three, state="absent"))
    assert host.run("ls -A /var/lib/bulkhead/roots").split() == [".bases-devicemapper", "one", "two"]
    assert len(host.run("dmsetup ls").splitlines()) == 5
    all_gone(host, "one", "two")


def about(host, name):
    """(what sandbox_info tells of its storage, the warnings)."""
    return json.loads(host.python("import drive, json; host = drive.new_host(); found = drive.resource('sandbox').info(host, "
                                  "dict(names=[%r], storage=True)); print(json.dumps([found['sandboxes'][0]['storage'], host.warnings]))" % name))


def write(host, name, mebibytes, file="big"):
    """(exit status, errors) of who writes so much in its root and waits until that is on the disk."""
    status, dummy, errors = inside(host, name, "dd if=/dev/zero of=/srv/%s bs=1M count=%d conv=fsync" % (file, mebibytes), patience=600)
    return status, errors


@pytest.mark.proves("size limits")
def test_sizes_within_the_pool(ready):
    """Where a pool has room for what it has promised, who has written its size, again and again, is told so, and no other is."""
    host, options = ready, boxes("one", "two", pool_size="200M", size="80M")
    check_run_check_run(host, options)
    for dummy in range(3):
        assert inside(host, "one", "rm -f /srv/big; sync")[0] == 0
        status, errors = write(host, "one", 100)
        assert status and "No space left on device" in errors, errors
    status, errors = write(host, "two", 70)
    assert not status, errors
    shown, warnings = about(host, "two")
    assert shown["pool"]["path"] == POOL and shown["pool"]["promised"] == 160 << 20 < shown["pool"]["size"] < 200 << 20 and shown["pool"]["used"] < 90, shown
    answer = host.converge("sandbox", **options)
    assert not answer["changed"] and not answer["warnings"] and not warnings, (answer, warnings)
    assert not host.attempt("dmesg | grep -iE 'EXT4-fs (error|warning)|I/O error'")[1]
    all_gone(host, "one", "two")


@pytest.mark.proves("storage driver devicemapper")
def test_pool_that_is_full(ready):
    """Where it has promised more than it has, nobody waits for room, who gets none is told so, what was written before is there, and with
    room it goes on."""
    host, options = ready, boxes("one", "two", pool_size="100M")
    check_run_check_run(host, options)
    older = "cd /srv && dd if=/dev/urandom of=older bs=64k count=16 conv=fsync && sha256sum older >sum && echo mine >mine && sync"
    assert inside(host, "two", older)[0] == 0
    status, errors = write(host, "one", 200)
    # ext4 sees a device that fails: which of these the writer hears depends on what it could not write, data or its journal
    assert status and any(words in errors for words in ("No space left on device", "Input/output error", "Read-only file system")), errors
    assert inside(host, "two", "cat /srv/mine; cd /srv && sha256sum -cs sum && echo whole")[1] == "mine\nwhole\n"
    status, errors = write(host, "two", 8, "new")
    assert status, "this has nowhere to be"
    for shown, warnings in (about(host, "one"), (about(host, "two")[0], host.converge("sandbox", **options)["warnings"])):
        assert shown["pool"]["used"] > 90 and shown["pool"]["promised"] == 20 << 30, shown
        assert any("The pool %s is full to " % POOL in each for each in warnings), warnings
    refused = host.converge("sandbox", **boxes("three"))
    assert "the pool %s is full to" % POOL in refused["error"], refused
    check_run_check_run(host, boxes("one", state="absent"))
    check_run_check_run(host, boxes("three"))
    if "whole" not in inside(host, "two", "cd /srv && sha256sum -cs sum && echo whole")[1]:  # on Linux 6.12, as its journal could not be written
        for check in (True, False):
            assert "Cannot use the root of sandbox two: its file system has stopped" in host.converge("sandbox", check, **boxes("two"))["error"]
    host.reboot()
    assert inside(host, "two", "cat /srv/mine; cd /srv && sha256sum -cs sum && echo whole")[1] == "mine\nwhole\n"
    check_run_check_run(host, boxes("two", "three", pool_size="200M"))
    assert write(host, "three", 120)[0] == 0
    assert "thin pools do not shrink" in host.converge("sandbox", **boxes("two", "three", pool_size="150M"))["error"]
    all_gone(host, "two", "three")


def test_device_that_is_given(ready):
    """One that has something on it is refused by name; when the last root has gone it is as empty as it was."""
    host = ready
    device = host.run("truncate --size 200M /srv/disk; losetup --find --show /srv/disk").strip()
    host.run("mkfs.ext4 -q " + device)
    options = boxes("one", pool=device)
    refused = host.converge("sandbox", **options)
    assert "Cannot make the pool %s for sandbox one: there is something on it already (ext4)." % device in refused["error"], refused
    host.run("wipefs --all %s; blkdiscard --zeroout %s" % (device, device))
    for dummy in range(2):
        check_run_check_run(host, options)
        assert "the pool of this host is %s" % device in host.converge("sandbox", **boxes("two"))["error"]
        assert "Cannot change storage.pool" in host.converge("sandbox", **boxes("one"))["error"]
        assert "Device or resource busy" in host.attempt("mkfs.ext4 -F " + device)[2] + host.attempt("wipefs --all " + device)[2]
        check_run_check_run(host, boxes("one", state="absent"))
        host.python("import drive, storage; drive.converge('image', dict(name='it', state='absent')); storage.image()")
        assert host.run("dmsetup ls").strip() == "No devices found" and host.run("blkid -p %s || test $? = 2" % device) == ""
    host.run("losetup --detach %s; rm /srv/disk" % device)
    all_gone(host)
