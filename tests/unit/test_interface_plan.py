# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Interfaces compared with what is there, without a kernel: which messages come, in which order, and what takes them back."""

from __future__ import annotations

import itertools

import pytest

from ansible_collections.bulkhead.isolation.plugins.module_utils._engine.host import Host
from ansible_collections.bulkhead.isolation.plugins.module_utils._engine.plan import Plan, run_plan, run_together
from ansible_collections.bulkhead.isolation.plugins.module_utils._kernel import netlink
from ansible_collections.bulkhead.isolation.plugins.module_utils._kernel import netmessages as nm
from ansible_collections.bulkhead.isolation.plugins.module_utils._model import interface as model
from ansible_collections.bulkhead.isolation.plugins.module_utils._model.errors import BulkheadError, Problems
from ansible_collections.bulkhead.isolation.plugins.module_utils._resources import _allocation, _bandwidth, _hostnet, _link_acts, _link_changes, _rules


def spec(**options):
    problems = Problems()
    found = model.InterfaceSpec.from_options(dict({"namespace": "web", "name": "eth0", "network": "lab"}, **options), "", problems)
    assert problems.errors == []
    found.resolved = list(found.addresses or ())
    return found


class Found:
    """As `_links.py: Found`: an interface of index 7 in a namespace where all this is there."""

    def __init__(self, addresses=(), routes=(), rules=(), neighbours=(), up=True, link=True):
        self.link = {"index": 7, "mac": "02:00:00:00:00:07", "mtu": 1500, "up": up} if link else None
        self.end = None
        self.space = self
        self.path = "/run/netns/web"
        self.addresses = [{"index": 7, "address": each, "permanent": True, "scope": "link" if each.startswith("fe80") else "global",
                           "family": 6 if ":" in each else 4} for each in addresses]
        self.routes, self.rules = list(routes), list(rules)
        self.neighbours = [{"index": 7, "address": address, "mac": mac, "proxy": False} for address, mac in neighbours]


def changes(declared, now, exact=("addresses", "routes", "rules", "neighbours")):
    wanted = _link_changes.Wanted(addresses=declared.addresses, routes=declared.routes, rules=declared.rules, neighbours=declared.neighbours,
                                  mac=declared.mac, mtu=declared.mtu, up=declared.up, exact=set(exact), dad=False)
    return _link_changes.inside(None, declared, now, wanted)


def messages(found, side="forth"):
    return [message for change in found for message in getattr(change, side)(7)]


def route(to, via=None, index=7, metric=None, kind="unicast", protocol=4, **more):
    return dict({"to": to, "family": 6 if ":" in (via or to) else 4, "via": via, "index": index, "source": None, "metric": metric, "table": 254, "type": kind,
                 "protocol": protocol, "mtu": None, "hops": None}, **more)


# -- addresses

def test_new_addresses_come_before_old_ones_go():
    found = changes(spec(addresses=["10.0.0.2/24", "fd00::2/64"]), Found(["10.0.0.1/24", "fd00::1/64", "fe80::1/64"]))
    assert messages(found) == [nm.new_address(7, "10.0.0.2/24", dad=False), nm.new_address(7, "fd00::2/64", dad=False),
                               nm.delete_address(7, "10.0.0.1/24"), nm.delete_address(7, "fd00::1/64")]
    assert messages(found, "back") == [nm.delete_address(7, "10.0.0.2/24"), nm.delete_address(7, "fd00::2/64"),
                                       nm.new_address(7, "10.0.0.1/24", dad=False), nm.new_address(7, "fd00::1/64", dad=False)]
    assert [change.call is not None for change in found] == [False, False, True, False]  # the others of its subnet are to stay
    assert {change.key for change in found} == {"addresses"} and found[0].before == ["10.0.0.1/24", "fd00::1/64"]


