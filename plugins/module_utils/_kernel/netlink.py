# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""rtnetlink(7): links, addresses, routes, rules, neighbours and queueing disciplines of a network namespace.

    with netlink.open(pin) as net:
        found = net.links()
        net.send([netmessages.set_link("eth0", up=True), …])

One plain socket for each namespace, made inside it and used from outside. pyroute2 writes the messages; it is imported when the
first is sent (0.2 s). See `_netformat.py` and docs/decisions/netlink-is-a-plain-socket.md.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys

from . import _netformat, nsfs
from .netmessages import AF_BRIDGE, FAMILIES, MODES, NEWLINK, ROOT, ROUTE_TYPES, RULE_ACTIONS, TICK, UP

_GETLINK, _GETADDR, _GETROUTE, _GETNEIGH, _GETRULE, _GETQDISC = 18, 22, 26, 30, 34, 38
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_DUMP, _NLM_F_DUMP_INTR = 1, 4, 0x300, 0x10
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_ACK_TLVS, _NLMSGERR_ATTR_MSG = 0x200, 1
_SOL_NETLINK, _CAP_ACK, _EXT_ACK = 270, 10, 11
_SKIP_STATS = 8  # RTEXT_FILTER_SKIP_STATS: a third less to copy

_HEADER = struct.Struct("=IHHII")
_BATCH, _BATCH_BYTES = 128, 32768  # their answers must fit into the socket's receive buffer (208 KiB, about 0.8 KiB each)

_FAMILIES = {number: version for version, number in FAMILIES.items()}
_ROUTE_TYPES = {number: name for name, number in ROUTE_TYPES.items()}
_RULE_ACTIONS = {number: name for name, number in RULE_ACTIONS.items()}
_MODES = {kind: {number: name for name, number in modes.items()} for kind, modes in MODES.items()}
_MODES["tun"] = {1: "tun", 2: "tap"}
_SCOPES = {0: "global", 200: "site", 253: "link", 254: "host", 255: "nowhere"}
_BOOLEANS = {"stp", "vlan_filtering", "multicast_snooping", "learning", "persist"}
_LOOPBACK, _LOWER_UP, _HOST, _LOCAL_TABLE, _KERNEL = 772, 0x10000, 254, 255, 2
_ACCEPT_RA = 3  # DEVCONF_ACCEPT_RA of linux/ipv6.h
_PERMANENT, _TENTATIVE, _DADFAILED = 0x80, 0x40, 8
_NTF_SELF, _NTF_PROXY = 2, 8
_NUD_NOARP, _NUD_PERMANENT = 0x40, 0x80


class NetlinkError(OSError):
    """The kernel's refusal of a message: errno, what was asked for, and the kernel's own words where it gives some.

    ``message`` is that Message; ``lacks`` the kind of link or qdisc that the kernel does not have, if that is why; ``others`` are
    the errors of further messages that were sent with it.
    """

    def __init__(self, number, words, message):
        reason = os.strerror(number) + (" (%s)" % words.rstrip(".") if words else "")
        super().__init__(number, "the kernel would not %s: %s" % (message.what, reason))
        self.message, self.words, self.others = message, words, []
        self.lacks = message.needs if _unknown_kind(number, words, message) else None


def _unknown_kind(number, words, message):
    if message.number == NEWLINK:
        return number == errno.EOPNOTSUPP and words.startswith("Unknown device type")
    return number == errno.ENOENT and "kind is unknown" in words


def need():
    """OSError (ENOPKG) where nothing could be sent, as there is no pyroute2: to be asked before anything is changed."""
    missing = _netformat.missing()
    if missing:
        raise OSError(errno.ENOPKG, "%s for %s: install python3-pyroute2, 0.5.14 or newer" % (missing, sys.executable))


def open(path=None, proc="/proc"):  # pylint: disable=redefined-builtin
    """A `Net` on the namespace pinned at ``path``, or on the caller's own. Reading needs no pyroute2."""
    return Net(path, proc)


