# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""net_mark of a cgroup, by its effect: packets of processes in it are counted by a rule that looks for the mark.

Run by test_cgroup.py in `tests/alone --cgroup v2`.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess

import drive
import pytest
import wires

NAME = "bulkhead-marked/one"


@pytest.fixture(autouse=True)
def no_rules_are_left():
    yield
    subprocess.run(["nft", "flush", "ruleset"], check=True)


@pytest.fixture
def sender():
    """A process that sends a datagram for each line it is told: sender.pid, sender.send()."""
    near, far = socket.socketpair()
    pid = os.fork()
    if not pid:
        try:
            near.close()
            while far.recv(1):
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
                    one.sendto(b"x", ("127.0.0.1", 9))
                far.sendall(b"x")
        finally:
            os._exit(0)
    far.close()

    class Sender:
        @staticmethod
        def send():
            near.sendall(b"x")
            assert near.recv(1)

    Sender.pid = pid
    yield Sender
    near.close()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def counted():
    """{mark: how many packets with it have left since the last call}, of those that are watched."""
    listed = wires.listed("counters", "table", "inet", "watch")
    subprocess.run(["nft", "reset counters table inet watch"], check=True, stdout=subprocess.DEVNULL)
    return {int(each["counter"]["name"][1:]): each["counter"]["packets"] for each in listed}


def watch(*marks):
    lines = ["add table inet watch", "add chain inet watch output { type filter hook output priority 0; }"]
    for mark in marks:
        lines += ["add counter inet watch m%d" % mark, "add rule inet watch output meta mark %d counter name m%d" % (mark, mark)]
    subprocess.run(["nft", "-f", "-"], input="\n".join(lines) + "\n", text=True, check=True)


def test_what_a_cgroup_sends_is_marked(sender, converge):
    watch(16, 17)
    predicted = converge("cgroup", check=True, name=NAME, net_mark=16)
    assert converge("cgroup", name=NAME, net_mark=16)["actions"] == predicted["actions"] == ["create cgroup " + NAME, "set net_mark of " + NAME]
    sender.send()
    assert counted() == {16: 0, 17: 0}
    converge("cgroup", name=NAME, net_mark=16, processes=[sender.pid])
    sender.send()
    assert counted() == {16: 1, 17: 0}
    answer = converge("cgroup", name=NAME, net_mark=17)
    assert answer["actions"] == ["set net_mark of " + NAME] and answer["diff"] == {"before": {"net_mark": 16}, "after": {"net_mark": 17}}
    sender.send()
    assert counted() == {16: 0, 17: 1}
    assert drive.info("cgroup", name=[NAME])["cgroups"][0]["net_mark"] == 17
    subprocess.run(["nft", "flush chain inet bulkhead_marks output"], check=True)
    assert converge("cgroup", check=True, name=NAME, net_mark=17)["changed"]
    assert converge("cgroup", name=NAME, net_mark=17)["actions"] == ["set net_mark of " + NAME]
    assert not converge("cgroup", name=NAME, net_mark=17)["changed"]
    converge("cgroup", name=NAME, net_mark=0)
    assert [each["table"]["name"] for each in wires.listed("tables")] == ["watch"]
    converge("cgroup", name=NAME, state="absent", kill=True)


def test_a_cgroup_that_was_made_anew_gets_its_rule_again(converge):
    converge("cgroup", name=NAME, net_mark=16)
    converge("cgroup", name="bulkhead-marked/two", net_mark=3)
    os.rmdir("/sys/fs/cgroup/" + NAME)
    assert converge("cgroup", name=NAME, net_mark=16)["actions"] == ["create cgroup " + NAME, "set net_mark of " + NAME]
    assert not converge("cgroup", name=NAME, net_mark=16)["changed"]
    assert len([each for each in wires.listed("table", "inet", "bulkhead_marks") if "rule" in each]) == 2
    for name in (NAME, "bulkhead-marked/two"):
        predicted = converge("cgroup", check=True, name=name, state="absent")
        assert converge("cgroup", name=name, state="absent")["actions"] == predicted["actions"] == [
            "remove cgroup " + name, "remove net_mark of " + name]
        assert not converge("cgroup", name=name, state="absent")["changed"]
    assert not wires.listed("tables")
