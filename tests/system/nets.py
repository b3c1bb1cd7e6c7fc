# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Networks to test with: what is declared, a member, a way out, and what the kernel shows of them."""

from __future__ import annotations

import json
import subprocess

import drive
import pytest
import spaces

LAB = {"name": "lab", "subnets": ["10.42.0.0/24", "fd00:42::/64"]}
DATA = {"name": "data", "subnets": ["10.43.0.0/24"]}
GONE = {"name": "lab", "state": "absent"}
V4, V6 = [{"subnet": "10.42.0.0/24", "gateway": "10.42.0.1"}], [{"subnet": "fd00:42::/64", "gateway": "fd00:42::1"}]


@pytest.fixture(autouse=True)
def tidy():
    yield
    for name in ("web", "cache"):
        drive.converge("interface", spaces.absent(name + "/eth0"))
        drive.converge("namespace", {"name": name, "state": "absent", "kill": True})
    for name in ("lab", "data", "guests"):
        drive.converge("network", {"name": name, "state": "absent", "force": True})
    for link in ("bh-lab", "uplink", "other"):
        subprocess.run(["ip", "link", "del", link], capture_output=True, check=False)
    subprocess.run(["ip", "netns", "del", "outside"], capture_output=True, check=False)


def show(name="lab"):
    shown = drive.info("network", name=name)["networks"]
    return shown[0] if shown else None


def sysctl(path):
    with open("/proc/sys/net/" + path, encoding="ascii") as stream:
        return stream.read().strip()


def put(path, value):
    with open("/proc/sys/net/" + path, "w", encoding="ascii") as stream:
        stream.write(value)


def elements(name, owner="lab"):
    """The elements of a set of ours that belong to an owner, as texts."""
    listed = json.loads(spaces.command("nft", "-j", "list", "table", "inet", "bulkhead"))["nftables"]
    found = next(each["set"] for each in listed if each.get("set", {}).get("name") == name).get("elem", [])
    return [json.dumps(each["elem"]["val"]) for each in found if each["elem"]["comment"] == owner]


def table():
    """The table of ours whole, in a form to compare: nft lists elements in any order."""
    listed = json.loads(spaces.command("nft", "-j", "list", "table", "inet", "bulkhead"))["nftables"]
    for each in listed:
        (kind, keys), = each.items()
        keys.pop("handle", None)
        keys["elem"] = sorted(keys.get("elem", ()), key=str)
    return listed


def member(name="web", **keys):
    """A namespace with an interface on the network lab."""
    assert "error" not in drive.converge("namespace", {"name": name, "types": ["net"]})
    answer = drive.converge("interface", spaces.declare(spaces.eth0(namespace=name, **keys)))
    assert "error" not in answer, answer


def uplink(address="203.0.113.1/24"):
    """A way out: a namespace `outside` at the end of the device `uplink`."""
    spaces.command("ip", "netns", "add", "outside")
    for words in ("link add uplink type veth peer name eth0 netns outside", "addr add %s dev uplink" % address, "link set uplink up",
                  "-n outside addr add 203.0.113.2/24 dev eth0", "-n outside link set eth0 up"):
        spaces.command("ip", *words.split())
