# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whole sandboxes on a host as a fleet has it, through the engine: made, changed while they run, and mended after what befell them."""

from __future__ import annotations

import json
import re
import shlex
import subprocess

import pytest
import remote

MIB = 1 << 20


@pytest.fixture
def site(host, jail):
    """The sandboxes of one task; nothing of them is left on the host."""
    found = Site(host, jail, "site")
    yield found
    found.remove()


class Site:
    """Sandboxes with a service each, by their names; what a test changes is changed for all of them."""

    def __init__(self, host, jail, *names):
        self.host, self.jail, self.names, self.limits = host, jail, list(names), {"memory_max": "64M", "pids_max": 40}
        self.service = {"name": "web", "command": ["/usr/bin/python3", "-m", "http.server", "--bind", "127.0.0.1", "8000"],
                        "health": {"http": "http://127.0.0.1:8000/", "interval": "1s", "retries": 60}}

    def present(self):
        return [{"name": name, "namespaces": {"types": ["net", "uts", "ipc", "mnt", "pid", "cgroup"]}, "cgroup": self.limits,
                 "overlay": {"lower": [self.jail]}, "bind": [{"source": "/usr", "target": "/usr", "read_only": True}],
                 "services": [self.service]} for name in self.names]

    def absent(self):
        return [{"name": name, "state": "absent"} for name in self.names]

    def run(self, *checks):
        """What the module would answer each time."""
        return self.host.converges("sandbox", checks or [False], sandboxes=self.present())

    def mend(self):
        """Check, run, check, run: the check said what the run did, it served afterwards, and then there was nothing to do. The actions."""
        said, did, quiet, again = self.run(True, False, True, False)
        for answer in (said, did, quiet, again):
            assert "error" not in answer, answer
        assert said["actions"] == did["actions"] and not did["warnings"], (said, did)  # a health check that fails is a warning
        assert not quiet["changed"] and not again["changed"], (quiet, again)
        return did["actions"]

    def remove(self):
        answer = self.host.converge("sandbox", sandboxes=self.absent(), remove_data=True, kill=True)
        assert "error" not in answer, answer
        assert self.left() == ""

    def left(self):
        """What is on the host of sandboxes of these names."""
        return "".join(self.host.run(
            "ls -d /etc/systemd/system/*{0}* /etc/systemd/system/*/*{0}* /etc/bulkhead/*/*{0}* /var/lib/bulkhead/*/{0}* /run/netns/{0}* "
            "/run/bulkhead/made/*/*{0}* /run/bulkhead/service/{0}* /sys/fs/cgroup/bulkhead.slice/*{0}* 2>/dev/null; "
            "nsenter --mount=/run/bulkhead/engine ls -d /run/bulkhead/ns/{0}* /run/bulkhead/mntns/{0}* 2>/dev/null; true".format(name))
            for name in self.names)

    def unit(self, name="site"):
        return "bulkhead-%s-web.service" % name

    def shown(self, unit, name):
        return self.host.run(["systemctl", "show", "--value", "--property=" + name, unit]).strip()

    def workload(self, name="site"):
        """(pid, when it was started in ticks since the boot) of the web server."""
        pid = self.shown(self.unit(name), "MainPID")
        return pid, self.host.run("cat /proc/%s/stat" % pid).rpartition(") ")[2].split()[19]


@pytest.mark.core
def test_made_changed_and_mended(host, site):
    """A raised limit reaches the kernel and systemd, and the workload is the same process. A lost keeper is mended by one run."""
    assert "create cgroup bulkhead/site" in site.mend()
    born = site.workload()
    site.limits = dict(site.limits, memory_max="96M")
    assert site.mend() == ["set memory.max of bulkhead/site"]
    assert site.workload() == born
    assert host.run("cat /sys/fs/cgroup/bulkhead.slice/bulkhead-site.slice/memory.max") == "%d\n" % (96 * MIB)
    assert site.shown("bulkhead-site.slice", "MemoryMax") == str(96 * MIB)
    host.run("pkill -KILL -x keeper")
    assert any("namespace" in action for action in site.mend())
    assert site.workload() != born


@pytest.mark.parametrize("damage", [
    "systemctl kill --signal=KILL bulkhead.service", "systemctl stop bulkhead.service; pkill -KILL -x keeper",
    "systemctl kill --signal=KILL bulkhead.service bulkhead-site-web.service"])
