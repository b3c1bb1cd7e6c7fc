# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The end of a veth that stays on the host: on which bridge it is, and what the bridge lets through to it and from it.

With antispoof a port is locked: the bridge takes from it only what comes from the MAC that a static entry names (Linux 5.18). Ports
whose members are not to reach each other, or only through the host's rules (mode routed), are isolated; then the bridge answers for
the IPv6 addresses of members itself, as it does for IPv4's by proxy_arp_pvlan. Who asks for a port that it has published itself gets
its own frame back (hairpin), where br_netfilter rewrites it within the bridge. And with antispoof the host itself is not told by ARP who has
which address: it knows by permanent neighbours, so that nobody gets what is published for another.
"""

from __future__ import annotations

from .._kernel import netmessages as nm
from .._model import addresses
from .._model.interface import host_end
from . import _hostnet
from ._link_changes import Change


def changes(host, spec, end, outer, bridge, mac, mtu):
    """Changes on the host's side. ``end`` is the link as it is (None: it is yet to be made), ``outer`` its index, ``bridge`` the link that it
    is to be on, ``mac`` the address inside, ``mtu`` that of both ends, where it is to be a certain one."""
    found = []
    if end is not None and mtu not in (None, end["mtu"]):
        found.append(_change("set mtu of the host's end of %s" % spec.key, "host_end.mtu", end["mtu"], mtu, [nm.set_link(outer, mtu=mtu)],
                             [nm.set_link(outer, mtu=end["mtu"])]))
    if end is not None and bridge is not None and end["master"] != bridge["index"]:
        by_index = {link["index"]: link["name"] for link in _hostnet.links(host).values()}
        found.append(_change("put %s on bridge %s" % (spec.key, bridge["name"]), "bridge", by_index.get(end["master"]), bridge["name"],
                             [nm.set_link(outer, master=bridge["index"])], [nm.set_link(outer, master=end["master"] or 0)]))
    moved = any(change.key == "bridge" for change in found)
    if spec.net is not None:
        found += _flags(spec, end, outer, moved) + _entries(host, spec, end, outer, mac, moved) + _answers(host, spec, bridge, mac)
    if end is not None and end["name"] == host_end(spec.key) and end["alias"] != _hostnet.MARK + spec.key:
        found.append(_change("mark %s" % spec.key, "mark", end["alias"], _hostnet.MARK + spec.key,
                             [nm.set_link(outer, alias=_hostnet.MARK + spec.key)], None))
    if end is None or not end["up"]:  # last: by then it is as it should be
        found.append(_change("bring up the host's end of %s" % spec.key, "host_end", None if end is None else "down", "up",
                             [nm.set_link(outer, up=True)], [nm.set_link(outer, up=False)]))
    return found


def removal(host, spec, mac):
    """Messages that take away from the bridge what does not go with the port. ``spec`` is as it was recorded."""
    bridge = _hostnet.links(host).get(spec.net.device) if spec.net is not None else None
    if bridge is None:
        return []
    there = _neighbours(host, bridge)
    return [nm.delete_neighbour(bridge["index"], address) for address in there.by_mac.get(mac, ())] + [
        nm.delete_neighbour(bridge["index"], address, proxy=True) for address in _bare(spec) if address in there.proxies]


def _change(words, key, before, after, forth, back):
    return Change(words, key, before, after, lambda unused: forth, back and (lambda unused: back), outside=True)


def _flags(spec, end, outer, moved):
    """Flags that the kernel does not know are not shown by it, and then not asked for."""
    wanted = {"isolated": spec.net.routed or not spec.net.inter_sandbox, "locked": spec.net.antispoof, "hairpin": bool(spec.publish)}
    shown = (end["port"] if end is not None else None) or {}
    if end is None or moved:  # a new port has none
        asked = {name: value for name, value in wanted.items() if value}
    else:
        asked = {name: value for name, value in wanted.items() if name in shown and shown[name] != value}
    if not asked:
        return []
    before = None if end is None else {name: shown.get(name, False) for name in asked}
    return [_change("set %s of the port of %s" % (", ".join(sorted(asked)), spec.key), "port", before, asked,
                    [nm.set_port(outer, **asked)], [nm.set_port(outer, **{name: not value for name, value in asked.items()})])]


def _entries(host, spec, end, outer, mac, moved):
    """The static entries of a locked port: its own MAC, and no other."""
    if not spec.net.antispoof:
        return []
    there = set()
    if end is not None and not moved:
        there = host.cached("fdb", lambda: _read_entries(host)).get(end["index"], there)
    found = []
    if mac not in there:
        found.append(_change("let %s send from %s" % (spec.key, mac), "fdb", sorted(there) or None, [mac], [nm.new_fdb(outer, mac)],
                             [nm.delete_fdb(outer, mac)]))
    for other in sorted(there - {mac}):
        found.append(_change("let %s not send from %s" % (spec.key, other), "fdb", sorted(there), [mac], [nm.delete_fdb(outer, other)],
                             [nm.new_fdb(outer, other)]))
    return found


def _read_entries(host):
    """{index of a port: the MACs of its static entries}"""
    found = {}
    for entry in _hostnet.read(host, "fdb"):
        if entry["static"] and entry["master"] is not None and not entry["local"]:
            found.setdefault(entry["index"], set()).add(entry["mac"])
    return found


def _answers(host, spec, bridge, mac):
    """The bridge's neighbours: those that the host knows by, and in mode routed those that it answers for."""
    if bridge is None:
        return []
    index, found, there = bridge["index"], [], _neighbours(host, bridge)
    now, former = _bare(spec), _bare(spec.former) if spec.former is not None else []
    mine = now if spec.net.antispoof else []
    for address in mine:
        old = there.known.get(address)
        if old != mac:
            back = nm.new_neighbour(index, address, old) if old else nm.delete_neighbour(index, address)
            found.append(_change("know %s by %s" % (spec.key, address), "neighbour", old, mac, [nm.new_neighbour(index, address, mac)], [back]))
    for address in dict.fromkeys(former + there.by_mac.get(mac, [])):
        if address not in mine and address in there.known:
            old = there.known[address]
            found.append(_change("do not know %s by %s" % (spec.key, address), "neighbour", old, None, [nm.delete_neighbour(index, address)],
                                 [nm.new_neighbour(index, address, old)]))
    wanted = [address for address in now if addresses.family(address) == 6] if spec.net.routed else []
    for address in dict.fromkeys(wanted + former):
        if (address in wanted) != (address in there.proxies):
            forth, back = [nm.new_proxy(index, address)], [nm.delete_neighbour(index, address, proxy=True)]
            if address in wanted:
                found.append(_change("answer for %s of %s" % (address, spec.key), "answered", None, address, forth, back))
            else:
                found.append(_change("do not answer for %s of %s" % (address, spec.key), "answered", address, None, back, forth))
    return found


class _Neighbours:
    """Of a bridge: ``known`` {address: MAC} of the permanent ones, ``by_mac`` {MAC: [address]}, ``proxies``: what it answers for."""

    def __init__(self):
        self.known, self.by_mac, self.proxies = {}, {}, set()


def _neighbours(host, bridge):
    return host.cached("host's neighbours", lambda: _read_neighbours(host)).get(bridge["index"]) or _Neighbours()


def _read_neighbours(host):
    found = {}
    for each in _hostnet.read(host, "neighbours"):
        there = found.setdefault(each["index"], _Neighbours())
        if each["proxy"]:
            there.proxies.add(each["address"])
        else:
            there.known[each["address"]] = each["mac"]
            there.by_mac.setdefault(each["mac"], []).append(each["address"])
    return found


def _bare(spec):
    return [each.partition("/")[0] for each in spec.resolved]
