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
    open connections to; of the one way out, None for any); ``inward`` are those of ``reaches`` that are internal: their members have
    no way back, and so see the gateway instead. ``host_services`` [(protocol, first port, last port)].
    """

    def __init__(self, name, bridge, subnets, masquerade=True, internal=False, uplink=None, reaches=(), inter_sandbox=True, antispoof=True,
                 host_services=(), inward=()):
        self.owner = self.name = name
        self.bridge, self.subnets, self.uplink, self.reaches = bridge, subnets, uplink, reaches
        self.masquerade, self.internal = masquerade, internal
        self.inter_sandbox, self.antispoof = inter_sandbox, antispoof
        self.host_services, self.inward = host_services, inward

    def elements(self):
        """{set: {value: data}}"""
        me = (self.bridge,)
        found = {"bridges": {me: None}}
        for subnet in self.subnets:
            _put(found, "hairpin%d" % addresses.family(subnet), [me + (subnet,)])
        pairs = [me + (other,) for other in self.reaches]
        if self.inter_sandbox:
            pairs.append(me + me)
        _put(found, "pairs", pairs)
        _put(found, "inward", [me + (other,) for other in self.inward])
        if not self.internal:
            _put(found, "outward", [me] if self.uplink is None else ())
            _put(found, "uplinks", [me + (self.uplink,)] if self.uplink is not None else ())
            _put(found, "masquerade", [me] if self.masquerade else ())
        _put(found, "guarded", [me] if self.antispoof else ())
        services = [(protocol, (first, last)) for protocol, first, last in self.host_services]
        _put(found, "services", [me + (PROTOCOLS[protocol], _range(ports)) for protocol, ports in sorted(_disjoint(services))])
        return found


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
        found = {}
        for address in self.addresses:
            family = addresses.family(address)
            _put(found, "members%d" % family, [(self.mac, address)])
            if self.allow is not None:
                _put(found, "egress%d" % family, [(address,)])
                _put(found, "allow%d" % family, [(address, protocol, target, _range(ports))
                                                 for protocol, target, ports in _allowed(self.allow, family)])
                _put(found, "allow_any%d" % family, [(address, target) for target in _outermost(
                    _plain(target) for target, protocol, ports in self.allow
                    if protocol is None and ports is None and addresses.family(target) == family)])
        for host_address, host_port, port, protocol in self.publish:
            self._publish(found, host_address, (PROTOCOLS[protocol], host_port), port)
        return found

    def _publish(self, found, host_address, host, port):
        wanted = (4, 6) if host_address is None else (addresses.family(host_address),)
        own = {addresses.family(address): address for address in reversed(self.addresses)}  # the first of each family
        if not own.keys() & set(wanted):
            raise BulkheadError("Cannot publish port %d of %s: it has no IPv%s address. Give it one, or publish it on another "
                                "address of the host." % (host[1], self.owner, " or IPv".join(map(str, wanted))))
        for family in wanted:
            if family in own:
                every = host_address in (None, "0.0.0.0", "::")
                name = "publish_any" if every else "publish"
                key = host if every else (host_address,) + host
                found.setdefault("%s%d" % (name, family), {})[key] = (own[family],)
                found.setdefault("%s_port%d" % (name, family), {})[key] = (port,)


def published(elements):
    """{(family, host address or "" for all, protocol's number, port): (address, port)} of what is published by these elements."""
    found = {}
    if not any(name.startswith("publish") for name in elements):  # as most have it
        return found
    for family in (4, 6):
        for name in ("publish", "publish_any"):
            ports = elements.get("%s_port%d" % (name, family), {})
            for value, address in elements.get("%s%d" % (name, family), {}).items():
                found[(family, value[0] if name == "publish" else "") + value[-2:]] = address + ports.get(value, (None,))
    return found


def _put(found, name, keys):
    if keys:
        found.setdefault(name, {}).update(dict.fromkeys(keys))


def _allowed(allow, family):
    """[(protocol, subnet, (first, last) port)] that do not overlap, of what names a protocol or a port."""
    wanted = {}
    for target, protocol, ports in allow:
        if addresses.family(target) == family and (protocol is not None or ports is not None):
            for word in (protocol,) if protocol else PROTOCOLS:
                wanted.setdefault(PROTOCOLS[word], []).append((_plain(target), ports or (0, 65535)))
    return [(protocol,) + each for protocol, rules in wanted.items() for each in _disjoint(rules, _outermost)]


def _disjoint(rules, reduce=set):
    """The same [(key, (first, last))] without overlaps, which an interval set refuses; ``reduce`` takes out keys that others contain."""
    cuts = sorted({first for key, (first, last) in rules} | {last + 1 for key, (first, last) in rules})
    found, begun = [], {}
    for here in cuts:
        keys = reduce(key for key, (first, last) in rules if first <= here <= last)
        found += [(key, (begun.pop(key), here - 1)) for key in list(begun) if key not in keys]
        begun.update((key, here) for key in keys if key not in begun)
    return found


def _outermost(subnets):
    """Without those that another one contains."""
    found = []
    for subnet in sorted(set(subnets), key=lambda subnet: addresses.split(subnet)[2]):
        if not any(addresses.contains(other, subnet) for other in found):
            found.append(subnet)
    return found


def _plain(target):
    """A subnet of one address as that address, as nft lists it."""
    family, value, length = addresses.split(target)
    return addresses.show(family, value) if length == addresses.BITS[family] else target


def _range(ports):
    """One port as a number, as nft lists it."""
    return ports[0] if ports[0] == ports[1] else ports