def test_the_same_address_with_another_prefix_goes_first():
    found = changes(spec(addresses=["fd00::1/48", "10.0.0.9/24"]), Found(["fd00::1/64"]))
    assert messages(found) == [nm.delete_address(7, "fd00::1/64"), nm.new_address(7, "fd00::1/48", dad=False), nm.new_address(7, "10.0.0.9/24", dad=False)]


def test_addresses_that_are_not_named_are_left_alone_unless_the_list_is_exact():
    assert messages(changes(spec(addresses=[]), Found(["10.0.0.1/24"]), exact=())) == []
    assert messages(changes(spec(), Found(["10.0.0.1/24"]))) == []


def test_of_a_link_that_is_to_be_down_only_what_stays_is_compared():
    down = spec(up=False, addresses=["10.0.0.1/24", "fd00::1/64"], routes=[{"via": "10.0.0.9"}],
                neighbours=[{"address": "10.0.0.9", "mac": "02:00:00:00:00:09"}])
    assert messages(changes(down, Found(["10.0.0.1/24"], up=False))) == []
    assert messages(changes(down, Found(["10.0.0.1/24"]))) == [nm.set_link(7, up=False)]


# -- routes, rules, neighbours

def test_a_route_is_replaced_only_where_it_is_ours():
    wanted = spec(routes=[{"via": "10.0.0.9"}])
    ours, theirs = route("default", "10.0.0.8"), route("default", "192.0.2.1", index=3)
    assert messages(changes(wanted, Found(routes=[ours]))) == [nm.new_route("default", via="10.0.0.9", index=7, family=4, replace=True)]
    assert messages(changes(wanted, Found(routes=[theirs]))) == [nm.new_route("default", via="10.0.0.9", index=7, family=4)]
    assert messages(changes(wanted, Found(routes=[route("default", "10.0.0.9")]))) == []


def test_only_routes_that_we_set_are_taken_away():
    there = [route("10.1.0.0/16", "10.0.0.9"), route("10.2.0.0/16", "10.0.0.9", protocol=3), route("10.3.0.0/16", "10.0.0.9", index=3)]
    assert messages(changes(spec(routes=[]), Found(routes=there))) == [nm.delete_route("10.1.0.0/16", via="10.0.0.9", index=7, family=4)]


def test_the_kernels_metric_of_ipv6_is_none():
    assert messages(changes(spec(routes=[{"via": "fd00::9"}]), Found(routes=[route("default", "fd00::9", metric=1024)]))) == []
    assert len(messages(changes(spec(routes=[{"via": "fd00::9", "metric": 5}]), Found(routes=[route("default", "fd00::9", metric=1024)])))) == 2


def test_rules_of_other_interfaces_and_of_others_stay():
    def rule(priority, protocol=4, table=100):
        return {"family": 4, "priority": priority, "from": "10.0.0.1/32", "to": None, "iif": None, "oif": None, "mark": None, "table": table,
                "action": "table", "protocol": protocol}

    wanted = spec(rules=[{"from": "10.0.0.1", "table": 100, "priority": 5}])
    other = spec(name="eth1", rules=[{"from": "10.0.0.1", "table": 100, "priority": 8}]).rules
    plan = _link_changes.Wanted(rules=wanted.rules, kept_rules=other, exact={"rules"}, up=True)
    found = _link_changes.inside(None, wanted, Found(rules=[rule(7), rule(8), rule(9, protocol=3)]), plan)
    assert messages(found) == [nm.delete_rule(4, 7, source="10.0.0.1/32", table=100), nm.new_rule(4, 5, source="10.0.0.1/32", table=100)]


def test_a_new_mac_makes_neighbours_again():
    wanted = spec(mac="02:00:00:00:00:08", neighbours=[{"address": "10.0.0.9", "mac": "02:00:00:00:00:09"}])
    there = [("10.0.0.9", "02:00:00:00:00:09")]
    assert messages(changes(wanted, Found(neighbours=there))) == [
        nm.set_link(7, mac="02:00:00:00:00:08"), nm.new_neighbour(7, "10.0.0.9", "02:00:00:00:00:09")]
    wanted = spec(mac="02:00:00:00:00:07", neighbours=[])
    assert messages(changes(wanted, Found(neighbours=there))) == [nm.delete_neighbour(7, "10.0.0.9")]


