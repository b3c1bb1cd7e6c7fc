# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is declared of interfaces: links in named net namespaces, with addresses, routes, bandwidth and published ports."""

from __future__ import annotations

import copy
import hashlib

from . import addresses, values
from . import interface_parts as parts
from .errors import Problems

STATES = ("present", "absent")
MISMATCH = ("fail", "recreate")
# What an interface of each type is told apart by; the first are needed. Of veth it is one of the two.
OWN = {
    "veth": ("network", "bridge", "gateway", "publish", "egress", "aliases"),
    "macvlan": ("parent", "mode"),
    "ipvlan": ("parent", "mode"),
    "vlan": ("parent", "vlan_id"),
    "vxlan": ("vni", "parent", "remote", "local", "port"),
    "dummy": (),
    "wireguard": ("private_key_file", "listen_port", "peers"),
    "tap": (),
    "device": ("device",),
}
TYPES = tuple(OWN)
NEEDED = {"macvlan": ("parent",), "ipvlan": ("parent",), "vlan": ("parent", "vlan_id"), "vxlan": ("vni",),
          "wireguard": ("private_key_file",), "device": ("device",)}
MODES = {"macvlan": ("bridge", "private", "vepa", "passthru", "source"), "ipvlan": ("l2", "l3", "l3s")}
COMMON = ("type", "mac", "mtu", "up", "addresses", "routes", "rules", "neighbours", "sysctls", "bandwidth")
RULES = ("state", "on_mismatch", "force")  # how to go about it, not what is to be
KEYS = COMMON + tuple(dict.fromkeys(key for own in OWN.values() for key in own))
OPTIONS = ("namespace", "name") + RULES + KEYS
_KEYS = frozenset(KEYS)
_VNI, _VLAN = (1 << 24) - 1, 4094
# How what was given is parsed; the modes are those of the type.
_PARSED = {
    "state": (values.choice, STATES), "on_mismatch": (values.choice, MISMATCH), "force": (values.boolean,), "type": (values.choice, TYPES),
    "network": (values.name,), "bridge": (addresses.device,), "parent": (addresses.device,), "device": (addresses.device,),
    "vlan_id": (values.integer, 1, _VLAN), "vni": (values.integer, 0, _VNI), "remote": (parts.any_address,), "local": (addresses.address,),
    "port": (addresses.port,), "listen_port": (addresses.port,), "private_key_file": (values.absolute,), "peers": (parts.peers,),
    "mac": (addresses.mac,), "mtu": (values.integer, 68, 65535), "up": (values.boolean,), "addresses": (parts.own_addresses,),
    "gateway": (values.boolean,), "routes": (parts.routes,), "rules": (parts.rules,), "neighbours": (parts.neighbours,),
    "sysctls": (parts.sysctls,), "bandwidth": (parts.bandwidth,), "publish": (parts.publish,), "egress": (parts.egress,),
    "aliases": (parts.aliases,),
}


def host_end(key):
    """The name of the end of a veth that stays on the host: the same for the same interface, so that a killed run's is found."""
    return "bh" + hashlib.sha256(key.encode()).hexdigest()[:12]


class InterfaceSpec:
    """One interface as declared. What was not declared is None, and then not compared.

    ``addresses`` None: one of each subnet of the network is allocated. The forms of the lists are those of `interface_parts.py`.
    ``exact``: a declaration is the whole (the composite). ``former`` is what was recorded, None where nothing was.
    `_resources/interface.py: find` fills in ``net``, the NetworkSpec of its network, ``resolved``, the addresses that it has when the run
    is done, ``leads_out``, whether its network's gateway is the namespace's way out, and ``trouble``, why that could not be.
    """

    __slots__ = ("namespace", "name", "key", "state", "on_mismatch", "force", "type", "network", "bridge", "parent", "device", "vlan_id",
                 "vni", "remote", "local", "port", "mode", "private_key_file", "listen_port", "peers", "mac", "mtu", "up", "addresses",
                 "gateway", "routes", "rules", "neighbours", "sysctls", "bandwidth", "publish", "egress", "aliases", "exact",
                 "former", "net", "resolved", "leads_out", "trouble", "options")

    @classmethod
    def from_options(cls, options, path, problems, namespace=None):
        """Parse; every error becomes a problem with its path. ``namespace``: given by the composite, which has no such option."""
        spec = cls()

        def at(key):
            return "%s.%s" % (path, key) if path else key

        options = values.mapping(options, path or "interface", problems,
                                 OPTIONS if namespace is None else ("name",) + KEYS)

        for key in KEYS:
            setattr(spec, key, None)
        spec.exact, spec.former, spec.net, spec.trouble = namespace is not None, None, None, None
        spec.resolved, spec.leads_out = [], False
        spec.state, spec.on_mismatch, spec.force, spec.type, spec.up = "present", "fail", False, "veth", True
        spec.namespace = values.name(options.get("namespace"), at("namespace"), problems) if namespace is None else namespace
        spec.name = addresses.device(options.get("name"), at("name"), problems)
        spec.key = "%s/%s" % (spec.namespace, spec.name)
        for key, value in options.items():  # only what was given: there are many options, and many interfaces
            if value is not None and key in _PARSED:
                parse, *more = _PARSED[key]
                setattr(spec, key, parse(value, at(key), problems, *more))
        if options.get("mode") is not None:
            spec.mode = values.choice(options["mode"], at("mode"), problems, MODES.get(spec.type, ()))
        spec.options = {key: value for key, value in options.items() if value is not None and key in _KEYS}
        if spec.state == "present" and spec.type is not None:
            spec._contradictions(options, at, problems)
        return spec

    @classmethod
    def absent(cls, key):
        """An interface that is no longer declared."""
        spec = cls.recorded(key, {"type": "dummy"})
        spec.state, spec.exact = "absent", False
        return spec

    @classmethod
    def recorded(cls, key, options):
        """An interface as it was recorded."""
        namespace, slash, name = key.partition("/")
        return cls.from_options(dict(options, name=name), "", Problems(), namespace=namespace)

    def drop(self, recorded):
        """Note what was declared last: its options, or None."""
        if recorded == self.options:
            self.former = copy.copy(self)
        else:
            self.former = self.recorded(self.key, {key: recorded[key] for key in KEYS if key in recorded}) if recorded else None

    def _contradictions(self, options, at, problems):
        own = OWN[self.type]
        for key in KEYS:
            if options.get(key) is not None and key not in COMMON and key not in own:
                problems.add(at(key), "belongs to the types %s, and this is of type %s" % (
                    ", ".join(kind for kind in TYPES if key in OWN[kind]), self.type))
        for key in NEEDED.get(self.type, ()):
            if options.get(key) is None:
                problems.add(at(key), "is missing: an interface of type %s needs it" % self.type)
        if self.type == "veth":
            self._ends(options, at, problems)
        if options.get("mac") is not None and self.type in ("ipvlan", "wireguard"):
            problems.add(at("mac"), "an interface of type %s has none of its own" % self.type)
        if self.bandwidth and "receive" in self.bandwidth and self.type != "veth":
            problems.add(at("bandwidth.receive"), "is for type veth: of others, what comes in passes no queue of ours")
        families = {addresses.family(each) for each in self.addresses or ()}
        if self.mtu is not None and self.mtu < 1280 and 6 in families:
            problems.add(at("mtu"), "is less than 1280, which IPv6 needs")

    def _ends(self, options, at, problems):
        if (options.get("network") is None) == (options.get("bridge") is None):
            problems.add(at("network"), "is missing: name a network, or a bridge" if options.get("network") is None else
                         "an end is on one bridge: give network or bridge")
        for key in ("gateway", "publish", "egress", "aliases"):
            if options.get("bridge") is not None and options.get(key) is not None:
                problems.add(at(key), "is for an interface on a network of ours")


