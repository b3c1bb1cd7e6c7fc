# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Interfaces on networks: made, reached by real traffic, changed while connections live, mended, removed; and addresses given out."""

from __future__ import annotations

import socket
import struct
import time

import drive
import pytest
from spaces import absent, addresses, command, declare, end, eth0, ip, lab, link, links, port, routes, run
from wires import LONG, Call, Server, ask, enter

from module_utils._kernel import netlink, netmessages, nft
from module_utils._model.addresses import derived_mac

__all__ = ["lab"]
EVERYTHING = dict(
    addresses=["10.42.0.7/24", "fd00:42::7/64"], mac="02:00:00:00:00:07", mtu=1400, routes=[
        {"to": "10.9.0.0/16", "via": "10.42.0.9", "metric": 5, "mtu": 1200}, {"to": "fd09::/64", "via": "fd00:42::9"},
        {"to": "10.8.0.0/16", "type": "blackhole"}, {"to": "10.10.0.1", "via": "10.42.0.9", "table": 100, "source": "10.42.0.7"}],
    rules=[{"from": "10.42.0.7", "table": 100, "priority": 50}, {"mark": "0x10/0xf0", "table": 100}],
    neighbours=[{"address": "10.42.0.9", "mac": "02:00:00:00:00:09"}], sysctls={"forwarding": 1, "ipv4.rp_filter": 2},
    bandwidth={"transmit": "10mbit", "receive": {"rate": "20mbit", "burst": "64K"}}, publish=["8080:80", "127.0.0.1:8090-8092:90-92/udp"])


@pytest.fixture
def calls():
    """calls(place, address, port): a connection that lives until the end of the test."""
    made = []

    def act(*arguments):
        made.append(Call(*arguments))
        return made[-1]

    yield act
    for each in made:
        each.end()


@pytest.fixture
def talk():
    """talk(places…): servers in namespaces, for the time of a test."""
    servers = []

    def act(*places, port=7):
        servers.extend(Server(place, port) for place in places)

    yield act
    for each in servers:
        each.end()


def test_all_of_it_is_made_at_once_and_removed(lab, full_cycle):
    lab("web")
    full_cycle("interface", declare(eth0()), absent("web/eth0"))
    full_cycle("interface", declare(eth0(**EVERYTHING)), absent("web/eth0"))
    assert links("web") == ["lo"] and ip("rule", space="web") == ip("rule")
    assert routes() == {} and routes(family=6) == {}


def test_what_is_declared_is_there(lab, converge):
    lab("web")
    assert converge("interface", **declare(eth0(**EVERYTHING)))["actions"] == [
        "set rules of web/eth0", "create interface web/eth0", "write names of web"]
    inside, outside = link("eth0", "web"), link(end())
    assert (inside["address"], inside["mtu"], inside["operstate"]) == ("02:00:00:00:00:07", 1400, "UP")
    assert (outside["mtu"], outside["master"], outside["ifalias"]) == (1400, "bh-lab", "bulkhead web/eth0")
    assert port("locked", end()) and port("hairpin", end()) and not port("isolated", end())
    assert addresses() == EVERYTHING["addresses"]
    assert routes() == {"default": "10.42.0.1", "10.8.0.0/16": None, "10.9.0.0/16": "10.42.0.9"}
    assert routes(table="100") == {"10.10.0.1": "10.42.0.9"}
    assert routes(family=6) == {"default": "fd00:42::1", "fd09::/64": "fd00:42::9"}
    rules = {(each["priority"], each["table"], each["src"], each.get("fwmark"), each.get("fwmask")) for each in ip("rule", space="web")}
    assert {(50, "100", "10.42.0.7", None, None), (1001, "100", "all", "0x10", "0xf0")} <= rules
    assert [(each["dst"], each["lladdr"]) for each in ip("neigh", "show", "nud", "permanent", space="web")] == [("10.42.0.9", "02:00:00:00:00:09")]
    assert command("cat", "/proc/sys/net/ipv4/conf/eth0/forwarding", "/proc/sys/net/ipv6/conf/eth0/forwarding",
                   "/proc/sys/net/ipv4/conf/eth0/rp_filter", space="web").split() == ["1", "1", "2"]
    shown = drive.info("interface", namespace="web", name="eth0")["interfaces"]
    assert len(shown) == 1 and shown[0]["owned"] and shown[0]["network"] == "lab" and shown[0]["addresses"] == EVERYTHING["addresses"]
    assert shown[0]["published"] == ["127.0.0.1:8090/udp", "127.0.0.1:8091/udp", "127.0.0.1:8092/udp", "8080/tcp"]
    assert shown[0]["bandwidth"]["transmit"]["rate"] == "10mbit" and shown[0]["bandwidth"]["receive"]["burst"] == 65536


