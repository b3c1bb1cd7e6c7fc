# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Networks of a host as a fleet has it, by real traffic: from outside, to the outside, after a reboot, and from one host to another."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from concurrent import futures

import pytest
import qemu
import remote

OUTSIDE = "10.0.2.2"  # where a host finds the machine that it runs on

# The answers to [noun, options, check mode], one after the other in one Python: each that is started there costs seconds.
RUN = """
import json
import sys
import drive

answers = [drive.isolated(lambda: drive.converge(noun, options, check), 600) for noun, options, check in json.loads(sys.argv[1])]
print(json.dumps(answers))
"""

# `bulkhead restore` at boot, or nothing of ours
HOST = """
import sys
import drive
from module_utils._program import host

outcome = drive.engine.converge(drive.new_host(), host, {"state": sys.argv[1], "remove_data": True})
assert not outcome.errors, outcome.errors
"""

# Says who it is and who asks, to whoever comes.
SAY = """
import socket
listening = socket.create_server(("::", 80), family=socket.AF_INET6, dualstack_ipv6=True)
while True:
    one, peer = listening.accept()
    one.sendall((socket.gethostname() + " " + peer[0].replace("::ffff:", "")).encode())
    one.close()
"""

# What each NAME/PORT answers.
ASK = """
import socket
import sys
for word in sys.argv[1:]:
    name, port = word.split("/")
    try:
        with socket.create_connection((name, int(port)), 30) as one:
            print(one.recv(200).decode() or "nothing")
    except OSError as exc:
        print(type(exc).__name__)
"""

# All that a network could leave behind; the find of paths that are not there says nothing.
STATE = r"""
{ ip -br link; ip -br address; ip route show table all; ip -4 rule; ip -6 rule; ip neighbour show nud permanent; } | sed 's/ expires [0-9]*sec//'
tc qdisc; nft list ruleset; sysctl -a -r '^net\.ipv[46]\.(ip_forward|conf|neigh)' 2>/dev/null
find /etc/netns /run/netns /etc/bulkhead /var/lib/bulkhead /etc/systemd/system -type f 2>/dev/null | sort
"""

LAB = {"name": "lab", "subnets": ["10.42.0.0/24", "fd00:42::/64"], "mode": "routed"}
EGRESS = {"policy": "deny", "allow": [{"to": "10.42.0.0/24"}, {"to": "fd00:42::/64"}]}
NETWORK = {"cache": "lab", "web": {"name": "lab", "publish": ["8080:80"], "egress": EGRESS,
                                   "bandwidth": {"transmit": {"rate": "50mbit", "delay": "5ms"}, "receive": "50mbit"}}}


def converge(host, *tasks):
    answers = json.loads(host.python(RUN, json.dumps(tasks), patience=1200))
    for answer in answers:
        assert "error" not in answer, answer
    return answers


def check_run_check_run(host, noun, options, *first):
    """The check says what the run does, and then there is nothing to do. The actions."""
    said, did, quiet, again = converge(host, *first, *[(noun, options, check) for check in (True, False, True, False)])[len(first):]
    assert said["actions"] == did["actions"] and not quiet["changed"] and not again["changed"], (said, did, quiet, again)
    return did["actions"]


@pytest.fixture
def ready(host):
    """The host; nothing of ours is there afterwards."""
    yield host
    host.python(HOST, "absent", patience=900)


