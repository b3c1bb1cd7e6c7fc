# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""bulkhead.service: what its unit says and its scripts do, when it is started, and which keepers live in it."""

from __future__ import annotations

import os
import re
import subprocess

import pytest
from ansible_collections.bulkhead.isolation.plugins.module_utils._engine.host import Host
from ansible_collections.bulkhead.isolation.plugins.module_utils._model.errors import BulkheadError, Problems
from ansible_collections.bulkhead.isolation.plugins.module_utils._model.namespace import NamespaceSpec
from ansible_collections.bulkhead.isolation.plugins.module_utils._model.root import RootSpec
from ansible_collections.bulkhead.isolation.plugins.module_utils._resources import _inside, namespace
from ansible_collections.bulkhead.isolation.plugins.module_utils._resources._birth import Request
from ansible_collections.bulkhead.isolation.plugins.module_utils._supervisor import subtree, systemctl

GROUP = "/bulkhead.slice/bulkhead.service"


class Systemctl:
    """Answers as systemctl does; ``start`` is what starting the unit does."""

    def __init__(self, tmp_path, start):
        self.calls, self.group, self.start, self.state = [], "", start, "inactive"
        self.reload_needed = "no"

    def __call__(self, argv, data, env):
        words = [word for word in argv if word not in ("systemctl", "--no-ask-password", "--", "--quiet", "--no-reload")]
        self.calls.append(words[0])
        if words[0] == "--version":
            return 0, "systemd 252 (252.1)\n", ""
        if words[0] == "show":
            return 0, "Id=bulkhead.service\nControlGroup=%s\nActiveState=%s\nUnitFileState=\nNeedDaemonReload=%s\n" % (
                self.group, self.state, self.reload_needed), ""
        if words[0] == "list-units":  # what has no state that counts is not in memory
            return 0, "bulkhead.service loaded %s x\n" % self.state if (self.state, self.reload_needed) != ("inactive", "no") else "", ""
        if words[0] in ("start", "restart"):
            return self.start()
        return 0, "", ""


@pytest.fixture
def host(tmp_path, monkeypatch):
    monkeypatch.setattr(Host, "systemd", True)
    monkeypatch.setattr(subtree, "PATIENCE", 0.1)
    made = Host(cgroup=str(tmp_path / "cgroup"), units=str(tmp_path / "units"), proc=str(tmp_path / "proc"), bus=None)
    made._run = Systemctl(tmp_path, lambda: live(made))
    return made


def live(host, main="7\n", keepers=""):
    for leaf, text in (("main", main), ("keepers", keepers)):
        os.makedirs("%s%s/%s" % (host.cgroup, GROUP, leaf), exist_ok=True)
        with open("%s%s/%s/cgroup.procs" % (host.cgroup, GROUP, leaf), "w", encoding="ascii") as stream:
            stream.write(text)
    host._run.group = GROUP
    return 0, "", ""


def test_the_unit_has_a_main_process_where_systemd_can_start_it_in_a_leaf():
    new, old = subtree.render(254).splitlines(), subtree.render(253).splitlines()
    assert {"Type=exec", "DelegateSubgroup=main", "Restart=always"} <= set(new) - set(old)
    assert {"Type=oneshot", "RemainAfterExit=yes"} <= set(old) - set(new)
    assert not [line for line in old if line.startswith("ExecStart=")]
    for text in (new, old):
        assert text[0].startswith(systemctl.MADE)
        assert {"KillMode=process", "Delegate=yes", "Slice=bulkhead.slice"} <= set(text)


def script(key, tmp_path, version=252):
    """The script of a line of the unit, as a shell gets it, with its files below tmp_path."""
    line = re.search("^%s=/bin/sh -c '(.*)'$" % key, subtree.render(version), re.MULTILINE).group(1)
    text = line.replace("$$", "$").replace("%%", "%")
    return text.replace("/proc/self/cgroup", str(tmp_path / "self")).replace("/sys/fs/cgroup", str(tmp_path / "tree")).replace(
        "exec sleep infinity", "echo stays").replace("sleep infinity", "true")


@pytest.mark.parametrize("key, version, leaf", [("ExecStart", 257, "/main"), ("ExecStartPost", 252, "/.control"), ("ExecStartPost", 252, "")])
def test_the_idle_process_is_in_its_leaf_wherever_it_was_started(tmp_path, key, version, leaf):
    (tmp_path / "self").write_text("1:name=systemd:/other\n0::%s%s\n" % (GROUP, leaf))
    ended = subprocess.run(["sh", "-c", script(key, tmp_path, version)], capture_output=True, text=True, check=True)
    top = tmp_path / ("tree" + GROUP)
    assert sorted(os.listdir(top)) == ["keepers", "main"] and not ended.stderr
    if key == "ExecStart":
        assert ended.stdout == "stays\n"
    else:
        assert int((top / "main/cgroup.procs").read_text()) > 1


def test_a_stop_ends_the_idle_process_that_systemd_does_not_know(tmp_path):
    (tmp_path / "self").write_text("0::%s/.control\n" % GROUP)
    (tmp_path / ("tree" + GROUP) / "main").mkdir(parents=True)
    with subprocess.Popen(["sleep", "100"]) as idle:
        (tmp_path / ("tree" + GROUP) / "main/cgroup.procs").write_text("%d\n" % idle.pid)
        subprocess.run(["sh", "-c", script("ExecStop", tmp_path)], check=True)
        assert idle.wait(10) == -15