def of_sandbox(options, path, problems, name):
    """The interfaces of a sandbox: `network` (a name, or {name: of the network, …options}) is its eth0, `interfaces` are more."""
    entries = []
    if options.get("network") is not None:
        value, where = options["network"], path + ".network"
        if isinstance(value, dict):
            where += ".name"
        value = value if isinstance(value, dict) else {"name": value}
        network = values.name(value.get("name"), where, problems) or "unnamed"  # so that this is told once, and where it was written
        if value.get("network") is not None or value.get("type") is not None:
            problems.add(path + ".network", "is of type veth, and its name is the network's: leave out network and type")
        entries.append((dict(value, name="eth0", type="veth", network=network), path + ".network"))
    for index, entry in enumerate(values.items(options.get("interfaces"), path + ".interfaces", problems)):
        here = "%s.interfaces[%d]" % (path, index)
        entries.append((values.mapping(entry, here, problems), here))
    return [InterfaceSpec.from_options(entry, here, problems, namespace=name) for entry, here in entries]


class InterfaceList(list):
    """The Specs of one run, and what holds for all of them."""

    purge = False


def parse(options, path, problems):
    """The whole list: a Spec for each entry of `interfaces:`."""
    rules = {key: options[key] for key in ("on_mismatch", "force") if options.get(key) is not None}
    defaults = values.mapping(options.get("defaults"), "defaults", problems, known=("namespace", "name") + KEYS)
    specs = InterfaceList()
    specs.purge = bool(options.get("purge"))
    for index, entry in enumerate(values.items(options.get("interfaces"), "interfaces", problems)):
        here = "interfaces[%d]" % index
        entry = {key: value for key, value in values.mapping(entry, here, problems).items() if value is not None}
        specs.append(InterfaceSpec.from_options(dict(rules, **values.merge(defaults, entry)), here, problems))
    check_list(specs, ["interfaces[%d]" % index for index in range(len(specs))], problems)
    return specs


def check_list(specs, paths, problems):
    """What two interfaces of a run cannot both have."""
    seen, ports = {}, {}
    for spec, path in zip(specs, paths):
        claimed = [("name", "key", spec.key, "declared twice")] if spec.name is not None and spec.namespace is not None else []
        if spec.state == "present":
            claimed += [("mac", spec.network or spec.bridge or spec.parent, spec.mac, "the MAC of two interfaces")] if spec.mac else []
            claimed += [("addresses", spec.network or spec.bridge, each.partition("/")[0], "the address of two interfaces")
                        for each in spec.addresses or () if spec.type == "veth"]
            claimed += [("device", "device", spec.device, "moved to two places")] if spec.device else []
            _check_ports(spec, path, ports, problems)
        for key, where, what, words in claimed:
            other = seen.setdefault((key, where, what), path)
            if other != path:
                problems.add("%s.%s" % (path, key), "%s is %s (also %s)" % (what, words, other))


def _check_ports(spec, path, ports, problems):
    """``ports`` {(protocol, port): {host address or None for all: path}}. One that is published for all is taken for each."""
    for each in spec.publish or ():
        address = None if each["host_address"] in ("0.0.0.0", "::") else each["host_address"]
        for port in range(each["host_port"][0], each["host_port"][1] + 1):
            others = ports.setdefault((each["protocol"], port), {})
            clash = next((other for other in others if None in (address, other) or address == other), others)
            if clash is not others and others[clash] != path:
                problems.add(path + ".publish", "%s port %d of the host is published twice (also %s)" % (each["protocol"], port, others[clash]))
                break
            others[address] = path
