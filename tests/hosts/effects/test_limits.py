# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the limits of memory, cpu, processes and huge pages do to a workload under them, by the kernel's own counters."""

from __future__ import annotations

import signal

import pytest
from guest import eventually, near, shares

KILLED = -signal.SIGKILL
MIB = 1 << 20


# -- memory

@pytest.mark.core
@pytest.mark.proves("memory_max")
def test_memory_max_kills_the_hog_and_nothing_else(guest, group):
    limited, other = group(memory_max="48M", memory_swap_max=0), group("bulkhead/other", pids_max=50)
    limited.start("beside", "hold")
    other.start("elsewhere", "hog", 60)
    limited.start("hog", "hog", 200, patience=0)
    assert guest.wait("hog") == KILLED
    assert limited.table("memory.events")["oom_kill"] == 1 and other.table("memory.events")["oom_kill"] == 0
    assert limited.number("memory.peak") <= 48 * MIB
    assert guest.wait("beside", 0) is None and guest.wait("elsewhere", 0) is None


@pytest.mark.proves("memory_high")
def test_memory_high_throttles(guest, group):
    limited = group(memory_high="32M", memory_swap_max=0)
    limited.start("hog", "hog", 400, patience=0)
    guest.until(limited.file("memory.events"), "high", 100)
    assert limited.number("memory.current") < 64 * MIB  # on its way to 400, it was slowed down and not killed
    assert limited.table("memory.events")["oom_kill"] == 0 and guest.wait("hog", 0) is None
    assert limited.shown()["pressure_stall"]["memory"]["full"]["total"] > 0


@pytest.mark.proves("memory_high")
def test_memory_high_reclaims_into_swap(guest, group, swap):
    limited = group(memory_high="32M")
    assert limited.start("hog", "hog", 64)["held"] == 64
    assert limited.number("memory.current") < 48 * MIB and limited.number("memory.swap.current") > 24 * MIB
    events = limited.table("memory.events")
    assert events["high"] > 0 and events["oom_kill"] == 0


@pytest.mark.proves("memory_swap_max")
def test_swap_is_limited_by_itself(guest, group, swap):
    limited = group(memory_max="32M", memory_swap_max="64M")
    assert limited.start("one", "hog", 64)["held"] == 64
    assert limited.number("memory.swap.current") > 32 * MIB
    guest.end()
    limited.declare(memory_swap_max="16M")
    limited.start("two", "hog", 64, patience=0)
    assert guest.wait("two") == KILLED
    assert limited.table("memory.events")["oom_kill"] == 1


@pytest.mark.proves("memory_min")
def test_memory_min_is_not_reclaimed(guest, group, swap):
    """Two siblings under one limit: who hogs is swapped out, who is protected is not."""
    parent, safe, hog = group(memory_max="64M"), group("bulkhead/t/safe", memory_min="48M"), group("bulkhead/t/hog", pids_max=50)
    safe.start("safe", "hog", 32)
    hog.start("hog", "hog", 64)
    assert safe.number("memory.swap.current") == 0 and safe.number("memory.current") >= 32 * MIB
    assert hog.number("memory.swap.current") > 16 * MIB and parent.table("memory.events")["oom_kill"] == 0


@pytest.mark.proves("memory_oom_group")
def test_oom_group_kills_all_together(guest, group):
    limited = group(driver="cgroupfs", memory_max="48M", memory_swap_max=0, memory_oom_group=True)
    limited.start("family", "family", 3, 200)
    assert guest.wait("family") == KILLED
    events = limited.table("memory.events")
    assert events["oom_group_kill"] == 1 and events["oom_kill"] >= 4  # the first victim may be counted twice
    eventually(lambda: limited.table("cgroup.events")["populated"] == 0)


# -- cpu

@pytest.mark.core
@pytest.mark.proves("cpu_max")
def test_cpu_max_throttles(guest, group):
    limited = group(cpu_max="20%")
    limited.start("spin", "spin")
    guest.until(limited.file("cpu.stat"), "nr_throttled", 5)  # the time of its start is over
    assert near(limited.rate("cpu.stat", "usage_usec"), 200000)
    assert limited.rate("cpu.stat", "nr_throttled", 1) > 3
    limited.declare(cpu_max="50%")
    assert near(limited.rate("cpu.stat", "usage_usec"), 500000)


