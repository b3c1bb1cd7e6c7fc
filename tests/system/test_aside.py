# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The engine's own mount namespace, on a private host that says that its init is systemd and shares its mounts as systemd does.

Objects without processes: for cgroups and services systemd itself would be needed. Each act is a process of its own, as it is
not to come back from where it goes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter

import pytest

import drive
import filesystems

from module_utils._engine import aside, places
from module_utils._engine.lock import Lock
from module_utils._kernel import nsfs, syscalls

SET = dict(name="web", types=["uts", "net", "mnt"], hostname="web")
GONE = dict(name="web", state="absent")
OURS = ["/run/bulkhead", "/run/bulkhead/engine"]
PIN = "/run/bulkhead/engine"


def mounted(who="self"):
    with open("/proc/%s/mountinfo" % who, encoding="utf-8") as stream:
        return [line.split()[4] for line in stream]


def clear():
    """Nothing of ours any more, as the module `host` does it."""
    host = drive.new_host()
    with Lock(host.lock, "test"):
        nsfs.unpin(nsfs.pin_path(host, nsfs.TEMPLATE, "mnt"))
        places.clear(host)
        host.forget()
        if host.mounts().top(host.netns) is not None:
            syscalls.umount(host.netns)
        for path in [host.state + "/" + name for name in os.listdir(host.state)] + [host.state] if os.path.isdir(host.state) else ():
            os.rmdir(path)


@pytest.fixture(autouse=True)
def systemd(tmp_path):
    os.makedirs("/run/systemd/system", exist_ok=True)
    shared = "/run/bulkhead-test"
    os.makedirs(shared, exist_ok=True)
    syscalls.mount("test", shared, "tmpfs", 0, "")
    for path in ("/run", shared):
        syscalls.mount(None, path, None, syscalls.MS_SHARED)
    before = mounted()
    yield shared
    assert not drive.isolated(clear)
    assert mounted() == before
    syscalls.umount(shared)
    os.rmdir(shared)
    syscalls.mount(None, "/run", None, syscalls.MS_PRIVATE)
    os.removedirs("/run/systemd/system")


def four(noun, **options):
    """check, run, check, run; the actions."""
    answers = [drive.apart(noun, options, check) for check in (True, False, True, False)]
    assert not any("error" in each for each in answers), answers
    assert [each["changed"] for each in answers] == [True, True, False, False], answers
    assert answers[0]["actions"] == answers[1]["actions"] and answers[0]["diff"] == answers[1]["diff"]
    return answers[1]["actions"]


def gone(noun, **options):
    answers = [drive.apart(noun, dict(options, state="absent"), check) for check in (True, False, True, False)]
    assert [each["changed"] for each in answers] == [True, True, False, False], answers


def in_engine(*command):
    return subprocess.run(["nsenter", "--mount=" + PIN] + list(command), capture_output=True, text=True, check=True).stdout


def test_what_only_we_look_at_is_not_among_the_hosts_mounts():
    before = mounted()
    four("namespace", **SET)
    new = Counter(mounted()) - Counter(before)
    assert set(new) <= set(OURS + ["/run/netns", "/run/netns/web", "/var/lib/bulkhead"]) and set(new.values()) == {1}
    assert {"/run/bulkhead/ns/web/uts", "/run/bulkhead/mntns/web", "/run/netns/web"} <= set(in_engine("cat", "/proc/self/mountinfo").split())
    count = len(mounted())
    for number in range(5):
        assert drive.apart("namespace", dict(name="n%d" % number, types=["uts", "mnt"]))["changed"]
    assert len(mounted()) == count
    for number in range(5):
        gone("namespace", name="n%d" % number)
    gone("namespace", name="web")
    assert "/run/netns/web" not in mounted()


def test_a_check_on_a_host_without_anything_of_ours_makes_nothing():
    before = mounted()
    answer = drive.apart("namespace", SET, True)
    assert answer["changed"] and mounted() == before and not os.path.exists("/run/bulkhead")
    assert not drive.apart("namespace", GONE)["changed"]
    assert mounted() == before


def layers(base, *names):
    for name in names:
        os.makedirs("%s/%s" % (base, name))
    return ["%s/%s" % (base, name) for name in names]


def test_an_overlay_at_a_path_of_the_host_shows_on_both_sides(systemd):
    one, two, work, upper, point = layers(systemd, "one", "two", "work", "upper", "point")
    with open(one + "/file", "w", encoding="utf-8") as stream:
        stream.write("one")
    options = dict(path=point, lower=[one], upper=upper, work=work)
    four("overlay", **options)
    assert os.listdir(point) == ["file"] and in_engine("ls", point) == "file\n"
    assert "in use" in drive.apart("overlay", dict(options, path=systemd + "/other"))["error"]
    drive.apart("namespace", dict(name="m", types=["mnt"]))
    assert in_engine("nsenter", "--mount=/run/bulkhead/mntns/m", "ls", point) == "file\n"
    options.update(lower=[one, two], on_mismatch="recreate")
    four("overlay", **options)
    assert point in mounted() and mounted().count(point) == 1
    inside = dict(path=systemd + "/inside", lower=[one, two], namespace="m")
    os.mkdir(inside["path"])
    four("overlay", **inside)
    assert not os.listdir(inside["path"])
    gone("overlay", namespace="m", path=inside["path"])
    os.rmdir(inside["path"])
    gone("overlay", path=point, remove_data=True)
    assert point not in in_engine("cat", "/proc/self/mountinfo")
    gone("namespace", name="m")


