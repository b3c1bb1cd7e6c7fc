# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The firewall of networks, by real traffic between net namespaces: who reaches whom, by which address, and who does not.

The links are made here with ip(8), so that what is proved is the rules alone. Two networks, lab and two, with the members web,
cache and other; and a namespace `internet`, which knows no way back to them.
"""

from __future__ import annotations

import subprocess

import drive
import pytest
import wires
from module_utils._engine.plan import Plan, run_plan, run_together
from module_utils._model.errors import BulkheadError
from module_utils._model.rules import Member, Net
from module_utils._resources import _rules
from wires import Call, Server, ask

MEMBERS = {"web": ("lab", "42", 2), "cache": ("lab", "42", 3), "other": ("two", "43", 2)}
HOST4, HOST6, INTERNET4, INTERNET6 = "203.0.113.1", "2001:db8:1::1", "203.0.113.2", "2001:db8:1::2"


def address(name, family=4):
    network, subnet, number = MEMBERS[name]
    return "10.%s.0.%d" % (subnet, number) if family == 4 else "fd00:%s::%d" % (subnet, number)


def mac(name):
    network, subnet, number = MEMBERS[name]
    return "02:00:00:00:%s:%02x" % (subnet, number)


def member(name, **keys):
    return Member(name + "/eth0", mac(name), [address(name), address(name, 6)], **keys)


def net(name, **keys):
    subnet = {"lab": "42", "two": "43"}[name]
    return Net(name, "bh-" + name, ["10.%s.0.0/24" % subnet, "fd00:%s::/64" % subnet], **keys)


LAB, TWO = net("lab"), net("two")


def rule(*things):
    """Set the rules as a run does. The names of the steps; a second run has none."""
    actions = []
    for again in (False, True):
        host = drive.new_host()
        _rules.expect(host, things)
        plans = [Plan() for thing in things]
        for plan, thing in zip(plans, things):
            _rules.plan(host, plan, thing)
        if again:
            assert not any(plan.changed for plan in plans), [(plan.actions, plan.before, plan.after) for plan in plans]
            return actions
        actions = [action for plan in plans for action in plan.actions]
        run_together(host, plans)
        for plan in plans:
            run_plan(plan)
        host.finish()
    return None


def refuse(*things):
    with pytest.raises(BulkheadError) as caught:
        rule(*things)
    assert "\n" not in caught.value.message
    return caught.value.message


def sysctl(path, value):
    """Set it, and return what it was."""
    with open("/proc/sys/net/" + path, encoding="ascii") as stream:
        before = stream.read()
    with open("/proc/sys/net/" + path, "w", encoding="ascii") as stream:
        stream.write(str(value))
    return before


SWITCHES = {"ipv4/ip_forward": 1, "ipv6/conf/all/forwarding": 1, "ipv6/conf/default/accept_dad": 0}


@pytest.fixture(params=["plain", "bridge-nf"])
def bridged(request):
    """With and without br_netfilter, which has frames between the ports of a bridge pass the host's rules; docker loads it."""
    try:
        for family in ("ip", "ip6"):
            sysctl("bridge/bridge-nf-call-%stables" % family, int(request.param == "bridge-nf"))
    except FileNotFoundError:
        if request.param == "bridge-nf":
            pytest.skip("this kernel has no br_netfilter")
    return request.param


