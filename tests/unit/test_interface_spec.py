# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is declared of interfaces: the forms of each option, defaults, what is of a sandbox, and what the parsers bear."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ansible_collections.bulkhead.isolation.plugins.module_utils._model import interface as model
from ansible_collections.bulkhead.isolation.plugins.module_utils._model import interface_parts as parts
from ansible_collections.bulkhead.isolation.plugins.module_utils._model.errors import Problems

ETH0 = {"namespace": "web", "name": "eth0", "network": "lab"}


def parse(*entries, **options):
    problems = Problems()
    specs = model.parse(dict(interfaces=list(entries), **options), "", problems)
    return specs, problems.errors


def one(**changes):
    """The Spec of ETH0 with changes, which must be good."""
    specs, errors = parse(dict(ETH0, **changes))
    assert errors == []
    return specs[0]


def part(parser, value):
    problems = Problems()
    return parser(value, "it", problems), problems.errors


def test_the_end_on_the_host_is_named_the_same_for_the_same_interface():
    assert model.host_end("web/eth0") == "bhc31442689273" == model.host_end(one().key) != model.host_end("web/eth1")
    assert all(len(model.host_end("n/%d" % number)) <= 15 for number in range(50))


def test_only_what_is_named_is_declared():
    spec = one()
    assert spec.options == {"network": "lab"} and (spec.type, spec.up, spec.state, spec.on_mismatch) == ("veth", True, "present", "fail")
    assert all(getattr(spec, key) is None for key in ("mac", "mtu", "addresses", "routes", "rules", "neighbours", "sysctls", "bandwidth", "publish"))


def test_defaults_are_merged_by_key_and_the_rules_of_the_task_hold_for_all():
    specs, errors = parse({"namespace": "web", "name": "eth0", "bandwidth": {"receive": "2mbit"}, "mtu": None},
                          {"namespace": "db", "name": "eth0", "force": False},
                          defaults={"network": "lab", "bandwidth": {"transmit": "1mbit"}, "mtu": 1400}, force=True, on_mismatch="recreate")
    assert errors == []
    assert sorted(specs[0].bandwidth) == ["receive", "transmit"] and sorted(specs[1].bandwidth) == ["transmit"]
    assert [(spec.force, spec.on_mismatch, spec.mtu) for spec in specs] == [(True, "recreate", 1400), (False, "recreate", 1400)]
    assert parse(dict(ETH0), defaults={"state": "absent"})[1] == ["defaults.state: there is no such option"]


def test_the_network_of_a_sandbox_is_its_eth0():
    problems = Problems()
    specs = model.of_sandbox({"network": "lab", "interfaces": [{"name": "eth1", "type": "dummy"}]}, "s", problems, "web")
    assert [(spec.key, spec.type, spec.network, spec.exact) for spec in specs] == [("web/eth0", "veth", "lab", True), ("web/eth1", "dummy", None, True)]
    specs = model.of_sandbox({"network": {"name": "lab", "publish": [80]}}, "s", problems, "web")
    assert specs[0].network == "lab" and specs[0].publish[0]["port"] == (80, 80) and problems.errors == []
    model.of_sandbox({"network": {"name": "lab", "type": "macvlan"}, "interfaces": [{"name": "eth0", "namespace": "other", "network": "lab"}]},
                     "s", problems, "web")
    assert problems.errors == ["s.network: is of type veth, and its name is the network's: leave out network and type",
                               "s.interfaces[0].namespace: there is no such option. Did you mean name?"]


def test_what_was_recorded_is_read_again_as_it_was():
    full = one(addresses=["10.42.0.7/24"], publish=["8080:80"], routes=[{"via": "10.42.0.1"}], bandwidth={"transmit": "1mbit"})
    again = model.InterfaceSpec.recorded(full.key, full.options)
    for key in ("key", "type", "network", "addresses", "publish", "routes", "bandwidth"):
        assert getattr(again, key) == getattr(full, key)
    full.drop(dict(full.options))
    assert full.former is not full and full.former.addresses == full.addresses
    full.drop({"network": "lab", "mtu": 1300})
    assert full.former.mtu == 1300 and full.former.addresses is None
    full.drop(None)
    assert full.former is None
    gone = model.InterfaceSpec.absent("web/eth0")
    assert (gone.namespace, gone.name, gone.state) == ("web", "eth0", "absent")


