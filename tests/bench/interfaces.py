# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""200 interfaces at once: made, removed and left alone, against the same netlink messages bare (attach_floor.py), a do-nothing module
call, and the way without this collection: community.general.ip_netns and ip(8) in a loop."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import attach
import measure

MANY, LOOP, ROUNDS = 200, 10, 3
NO_CHANGE = 0.5  # milliseconds an interface that a call which changes nothing may take beside the do-nothing module
IP_NETNS = "community.general.ip_netns"


def each(*words):
    """Milliseconds for one."""
    return measure.answer([sys.executable, *[str(word) for word in words]], cwd=measure.HERE)["each"]


def rows(work, dummy):
    nothing = measure.payload(work, measure.NOTHING, {})
    imports, calls = measure.rounds(measure.PAIRS, lambda: each("attach_floor.py", "import"), lambda: measure.call(nothing))
    yield measure.row("importing pyroute2's message classes, beside a do-nothing module call", None, imports, calls)
    measure.answer([sys.executable, "attach.py", "prepare", str(MANY)], cwd=measure.HERE)
    series = {}

    def cycle(key, program, *more):
        for what in ("make", "remove"):
            series.setdefault((key, what), []).append(each(program, what, MANY, *more))

    measure.rounds(measure.PAIRS, lambda: cycle("floor", "attach_floor.py", "/run/netns"), lambda: cycle("ours", "attach.py"))
    yield measure.row("attaching %d interfaces, each, of the bare messages" % MANY, 2, series["ours", "make"], series["floor", "make"])
    yield measure.row("removing %d interfaces, each, of the bare removal by group" % MANY, 2, series["ours", "remove"], series["floor", "remove"])
    path = measure.payload(work, "bulkhead.isolation.interface", attach.declare(MANY))
    measure.call(path)  # keeps its code
    ours, calls, imports = measure.rounds(measure.PAIRS, lambda: measure.call(path), lambda: measure.call(nothing), lambda: each("attach_floor.py", "import"))
    name = "call that changes nothing of %d interfaces, of the do-nothing module + %.1f ms each" % (MANY, NO_CHANGE)
    yield measure.row(name + " + the import", 1, ours, [sum(pair) for pair in zip(calls, imports)], allowed=lambda value: value + NO_CHANGE * MANY)
    yield measure.row("the same without the import, which it does not do", None, ours, calls, allowed=lambda value: value + NO_CHANGE * MANY)
    yield loop(work)


def loop(work):
    """A namespace and its interface: of 200 in one task, and in a loop of tasks."""
    name = "a namespace and its interface, of %d in one task, of %s and ip in a loop" % (MANY, IP_NETNS)
    if not os.path.isdir(measure.COMMUNITY):
        return measure.missing(name, 0.1, "%s could not be fetched" % IP_NETNS)
    os.symlink(measure.COMMUNITY, work + "/ansible_collections/community")
    sandboxes = [{"name": "whole%d" % number, "namespaces": {"types": ["net"]}, "network": "bench"} for number in range(MANY)]
    ours = [("ours", "bulkhead.isolation.sandbox", {"sandboxes": sandboxes})]
    gone = [("gone", "bulkhead.isolation.sandbox", {"sandboxes": [{"name": entry["name"], "state": "absent"} for entry in sandboxes]})]
    commands = ("ip link add eth0 netns loop{{ item }} type veth peer name loop{{ item }}",
                "ip link set loop{{ item }} master bh-bench up",
                "ip -n loop{{ item }} link set eth0 up",
                "ip -n loop{{ item }} address add 10.88.255.{{ item }}/16 dev eth0",
                "ip -n loop{{ item }} route add default via 10.88.0.1")
    theirs = [("namespace", IP_NETNS, {"name": "loop{{ item }}"}), ("links", "ansible.builtin.shell", {"cmd": " && ".join(commands)})]
    found = [[], []]
    for dummy in range(ROUNDS):
        found[0].append(play(work, ours) / MANY)
        play(work, gone)
        found[1].append(play(work, theirs, list(range(1, LOOP + 1))) / LOOP)
        for number in range(1, LOOP + 1):
            subprocess.run(["ip", "netns", "delete", "loop%d" % number], check=True)
    return measure.row(name, 0.1, *found)


def play(work, tasks, over=None):
    """Milliseconds of a whole run of ansible-playbook; everything in it must be changed."""
    argv = measure.playbook(work, tasks)
    if over is not None:
        with open(work + "/play.yml", encoding="utf-8") as stream:
            plays = json.load(stream)
        for task in plays[0]["tasks"]:
            task["loop"] = over
        with open(work + "/play.yml", "w", encoding="utf-8") as stream:
            json.dump(plays, stream)
    return measure.timed(argv, env=measure.environment(work))
