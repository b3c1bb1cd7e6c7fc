# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The program as a file: equal sources give equal bytes, all of the engine is in it, and it runs alone."""

from __future__ import annotations

import ast
import glob
import io
import os
import subprocess
import sys
import zipfile

import pytest
from ansible_collections.bulkhead.isolation.plugins.module_utils._engine.host import Host
from ansible_collections.bulkhead.isolation.plugins.module_utils._engine.plan import Plan, run_plan
from ansible_collections.bulkhead.isolation.plugins.module_utils._model.errors import BulkheadError, Problems
from ansible_collections.bulkhead.isolation.plugins.module_utils._program import archive, command, host as resource, main

UTILS = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__)))), "plugins", "module_utils")


@pytest.fixture(name="supervised", autouse=True)
def fixture_supervised(monkeypatch):
    """The supervisor runs, and nothing starts at boot, so only the program is looked at."""
    monkeypatch.setattr(resource.scan, "find", lambda host: 1)
    monkeypatch.setattr(resource.boot, "place", lambda host: None)
    monkeypatch.setattr(resource.boot, "found", lambda host: [])


def planned(path, **options):
    problems, plan = Problems(), Plan()
    spec = resource.parse(dict(options, program=str(path)), "", problems)
    problems.raise_if_any()
    resource.plan(Host(), spec, plan)
    return plan


def install(path, monkeypatch):
    """Install it as whoever runs the tests: a file of root's is told by its owner."""
    monkeypatch.setattr(resource.os, "fchown", lambda *dummy: None)
    monkeypatch.setattr(resource, "OWNER", (os.getuid(), os.getgid()))
    run_plan(planned(path))


def test_the_same_sources_are_the_same_bytes():
    assert archive.build("/usr/bin/python3") == archive.build("/usr/bin/python3")
    assert archive.build("/usr/bin/python3").startswith(b"#!/usr/bin/python3 -IS\nPK")


def test_all_of_the_engine_is_in_it_and_nothing_of_ansible():
    names = set(zipfile.ZipFile(io.BytesIO(archive.build("/x"))).namelist())
    engine = {"bulkhead/" + os.path.relpath(path, UTILS) for path in glob.glob(UTILS + "/_*/*.py")}
    assert names == engine | {"__main__.py", "bulkhead/__init__.py", "bulkhead/_once.py"}


def test_what_ansible_sends_with_the_module_is_enough():
    """Ansible sends what is imported, so every file of the engine that a file of the engine imports is reached from the main."""
    reached, waiting = set(), ["_program/main", "_program/host", "_program/archive", "_once"]
    while waiting:
        name = waiting.pop()
        if name in reached or not os.path.exists("%s/%s.py" % (UTILS, name)):
            continue
        reached.add(name)
        with open("%s/%s.py" % (UTILS, name), encoding="utf-8") as stream:
            for node in ast.walk(ast.parse(stream.read())):
                if isinstance(node, ast.ImportFrom) and node.level:
                    base = os.path.normpath(os.path.join(os.path.dirname(name), *[".."] * (node.level - 1), *(node.module or "").split(".")))
                    waiting += [base, base + "/__init__"] + [os.path.normpath(os.path.join(base, alias.name)) for alias in node.names]
    missing = {os.path.relpath(path, UTILS)[:-len(".py")] for path in glob.glob(UTILS + "/_*/*.py") if not path.endswith("__init__.py")} - reached
    missing -= {"_model/snapshot", "_resources/snapshot"}  # which only a task does, and nothing that the program does
    assert not missing, "no file of the engine imports these"


def test_it_runs_alone(tmp_path, monkeypatch):
    install(tmp_path / "bin" / "bulkhead", monkeypatch)
    ended = subprocess.run([sys.executable, "-IS", str(tmp_path / "bin" / "bulkhead"), "help"], cwd="/", env={}, capture_output=True,
                           text=True, check=True)
    assert ended.stdout == main.USAGE and ended.stderr == ""


def test_it_is_installed_once(tmp_path, monkeypatch):
    path = tmp_path / "bulkhead"
    assert planned(path).actions == ["install program %s" % path]
    install(path, monkeypatch)
    assert planned(path).actions == [] and os.stat(path).st_mode & 0o7777 == 0o755
    assert os.listdir(tmp_path) == ["bulkhead"]


@pytest.mark.parametrize("damage", [
    lambda path: path.chmod(0o700),
    lambda path: path.write_bytes(path.read_bytes() + b"\n"),
    lambda path: path.unlink(),
    lambda path: (path.parent / ".bulkhead.new").write_text("of a run that was killed"),
], ids=["mode", "content", "gone", "half-done"])
def test_damage_is_mended(tmp_path, monkeypatch, damage):
    path = tmp_path / "bulkhead"
    install(path, monkeypatch)
    damage(path)
    install(path, monkeypatch)
    assert planned(path).actions == []


@pytest.mark.parametrize("make", [
    lambda path: path.write_text("#!/bin/sh\n"), lambda path: path.mkdir(), lambda path: path.symlink_to("/bin/true"),
], ids=["file", "directory", "link"])
@pytest.mark.parametrize("state", ["present", "absent"])
def test_what_is_not_ours_is_left_alone(tmp_path, make, state, monkeypatch):
    path = tmp_path / "bulkhead"
    make(path)
    monkeypatch.setattr(resource.whole, "existing", lambda host, and_recorded: [])
    with pytest.raises(BulkheadError, match="^Cannot manage program .*: something else is there"):
        planned(path, state=state)


@pytest.mark.parametrize("options, path", [
    (dict(state="gone"), "state"), (dict(interpreter="python3"), "interpreter"), (dict(remove_data="perhaps"), "remove_data"),
])
def test_bad_options_are_named(options, path):
    with pytest.raises(BulkheadError, match=path):
        planned("/x", **options)


def test_a_command_is_run_to_its_end():
    assert command.run(["sh", "-c", "cat; echo $WORD >&2; exit 3"], data="in", env={"WORD": "out"}) == (3, "in", "out\n")
    assert command.run(["sh", "-c", "kill -9 $$"])[0] == 137
    assert len(command.run(["head", "-c", "1000000", "/dev/zero"])[1]) == 1000000
    with pytest.raises(BulkheadError, match="^Cannot run /no/such: No such file or directory"):
        command.run(["/no/such"])
