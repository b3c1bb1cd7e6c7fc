# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Services as units of systemd, on a fake host: what is rendered, what is found, when systemd is told, how a start is judged."""

from __future__ import annotations

import inspect
import json
import os

import pytest
from ansible_collections.bulkhead.isolation.plugins.module_utils._engine.host import Host
from ansible_collections.bulkhead.isolation.plugins.module_utils._model.errors import BulkheadError
from ansible_collections.bulkhead.isolation.plugins.module_utils._supervisor import common, runit, systemctl, systemd, tools

WHOLE = """\
# made by bulkhead; what a drop-in beside it says is added
[Unit]
Description=Bulkhead service web/nginx
After=bulkhead.service bulkhead-restore.service
DefaultDependencies=no
AssertPathExists=STATE/service/web:nginx/spec.json
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
Slice=bulkhead-web.slice
ExecStart=/usr/bin/nsenter --mount=STATE/engine -- STATE/bin/python3 -IS STATE/bin/enter STATE/service/web:nginx/spec.json
KillMode=mixed
KillSignal=SIGQUIT
TimeoutStopSec=10s
Restart=on-failure
RestartSec=1
RestartForceExitStatus=SIGHUP SIGINT SIGTERM SIGPIPE
OOMPolicy=continue
TasksMax=infinity
StandardOutput=journal
StandardError=inherit
SyslogIdentifier=web/nginx

[Install]
WantedBy=multi-user.target
"""


class Init:
    """A systemd of one host: answers `show` by what it is told, and notes the rest."""

    def __init__(self, top, monkeypatch):
        self.units, self.called, self.starts, self.journal = {}, [], {}, ""
        monkeypatch.setattr(Host, "systemd", True)
        monkeypatch.setattr(Host, "aside", True)
        monkeypatch.setattr(tools, "tool", lambda name, check=False: "/usr/bin/" + name)
        self.host = Host(self.run, proc=str(top / "proc"), state=str(top / "state"), units=str(top / "units"), bus=None)
        for name in ("proc", "state/service", "units"):
            (top / name).mkdir(parents=True)
        self.top = top

    def process(self, pid, exe):
        (self.top / "proc" / str(pid)).mkdir()
        (self.top / "proc" / str(pid) / "exe").symlink_to(exe)

    @staticmethod
    def block(names, known):
        shown = dict(dict.fromkeys(names, ""), ActiveState="inactive", LoadState="not-found", MainPID="0", NRestarts="0")
        shown.update(known)
        return "".join("%s=%s\n" % (name, shown[name]) for name in names)

    def run(self, argv, data, env):
        words = [word for word in argv if not word.startswith("-")]
        if words[0] == "journalctl":
            return 0, self.journal if "--output=cat" in argv else "", ""
        if "--version" in argv:
            return 0, "systemd 252 (252.39)\n", ""
        if words[1] == "show":
            names = next(word for word in argv if word.startswith("--property=")).partition("=")[2].split(",")
            return 0, "\n".join(self.block(names, self.units.get(unit, {})) for unit in words[2:]), ""
        if words[1] in ("list-units", "list-jobs"):
            return 0, "".join("%s loaded %s x\n" % (unit, known.get("ActiveState")) for unit, known in self.units.items() if words[1] == "list-units"), ""
        self.called.append(" ".join(words[1:]))
        for unit in words[2:] if words[1] == "start" else ():
            self.units.setdefault(unit, {}).update(self.starts)
        return 0, "", ""


@pytest.fixture
def init(tmp_path, monkeypatch):
    return Init(tmp_path, monkeypatch)


def unit(**keys):
    keys = dict({"name": "web/nginx", "spec": {"command": ["x"], "namespaces": {}}, "stop_signal": "TERM", "stop_timeout": 10000000,
                 "restart": "on-failure", "options": {}, "enabled": True}, **keys)
    return common.Unit(**keys)


def render(init, **keys):
    return systemd.render(init.host, unit(**keys), json.dumps)


