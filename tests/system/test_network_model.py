# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Random sequences of declarations of networks and interfaces, and of damage done by others, against a model of what must be.

As in test_model.py: the check run made no call that changes the host and predicted the actions of the run, what was declared is
there, as ip(8) and nft(8) show it, and the second run is unchanged. Each sequence ends with the removal of all, and nothing is left.

BULKHEAD_EXAMPLES: how many sequences (a fixed set of them otherwise).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import drive
import hypothesis
import leftovers
import pytest
import spaces
from hypothesis import stateful
from hypothesis import strategies as some

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(__file__))), "torture"))

import calls  # noqa: E402
import tracer  # noqa: E402

EXAMPLES = int(os.environ.get("BULKHEAD_EXAMPLES", "0"))
SUBNETS = {"lab": [["10.42.0.0/24"], ["10.42.0.0/24", "fd00:42::/64"]], "data": [["10.43.0.0/24"], ["10.43.0.0/24", "fd00:43::/64"]]}
ON = {"web": "lab", "cache": "lab", "base": "data"}  # which namespace is on which network
NETWORKS, SPACES = some.sampled_from(sorted(SUBNETS)), some.sampled_from(sorted(ON))


def shell(text):
    subprocess.run(["sh", "-c", text], capture_output=True, check=False)


def owners():
    """Whose elements are in the table of ours."""
    said = subprocess.run(["nft", "-j", "list", "table", "inet", "bulkhead"], capture_output=True, text=True, check=False).stdout
    found = set()
    for each in json.loads(said or '{"nftables": []}')["nftables"]:
        for item in (each.get("set") or each.get("map") or {}).get("elem", ()):
            found.add((item[0] if isinstance(item, list) else item)["elem"]["comment"])
    return found - {"*"}


def clear():
    """Take everything away, by the engine."""
    drive.apart("interface", dict(interfaces=[dict(namespace=name, name="eth0", state="absent") for name in ON]))
    for name in ON:
        drive.apart("namespace", dict(name=name, state="absent", kill=True))
    for name in SUBNETS:
        drive.apart("network", dict(name=name, state="absent", force=True))


