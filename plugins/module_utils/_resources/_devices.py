# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Devices that are not made by rtnetlink: those of the host that are moved into a namespace and back, and taps.

A moved device is somebody's: what it was like is noted before it moves, and it never goes with its interface, but back.
"""

from __future__ import annotations

import fcntl
import os
import struct

from .._kernel import netmessages as nm
from .._model.errors import BulkheadError
from . import _hostnet

_TUNSETIFF, _TUNSETPERSIST = 0x400454CA, 0x400454CB
_IFF_TAP, _IFF_NO_PI = 2, 0x1000


# -- moved

def find(host, spec, now):
    """The device on the host, refused where it is not there or the host would miss it."""
    link = _at_home(host, spec.device, now.origin)
    if link is None:
        if host.check:
            return None
        raise BulkheadError("Cannot move device %s to %s: the host has no network device of that name. Name another." % (spec.device, spec.key))
    if link["kind"] == "loopback" or (link["alias"] or "").startswith(_hostnet.MARK):
        raise BulkheadError("Cannot move device %s to %s: it is %s. Name another." % (
            spec.device, spec.key, "the host's loopback" if link["kind"] == "loopback" else "a part of %s" % link["alias"]))
    if spec.force:
        return link
    uses = [each["address"] for each in _hostnet.addresses(host) if each["index"] == link["index"] and each["scope"] == "global"]
    if any(route["to"] == "default" and route["index"] == link["index"] for route in _hostnet.routes(host)):
        uses.append("a default route")
    if link["master"]:
        uses.append("a place in %s" % next((each["name"] for each in _hostnet.links(host).values() if each["index"] == link["master"]), "a bridge"))
    if uses:
        raise BulkheadError("Cannot move device %s to %s: the host uses it, it has %s. Take that away, or set force: true to move it all the same."
                            % (spec.device, spec.key, ", ".join(uses)))
    return link


def _at_home(host, name, origin):
    """By its name; or, where its namespace ended with it inside, the kernel sent it back under the name that it had there."""
    links = _hostnet.links(host)
    if name in links or origin is None:
        return links.get(name)
    return next((link for link in links.values() if link["index"] == origin["index"] and link["mac"] == origin["mac"]), None)


def origin_of(link, name):
    """What is noted of it: enough to put it back as it was."""
    return {"name": name, "index": link["index"], "mac": link["mac"], "mtu": link["mtu"], "up": link["up"]}


def move_in(link, spec):
    """Messages for the host's namespace, of the descriptor of the other one. It is renamed by the same message."""
    return lambda netns: [nm.set_link(link["index"], netns=netns, name=spec.name)]


def move_back(host, spec, now):
    """(messages for the namespace, messages for the host) that put it back under its old name. Refused where that is taken."""
    origin = now.origin or {"name": (spec.former and spec.former.device) or spec.device or spec.name, "mac": None, "mtu": None, "up": None}
    if origin["name"] in _hostnet.links(host):
        raise BulkheadError("Cannot move device %s back from %s: the host has another device of that name by now. Rename that one."
                            % (origin["name"], spec.key), device=origin["name"])
    return leave(origin), settle(origin)


def leave(origin):
    """Messages for its namespace, by which it leaves that for the host's."""
    return lambda index, home: [nm.set_link(index, netns=home, name=origin["name"])]


def settle(origin):
    """Messages for the host, by which it is there as it was. It comes down."""
    return lambda unused: [nm.set_link(origin["name"], mac=origin["mac"], mtu=origin["mtu"])] + (
        [nm.set_link(origin["name"], up=True)] if origin["up"] else [])


# -- taps

def make_tap(name):
    """A tap that stays, in the namespace that the caller is in (tun.txt of the kernel's documentation)."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI))
        fcntl.ioctl(fd, _TUNSETPERSIST, 1)
    finally:
        os.close(fd)
