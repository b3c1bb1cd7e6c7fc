# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What runs restore at boot, on fake hosts: the one place that the host has, made once, mended, moved with the init, removed."""

from __future__ import annotations

import os

import pytest
from ansible_collections.bulkhead.isolation.plugins.module_utils._engine.host import Host
from ansible_collections.bulkhead.isolation.plugins.module_utils._engine.plan import Plan, run_plan
from ansible_collections.bulkhead.isolation.plugins.module_utils._model.errors import BulkheadError
from ansible_collections.bulkhead.isolation.plugins.module_utils._supervisor import boot

PROGRAM = "/usr/local/bin/bulkhead"


class Machine:
    """A host of trees below a directory, with one init; systemctl makes and removes the links of enabled units."""

    def __init__(self, top, monkeypatch):
        self.top, self.monkeypatch, self.called = top, monkeypatch, []
        for name in ("proc/1", "units/multi-user.target.wants", "cron.d", "sv", "state"):
            (top / name).mkdir(parents=True)
        (top / "proc/1/root").symlink_to("/")
        monkeypatch.setattr(boot, "CRON", str(top / "cron.d/bulkhead"))
        monkeypatch.setattr(boot, "CRON_RUNS", str(top / "crond.pid"))
        self.be("none")

    def be(self, kind):
        self.monkeypatch.setattr(Host, "systemd", kind == "systemd")
        (self.top / "crond.pid").unlink(missing_ok=True)
        if kind == "cron":
            (self.top / "crond.pid").write_text("7\n")
        words = ["runsvdir", "-P", str(self.top / "sv")] if kind == "runit" else ["init"]
        (self.top / "proc/1/cmdline").write_bytes(b"\0".join(word.encode() for word in words) + b"\0")

    def host(self):
        top = self.top
        return Host(self.run, proc=str(top / "proc"), state=str(top / "state"), units=str(top / "units"), bus=None)

    def run(self, argv, data, env):
        words = [word for word in argv[1:] if not word.startswith("-")]
        self.called.append(words[0] if words else argv[1])
        if "--version" in argv:
            return 0, "systemd 252 (252.39)\n", ""
        for unit in words[1:]:
            link = self.top / "units/multi-user.target.wants" / unit
            if words[0] == "enable":
                link.symlink_to("../" + unit)
            elif words[0] == "disable":
                link.unlink(missing_ok=True)
        return 0, "", ""

    def plan(self, program=PROGRAM):
        plan = Plan()
        boot.plan(self.host(), program, plan)
        return plan

    def removal(self):
        plan = Plan()
        boot.plan_removal(self.host(), plan)
        return plan

    def left(self):
        return sorted(os.path.relpath(os.path.join(where, name), self.top) for top in ("units", "cron.d", "sv")
                      for where, directories, files in os.walk(self.top / top)
                      for name in files + [each for each in directories if os.path.islink(os.path.join(where, each))])


@pytest.fixture(name="machine")
def fixture_machine(tmp_path, monkeypatch):
    return Machine(tmp_path, monkeypatch)


FILES = {
    "systemd": ["units/bulkhead-restore.service", "units/bulkhead.service", "units/multi-user.target.wants/bulkhead-restore.service",
                "units/multi-user.target.wants/bulkhead.service"],
    "cron": ["cron.d/bulkhead"],
    "runit": ["sv/bulkhead-restore/finish", "sv/bulkhead-restore/run"],
    "none": [],
}
MAIN = {"systemd": FILES["systemd"][0], "cron": FILES["cron"][0], "runit": FILES["runit"][1]}  # which names the program


@pytest.mark.parametrize("kind", FILES)
def test_it_is_made_once_and_removed(machine, kind):
    machine.be(kind)
    assert boot.place(machine.host()) == (None if kind == "none" else kind)
    run_plan(machine.plan())
    assert machine.left() == FILES[kind] and not machine.plan().steps
    assert kind == "none" or PROGRAM + " restore" in (machine.top / MAIN[kind]).read_text()
    machine.called.clear()
    run_plan(machine.removal())
    assert [name for name in machine.left() if not name.endswith("/bulkhead.service")] == [] and not machine.removal().steps
    # It is ended while it has its file, so as not to stay loaded. bulkhead.service has others living in it.
    assert [word for word in machine.called if word in ("disable", "stop", "daemon-reload")] == (
        ["disable", "daemon-reload", "stop", "daemon-reload"] if kind == "systemd" else [])


@pytest.mark.parametrize("kind", ["systemd", "cron", "runit"])
@pytest.mark.parametrize("damage", [
    lambda path: path.write_text(path.read_text().replace("restore", "help")), lambda path: path.chmod(0o600), lambda path: path.unlink(),
    lambda path: path.write_text(""),
], ids=["content", "mode", "gone", "empty"])
def test_damage_is_mended(machine, kind, damage):
    machine.be(kind)
    run_plan(machine.plan())
    damage(machine.top / MAIN[kind])
    assert [name for name in machine.plan().actions if not name.startswith("let ")] == ["write %s" % (machine.top / MAIN[kind])]
    run_plan(machine.plan())
    assert machine.left() == FILES[kind] and not machine.plan().steps


def test_a_unit_that_somebody_disabled_is_enabled(machine):
    machine.be("systemd")
    run_plan(machine.plan())
    (machine.top / FILES["systemd"][2]).unlink()
    machine.called.clear()
    assert machine.plan().actions == ["enable bulkhead-restore.service", "let systemd read the units"]
    run_plan(machine.plan())
    assert machine.called.count("daemon-reload") == 1


def test_it_moves_with_the_init(machine):
    for kind in ("cron", "systemd", "runit", "cron"):
        machine.be(kind)
        run_plan(machine.plan())
        assert set(machine.left()) >= set(FILES[kind]) and not machine.plan().steps
    machine.be("systemd")
    run_plan(machine.removal())
    assert not [name for name in machine.left() if name.startswith(("cron.d", "units")) and not name.endswith("/bulkhead.service")]


@pytest.mark.parametrize("kind", ["systemd", "cron", "runit"])
def test_what_is_somebody_else_s_is_left_alone(machine, kind):
    machine.be(kind)
    path = machine.top / MAIN[kind]
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine\n")
    with pytest.raises(BulkheadError, match="^Cannot manage .*: something else is there. Remove it.$"):
        machine.plan()
    assert not machine.removal().steps


@pytest.mark.parametrize("program", ["/opt/my tools/bulkhead", "/opt/100%/bulkhead", "/opt/$x/bulkhead", "/opt/é/bulkhead"])
def test_a_path_that_would_mean_something_is_refused(machine, program):
    machine.be("cron")
    with pytest.raises(BulkheadError, match="^Cannot run .* at boot"):
        machine.plan(program)
    machine.be("none")
    assert not machine.plan(program).steps


def test_a_runsvdir_of_ours_is_no_boot(machine):
    (machine.top / "proc/1/cmdline").write_bytes(b"runsvdir\0-P\0%s/service\0log\0" % os.fsencode(str(machine.top / "state")))
    assert boot.place(machine.host()) is None
