# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The firewall of networks while it changes: by runs, by hand, beside tables of others; and what is refused."""

from __future__ import annotations

import subprocess

import drive
import pytest
import wires
from lab import HOST4, HOST6, INTERNET4, INTERNET6, LAB, TWO, address, mac, member, net, refuse, rule
from lab import world  # noqa: F401  pylint: disable=unused-import
from module_utils._engine.plan import Plan, run_plan, run_together
from module_utils._model.errors import BulkheadError
from module_utils._model.rules import Member
from module_utils._resources import _rules
from wires import Call, ask


def table():
    """Our table, or None."""
    return next((each for each in wires.listed("tables") if each["table"]["name"] == "bulkhead"), None)


@pytest.fixture
def calls():
    """calls(place, address, port): a connection that is up; they are ended with the test."""
    made = []
    yield lambda *where: made.append(Call(*where)) or made[-1]
    for call in made:
        call.end()


def open_calls(world, calls):
    """One of each kind, by our translations: out, in from outside, from the host's loopback, and between members."""
    for place in ("web", "cache", "internet"):
        world(place, 80)
    rule(LAB, TWO, member("web", publish=[(None, 8080, 80, "tcp")]), member("cache"), member("other"))
    return [calls(*where) for where in (("web", INTERNET4, 80), ("web", INTERNET6, 80), ("internet", HOST4, 8080), ("internet", HOST6, 8080),
                                        (None, "127.0.0.1", 8080), ("cache", HOST4, 8080), ("web", address("cache"), 80))]


def test_running_connections_survive_every_change(world, calls):
    """Also those that would not be let in or out any more."""
    live = open_calls(world, calls)
    assert [call.greeting.split()[0] for call in live] == ["internet", "internet", "web", "web", "web", "web", "cache"]
    changes = [
        lambda: rule(member("web", publish=[(None, 8081, 80, "tcp")])),
        lambda: rule(net("lab", reaches=["bh-two"], host_services=[("tcp", 1, 9)])),
        lambda: rule(net("lab", internal=True, inter_sandbox=False)),
        lambda: rule(member("web", allow=[]), member("cache", allow=[("10.0.0.0/8", None, None)])),
        lambda: rule(_rules.Absent("two"), _rules.Absent("other/eth0")),
        lambda: subprocess.run(["nft", "flush", "chain", "inet", "bulkhead", "forward"], check=True),
        lambda: rule(LAB),
    ]
    for number, change in enumerate(changes):
        change()
        assert [call.echo("still %d" % number) for call in live] == ["still %d" % number] * len(live)
    assert ask("internet", ("tcp", HOST4, 8080)) == ["error: Connection refused"]


def test_all_rules_flushed_by_hand_are_found_and_mended(world, calls):
    """Connections that slept meanwhile go on, and new ones are made as before; what was not of this run comes from the records."""
    live = open_calls(world, calls)
    before = ours()
    world.records += [LAB, TWO, member("web", publish=[(None, 8080, 80, "tcp")]), member("cache"), member("other")]
    subprocess.run(["nft", "flush", "ruleset"], check=True)
    assert rule(LAB) == ["make table inet bulkhead", "set rules of lab"]
    assert ours() == before
    assert [call.echo("awake") for call in live] == ["awake"] * len(live)
    assert ask("internet", ("tcp", HOST4, 8080)) == ["web " + INTERNET4]


HAND = [  # what somebody does by hand, and what is then to be done when lab and web are converged
    ("flush chain inet bulkhead guard", ["mend table inet bulkhead"]),
    ("insert rule inet bulkhead forward accept", ["mend table inet bulkhead"]),
    ("add chain inet bulkhead mine", ["mend table inet bulkhead"]),
    ("add set inet bulkhead mine { type ipv4_addr; elements = { 10.0.0.1 } ; }", ["mend table inet bulkhead"]),
    ("add element inet bulkhead pairs { bh-two . bh-lab }", ["mend table inet bulkhead"]),
    ("add chain inet bulkhead forward { policy drop; }", ["mend table inet bulkhead"]),
    ("delete element inet bulkhead bridges { bh-lab }", ["set rules of lab"]),
    ("delete element inet bulkhead members4 { 02:00:00:00:42:02 . 10.42.0.2 }", ["set rules of web/eth0"]),
    ("flush map inet bulkhead publish_any4", ["set rules of web/eth0"]),
    ("delete table inet bulkhead", ["make table inet bulkhead", "set rules of lab", "set rules of web/eth0"]),
]