def test_both_have_the_same_interface():
    for name in ("require", "render", "read", "write", "remains", "remove", "names", "expect", "status", "main_pid", "started", "start", "start_all", "stop",
                 "forget", "directory", "checking", "within", "log_directory", "log_file", "last_words"):
        ours, theirs = (list(inspect.signature(getattr(module, name)).parameters) for module in (systemd, runit))
        assert ours[:len(theirs)] == theirs, name
    assert systemd.OWN_CGROUP and not runit.OWN_CGROUP


# -- rendering

def test_the_whole_unit(init):
    files = render(init, group="bulkhead/web", stop_signal="QUIT", log={"size": 1, "files": 2}, pid_pin="/run/bulkhead/ns/web/pid")
    assert files[systemd.UNIT] == WHOLE.replace("STATE", init.host.state)
    spec = json.loads(files["spec.json"])
    assert spec["notify"] and spec["namespaces"]["pid"] == "/run/bulkhead/ns/web/pid" and spec["slice"] == "bulkhead-web.slice"
    assert spec["started"].endswith("/service/web:nginx/started.json") and systemd.WANTED in files and "health.json" not in files


@pytest.mark.parametrize(("keys", "own"), [
    ({"group": "bulkhead/web", "pid_pin": "/run/bulkhead/ns/web/pid"}, False), ({"group": "bulkhead/web"}, True),
    ({"group": "web", "pid_pin": "/run/bulkhead/ns/web/pid"}, True), ({"pid_pin": "/run/bulkhead/ns/web/pid"}, True),
])
def test_default_dependencies_are_left_to_the_units_of_a_sandbox(init, keys, own):
    text = render(init, **keys)[systemd.UNIT]
    assert ("DefaultDependencies=no" in text) == (not own)


@pytest.mark.parametrize(("keys", "line"), [
    ({"restart": "no"}, "Restart=no"),
    ({"restart": "always"}, "Restart=always"),
    ({"stop_timeout": 1500000}, "TimeoutStopSec=1500000us"),
    ({"stop_timeout": 0}, "TimeoutStopSec=1us"),  # 0 would be for ever
    ({"log": None}, "StandardOutput=null"),
    ({"group": None}, "Slice=bulkhead.slice"),
    ({"group": "bulkhead/a-b"}, "Slice=bulkhead-a\\x2db.slice"),
    ({"kill": "/sys/fs/cgroup/x/cgroup.kill"}, "ExecStopPost=/bin/sh -c 'echo 1 >/sys/fs/cgroup/x/cgroup.kill'"),
])
def test_lines(init, keys, line):
    text = render(init, **keys)[systemd.UNIT]
    assert line in text.splitlines()
    assert "\n\n\n" not in text and ("RestartForceExitStatus" in text) == (keys.get("restart") is None)


def test_what_starts_at_boot(init):
    assert systemd.WANTED in render(init)
    assert systemd.WANTED not in render(init, enabled=False) and systemd.WANTED not in render(init, down=True)


def test_a_check_by_command_runs_beside_the_service(init):
    for health, wanted in (({"command": ["x"]}, True), ({"probe": {"port": 80}}, False)):
        systemd.write(init.host, "web/nginx", render(init, group="bulkhead/web", health=health))
        words = systemd.checking(init.host, "web/nginx")
        assert words[-1].endswith("/service/web:nginx/health.json")
        assert (words[0] == "/usr/bin/systemd-run" and "--slice=bulkhead-web.slice" in words) == wanted


# -- what is there, and the writing of it

def test_written_and_found(init):
    host, files = init.host, render(init)
    assert systemd.read(host, "web/nginx") is None and systemd.names(host) == [] and not systemd.remains(host, "web/nginx")
    systemd.write(host, "web/nginx", files)
    assert systemd.read(host, "web/nginx") == files and systemd.names(host) == ["web/nginx"]
    link = init.top / "units/multi-user.target.wants/bulkhead-web-nginx.service"
    assert os.readlink(link) == str(init.top / "units/bulkhead-web-nginx.service")
    host.finish()
    assert init.called == []  # a unit that systemd has not looked at is read when it is started


