# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How fast it is: `tests/bench/run.py [--floor FILE] [PART...]`. Prints a table and writes build/bench.json.

Every figure is a ratio of medians of interleaved pairs, measured over allowed baseline, with its limit. Parts: calls, images, many,
interfaces, start, storage, upgrade; and by name only scale, on a virtual machine, which takes an hour.
With --floor FILE, our floor is also compared with another one that prints the same JSON keys for `FILE COUNT`; that is no figure.
Fails when a figure does not hold. docs/performance.md says what the figures are and what was found.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(HERE)), "scripts"))

import measure  # noqa: E402
import tree  # noqa: E402

ALONE = [sys.executable, os.path.join(measure.ROOT, "tests", "alone"), sys.executable]
PARTS = ("calls", "images", "many", "interfaces", "start", "storage", "upgrade")
COMMUNITY = "ansible==14.5.0"  # the package that community.general comes in
HOSTED = "scale"  # makes itself a virtual machine
LIMIT = {HOSTED: 4 * 7200}  # seconds for one part; others 1800


def part(name):
    """The rows of one part. One that fails before it has any is a row itself."""
    with tempfile.NamedTemporaryFile("r", encoding="utf-8") as out:
        try:
            words = [sys.executable, HERE + "/scale.py"] if name == HOSTED else [*ALONE, HERE + "/inside.py", name]
            ended = subprocess.run([*words, out.name], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, timeout=LIMIT.get(name, 1800), check=False)
            why = measure.tail(ended.stdout) if ended.returncode else None
        except subprocess.TimeoutExpired:
            why = "not done within %d s" % LIMIT.get(name, 1800)
        found = [json.loads(line) for line in out]
    if why:
        found.append(measure.missing("the rest of " + name, 1, why))
    return found


def fetch_community():
    """community.general.ip_netns, as a private host has no network. Without it its figure does not hold."""
    module = "plugins/modules/ip_netns.py"
    target = os.path.join(measure.COMMUNITY, "general", module)
    if os.path.exists(target):
        return
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([measure.BIN + "/pip", "download", "--quiet", "--no-deps", "--dest", folder, COMMUNITY], check=False)
        for name in os.listdir(folder):
            with zipfile.ZipFile(os.path.join(folder, name)) as wheel:
                text = wheel.read("ansible_collections/community/general/" + module)
            os.makedirs(os.path.dirname(target))
            with open(target, "wb") as stream:
                stream.write(text)


def compare_floors(other):
    """Our floor's operations over another's; both are run in turns in one private host each time."""
    ours = [*ALONE, HERE + "/floor.py", "operations", "200"]
    theirs = [*ALONE, other, "200"]
    found = measure.rounds(measure.PAIRS, lambda: measure.answer(ours), lambda: measure.answer(theirs))
    print("%-12s %10s %10s %7s" % ("operation", "ours, ms", "other, ms", "ratio"))
    for key in found[0][0]:
        if key != "count" and all(key in each for each in found[1]):
            row = measure.row(key, 1.15, *[[each[key] for each in side] for side in found])
            print("%-12s %10.4f %10.4f %7.3f%s" % (key, row["measured"], row["baseline"], row["ratio"],
                                                   "" if 0.85 <= row["ratio"] <= 1.15 else "  differs by more than 15 %"))


def table(rows):
    print("%-58s %10s %10s %-4s %6s %6s  %-15s %s" % ("figure", "measured", "baseline", "", "ratio", "limit", "quartiles", "holds"))
    for row in rows:
        if row["ratio"] is None:
            print("%-58s not measured: %s" % (row["name"], row["why"]))
        else:
            limit, holds = ("%6.2f" % row["limit"], "yes" if row["holds"] else "NO") if row["limit"] else ("", "no figure")
            print("%-58s %10.2f %10.2f %-4s %6.3f %6s  %.3f … %.3f   %s" % (
                row["name"], row["measured"], row["baseline"], row["unit"], row["ratio"], limit, *row["spread"], holds))


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("parts", nargs="*", metavar="PART", help="calls, images, many, interfaces, start, storage, upgrade; default all")
    options.add_argument("--floor", metavar="FILE", help="another floor to compare ours with")
    options = options.parse_args()
    tree.sync()
    if "interfaces" in (options.parts or PARTS):
        fetch_community()
    begin, rows = time.monotonic(), []
    for name in options.parts or PARTS:
        rows += part(name)
    os.makedirs(measure.ROOT + "/build", exist_ok=True)
    with open(measure.ROOT + "/build/bench.json", "w", encoding="utf-8") as stream:
        json.dump(rows, stream, indent=1)
    table(rows)
    if options.floor:
        compare_floors(os.path.abspath(options.floor))
    figures = [row["holds"] for row in rows if row["holds"] is not None]
    print("%d of %d figures hold (%.0f s)" % (sum(figures), len(figures), time.monotonic() - begin))
    return 0 if figures and all(figures) else 1


if __name__ == "__main__":
    sys.exit(main())
