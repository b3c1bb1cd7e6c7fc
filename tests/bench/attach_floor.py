# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The floor of links: what N attachments cost in bare netlink messages, with nothing parsed, compared, recorded or undone.

    attach_floor.py import          milliseconds to import pyroute2's message classes
    attach_floor.py make N FOLDER   milliseconds for each attachment, of the namespaces pinned at FOLDER/a0, a1, …; they stay
    attach_floor.py remove N        the same, to remove them again: one message, by the group of the host ends

An attachment is what the engine makes of one by the same messages: a veth whose other end is born in the namespace, on a bridge, with
alias, MAC addresses, the port locked, the forwarding entry and the neighbour that belong to that, up at both ends, an address and a
default route. There is one socket for the host, with a datagram for each 16 interfaces, and one for each namespace, made inside
it, with one datagram. Messages are written by pyroute2's own classes, and every answer is read. It is run in a private host
(tests/alone), prints one JSON object, and imports nothing of the project.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import struct
import sys
import time

BEGIN = time.perf_counter()
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg  # noqa: E402
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg  # noqa: E402
from pyroute2.netlink.rtnl.ndmsg import ndmsg  # noqa: E402
from pyroute2.netlink.rtnl.rtmsg import rtmsg  # noqa: E402

IMPORT = (time.perf_counter() - BEGIN) * 1e3

NEWLINK, DELLINK, NEWADDR, NEWROUTE, NEWNEIGH = 16, 17, 20, 24, 28
REQUEST, ACK, REPLACE, EXCL, CREATE = 1, 4, 0x100, 0x200, 0x400
CLONE_NEWNET = 0x40000000
GROUP, BATCH = 4711, 16
libc = ctypes.CDLL(None, use_errno=True)


def message(cls, number, how, attributes, **fields):
    built = cls()
    built.update(fields)
    built["attrs"] = attributes
    built["header"] = {"type": number, "flags": how | REQUEST | ACK, "sequence_number": 1, "pid": 0}
    built.encode()
    return built.data


def exchange(sock, messages):
    """One datagram, and the answers to all its messages, none of them an error."""
    sock.send(b"".join(messages))
    left = len(messages)
    while left:
        data = sock.recv(65536)
        offset = 0
        while offset < len(data):
            length, number = struct.unpack_from("=IH", data, offset)
            code = struct.unpack_from("=i", data, offset + 16)[0]
            if number != 2 or code:
                raise OSError(-code, os.strerror(-code))
            left -= 1
            offset += length + 3 & ~3


def netlink():
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    sock.setsockopt(270, 10, 1)  # NETLINK_CAP_ACK: no copy of the request in its answer
    return sock


def up(index):
    return message(ifinfmsg, NEWLINK, 0, [], flags=1, change=1, index=index)


def address(number):
    return "10.88.%d.%d" % divmod(number + 2, 250)


def setns(fd):
    if libc.setns(fd, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def make(count, folder):
    home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    bridge, host = 10000, netlink()
    exchange(host, [
        message(ifinfmsg, NEWLINK, CREATE | EXCL, [["IFLA_IFNAME", "floor0"], ["IFLA_LINKINFO", {"attrs": [["IFLA_INFO_KIND", "bridge"]]}]], index=bridge),
        up(index=bridge), message(ifaddrmsg, NEWADDR, CREATE | EXCL, [["IFA_LOCAL", "10.88.0.1"], ["IFA_ADDRESS", "10.88.0.1"]],
                                  index=bridge, family=2, prefixlen=16)])
    begin = time.perf_counter()
    spaces = [os.open("%s/a%d" % (folder, number), os.O_RDONLY | os.O_CLOEXEC) for number in range(count)]
    for start in range(0, count, BATCH):
        exchange(host, [each for number in range(start, min(start + BATCH, count)) for each in outside(bridge, number, spaces[number])])
    for number, space in enumerate(spaces):
        setns(space)
        sock = netlink()
        setns(home)
        os.close(space)
        local = address(number)
        exchange(sock, [
            up(index=2), message(ifaddrmsg, NEWADDR, CREATE | EXCL, [["IFA_LOCAL", local], ["IFA_ADDRESS", local]], index=2, family=2, prefixlen=16),
            message(rtmsg, NEWROUTE, CREATE | EXCL, [["RTA_GATEWAY", "10.88.0.1"], ["RTA_OIF", 2]], family=2, table=254, proto=4, type=1)])
        sock.close()
    return {"count": count, "each": (time.perf_counter() - begin) / count * 1e3}


def outside(bridge, number, space):
    index, mac = bridge + 1 + number, "02:00:00:00:%02x:%02x" % divmod(number, 256)
    peer = {"attrs": [["IFLA_IFNAME", "eth0"], ["IFLA_ADDRESS", mac], ["IFLA_NET_NS_FD", space]], "index": 2}
    veth = {"attrs": [["IFLA_INFO_KIND", "veth"], ["IFLA_INFO_DATA", {"attrs": [["VETH_INFO_PEER", peer]]}]]}
    port = {"attrs": [["IFLA_INFO_SLAVE_KIND", "bridge"], ["IFLA_INFO_SLAVE_DATA", {"attrs": [["IFLA_BRPORT_LOCKED", 1]]}]]}
    return [
        message(ifinfmsg, NEWLINK, CREATE | EXCL, [
            ["IFLA_IFNAME", "fl%d" % number], ["IFLA_ADDRESS", "06" + mac[2:]], ["IFLA_GROUP", GROUP], ["IFLA_MASTER", bridge],
            ["IFLA_LINKINFO", veth]], index=index),
        message(ifinfmsg, NEWLINK, 0, [["IFLA_IFALIAS", "floor a%d" % number]], index=index),
        message(ifinfmsg, NEWLINK, 0, [["IFLA_LINKINFO", port]], index=index),
        message(ndmsg, NEWNEIGH, CREATE | REPLACE, [["NDA_LLADDR", mac]], family=7, ifindex=index, state=0x40, flags=4),
        message(ndmsg, NEWNEIGH, CREATE | REPLACE, [["NDA_DST", address(number)], ["NDA_LLADDR", mac]], family=2, ifindex=bridge, state=0x80),
        up(index=index)]


def remove(count):
    host = netlink()
    begin = time.perf_counter()
    exchange(host, [message(ifinfmsg, DELLINK, 0, [["IFLA_GROUP", GROUP]])])
    spent = time.perf_counter() - begin
    exchange(host, [message(ifinfmsg, DELLINK, 0, [["IFLA_IFNAME", "floor0"]])])
    return {"count": count, "each": spent / count * 1e3}


def main(what, count="0", folder=None):
    if what == "import":
        return {"each": IMPORT}
    return make(int(count), folder) if what == "make" else remove(int(count))


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
