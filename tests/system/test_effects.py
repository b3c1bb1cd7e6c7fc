# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What docs/support.md says of hosts without systemd: the effect on the same workloads as in tests/hosts/effects, or the refusal."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time

import agent as agents
import drive
import jail
import pytest
import record
from guest import near

NAME, OTHER = "bulkhead/t", "bulkhead/other"
TYPES = ["net", "uts", "ipc", "mnt", "pid", "cgroup"]
KILLED = -signal.SIGKILL
DAYS = 10 * 86400


@pytest.fixture
def agent(leaves_nothing):
    found = agents.Agent()
    yield found
    found.end()
    jail.clear()
    state = drive.new_host().state
    for path in (state + "/service/.seccomp", state + "/code"):  # what is kept for the next run
        shutil.rmtree(path, ignore_errors=True)
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:  # keepers whose parent, the program, has ended
            pass
    except ChildProcessError:
        pass


@pytest.fixture
def group(agent, converge):
    """group(name, **limits): the place of a cgroup that has been made or changed."""

    def act(name=NAME, **limits):
        converge("cgroup", name=name, **limits)
        return {"cgroup": name}

    return act


def usage(name, word):
    return drive.resource("cgroup").show(drive.new_host(), name)["usage"][word]


def grown(names, word, seconds=2):
    """By how much a counter grows in each of some cgroups in the same time, and that time."""
    before, start = [usage(name, word) for name in names], time.monotonic()
    time.sleep(seconds)
    after, passed = [usage(name, word) for name in names], time.monotonic() - start
    return [new - old for old, new in zip(before, after)], passed


REFUSED = {
    "memory_high": {"memory_high": "32M"},
    "memory_min": {"memory_min": "32M"},
    "memory_oom_group": {"memory_oom_group": True},
    "io_latency": {"io_latency": [{"device": "/var/tmp", "target": "10ms"}]},
    "hugetlb": {"hugetlb": {"2MB": {"max": "4M"}}},
    "delegate": {"delegate": {"user": "nobody"}},
}


@pytest.mark.parametrize("option", [
    pytest.param("memory_high", marks=pytest.mark.proves("memory_high")),
    pytest.param("memory_min", marks=pytest.mark.proves("memory_min")),
    pytest.param("memory_oom_group", marks=pytest.mark.proves("memory_oom_group")),
    pytest.param("io_latency", marks=pytest.mark.proves("io_latency")),
    pytest.param("hugetlb", marks=pytest.mark.proves("hugetlb")),
    pytest.param("delegate", marks=pytest.mark.proves("delegate")),
])
def test_refused_by_name(request, refuse, option):
    line = refuse("cgroup", name=NAME, **REFUSED[option])
    assert option in line
    request.node.stash[record.REASON] = line


@pytest.mark.proves("limits after daemon-reload")
def test_there_is_no_systemd(request, host):
    assert not os.path.exists("/run/systemd/system")
    request.node.stash[record.REASON] = "There is no systemd, and nobody else writes to the cgroups."


@pytest.mark.proves("memory_max")
def test_memory_max_kills_the_hog_and_nothing_else(agent, group):
    limited, other = group(memory_max="48M", memory_swap_max=0), group(OTHER, pids_max=50)
    agent.start("beside", limited, ["hold"])
    agent.start("elsewhere", other, ["hog", 60])
    agent.start("hog", limited, ["hog", 200], patience=0)
    assert agent.wait("hog") == KILLED
    assert agent.wait("beside", 0) is None and agent.wait("elsewhere", 0) is None


@pytest.mark.proves("memory_swap_max")
def test_swap_is_limited_by_itself(request, agent, group):
    with open("/proc/swaps", encoding="ascii") as stream:
        if len(stream.readlines()) < 2:
            request.node.stash[record.REASON] = "The option is taken, and the host of the tests has no swap space."
            pytest.skip("no swap space")
    limited = group(memory_max="32M", memory_swap_max="16M")
    agent.start("hog", limited, ["hog", 96], patience=0)
    assert agent.wait("hog") == KILLED


