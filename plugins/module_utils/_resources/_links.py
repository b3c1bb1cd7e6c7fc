# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The links of interfaces: as they are, what of one only a new one can have, and the messages that make one of each type."""

from __future__ import annotations

import functools
import os

from .._kernel import built, netlink, nsfs
from .._kernel import netmessages as nm
from .._model import addresses
from .._model.errors import BulkheadError
from .._model.interface import host_end
from . import _hostnet, _link_acts

NOUN = "interface"
# What the kernel needs for a type: (CONFIG_, module).
_NEEDS = {"veth": ("VETH", "veth"), "macvlan": ("MACVLAN", "macvlan"), "ipvlan": ("IPVLAN", "ipvlan"), "vlan": ("VLAN_8021Q", "8021q"),
          "vxlan": ("VXLAN", "vxlan"), "dummy": ("DUMMY", "dummy"), "wireguard": ("WIREGUARD", "wireguard"), "tap": ("TUN", "tun")}
_PORT = 4789  # of vxlan, IANA's
KINDS = {"tap": "tun"}  # the kernel's word for a type, where it is another


class Space:
    """A net namespace as it is: read once in a run, and of it only what is asked for."""

    def __init__(self, host, name):
        self.host, self.name, self.path = host, name, nsfs.pin_path(host, name, "net")
        self.alive = nsfs.look(self.path, "net").alive
        self._read, self._last = {}, None

    def read(self, kinds):
        """Read several at once: links, addresses, routes, rules, neighbours, qdiscs."""
        missing = [kind for kind in kinds if kind not in self._read]
        if missing and not self.alive:
            self._read.update((kind, []) for kind in missing)
        elif missing:
            with netlink.open(self.path, self.host.proc) as net:
                self._read.update((kind, getattr(net, kind)()) for kind in missing)

    def __getattr__(self, kind):
        if kind.startswith("_"):
            raise AttributeError(kind)
        self.read([kind])
        return self._read[kind]

    def link(self, name):
        return next((link for link in self.links if link["name"] == name), None)

    def next_index(self):
        """A number for a new link in it."""
        self._last = max([1] + [link["index"] for link in self.links] if self._last is None else [self._last]) + 1
        return self._last

    def reserve(self, index):
        """That number is given to a new link."""
        self._last = max(self._last, index)

    def empty(self):
        """It is made anew: nothing of what is in it now counts."""
        self._read = dict.fromkeys(("links", "addresses", "routes", "rules", "neighbours", "qdiscs"), ())
        self._last = None


def space(host, name):
    """The Space of this run."""
    return host.cached((NOUN, "space", name), lambda: Space(host, name))


class Found:
    """An interface as it is: its ``link`` in the namespace, the ``end`` of a veth that is on the host, and the ``rest`` that a killed
    run or a removal by hand has left on the host under the name of that end, or in the namespace (``stray``). Each a link as
    `netlink.py` shows it, or None.
    """

    __slots__ = ("space", "link", "end", "rest", "stray", "_claim")

    def __init__(self, host, spec, going=False):
        self.space = space(host, spec.namespace)
        self._claim = lambda: host.claims.read(NOUN, spec.key)
        if going and marked(host, spec.key):
            self.end, self.rest, self.stray = _hostnet.links(host)[host_end(spec.key)], None, None
            self.link = {"kind": "veth", "index": self.end["parent"]}
            return
        self.link = self.space.link(spec.name)
        self.end = _end(host, spec.key, self.link)
        if self.end is not None and self.end["name"] != host_end(spec.key) and (
                self.origin is not None or spec.former is not None and spec.former.type == "device"):
            self.end = None  # that of a device that was moved in, and somebody's
        rest = _hostnet.links(host).get(host_end(spec.key))
        self.rest = rest if rest is not self.end else None
        self.stray = self.space.link(host_end(spec.key))

    @property
    def claim(self):
        """What we noted of it; of a veth whose end has our name it is not asked for."""
        return self._claim()

    def ours(self, host, spec):
        """Did we make the link, or were we about to?"""
        if self.end is not None:
            return self.end["name"] == host_end(spec.key) or _hostnet.member(self.end) == spec.key
        if self.claim is not None:
            identity = self.claim.get("identity")
            return identity is None or identity.get("link") in (None, self.identity())
        return spec.former is not None  # the claim is lost

    def unfinished(self):
        return self.claim is not None and (self.claim.get("identity") or {}).get("link") is None

    def identity(self):
        """What the kernel calls it."""
        return [nsfs.identity(self.space.path)[1], self.link["index"]]

    @property
    def origin(self):
        """What a device that was moved in was like on the host: {name, mac, mtu, up}."""
        return ((self.claim or {}).get("identity") or {}).get("origin")


def found(host, spec, going=False):
    """The Found of this run. One that is ``going`` is known by its marked end: its namespace is not looked into."""
    return host.cached((NOUN, spec.key, going), lambda: Found(host, spec, going))


def marked(host, key):
    """Has the host the end of a veth that is marked as this interface's?"""
    end = _hostnet.links(host).get(host_end(key))
    return end is not None and end["kind"] == "veth" and _hostnet.member(end) == key


def _end(host, key, link):
    """The other end of a veth, when it is on the host."""
    if link is None or link["kind"] != "veth" or link["parent"] is None:
        return None
    by_index = host.cached("links by index", lambda: {each["index"]: each for each in _hostnet.links(host).values()})
    end = _hostnet.links(host).get(host_end(key))
    if end is None or end["index"] != link["parent"]:
        end = by_index.get(link["parent"])
    return end if end is not None and end["kind"] == "veth" and end["parent"] == link["index"] else None


