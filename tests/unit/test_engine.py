# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The engine on fake resources: one path for check and run, undo in reverse, one lock, claims before and records after."""

from __future__ import annotations

import fcntl
import json
import os
import stat

import pytest
from ansible_collections.bulkhead.isolation.plugins.module_utils._engine import aside, engine, places
from ansible_collections.bulkhead.isolation.plugins.module_utils._engine.host import Host
from ansible_collections.bulkhead.isolation.plugins.module_utils._engine.lock import Lock
from ansible_collections.bulkhead.isolation.plugins.module_utils._engine.plan import SIDE_BY_SIDE, Plan, run_plan, run_plans, run_together
from ansible_collections.bulkhead.isolation.plugins.module_utils._model.errors import BulkheadError


@pytest.fixture
def host(tmp_path, monkeypatch):
    monkeypatch.setattr(places, "ensure", lambda host: None)
    monkeypatch.setattr(Host, "systemd", False)
    return Host(state=str(tmp_path / "run"), etc=str(tmp_path / "etc"), lib=str(tmp_path / "lib"), lock=str(tmp_path / "lock"))


class Files:
    """A resource whose objects are files with a text, enough to drive the engine."""

    NOUN = "file"

    def __init__(self, root):
        self.root = root

    def parse(self, options, path, problems):
        if "bad" in options:
            problems.add("bad", "is bad")
        return [type("Spec", (), dict(key=key, text=text)) for key, text in options["files"].items()] if "files" in options else \
            type("Spec", (), dict(key=options.get("name"), text=options.get("text")))

    def plan(self, host, spec, plan):
        if spec.text == "refused":
            raise BulkheadError("Cannot write %s: it is refused. Write something else." % spec.key)
        path = self.root / spec.key
        before = path.read_text() if path.exists() else None
        if before == spec.text:
            return
        plan.differ("text", before, spec.text)
        plan.record("file", spec.key, {"text": spec.text})

        def write():
            if spec.text == "broken":
                raise OSError(28, "No space left on device", str(path))
            path.write_text(spec.text)

        mark = self.root / ("." + spec.key)
        plan.add("prepare %s" % spec.key, mark.touch, mark.unlink)
        plan.add("write %s" % spec.key, write, path.unlink)


@pytest.fixture
def files(tmp_path):
    (tmp_path / "files").mkdir()
    return Files(tmp_path / "files")


def test_check_tells_what_the_run_then_does_and_touches_nothing(host, files, tmp_path):
    checked = engine.converge(host, files, {"name": "a", "text": "x"}, check=True)
    assert sorted(os.listdir(tmp_path)) == ["files"] and os.listdir(files.root) == []
    ran = engine.converge(host, files, {"name": "a", "text": "x"})
    assert checked.changed and ran.changed
    assert checked.joined("actions") == ran.joined("actions") == ["prepare a", "write a"]
    assert checked.difference() == ran.difference() == ({"text": None}, {"text": "x"})
    again = engine.converge(host, files, {"name": "a", "text": "x"})
    assert not again.changed and again.difference() == ({}, {})


def test_a_failing_step_undoes_those_before_it_and_says_so(host, files):
    with pytest.raises(BulkheadError) as caught:
        engine.converge(host, files, {"name": "a", "text": "broken"})
    assert caught.value.message.startswith("Cannot write a: No space left on device")
    assert "Undone: prepare a." in caught.value.message
    assert caught.value.keys["undone"] == ["prepare a"] and os.listdir(files.root) == []
    assert host.records.names("file") == []


def test_one_of_a_list_that_fails_does_not_keep_the_others_from_being_made(host, files):
    outcome = engine.converge(host, files, {"files": {"a": "x", "b": "broken", "c": "refused", "d": "y"}})
    assert sorted(entry for entry in os.listdir(files.root) if not entry.startswith(".")) == ["a", "d"]
    assert [plan.key for plan in outcome.errors] == ["b", "c"]
    assert outcome.difference()[1] == {"a": {"text": "x"}, "d": {"text": "y"}}
    assert outcome.joined("actions") == ["prepare a", "write a", "prepare d", "write d"]
    assert host.records.names("file") == ["a", "d"]


def test_input_errors_come_before_the_lock(host, files, tmp_path):
    with pytest.raises(BulkheadError, match="bad: is bad"):
        engine.converge(host, files, {"bad": 1, "name": "a"})
    assert not os.path.exists(host.lock)


@pytest.mark.parametrize("check", [True, False])
def test_it_goes_aside_before_it_plans_and_plans_again_when_that_is_made(host, files, monkeypatch, check):
    did = []
    monkeypatch.setattr(aside, "join", lambda host: did.append("join"))
    monkeypatch.setattr(places, "ensure", lambda host: did.append("make") or True)
    plan = files.plan
    monkeypatch.setattr(files, "plan", lambda *words: did.append("plan") or plan(*words))
    assert engine.converge(host, files, {"name": "a", "text": "x"}, check=check).changed
    assert did == (["join", "plan"] if check else ["join", "plan", "make", "plan"])
    did.clear()
    engine.converge(host, files, {"name": "a", "text": "x"}, check=check)
    assert did == ["join", "plan"]


