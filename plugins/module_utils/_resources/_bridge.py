# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The bridge of a network: found, made, mended in place. Its mark is its ifalias, its identity in the claim the number of the link.

A bridge takes on the lowest MAC of its ports unless it was given one (and udev gives it one of its own choice unless it was made
with it), so ours is made with an address that follows from the network's name: members keep their gateway in mind by it.
"""

from __future__ import annotations

from .._kernel import netmessages
from .._model import addresses
from .._model.errors import BulkheadError
from . import _hostnet

NOUN = "network"


def alias(name):
    """What the bridge of a network is marked with."""
    return "%snetwork %s" % (_hostnet.MARK, name)


class Found:
    """A network's bridge as it is. ``link`` is None when there is none; ``ours``: did we make it, or were we about to?"""

    __slots__ = ("name", "link", "ours", "addresses", "ports")

    def __init__(self, host, name, device):
        links = _hostnet.links(host)
        claim = host.claims.read(NOUN, name)
        identity = claim and claim.get("identity")
        marked = [link for link in links.values() if link["alias"] == alias(name) or identity == {"index": link["index"]}]
        self.name, self.link = name, marked[0] if marked else links.get(device)
        self.ours = bool(marked) or claim is not None and identity is None and self.link is not None and self.link["kind"] == "bridge"
        index = self.link and self.link["index"]
        self.addresses = [each["address"] for each in _hostnet.addresses(host)
                          if each["index"] == index and each["permanent"] and each["scope"] == "global"]
        self.ports = [link for link in links.values() if link["master"] == index] if index else []

    def members(self):
        """{NAMESPACE/INTERFACE: port} of the interfaces of ours that are on it."""
        return {_hostnet.member(port): port for port in self.ports if _hostnet.member(port)}

    def residents(self):
        """The names of all who are on it; of somebody else's port that of its device."""
        return sorted(_hostnet.member(port) or port["name"] for port in self.ports)


def refuse_foreign(spec, found, device, verb):
    """Somebody else's device has the name of ours."""
    link = found.link
    if link is None or found.ours or spec.force and link["kind"] == "bridge":
        return
    if link["kind"] != "bridge":
        raise BulkheadError("Cannot %s network %s: there is a device %s already, which is no bridge but %s. Name another in device." % (
            verb, spec.name, device, "a " + link["kind"] if link["kind"] else "a card of the host"), device=device)
    raise BulkheadError("Cannot %s network %s: there is a bridge %s already, which was made by somebody else. Name another in device, or set "
                        "force: true to take it over." % (verb, spec.name, device), device=device)


# -- made and removed

def plan_create(host, spec, plan):
    """A new one, which is up when all of it is there."""
    for key, value in [("device", spec.device), ("subnets", subnets(spec.gateways))] + [
            (key, getattr(spec, key)) for key in ("mtu", "vlan_filtering") if getattr(spec, key) is not None]:
        plan.differ(key, None, value)
    plan.add("create bridge %s of network %s" % (spec.device, spec.name), lambda: _create(host, spec), lambda: _remove(host, spec.name, spec.device))


def plan_remove(host, spec, found, plan):
    """Its ports stay where they are, and lead nowhere."""
    device = found.link["name"]
    plan.differ("device", device, None)
    plan.differ("subnets", subnets(found.addresses), None)
    plan.add("remove bridge %s of network %s" % (device, spec.name), lambda: _remove(host, spec.name, found.link["index"]))


def _create(host, spec):
    host.claims.begin(NOUN, spec.name)
    data = {"vlan_filtering": True} if spec.vlan_filtering else None
    try:
        _hostnet.send(host, [netmessages.new_link(spec.device, "bridge", mac=mac(spec), mtu=spec.mtu, data=data),
                             netmessages.set_link(spec.device, alias=alias(spec.name))])
        index = _hostnet.links(host)[spec.device]["index"]
        host.claims.complete(NOUN, spec.name, {"index": index})
        _set_sysctls(host, spec.device, _sysctls(host, spec))
        _hostnet.send(host, [_address(index, address) for address in spec.gateways] + [netmessages.set_link(index, up=True)])
    except OSError as exc:
        _remove(host, spec.name, spec.device)
        if getattr(exc, "lacks", None):
            raise BulkheadError("Cannot create network %s: this kernel has no bridges. Load the module bridge, or use a kernel that has it." % (
                spec.name)) from exc
        raise


