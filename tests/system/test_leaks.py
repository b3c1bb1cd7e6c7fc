# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Made and removed three hundred times: nothing is there more than before, in the kernel, on the disk or in this process.

The first cycles may leave what stays for good (the places of the engine, imported modules); the snapshot is taken after them.
"""

from __future__ import annotations

import os

import drive
import jail
import leftovers
import pytest
from cycles import act, cycle

from module_utils._supervisor import entry, scan

CYCLES = int(os.environ.get("BULKHEAD_CYCLES", "300"))
BASE = "/run/leaks"
TYPES = ["net", "uts", "ipc", "mnt", "pid", "cgroup"]


@pytest.fixture(autouse=True)
def furnished(leaves_nothing):
    jail.make(BASE + "/root")
    yield
    jail.clear()
    entry.clear(drive.new_host())
    drive.command(["rm", "-rf", BASE])


def sandbox(**more):
    one = dict(name="web", namespaces=dict(types=TYPES, hostname="web"), cgroup=dict(pids_max=50, memory_max="64M"),
               overlay=dict(lower=[BASE + "/root"]), bind=jail.BINDS, tmpfs=[dict(target="/run", size="1M")])
    return "sandbox", dict(sandboxes=[dict(one, **more)], remove_data=True, kill=True)


NO_SANDBOX = ("sandbox", dict(sandboxes=[dict(name="web", state="absent")], remove_data=True, kill=True))
CASES = {
    "cgroup": (("cgroup", dict(name="bulkhead/web", memory_max="64M", pids_max=50, cpu_max="50%")),
               ("cgroup", dict(name="bulkhead/web", state="absent"))),
    "namespace": (("namespace", dict(name="web", types=TYPES + ["time"], hostname="web", loopback=True, sysctls={"net.ipv4.ip_forward": 1})),
                  ("namespace", dict(name="web", state="absent"))),
    "namespace-owned": (("namespace", dict(name="web", types=["user", "net", "pid", "mnt"], uid_map=["0 100000 100"], gid_map=["0 100000 100"])),
                        ("namespace", dict(name="web", state="absent"))),
    "overlay": (("overlay", dict(path="/run/bulkhead/mnt/web", lower=[BASE + "/root"], upper="/var/lib/bulkhead/uppers/web/upper",
                                 work="/var/lib/bulkhead/uppers/web/work")),
                ("overlay", dict(path="/run/bulkhead/mnt/web", state="absent", remove_data=True))),
    "sandbox": (sandbox(), NO_SANDBOX),
}


LAB = ("network", dict(name="lab", subnets=["10.42.0.0/24", "fd00:42::/64"]))
NO_LAB = ("network", dict(name="lab", state="absent"))
NO_INTERFACE = ("interface", dict(interfaces=[dict(namespace="web", name="eth0", state="absent")]))


@pytest.mark.parametrize("name", CASES)
def test_made_and_removed(name):
    cycle(*CASES[name], times=CYCLES)


def test_networks_and_their_members():
    """Fewer, as the kernel takes its time for a bridge."""
    cycle(LAB, NO_LAB, times=max(CYCLES // 6, 1))
    act(LAB)
    act(("namespace", dict(name="web", types=["net"])))
    full = dict(namespace="web", name="eth0", network="lab", publish=["8080:80"], bandwidth={"transmit": "10mbit", "receive": "10mbit"},
                routes=[{"to": "10.9.0.0/16", "via": "10.42.0.9"}], rules=[{"from": "10.42.0.0/24", "table": 100}])
    cycle(("interface", dict(interfaces=[full])), NO_INTERFACE, times=max(CYCLES // 3, 1))
    act(("namespace", dict(name="web", state="absent")))
    cycle(sandbox(network="lab"), NO_SANDBOX, times=max(CYCLES // 6, 1))
    act(NO_LAB)


def test_services_started_and_removed():
    """With its supervisor; fewer, as each start waits for runsv."""
    service = dict(name="sleep", command=["/usr/bin/sleep", "76543"], log=False)
    cycle(sandbox(services=[service]), NO_SANDBOX, times=max(CYCLES // 15, 1))
    scan.shutdown(drive.new_host())


def test_failures_leave_nothing():
    """A run that is refused or fails half-way, again and again."""
    make, remove = sandbox(services=[dict(name="bad", command=["/nonexistent"], log=False)])[1], NO_SANDBOX
    assert "error" in drive.converge("sandbox", make)
    drive.converge(*remove)
    before = leftovers.Snapshot()
    for dummy in range(max(CYCLES // 30, 1)):
        assert "error" in drive.converge("sandbox", make)
    drive.converge(*remove)
    left = before.settled()
    assert not left, "\n".join(left)
    scan.shutdown(drive.new_host())


def test_changes_leave_nothing():
    """The same object changed to and fro."""
    act(("cgroup", dict(name="bulkhead/web", pids_max=50)))
    act(("namespace", dict(name="web", types=["uts", "net"], hostname="one")))
    before = leftovers.Snapshot()
    for number in range(CYCLES):
        act(("cgroup", dict(name="bulkhead/web", pids_max=60 - number % 2)))
        act(("namespace", dict(name="web", types=["uts", "net"], hostname="two" if number % 2 else "three")))
    left = before.settled()
    assert not left, "\n".join(left)