def test_what_was_promised_before_it_went_aside_is_planned_with(host, files, monkeypatch):
    monkeypatch.setattr(places, "ensure", lambda host: True)
    seen, plan = [], files.plan

    def promising(host, spec, one):
        seen.append(set(host.promised))
        host.promised.add(("file", spec.key))
        plan(host, spec, one)
    monkeypatch.setattr(files, "plan", promising)
    host.promised.add(("file", "b"))
    engine.converge(host, files, {"name": "a", "text": "x"})
    assert seen == [{("file", "b")}] * 2


def test_only_the_real_places_of_a_host_with_systemd_are_aside(host, monkeypatch):
    assert not Host().aside
    monkeypatch.setattr(Host, "systemd", True)
    assert Host().aside and not host.aside
    assert not aside.join(host) and not aside.inside(host)


def test_what_cannot_be_undone_is_named():
    plan = Plan()

    def fail(*unused):
        raise OSError(5, "Input/output error")

    plan.add("one", lambda: None, fail)
    plan.add("two", fail)
    with pytest.raises(BulkheadError, match=r"Could not undo: one \(Input/output error\)"):
        run_plan(plan)


@pytest.mark.parametrize("stuck", [False, True])
def test_one_act_takes_the_place_of_undoing_what_came_after_it(stuck):
    plan, did = Plan(), []

    def fail():
        raise OSError(5, "Input/output error")

    plan.add("one", lambda: None, lambda: did.append("one"))
    plan.add("two", lambda: None, lambda: did.append("two"), instead=fail if stuck else lambda: did.append("all since two"))
    plan.add("three", lambda: None, lambda: did.append("three"))
    plan.add("four", fail)
    with pytest.raises(BulkheadError) as caught:
        run_plan(plan)
    assert did == (["one"] if stuck else ["all since two", "one"])
    assert (caught.value.keys["undone"], caught.value.keys["not_undone"]) == ((["one"], ["two (Input/output error)"]) if stuck else (["two", "one"], []))


def test_another_object_of_a_host_has_its_places_and_nothing_of_what_it_read(host):
    host.cached("x", lambda: 1)
    host.at_end(print, "x")
    other = host.another()
    assert {key: value for key, value in vars(other).items() if isinstance(value, str)} == {
        key: value for key, value in vars(host).items() if isinstance(value, str)}
    assert other.cached("x", lambda: 2) == 2
    other.finish()
    assert host._ending


def test_plans_of_parts_are_joined_under_their_name():
    whole, part = Plan("web"), Plan()
    part.add("set x", lambda: None)
    part.differ("x", 1, 2)
    part.needs_restart("web/nginx", {"b", "a"})
    part.warn("careful")
    whole.take(part, "cgroup")
    assert (whole.before, whole.after) == ({"cgroup": {"x": 1}}, {"cgroup": {"x": 2}})
    assert whole.restart == [{"name": "web/nginx", "keys": ["a", "b"]}] and whole.warnings == ["careful"] and whole.changed


def test_what_is_done_together_comes_in_the_order_of_the_plans_that_have_several(host):
    done = []

    def rules(host, things):
        done.append(("rules", things))

    def links(host, things):
        done.append(("links", things))

    short, long, refused = Plan("short"), Plan("long"), Plan("refused")
    short.add("set links", lambda: None, together=links, thing=1)
    long.add("set rules", lambda: None, together=rules, thing=2)
    long.add("set links", lambda: None, together=links, thing=3)
    refused.add("set rules", lambda: None, together=rules, thing=4)
    refused.error = BulkheadError("no")
    run_together(host, [short, long, refused])
    assert done == [("rules", [2]), ("links", [1, 3])]


def test_what_is_gathered_waits_for_all_plans_and_each_has_its_own_end(host):
    done, broken = [], set()

    def gather(host, things):
        done.append(list(things))
        broken.update({"b1"} & set(things))

    def step(thing):
        if thing in broken:
            raise BulkheadError("Cannot start b1: it ended.")
        done.append(thing)

    plans = []
    for name in "abc":
        plan = Plan(name)
        plan.add("make " + name, lambda name=name: done.append("make " + name), lambda name=name: done.append("unmake " + name))
        for number in range(1 + (name != "c")):
            thing = "%s%d" % (name, number + 1)
            plan.add("start " + thing, lambda thing=thing: step(thing), gather=gather, thing=thing)
        plans.append(plan)
    plans[2].error = BulkheadError("refused")
    ended = [(plan.key, error and error.message) for plan, error in run_plans(host, plans)]
    assert done == ["make a", "make b", ["a1", "b1"], "a1", "unmake b", ["a2"], "a2"]
    assert ended == [("b", "Cannot start b1: it ended. Undone: make b."), ("a", None)]
    run_plan(plans[2])  # by itself, nothing is gathered
    assert done[-2:] == ["make c", "c1"]


