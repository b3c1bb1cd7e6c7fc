# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the netlink adapter promises, whichever pyroute2 writes its messages: each `check_*` gets two namespaces of its own.

`test_netlink.py` runs them under the pyroute2 at hand. As a program, without pytest, it runs them under the one that its Python
finds first, and that must have the given version: `tests/alone PYTHON tests/system/netlink_contract.py VERSION`.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(HERE)), "plugins"))

from module_utils._kernel import netlink, netmessages as ask, syscalls as sc  # noqa: E402  pylint: disable=wrong-import-position

MAC = "02:00:00:00:00:%02x"


class Pair:
    """Two network namespaces, that of a host and one inside, as Nets; and the way home."""

    def __enter__(self):
        self._home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        nets = []
        for dummy in range(2):
            sc.unshare(sc.CLONE_NEWNET)
            nets.append(netlink.open())
        self._nets = nets
        return nets

    def __exit__(self, *exc):
        for net in self._nets:
            net.close()
        sc.setns(self._home, sc.CLONE_NEWNET)
        os.close(self._home)


def refused(net, *messages):
    """The error that must come."""
    try:
        net.send(messages)
    except netlink.NetlinkError as exc:
        return exc
    raise AssertionError("this was not refused: %s" % list(messages))


def has(found, **wanted):
    assert found is not None
    assert {key: found[key] for key in wanted} == wanted
    return found


def only(found, **where):
    left = [each for each in found if all(each[key] == value for key, value in where.items())]
    assert len(left) == 1, (where, found)
    return left[0]


def attach(host, net):
    """A bridge, and a veth from inside to a port of it."""
    host.send([ask.new_link("br0", "bridge", index=10, mac=MAC % 10), ask.set_link(10, up=True), ask.new_address(10, "10.1.0.1/24")])
    net.send([
        ask.new_link("eth0", "veth", index=20, mac=MAC % 20, mtu=1400, peer={
            "name": "port0", "index": 11, "mac": MAC % 11, "mtu": 1400, "group": 77, "netns": host.fd}),
        ask.set_link("lo", up=True), ask.set_link(20, up=True),
        ask.new_address(20, "10.1.0.2/24"), ask.new_address(20, "fd00::2/64", dad=False),
    ])
    host.send([ask.set_link("port0", master=10, alias="web/eth0", up=True)])


def check_links_are_read_as_they_were_asked_for(host, net):
    attach(host, net)
    has(host.link("br0"), index=10, kind="bridge", mac=MAC % 10, up=True, master=None, parent=None, port=None, alias=None, group=0)
    has(host.link("port0"), index=11, kind="veth", mac=MAC % 11, mtu=1400, master=10, parent=20, group=77, alias="web/eth0", up=True, carrier=True)
    found = has(net.link("eth0"), index=20, kind="veth", mac=MAC % 20, mtu=1400, parent=11, master=None, up=True, port=None, alias=None)
    assert found["parent_netnsid"] is not None and found == only(net.links(), name="eth0") == net.link(20)
    has(net.link("lo"), kind="loopback", index=1, up=True)
    assert [each["name"] for each in host.links()] == ["lo", "br0", "port0"]
    assert host.link("none") is None and host.link(4711) is None


def check_links_change_in_place(host, net):
    attach(host, net)
    host.send([ask.set_link("port0", master=0, alias="", mac=MAC % 99, mtu=1300, group=5, up=False), ask.set_link(11, name="other")])
    has(host.link(11), name="other", master=None, alias=None, mac=MAC % 99, mtu=1300, group=5, up=False)
    host.send([ask.set_link(11, netns=net.fd)])
    assert host.link(11) is None
    moved = has(net.link("other"), kind="veth", parent=20, parent_netnsid=None)
    net.send([ask.delete_link(moved["index"]), ask.delete_link("other"), ask.delete_link("eth0")])
    assert [each["name"] for each in net.links()] == ["lo"]