class Net:
    """A socket in one network namespace. ``fd`` is a descriptor of the namespace itself."""

    def __init__(self, path, proc):
        self._sequence = 0
        self.fd = os.open(path or proc + "/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            with nsfs.visit({} if path is None else {"net": "%s/self/fd/%d" % (proc, self.fd)}, proc):
                self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        except BaseException:
            os.close(self.fd)
            raise
        for option in (_EXT_ACK, _CAP_ACK):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)

    def close(self):
        """Close the socket; `with` does it."""
        self._socket.close()
        os.close(self.fd)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    # -- changing

    def send(self, messages):
        """Send messages, as many at once as fit. The kernel takes each by itself: those after a refused one are carried out too.

        Raises NetlinkError for the first that was refused and not tolerated.
        """
        waiting, data, failed = {}, bytearray(), []
        need()
        for message in messages:
            self._sequence += 1
            encoded = _netformat.encode(message, self._sequence, _NLM_F_REQUEST | _NLM_F_ACK)
            if len(waiting) == _BATCH or len(data) + len(encoded) > _BATCH_BYTES:
                failed += self._exchange(data, waiting)
                waiting, data = {}, bytearray()
            data += encoded
            waiting[self._sequence] = message
        failed += self._exchange(data, waiting)
        if failed:
            failed[0].others = failed[1:]
            raise failed[0]

    def _exchange(self, data, waiting):
        """Send one datagram and wait for the answer to each message of it: the errors."""
        failed = []
        if waiting:
            self._socket.send(data)
        while waiting:
            answer = self._socket.recv(65536)
            offset = 0
            while offset < len(answer):
                length, number, flags, sequence, dummy = _HEADER.unpack_from(answer, offset)
                message = waiting.pop(sequence, None) if number == _NLMSG_ERROR else None
                code = -struct.unpack_from("=i", answer, offset + 16)[0] if message is not None else 0
                if code and code not in message.tolerated:
                    failed.append(NetlinkError(code, _words(answer, offset, length, flags), message))
                offset += length + 3 & ~3
        return failed

    # -- reading

    def _ask(self, request, kind, head, flags, keep=None):
        """[what `Format.read` reads] in answer to a request; ``keep(data, offset of the fixed part)`` looks before decoding."""
        for dummy in range(16):
            self._sequence += 1
            header = _HEADER.pack(16 + len(head), request, flags | _NLM_F_REQUEST, self._sequence, 0)
            self._socket.send(header + head)
            found, changing = self._answer(request, kind, flags & _NLM_F_DUMP, keep)
            if not changing:
                break
        return found

    def _answer(self, request, kind, dump, keep):
        found, changing, read = [], False, _netformat.FORMATS[kind].read
        while True:
            data = self._socket.recv(65536)
            offset = 0
            while offset < len(data):
                length, number, flags, sequence, dummy = _HEADER.unpack_from(data, offset)
                if sequence != self._sequence:  # left over from an exchange that was interrupted
                    offset += length + 3 & ~3
                    continue
                changing = changing or bool(flags & _NLM_F_DUMP_INTR)
                if number in (_NLMSG_DONE, _NLMSG_ERROR):
                    code = -struct.unpack_from("=i", data, offset + 16)[0]
                    if code > 0:
                        raise OSError(code, "the kernel would not show %ss: %s" % (kind, os.strerror(code)))
                    return found, changing
                if keep is None or keep(data, offset + 16):
                    found.append(read(data, offset + 16, length - 16))
                offset += length + 3 & ~3
            if not dump:
                return found, False

    def links(self):
        """[{index, name, kind, mac, mtu, up, carrier, master, parent, parent_netnsid, group, alias, port, data, families}]

        ``kind`` is None for a physical device and `loopback` for lo; ``parent`` the index of the link below or of the veth's peer, in
        the namespace ``parent_netnsid`` where that is not None; ``port`` {isolated, locked, learning, hairpin, …} of a bridge's
        port, else None; ``data`` what is of its kind (`netmessages.new_link`); ``families`` is for accept_ra(). What is not there is None.
        """
        return [_link(*each) for each in self._ask(_GETLINK, "link", bytes(16) + _MASK, _NLM_F_DUMP)]

    def link(self, link):
        """One of these, by index or name, or None."""
        index, name = (link, b"") if isinstance(link, int) else (0, _attribute(3, link.encode() + b"\0"))
        try:
            return _link(*self._ask(_GETLINK, "link", struct.pack("=BBHiII", 0, 0, 0, index, 0, 0) + _MASK + name, 0)[0])
        except OSError as exc:
            if exc.errno == errno.ENODEV:
                return None
            raise

    def addresses(self):
        """[{index, family: 4 or 6, address: '10.1.0.2/24', permanent, scope, tentative, failed: is a duplicate}]

        Without those of scope `host`, 127.0.0.1 and ::1.
        """
        found = self._ask(_GETADDR, "address", bytes(8), _NLM_F_DUMP, lambda data, offset: data[offset + 3] != _HOST)
        return [_address(*each) for each in found]

    def routes(self):
        """[{to: CIDR or 'default', family, via, index, source, metric, table, type, protocol, scope, mtu, hops}]

        Without the kernel's own: to the subnets of addresses, and those of the table `local`. ``hops`` is None, or the [{index, via}] of a route with several.
        """
        return [_route(*each) for each in self._ask(_GETROUTE, "route", bytes(12), _NLM_F_DUMP, _is_set)]

    def rules(self):
        """[{family, priority, from, to, iif, oif, mark: None or (N, mask), table, action, protocol}]; ``protocol`` 2 are the kernel's own."""
        found = self._ask(_GETRULE, "rule", bytes(12), _NLM_F_DUMP, lambda data, offset: data[offset] in _FAMILIES)
        return [_rule(*each) for each in found]

    def neighbours(self):
        """[{index, family, address, mac, proxy}]: those that somebody has set, and addresses that are answered for (proxy)."""
        ask, head = self._ask, "=BBHiHBB"
        found = ask(_GETNEIGH, "neighbour", bytes(12), _NLM_F_DUMP, lambda data, offset: data[offset + 8] & _NUD_PERMANENT)
        found += ask(_GETNEIGH, "neighbour", struct.pack(head, 0, 0, 0, 0, 0, _NTF_PROXY, 0), _NLM_F_DUMP)
        return [{"index": head[3], "family": _FAMILIES.get(head[0]), "address": read.get("address"), "mac": read.get("mac"),
                 "proxy": bool(head[5] & _NTF_PROXY)} for head, read in found]

    def fdb(self):
        """[{index, mac, vlan, master, static, local, self, remote}] of all bridges and vxlans: ``local`` are a port's own addresses."""
        return [_entry(*each) for each in self._ask(_GETNEIGH, "neighbour", bytes([AF_BRIDGE]) + bytes(15), _NLM_F_DUMP)]

    def qdiscs(self):
        """[{index, kind, handle: '1:', parent: 'root' or '1:1', options, stats: {bytes, packets, drops, overlimits}}]

        Those that somebody has set: not the default ones, whose handle is 0.
        """
        return [_qdisc(*each) for each in self._ask(_GETQDISC, "qdisc", bytes(20), _NLM_F_DUMP, lambda data, offset: any(data[offset + 8:offset + 12]))]