def test_a_port_for_all_addresses_is_taken_for_each():
    assert parse(dict(ETH0, publish=["80:80", "127.0.0.1:81:80", "10.0.0.1:81:80"]), dict(ETH0, namespace="db", publish=["81:80/udp"]))[1] == []
    for other in ("81:1", "0.0.0.0:81:1", "127.0.0.1:81:1", "80-90:80-90"):
        errors = parse(dict(ETH0, publish=["127.0.0.1:81:80"]), dict(ETH0, namespace="db", publish=[other]))[1]
        assert errors == ["interfaces[1].publish: tcp port 81 of the host is published twice (also interfaces[0])"]


PUBLISHED = {
    "8080:80": (None, (8080, 8080), (80, 80), "tcp"), 80: (None, (80, 80), (80, 80), "tcp"), "53:53/udp": (None, (53, 53), (53, 53), "udp"),
    "127.0.0.1:8080:80": ("127.0.0.1", (8080, 8080), (80, 80), "tcp"), "[fd00::1]:80:81/udp": ("fd00::1", (80, 80), (81, 81), "udp"),
    "8000-8010:9000-9010": (None, (8000, 8010), (9000, 9010), "tcp"),
}


@pytest.mark.parametrize("value", list(PUBLISHED))
def test_forms_of_published_ports(value):
    address, host_port, port, protocol = PUBLISHED[value]
    wanted = {"host_address": address, "host_port": host_port, "port": port, "protocol": protocol}
    assert part(parts.publish, [value]) == ([wanted], [])
    as_dictionary = dict(wanted, host_port="%d-%d" % host_port, port="%d-%d" % port)
    assert part(parts.publish, [as_dictionary]) == ([wanted], [])


@pytest.mark.parametrize("value", ["", ":", "::", "80:", "x:80", "80:80/icmp", "fd00::1:80:80", "1.2.3.4.5:80:80", "80-70:80-70", {"host_port": None},
                                   None, True, [80]])
def test_what_is_no_published_port(value):
    found, errors = part(parts.publish, [value])
    assert errors and all(error.startswith("it[0]") for error in errors)


def test_routes_have_one_family_and_the_kernels_metrics():
    found, errors = part(parts.routes, [{"via": "10.0.0.1"}, {"via": "fd00::1"}, {"to": "10.1.0.1", "metric": "7", "table": "main"},
                                        {"to": "::/0", "table": 100}, {"to": "10.2.0.0/16", "type": "unreachable"}])
    assert errors == []
    assert [(route["family"], route["to"], route["table"]) for route in found] == [
        (4, "default", 254), (6, "default", 254), (4, "10.1.0.1/32", 254), (6, "default", 100), (4, "10.2.0.0/16", 254)]
    assert [parts.route_key(route)[3] for route in found] == [0, 1024, 7, 1024, 0]
    assert part(parts.routes, [{"via": "10.0.0.1"}, {"to": "0.0.0.0/0", "via": "10.0.0.2"}])[1] == ["it[1]: the route is declared twice"]


def test_rules_without_addresses_are_of_both_families():
    found, errors = part(parts.rules, [{"mark": 7, "table": 100}, {"from": "10.0.0.1", "table": 100, "priority": 9}, {"mark": "0x10/0xf0", "table": 5}])
    assert errors == []
    assert [(rule["family"], rule["priority"], rule["mark"]) for rule in found] == [
        (4, 1000, 7), (6, 1000, 7), (4, 9, None), (4, 1002, (16, 240)), (6, 1002, (16, 240))]


