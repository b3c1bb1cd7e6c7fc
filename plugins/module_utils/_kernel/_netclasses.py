# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The messages of rtnetlink(7) as classes of pyroute2: what this collection reads and writes of them, by its own names.

pyroute2's own classes decode all of some fifty attributes of a link into an object each, 0.25 ms. These know the few that are
read here, and read them into one dict (`read`): 0.03 ms. Numbers are those of linux/if_link.h, rtnetlink.h and their like. An
address of the other family has a number of its own: its name ends in 6 here for writing, and is read by the same name.

Only `netlink.py` imports this, when a socket is opened: importing pyroute2 takes 0.2 s.
"""

from __future__ import annotations

import socket
import struct

try:
    from pyroute2.netlink import nla, nlmsg
    MISSING = None
except ImportError as exc:  # `netlink.open` says so
    nla = nlmsg = object
    MISSING = exc

_HEAD = struct.Struct("=HH").unpack_from


def _number(form):
    unpack = struct.Struct(form).unpack_from
    return lambda data, offset, length: unpack(data, offset)[0]


def _text(data, offset, length):
    return data[offset:offset + length].rstrip(b"\0").decode("utf-8", "replace")


def _mac(data, offset, length):
    return data[offset:offset + length].hex(":")


def _address(data, offset, length):
    return socket.inet_ntop(socket.AF_INET if length == 4 else socket.AF_INET6, data[offset:offset + length])


def _bytes(data, offset, length):
    return data[offset:offset + length]


_READERS = {  # by the names of pyroute2's atoms
    "uint8": _number("=B"), "uint16": _number("=H"), "uint32": _number("=I"), "int32": _number("=i"), "uint64": _number("=Q"),
    "int64": _number("=q"), "be16": _number(">H"), "asciiz": _text, "l2addr": _mac, "ipaddr": _address, "cdata": _bytes,
}


def _nested(readers):
    return lambda data, offset, length: _read(data, offset, offset + length, readers)


def _readers(cls):
    """{number: (name, function)} of a class's attributes."""
    found = {}
    for number, name, atom in cls.nla_map:
        reader = _READERS.get(atom)
        found[number] = name.rstrip("6"), getattr(cls, atom).reader if reader is None else reader
    return found


def _read(data, offset, end, readers):
    found = {}
    while end - offset >= 4:
        length, number = _HEAD(data, offset)
        if length < 4:
            break
        reader = readers.get(number & 0x3FFF)  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER
        if reader is not None:
            found[reader[0]] = reader[1](data, offset + 4, length - 4)
        offset += length + 3 & ~3
    return found


def _reads(cls):
    """Give a class of pyroute2 the way of reading above: `read` {name: value} of the attributes that it knows."""
    cls.readers = _readers(cls)
    cls.reader = staticmethod(_nested(cls.readers))
    return cls


class _Message(nlmsg):
    read = ()
    readers = {}

    def decode_nlas(self, offset):
        self.read = _read(self.data, offset, self.offset + self.length, self.readers)


_LINK_FIELDS = (("family", "B"), ("pad", "B"), ("type", "H"), ("index", "i"), ("flags", "I"), ("change", "I"))
_LINK_ATTRIBUTES = (
    (1, "mac", "l2addr"), (3, "name", "asciiz"), (4, "mtu", "uint32"), (5, "parent", "uint32"), (10, "master", "uint32"),
    (20, "alias", "asciiz"), (27, "group", "uint32"), (28, "netns", "uint32"), (29, "mask", "uint32"), (37, "parent_netnsid", "int32"),
)


@_reads
class _Bridge(nla):
    nla_map = ((1, "forward_delay", "uint32"), (4, "ageing_time", "uint32"), (5, "stp", "uint32"), (7, "vlan_filtering", "uint8"),
               (23, "multicast_snooping", "uint8"), (39, "vlan_default_pvid", "uint16"))


