# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What can be asked of rtnetlink(7), one function for each request: they make a `Message`, which `netlink.py: Net.send` sends.

A Message is plain data until it is sent: it can be made, compared and printed without pyroute2 and without a socket.
Those that take something away tolerate that it is not there; those that make something say so when it is there already.
A device is given by its index, and a link may be given by its name too. Descriptors of namespaces are those of `Net.fd`.
"""

from __future__ import annotations

import errno
import struct

NEWLINK, DELLINK, NEWADDR, DELADDR, NEWROUTE, DELROUTE = 16, 17, 20, 21, 24, 25
NEWNEIGH, DELNEIGH, NEWRULE, DELRULE, NEWQDISC, DELQDISC = 28, 29, 32, 33, 36, 37
REPLACE, EXCL, CREATE = 0x100, 0x200, 0x400

FAMILIES = {4: 2, 6: 10}  # AF_INET, AF_INET6
AF_BRIDGE = 7
UP = 1  # IFF_UP
ROUTE_TYPES = {"unicast": 1, "local": 2, "broadcast": 3, "blackhole": 6, "unreachable": 7, "prohibit": 8, "throw": 9}
RULE_ACTIONS = {"table": 1, "goto": 2, "nop": 3, "blackhole": 6, "unreachable": 7, "prohibit": 8}
MODES = {"macvlan": {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8, "source": 16}, "ipvlan": {"l2": 0, "l3": 1, "l3s": 2}}
ROOT = 0xFFFFFFFF  # TC_H_ROOT
TICK = 64  # ns: the unit of time that the kernel shows for qdiscs (PSCHED_SHIFT)

_NUD_NOARP, _NUD_PERMANENT = 0x40, 0x80
_NTF_SELF, _NTF_MASTER, _NTF_PROXY = 2, 4, 8
_IFA_F_NODAD = 2
_SCOPE_LINK, _SCOPE_HOST, _SCOPE_NOWHERE = 253, 254, 255
_PROTOCOL_STATIC = 4  # RTPROT_STATIC: of an administrator


class Message:
    """One request: ``kind`` (link, address, route, rule, neighbour, qdisc) and ``number`` (RTM_*) say which.

    ``what`` says it in words, for errors (`make the veth eth0`); ``tolerated`` are the errnos that are no failure of it;
    ``needs`` is the kind of link or qdisc without which the kernel cannot do it.
    """

    __slots__ = ("what", "kind", "number", "flags", "fields", "attributes", "tolerated", "needs")

    def __init__(self, what, kind, number, flags, fields, attributes, tolerated=(), needs=None):
        self.what, self.kind, self.number, self.flags = what, kind, number, flags
        self.fields, self.attributes, self.tolerated, self.needs = fields, attributes, tolerated, needs

    def __eq__(self, other):
        return isinstance(other, Message) and all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    __hash__ = None

    def __repr__(self):
        return "Message(%s: %s %s)" % (self.what, self.fields, self.attributes)


def _given(**attributes):
    return [(name, value) for name, value in attributes.items() if value is not None]


def _split(address):
    """(address, length of the prefix or None, AF_*)"""
    address, slash, length = address.partition("/")
    return address, int(length) if slash else None, FAMILIES[6 if ":" in address else 4]


# -- links

def new_link(name, kind, index=None, mac=None, mtu=None, up=None, group=None, master=None, parent=None, netns=None, peer=None, data=None):
    """A new link of this kind (veth, bridge, macvlan, ipvlan, vlan, vxlan, dummy, wireguard, …); EEXIST when the name is taken.

    ``index`` chooses its number, so that messages of the same batch can name it (EBUSY when it is taken). ``parent`` is the
    index of the link below, ``netns`` the namespace that the link is born in. ``peer``: of a veth's other end, what differs of
    {name, index, mac, mtu, group, netns}. ``data``: what `Net.links` shows as such, e.g. {"vlan_id": 5}, {"vni": 7,
    "remote": "192.0.2.1", "local": …, "port": 4789, "learning": True}, {"mode": "bridge"}, {"vlan_filtering": True}.
    An alias cannot be given here, nor can a veth be up before its peer is there: `set_link`.
    """
    info = [("kind", kind)]
    if peer is not None:
        peer = dict(peer)
        head = {"index": peer.pop("index", 0), "attrs": _given(**peer)}
        info.append(("veth", {"attrs": [("peer", head)]}))
    elif data:
        info.append((kind, {"attrs": _data(kind, data)}))
    attributes = _given(name=name, mac=mac, mtu=mtu, group=group, master=master, parent=parent, netns=netns, info={"attrs": info})
    return Message("make the %s %s" % (kind, name), "link", NEWLINK, CREATE | EXCL, _link(index, up), attributes, needs=kind)


def set_link(link, name=None, mac=None, mtu=None, up=None, group=None, alias=None, master=None, netns=None):
    """Change a link (index or name) in place: what is not None. ``name`` renames, ``master`` 0 takes it out of its bridge,
    ``alias`` "" takes the alias away, ``netns`` moves it: it is down then and has lost its addresses.
    """
    attributes = _given(name=name, mac=mac, mtu=mtu, group=group, alias=alias, master=master, netns=netns)
    index, by_name = _which(link)
    return Message("change the link %s" % link, "link", NEWLINK, 0, _link(index, up), by_name + attributes)


def set_data(link, kind, data):
    """Change what is of a link's kind, as a bridge's vlan_filtering; the kernel refuses what only a new link can have."""
    index, by_name = _which(link)
    info = {"attrs": [("kind", kind), (kind, {"attrs": _data(kind, data)})]}
    return Message("change the %s %s" % (kind, link), "link", NEWLINK, 0, _link(index), by_name + [("info", info)])


def set_port(link, **flags):
    """Change a bridge's port: isolated, locked, learning, hairpin, neigh_suppress, …: those that `Net.links` shows in `port`.

    It must be a port already; a message before this one in the same batch may have made it. Kernels ignore flags that they do
    not know (locked: Linux 5.18), and then do not show them in `port`.
    """
    index, by_name = _which(link)
    info = {"attrs": [("port_kind", "bridge"), ("port", {"attrs": [(name, int(value)) for name, value in flags.items()]})]}
    return Message("change the bridge port %s" % link, "link", NEWLINK, 0, _link(index), by_name + [("info", info)])


def delete_link(link):
    """Remove a link (index or name), its peer with it. About 16 ms each; many are removed faster by their group."""
    index, by_name = _which(link)
    return Message("remove the link %s" % link, "link", DELLINK, 0, _link(index), by_name, (errno.ENODEV,))


def delete_group(group):
    """Remove all links of a group at once."""
    return Message("remove the links of group %d" % group, "link", DELLINK, 0, _link(), [("group", group)], (errno.ENODEV,))


def _link(index=None, up=None):
    return {"index": index or 0, "flags": UP if up else 0, "change": 0 if up is None else UP}


def _which(link):
    return (link, []) if isinstance(link, int) else (0, [("name", link)])


def _data(kind, data):
    found = []
    for name, value in data.items():
        if name in ("remote", "local") and ":" in value:
            name += "6"
        if name == "mode":
            value = MODES[kind][value]
        found.append((name, int(value) if isinstance(value, bool) else value))
    return found


# -- addresses

def new_address(index, address, dad=True):
    """Give a link an address, `10.1.0.2/24` or `fd00::2/64`; nothing when it has it already.

    ``dad`` False: an IPv6 address that can be used at once (no duplicate address detection).
    """
    fields, attributes = _address(index, address)
    if not dad and fields["family"] == FAMILIES[6]:
        fields["flags"] = _IFA_F_NODAD
    return Message("add the address %s" % address, "address", NEWADDR, CREATE | REPLACE, fields, attributes)


def delete_address(index, address):
    """Take an address away. With the first of a subnet its others go, unless the link's sysctl promote_secondaries is set."""
    return Message("remove the address %s" % address, "address", DELADDR, 0, *_address(index, address), (errno.EADDRNOTAVAIL, errno.ENODEV))


