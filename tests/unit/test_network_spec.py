# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What can be declared of a network: every error at once, one form for all ways to say it, the whole of what was said in parts."""

from __future__ import annotations

import json

import pytest
from ansible_collections.bulkhead.isolation.plugins.module_utils._model.errors import BulkheadError, Problems
from ansible_collections.bulkhead.isolation.plugins.module_utils._model.network import NetworkSpec, device_of, shown
from hypothesis import given, settings
from hypothesis import strategies as st

ANYTHING = st.recursive(st.one_of(st.none(), st.booleans(), st.integers(), st.text(), st.sampled_from(["lab", "10.42.0.0/24", "eth0", "any"])),
                        lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.sampled_from(["subnet", "gateway", "protocol", "port", "x"]), inner)))


def parse(**options):
    problems = Problems()
    return NetworkSpec.from_options(dict({"name": "lab"}, **options), "", problems), problems.errors


def whole(recorded=None, **options):
    spec, errors = parse(**options)
    assert not errors
    return spec.over(recorded)


def test_defaults_are_those_of_the_whole():
    spec = whole(subnets=["10.42.0.0/24"])
    assert shown(spec) == {"device": "bh-lab", "subnets": [{"subnet": "10.42.0.0/24", "gateway": "10.42.0.1"}], "mode": "bridged",
                           "inter_sandbox": True, "masquerade": True, "internal": False, "uplink": None, "reaches": [], "host_services": [],
                           "antispoof": True, "mtu": None, "vlan_filtering": None, "dns": None}
    assert spec.gateways == ["10.42.0.1/24"] and spec.families == [4] and not spec.routed


def test_what_is_not_named_is_not_declared():
    spec, errors = parse(mtu=1400)
    assert not errors and spec.declared == {"mtu": 1400} and spec.subnets is None and spec.masquerade is None


def test_a_task_goes_over_what_was_declared_before():
    recorded = {"subnets": [{"subnet": "10.42.0.0/24", "gateway": "10.42.0.9"}], "masquerade": False, "uplink": "eth1", "mtu": 1400}
    spec = whole(recorded, uplink="any", mode="routed")
    assert spec.subnets == [("10.42.0.0/24", "10.42.0.9")] and not spec.masquerade and spec.uplink is None and spec.mtu == 1400 and spec.routed


def test_what_is_recorded_is_json_and_reads_back_to_the_same():
    spec, errors = parse(subnets=["fd00:42::/64", {"subnet": "10.42.0.0/24", "gateway": "10.42.0.7"}], reaches=["two", "one", "one"],
                         host_services=[{"protocol": "udp", "port": "53"}, {"protocol": "tcp", "port": "8000-8010"}],
                         dns={"servers": "192.0.2.1", "search": ["example.org"]}, uplink="eth0", mtu=1400)
    assert not errors
    again, errors = parse(**json.loads(json.dumps(spec.declared)))
    assert not errors and again.declared == spec.declared
    assert again.host_services == [("tcp", 8000, 8010), ("udp", 53, 53)] and again.reaches == ["one", "two"]


def test_the_device_follows_from_the_name():
    assert device_of("lab") == "bh-lab" and device_of("a" * 12) == "bh-" + "a" * 12
    long = {device_of("a" * 12 + end) for end in "abc"}
    assert len(long) == 3 and all(len(device) == 15 and device.startswith("bh-") for device in long)


@pytest.mark.parametrize("options, path, words", [
    ({"name": "a/b"}, "name", "is not a name"), ({"subnets": []}, "subnets", "the list is empty"),
    ({"subnets": ["10.42.0.0"]}, "subnets[0]", "is not a subnet"),
    ({"subnets": ["10.42.0.0/24", "10.0.0.0/8"]}, "subnets", "have addresses in common"), ({"mode": "nat"}, "mode", "is not one of bridged, routed"),
    ({"subnets": [{"subnet": "10.42.0.0/24", "gateway": "10.1.1.1"}]}, "subnets[0].gateway", "not an address of a host in"),
    ({"uplink": "a-device-of-16-b"}, "uplink", "15 bytes"), ({"uplink": "eth0", "internal": True}, "uplink", "no way out"),
    ({"uplink": "bh-lab"}, "uplink", "own bridge"), ({"reaches": ["lab"]}, "reaches", "reaches itself"), ({"reaches": ["a/b"]}, "reaches[0]", "is not a name"),
    ({"host_services": [{"protocol": "sctp", "port": 1}]}, "host_services[0].protocol", "is not one of tcp, udp"),
    ({"host_services": [{"protocol": "tcp"}]}, "host_services[0].port", "whole number"),
    ({"host_services": [{"protocol": "tcp", "port": "1-9"}, {"protocol": "tcp", "port": 5}]}, "host_services[1]", "ports in common"),
    ({"mtu": 67}, "mtu", "within 68"), ({"mtu": 1000, "subnets": ["fd00::/64"]}, "mtu", "1280 that IPv6 needs"),
    ({"mtu": 500, "subnets": ["10.0.0.0/8"]}, "mtu", "576 that IPv4 needs"), ({"dns": {"servers": ["localhost"]}}, "dns.servers[0]", "is not an IPv4"),
    ({"dns": {"search": ["a..b"]}}, "dns.search[0]", "is not a domain"), ({"dns": {"domain": "x"}}, "dns.domain", "no such option"),
    ({"subnet": "10.0.0.0/8"}, "network.subnet", "no such option. Did you mean subnets"), ({"antispoof": "maybe"}, "antispoof", "true or false"),
])
def test_what_is_refused_and_where(options, path, words):
    dummy, errors = parse(**options)
    assert len(errors) == 1 and errors[0].startswith(path + ": ") and words in errors[0]


def test_all_errors_come_at_once():
    dummy, errors = parse(name="", subnets=["x", "10.42.0.1/24"], mtu="big", mode="flat")
    assert len(errors) == 5


def test_contradictions_with_what_was_declared_before_are_found():
    spec, errors = parse(mtu=1000)
    assert not errors
    with pytest.raises(BulkheadError, match="1280 that IPv6 needs"):
        spec.over({"subnets": ["fd00:42::/64"]})


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(["name", "state", "force", "device", "subnets", "mode", "internal", "uplink", "reaches", "host_services", "mtu",
                                        "dns", "vlan_filtering", "antispoof"]), ANYTHING))
def test_nothing_makes_it_raise(options):
    problems = Problems()
    spec = NetworkSpec.from_options(options, "", problems)
    if not problems.errors and spec.name is not None:
        assert json.loads(json.dumps(spec.declared)) == spec.declared
        spec.over(spec.declared)