@_reads
class _Port(nla):
    nla_map = ((4, "hairpin", "uint8"), (8, "learning", "uint8"), (9, "flood", "uint8"), (10, "proxy_arp", "uint8"),
               (27, "multicast_flood", "uint8"), (30, "broadcast_flood", "uint8"), (32, "neigh_suppress", "uint8"),
               (33, "isolated", "uint8"), (39, "locked", "uint8"))


@_reads
class _Vlan(nla):
    nla_map = ((1, "vlan_id", "uint16"), (5, "protocol", "be16"))


@_reads
class _Vxlan(nla):
    nla_map = ((1, "vni", "uint32"), (2, "remote", "ipaddr"), (3, "parent", "uint32"), (4, "local", "ipaddr"), (5, "ttl", "uint8"),
               (7, "learning", "uint8"), (15, "port", "be16"), (16, "remote6", "ipaddr"), (17, "local6", "ipaddr"))


@_reads
class _Macvlan(nla):
    nla_map = ((1, "mode", "uint32"),)


@_reads
class _Ipvlan(nla):
    nla_map = ((1, "mode", "uint16"), (2, "flags", "uint16"))


@_reads
class _Tun(nla):
    nla_map = ((1, "owner", "uint32"), (2, "owner_group", "uint32"), (3, "mode", "uint8"), (6, "persist", "uint8"))


class _Peer(nla):
    fields = _LINK_FIELDS
    nla_map = _LINK_ATTRIBUTES


class _Veth(nla):
    nla_map = ((1, "peer", "peer_class"),)
    peer_class = _Peer
    reader = staticmethod(_bytes)


DATA = {"bridge": _Bridge, "vlan": _Vlan, "vxlan": _Vxlan, "macvlan": _Macvlan, "ipvlan": _Ipvlan, "tun": _Tun, "veth": _Veth}
_DATA_READERS = {kind: cls.reader for kind, cls in DATA.items() if kind != "veth"}


def _span(data, offset, length):
    return data, offset, length


class _Info(nla):
    """IFLA_LINKINFO. What `data` is follows from the kind, so for writing its name is that of the kind; so with a port's."""

    nla_map = ((1, "kind", "asciiz"), (4, "port_kind", "asciiz"), (5, "port", "port_class")) + tuple((2, kind, kind + "_class") for kind in DATA)
    port_class = _Port
    readers = {1: ("kind", _text), 2: ("data", _span), 4: ("port_kind", _text), 5: ("port", _span)}

    @staticmethod
    def reader(data, offset, length):
        found = _read(data, offset, offset + length, _Info.readers)
        if "data" in found:
            known = _DATA_READERS.get(found["kind"])
            found["data"] = known(*found["data"]) if known else {}
        if "port" in found:
            found["port"] = _Port.reader(*found["port"]) if found.get("port_kind") == "bridge" else None
        return found


for _kind, _class in DATA.items():
    setattr(_Info, _kind + "_class", _class)


@_reads
class Link(_Message):
    """struct ifinfomsg"""

    fields = _LINK_FIELDS
    nla_map = _LINK_ATTRIBUTES + ((18, "info", "info_class"),)
    info_class = _Info


@_reads
class Address(_Message):
    """struct ifaddrmsg"""

    fields = (("family", "B"), ("length", "B"), ("flags", "B"), ("scope", "B"), ("index", "I"))
    nla_map = ((1, "address", "ipaddr"), (2, "local", "ipaddr"), (4, "broadcast", "ipaddr"), (8, "flags", "uint32"))


@_reads
class _Metrics(nla):
    nla_map = ((2, "mtu", "uint32"),)


@_reads
class Route(_Message):
    """struct rtmsg"""

    fields = (("family", "B"), ("to_length", "B"), ("from_length", "B"), ("tos", "B"), ("table", "B"), ("protocol", "B"),
              ("scope", "B"), ("type", "B"), ("flags", "I"))
    nla_map = ((1, "to", "ipaddr"), (4, "index", "uint32"), (5, "via", "ipaddr"), (6, "metric", "uint32"), (7, "source", "ipaddr"),
               (8, "metrics", "metrics_class"), (9, "hops", "cdata"), (15, "table", "uint32"), (18, "via_other", "cdata"))
    metrics_class = _Metrics


