# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The entry as systemd starts it: it hands its place over to a sibling in the pid namespace. We are the one who starts it here."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys

import pytest

import drive
from jail import until

from module_utils._kernel import nsfs

ENTER = os.path.join(drive.ROOT, "plugins", "module_utils", "_program", "enter.py")


class Supervisor:
    """Starts the entry as a child and listens; what is started besides it is a child of ours, too."""

    def __init__(self, tmp_path):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.address, self.spec, self.output = str(tmp_path / "notify"), str(tmp_path / "spec.json"), str(tmp_path / "output")
        self.socket.bind(self.address)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.socket.settimeout(20)

    def start(self, sh, **keys):
        with open(self.spec, "w", encoding="utf-8") as stream:
            json.dump(dict({"name": "test", "capabilities": [], "command": ["/bin/sh", "-c", sh], "notify": True}, **keys), stream)
        pid = os.fork()
        if not pid:
            try:
                fd = os.open(self.output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(fd, 1)
                os.dup2(fd, 2)
                os.execve(sys.executable, [sys.executable, "-IS", ENTER, self.spec], {"NOTIFY_SOCKET": self.address})
            finally:
                os._exit(99)
        return pid

    def hear(self):
        """(text, the pid that said so, the descriptor that came with it)."""
        text, more, dummy, dummy = self.socket.recvmsg(4096, socket.CMSG_SPACE(12) + socket.CMSG_SPACE(4))
        sender, passed = None, None
        for dummy, kind, data in more:
            if kind == socket.SCM_RIGHTS:
                passed = int.from_bytes(data[:4], sys.byteorder)
            else:
                sender = int.from_bytes(data[:4], sys.byteorder)
        return text.decode(), sender, passed

    def said(self):
        with open(self.output, encoding="utf-8") as stream:
            return stream.read()


@pytest.fixture
def supervisor(tmp_path):
    each = Supervisor(tmp_path)
    yield each
    each.socket.close()


@pytest.fixture
def pin(converge):
    converge("namespace", name="handed", types=["pid"])
    yield nsfs.pin_path(drive.new_host(), "handed", "pid")
    converge("namespace", name="handed", state="absent", kill=True)


def handed_over(supervisor, pid):
    """Let the hand-over happen: the sibling's pid. Who it is and that it is ready is one message."""
    sibling = named(supervisor, pid)
    text, sender, barrier = supervisor.hear()
    assert (text, sender) == ("BARRIER=1", pid)
    assert not os.waitpid(pid, os.WNOHANG)[0] and not os.waitpid(sibling, os.WNOHANG)[0]  # both wait for us
    os.close(barrier)
    assert os.waitpid(pid, 0)[1] == 0
    return sibling


def named(supervisor, pid):
    text, sender, dummy = supervisor.hear()
    assert text.startswith("MAINPID=") and text.endswith("\nREADY=1") and sender == pid
    return int(text[len("MAINPID="):-len("\nREADY=1")])


def children():
    with open("/proc/self/task/%d/children" % os.getpid(), encoding="ascii") as stream:
        return {int(word) for word in stream.read().split()}


@pytest.mark.parametrize(("sh", "status"), [("exit 7", 7 << 8), ("kill -9 $$", 9), ("exit 0", 0)])
def test_the_command_is_a_child_of_the_supervisor(supervisor, pin, sh, status):
    sibling = handed_over(supervisor, supervisor.start(sh, namespaces={"pid": pin}))
    assert os.waitpid(sibling, 0)[1] == status


def test_it_lives_in_the_namespace_and_knows_nothing_of_it(supervisor, pin):
    sibling = handed_over(supervisor, supervisor.start("env; ls -l /proc/self/fd; exec sleep 60", namespaces={"pid": pin}))
    until(lambda: os.readlink("/proc/%d/exe" % sibling).endswith("/sleep"))
    assert nsfs.identity("/proc/%d/ns/pid" % sibling) == nsfs.identity(pin)
    os.kill(sibling, signal.SIGTERM)
    assert os.waitpid(sibling, 0)[1] == signal.SIGTERM
    assert "NOTIFY_SOCKET" not in supervisor.said() and "socket:" not in supervisor.said()


def test_without_a_pid_namespace_it_stays(supervisor):
    pid = supervisor.start("exit 3")
    assert supervisor.hear()[:2] == ("READY=1", pid)
    assert os.waitpid(pid, 0)[1] == 3 << 8


def test_one_that_cannot_enter_is_never_ready(supervisor, pin):
    before = children()
    pid = supervisor.start("exit 0", namespaces={"pid": pin}, root="/nowhere")
    assert os.waitpid(pid, 0)[1] == 125 << 8
    assert "cannot enter its root /nowhere" in supervisor.said()
    supervisor.socket.settimeout(0.1)
    with pytest.raises(OSError):
        supervisor.hear()
    (sibling,) = children() - before
    assert os.waitpid(sibling, 0)[1] == 125 << 8


def test_killed_before_it_has_handed_over(supervisor, pin):
    pid = supervisor.start("exit 0", namespaces={"pid": pin})
    sibling = named(supervisor, pid)
    barrier = supervisor.hear()[2]
    os.kill(pid, signal.SIGKILL)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    assert os.waitpid(sibling, 0)[1] == 125 << 8
    os.close(barrier)
    assert supervisor.said() == "Cannot enter test: whoever began to enter was killed.\n"
