# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The firewall of networks, by real traffic between net namespaces: who reaches whom, by which address, and who does not."""

from __future__ import annotations

import pytest
import wires
from lab import HOST4, HOST6, INTERNET4, INTERNET6, LAB, MEMBERS, TWO, address, both, inside, member, net, rule, sysctl
from lab import bridged, world  # noqa: F401  pylint: disable=unused-import
from module_utils._resources import _rules
from wires import ask


def test_members_of_one_network_talk_and_those_of_two_do_not(world, bridged):
    for name in MEMBERS:
        world(name, 80)
    rule(LAB, TWO, *map(member, MEMBERS))
    assert ask("web", *both("cache")) == ["cache " + address("web", family) for family in (4, 6)] * 2
    assert ask("web", *both("other")) == [None] * 4
    assert ask("other", *both("web")) == [None] * 4
    assert ask(None, *both("web"))[0] == "web 10.42.0.1"


def test_reaches_opens_one_way(world, bridged):
    for name in MEMBERS:
        world(name, 80)
    rule(net("lab", reaches=["bh-two"]), TWO, *map(member, MEMBERS))
    assert ask("web", *both("other")) == ["other " + address("web", family) for family in (4, 6)] * 2
    assert ask("other", *both("web")) == [None] * 4


def test_a_published_port_is_reached_from_everywhere(world, bridged):
    """From outside with the client's own address; from the host, the same network, the member itself and another network."""
    world("web", 80)
    rule(LAB, TWO, member("web", publish=[(None, 8080, 80, "tcp"), (None, 8080, 80, "udp")]), member("cache"), member("other"))
    everywhere = [(protocol, host, 8080) for protocol in ("tcp", "udp") for host in (HOST4, HOST6)]
    assert ask("internet", *everywhere) == ["web " + INTERNET4, "web " + INTERNET6] * 2
    assert ask("other", *everywhere) == ["web " + address("other"), "web " + address("other", 6)] * 2
    for place in (None, "cache", "web"):
        assert ask(place, *everywhere) == ["web 10.42.0.1", "web fd00:42::1"] * 2, place
    for place, subnet in ((None, "42"), ("cache", "42"), ("other", "43")):
        gateways = ask(place, ("tcp", "10.%s.0.1" % subnet, 8080), ("tcp", "fd00:%s::1" % subnet, 8080))
        assert gateways[0].startswith("web 10.") and gateways[1].startswith("web fd00:"), (place, gateways)
    assert ask(None, ("tcp", "127.0.0.1", 8080), ("udp", "127.0.0.1", 8080)) == ["web 10.42.0.1"] * 2


def test_the_hosts_ipv6_loopback_is_left_alone(world):
    """The kernel routes nothing from ::1. So a client that tries it first is refused at once, and takes 127.0.0.1."""
    world("web", 80)
    rule(LAB, member("web", publish=[(None, 8080, 80, "tcp")]))
    assert ask(None, ("tcp", "::1", 8080)) == ["error: Connection refused"]


def test_a_port_is_published_on_the_address_that_is_named(world):
    for port in (80, 81):
        world("web", port, "web%d" % port)
    rule(LAB, member("web", publish=[("127.0.0.1", 8080, 80, "tcp"), (HOST4, 8081, 81, "tcp"), ("::", 8082, 80, "tcp")]))
    assert ask(None, ("tcp", "127.0.0.1", 8080), ("tcp", HOST4, 8080), ("tcp", HOST4, 8081), ("tcp", "127.0.0.1", 8081)) == [
        "web80 10.42.0.1", "error: Connection refused", "web81 10.42.0.1", "error: Connection refused"]
    assert ask("internet", ("tcp", HOST4, 8080), ("tcp", HOST4, 8081), ("tcp", HOST6, 8082), ("tcp", HOST4, 8082)) == [
        "error: Connection refused", "web81 " + INTERNET4, "web80 " + INTERNET6, "error: Connection refused"]