class Machine(stateful.RuleBasedStateMachine):
    """The model: what was declared last of two networks, and which of three namespaces have an interface on one."""

    def __init__(self):
        super().__init__()
        clear()  # what a sequence that failed has left
        self.start = leftovers.Snapshot()
        for name in ON:
            assert "error" not in drive.apart("namespace", dict(name=name, types=["net"]))
        self.networks = {}
        self.interfaces = set()

    def step(self, noun, options):
        traced = tracer.trace(lambda: drive.converge(noun, options, True))
        assert not traced.problems, traced.problems
        changes = [point for point in traced.points if calls.changes_host(point[1], point[2])]
        assert not changes, "the check run of %s changes the host: %s" % (options, changes)
        done = drive.apart(noun, options)
        assert "error" not in done, (options, done["error"])
        assert "error" not in traced.answer, (options, traced.answer.get("error"))
        assert traced.answer["actions"] == done["actions"], options
        again = drive.apart(noun, options)
        assert "error" not in again, again["error"]
        assert not again["changed"], ("the second run", options, again["actions"])

    def members(self, network):
        return [name for name in sorted(self.interfaces) if ON[name] == network]

    @stateful.invariant()
    def as_declared(self):
        assert owners() == set(self.networks) | {name + "/eth0" for name in self.interfaces}
        for name, options in self.networks.items():
            link = spaces.link("bh-" + name)
            assert "UP" in link["flags"] and link["ifalias"] == "bulkhead network " + name
            assert len(spaces.addresses("bh-" + name, None)) == len(options["subnets"])
            assert options.get("mtu") in (None, link["mtu"])
            for member in self.members(name):
                end = spaces.end(member)
                assert spaces.link(end)["master"] == "bh-" + name
                assert spaces.port("isolated", end) == (options.get("mode") == "routed" or not options.get("inter_sandbox", True))
                assert spaces.port("locked", end) == options.get("antispoof", True)
        for name in self.interfaces:
            assert "UP" in spaces.link("eth0", space=name)["flags"] and spaces.addresses(space=name)
        forwarded = any(len(options["subnets"]) > 1 for options in self.networks.values())
        with open("/proc/sys/net/ipv6/conf/all/forwarding", encoding="ascii") as stream:
            assert stream.read().strip() == str(int(forwarded))

    # -- declarations

    @stateful.rule(name=NETWORKS, whole=some.booleans(), options=some.fixed_dictionaries({}, optional=dict(
        mode=some.sampled_from(["bridged", "routed"]), inter_sandbox=some.booleans(), masquerade=some.booleans(), internal=some.booleans(),
        antispoof=some.booleans(), mtu=some.sampled_from([1400, 1500]), reaches=some.sampled_from([[], ["lab"], ["data"]]))))
    def declare_network(self, name, whole, options):
        if name in options.get("reaches", ()):
            options["reaches"] = []
        subnets = SUBNETS[name][whole or name in self.networks and bool(self.members(name)) and len(self.networks[name]["subnets"]) > 1]
        self.networks[name] = dict(self.networks.get(name, {}), subnets=subnets, **options)
        self.step("network", dict(options, name=name, subnets=subnets))

    @stateful.rule(name=NETWORKS)
    def remove_network(self, name):
        if self.members(name):
            refused = drive.apart("network", dict(name=name, state="absent"))
            assert self.members(name)[0] + "/eth0" in refused.get("error", ""), refused
        else:
            self.networks.pop(name, None)
            self.step("network", dict(name=name, state="absent"))

    @stateful.precondition(lambda self: self.networks)
    @stateful.rule(name=SPACES, more=some.fixed_dictionaries({}, optional=dict(
        publish=some.sampled_from([[], ["8080:80"]]), bandwidth=some.sampled_from([{}, {"transmit": "10mbit"}]))))
    def declare_interface(self, name, more):
        if ON[name] in self.networks:
            if more.get("publish"):
                more["publish"] = ["%d:80" % (8080 + sorted(ON).index(name))]
            self.interfaces.add(name)
            self.step("interface", dict(interfaces=[dict(more, namespace=name, name="eth0", network=ON[name])]))

    @stateful.rule(name=SPACES)
    def remove_interface(self, name):
        self.interfaces.discard(name)
        self.step("interface", dict(interfaces=[dict(namespace=name, name="eth0", state="absent")]))

    # -- what others do to the host; the next declarations mend it

    @stateful.precondition(lambda self: self.networks)
    @stateful.rule(data=some.data(), how=some.sampled_from([
        "ip link del %s", "ip link set %s down", "ip addr flush dev %s scope global", "ip link set %s address 02:00:00:00:00:99",
        "nft delete table inet bulkhead", "nft flush chain inet bulkhead forward", "nft flush set inet bulkhead members4", "nft flush set inet bulkhead pairs",
        "echo 0 > /proc/sys/net/ipv6/conf/all/forwarding", "echo 0 > /proc/sys/net/ipv4/conf/%s/forwarding"]))
    def damage_network(self, data, how):
        name = data.draw(some.sampled_from(sorted(self.networks)))
        shell(how % ("bh-" + name) if "%s" in how else how)
        self.mend()

    @stateful.precondition(lambda self: self.interfaces)
    @stateful.rule(data=some.data(), how=some.sampled_from([
        "ip link del {end}", "ip link set {end} nomaster", "ip link set {end} type bridge_slave isolated off locked off",
        "ip -n {name} addr flush dev eth0 scope global", "ip -n {name} link set eth0 down", "ip -n {name} route flush default",
        "ip -n {name} link del eth0"]))
    def damage_interface(self, data, how):
        name = data.draw(some.sampled_from(sorted(self.interfaces)))
        shell(how.format(name=name, end=spaces.end(name)))
        self.mend()

    def mend(self):
        """All is declared once more, as the playbook is played again."""
        for name, options in sorted(self.networks.items()):
            self.step("network", dict(options, name=name))
        if self.interfaces:
            self.step("interface", dict(interfaces=[dict(namespace=name, name="eth0", network=ON[name]) for name in sorted(self.interfaces)]))
        for name in sorted(self.networks):
            answer = drive.apart("network", dict(name=name))
            assert "error" not in answer and not answer["changed"], answer

    def teardown(self):
        clear()
        left = self.start.settled()
        assert not left, "left behind:\n" + "\n".join(left)


Machine.TestCase.settings = hypothesis.settings(
    max_examples=EXAMPLES or 5, stateful_step_count=10, deadline=None, derandomize=not EXAMPLES, database=None,
    phases=list(hypothesis.Phase) if EXAMPLES else [hypothesis.Phase.generate],
    suppress_health_check=list(hypothesis.HealthCheck), print_blob=False)


@pytest.fixture(autouse=True)
def leaves_nothing():
    """Each sequence looks for itself."""


test_network_model = Machine.TestCase