# -- bandwidth

def qdisc(kind, parent="root", handle=None, **options):
    return {"index": 7, "kind": kind, "parent": parent, "handle": handle or {"root": "1:", "1:1": "2:"}[parent], "options": options, "stats": {}}


TBF = {"rate": 1250000, "burst": 32768, "limit": 95268}
NETEM = {"delay": 20000, "jitter": 0, "loss": 1.0, "limit": 1000}


@pytest.fixture
def host(monkeypatch):
    monkeypatch.setattr(_bandwidth.built, "lacks", lambda option, *more, **roots: option == "NET_SCH_NETEM" and roots.get("proc") == "/lacking")
    return Host()


def limits(host, found, **wanted):
    declared = spec(bandwidth={"transmit": wanted}) if wanted else spec()
    return messages(_bandwidth.changes(host, declared, found, "transmit", (declared.bandwidth or {}).get("transmit")))


def test_a_rate_is_a_tbf_and_changed_in_place(host):
    assert limits(host, [], rate="10mbit") == [nm.set_qdisc(7, "tbf", TBF, "1:", "root")]
    assert limits(host, [qdisc("tbf", **TBF)], rate="10mbit") == [] == limits(host, [])
    slower = dict(TBF)
    slower["rate"] = 1
    assert limits(host, [qdisc("tbf", **slower)], rate="10mbit") == [nm.set_qdisc(7, "tbf", TBF, "1:", "root")]
    assert limits(host, [qdisc("tbf", **TBF)]) == [nm.delete_qdisc(7)]


def test_what_is_of_another_kind_goes_first(host):
    for there in ([qdisc("pfifo", handle="8:")], [qdisc("netem", **NETEM)], [qdisc("tbf", **TBF), qdisc("netem", "1:1", **NETEM)]):
        assert limits(host, there, rate="10mbit") == [nm.delete_qdisc(7), nm.set_qdisc(7, "tbf", TBF, "1:", "root")]
    assert limits(host, [qdisc("pfifo", handle="8:")]) == []  # somebody else's, and nothing declared


def test_delay_below_a_rate(host):
    both = limits(host, [], rate="10mbit", delay="20ms", loss=1)
    assert both == [nm.set_qdisc(7, "tbf", TBF, "1:", "root"), nm.set_qdisc(7, "netem", NETEM, "2:", "1:1")]
    assert limits(host, [qdisc("tbf", **TBF), qdisc("netem", "1:1", **NETEM)], rate="10mbit", delay="20ms", loss=1) == []
    assert limits(host, [qdisc("tbf", **TBF), qdisc("bfifo", "1:1", "9:")], rate="10mbit") == []
    host.proc = "/lacking"
    host.forget()
    with pytest.raises(BulkheadError, match="the kernel has no netem, which delay and loss need. Install a kernel with the module sch_netem"):
        limits(host, [], delay="20ms")


# -- addresses that are given out

class Net:
    def __init__(self, *subnets):
        self.subnets = list(subnets)


def allocate(monkeypatch, specs, used=None, recorded=None, others=()):
    taken = _rules.Used()
    taken.addresses = dict(used or {})
    monkeypatch.setattr(_rules, "used", lambda host: taken)
    monkeypatch.setattr(_allocation, "recorded", lambda host, key: (recorded or {}).get(key, []))
    found = Found()
    _allocation.allocate(None, specs, lambda spec: found, lambda: others)
    return [each.resolved for each in specs]


def member(name, net, **options):
    found = spec(namespace=name, **options)
    found.net = net
    return found