def check_a_bridge_and_its_ports(host, net):
    attach(host, net)
    host.send([ask.set_data("br0", "bridge", {"ageing_time": 20000, "multicast_snooping": False}), ask.set_port("port0", isolated=True, learning=False)])
    has(host.link("br0")["data"], ageing_time=20000, multicast_snooping=False, stp=False, vlan_filtering=False)
    has(host.link("port0")["port"], isolated=True, learning=False, hairpin=False)
    assert host.link("port0")["port"].get("locked") in (False, None)  # None: before Linux 5.18
    host.send([ask.set_port(11, isolated=False)])
    has(host.link(11)["port"], isolated=False, learning=False)
    assert refused(net, ask.set_port("eth0", isolated=True)).errno


def check_the_kinds_of_links(host, net):
    """Those that this kernel has are as they were asked for; of the others the error says that they are what is lacking."""
    attach(host, net)
    kinds = (
        ("macvlan", {"parent": 10, "data": {"mode": "bridge"}}), ("ipvlan", {"parent": 11, "data": {"mode": "l3"}}),
        ("vlan", {"parent": 10, "data": {"vlan_id": 5}}), ("dummy", {}), ("wireguard", {}),
        ("vxlan", {"data": {"vni": 7, "remote": "192.0.2.9", "local": "192.0.2.1", "port": 4790, "learning": False}}),
        ("vxlan", {"data": {"vni": 8, "remote": "fd01::9", "local": "fd01::1", "port": 4790, "learning": True}}),
    )
    made = []
    for number, (kind, more) in enumerate(kinds):
        name = "x%d" % number
        try:
            host.send([ask.new_link(name, kind, netns=net.fd, **more)])
        except netlink.NetlinkError as exc:
            assert (exc.errno, exc.lacks) == (errno.EOPNOTSUPP, kind), exc
            continue
        found = has(net.link(name), kind=kind, up=False)
        has(found["data"], **more.get("data", {}))
        if "parent" in more:
            has(found, parent=more["parent"])
            assert found["parent_netnsid"] is not None
        made.append(kind)
    assert {"macvlan", "vxlan"} <= set(made)
    error = refused(host, ask.new_link("y", "nosuchkind"))
    assert error.lacks == "nosuchkind" and "make the nosuchkind y" in str(error)


def check_a_group_goes_at_once(host, net):
    attach(host, net)
    net.send([ask.new_link("v%d" % number, "veth", peer={"name": "h%d" % number, "group": 77, "netns": host.fd}) for number in range(20)])
    assert len(net.links()) == 22
    host.send([ask.delete_group(77)])
    host.send([ask.delete_group(77)])
    assert [each["name"] for each in host.links()] == ["lo", "br0"] and [each["name"] for each in net.links()] == ["lo"]


def check_addresses(host, net):
    attach(host, net)
    net.send([ask.new_address(20, "10.1.0.2/24"), ask.new_address(20, "10.2.0.2/32"), ask.new_address(20, "fe80::7/64", dad=False)])
    found = {each["address"]: each for each in net.addresses()}
    assert {"10.1.0.2/24", "10.2.0.2/32", "fd00::2/64", "fe80::7/64"} <= set(found) and "127.0.0.1/8" not in found
    has(found["10.1.0.2/24"], index=20, family=4, permanent=True, scope="global", tentative=False, failed=False)
    has(found["fd00::2/64"], index=20, family=6, permanent=True, scope="global", tentative=False, failed=False)
    has(found["fe80::7/64"], family=6, scope="link")
    for dummy in range(2):
        net.send([ask.delete_address(20, "10.2.0.2/32"), ask.delete_address(20, "fd00::2/64")])
    assert not {"10.2.0.2/32", "fd00::2/64"} & {each["address"] for each in net.addresses()}
    assert refused(net, ask.new_address(4711, "10.3.0.1/24")).errno == errno.ENODEV


