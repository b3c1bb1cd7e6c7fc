# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Networks on this kernel: every option and its change in place, what was changed by hand, what is somebody else's, what is refused."""

from __future__ import annotations

import os
import subprocess

import drive
import pytest
import spaces
from nets import DATA, GONE, LAB, V4, V6, elements, member, show, sysctl, table, tidy, uplink  # noqa: F401  pylint: disable=unused-import
from wires import Server, ask

from module_utils._model.addresses import derived_mac


# -- every state

@pytest.mark.parametrize("options", [
    {}, {"subnets": ["10.42.0.0/24"]}, {"subnets": ["fd00:42::/64"]}, {"subnets": [{"subnet": "10.42.0.0/24", "gateway": "10.42.0.254"}]},
    {"mode": "routed"}, {"inter_sandbox": False}, {"masquerade": False}, {"internal": True}, {"antispoof": False}, {"mtu": 1400}, {"device": "mine"},
    {"host_services": [{"protocol": "tcp", "port": "8000-8010"}, {"protocol": "udp", "port": 53}]},
    {"dns": {"servers": ["192.0.2.53"], "search": ["example.org"]}}, {"uplink": "any"}, {"vlan_filtering": False},
], ids=lambda options: ",".join(options) or "plain")
def test_each_option_from_the_start(full_cycle, options):
    full_cycle("network", dict(LAB, **options), GONE)


def test_what_is_made(converge):
    converge("network", **LAB)
    found = show()
    assert found["subnets"] == V4 + V6 and found["device"] == "bh-lab" and found["up"] and found["owned"] and found["members"] == []
    assert found["mac"] == derived_mac("network lab")
    link = spaces.link("bh-lab")
    assert link["ifalias"] == "bulkhead network lab" and link["linkinfo"]["info_kind"] == "bridge"
    assert [each["local"] for each in spaces.ip("address", "show", "dev", "bh-lab")[0]["addr_info"] if each["scope"] == "global"] == [
        "10.42.0.1", "fd00:42::1"]
    assert not any(each.get("tentative") for each in spaces.ip("address", "show", "dev", "bh-lab")[0]["addr_info"])
    assert sysctl("ipv4/conf/bh-lab/forwarding") == sysctl("ipv6/conf/all/forwarding") == "1"
    # What members send does not steer the host.
    assert sysctl("ipv6/conf/bh-lab/accept_ra") == sysctl("ipv4/conf/bh-lab/accept_redirects") == "0"
    assert elements("bridges") == ['"bh-lab"'] and elements("masquerade") == ['"bh-lab"'] and elements("outward") == ['"bh-lab"']


def test_a_network_of_ipv4_alone_has_no_ipv6(converge):
    converge("network", name="lab", subnets=["10.42.0.0/24"])
    assert sysctl("ipv6/conf/bh-lab/disable_ipv6") == "1" and sysctl("ipv6/conf/all/forwarding") == "0"
    converge("network", **LAB)
    assert sysctl("ipv6/conf/bh-lab/disable_ipv6") == "0" and sysctl("ipv6/conf/all/forwarding") == "1" and show()["subnets"] == V4 + V6
    converge("network", name="lab", subnets=["10.42.0.0/24"])
    assert sysctl("ipv6/conf/bh-lab/disable_ipv6") == "1" and sysctl("ipv6/conf/all/forwarding") == "0" and show()["subnets"] == V4


def test_a_long_name_has_a_short_device(converge):
    name = "a-network-with-a-name-of-many-words"
    try:
        converge("network", name=name, subnets=["10.42.0.0/24"])
        device = show(name)["device"]
        assert device.startswith("bh-") and len(device) == 15 and spaces.link(device)["ifalias"] == "bulkhead network " + name
    finally:
        converge("network", name=name, state="absent")