def test_one_that_systemd_knows_is_read_again_once(init):
    for name in ("a", "b"):
        systemd.write(init.host, name, render(init, name=name))
        init.units["bulkhead-%s.service" % name] = {"LoadState": "loaded"}
    init.host.forget()
    for name in ("a", "b"):
        systemd.write(init.host, name, render(init, name=name, restart="always"))
    assert init.called == []
    init.host.finish()
    assert init.called == ["daemon-reload"]
    init.host.forget()
    systemd.write(init.host, "a", dict(render(init, name="a", restart="always"), **{"spec.json": "{}"}))  # nothing of systemd's
    init.host.finish()
    assert init.called == ["daemon-reload"]


@pytest.mark.parametrize("damage", ["edited", "disabled", "removed", "not read", "spec"])
def test_a_difference_is_found_and_mended(init, damage):
    host, files = init.host, render(init)
    systemd.write(host, "web/nginx", files)
    path = init.top / "units/bulkhead-web-nginx.service"
    if damage == "edited":
        path.write_text(path.read_text().replace("mixed", "process"))
    elif damage == "disabled":
        (init.top / "units/multi-user.target.wants/bulkhead-web-nginx.service").unlink()
    elif damage == "removed":
        path.unlink()
    elif damage == "not read":
        init.units["bulkhead-web-nginx.service"] = {"LoadState": "loaded", "NeedDaemonReload": "yes"}
    else:
        (init.top / "state/service/web:nginx/spec.json").write_text("{}")
    host.forget()
    assert systemd.read(host, "web/nginx") not in (files, None)
    systemd.write(host, "web/nginx", files)
    host.finish()
    assert damage != "not read" or init.called == ["daemon-reload"]
    init.units.clear()
    host.forget()
    assert systemd.read(host, "web/nginx") == files


def test_drop_ins_are_their_users(init):
    host, files = init.host, render(init)
    systemd.write(host, "web/nginx", files)
    mine = init.top / "units/bulkhead-web-nginx.service.d/mine.conf"
    mine.parent.mkdir()
    mine.write_text("[Service]\nNice=5\n")
    assert systemd.read(host, "web/nginx") == files
    systemd.remove(host, "web/nginx")
    assert mine.exists() and systemd.names(host) == [] and systemd.read(host, "web/nginx") is None
    assert not (init.top / "units/multi-user.target.wants/bulkhead-web-nginx.service").is_symlink()


def test_after_a_reboot_the_unit_is_left(init):
    host, files = init.host, render(init)
    systemd.write(host, "web/nginx", files)
    for path in (init.top / "state/service/web:nginx").iterdir():
        path.unlink()
    (init.top / "state/service/web:nginx").rmdir()
    assert set(systemd.read(host, "web/nginx")) == {systemd.UNIT, systemd.WANTED, systemd.LOADED} and systemd.names(host) == ["web/nginx"]
    systemd.write(host, "web/nginx", files)
    assert systemd.read(host, "web/nginx") == files


def test_what_killed_runs_leave(init):
    host = init.host
    for half in common.halves(host, "web/nginx"):
        os.makedirs(half + "/x")
        assert systemd.remains(host, "web/nginx") and systemd.names(host) == ["web/nginx"]
        systemd.remove(host, "web/nginx")
        assert not systemd.remains(host, "web/nginx") and systemd.names(host) == []