def test_the_supervisor_is_killed(host, site, damage):
    """What keeps the keepers is killed with all that lives in it, or with the workload: one run says so and mends it."""
    site.mend()
    host.run(damage)
    assert any("namespaces site" in action for action in site.mend())
    assert site.shown("bulkhead.service", "ActiveState") == "active"


def test_systemd_starts_a_killed_workload_again(host, site):
    """It is systemd's to do, and no change to the next run."""
    site.mend()
    pid = site.workload()[0]
    host.run(["kill", "-KILL", pid])
    remote.until(lambda: site.shown(site.unit(), "NRestarts") == "1" and site.shown(site.unit(), "ActiveState") == "active")
    assert site.mend() == [] and site.workload()[0] != pid


# What has no room, how it is filled, and how it is emptied
DISK = ("fallocate -l $(($(stat -fc '%a * %S' /))) /fill; cat /dev/zero >>/fill", "rm /fill")
PLACES = {
    "the disk": DISK,
    "the disk but for two blocks": ("fallocate -l 8K /some; sync; " + DISK[0] + "; rm /some", DISK[1]),
    "/run/bulkhead": ("mount -o remount,size=1M /run/bulkhead; cat /dev/zero >/run/bulkhead/fill",
                      "rm /run/bulkhead/fill; mount -o remount,size=50% /run/bulkhead"),
    "/run": ("cat /dev/zero >/run/fill", "rm /run/fill"),
}


def test_no_space_is_left(host, site):
    """A run says what has no room, and workloads go on. When there is room again, one run brings it about. Nothing half-made stays."""
    site.mend()
    born, limit = site.workload(), 64
    for place, (fill, clear) in PLACES.items():
        site.names, limit = ["site", "more"], limit + 8
        site.limits = dict(site.limits, memory_max="%dM" % limit)
        host.attempt(fill)
        answer = site.run()[0]
        host.run(clear)
        # the kernel's words, or those of a systemd that keeps some of /run free
        assert re.match("Cannot .*(No space left on device|not enough space)", answer.get("error", "")), (place, answer)
        assert site.workload() == born
        assert site.mend() and site.workload() == born
        site.names = ["more"]
        site.remove()
        site.names = ["site"]


def test_the_power_is_cut(fresh_host, jail):
    """In the middle of a run, when the file system's journal has been written and the data of new files has not: they are empty."""
    fresh_host.python("import drive; from module_utils._program import host; drive.engine.converge(drive.new_host(), host, {})")
    old, site = Site(fresh_host, jail, "old"), Site(fresh_host, jail, *["cut%d" % number for number in range(6)])
    old.service = site.service = {"name": "web", "command": ["/bin/sleep", "1000000"]}  # which starts at once
    old.mend()
    units = "/etc/systemd/system/bulkhead-cut*"
    cut(fresh_host, site.present(), "[ $(ls %s.slice | wc -l) = 6 ]" % units)
    assert fresh_host.run("find %s -empty" % units) != ""
    cut(fresh_host, site.present(), "[ $(ls %s.service | wc -l) -ge 3 ]" % units)  # these may have been flushed with something else
    site.mend()
    cut(fresh_host, site.absent(), "[ $(ls %s.service | wc -l) -le 3 ]" % units)
    recorded = fresh_host.run("ls /etc/bulkhead/sandboxes.d").split()  # until a removal has ended; the boot makes what is recorded
    assert (site.mend() == []) == all(name + ".json" in recorded for name in site.names), recorded
    assert old.mend() == []
    site.remove()
    old.remove()


def cut(host, sandboxes, condition):
    """Cut the power in the middle of a run, and boot: what was there before is made again, and nothing has failed."""
    words = ["python3", remote.TREE + "/tests/system/drive.py", "sandbox", json.dumps({"sandboxes": sandboxes, "remove_data": True})]
    with subprocess.Popen(host.shell(shlex.join(words)), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as run:
        # It is held where it is, as what is left of it may take less time than the cut.
        host.run("for each in $(seq 3000); do if %s; then pkill -STOP -f '[d]rive.py'; : >/root/cut; sync /root/cut; exit 0; fi; "
                 "sleep 0.02; done 2>/dev/null; exit 1" % condition)
        host.poweroff()
        assert run.communicate()[0] == "", "the run had come to its end"
    host.start(settled=False)
    assert host.settle() == "running", host.run("systemctl --failed; journalctl -b -u bulkhead-restore")
