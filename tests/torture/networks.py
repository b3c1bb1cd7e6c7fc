# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The operations of networks and interfaces, and of sandboxes on a network."""

from __future__ import annotations

import json
import subprocess

from namespaces import NO_SET
from operation import Operation, expect, gone

BRIDGE = "bh-lab"
LAB = dict(name="lab", subnets=["10.42.0.0/24", "fd00:42::/64"])
NO_LAB = [("network", dict(name="lab", state="absent"))]
SPACE = [("network", LAB), ("namespace", dict(name="web", types=["net"]))]
RATE = {"transmit": "10mbit", "receive": "20mbit"}
FULL = dict(mtu=1400, addresses=["10.42.0.7/24", "fd00:42::7/64"], routes=[{"to": "10.9.0.0/16", "via": "10.42.0.9"}],
            rules=[{"from": "10.42.0.7", "table": 100, "priority": 50}], neighbours=[{"address": "10.42.0.9", "mac": "02:00:00:00:00:09"}],
            sysctls={"forwarding": 1}, bandwidth=RATE, publish=["8080:80"])


def ask(*words):
    """What a command of iproute2 or nftables prints as JSON; what is not there is empty."""
    said = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False).stdout
    return json.loads(said or "[]")


def run(*words):
    subprocess.run(words, stdout=subprocess.DEVNULL, check=True)


def addresses(device, *space):
    """[address/length] but the kernel's own."""
    return sorted("%s/%d" % (each["local"], each["prefixlen"]) for link in ask("ip", *space, "-j", "address", "show", "dev", device)
                  for each in link["addr_info"] if each["scope"] == "global")


def elements(name):
    """How many elements a set or map of ours has, None without it."""
    found = [each for each in (ask("nft", "-j", "list", "table", "inet", "bulkhead") or {"nftables": []})["nftables"]
             for kind, each in each.items() if kind in ("set", "map") and each["name"] == name]
    return len(found[0].get("elem", ())) if found else None


class Network(Operation):
    remove = NO_LAB

    def declared(self):
        options = self.steady[1]
        if options.get("state") == "absent":
            return gone("/sys/class/net/" + BRIDGE) + (["there is a table of ours"] if elements("bridges") is not None else []) + expect(
                {"/proc/sys/net/ipv6/conf/all/forwarding": "0", "/proc/sys/net/ipv4/conf/all/forwarding": "0"})
        wrong = expect({"/proc/sys/net/ipv4/conf/%s/forwarding" % BRIDGE: "1"})
        wanted = sorted(subnet.replace(".0/", ".1/").replace("::/", "::1/") for subnet in options["subnets"])
        if addresses(BRIDGE) != wanted:
            wrong.append("the addresses of the bridge are %s" % addresses(BRIDGE))
        if (elements("bridges"), elements("pairs")) != (1, int(options.get("inter_sandbox", True))):
            wrong.append("it has %s rules, and %s for its members" % (elements("bridges"), elements("pairs")))
        return wrong


class DamagedNetwork(Network):
    """By hand: an address is gone, and the rules are."""

    def damage(self):
        run("ip", "address", "delete", "10.42.0.1/24", "dev", BRIDGE)
        run("nft", "delete", "table", "inet", "bulkhead")


def interface(**more):
    return "interface", dict(interfaces=[dict(dict(namespace="web", name="eth0", network="lab"), **more)])


NO_INTERFACE = [("interface", dict(interfaces=[dict(namespace="web", name=name, state="absent") for name in ("eth0", "eth1")]))]


