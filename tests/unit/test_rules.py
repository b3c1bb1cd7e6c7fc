# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The rules of networks: what elements things are, how `nft -j` is read and written, and what is planned from what is there."""

from __future__ import annotations

import json
import random

import pytest
from ansible_collections.bulkhead.isolation.plugins.module_utils._engine.host import Host
from ansible_collections.bulkhead.isolation.plugins.module_utils._engine.plan import Plan, run_plan, run_together
from ansible_collections.bulkhead.isolation.plugins.module_utils._kernel import nft, sockets
from ansible_collections.bulkhead.isolation.plugins.module_utils._model import addresses, rules
from ansible_collections.bulkhead.isolation.plugins.module_utils._model.errors import BulkheadError
from ansible_collections.bulkhead.isolation.plugins.module_utils._model.rules import Member, Net
from ansible_collections.bulkhead.isolation.plugins.module_utils._resources import _rules, _skeleton
from fake_nft import Nft

LAB = Net("lab", "bh-lab", ["10.42.0.0/24", "fd00:42::/64"])
WEB = Member("web/eth0", "02:00:00:00:42:02", ["10.42.0.2", "fd00:42::2"])


def published(**keys):
    return Member("web/eth0", WEB.mac, WEB.addresses, **keys)


# -- what things are

def test_a_network_is_closed_but_for_what_it_declares():
    bridge = ("bh-lab",)
    assert LAB.elements() == {
        "bridges": {bridge: None}, "hairpin4": {("bh-lab", "10.42.0.0/24"): None}, "hairpin6": {("bh-lab", "fd00:42::/64"): None},
        "pairs": {("bh-lab", "bh-lab"): None}, "outward": {bridge: None}, "masquerade": {bridge: None}, "guarded": {bridge: None}}
    inner = Net("lab", "bh-lab", [], internal=True, inter_sandbox=False, antispoof=False, uplink="eth0").elements()
    assert inner == {"bridges": {bridge: None}}
    wider = Net("lab", "bh-lab", [], uplink="eth0", masquerade=False, reaches=["bh-two"],
                host_services=[("udp", 53, 53), ("tcp", 80, 90), ("tcp", 85, 99)]).elements()
    assert wider == {"bridges": {bridge: None}, "pairs": {("bh-lab", "bh-two"): None, ("bh-lab", "bh-lab"): None}, "guarded": {bridge: None},
                     "uplinks": {("bh-lab", "eth0"): None}, "services": {("bh-lab", 6, (80, 99)): None, ("bh-lab", 17, 53): None}}


def test_a_published_port_goes_to_the_first_address_of_its_family():
    found = Member("web/eth0", WEB.mac, ["10.42.0.2", "10.42.0.9", "fd00:42::2"],
                   publish=[(None, 8080, 80, "tcp"), ("192.0.2.1", 53, 5353, "udp"), ("::", 81, 80, "tcp")]).elements()
    assert found["publish_any4"] == {(6, 8080): ("10.42.0.2",)} and found["publish_any_port4"] == {(6, 8080): (80,)}
    assert found["publish_any6"] == {(6, 8080): ("fd00:42::2",), (6, 81): ("fd00:42::2",)}
    assert found["publish4"] == {("192.0.2.1", 17, 53): ("10.42.0.2",)} and found["publish_port4"] == {("192.0.2.1", 17, 53): (5353,)}
    assert sorted(rules.published(found)) == [(4, "", 6, 8080), (4, "192.0.2.1", 17, 53), (6, "", 6, 81), (6, "", 6, 8080)]
    with pytest.raises(BulkheadError, match="Cannot publish port 81 of web/eth0: it has no IPv6 address. "):
        Member("web/eth0", WEB.mac, ["10.42.0.2"], publish=[("::1", 81, 80, "tcp")]).elements()


