# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Interfaces of every type: made, told apart, made anew where the kernel fixes something, moved and moved back, refused by name."""

from __future__ import annotations

import os

import drive
import pytest
from spaces import absent, addresses, command, declare, end, eth0, lab, link, links, run

from module_utils._kernel import built
from module_utils._model.addresses import derived_mac

__all__ = ["lab"]
NEEDS = {"vlan": ("VLAN_8021Q", "8021q"), "ipvlan": ("IPVLAN", "ipvlan"), "dummy": ("DUMMY", "dummy"), "wireguard": ("WIREGUARD", "wireguard")}


@pytest.fixture
def wire():
    """A device of the host that stands for its network card: one end of a veth, the other in a namespace of its own."""
    command("ip", "netns", "add", "outside")
    command("ip", "link", "add", "card", "address", "02:00:00:00:0c:01", "mtu", "1480", "type", "veth", "peer", "name", "far", "netns", "outside")
    command("ip", "link", "set", "card", "up")
    command("ip", "link", "set", "far", "up", space="outside")
    command("ip", "address", "add", "192.0.2.1/24", "dev", "far", space="outside")
    yield "card"
    command("ip", "link", "delete", "far", space="outside")  # at once, and card with it, wherever it is by then
    command("ip", "netns", "delete", "outside")
    assert link("card") is None


@pytest.fixture
def space():
    """The namespace web, without any network."""
    run("namespace", name="web", types=["net"])
    yield "web"
    run("interface", interfaces=[], purge=True)
    run("namespace", name="web", state="absent")
    assert drive.new_host().claims.names("interface") == []


def reaches(address, space="web"):
    """Is there an answer to ARP for this address?"""
    command("bash", "-c", "exec 3>/dev/udp/%s/9; echo x >&3; for i in {1..50}; do ip neigh show %s | grep -q lladdr && exit; sleep .02; done; exit 1"
            % (address, address), space=space)
    return True


def one(kind, **options):
    return declare(dict({"namespace": "web", "name": "eth0", "type": kind}, **options))


MACVLAN = dict(parent="card", addresses=["192.0.2.7/24"], routes=[{"via": "192.0.2.1"}])
VXLAN = dict(vni=7, remote="192.0.2.9", parent="card", addresses=["10.7.0.1/24"])
TYPES = {
    "macvlan": MACVLAN, "vxlan": VXLAN, "tap": dict(addresses=["10.7.0.1/24"], mac="02:00:00:00:00:07", mtu=1400),
    "ipvlan": dict(MACVLAN, mode="l2"), "vlan": dict(parent="card", vlan_id=7, addresses=["10.7.0.1/24"]), "dummy": dict(addresses=["10.7.0.1/24"]),
}


@pytest.fixture
def crowded():
    """A host that has a link of the same name as the interface, and of any number that a new namespace could give."""
    for name in ("eth0", "pair1", "pair3", "pair5", "pair7"):
        command("ip", "link", "add", name, "type", "veth", "peer", "name", name + "x")
    yield
    for name in ("eth0", "pair1", "pair3", "pair5", "pair7"):
        command("ip", "link", "delete", name)


@pytest.mark.parametrize("kind", ["macvlan", "vxlan"])
def test_names_and_numbers_of_the_host_are_in_nobodys_way(space, crowded, wire, kind, full_cycle):
    full_cycle("interface", one(kind, **TYPES[kind]), absent("web/eth0"))
    full_cycle("interface", one(kind, **TYPES[kind]), absent("web/eth0"))


def test_a_link_that_a_killed_run_has_not_named_yet_is_found(space, wire, converge):
    stray = ["ip", "link", "add", end(), "link", "card", "netns", "web", "type", "macvlan"]
    for options in (one("macvlan", **MACVLAN), absent("web/eth0")):
        command(*stray)
        assert converge("interface", check=True, **options)["actions"] == converge("interface", **options)["actions"]
        assert end() not in links("web") and not converge("interface", **options)["changed"]


@pytest.mark.parametrize("kind", list(TYPES))
def test_each_type_is_made_and_removed_or_refused_by_name(space, wire, kind, full_cycle, refuse, converge):
    options = one(kind, **TYPES[kind])
    if kind in NEEDS and built.lacks(*NEEDS[kind]):
        message = refuse("interface", **options)
        assert message.startswith("Cannot create interface web/eth0: the kernel has no type %s. Install a kernel with the module %s (CONFIG_%s)" % (
            kind, NEEDS[kind][1], NEEDS[kind][0]))
        assert refuse("interface", check=True, **options) == message and links("web") == ["lo"]
        return
    full_cycle("interface", options, absent("web/eth0"))
    converge("interface", **options)
    shown = drive.info("interface", namespace="web")["interfaces"]
    assert [(each["type"], each["addresses"], each["owned"]) for each in shown] == [(kind, TYPES[kind]["addresses"], True)]
    assert shown[0].get("parent") == TYPES[kind].get("parent")
    command("ip", "address", "flush", "dev", "eth0", space="web")
    assert converge("interface", **options)["changed"] and addresses() == TYPES[kind]["addresses"]
    assert not converge("interface", **options)["changed"]


