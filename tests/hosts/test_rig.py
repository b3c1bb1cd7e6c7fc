# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The test hosts themselves: what they are, and that they come back clean, reboot, and survive a power cut."""

from __future__ import annotations

import os
import time

import pytest

VERSIONS = {"debian12": ("12", 252), "debian13": ("13", 257)}


@pytest.mark.core
def test_is_what_a_fleet_has(host):
    version, systemd = VERSIONS[host.name]
    assert host.run(". /etc/os-release; echo $VERSION_ID").strip() == version
    assert int(host.run("systemctl --version").split()[1]) == systemd
    assert host.run("cat /proc/1/comm").strip() == "systemd"
    assert host.run("stat -fc %T /sys/fs/cgroup").strip() == "cgroup2fs"
    assert {"cpu", "cpuset", "io", "memory", "pids"} <= set(host.run("cat /sys/fs/cgroup/cgroup.controllers").split())
    assert host.machine.ssh("id -un", capture_output=True, text=True).stdout.strip() == "tester"
    assert abs(float(host.run("date +%s.%N")) - time.time()) < 60


@pytest.mark.core
def test_comes_back_clean(host):
    host.run("touch /root/made; mkdir -p /run/made; systemd-run --quiet --unit=made sleep 1000000")
    host.reset()
    assert host.attempt("test -e /root/made || test -e /run/made || systemctl is-active made")[0] != 0
    assert host.settle() == "running"


def test_reboots(fresh_host):
    before = fresh_host.boot_id()
    fresh_host.run("touch /root/made /run/made; sync")
    fresh_host.reboot()
    assert fresh_host.boot_id() != before
    assert fresh_host.attempt("test -e /root/made")[0] == 0
    assert fresh_host.attempt("test -e /run/made")[0] == 1


def test_survives_a_power_cut(fresh_host):
    fresh_host.run("echo flushed >/root/made; sync; echo lost >/root/unflushed")
    fresh_host.poweroff()
    assert not fresh_host.machine.is_running()
    fresh_host.start()
    assert fresh_host.run("cat /root/made").strip() == "flushed"
    assert fresh_host.settle() == "running"


@pytest.mark.core
def test_the_engine_runs_there(host):
    answer = host.converge("cgroup", check=True, name="bulkhead/rig", memory_max="64M")
    assert answer["changed"] and "error" not in answer, answer


def test_nothing_stays(machine):
    """All that a host is lies in its directory, and is gone with it."""
    class Other(type(machine)):
        """A second host at the same time."""

    other = Other(machine.name, machine.machine.name + "-other")
    pid, directory = other.machine.process.pid(), other.machine.directory
    assert other.boot_id() and machine.machine.is_running()
    other.destroy()
    assert not os.path.exists(directory) and not os.path.exists("/proc/%d" % pid)
