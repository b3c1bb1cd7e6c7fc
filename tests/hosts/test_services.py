# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Services as units of systemd on a real host: every state, what reads them, what befalls them."""

from __future__ import annotations

import json

import pytest
import remote

TYPES = ["net", "uts", "ipc", "mnt", "pid", "cgroup"]
SERVICE = {"name": "app", "command": ["/bin/sleep", "1000000"], "health": {"command": ["/bin/sh", "-c", "exec test -e /usr/bin/env"], "interval": "5s"}}
UNIT = "bulkhead-unitbox-app.service"


@pytest.fixture
def box(host, jail):
    """box(service=…, namespaces=…, **more): the answer for a sandbox whose one service is SERVICE with these changes.

    check: in check mode; or several, and the answer to each.
    """

    def act(check=False, service=None, namespaces=None, **more):
        one = {"name": "unitbox", "namespaces": dict({"types": TYPES}, **(namespaces or {})), "overlay": {"lower": [jail]},
               "bind": [{"source": "/usr", "target": "/usr", "read_only": True}], "services": [dict(SERVICE, **(service or {}))]}
        answers = host.converges("sandbox", check if isinstance(check, tuple) else (check,), sandboxes=[one], **more)
        for answer in answers:
            assert "error" not in answer, answer
        return answers if isinstance(check, tuple) else answers[0]

    yield act
    host.converge("sandbox", sandboxes=[{"name": "unitbox", "state": "absent"}], remove_data=True, kill=True)
    assert host.run("ls -A /run/bulkhead/service; ls /etc/systemd/system /etc/systemd/system/multi-user.target.wants | grep unitbox || true") == ""


def shown(host, unit=UNIT):
    names = "ActiveState,MainPID,NRestarts,NeedDaemonReload,UnitFileState,ControlGroup,KillMode"
    return dict(line.split("=", 1) for line in host.run(["systemctl", "show", "--property=" + names, unit]).splitlines())


@pytest.mark.core
def test_a_unit_that_reads_naturally(host, box):
    predicted, done, quiet, again = box(check=(True, False, True, False))
    assert done["actions"] == predicted["actions"] and not done["warnings"] and not quiet["changed"] and not again["changed"]
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
    written, answer = box(service={"environment": {"A": "b"}}, check=(False, False))
    assert written["restart_required"] == [{"name": "unitbox/app", "keys": ["environment"]}]
    assert not answer["changed"] and answer["restart_required"] and shown(host)["MainPID"] == pid
    answer = box(service={"environment": {"A": "b"}}, on_change="restart")
    assert answer["actions"] == ["restart service unitbox/app"] and shown(host)["MainPID"] != pid
    assert box(service={"environment": {"A": "b"}, "state": "stopped"})["changed"]
    now = shown(host)
    assert (now["ActiveState"], now["UnitFileState"]) == ("inactive", "disabled")


DAMAGE = [
    "systemctl stop UNIT", "systemctl disable --quiet UNIT", "systemctl restart UNIT", "systemctl kill --signal=KILL UNIT",
    "sed -i s/mixed/process/ /etc/systemd/system/UNIT; systemctl daemon-reload", "sed -i s/mixed/process/ /etc/systemd/system/UNIT",
    "rm /etc/systemd/system/UNIT", "rm -r /run/bulkhead/service/unitbox:app", "pkill -KILL -x keeper", ": >/etc/systemd/system/UNIT",
    "systemctl stop UNIT; systemctl start --no-block UNIT; sleep 0.3; systemctl kill --signal=KILL UNIT",
    "mkdir -p /etc/systemd/system/UNIT.d; printf '[Service]\\nEnvironment=A=b\\n' >/etc/systemd/system/UNIT.d/mine.conf; systemctl daemon-reload",
]


def test_what_befalls_it(host, box):
    """Whatever was done to it, one run brings it back as declared, and the next has nothing to do."""
    box()
    for damage in DAMAGE:
        host.run(damage.replace("UNIT", UNIT) + "; sleep 3")  # what was killed is started again by systemd, or not
        assert not box(check=(False, False))[1]["changed"], damage
        now = shown(host)
        assert (now["ActiveState"], now["KillMode"], now["NeedDaemonReload"], now["UnitFileState"]) == ("active", "mixed", "no", "enabled"), damage
    host.run("test -e /etc/systemd/system/{0}.d/mine.conf; rm -r /etc/systemd/system/{0}.d; systemctl daemon-reload".format(UNIT))  # not ours


