# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Bandwidth by its effect: a real transfer is held to the declared rate, each way, and the counters of tc(8) show it.

How fast the machine is does not matter as long as it is faster than the declared rate, which the same transfer without one shows.
"""

from __future__ import annotations

import json
import os
import socket
import time

import drive
import pytest
from spaces import addresses, command, declare, end, eth0, lab, link
from wires import enter

from module_utils._kernel import built

__all__ = ["lab"]
RATE = 40  # Mbit/s
SIZE = 10 << 20  # bytes: two seconds of it
TOLERANCE = 0.1


class Sink:
    """Reads what is sent to a port of a namespace."""

    def __init__(self, place, port=9):
        ready, told = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            try:
                enter(place)
                with socket.create_server(("0.0.0.0", port)) as server:
                    os.write(told, b"x")
                    while True:
                        taken = server.accept()[0]
                        while taken.recv(1 << 20):
                            pass
                        taken.sendall(b".")
                        taken.close()
            finally:
                os._exit(1)
        os.close(told)
        assert os.read(ready, 1)
        os.close(ready)

    def end(self):
        os.kill(self.pid, 9)
        os.waitpid(self.pid, 0)


@pytest.fixture
def pair(lab, converge):
    """The namespaces web and peer on one network, each with a sink: (address of web, address of peer)."""
    lab("web", "peer", subnets=["10.42.0.0/24"])
    converge("interface", **declare(eth0(), eth0(namespace="peer")))
    sinks = [Sink("web"), Sink("peer")]
    yield addresses()[0].partition("/")[0], addresses(space="peer")[0].partition("/")[0]
    for sink in sinks:
        sink.end()


def transfer(place, address, size=SIZE):
    """Mbit/s of TCP's payload, until the other side has read all of it."""

    def send():
        enter(place)
        data = bytes(1 << 16)
        with socket.create_connection((address, 9), 10) as one:
            one.settimeout(60)
            begun = time.monotonic()
            for unused in range(size // len(data)):
                one.sendall(data)
            one.shutdown(socket.SHUT_WR)
            assert one.recv(1) == b"."
            return size * 8 / 1e6 / (time.monotonic() - begun)

    rate = drive.isolated(send, 120)
    assert isinstance(rate, float), rate
    return rate


def counters(device, space=None):
    """What tc(8) shows of a device's root qdisc."""
    return json.loads(command("tc", "-s", "-j", "qdisc", "show", "dev", device, "root", space=space))[0]


@pytest.mark.parametrize("side", ["transmit", "receive"])
def test_a_transfer_is_held_to_the_rate(pair, converge, side):
    way = ("web", pair[1]) if side == "transmit" else ("peer", pair[0])
    assert transfer(*way) > 3 * RATE, "the machine is too slow for this test to say anything"
    converge("interface", **declare(eth0(bandwidth={side: "%dmbit" % RATE}), eth0(namespace="peer")))
    where = ("eth0", "web") if side == "transmit" else (end(), None)
    before = counters(*where)
    assert before["kind"] == "tbf" and before["options"]["rate"] == RATE * 1000000 // 8
    rate = transfer(*way)
    assert RATE * (1 - TOLERANCE) < rate < RATE * (1 + TOLERANCE)
    after = counters(*where)
    sent = after["bytes"] - before["bytes"]
    assert SIZE < sent < SIZE * (1 + TOLERANCE) and after["overlimits"] > before["overlimits"]
    shown = drive.info("interface", namespace="web")["interfaces"][0]["bandwidth"]
    assert shown[side]["rate"] == "%dmbit" % RATE and shown[side]["bytes"] == after["bytes"] and shown[side]["overlimits"] == after["overlimits"]
    back = ("peer", pair[0]) if side == "transmit" else ("web", pair[1])
    assert transfer(*back) > 3 * RATE  # the other way is free
    # Changed in place, under way of the counters; then gone.
    converge("interface", **declare(eth0(bandwidth={side: "%dmbit" % (2 * RATE)}), eth0(namespace="peer")))
    assert counters(*where)["bytes"] >= after["bytes"] and counters(*where)["handle"] == "1:"
    assert 2 * RATE * (1 - TOLERANCE) < transfer(*way, size=2 * SIZE) < 2 * RATE * (1 + TOLERANCE)
    done = converge("interface", **declare(eth0(bandwidth={}), eth0(namespace="peer")))
    assert done["actions"] == ["remove bandwidth.%s of web/eth0" % side]
    assert transfer(*way) > 3 * RATE


def test_delay_and_loss_are_set_or_refused_by_name(pair, converge, refuse):
    options = declare(eth0(bandwidth={"transmit": {"rate": "10mbit", "delay": "20ms", "jitter": "5ms", "loss": "1%"}}), eth0(namespace="peer"))
    if built.lacks("NET_SCH_NETEM", "sch_netem"):
        message = refuse("interface", **options)
        assert message == ("Cannot set the bandwidth of interface web/eth0: the kernel has no netem, which delay and loss need. Install a kernel "
                           "with the module sch_netem (CONFIG_NET_SCH_NETEM), or leave them out.")
        assert counters("eth0", "web")["kind"] == "noqueue"
        return
    converge("interface", **options)
    assert not converge("interface", **options)["changed"]
    shown = json.loads(command("tc", "-s", "-j", "qdisc", "show", "dev", "eth0", space="web"))
    assert [(each["kind"], each.get("parent", "root")) for each in shown] == [("tbf", "root"), ("netem", "1:1")]
    converge("interface", **declare(eth0(bandwidth={"transmit": "10mbit"}), eth0(namespace="peer")))
    assert transfer("web", pair[1], 1 << 20) < 11


def test_both_ends_are_of_the_network_again_when_the_limits_go(pair, converge):
    converge("interface", **declare(eth0(bandwidth={"transmit": "10mbit", "receive": "10mbit"})))
    converge("interface", interfaces=[{"namespace": "web", "name": "eth0", "state": "absent"}])
    assert link(end()) is None and "tbf" not in command("tc", "qdisc")
