# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the composite asks of a set of namespaces: a prepared root, the template that it starts from, and exactness."""

from __future__ import annotations

import errno
import os
import signal

import pytest

import drive

from module_utils._engine import places
from module_utils._engine.lock import Lock
from module_utils._engine.plan import Plan, run_plan
from module_utils._kernel import mountinfo, nsfs, syscalls
from module_utils._model.errors import BulkheadError, Problems
from module_utils._model.namespace import NamespaceSpec
from module_utils._resources import namespace

TYPES = ["net", "uts", "ipc", "mnt", "pid", "cgroup"]
MAPS = dict(uid_map=["0 100000 65536"], gid_map=["0 100000 65536"])


@pytest.fixture(autouse=True)
def tidy():
    yield
    drive.converge("namespace", dict(name="web", state="absent", kill=True))


def furnish(host, fail=None):
    """The smallest prepared root: a tmpfs with /proc and /sys."""
    source = os.open("/etc", syscalls.O_PATH | os.O_CLOEXEC)  # what is opened before is there to be used inside

    def inside():
        assert sorted(os.listdir("/")) == ["dev", "proc", "root", "sys"] and os.path.exists("/proc/sys/kernel") and os.path.exists("/sys/fs")
        if fail:
            raise fail
        syscalls.mount("root", "/root", "tmpfs", 0, "mode=755,size=64k")
        for name in ("proc", "sys", "here"):
            os.mkdir("/root/" + name)
        syscalls.mount("proc", "/root/proc", "proc", syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC)
        syscalls.mount("sysfs", "/root/sys", "sysfs", syscalls.MS_RDONLY | syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC)
        assert os.fstat(source).st_ino
        os.chdir("/root")
        syscalls.pivot_root(".", ".")
        syscalls.umount(".", syscalls.MNT_DETACH)

    return inside, lambda: os.close(source)


def spec(state="present", furnished=None, stale=False, recorded=None, **options):
    problems = Problems()
    made = NamespaceSpec.from_options(options, "sandboxes[0].namespaces", problems, name="web")
    problems.raise_if_any()
    made.state, made.furnish, made.root_stale = state, furnished, stale
    made.drop(recorded)
    return made


def converge(*args, **options):
    host = drive.new_host()
    wanted, plan = spec(*args, **options), Plan("web")
    with Lock(host.lock, "test"):
        namespace.plan(host, wanted, plan)
        if plan.steps:
            places.ensure(host)
        run_plan(plan)
    assert not plan.records  # the composite writes its own
    return wanted, plan


def pins():
    return namespace.Found(drive.new_host(), "web").pins


def identities():
    return {kind: pin.identity for kind, pin in pins().items() if pin.alive}


@pytest.mark.parametrize("options", [dict(types=TYPES), dict(types=["user"] + TYPES, **MAPS)])
def test_a_prepared_root(options):
    wanted, plan = converge("present", furnish, **options)
    assert sorted(wanted.made) == sorted(options["types"]) and wanted.renewed == []
    keeper = pins()["pid"].init
    table = mountinfo.read("/proc", keeper)
    assert [(mount.target, mount.fstype) for mount in table.mounts] == [("/", "tmpfs"), ("/proc", "proc"), ("/sys", "sysfs")]
    assert sorted(os.listdir("/proc/%d/root" % keeper)) == ["here", "proc", "sys"]
    assert os.readlink("/proc/%d/cwd" % keeper) == "/"
    assert os.listdir("/proc/%d/fd" % keeper) == []
    assert not any(mount.source == "root" for mount in mountinfo.read("/proc").mounts)  # nothing of it shows on the host
    wanted, plan = converge("present", furnish, **options)
    assert not plan.steps and wanted.made == wanted.renewed == []


def test_a_stale_root_takes_the_pid_namespace_along():
    converge("present", furnish, types=TYPES)
    before = identities()
    wanted, plan = converge("present", furnish, True, types=TYPES)
    assert wanted.made == wanted.renewed == ["pid", "mnt"]
    assert plan.actions == ["remove pid, mnt of namespaces web", "create pid, mnt of namespaces web"]
    after = identities()
    assert all(before[kind] == after[kind] for kind in TYPES if kind not in wanted.made)
    keeper = pins()["pid"].init
    assert all(nsfs.identity("/proc/%d/ns/%s" % (keeper, kind)) == after[kind] for kind in TYPES)


