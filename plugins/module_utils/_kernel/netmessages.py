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
import ipaddress

NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400
AF_INET, AF_INET6, AF_BRIDGE = 2, 10, 7
IFF_UP = 1


class Message:
    """One request: ``kind`` (link, address, route, rule, neighbour, qdisc) and ``type`` (RTM_*) say which.

    ``what`` says it in words, for errors (`make the veth eth0`); ``tolerated`` are the errnos that are no failure of it.
    """

    __slots__ = ("what", "kind", "type", "flags", "fields", "attributes", "tolerated")

    def __init__(self, what, kind, number, flags, fields, attributes, tolerated=()):
        self.what, self.kind, self.type, self.flags = what, kind, number, flags
        self.fields, self.attributes, self.tolerated = fields, attributes, tolerated

    def __eq__(self, other):
        return isinstance(other, Message) and all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    __hash__ = None

    def __repr__(self):
        return "Message(%s: %s %s)" % (self.what, self.fields, self.attributes)


# -- links

def new_link(name, kind, index=None, mac=None, mtu=None, up=None, group=None, master=None, parent=None, netns=None, peer=None, data=None):
    """A new link of this kind (veth, bridge, macvlan, ipvlan, vlan, vxlan, dummy, wireguard, …); EEXIST when the name is taken.

    ``index`` chooses its number, so that messages of the same batch can name it. ``parent`` is the index, in the namespace of the
    socket, of the link below; ``netns`` the descriptor of the namespace that the link is born in; ``peer`` what a veth's
    other end has of {name, index, mac, mtu, group, netns}; ``data`` what `Net.links` shows as the data of that kind, e.g.
    {"vlan_id": 5}, {"vni": 7, "remote": "192.0.2.1", "local": …, "port": 4789, "learning": True}, {"mode": "bridge"},
    {"vlan_filtering": True, "stp": False}. An alias cannot be given here, nor can a veth's peer be up: `set_link`.
    """


def set_link(link, name=None, mac=None, mtu=None, up=None, group=None, alias=None, master=None, netns=None):
    """Change a link (index or name) in place: what is not None. ``name`` renames; ``master`` 0 takes it out of its bridge;
    ``alias`` "" takes the alias away; ``netns`` moves it (addresses are lost then).
    """


def set_data(link, kind, data):
    """Change what is of a link's kind (a bridge's vlan_filtering, a vxlan's remote); the kernel refuses what only a new link can have."""


def set_port(link, **flags):
    """Change a bridge's port: isolated, locked, learning, hairpin, neigh_suppress, …: those that `Net.links` shows in `port`.

    It must be a port already (a message before this one in the same batch may have made it). Kernels ignore flags that they do not
    know (locked: Linux 5.18): those that are not in `port` of the bridge's other ports.
    """


def delete_link(link):
    """Remove a link (index or name), its peer with it. About 16 ms each; many are removed faster by their group."""


def delete_group(group):
    """Remove all links of a group (IFLA_GROUP) at once. The group must have members: ENODEV is tolerated."""


# -- addresses

def new_address(index, address, dad=True, peer=None):
    """Give a link an address, ``10.1.0.2/24`` or ``fd00::2/64``; nothing when it has it already.

    ``dad`` False: an IPv6 address that can be used at once (no duplicate address detection).
    """


def delete_address(index, address):
    """Take an address away."""


# -- routes

def new_route(to="default", via=None, index=None, family=None, source=None, metric=None, table=254, kind="unicast", mtu=None, replace=False):
    """A new route; EEXIST when there is one to the same place with the same metric and table, unless ``replace``.

    ``to`` is a network, an address or `default` (its family then follows from ``via``, else ``family`` 4 or 6); ``index`` the
    device; ``kind`` is unicast, blackhole, unreachable, prohibit, throw or local. The gateway must be reachable: the link
    is up and has its address by then (messages before this one in the same batch).
    """


def delete_route(to, via=None, index=None, family=None, metric=None, table=254, kind="unicast"):
    """Remove the route that has all this."""


# -- rules

def new_rule(family, priority, source=None, to=None, iif=None, oif=None, mark=None, table=254, action="table"):
    """A new rule of family 4 or 6 (ip-rule(8)); nothing when it is there already. ``mark`` is N or (N, mask); ``action`` is table,
    blackhole, unreachable or prohibit.
    """


def delete_rule(family, priority, source=None, to=None, iif=None, oif=None, mark=None, table=254, action="table"):
    """Remove one such rule."""


# -- neighbours and forwarding entries

def new_neighbour(index, address, mac):
    """A permanent neighbour, in the place of one that is there."""


def new_proxy(index, address):
    """Answer on that device for an address (NTF_PROXY)."""


def delete_neighbour(index, address, proxy=False):
    """Take a neighbour, or an address that is answered for, away."""


def new_fdb(index, mac, vlan=None, master=True, remote=None):
    """A static forwarding entry: at the bridge of this port, or with ``master`` False at the vxlan itself, to ``remote``."""


def delete_fdb(index, mac, vlan=None, master=True, remote=None):
    """Take a forwarding entry away."""


# -- queueing disciplines

def set_qdisc(index, kind, options=None, handle="1:", parent="root"):
    """Make a qdisc, or change it in place where one of this kind with this handle is there (tc qdisc replace).

    ``options`` are as `Net.qdiscs` shows them: tbf {rate: bytes/s, burst: bytes, limit: bytes}; netem {delay, jitter: µs,
    loss: percent, limit: packets}; others none. A qdisc below a tbf has parent `1:1`.
    """


def delete_qdisc(index, parent="root"):
    """Take a qdisc away, and those below it: the default one is there again."""