def _remove(host, name, link):
    _hostnet.send(host, [netmessages.delete_link(link)])
    host.claims.drop(NOUN, name)


def _address(index, address):
    return netmessages.new_address(index, address, dad=False)


def mac(spec):
    """The bridge's address."""
    return addresses.derived_mac("network " + spec.name)


# -- mended in place

def plan_changes(host, spec, found, used, plan):
    """What of it is not as declared. ``used``: what the firewall knows of the members (`_rules.py: Used`)."""
    link = found.link
    index = link["index"]

    def change(key, words, before, after, act):
        plan.differ(key, before, after)
        plan.add("%s of network %s" % (words, spec.name), lambda: act(after), lambda: act(before))

    if not found.ours or link["alias"] != alias(spec.name):
        change("mark", "mark bridge %s" % spec.device, link["alias"], alias(spec.name), lambda value: _mark(host, spec.name, index, value))
    if link["name"] != spec.device:
        change("device", "rename bridge %s" % link["name"], link["name"], spec.device, lambda value: _rename(host, spec, index, value))
    if link["mac"] != mac(spec):
        change("mac", "set mac", link["mac"], mac(spec), lambda value: _hostnet.send(host, [netmessages.set_link(index, mac=value)]))
    if spec.mtu not in (None, link["mtu"]):
        change("mtu", "set mtu", link["mtu"], spec.mtu, lambda value: _hostnet.send(host, [netmessages.set_link(index, mtu=value)]))
    filters = bool(link["data"].get("vlan_filtering"))
    if spec.vlan_filtering not in (None, filters):
        change("vlan_filtering", "set vlan_filtering", filters, spec.vlan_filtering,
               lambda value: _hostnet.send(host, [netmessages.set_data(index, "bridge", {"vlan_filtering": value})]))
    wrong = {word: (_hostnet.sysctl(host, _key(link["name"], word)), value) for word, value in _sysctls(host, spec).items()}
    wrong = {word: pair for word, pair in wrong.items() if pair[0] != pair[1]}
    if wrong:
        change("sysctls", "set sysctls", {word: pair[0] for word, pair in wrong.items()}, {word: pair[1] for word, pair in wrong.items()},
               lambda values: _set_sysctls(host, spec.device, values))
    if set(found.addresses) != set(spec.gateways):
        change("subnets", "set gateways", found.addresses, spec.gateways, lambda value: _set_addresses(host, index, value))
        plan.differ("subnets", subnets(found.addresses), subnets(spec.gateways))
    if not link["up"]:
        change("up", "bring up bridge %s" % spec.device, False, True, lambda value: _hostnet.send(host, [netmessages.set_link(index, up=value)]))
    if found.members():
        _plan_ports(host, spec, found, used, change, plan)


def _mark(host, name, index, value):
    _hostnet.send(host, [netmessages.set_link(index, alias=value or "")])
    if value:
        host.claims.complete(NOUN, name, {"index": index})
    else:
        host.claims.drop(NOUN, name)


def _rename(host, spec, index, device):
    """Only what is down can be renamed everywhere, and with that its IPv6 addresses go."""
    _hostnet.send(host, [netmessages.set_link(index, up=False), netmessages.set_link(index, name=device), netmessages.set_link(index, up=True)]
                  + [_address(index, address) for address in spec.gateways])


def _set_addresses(host, index, wanted):
    """All that is wanted is given again at last: an IPv4 address that goes takes those of the same subnet along."""
    now = [each["address"] for each in _hostnet.addresses(host) if each["index"] == index and each["permanent"] and each["scope"] == "global"]
    gone = [address for address in now if address not in wanted]
    _hostnet.send(host, [netmessages.delete_address(index, address) for address in gone] + [_address(index, address) for address in wanted])


def subnets(gateways):
    """Gateways as subnets are declared."""
    return [{"subnet": addresses.subnet_of(address), "gateway": address.partition("/")[0]} for address in gateways]


