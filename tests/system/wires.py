# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Real traffic between net namespaces: servers that say who they saw, and clients that say whom they reached.

A place is the name of a net namespace in /run/netns, or None for the host that the test runs in.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import time

import drive
from module_utils._kernel import syscalls

TURN, TURNS = 0.01, 80  # how often in seconds, and how many times we look whether an answer is there; later none will be. On a busy
# machine turns come late, as answers do.
LONG = 20  # seconds after which what should come about has failed


def ip(*lines):
    """Commands of ip(8), in one call."""
    ended = subprocess.run(["ip", "-batch", "-"], input="\n".join(lines) + "\n", capture_output=True, text=True, check=False)
    assert not ended.returncode, ended.stderr


def enter(place):
    """Move this process, a child of the test, into a place. It ends with the test."""
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    if place is not None:
        fd = os.open("/run/netns/" + place, os.O_RDONLY)
        syscalls.setns(fd)
        os.close(fd)


class Server:
    """Answers on a port, tcp and udp, of all addresses: `NAME ADDRESS`, the address that the question came from."""

    def __init__(self, place, port, name=None, address="::"):
        self.sockets = []
        ready, told = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            try:
                enter(place)
                self._listen(address, port)
                os.write(told, b"x")
                self._serve((name or place or "host").encode())
            finally:
                os._exit(1)
        os.close(told)
        began = select.select([ready], [], [], LONG)[0] and os.read(ready, 1)
        os.close(ready)
        if not began:
            self.end()
        assert began, "no server in %s" % place

    def _listen(self, address, port):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            one = socket.socket(family, kind)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind((address, port))
            self.sockets.append(one)
        self.sockets[0].listen(64)

    def _serve(self, name):
        stream, datagrams = self.sockets
        while True:
            for one in select.select(self.sockets, [], [])[0]:
                if one is stream:
                    taken, peer = one.accept()
                    taken.sendall(name + b" " + _plain(peer))
                    self.sockets.append(taken)
                elif one is datagrams:
                    data, peer = one.recvfrom(2000)
                    one.sendto(name + b" " + _plain(peer), peer)
                else:
                    data = one.recv(2000)
                    if data:
                        one.sendall(data)
                    else:
                        self.sockets.remove(one)
                        one.close()

    def end(self):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def _plain(peer):
    return peer[0].replace("::ffff:", "").encode()


def ask(place, *questions):
    """What was answered to each of (protocol, address, port[, source address[, source port]]): a text, or None when nothing was."""
    answer = drive.isolated(lambda: _ask(place, questions))
    assert isinstance(answer, list), answer
    return answer


def _ask(place, questions):
    enter(place)
    waiting, answers = {}, [None] * len(questions)
    for number, (protocol, address, port, *source) in enumerate(questions):
        one = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET,
                            socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM)
        one.setblocking(False)
        try:
            if source:
                one.bind(tuple(source) if len(source) > 1 else (source[0], 0))
            one.connect_ex((address, port))
            if protocol == "udp":
                one.send(b"who?")
        except OSError as exc:
            answers[number] = "error: %s" % exc.strerror
            continue
        waiting[one] = number
    for unused in range(TURNS):
        if not waiting:
            break
        began = time.monotonic()
        ready = select.select(list(waiting), [], [], TURN)[0]
        for one in ready:
            try:
                answers[waiting[one]] = one.recv(200).decode()
            except BlockingIOError:
                continue
            except OSError as exc:
                answers[waiting[one]] = "error: %s" % exc.strerror
            del waiting[one]
        if ready and waiting:
            time.sleep(max(0, TURN - (time.monotonic() - began)))
    return answers


class Call:
    """A connection that is kept open, to see whether it lives on."""

    def __init__(self, place, address, port):
        self.near, far = socket.socketpair()
        self.pid = os.fork()
        if not self.pid:
            try:
                enter(place)
                with socket.create_connection((address, port), LONG) as one:
                    far.sendall(one.recv(200))
                    while True:
                        data = far.recv(200)
                        if not data:
                            break
                        one.sendall(data)
                        far.sendall(one.recv(200))
            finally:
                os._exit(0)
        far.close()
        self.near.settimeout(LONG)
        try:
            self.greeting = self.near.recv(200).decode()
        except OSError:
            self.end()
            raise

    def echo(self, text):
        """What comes back; "" when the connection is broken."""
        self.near.sendall(text.encode())
        return self.near.recv(200).decode()

    def end(self):
        self.near.close()
        os.kill(self.pid, signal.SIGKILL)  # a later child may hold a copy of `near`, so that it would never see the end
        os.waitpid(self.pid, 0)


def listed(*words):
    """What nft lists, as JSON."""
    ended = subprocess.run(["nft", "-n", "-j", "list"] + list(words), capture_output=True, text=True, check=True)
    return [each for each in json.loads(ended.stdout)["nftables"] if "metainfo" not in each]
