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
        if words[0] == "start":
            return self.start()
        return 0, "", ""


@pytest.fixture
def host(tmp_path, monkeypatch):
    monkeypatch.setattr(Host, "systemd", True)
    monkeypatch.setattr(subtree, "PATIENCE", 0.1)
    made = Host(cgroup=str(tmp_path / "cgroup"), units=str(tmp_path / "units"), proc=str(tmp_path / "proc"))
    made._run = Systemctl(tmp_path, lambda: live(made))
    return made


def live(host, main="7\n", keepers=""):
    for leaf, text in (("main", main), ("keepers", keepers)):
        os.makedirs("%s%s/%s" % (host.cgroup, GROUP, leaf), exist_ok=True)
        with open("%s%s/%s/cgroup.procs" % (host.cgroup, GROUP, leaf), "w", encoding="ascii") as stream:
            stream.write(text)
    host._run.group = GROUP
    return 0, "", ""


def test_the_unit_says_which_leaf_where_systemd_can_do_it():
    assert "DelegateSubgroup" not in subtree.render(252)
    assert subtree.render(257).replace("DelegateSubgroup=main\n", "") == subtree.render(252)
    assert subtree.render(257).startswith(systemctl.MADE)
    assert {"KillMode=process", "Delegate=yes", "Restart=always", "Slice=bulkhead.slice"} <= set(subtree.render(252).splitlines())


def script(key, tmp_path):
    """The script of a line of the unit, as a shell gets it, with its files below tmp_path."""
    line = re.search("^%s=/bin/sh -c '(.*)'$" % key, subtree.render(252), re.MULTILINE).group(1)
    text = line.replace("$$", "$").replace("%%", "%")
    return text.replace("/proc/self/cgroup", str(tmp_path / "self")).replace("/sys/fs/cgroup", str(tmp_path / "tree")).replace(
        "exec sleep infinity", "echo stays")


@pytest.mark.parametrize("leaf", ["", "/main", "/.control"])
def test_the_main_process_goes_to_its_leaf_wherever_it_was_started(tmp_path, leaf):
    (tmp_path / "self").write_text("1:name=systemd:/other\n0::%s%s\n" % (GROUP, leaf))
    ended = subprocess.run(["sh", "-c", script("ExecStart", tmp_path)], capture_output=True, text=True, check=True)
    assert (ended.stdout, ended.stderr) == ("stays\n", "")
    assert (tmp_path / ("tree" + GROUP) / "main/cgroup.procs").read_text() == "0\n"
    assert sorted(os.listdir(tmp_path / ("tree" + GROUP))) == ["keepers", "main"]


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
    assert "start" in host._run.calls
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


@pytest.mark.parametrize("controllers, goes_on", [("memory pids", True), ("", False)])
def test_where_it_cannot_start_its_living_cgroup_is_used(host, controllers, goes_on):
    live(host, main="", keepers="12\n")
    with open("%s%s/cgroup.subtree_control" % (host.cgroup, GROUP), "w", encoding="ascii") as stream:
        stream.write(controllers)
    host._run.start = lambda: (1, "", "Job for bulkhead.service failed.\n")
    if goes_on:
        assert subtree.ensure(host) == host.cgroup + GROUP and "used all the same" in host.warnings[0]
    else:
        with pytest.raises(BulkheadError, match="Cannot start bulkhead.service"):
            subtree.ensure(host)


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
