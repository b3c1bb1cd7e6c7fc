# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Interfaces as `interface_info` shows them."""

from __future__ import annotations

from .._model import rules
from .._model.interface import OWN
from .._model.interface_parts import MAIN
from . import _allocation, _bandwidth, _hostnet, _links, _rules

_PROTOCOLS = {number: word for word, number in rules.PROTOCOLS.items()}


def show(host, spec, uses_rules):
    """One, or None where there is none. ``uses_rules``: has the host networks, so that the firewall has to be asked?"""
    now = _links.found(host, spec)
    link = now.link
    if link is None:
        return None
    now.space.read(("addresses", "routes", "qdiscs"))
    index = link["index"]
    kind = link["kind"] or "device"
    kind = next((name for name, word in _links.KINDS.items() if word == kind), kind)
    shown = {
        "namespace": spec.namespace, "name": spec.name, "state": "present", "owned": now.ours(host, spec),
        "type": "device" if now.origin is not None else kind,
        "mac": link["mac"], "mtu": link["mtu"], "up": link["up"],
        "addresses": [each["address"] for each in now.space.addresses if each["index"] == index and each["scope"] == "global"],
        "allocated": _allocation.recorded(host, spec.key),
        "routes": [_route(route) for route in now.space.routes if route["index"] == index],
        "host_end": None, "bridge": None, "network": None,
        "bandwidth": {"transmit": _bandwidth.show([each for each in now.space.qdiscs if each["index"] == index]), "receive": None},
        "published": [], "egress": "allow",
    }
    shown.update({key: value for key, value in (link["data"] or {}).items() if key in OWN.get(kind, ())})
    if now.origin is not None:
        shown["device"] = now.origin["name"]
    elif "parent" in OWN.get(kind, ()):
        shown["parent"] = _links.parent_of(host, link)
    if now.end is not None:
        _show_end(host, now, shown)
    if uses_rules:
        elements = _rules.owners(host).get(spec.key, {})
        shown["published"], shown["egress"] = published(elements), egress(elements)
    return shown


def published(elements):
    """[`127.0.0.1:8080/tcp`, …] of the firewall's elements of an interface."""
    return sorted({"%s%d/%s" % ("%s:" % ("[%s]" % address if family == 6 else address) if address else "", port, _PROTOCOLS[protocol])
                   for family, address, protocol, port in rules.published(elements)})


def egress(elements):
    """The policy, and what it allows."""
    if not any(elements.get("egress%d" % family) for family in (4, 6)):
        return "allow"
    allowed = {_allowed(value) for family in (4, 6) for kind in ("", "_any") for value in elements.get("allow%s%d" % (kind, family), ())}
    return "deny all but " + ", ".join(sorted(allowed)) if allowed else "deny"


def _allowed(value):
    """`10.0.0.0/8 tcp 80-90` of (own address, [protocol,] address[, ports])."""
    if len(value) == 2:
        return str(value[1])
    ports = value[3] if isinstance(value[3], tuple) else (value[3], value[3])
    return "%s %s %s" % (value[2], _PROTOCOLS[value[1]], "%d" % ports[0] if ports[0] == ports[1] else "%d-%d" % ports)


def _show_end(host, now, shown):
    end = now.end
    shown["host_end"] = end["name"]
    bridge = next((each for each in _hostnet.links(host).values() if each["index"] == end["master"]), None)
    if bridge is not None:
        shown["bridge"] = bridge["name"]
        mark = _hostnet.MARK + "network "
        if (bridge["alias"] or "").startswith(mark):
            shown["network"] = bridge["alias"][len(mark):]
    qdiscs = host.cached("host's qdiscs", lambda: _hostnet.read(host, "qdiscs"))
    shown["bandwidth"]["receive"] = _bandwidth.show([each for each in qdiscs if each["index"] == end["index"]])


def _route(route):
    shown = {key: route[key] for key in ("to", "via", "source", "metric", "mtu") if route[key] is not None}
    if route["table"] != MAIN:
        shown["table"] = route["table"]
    if (route["family"], route["metric"]) == (6, 1024):  # the kernel's own, where none was given
        del shown["metric"]
    return shown