def test_members_talk_and_are_reached_where_they_are_published(lab, talk, converge):
    lab("web", "cache")
    converge("interface", **declare(eth0(publish=["8080:7"]), eth0(namespace="cache")))
    shown = {each["namespace"]: each["addresses"] for each in drive.info("interface")["interfaces"]}
    web, cache = ([each.partition("/")[0] for each in shown[name]] for name in ("web", "cache"))
    talk("web", "cache")
    assert ask("cache", ("tcp", web[0], 7), ("udp", web[0], 7), ("tcp", web[1], 7)) == [
        "web " + cache[0], "web " + cache[0], "web " + cache[1]]
    assert ask("web", ("tcp", cache[0], 7), ("tcp", "10.42.0.1", 8080)) == ["cache " + web[0], "web 10.42.0.1"]
    assert ask(None, ("tcp", "127.0.0.1", 8080), ("tcp", web[0], 7)) == ["web 10.42.0.1", "web 10.42.0.1"]
    assert converge("interface", **absent("web/eth0"))["changed"]
    assert ask("cache", ("tcp", web[0], 7))[0] in (None, "error: No route to host")
    assert "web" not in command("cat", "/etc/netns/cache/hosts")


def gratuitous(place, mac, address):
    """Tell everybody by ARP that an address is at a MAC."""

    def send():
        enter(place)
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind(("eth0", 0))
            me, everybody, ip = bytes.fromhex(mac.replace(":", "")), b"\xff" * 6, socket.inet_aton(address)
            for operation in (1, 2):
                raw.send(everybody + me + b"\x08\x06" + b"\0\1\x08\0\6\4" + bytes([0, operation]) + me + ip + everybody + ip)

    assert drive.isolated(send) is None


@pytest.mark.parametrize("antispoof, reached", [(True, "web"), (False, "liar")])
def test_who_claims_the_address_of_another_does_not_get_what_is_sent_to_it(lab, talk, converge, antispoof, reached):
    lab("web", "liar", antispoof=antispoof)
    command("sysctl", "-w", "net.ipv4.neigh.bh-lab.locktime=0")  # the host believes at once what it is told
    converge("interface", **declare(eth0(addresses=["10.42.0.7/24"], publish=["8080:7"]), eth0(namespace="liar")))
    talk("web", "liar")
    assert ask(None, ("tcp", "127.0.0.1", 8080)) == ["web 10.42.0.1"]
    command("ip", "address", "add", "10.42.0.7/24", "dev", "eth0", space="liar")
    gratuitous("liar", link("eth0", "liar")["address"], "10.42.0.7")
    assert ask(None, ("tcp", "127.0.0.1", 8080), ("tcp", "10.42.0.7", 7)) == [reached + " 10.42.0.1"] * 2
    done = converge("interface", **declare(eth0(namespace="liar", addresses=addresses(space="liar")[:1])))
    assert "remove address 10.42.0.7/24 of liar/eth0" in done["actions"]


def advertise(place, mac):
    """Tell everybody by a router advertisement (RFC 4861, 4.2) that a member is the way out of IPv6."""
    source, everybody = bytes.fromhex("fe80" + "0" * 27 + "9"), bytes.fromhex("ff02" + "0" * 27 + "1")
    body = bytearray(struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0))
    total = sum(struct.unpack("!28H", source + everybody + struct.pack("!II", len(body), 58) + body))
    body[2:4] = struct.pack("!H", ~((total & 0xffff) + (total >> 16)) & 0xffff)

    def send():
        enter(place)
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind(("eth0", 0))
            raw.send(bytes.fromhex("333300000001" + mac.replace(":", "") + "86dd60000000") + struct.pack("!HBB", len(body), 58, 255)
                     + source + everybody + body)

    assert drive.isolated(send) is None


def gateways(space):
    """Of the default routes of IPv6, those that the kernel has learned too."""
    return [hop["gateway"] for each in ip("-6", "route", "show", "default", space=space) for hop in each.get("nexthops", [each])]