@pytest.mark.parametrize("words,steps", HAND, ids=[words for words, steps in HAND])
def test_what_was_changed_by_hand_is_mended(words, steps, world):
    things = [LAB, member("web", publish=[(None, 8080, 80, "tcp")])]
    rule(*things)
    before = ours()
    subprocess.run(["nft", words], check=True)
    assert ours() != before
    assert rule(*things) == steps
    assert ours() == before


def ours():
    """What nft lists of our table, without the kernel's numbers and in one order."""
    objects = [each for each in wires.listed("ruleset") for keys in each.values() if "bulkhead" in (keys.get("table"), keys.get("name"))]
    for each in objects:
        for keys in each.values():
            keys.pop("handle", None)
            keys.get("elem", []).sort(key=str)
    return sorted(objects, key=str)


def test_tables_of_others_stay_as_they_are(world):
    others = """table inet firewalld { set s { type ipv4_addr; elements = { 10.0.0.1 } ; }
    chain filter_FORWARD { type filter hook forward priority 10; policy accept; ip saddr @s drop; }
    }
    table ip nat { chain POSTROUTING { type nat hook postrouting priority 100; oifname "docker0" masquerade; }
    }"""
    subprocess.run(["nft", "-f", "-"], input=others, text=True, check=True)

    def seen():
        return [each for each in wires.listed("ruleset") if all(
            "bulkhead" not in (keys.get("table"), keys["name"] if kind == "table" else None) for kind, keys in each.items())]

    before = seen()
    rule(LAB, member("web"))
    subprocess.run(["nft", "flush chain inet bulkhead forward"], check=True)
    rule(LAB, member("web"))
    assert seen() == before
    assert rule(_rules.Absent("lab"), _rules.Absent("web/eth0")) == ["remove rules of lab", "remove rules of web/eth0"]
    assert seen() == before and len(before) == 7
    assert table() is None


def test_what_another_owner_has_is_refused(world):
    rule(LAB, member("web", publish=[(None, 8080, 80, "tcp"), (HOST4, 8081, 80, "udp")]))
    twin = Member("cache/eth0", mac("cache"), [address("web")])
    assert refuse(twin) == "Cannot give 10.42.0.2 to cache/eth0: web/eth0 has it. Use another one, or remove that first."
    assert refuse(Member("cache/eth0", mac("web"), [address("cache")])).startswith("Cannot give %s to cache/eth0: web/eth0" % mac("web"))
    for wanted in ((HOST4, 8080, 80, "tcp"), (None, 8080, 80, "tcp"), (None, 8081, 1, "udp")):
        assert refuse(member("cache", publish=[wanted])).startswith("Cannot publish port %d/%s for cache/eth0: it is published for web/eth0." % (
            wanted[1], wanted[3]))
    rule(member("cache", publish=[(None, 8080, 80, "udp"), ("127.0.0.1", 8081, 80, "udp"), (None, 8081, 80, "tcp")]))


def test_in_one_run_one_takes_what_another_gives_up(world):
    world("cache", 80)
    rule(LAB, member("web", publish=[(None, 8080, 80, "tcp")]), member("cache"))
    assert rule(member("cache", publish=[(None, 8080, 80, "tcp")]), member("web")) == ["set rules of cache/eth0", "set rules of web/eth0"]
    assert ask("internet", ("tcp", HOST4, 8080)) == ["cache " + INTERNET4]
    rule(Member("heir/eth0", mac("cache"), [address("cache")], publish=[(None, 8080, 80, "tcp")]), _rules.Absent("cache/eth0"))
    assert ask("internet", ("tcp", HOST4, 8080)) == ["cache " + INTERNET4]
    assert set(_rules.owners(drive.new_host())) == {"lab", "web/eth0", "heir/eth0"}