def _sysctls(host, spec):
    """{FAMILY/KIND/WORD: value} of its own device.

    What members send must not steer the host: no router advertisement, no redirect. Whom it answers for is answered for at once: the
    kernel's default is after a random time of up to 0.8 s.
    """
    routed = "1" if spec.routed else "0"
    wanted = {"ipv4/conf/forwarding": "1", "ipv4/conf/route_localnet": "1", "ipv4/conf/accept_redirects": "0",
              "ipv4/conf/proxy_arp_pvlan": routed, "ipv4/neigh/proxy_delay": "0"}
    if has_ipv6(host):
        wanted.update({"ipv6/conf/disable_ipv6": "0" if 6 in spec.families else "1", "ipv6/conf/accept_ra": "0",
                       "ipv6/conf/accept_redirects": "0", "ipv6/conf/proxy_ndp": routed, "ipv6/neigh/proxy_delay": "0",
                       "ipv6/conf/accept_dad": "0"})  # it is there for its first member at once
        if 6 in spec.families:
            wanted["ipv6/conf/forwarding"] = "1"
    return wanted


def has_ipv6(host):
    """Is there IPv6 in this kernel, and not turned off when it was booted?"""
    return _hostnet.sysctl(host, _key("all", "ipv6/conf/forwarding")) is not None


def _key(device, word):
    family, kind, word = word.split("/")
    return "net/%s/%s/%s/%s" % (family, kind, device, word)


def _set_sysctls(host, device, values):
    for word, value in values.items():
        _hostnet.set_sysctl(host, _key(device, word), value)


# -- its ports

def _plan_ports(host, spec, found, used, change, plan):
    """What the network says of its members: do they see each other's frames, is each held to its address and known by it, are they
    answered for? A bridge that was down, as one is that is renamed, has forgotten its neighbours.
    """
    members = {owner: port for owner, port in sorted(found.members().items()) if port["port"]}

    def send(make, things):
        _hostnet.send(host, [make(*thing) for thing in things])

    def switch(key, words, things, forth, back):
        change(key, words, None, things, lambda after: send(forth if after else back, things))

    if spec.antispoof:
        if any("locked" not in port["port"] for port in members.values()):
            plan.warn("This kernel cannot hold members of network %s to their MAC (Linux 5.18 can): only to their addresses." % spec.name)
        fixed = {(entry["index"], entry["mac"]) for entry in _hostnet.read(host, "fdb") if entry["static"]}
        missing = [(members[owner]["index"], mac) for mac, owner in sorted(used.macs.items())
                   if owner in members and (members[owner]["index"], mac) not in fixed]
        if missing:
            switch("fdb", "fix the ports of members", missing, netmessages.new_fdb, netmessages.delete_fdb)
    for flag, wanted in (("isolated", spec.routed or not spec.inter_sandbox), ("locked", spec.antispoof)):
        wrong = {owner: port["port"][flag] for owner, port in members.items() if port["port"].get(flag, wanted) != wanted}
        if wrong:
            change(flag, "set %s of %s" % (flag, ", ".join(wrong)), wrong, dict.fromkeys(wrong, wanted), lambda values, flag=flag: send(
                lambda owner, value: netmessages.set_port(members[owner]["index"], **{flag: value}), values.items()))
    index = found.link["index"]
    there = [] if found.link["name"] != spec.device else [each for each in _hostnet.read(host, "neighbours") if each["index"] == index]
    macs, mine = {owner: mac for mac, owner in used.macs.items()}, {each: owner for each, owner in used.addresses.items() if owner in members}
    known = {(each["address"], each["mac"]) for each in there if not each["proxy"] and each["address"] in mine}
    wanted = {(address, macs[owner]) for address, owner in mine.items()} if spec.antispoof else set()
    if wanted - known:
        switch("neighbours", "know members by their addresses", [(index,) + pair for pair in sorted(wanted - known)], netmessages.new_neighbour,
               _no_neighbour)
    if known and not spec.antispoof:
        switch("neighbours", "do not know members by their addresses", [(index,) + pair for pair in sorted(known)], _no_neighbour,
               netmessages.new_neighbour)
    proxies = {each["address"] for each in there if each["proxy"]}
    wanted = {address for address in mine if addresses.family(address) == 6} if spec.routed else set()
    if wanted - proxies:
        switch("proxies", "answer for members", [(index, address) for address in sorted(wanted - proxies)], netmessages.new_proxy, _no_proxy)
    if proxies - wanted:
        extra = [(index, address) for address in sorted(proxies - wanted)]
        switch("proxies", "do not answer for addresses", extra, _no_proxy, netmessages.new_proxy)


def _no_neighbour(index, address, unused):
    return netmessages.delete_neighbour(index, address)


def _no_proxy(index, address):
    return netmessages.delete_neighbour(index, address, proxy=True)