def _address(index, address):
    host, length, family = _split(address)
    return {"family": family, "length": length, "index": index}, [("local", host), ("address", host)]


# -- routes

def new_route(to="default", via=None, index=None, family=None, source=None, metric=None, table=254, kind="unicast", mtu=None, replace=False):
    """A new route; EEXIST when there is one to the same place with the same metric and table, unless ``replace``.

    ``to`` is a network, an address or `default` (then ``via`` or ``family``, 4 or 6, says which); ``kind`` unicast, local,
    blackhole, unreachable, prohibit or throw. A gateway must be reachable: the link is up and has its address by then
    (messages before this one in the same batch).
    """
    fields, attributes = _route(to, via, index, family, metric, table, kind)
    fields["protocol"] = _PROTOCOL_STATIC
    if kind == "local":
        fields["scope"] = _SCOPE_HOST
    elif kind == "unicast" and via is None:
        fields["scope"] = _SCOPE_LINK
    attributes += _given(source=source, metrics=None if mtu is None else {"attrs": [("mtu", mtu)]})
    return Message("add %s" % _words(to, via, kind), "route", NEWROUTE, CREATE | (REPLACE if replace else EXCL), fields, attributes)


def delete_route(to, via=None, index=None, family=None, metric=None, table=254, kind="unicast"):
    """Remove the route that has all this."""
    fields, attributes = _route(to, via, index, family, metric, table, kind)
    fields["scope"] = _SCOPE_NOWHERE
    return Message("remove %s" % _words(to, via, kind), "route", DELROUTE, 0, fields, attributes, (errno.ESRCH, errno.ENODEV))


