# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The files of names in a directory of the test's own: what they say, and how they are written."""

from __future__ import annotations

import os

import pytest

from ansible_collections.bulkhead.isolation.plugins.module_utils._engine.host import Host
from ansible_collections.bulkhead.isolation.plugins.module_utils._engine.plan import Plan, run_plan, run_together
from ansible_collections.bulkhead.isolation.plugins.module_utils._model.errors import BulkheadError
from ansible_collections.bulkhead.isolation.plugins.module_utils._resources import _names

WEB = {"eth0": {"network": "lab", "addresses": ["10.42.0.5", "fd00:42::5"], "aliases": ["www"]}}
CACHE = {"eth0": {"network": "lab", "addresses": ["10.42.0.9"], "aliases": ["redis", "web"]}}


@pytest.fixture
def host(tmp_path, monkeypatch):
    made = Host(state=str(tmp_path / "run"), etc=str(tmp_path / "etc"), names=str(tmp_path / "etc/netns"))
    monkeypatch.setattr(_names, "upstream", lambda: (["192.0.2.1"], ["example.org"]))
    return made


def act(host, namespace, members, **more):
    """The actions of one run."""
    plan = Plan()
    _names.plan(host, namespace, plan, members, **more)
    run_plan(plan)
    host.finish()
    host.forget()
    return plan.actions


def text(host, namespace, name="hosts"):
    with open("%s/%s/%s" % (host.names, namespace, name), encoding="utf-8") as stream:
        return stream.read()


def body(host, namespace, name="hosts"):
    return text(host, namespace, name).replace(_names.MARK, "").replace(_names.LOCAL, "")


def declare(host, name="lab", **options):
    host.records.write_all({("network", name): (options, False)})
    host.forget()


def test_members_know_each_other_and_the_first_learns_of_the_second(host):
    assert act(host, "web", WEB) == ["write names of web"]
    assert body(host, "web") == "10.42.0.5 web www\nfd00:42::5 web www\n"
    assert act(host, "cache", CACHE) == ["write names of cache"]
    assert body(host, "cache") == "10.42.0.9 cache redis web\n10.42.0.5 web www\nfd00:42::5 web www\n"
    # `web` is the name of another: it is no alias there.
    assert body(host, "web") == "10.42.0.5 web www\nfd00:42::5 web www\n10.42.0.9 cache redis\n"
    assert text(host, "web").startswith(_names.MARK + "127.0.0.1 localhost\n")
    assert act(host, "web", WEB) == act(host, "cache", CACHE) == []


def test_of_one_run_each_knows_the_others_before_the_first_is_started(host):
    plans, seen = [Plan(), Plan()], []
    for name, members, plan in (("web", WEB, plans[0]), ("cache", CACHE, plans[1])):
        _names.plan(host, name, plan, members)
    plans[0].add("start web", lambda: seen.append(body(host, "web")))
    run_together(host, plans)
    for plan in plans:
        run_plan(plan)
    assert seen == ["10.42.0.5 web www\nfd00:42::5 web www\n10.42.0.9 cache redis\n"]
    plans[1].steps[0].undo()  # as when something after it fails
    host.finish()
    assert body(host, "web") == "10.42.0.5 web www\nfd00:42::5 web www\n" and not os.path.exists(host.names + "/cache")


def test_a_change_is_written_in_place_and_a_removal_leaves_nothing(host):
    act(host, "web", WEB)
    act(host, "cache", CACHE)
    path = host.names + "/web/hosts"
    before = os.stat(path).st_ino
    with open(path, encoding="utf-8") as reader:
        assert act(host, "cache", {}) == ["remove names of cache"]
        assert "cache" not in reader.read()
    assert os.stat(path).st_ino == before and not os.path.exists(host.names + "/cache")
    assert act(host, "cache", {}) == []
    assert act(host, "web", {}) == ["remove names of web"]
    assert not os.path.exists(host.names) and host.claims.names("names") == []


def test_who_reads_during_a_change_sees_no_half_of_an_old_line(host, monkeypatch):
    act(host, "web", WEB)
    act(host, "cache", CACHE)
    seen = []
    monkeypatch.setattr(os, "ftruncate", lambda fd, size: seen.append(text(host, "web")))  # a run that is killed there
    act(host, "cache", {})
    assert seen[-1].rstrip("\n") == (_names.MARK + _names.LOCAL + "10.42.0.5 web www\nfd00:42::5 web www")
    monkeypatch.undo()
    monkeypatch.setattr(_names, "upstream", lambda: (["192.0.2.1"], ["example.org"]))
    assert act(host, "web", WEB) == ["write names of web"] and not text(host, "web").endswith("\n\n")


def test_drift_is_mended(host):
    act(host, "web", WEB)
    inode = os.stat(host.names + "/web/hosts").st_ino
    with open(host.names + "/web/hosts", "a", encoding="utf-8") as stream:
        stream.write("10.9.9.9 bank.example\n")
    os.chmod(host.names + "/web/resolv.conf", 0o666)
    assert act(host, "web", WEB) == ["write names of web"]
    assert "bank" not in text(host, "web") and os.stat(host.names + "/web/hosts").st_ino == inode
    assert os.stat(host.names + "/web/resolv.conf").st_mode & 0o777 == 0o644
    os.unlink(host.names + "/web/hosts")
    assert act(host, "web", WEB) == ["write names of web"] and act(host, "web", WEB) == []


