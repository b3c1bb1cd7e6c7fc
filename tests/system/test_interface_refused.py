# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Interfaces that cannot be: bad input, what others have, links that are not ours, and what a killed or failed run has left."""

from __future__ import annotations

import os
import socket

import drive
import pytest
from spaces import absent, addresses, command, declare, end, eth0, ip, lab, link, links, routes, run

from module_utils._kernel import netlink

__all__ = ["lab"]


def everything():
    """What is on the host and in the namespace, to see that it stays as it is."""
    shown = [[{key: each.get(key) for key in ("ifname", "mtu", "address", "master", "ifalias", "group")} for each in ip("link", space=space)] +
             [(each["local"], each["prefixlen"]) for entry in ip("address", space=space) for each in entry["addr_info"]
              if each["scope"] != "link"] for space in (None, "web")]
    files = [os.path.join(where, name) for top in ("/etc/bulkhead", "/run/bulkhead/made") for where, unused, names in os.walk(top) for name in names]
    return shown, command("nft", "list", "ruleset"), sorted(files)


BAD = [
    (eth0(name="sixteen-bytes-xx"), "interfaces[0].name: 'sixteen-bytes-xx' is longer than the 15 bytes that a network device's name can have"),
    (eth0(name="a/b"), "interfaces[0].name: 'a/b' is not the name of a network device"),
    (eth0(name="lo"), "interfaces[0].name: 'lo' is not the name of a network device"),
    (eth0(namespace="../web"), "interfaces[0].namespace: '../web' is not a name"),
    ({"namespace": "web", "name": "eth0"}, "interfaces[0].network: is missing: name a network, or a bridge"),
    (eth0(bridge="br0"), "interfaces[0].network: an end is on one bridge: give network or bridge"),
    (eth0(parent="card"), "interfaces[0].parent: belongs to the types macvlan, ipvlan, vlan, vxlan, and this is of type veth"),
    (eth0(type="token-ring"), "interfaces[0].type: 'token-ring' is not one of veth, macvlan"),
    ({"namespace": "web", "name": "eth0", "type": "vlan", "parent": "card"}, "interfaces[0].vlan_id: is missing: an interface of type vlan needs it"),
    (eth0(speed=9), "interfaces[0].speed: there is no such option"),
    (eth0(mac="03:00:00:00:00:01"), "interfaces[0].mac: 03:00:00:00:00:01 is not the address of one card"),
    (eth0(addresses=["10.42.0.7"]), "interfaces[0].addresses[0]: '10.42.0.7' is not an address with a prefix length"),
    (eth0(addresses=["10.42.0.0/24"]), "interfaces[0].addresses[0]: 10.42.0.0/24 is the own address of its subnet"),
    (eth0(addresses=["10.42.0.7/24", "10.42.0.7/16"]), "interfaces[0].addresses[1]: the address is declared twice"),
    (eth0(mtu=1000, addresses=["fd00:42::7/64"]), "interfaces[0].mtu: is less than 1280, which IPv6 needs"),
    (eth0(routes=[{"to": "10.0.0.0/8", "via": "fd00::1"}]), "interfaces[0].routes[0]: has IPv4 and IPv6 in one route"),
    (eth0(routes=[{"to": "10.0.0.0/8"}, {"to": "10.0.0.0/8", "via": "10.42.0.9"}]), "interfaces[0].routes[1]: the route is declared twice"),
    (eth0(rules=[{"from": "10.0.0.0/8"}]), "interfaces[0].rules[0].table: is missing"),
    (eth0(neighbours=[{"address": "10.42.0.9"}]), "interfaces[0].neighbours[0].mac: is missing"),
    (eth0(sysctls={"../../../kernel/hostname": "x"}), "interfaces[0].sysctls.../../../kernel/hostname: is not a sysctl of an interface"),
    (eth0(bandwidth={"transmit": "fast"}), "interfaces[0].bandwidth.transmit.rate: 'fast' is not a rate"),
    (eth0(bandwidth={"transmit": {"jitter": "1ms", "rate": "1mbit"}}), "interfaces[0].bandwidth.transmit.jitter: is of a delay, and there is none"),
    (eth0(publish=["80:8000-8001"]), "interfaces[0].publish[0]: the ranges 80 and 8000-8001 are not of one length"),
    (eth0(publish=["1-2000:1-2000"]), "interfaces[0].publish[0]: has more than 1024 ports"),
    (eth0(publish=["[::1]:80:80"]), "interfaces[0].publish[0]: IPv6 has no way from ::1 into a namespace"),
    (eth0(publish=["70000:80"]), "interfaces[0].publish[0].host_port: 70000 is not within 1 and 65535"),
    (eth0(egress={"policy": "allow", "allow": [{"to": "10.0.0.0/8"}]}), "interfaces[0].egress.allow: is for the policy deny"),
    (eth0(egress={"allow": [{"to": "default"}]}), "interfaces[0].egress.allow[0].to: name the families: 0.0.0.0/0, ::/0"),
]