def _route(to, via, index, family, metric, table, kind):
    if to == "default":
        host, length, family = None, 0, _split(via)[2] if family is None else FAMILIES[family]
    else:
        host, length, family = _split(to)
        length = {2: 32, 10: 128}[family] if length is None else length
        host = host if length else None
    fields = {"family": family, "to_length": length, "table": table if table < 256 else 0, "type": ROUTE_TYPES[kind]}
    return fields, _given(to=host, via=via, index=index, metric=metric, table=table)


def _words(to, via, kind):
    return "the %sroute %s%s" % ("" if kind == "unicast" else kind + " ", to, " via " + via if via else "")


# -- rules

def new_rule(family, priority, source=None, to=None, iif=None, oif=None, mark=None, table=254, action="table"):
    """A new rule of family 4 or 6 (ip-rule(8)); nothing when it is there already.

    ``mark`` is N or (N, mask); ``action`` is table, blackhole, unreachable or prohibit.
    """
    fields, attributes = _rule(family, priority, source, to, iif, oif, mark, table, action)
    attributes.append(("protocol", _PROTOCOL_STATIC))
    return Message("add the rule %d" % priority, "rule", NEWRULE, CREATE | EXCL, fields, attributes, (errno.EEXIST,))


def delete_rule(family, priority, source=None, to=None, iif=None, oif=None, mark=None, table=254, action="table"):
    """Remove one such rule."""
    fields, attributes = _rule(family, priority, source, to, iif, oif, mark, table, action)
    return Message("remove the rule %d" % priority, "rule", DELRULE, 0, fields, attributes, (errno.ENOENT,))


def _rule(family, priority, source, to, iif, oif, mark, table, action):
    fields = {"family": FAMILIES[family], "table": table if table < 256 else 0, "action": RULE_ACTIONS[action]}
    attributes = _given(priority=priority, iif=iif, oif=oif)
    if action == "table":
        attributes.append(("table", table))
    else:
        fields["table"] = 0
    for name, length, value in (("from", "from_length", source), ("to", "to_length", to)):
        if value is not None:
            host, prefix, version = _split(value)
            fields[length] = {2: 32, 10: 128}[version] if prefix is None else prefix
            attributes.append((name, host))
    if mark is not None:
        value, mask = mark if isinstance(mark, (tuple, list)) else (mark, 0xFFFFFFFF)
        attributes += [("mark", value), ("mask", mask)]
    return fields, attributes


# -- neighbours and forwarding entries

def new_neighbour(index, address, mac):
    """A permanent neighbour, in the place of one that is there."""
    fields = {"family": _split(address)[2], "index": index, "state": _NUD_PERMANENT}
    return Message("add the neighbour %s" % address, "neighbour", NEWNEIGH, CREATE | REPLACE, fields, [("address", address), ("mac", mac)])


def new_proxy(index, address):
    """Answer on that device for an address."""
    fields = {"family": _split(address)[2], "index": index, "state": _NUD_PERMANENT, "flags": _NTF_PROXY}
    return Message("answer for %s" % address, "neighbour", NEWNEIGH, CREATE | REPLACE, fields, [("address", address)])


