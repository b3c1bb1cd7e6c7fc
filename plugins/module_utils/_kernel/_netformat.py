# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The messages of rtnetlink(7) as tables: what this collection reads and writes of them, by its own names.

Messages are written by pyroute2, by classes that are made of these tables when the first is sent: importing it takes 0.2 s, which a
run that changes nothing is spared. Its classes would read all of some fifty attributes of a link into an object each, 0.25 ms a
link; the few that are wanted are read here by these tables, 0.02 ms. Numbers are those of linux/if_link.h, rtnetlink.h and their like.

An attribute's type is the name of one of pyroute2's atoms, or a Format for what is nested in it. An address of the other family
has a number of its own: its name ends in 6 for writing, and it is read by the same name.
"""

from __future__ import annotations

import functools
import importlib.util
import socket
import struct
import sys

_HEAD = struct.Struct("=HH").unpack_from


class Format:
    """A structure of ``fields`` ((name, struct format), …) and ``attributes`` ((number, name, type), …) behind it.

    ``chosen`` (number, name): the attribute whose type depends on the one of that name, of ``kinds`` {value: Format}. For writing its
    name is that value, or the value's name in ``named``.
    """

    def __init__(self, fields=(), attributes=(), chosen=(), **kinds):
        self.fields, self.attributes, self.chosen, self.kinds = fields, attributes, chosen, kinds
        self._head = struct.Struct("=" + "".join(form for dummy, form in fields))
        self._readers = {number: (name.rstrip("6"), _READERS[kind] if isinstance(kind, str) else kind.nested) for number, name, kind in attributes}
        if chosen:
            self._readers[chosen[0]] = "chosen", _span

    def read(self, data, offset, length):
        """(values of the fields, {name: value} of the attributes that are known here) of what lies there."""
        end, found, readers = offset + length, {}, self._readers
        head = self._head.unpack_from(data, offset)
        offset += self._head.size
        while end - offset >= 4:
            length, number = _HEAD(data, offset)
            if length < 4:
                break
            number &= 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER
            if number in readers:
                name, reader = readers[number]
                found[name] = reader(data, offset + 4, length - 4)
            offset += length + 3 & ~3
        if "chosen" in found:
            name = self.chosen[1]
            kind = self.kinds.get(found.get("kind"))
            place = found.pop("chosen")
            found[name] = kind.nested(*place) if kind else {}
        return head, found

    def nested(self, data, offset, length):
        """The attributes, and fields if there are any, as one dict."""
        head, found = self.read(data, offset, length)
        for (name, dummy), value in zip(self.fields, head):
            found.setdefault(name, value)
        return found

    def writer(self, name, base, nla):
        """The class of pyroute2 that writes it."""
        attributes = self.attributes + tuple((self.chosen[0], kind, form) for kind, form in self.kinds.items())
        head, names = self._head, tuple(name for name, dummy in self.fields)

        def ft_encode(written, offset):  # of pyroute2 since 0.7; its own asks five functions for each field
            written.data += head.pack(*[dict.get(written, name, 0) for name in names])
            return offset + head.size, 0

        body = {"fields": self.fields, "ft_encode": ft_encode, "nla_map": tuple(
            (number, each, kind if isinstance(kind, str) else "class_" + each) for number, each, kind in attributes)}
        for dummy, each, kind in attributes:
            if not isinstance(kind, str):
                body["class_" + each] = kind.writer(each, nla, nla)
        return type(name, (base,), body)


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


def _span(data, offset, length):
    return data, offset, length


_READERS = {
    "uint8": _number("=B"), "uint16": _number("=H"), "uint32": _number("=I"), "int32": _number("=i"), "uint64": _number("=Q"),
    "int64": _number("=q"), "be16": _number(">H"), "asciiz": _text, "l2addr": _mac, "ipaddr": _address, "cdata": _bytes,
}

_LINK = (("family", "B"), ("pad", "B"), ("type", "H"), ("index", "i"), ("flags", "I"), ("change", "I"))  # struct ifinfomsg
_LINK_ATTRIBUTES = (
    (1, "mac", "l2addr"), (3, "name", "asciiz"), (4, "mtu", "uint32"), (5, "parent", "uint32"), (10, "master", "uint32"),
    (20, "alias", "asciiz"), (27, "group", "uint32"), (28, "netns", "uint32"), (37, "parent_netnsid", "int32"))

_PORT = Format((), (
    (4, "hairpin", "uint8"), (8, "learning", "uint8"), (9, "flood", "uint8"), (10, "proxy_arp", "uint8"),
    (27, "multicast_flood", "uint8"), (30, "broadcast_flood", "uint8"), (32, "neigh_suppress", "uint8"), (33, "isolated", "uint8"),
    (39, "locked", "uint8")))

_INFO = Format(  # IFLA_LINKINFO; a port's attributes are those of a bridge where port_kind is that
    (), ((1, "kind", "asciiz"), (4, "port_kind", "asciiz"), (5, "port", _PORT)), (2, "data"),
    bridge=Format((), ((1, "forward_delay", "uint32"), (4, "ageing_time", "uint32"), (5, "stp", "uint32"), (7, "vlan_filtering", "uint8"),
                       (23, "multicast_snooping", "uint8"), (39, "vlan_default_pvid", "uint16"))),
    vlan=Format((), ((1, "vlan_id", "uint16"), (5, "protocol", "be16"))),
    vxlan=Format((), ((1, "vni", "uint32"), (2, "remote", "ipaddr"), (3, "parent", "uint32"), (4, "local", "ipaddr"), (5, "ttl", "uint8"),
                      (7, "learning", "uint8"), (15, "port", "be16"), (16, "remote6", "ipaddr"), (17, "local6", "ipaddr"))),
    macvlan=Format((), ((1, "mode", "uint32"),)),
    ipvlan=Format((), ((1, "mode", "uint16"), (2, "flags", "uint16"))),
    tun=Format((), ((1, "owner", "uint32"), (2, "owner_group", "uint32"), (3, "mode", "uint8"), (6, "persist", "uint8"))),
    veth=Format((), ((1, "peer", Format(_LINK, _LINK_ATTRIBUTES)),)))

# IFLA_AF_SPEC: of IPv6 the values of net/ipv6/conf/NAME, one s32 for each DEVCONF_ of linux/ipv6.h
FAMILIES = Format((), ((10, "ipv6", Format((), ((2, "conf", "cdata"),))),))

_QDISC = Format(  # struct tcmsg; of the options those that this collection sets
    (("family", "B"), ("pad1", "B"), ("pad2", "H"), ("index", "i"), ("handle", "I"), ("parent", "I"), ("info", "I")),
    ((1, "kind", "asciiz"), (7, "stats", Format((), ((1, "basic", "cdata"), (3, "queue", "cdata"))))), (2, "options"),
    tbf=Format((), ((1, "parameters", "cdata"), (4, "rate64", "uint64"), (6, "burst", "uint32"))),
    netem=Format((("latency", "I"), ("limit", "I"), ("loss", "I"), ("gap", "I"), ("duplicate", "I"), ("jitter", "I")),
                 ((10, "latency64", "int64"), (11, "jitter64", "int64"))))

FORMATS = {
    "link": Format(_LINK, _LINK_ATTRIBUTES + ((18, "info", _INFO), (26, "families", "cdata"))),
    "address": Format(  # struct ifaddrmsg
        (("family", "B"), ("length", "B"), ("flags", "B"), ("scope", "B"), ("index", "I")),
        ((1, "address", "ipaddr"), (2, "local", "ipaddr"), (8, "flags", "uint32"))),
    "route": Format(  # struct rtmsg
        (("family", "B"), ("to_length", "B"), ("from_length", "B"), ("tos", "B"), ("table", "B"), ("protocol", "B"), ("scope", "B"),
         ("type", "B"), ("flags", "I")),
        ((1, "to", "ipaddr"), (4, "index", "uint32"), (5, "via", "ipaddr"), (6, "metric", "uint32"), (7, "source", "ipaddr"),
         (8, "metrics", Format((), ((2, "mtu", "uint32"),))), (9, "hops", "cdata"), (15, "table", "uint32"))),
    "rule": Format(  # struct fib_rule_hdr
        (("family", "B"), ("to_length", "B"), ("from_length", "B"), ("tos", "B"), ("table", "B"), ("pad1", "B"), ("pad2", "B"),
         ("action", "B"), ("flags", "I")),
        ((1, "to", "ipaddr"), (2, "from", "ipaddr"), (3, "iif", "asciiz"), (6, "priority", "uint32"), (10, "mark", "uint32"),
         (15, "table", "uint32"), (16, "mask", "uint32"), (17, "oif", "asciiz"), (21, "protocol", "uint8"))),
    "neighbour": Format(  # struct ndmsg, also of forwarding entries
        (("family", "B"), ("pad1", "B"), ("pad2", "H"), ("index", "i"), ("state", "H"), ("flags", "B"), ("type", "B")),
        ((1, "address", "ipaddr"), (2, "mac", "l2addr"), (5, "vlan", "uint16"), (9, "master", "uint32"))),
    "qdisc": _QDISC,
}
HOP = Format((("length", "H"), ("flags", "B"), ("weight", "B"), ("index", "i")), ((5, "via", "ipaddr"),))  # struct rtnexthop


@functools.lru_cache(None)
def missing():
    """Why no message can be written, or None: whether there is a pyroute2, without importing it."""
    found = importlib.util.find_spec("pyroute2")
    if found is None and sys.flags.no_site:  # the program on the host starts without what packages have installed
        import site

        sys.path += [folder for folder in site.getsitepackages() if folder not in sys.path]
        found = importlib.util.find_spec("pyroute2")
    return None if found else "there is no Python module pyroute2"


@functools.lru_cache(None)
def _writer(kind):
    """The class of pyroute2 for one kind of message: a run sends few kinds."""
    from pyroute2.netlink import nla, nlmsg

    return FORMATS[kind].writer(kind, nlmsg, nla)


def encode(message, sequence, flags):
    """The bytes of a `netmessages.Message`."""
    written = _writer(message.kind)()
    written.update(message.fields)
    written["attrs"] = list(message.attributes)
    written["header"] = {"type": message.number, "flags": message.flags | flags, "sequence_number": sequence, "pid": 0}
    written.encode()
    return written.data
