# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Two networks, lab and two, with the members web, cache and other, and a namespace `internet`, which knows no way back to them.

The links are made with ip(8), so that what is proved is the rules alone.
"""

from __future__ import annotations

import subprocess

import drive
import pytest
import wires
from module_utils._engine.plan import Plan, run_plan, run_together
from module_utils._model.errors import BulkheadError
from module_utils._model.rules import Member, Net
from module_utils._resources import _rules

MEMBERS = {"web": ("lab", "42", 2), "cache": ("lab", "42", 3), "other": ("two", "43", 2)}
HOST4, HOST6, INTERNET4, INTERNET6 = "203.0.113.1", "2001:db8:1::1", "203.0.113.2", "2001:db8:1::2"


def address(name, family=4):
    network, subnet, number = MEMBERS[name]
    return "10.%s.0.%d" % (subnet, number) if family == 4 else "fd00:%s::%d" % (subnet, number)


def mac(name):
    network, subnet, number = MEMBERS[name]
    return "02:00:00:00:%s:%02x" % (subnet, number)


def member(name, **keys):
    return Member(name + "/eth0", mac(name), [address(name), address(name, 6)], **keys)


def net(name, **keys):
    subnet = {"lab": "42", "two": "43"}[name]
    return Net(name, "bh-" + name, ["10.%s.0.0/24" % subnet, "fd00:%s::/64" % subnet], **keys)


LAB, TWO = net("lab"), net("two")


def rule(*things):
    """Set the rules as a run does. The names of the steps; a second run has none."""
    actions = []
    for again in (False, True):
        host = drive.new_host()
        _rules.expect(host, things)
        plans = [Plan() for thing in things]
        for plan, thing in zip(plans, things):
            _rules.plan(host, plan, thing)
        if again:
            assert not any(plan.changed for plan in plans), [(plan.actions, plan.before, plan.after) for plan in plans]
            return actions
        actions = [action for plan in plans for action in plan.actions]
        run_together(host, plans)
        for plan in plans:
            run_plan(plan)
        host.finish()
    return None


def refuse(*things):
    with pytest.raises(BulkheadError) as caught:
        rule(*things)
    assert "\n" not in caught.value.message
    return caught.value.message


def sysctl(path, value):
    """Set it, and return what it was."""
    with open("/proc/sys/net/" + path, encoding="ascii") as stream:
        before = stream.read()
    with open("/proc/sys/net/" + path, "w", encoding="ascii") as stream:
        stream.write(str(value))
    return before


SWITCHES = {"ipv4/ip_forward": 1, "ipv6/conf/all/forwarding": 1, "ipv6/conf/default/accept_dad": 0}


@pytest.fixture(params=["plain", "bridge-nf"])
def bridged(request):
    """With and without br_netfilter, which has frames between the ports of a bridge pass the host's rules; docker loads it."""
    try:
        for family in ("ip", "ip6"):
            sysctl("bridge/bridge-nf-call-%stables" % family, int(request.param == "bridge-nf"))
    except FileNotFoundError:
        if request.param == "bridge-nf":
            pytest.skip("this kernel has no br_netfilter")
    return request.param


@pytest.fixture
def world(monkeypatch):
    """The host's links, and namespaces beyond them. Yields what starts a server; ``records`` is what the host's records hold."""
    lines = []
    for network, subnet in (("lab", "42"), ("two", "43")):
        lines += ["link add bh-%s type bridge" % network, "address add 10.%s.0.1/24 dev bh-%s" % (subnet, network),
                  "address add fd00:%s::1/64 dev bh-%s nodad" % (subnet, network), "link set bh-%s up" % network]
    for number, (name, (network, subnet, unused)) in enumerate(MEMBERS.items()):
        lines += ["netns add " + name, "link add v%d type veth peer name eth0 netns %s" % (number, name),
                  "link set v%d master bh-%s up" % (number, network), "link set dev v%d type bridge_slave hairpin on" % number]
    lines += ["netns add internet", "link add wan type veth peer name eth0 netns internet", "link set wan up",
              "address add %s/24 dev wan" % HOST4, "address add %s/64 dev wan nodad" % HOST6]
    records, servers, before = [], [], {}
    monkeypatch.setattr(_rules, "_recorded", lambda host: records)
    try:
        before.update((path, sysctl(path, value)) for path, value in SWITCHES.items())
        wires.ip(*lines)
        for name, (network, subnet, number) in MEMBERS.items():
            inside(name, "link set lo up", "link set eth0 address %s up" % mac(name), "address add 10.%s.0.%d/24 dev eth0" % (subnet, number),
                   "address add fd00:%s::%d/64 dev eth0 nodad" % (subnet, number), "route add default via 10.%s.0.1" % subnet,
                   "route add default via fd00:%s::1" % subnet)
        inside("internet", "link set lo up", "link set eth0 up", "address add %s/24 dev eth0" % INTERNET4,
               "address add %s/64 dev eth0 nodad" % INTERNET6)
        for network in ("lab", "two"):
            sysctl("ipv4/conf/bh-%s/route_localnet" % network, 1)

        def serve(*arguments, **keys):
            servers.append(wires.Server(*arguments, **keys))
            return servers[-1]

        serve.records = records
        yield serve
    finally:
        for server in servers:
            server.end()
        subprocess.run(["nft", "flush", "ruleset"], check=True)
        for device in ("v0", "v1", "v2", "wan", "bh-lab", "bh-two"):
            subprocess.run(["ip", "link", "del", device], check=False)
        for path, value in before.items():
            sysctl(path, value)
        for name in list(MEMBERS) + ["internet"]:
            subprocess.run(["ip", "netns", "del", name], check=False)


def inside(name, *lines):
    subprocess.run(["ip", "-n", name, "-batch", "-"], input="\n".join(lines) + "\n", text=True, check=True)


def both(name, port=80):
    """The questions to a member: tcp and udp, by IPv4 and IPv6."""
    return [(protocol, address(name, family), port) for protocol in ("tcp", "udp") for family in (4, 6)]
