# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What systemd need not be asked again: which unit files it has as they are. The bus is replaced by what it would answer."""

from __future__ import annotations

import os

import pytest
from ansible_collections.bulkhead.isolation.plugins.module_utils._engine.host import Host
from ansible_collections.bulkhead.isolation.plugins.module_utils._supervisor import fresh, manager, many, systemctl

SLICE, SERVICE = "bulkhead-a.slice", "bulkhead-a-b.service"


class Manager:
    """Stands for systemd: ``loaded`` {unit: state}; ``asked`` [(unit, the properties)]; ``since``: the last daemon-reload."""

    def __init__(self, tmp_path, monkeypatch):
        self.loaded, self.asked, self.since, self.stale = {SLICE: "active", SERVICE: "active"}, [], 0, set()
        self.roots = {"state": str(tmp_path / "state"), "units": str(tmp_path / "units"), "bus": "there"}
        for name in ("state", "units"):
            (tmp_path / name).mkdir()
        monkeypatch.setattr(fresh, "PLACES", (str(tmp_path / "places"),))
        monkeypatch.setattr(manager, "states", lambda host, pattern: dict(self.loaded))
        monkeypatch.setattr(manager, "read_since", lambda host: self.since)
        monkeypatch.setattr(manager, "show", self.show)
        monkeypatch.setattr(manager, "queue", lambda host, verb, units: self.loaded.update(dict.fromkeys(units, "active")) or {})
        monkeypatch.setattr(manager, "jobs", lambda host: [])

    def show(self, host, units, properties):
        self.asked += [(unit, tuple(properties)) for unit in units]
        known = {"LoadState": "loaded", "DropInPaths": "", "ActiveState": "active", "MainPID": "7"}
        return {unit: {name: dict(known, NeedDaemonReload="yes" if unit in self.stale else "no", FragmentPath=systemctl.path(host, unit)).get(name, "")
                       for name in properties} for unit in units}

    def run(self):
        """What a run of the engine finds, and what systemd was asked about the files of units: [unit]."""
        host = Host(lambda argv, data, env: pytest.fail("%s was run" % argv), **self.roots)
        self.asked.clear()
        found = systemctl.show(host, [SLICE, SERVICE])
        host.finish()
        return found, [unit for unit, properties in self.asked if "NeedDaemonReload" in properties]


@pytest.fixture
def systemd(tmp_path, monkeypatch):
    found = Manager(tmp_path, monkeypatch)
    for unit in (SLICE, SERVICE):
        (tmp_path / "units" / unit).write_text(systemctl.MADE)
    return found


def test_what_it_has_read_is_asked_once(systemd):
    first, asked = systemd.run()
    assert asked == [SLICE, SERVICE]
    found, asked = systemd.run()
    assert asked == [] and [unit for unit, properties in systemd.asked] == [SERVICE]  # only what it does
    for values in (first, found):
        assert {name: values[SERVICE][name] for name in ("LoadState", "NeedDaemonReload", "DropInPaths", "ActiveState", "MainPID")} == {
            "LoadState": "loaded", "NeedDaemonReload": "no", "DropInPaths": "", "ActiveState": "active", "MainPID": "7"}
    assert found[SLICE]["FragmentPath"] == first[SLICE]["FragmentPath"] and found[SLICE]["ControlGroup"] == "/bulkhead.slice/bulkhead-a.slice"


@pytest.mark.parametrize("name", ["bulkhead-a.slice.d", "bulkhead-.slice.d", "slice.d"])
def test_one_with_drop_ins_is_asked_about_each_time(systemd, tmp_path, name):
    systemd.run()
    (tmp_path / "places" / name).mkdir(parents=True)
    assert systemd.run()[1] == [SLICE]
    (tmp_path / "places" / name).rmdir()
    assert systemd.run()[1] == []


def test_another_version_is_asked_about_until_it_is_read(systemd, tmp_path):
    systemd.run()
    systemd.stale = {SERVICE}
    (tmp_path / "new").write_text(systemctl.MADE + " another")
    (tmp_path / "new").rename(tmp_path / "units" / SERVICE)
    for dummy in range(2):
        found, asked = systemd.run()
        assert asked == [SERVICE] and found[SERVICE]["NeedDaemonReload"] == "yes"
    systemd.stale = set()
    assert systemd.run()[1] == [SERVICE] and systemd.run()[1] == []


def test_after_a_daemon_reload_all_are_asked_about_again(systemd):
    systemd.run()
    systemd.since = 5
    assert systemd.run()[1] == [SLICE, SERVICE] and systemd.run()[1] == []
    systemd.since = None  # it does not say
    assert systemd.run()[1] == [SLICE, SERVICE]


@pytest.mark.parametrize("text", ["", "{", '{"since": 0}'])
def test_a_note_that_says_nothing_is_no_note(systemd, text):
    with open(systemd.roots["state"] + "/read.json", "w", encoding="ascii") as stream:
        stream.write(text)
    assert systemd.run()[1] == [SLICE, SERVICE] and systemd.run()[1] == []


def test_what_cannot_be_noted_is_asked_again(systemd, monkeypatch):
    def full(path, content, mode):
        with open(path.replace("/read.json", "/.read.json.new"), "w", encoding="ascii"):
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as now:
        now.setattr(fresh.common, "put", full)
        systemd.run()
    assert os.listdir(systemd.roots["state"]) == [] and systemd.run()[1] == [SLICE, SERVICE]
    fresh.clear(Host(**systemd.roots))
    assert os.listdir(systemd.roots["state"]) == []


def test_a_new_unit_is_read_when_it_is_started(systemd, tmp_path):
    for unit in (SLICE, SERVICE):
        (tmp_path / "units" / unit).unlink()
    systemd.loaded = {}
    host = Host(lambda argv, data, env: pytest.fail("%s was run" % argv), **systemd.roots)
    assert [values["LoadState"] for values in systemctl.show(host, [SLICE, SERVICE]).values()] == ["not-found"] * 2
    for unit in (SLICE, SERVICE):
        systemctl.write(host, unit, systemctl.MADE)
    many.start(host, [SLICE, SERVICE], lambda unit: True)
    host.finish()
    assert systemd.run()[1] == []