class Interface(Operation):
    before = SPACE
    remove = NO_INTERFACE + NO_SET + NO_LAB
    where = ("-n", "web")

    def declared(self):
        wrong = []
        entries = self.entries()
        for entry in entries:
            wrong += self.entry(entry)
        there = [link["ifname"] for link in ask("ip", *self.where, "-j", "link", "show") if link["ifname"] != "lo"]
        wanted = [entry["name"] for entry in entries if entry.get("state") != "absent"]
        if sorted(there) != sorted(wanted):
            wrong.append("the interfaces of web are %s" % there)
        ends = [link for link in ask("ip", "-j", "link", "show", "master", BRIDGE) if link["ifname"].startswith("bh")]
        if len(ends) != sum("network" in entry for entry in entries if entry["name"] in wanted):
            wrong.append("%d ends are on the bridge" % len(ends))
        if elements("members4") != len(ends):
            wrong.append("%s addresses are known to the rules" % elements("members4"))
        return wrong

    def entries(self):
        return self.steady[1]["interfaces"]

    def entry(self, entry):
        if entry.get("state") == "absent":
            return []
        name, wrong = entry["name"], []
        link = (ask("ip", *self.where, "-j", "-d", "link", "show", "dev", name) or [None])[0]
        if link is None:
            return ["there is no %s" % name]
        kind = link.get("linkinfo", {}).get("info_kind")
        if "UP" not in link["flags"] or link["mtu"] != entry.get("mtu", 1500) or kind != entry.get("type", "veth"):
            wrong.append("%s is %s" % (name, link))
        if "addresses" in entry and addresses(name, *self.where) != sorted(entry["addresses"]):
            wrong.append("%s has the addresses %s" % (name, addresses(name, *self.where)))
        if "network" in entry and (len(addresses(name, *self.where)) != 2 or not ask("ip", *self.where, "-j", "route", "show", "default")):
            wrong.append("%s has the addresses %s, and no way out" % (name, addresses(name, *self.where)))
        rates = [qdisc["options"]["rate"] for qdisc in ask("tc", *self.where, "-j", "qdisc", "show", "dev", name) if qdisc["kind"] == "tbf"]
        if rates != [125000 * int(entry["bandwidth"]["transmit"][:-4]) for unused in ("bandwidth",) if unused in entry]:
            wrong.append("%s sends at %s" % (name, rates))
        if elements("publish_any4") != len(entry.get("publish", ())):
            wrong.append("%s ports are published" % elements("publish_any4"))
        return wrong


class DamagedInterface(Interface):
    """By hand: an address, a rate and the rules are gone, and the port has been let loose."""

    def damage(self):
        run("ip", "-n", "web", "address", "delete", "10.42.0.7/24", "dev", "eth0")
        run("tc", "-n", "web", "qdisc", "delete", "dev", "eth0", "root")
        run("nft", "flush", "map", "inet", "bulkhead", "publish_any4")
        for link in ask("ip", "-j", "link", "show", "master", BRIDGE):
            run("ip", "link", "set", link["ifname"], "nomaster")


class Device(Interface):
    """A device of the host's that is moved in and back."""

    def prepare(self):
        run("ip", "link", "add", "card0", "type", "veth", "peer", "name", "wire0")

    def cleanup(self):
        if not ask("ip", "-j", "link", "show", "dev", "card0"):
            raise RuntimeError("the device did not come back")
        run("ip", "link", "delete", "wire0")

    def declared(self):
        return [] if ask("ip", "-n", "web", "-j", "link", "show", "dev", "eth1") else ["it is not in the namespace"]


def sandbox(**more):
    return "sandbox", dict(sandboxes=[dict(dict(name="web", namespaces=dict(types=["net", "uts"]), network="lab"), **more)])


class Sandbox(Interface):
    before = [("network", LAB)]
    remove = [("sandbox", dict(sandboxes=[dict(name="web", state="absent")]))] + NO_LAB

    def entries(self):
        return [dict(name="eth0", network="lab") for one in self.steady[1]["sandboxes"] if one.get("state") != "absent"]


Network("network-create", ("network", LAB))
Network("network-change", ("network", dict(LAB, subnets=["10.42.0.0/24"], inter_sandbox=False, masquerade=False, mtu=1400)), before=[("network", LAB)])
Network("network-absent", ("network", dict(name="lab", state="absent")), before=[("network", LAB)])
DamagedNetwork("network-mend", ("network", LAB), before=[("network", LAB)])

THERE = SPACE + [interface(**FULL)]
Interface("interface-create", interface())
Interface("interface-create-full", interface(**FULL))
OTHER = {**FULL, "addresses": ["10.42.0.8/24", "fd00:42::8/64"], "mtu": 1300, "bandwidth": {"transmit": "5mbit"}, "publish": []}
Interface("interface-change", interface(**OTHER), before=THERE)
Interface("interface-create-other", ("interface", dict(interfaces=[
    dict(namespace="web", name="eth1", type="macvlan", parent=BRIDGE, addresses=["10.42.0.9/24"])])))
Interface("interface-recreate", ("interface", dict(interfaces=[dict(
    namespace="web", name="eth0", type="macvlan", parent=BRIDGE, addresses=["10.42.0.9/24"], on_mismatch="recreate")])), before=SPACE + [interface()])
Interface("interface-absent", ("interface", dict(interfaces=[dict(namespace="web", name="eth0", state="absent")])), before=THERE)
Interface("interface-purge", ("interface", dict(interfaces=[], purge=True)), before=THERE)
DamagedInterface("interface-mend", interface(**FULL), before=THERE)
Device("interface-move", ("interface", dict(interfaces=[dict(namespace="web", name="eth1", type="device", device="card0")])))
Sandbox("sandbox-with-network", sandbox())
Sandbox("sandbox-with-network-absent", ("sandbox", dict(sandboxes=[dict(name="web", state="absent")])), before=[("network", LAB), sandbox()])
