# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The rules of networks and the marks of cgroups with the host's own nft and kernel. Each test is one Python on the host."""

from __future__ import annotations

import pytest

RULES = """
import subprocess
import drive
from module_utils._engine.plan import Plan, run_plan, run_together
from module_utils._model.rules import Member, Net
from module_utils._resources import _rules

_rules._recorded = lambda host: []


def run(*things):
    actions = []
    for again in (False, True):
        host, plans = drive.new_host(), [Plan() for thing in things]
        _rules.expect(host, things)
        for plan, thing in zip(plans, things):
            _rules.plan(host, plan, thing)
        if again:
            assert not any(plan.changed for plan in plans), [(plan.actions, plan.before, plan.after) for plan in plans]
            return actions
        run_together(host, plans)
        for plan in plans:
            run_plan(plan)
        host.finish()
        actions = [action for plan in plans for action in plan.actions]


lab = Net("lab", "bh-lab", ["10.42.0.0/24", "fd00:42::/64"], uplink="eth0", reaches=["bh-two"], host_services=[("udp", 53, 53), ("tcp", 80, 90)])
web = Member("web/eth0", "02:00:00:00:42:02", ["10.42.0.2", "fd00:42::2"], publish=[(None, 8080, 80, "tcp"), ("127.0.0.1", 81, 80, "udp")],
             allow=[("0.0.0.0/0", "tcp", (1, 100)), ("10.0.0.0/8", "tcp", (50, 200)), ("::/0", None, None)])
assert run(lab, web, _rules.Opened(["eth0"], True)) == [
    "make table inet bulkhead", "set rules of lab", "set rules of web/eth0", "set rules of the host"]
subprocess.run(["nft", "flush", "chain", "inet", "bulkhead", "forward"], check=True)
assert run(lab) == ["mend table inet bulkhead"]
assert set(_rules.owners(drive.new_host())) == {"lab", "web/eth0", "*"}
assert run(Member("web/eth0", web.mac, web.addresses, publish=[(None, 8080, 81, "tcp"), (None, 82, 80, "udp")])) == ["set rules of web/eth0"]
run(*[_rules.Absent(owner) for owner in ("lab", "web/eth0", "*")])
assert _rules.owners(drive.new_host()) == {} and "bulkhead" not in subprocess.run(["nft", "list", "tables"], capture_output=True, text=True).stdout
"""

MARKS = """
import subprocess
import drive

NAME = "bulkhead/t-marked"
SEND = "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))"


def twice(**options):
    foreseen, made, again = (drive.apart("cgroup", dict(options, name=NAME), check) for check in (True, False, False))
    assert "error" not in made and foreseen["actions"] == made["actions"] and not again["changed"], (foreseen, made, again)
    return made["actions"]


def nft(words):
    return subprocess.run(["nft", words], check=True, capture_output=True, text=True).stdout


nft("add table inet watch; add counter inet watch seen; add chain inet watch output { type filter hook output priority 0; }; "
    "add rule inet watch output meta mark 16 counter name seen")
try:
    assert twice(net_mark=16) == ["create cgroup " + NAME, "set net_mark of " + NAME]
    send = ["systemd-run", "--quiet", "--wait", "--slice=bulkhead-t\\\\x2dmarked.slice", "python3", "-c", SEND]
    subprocess.run(send, check=True)
    assert "packets 1 " in nft("reset counter inet watch seen")
    subprocess.run(send[:3] + send[4:], check=True)
    assert "packets 0 " in nft("list counter inet watch seen")
    nft("delete table inet bulkhead_marks")
    assert twice(net_mark=16) == ["set net_mark of " + NAME]
    assert twice(state="absent") == ["remove cgroup " + NAME, "remove net_mark of " + NAME]
    assert "bulkhead_marks" not in nft("list tables")
finally:
    nft("delete table inet watch")
"""


@pytest.mark.parametrize("source", [RULES, MARKS], ids=["rules", "marks"])
def test_on_this_host(host, source):
    host.python(source)