def test_a_member_cannot_make_itself_the_way_out_of_others(lab, converge):
    """One that asks for advertisements believes them, so they do arrive; one that does not, does not."""
    lab("web", "cache", "liar")
    members = declare(eth0(), eth0(namespace="cache", sysctls={"ipv6.accept_ra": 1}), eth0(namespace="liar"))
    converge("interface", **members)
    advertise("liar", link("eth0", "liar")["address"])
    end = time.monotonic() + LONG
    while "fe80::9" not in gateways("cache"):
        assert time.monotonic() < end
        time.sleep(0.01)
    assert gateways("web") == ["fd00:42::1"]
    command("sysctl", "-w", "net.ipv6.conf.eth0.accept_ra=1", space="web")
    assert converge("interface", **declare(eth0()))["actions"] == ["set net/ipv6/conf/eth0/accept_ra of web/eth0"]


def test_changes_do_not_touch_connections_that_live(lab, talk, calls, converge):
    lab("web", "cache")
    first = eth0(addresses=["10.42.0.7/24"], publish=["8080:7"])
    converge("interface", **declare(first, eth0(namespace="cache")))
    talk("web")
    call = calls("cache", "10.42.0.7", 7)
    assert call.echo("one") == "one"
    changed = eth0(addresses=["10.42.0.7/24", "10.42.0.8/24", "fd00:42::7/64"], publish=["8081:7"], mtu=1400,
                   routes=[{"to": "10.9.0.0/16", "via": "10.42.0.9"}],
                   bandwidth={"transmit": "50mbit"})
    done = converge("interface", **declare(changed, eth0(namespace="cache")))
    assert done["actions"] == [
        "set rules of web/eth0", "set mtu of the host's end of web/eth0", "know web/eth0 by 10.42.0.8",
        "know web/eth0 by fd00:42::7", "set mtu of web/eth0", "add address 10.42.0.8/24 to web/eth0", "add address fd00:42::7/64 to web/eth0",
        "add route default (IPv6) via fd00:42::1 of web/eth0", "add route 10.9.0.0/16 via 10.42.0.9 of web/eth0",
        "set net/ipv6/conf/eth0/accept_ra of web/eth0", "set bandwidth.transmit of web/eth0", "write names of web"]
    assert call.echo("two") == "two"
    # Back again, and the first address of the subnet goes: the other one of it stays, and so do the routes.
    converge("interface", **declare(eth0(addresses=["10.42.0.8/24"], publish=["8081:7"], routes=[], bandwidth={}), eth0(namespace="cache")))
    assert addresses() == ["10.42.0.8/24"] and routes() == {"default": "10.42.0.1"}
    assert ask("cache", ("tcp", "10.42.0.8", 7)) == ["web " + addresses(space="cache")[0].partition("/")[0]]
    assert command("tc", "-j", "qdisc", "show", "dev", "eth0", space="web").count("tbf") == 0


DRIFT = [
    ("ip address delete 10.42.0.7/24 dev eth0", ["add address 10.42.0.7/24 to web/eth0"] + [  # the last of its family: the kernel took the routes away with it
        "add route %s of web/eth0" % each for each in ("default via 10.42.0.1", "10.9.0.0/16 via 10.42.0.9", "10.10.0.1/32 via 10.42.0.9")] + [
            "set neighbour 10.42.0.9 of web/eth0"]),
    ("ip address add 10.42.0.99/24 dev eth0", ["remove address 10.42.0.99/24 of web/eth0"]),
    ("ip route delete 10.9.0.0/16", ["add route 10.9.0.0/16 via 10.42.0.9 of web/eth0"]),
    ("ip route replace 10.9.0.0/16 via 10.42.0.8 metric 5", ["change route 10.9.0.0/16 via 10.42.0.9 of web/eth0"]),
    ("ip route delete default", ["add route default via 10.42.0.1 of web/eth0"]),
    ("ip -6 route delete default", ["add route default (IPv6) via fd00:42::1 of web/eth0"]),
    ("ip route delete blackhole 10.8.0.0/16", ["add route 10.8.0.0/16 of web/eth0"]),
    ("ip rule delete priority 50", ["add rule 50 (IPv4) of web/eth0"]),
    ("ip neigh delete 10.42.0.9 dev eth0", ["set neighbour 10.42.0.9 of web/eth0"]),
    ("ip neigh replace 10.42.0.9 lladdr 02:00:00:00:00:99 dev eth0", ["set neighbour 10.42.0.9 of web/eth0"]),
    ("ip neigh add 10.42.0.98 lladdr 02:00:00:00:00:98 dev eth0", ["remove neighbour 10.42.0.98 of web/eth0"]),
    ("ip link set eth0 mtu 1300", ["set mtu of web/eth0"]),
    ("ip link set eth0 address 02:00:00:00:00:66", ["set mac of web/eth0", "set neighbour 10.42.0.9 of web/eth0"]),
    ("tc qdisc delete dev eth0 root", ["set bandwidth.transmit of web/eth0"]),
    ("tc qdisc change dev eth0 handle 1: root tbf rate 1mbit burst 32k limit 90k", ["set bandwidth.transmit of web/eth0"]),
    ("tc qdisc replace dev eth0 handle 8: root pfifo", ["set bandwidth.transmit of web/eth0"]),
    ("sysctl -w net.ipv4.conf.eth0.rp_filter=1", ["set net/ipv4/conf/eth0/rp_filter of web/eth0"]),
    ("host: tc qdisc delete dev END root", ["set bandwidth.receive of web/eth0"]),
    ("host: ip link set END nomaster", ["put web/eth0 on bridge bh-lab", "set hairpin, locked of the port of web/eth0",
                                        "let web/eth0 send from 02:00:00:00:00:07"]),
    ("host: bridge link set dev END locked off", ["set locked of the port of web/eth0"]),
    ("host: bridge link set dev END isolated on", ["set isolated of the port of web/eth0"]),
    ("host: bridge fdb delete 02:00:00:00:00:07 dev END master", ["let web/eth0 send from 02:00:00:00:00:07"]),
    ("host: bridge fdb add 02:00:00:00:00:66 dev END master static", ["let web/eth0 not send from 02:00:00:00:00:66"]),
    ("host: ip neigh delete 10.42.0.7 dev bh-lab", ["know web/eth0 by 10.42.0.7"]),
    ("host: ip neigh replace fd00:42::7 lladdr 02:00:00:00:00:66 dev bh-lab", ["know web/eth0 by fd00:42::7"]),
    ("host: ip link set END alias nothing", ["mark web/eth0"]),
    ("host: ip link set END down", ["bring up the host's end of web/eth0"]),
    ("host: nft delete element inet bulkhead publish_any4 { 6 . 8080 }", ["set rules of web/eth0"]),
    ("host: nft delete table inet bulkhead", ["make table inet bulkhead"]),
    ("host: ip link delete END", ["create interface web/eth0"]),
]