def test_a_veth_on_a_bridge_of_somebody_else(space, full_cycle, converge):
    command("ip", "link", "add", "br9", "type", "bridge")
    command("ip", "link", "set", "br9", "up")
    command("ip", "address", "add", "10.9.0.1/24", "dev", "br9")
    try:
        options = one("veth", bridge="br9", addresses=["10.9.0.7/24"], routes=[{"via": "10.9.0.1"}])
        full_cycle("interface", options, absent("web/eth0"))
        converge("interface", **options)
        assert link(end())["master"] == "br9" and reaches("10.9.0.1")
        command("ip", "link", "add", "br8", "type", "bridge")
        assert converge("interface", **one("veth", bridge="br8"))["actions"] == ["put web/eth0 on bridge br8"]
        assert addresses() == ["10.9.0.7/24"]  # only what a task names is compared
    finally:
        for name in ("br8", "br9"):
            command("bash", "-c", "ip link delete %s 2>/dev/null || true" % name)


def test_a_macvlan_reaches_the_network_of_its_parent(space, wire, converge):
    converge("interface", **one("macvlan", **MACVLAN))
    assert reaches("192.0.2.1")
    made = link("eth0", "web")
    assert made["linkinfo"]["info_data"]["mode"] == "bridge"
    assert made["address"] != derived_mac("web/eth0")  # which is also that of another host's web/eth0, on the same segment
    converge("interface", **dict(one("macvlan", **dict(MACVLAN, mode="private")), on_mismatch="recreate"))
    assert link("eth0", "web")["address"] == made["address"]


def test_a_vxlan_has_its_underlay_on_the_host(space, wire, converge):
    converge("interface", **one("vxlan", **VXLAN))
    data = link("eth0", "web")["linkinfo"]["info_data"]
    assert (data["id"], data["remote"], data["port"]) == (7, "192.0.2.9", 4789)
    changed = dict(VXLAN)
    changed["remote"] = "192.0.2.10"
    assert converge("interface", **one("vxlan", **changed))["actions"] == ["set remote of web/eth0"]
    assert not converge("interface", **one("vxlan", **changed))["changed"]


def test_a_tap_stays_without_a_process(space, converge):
    converge("interface", **one("tap", **TYPES["tap"]))
    shown = link("eth0", "web")
    assert (shown["linkinfo"]["info_kind"], shown["linkinfo"]["info_data"]["type"]) == ("tun", "tap")
    assert (shown["address"], shown["mtu"]) == ("02:00:00:00:00:07", 1400)


FIXED = [("macvlan", MACVLAN, "mode", "private"), ("macvlan", MACVLAN, "parent", "other"), ("vxlan", VXLAN, "vni", 8), ("vxlan", VXLAN, "port", 8472)]


@pytest.mark.parametrize("kind, first, key, value", FIXED)
def test_what_the_kernel_fixes_is_refused_or_made_anew(space, wire, kind, first, key, value, refuse, converge):
    command("ip", "link", "add", "other", "type", "bridge")
    try:
        converge("interface", **one(kind, **first))
        before = link("eth0", "web")["ifindex"]
        changed = one(kind, **dict(first, **{key: value}))
        assert refuse("interface", **changed).startswith("Cannot change %s of interface web/eth0: the kernel fixes it when it is made" % key)
        assert link("eth0", "web")["ifindex"] == before
        changed["on_mismatch"] = "recreate"
        assert converge("interface", check=True, **changed)["actions"] == converge("interface", **changed)["actions"] == [
            "remove interface web/eth0", "create interface web/eth0"]
        assert not converge("interface", **changed)["changed"] and addresses() == first["addresses"]
    finally:
        converge("interface", **absent("web/eth0"))
        command("ip", "link", "delete", "other")


def test_the_type_changes_by_making_it_anew(lab, wire, refuse, converge):
    lab("web")
    converge("interface", **declare(eth0()))
    options = dict(one("macvlan", **MACVLAN), on_mismatch="recreate")
    assert "Cannot change type of interface web/eth0" in refuse("interface", **one("macvlan", **MACVLAN))
    done = converge("interface", **options)
    assert done["actions"] == ["remove rules of web/eth0", "remove interface web/eth0", "create interface web/eth0", "remove names of web"]
    assert link(end()) is None and reaches("192.0.2.1") and not converge("interface", **options)["changed"]
    assert converge("interface", **declare(eth0(), on_mismatch="recreate"))["changed"] and link(end()) is not None