@pytest.fixture
def world(monkeypatch):
    """The host's links, and namespaces beyond them. Yields what starts a server; ``records`` is what the host's records hold."""
    lines = []
    for network, subnet in (("lab", "42"), ("two", "43")):
        lines += ["link add bh-%s type bridge" % network, "address add 10.%s.0.1/24 dev bh-%s" % (subnet, network),
                  "address add fd00:%s::1/64 dev bh-%s nodad" % (subnet, network), "link set bh-%s up" % network]
    for number, (name, (network, subnet, unused)) in enumerate(MEMBERS.items()):
        lines += ["netns add " + name, "link add v%d type veth peer name eth0 netns %s" % (number, name),
                  "link set v%d master bh-%s up" % (number, network), "link set dev v%d type bridge_slave hairpin on" % number]
    lines += ["netns add internet", "link add wan type veth peer name eth0 netns internet", "link set wan up",
              "address add %s/24 dev wan" % HOST4, "address add %s/64 dev wan nodad" % HOST6]
    records, servers, before = [], [], {}
    monkeypatch.setattr(_rules, "_recorded", lambda host: records)
    try:
        before.update((path, sysctl(path, value)) for path, value in SWITCHES.items())
        wires.ip(*lines)
        for name, (network, subnet, number) in MEMBERS.items():
            inside(name, "link set lo up", "link set eth0 address %s up" % mac(name), "address add 10.%s.0.%d/24 dev eth0" % (subnet, number),
                   "address add fd00:%s::%d/64 dev eth0 nodad" % (subnet, number), "route add default via 10.%s.0.1" % subnet,
                   "route add default via fd00:%s::1" % subnet)
        inside("internet", "link set lo up", "link set eth0 up", "address add %s/24 dev eth0" % INTERNET4,
               "address add %s/64 dev eth0 nodad" % INTERNET6)
        for network in ("lab", "two"):
            sysctl("ipv4/conf/bh-%s/route_localnet" % network, 1)

        def serve(*arguments, **keys):
            servers.append(Server(*arguments, **keys))
            return servers[-1]

        serve.records = records
        yield serve
    finally:
        for server in servers:
            server.end()
        subprocess.run(["nft", "flush", "ruleset"], check=True)
        for device in ("v0", "v1", "v2", "wan", "bh-lab", "bh-two"):
            subprocess.run(["ip", "link", "del", device], check=False)
        for path, value in before.items():
            sysctl(path, value)
        for name in list(MEMBERS) + ["internet"]:
            subprocess.run(["ip", "netns", "del", name], check=False)


def inside(name, *lines):
    subprocess.run(["ip", "-n", name, "-batch", "-"], input="\n".join(lines) + "\n", text=True, check=True)


def both(name, port=80):
    """The questions to a member: tcp and udp, by IPv4 and IPv6."""
    return [(protocol, address(name, family), port) for protocol in ("tcp", "udp") for family in (4, 6)]


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


def table():
    """Our table, or None."""
    return next((each for each in wires.listed("tables") if each["table"]["name"] == "bulkhead"), None)


@pytest.fixture
def calls():
    """calls(place, address, port): a connection that is up; they are ended with the test."""
    made = []
    yield lambda *where: made.append(Call(*where)) or made[-1]
    for call in made:
        call.end()


def open_calls(world, calls):
    """One of each kind, by our translations: out, in from outside, from the host's loopback, and between members."""
    for place in ("web", "cache", "internet"):
        world(place, 80)
    rule(LAB, TWO, member("web", publish=[(None, 8080, 80, "tcp")]), member("cache"), member("other"))
    return [calls(*where) for where in (("web", INTERNET4, 80), ("web", INTERNET6, 80), ("internet", HOST4, 8080), ("internet", HOST6, 8080),
                                        (None, "127.0.0.1", 8080), ("cache", HOST4, 8080), ("web", address("cache"), 80))]


def test_running_connections_survive_every_change(world, calls):
    """Also those that would not be let in or out any more."""
    live = open_calls(world, calls)
    assert [call.greeting.split()[0] for call in live] == ["internet", "internet", "web", "web", "web", "web", "cache"]
    changes = [
        lambda: rule(member("web", publish=[(None, 8081, 80, "tcp")])),
        lambda: rule(net("lab", reaches=["bh-two"], host_services=[("tcp", 1, 9)])),
        lambda: rule(net("lab", internal=True, inter_sandbox=False)),
        lambda: rule(member("web", allow=[]), member("cache", allow=[("10.0.0.0/8", None, None)])),
        lambda: rule(_rules.Absent("two"), _rules.Absent("other/eth0")),
        lambda: subprocess.run(["nft", "flush", "chain", "inet", "bulkhead", "forward"], check=True),
        lambda: rule(LAB),
    ]
    for number, change in enumerate(changes):
        change()
        assert [call.echo("still %d" % number) for call in live] == ["still %d" % number] * len(live)
    assert ask("internet", ("tcp", HOST4, 8080)) == ["error: Connection refused"]


def test_all_rules_flushed_by_hand_are_found_and_mended(world, calls):
    """Connections that slept meanwhile go on, and new ones are made as before; what was not of this run comes from the records."""
    live = open_calls(world, calls)
    before = ours()
    world.records += [LAB, TWO, member("web", publish=[(None, 8080, 80, "tcp")]), member("cache"), member("other")]
    subprocess.run(["nft", "flush", "ruleset"], check=True)
    assert rule(LAB) == ["make table inet bulkhead", "set rules of lab"]
    assert ours() == before
    assert [call.echo("awake") for call in live] == ["awake"] * len(live)
    assert ask("internet", ("tcp", HOST4, 8080)) == ["web " + INTERNET4]