def test_sysctls_without_a_family_are_of_both():
    assert part(parts.sysctls, {"forwarding": True, "ipv4.rp_filter": "2", "ipv6/accept_ra": 0}) == (
        {"ipv4/forwarding": "1", "ipv6/forwarding": "1", "ipv4/rp_filter": "2", "ipv6/accept_ra": "0"}, [])
    assert part(parts.sysctls, {"forwarding": 1, "ipv4.forwarding": 0})[1] == ["it.ipv4.forwarding: is declared twice"]
    for word in ("ipv4.a/b", "ipv4...", "net.core.x", "a b", "", "../x", 7):
        assert part(parts.sysctls, {word: 1})[1], word


def test_egress_denies_when_something_is_allowed():
    assert part(parts.egress, "deny") == ({"policy": "deny", "allow": []}, [])
    assert part(parts.egress, {"allow": [{"to": "10.0.0.1"}, {"to": "fd00::/8", "port": 53, "protocol": "udp"}, {"to": "10.0.0.0/8", "port": "80-90"},
                                         {"to": "10.0.0.0/8", "protocol": "udp"}]}) == ({"policy": "deny", "allow": [
                                             {"to": "10.0.0.1/32", "port": None, "protocol": None}, {"to": "fd00::/8", "port": (53, 53), "protocol": "udp"},
                                             {"to": "10.0.0.0/8", "port": (80, 90), "protocol": "tcp"},
                                             {"to": "10.0.0.0/8", "port": (1, 65535), "protocol": "udp"}]}, [])


def test_bandwidth_in_the_words_of_tc():
    found, errors = part(parts.bandwidth, {"transmit": "10mbit", "receive": {
        "rate": "1gbit", "burst": "1M", "delay": "80ms", "jitter": "10ms", "loss": "0.5%"}})
    assert errors == []
    assert found == {"transmit": {"rate": 10000000, "burst": None, "delay": None, "jitter": None, "loss": None},
                     "receive": {"rate": 1000000000, "burst": 1 << 20, "delay": 80000, "jitter": 10000, "loss": 0.5}}
    assert part(parts.bandwidth, {"transmit": {"burst": 9}})[1] == ["it.transmit.burst: is of a rate, and there is none",
                                                                    "it.transmit: says nothing. Give a rate, a delay or a loss"]
    for loss in ("101%", "x", "-1", True, "1e3", "nan"):
        assert part(parts.bandwidth, {"transmit": {"loss": loss}})[1]


def test_peers_of_a_wireguard():
    key = "A" * 43 + "="
    peer = {"public_key": key, "endpoint": "[2001:db8::1]:51820", "allowed_ips": ["10.0.0.2", "fd00::/64"], "keepalive": 25}
    found, errors = part(parts.peers, [peer])
    assert errors == [] and found[0]["allowed_ips"] == ["10.0.0.2/32", "fd00::/64"] and found[0]["endpoint"] == "[2001:db8::1]:51820"
    for wrong in (dict(peer, endpoint="example.org:1"), dict(peer, endpoint="2001:db8::1:1"), dict(peer, public_key="x"), dict(peer, keepalive=99999), {}):
        assert part(parts.peers, [wrong])[1]
    assert part(parts.peers, [peer, peer])[1] == ["it[1]: the peer is declared twice"]


ANYTHING = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(
    ["10.0.0.1/8", "fd00::1/64", "default", "80:80", "[::1]:1:2", "10mbit", "eth0", "lab", "deny", "1/2"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["to", "via", "from", "table", "mark", "priority", "transmit", "receive", "rate", "delay", "loss", "policy", "allow", "port", "protocol", "address",
         "mac", "forwarding", "ipv4.x", "host_port", "public_key", "endpoint"]) | st.text(max_size=9), inner, max_size=4), max_leaves=8)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(model.OPTIONS), ANYTHING, max_size=8))
def test_nothing_that_is_declared_breaks_the_parser(entry):
    specs, errors = parse(entry)
    assert all(error.startswith("interfaces[0]") and "\n" not in error for error in errors)
    if not errors and specs[0].state == "present":  # what was taken is taken again from its record, and means the same
        again = model.InterfaceSpec.recorded(specs[0].key, specs[0].options)
        assert all(getattr(again, key) == getattr(specs[0], key) for key in model.KEYS)