def test_an_empty_unit_file_is_what_a_power_cut_leaves(init):
    host, files = init.host, render(init)
    for act in (lambda: systemd.write(host, "web/nginx", files), lambda: systemd.remove(host, "web/nginx")):
        (init.top / "units/bulkhead-web-nginx.service").write_text("")
        init.units["bulkhead-web-nginx.service"] = {"LoadState": "masked"}
        host.forget()
        systemd.require(host, "web/nginx", True)
        assert systemd.names(host) == ["web/nginx"] and systemd.read(host, "web/nginx") not in (files, None)
        act()
        host.finish()
        assert init.called.pop() == "daemon-reload"  # a masked unit is not started
    assert systemd.read(host, "web/nginx") is None and systemd.names(host) == []


def test_names_that_are_not_ours(init):
    (init.top / "units/bulkhead-web.service").write_text("[Service]\nExecStart=/bin/true\n")
    (init.top / "units/bulkhead-restore.service").write_text(systemctl.MADE + "\n")
    assert systemd.names(init.host) == [] and systemd.read(init.host, "web") is None
    for name, word in (("web", "not made by bulkhead"), ("restore", "restores sandboxes")):
        with pytest.raises(BulkheadError, match=word):
            systemd.require(init.host, name, False)
    systemd.require(init.host, "other", True)


def test_an_old_systemd_is_refused(init):
    init.host.systemd_version = 245
    with pytest.raises(BulkheadError, match="246"):
        systemd.require(init.host, "web", False)


# -- how it is

@pytest.mark.parametrize(("shown", "state", "want", "main"), [
    ({"ActiveState": "active", "MainPID": "7"}, "started", "started", 7),
    ({"ActiveState": "active", "MainPID": "8"}, "started", "started", None),  # still the entry
    ({"ActiveState": "activating", "SubState": "start", "MainPID": "7"}, "started", "started", None),
    ({"ActiveState": "activating", "SubState": "auto-restart"}, "stopped", "started", None),
    ({"ActiveState": "deactivating", "MainPID": "7"}, "finishing", "stopped", None),
    ({"ActiveState": "failed"}, "stopped", "stopped", None),
    ({}, "stopped", "stopped", None),
])
def test_status(init, shown, state, want, main):
    init.process(7, "/bin/sleep")
    init.process(8, init.host.state + "/bin/python3")
    init.units["bulkhead-web.service"] = dict({"LoadState": "loaded"}, **shown)
    now = systemd.status(init.host, "web")
    assert (now["state"], now["want"]) == (state, want) and systemd.main_pid(init.host, "web", now) == main


def test_what_was_known_of_a_dead_process_is_asked_again(init):
    init.process(7, "/bin/sleep")
    init.units["bulkhead-web.service"] = {"LoadState": "loaded", "ActiveState": "active", "MainPID": "6"}
    systemctl.show(init.host, ["bulkhead-web.service"])
    init.units["bulkhead-web.service"]["MainPID"] = "7"
    assert systemd.status(init.host, "web")["pid"] == 7
    assert systemd.status(init.host, "never") is None


def test_start(init):
    init.process(7, "/bin/sleep")
    init.starts = {"ActiveState": "active", "MainPID": "7", "LoadState": "loaded"}
    systemd.start(init.host, "web")
    assert init.called == ["start bulkhead-web.service"]


@pytest.mark.parametrize("active", ["activating", "inactive"])
def test_one_that_fails_again_and_again_starts_anew(init, active):
    """systemd counts on through a stop, and a start joins the attempt that is under way."""
    init.process(7, "/bin/sleep")
    init.units["bulkhead-web.service"] = {"ActiveState": active, "LoadState": "loaded", "NRestarts": "22"}
    init.starts = {"ActiveState": "active", "MainPID": "7", "NRestarts": "0"}
    systemd.start(init.host, "web")
    stopped = ["stop bulkhead-web.service"] * (active == "activating")
    assert init.called == stopped + ["reset-failed bulkhead-web.service", "start bulkhead-web.service"]


