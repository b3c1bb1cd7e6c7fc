# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which addresses the interfaces on networks get that declare none: the same at each making, without a daemon.

The one that was recorded stays; else the one that the link has (of a run that was killed before it wrote that down); else it is the
first free one from where the name of the interface leads to in the subnet. Who has which address the firewall knows
(`_rules.py: used`), and the records of those that are not there now.
"""

from __future__ import annotations

import hashlib

from .._model import addresses
from .._model.errors import BulkheadError
from . import _rules

NOUN = "allocation"  # of the records: {"addresses": [with prefix]}


def allocate(host, specs, found, others):
    """Fill in ``resolved`` of all Specs; where that cannot be, ``trouble`` is the error. Declared addresses go before others.

    ``found(spec)`` is what there is of it (`_links.py: Found`); ``others()`` are the Specs of the records, for who is not there now.
    """
    if not specs:
        return
    mine = {spec.key for spec in specs}
    taken = {address: owner for address, owner in _rules.used(host).addresses.items() if owner not in mine}
    waiting = []
    for spec in specs:
        spec.resolved = list(spec.addresses or ())
        for each in spec.resolved:
            taken.setdefault(each.partition("/")[0], spec.key)
        if spec.addresses is None and spec.net is not None:
            waiting += [(spec, subnet, gateway) for subnet, gateway in spec.net.subnets]
    fresh = []
    for spec, subnet, gateway in waiting:
        known = next((each for each in _known(host, spec, found) if each.partition("/")[2] == subnet.partition("/")[2]
                      and addresses.contains(subnet, each.partition("/")[0])
                      and taken.get(each.partition("/")[0], spec.key) == spec.key and each.partition("/")[0] != gateway), None)
        if known is None:
            fresh.append((spec, subnet, gateway))
        else:
            taken[known.partition("/")[0]] = spec.key
            spec.resolved.append(known)
    if fresh:
        for other in others():
            for each in other.resolved or ():
                taken.setdefault(each.partition("/")[0], other.key)
    for spec, subnet, gateway in fresh:
        address = _free(spec.key, subnet, gateway, taken)
        if address is None:
            spec.trouble = BulkheadError("Cannot give interface %s an address: all of %s are taken. Give the network %s another subnet, or "
                                         "declare addresses." % (spec.key, subnet, spec.network))
            continue
        taken[address] = spec.key
        spec.resolved.append("%s/%s" % (address, subnet.partition("/")[2]))
    for spec in {spec.key: spec for spec, subnet, gateway in waiting}.values():
        order = [subnet for subnet, gateway in spec.net.subnets]
        spec.resolved.sort(key=lambda each, order=order: order.index(addresses.subnet_of(each)))


def recorded(host, key):
    """The addresses that were allocated, or []."""
    return (host.records.options(NOUN, key) or {}).get("addresses") or []


def _known(host, spec, found):
    """The addresses that it may already have, the surest first."""
    yield from recorded(host, spec.key)
    now = found(spec)
    if now.end is not None:
        yield from sorted(each["address"] for each in now.space.addresses if each["index"] == now.link["index"] and each["permanent"])


def _free(key, subnet, gateway, taken):
    """The first free address of a subnet, from where the key leads to."""
    family = addresses.family(subnet)
    first, last = addresses.usable(subnet)
    count = last - first + 1
    start = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % count
    for step in range(min(count, len(taken) + 2)):
        address = addresses.show(family, first + (start + step) % count)
        if address not in taken and address != gateway:
            return address
    return None
