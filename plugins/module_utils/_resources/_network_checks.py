# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What stands against a network, refused before anything is touched: what others have, and what the host does not have."""

from __future__ import annotations

from .._kernel import built
from .._model import addresses
from .._model.errors import BulkheadError
from . import _bridge, _hostnet, _rules


def check(host, spec, recorded, found, others, plan):
    """``spec`` is the whole; ``recorded`` what was declared before or None; ``others`` {name: whole} of the other networks."""
    verb = "change" if recorded or found.ours else "create"
    if spec.subnets is None:
        raise BulkheadError("Cannot %s network %s: it has no subnet. Name at least one in subnets, such as 10.42.0.0/24." % (verb, spec.name))
    for other in others.values():
        if other.device == spec.device:
            raise BulkheadError("Cannot %s network %s: the bridge %s is that of network %s. Name another in device." % (
                verb, spec.name, spec.device, other.name), network=other.name)
        for subnet, gateway in other.subnets or ():
            mine = next((each for each, own in spec.subnets if addresses.overlap(subnet, each)), None)
            if mine is not None:
                raise BulkheadError("Cannot %s network %s: its subnet %s overlaps %s of network %s. Use another one." % (
                    verb, spec.name, mine, subnet, other.name), network=other.name)
    known = {each.get("subnet") for each in (recorded or {}).get("subnets") or () if isinstance(each, dict)}
    known.update(addresses.subnet_of(address) for address in found.addresses)
    _device(host, spec, found, verb)
    _subnets_of_host(host, spec, known, found, verb, plan)
    _uplink(host, spec, recorded, others, verb, plan)
    _kernel(host, spec, found, verb)
    if recorded or found.ours:
        _members(host, spec, known, found)


def _device(host, spec, found, verb):
    _bridge.refuse_foreign(spec, found, spec.device, verb)
    there = _hostnet.links(host).get(spec.device)
    if found.link is not None and there is not None and there["index"] != found.link["index"]:
        raise BulkheadError("Cannot change network %s: its bridge is %s, and cannot be called %s as long as there is another device of that "
                            "name. Rename that, or name another in device." % (spec.name, found.link["name"], spec.device))


def _subnets_of_host(host, spec, known, found, verb, plan):
    """What the host can reach already. Of a subnet that is ours since long it is a warning: somebody else came later."""
    own = found.link and found.link["index"]
    names = {link["index"]: name for name, link in _hostnet.links(host).items()}
    others = [(addresses.subnet_of(each["address"]), "the address %s of %s" % (each["address"], names.get(each["index"], "a device")))
              for each in _hostnet.addresses(host) if each["index"] != own]
    others += [(each["to"], "a route of the host%s" % (", by " + names[each["index"]] if each["index"] in names else ""))
               for each in _hostnet.routes(host) if each["to"] != "default" and (each["index"] is None or each["index"] != own)]
    for subnet, gateway in spec.subnets:
        other = next((each for each in others if addresses.overlap(subnet, each[0])), None)
        if other is None:
            continue
        text = "%s overlaps %s, %s" % (subnet, other[0], other[1])
        if subnet in known or spec.force:
            plan.warn("The subnet of network %s: %s." % (spec.name, text))
        else:
            raise BulkheadError("Cannot %s network %s: its subnet %s. Use another one, or set force: true where that is meant." % (
                verb, spec.name, text), subnet=subnet)


def _uplink(host, spec, recorded, others, verb, plan):
    if spec.uplink is None:
        return
    other = next((each for each in others.values() if each.device == spec.uplink), None)
    if other is not None:
        raise BulkheadError("Cannot %s network %s: its uplink %s is the bridge of network %s. To open that one to it, use reaches." % (
            verb, spec.name, spec.uplink, other.name))
    if spec.uplink in _hostnet.links(host):
        return
    text = "there is no device %s, its uplink" % spec.uplink
    if (recorded or {}).get("uplink") != spec.uplink:
        raise BulkheadError("Cannot %s network %s: %s. Name one that is there, or leave uplink out." % (verb, spec.name, text))
    plan.warn("Network %s has no way out: %s." % (spec.name, text))  # at boot it may come after us


def _kernel(host, spec, found, verb):
    if 6 in spec.families and not _bridge.has_ipv6(host):
        raise BulkheadError("Cannot %s network %s: this host has no IPv6. Leave its IPv6 subnets out, or boot without ipv6.disable=1." % (
            verb, spec.name))
    if found.link is None and built.lacks("BRIDGE", "bridge"):
        raise BulkheadError("Cannot create network %s: this kernel has no bridges. Use one with the module bridge." % spec.name)
    if spec.vlan_filtering and not (found.link and found.link["data"].get("vlan_filtering")) and built.lacks("BRIDGE_VLAN_FILTERING"):
        raise BulkheadError("Cannot %s network %s: this kernel was built without vlan_filtering (CONFIG_BRIDGE_VLAN_FILTERING). Leave it out, "
                            "or use another kernel." % (verb, spec.name))


def _members(host, spec, known, found):
    """What would pull the floor from under members."""
    for subnet in sorted(known.difference(each for each, gateway in spec.subnets)):
        inside = sorted({owner for address, owner in _rules.used(host).addresses.items() if addresses.contains(subnet, address)})
        if inside:
            raise BulkheadError("Cannot remove subnet %s of network %s: %s %s in it. Give %s another address first." % (
                subnet, spec.name, _some(inside), "has an address" if len(inside) == 1 else "have addresses",
                "it" if len(inside) == 1 else "them"), members=inside)
    held = sorted(owner for owner, elements in _rules.owners(host).items()
                  if owner in found.members() and ("egress4" in elements or "egress6" in elements))
    if held and not spec.routed:
        raise BulkheadError("Cannot change mode of network %s to bridged: the egress policy of %s needs routed. Take that back first." % (
            spec.name, _some(held)), members=held)


def residents(spec, found):
    """Refuse to remove a network from under those who are on it."""
    there = found.residents()
    if there and not spec.force:
        raise BulkheadError("Cannot remove network %s: %s %s on it. Remove %s first, or set force: true." % (
            spec.name, _some(there), "is" if len(there) == 1 else "are", "that" if len(there) == 1 else "those"), members=there)


def _some(names):
    return ", ".join(names[:5]) + (" and %d more" % (len(names) - 5) if len(names) > 5 else "")