def test_of_a_long_list_some_run_side_by_side(host):
    done, plans = [], [Plan(str(number)) for number in range(2 * SIDE_BY_SIDE + 1)]

    def gather(dummy, things):
        done.append(things)

    for number, plan in enumerate(plans):
        plan.add("start", lambda: None, gather=gather, thing=number)
    plans[1].error = BulkheadError("refused")
    assert [plan.key for plan, dummy in run_plans(host, plans)] == [plan.key for plan in plans if plan.error is None]
    assert [len(things) for things in done] == [SIDE_BY_SIDE, SIDE_BY_SIDE] and sum(done, []) == [0] + list(range(2, len(plans)))


def test_the_lock_is_held_alone_waits_and_names_its_holder(tmp_path):
    path = str(tmp_path / "lock")
    with Lock(path, "sandbox"):
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        with pytest.raises(BulkheadError, match=r"process %d \(sandbox\) has held it" % os.getpid()):
            Lock(path, "cgroup", wait=0.05).__enter__()
    with Lock(path, "cgroup", wait=0.05):
        pass


def test_a_lock_without_room_for_words_is_held(tmp_path, monkeypatch):
    def full(*dummy):
        raise OSError(28, "No space left on device")

    path = str(tmp_path / "lock")
    monkeypatch.setattr(os, "pwrite", full)
    with Lock(path, "sandbox"):
        with pytest.raises(BulkheadError, match="an unknown process has held it"):
            Lock(path, "cgroup", wait=0.05).__enter__()


def test_what_cannot_be_written_is_named(host, monkeypatch):
    def full(*dummy):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    os.makedirs(host.state + "/made/cgroup")
    with pytest.raises(OSError) as caught:
        host.claims.begin("cgroup", "web")
    assert caught.value.filename.startswith(host.state + "/made/cgroup/") and not os.listdir(host.state + "/made/cgroup")


def test_the_lock_of_a_dead_holder_is_free(tmp_path):
    path = str(tmp_path / "lock")
    child = os.fork()
    if child == 0:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX)
        os._exit(0)
    os.waitpid(child, 0)
    with Lock(path, "cgroup", wait=0.05):
        pass


def test_a_claim_without_identity_is_ours_and_another_identity_is_not(host):
    assert not host.claims.owns("cgroup", "a/b", [1, 2])
    host.claims.begin("cgroup", "a/b")
    assert host.claims.owns("cgroup", "a/b", [1, 2])
    host.claims.complete("cgroup", "a/b", [1, 2])
    assert host.claims.owns("cgroup", "a/b", [1, 2]) and not host.claims.owns("cgroup", "a/b", [1, 3])
    host.claims.begin("cgroup", "a/b")
    assert not host.claims.owns("cgroup", "a/b", [1, 3])
    assert host.claims.names("cgroup") == ["a/b"]
    host.claims.drop("cgroup", "a/b")
    host.claims.drop("cgroup", "a/b")
    assert host.claims.read("cgroup", "a/b") is None


def test_records_are_private_merged_and_forgotten(host):
    host.records.write_all({("cgroup", "a"): ({"x": 1}, False)})
    host.records.write_all({("cgroup", "a"): ({"y": 2}, True)})
    path = host.records.path("cgroup", "a")
    assert json.load(open(path)) == {"options": {"x": 1, "y": 2}}
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert host.records.write_all({("cgroup", "a"): ({"y": 2}, True)}) == 0
    host.records.write_all({("cgroup", "a"): (None, False)})
    assert host.records.options("cgroup", "a") is None and os.listdir(os.path.dirname(path)) == []


def test_a_record_that_is_not_whole_is_as_none(host):
    path = host.records.path("cgroup", "a")
    os.makedirs(os.path.dirname(path))
    for content in ("", "{", "[]", "\0", '{"options": 5}'):
        open(path, "w").write(content)
        host.forget()
        assert host.records.options("cgroup", "a") is None
    host.records.write_all({("cgroup", "a"): (None, False)})
    assert host.records.names("cgroup") == []


def test_a_record_that_cannot_be_written_is_told_with_what_is_there(host, files, monkeypatch):
    def write_all(entries):
        raise OSError(30, "Read-only file system", "/etc/bulkhead")

    monkeypatch.setattr(host.records, "write_all", write_all)
    with pytest.raises(BulkheadError, match=r"Cannot record file a: Read-only file system \(/etc/bulkhead\)\. It is as declared"):
        engine.converge(host, files, {"name": "a", "text": "x"})


def test_one_of_a_list_that_cannot_be_looked_at_does_not_keep_the_others_from_being_made(host, files):
    (files.root / "a").mkdir()
    outcome = engine.converge(host, files, {"files": {"a": "x", "b": "y"}})
    assert [plan.error.message for plan in outcome.errors] == [
        "Cannot look at file a: Is a directory (%s). Mend that on the host and run again." % (files.root / "a")]
    assert (files.root / "b").read_text() == "y"
