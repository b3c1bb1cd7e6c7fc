# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Net namespaces on networks for the tests of interfaces, and what ip(8), bridge(8) and tc(8) show of them."""

from __future__ import annotations

import json
import subprocess

import drive
import pytest

LAB = {"name": "lab", "subnets": ["10.42.0.0/24", "fd00:42::/64"]}
ETH0 = {"namespace": "web", "name": "eth0", "network": "lab"}


def command(*argv, space=None):
    """The output of a command on the host, or in a net namespace."""
    argv = (["nsenter", "--net=/run/netns/" + space] if space else []) + list(argv)
    ended = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert not ended.returncode, "%s: %s" % (" ".join(argv), ended.stderr)
    return ended.stdout


def ip(*words, space=None):
    """What ip(8) answers, as JSON where it shows something."""
    output = command("ip", "-d", "-j", *words, space=space)
    return json.loads(output) if output.strip() else []


def link(name, space=None):
    """A link as `ip -d -j link` shows it, or None."""
    return next((each for each in ip("link", space=space) if each["ifname"] == name), None)


def links(space=None):
    return sorted(each["ifname"] for each in ip("link", space=space))


def addresses(name="eth0", space="web"):
    """The global addresses of an interface."""
    shown = next(each for each in ip("address", space=space) if each["ifname"] == name)
    return ["%s/%d" % (each["local"], each["prefixlen"]) for each in shown["addr_info"] if each["scope"] == "global"]


def routes(space="web", family=4, table="main"):
    """{destination: gateway} of those that are not the kernel's own."""
    shown = ip("-%d" % family, "route", "show", "table", table, space=space)
    return {each["dst"]: each.get("gateway") for each in shown if each.get("protocol") != "kernel" and each.get("type", "unicast") != "multicast"}


def port(name, end):
    """A flag of a bridge's port."""
    shown = link(end)["linkinfo"]["info_slave_data"]
    return shown[name]


def end(namespace="web", name="eth0"):
    """The host's end of a veth, by the engine's own reckoning of its name."""
    from module_utils._model.interface import host_end

    return host_end("%s/%s" % (namespace, name))


def declare(*interfaces, **options):
    """The options of a task; each interface is ETH0 with changes."""
    return dict(interfaces=[dict(each) for each in interfaces], **options)


def eth0(**changes):
    return dict(ETH0, **changes)


def absent(*keys):
    """The options of a task that removes these."""
    return dict(interfaces=[{"namespace": key.split("/")[0], "name": key.split("/")[1], "state": "absent"} for key in keys])


@pytest.fixture
def lab(leaves_nothing):
    """lab(namespaces…, network options): those namespaces, and the network lab. After the test all is removed, and nothing is left."""
    made = []

    def act(*names, **network):
        for name in names:
            run("namespace", name=name, types=["net"])
            made.append(name)
        run("network", **dict(LAB, **network))

    yield act
    host = drive.new_host()
    run("interface", interfaces=[], purge=True)
    for name in host.records.names("network"):
        run("network", name=name, state="absent")
    for name in made:
        run("namespace", name=name, state="absent", kill=True)
    assert command("nft", "list", "ruleset") == ""
    assert links() == ["lo"]
    for noun in ("interface", "allocation", "names"):
        assert host.records.names(noun) == host.claims.names(noun) == []


def run(noun, **options):
    """converge, which must not fail."""
    answer = drive.converge(noun, options)
    assert "error" not in answer, answer["error"]
    return answer