def test_egress_lists_are_without_overlaps():
    """An interval set refuses overlaps; what they let through has to stay the same."""
    chance = random.Random(4)
    targets = ["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", "10.1.2.3/32", "192.0.2.0/24", "0.0.0.0/0"]
    for unused in range(60):
        allow = []
        for number in range(chance.randrange(1, 7)):
            first = chance.randrange(1, 20)
            allow.append((chance.choice(targets), chance.choice(["tcp", "udp", None]), chance.choice([None, (first, first + chance.randrange(12))])))
        found = published(allow=allow).elements()
        assert found["egress4"] == {("10.42.0.2",): None} and found["egress6"] == {("fd00:42::2",): None}
        for name in ("allow4", "allow_any4"):
            boxes = [value[1:] if name == "allow4" else (0, value[1], (0, 0)) for value in found.get(name, ())]
            boxes = [(protocol, target, ports if isinstance(ports, tuple) else (ports, ports)) for protocol, target, ports in boxes]
            for index, (protocol, target, ports) in enumerate(boxes):
                for other in boxes[:index]:
                    assert not (protocol == other[0] and addresses.overlap(target, other[1]) and ports[0] <= other[2][1] and other[2][0] <= ports[1])
        for address in ("10.1.2.3", "10.1.9.9", "10.9.9.9", "192.0.2.7", "203.0.113.1"):
            for protocol in ("tcp", "udp"):
                for port in range(0, 33):
                    wanted = any(addresses.contains(target, address) and word in (None, protocol) and (ports is None or ports[0] <= port <= ports[1])
                                 for target, word, ports in allow)
                    assert wanted == passes(found, address, rules.PROTOCOLS[protocol], port), (allow, address, protocol, port)


def passes(found, address, protocol, port):
    def within(ports):
        return ports[0] <= port <= ports[1] if isinstance(ports, tuple) else ports == port

    return any(addresses.contains(target, address) for unused, target in found.get("allow_any4", ())) or any(
        word == protocol and addresses.contains(target, address) and within(ports) for unused, word, target, ports in found.get("allow4", ()))


# -- nft

LISTED = [
    {"metainfo": {"version": "1.0.6", "release_name": "Lester Gooch #5", "json_schema_version": 1}},
    {"table": {"family": "inet", "name": "bulkhead", "handle": 1}},
    {"set": {"family": "inet", "name": "allow4", "table": "bulkhead", "type": ["ipv4_addr", "inet_proto", "ipv4_addr", "inet_service"], "handle": 12,
             "flags": ["interval"], "elem": [
                 {"elem": {"val": {"concat": ["10.0.0.1", 6, {"prefix": {"addr": "10.0.0.0", "len": 8}}, {"range": [8000, 8007]}]}, "comment": "a/b"}},
                 {"concat": ["10.0.0.1", 17, "10.0.0.4", {"range": [0, 65535]}]}]}},
    {"set": {"family": "inet", "name": "bridges", "table": "bulkhead", "type": "ifname", "handle": 14,
             "elem": [{"elem": {"val": "bh-lab", "comment": "lab"}}]}},
    {"set": {"family": "inet", "name": "guarded", "table": "bulkhead", "type": "ifname", "handle": 15}},
    {"map": {"family": "inet", "name": "publish_any4", "table": "bulkhead", "type": ["inet_proto", "inet_service"], "handle": 9, "map": "ipv4_addr",
             "elem": [[{"elem": {"val": {"concat": [6, 8080]}, "comment": "a/b"}}, "10.0.0.1"]]}},
]
ELEMENTS = {
    "allow4": {("10.0.0.1", 6, "10.0.0.0/8", (8000, 8007)): (None, "a/b"), ("10.0.0.1", 17, "10.0.0.4", (0, 65535)): (None, None)},
    "bridges": {("bh-lab",): (None, "lab")}, "guarded": {}, "publish_any4": {(6, 8080): (("10.0.0.1",), "a/b")}}


def test_elements_are_read_as_nft_lists_them_and_written_as_it_takes_them():
    assert nft.elements(LISTED) == ELEMENTS
    for each in LISTED[2:]:
        (kind, keys), = each.items()
        assert [nft.element(value, *rest) for value, rest in ELEMENTS[keys["name"]].items()] == keys.get("elem", [])


@pytest.mark.parametrize("answer,words", [
    ((1, "", "Error: Could not process rule: Operation not supported\nlist table inet bulkhead\n           ^^^^\n"),
     "Could not process rule: Operation not supported"),
    ((0, "table inet bulkhead {\n", ""), "nft does not answer in JSON"),
    ((0, "[]", ""), "nft does not answer in JSON"),
    ((1, "", ""), "no reason given"),
])
def test_what_nft_says_is_passed_on_in_one_line(answer, words, monkeypatch, tmp_path):
    Nft(tmp_path, monkeypatch, nft)
    with pytest.raises(nft.NftError, match=words) as caught:
        nft.table(lambda argv: answer, "inet", "bulkhead")
    assert "\n" not in str(caught.value)


