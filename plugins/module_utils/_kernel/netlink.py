# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""rtnetlink(7): links, addresses, routes, rules, neighbours and queueing disciplines of a network namespace.

    with netlink.open(pin) as net:
        found = net.links()
        net.send([netmessages.set_link("eth0", up=True), …])

One plain socket for each namespace, made inside it and used from outside. pyroute2 is needed for its message classes only, which
encode and decode; it is imported by the first `open` (0.2 s). See docs/decisions/netlink-is-a-plain-socket.md.
"""

from __future__ import annotations


class NetlinkError(OSError):
    """The kernel's refusal of a message: errno, and its own words where it gives some.

    ``what`` says what was asked for, ``message`` is that Message, ``kind`` the kind of the link or qdisc in it (None: another
    message): `unsupported` is whether the kernel lacks that kind. ``failed`` are the errors of all messages of the batch, this first.
    """


def open(path=None, proc="/proc"):  # pylint: disable=redefined-builtin
    """A `Net` on the namespace pinned at ``path``, or the caller's own; BulkheadError where there is no usable pyroute2."""


class Net:
    """A socket in one network namespace. ``fd`` is a descriptor of the namespace itself."""

    def send(self, messages):
        """Send messages, as many at once as fit. The kernel takes each by itself: those after a refused one are carried out too.

        Raises NetlinkError for the first that was refused and not tolerated.
        """

    def links(self):
        """[{index, name, kind, mac, mtu, up, carrier, master, parent, parent_netnsid, group, alias, port, data}]

        ``kind`` is None for a physical device and `loopback` for lo; ``parent`` the index of the link below or of the veth's peer, in
        the namespace ``parent_netnsid`` where that is not None; ``port`` {isolated, locked, learning, hairpin, …} of a bridge's
        port, else None; ``data`` what is of its kind. See `netmessages.new_link`.
        """

    def link(self, link):
        """One of these, by index or name, or None."""

    def addresses(self):
        """[{index, family: 4 or 6, address: '10.1.0.2/24', permanent, scope, peer, tentative, failed (duplicate)}]"""

    def routes(self):
        """[{to: CIDR or 'default', family, via, index, source, metric, table, type, protocol, scope, mtu, hops}]

        Without those of the table `local` and of multicast, which the kernel keeps itself. ``protocol`` 2 are the kernel's own.
        ``hops`` is None, or [{via, index, weight}] of a route with several.
        """

    def rules(self):
        """[{family, priority, from, to, iif, oif, mark: N or (N, mask) or None, table, action, protocol}]"""

    def neighbours(self):
        """[{index, family, address, mac, state: permanent, noarp, reachable, …, proxy}]: the permanent ones, and what is answered for."""

    def fdb(self, master=None):
        """[{index, mac, vlan, master, static, self, remote}] of all bridges and vxlans, or of one bridge (its index)."""

    def qdiscs(self):
        """[{index, kind, handle: '1:', parent: 'root' or '1:1', options, stats: {bytes, packets, drops, overlimits}}]

        Those that somebody has set: not the default ones, whose handle is 0.
        """

    def close(self):
        """Close the socket; `with` does it."""

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()
