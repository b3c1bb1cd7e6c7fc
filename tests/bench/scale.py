# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What many sandboxes cost systemd and journald, against as many plain services and `ip netns add`: `scale.py ROWS`, on a test host.

side.py is one side, run on a Debian 13 that was brought back to its clean state before. Plain services are one unit file each
with ExecStart= alone, read by one daemon-reload and started by one `systemctl start` of all of them, the cheapest way there is;
before, `ip netns add` for each. The sandboxes are one run of the engine over a list: net, uts, ipc, mnt, pid and cgroup namespaces,
overlay, three limits, and one service with the same command. Services that are alike have what a sandbox has of systemd, Type=notify
and a slice of their own with the same limits; they have no limit, and show what is systemd's own. Each side is measured until pid 1 and
journald are idle: the processor time of both by the scheduler's clock, and what their memory (PSS) has grown by. The host's time is its
processor's instructions, 4 ns each, so that a busy machine makes no difference and one run is enough. It has one processor, as counting
takes.
"""

from __future__ import annotations

import itertools
import json
import os
import sys

import measure

sys.path.insert(0, os.path.join(os.path.dirname(measure.HERE), "hosts"))

import remote  # noqa: E402

COUNT = int(os.environ.get("BULKHEAD_SCALE") or 300)
PAIRS = 1
LIMIT = 1.2
PATIENCE = 7200  # seconds for one side, which takes minutes on a machine that does nothing else
WHO = {"systemd and journald": ("systemd", "journald"), "systemd": ("systemd", ), "journald": ("journald", )}
FIGURES = (("make", "cpu", "s"), ("make", "memory", "KiB"), ("remove", "cpu", "s"))


def rows():
    host = remote.Host("debian13", "bench-scale", cpus=1, counted=True)

    used = []

    def side(name):
        if used:
            host.reset()
        used.append(name)
        return json.loads(host.run(["python3", remote.TREE + "/tests/bench/side.py", name, str(COUNT)], patience=PATIENCE))

    try:
        ours, plain = measure.rounds(PAIRS, lambda: side("sandboxes"), lambda: side("plain"))
        alike = [side("alike")]
    finally:
        host.destroy()
    for (phase, what, unit), (who, each) in itertools.product(FIGURES, WHO.items()):
        costs = [[sum(one[phase]["%s %s" % (name, what)] for name in each) for one in found] for found in (ours, plain, alike)]
        name = "%s %d sandboxes: %s of %s, of as many " % (phase, COUNT, what, who)
        yield measure.row(name + "plain services", LIMIT if phase == "make" else None, costs[0], costs[1], unit=unit)
        yield measure.row(name + "services alike", None, costs[0], costs[2], unit=unit)
    yield measure.row("a run over %d that changes nothing: systemd cpu, of making plain services" % COUNT, None,
                      [each["again"]["systemd cpu"] for each in ours], [each["make"]["systemd cpu"] for each in plain], unit="s")


def main(out):
    with open(out, "w", encoding="utf-8") as stream:
        for row in rows():
            stream.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