@pytest.mark.parametrize("state, killed", [("running", ""), ("degraded", ""), ("starting", ""), ("stopping", "1\n")])
def test_who_lives_in_it_is_killed_at_shutdown_only(tmp_path, state, killed):
    (tmp_path / "self").write_text("0::%s/.control\n" % GROUP)
    (tmp_path / "systemctl").write_text("#!/bin/sh\necho %s\n" % state)
    (tmp_path / "systemctl").chmod(0o755)
    for leaf in ("keepers", "web"):
        (tmp_path / ("tree" + GROUP) / leaf).mkdir(parents=True)
        (tmp_path / ("tree" + GROUP) / leaf / "cgroup.kill").write_text("")
    environment = dict(os.environ, PATH="%s:%s" % (tmp_path, os.environ["PATH"]))
    subprocess.run(["sh", "-c", script("ExecStopPost", tmp_path)], env=environment, check=True)
    for leaf in ("keepers", "web"):
        assert (tmp_path / ("tree" + GROUP) / leaf / "cgroup.kill").read_text() == killed


def test_it_is_written_and_started_when_it_is_needed_and_no_more(host):
    top = subtree.ensure(host)
    assert top == host.cgroup + GROUP and systemctl.read(host, subtree.UNIT) == subtree.render(252)
    assert "start" in host._run.calls and "daemon-reload" not in host._run.calls and not host.units_changed
    host._run.calls.clear()
    assert subtree.ensure(host) == top and not host._run.calls


def test_what_a_killed_run_has_written_is_read_by_systemd(host):
    systemctl.write(host, subtree.UNIT, subtree.render(252))
    host.units_changed, host._run.reload_needed = False, "yes"
    subtree.ensure(host)
    assert "daemon-reload" in host._run.calls


def test_killed_or_stopped_it_is_started_again(host):
    live(host, main="", keepers="12\n")
    assert subtree.ensure(host) == host.cgroup + GROUP
    assert "start" in host._run.calls and subtree.inhabitants(host) == []


def test_one_that_is_active_without_its_process_is_restarted(host):
    live(host, main="", keepers="12\n")
    host._run.state = "active"
    assert subtree.ensure(host) == host.cgroup + GROUP
    assert "restart" in host._run.calls and "start" not in host._run.calls


def test_a_main_process_that_is_lost_is_an_error(host):
    host._run.start = lambda: live(host, main="")
    with pytest.raises(BulkheadError, match="did not come to be in its cgroup"):
        subtree.ensure(host)


def test_it_is_not_removed_while_somebody_lives_in_it(host):
    subtree.ensure(host)
    live(host, keepers="12\n13\n")
    with pytest.raises(BulkheadError, match="12, 13"):
        subtree.remove(host)
    live(host)
    host._run.state = "active"
    systemctl.drop(host)
    subtree.remove(host)
    assert "stop" in host._run.calls and systemctl.read(host, subtree.UNIT) is None


class Slices:
    """What `host.cgroups()` is where systemd drives NAME, or (``files``) where we do."""

    mode, roots = "unified", {"unified": "/sys/fs/cgroup"}

    def __init__(self, files=()):
        self.files = list(files)

    def exists(self, name):
        return {"unified": [1, 1]}

    def make_leaf(self, name, leaf):
        pass

    def join_files(self, name, leaf=None):
        return list(self.files)


@pytest.mark.parametrize("files, expected, leaf", [
    ((), ["%s/keepers/cgroup.procs"], None),
    (("/cg/web/keeper/cgroup.procs",), ["/cg/web/cgroup.procs"], "/cg/web/keeper/cgroup.procs"),
])
def test_keepers_are_born_beside_slices_and_in_cgroups_of_ours(host, monkeypatch, files, expected, leaf):
    monkeypatch.setattr(host, "cgroups", lambda: Slices(files))
    live(host)
    spec = NamespaceSpec.from_options(dict(name="web", types=["pid", "cgroup"], cgroup="web"), "", Problems())
    request = Request("web", ["pid", "cgroup"])
    namespace._house(host, spec, request)
    assert request.cgroup_files == [each.replace("%s", host.cgroup + GROUP) for each in expected] and request.cgroup_leaf == leaf
    spec.cgroup, request.cgroup_files, request.cgroup_leaf = None, (), None
    namespace._house(host, spec, request)
    assert request.cgroup_files == ["%s%s/keepers/cgroup.procs" % (host.cgroup, GROUP)]


@pytest.mark.parametrize("group, found", [(GROUP + "/keepers", None), ("/user.slice/session-1.scope", "/user.slice/session-1.scope")])
def test_a_keeper_elsewhere_is_seen(host, monkeypatch, tmp_path, group, found):
    monkeypatch.setattr(host, "cgroups", Slices)
    (tmp_path / "proc/9").mkdir(parents=True)
    (tmp_path / "proc/9/cgroup").write_text("0::%s\n" % group)
    assert _inside.other_cgroup(host, 9, "web") == found


def test_a_prepared_root_shows_the_slice():
    spec = RootSpec.from_options({}, "", Problems(), name="web", base="/srv", types=["mnt", "cgroup"])
    wants = [want for want in spec.wants(True, "/sys/fs/cgroup/x.slice") if want.target == "/sys/fs/cgroup"]
    assert [(want.kind, want.source, want.words, want.live) for want in wants] == [
        ("bind", "/sys/fs/cgroup/x.slice", ["ro", "nosuid", "nodev", "noexec"], True)]
    assert [want.kind for want in spec.wants(True) if want.target == "/sys/fs/cgroup"] == ["cgroup2"]
    spec.types = frozenset(["mnt"])
    assert [want.kind for want in spec.wants(True, "/x") if want.target == "/sys/fs/cgroup"] == ["tmpfs"]