def test_members_leave_with_the_hosts_address(world, bridged):
    world("internet", 80)
    out = [("tcp", INTERNET4, 80), ("udp", INTERNET6, 80)]
    rule(LAB, TWO, *map(member, MEMBERS))
    assert ask("web", *out) == ["internet " + HOST4, "internet " + HOST6]
    rule(net("lab", internal=True))
    assert ask("web", *out) == [None, None]
    assert ask("other", *out) == ["internet " + HOST4, "internet " + HOST6]
    rule(net("lab", uplink="elsewhere"))
    assert ask("web", *out) == [None, None]
    rule(net("lab", uplink="wan"))
    assert ask("web", *out) == ["internet " + HOST4, "internet " + HOST6]
    inside("internet", "route add 10.42.0.0/24 via " + HOST4, "route add fd00:42::/64 via " + HOST6)
    rule(net("lab", masquerade=False))
    assert ask("web", *out) == ["internet " + address("web"), "internet " + address("web", 6)]


def test_outside_reaches_no_member_unasked(world):
    """Also who has a route to the subnets."""
    world("web", 80)
    inside("internet", "route add 10.42.0.0/24 via " + HOST4, "route add fd00:42::/64 via " + HOST6)
    rule(LAB, member("web"))
    assert ask("internet", *both("web")) == [None] * 4
    assert ask(None, *both("web")) == ["web 10.42.0.1", "web fd00:42::1"] * 2


def test_the_hosts_services_are_closed_but_those_that_are_named(world, bridged):
    for port in (53, 8000, 8005, 9000):
        world(None, port)
    rule(net("lab", host_services=[("udp", 53, 53), ("tcp", 8000, 8003), ("tcp", 8002, 8010)]), TWO, *map(member, MEMBERS))
    questions = [("udp", "10.42.0.1", 53), ("tcp", "fd00:42::1", 8000), ("tcp", "10.42.0.1", 8005), ("tcp", HOST4, 8005)]
    closed = [("tcp", "10.42.0.1", 53), ("udp", "10.42.0.1", 8000), ("tcp", "10.42.0.1", 9000), ("tcp", HOST4, 9000), ("tcp", "fd00:42::1", 9000)]
    assert ask("web", *questions) == ["host " + address("web"), "host " + address("web", 6)] + ["host " + address("web")] * 2
    assert ask("web", *closed) == [None] * 5
    assert ask("other", ("udp", "10.43.0.1", 53), ("tcp", HOST4, 8000)) == [None, None]
    assert ask("internet", ("tcp", HOST4, 9000)) == ["host " + INTERNET4]  # others are no business of ours


def test_what_is_the_hosts_own_loopback_is_out_of_reach(world):
    """route_localnet is on for the bridge; a member with a route to 127.0.0.0/8 still gets nowhere."""
    world(None, 7000, address="127.0.0.1")
    rule(net("lab", host_services=[("tcp", 7000, 7000), ("udp", 7000, 7000)]), member("web"))
    inside("web", "link set lo down", "route add 127.0.0.1/32 via 10.42.0.1")
    sources = [("tcp", "127.0.0.1", 7000, address("web")), ("udp", "127.0.0.1", 7000, address("web"))]
    assert ask("web", *sources) == [None, None]


def test_members_send_from_their_own_addresses_only(world, bridged):
    world("internet", 80)
    world("cache", 80)
    out = [("tcp", INTERNET4, 80), ("udp", INTERNET6, 80)]
    false = [out[0] + ("10.42.0.99",), out[1] + ("fd00:42::99",)]
    inside("web", "address add 10.42.0.99/24 dev eth0", "address add fd00:42::99/64 dev eth0 nodad")
    rule(LAB, member("web"), member("cache"))
    assert ask("web", out[0] + (address("web"),), out[1] + (address("web", 6),), *false) == [
        "internet " + HOST4, "internet " + HOST6, None, None]
    inside("web", "link set eth0 address 02:00:00:00:42:99")
    assert ask("web", out[0] + (address("web"),)) == [None]
    rule(net("lab", antispoof=False))
    assert ask("web", *false) == ["internet " + HOST4, "internet " + HOST6]