@pytest.mark.parametrize("kind", ["net", "ipc", "cgroup"])
def test_what_the_root_captured_is_made_anew_with_it(kind):
    converge("present", furnish, types=TYPES)
    before = identities()
    nsfs.unpin(pins()[kind].path)
    wanted, plan = converge("present", furnish, types=TYPES)
    assert set(wanted.made) == {"pid", "mnt", kind} and set(wanted.renewed) == {"pid", "mnt"}
    assert all(before[each] == identities()[each] for each in TYPES if each not in wanted.made)  # a number may be used again


def test_a_dead_keeper():
    converge("present", furnish, types=TYPES)
    keeper = pins()["pid"].init
    os.kill(keeper, signal.SIGKILL)
    os.waitpid(keeper, 0)
    wanted, plan = converge("present", furnish, types=TYPES)
    assert wanted.made == ["pid", "mnt"] and wanted.renewed == ["mnt"]
    assert not converge("present", furnish, types=TYPES)[1].steps


@pytest.mark.parametrize("fail, text", [
    (OSError(errno.ENOENT, "No such file or directory", "/srv/base"), "No such file or directory (/srv/base)"),
    (BulkheadError("Cannot mount /x: because. Do that."), "Cannot mount /x: because. Do that."),
    (ValueError("a fault"), "ValueError: a fault"),
])
def test_a_root_that_cannot_be_furnished_leaves_nothing(fail, text):
    with pytest.raises(BulkheadError) as caught:
        converge("present", lambda host: furnish(host, fail), types=TYPES)
    assert text in caught.value.message
    assert not namespace.Found(drive.new_host(), "web").exists
    assert not os.path.exists("/run/bulkhead/ns/web") and drive.new_host().claims.read("namespace", "web") is None


def test_the_template_is_one_and_read_only():
    converge("present", furnish, types=["mnt"])
    path = nsfs.pin_path(drive.new_host(), nsfs.TEMPLATE, "mnt")
    first = nsfs.identity(path)
    converge("absent", types=["mnt"])
    converge("present", furnish, types=["mnt"])
    assert nsfs.identity(path) == first
    with pytest.raises(OSError) as caught:
        nsfs.child({"mnt": path}, lambda: os.mkdir("/new"))
    assert caught.value.errno == errno.EROFS
    assert nsfs.child({"mnt": path}, lambda: "\n".join(sorted(mount.target for mount in mountinfo.read("/proc").mounts))) == "/\n/proc\n/sys"


def test_types_are_exact():
    converge("present", types=["net", "uts", "pid"])
    before = identities()
    wanted, plan = converge("present", types=["net"])
    assert plan.actions == ["remove uts, pid of namespaces web"]
    assert wanted.renewed == ["uts", "pid"] and identities() == {"net": before["net"]}
    assert plan.before["types"] == ["uts", "net", "pid"] and plan.after["types"] == ["net"]


def test_what_is_dropped_returns_to_what_is_new():
    recorded = dict(types=["net", "uts", "time", "ipc"], hostname="old", loopback=False, time_offsets={"boottime": 5},
                    sysctls={"net.ipv4.ip_forward": 1, "kernel.shmmax": 4096})
    converge("present", **recorded)
    with pytest.raises(BulkheadError) as caught:
        converge("present", recorded=recorded, types=["net", "uts", "time", "ipc"])
    assert "time_offsets" in caught.value.message
    again = dict(types=["net", "uts", "time", "ipc"], time_offsets={"boottime": 5})
    wanted, plan = converge("present", recorded=recorded, **again)
    assert plan.after["hostname"] == os.uname().nodename and plan.after["loopback"] is True
    assert plan.after["sysctls.net/ipv4/ip_forward"] == "0" and int(plan.after["sysctls.kernel/shmmax"]) > 4096
    assert not converge("present", recorded=recorded, **again)[1].steps