def test_a_start_that_fails_says_why(host):
    """Within the first moments; on a busy host a command may outlive them, and is tried again."""
    answers = []

    def start(command):
        answers.append(host.converge("service", name="unitbox", root="/", command=command))
        if "error" not in answers[-1]:
            host.converge("service", name="unitbox", state="absent")
        return "error" in answers[-1]

    for command, reason in (
            (["/bin/false"], "it ended with status 1"), (["/bin/true"], "it ended with status 0"), (["/none"], "cannot run /none: not found"),
            (["/bin/sh", "-c", "echo oops; exit 3"], "it ended with status 3: oops"), (["/bin/sh", "-c", "kill -9 $$"], "it ended by signal 9")):
        remote.until(lambda command=command: start(command))
        assert answers[-1]["error"] == "Cannot start unitbox: %s. Undone: create service unitbox." % reason
    assert host.run("systemctl list-units --all --no-legend 'bulkhead-unitbox*'") == ""


def test_a_crash_loop_goes_on_at_once_a_second(host, box):
    """It runs for a moment, so that its start succeeds, and ends for ever again: on-failure unless with status 0."""
    box(service={"command": ["/bin/sh", "-c", "sleep 2; exit 1"], "health": None})
    remote.until(lambda: int(shown(host)["NRestarts"]) >= 6, 120)  # more than systemd's own limit would let it
    assert shown(host)["ActiveState"] in ("active", "activating")
    box(service={"command": ["/bin/sh", "-c", "sleep 2; exit 0"], "health": None}, on_change="restart")
    remote.until(lambda: shown(host)["ActiveState"] == "inactive")


def test_user_namespace(host, box):
    maps = {"types": ["user"] + TYPES, "uid_map": ["0 100000 65536"], "gid_map": ["0 100000 65536"]}
    assert not box(namespaces=maps, service={"user": "web"}, check=(False, False))[1]["changed"]
    assert host.run("stat -c %%u /proc/%s" % shown(host)["MainPID"]).strip() == str(100000 + 1033)  # of /etc/passwd inside


def test_own_root(host, jail):
    own = {"name": "unitbox2", "root": jail, "command": ["/bin/sleep", "1000000"], "bind": [{"source": "/usr", "target": "/usr"}],
           "health": {"command": ["/bin/true"]}}
    for state, changed in (("started", True), ("started", False), ("restarted", True), ("stopped", True), ("stopped", False),
                           ("absent", True), ("absent", False)):
        options = dict(own, state=state) if state != "absent" else {"name": "unitbox2", "state": state}
        predicted, answer = host.converges("service", (True, False), **options)
        assert "error" not in answer and answer["changed"] == changed and predicted["actions"] == answer["actions"], (state, json.dumps(answer))


def test_at_shutdown_each_has_its_time_to_end(fresh_host, jail):
    """What it stands on goes after it: the keepers of its namespaces, and the file systems. Nothing at boot is there to order them by."""
    fresh_host.run("mkdir /srv/real /srv/disk; echo '/srv/real /srv/disk none bind 0 0' >>/etc/fstab; systemctl daemon-reload; mount /srv/disk")
    fresh_host.run("cp -a %s /srv/disk/root" % jail)
    service = {"name": "last", "command": ["/bin/sh", "-c", "trap 'sleep 3; echo bye >/var/bye; exit 0' TERM; while :; do sleep 1 & wait $!; done"]}
    shared = {"bind": [{"source": "/usr", "target": "/usr"}]}
    box = dict(shared, name="unitbox", namespaces={"types": TYPES}, overlay={"lower": [jail]}, services=[service])
    for noun, options in (("sandbox", {"sandboxes": [box]}), ("service", dict(shared, **service, root="/srv/disk/root"))):
        answer = fresh_host.converge(noun, **options)
        assert "error" not in answer and answer["changed"], answer
    assert fresh_host.run("ls /etc/systemd/system | grep bulkhead-restore || true") == ""
    fresh_host.reboot()
    said = fresh_host.run("journalctl -b -1 -o cat --no-pager")
    assert "Unmounted srv-disk.mount" in said and "Failed unmounting" not in said, said
    places = fresh_host.run("find /srv/disk/root /var/lib/bulkhead -name bye").splitlines()
    assert len(places) == 2, said