def test_the_same_name_gets_the_same_address_and_no_two_get_one(monkeypatch):
    net = Net(("10.42.0.0/24", "10.42.0.1"), ("fd00:42::/64", "fd00:42::1"))
    names = ["n%d" % number for number in range(100)]
    first = allocate(monkeypatch, [member(name, net) for name in names])
    assert len({each for pair in first for each in pair}) == 200 and not any("10.42.0.1/24" in pair for pair in first)
    assert first[0] == allocate(monkeypatch, [member("n0", net)])[0]  # it came first, so nobody was in its place
    assert all(pair[0].startswith("10.42.0.") and pair[1].startswith("fd00:42::") for pair in first)


def test_recorded_and_declared_ones_go_before_new_ones(monkeypatch):
    net = Net(("10.42.0.0/29", "10.42.0.1"))
    alone = allocate(monkeypatch, [member("a", net)])[0]
    found = allocate(monkeypatch, [member("a", net), member("b", net), member("c", net, addresses=alone)], recorded={"b/eth0": ["10.42.0.3/29"]})
    assert found[2] == alone and found[1] == ["10.42.0.3/29"] and found[0] not in (alone, found[1])
    gone = member("gone", net)
    gone.resolved = ["10.42.0.5/29"]
    everybody = [member(name, net) for name in "abcdef"]
    found = allocate(monkeypatch, everybody, others=[gone], used={"10.42.0.6": "x/eth0"})
    assert sorted(each for each in itertools.chain(*found)) == ["10.42.0.2/29", "10.42.0.3/29", "10.42.0.4/29"]
    assert [str(each.trouble) for each in everybody if each.trouble][0].startswith("Cannot give interface d/eth0 an address: all of 10.42.0.0/29 are taken.")


def test_a_recorded_address_of_another_subnet_is_no_good(monkeypatch):
    net = Net(("10.42.0.0/24", "10.42.0.1"))
    for recorded in (["10.43.0.9/24"], ["10.42.0.9/16"], ["10.42.0.1/24"]):
        assert allocate(monkeypatch, [member("a", net)], recorded={"a/eth0": recorded}) == allocate(monkeypatch, [member("a", net)])


# -- what is done for all at once

class Wire:
    """In the place of netlink: notes what is sent where, and refuses what a test wants refused."""

    def __init__(self, sent, refused, path=None):
        self.sent, self.refused, self.path, self.fd = sent, refused, path, "fd of %s" % path

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def close(self):
        pass

    def link(self, name):
        return {"index": 7}

    def send(self, messages):
        if messages:
            self.sent.append((self.path, [message.what for message in messages]))
        failed = [netlink.NetlinkError(17, "", message) for message in messages if message.what in self.refused]
        if failed:
            failed[0].others = failed[1:]
            raise failed[0]


@pytest.fixture
def wire(monkeypatch):
    sent, refused = [], set()
    monkeypatch.setattr(netlink, "open", lambda path=None, proc="/proc": Wire(sent, refused, path))
    monkeypatch.setattr(_hostnet, "links", lambda host: {})
    return sent, refused


def making(name):
    return _link_acts.Act(pin="/netns/" + name, name="eth0", index=2,
                          outside=lambda netns: [nm.new_link("bh" + name, "veth"), nm.set_link("bh" + name, up=True)],
                          inside=lambda index: [nm.new_address(index, "10.0.0.2/24")], clean=_link_acts.Act(
                              pin="/netns/" + name, name="eth0", leaves=lambda index, home: [nm.delete_link(index)]))


def plan_of(act, back=None):
    plan = Plan("x")
    _link_acts.add(Host(), plan, "create it", act, back)
    return plan


def test_all_links_are_one_datagram_and_each_namespace_another(wire):
    sent, unused = wire
    plans = [plan_of(making(name)) for name in ("a", "b")]
    run_together(Host(), plans)
    for plan in plans:
        run_plan(plan)
    assert sent == [(None, ["make the veth bha", "change the link bha", "make the veth bhb", "change the link bhb"]),
                    ("/netns/a", ["add the address 10.0.0.2/24"]), ("/netns/b", ["add the address 10.0.0.2/24"])]


