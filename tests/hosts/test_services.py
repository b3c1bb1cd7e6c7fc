# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Services as units of systemd on a real host: what reads them, and what a change does."""

from __future__ import annotations

import pytest

ROOT = "/srv/jail"
MAKE = """set -e; mkdir -p ROOT/etc ROOT/usr ROOT/proc ROOT/sys ROOT/dev ROOT/run ROOT/tmp
for each in bin lib lib64 sbin; do ln -sfn usr/$each ROOT/$each; done; cp /etc/passwd /etc/group ROOT/etc""".replace("ROOT", ROOT)
TYPES = ["net", "uts", "ipc", "mnt", "pid", "cgroup"]
SERVICE = {"name": "app", "command": ["/bin/sleep", "1000000"], "health": {"command": ["/bin/sh", "-c", "exec test -e /usr/bin/env"], "interval": "5s"}}
UNIT = "bulkhead-unitbox-app.service"


@pytest.fixture
def box(host):
    """box(service=…, namespaces=…, **more): the answer for a sandbox whose one service is SERVICE with these changes."""
    host.run(MAKE)

    def act(check=False, service=None, namespaces=None, **more):
        one = {"name": "unitbox", "namespaces": dict({"types": TYPES}, **(namespaces or {})), "overlay": {"lower": [ROOT]},
               "bind": [{"source": "/usr", "target": "/usr", "read_only": True}], "services": [dict(SERVICE, **(service or {}))]}
        answer = host.converge("sandbox", check=check, sandboxes=[one], **more)
        assert "error" not in answer, answer
        return answer

    yield act
    host.converge("sandbox", sandboxes=[{"name": "unitbox", "state": "absent"}], remove_data=True, kill=True)
    assert host.run("ls -A /run/bulkhead/service; ls /etc/systemd/system /etc/systemd/system/multi-user.target.wants | grep unitbox || true") == ""
    host.run(["rm", "-rf", ROOT])


def shown(host, unit=UNIT):
    names = "ActiveState,MainPID,NRestarts,NeedDaemonReload,UnitFileState,ControlGroup,KillMode"
    return dict(line.split("=", 1) for line in host.run(["systemctl", "show", "--property=" + names, unit]).splitlines())


@pytest.mark.core
def test_a_unit_that_reads_naturally(host, box):
    predicted = box(check=True)
    done = box()
    assert done["actions"] == predicted["actions"] and not done["warnings"] and not box(check=True)["changed"] and not box()["changed"]
    now = shown(host)
    assert now["ControlGroup"] == "/bulkhead.slice/bulkhead-unitbox.slice/" + UNIT and now["UnitFileState"] == "enabled"
    pid = now["MainPID"]
    assert host.run("tr '\\0' ' ' </proc/%s/cmdline" % pid).strip() == "/bin/sleep 1000000"
    assert "PPid:\t1\n" in host.run("cat /proc/%s/status" % pid)
    text = host.run(["systemctl", "status", "--no-pager", UNIT])
    assert "Bulkhead service unitbox/app" in text and "Main PID: %s (sleep)" % pid in text
    assert host.run("cat /sys/fs/cgroup%s/cgroup.procs" % now["ControlGroup"]).split() == [pid]
    assert host.run("ps -e -o comm= | grep -c python || true").strip() == "0"
    assert host.run("systemd-analyze verify /etc/systemd/system/bulkhead*.service /etc/systemd/system/bulkhead*.slice 2>&1") == ""


@pytest.mark.core
def test_changes(host, box):
    box()
    pid = shown(host)["MainPID"]
    answer = box(service={"restart": "always", "stop_timeout": "3s"})
    assert answer["actions"] == ["configure service unitbox/app"] and not answer["restart_required"]
    answer = box(service={"environment": {"A": "b"}})
    assert answer["restart_required"] == [{"name": "unitbox/app", "keys": ["environment"]}]
    answer = box(service={"environment": {"A": "b"}})
    assert not answer["changed"] and answer["restart_required"] and shown(host)["MainPID"] == pid
    answer = box(service={"environment": {"A": "b"}}, on_change="restart")
    assert answer["actions"] == ["restart service unitbox/app"] and shown(host)["MainPID"] != pid
    assert box(service={"environment": {"A": "b"}, "state": "stopped"})["changed"]
    now = shown(host)
    assert (now["ActiveState"], now["UnitFileState"]) == ("inactive", "disabled")