def test_no_table_is_none_and_no_nft_is_told_apart(monkeypatch, tmp_path):
    Nft(tmp_path, monkeypatch, nft)
    assert nft.table(lambda argv: (1, "", "Error: No such file or directory\nlist table inet x\n"), "inet", "x") is None
    monkeypatch.setattr(nft, "PLACES", (str(tmp_path / "nowhere"),))
    with pytest.raises(nft.NftError) as caught:
        nft.table(None, "inet", "x")
    assert caught.value.missing


def test_every_rule_names_sets_and_chains_that_there_are():
    names = {keys["name"] for each in _skeleton.objects() for kind, keys in each.items() if kind in ("set", "map")}
    chains = {each["chain"]["name"] for each in _skeleton.objects() if "chain" in each}
    text = json.dumps([each for each in _skeleton.objects() if "rule" in each])
    assert names == set(_skeleton.KINDS) == {name for name in names if '"@%s"' % name in text}
    assert {word.split('"')[0] for word in text.split('"target": "')[1:]} <= chains
    assert text.count('"@') == sum(text.count('"@%s"' % name) for name in names)


# -- plans

@pytest.fixture
def fake(monkeypatch, tmp_path):
    one = Nft(tmp_path, monkeypatch, nft)
    one.host = lambda check=False: make_host(one, tmp_path, check)
    one.records = []
    monkeypatch.setattr(_rules, "_recorded", lambda host: one.records)
    return one


def make_host(one, tmp_path, check):
    (tmp_path / "self/net").mkdir(parents=True, exist_ok=True)
    host = Host(one.run, proc=str(tmp_path), state=str(tmp_path), etc=str(tmp_path))
    host.check = check
    return host


def run(fake, *things):
    """Plan twice, run once: the names of the steps."""
    host = fake.host()
    _rules.expect(host, things)
    plans = [Plan(thing.owner) for thing in things]
    for plan, thing in zip(plans, things):
        _rules.plan(host, plan, thing)
    taken = len(fake.log)
    run_together(host, plans)
    for plan in plans:
        run_plan(plan)
    host.finish()
    assert len(fake.log) - taken <= 2  # one ahead, and one at the end for what goes
    for thing in things:
        plan = Plan()
        _rules.plan(fake.host(), plan, thing)
        assert not plan.changed, (plan.actions, plan.before, plan.after)
    return [action for plan in plans for action in plan.actions]


def test_one_transaction_makes_the_table_and_one_takes_it_away(fake):
    assert run(fake, LAB, WEB) == ["make table inet bulkhead", "set rules of lab", "set rules of web/eth0"]
    assert len(fake.log) == 1
    assert set(_rules.owners(fake.host())) == {"lab", "web/eth0"}
    assert run(fake, _rules.Absent("web/eth0")) == ["remove rules of web/eth0"]
    assert run(fake, _rules.Absent("web/eth0")) == []
    assert run(fake, _rules.Opened(["eth0"], True)) == ["set rules of the host"]
    assert run(fake, _rules.Absent("lab"), _rules.Opened([])) == ["remove rules of lab", "remove rules of the host"]
    assert fake.table() is None and len(fake.log) == 4


def test_a_change_touches_only_what_differs(fake):
    run(fake, LAB, WEB)
    plan = Plan()
    _rules.plan(fake.host(), plan, published(publish=[(None, 80, 8080, "tcp")]))
    assert plan.before == {"rules": {}} and plan.after == {"rules": {
        "publish_any4": ["tcp . 80 : 10.42.0.2"], "publish_any_port4": ["tcp . 80 : 8080"],
        "publish_any6": ["tcp . 80 : fd00:42::2"], "publish_any_port6": ["tcp . 80 : 8080"]}}
    run(fake, published(publish=[(None, 80, 8080, "tcp")]))
    run(fake, published(publish=[(None, 80, 9090, "tcp")]))
    assert [(verb, thing["element"]["name"]) for command in fake.log[-1] for verb, thing in command.items()] == [
        ("delete", "publish_any_port4"), ("delete", "publish_any_port6"), ("add", "publish_any_port4"), ("add", "publish_any_port6")]