@pytest.fixture
def outside():
    """The port of a server on the machine that the hosts run on; it says `outside`."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        def serve():
            while True:
                try:
                    one = listening.accept()[0]
                except OSError:  # the end of the test
                    return
                with one:
                    one.sendall(b"outside")

        threading.Thread(target=serve, daemon=True).start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)


def sandboxes(jail):
    service = {"name": "say", "command": ["/usr/bin/python3", "-c", SAY], "health": {"tcp": 80, "interval": "1s", "retries": 60}}
    return [{"name": name, "namespaces": {"types": ["net", "uts", "ipc", "mnt", "pid"], "hostname": name}, "overlay": {"lower": [jail]},
             "bind": [{"source": "/usr", "target": "/usr", "read_only": True}], "services": [service], "network": network}
            for name, network in NETWORK.items()]


def inside(host, name, *words):
    """What a sandbox is answered."""
    pid = host.run("systemctl show --value --property=MainPID bulkhead-%s-say.service" % name).strip()
    return host.run(["nsenter", "--target", pid, "--all", "/usr/bin/python3", "-c", ASK, *words]).splitlines()


def seen(host, published, port):
    """Who reaches whom: the pair by name, the host and the outside by the published port, and the outside from within."""
    with socket.create_connection(("127.0.0.1", published), 60) as one:
        from_outside = one.recv(200).decode() or "nothing"  # QEMU takes every connection, and ends that which the host refuses
    return {"by name": inside(host, "web", "cache/80", "%s/%d" % (OUTSIDE, port)), "back": inside(host, "cache", "web/80", "%s/%d" % (OUTSIDE, port)),
            "host": host.run(["python3", "-c", ASK, "127.0.0.1/8080"]).split()[0], "outside": from_outside.split()[0]}


@pytest.mark.proves("network")
@pytest.mark.proves("network after a reboot")
def test_a_pair_of_sandboxes_and_a_reboot(ready, jail, outside):
    """They talk by name; one is published, and is denied the outside. A reboot brings all of it back; the removal leaves nothing."""
    before = ready.run(STATE)
    ready.python(HOST, "present")
    tasks = [("network", LAB, check) for check in (True, False)] + [("sandbox", {"sandboxes": sandboxes(jail)}, check) for check in (True, False)]
    answers = converge(ready, *tasks, *tasks)
    assert [answer["changed"] for answer in answers] == [True] * 4 + [False] * 4, answers
    assert [answers[number]["actions"] for number in (0, 2)] == [answers[number]["actions"] for number in (1, 3)], answers
    published = ready.machine.forward("tcp", 8080)
    found = seen(ready, published, outside)
    web, cache = (found[key][0].split() for key in ("back", "by name"))
    assert (web[0], cache[0], found["host"], found["outside"]) == ("web", "cache", "web", "web"), found
    assert web[1] != cache[1] and web[1].startswith("10.42.0.") and cache[1].startswith("10.42.0."), found
    assert found["back"][1] == "outside" and found["by name"][1] == "OSError", found  # EHOSTUNREACH, by the rule that refuses it
    ready.reboot(settled=False)
    assert ready.settle() == "running", ready.run("systemctl --failed; journalctl -b -u bulkhead-restore")
    end = time.monotonic() + 120
    while (back := seen(ready, published, outside)) != found and time.monotonic() < end:  # what was started is to listen first
        time.sleep(1)
    assert back == found
    assert not any(answer["changed"] for answer in converge(ready, *tasks))
    gone = [{"name": name, "state": "absent"} for name in NETWORK]
    converge(ready, ("sandbox", {"sandboxes": gone, "remove_data": True, "kill": True}, False), ("network", {"name": "lab", "state": "absent"}, False))
    ready.python(HOST, "absent")
    assert ready.run(STATE) == before


# Sends so many datagrams that nobody takes, one after the other.
SEND = """
import socket
import sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
    for number in range(int(sys.argv[2])):
        try:
            one.sendto(b"x", (sys.argv[1], 9))
        except ConnectionRefusedError:
            pass
"""


def test_vlan_filtering_and_loss(ready):
    """Both are set in place and taken back; of what is sent, so much is lost."""
    before, lab = ready.run(STATE), {"name": "lab", "subnets": ["10.42.0.0/24"]}
    filters = "ip -d link show bh-lab | grep -o 'vlan_filtering [01]'"
    check_run_check_run(ready, "network", dict(lab, vlan_filtering=True))
    assert ready.run(filters) == "vlan_filtering 1\n"
    ready.run("ip link set bh-lab type bridge vlan_filtering 0")
    for wanted in (True, False):
        (action,) = check_run_check_run(ready, "network", dict(lab, vlan_filtering=wanted))
        assert "vlan_filtering" in action and ready.run(filters) == "vlan_filtering %d\n" % int(wanted)
    eth0 = {"namespace": "web", "name": "eth0", "network": "lab"}
    space, lost = ("namespace", {"name": "web", "types": ["net"]}, False), {}
    for loss in ("25%", "0%"):
        check_run_check_run(ready, "interface", {"interfaces": [dict(eth0, bandwidth={"transmit": {"delay": "1ms", "loss": loss}})]}, space)
        came = "cat /sys/class/net/bh[0-9a-f]*/statistics/rx_packets"  # of the host's end, beside bh-lab
        first = int(ready.run(came))
        ready.run(["nsenter", "--net=/run/netns/web", "python3", "-c", SEND, "10.42.0.1", "300"])
        lost[loss] = 300 - int(ready.run(came)) + first
    assert 30 < lost["25%"] < 120 and lost["0%"] <= 0, lost  # 75, give or take six times the deviation
    converge(ready, ("interface", {"interfaces": [dict(namespace="web", name="eth0", state="absent")]}, False),
             ("network", {"name": "lab", "state": "absent"}, False), ("namespace", {"name": "web", "state": "absent"}, False))
    ready.python(HOST, "absent")
    assert ready.run(STATE) == before


# -- from one host to another

# Says the digest of what it was sent; and what sends a megabyte to each address, and is told the right one.
TAKE = """
import hashlib
import socket
listening = socket.create_server(("::", 7), family=socket.AF_INET6, dualstack_ipv6=True)
while True:
    one = listening.accept()[0]
    digest = hashlib.sha256()
    for data in iter(lambda: one.recv(65536), b""):
        digest.update(data)
    one.sendall(digest.hexdigest().encode())
    one.close()