def check_routes(host, net):
    attach(host, net)
    asked = [
        {"to": "default", "via": "10.1.0.1", "index": 20}, {"to": "default", "via": "fd00::1", "index": 20, "metric": 50},
        {"to": "10.9.0.0/16", "via": "10.1.0.1", "index": 20, "metric": 7, "table": 1000, "mtu": 1300, "source": "10.1.0.2"},
        {"to": "10.8.0.1/32", "index": 20}, {"to": "192.0.2.0/24", "kind": "blackhole"}, {"to": "fd02::/32", "kind": "unreachable", "metric": 9},
        {"to": "default", "family": 4, "kind": "prohibit", "metric": 99}, {"to": "fd03::/48", "via": "fd00::1", "index": 20, "table": 200, "metric": 3},
    ]
    net.send([ask.new_route(**each) for each in asked])
    for each in asked:
        wanted = {("type" if key == "kind" else key): value for key, value in each.items()}
        has(only(net.routes(), to=each["to"], metric=each.get("metric")), **dict({"table": 254, "type": "unicast", "protocol": 4}, **wanted))
    assert len([each for each in net.routes() if each["protocol"] == 4]) == len(asked)
    assert refused(net, ask.new_route(**asked[0])).errno == errno.EEXIST
    net.send([ask.new_route(via="10.1.0.9", index=20, replace=True)])
    has(only(net.routes(), to="default", type="unicast", family=4), via="10.1.0.9")
    error = refused(net, ask.new_route("10.7.0.0/16", via="172.16.0.1", index=20))
    assert error.errno == errno.ENETUNREACH and "Nexthop has invalid gateway" in str(error) and "10.7.0.0/16 via 172.16.0.1" in str(error)
    gone = [ask.delete_route(**{key: value for key, value in each.items() if key in ("to", "family", "metric", "table", "kind")})
            for each in asked if each["to"] != "default" or "family" in each]
    for dummy in range(2):
        net.send(gone + [ask.delete_route("default", via="10.1.0.9"), ask.delete_route("default", via="fd00::1", metric=50)])
    assert [each for each in net.routes() if each["protocol"] == 4] == []


def check_rules(host, net):
    asked = [
        {"family": 4, "priority": 100, "source": "10.1.0.0/24", "table": 1000, "mark": (1, 255)}, {"family": 4, "priority": 101, "mark": 7, "table": 5},
        {"family": 4, "priority": 102, "iif": "lo", "to": "192.0.2.1/32"}, {"family": 6, "priority": 103, "to": "fd01::/32", "action": "prohibit"},
        {"family": 6, "priority": 104, "oif": "eth0", "table": 77},
    ]
    before = net.rules()
    for dummy in range(2):
        net.send([ask.new_rule(**each) for each in asked])
    for each in asked:
        wanted = {{"source": "from"}.get(key, key): value for key, value in each.items()}
        if wanted.get("mark") == 7:
            wanted["mark"] = (7, 0xFFFFFFFF)
        has(only(net.rules(), priority=each["priority"]), **dict({"action": "table", "protocol": 4, "iif": None, "from": None}, **wanted))
    for dummy in range(2):
        net.send([ask.delete_rule(**each) for each in asked])
    assert net.rules() == before and {each["protocol"] for each in before} == {2}
    assert host.rules() == before


def check_neighbours_and_forwarding_entries(host, net):
    attach(host, net)
    for dummy in range(2):
        net.send([ask.new_neighbour(20, "10.1.0.77", MAC % 77), ask.new_neighbour(20, "fd00::77", MAC % 77), ask.new_proxy(20, "fd00::99")])
        host.send([ask.new_fdb(11, MAC % 20)])
    key = {"index": 20, "mac": MAC % 77, "proxy": False}
    assert sorted(net.neighbours(), key=str) == sorted([
        dict(key, family=4, address="10.1.0.77"), dict(key, family=6, address="fd00::77"),
        dict(key, family=6, address="fd00::99", proxy=True, mac=None)], key=str)
    has(only(host.fdb(), mac=MAC % 20, master=10), index=11, static=True, local=False, self=False)
    for dummy in range(2):
        net.send([ask.delete_neighbour(20, "10.1.0.77"), ask.delete_neighbour(20, "fd00::77"), ask.delete_neighbour(20, "fd00::99", proxy=True)])
        host.send([ask.delete_fdb(11, MAC % 20)])
    assert net.neighbours() == [] and not [each for each in host.fdb() if each["mac"] == MAC % 20 and each["static"]]


