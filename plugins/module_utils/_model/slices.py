# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Limits as properties of a systemd slice: what there is a property for, its text, and the unit file made of them.

Sources: systemd.resource-control(5), src/core/load-fragment.c and cgroup.c of systemd 252 and 257. systemd ignores what it does
not know or take with a warning in the journal, so all of that is refused here.
"""

from __future__ import annotations

from .limits import DEFAULT_PERIOD, MAX

OLDEST = 244  # of systemd, on a host whose kernel is new enough for us
IO = {"rbps": "IOReadBandwidthMax", "wbps": "IOWriteBandwidthMax", "riops": "IOReadIOPSMax", "wiops": "IOWriteIOPSMax"}
SEVERAL = {"cpu_max": ("CPUQuota", "CPUQuotaPeriodSec"), "io_max": tuple(IO.values()), "cpu_idle": ("CPUWeight",)}
# What `systemctl set-property` takes to bring back the default; the others take nothing for it.
RESETS = {"MemoryMin": "0", "MemoryLow": "0", "MemoryHigh": "infinity", "MemoryMax": "infinity", "MemorySwapMax": "infinity",
          "MemoryZSwapMax": "infinity", "MemoryZSwapWriteback": "yes", "TasksMax": "infinity"}
_NOT_ZERO = ("memory_max", "memory_high", "pids_max")  # systemd takes 0 for an error
_UNDELEGATED = ("hugetlb", "rdma", "misc", "dmem")


def properties(limit):
    """The names of the properties that an option is; () when there is none."""
    return () if limit.systemd is None else SEVERAL.get(limit.option) or (limit.systemd[0],)


def gated(limits):
    """Are there options among them that not every systemd has, so that its version has to be asked for?"""
    return any(limit.systemd and limit.systemd[1] > OLDEST for limit in limits)


def refusal(limit, value, version):
    """Why systemd of that version (OLDEST at least) cannot have an option at a value, or None."""
    option = limit.option
    if not properties(limit):
        text = "%s has no property in a slice of systemd, so it needs driver: cgroupfs" % option
        return text + " and allow_undelegated: true" if limit.controller in _UNDELEGATED else text
    if version < limit.systemd[1]:
        return "%s needs the property %s of systemd %d, and this host has systemd %d" % ((option,) + limit.systemd + (version,))
    if value == 0 and option in _NOT_ZERO:
        return "%s: 0 is not taken by systemd. Use 1 or more, or driver: cgroupfs" % option
    return _refused_quota(value) if option == "cpu_max" else None


def _refused_quota(value):
    quota, period = value["quota"], value["period"]
    if quota == MAX:
        return None if period == DEFAULT_PERIOD else "cpu_max: without a quota, systemd's period is 100ms. Leave the period out"
    part, rest = divmod(quota * 10000, period)
    if rest:
        return "cpu_max: systemd counts hundredths of a percent, and %dus of %dus is between %s and %s" % (
            quota, period, _percent(part), _percent(part + 1))
    return None


def _percent(hundredths):
    return ("%d.%02d" % divmod(hundredths, 100)).rstrip("0").rstrip(".") + "%"


def assigned(limit, value, node):
    """{property: [texts]} of an option at a value, which is in normal form. ``node(number)``: the path of a device.

    A default that has no text of its own is no line; see RESETS and changes().
    """
    option = limit.option
    name = properties(limit)[0]
    if option == "cpu_idle":
        return {name: ["idle"]} if value else {}
    if option == "cpu_max":
        if value["quota"] == MAX:
            return {}
        found = {name: [_percent(value["quota"] * 10000 // value["period"])]}
        if value["period"] != DEFAULT_PERIOD:
            found["CPUQuotaPeriodSec"] = ["%dus" % value["period"]]
        return found
    if option == "io_max":
        return {IO[word]: lines for word in IO for lines in [
            ["%s %d" % (node(key), value[key][word]) for key in sorted(value) if value[key].get(word, MAX) != MAX]] if lines}
    if option == "io_latency":
        lines = ["%s %dus" % (node(key), value[key]["target"]) for key in sorted(value) if value[key]["target"]]
        return {name: lines} if lines else {}
    if limit.kind == "flag":
        return {name: ["yes" if value else "no"]}
    if value == "":
        return {}
    return {name: ["infinity" if value == MAX else str(value).replace(",", " ")]}


def merged(old, limit, value, node):
    """The properties with an option set to a value, in place of what they say of it now. Devices that are not named stay."""
    new = {name: list(lines) for name, lines in old.items()}
    given = assigned(limit, value, node)
    if limit.keyed:
        named = {(name, node(key)) for key in value for word, name in (IO.items() if limit.option == "io_max" else (("target", properties(limit)[0]),))
                 if word in value[key]}
        for name in properties(limit):
            kept = [line for line in new.get(name, ()) if (name, line.split(" ", 1)[0]) not in named]
            given[name] = sorted(kept + given.get(name, []))
    elif limit.option == "cpu_idle" and not value and new.get("CPUWeight", ["idle"]) != ["idle"]:
        return new  # there is a weight, which is not idle
    for name in properties(limit):
        new.pop(name, None)
        if given.get(name):
            new[name] = given[name]
    return new


def changes(names, new):
    """The words for `systemctl set-property` that bring the properties of these names to what they are in ``new``."""
    words = []
    for name in names:
        lines = new.get(name)
        if name in SEVERAL["io_max"] or name == "IODeviceLatencyTargetSec":
            words.append(name + "=")  # empties the list, and what is not in it any more is lifted
        elif not lines:
            words.append("%s=%s" % (name, RESETS.get(name, "")))
        words += ["%s=%s" % (name, line) for line in lines or ()]
    return words


def render(made, name, values):
    """The text of a slice's unit file. ``made``: the first words of its first line."""
    lines = [made + " for cgroup " + name, "[Unit]", "Description=Bulkhead: cgroup " + _plain(name)]
    if "/" in name:
        lines.append("DefaultDependencies=no")  # it is stopped with the one above, which has them
    lines += ["", "[Slice]"]
    for key in sorted(values):
        lines += ["%s=%s" % (key, line) for line in values[key]]
    return "\n".join(lines) + "\n"


def _plain(name):
    return name.replace("%", "%%")


def read(text):
    """{property: [texts]} of a unit file that render() made."""
    found, inside = {}, False
    for line in (text or "").splitlines():
        if line.startswith("["):
            inside = line == "[Slice]"
        elif inside and "=" in line and not line.startswith(("#", ";")):
            name, equals, value = line.partition("=")
            found.setdefault(name.strip(), []).append(value.strip())
    return found
