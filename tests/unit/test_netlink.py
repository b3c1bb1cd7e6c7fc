# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Messages of rtnetlink: made as plain data, written as the kernel's headers say, and read whatever lies in a datagram."""

from __future__ import annotations

import errno
import struct

import pytest
from hypothesis import given, settings, strategies as st

from ansible_collections.bulkhead.isolation.plugins.module_utils._kernel import _netformat, netlink, netmessages as ask


def written(message):
    """What follows the header of 16 bytes."""
    return bytes(_netformat.encode(message, 5, 5))[16:]


def test_the_header_says_length_type_flags_and_sequence():
    data = bytes(_netformat.encode(ask.new_address(3, "10.1.0.2/24"), 77, 5))
    assert struct.unpack_from("=IHHII", data) == (len(data), 20, 5 | 0x500, 77, 0)


def test_an_address_is_written_as_the_header_files_say():
    # struct ifaddrmsg: family, prefixlen, flags, scope, index; IFA_LOCAL 2, IFA_ADDRESS 1
    assert written(ask.new_address(3, "10.1.0.2/24")) == bytes.fromhex("02180000 03000000 08000200 0a010002 08000100 0a010002")
    data = written(ask.new_address(3, "fd00::2/64", dad=False))
    assert data[:8] == bytes([10, 64, 2, 0, 3, 0, 0, 0])  # IFA_F_NODAD


def test_a_veth_is_written_with_its_peer_nested():
    data = written(ask.new_link("e", "veth", index=5, peer={"name": "p", "index": 6, "netns": 9}))
    head, found = _netformat.FORMATS["link"].read(data, 0, len(data))
    assert head[3] == 5 and found["name"] == "e" and found["info"]["kind"] == "veth"
    assert found["info"]["data"]["peer"] == {"family": 0, "pad": 0, "type": 0, "index": 6, "flags": 0, "change": 0, "name": "p", "netns": 9}


def test_a_link_is_changed_by_index_or_by_name():
    assert ask.set_link(4, up=True) == ask.set_link(4, up=True) != ask.set_link(4, up=False)
    assert (ask.set_link(4, up=False).fields, ask.set_link(4).fields) == ({"index": 4, "flags": 0, "change": 1}, {"index": 4, "flags": 0, "change": 0})
    assert ask.set_link("eth0", mtu=9).attributes == [("name", "eth0"), ("mtu", 9)]
    assert ask.set_link("eth0", master=0, alias="").attributes == [("name", "eth0"), ("alias", ""), ("master", 0)]


def test_only_removals_and_rules_tolerate_something():
    for message in (ask.delete_link("x"), ask.delete_group(5), ask.delete_address(1, "10.0.0.1/8"), ask.delete_route("10.0.0.0/8"),
                    ask.delete_rule(4, 5), ask.delete_neighbour(1, "10.0.0.1"), ask.delete_fdb(1, "02:00:00:00:00:01"), ask.delete_qdisc(1)):
        assert message.tolerated and errno.EPERM not in message.tolerated
    assert ask.new_rule(4, 5).tolerated == (errno.EEXIST,)
    for message in (ask.new_link("x", "dummy"), ask.set_link("x"), ask.new_address(1, "10.0.0.1/8"), ask.new_route("10.0.0.0/8"), ask.set_qdisc(1, "tbf")):
        assert not message.tolerated


def test_a_default_route_has_the_family_of_its_gateway():
    assert ask.new_route(via="10.0.0.1").fields["family"] == 2
    assert ask.new_route(via="fd00::1").fields["family"] == 10
    assert ask.new_route(family=6, kind="blackhole").fields["family"] == 10
    assert ask.new_route("0.0.0.0/0", via="10.0.0.1").attributes == ask.new_route(via="10.0.0.1").attributes
    assert ask.new_route("10.2.0.1", via="10.0.0.1").fields["to_length"] == 32


def test_tables_above_255_are_in_the_attribute_only():
    for table, field in ((254, 254), (1000, 0)):
        message = ask.new_route("10.0.0.0/8", index=1, table=table)
        assert message.fields["table"] == field and ("table", table) in message.attributes


