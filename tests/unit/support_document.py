# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The table of docs/support.md, made from what the tests found on each kind of host.

A test that is marked `proves("ROW")` writes its result to build/support/KIND.json. `python3 tests/unit/support_document.py`
takes those results into docs/support.json, which is kept, and writes the table from it.
"""

from __future__ import annotations

import json
import os
import re

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
START, END = "<!-- table -->\n", "<!-- end of table -->\n"
KINDS = {"debian12": "Debian 12", "debian13": "Debian 13", "plain": "without systemd, hybrid cgroups"}
ROWS = {
    "memory_max": "The hog above it is killed, and nothing else",
    "memory_high": "Who is above it is slowed down, and reclaimed into swap",
    "memory_min": "What is below it is not reclaimed",
    "memory_swap_max": "Swap is limited by itself",
    "memory_oom_group": "All are killed together",
    "cpu_max": "Who wants more is throttled",
    "cpu_weight": "Siblings share a cpu by it",
    "cpuset_cpus": "No other cpu is used",
    "io_max": "A disk's reads and writes keep to the rate and the number",
    "io_weight": "Siblings share a disk by it, where io.cost is set up",
    "io_latency": "A disk's latency is kept",
    "pids_max": "A fork above it fails",
    "hugetlb": "Huge pages above it are refused",
    "frozen": "All stand still, and go on",
    "pressure": "`cgroup_info` shows how long they waited",
    "delegate": "The named user makes cgroups in it, and nobody else",
    "limits changed in place": "The process stays the same and feels the new limit",
    "limits after daemon-reload": "They hold, also what was changed since",
    "limits of a sandbox": "They reach its services and who enters",
    "limits after a reboot": "The sandbox is back with them",
    "time namespace": "Clocks inside are ahead by what was declared",
    "user namespace": "Root inside is another user outside, and owns its files",
    "cgroup namespace": "`/proc/self/cgroup` inside is `/`",
    "pid, uts, net, ipc, mnt namespaces": "Each shows its own",
    "network": "Members find each other by name; what is published is reached, and what is denied is not",
    "network after a reboot": "Its members are back with their addresses",
    "image": "A service runs over the host's own root, and over a build",
    "image after a reboot": "Its sandbox is back, and a run changes nothing",
    "storage driver devicemapper": "Nobody else sees what is written, and nothing of it is lost",
    "storage driver btrfs": "The same",
    "storage driver copy": "The same",
    "size limits": "Who writes more than `storage.size` gets none, and nobody else notices",
    "snapshots": "What was written is as it was",
    "upgrade": "Each request is answered, an ill image changes nothing, and it is rolled back",
}
PLACES = {"hosts": "tests/hosts", "plain": "tests/system"}


def proofs(folder):
    """The rows that tests in a folder are marked to prove."""
    found = set()
    for where, dummy, names in os.walk(os.path.join(ROOT, folder)):
        for name in names:
            if name.endswith(".py"):
                with open(os.path.join(where, name), encoding="utf-8") as stream:
                    found.update(re.findall(r'mark\.proves\("([^"]+)"\)', stream.read()))
    return found


def cell(tests):
    """(`yes`, None), or `no` or `not proved` and why, of the results of a row's tests on one kind of host."""
    others = [test for test in (tests or {}).values() if test["outcome"] not in ("passed", "refused")]
    if others or not tests:
        return "not proved", others[0]["reason"] if others else None
    reasons = sorted({test["reason"] for test in tests.values() if test["outcome"] == "refused"})
    return ("no", reasons[0]) if reasons else ("yes", None)


def table(found):
    """The table, and below it the reasons of each `no` as the engine gives them."""
    lines, reasons = ["| capability | effect | %s |" % " | ".join(KINDS.values()), "|---" * (2 + len(KINDS)) + "|"], []
    for row, effect in ROWS.items():
        cells = []
        for kind in KINDS:
            word, reason = cell(found.get(kind, {}).get(row))
            if reason:
                if reason not in reasons:
                    reasons.append(reason)
                word += " [%d]" % (reasons.index(reason) + 1)
            cells.append(word)
        lines.append("| %s | %s | %s |" % ("`%s`" % row if re.fullmatch("[a-z_]+", row) else row, effect, " | ".join(cells)))
    lines += [""] + ["%d. %s" % (number, reason) for number, reason in enumerate(reasons, 1)]
    return "\n".join(lines) + "\n"


def load(path):
    with open(path, encoding="utf-8") as stream:
        return json.load(stream)


def main():
    path, folder = ROOT + "/docs/support", os.environ.get("BULKHEAD_SUPPORT", ROOT + "/build/support")
    found = load(path + ".json") if os.path.exists(path + ".json") else {}
    for kind in KINDS:
        if os.path.exists("%s/%s.json" % (folder, kind)):
            for row, tests in load("%s/%s.json" % (folder, kind)).items():
                found.setdefault(kind, {})[row] = tests
    with open(path + ".json", "w", encoding="utf-8") as stream:
        json.dump(found, stream, indent=1, sort_keys=True)
        stream.write("\n")
    with open(path + ".md", encoding="utf-8") as stream:
        head, rest = stream.read().split(START)
    with open(path + ".md", "w", encoding="utf-8") as stream:
        stream.write(head + START + table(found) + END + rest.split(END)[1])


if __name__ == "__main__":
    main()