HAND = [  # what somebody does by hand, and what is then to be done when lab and web are converged
    ("flush chain inet bulkhead guard", ["mend table inet bulkhead"]),
    ("insert rule inet bulkhead forward accept", ["mend table inet bulkhead"]),
    ("add chain inet bulkhead mine", ["mend table inet bulkhead"]),
    ("add set inet bulkhead mine { type ipv4_addr; elements = { 10.0.0.1 } ; }", ["mend table inet bulkhead"]),
    ("add element inet bulkhead pairs { bh-two . bh-lab }", ["mend table inet bulkhead"]),
    ("add chain inet bulkhead forward { policy drop; }", ["mend table inet bulkhead"]),
    ("delete element inet bulkhead bridges { bh-lab }", ["set rules of lab"]),
    ("delete element inet bulkhead members4 { 02:00:00:00:42:02 . 10.42.0.2 }", ["set rules of web/eth0"]),
    ("flush map inet bulkhead publish_any4", ["set rules of web/eth0"]),
    ("delete table inet bulkhead", ["make table inet bulkhead", "set rules of lab", "set rules of web/eth0"]),
]


@pytest.mark.parametrize("words,steps", HAND, ids=[words for words, steps in HAND])
def test_what_was_changed_by_hand_is_mended(words, steps, world):
    things = [LAB, member("web", publish=[(None, 8080, 80, "tcp")])]
    rule(*things)
    before = ours()
    subprocess.run(["nft", words], check=True)
    assert ours() != before
    assert rule(*things) == steps
    assert ours() == before


def ours():
    """What nft lists of our table, without the kernel's numbers and in one order."""
    objects = [each for each in wires.listed("ruleset") for keys in each.values() if "bulkhead" in (keys.get("table"), keys.get("name"))]
    for each in objects:
        for keys in each.values():
            keys.pop("handle", None)
            keys.get("elem", []).sort(key=str)
    return sorted(objects, key=str)


def test_tables_of_others_stay_as_they_are(world):
    others = """table inet firewalld { set s { type ipv4_addr; elements = { 10.0.0.1 } ; }
    chain filter_FORWARD { type filter hook forward priority 10; policy accept; ip saddr @s drop; }
    }
    table ip nat { chain POSTROUTING { type nat hook postrouting priority 100; oifname "docker0" masquerade; }
    }"""
    subprocess.run(["nft", "-f", "-"], input=others, text=True, check=True)

    def seen():
        return [each for each in wires.listed("ruleset") if all(
            "bulkhead" not in (keys.get("table"), keys["name"] if kind == "table" else None) for kind, keys in each.items())]

    before = seen()
    rule(LAB, member("web"))
    subprocess.run(["nft", "flush chain inet bulkhead forward"], check=True)
    rule(LAB, member("web"))
    assert seen() == before
    assert rule(_rules.Absent("lab"), _rules.Absent("web/eth0")) == ["remove rules of lab", "remove rules of web/eth0"]
    assert seen() == before and len(before) == 7
    assert table() is None


def test_what_another_owner_has_is_refused(world):
    rule(LAB, member("web", publish=[(None, 8080, 80, "tcp"), (HOST4, 8081, 80, "udp")]))
    twin = Member("cache/eth0", mac("cache"), [address("web")])
    assert refuse(twin) == "Cannot give 10.42.0.2 to cache/eth0: web/eth0 has it. Use another one, or remove that first."
    assert refuse(Member("cache/eth0", mac("web"), [address("cache")])).startswith("Cannot give %s to cache/eth0: web/eth0" % mac("web"))
    for wanted in ((HOST4, 8080, 80, "tcp"), (None, 8080, 80, "tcp"), (None, 8081, 1, "udp")):
        assert refuse(member("cache", publish=[wanted])).startswith("Cannot publish port %d/%s for cache/eth0: it is published for web/eth0." % (
            wanted[1], wanted[3]))
    rule(member("cache", publish=[(None, 8080, 80, "udp"), ("127.0.0.1", 8081, 80, "udp"), (None, 8081, 80, "tcp")]))


