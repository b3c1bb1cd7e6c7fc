# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a host is to forward for its networks, on trees of plain files: turned on where it is off, as before at the end."""

from __future__ import annotations

import os

import pytest
from ansible_collections.bulkhead.isolation.plugins.module_utils._engine.host import Host
from ansible_collections.bulkhead.isolation.plugins.module_utils._engine.plan import Plan
from ansible_collections.bulkhead.isolation.plugins.module_utils._kernel import built
from ansible_collections.bulkhead.isolation.plugins.module_utils._model.errors import Problems
from ansible_collections.bulkhead.isolation.plugins.module_utils._model.network import NetworkSpec
from ansible_collections.bulkhead.isolation.plugins.module_utils._resources import _forwarding, _hostnet


class Tree:
    """A host with the devices eth0 and eth1, and a default route by eth0."""

    def __init__(self, path):
        self.path = str(path)
        self.values = {}
        for device in ("all", "default", "lo", "eth0", "eth1"):
            for key, value in (("ipv4/conf/%s/forwarding", "0"), ("ipv6/conf/%s/forwarding", "0"), ("ipv6/conf/%s/accept_ra", "1")):
                self.put(key % device, value)
        self.routes = [{"to": "default", "family": 4, "type": "unicast", "index": 2, "hops": None}]

    def put(self, key, value):
        path = "%s/proc/sys/net/%s" % (self.path, key)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="ascii") as stream:
            stream.write(value)

    def __getitem__(self, key):
        with open("%s/proc/sys/net/%s" % (self.path, key), encoding="ascii") as stream:
            return stream.read()

    def run(self, *networks):
        """Bring it about, as a task does: the names of the steps."""
        host = Host(proc=self.path + "/proc", state=self.path + "/run", etc=self.path + "/etc")
        links = {name: {"name": name, "index": index} for index, name in enumerate(("lo", "eth0", "eth1"), 1)}
        host.cached("host's network", lambda: (links, [], self.routes))
        plan, forwarding = Plan(), _forwarding.Forwarding(host, networks)
        forwarding.plan_off(host, plan)
        forwarding.plan_on(host, plan)
        for step in plan.steps:
            step.apply()
        host.records.write_all(plan.records)
        return plan.actions


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Without the checks that a real procfs needs."""
    monkeypatch.setattr(_hostnet.nsfs, "write_sysctl", lambda key, value, proc: tree.put(key[len("net/"):], value))
    tree = Tree(tmp_path)
    return tree


def network(name="lab", **options):
    problems = Problems()
    spec = NetworkSpec.from_options(dict({"name": name, "subnets": ["10.42.0.0/24"]}, **options), "", problems)
    problems.raise_if_any()
    return spec.over(None)


def test_the_device_of_the_default_route(tree):
    assert tree.run(network()) == ["turn on forwarding of ipv4 eth0"]
    assert (tree["ipv4/conf/eth0/forwarding"], tree["ipv4/conf/eth1/forwarding"], tree["ipv6/conf/all/forwarding"]) == ("1", "0", "0")
    assert tree.run(network()) == []
    assert tree.run() == ["turn off forwarding of ipv4 eth0"]
    assert tree["ipv4/conf/eth0/forwarding"] == "0" and tree.run() == []


def test_an_uplink_that_is_named(tree):
    assert tree.run(network(uplink="eth1")) == ["turn on forwarding of ipv4 eth1"]
    assert tree["ipv4/conf/eth0/forwarding"] == "0"
    assert tree.run(network(uplink="eth1"), network("two", subnets=["10.43.0.0/24"])) == ["turn on forwarding of ipv4 eth0"]
    assert tree.run(network("two", subnets=["10.43.0.0/24"])) == ["turn off forwarding of ipv4 eth1"]


def test_routes_of_several_hops(tree):
    tree.routes = [{"to": "default", "family": 4, "type": "unicast", "index": None, "hops": [{"via": "a", "index": 2}, {"via": "b", "index": 3}]}]
    assert tree.run(network()) == ["turn on forwarding of ipv4 eth0, ipv4 eth1"]


@pytest.mark.parametrize("spec", [network(internal=True), network(uplink="eth9")])
def test_no_way_out_needs_no_forwarding_there(tree, spec):
    assert tree.run(spec) == []


def test_what_was_on_is_not_ours(tree):
    tree.put("ipv4/conf/eth0/forwarding", "1")
    assert tree.run(network()) == [] and tree.run() == [] and tree["ipv4/conf/eth0/forwarding"] == "1"


def test_what_is_turned_off_by_hand_is_turned_on_again(tree):
    tree.run(network())
    tree.put("ipv4/conf/eth0/forwarding", "0")
    assert tree.run(network()) == ["turn on forwarding of ipv4 eth0"]
    assert tree.run() == ["turn off forwarding of ipv4 eth0"]


def test_at_boot_the_ways_are_those_of_the_record(tree):
    tree.run(network())
    os.unlink(tree.path + "/run/made/forwarding/host.json")
    tree.put("ipv4/conf/eth0/forwarding", "0")
    tree.routes = []
    assert tree.run(network()) == ["turn on forwarding of ipv4 eth0"]


def test_others_have_it_once_they_turn_it_on_for_the_whole_host(tree):
    tree.run(network())
    tree.put("ipv4/conf/all/forwarding", "1")
    assert tree.run(network()) == ["leave forwarding of ipv4 eth0 to others"]
    assert tree.run() == [] and tree["ipv4/conf/eth0/forwarding"] == "1"


def test_ipv6_is_one_switch_and_advertisements_are_kept(tree):
    tree.put("ipv6/conf/eth1/accept_ra", "0")
    tree.put("ipv6/conf/eth1/forwarding", "1")
    assert tree.run(network(subnets=["fd00:42::/64"])) == ["turn on forwarding of ipv6"]
    assert (tree["ipv6/conf/all/forwarding"], tree["ipv6/conf/eth0/accept_ra"], tree["ipv6/conf/eth1/accept_ra"]) == ("1", "2", "0")
    assert tree["ipv6/conf/default/accept_ra"] == "2"
    tree.put("ipv6/conf/eth1/forwarding", "0")  # as the kernel does with all of them
    assert tree.run() == ["turn off forwarding of ipv6"]
    assert (tree["ipv6/conf/all/forwarding"], tree["ipv6/conf/eth0/accept_ra"], tree["ipv6/conf/eth1/forwarding"]) == ("0", "1", "1")


def test_a_host_without_ipv6(tree):
    os.unlink(tree.path + "/proc/sys/net/ipv6/conf/all/forwarding")
    assert tree.run(network(internal=True)) == []


# -- what the kernel is built with

@pytest.mark.parametrize("config, modules, option, module, lacking", [
    ("CONFIG_BRIDGE=y\n", None, "BRIDGE", "bridge", False), ("# CONFIG_BRIDGE is not set\n", None, "BRIDGE", "bridge", True),
    ("CONFIG_BRIDGE=m\n", "kernel/net/bridge/bridge.ko.xz:\n", "BRIDGE", "bridge", False),
    ("CONFIG_BRIDGE=m\n", "kernel/net/802/stp.ko:\n", "BRIDGE", "bridge", True), ("CONFIG_BRIDGE=m\n", None, "BRIDGE", "bridge", True),
    (None, "kernel/net/bridge/bridge.ko:\n", "BRIDGE", "bridge", False), (None, "kernel/net/802/stp.ko:\n", "BRIDGE", "bridge", True),
    (None, None, "BRIDGE", "bridge", False), (None, None, "BRIDGE_VLAN_FILTERING", None, False),
    ("CONFIG_BRIDGE=m\n", None, "BRIDGE_VLAN_FILTERING", None, True), ("CONFIG_BRIDGE_VLAN_FILTERING=y\n", None, "BRIDGE_VLAN_FILTERING", None, False),
])
def test_what_the_kernel_lacks(tmp_path, config, modules, option, module, lacking):
    for text, path in ((config, "boot/config-6.1"), (modules, "modules/6.1/modules.dep")):
        if text is not None:
            os.makedirs(os.path.dirname(str(tmp_path / path)), exist_ok=True)
            (tmp_path / path).write_text(text)
    places = dict(release="6.1", proc=str(tmp_path), sys=str(tmp_path / "sys"), boot=str(tmp_path / "boot"), lib=str(tmp_path / "modules"))
    assert built.lacks(option, module, **places) == lacking
    if module:
        os.makedirs(str(tmp_path / "sys/module" / module))
        assert not built.lacks(option, module, **places)