def test_devices_that_we_opened_forward_for_our_networks_only(world):
    world("internet", 80)
    wires.ip("netns add fourth", "link add dmz type veth peer name eth0 netns fourth", "link set dmz up", "address add 10.9.0.1/24 dev dmz")
    try:
        inside("fourth", "link set eth0 up", "address add 10.9.0.2/24 dev eth0", "route add default via 10.9.0.1")
        inside("internet", "route add 10.9.0.0/24 via " + HOST4)
        rule(LAB, member("web"))
        assert ask("fourth", ("tcp", INTERNET4, 80)) == ["internet 10.9.0.2"]
        rule(_rules.Opened(["dmz"]))
        assert ask("fourth", ("tcp", INTERNET4, 80)) == [None]
        assert ask("web", ("tcp", INTERNET4, 80)) == ["internet " + HOST4]
        assert rule(_rules.Opened([])) == ["remove rules of the host"]
        assert ask("fourth", ("tcp", INTERNET4, 80)) == ["internet 10.9.0.2"]
    finally:
        wires.ip("link del dmz", "netns del fourth")


@pytest.fixture
def routed(world):
    """lab in the mode routed: no port sees another one, and the host answers for all members."""
    wires.ip(*["link set dev v%d type bridge_slave isolated on" % number for number in (0, 1)],
             *["neighbour add proxy %s dev bh-lab" % address(name, 6) for name in ("web", "cache")])
    for path in ("ipv4/conf/bh-lab/proxy_arp_pvlan", "ipv6/conf/bh-lab/proxy_ndp"):
        sysctl(path, 1)
    for path in ("ipv4/conf/bh-lab/send_redirects", "ipv4/conf/all/send_redirects", "ipv4/neigh/bh-lab/proxy_delay", "ipv6/neigh/bh-lab/proxy_delay"):
        sysctl(path, 0)
    return world


@pytest.mark.proves("network")
def test_egress_that_is_denied_is_denied(routed, bridged):
    """To members of the same network too, to the host, to published ports; what comes in is answered all the same."""
    for place in ("web", "cache", "internet", None):
        routed(place, 80)
    outside = [("tcp", INTERNET4, 80), ("udp", INTERNET6, 80)]
    services = net("lab", host_services=[("tcp", 80, 80)])
    publish = [(HOST4, 8080, 80, "tcp")]
    rule(services, member("web"), member("cache", publish=publish))
    questions = both("cache") + outside + [("tcp", "10.42.0.1", 80)]
    assert None not in ask("web", *questions)
    rule(services, member("web", allow=[]), member("cache", publish=publish))
    refused = ask("web", *questions)
    assert all(answer is None or answer.startswith("error: ") for answer in refused), refused
    assert any(refused), "that it is denied is not said"  # not each time: the kernel limits the rate of these answers
    assert ask("cache", *both("web")) == ["web " + address("cache"), "web " + address("cache", 6)] * 2
    rule(member("web", allow=[(address("cache"), "tcp", (80, 90)), (INTERNET6 + "/128", None, None), (INTERNET4, "udp", None)]))
    answers = [(answer or "error:").split()[0] for answer in ask("web", *questions, ("udp", INTERNET4, 80))]
    assert answers == ["cache"] + ["error:"] * 4 + ["internet", "error:", "internet"]
    rule(member("web"))
    assert None not in ask("web", *questions)


def test_a_network_whose_members_do_not_meet(routed, bridged):
    for name in MEMBERS:
        routed(name, 80)
    rule(LAB, member("web"), member("cache"))
    assert ask("web", *both("cache")) == ["cache " + address("web"), "cache " + address("web", 6)] * 2
    rule(net("lab", inter_sandbox=False))
    assert ask("web", *both("cache")) == [None] * 4
