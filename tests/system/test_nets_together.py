# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Net namespaces of many new sets are pinned before the first of them is born; and what happens when that goes wrong."""

from __future__ import annotations

import errno
import os
import signal

import drive
import pytest

from module_utils._engine import places
from module_utils._engine.lock import Lock
from module_utils._engine.plan import Plan, run_plans, run_together
from module_utils._kernel import nsfs, syscalls
from module_utils._model.errors import Problems
from module_utils._model.namespace import NamespaceSpec
from module_utils._resources import _nets, namespace

NAMES = ["web", "db", "cache"]
TYPES = ["net", "uts", "ipc", "pid"]


@pytest.fixture(autouse=True)
def tidy(leaves_nothing):
    yield
    for name in NAMES:
        drive.converge("namespace", dict(name=name, state="absent", kill=True))


class Births:
    """What is pinned in /run/netns when each set is born."""

    def __init__(self, monkeypatch):
        self.seen, self._birth = [], namespace.birth
        monkeypatch.setattr(namespace, "birth", self.birth)

    def birth(self, host, request):
        self.seen.append((request.name, sorted(name for name in NAMES if nsfs.look("/run/netns/" + name, "net").alive), sorted(request.make)))
        return self._birth(host, request)


@pytest.fixture
def births(monkeypatch):
    return Births(monkeypatch)


def run(spoil=None, **options):
    """One run over all of them: {name: its error, or None}. The plan of the set ``spoil`` has a step ahead that fails."""
    host, plans = drive.new_host(), []
    with Lock(host.lock, "test"):
        places.ensure(host)
        for name in NAMES:
            problems = Problems()
            spec = NamespaceSpec.from_options(dict({"types": TYPES}, **options), "", problems, name=name)
            problems.raise_if_any()
            plan = Plan(name)
            if name == spoil:
                plan.add("be in the way", fail)
            namespace.plan(host, spec, plan)
            plans.append(plan)
        run_together(host, plans)
        return {plan.key: error for plan, error in run_plans(host, plans)}


def fail():
    raise OSError(errno.EIO, "I/O error")


def alive(name):
    """Its types, all of them ours by the claim."""
    now = namespace.Found(drive.new_host(), name)
    assert not now.foreign() and all(not now.unfinished(kind) for kind, pin in now.pins.items() if pin.alive)
    return sorted(kind for kind, pin in now.pins.items() if pin.alive)


def test_all_are_pinned_before_the_first_set_is_born(births):
    assert run() == dict.fromkeys(NAMES)
    assert births.seen == [(name, sorted(NAMES), ["ipc", "pid", "uts"]) for name in NAMES]
    identities = {nsfs.identity("/run/netns/" + name) for name in NAMES + [""]}
    assert len(identities) == len(NAMES) + 1  # each has one of its own
    for name in NAMES:
        assert alive(name) == sorted(TYPES)
        keeper = namespace.show(drive.new_host(), name)["keeper"]
        assert nsfs.identity("/proc/%d/ns/net" % keeper) == nsfs.identity("/run/netns/" + name)
        with nsfs.visit({"net": "/run/netns/" + name}):
            assert nsfs.loopback()
    assert run() == dict.fromkeys(NAMES) and len(births.seen) == len(NAMES)  # nothing is left to do


def test_what_is_declared_of_them_is_set_though_they_are_joined():
    assert run(sysctls={"net.ipv4.ip_forward": "1"}) == dict.fromkeys(NAMES)
    for name in NAMES:
        with nsfs.visit({"net": "/run/netns/" + name}):
            assert nsfs.read_sysctl("net/ipv4/ip_forward") == "1"


def test_a_set_of_nothing_else(births):
    assert run(types=["net"]) == dict.fromkeys(NAMES)
    assert [make for name, pinned, make in births.seen] == [[], [], []]
    assert all(alive(name) == ["net"] for name in NAMES)
    with nsfs.visit({"net": "/run/netns/web"}):
        assert nsfs.loopback()


def test_one_of_another_owner_is_born_in_its_user_namespace(births):
    maps = ["0 100000 10"]
    assert run(types=["user", "net"], uid_map=maps, gid_map=maps) == dict.fromkeys(NAMES)
    assert births.seen[0] == ("web", [], ["net", "user"])
    for name in NAMES:
        assert nsfs.owner("/run/netns/" + name) == nsfs.identity("/run/bulkhead/ns/%s/user" % name)


@pytest.mark.parametrize("options, spoil, why", [
    ({"sysctls": {"net.ipv4.ip_forward": "banana"}}, None, "Cannot create ipc, uts, net, pid of namespaces db"),  # at its birth
    ({}, "db", "Cannot be in the way: I/O error."),  # before its birth
])
def test_one_that_fails_leaves_none(monkeypatch, options, spoil, why):
    prepare = namespace._prepare

    def prepared(host, spec, *rest):
        prepare(host, spec, *rest)
        if spec.name != "db":
            spec.sysctls = {}

    monkeypatch.setattr(namespace, "_prepare", prepared)
    errors = run(spoil, **options)
    assert errors.pop("db").message.startswith(why) and errors == {"web": None, "cache": None}
    assert alive("web") == alive("cache") == sorted(TYPES)
    assert not os.path.lexists("/run/netns/db") and not os.path.lexists("/run/bulkhead/made/namespace/db.json")


@pytest.mark.parametrize("end", ["error", "killed"])
def test_what_cannot_be_made_together_is_made_at_the_birth(monkeypatch, births, end):
    mount, count = syscalls.mount, []

    def second_fails(source, target, *rest):
        if target.startswith("/run/netns/") and os.getpid() != parent:
            count.append(target)
            if len(count) == 2:
                os.kill(os.getpid(), signal.SIGKILL) if end == "killed" else fail()
        return mount(source, target, *rest)

    parent = os.getpid()
    monkeypatch.setattr(_nets.sc, "mount", second_fails)
    assert run() == dict.fromkeys(NAMES)
    assert births.seen[0] == ("web", ["web"], ["ipc", "pid", "uts"])
    assert births.seen[1] == ("db", ["web"], sorted(TYPES))
    assert all(alive(name) == sorted(TYPES) for name in NAMES)


def test_the_pin_of_somebody_who_was_faster_is_left_alone(monkeypatch):
    reserve = _nets._pins.reserve_net

    def late(host, name):
        if name == "db":
            nsfs.make_pin("/proc/self/ns/net", "/run/netns/db")
        return reserve(host, name)

    monkeypatch.setattr(_nets._pins, "reserve_net", late)
    errors = run()
    assert "File exists" in errors.pop("db").message and errors == {"web": None, "cache": None}
    assert nsfs.identity("/run/netns/db") == nsfs.identity("/proc/self/ns/net")
    assert not os.path.lexists("/run/bulkhead/made/namespace/db.json")
    nsfs.unpin("/run/netns/db")
