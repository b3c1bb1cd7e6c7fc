# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is declared of a network: its bridge, subnets and gateways, and who may reach whom."""

from __future__ import annotations

import hashlib

from . import addresses, values
from .errors import Problems

STATES = ("present", "absent")
MODES = ("bridged", "routed")
PROTOCOLS = ("tcp", "udp")
ANY = "any"  # as uplink: whatever way out the host has
KEYS = ("device", "subnets", "mode", "inter_sandbox", "masquerade", "internal", "uplink", "reaches", "host_services", "antispoof", "mtu",
        "vlan_filtering", "dns")
OPTIONS = ("name", "state", "force") + KEYS
_FLAGS = {"inter_sandbox": True, "masquerade": True, "internal": False, "antispoof": True}
_LEAST_MTU = {4: 576, 6: 1280}  # RFC 791 (what each host must take), RFC 8200; below 1280 the kernel takes IPv6 off a device


def device_of(name):
    """The bridge's name where none is declared: `bh-NAME`, or as much of a digest of it as fits."""
    device = "bh-" + name
    return device if len(device) <= 15 else "bh-" + hashlib.sha256(name.encode()).hexdigest()[:12]


class NetworkSpec:
    """A network as a task names it: None is what it does not name. ``over()`` makes the whole of it.

    ``subnets``: [(subnet, gateway)] in order. ``host_services``: [(protocol, first port, last port)]. ``dns``: {servers, search}.
    ``uplink`` is a device or `any`. ``declared`` are the options in normal form, as they are recorded.
    """

    __slots__ = KEYS + ("name", "state", "force", "declared")

    @property
    def key(self):
        return self.name

    @property
    def routed(self):
        return self.mode == "routed"

    @property
    def families(self):
        """4 and 6, as it has subnets of them."""
        return sorted({addresses.family(subnet) for subnet, gateway in self.subnets})

    @property
    def gateways(self):
        """The bridge's own addresses, with their prefix."""
        return ["%s/%s" % (gateway, subnet.partition("/")[2]) for subnet, gateway in self.subnets]

    @classmethod
    def from_options(cls, options, path, problems):
        """Parse; every error becomes a problem with its path."""
        spec = cls()

        def at(key):
            return "%s.%s" % (path, key) if path else key

        options = values.mapping(options, path or "network", problems, OPTIONS)

        def given(key, parse, *more):
            return None if options.get(key) is None else parse(options[key], at(key), problems, *more)

        spec.name = values.name(options.get("name"), at("name"), problems)
        spec.state = given("state", values.choice, STATES) or "present"
        spec.force = given("force", values.boolean) or False
        spec.device = given("device", addresses.device)
        spec.subnets = given("subnets", _subnets)
        spec.mode = given("mode", values.choice, MODES)
        for key in _FLAGS:
            setattr(spec, key, given(key, values.boolean))
        spec.vlan_filtering = given("vlan_filtering", values.boolean)
        spec.uplink = given("uplink", addresses.device)
        spec.reaches = given("reaches", _names)
        spec.host_services = given("host_services", _services)
        spec.mtu = given("mtu", values.integer, 68, 65535)
        spec.dns = given("dns", _dns)
        spec.declared = {key: _plain(key, getattr(spec, key)) for key in KEYS if getattr(spec, key) is not None}
        spec._contradictions(at, problems)
        return spec

    def over(self, recorded):
        """The whole: what the task names, over what was declared before, over the defaults. Subnets are None where nobody named any."""
        problems = Problems()
        whole = self.from_options(dict(recorded or {}, name=self.name, **self.declared), "", problems)
        problems.raise_if_any()
        whole.state, whole.force = self.state, self.force
        for key, default in _FLAGS.items():
            if getattr(whole, key) is None:
                setattr(whole, key, default)
        whole.device = whole.device or device_of(self.name)
        whole.mode = whole.mode or MODES[0]
        whole.uplink = None if whole.uplink == ANY else whole.uplink
        whole.reaches, whole.host_services = whole.reaches or [], whole.host_services or []
        whole.dns = whole.dns or None
        return whole

    def _contradictions(self, at, problems):
        taken = []
        for subnet, gateway in self.subnets or ():
            other = next((each for each in taken if addresses.overlap(subnet, each)), None)
            if other is not None:
                problems.add(at("subnets"), "%s and %s have addresses in common" % (other, subnet))
            taken.append(subnet)
        if self.internal and self.uplink not in (None, ANY):
            problems.add(at("uplink"), "an internal network has no way out. Leave one of the two out")
        if self.name is not None and self.name in (self.reaches or ()):
            problems.add(at("reaches"), "a network reaches itself already, see inter_sandbox")
        if self.uplink is not None and self.uplink == (self.device or self.name and device_of(self.name)):
            problems.add(at("uplink"), "%s is the network's own bridge" % self.uplink)
        if self.mtu is not None and self.subnets:
            least = max(_LEAST_MTU[kind] for kind in self.families)
            if self.mtu < least:
                problems.add(at("mtu"), "%d is less than the %d that IPv%d needs" % (self.mtu, least, 6 if least == 1280 else 4))