# -- what only a new one can have

def mismatch(host, spec, now):
    """{key: (before, after)} of what cannot be changed in place."""
    link, different = now.link, {}

    def compare(key, before, after):
        if before != after:
            different[key] = (before, after)

    if spec.type == "device":
        if now.origin is not None:
            compare("device", now.origin["name"], spec.device)
        return different
    kind = link["kind"] or "device"
    compare("type", next((name for name, word in KINDS.items() if word == kind), kind), spec.type)
    if different:
        return different
    if spec.type == "veth":
        compare("type", "veth" if now.end is not None else "veth, whose other end is not on the host", "veth")
        return different
    data = link["data"] or {}
    if spec.parent is not None:
        parent = device(host, spec, spec.parent)
        compare("parent", parent_of(host, link), spec.parent if parent is None else parent["name"])
    for key in ("vlan_id", "vni", "mode", "port", "local"):
        if getattr(spec, key) is not None and (spec.type, key) != ("wireguard", "port"):
            compare(key, data.get(key), getattr(spec, key))
    return different


def parent_of(host, link):
    """The name of the link of the host that one stands on, None where there is none."""
    index = (link["data"] or {}).get("parent") or link["parent"]
    return next((each["name"] for each in _hostnet.links(host).values() if each["index"] == index), None)


# -- the making

def device(host, spec, name):
    """A link of the host by its name, refused where there is none (in check mode an earlier task may make it)."""
    link = _hostnet.links(host).get(name)
    if link is None and not host.check:
        raise BulkheadError("Cannot create interface %s: the host has no network device %s. Make it first, or name another." % (spec.key, name))
    return link


def refuse_lacking(host, spec):
    """Refuse by name what the kernel does not have."""
    option, module = _NEEDS.get(spec.type, (None, None))
    if option is not None and host.cached(("lacks", option), lambda: built.lacks(option, module, proc=host.proc, sys=host.sys)):
        raise BulkheadError("Cannot create interface %s: the kernel has no type %s. Install a kernel with the module %s (CONFIG_%s), or use "
                            "another type." % (spec.key, spec.type, module, option))


def make(host, spec, space, anew, bridge, mtu):
    """(index inside, index of the end on the host or None, what makes it: a function of the descriptor of its namespace -> messages).

    ``bridge`` is the link that a veth's end is put on. All MACs are given, as udev changes those that are not. A namespace that is made
    ``anew`` may be born with links whose numbers nobody knows (fallback tunnels), so there the index is the kernel's choice, and None
    here. What stands on a link of the host is born from there, where neither its name nor its number may be taken: so it has the name
    of `born_as`, and is renamed when it is inside. Taps and devices are made by `_devices.py`.
    """
    index, mac = None if anew else space.next_index(), mac_of(spec)
    if spec.type == "veth":
        end, outer = host_end(spec.key), _next_index(host)
        peer = {key: value for key, value in (("name", spec.name), ("index", index), ("mac", mac), ("mtu", mtu)) if value is not None}
        return index, outer, lambda netns: [
            nm.new_link(end, "veth", index=outer, mac=addresses.derived_mac("host " + spec.key), mtu=mtu, group=_link_acts.GROUP,
                        master=bridge and bridge["index"], peer=dict(peer, netns=netns)),
            nm.set_link(outer, alias=_hostnet.MARK + spec.key)]
    if index is not None:
        index = max(index, _next_index(host))
        space.reserve(index)
    parent = device(host, spec, spec.parent)["index"] if spec.parent is not None and device(host, spec, spec.parent) is not None else None
    data = _data(spec)
    if spec.type == "vxlan" and parent is not None:
        parent, data["parent"] = None, parent  # the kernel's own place for it
    return index, None, lambda netns: [nm.new_link(born_as(spec), spec.type, index=index, mac=mac, mtu=mtu, parent=parent, netns=netns, data=data)]


def born_as(spec):
    """The name of a new link until it is renamed."""
    return spec.name if spec.type in ("veth", "tap", "device") else host_end(spec.key)


def _data(spec):
    if spec.type in ("macvlan", "ipvlan"):
        return {"mode": spec.mode or {"macvlan": "bridge", "ipvlan": "l2"}[spec.type]}
    if spec.type == "vlan":
        return {"vlan_id": spec.vlan_id}
    if spec.type == "vxlan":
        wanted = {"vni": spec.vni, "remote": spec.remote, "local": spec.local, "port": spec.port or _PORT}
        return {key: value for key, value in wanted.items() if value is not None}
    return None


def _next_index(host):
    """A number for a new link of the host."""
    state = host.cached("next index", lambda: [max(link["index"] for link in _hostnet.links(host).values())])
    state[0] += 1
    return state[0]


def mac_of(spec):
    """The address that an interface of ours has where none is declared: the same at each making.

    A segment that is not of this host alone may have an interface of that name from another host too: a vxlan even takes
    what comes from its own address for a loop.
    """
    if spec.mac or spec.type in ("ipvlan", "wireguard", "device", "vlan"):
        return spec.mac
    return addresses.derived_mac(spec.key if spec.network else "%s %s" % (_this_host(), spec.key))


@functools.lru_cache(maxsize=None)
def _this_host(path="/etc/machine-id"):
    """What it is told apart by from other hosts, over reboots too."""
    try:
        with open(path, encoding="ascii") as stream:
            return stream.read().strip()
    except OSError:
        return os.uname().nodename
