# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whole sandboxes on a real host, looked at from inside and from outside: namespaces by what they do, limits, and a reboot."""

from __future__ import annotations

import json
import signal

import pytest

ROOT, SHARED = "/var/lib/bulkhead-jail", "/var/lib/bulkhead-shared"
TYPES = ["net", "uts", "ipc", "mnt", "pid", "cgroup"]
MIB = 1 << 20
DAYS = 10 * 86400


@pytest.fixture(scope="module")
def jailed(connected):
    """A root directory with the host's /usr, the program, and the workloads."""
    connected.program()
    root, binds = connected.jail(ROOT)
    connected.run(["mkdir", "-p", SHARED])
    yield root, binds
    connected.run(["rm", "-rf", ROOT, SHARED])


@pytest.fixture
def sandbox(guest, jailed):
    """sandbox(name, types, workload…, **more): one with a service that runs the workload; its process id outside."""
    root, binds = jailed
    made = set()

    def act(name="t", types=tuple(TYPES), workload=("hold",), cgroup=None, sandbox=None, **namespaces):
        code = guest.workloads()
        service = {"name": "work", "command": ["/usr/bin/python3", "-ISc", code, *workload], "log": {"enabled": True}}
        bind = binds + [{"source": SHARED, "target": "/srv"}]
        one = {"name": name, "namespaces": dict(namespaces, types=list(types)), "overlay": {"lower": [root]}, "bind": bind,
               "services": [service], **({"cgroup": cgroup} if cgroup else {}), **(sandbox or {})}
        made.add(name)
        answer = guest.declare("sandbox", sandboxes=[one])
        return answer, guest.show("sandbox", name)["services"][0]["pid"]

    yield act
    guest.end()
    guest.declare("sandbox", sandboxes=[{"name": name, "state": "absent"} for name in sorted(made)], remove_data=True, kill=True)


def inside(guest, name, *workload, **options):
    return guest.start("inside", {"sandbox": name}, workload, **options)


@pytest.mark.proves("time namespace")
def test_time_namespace_shows_other_clocks(guest, sandbox):
    sandbox(types=TYPES + ["time"], time_offsets={"monotonic": 500, "boottime": DAYS})
    here, there = guest.start("here", {}, ["look"]), inside(guest, "t", "look", "/proc/uptime")
    for clock, offset in (("MONOTONIC", 500), ("BOOTTIME", DAYS), ("REALTIME", 0)):
        assert abs(there["clocks"][clock] - here["clocks"][clock] - offset) < 120, clock  # between the two looks
    assert float(there["texts"]["/proc/uptime"].split()[0]) > DAYS


@pytest.mark.proves("user namespace")
def test_user_namespace_root_is_another_outside_and_owns_its_files(guest, sandbox):
    pid = sandbox(types=["user"] + TYPES, uid_map=["0 100000 65536"], gid_map=["0 100000 65536"])[1]
    assert guest.status(pid)["Uid"].split() == ["100000"] * 4
    there = inside(guest, "t", "look", "/proc/self/uid_map")
    assert (there["uid"], there["gid"]) == (0, 0) and there["texts"]["/proc/self/uid_map"].split() == ["0", "100000", "65536"]
    guest.end()
    assert inside(guest, "t", "make", "/tmp/made") == {"uid": 0, "gid": 0}
    assert inside(guest, "t", "owner", "/etc/passwd") == {"uid": 0, "gid": 0}


@pytest.mark.proves("cgroup namespace")
def test_cgroup_namespace_hides_where_it_is(guest, sandbox):
    pid = sandbox(cgroup={"pids_max": 40})[1]
    assert inside(guest, "t", "look", "/proc/self/cgroup")["texts"]["/proc/self/cgroup"] == "0::/\n"
    assert guest.read("/proc/%d/cgroup" % pid)[0].startswith("0::/bulkhead.slice/bulkhead-t.slice/")


@pytest.mark.proves("pid, uts, net, ipc, mnt namespaces")
def test_the_other_namespaces(guest, sandbox):
    sandbox(hostname="inside-t", sysctls={"kernel.shmmax": 1234567})
    there = inside(guest, "t", "look", "/proc/net/dev", "/proc/sys/kernel/shmmax", "/proc/1/comm", "/proc/self/mounts")
    assert there["hostname"] == "inside-t" != guest.start("here", {}, ["look"])["hostname"]
    assert there["pid"] < 50
    assert [line.split(":")[0].strip() for line in there["texts"]["/proc/net/dev"].splitlines()[2:]] == ["lo"]
    assert there["texts"]["/proc/sys/kernel/shmmax"] == "1234567\n"
    assert [line.split()[0] for line in there["texts"]["/proc/self/mounts"].splitlines() if line.split()[1] == "/"] == ["overlay"]


@pytest.mark.core
@pytest.mark.proves("limits of a sandbox")
def test_limits_reach_service_and_visitors(guest, sandbox):
    """A hog that is run in one sandbox is killed; its service and the other sandbox are not. A changed limit restarts nothing."""
    pid = sandbox(cgroup={"memory_max": "64M", "memory_swap_max": 0, "pids_max": 40})[1]
    born = guest.started(pid)
    inside(guest, "t", "hog", 200, patience=0)
    assert guest.wait("inside") in (-signal.SIGKILL, 128 + signal.SIGKILL)
    assert guest.table(guest.path("bulkhead/t") + "/memory.events")["oom_kill"] == 1
    again, same = sandbox(cgroup={"memory_max": "96M", "memory_swap_max": 0, "pids_max": 30})
    assert again["changed"] and again["restart_required"] == []
    assert same == pid and guest.started(pid) == born
    assert guest.number(guest.path("bulkhead/t") + "/pids.max") == 30
    assert guest.number(guest.path("bulkhead/t") + "/memory.max") == 96 * MIB


@pytest.mark.proves("limits after a reboot")
def test_sandbox_and_limits_are_back_after_a_reboot(guest, sandbox):
    declared = {"cgroup": {"memory_max": "64M", "memory_swap_max": 0, "pids_max": 20, "cpu_max": "30%"}, "hostname": "inside-t"}
    first = sandbox(**declared)[1]
    assert guest.reboot() == "running", guest.run(["systemctl", "--failed"])[1]
    shown = guest.show("sandbox", "t")
    assert shown["services"][0]["pid"] not in (None, 0), json.dumps(shown)
    answer, second = sandbox(**declared)
    assert not answer["changed"], answer["actions"]
    assert second and guest.read("/proc/%d/cgroup" % second)[0].startswith("0::/bulkhead.slice/bulkhead-t.slice/"), first
    path = guest.path("bulkhead/t")
    assert guest.read(path + "/cpu.max")[0] == "30000 100000\n" and guest.number(path + "/memory.max") == 64 * MIB
    assert inside(guest, "t", "fork", 40)["reason"] == "EAGAIN"
    inside(guest, "t", "hog", 200, patience=0)
    assert guest.wait("inside") in (-signal.SIGKILL, 128 + signal.SIGKILL)