def test_in_one_run_one_takes_what_another_gives_up(world):
    world("cache", 80)
    rule(LAB, member("web", publish=[(None, 8080, 80, "tcp")]), member("cache"))
    assert rule(member("cache", publish=[(None, 8080, 80, "tcp")]), member("web")) == ["set rules of cache/eth0", "set rules of web/eth0"]
    assert ask("internet", ("tcp", HOST4, 8080)) == ["cache " + INTERNET4]
    rule(Member("heir/eth0", mac("cache"), [address("cache")], publish=[(None, 8080, 80, "tcp")]), _rules.Absent("cache/eth0"))
    assert ask("internet", ("tcp", HOST4, 8080)) == ["cache " + INTERNET4]
    assert set(_rules.owners(drive.new_host())) == {"lab", "web/eth0", "heir/eth0"}


def test_a_flow_of_udp_follows_its_port(world):
    """A client that goes on sending from one port is heard by whom the port is published for now, and by no one when it is not."""
    for place in ("web", "cache"):
        world(place, 80)
    things = [LAB, member("web"), member("cache")]
    rule(*things)
    talk = [("udp", HOST4, 8080, INTERNET4, 4000), ("udp", HOST6, 8080, INTERNET6, 4000)]
    assert ask("internet", *talk) == ["error: Connection refused"] * 2
    for name in ("web", "cache"):
        rule(member(name, publish=[(None, 8080, 80, "udp")]))
        assert ask("internet", *talk) == [name + " " + INTERNET4, name + " " + INTERNET6]
        rule(*things)
    assert ask("internet", *talk) == ["error: Connection refused"] * 2
    assert ask("cache", ("udp", INTERNET4, 8080, address("cache"), 4000))[0].startswith("error")
    world("internet", 8080)
    rule(member("web", publish=[(HOST4, 8080, 80, "udp")]))
    assert ask("cache", ("udp", INTERNET4, 8080)) == ["internet " + HOST4]  # it is the host's port that was published


def test_a_port_that_a_process_listens_on_is_refused(world):
    server = world(None, 8080, address=HOST4)
    rule(LAB)
    for protocol in ("tcp", "udp"):
        for host in (None, HOST4, "0.0.0.0"):
            message = refuse(member("web", publish=[(host, 8080, 80, protocol)]))
            assert message.startswith("Cannot publish port 8080/%s for web/eth0: " % protocol) and "(pid %d) listens on it" % server.pid in message
    rule(member("web", publish=[("127.0.0.1", 8080, 80, "tcp")]))
    world(None, 9090)
    refuse(member("web", publish=[("127.0.0.1", 9090, 80, "udp")]))
    rule(member("web", publish=[("127.0.0.1", 8080, 80, "tcp"), (None, 9091, 80, "tcp")]))


def test_a_firewall_that_drops_is_named(world):
    subprocess.run(["nft", "add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }"], check=True)
    subprocess.run(["nft", "add table inet firewalld; add chain inet firewalld f { type filter hook input priority 10; }"], check=True)
    plan = Plan()
    _rules.plan(drive.new_host(), plan, LAB)
    assert len(plan.warnings) == 2, plan.warnings
    assert plan.warnings[0].startswith("The chain FORWARD of the table ip filter drops what no rule of it accepts, also of network lab.")
    assert "--zone=trusted --add-interface=bh-lab" in plan.warnings[1]
    assert plan.actions == ["make table inet bulkhead", "set rules of lab"] and table() is None


def test_steps_that_fail_put_the_elements_back(world):
    rule(LAB, member("web"))
    before = ours()
    host = drive.new_host()
    plans = [Plan("web"), Plan("lab")]
    _rules.plan(host, plans[0], member("web", publish=[(None, 8080, 80, "tcp")]))
    _rules.plan(host, plans[1], _rules.Absent("lab"))

    def fail():
        raise OSError(5, "no such luck")

    run_together(host, plans)
    assert ours() != before
    for plan, words in zip(plans, ("set rules of web/eth0", "remove rules of lab")):
        plan.add("fail", fail)
        with pytest.raises(BulkheadError) as caught:
            run_plan(plan)
        assert caught.value.keys["undone"] == [words]
    host.finish()
    assert ours() == before


def test_one_that_nft_refuses_does_not_keep_the_others(world):
    rule(LAB)
    host = drive.new_host()
    plans = [Plan("bad"), Plan("web")]
    _rules.plan(host, plans[0], Member("bad/eth0", mac("other"), ["not an address"]))
    _rules.plan(host, plans[1], member("web"))
    run_together(host, plans)
    with pytest.raises(BulkheadError) as caught:
        run_plan(plans[0])
    assert caught.value.message.startswith("Cannot set the rules of networks: ") and "\n" not in caught.value.message
    run_plan(plans[1])
    assert set(_rules.owners(drive.new_host())) == {"lab", "web/eth0"}