def test_handles_of_qdiscs():
    assert [ask.handle_number(text) for text in ("root", "1:", "1:1", "ffff:a")] == [0xFFFFFFFF, 0x10000, 0x10001, 0xFFFF000A]


@pytest.mark.parametrize("wanted, found, same", [
    ({"rate": 10, "burst": 5}, {"rate": 10, "burst": 5, "limit": 3}, True),
    ({"rate": 125000000, "burst": 100000}, {"rate": 125000000, "burst": 99985}, True),  # two ticks of 64 ns at 1 Gbit/s are 16 bytes
    ({"rate": 125000000, "burst": 100000}, {"rate": 125000000, "burst": 99900}, False),
    ({"rate": 10, "limit": 5}, {"rate": 10, "limit": 6}, False),
    ({"delay": 1000, "loss": 1.5}, {"delay": 1000.0, "loss": 1.4999999, "jitter": 0.0}, True),
    ({"delay": 1000}, {"delay": 1001.0}, False),
    ({"delay": 1000}, {}, False),
])
def test_options_of_qdiscs_are_compared_as_the_kernel_keeps_them(wanted, found, same):
    assert ask.same_options(wanted, found) is same


def test_an_unknown_attribute_and_flags_of_nesting_are_passed_over():
    data = struct.pack("=BBBBI", 2, 24, 0, 0, 3) + bytes.fromhex("0500ff7f01000000") + bytes.fromhex("08000240 0a010002")
    assert _netformat.FORMATS["address"].read(data, 0, len(data)) == ((2, 24, 0, 0, 3), {"local": "10.1.0.2"})


@given(st.sampled_from(sorted(_netformat.FORMATS)), st.binary(max_size=200), st.integers(0, 4))
@settings(max_examples=300, deadline=None)
def test_whatever_follows_the_fixed_part_is_read_to_its_end(kind, rest, cut):
    """Attributes whose length lies end the reading or are cut; nothing is read for ever."""
    form = _netformat.FORMATS[kind]
    data = bytes(struct.calcsize("=" + "".join(each for dummy, each in form.fields))) + rest
    try:
        head, found = form.read(data, 0, len(data) - cut if len(rest) >= cut else len(data))
    except (struct.error, ValueError, OSError):  # a number in too few bytes, an address of a length that there is not
        return
    assert len(head) == len(form.fields) and isinstance(found, dict)


def test_the_words_of_the_kernel_are_in_the_error():
    message = ask.new_link("x", "nosuch")
    body = struct.pack("=i", -95) + bytes(16) + struct.pack("=HH", 4 + 20, 1) + b"Unknown device type\0"
    data = struct.pack("=IHHII", 16 + len(body), 2, 0x300, 5, 0) + body
    words = netlink._words(data, 0, len(data), 0x300)
    error = netlink.NetlinkError(95, words, message)
    assert str(error) == "[Errno 95] the kernel would not make the nosuch x: Operation not supported (Unknown device type)"
    assert (error.lacks, error.others) == ("nosuch", [])
    assert netlink._words(data, 0, len(data), 0x100) == ""  # a kernel that says nothing more
    assert netlink.NetlinkError(95, "", message).lacks is None
    assert netlink.NetlinkError(17, "", message).strerror == "the kernel would not make the nosuch x: File exists"


def test_a_route_with_several_hops_is_read_with_them():
    hop = struct.pack("=HBBi", 16, 0, 0, 3) + bytes.fromhex("08000500 0a010001") + struct.pack("=HBBi", 8, 0, 0, 4)
    data = struct.pack("=8BI", 2, 0, 0, 0, 254, 4, 0, 1, 0) + struct.pack("=HH", 4 + len(hop), 9) + hop
    route = netlink._route(*_netformat.FORMATS["route"].read(data, 0, len(data)))
    assert route["to"] == "default" and route["hops"] == [{"index": 3, "via": "10.1.0.1"}, {"index": 4, "via": None}]
