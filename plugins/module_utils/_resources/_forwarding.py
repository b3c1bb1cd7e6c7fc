# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The host forwards packets for its networks: turned on where it has to be, and as before when the last network has gone.

IPv4 is forwarded by the device that a packet comes in by, so the ways out need it, too: an uplink that is named, else the devices of
the host's default routes. IPv6 has one switch for the whole host (`all`); with it on, devices take router advertisements only where
accept_ra is 2, and a host would lose its default route. What we turned on for ourselves is closed to everybody else by the
firewall (`_rules.py: Opened`), until somebody turns IPv4 on for the whole host, as docker does: then a device is left to them. How it
was is in a claim. The ways out are recorded, too: at boot the routes may come after us.
"""

from __future__ import annotations

import os

from . import _hostnet

NOUN, NAME = "forwarding", "host"
_V4, _V6, _RA = "net/ipv4/conf/%s/forwarding", "net/ipv6/conf/%s/forwarding", "net/ipv6/conf/%s/accept_ra"
_OFF, _ON, _ALSO_AS_ROUTER = "0", "1", "2"


class Turned:
    """What we turned on. ``ipv4``: names of devices. ``ipv6``: None, or how it was before: {forwarding: devices that had it, accept_ra:
    devices that took router advertisements as long as they did not forward}.
    """

    __slots__ = ("ipv4", "ipv6")

    def __init__(self, ipv4=(), ipv6=None):
        self.ipv4, self.ipv6 = list(ipv4), ipv6

    @classmethod
    def claimed(cls, host):
        """What earlier runs turned on."""
        return cls(**((host.claims.read(NOUN, NAME) or {}).get("identity") or {}))

    def shown(self):
        return ["ipv4 " + device for device in self.ipv4] + (["ipv6"] if self.ipv6 is not None else [])

    def claim(self, host):
        if self.shown():
            host.claims.complete(NOUN, NAME, {"ipv4": self.ipv4, "ipv6": self.ipv6})
        else:
            host.claims.drop(NOUN, NAME)


class Forwarding:
    """What is to be for the networks that are to be there (whole NetworkSpecs): ``after`` is the Turned, ``ways`` the devices out."""

    __slots__ = ("before", "after", "ways", "_on")

    def __init__(self, host, networks):
        self.before, self.ways = Turned.claimed(host), _ways(host, networks)
        off4 = [device for device in self.ways if _hostnet.sysctl(host, _V4 % device) == _OFF]
        needs6 = any(6 in spec.families for spec in networks)
        off6 = needs6 and _hostnet.sysctl(host, _V6 % "all") == _OFF
        self.after = Turned([device for device in self.ways if device in off4 or device in self.before.ipv4 and not _on_for_all(host)],
                            _as_it_is(host, self.before.ipv6) if off6 else self.before.ipv6 if needs6 else None)
        self._on = ["ipv4 " + device for device in off4] + (["ipv6"] if off6 else [])

    def plan_off(self, host, plan):
        """What is turned off comes first: ahead, as the rules are that close it to others."""
        between = Turned([device for device in self.before.ipv4 if device in self.after.ipv4], self.after.ipv6 and self.before.ipv6)
        gone = [word for word in self.before.shown() if word not in between.shown()]
        if gone:
            words = "leave forwarding of %s to others" if _on_for_all(host) and "ipv6" not in gone else "turn off forwarding of %s"
            plan.add(words % ", ".join(gone), lambda: _go(host, self.before, between),
                     lambda: _go(host, between, self.before), _ahead, (self.before, between))
        if self.before.shown() != self.after.shown():
            plan.differ("forwarding", self.before.shown(), self.after.shown())

    def plan_on(self, host, plan):
        """What is turned on comes last."""
        if self._on:
            plan.add("turn on forwarding of %s" % ", ".join(self._on), lambda: _go(host, self.before, self.after),
                     lambda: _go(host, self.after, self.before))
        plan.record(NOUN, NAME, {"ways": self.ways} if self.ways else None)


def _ahead(host, pairs):
    for before, after in pairs:
        _go(host, before, after)


def _go(host, before, after):
    """From one Turned to another. The claim comes before what is turned on."""
    for device in before.ipv4:
        if device not in after.ipv4 and not _on_for_all(host):
            _hostnet.set_sysctl(host, _V4 % device, _OFF)
    if before.ipv6 is not None and after.ipv6 is None:
        _hostnet.set_sysctl(host, _V6 % "all", _OFF)
        for device in before.ipv6["forwarding"]:
            _hostnet.set_sysctl(host, _V6 % device, _ON)
        _advertisements(host, before.ipv6, _ALSO_AS_ROUTER, _ON)
    after.claim(host)
    for device in after.ipv4:
        _hostnet.set_sysctl(host, _V4 % device, _ON)
    if after.ipv6 is not None:
        _advertisements(host, after.ipv6, _ON, _ALSO_AS_ROUTER)
        _hostnet.set_sysctl(host, _V6 % "all", _ON)


def _on_for_all(host):
    """Has somebody turned IPv4 on for the whole host?"""
    return _hostnet.sysctl(host, _V4 % "all") == _ON


def _advertisements(host, was, before, after):
    """Where somebody has set something else meanwhile, it stays."""
    for device in was["accept_ra"]:
        if _hostnet.sysctl(host, _RA % device) == before:
            _hostnet.set_sysctl(host, _RA % device, after)


def _as_it_is(host, before):
    """How IPv6 is before it is turned on; what an earlier run noted counts, too, where somebody has turned it off since."""
    devices = [device for device in sorted(os.listdir("%s/sys/net/ipv6/conf" % host.proc)) if device != "all"]
    found = {"forwarding": [device for device in devices if _hostnet.sysctl(host, _V6 % device) == _ON],
             "accept_ra": [device for device in devices if _hostnet.sysctl(host, _RA % device) == _ON]}
    return {key: sorted(set(found[key]).union((before or {}).get(key, ()))) for key in found}


def _ways(host, networks):
    """The devices that IPv4 of these networks leaves and comes back by; of those that are not there, nothing can be said."""
    outward = [spec for spec in networks if 4 in spec.families and not spec.internal]
    found = {spec.uplink for spec in outward if spec.uplink is not None}
    if any(spec.uplink is None for spec in outward):
        found |= default_devices(host, 4) or set((host.records.options(NOUN, NAME) or {}).get("ways") or ())
    return sorted(device for device in found if device in _hostnet.links(host))


def default_devices(host, family):
    """The names of the devices of the host's default routes."""
    names = {link["index"]: name for name, link in _hostnet.links(host).items()}
    found = set()
    for route in _hostnet.routes(host):
        if route["to"] == "default" and route["family"] == family and route["type"] == "unicast":
            found.update(hop["index"] for hop in route["hops"] or [route])
    return {names[index] for index in found if index in names and names[index] != "lo"}