def test_a_table_that_was_changed_is_made_anew_with_all_that_was_in_it_and_is_recorded(fake):
    run(fake, LAB, WEB)
    rest = Member("cache/eth0", "02:00:00:00:42:03", ["10.42.0.3"])
    fake.records.append(rest)
    fake.table().remove(next(each for each in fake.table() if "rule" in each))
    assert run(fake, LAB) == ["mend table inet bulkhead"]
    assert set(_rules.owners(fake.host())) == {"lab", "web/eth0", "cache/eth0"}
    fake.tables.clear()
    fake.records[:] = [LAB, WEB, rest]
    assert run(fake, published(publish=[(None, 80, 80, "tcp")])) == ["make table inet bulkhead", "set rules of web/eth0"]
    assert set(_rules.owners(fake.host())) == {"lab", "web/eth0", "cache/eth0"}


def test_an_element_of_nobody_is_taken_out(fake):
    run(fake, LAB)
    fake.run(["nft", "-j", "-f", "-"], json.dumps({"nftables": [{"add": {"element": {
        "family": "inet", "table": "bulkhead", "name": "pairs", "elem": [{"concat": ["bh-two", "bh-lab"]}]}}}]}))
    assert run(fake, LAB) == ["mend table inet bulkhead"]
    assert None not in _rules.owners(fake.host())


def test_what_changed_between_reading_and_writing_is_read_again(fake):
    run(fake, LAB, WEB)
    host, plan = fake.host(), Plan()
    _rules.plan(host, plan, published(publish=[(None, 80, 80, "tcp")]))
    fake.tables.clear()
    fake.records[:] = [LAB]
    run_together(host, [plan])
    run_plan(plan)
    assert set(_rules.owners(fake.host())) == {"lab", "web/eth0"}


def test_check_mode_bears_a_host_without_nft_and_a_run_does_not(fake, monkeypatch, tmp_path):
    monkeypatch.setattr(nft, "PLACES", ())
    host, plan = fake.host(check=True), Plan()
    _rules.plan(host, plan, LAB)
    assert plan.actions == ["make table inet bulkhead", "set rules of lab"]
    assert "An earlier task is expected to install the package nftables." in host.warnings[0]
    with pytest.raises(BulkheadError, match="Cannot read the rules of networks: nft is not installed. Install the package nftables."):
        _rules.plan(fake.host(), Plan(), LAB)


def test_two_of_one_run_that_want_the_same_are_told_apart(fake):
    twin = Member("twin/eth0", "02:00:00:00:42:09", ["10.42.0.9"], publish=[(None, 80, 80, "tcp")])
    host = fake.host()
    things = [LAB, published(publish=[(None, 80, 80, "tcp")]), twin]
    _rules.expect(host, things)
    for thing in things[:2]:
        _rules.plan(host, Plan(), thing)
    with pytest.raises(BulkheadError, match="Cannot publish port 80/tcp for twin/eth0: it is published for web/eth0."):
        _rules.plan(host, Plan(), twin)


def test_who_listens_is_read_from_proc(tmp_path):
    net = tmp_path / "self/net"
    net.mkdir(parents=True)
    title = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
    line = "   0: %s %s %s 00000000:00000000 00:00000000 00000000     0        0 %d 1 0 100 0 0 10 0\n"
    (net / "tcp").write_text(title + line % ("0100007F:1F90", "00000000:0000", "0A", 11) + line % ("0100007F:1F91", "0100007F:0050", "01", 12))
    (net / "tcp6").write_text(title + line % ("0" * 32 + ":0050", "0" * 32 + ":0000", "0A", 13))
    (net / "udp").write_text(title + line % ("00000000:0035", "00000000:0000", "07", 14))
    (tmp_path / "77/fd").mkdir(parents=True)
    (tmp_path / "77/fd/3").symlink_to("socket:[13]")
    (tmp_path / "77/comm").write_text("nginx\n")
    (tmp_path / "78").mkdir()  # it ended
    assert sockets.listening(str(tmp_path)) == {
        (4, 6, 8080): [("127.0.0.1", 11)], (4, 6, 80): [("::", 13)], (6, 6, 80): [("::", 13)], (4, 17, 53): [("0.0.0.0", 14)]}
    assert sockets.holder(str(tmp_path), 13) == "nginx (pid 77)" and sockets.holder(str(tmp_path), 14) is None
