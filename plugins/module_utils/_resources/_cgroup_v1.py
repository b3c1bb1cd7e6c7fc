# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where cgroup v1 means something else: memory with swap in one limit, and no cpuset without cpus, or with others than its parent's."""

from __future__ import annotations

from .._kernel.cgroupfs import UNIFIED, read
from .._model.errors import BulkheadError
from .._model.limits import MAX, MEMSW, TABLE, show_ranges

SIZE, SWAP = "memory_max", "memory_swap_max"


def plan_memory(it, key, home):
    """v1 limits memory, and memory with swap: both files follow from both options, and the larger is written first.

    ``it``: the plan of a present cgroup (`cgroup._Present`). A swap limit that is not declared is kept as it is.
    """
    if key == SWAP and SIZE in it.settings:
        return  # done with memory_max
    size, together = it.current(TABLE[SIZE], home), it.current(TABLE[SWAP], home)
    swap = MAX if MAX in (size, together) or None in (size, together) else together - size
    values = {SIZE: MAX if size is None else size, SWAP: swap}
    declared = {name: TABLE[name].settle(it.settings[name][1]) for name in values if name in it.settings}
    values.update(declared)
    if values[SIZE] == MAX and declared.get(SWAP, MAX) != MAX:
        raise BulkheadError("Cannot set memory_swap_max of cgroup %s: cgroup v1 limits memory and swap together. "
                            "Set memory_max too." % it.name)
    for name, now in ((SIZE, size), (SWAP, swap if size is not None else None)):
        if name in declared and now != declared[name]:
            it.check_usage(TABLE[name], declared[name], now, home)
            it.plan.differ(name, now, declared[name])
    both = MAX if MAX in values.values() else values[SIZE] + values[SWAP]
    writes = [("memory.limit_in_bytes", size, values[SIZE]), (MEMSW, together, both)]
    if together is None and declared.get(SWAP, MAX) == MAX:
        del writes[1]  # new, or a kernel without swap accounting, where there is nothing to lift
    elif _number(both) > _number(together):
        writes.reverse()
    for file, now, then in writes:
        if now != then:
            it.change(home, file, [_text(then)], [_text(now)] if now is not None else None)


def within(it, home, limit, value):
    """The declared cpus or memory nodes, which the kernel takes only within what there is: on v1 in the nearest ancestor that
    has some, which an empty set means too; on v2 in the machine."""
    there = _of_machine(it.host, limit) if home == UNIFIED else _of_parent(it, home, limit)
    beyond = _set(value) - _set(there) if there else ()
    if beyond:
        raise BulkheadError("Cannot set %s of cgroup %s to %s: there is no %s among the %s that it can have. Use some of these." % (
            limit.option, it.name, value, show_ranges(beyond), there))
    return value if value or home == UNIFIED else there


def _of_parent(it, home, limit):
    parts = it.name.split("/")
    for depth in range(len(parts) - 1, -1, -1):
        text = limit.read(read("%s/%s" % (it.trees.path("/".join(parts[:depth]), home), limit.file), None) or "")
        if text:
            return text
    return ""


def _of_machine(host, limit):
    return limit.read(read("%s/devices/system/%s/possible" % (host.sys, "node" if limit.option == "cpuset_mems" else "cpu"), None) or "")


def _set(text):
    """`0-2,5` -> {0, 1, 2, 5}"""
    numbers = set()
    for part in text.split(",") if text else ():
        low, dash, high = part.partition("-")
        numbers.update(range(int(low), int(high or low) + 1))
    return numbers


def _number(value):
    return float("inf") if value in (None, MAX) else value


def _text(value):
    return "-1" if value == MAX else str(value)