def _attribute(number, value):
    return struct.pack("=HH", 4 + len(value), number) + value + bytes(-len(value) % 4)


_MASK = _attribute(29, struct.pack("=I", _SKIP_STATS))


def _words(data, offset, length, flags):
    """The kernel's own words in an error (NLMSGERR_ATTR_MSG), or ''."""
    end = offset + length
    offset += 36  # the error and the header of the message that it is about
    while flags & _NLM_F_ACK_TLVS and offset + 4 <= end:
        size, number = struct.unpack_from("=HH", data, offset)
        if number == _NLMSGERR_ATTR_MSG:
            return data[offset + 4:offset + size].rstrip(b"\0").decode("utf-8", "replace")
        offset += max(size, 4) + 3 & ~3
    return ""


# -- what messages say, as plain data

def _link(head, read):
    dummy, dummy, device, index, flags, dummy = head
    info = read.get("info") or {}
    kind = "loopback" if device == _LOOPBACK else info.get("kind")
    data = info.get("data") or {}
    if "mode" in data:
        data["mode"] = _MODES[kind].get(data["mode"])
    for name in data:
        if name in _BOOLEANS:
            data[name] = bool(data[name])
    port = {name: bool(value) for name, value in info["port"].items()} if info.get("port_kind") == "bridge" else None
    return {
        "index": index, "name": read["name"], "kind": kind, "mac": read.get("mac"), "mtu": read.get("mtu"), "up": bool(flags & UP),
        "carrier": bool(flags & _LOWER_UP), "master": read.get("master"), "parent": read.get("parent"), "data": data, "port": port,
        "parent_netnsid": read.get("parent_netnsid"), "group": read.get("group"), "alias": read.get("alias"),
        "families": read.get("families", b""),
    }