@pytest.mark.parametrize("entry, message", BAD, ids=[message.split(": ")[0] + str(number) for number, (entry, message) in enumerate(BAD)])
def test_bad_input_is_told_with_its_place(refuse, entry, message):
    assert refuse("interface", **declare(entry)).startswith("Cannot use the options: " + message)


def test_all_errors_come_at_once(refuse):
    message = refuse("interface", **declare(eth0(mtu="big"), eth0(addresses=["x"]), eth0(namespace="b", name="e" * 16)))
    assert message.startswith("Cannot use the options: 4 errors: interfaces[0].mtu: 'big' is not a whole number; interfaces[1].addresses[0]: ")
    assert "interfaces[1].key" not in message and "interfaces[1].name: web/eth0 is declared twice (also interfaces[0])" in message


TWICE = [
    (dict(addresses=["10.42.0.7/24"]), dict(addresses=["10.42.0.7/24"]), "interfaces[1].addresses: 10.42.0.7 is the address of two interfaces"),
    (dict(mac="02:00:00:00:00:07"), dict(mac="02:00:00:00:00:07"), "interfaces[1].mac: 02:00:00:00:00:07 is the MAC of two interfaces"),
    (dict(publish=["8080:80"]), dict(publish=["8079-8081:79-81"]), "interfaces[1].publish: tcp port 8080 of the host is published twice"),
    (dict(publish=["8080:80"]), dict(publish=["127.0.0.1:8080:80"]), "interfaces[1].publish: tcp port 8080 of the host is published twice"),
]


@pytest.mark.parametrize("one, other, message", TWICE)
def test_what_two_of_a_task_cannot_both_have(refuse, one, other, message):
    assert message in refuse("interface", **declare(eth0(**one), eth0(namespace="other", **other)))


def test_what_is_missing_is_told_before_anything_is_touched(lab, refuse):
    lab("web")
    command("ip", "link", "add", "wire", "type", "veth", "peer", "name", "other", "netns", "web")
    before = everything()
    for entry, message in [
            (eth0(namespace="nobody"), "Cannot create interface nobody/eth0: there is no net namespace nobody. Make it first, with the module namespace."),
            (eth0(network="nolab"), "Cannot create interface web/eth0: there is no network nolab. Make it first, with the module network."),
            (dict(namespace="web", name="eth0", bridge="nobr"), "Cannot create interface web/eth0: there is no bridge nobr. Make it first."),
            (dict(namespace="web", name="eth0", bridge="wire"), "Cannot create interface web/eth0: wire is no bridge. Name one."),
            (dict(namespace="web", name="eth0", type="macvlan", parent="nocard"),
             "Cannot create interface web/eth0: the host has no network device nocard. Make it first, or name another."),
            (eth0(addresses=["10.43.0.7/24"]), "Cannot give 10.43.0.7/24 to interface web/eth0: it lies in no subnet of network lab "
                                               "(10.42.0.0/24, fd00:42::/64). Use an address of these."),
            (eth0(addresses=["10.42.0.1/24"]), "Cannot give 10.42.0.1/24 to interface web/eth0: it is the gateway of network lab. Use another one."),
            (eth0(egress={"policy": "deny"}), "Cannot deny what interface web/eth0 may send: members of network lab reach each other past the "
                                              "host's rules. Set mode: routed of that network."),
            (eth0(publish=["8080:80"], addresses=[]), "Cannot publish port 8080 of web/eth0: it has no IPv4 or IPv6 address. Give it one, or "
                                                      "publish it on another address of the host."),
    ]:
        assert refuse("interface", **declare(entry)).startswith(message)
        assert everything() == before
    command("ip", "link", "delete", "wire")


