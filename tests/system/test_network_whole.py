# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Networks as a whole: many runs at once, again and again, restored after a reboot, gone with the host."""

from __future__ import annotations

import os

import drive
import leftovers
import spaces
from nets import DATA, GONE, LAB, member, show, sysctl, table, tidy, uplink  # noqa: F401  pylint: disable=unused-import

from module_utils._program import host as whole_host
from module_utils._program import whole


# -- many at once, and again and again

def changed(answers):
    failures = [answer["error"] for answer in answers if "error" in answer]
    assert not failures, failures
    return sum(answer["changed"] for answer in answers)


def test_many_runs_at_once():
    """One of them makes it, the others find it; and different ones do not get in each other's way, though they share table and forwarding."""
    assert changed(drive.at_once([("network", LAB)] * 8)) == 1
    assert changed(drive.at_once([("network", GONE)] * 8)) == 1
    different = [dict(name="at-once-%d" % number, subnets=["10.%d.0.0/16" % (50 + number), "fd00:%d::/64" % number]) for number in range(8)]
    assert changed(drive.at_once([("network", options) for options in different])) == 8
    assert changed(drive.at_once([("network", options) for options in different])) == 0
    assert changed(drive.at_once([("network", dict(name=options["name"], state="absent")) for options in different])) == 8
    assert sysctl("ipv6/conf/all/forwarding") == "0" and "bulkhead" not in spaces.command("nft", "list", "tables")


def test_made_and_removed_again_and_again(converge):
    """Nothing is there more than before; the first cycle may leave what stays for good."""
    for cycles in (1, 40):
        for unused in range(cycles):
            assert converge("network", host_services=[{"protocol": "udp", "port": 53}], **LAB)["changed"]
            assert converge("network", **GONE)["changed"]
        if cycles == 1:
            before = leftovers.Snapshot()
            descriptors = len(os.listdir("/proc/self/fd"))
    assert not before.settled() and len(os.listdir("/proc/self/fd")) == descriptors


# -- restore and removal of all

def test_restored_as_after_a_reboot(converge):
    uplink()
    spaces.command("ip", "route", "add", "default", "via", "203.0.113.2")
    converge("network", reaches=["data"], **LAB)
    converge("network", **DATA)
    before = [show("lab"), show("data"), table()]
    drive.engine.converge(drive.new_host(), whole_host, {"state": "absent", "clear": True})
    assert show("lab") is show("data") is None and "bulkhead" not in spaces.command("nft", "list", "tables")
    assert sysctl("ipv4/conf/uplink/forwarding") == sysctl("ipv6/conf/all/forwarding") == "0"
    spaces.command("ip", "route", "del", "default")  # it comes later than we do
    done, failed = whole.restore(drive.new_host())
    assert not failed and "create bridge bh-lab of network lab" in done
    assert [show("lab"), show("data"), table()] == before
    assert sysctl("ipv4/conf/uplink/forwarding") == sysctl("ipv6/conf/all/forwarding") == "1"
    spaces.command("ip", "route", "add", "default", "via", "203.0.113.2")
    assert not converge("network", **LAB)["changed"] and not converge("network", **DATA)["changed"]
    assert [(record.noun, record.name, whole.state(drive.new_host(), record)[0]) for record in whole.recorded(drive.new_host())] == [
        ("network", "data", "present"), ("network", "lab", "present")]


def test_all_goes_with_the_host(converge):
    converge("network", reaches=["data"], **LAB)
    converge("network", **DATA)
    member()
    drive.engine.converge(drive.new_host(), whole_host, {"state": "absent"})
    assert show("lab") is show("data") is None and "bulkhead" not in spaces.command("nft", "list", "tables")
    assert spaces.link("bh-lab") is None and not os.path.exists("/run/netns/web")
    assert not [name for where, unused, files in os.walk("/etc/bulkhead") for name in files]
    assert sysctl("ipv6/conf/all/forwarding") == "0"