def test_many_start_at_once_and_each_has_its_own_end(init):
    names = ["s%d" % index for index in range(systemd.AT_ONCE + 2)]
    for index, name in enumerate(names):
        init.process(100 + index, "/bin/sleep")
        init.units["bulkhead-%s.service" % name] = {"LoadState": "loaded"}
    started = iter(range(100, 200))
    run = init.host._run

    def each_its_own(argv, data, env):
        for unit in argv[argv.index("--") + 1:] if "start" in argv else ():
            init.units[unit] = {"LoadState": "loaded", "ActiveState": "active", "MainPID": str(next(started))}
        if "start" in argv:
            init.units["bulkhead-s3.service"] = {"LoadState": "loaded", "ActiveState": "failed", "ExecMainCode": "1", "ExecMainStatus": "3"}
        return run(argv, data, env)

    init.host._run = each_its_own
    assert {name: error.message for name, error in systemd.start_all(init.host, names).items()} == {"s3": "Cannot start s3: it ended with status 3."}
    units = ["bulkhead-%s.service" % name for name in names]
    assert init.called == ["start " + " ".join(units[:systemd.AT_ONCE]), "start " + " ".join(units[systemd.AT_ONCE:])]


def test_of_one_that_the_kernel_shows_systemd_is_not_asked(init):
    init.host.cgroup = str(init.top / "cgroup")
    systemd.write(init.host, "web/a", render(init, name="web/a", group="bulkhead/web"))
    path = init.top / "cgroup/bulkhead.slice/bulkhead-web.slice/bulkhead-web-a.service"
    path.mkdir(parents=True)
    init.process(7, "/bin/sleep")
    init.process(8, init.host.state + "/bin/python3")
    for pids, runs in (("7\n", True), ("8\n", False), ("7\n8\n", False), ("", False)):
        (path / "cgroup.procs").write_text(pids)
        assert systemd._runs(init.host, "web/a") is runs
    (path / "cgroup.procs").write_text("7\n")
    assert systemd.start_all(init.host, ["web/a"]) == {}  # where systemd would say that it is inactive


def test_start_during_boot_waits_for_nothing(init):
    init.host.booting = True
    systemd.start(init.host, "web")
    assert init.called == ["start bulkhead-web.service"]


def test_what_has_changed_is_read_before_a_start(init):
    init.process(7, "/bin/sleep")
    init.units["bulkhead-web.service"] = {"NeedDaemonReload": "yes", "LoadState": "loaded"}
    init.starts = {"ActiveState": "active", "MainPID": "7"}
    systemd.start(init.host, "web")
    assert init.called == ["daemon-reload", "start bulkhead-web.service"]


@pytest.mark.parametrize(("shown", "journal", "reason"), [
    ({"ActiveState": "failed", "ExecMainCode": "1", "ExecMainStatus": "3"}, "oops\n", "it ended with status 3: oops"),
    ({"ActiveState": "failed", "ExecMainCode": "2", "ExecMainStatus": "9"}, "", "it ended by signal 9"),
    ({"ActiveState": "failed", "ExecMainCode": "1", "ExecMainStatus": "127"}, "Cannot enter web: cannot run x: not found.\n", "cannot run x: not found"),
    ({"ActiveState": "inactive"}, "", "it ended with status 0"),
    ({"ActiveState": "active", "MainPID": "7", "NRestarts": "1"}, "", "it ended with status 0"),
])
def test_start_that_fails(init, shown, journal, reason):
    init.process(7, "/bin/sleep")
    init.starts, init.journal = shown, journal
    with pytest.raises(BulkheadError) as caught:
        systemd.start(init.host, "web")
    assert caught.value.message == "Cannot start web: %s." % reason


def test_stop_leaves_no_failed_unit(init):
    init.units["bulkhead-web.service"] = {"ActiveState": "active", "LoadState": "loaded"}
    systemd.stop(init.host, "web")
    init.units["bulkhead-web.service"] = {"ActiveState": "failed", "LoadState": "loaded"}
    systemd.stop(init.host, "web")
    assert init.called == ["stop bulkhead-web.service", "reset-failed bulkhead-web.service"] and systemd.last_words(init.host, "web") == ""