def test_after_a_reboot_claims_are_gone_and_the_files_are_ours_all_the_same(host):
    act(host, "web", WEB)
    host.claims.drop("names", "web")
    with open(host.names + "/web/resolv.conf", "w", encoding="utf-8"):
        pass  # what a power cut may leave
    assert act(host, "web", WEB) == ["write names of web"] and act(host, "web", WEB) == []
    host.claims.drop("names", "web")
    assert act(host, "web", {}) == ["remove names of web"] and not os.path.exists(host.names)


@pytest.mark.parametrize("kind", ["file", "link", "fifo"])
def test_what_the_administrator_put_there_is_kept(host, tmp_path, kind):
    os.makedirs(host.names + "/web")
    path, target = host.names + "/web/resolv.conf", tmp_path / "target"
    target.write_text("nameserver 203.0.113.1\n")
    {"file": lambda: os.link(target, path), "link": lambda: os.symlink(target, path), "fifo": lambda: os.mkfifo(path)}[kind]()
    with pytest.raises(BulkheadError, match=r"^Cannot write .*/web/resolv.conf: it was not made by Bulkhead. Move it away"):
        act(host, "web", WEB)
    assert os.listdir(host.names + "/web") == ["resolv.conf"]
    assert act(host, "web", {}) == []
    assert os.path.lexists(path) and target.read_text() == "nameserver 203.0.113.1\n"


def test_no_link_is_followed_on_the_way(host, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    os.makedirs(host.names)
    os.symlink(elsewhere, host.names + "/web")
    with pytest.raises(OSError, match="web"):
        act(host, "web", WEB)
    assert list(elsewhere.iterdir()) == []


def test_a_step_that_is_undone_leaves_what_was_before(host):
    def fail():
        raise BulkheadError("Cannot.")

    act(host, "web", WEB)
    plan = Plan()
    _names.plan(host, "web", plan, dict(WEB, eth1={"network": "lab", "addresses": ["10.42.0.6"], "aliases": []}))
    plan.add("fail", fail)
    with pytest.raises(BulkheadError):
        run_plan(plan)
    host.finish()
    host.forget()
    assert body(host, "web") == "10.42.0.5 web www\nfd00:42::5 web www\n" and act(host, "web", WEB) == []


def test_what_a_network_says_of_itself(host):
    other = {"eth0": {"network": "back", "addresses": ["10.43.0.2"], "aliases": []}}
    declare(host, reaches=["back"], dns={"servers": ["10.0.0.53", "10.0.0.54", "10.0.0.55", "10.0.0.56"], "search": ["lab.example"]})
    declare(host, "back", internal=True)
    act(host, "db", other)
    act(host, "web", WEB)
    act(host, "cache", CACHE)
    assert "10.43.0.2 db\n" in text(host, "web") and "web" not in body(host, "db")  # one way
    assert body(host, "web", "resolv.conf") == "search lab.example\nnameserver 10.0.0.53\nnameserver 10.0.0.54\nnameserver 10.0.0.55\n"
    assert body(host, "db", "resolv.conf") == ""  # nothing outside can be asked
    plan = Plan()
    _names.plan_network(host, "lab", {"inter_sandbox": False}, plan)
    assert plan.actions == ["write names of the members of network lab"]
    run_plan(plan)
    assert body(host, "web") == "10.42.0.5 web www\nfd00:42::5 web www\n"
    assert body(host, "web", "resolv.conf") == "search example.org\nnameserver 192.0.2.1\n"
    declare(host, inter_sandbox=False)
    again = Plan()
    _names.plan_network(host, "lab", {"inter_sandbox": False}, again)
    assert again.actions == act(host, "web", WEB) == []


@pytest.mark.parametrize(("options", "warned"), [
    ({"subnets": []}, True), ({"internal": True}, False), ({"dns": {"servers": ["192.0.2.1"]}}, False), ({}, False)])
def test_a_host_whose_servers_are_its_own_is_told_of(host, monkeypatch, options, warned):
    monkeypatch.setattr(_names, "upstream", lambda: ([], []))
    plan = Plan()
    _names.plan_network(host, "lab", options, plan)
    assert bool(plan.warnings) == warned


@pytest.mark.parametrize(("own", "behind", "expected"), [
    ("nameserver 192.0.2.1\nsearch a b\n", "", (["192.0.2.1"], ["a", "b"])),
    ("nameserver 127.0.0.53\nsearch a\n", "nameserver 192.0.2.7\nnameserver fe80::1%eth0\n", (["192.0.2.7"], ["a"])),
    ("nameserver 127.0.0.1\nnameserver ::1\n", None, ([], [])),
    (None, None, ([], [])),
])
def test_the_hosts_own_servers_are_those_that_can_be_asked_from_elsewhere(tmp_path, own, behind, expected):
    paths = [str(tmp_path / "own"), str(tmp_path / "behind")]
    for path, content in zip(paths, (own, behind)):
        if content is not None:
            with open(path, "w", encoding="utf-8") as stream:
                stream.write(content)
    assert _names.upstream(paths) == expected