def test_links_that_go_are_one_group(wire, monkeypatch):
    sent, unused = wire
    acts = [_link_acts.Act(goes="bh%d" % number) for number in range(3)]
    monkeypatch.setattr(_hostnet, "links", lambda host: {"bh%d" % number: {"name": "bh%d" % number, "group": _link_acts.GROUP} for number in range(4)})
    _link_acts.do(Host(), acts)
    assert sent == [(None, ["change the link bh0", "change the link bh1", "change the link bh2"]),
                    (None, ["remove the links of group %d" % (_link_acts.GROUP + 1)])]
    del sent[:]
    _link_acts.do(Host(), [_link_acts.Act(goes="bh%d" % number) for number in range(4)])
    assert sent == [(None, ["remove the links of group %d" % _link_acts.GROUP])]


def test_one_that_fails_is_cleaned_up_and_the_others_are_made(wire):
    sent, refused = wire
    good, bad = making("a"), making("b")
    bad.inside = lambda index: [nm.new_address(index, "10.0.0.3/24")]
    refused.add("add the address 10.0.0.3/24")
    plans = [plan_of(good), plan_of(bad)]
    run_together(Host(), plans)
    run_plan(plans[0])
    with pytest.raises(BulkheadError, match="Cannot create it: the kernel would not add the address 10.0.0.3/24: File exists"):
        run_plan(plans[1])
    assert sent[-1] == ("/netns/b", ["remove the link 7"])


def test_what_was_not_made_by_us_is_not_cleaned_up(wire):
    sent, refused = wire
    refused.add("make the veth bha")
    with pytest.raises(BulkheadError, match="would not make the veth bha"):
        run_plan(plan_of(making("a")))
    assert sent == [(None, ["make the veth bha", "change the link bha"])]


def test_without_netlink_each_step_tells_why(wire, monkeypatch):
    def lacking(path=None, proc="/proc"):
        raise OSError(65, "python3 cannot import pyroute2: install python3-pyroute2")

    plans = [plan_of(making("a")), plan_of(making("b"))]
    monkeypatch.setattr(netlink, "open", lacking)
    run_together(Host(), plans)
    for plan in plans:
        with pytest.raises(BulkheadError, match="Cannot create it: python3 cannot import pyroute2: install python3-pyroute2"):
            run_plan(plan)


def test_what_the_kernel_turns_out_not_to_have_is_named(wire, monkeypatch):
    class Lacking(Wire):
        def send(self, messages):
            if messages:
                raise netlink.NetlinkError(95, "Unknown device type", messages[0])

    monkeypatch.setattr(netlink, "open", lambda path=None, proc="/proc": Lacking([], (), path))
    with pytest.raises(BulkheadError, match="Cannot create it: the kernel has no veth. Install the module of it, or a kernel that has one."):
        run_plan(plan_of(making("a")))


def test_a_step_is_taken_back_only_where_it_was_taken(wire):
    sent, refused = wire
    plan = plan_of(_link_acts.Act(outside=lambda unused: [nm.set_link(3, mtu=1400)]), _link_acts.Act(outside=lambda unused: [nm.set_link(3, mtu=1500)]))
    _link_acts.add(Host(), plan, "change more", _link_acts.Act(outside=lambda unused: [nm.set_link(4, mtu=1400)]), _link_acts.Act(
        outside=lambda unused: [nm.set_link(4, mtu=1500)]))
    refused.add("change the link 4")
    run_together(Host(), [plan])
    with pytest.raises(BulkheadError, match="Undone: create it"):
        run_plan(plan)
    assert sent == [(None, ["change the link 3", "change the link 4"]), (None, ["change the link 3"])]
