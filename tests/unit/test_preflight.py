# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The preflight on fake hosts: each lack is one sentence that says what to do, and names no more than what is lacking."""

from __future__ import annotations

import pytest
from ansible_collections.bulkhead.isolation.plugins.module_utils._engine.host import Host
from ansible_collections.bulkhead.isolation.plugins.module_utils._resources import preflight

ALL = 0x1FFFFFFFFFF
V2 = "30 1 0:29 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """machine(**differences): the survey of a host on which all is well but for the differences."""

    def make(capabilities=ALL, filesystems="nodev\toverlay\n", namespaces=preflight.NAMESPACES, maxima=None, controllers=None,
             mounts=V2, init="init", systemd=False, release="6.1.0-37-amd64", tools=None, boot="cron", version="systemd 252 (252.39)\n",
             system='PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\nVERSION_ID="12"\n'):
        proc, cgroup = tmp_path / "proc", tmp_path / "cgroup"
        for directory in (proc / "self" / "ns", proc / "1", proc / "sys" / "user", cgroup):
            directory.mkdir(parents=True)
        (proc / "self" / "status").write_text("Name:\tx\nCapEff:\t%016x\n" % capabilities)
        (proc / "self" / "mountinfo").write_text(mounts.replace("/sys/fs/cgroup", str(cgroup)))
        (proc / "filesystems").write_text(filesystems)
        (proc / "1" / "comm").write_text(init + "\n")
        (cgroup / "cgroup.controllers").write_text("cpu cpuset io memory pids" if controllers is None else controllers)
        for kind in namespaces:
            (proc / "self" / "ns" / kind).touch()
        for kind, value in (maxima or {}).items():
            (proc / "sys" / "user" / ("max_%s_namespaces" % kind)).write_text("%s\n" % value)
        monkeypatch.setattr(Host, "systemd", systemd)
        monkeypatch.setattr(preflight, "which", lambda name: "/usr/bin/" + name if tools is None or name in tools else None)
        monkeypatch.setattr(preflight, "_loads", lambda library: True)
        monkeypatch.setattr(preflight.boot, "place", lambda host: boot)
        (tmp_path / "os-release").write_text(system)
        monkeypatch.setattr(preflight, "OS_RELEASE", (str(tmp_path / "none"), str(tmp_path / "os-release")))
        monkeypatch.setattr(preflight.os, "uname", lambda: type("Name", (), {"release": release}))
        host = Host(lambda argv, data, env: (0, version, ""), proc=str(proc), cgroup=str(cgroup))
        return dict(preflight.info(host, {})["host"], warnings=host.warnings)

    return make


def test_a_good_host_has_neither_problems_nor_limits(machine):
    found = machine()
    assert found["problems"] == found["limits"] == found["missing_tools"] == []
    assert found["cgroup_mode"] == "unified" and found["namespaces"] == list(preflight.NAMESPACES)


@pytest.mark.parametrize("differences, words", [
    (dict(systemd=True, version="systemd 241 (241)\n"), "systemd 241 is too old"),
    (dict(systemd=True, mounts=V2.replace("cgroup2 cgroup2", "cgroup cgroup").replace("rw\n", "rw,memory\n")), "version 1"),
    (dict(release="4.19.0-27-amd64"), "too old"),
    (dict(capabilities=ALL & ~(1 << 21)), "capabilities sys_admin"),
    (dict(namespaces=("cgroup", "ipc", "mnt", "net", "pid")), "no uts namespaces"),
    (dict(maxima={"net": 0}), "no net namespaces"),
    (dict(filesystems="nodev\tproc\n", release="0.0-none"), "overlay"),
    (dict(mounts=""), "No cgroup tree"),
])
def test_what_makes_a_host_useless_is_one_sentence(machine, differences, words):
    problems = [text for text in machine(**differences)["problems"] if words in text]
    assert len(problems) == 1 and "\n" not in problems[0] and problems[0].endswith(".")


@pytest.mark.parametrize("differences, words", [
    (dict(capabilities=ALL & ~(1 << 24)), "sys_resource"),
    (dict(controllers="cpu memory pids cpuset"), "controller io: io_*"),
    (dict(maxima={"user": 0}), "no user namespaces"),
    (dict(release="5.10.0"), "cgroup.kill"),
    (dict(boot=None), "bulkhead restore"),
])
def test_what_only_limits_is_no_problem(machine, differences, words):
    found = machine(**differences)
    assert found["problems"] == []
    assert [text for text in found["limits"] if words in text] == found["limits"] != []


def test_missing_programs_are_named_by_package(machine):
    found = machine(tools=("nsenter", "sv"))
    assert found["missing_tools"] == ["runit", "tini"]
    assert found["tools"]["tini"] is None and found["problems"] == []


def test_what_is_missing_depends_on_the_init(machine):
    found = machine(systemd=True, boot="systemd", tools=("systemctl", "nsenter"))
    assert found["missing_tools"] == ["systemd"] and "tini" not in found["tools"]
    assert (found["init"], found["systemd"], found["boot"], found["problems"]) == ("systemd", 252, "systemd", [])


@pytest.mark.parametrize("tools, module, missing", [(None, None, []), (("tini",), None, ["nftables"]), (None, "there is none", ["python3-pyroute2"]),
                                                    (("tini",), "there is none", ["nftables", "python3-pyroute2"])])
def test_what_networks_need_is_told_apart(machine, monkeypatch, tools, module, missing):
    monkeypatch.setattr(preflight._netformat, "missing", lambda: module)
    found = machine(tools=tools)
    assert found["missing_network_tools"] == missing and found["limits"] == []


def test_the_python_of_the_program_needs_it_too(machine, monkeypatch):
    monkeypatch.setattr(preflight._netformat, "missing", lambda: None)
    monkeypatch.setattr(preflight, "OWN_PYTHON", "/bin/false")
    monkeypatch.setattr(preflight.sys, "executable", "/nowhere/python3")
    monkeypatch.setattr(Host, "run", lambda host, argv, data=None, env=None: (int(argv[0] == "/bin/false"), "", ""))
    assert machine()["missing_network_tools"] == ["python3-pyroute2"]


def test_a_kernel_without_bridges_limits(machine, monkeypatch):
    monkeypatch.setattr(preflight.built, "lacks", lambda option, module, release, proc: option == "BRIDGE")
    assert machine()["limits"] == ["Networks cannot be made: this kernel lacks bridge."]


@pytest.mark.parametrize("system, name, tested", [
    ("PRETTY_NAME='Debian GNU/Linux 13 (trixie)'\nID=debian\nVERSION_ID=13\n", "Debian GNU/Linux 13 (trixie)", True),
    ('ID="rocky"\nVERSION_ID="9.4"\nPRETTY_NAME="Rocky Linux 9.4"\n', "Rocky Linux 9.4", False), ("", None, False),
])
def test_a_system_that_is_not_tested_is_warned_of(machine, system, name, tested):
    found = machine(system=system)
    assert (found["system"], found["tested"]) == (name, tested)
    assert [(name or "This system") in text for text in found["warnings"]] == ([] if tested else [True])
    assert found["problems"] == found["limits"] == []


def test_an_overlay_module_that_is_not_loaded_counts(machine, monkeypatch):
    real = preflight.cgroupfs.read
    monkeypatch.setattr(preflight.cgroupfs, "read", lambda path, default="": (
        "kernel/fs/overlayfs/overlay.ko.xz:\n" if path.endswith("modules.dep") else real(path, default)))
    assert machine(filesystems="nodev\tproc\n")["overlay"]