def test_an_overlay_that_the_host_will_not_see_is_told(systemd):
    private = layers(systemd, "private")[0]
    syscalls.mount("private", private, "tmpfs", 0, "")
    syscalls.mount(None, private, None, syscalls.MS_PRIVATE)
    one, two, point = layers(private, "one", "two", "point")
    answer = drive.apart("overlay", dict(path=point, lower=[one, two]))
    assert answer["changed"] and "%s is a private mount" % private in answer["warnings"][0]
    assert point not in mounted() and point in in_engine("cat", "/proc/self/mountinfo")
    gone("overlay", path=point)
    syscalls.umount(private, syscalls.MNT_DETACH)


def test_what_the_host_mounts_and_unmounts_is_followed(systemd):
    drive.apart("namespace", dict(name="m", types=["uts"]))
    point = layers(systemd, "disk")[0]
    syscalls.mount("later", point, "tmpfs", 0, "")
    os.mkdir(point + "/there")
    assert in_engine("ls", point) == "there\n"
    syscalls.umount(point)
    assert in_engine("ls", point) == ""
    gone("namespace", name="m")


def test_a_disk_that_the_host_mounts_below_our_library_is_seen():
    """The roots of a storage driver, say, when sandboxes have run before."""
    syscalls.mount(None, "/var/lib/bulkhead", None, syscalls.MS_SHARED)
    drive.apart("namespace", dict(name="m", types=["uts"]))
    os.mkdir("/var/lib/bulkhead/roots")
    syscalls.mount("later", "/var/lib/bulkhead/roots", "tmpfs", 0, "")
    os.mkdir("/var/lib/bulkhead/roots/there")
    assert in_engine("ls", "/var/lib/bulkhead/roots") == "there\n"
    in_engine("mount", "-t", "tmpfs", "ours", "/var/lib/bulkhead/roots/there")
    assert "/var/lib/bulkhead/roots/there" not in mounted()
    in_engine("umount", "/var/lib/bulkhead/roots/there")
    syscalls.umount("/var/lib/bulkhead/roots")
    assert in_engine("ls", "/var/lib/bulkhead/roots") == ""
    os.rmdir("/var/lib/bulkhead/roots")
    gone("namespace", name="m")
    syscalls.mount(None, "/var/lib/bulkhead", None, syscalls.MS_PRIVATE)


def test_ip_netns_and_we_see_the_same(systemd):
    drive.apart("namespace", dict(name="web", types=["net"]))
    with open("/run/netns/other", "w", encoding="utf-8"):
        pass
    syscalls.mount("/proc/self/ns/net", "/run/netns/other", None, syscalls.MS_BIND)
    assert "/run/netns/other" in in_engine("cat", "/proc/self/mountinfo").split()
    assert mounted().count("/run/netns/web") == mounted().count("/run/netns/other") == 1
    for name in ("other", "web"):  # by hand, as ip-netns(8) does
        syscalls.umount("/run/netns/" + name, syscalls.MNT_DETACH)
        os.unlink("/run/netns/" + name)
    assert drive.apart("namespace", dict(name="web", types=["net"]))["changed"]
    gone("namespace", name="web")


def test_lost_or_half_made_it_is_made_anew():
    drive.apart("namespace", SET)
    syscalls.umount(PIN, syscalls.MNT_DETACH)  # by somebody
    assert os.path.isfile(PIN)
    assert drive.apart("namespace", SET, True)["changed"] and drive.apart("namespace", SET)["changed"]
    assert not drive.apart("namespace", SET)["changed"]

    def damage():
        drive.new_host()
        syscalls.umount("/run/bulkhead", syscalls.MNT_DETACH)
    drive.isolated(damage)
    assert drive.apart("namespace", SET)["changed"] and not drive.apart("namespace", SET)["changed"]
    assert Counter(mounted())["/run/bulkhead"] == 1
    gone("namespace", name="web")


def test_its_working_directory_is_kept(tmp_path):
    def work():
        os.chdir(tmp_path)
        drive.converge("namespace", dict(name="web", types=["uts"]))
        return [aside.inside(drive.new_host()), os.getcwd()]
    assert drive.isolated(work) == [True, str(tmp_path)]
    gone("namespace", name="web")


