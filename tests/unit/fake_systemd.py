# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A systemd that knows slices, on a fake tree: it answers `systemctl` and writes the kernel's files as the real one does.

As version 257 it does not bring changed limits into running slices on daemon-reload, as 252 it does.
"""

from __future__ import annotations

import os
import shutil

FILES = {
    "cgroup.procs": "", "cgroup.controllers": "cpuset cpu io memory pids", "cgroup.subtree_control": "", "cgroup.freeze": "0", "cgroup.type": "domain",
    "cgroup.max.depth": "max", "cgroup.max.descendants": "max", "cgroup.pressure": "1", "cpu.max": "max 100000", "cpu.max.burst": "0", "cpu.weight": "100",
    "cpu.weight.nice": "0", "cpu.idle": "0", "cpu.uclamp.min": "0.00", "cpu.uclamp.max": "max", "memory.min": "0", "memory.low": "0", "memory.high": "max",
    "memory.max": "max", "memory.current": "0", "memory.swap.max": "max", "memory.swap.high": "max", "memory.swap.current": "0", "memory.zswap.max": "max",
    "memory.zswap.writeback": "1", "memory.oom.group": "0", "io.max": "", "io.weight": "default 100", "io.latency": "", "pids.max": "max",
    "pids.current": "0", "cpuset.cpus": "", "cpuset.mems": "", "cpuset.cpus.exclusive": "", "cpuset.cpus.partition": "member",
}
PLAIN = {"MemoryMin": "memory.min", "MemoryLow": "memory.low", "MemoryHigh": "memory.high", "MemoryMax": "memory.max", "MemorySwapMax": "memory.swap.max",
         "MemoryZSwapMax": "memory.zswap.max", "MemoryZSwapWriteback": "memory.zswap.writeback", "TasksMax": "pids.max", "IOWeight": "io.weight",
         "AllowedCPUs": "cpuset.cpus", "AllowedMemoryNodes": "cpuset.mems", "CPUSetPartition": "cpuset.cpus.partition"}
IO = {"IOReadBandwidthMax": "rbps", "IOWriteBandwidthMax": "wbps", "IOReadIOPSMax": "riops", "IOWriteIOPSMax": "wiops"}
KNOWN = set(PLAIN) | set(IO) | {"CPUWeight", "CPUQuota", "CPUQuotaPeriodSec", "IODeviceLatencyTargetSec"}
DISK, NUMBER = "/dev/vda", "254:0"


def parse(text):
    found, section = {}, ""
    for line in text.splitlines():
        if line.startswith("["):
            section = line
        elif section == "[Slice]" and "=" in line:
            assign(found, line)
    return found


def assign(values, word):
    """One assignment, as systemd takes it: nothing empties a list."""
    name, dummy, value = word.partition("=")
    assert name in KNOWN, name
    if name in IO or name == "IODeviceLatencyTargetSec":
        if value:
            values.setdefault(name, {})[value.split()[0]] = value.split()[1]
        else:
            values[name] = {}
    else:
        values[name] = value


class Systemd:
    """``run`` is the host's runner; ``calls`` what it was asked, ``active`` {unit: properties in memory}."""

    def __init__(self, root, units, version):
        self.root, self.units, self.version = root, units, version
        self.calls, self.active, self.loaded, self.frozen = [], {}, {}, set()
        self.fail = self.fail_unit = None  # a word of a command line that makes it fail; a unit whose properties cannot be set
        self.make(root)
        self.put(root, "cgroup.controllers", "cpuset cpu io memory hugetlb pids rdma misc")

    def make(self, path):
        os.makedirs(path, exist_ok=True)
        for name, text in FILES.items():
            if not os.path.exists("%s/%s" % (path, name)):
                self.put(path, name, text)

    @staticmethod
    def put(path, name, text):
        with open("%s/%s" % (path, name), "w", encoding="ascii") as stream:
            stream.write(text + "\n")

    def directory(self, unit):
        parts = unit[:-len(".slice")].split("-")
        return self.root + "".join("/%s.slice" % "-".join(parts[:depth]) for depth in range(1, len(parts) + 1))

    def file(self, unit):
        try:
            with open("%s/%s" % (self.units, unit), encoding="utf-8") as stream:
                return stream.read()
        except FileNotFoundError:
            return None

    def drop_ins(self, unit):
        found = []
        for root in (self.units + ".control", self.units):
            path = "%s/%s.d" % (root, unit)
            found += ["%s/%s" % (path, name) for name in sorted(os.listdir(path))] if os.path.isdir(path) else []
        return found

    def load(self, unit):
        self.loaded[unit] = (self.file(unit), self.drop_ins(unit))
        values = parse(self.file(unit) or "")
        for path in reversed(self.drop_ins(unit)):
            with open(path, encoding="utf-8") as stream:
                values.update(parse(stream.read()))
        return values

    def apply(self, unit):
        """The kernel's files from the properties in memory."""
        path, values = self.directory(unit), self.active[unit]
        for name, file in PLAIN.items():
            text = values.get(name) or FILES[file].replace("default ", "")
            text = {"infinity": "max", "yes": "1", "no": "0"}.get(text, text).replace(" ", ",")
            self.put(path, file, "default " + text if file == "io.weight" else text)
        weight = values.get("CPUWeight") or "100"
        self.put(path, "cpu.idle", "1" if weight == "idle" else "0")
        self.put(path, "cpu.weight", "0" if weight == "idle" else weight)
        period, share = int((values.get("CPUQuotaPeriodSec") or "100000us")[:-2]), values.get("CPUQuota")
        self.put(path, "cpu.max", "%d %d" % (round(float(share[:-1]) * period / 100), period) if share else "max 100000")
        limits = {}
        for name, word in IO.items():
            for node, number in (values.get(name) or {}).items():
                assert node == DISK
                limits[word] = number
        self.put(path, "io.max", NUMBER + " " + " ".join("%s=%s" % (word, limits.get(word, "max")) for word in IO.values()) if limits else "")
        target = (values.get("IODeviceLatencyTargetSec") or {}).get(DISK)
        self.put(path, "io.latency", "%s target=%s" % (NUMBER, target[:-2]) if target else "")

    def run(self, argv, data=None, env=None):  # pylint: disable=unused-argument
        self.calls.append(argv)
        words = [word for word in argv[1:] if word != "--no-ask-password"]
        if self.fail in words or (words[0] == "set-property" and self.fail_unit in words):
            return 1, "", "It was told to fail.\n"
        units = words[words.index("--") + 1:] if "--" in words else []
        if words[0] == "start" and any(self.loaded.get(unit, (None,))[0] == "" for unit in units):
            return 1, "", "Failed to start: a unit is masked.\n"
        if words[0] == "--version":
            return 0, "systemd %d (%d.1)\n" % (self.version, self.version), ""
        return 0, (getattr(self, words[0].replace("-", "_"))(*units) or ""), ""

    def show(self, *units):
        blocks = []
        for unit in units:
            text, drop_ins = self.loaded.get(unit, (self.file(unit), self.drop_ins(unit)))
            active = unit in self.active
            values = {
                "Id": unit, "ActiveState": "active" if active else "inactive", "LoadState": "masked" if text == "" else "loaded",
                "FragmentPath": "%s/%s" % (self.units, unit) if text is not None else "",
                "DropInPaths": " ".join('"%s"' % path.replace("\\", "\\\\") if "\\" in path else path for path in drop_ins),
                "NeedDaemonReload": "yes" if active and text is not None and (text, drop_ins) != (self.file(unit), self.drop_ins(unit)) else "no",
                "ControlGroup": self.directory(unit)[len(self.root):] if active and unit.endswith(".slice") else "",
                "FreezerState": "frozen" if unit in self.frozen else "running"}
            blocks.append("".join("%s=%s\n" % item for item in values.items()))
        return "\n".join(blocks)

    def list_units(self, *patterns):  # pylint: disable=unused-argument
        return "".join("%s loaded %s running\n" % (unit, "active" if unit in self.active else "inactive") for unit in self.loaded)

    def list_jobs(self):
        """Each start has ended when the call that asked for it returns."""

    def start(self, *units):
        for unit in units:
            parts = unit[:-len(".slice")].split("-")
            for depth in range(1, len(parts) + 1):
                each = "-".join(parts[:depth]) + ".slice"
                if each not in self.active:
                    self.active[each] = self.load(each)
                    self.make(self.directory(each))
                    self.apply(each)

    def stop(self, *units):
        for unit in units:
            if self.active.pop(unit, None) is not None:
                shutil.rmtree(self.directory(unit))
            self.loaded.pop(unit, None)

    def daemon_reload(self):
        self.loaded = {unit: known for unit, known in self.loaded.items() if unit in self.active}
        for unit in list(self.active):
            self.active[unit] = self.load(unit)
            if self.version < 257:
                self.apply(unit)

    def set_property(self, unit, *words):
        directory = "%s.control/%s.d" % (self.units, unit)  # the real --runtime ones are below /run
        os.makedirs(directory, exist_ok=True)
        for name in dict.fromkeys(word.partition("=")[0] for word in words):
            given = [word for word in words if word.startswith(name + "=")]
            with open("%s/50-%s.conf" % (directory, name), "w", encoding="utf-8") as stream:
                stream.write("[Slice]\n" + "\n".join(given) + "\n")
            for word in given:
                assign(self.active[unit], word)
        text, dummy = self.loaded[unit]
        self.loaded[unit] = (text, self.drop_ins(unit))
        self.apply(unit)

    def freeze(self, unit):
        self.frozen.add(unit)
        self.put(self.directory(unit), "cgroup.freeze", "1")

    def thaw(self, unit):
        self.frozen.discard(unit)
        self.put(self.directory(unit), "cgroup.freeze", "0")