# -- devices of the host

DEVICE = dict(device="card", addresses=["192.0.2.7/24"])


def card():
    shown = link("card")
    return shown and {"address": shown["address"], "mtu": shown["mtu"], "up": "UP" in shown["flags"]}


def test_a_device_is_moved_in_and_back_as_it_was(space, wire, full_cycle, converge):
    before = card()
    full_cycle("interface", one("device", **DEVICE), absent("web/eth0"))
    assert card() == before
    assert converge("interface", **one("device", mac="02:00:00:00:00:99", mtu=1300, **DEVICE))["actions"] == ["move card to web/eth0"]
    assert links() == ["lo"] and reaches("192.0.2.1") and link("eth0", "web")["address"] == "02:00:00:00:00:99"
    shown = drive.info("interface", namespace="web")["interfaces"][0]
    assert (shown["type"], shown["device"]) == ("device", "card")
    assert converge("interface", **absent("web/eth0"))["actions"] == ["move web/eth0 back to the host"]
    assert card() == before and links("web") == ["lo"]


def test_a_namespace_with_a_device_of_the_host_is_not_removed(space, wire, refuse, converge):
    converge("interface", **one("device", **DEVICE))
    for options in (dict(state="absent"), dict(state="absent", types=["net"], kill=True)):
        assert refuse("namespace", name="web", **options) == (
            "Cannot remove net of namespaces web: the device card of the host is in it, as web/eth0. Remove that interface first, which moves it back.")
    assert addresses() == ["192.0.2.7/24"]
    converge("interface", **absent("web/eth0"))
    assert card() and not converge("namespace", check=True, name="web", types=["net"])["changed"]


def test_a_device_that_is_an_end_itself_leaves_its_other_end_alone(space, converge, full_cycle):
    command("ip", "link", "add", "card", "type", "veth", "peer", "name", "wire")
    try:
        full_cycle("interface", one("device", **DEVICE), absent("web/eth0"))
        converge("interface", **one("device", **DEVICE))
        assert drive.info("interface", namespace="web")["interfaces"][0]["owned"] is True
        converge("interface", interfaces=[], purge=True)
        assert links() == ["card", "lo", "wire"]
    finally:
        converge("interface", **absent("web/eth0"))
        command("ip", "link", "delete", "wire")


def test_a_device_that_the_host_uses_is_not_taken(space, wire, refuse, converge):
    command("ip", "address", "add", "192.0.2.8/24", "dev", "card")
    command("ip", "route", "add", "default", "via", "192.0.2.1")
    message = refuse("interface", **one("device", **DEVICE))
    assert message == ("Cannot move device card to web/eth0: the host uses it, it has 192.0.2.8/24, a default route. Take that away, or set "
                       "force: true to move it all the same.")
    assert card() and "the host has no network device of that name" in refuse("interface", **one("device", device="nothing"))
    assert converge("interface", force=True, **one("device", **DEVICE))["changed"]


def test_a_device_whose_old_name_is_taken_stays_where_it_is(space, wire, refuse, converge):
    converge("interface", **one("device", **DEVICE))
    command("ip", "link", "add", "card", "type", "bridge")
    message = refuse("interface", **absent("web/eth0"))
    assert message == ("Cannot move device card back from web/eth0: the host has another device of that name by now. Rename that one.")
    assert addresses() == ["192.0.2.7/24"]
    command("ip", "link", "delete", "card")
    assert converge("interface", **absent("web/eth0"))["changed"] and card()


def test_a_move_that_fails_half_way_brings_the_device_home(space, wire, refuse):
    before = card()
    message = refuse("interface", **one("device", routes=[{"to": "10.0.0.0/8", "via": "203.0.113.1"}], **DEVICE))
    assert message.startswith("Cannot move card to web/eth0: the kernel would not add the route 10.0.0.0/8 via 203.0.113.1")
    assert card() == before and links("web") == ["lo"] and drive.new_host().claims.names("interface") == []


def test_where_a_device_is_it_is_not_replaced(space, wire, refuse, converge):
    converge("interface", **one("device", **DEVICE))
    message = refuse("interface", on_mismatch="recreate", **one("tap"))
    assert message.startswith("Cannot change type of interface web/eth0: the device card of the host is there. Remove the interface first")
    os.unlink(drive.new_host().claims.path("interface", "web/eth0"))  # the record tells the name as well
    assert converge("interface", **absent("web/eth0"))["actions"] == ["move web/eth0 back to the host"] and card()