def test_code_that_only_the_caller_sees_is_refused(tmp_path):
    script = "mount -t tmpfs x %s && cp -r %s/plugins %s/tests %s && cd %s && exec %s tests/system/drive.py namespace '%s'" % (
        tmp_path, drive.ROOT, drive.ROOT, tmp_path, tmp_path, sys.executable, '{"name": "web", "types": ["uts"]}')
    ended = subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, check=False)
    assert "lies in a directory that only its caller sees" in json.loads(ended.stdout)["error"]


def test_many_at_once():
    for dummy in range(5):
        answers = drive.at_once([("namespace", dict(SET, name="r%d" % (number % 4))) for number in range(12)])
        assert Counter((each["changed"], each.get("error")) for each in answers) == {(True, None): 4, (False, None): 8}
        answers = drive.at_once([("namespace", dict(GONE, name="r%d" % number)) for number in range(4)])
        assert Counter((each["changed"], each.get("error")) for each in answers) == {(True, None): 4}
        assert not drive.isolated(clear)


class Killer:
    """Counts the calls of this process that change something, and kills it before the given one."""

    CALLS = {syscalls: ("mount", "umount", "setns", "unshare"), os: ("mkdir", "unlink", "rename", "rmdir", "symlink", "fork", "write")}

    def __init__(self, at):
        self.at, self.count, self.pid = at, 0, os.getpid()
        for module, names in self.CALLS.items():
            for name in names:
                self.wrap(module, name)

    def wrap(self, module, name):
        real = getattr(module, name)

        def call(*words, **keys):
            if os.getpid() == self.pid:
                self.count += 1
                if self.count == self.at:
                    os.kill(self.pid, signal.SIGKILL)
            return real(*words, **keys)
        setattr(module, name, call)


@pytest.mark.parametrize("act", ["make", "clear"])
def test_killed_anywhere(act):
    def make():
        return drive.converge("namespace", SET)

    def count():
        killer = Killer(0)
        (make if act == "make" else clear)()
        return killer.count

    if act == "clear":
        assert drive.apart("namespace", SET)["changed"] and drive.apart("namespace", GONE)["changed"]
    points = drive.isolated(count)
    assert points > 8
    for point in range(1, points + 1):
        if act == "make":
            assert drive.apart("namespace", GONE).get("error") is None
            assert not drive.isolated(clear)
        else:
            assert drive.apart("namespace", SET)["changed"] and drive.apart("namespace", GONE)["changed"]

        def killed(point=point):
            Killer(point)
            return make() if act == "make" else clear()
        assert drive.isolated(killed)["error"] == "it died", point
        predicted, ran, again = (drive.apart("namespace", SET, check) for check in (True, False, False))
        assert "error" not in ran and not again["changed"], (point, ran, again)
        assert (predicted["changed"], predicted["actions"]) == (ran["changed"], ran["actions"]), (point, predicted, ran)
        gone("namespace", name="web")
        assert set(mounted()) & {"/run/bulkhead/ns", "/run/bulkhead/mntns"} == set()
        assert Counter(mounted())["/run/bulkhead"] == Counter(mounted())["/run/netns"] == 1


@pytest.mark.parametrize("shared", [False, True], ids=["", "a shared mount of the administrator's at /var/lib/bulkhead"])
def test_layers_that_are_mounted_are_not_among_the_hosts_mounts(systemd, shared):
    """And an overlay of one shows on both sides, also when the engine's namespace was lost, and the layer's mount with it."""
    one, two, point = layers(systemd, "one", "two", "point")
    with open(one + "/file", "w", encoding="utf-8") as stream:
        stream.write("one")
    if shared:
        syscalls.mount(None, "/var/lib/bulkhead", None, syscalls.MS_SHARED)
    four("image", name="it", squashfs=filesystems.make("squashfs", systemd + "/it", one))
    path = drive.isolated(lambda: drive.info("image", name="it")["images"][0]["lower"][0])
    assert path not in mounted() and in_engine("ls", path) == "file\n"
    four("overlay", path=point, lower=[path, two])
    assert os.listdir(point) == ["file"]
    syscalls.umount(PIN, syscalls.MNT_DETACH)
    assert drive.apart("image", dict(name="it"), True)["actions"] == ["mount layer sha256:" + path.split("/")[-2][:12]]
    assert drive.apart("image", dict(name="it"))["changed"] and not drive.apart("image", dict(name="it"))["changed"]
    assert not drive.apart("overlay", dict(path=point, lower=[path, two]))["changed"]
    assert len(filesystems.loops()) == 1 and path not in mounted() and in_engine("ls", path) == "file\n"
    gone("overlay", path=point, force=True)  # its mount has another number in the new namespace
    gone("image", name="it")
    assert not filesystems.loops()
    if shared:
        syscalls.mount(None, "/var/lib/bulkhead", None, syscalls.MS_PRIVATE)