def test_what_another_has_is_refused_with_its_name(lab, refuse, converge):
    lab("web", "other")
    converge("interface", **declare(eth0(namespace="other", addresses=["10.42.0.7/24"], mac="02:00:00:00:00:07", publish=["8080:80"])))
    before = everything()
    for changes, message in [
            (dict(addresses=["10.42.0.7/24"]), "Cannot give 10.42.0.7 to web/eth0: other/eth0 has it."),
            (dict(mac="02:00:00:00:00:07"), "Cannot give 02:00:00:00:00:07 to web/eth0: other/eth0 has it."),
            (dict(publish=["127.0.0.1:8080:80"]), "Cannot publish port 8080/tcp for web/eth0: it is published for other/eth0.")]:
        assert refuse("interface", **declare(eth0(**changes))).startswith(message)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 8081))
        listening.listen()
        message = refuse("interface", **declare(eth0(publish=["8081:80"])))
        assert message.startswith("Cannot publish port 8081/tcp for web/eth0: ") and "(pid %d) listens on it." % os.getpid() in message
    assert everything() == before
    # In one task one can take what the other gives up.
    done = converge("interface", **declare(eth0(addresses=["10.42.0.7/24"]), eth0(namespace="other", addresses=["10.42.0.8/24"])))
    assert done["changed"] and addresses() == ["10.42.0.7/24"] and addresses(space="other") == ["10.42.0.8/24"]


def test_one_that_fails_does_not_keep_the_others_from_being_made(lab):
    lab("web", "other")
    answer = drive.converge("interface", declare(eth0(routes=[{"to": "10.0.0.0/8", "via": "203.0.113.1"}]), eth0(namespace="other")))
    assert answer["error"].startswith("Cannot create interface web/eth0: the kernel would not add the route 10.0.0.0/8 via 203.0.113.1: ")
    assert "Undone: " in answer["error"] and "set rules of web/eth0" in answer["error"]
    assert answer["keys"]["web/eth0"]["failed_step"] == "create interface web/eth0"
    assert links("web") == ["lo"] and links("other") == ["eth0", "lo"] and link(end()) is None
    assert "web/eth0" not in command("nft", "list", "ruleset") and drive.new_host().claims.names("interface") == ["other/eth0"]


def test_a_change_that_fails_is_taken_back(lab, refuse, converge):
    lab("web")
    converge("interface", **declare(eth0(addresses=["10.42.0.7/24"], mtu=1400)))
    before = everything()
    message = refuse("interface", **declare(eth0(addresses=["10.42.0.8/24"], mtu=1300, publish=["80:80"], bandwidth={"transmit": "1mbit", "receive": "1mbit"},
                                                 routes=[{"to": "10.9.0.0/16", "via": "10.42.0.9"}, {"to": "10.0.0.0/8", "via": "203.0.113.1"}])))
    assert message.startswith("Cannot add route 10.0.0.0/8 via 203.0.113.1 of web/eth0: the kernel would not add the route")
    assert "Undone: " in message and "Could not undo" not in message
    assert everything() == before and addresses() == ["10.42.0.7/24"] and link("eth0", "web")["mtu"] == link(end())["mtu"] == 1400
    assert routes() == {"default": "10.42.0.1"} and "tbf" not in command("tc", "qdisc", space="web") + command("tc", "qdisc")


def test_in_check_mode_what_an_earlier_task_may_make_is_a_warning(lab, converge):
    lab("web")
    predicted = converge("interface", check=True, **declare(eth0(network="nolab"), eth0(namespace="nobody")))
    assert predicted["actions"] == ["create interface web/eth0", "set rules of nobody/eth0", "create interface nobody/eth0", "write names of nobody"]
    assert [text.partition(": ")[2] for text in predicted["warnings"]] == [
        "there is no network nolab. Make it first, with the module network. An earlier task is expected to do so.",
        "there is no net namespace nobody. Make it first, with the module namespace. An earlier task is expected to do so."]
    converge("interface", **declare(eth0()))
    assert converge("interface", check=True, **declare(eth0(network="nolab")))["actions"] == ["put web/eth0 on the bridge of network nolab"]
    assert link(end())["master"] == "bh-lab" and len(addresses()) == 2


# -- links that are not ours

def test_a_link_of_somebody_else_is_left_alone_unless_forced(lab, refuse, converge):
    lab("web")
    command("ip", "link", "add", "theirs", "type", "veth", "peer", "name", "eth0", "netns", "web")
    command("ip", "link", "set", "theirs", "master", "bh-lab", "up")
    command("ip", "link", "set", "eth0", "up", space="web")
    bridged = dict(namespace="web", name="eth0", bridge="bh-lab")
    assert not converge("interface", **declare(bridged))["changed"] and not converge("interface", check=True, **declare(bridged))["changed"]
    assert drive.info("interface", namespace="web")["interfaces"][0]["owned"] is False
    message = "Cannot change interface web/eth0: it was made by somebody else. Set force: true to change it all the same, or use another name."
    assert refuse("interface", **declare(dict(bridged, addresses=["10.42.0.9/24"]))) == message == refuse("interface", **declare(eth0()))
    assert refuse("interface", **absent("web/eth0")) == (
        "Cannot remove interface web/eth0: it was made by somebody else. Set force: true to remove it all the same.")
    assert link("theirs") and addresses() == []
    assert converge("interface", force=True, **declare(eth0()))["changed"] and not converge("interface", **declare(eth0()))["changed"]
    assert converge("interface", force=True, **absent("web/eth0"))["changed"] and link("theirs") is None