def delete_neighbour(index, address, proxy=False):
    """Take a neighbour, or an address that is answered for, away."""
    fields = {"family": _split(address)[2], "index": index, "flags": _NTF_PROXY if proxy else 0}
    return Message("remove the neighbour %s" % address, "neighbour", DELNEIGH, 0, fields, [("address", address)], (errno.ENOENT, errno.ENODEV))


def new_fdb(index, mac, vlan=None, master=True, remote=None):
    """A static forwarding entry: at the bridge of this port, or with ``master`` False at the link itself (a vxlan's, to ``remote``)."""
    fields, attributes = _fdb(index, mac, vlan, master, remote)
    return Message("add the forwarding entry %s" % mac, "neighbour", NEWNEIGH, CREATE | REPLACE, fields, attributes)


def delete_fdb(index, mac, vlan=None, master=True, remote=None):
    """Take a forwarding entry away."""
    fields, attributes = _fdb(index, mac, vlan, master, remote)
    return Message("remove the forwarding entry %s" % mac, "neighbour", DELNEIGH, 0, fields, attributes, (errno.ENOENT, errno.ENODEV))


def _fdb(index, mac, vlan, master, remote):
    fields = {"family": AF_BRIDGE, "index": index, "state": _NUD_NOARP, "flags": _NTF_MASTER if master else _NTF_SELF}
    return fields, _given(mac=mac, vlan=vlan, address=remote)


# -- queueing disciplines

def set_qdisc(index, kind, options=None, handle="1:", parent="root"):
    """Make a qdisc, or change it in place where one of this kind with this handle is there (one of another kind: EINVAL).

    ``options`` are as `Net.qdiscs` shows them: tbf {rate: bytes/s, burst: bytes, limit: bytes}; netem {delay, jitter: µs,
    loss: percent, limit: packets}. A qdisc below a tbf has the parent `1:1`.
    """
    attributes = [("kind", kind)]
    if options:
        attributes.append((kind, {"tbf": _tbf, "netem": _netem}[kind](**options)))
    fields = {"index": index, "handle": handle_number(handle), "parent": handle_number(parent)}
    return Message("set the qdisc %s" % kind, "qdisc", NEWQDISC, CREATE | REPLACE, fields, attributes, needs=kind)


def delete_qdisc(index, parent="root"):
    """Take a qdisc away, and those below it: the default one is there again."""
    fields = {"index": index, "parent": handle_number(parent)}
    return Message("remove the qdisc at %s" % parent, "qdisc", DELQDISC, 0, fields, [], (errno.ENOENT, errno.EINVAL, errno.ENODEV))


def same_options(wanted, found):
    """Whether a qdisc's options are those: the kernel keeps times in ticks of 64 ns and shares as a part of 2^32."""
    slack = {"burst": wanted.get("rate", 0) * 2 * TICK / 1e9 + 1, "loss": 1e-6, "delay": 0.1, "jitter": 0.1}
    return all(name in found and abs(found[name] - value) <= slack.get(name, 0) for name, value in wanted.items())


def handle_number(handle):
    """The number of `1:`, `1:2` or `root`."""
    if handle == "root":
        return ROOT
    major, dummy, minor = handle.partition(":")
    return int(major, 16) << 16 | int(minor or "0", 16)


def _tbf(rate, burst, limit):
    # The kernel takes the times from rate and burst where these are given, and the link layer 1 (Ethernet) needs no table.
    base = struct.pack("=BBHhHI", 0, 1, 0, 0, 0, min(rate, 0xFFFFFFFF))
    parameters = base + bytes(12) + struct.pack("=III", limit, 0, 0)
    attributes = [("parameters", parameters), ("burst", burst)]
    if rate > 0xFFFFFFFF:
        attributes.insert(0, ("rate64", rate))
    return {"attrs": attributes}


def _netem(delay=0, jitter=0, loss=0, limit=1000):
    ticks = {name: min(int(value * 1000 // TICK), 0xFFFFFFFF) for name, value in (("latency", delay), ("jitter", jitter))}
    attributes = [("latency64", int(delay * 1000)), ("jitter64", int(jitter * 1000))]
    return dict(ticks, limit=limit, loss=round(loss / 100 * 0xFFFFFFFF), attrs=attributes)
