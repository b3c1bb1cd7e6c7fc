# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The one table of limits: option, kind, cgroup2 file, cgroup v1 files and conversion, systemd property and its version.

Drivers, documentation and tests read it. Normal values: bytes, microseconds and counts are numbers or `max`; keyed files are
{key: number} or {key: {word: number}}. Sources: Documentation/admin-guide/cgroup-v2.rst, systemd.resource-control(5).
"""

from __future__ import annotations

import os

from . import values
from .values import MAX

PAGE = os.sysconf("SC_PAGE_SIZE")
DEFAULT_PERIOD = 100000  # microseconds
_V1_UNLIMITED = 1 << 62  # v1 shows LONG_MAX in pages as bytes
_TOP = (1 << 44) - 1  # the kernel's greatest cpu bandwidth, microseconds


class Limit:
    """A row. ``default`` is the kernel's, in normal form; ``v1`` is (controller, files, encode, decode) or None."""

    __slots__ = ("option", "kind", "file", "default", "v1", "systemd", "bounds")

    def __init__(self, option, kind, file, default=None, v1=None, systemd=None, bounds=()):
        self.option, self.kind, self.file, self.default = option, kind, file, default
        self.v1, self.systemd, self.bounds = v1, systemd, bounds

    @property
    def controller(self):
        """cgroup2's word: memory, io, …, or cgroup for its core files."""
        return self.file.split(".", 1)[0]

    @property
    def keyed(self):
        return self.kind in ("devices", "table")

    def parse(self, value, path, problems):
        """The normal form of an option's value, or None and a problem."""
        return PARSE[self.kind](value, path, problems, *self.bounds)

    def read(self, text):
        """The normal form of the kernel's cgroup2 text; None when the text says nothing."""
        return READ.get(self.kind, _read_number)(text.strip())

    def lines(self, value):
        """The cgroup2 texts to write, each by one write(2)."""
        if self.kind == "devices":
            return ["%s %s" % (key, " ".join("%s=%s" % pair for pair in sorted(value[key].items()))) for key in sorted(value)]
        if self.kind == "table":
            return ["%s %s" % (key, _words(value[key])) for key in sorted(value)]
        if self.kind == "quota":
            return ["%s %d" % (value["quota"], value["period"])]
        return [str(int(value)) if isinstance(value, bool) else str(value)]

    def settle(self, value):
        """What the kernel will show for a value: sizes are rounded down to pages."""
        if self.kind == "size" and value != MAX:
            return value - value % (PAGE if self.controller == "memory" else values.size(self.file.split(".")[1], "", None))
        return value


def _words(value):
    return " ".join("%s=%s" % pair for pair in sorted(value.items())) if isinstance(value, dict) else str(value)


# -- parsing options: value, path, problems, bounds…

def _size(value, path, problems):
    return values.size(value, path, problems, allow_max=True)


def _count(value, path, problems, low=0, high=(1 << 31) - 1):
    return MAX if value == MAX else values.integer(value, path, problems, low, high)


def _number(value, path, problems, low, high):
    sign = value.strip()[1:] if isinstance(value, str) and value.strip().startswith("-") else None
    return values.integer(-int(sign) if sign and sign.isascii() and sign.isdigit() and len(sign) < 9 else value, path, problems, low, high)


