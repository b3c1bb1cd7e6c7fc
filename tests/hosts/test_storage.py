# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Storage driver devicemapper on hosts whose kernel has thin pools, where systemd is init: the suite of all drivers, and what may happen to a pool."""

from __future__ import annotations

import json
import subprocess
import time

import pytest
import remote

TOOLS = ("dmsetup", "libdevmapper1.02.1", "e2fsprogs", "libcom-err2", "libss2", "logsave", "busybox-static")
EXT2 = {"debian12": "libext2fs2", "debian13": "libext2fs2t64"}
SUITE = ("python3-pytest", "python3-pluggy", "python3-iniconfig", "python3-packaging", "btrfs-progs", "liblzo2-2", "runit", "tini")
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
    storage = dict(dict(driver="devicemapper", pool=pool), **more)
    each = dict(image="it", namespaces=dict(types=["uts", "ipc", "mnt", "pid"]), storage=storage, services=[dict(name="app")])
    return dict(sandboxes=[dict(name=name, state="absent") if state == "absent" else dict(each, name=name) for name in names], remove_data=state == "absent")


def inside(host, name, line, patience=300):
    """(exit status, output, errors) of a line of the shell in its root."""
    pid = host.run("systemctl show --value --property=MainPID bulkhead-%s-app.service" % name).strip()
    return host.attempt(["nsenter", "--target", pid, "--all", "/bin/busybox", "sh", "-c", line], patience=patience)


def check_run_check_run(host, options):
    """The check says what the run does, and then there is nothing to do."""
    said, did, quiet, again = host.converges("sandbox", (True, False, True, False), patience=900, **options)
    assert "error" not in did and said["actions"] == did["actions"] and said["diff"] == did["diff"], (said, did)
    assert not quiet["changed"] and not again["changed"], (quiet, again)


def all_gone(host, *names):
    if names:
        check_run_check_run(host, boxes(*names, state="absent"))
    answer = host.converge("image", name="it", state="absent")
    assert answer.get("changed"), answer
    assert host.run(DEVICES).replace("No devices found", "").split() == []
    assert host.run("ls -A /var/lib/bulkhead").split() == ["images", "layers"]


def test_suite_of_all_drivers(fresh_host):
    """Beside what systemd runs, in a private host."""
    fresh_host.install(EXT2[fresh_host.name], *TOOLS + SUITE)
    fresh_host.run("ldconfig")
    fresh_host.run("cd %s; BULKHEAD_TEST_DRIVERS=devicemapper tests/alone python3 -m pytest -q -p no:cacheprovider tests/system/test_storage.py" % remote.TREE,
                   patience=3600)


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


def test_pool_that_is_full(ready):
    """Nobody waits for room, what was written before is there, and with room it goes on."""
    host, options = ready, boxes("one", "two", pool_size="100M")
    check_run_check_run(host, options)
    assert inside(host, "two", "echo mine >/srv/mine; sync")[0] == 0
    assert inside(host, "one", "dd if=/dev/zero of=/srv/big bs=1M count=200 conv=fsync", patience=120)[0] != 0
    assert inside(host, "two", "cat /srv/mine")[1] == "mine\n"
    refused = host.converge("sandbox", **boxes("three"))
    assert "the pool %s is full to 100 percent" % POOL in refused["error"], refused
    check_run_check_run(host, boxes("one", state="absent"))
    check_run_check_run(host, boxes("two", "three"))
    check_run_check_run(host, boxes("two", "three", pool_size="200M"))
    assert inside(host, "three", "dd if=/dev/zero of=/srv/big bs=1M count=120 conv=fsync")[0] == 0
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
