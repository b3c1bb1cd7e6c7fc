# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a network and a member of one are in the firewall: elements of the sets and maps of the table `inet bulkhead`.

Elements are `{set: {value: data}}`: ``value`` a tuple of what the set's type joins (texts, numbers, of an interval a pair of
numbers), ``data`` the same of a map, and None of a set. nft knows an element by its value; which of them is whose stands in a
comment, the **owner**: the network's name, or `NAMESPACE/INTERFACE`. What the sets mean is in `_resources/_skeleton.py`.
Addresses, subnets, MACs, devices and ports are in the normal forms of `addresses.py`.
"""

from __future__ import annotations

from . import addresses
from .errors import BulkheadError

HOST = "*"  # the owner of what belongs to the host, not to one network: the set `opened`. It is in no name's alphabet.
PROTOCOLS = {"tcp": 6, "udp": 17}  # as numbers, so that nft asks for no /etc/protocols


class Net:
    """A network: ``reaches`` and ``uplink`` are names of devices (of the bridges of the networks whose members its members may
    open connections to; of the one way out, None for any); ``host_services`` [(protocol, first port, last port)].
    """

    def __init__(self, name, bridge, masquerade=True, internal=False, uplink=None, reaches=(), inter_sandbox=True, antispoof=True,
                 host_services=()):
        self.owner = self.name = name
        self.bridge, self.uplink, self.reaches = bridge, uplink, reaches
        self.masquerade, self.internal = masquerade, internal
        self.inter_sandbox, self.antispoof = inter_sandbox, antispoof
        self.host_services = host_services

    def elements(self):
        """{set: {value: data}}"""
        raise NotImplementedError


class Member:
    """An interface on a network. ``addresses`` without prefix lengths; ``publish`` [(host address or None, host port, port, protocol)],
    each a single port, ranges spread out; ``allow`` None where all may leave (egress policy allow), else the list of what may:
    [(subnet or address, protocol or None, (first, last) port or None)].

    A host address of None is every one of the host; `0.0.0.0` and `::` are every one of that family.
    """

    def __init__(self, owner, mac, addresses, publish=(), allow=None):
        self.owner, self.mac, self.addresses = owner, mac, addresses
        self.publish, self.allow = publish, allow

    def elements(self):
        """{set: {value: data}}. Raises BulkheadError where a published address has no address of its family to go to."""
        raise NotImplementedError