@pytest.mark.proves("cpu_max")
def test_cpu_max_throttles(agent, group):
    agent.start("spin", group(cpu_max="4%"), ["spin"])
    jail.until(lambda: usage(NAME, "nr_throttled") >= 5, 60)
    (used,), passed = grown([NAME], "cpu_usec")
    assert used < 0.052 * passed * 1000000


@pytest.mark.proves("cpu_weight")
def test_cpu_weight_shares(agent, group):
    names = [NAME + "/light", NAME + "/heavy"]
    for name, weight in zip(names, (100, 300)):
        agent.start(name, group(name, cpu_weight=weight, cpuset_cpus="0"), ["spin"])
    (light, heavy), dummy = grown(names, "cpu_usec", 4)
    assert near(heavy / light, 3)


@pytest.mark.proves("cpuset_cpus")
def test_cpuset_pins(agent, group):
    assert agent.start("one", group(cpuset_cpus="1"), ["affinity", 0]) == {"before": [1], "reason": "EINVAL", "after": [1], "on": 1}
    assert agent.start("two", group(cpuset_cpus="0"), ["affinity", 1]) == {"before": [0], "reason": "EINVAL", "after": [0], "on": 0}


@pytest.mark.proves("io_max")
@pytest.mark.parametrize("verb, word", [("read", "rbps"), ("write", "wbps")])
def test_io_max_holds_a_disk_to_its_rate(agent, group, verb, word):
    path = "/var/tmp/bulkhead-data"
    try:
        assert agent.run(["dd", "if=/dev/zero", "of=" + path, "bs=1M", "count=8", "oflag=direct", "status=none"])[0] == 0
        agent.start("disk", group(io_max=[{"device": "/var/tmp", word: "2M"}]), ["disk", verb, path, 8 << 20])
        done = agent.line("disk")
    finally:
        os.unlink(path)
    assert near(done["moved"] / done["seconds"], 2 << 20)


@pytest.mark.proves("io_weight")
def test_io_weight(request, refuse, converge):
    answer = drive.converge("cgroup", {"name": NAME, "io_weight": 300})
    if "error" in answer:
        request.node.stash[record.REASON] = answer["error"]
        return
    converge("cgroup", name=NAME, state="absent")
    request.node.stash[record.REASON] = "The option is taken, and the disk of the tests has no scheduler that shares by it."
    pytest.skip("no scheduler that shares")


@pytest.mark.proves("pids_max")
def test_pids_max_makes_fork_fail(agent, group):
    assert agent.start("fork", group(pids_max=5), ["fork", 10]) == {"children": 4, "reason": "EAGAIN"}
    assert agent.start("again", group(pids_max="max"), ["fork", 10]) == {"children": 10, "reason": None}


@pytest.mark.proves("frozen")
def test_freeze_stops_and_thaw_goes_on(agent, group, tmp_path):
    path = str(tmp_path / "count")
    agent.start("count", group(), ["count", path])
    group(frozen=True)
    first = agent.read(path)
    time.sleep(0.5)
    assert agent.read(path) == first
    group(frozen=False)
    jail.until(lambda: agent.read(path) != first)


@pytest.mark.proves("pressure")
def test_pressure_is_shown(request, agent, group):
    agent.start("hold", group(cpu_max="4%"), ["hold"])
    assert "pressure_stall" not in drive.resource("cgroup").show(drive.new_host(), NAME)
    request.node.stash[record.REASON] = "The kernel counts pressure for cgroups of cgroup v2, and here the cgroups with controllers are v1's."


@pytest.mark.proves("limits changed in place")
def test_a_limit_changed_in_place_leaves_the_process_alone(agent, group):
    place = group(memory_max="200M", memory_swap_max=0)
    agent.start("grow", place, ["grow"])
    agent.tell("grow", 20)
    assert agent.line("grow") == {"held": 20}
    group(memory_max="48M", memory_swap_max=0)
    assert agent.wait("grow", 0) is None
    agent.tell("grow", 100)
    assert agent.wait("grow") == KILLED