@_reads
class Rule(_Message):
    """struct fib_rule_hdr"""

    fields = (("family", "B"), ("to_length", "B"), ("from_length", "B"), ("tos", "B"), ("table", "B"), ("pad1", "B"), ("pad2", "B"),
              ("action", "B"), ("flags", "I"))
    nla_map = ((1, "to", "ipaddr"), (2, "from", "ipaddr"), (3, "iif", "asciiz"), (6, "priority", "uint32"), (10, "mark", "uint32"),
               (15, "table", "uint32"), (16, "mask", "uint32"), (17, "oif", "asciiz"), (21, "protocol", "uint8"))


@_reads
class Neighbour(_Message):
    """struct ndmsg, of neighbours and of forwarding entries"""

    fields = (("family", "B"), ("pad1", "B"), ("pad2", "H"), ("index", "i"), ("state", "H"), ("flags", "B"), ("type", "B"))
    nla_map = ((1, "address", "ipaddr"), (2, "mac", "l2addr"), (5, "vlan", "uint16"), (9, "master", "uint32"))


@_reads
class _Stats(nla):
    nla_map = ((1, "basic", "cdata"), (3, "queue", "cdata"))


@_reads
class _Tbf(nla):
    nla_map = ((1, "parameters", "cdata"), (4, "rate64", "uint64"), (6, "burst", "uint32"))


class _Netem(nla):
    """Its attributes come behind a structure."""

    fields = (("latency", "I"), ("limit", "I"), ("loss", "I"), ("gap", "I"), ("duplicate", "I"), ("jitter", "I"))
    nla_map = ((10, "latency64", "int64"), (11, "jitter64", "int64"))

    @staticmethod
    def reader(data, offset, length):
        found = dict(zip((name for name, dummy in _Netem.fields), struct.unpack_from("=6I", data, offset)))
        found.update(_read(data, offset + 24, offset + length, _NETEM))
        return found


_NETEM = {10: ("latency64", _READERS["int64"]), 11: ("jitter64", _READERS["int64"])}
_OPTIONS = {"tbf": _Tbf.reader, "netem": _Netem.reader}


@_reads
class Qdisc(_Message):
    """struct tcmsg; of its options those that this collection sets"""

    class _Options(nla):
        reader = staticmethod(_span)

    fields = (("family", "B"), ("pad1", "B"), ("pad2", "H"), ("index", "i"), ("handle", "I"), ("parent", "I"), ("info", "I"))
    nla_map = ((1, "kind", "asciiz"), (7, "stats", "stats_class"), (2, "tbf", "tbf_class"), (2, "netem", "netem_class"), (2, "options", "options_class"))
    stats_class, tbf_class, netem_class, options_class = _Stats, _Tbf, _Netem, _Options

    def decode_nlas(self, offset):
        _Message.decode_nlas(self, offset)
        if "options" in self.read:
            known = _OPTIONS.get(self.read["kind"])
            self.read["options"] = known(*self.read["options"]) if known else {}


CLASSES = {"link": Link, "address": Address, "route": Route, "rule": Rule, "neighbour": Neighbour, "qdisc": Qdisc}


def encode(message, sequence, flags):
    """The bytes of a `netmessages.Message`."""
    encoded = CLASSES[message.kind]()
    encoded.update(message.fields)
    encoded["attrs"] = list(message.attributes)
    encoded["header"] = {"type": message.number, "flags": message.flags | flags, "sequence_number": sequence, "pid": 0}
    encoded.encode()
    return encoded.data


def decode(kind, data, offset):
    """The message at that place of a datagram."""
    message = CLASSES[kind](data, offset)
    message.decode()
    return message
