# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A cgroup as the kernel shows it: limits by the table, usage, pressure, and the texts they come from."""

from __future__ import annotations

import os

from .._kernel.cgroupfs import UNIFIED, read
from .._model.limits import MAX, MEMSW, TABLE, hugetlb
from ._cgroup_values import shown
from .cgroup import owned

# result key: (controller, cgroup2 file, v1 controller, v1 file); a file of one number
NUMBERS = {
    "memory": ("memory", "memory.current", "memory", "memory.usage_in_bytes"),
    "memory_peak": ("memory", "memory.peak", "memory", "memory.max_usage_in_bytes"),
    "swap": ("memory", "memory.swap.current", None, None),
    "pids": ("pids", "pids.current", "pids", "pids.current"),
    "pids_peak": ("pids", "pids.peak", "pids", "pids.peak"),
}
CPU_WORDS = ("nr_periods", "nr_throttled", "throttled_usec")
_IO_V1 = {"Read": "r", "Write": "w"}


def show(host, name):
    """See `cgroup.show`."""
    trees = host.cgroups().at(name)
    found = trees.exists(name)
    if not found:
        return None
    view = {"name": name, "state": "present", "driver": trees.driver, "mode": trees.mode, "owned": owned(host, name, found),
            "paths": {key: trees.path(name, key) for key in found}, "raw": {}}
    if trees.driver == "systemd":
        from ._cgroup_units import describe

        view.update(describe(host, name))
    for option, limit in TABLE.items():
        _limit(trees, name, found, view, option, limit)
    if trees.home("hugetlb") in found:
        for size in _page_sizes(host):
            for word in ("max", "rsvd_max"):
                part = view.setdefault("hugetlb", {}).setdefault(size, {})
                _limit(trees, name, found, dict(view, raw=view["raw"]), word, hugetlb(size, word), part)
    if MEMSW in view["raw"] and MAX not in (view.get("memory_max"), view.get("memory_swap_max")):
        view["memory_swap_max"] -= view["memory_max"]  # v1 counts them together
    if host.claims.read("net_mark", name) is not None:
        from ._cgroup_mark import mark_of

        view["net_mark"] = mark_of(host, name)
    view["frozen"] = trees.frozen(name)
    view["processes"] = trees.processes(name, list(found)[:1])
    view["usage"] = _usage(trees, name, found)
    if trees.mode == "unified":
        status = os.stat(trees.path(name, UNIFIED))
        view["delegate"] = {"user": status.st_uid, "group": status.st_gid}
    pressure = _pressure(trees, name)
    if pressure:
        view["pressure_stall"] = pressure
    return view


def _limit(trees, name, found, view, option, limit, target=None):
    home = trees.home(limit.controller)
    if home not in found or (home != UNIFIED and limit.v1 is None):
        return
    texts = {}
    for file in (limit.file,) if home == UNIFIED else limit.v1[1]:
        text = read("%s/%s" % (trees.path(name, home), file), None)
        if text is None:
            return
        texts[file] = text
    value = limit.read(texts[limit.file]) if home == UNIFIED else limit.v1[3](texts)
    if value is not None:
        (view if target is None else target)[option] = shown(limit, value)
    view["raw"].update((file, text.strip()) for file, text in texts.items())


def _usage(trees, name, found):
    def text(controller, file):
        home = trees.home(controller) if controller else None
        return read("%s/%s" % (trees.path(name, home), file)) if home in found else ""

    usage = {}
    for word, (controller, file, old_controller, old_file) in NUMBERS.items():
        number = (text(controller, file) if trees.home(controller) == UNIFIED else text(old_controller, old_file)).strip()
        if number.isdigit():
            usage[word] = int(number)
    if "cpu" in trees.controllers or trees.mode == "unified":
        counters = _flat(read(trees.path(name, UNIFIED) + "/cpu.stat"))
        usage["cpu_usec"] = counters.get("usage_usec", 0)
    else:
        counters = _flat(text("cpu", "cpu.stat"))
        counters["throttled_usec"] = counters.get("throttled_time", 0) // 1000
        usage["cpu_usec"] = int(text("cpuacct", "cpuacct.usage").strip() or 0) // 1000
    usage.update((word, counters[word]) for word in CPU_WORDS if word in counters)
    io = _io(text) if trees.home("io") != UNIFIED else _io_unified(text("io", "io.stat"))
    if io:
        usage["io"] = [dict(io[key], device=key) for key in sorted(io)]
    return usage


def _flat(text):
    return {words[0]: int(words[1]) for words in (line.split() for line in text.splitlines()) if len(words) == 2 and words[1].isdigit()}


def _io_unified(text):
    return {line.split()[0]: {key: int(value) for key, value in (word.split("=", 1) for word in line.split()[1:] if "=" in word)
                              if value.isdigit()} for line in text.splitlines() if "=" in line}


def _io(text):
    found = {}
    for suffix, file in (("bytes", "blkio.throttle.io_service_bytes"), ("ios", "blkio.throttle.io_serviced")):
        for line in text("io", file).splitlines():
            words = line.split()
            if len(words) == 3 and words[1] in _IO_V1:
                found.setdefault(words[0], {})[_IO_V1[words[1]] + suffix] = int(words[2])
    return found


def _pressure(trees, name):
    """PSI, from the cgroup2 directory when there is one: {cpu: {some: {avg10, …, total}, full: {…}}}, total in microseconds."""
    found = {}
    for word in ("cpu", "memory", "io") if UNIFIED in trees.roots else ():
        for line in read("%s/%s.pressure" % (trees.path(name, UNIFIED), word)).splitlines():
            kind, space, rest = line.partition(" ")
            found.setdefault(word, {})[kind] = {key: float(value) if "." in value else int(value)
                                                for key, value in (pair.split("=", 1) for pair in rest.split())}
    return found


def _page_sizes(host):
    try:
        names = os.listdir(host.sys + "/kernel/mm/hugepages")
    except OSError:
        return []
    sizes = [int(name[len("hugepages-"):-2]) for name in names]
    return ["%dGB" % (size >> 20) if size >= 1 << 20 else "%dMB" % (size >> 10) if size >= 1 << 10 else "%dKB" % size for size in sizes]