@pytest.mark.proves("cpu_weight")
def test_cpu_weight_shares(group):
    groups = [group("bulkhead/light", cpu_weight=100, cpuset_cpus="0"), group("bulkhead/heavy", cpu_weight=300, cpuset_cpus="0")]
    for each in groups:
        each.start(each.name, "spin")
    light, heavy = shares(groups, "cpu.stat", "usage_usec")
    assert near(heavy / light, 3)


@pytest.mark.proves("cpuset_cpus")
def test_cpuset_pins(guest, group):
    limited = group(cpuset_cpus="1")
    assert limited.start("one", "affinity", 0) == {"before": [1], "reason": "EINVAL", "after": [1], "on": 1}
    limited.start("two", "spin")
    limited.declare(cpuset_cpus="0")  # what runs already moves, too
    assert limited.start("three", "affinity", 1) == {"before": [0], "reason": "EINVAL", "after": [0], "on": 0}
    assert guest.status(guest.pid("two"))["Cpus_allowed_list"] == "0"


# -- processes

@pytest.mark.core
@pytest.mark.proves("pids_max")
def test_pids_max_makes_fork_fail(guest, group):
    limited = group(pids_max=5)
    assert limited.start("fork", "fork", 10) == {"children": 4, "reason": "EAGAIN"}
    # pids.events is no witness: before Linux 6.11 it counts in the cgroup of the process, which is below
    limited.declare(pids_max="max")
    assert limited.start("again", "fork", 10) == {"children": 10, "reason": None}


# -- huge pages

@pytest.mark.proves("hugetlb")
def test_huge_pages_are_limited(guest, group, request):
    assert guest.run(["sysctl", "-qw", "vm.nr_hugepages=8"])[0] == 0
    request.addfinalizer(lambda: guest.run(["sysctl", "-qw", "vm.nr_hugepages=0"]))
    limited = group(driver="cgroupfs", allow_undelegated=True, hugetlb={"2MB": {"max": "4M"}})
    assert limited.start("huge", "huge", 3) == {"touched": 1}
    assert guest.line("huge") == {"touched": 2}
    assert guest.wait("huge") == -signal.SIGBUS
    assert limited.table("hugetlb.2MB.events")["max"] == 1


@pytest.mark.proves("hugetlb")
def test_huge_pages_are_limited_when_they_are_reserved(guest, group, request):
    assert guest.run(["sysctl", "-qw", "vm.nr_hugepages=8"])[0] == 0
    request.addfinalizer(lambda: guest.run(["sysctl", "-qw", "vm.nr_hugepages=0"]))
    limited = group(driver="cgroupfs", allow_undelegated=True, hugetlb={"2MB": {"rsvd_max": "4M"}})
    assert limited.start("huge", "huge", 3) == {"touched": 0, "reason": "ENOMEM"}
    assert limited.start("two", "huge", 2) == {"touched": 1}


# -- freezing and pressure

@pytest.mark.proves("frozen")
def test_freeze_stops_and_thaw_goes_on(guest, group):
    frozen = group(pids_max=50)
    frozen.start("count", "count", "/var/tmp/bulkhead-count")
    frozen.declare(frozen=True)
    assert frozen.table("cgroup.events")["frozen"] == 1
    before, after, dummy = guest.watch(["/var/tmp/bulkhead-count", frozen.file("cpu.stat")], 1)
    assert before[0] == after[0] and frozen.rate("cpu.stat", "usage_usec", 0.5) == 0
    frozen.declare(frozen=False)
    before, after, dummy = guest.watch(["/var/tmp/bulkhead-count"], 1)
    assert int(after[0]) > int(before[0])


@pytest.mark.proves("pressure")
def test_pressure_is_shown(guest, group):
    limited = group(cpu_max="10%")
    before = limited.shown()["pressure_stall"]["cpu"]["some"]["total"]
    limited.start("spin", "spin")
    guest.until(limited.file("cpu.stat"), "nr_throttled", 5)
    after = limited.shown()["pressure_stall"]["cpu"]["some"]["total"]
    assert after - before > 100000  # microseconds in which it wanted to run and could not
