# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""200 sandboxes at once: made, removed and left alone, against the bare floor (floor.py) and a do-nothing module call."""

from __future__ import annotations

import sys

import engine
import measure

MANY, FEW = 200, 20
NO_CHANGE = 0.5  # milliseconds a sandbox that a call which changes nothing may take beside the do-nothing module


def each(*words):
    """Milliseconds a sandbox."""
    return measure.answer([sys.executable, *[str(word) for word in words]], cwd=measure.HERE)["each"]


def rows(work, lower):
    series = {}

    def cycle(key, program, count, *more):
        for what in ("make", "remove"):
            series.setdefault((key, what), []).append(each(program, what, count, *more))

    measure.rounds(measure.PAIRS, lambda: cycle("floor", "floor.py", MANY), lambda: cycle("many", "engine.py", MANY, lower),
                   lambda: cycle("few", "engine.py", FEW, lower))
    yield measure.row("making %d sandboxes, each, of the bare system calls" % MANY, 2, series["many", "make"], series["floor", "make"])
    yield measure.row("making one of %d, of making one of %d" % (MANY, FEW), 1.3, series["many", "make"], series["few", "make"])
    yield measure.row("removing %d sandboxes, each, of the bare system calls" % MANY, 2, series["many", "remove"], series["floor", "remove"])
    nothing = measure.payload(work, measure.NOTHING, {})
    path = measure.payload(work, "bulkhead.isolation.sandbox", engine.declare(MANY, lower))
    measure.call(path)  # keeps its code
    found = measure.rounds(measure.PAIRS, lambda: measure.call(path), lambda: measure.call(nothing))
    yield measure.row("call that changes nothing of %d sandboxes, of the do-nothing module + %.1f ms each" % (MANY, NO_CHANGE), 1, *found,
                      allowed=lambda value: value + NO_CHANGE * MANY)
