# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The words of networks: every parser returns the normal form, or adds problems with its path, and never raises."""

from __future__ import annotations

import ipaddress
import re

import pytest
from ansible_collections.bulkhead.isolation.plugins.module_utils._model import addresses
from ansible_collections.bulkhead.isolation.plugins.module_utils._model.errors import Problems
from hypothesis import given, settings
from hypothesis import strategies as st

ANYTHING = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(), st.lists(st.integers()),
                     st.dictionaries(st.text(), st.integers()), st.from_regex(r"[0-9a-f.:/-]{1,40}", fullmatch=True))
PARSERS = ("address", "with_prefix", "subnet", "target", "mac", "device", "rate", "port", "ports", "subnet_and_gateway")


def parsed(parser, value, **more):
    problems = Problems()
    return getattr(addresses, parser)(value, "here", problems, **more), problems.errors


@pytest.mark.parametrize("parser, value, expected", [
    ("address", "10.42.0.7", "10.42.0.7"), ("address", "FD00:0:0::7", "fd00::7"), ("address", "fe80::1", "fe80::1"),
    ("with_prefix", "10.42.0.7/24", "10.42.0.7/24"), ("with_prefix", "10.42.0.7/32", "10.42.0.7/32"), ("with_prefix", "10.42.0.0/31", "10.42.0.0/31"),
    ("with_prefix", "fd00::7/64", "fd00::7/64"), ("subnet", "10.42.0.0/24", "10.42.0.0/24"), ("subnet", "fd00:42:0::/64", "fd00:42::/64"),
    ("subnet", "0.0.0.0/0", "0.0.0.0/0"), ("target", "default", "default"), ("target", "10.1.2.3", "10.1.2.3"), ("target", "10.0.0.0/8", "10.0.0.0/8"),
    ("mac", "02-00-5E-10-00-01", "02:00:5e:10:00:01"), ("device", "eth0", "eth0"), ("device", "a" * 15, "a" * 15), ("device", "eth0.100", "eth0.100"),
    ("rate", "10mbit", 10000000), ("rate", "1gbit", 1000000000), ("rate", "512kbit", 512000), ("rate", "1mbps", 8000000), ("rate", "1.5mbit", 1500000),
    ("rate", "1kibit", 1024), ("rate", "1kibps", 8192), ("rate", " 10MBit ", 10000000), ("rate", 64000, 64000), ("rate", "8", 8),
    ("port", "80", 80), ("port", 65535, 65535), ("ports", 80, (80, 80)), ("ports", "8000-8010", (8000, 8010)),
    ("subnet_and_gateway", "10.42.0.0/24", ("10.42.0.0/24", "10.42.0.1")), ("subnet_and_gateway", "fd00:42::/64", ("fd00:42::/64", "fd00:42::1")),
    ("subnet_and_gateway", {"subnet": "10.42.0.0/24", "gateway": "10.42.0.254"}, ("10.42.0.0/24", "10.42.0.254")),
    ("subnet_and_gateway", {"subnet": "10.42.0.0/30"}, ("10.42.0.0/30", "10.42.0.1")),
])
def test_normal_forms(parser, value, expected):
    assert parsed(parser, value) == (expected, [])