@pytest.mark.parametrize("damage, mended", DRIFT, ids=[damage for damage, mended in DRIFT])
def test_what_was_changed_by_hand_is_mended_in_place(lab, converge, damage, mended):
    lab("web")
    options = declare(eth0(**EVERYTHING))
    converge("interface", **options)
    index = link("eth0", "web")["ifindex"]
    where, colon, words = damage.rpartition("host: ")
    command(*(word for word in words.replace("END", end()).split()), space=None if colon else "web")
    predicted, done = converge("interface", check=True, **options), converge("interface", **options)
    assert predicted["actions"] == done["actions"] and predicted["diff"] == done["diff"]
    assert [action for action in done["actions"] if "rules" not in action or action in mended] == mended
    assert not converge("interface", **options)["changed"]
    assert addresses() == EVERYTHING["addresses"]
    if "create interface web/eth0" not in mended:
        assert link("eth0", "web")["ifindex"] == index


def test_a_new_mac_keeps_its_neighbours_and_is_known_to_the_bridge(lab, converge):
    lab("web")
    converge("interface", **declare(eth0(neighbours=EVERYTHING["neighbours"])))
    mine = addresses()
    options = declare(eth0(neighbours=EVERYTHING["neighbours"], mac="02:00:00:00:00:77"))
    assert converge("interface", **options)["actions"] == [
        "set rules of web/eth0", "let web/eth0 send from 02:00:00:00:00:77", "let web/eth0 not send from " + derived_mac("web/eth0"),
        *("know web/eth0 by " + each.partition("/")[0] for each in mine), "set mac of web/eth0", "set neighbour 10.42.0.9 of web/eth0"]
    assert not converge("interface", **options)["changed"]
    assert not converge("interface", **declare(eth0()))["changed"]  # what a task leaves out is as it was declared last


def test_an_interface_that_was_brought_down_comes_up_with_all_of_it(lab, converge):
    lab("web")
    options = declare(eth0(**EVERYTHING))
    converge("interface", **options)
    before = routes(), routes(family=6), addresses()
    command("ip", "link", "set", "eth0", "down", space="web")
    assert routes() != before[0] and addresses() != before[2]
    assert converge("interface", check=True, **options)["actions"] == converge("interface", **options)["actions"]
    assert (routes(), routes(family=6), sorted(addresses())) == (before[0], before[1], sorted(before[2]))
    down = declare(eth0(**dict(EVERYTHING, up=False)))
    assert converge("interface", **down)["actions"] == ["bring down web/eth0"]
    assert link("eth0", "web")["operstate"] == "DOWN" and not converge("interface", **down)["changed"]