def hundredths(value):
    """A decimal number as whole hundredths (further digits are cut), or None."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = repr(value)
    whole, point, part = value.strip().partition(".") if isinstance(value, str) else ("", "", "")
    if not (whole.isascii() and whole.isdigit() and len(whole) < 8) or (point and not (part.isascii() and part.isdigit())):
        return None
    return int(whole) * 100 + int((part + "00")[:2])


def _percent(value, path, problems):
    number = hundredths(value[:-1] if isinstance(value, str) and value.endswith("%") else value)
    if value == MAX or number == 10000:
        return MAX
    if number is None or number > 10000:
        problems.add(path, "%s is not a percentage. Use 0 to 100 with at most two decimals, or max" % values.quoted(value))
        return None
    return "%d.%02d" % (number // 100, number % 100)


def _quota(value, path, problems):
    quota, period = None, DEFAULT_PERIOD
    if isinstance(value, dict):
        before = len(problems.errors)
        values.mapping(value, path, problems, ("quota", "period"))
        if value.get("period") is not None:
            period = values.time_us(value["period"], path + ".period", problems, 1000, 1000000)
        if value.get("quota") is None:
            problems.add(path + ".quota", "the quota is missing. Give the time per period, such as 50ms, or max")
        else:
            quota = MAX if value["quota"] == MAX else values.time_us(value["quota"], path + ".quota", problems, 1000, _TOP)
        return {"quota": quota, "period": period} if len(problems.errors) == before else None
    if value == MAX:
        return {"quota": MAX, "period": period}
    if isinstance(value, str) and value.endswith("%"):
        number = hundredths(value[:-1])
        quota = number * period // 10000 if number is not None else None
    else:
        number = hundredths(value)
        quota = number * period // 100 if number is not None else None
    if quota is None:
        problems.add(path, "%s is not an amount of cpu. Use 1.5 (cpus), 50%% (of one cpu), {quota, period} or max" % values.quoted(value))
    elif not 1000 <= quota <= _TOP:
        problems.add(path, "%s is out of range. The kernel takes 1%% of a cpu and more" % values.quoted(value))
    else:
        return {"quota": quota, "period": period}
    return None


def _time(value, path, problems):
    return values.time_us(value, path, problems, 0, _TOP)


def _ranges(value, path, problems):
    """`0-3,5` in the kernel's shortest form; a number or a list of numbers too; empty: as the parent's."""
    numbers, word = set(), ",".join(str(each) for each in value) if isinstance(value, list) else value
    word = str(word) if isinstance(word, int) and not isinstance(word, bool) else word
    for part in word.replace(" ", "").split(",") if isinstance(word, str) and word.strip() else ():
        low, dash, high = part.partition("-")
        high = high if dash else low
        if not all(each.isascii() and each.isdigit() and len(each) < 5 for each in (low, high)) or not int(low) <= int(high) < 8192:
            word = None
            break
        numbers.update(range(int(low), int(high) + 1))
    if not isinstance(word, str):
        problems.add(path, "%s is not a list of numbers and ranges such as 0-3,5" % values.quoted(value))
        return None
    return show_ranges(numbers)


def show_ranges(numbers):
    """{0, 1, 2, 5} -> `0-2,5`."""
    out = []
    for number in sorted(numbers):
        if out and out[-1][1] == number - 1:
            out[-1][1] = number
        else:
            out.append([number, number])
    return ",".join("%d-%d" % (low, high) if low != high else str(low) for low, high in out)


def _devices(value, path, problems, words):
    """[{device, word: value}] -> {device: {word: number}}; devices stay as given until the host is read."""
    found = {}
    for index, item in enumerate(values.items(value, path, problems)):
        here = "%s[%d]" % (path, index)
        item = values.mapping(item, here, problems, ("device",) + tuple(words))
        device = item.get("device")
        if not isinstance(device, str) or not (_is_device(device) or values.absolute(device, here + ".device", problems)):
            if not isinstance(device, str) or not device.startswith("/"):
                problems.add(here + ".device", "%s is not a device. Use a block device, MAJOR:MINOR or an absolute path" % values.quoted(device))
            continue
        if device in found:
            problems.add(here + ".device", "%s is there twice" % values.quoted(device))
        found[device] = {word: words[word](item[word], "%s.%s" % (here, word), problems) for word in words if item.get(word) is not None}
        if not found[device]:
            problems.add(here, "there is no limit. Give at least one of %s" % ", ".join(words))
    return found


def _is_device(text):
    major, colon, minor = text.partition(":")
    return all(part.isascii() and part.isdigit() and len(part) < 8 for part in (major, minor))


def _bps(value, path, problems):
    number = _size(value, path, problems)
    if number == 0:
        problems.add(path, "0 would stop all I/O, which the kernel does not take. Use 1 or more, or max")
    return number


def _iops(value, path, problems):
    return _count(value, path, problems, 1, (1 << 32) - 1)


def _table(value, path, problems, words=None, scale=_count):
    found = {}
    for key, item in values.mapping(value, path, problems).items():
        here = "%s.%s" % (path, key) if isinstance(key, str) and key.isprintable() else path
        if not isinstance(key, str) or not key or not key.isprintable() or " " in key or len(key) > 200:
            problems.add(path, "%s is not a name of the kernel's" % values.quoted(key))
        elif words:
            found[key] = {word: scale(item[word], "%s.%s" % (here, word), problems) for word in words
                          if values.mapping(item, here, problems, words).get(word) is not None}
        else:
            found[key] = scale(item, here, problems)
    return found


PARSE = {
    "size": _size, "count": _count, "number": _number, "flag": values.boolean, "percent": _percent, "quota": _quota, "time": _time,
    "ranges": _ranges, "choice": lambda value, path, problems, *words: values.choice(value, path, problems, words),
    "devices": _devices, "table": _table, "raw": values.text,
}


# -- reading the kernel's text

def _whole(word):
    return word.isascii() and word.isdigit()


def _read_number(text):
    word = (text.split() or [""])[-1]  # io.weight says `default 100` first
    return MAX if word == MAX else int(word) if _whole(word[1:] if word.startswith("-") else word) else None


def _read_first(text):
    return _read_number(text.split("\n", 1)[0])


def _read_quota(text):
    quota, space, period = text.partition(" ")
    if not _whole(period) or not (quota == MAX or _whole(quota)):
        return None
    return {"quota": MAX if quota == MAX else int(quota), "period": int(period)}


def _read_ranges(text):
    numbers = set()
    for part in text.split(",") if text else ():
        low, dash, high = part.partition("-")
        if not _whole(low) or (dash and not _whole(high)) or int(high or low) > 8191:
            return text
        numbers.update(range(int(low), int(high or low) + 1))
    return show_ranges(numbers)


def _read_keyed(text):
    found = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) == 2 and "=" not in words[1]:
            found[words[0]] = _read_number(words[1])
        elif words:
            found[words[0]] = {key: _read_number(value) for key, value in (word.split("=", 1) for word in words[1:] if "=" in word)}
    return found


READ = {
    "number": _read_first, "flag": lambda text: text == "1" if text else None, "percent": lambda text: text or None, "quota": _read_quota,
    "ranges": _read_ranges, "choice": lambda text: text or None, "devices": _read_keyed, "table": _read_keyed, "raw": lambda text: text,
}


# -- cgroup v1: encode(value) -> [(file, text)]; decode({file: text}) -> value

def _bytes_from_v1(text):
    number = int(text.strip() or -1)
    return MAX if number < 0 or number >= _V1_UNLIMITED else number


def _same(controller, file, read=_read_number):
    return (controller, (file,), lambda value: [(file, str(int(value)) if isinstance(value, bool) else str(value))],
            lambda texts: read(texts[file].strip()))


def _bytes(controller, file):
    return (controller, (file,), lambda value: [(file, "-1" if value == MAX else str(value))], lambda texts: _bytes_from_v1(texts[file]))


def _encode_quota(value):
    return [("cpu.cfs_period_us", str(value["period"])), ("cpu.cfs_quota_us", "-1" if value["quota"] == MAX else str(value["quota"]))]


def _decode_quota(texts):
    quota = int(texts["cpu.cfs_quota_us"])
    return {"quota": MAX if quota < 0 else quota, "period": int(texts["cpu.cfs_period_us"])}


# The scale that keeps v1's default of 1024 beside v2's of 100; exact in both directions for every v2 weight.
_SHARES = ("cpu", ("cpu.shares",), lambda value: [("cpu.shares", str((value * 1024 + 50) // 100))],
           lambda texts: max(1, (int(texts["cpu.shares"]) * 100 + 512) // 1024))


def _decode_bfq(texts):
    weight = _read_first(texts["blkio.bfq.weight"].strip())
    return weight if weight is None or weight <= 100 else 100 + (weight - 100) * 11


# bfq's scale is 1 to 1000 with 100 as default; systemd's formula (cgroup-util.h: BFQ_WEIGHT).
_BFQ = ("blkio", ("blkio.bfq.weight",),
        lambda value: [("blkio.bfq.weight", str(value if value <= 100 else 100 + (value - 100) * 900 // 9900))], _decode_bfq)

_THROTTLE = {"rbps": "blkio.throttle.read_bps_device", "wbps": "blkio.throttle.write_bps_device",
             "riops": "blkio.throttle.read_iops_device", "wiops": "blkio.throttle.write_iops_device"}


def _encode_throttle(value):
    return [(_THROTTLE[word], "%s %s" % (device, 0 if number == MAX else number))
            for word in _THROTTLE for device in sorted(value) for number in [value[device].get(word)] if number is not None]


def _decode_throttle(texts):
    found = {}
    for word, file in _THROTTLE.items():
        for device, number in _read_keyed(texts[file].strip()).items():
            found.setdefault(device, dict.fromkeys(_THROTTLE, MAX))[word] = number
    return found


_IO_WORDS = {"rbps": _bps, "wbps": _bps, "riops": _iops, "wiops": _iops}
# memsw is memory and swap together: the resource converts, as it needs both limits (see _resources/cgroup.py).
MEMSW = "memory.memsw.limit_in_bytes"

ROWS = (
    # option, kind, cgroup2 file, default, cgroup v1, systemd (property, since), bounds
    Limit("cpu_weight", "number", "cpu.weight", 100, _SHARES, ("CPUWeight", 232), (1, 10000)),
    Limit("cpu_weight_nice", "number", "cpu.weight.nice", 0, None, None, (-20, 19)),
    Limit("cpu_max", "quota", "cpu.max", {"quota": MAX, "period": DEFAULT_PERIOD},
          ("cpu", ("cpu.cfs_quota_us", "cpu.cfs_period_us"), _encode_quota, _decode_quota), ("CPUQuota", 213)),
    Limit("cpu_max_burst", "time", "cpu.max.burst", 0, _same("cpu", "cpu.cfs_burst_us")),
    Limit("cpu_uclamp_min", "percent", "cpu.uclamp.min", "0.00", _same("cpu", "cpu.uclamp.min", str)),
    Limit("cpu_uclamp_max", "percent", "cpu.uclamp.max", MAX, _same("cpu", "cpu.uclamp.max", str)),
    Limit("cpu_idle", "flag", "cpu.idle", False, _same("cpu", "cpu.idle", READ["flag"]), ("CPUWeight=idle", 252)),
    Limit("memory_min", "size", "memory.min", 0, None, ("MemoryMin", 240)),
    Limit("memory_low", "size", "memory.low", 0, None, ("MemoryLow", 240)),
    Limit("memory_high", "size", "memory.high", MAX, None, ("MemoryHigh", 231)),
    Limit("memory_max", "size", "memory.max", MAX, _bytes("memory", "memory.limit_in_bytes"), ("MemoryMax", 231)),
    Limit("memory_swap_max", "size", "memory.swap.max", MAX, _bytes("memory", MEMSW), ("MemorySwapMax", 232)),
    Limit("memory_swap_high", "size", "memory.swap.high", MAX),
    Limit("memory_zswap_max", "size", "memory.zswap.max", MAX, None, ("MemoryZSwapMax", 253)),
    Limit("memory_zswap_writeback", "flag", "memory.zswap.writeback", True, None, ("MemoryZSwapWriteback", 256)),
    Limit("memory_oom_group", "flag", "memory.oom.group", False, None, None),
    Limit("io_weight", "number", "io.weight", 100, _BFQ, ("IOWeight", 230), (1, 10000)),
    Limit("io_max", "devices", "io.max", MAX, ("blkio", tuple(_THROTTLE.values()), _encode_throttle, _decode_throttle),
          ("IOReadBandwidthMax", 230), (_IO_WORDS,)),
    Limit("io_latency", "devices", "io.latency", 0, None, ("IODeviceLatencyTargetSec", 240), ({"target": _time},)),
    Limit("cpuset_cpus", "ranges", "cpuset.cpus", "", _same("cpuset", "cpuset.cpus", _read_ranges), ("AllowedCPUs", 244)),
    Limit("cpuset_mems", "ranges", "cpuset.mems", "", _same("cpuset", "cpuset.mems", _read_ranges), ("AllowedMemoryNodes", 244)),
    Limit("cpuset_cpus_exclusive", "ranges", "cpuset.cpus.exclusive", ""),
    Limit("cpuset_partition", "choice", "cpuset.cpus.partition", "member", None, ("CPUSetPartition", 261), ("member", "root", "isolated")),
    Limit("pids_max", "count", "pids.max", MAX, _same("pids", "pids.max"), ("TasksMax", 227), (0, 4194304)),
    Limit("rdma_max", "table", "rdma.max", MAX, _same("rdma", "rdma.max", _read_keyed), None, (("hca_handle", "hca_object"),)),
    Limit("misc_max", "table", "misc.max", MAX, _same("misc", "misc.max", _read_keyed)),
    Limit("dmem_min", "table", "dmem.min", 0, None, None, (None, _size)),
    Limit("dmem_low", "table", "dmem.low", 0, None, None, (None, _size)),
    Limit("dmem_max", "table", "dmem.max", MAX, None, None, (None, _size)),
    Limit("max_descendants", "count", "cgroup.max.descendants", MAX),
    Limit("max_depth", "count", "cgroup.max.depth", MAX),
    Limit("type", "choice", "cgroup.type", "domain", None, None, ("domain", "threaded")),
    Limit("pressure", "flag", "cgroup.pressure", True),
)
TABLE = {row.option: row for row in ROWS}
BY_FILE = {row.file: row for row in ROWS}


def hugetlb(size, word):
    """The row of one page size, as those depend on the machine: size is the kernel's (2MB, 1GB), word max or rsvd_max."""
    part = word.replace("_", ".")
    v1 = "hugetlb.%s.%slimit_in_bytes" % (size, "rsvd." if word == "rsvd_max" else "")
    return Limit("hugetlb.%s.%s" % (size, word), "size", "hugetlb.%s.%s" % (size, part), MAX, _bytes("hugetlb", v1))


def raw(file):
    """The row of a cgroup2 file that the table does not know: text against text."""
    return Limit("unified.%s" % file, "raw", file)