# -- what a killed run, or a hand, has left

def leftover_end_alone():
    command("ip", "link", "add", end(), "type", "veth", "peer", "name", "lost", "netns", "other")


def leftover_peer_on_the_host():
    command("ip", "link", "add", end(), "type", "veth", "peer", "name", "lost")


def leftover_without_mark():
    command("ip", "link", "add", end(), "type", "veth", "peer", "name", "eth0", "netns", "web")


def leftover_going():
    leftover_without_mark()
    command("ip", "link", "set", end(), "group", str(0x62680001))


@pytest.mark.parametrize("leave", [leftover_end_alone, leftover_peer_on_the_host, leftover_without_mark, leftover_going])
@pytest.mark.parametrize("state", ["present", "absent"])
def test_a_half_made_link_is_found_by_its_name(lab, converge, leave, state):
    lab("web", "other")
    leave()
    options = declare(eth0()) if state == "present" else absent("web/eth0")
    assert converge("interface", check=True, **options)["actions"] == converge("interface", **options)["actions"] != []
    assert not converge("interface", **options)["changed"]
    assert links("other") == ["lo"] and ("lost" not in links()) and (link(end()) is not None) == (state == "present")
    if state == "present":
        assert len(addresses()) == 2 and link(end())["ifalias"] == "bulkhead web/eth0"


def test_a_run_that_is_killed_before_the_addresses_is_gone_on_with(lab, converge, monkeypatch):
    lab("web")
    options = declare(eth0(publish=["8080:80"]), dict(namespace="web", name="eth1", type="macvlan", parent="bh-lab"))
    real = netlink.Net.send

    class Killed(BaseException):
        pass

    def send(net, messages):
        if any(message.kind == "address" for message in messages):
            raise Killed
        return real(net, messages)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(netlink.Net, "send", send)
        converge("interface", **options)
    assert links("web") == [end(name="eth1"), "eth0", "lo"]  # the second has no name yet
    done = converge("interface", **options)
    assert "add address" in " ".join(done["actions"]) and "create interface web/eth0" not in done["actions"]
    assert done["actions"][-2:] == ["remove what is left of interface web/eth1", "create interface web/eth1"]
    assert not converge("interface", **options)["changed"] and len(addresses()) == 2


def test_lost_claims_and_lost_records_cost_nothing(lab, converge):
    lab("web")
    options = declare(eth0(), dict(namespace="web", name="eth1", type="macvlan", parent="bh-lab", mode="private"))
    converge("interface", **options)
    kept = addresses()
    host = drive.new_host()
    for key in host.claims.names("interface"):
        host.claims.drop("interface", key)
    assert not converge("interface", **options)["changed"]
    for noun in ("interface", "allocation"):
        for key in host.records.names(noun):
            host.records.drop(noun, key)
    assert not converge("interface", **dict(options, interfaces=options["interfaces"][:1]))["changed"] and addresses() == kept
    assert converge("interface", force=True, **absent("web/eth0", "web/eth1"))["changed"] and links("web") == ["lo"]


def test_an_interface_goes_with_its_namespace_and_comes_again(lab, converge):
    lab("web")
    converge("interface", **declare(eth0()))
    before = addresses(), ip("link", "show", "dev", "eth0", space="web")[0]["address"]
    run("namespace", name="web", state="absent")
    assert converge("interface", check=True, **absent("web/eth0"))["changed"]
    run("namespace", name="web", types=["net"])
    assert "create interface web/eth0" in converge("interface", **declare(eth0()))["actions"]
    assert (addresses(), ip("link", "show", "dev", "eth0", space="web")[0]["address"]) == before


def test_purge_takes_what_is_not_declared_any_more(lab, converge):
    lab("web", "other")
    converge("interface", **declare(eth0(), eth0(namespace="other")))
    options = dict(declare(eth0()), purge=True)
    assert converge("interface", check=True, **options)["actions"] == converge("interface", **options)["actions"]
    assert links("other") == ["lo"] and links("web") == ["eth0", "lo"] and not converge("interface", **options)["changed"]