# -- sandboxes

@pytest.fixture
def sandbox(agent, converge, tmp_path):
    """sandbox(types, …): one that runs a workload, and what another says inside."""
    agent.program(str(tmp_path / "bulkhead"))
    root = jail.make(tmp_path / "root")

    def act(types=tuple(TYPES), cgroup=None, **namespaces):
        python = os.path.realpath(sys.executable)
        service = {"name": "work", "command": [python, "-ISc", agents.WORKLOADS, "hold"]}
        converge("sandbox", sandboxes=[{"name": "t", "namespaces": dict(namespaces, types=list(types)), "root": root, "bind": jail.BINDS,
                                        "services": [service], **({"cgroup": cgroup} if cgroup else {})}])
        return drive.resource("sandbox").show(drive.new_host(), "t")["services"][0]["pid"]

    return act


def look(agent, *paths):
    """What a workload finds inside."""
    return agent.start("inside", {"sandbox": "t"}, ["look", *paths])


@pytest.mark.proves("time namespace")
def test_time_namespace_shows_other_clocks(agent, sandbox):
    sandbox(types=TYPES + ["time"], time_offsets={"monotonic": 500, "boottime": DAYS})
    here, there = agent.start("here", {}, ["look"]), look(agent)
    for clock, offset in (("MONOTONIC", 500), ("BOOTTIME", DAYS), ("REALTIME", 0)):
        assert abs(there["clocks"][clock] - here["clocks"][clock] - offset) < 60, clock


@pytest.mark.proves("user namespace")
def test_user_namespace_root_is_another_outside_and_owns_its_files(agent, sandbox):
    pid = sandbox(types=["user"] + TYPES, uid_map=["0 100000 65536"], gid_map=["0 100000 65536"])
    assert agent.status(pid)["Uid"].split() == ["100000"] * 4
    there = look(agent)
    assert (there["uid"], there["gid"]) == (0, 0)
    assert agent.start("make", {"sandbox": "t"}, ["make", "/tmp/made"]) == {"uid": 0, "gid": 0}


@pytest.mark.proves("cgroup namespace")
def test_cgroup_namespace_hides_where_it_is(agent, sandbox):
    sandbox(cgroup={"pids_max": 40})
    text = look(agent, "/proc/self/cgroup")["texts"]["/proc/self/cgroup"]
    assert all(NAME not in line and line.count("/") < 3 for line in text.splitlines()), text


@pytest.mark.proves("pid, uts, net, ipc, mnt namespaces")
def test_the_other_namespaces(agent, sandbox):
    sandbox(hostname="inside-t", sysctls={"kernel.shmmax": 1234567})
    there = look(agent, "/proc/net/dev", "/proc/sys/kernel/shmmax")
    assert there["hostname"] == "inside-t" and there["pid"] < 50
    assert [line.split(":")[0].strip() for line in there["texts"]["/proc/net/dev"].splitlines()[2:]] == ["lo"]
    assert there["texts"]["/proc/sys/kernel/shmmax"] == "1234567\n"


@pytest.mark.proves("limits of a sandbox")
def test_limits_reach_service_and_visitors(agent, sandbox):
    limits = {"memory_max": "64M", "memory_swap_max": 0, "pids_max": 40}
    pid = sandbox(cgroup=limits)
    agent.start("hog", {"sandbox": "t"}, ["hog", 200], patience=0)
    assert agent.wait("hog") in (KILLED, 128 + signal.SIGKILL)
    assert sandbox(cgroup=dict(limits, pids_max=30)) == pid


@pytest.mark.proves("limits after a reboot")
def test_sandbox_and_limits_are_back_after_all_is_gone(agent, sandbox):
    """What a reboot takes is taken, and restored as at boot."""
    sandbox(cgroup={"pids_max": 20})
    for verb in ("clear", "restore"):
        status, dummy, errors = agent.run([agent.entry, verb])
        assert status == 0, errors
    assert agent.start("fork", {"sandbox": "t"}, ["fork", 40])["reason"] == "EAGAIN"