def accept_ra(link):
    """net/ipv6/conf/NAME/accept_ra of a link, None without IPv6."""
    families = _netformat.FAMILIES.read(link["families"], 0, len(link["families"]))[1]
    conf = families.get("ipv6", {}).get("conf", b"")
    return struct.unpack_from("=i", conf, 4 * _ACCEPT_RA)[0] if len(conf) > 4 * _ACCEPT_RA else None


def _address(head, read):
    family, length, flags, scope, index = head
    flags = read.get("flags", flags)
    return {
        "index": index, "family": _FAMILIES.get(family), "address": "%s/%d" % (read.get("local") or read["address"], length),
        "permanent": bool(flags & _PERMANENT), "scope": _SCOPES.get(scope, scope), "tentative": bool(flags & _TENTATIVE),
        "failed": bool(flags & _DADFAILED),
    }


def _is_set(data, offset):
    return data[offset + 4] != _LOCAL_TABLE and data[offset + 5] != _KERNEL and data[offset + 7] in _ROUTE_TYPES


def _route(head, read):
    family, length, dummy, dummy, table, protocol, scope, kind, dummy = head
    return {
        "to": "%s/%d" % (read["to"], length) if "to" in read else "default", "family": _FAMILIES.get(family), "via": read.get("via"),
        "index": read.get("index"), "source": read.get("source"), "metric": read.get("metric"), "table": read.get("table", table),
        "type": _ROUTE_TYPES[kind], "protocol": protocol, "scope": _SCOPES.get(scope, scope),
        "mtu": read["metrics"].get("mtu") if "metrics" in read else None, "hops": _hops(read["hops"]) if "hops" in read else None,
    }


def _hops(data):
    found, offset = [], 0
    while len(data) - offset >= 8:
        length = max(struct.unpack_from("=H", data, offset)[0], 8)
        hop = _netformat.HOP.nested(data, offset, length)
        found.append({"index": hop["index"], "via": hop.get("via")})
        offset += length + 3 & ~3
    return found


def _rule(head, read):
    family, to_length, from_length, dummy, table, dummy, dummy, action, dummy = head
    return {
        "family": _FAMILIES[family], "priority": read.get("priority", 0), "iif": read.get("iif"), "oif": read.get("oif"),
        "from": "%s/%d" % (read["from"], from_length) if "from" in read else None,
        "to": "%s/%d" % (read["to"], to_length) if "to" in read else None,
        "mark": (read["mark"], read.get("mask", 0xFFFFFFFF)) if "mark" in read else None, "table": read.get("table", table),
        "action": _RULE_ACTIONS.get(action, action), "protocol": read.get("protocol"),
    }


def _entry(head, read):
    dummy, dummy, dummy, index, state, flags, dummy = head
    return {
        "index": index, "mac": read.get("mac"), "vlan": read.get("vlan"), "master": read.get("master"), "remote": read.get("address"),
        "static": bool(state & _NUD_NOARP), "local": bool(state & _NUD_PERMANENT), "self": bool(flags & _NTF_SELF),
    }


def _qdisc(head, read):
    dummy, dummy, dummy, index, handle, parent, dummy = head
    octets, packets = struct.unpack_from("=QI", read["stats"]["basic"])
    drops, overlimits = struct.unpack_from("=8xI4xI", read["stats"]["queue"])
    return {
        "index": index, "kind": read["kind"], "handle": "%x:" % (handle >> 16), "options": _options(read["kind"], read.get("options")),
        "parent": "root" if parent == ROOT else "%x:%x" % (parent >> 16, parent & 0xFFFF),
        "stats": {"bytes": octets, "packets": packets, "drops": drops, "overlimits": overlimits},
    }


def _options(kind, found):
    if kind == "tbf":
        rate, limit, buffer = struct.unpack_from("=8xI12xII", found["parameters"])
        rate = found.get("rate64", rate)
        return {"rate": rate, "burst": round(buffer * TICK * rate / 1e9), "limit": limit}
    if kind == "netem":
        times = {name: found.get(key + "64", found[key] * TICK) / 1000 for name, key in (("delay", "latency"), ("jitter", "jitter"))}
        return dict(times, loss=round(found["loss"] / 0xFFFFFFFF * 100, 7), limit=found["limit"])
    return {}