@pytest.mark.parametrize("parser, value, words", [
    ("address", "10.42.0.256", "is not an IPv4 or IPv6 address"), ("address", "010.1.1.1", "is not an IPv4 or IPv6 address"),
    ("address", "fe80::1%eth0", "is not an IPv4 or IPv6 address"), ("address", "10.1\0", "is not an IPv4 or IPv6 address"),
    ("address", "127.0.0.1", "not an address that a host can have"), ("address", "::1", "not an address that a host can have"),
    ("address", "0.0.0.0", "not an address that a host can have"), ("address", "224.0.0.1", "not an address that a host can have"),
    ("address", "255.255.255.255", "not an address that a host can have"), ("address", "ff02::1", "not an address that a host can have"),
    ("address", "::ffff:10.0.0.1", "not an address that a host can have"), ("with_prefix", "10.42.0.7", "prefix length"),
    ("with_prefix", "10.42.0.7/33", "prefix length"), ("with_prefix", "10.42.0.7/-1", "prefix length"), ("with_prefix", "10.42.0.7/255.255.255.0", "prefix"),
    ("with_prefix", "10.42.0.0/24", "own address of its subnet"), ("with_prefix", "10.42.0.255/24", "broadcast"), ("with_prefix", "fd00::/64", "anycast"),
    ("subnet", "10.42.0.1/24", "The subnet is 10.42.0.0/24"), ("subnet", "10.42.0.0", "is not a subnet"), ("target", "defaults", "is not an IPv4"),
    ("mac", "02:00:5e:10:00", "is not a MAC"), ("mac", "01:00:5e:10:00:01", "one card"), ("mac", "00:00:00:00:00:00", "one card"), ("mac", 2, "is not a MAC"),
    ("device", "a" * 16, "15 bytes"), ("device", "\u00e9" * 8, "15 bytes"), ("device", "a/b", "Use letters"), ("device", "a b", "Use letters"),
    ("device", ".", "Use letters"), ("device", "..", "Use letters"), ("device", "-a", "Use letters"), ("device", "eth%d", "Use letters"),
    ("device", "eth*", "Use letters"), ("device", "a:b", "Use letters"), ("device", "all", "Use letters"), ("device", "", "is not the name"),
    ("rate", "fast", "is not a rate"), ("rate", "mbit", "is not a rate"), ("rate", "-1mbit", "is not a rate"), ("rate", "1e3", "is not a rate"),
    ("rate", True, "is not a rate"), ("rate", "0mbit", "out of range"), ("rate", "9" * 19, "out of range"), ("port", 0, "within 1 and 65535"),
    ("port", 65536, "within 1 and 65535"), ("ports", "8010-8000", "ends before it begins"), ("ports", "80-", "whole number"), ("ports", "a-b", "whole"),
    ("subnet_and_gateway", "10.42.0.0/31", "no room"), ("subnet_and_gateway", "127.0.0.0/8", "hosts can have"),
    ("subnet_and_gateway", "fe80::/64", "hosts can have"),
    ("subnet_and_gateway", {"subnet": "10.42.0.0/24", "gateway": "10.43.0.1"}, "not an address of a host in"),
    ("subnet_and_gateway", {"subnet": "10.42.0.0/24", "gateway": "10.42.0.255"}, "not an address of a host in"),
    ("subnet_and_gateway", {"subnet": "10.42.0.0/24", "gateway": "fd00::1"}, "not an address of a host in"),
    ("subnet_and_gateway", {"subnet": "10.42.0.0/24", "gate": "10.42.0.1"}, "no such option"),
    ("subnet_and_gateway", {"gateway": "10.42.0.1"}, "is not a subnet"),
])
def test_what_is_refused(parser, value, words):
    result, errors = parsed(parser, value)
    assert len(errors) == 1 and errors[0].startswith("here")
    assert re.search(words, errors[0])
    if parser != "subnet_and_gateway" or "gate" not in value:
        assert result is None


@pytest.mark.parametrize("value", ["127.0.0.1", "127.1.2.3", "::1"])
def test_an_address_of_lo_where_it_is_of_use(value):
    assert parsed("address", value, loopback=True) == (value, [])


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(PARSERS), ANYTHING)
def test_no_parser_raises(parser, value):
    result, errors = parsed(parser, value)
    assert (result is None) == bool(errors)


@settings(deadline=None)
@given(st.integers(0, (1 << 128) - 1), st.integers(0, 128), st.integers(0, 128))
def test_reckoning_agrees_with_the_standard_library(value, length, longer):
    mine = ipaddress.IPv6Network((value, length), strict=False)
    other = ipaddress.IPv6Network((value ^ 1 << 100, longer), strict=False)
    normal = "%s/%d" % (addresses.show(6, int(mine.network_address)), length)
    assert ipaddress.ip_network(normal) == mine
    assert addresses.subnet_of("%s/%d" % (addresses.show(6, value), length)) == normal
    there = "%s/%d" % (addresses.show(6, int(other.network_address)), longer)
    assert addresses.overlap(normal, there) == mine.overlaps(other)
    assert addresses.contains(normal, there) == other.subnet_of(mine)
    assert addresses.contains(normal, addresses.show(6, value))


@pytest.mark.parametrize("subnet, first, last", [
    ("10.42.0.0/24", "10.42.0.1", "10.42.0.254"), ("10.42.0.0/31", "10.42.0.0", "10.42.0.1"), ("10.42.0.7/32", "10.42.0.7", "10.42.0.7"),
    ("fd00::/126", "fd00::1", "fd00::3"), ("fd00::/127", "fd00::", "fd00::1"),
])
def test_addresses_that_hosts_can_have(subnet, first, last):
    kind = addresses.family(subnet)
    assert tuple(addresses.show(kind, value) for value in addresses.usable(subnet)) == (first, last)


def test_derived_macs_are_stable_distinct_and_of_one_card_each():
    macs = {addresses.derived_mac("web/eth%d" % index) for index in range(500)}
    assert len(macs) == 500 and "c2:14:42:68:92:73" in macs
    assert all(int(mac[:2], 16) & 3 == 2 for mac in macs)


@pytest.mark.parametrize("bits, expected", [(10000000, "10mbit"), (1500000, "1500kbit"), (1024, "1024bit"), (10 ** 12, "1tbit"), (8, "8bit")])
def test_rates_are_shown_as_tc_takes_them(bits, expected):
    assert addresses.show_rate(bits) == expected and parsed("rate", expected) == (bits, [])


def test_ports_are_shown_as_they_are_given():
    assert addresses.show_ports((80, 80)) == "80" and addresses.show_ports((8000, 8010)) == "8000-8010"
