# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is planned for a set of namespaces that is as the test says: no kernel is asked."""

from __future__ import annotations

import pytest

from ansible_collections.bulkhead.isolation.plugins.module_utils._engine.host import Host
from ansible_collections.bulkhead.isolation.plugins.module_utils._engine.plan import Plan
from ansible_collections.bulkhead.isolation.plugins.module_utils._kernel import nsfs
from ansible_collections.bulkhead.isolation.plugins.module_utils._model.errors import BulkheadError, Problems
from ansible_collections.bulkhead.isolation.plugins.module_utils._model.namespace import TYPES, NamespaceSpec
from ansible_collections.bulkhead.isolation.plugins.module_utils._resources import _inside, _members, _pins, namespace

HOME = (4, 1)
MAPS = dict(uid_map=["0 100000 10"], gid_map=["0 100000 10"])


@pytest.fixture
def host(tmp_path, monkeypatch):
    made = Host(state=str(tmp_path / "run"), etc=str(tmp_path / "etc"), netns=str(tmp_path / "netns"), proc=str(tmp_path / "proc"))
    (tmp_path / "proc/sys/net/ipv4").mkdir(parents=True)
    for key in ("a", "b"):
        (tmp_path / "proc/sys/net" / key).write_text("0")
    monkeypatch.setattr(_inside, "changes", lambda host, spec, now, kinds: [])
    monkeypatch.setattr(_inside, "maps", lambda host, now: {"uid_map": [[0, 100000, 10]], "gid_map": [[0, 100000, 10]]})
    monkeypatch.setattr(_inside, "time_offsets", lambda host, now: {"monotonic": 0, "boottime": 0})
    monkeypatch.setattr(_pins, "linked", lambda host, name: True)
    monkeypatch.setattr(nsfs, "owner", lambda path: HOME)
    monkeypatch.setattr(_members, "members", lambda host, now, kinds: {})
    return made


def put(host, states, claim="ours"):
    """Make the host show a set: {type: state}. ``claim``: ours, none (somebody else's) or unfinished."""
    now = namespace.Found(host, "web")
    for number, kind in enumerate(TYPES):
        state = states.get(kind, "absent")
        identity = (4, 100 + number) if state in ("alive", "dead", "wrong") else None
        now.pins[kind] = nsfs.Pin(nsfs.pin_path(host, "web", kind), kind, state, identity, 77 if (kind, state) == ("pid", "alive") else None)
    known = {kind: list(pin.identity) for kind, pin in now.pins.items() if pin.identity}
    now.claim = {"ours": {"identity": known}, "none": None, "unfinished": {"identity": dict.fromkeys(known)}}[claim]
    host._cache[(namespace.NOUN, "web")] = now
    return now


def plan(host, spec=None, **options):
    problems = Problems()
    spec = spec or NamespaceSpec.from_options(dict(options, name="web"), "", problems)
    problems.raise_if_any()
    found = Plan()
    namespace.plan(host, spec, found)
    return found


def alive(*kinds):
    return dict.fromkeys(kinds, "alive")


@pytest.mark.parametrize("states, options, actions", [
    ({}, dict(types=["uts", "net"]), ["create uts, net of namespaces web"]),
    (alive("uts", "net"), dict(types=["uts", "net"]), []),
    (alive("uts", "net"), dict(types=["net"]), []),
    (alive("uts"), dict(types=["uts", "net", "mnt"]), ["create net, mnt of namespaces web"]),
    (dict(alive("uts"), net="file"), dict(types=["uts", "net"]), ["remove net of namespaces web", "create net of namespaces web"]),
    (dict(net="wrong"), dict(types=["net"]), ["remove net of namespaces web", "create net of namespaces web"]),
    (dict(alive("net"), pid="dead"), dict(types=["pid", "net"]), ["remove pid of namespaces web", "create pid of namespaces web"]),
    (dict(alive("net"), pid="dead"), dict(types=["net"]), []),
    (alive("time"), dict(types=["time"], time_offsets={}), []),
    (alive("time"), dict(types=["time"], time_offsets={"boottime": 1}, on_mismatch="recreate"),
     ["remove time of namespaces web", "create time of namespaces web"]),
    (alive("user"), dict(types=["user"], **MAPS), []),
    (alive("user"), dict(types=["user"], on_mismatch="recreate", uid_map=["0 1 1"], gid_map=["0 1 1"]),
     ["remove user of namespaces web", "create user of namespaces web"]),
    (alive("uts"), dict(types=["user", "uts"], on_mismatch="recreate", **MAPS), ["remove uts of namespaces web", "create user, uts of namespaces web"]),
    ({}, dict(state="absent"), []),
    (dict(alive("uts", "mnt"), net="file"), dict(state="absent"), ["remove uts, net, mnt of namespaces web"]),
    (alive("uts", "mnt"), dict(state="absent", types=["mnt", "net"]), ["remove mnt of namespaces web"]),
])
def test_planned(host, states, options, actions):
    now = put(host, states)
    found = plan(host, **options)
    if not now.exists:
        now.claim = None
    assert [action for action in found.actions if not action.startswith("forget")] == actions
    assert bool(found.before) == bool(actions)