def check_queueing_disciplines(host, net):
    attach(host, net)
    assert host.qdiscs() == net.qdiscs() == []
    for wanted in ({"rate": 1250000, "burst": 5000, "limit": 50000}, {"rate": 125000, "burst": 1600, "limit": 9000},
                   {"rate": 5 << 30, "burst": 1 << 20, "limit": 1 << 21}):
        host.send([ask.set_qdisc(11, "tbf", wanted)])
        found = has(only(host.qdiscs(), index=11), kind="tbf", handle="1:", parent="root")
        assert ask.same_options(wanted, found["options"]), found
        assert not ask.same_options(dict(wanted, rate=wanted["rate"] + 1), found["options"])
        assert not ask.same_options(dict(wanted, burst=wanted["burst"] * 2), found["options"])
        assert set(found["stats"]) == {"bytes", "packets", "drops", "overlimits"}
    wanted = {"delay": 100000, "jitter": 5000, "loss": 1.5, "limit": 500}
    try:
        host.send([ask.set_qdisc(11, "netem", wanted, handle="2:", parent="1:1")])
        found = has(only(host.qdiscs(), kind="netem"), handle="2:", parent="1:1", index=11)
        assert ask.same_options(wanted, found["options"]), found
    except netlink.NetlinkError as exc:
        assert exc.lacks == "netem", exc
    for dummy in range(2):
        host.send([ask.delete_qdisc(11)])
    assert host.qdiscs() == []
    assert refused(host, ask.set_qdisc(11, "nosuchkind")).lacks == "nosuchkind"


def check_a_refusal_does_not_stop_the_others(host, net):
    attach(host, net)
    error = refused(
        net, ask.new_address(20, "10.3.0.1/24"), ask.new_link("eth0", "veth"), ask.new_address(20, "10.4.0.1/24"),
        ask.new_route("10.7.0.0/16", via="172.16.0.1", index=20), ask.new_address(20, "10.5.0.1/24"))
    assert error.errno == errno.EEXIST and isinstance(error, OSError) and error.message == ask.new_link("eth0", "veth") and error.lacks is None
    assert [(other.errno, other.message.number) for other in error.others] == [(errno.ENETUNREACH, ask.NEWROUTE)]
    assert {"10.3.0.1/24", "10.4.0.1/24", "10.5.0.1/24"} <= {each["address"] for each in net.addresses()}


def check_many_at_once(host, net):
    """More than one datagram holds, and more than one answer of the kernel."""
    attach(host, net)
    net.send([ask.new_address(20, "10.%d.%d.1/32" % divmod(number, 200)) for number in range(1000, 3000)])
    assert len(net.addresses()) >= 2002
    host.send([ask.new_link("m%d" % number, "bridge") for number in range(300)])
    assert len(host.links()) == 303
    net.send([])


CHECKS = [value for name, value in sorted(globals().items()) if name.startswith("check_")]


def main():
    from importlib import metadata

    if not os.environ.get("BULKHEAD_ALONE"):
        sys.exit("this changes the host: run it by tests/alone")
    if metadata.version("pyroute2") != sys.argv[1]:
        sys.exit("this is pyroute2 %s" % metadata.version("pyroute2"))
    failed = 0
    for check in CHECKS:
        try:
            with Pair() as (host, net):
                check(host, net)
        except Exception:  # pylint: disable=broad-exception-caught
            failed += 1
            print("FAILED: %s\n%s" % (check.__name__, traceback.format_exc()))
    print("pyroute2 %s, Python %d.%d: %d passed, %d failed" % (sys.argv[1], *sys.version_info[:2], len(CHECKS) - failed, failed))
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