def test_a_flow_of_udp_follows_its_port(world):
    """A client that goes on sending from one port is heard by whom the port is published for now, and by no one when it is not."""
    for place in ("web", "cache"):
        world(place, 80)
    things = [LAB, member("web"), member("cache")]
    rule(*things)
    talk = [("udp", HOST4, 8080, INTERNET4, 4000), ("udp", HOST6, 8080, INTERNET6, 4000)]
    assert ask("internet", *talk) == ["error: Connection refused"] * 2
    for name in ("web", "cache"):
        rule(member(name, publish=[(None, 8080, 80, "udp")]))
        assert ask("internet", *talk) == [name + " " + INTERNET4, name + " " + INTERNET6]
        rule(*things)
    assert ask("internet", *talk) == ["error: Connection refused"] * 2
    assert ask("cache", ("udp", INTERNET4, 8080, address("cache"), 4000))[0].startswith("error")
    world("internet", 8080)
    rule(member("web", publish=[(HOST4, 8080, 80, "udp")]))
    assert ask("cache", ("udp", INTERNET4, 8080)) == ["internet " + HOST4]  # it is the host's port that was published


def test_a_port_that_a_process_listens_on_is_refused(world):
    server = world(None, 8080, address=HOST4)
    rule(LAB)
    for protocol in ("tcp", "udp"):
        for host in (None, HOST4, "0.0.0.0"):
            message = refuse(member("web", publish=[(host, 8080, 80, protocol)]))
            assert message.startswith("Cannot publish port 8080/%s for web/eth0: " % protocol) and "(pid %d) listens on it" % server.pid in message
    rule(member("web", publish=[("127.0.0.1", 8080, 80, "tcp")]))
    world(None, 9090)
    refuse(member("web", publish=[("127.0.0.1", 9090, 80, "udp")]))
    rule(member("web", publish=[("127.0.0.1", 8080, 80, "tcp"), (None, 9091, 80, "tcp")]))


def test_a_firewall_that_drops_is_named(world):
    subprocess.run(["nft", "add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }"], check=True)
    subprocess.run(["nft", "add table inet firewalld; add chain inet firewalld f { type filter hook input priority 10; }"], check=True)
    plan = Plan()
    _rules.plan(drive.new_host(), plan, LAB)
    assert len(plan.warnings) == 2, plan.warnings
    assert plan.warnings[0].startswith("The chain FORWARD of the table ip filter drops what no rule of it accepts, also of network lab.")
    assert "--zone=trusted --add-interface=bh-lab" in plan.warnings[1]
    assert plan.actions == ["make table inet bulkhead", "set rules of lab"] and table() is None


def test_steps_that_fail_put_the_elements_back(world):
    rule(LAB, member("web"))
    before = ours()
    host = drive.new_host()
    plans = [Plan("web"), Plan("lab")]
    _rules.plan(host, plans[0], member("web", publish=[(None, 8080, 80, "tcp")]))
    _rules.plan(host, plans[1], _rules.Absent("lab"))

    def fail():
        raise OSError(5, "no such luck")

    run_together(host, plans)
    assert ours() != before
    for plan, words in zip(plans, ("set rules of web/eth0", "remove rules of lab")):
        plan.add("fail", fail)
        with pytest.raises(BulkheadError) as caught:
            run_plan(plan)
        assert caught.value.keys["undone"] == [words]
    host.finish()
    assert ours() == before


def test_one_that_nft_refuses_does_not_keep_the_others(world):
    rule(LAB)
    host = drive.new_host()
    plans = [Plan("bad"), Plan("web")]
    _rules.plan(host, plans[0], Member("bad/eth0", mac("other"), ["not an address"]))
    _rules.plan(host, plans[1], member("web"))
    run_together(host, plans)
    with pytest.raises(BulkheadError) as caught:
        run_plan(plans[0])
    assert caught.value.message.startswith("Cannot set the rules of networks: ") and "\n" not in caught.value.message
    run_plan(plans[1])
    assert set(_rules.owners(drive.new_host())) == {"lab", "web/eth0"}