@pytest.mark.parametrize("states, options, words", [
    (alive("time"), dict(types=["time"], time_offsets={"boottime": 1}), "Cannot change time_offsets of namespaces web"),
    (alive("user"), dict(types=["user"], uid_map=["0 1 1"], gid_map=["0 100000 10"]), "Cannot change uid_map of namespaces web"),
    (alive("user"), dict(types=["user"], gid_map=["0 1 1"], uid_map=["0 100000 10"]), "Cannot change gid_map of namespaces web"),
    (alive("net"), dict(types=["net", "user"], **MAPS), "net owned by another user namespace"),
    (alive("net"), dict(types=["net"], owner="other"), "Cannot change owner of namespaces web"),
])
def test_what_is_fixed_is_refused(host, states, options, words):
    put(host, states)
    with pytest.raises(BulkheadError) as caught:
        plan(host, **options)
    assert words in caught.value.message and caught.value.message.count("\n") == 0
    host.promised.add(("namespace", "other"))
    put(host, states, "unfinished")  # what we were making when we were killed is ours to make again
    assert plan(host, **options).actions


@pytest.mark.parametrize("options", [dict(types=["net", "uts"]), dict(state="absent")])
def test_somebody_elses(host, options):
    for state in ("alive", "wrong", "taken"):
        put(host, dict(net=state), "none")
        with pytest.raises(BulkheadError) as caught:
            plan(host, **options)
    put(host, alive("net"), "none")
    with pytest.raises(BulkheadError) as caught:
        plan(host, **options)
    assert "somebody else" in caught.value.message and caught.value.keys["foreign"] == ["net"]
    assert plan(host, force=True, **options).actions
    assert not plan(host, types=["net"]).actions


def test_members_are_refused_unless_they_may_be_killed(host, monkeypatch):
    monkeypatch.setattr(_members, "members", lambda host, now, kinds: {11: "sleep"} if kinds else {})
    put(host, dict(alive("time"), net="file"))
    with pytest.raises(BulkheadError) as caught:
        plan(host, state="absent")
    assert "1 process lives in them: 11 (sleep)" in caught.value.message
    assert caught.value.keys["processes"] == [{"pid": 11, "command": "sleep"}]
    assert plan(host, state="absent", kill=True).actions
    assert plan(host, types=["net"]).actions  # nothing that lives is taken away
    with pytest.raises(BulkheadError):
        plan(host, types=["time"], time_offsets={"boottime": 1}, on_mismatch="recreate")


@pytest.mark.parametrize("options, words", [
    (dict(types=["net"], sysctls={"net.no_such": 1}), "there is none of that name"),
    (dict(types=["net"], sysctls={"net.ipv4": 1}), "there is none of that name"),
    (dict(types=["time"], time_offsets={"monotonic": -4000000000}), "its clock monotonic would be before 0"),
    (dict(types=["time"], time_offsets={"boottime": -4000000000}), "its clock boottime would be before 0"),
])
def test_what_the_kernel_would_refuse(host, options, words):
    put(host, {})
    with pytest.raises(BulkheadError) as caught:
        plan(host, **options)
    assert words in caught.value.message
    assert plan(host, types=["net"], sysctls={"net.ipv4.conf.later.forwarding": 1}).actions  # its interface may come


def test_a_failed_link_is_mended(host, monkeypatch):
    put(host, alive("mnt"))
    monkeypatch.setattr(_pins, "linked", lambda host, name: False)
    assert plan(host, types=["mnt"]).actions == ["link mnt of namespaces web"]


def test_records_grow_and_shrink(host):
    put(host, {})
    host.records.write_all({("namespace", "web"): ({"types": ["net", "pid"], "hostname": "a", "sysctls": {"net/a": "1"}}, False)})
    found = plan(host, types=["uts", "net"], hostname="b", sysctls={"net.b": 2})
    host.records.write_all(found.records)
    assert host.records.options("namespace", "web") == {
        "types": ["uts", "net", "pid"], "hostname": "b", "sysctls": {"net/a": "1", "net/b": "2"}}
    host.records.write_all(plan(host, state="absent", types=["net"]).records)
    assert host.records.options("namespace", "web")["types"] == ["uts", "pid"]
    host.records.write_all(plan(host, state="absent").records)
    assert host.records.options("namespace", "web") is None


def test_the_composites_root(host):
    def furnished(stale):
        spec = NamespaceSpec.from_options(dict(types=["net", "uts", "mnt", "pid"]), "x", Problems(), name="web")
        spec.furnish, spec.root_stale = (lambda host: None), stale
        plan(host, spec)
        return spec.made, spec.renewed

    put(host, alive("net", "uts", "mnt", "pid"))
    assert furnished(False) == ([], [])
    assert furnished(True) == (["pid", "mnt"], ["pid", "mnt"])
    put(host, dict(alive("net", "uts", "mnt"), pid="dead"))
    assert furnished(False) == (["pid", "mnt"], ["mnt"])
    put(host, alive("uts", "mnt", "pid"))
    assert furnished(False) == (["net", "pid", "mnt"], ["pid", "mnt"])
    put(host, alive("net", "mnt", "pid"))
    assert furnished(False) == (["uts"], [])  # a root captures no uts namespace