"""

GIVE = """
import hashlib
import os
import socket
import sys
import time
data, end = os.urandom(1 << 20), time.monotonic() + 120
for address in sys.argv[1:]:
    while True:
        try:
            one = socket.create_connection((address, 7), 120)
            break
        except OSError:  # it is still to listen, or an answer to ARP has taken longer than the kernel waits
            assert time.monotonic() < end, address
            time.sleep(0.5)
    with one:
        one.sendall(data)
        one.shutdown(socket.SHUT_WR)
        assert one.recv(64, socket.MSG_WAITALL).decode() == hashlib.sha256(data).hexdigest(), address
"""


@pytest.fixture
def other(ready):
    """A second host, of the other Debian."""
    (name,) = [name for name in remote.SUITES if name != ready.name]
    second = remote.Host(name, "test-other-%d" % os.getpid())
    yield second
    second.destroy()


def test_tunnels_between_two_hosts(ready, other):
    """By vxlan, IPv4 and IPv6, and by wireguard, a megabyte each; a peer that has another address than was declared is no change."""
    pair = [ready, other]
    for host in pair:
        host.install("wireguard-tools")
    before = [host.run(STATE) for host in pair]
    keys = [host.run("umask 077; wg genkey | tee /root/wg.key | wg pubkey").strip() for host in pair]
    at = [host.machine.forward("udp", 51820) for host in pair]
    # The port of a vxlan is its own and the other's too: each listens at the one by which it reaches the other.
    ports = [qemu.free_port(), qemu.free_port()]
    for number, host in enumerate(pair):
        host.machine.forward("udp", ports[number], ports[1 - number])
    declared = [[
        {"namespace": "far", "name": "vx0", "type": "vxlan", "vni": 42, "remote": OUTSIDE, "port": ports[number], "mtu": 1400,
         "addresses": ["10.7.0.%d/24" % (number + 1), "fd00:7::%d/64" % (number + 1)]},
        {"namespace": "far", "name": "wg0", "type": "wireguard", "private_key_file": "/root/wg.key", "listen_port": 51820,
         "addresses": ["10.8.0.%d/24" % (number + 1)], "peers": [
             {"public_key": keys[1 - number], "endpoint": "%s:%d" % (OUTSIDE, at[1 - number]), "allowed_ips": ["10.8.0.0/24"]}]},
    ] for number in (0, 1)]
    space = ("namespace", {"name": "far", "types": ["net"]}, False)
    with futures.ThreadPoolExecutor() as pool:
        list(pool.map(lambda host, interfaces: check_run_check_run(host, "interface", {"interfaces": interfaces}, space), pair, declared))
    other.run(["systemd-run", "--quiet", "--unit=take", "nsenter", "--net=/run/netns/far", "python3", "-c", TAKE])
    ready.run(["nsenter", "--net=/run/netns/far", "python3", "-c", GIVE, "10.7.0.2", "fd00:7::2", "10.8.0.2"], patience=600)
    other.run("systemctl stop take")
    for host, interfaces, state in zip(pair, declared, before):
        gone = [dict(namespace="far", name=each["name"], state="absent") for each in interfaces]
        answers = converge(host, ("interface", {"interfaces": interfaces}, False), ("interface", {"interfaces": gone}, False),
                           ("namespace", {"name": "far", "state": "absent"}, False))
        assert [answer["changed"] for answer in answers] == [False, True, True], answers
        host.python(HOST, "absent")
        assert host.run(STATE) == state
