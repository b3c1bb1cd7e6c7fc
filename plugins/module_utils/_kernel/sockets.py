# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who listens on a port of the net namespace that we are in: /proc/net/tcp and its siblings, proc_pid_net(5)."""

from __future__ import annotations

import os
import socket
import sys

_FILES = (("tcp", 4, 6, "0A"), ("tcp6", 6, 6, "0A"), ("udp", 4, 17, "07"), ("udp6", 6, 17, "07"))  # TCP_LISTEN; TCP_CLOSE: not connected

_OPEN = ("01", "03", "08")  # established; a handshake that is not done; the other end has said all that it has to say


def listening(proc="/proc"):
    """{(family, protocol's number, port): [(address, inode)]}. What listens on `::` is taken to have the port of IPv4 too."""
    found = {}
    for name, family, protocol, state in _FILES:
        try:
            with open("%s/self/net/%s" % (proc, name), encoding="ascii") as stream:
                lines = stream.readlines()[1:]
        except FileNotFoundError:  # a kernel without IPv6
            continue
        for words in map(str.split, lines):
            if words[3] == state:
                address, port = words[1].split(":")
                address = _address(address, family)
                for each in (4, 6) if address == "::" else (family,):
                    found.setdefault((each, protocol, int(port, 16)), []).append((address, int(words[9])))
    return found


def callers(proc="/proc"):
    """How many connections from elsewhere to a port that is listened on are open, those counted in that wait to be accepted."""
    found = []
    for name, family, dummy, listens in _FILES[:2]:
        try:
            with open("%s/thread-self/net/%s" % (proc, name), encoding="ascii") as stream:
                found += [(family, listens) + tuple(line.split()[1:4]) for line in stream.readlines()[1:]]
        except FileNotFoundError:  # a kernel without IPv6
            continue
    ports = {local.partition(":")[2] for family, listens, local, remote, state in found if state == listens}
    return sum(1 for family, dummy, local, remote, state in found if state in _OPEN and local.partition(":")[2] in ports
               and _elsewhere(*[_address(end.partition(":")[0], family) for end in (local, remote)]))


def _elsewhere(local, remote):
    return local != remote and not remote.startswith(("127.", "::ffff:127."))


def holder(proc, inode):
    """`nginx (pid 123)`: a process that has this socket open, or None."""
    wanted = "socket:[%d]" % inode
    for pid in sorted(int(entry) for entry in os.listdir(proc) if entry.isdigit()):
        folder = "%s/%d/fd" % (proc, pid)
        try:
            if any(_target("%s/%s" % (folder, entry)) == wanted for entry in os.listdir(folder)):
                with open("%s/%d/comm" % (proc, pid), encoding="utf-8", errors="replace") as stream:
                    return "%s (pid %d)" % (stream.read().strip(), pid)
        except OSError:  # it ended
            continue
    return None


def _target(path):
    try:
        return os.readlink(path)
    except OSError:  # closed meanwhile
        return None


def _address(text, family):
    """The kernel writes words of four bytes in its own order of bytes."""
    words = [int(text[start:start + 8], 16).to_bytes(4, sys.byteorder) for start in range(0, len(text), 8)]
    return socket.inet_ntop(socket.AF_INET if family == 4 else socket.AF_INET6, b"".join(words))
