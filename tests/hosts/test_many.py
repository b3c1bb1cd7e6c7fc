# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Many sandboxes in one run on a real host: what is done for all of them at once leaves each as it would be alone."""

from __future__ import annotations

import pytest

TYPES = ["net", "uts", "ipc", "mnt", "pid", "cgroup"]
NAMES = ["many%d" % number for number in range(6)]
BAD = "many3"


@pytest.fixture
def boxes(host, jail):
    """boxes(bad): the answer for all of them; of one the command is not there, when it is said to be bad."""

    def declared(name, bad):
        return {"name": name, "namespaces": {"types": TYPES, "hostname": name, "sysctls": {"net.ipv4.ip_forward": "1"}}, "overlay": {"lower": [jail]},
                "bind": [{"source": "/usr", "target": "/usr", "read_only": True}], "cgroup": {"pids_max": 30},
                "services": [{"name": "app", "command": ["/none" if bad else "/bin/sleep", "1000000"]}]}

    yield lambda bad=(), checks=(False,): host.converges("sandbox", checks, sandboxes=[declared(name, name in bad) for name in NAMES])
    host.converge("sandbox", sandboxes=[{"name": name, "state": "absent"} for name in NAMES], remove_data=True, kill=True)


def active(host):
    """The names of those whose service runs, and of it all that is asked for here."""
    found = []
    for name in NAMES:
        pid = host.run(["systemctl", "show", "--property=MainPID", "--value", "bulkhead-%s-app.service" % name]).strip()
        if pid != "0":
            assert host.run(["readlink", "/proc/%s/ns/net" % pid]).strip() == "net:[%s]" % host.run(["stat", "-c%i", "/run/netns/" + name]).strip()
            assert host.run(["nsenter", "-t", pid, "-n", "-u", "sh", "-c", "hostname; cat /proc/sys/net/ipv4/ip_forward; cat /sys/class/net/lo/flags"]
                            ).split()[:2] == [name, "1"]
            assert host.run("cat /sys/fs/cgroup/bulkhead.slice/bulkhead-%s.slice/pids.max" % name).strip() == "30"
            found.append(name)
    return found


def test_one_that_cannot_start_leaves_the_others(host, boxes):
    answer = boxes([BAD])[0]
    assert "Cannot start many3/app: cannot run /none: not found." in answer["error"] and list(answer["keys"]) == [BAD]
    assert active(host) == [name for name in NAMES if name != BAD]
    assert host.run("ls -d /run/netns/many3 /run/bulkhead/ns/many3 /etc/systemd/system/bulkhead-many3* 2>/dev/null || true") == ""
    done, again = boxes(checks=(False, False))
    assert "error" not in done and done["changed"] and not again["changed"]
    assert active(host) == NAMES


def test_all_at_once(host, boxes):
    done, again = boxes(checks=(False, False))
    assert "error" not in done and done["changed"] and not again["changed"]
    assert active(host) == NAMES
    host.converge("sandbox", sandboxes=[{"name": name, "state": "absent"} for name in NAMES], remove_data=True)
    assert host.run("ls /run/netns | grep many; systemctl list-units --all --no-legend 'bulkhead-many*' 'run-netns-many*'").strip() == ""
