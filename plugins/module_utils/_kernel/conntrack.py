# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Flows that the kernel remembers, of UDP: what was decided for the first packet of one holds for all that follow, for ever.

ctnetlink by a plain socket, as there is no command for it on each host. Sources: linux/netfilter/nfnetlink_conntrack.h, nfnetlink.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct

_NETLINK_NETFILTER = 12
_GET, _DELETE = 0x101, 0x102  # NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET, IPCTNL_MSG_CT_DELETE
_REQUEST, _ACK, _DUMP = 1, 4, 0x300
_ERROR, _DONE = 2, 3
_ORIGINAL, _REPLY, _ZONE = 1, 2, 18  # CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_ZONE
_IP, _PROTO = 1, 2  # CTA_TUPLE_IP, CTA_TUPLE_PROTO
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_UDP = 17
_NO_CTNETLINK = (errno.EPROTONOSUPPORT, errno.EOPNOTSUPP, errno.EINVAL)


class Flow:
    """``target``: the (address, port) it was sent to; ``answers``: the one that it really went to, which differs when it was translated."""

    def __init__(self, family, attributes):
        self.family, self.attributes = family, attributes
        self.target = _ends(family, attributes[_ORIGINAL])[1]
        self.answers = _ends(family, attributes[_REPLY])[0]


def forget(which):
    """Forget the flows of UDP for which ``which(flow)`` is true; how many there were. A kernel without ctnetlink forgets none."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER) as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        one.bind((0, 0))
        try:
            found = [flow for family in _FAMILIES for flow in _dump(one, family) if which(flow)]
        except OSError as exc:
            if exc.errno in _NO_CTNETLINK:
                return 0
            raise
        for flow in found:
            kept = {kind: flow.attributes[kind] for kind in (_ORIGINAL, _ZONE) if kind in flow.attributes}
            one.send(_message(_DELETE, _REQUEST | _ACK, flow.family, kept))
            try:
                for dummy in _answers(one):
                    pass
            except FileNotFoundError:  # it ended by itself
                pass
        return len(found)


def _dump(one, family):
    one.send(_message(_GET, _REQUEST | _DUMP, family, {}))
    found = []
    for body in _answers(one):
        attributes = dict(_attributes(body[4:]))
        if _ORIGINAL in attributes and dict(_attributes(dict(_attributes(attributes[_ORIGINAL]))[_PROTO]))[1][0] == _UDP:
            found.append(Flow(family, attributes))
    return found


def _ends(family, text):
    """((address, port) of the source, the same of the destination) of a tuple."""
    parts = dict(_attributes(text))
    address, protocol = (dict(_attributes(parts[kind])) for kind in (_IP, _PROTO))
    first = 1 if family == 4 else 3  # CTA_IP_V4_SRC, CTA_IP_V6_SRC
    return [(socket.inet_ntop(_FAMILIES[family], address[first + index]), struct.unpack(">H", protocol[2 + index])[0]) for index in (0, 1)]


def _message(kind, flags, family, attributes):
    body = struct.pack(">BBH", _FAMILIES[family], 0, 0)
    for key, value in attributes.items():
        nested = 0x8000 if key == _ORIGINAL else 0  # NLA_F_NESTED
        body += struct.pack("=HH", len(value) + 4, key | nested) + value + b"\0" * (-len(value) % 4)
    return struct.pack("=IHHII", len(body) + 16, kind, flags, 1, 0) + body


def _attributes(text):
    """(kind, value) of each attribute."""
    while len(text) >= 4:
        length, kind = struct.unpack_from("=HH", text)
        yield kind & 0x3fff, text[4:length]
        text = text[max(4, length + 3 & ~3):]


def _answers(one):
    """The bodies of what is answered, until it ends; an error is raised."""
    while True:
        text = one.recv(1 << 17)
        while len(text) >= 16:
            length, kind = struct.unpack_from("=IH", text)
            body, text = text[16:length], text[length + 3 & ~3:]
            if kind in (_ERROR, _DONE):
                code = struct.unpack_from("=i", body)[0] if len(body) >= 4 else 0
                if code:
                    raise OSError(-code, os.strerror(-code))
                return
            yield body