def test_what_others_have_added_is_left_alone(lab, converge):
    lab("web")
    options = declare(eth0(routes=[{"to": "10.9.0.0/16", "via": "10.42.0.9"}], rules=[{"to": "10.9.0.0/16", "table": 100}]))
    converge("interface", **options)
    command("ip", "route", "add", "10.99.0.0/16", "via", "10.42.0.9", space="web")
    command("ip", "rule", "add", "priority", "77", "to", "10.99.0.0/16", "table", "7", space="web")
    command("ip", "link", "add", "other", "type", "bridge", space="web")
    command("nft", "add", "table", "inet", "somebody")
    try:
        assert not converge("interface", **options)["changed"]
        converge("interface", **declare(eth0(routes=[], rules=[])))
        assert routes() == {"default": "10.42.0.1", "10.99.0.0/16": "10.42.0.9"}
        assert 77 in [each["priority"] for each in ip("rule", space="web")] and len(ip("rule", space="web")) == 4
        converge("interface", **absent("web/eth0"))
        assert "other" in links("web") and 77 in [each["priority"] for each in ip("rule", space="web")]
        assert command("nft", "list", "tables").count("somebody") == 1
    finally:
        command("nft", "delete", "table", "inet", "somebody")


# -- addresses that are given out

def test_addresses_are_given_out_the_same_again(lab, converge):
    names = ["a", "b", "c"]
    lab(*names)
    options = declare(*(eth0(namespace=name) for name in names))
    converge("interface", **options)
    first = {name: addresses(space=name) for name in names}
    assert len({each for pair in first.values() for each in pair}) == 6
    converge("interface", **absent(*(name + "/eth0" for name in names)))
    for name in reversed(names):
        converge("interface", **declare(eth0(namespace=name)))
    assert {name: addresses(space=name) for name in names} == first


def test_the_recorded_address_stays_whoever_comes_first(lab, converge):
    lab("web", "late", subnets=["10.42.0.0/29"])
    converge("interface", **declare(eth0()))
    mine = addresses()
    command("ip", "link", "delete", end())  # as a reboot
    command("nft", "delete", "table", "inet", "bulkhead")
    others = []
    for number in range(4):
        others.append("x%d/eth0" % number)
        run("namespace", name="x%d" % number, types=["net"])
        converge("interface", **declare(eth0(namespace="x%d" % number)))
    assert mine[0] not in [addresses(space="x%d" % number)[0] for number in range(4)]
    converge("interface", **declare(eth0()))
    assert addresses() == mine
    answer = drive.converge("interface", declare(eth0(namespace="late")))
    assert answer["error"] == ("Cannot give interface late/eth0 an address: all of 10.42.0.0/29 are taken. Give the network lab another "
                               "subnet, or declare addresses.")
    converge("interface", **absent("x0/eth0"))
    converge("interface", **declare(eth0(namespace="late")))
    for number in range(4):
        converge("interface", **absent("x%d/eth0" % number))
        run("namespace", name="x%d" % number, state="absent")


def test_declared_addresses_go_before_given_ones(lab, converge):
    lab("web", "other")
    converge("interface", **declare(eth0()))
    chosen = addresses()[0]
    converge("interface", **absent("web/eth0"))
    converge("interface", **declare(eth0(), eth0(namespace="other", addresses=[chosen])))
    assert addresses(space="other") == [chosen] and chosen not in addresses()


# -- many

def test_fifty_are_one_dump_and_one_transaction(lab, converge, monkeypatch):
    names = ["n%d" % number for number in range(50)]
    lab(*names)
    count = {"dumps": 0, "transactions": 0, "removals": 0}

    def counting(where, name, key, only=lambda *args: True):
        real = getattr(where, name)

        def call(*args, **more):
            count[key] += bool(only(*args, **more))
            return real(*args, **more)
        monkeypatch.setattr(where, name, call)

    counting(nft, "transact", "transactions")
    counting(netlink, "open", "dumps", lambda path=None, *args, **more: path is None)
    counting(netmessages, "delete_group", "removals")
    options = declare(*(eth0(namespace=name) for name in names))
    converge("interface", **options)
    assert count["transactions"] == 1 and count["dumps"] <= 5  # links, ports' entries, …, each once for all
    count.update(dict.fromkeys(count, 0))
    assert not converge("interface", **options)["changed"]
    assert count["transactions"] == 0 and count["dumps"] <= 4
    converge("interface", **absent(*(name + "/eth0" for name in names)))
    assert count["removals"] == 1 and count["transactions"] == 1
    assert links() == ["bh-lab", "lo"]
