# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The way out: forwarding is opened where a network needs it, taken back with the last, and left to others where it is theirs."""

from __future__ import annotations

import spaces
from nets import DATA, GONE, LAB, elements, member, put, sysctl, tidy, uplink  # noqa: F401  pylint: disable=unused-import
from wires import Server, ask


def test_forwarding_is_turned_on_where_it_is_needed_and_off_with_the_last(converge):
    uplink()
    spaces.command("ip", "route", "add", "default", "via", "203.0.113.2")
    assert sysctl("ipv4/conf/uplink/forwarding") == "0"
    converge("network", **LAB)
    converge("network", uplink="uplink", **DATA)
    assert sysctl("ipv4/conf/uplink/forwarding") == "1" and sysctl("ipv4/conf/all/forwarding") == "0"
    assert len(elements("opened", "*")) == 1
    put("ipv4/conf/uplink/forwarding", "0")
    assert converge("network", **LAB)["actions"] == ["turn on forwarding of ipv4 uplink"]
    converge("network", **GONE)
    assert sysctl("ipv4/conf/uplink/forwarding") == "1" and sysctl("ipv6/conf/all/forwarding") == "0"
    converge("network", name="data", internal=True, uplink="any")
    assert sysctl("ipv4/conf/uplink/forwarding") == "0" and not elements("opened", "*")


def test_forwarding_that_was_on_stays_on(converge):
    uplink()
    put("ipv4/conf/uplink/forwarding", "1")
    put("ipv6/conf/all/forwarding", "1")
    try:
        converge("network", uplink="uplink", **LAB)
        assert not elements("opened", "*") and not elements("closed", "*")
        converge("network", **GONE)
        assert sysctl("ipv4/conf/uplink/forwarding") == sysctl("ipv6/conf/all/forwarding") == "1"
    finally:
        put("ipv6/conf/all/forwarding", "0")


def test_what_others_turn_on_for_the_whole_host_is_left_to_them(converge):
    uplink()
    converge("network", uplink="uplink", **DATA)
    assert len(elements("opened", "*")) == 1
    put("ipv4/conf/all/forwarding", "1")
    try:
        predicted = converge("network", check=True, **DATA)
        assert converge("network", **DATA)["actions"] == predicted["actions"] != []
        assert not elements("opened", "*") and sysctl("ipv4/conf/uplink/forwarding") == "1"
        assert not converge("network", **DATA)["changed"]
        converge("network", name="data", state="absent")
        assert sysctl("ipv4/conf/uplink/forwarding") == "1"
    finally:
        put("ipv4/conf/all/forwarding", "0")


def test_router_advertisements_are_taken_before_and_after(converge):
    """With forwarding of IPv6 on, a device that had its routes by them would lose them."""
    uplink()
    put("ipv6/conf/uplink/accept_ra", "1")
    converge("network", **LAB)
    assert sysctl("ipv6/conf/uplink/accept_ra") == "2" and sysctl("ipv6/conf/uplink/forwarding") == "1"
    assert elements("closed", "*")
    converge("network", **GONE)
    assert sysctl("ipv6/conf/uplink/accept_ra") == "1" and sysctl("ipv6/conf/uplink/forwarding") == "0"


def test_members_go_out_and_answers_come_back(converge):
    uplink()
    spaces.command("ip", "route", "add", "default", "via", "203.0.113.2")
    server = Server("outside", 80)
    try:
        converge("network", name="lab", subnets=["10.42.0.0/24"])
        member()
        assert ask("web", ("tcp", "203.0.113.2", 80), ("udp", "203.0.113.2", 80)) == ["outside 203.0.113.1"] * 2
        converge("network", name="lab", internal=True)
        assert not any(answer and answer.startswith("outside") for answer in ask("web", ("tcp", "203.0.113.2", 80), ("udp", "203.0.113.2", 80)))
    finally:
        server.end()