CHANGES = {
    "mtu": ({"mtu": 1400}, lambda: spaces.link("bh-lab")["mtu"] == 1400),
    "gateway": ({"subnets": [{"subnet": "10.42.0.0/24", "gateway": "10.42.0.254"}, "fd00:42::/64"]},
                lambda: show()["subnets"] == [{"subnet": "10.42.0.0/24", "gateway": "10.42.0.254"}] + V6),
    "one more subnet": ({"subnets": LAB["subnets"] + ["10.44.0.0/16"]}, lambda: len(show()["subnets"]) == 3),
    "other subnets": ({"subnets": ["10.44.0.0/16"]}, lambda: show()["subnets"] == [{"subnet": "10.44.0.0/16", "gateway": "10.44.0.1"}]),
    "device": ({"device": "mine"}, lambda: spaces.link("mine")["ifalias"] == "bulkhead network lab" and elements("bridges") == ['"mine"']),
    "masquerade": ({"masquerade": False}, lambda: not elements("masquerade")),
    "internal": ({"internal": True}, lambda: not elements("outward") and not elements("masquerade")),
    "inter_sandbox": ({"inter_sandbox": False}, lambda: not elements("pairs")),
    "antispoof": ({"antispoof": False}, lambda: not elements("guarded")),
    "mode": ({"mode": "routed"}, lambda: sysctl("ipv4/conf/bh-lab/proxy_arp_pvlan") == sysctl("ipv6/conf/bh-lab/proxy_ndp") == "1"),
    "host_services": ({"host_services": [{"protocol": "tcp", "port": 80}]}, lambda: len(elements("services")) == 1),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_in_place_and_back(converge, change):
    options, there = CHANGES[change]
    converge("network", **LAB)
    index = spaces.link("bh-lab")["ifindex"]
    before = show()
    predicted = converge("network", check=True, **dict(LAB, **options))
    done = converge("network", **dict(LAB, **options))
    assert done["changed"] and (predicted["actions"], predicted["diff"]) == (done["actions"], done["diff"]) and there()
    assert not converge("network", **dict(LAB, **options))["changed"]
    assert spaces.link(show()["device"])["ifindex"] == index
    back = {"device": "bh-lab", "mode": "bridged", "masquerade": True, "internal": False, "inter_sandbox": True, "antispoof": True,
            "host_services": [], "mtu": 1500}
    assert converge("network", **dict(LAB, **{key: back[key] for key in options if key in back}))["changed"]
    assert show() == before and spaces.link("bh-lab")["ifindex"] == index


def test_what_a_task_does_not_name_stays_as_it_was_declared(converge):
    converge("network", masquerade=False, mtu=1400, **LAB)
    assert not converge("network", name="lab")["changed"]
    assert converge("network", name="lab", inter_sandbox=False)["actions"] == ["set rules of lab"]
    assert (show()["mtu"], show()["masquerade"], show()["inter_sandbox"], show()["subnets"]) == (1400, False, False, V4 + V6)


# -- changed by hand

DRIFT = {
    "address removed": "ip addr del 10.42.0.1/24 dev bh-lab",
    "IPv6 address removed": "ip addr del fd00:42::1/64 dev bh-lab",
    "address added": "ip addr add 10.99.0.1/24 dev bh-lab",
    "down": "ip link set bh-lab down",
    "mac": "ip link set bh-lab address 02:00:00:00:00:99",
    "mtu": "ip link set bh-lab mtu 1300",
    "mark": "ip link set bh-lab alias mine",
    "renamed": "ip link set bh-lab down; ip link set bh-lab name other; ip link set other up",
    "removed": "ip link del bh-lab",
    "forwarding": "echo 0 > /proc/sys/net/ipv4/conf/bh-lab/forwarding",
    "advertisements": "echo 2 > /proc/sys/net/ipv6/conf/bh-lab/accept_ra",
    "forwarding of IPv6": "echo 0 > /proc/sys/net/ipv6/conf/all/forwarding",
    "element removed": "nft delete element inet bulkhead outward '{ \"bh-lab\" }'",
    "element added": "nft add element inet bulkhead pairs '{ \"bh-lab\" . \"eth0\" comment \"lab\" }'",
    "set flushed": "nft flush set inet bulkhead guarded",
    "rule removed": "nft flush chain inet bulkhead input",
    "table removed": "nft delete table inet bulkhead",
}


@pytest.mark.parametrize("drift", DRIFT)
def test_what_was_changed_by_hand_is_found_and_mended(converge, drift):
    options = dict(LAB, mtu=1400)
    converge("network", **options)
    before = show()
    rules = table()
    subprocess.run(["sh", "-ec", DRIFT[drift]], check=True)
    predicted = converge("network", check=True, **options)
    done = converge("network", **options)
    assert predicted["changed"] and predicted["actions"] == done["actions"] and predicted["diff"] == done["diff"]
    assert show() == before and table() == rules
    assert (sysctl("ipv4/conf/bh-lab/forwarding"), sysctl("ipv6/conf/all/forwarding"), sysctl("ipv6/conf/bh-lab/accept_ra")) == ("1", "1", "0")
    assert not converge("network", **options)["changed"]


@pytest.mark.parametrize("lost", ["/etc/bulkhead/network.d/lab.json", "/run/bulkhead/made/network/lab.json"])
def test_a_lost_note_loses_no_network(converge, lost):
    converge("network", **LAB)
    os.unlink(lost)
    assert not converge("network", **LAB)["changed"]
    assert converge("network", **GONE)["changed"] and show() is None


# -- somebody else's

def test_a_bridge_of_somebody_else_is_taken_over_by_force_only(converge, refuse):
    spaces.command("ip", "link", "add", "bh-lab", "type", "bridge")
    assert "was made by somebody else" in refuse("network", **LAB)
    assert "was made by somebody else" in refuse("network", **GONE)
    assert spaces.link("bh-lab") and not os.path.exists("/etc/bulkhead/network.d/lab.json")
    predicted = converge("network", check=True, force=True, **LAB)
    assert predicted["actions"] == converge("network", force=True, **LAB)["actions"]
    assert show()["owned"] and show()["subnets"] == V4 + V6 and not converge("network", **LAB)["changed"]


def test_a_device_that_is_no_bridge_is_never_taken(refuse):
    spaces.command("ip", "link", "add", "bh-lab", "type", "veth", "peer", "name", "other")
    for force in (False, True):
        assert "which is no bridge but a veth" in refuse("network", force=force, **LAB)
    assert spaces.link("bh-lab")["linkinfo"]["info_kind"] == "veth"


def test_nothing_of_other_tables_is_touched(converge):
    spaces.command("nft", "add table inet theirs; add chain inet theirs out { type filter hook forward priority 10; policy drop; }")
    try:
        theirs = spaces.command("nft", "list", "table", "inet", "theirs")
        warned = converge("network", **LAB)["warnings"]
        assert any("inet theirs" in text for text in warned), warned
        converge("network", **GONE)
        assert spaces.command("nft", "list", "table", "inet", "theirs") == theirs
    finally:
        spaces.command("nft", "delete", "table", "inet", "theirs")


# -- bad input

BAD = {
    "no subnet": ({"subnets": None}, "has no subnet"),
    "overlap of its own": ({"subnets": ["10.42.0.0/24", "10.42.0.128/25"]}, "have addresses in common"),
    "gateway outside": ({"subnets": [{"subnet": "10.42.0.0/24", "gateway": "10.43.0.1"}]}, "not an address of a host in 10.42.0.0/24"),
    "bits after the prefix": ({"subnets": ["10.42.0.1/24"]}, "The subnet is 10.42.0.0/24"),
    "device of 16 bytes": ({"device": "a-device-of-16-b"}, "longer than the 15 bytes"),
    "device of the host": ({"device": "uplink"}, "which is no bridge but a veth"),
    "uplink not there": ({"uplink": "eth9"}, "there is no device eth9, its uplink"),
    "uplink of an internal one": ({"uplink": "uplink", "internal": True}, "no way out"),
    "its own bridge as uplink": ({"uplink": "bh-lab"}, "own bridge"),
    "a network's bridge as uplink": ({"uplink": "bh-data"}, "the bridge of network data"),
    "overlap with a network": ({"subnets": ["10.43.0.0/16"]}, "overlaps 10.43.0.0/24 of network data"),
    "overlap with an address": ({"subnets": ["203.0.113.0/25"]}, "overlaps 203.0.113.0/24, the address 203.0.113.1/24 of uplink"),
    "overlap with a route": ({"subnets": ["198.51.100.0/24"]}, "overlaps 198.51.0.0/16, a route of the host, by uplink"),
    "bridge of another": ({"device": "bh-data"}, "is that of network data"),
    "vlan_filtering": ({"vlan_filtering": True}, "without vlan_filtering"),
    "mtu below IPv6's": ({"mtu": 1000}, "the 1280 that IPv6 needs"),
    "itself": ({"reaches": ["lab"]}, "reaches itself already"),
    "service": ({"host_services": [{"protocol": "icmp", "port": 0}]}, "2 errors"),
}


@pytest.fixture(scope="module")
def filtering():
    """Has this kernel vlan_filtering after all?"""
    from module_utils._kernel import built

    return not built.lacks("BRIDGE_VLAN_FILTERING")


@pytest.mark.parametrize("bad", BAD)
def test_bad_input_is_refused_before_anything_is_touched(converge, refuse, filtering, bad):
    options, words = BAD[bad]
    uplink()
    spaces.command("ip", "route", "add", "198.51.0.0/16", "via", "203.0.113.2")
    converge("network", **DATA)
    rules = spaces.command("nft", "list", "ruleset")
    options = {key: value for key, value in dict(LAB, **options).items() if value is not None}
    if bad == "vlan_filtering" and filtering:
        converge("network", **options)
        assert show()["vlan_filtering"]
        return
    for check in (True, False):
        assert words in refuse("network", check=check, **options)
    assert show() is None and spaces.command("nft", "list", "ruleset") == rules and not os.path.exists("/etc/bulkhead/network.d/lab.json")


def test_an_overlap_with_the_host_may_be_meant(converge):
    uplink()
    options = {"name": "lab", "subnets": ["203.0.113.128/25"]}
    converge("network", force=True, **options)
    again = converge("network", **options)
    assert not again["changed"] and any("overlaps" in text for text in again["warnings"])


def test_without_nft_the_package_is_named(refuse, converge, monkeypatch):
    from module_utils._kernel import nft

    monkeypatch.setattr(nft, "PLACES", ("/nowhere",))
    assert "nftables" in refuse("network", **LAB)
    assert spaces.link("bh-lab") is None
    assert any("nftables" in text for text in converge("network", check=True, **LAB)["warnings"])


def test_without_pyroute2_the_package_is_named(refuse, converge, monkeypatch):
    """Only what changes something needs it."""
    from module_utils._kernel import _netformat

    converge("network", **DATA)
    with monkeypatch.context() as patch:
        patch.setattr(_netformat, "missing", lambda: "there is no Python module pyroute2")
        assert "python3-pyroute2" in refuse("network", **LAB)
        assert spaces.link("bh-lab") is None and show() is None and show("data")["up"]
        answer = converge("network", check=True, **LAB)
        assert "create bridge bh-lab of network lab" in answer["actions"] and any("python3-pyroute2" in text for text in answer["warnings"])


# -- members

def test_members_keep_a_network_and_its_subnets(converge, refuse):
    converge("network", **LAB)
    member()
    assert "web/eth0 is on it" in refuse("network", **GONE)
    assert "web/eth0 has an address in it" in refuse("network", name="lab", subnets=["10.42.0.0/24"])
    shown = show()["members"]
    assert [each["name"] for each in shown] == ["web/eth0"] and len(shown[0]["addresses"]) == 2 and shown[0]["device"] == spaces.end()
    assert converge("network", force=True, **GONE)["changed"] and show() is None
    assert "master" not in spaces.link(spaces.end())


def test_the_gateway_keeps_its_address_whoever_comes(converge):
    """A bridge left to itself takes on the lowest MAC of its ports."""
    converge("network", **LAB)
    before = show()["mac"]
    spaces.command("ip", "link", "add", "uplink", "address", "00:00:00:00:00:01", "type", "veth", "peer", "name", "other")
    spaces.command("ip", "link", "set", "uplink", "master", "bh-lab")
    member()
    assert show()["mac"] == before and not converge("network", **LAB)["changed"]
    spaces.command("ip", "link", "set", "uplink", "nomaster")


def known(device):
    """The addresses that the host knows members by, whatever they say themselves."""
    return {each["dst"] for each in spaces.ip("neighbour", "show", "nud", "permanent", "dev", device) if not each["dst"].startswith("ff")}


def test_ports_follow_the_network(converge):
    converge("network", **LAB)
    member()
    member("cache")
    end = spaces.end()
    assert not spaces.port("isolated", end)
    done = converge("network", inter_sandbox=False, **LAB)
    assert "set isolated of cache/eth0, web/eth0 of network lab" in done["actions"] and spaces.port("isolated", end)
    spaces.command("ip", "link", "set", end, "type", "bridge_slave", "isolated", "off")
    assert converge("network", **LAB)["actions"] == ["set isolated of web/eth0 of network lab"] and spaces.port("isolated", end)
    assert spaces.port("locked", end)
    assert {each.split("/")[0] for each in spaces.addresses(space="web")} <= known("bh-lab")
    converge("network", antispoof=False, **LAB)
    assert not spaces.port("locked", end) and not known("bh-lab")
    assert not converge("network", **LAB)["changed"]
    converge("network", antispoof=True, **LAB)
    assert spaces.port("locked", end) and len(known("bh-lab")) == 4
    for again in (False, True):
        answer = drive.converge("interface", spaces.declare(spaces.eth0(), spaces.eth0(namespace="cache")))
        assert "error" not in answer and not answer["changed"], answer


def test_a_bridge_that_is_renamed_keeps_its_members(converge):
    converge("network", mode="routed", **LAB)
    member()
    proxies = spaces.ip("-6", "neighbour", "show", "proxy", "dev", "bh-lab")
    before = known("bh-lab")
    converge("network", device="mine", **LAB)
    assert [each["dst"] for each in spaces.ip("-6", "neighbour", "show", "proxy", "dev", "mine")] == [each["dst"] for each in proxies] != []
    assert known("mine") == before and len(before) == 2
    assert not converge("network", **LAB)["changed"] and show()["members"][0]["name"] == "web/eth0"


def test_routed_members_are_answered_for(converge):
    converge("network", mode="bridged", **LAB)
    member()
    member("cache")
    six = next(each for each in spaces.addresses(space="cache") if ":" in each).split("/")[0]
    four = next(each for each in spaces.addresses(space="cache") if "." in each).split("/")[0]
    server = Server("cache", 80)
    try:
        for mode in ("routed", "bridged", "routed"):
            converge("network", mode=mode, **LAB)
            proxies = {each["dst"] for each in spaces.ip("-6", "neighbour", "show", "proxy", "dev", "bh-lab")}
            assert (six in proxies) == (mode == "routed")
            assert [answer is not None for answer in ask("web", ("tcp", four, 80), ("tcp", six, 80))] == [True, True]
            assert not converge("network", **LAB)["changed"]
        spaces.command("ip", "neighbour", "del", "proxy", six, "dev", "bh-lab")
        assert converge("network", **LAB)["actions"] == ["answer for members of network lab"]
    finally:
        server.end()


# -- networks among themselves

def test_reaches_is_one_way_and_does_not_mind_the_order(converge):
    warned = converge("network", reaches=["data"], **LAB)["warnings"]
    assert any("no network data yet" in text for text in warned)
    pair = '{"concat": ["bh-lab", "bh-data"]}'
    assert pair not in elements("pairs")
    assert "set rules of lab" in converge("network", **DATA)["actions"]
    assert pair in elements("pairs") and '{"concat": ["bh-data", "bh-lab"]}' not in elements("pairs", "data")
    assert not converge("network", reaches=["data"], **LAB)["changed"] and not converge("network", **DATA)["changed"]
    converge("network", name="data", state="absent")
    assert pair not in elements("pairs") and not converge("network", **LAB)["changed"]
    converge("network", device="elsewhere", **DATA)
    assert '{"concat": ["bh-lab", "elsewhere"]}' in elements("pairs")


@pytest.mark.parametrize("internal", [False, True])
def test_who_is_reached_answers(converge, internal):
    """Members of an internal network have no route but that to their gateway, and see it instead."""
    converge("network", reaches=["data"], **LAB)
    converge("network", internal=internal, **DATA)
    member()
    assert "error" not in drive.converge("namespace", {"name": "cache", "types": ["net"]})
    converge("interface", **spaces.declare(spaces.eth0(namespace="cache", network="data")))
    web, cache = (next(each for each in spaces.addresses(space=name) if "." in each).split("/")[0] for name in ("web", "cache"))
    server, other = Server("cache", 80), Server("web", 80)
    try:
        assert ask("web", ("tcp", cache, 80), ("udp", cache, 80)) == ["cache " + ("10.43.0.1" if internal else web)] * 2
        assert not any(answer and answer.startswith("web") for answer in ask("cache", ("tcp", web, 80), ("udp", web, 80)))
        converge("network", name="data", internal=not internal)
        assert bool(elements("inward")) == (not internal)
    finally:
        server.end()
        other.end()


def test_the_table_goes_with_the_last_network(converge):
    converge("network", **LAB)
    converge("network", **DATA)
    converge("network", **GONE)
    assert elements("bridges", "data") == ['"bh-data"'] and not elements("bridges")
    converge("network", name="data", state="absent")
    assert "bulkhead" not in spaces.command("nft", "list", "tables")