def _plain(key, value):
    """As it is recorded and compared: JSON's own types."""
    if key == "subnets":
        return [{"subnet": subnet, "gateway": gateway} for subnet, gateway in value]
    if key == "host_services":
        return [{"protocol": protocol, "port": addresses.show_ports((first, last))} for protocol, first, last in value]
    return value


def shown(spec):
    """All keys of a whole network as results show them."""
    return {key: None if getattr(spec, key) is None else _plain(key, getattr(spec, key)) for key in KEYS}


def _subnets(value, path, problems):
    found = []
    for index, item in enumerate(values.items([value] if isinstance(value, (str, dict)) else value, path, problems)):
        pair = addresses.subnet_and_gateway(item, "%s[%d]" % (path, index), problems)
        if pair is not None:
            found.append(pair)
    if value in ([], ()):
        problems.add(path, "the list is empty. Name at least one subnet, such as 10.42.0.0/24")
    return found or None


def _names(value, path, problems):
    found = [values.name(item, "%s[%d]" % (path, index), problems)
             for index, item in enumerate(values.items([value] if isinstance(value, str) else value, path, problems))]
    return sorted({name for name in found if name is not None})


def _services(value, path, problems):
    found = set()
    for index, item in enumerate(values.items(value, path, problems)):
        here = "%s[%d]" % (path, index)
        item = values.mapping(item, here, problems, ("protocol", "port"))
        protocol = values.choice(item.get("protocol"), here + ".protocol", problems, PROTOCOLS)
        pair = addresses.ports(item.get("port"), here + ".port", problems)
        if protocol is not None and pair is not None:
            clash = next((each for each in found if each[0] == protocol and each[1] <= pair[1] and pair[0] <= each[2]), None)
            if clash is not None and clash != (protocol,) + pair:
                problems.add(here, "%s %s and %s have ports in common" % (protocol, addresses.show_ports(clash[1:]), addresses.show_ports(pair)))
            found.add((protocol,) + pair)
    return sorted(found)


def _dns(value, path, problems):
    value = values.mapping(value, path, problems, ("servers", "search"))
    found = {}
    for key, parse in (("servers", addresses.address), ("search", _domain)):
        words = values.items([value[key]] if isinstance(value.get(key), str) else value.get(key), "%s.%s" % (path, key), problems)
        parsed = [parse(word, "%s.%s[%d]" % (path, key, index), problems) for index, word in enumerate(words)]
        if parsed:
            found[key] = [word for word in parsed if word is not None]
    return found


def _domain(value, path, problems):
    """A domain as resolv.conf(5) takes it."""
    if isinstance(value, str) and 0 < len(value) <= 253 and values.NAME_CHARACTERS.issuperset(value) and all(
            0 < len(label) <= 63 and label[0] != "-" for label in value.rstrip(".").split(".")):
        return value
    problems.add(path, "%s is not a domain, such as example.org" % values.quoted(value))
    return None
