# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The operations of a real host, where systemd is init: slices, services as units, and whole sandboxes of both."""

from __future__ import annotations

import glob
import os
import re
import subprocess

import jail
from cgroups import NO_CGROUP
from operation import Operation, expect, gone, text, unmount
from overlays import BASE
from sandboxes import NO_SANDBOX, Sandbox, sandbox
from services import JAIL, NO_SERVICE, STARTED, Service, service

PLACE = "/etc/systemd/system/"
TOP = "/sys/fs/cgroup/bulkhead.slice/"
GROUP = TOP + "bulkhead-web.slice/"
OURS = ("bulkhead-web*", "run-netns-web*")
# What systemd says of a unit that is of the one start, or counted since.
PASSING = re.compile(r"\w*(Timestamp\w*|PID|ID|Id|Current|Peak|Available|Usage\w*|Bytes|Packets|Operations)=|Exec\w+=.*start_time")
LIMITS = ("cpu.max", "cpu.weight", "io.max", "memory.max", "memory.swap.max", "pids.max", "cgroup.freeze", "cgroup.subtree_control")


class OnSystemd(Operation):
    systemd = True
    patience = 300.0  # emulated, and beside others, systemd takes up to 20 to read its units again

    def shown(self):
        """What systemd and the kernel show of ours, as lines; and the files that systemd reads."""
        told = subprocess.run(["systemctl", "show", "--all", *OURS], stdout=subprocess.PIPE, text=True, check=True).stdout
        lines = set()
        for block in told.split("\n\n"):
            unit = re.search("^Id=(.*)", block, re.MULTILINE)
            for line in block.splitlines():
                word, dummy, value = line.partition("=")
                if not PASSING.match(line):  # lists have no order of their own
                    lines.add("%s: %s=%s" % (unit.group(1), word, " ".join(sorted(value.split()))))
        for path in glob.glob("/etc/systemd/system*/bulkhead-web*") + glob.glob("/run/systemd/system*/bulkhead-web*/*"):
            lines.add("%s: %s" % (path, text(path)))
        for where, dummy, names in os.walk(TOP):
            lines.update("%s/%s: %s" % (where, name, text("%s/%s" % (where, name))) for name in LIMITS if name in names)
        return lines


class Slice(OnSystemd):
    remove = NO_CGROUP

    def declared(self):
        options = self.steady[1]
        if options.get("state") == "absent":
            return gone(GROUP, PLACE + "bulkhead-web*")
        return expect({GROUP + "memory.max": str(int(options["memory_max"][:-1]) << 20), GROUP + "pids.max": str(options["pids_max"]),
                       GROUP + "cpu.max": {"50%": "50000 100000", 1.5: "150000 100000"}[options["cpu_max"]]})


SMALL = dict(name="bulkhead/web", cpu_max="50%", cpu_weight=200, memory_max="256M", pids_max=128, io_max=[dict(device="/", rbps="20M", wiops=500)])
LARGE = dict(SMALL, cpu_max=1.5, memory_max="512M", memory_swap_max="64M", pids_max="max", io_max=[dict(device="/", rbps="40M", wiops=600)])
Slice("systemd-slice-create", ("cgroup", SMALL))
Slice("systemd-slice-change", ("cgroup", LARGE), before=[("cgroup", SMALL)])
Slice("systemd-slice-change-back", ("cgroup", SMALL), before=[("cgroup", LARGE)])
Slice("systemd-slice-remove", ("cgroup", dict(name="bulkhead/web", state="absent")), before=[("cgroup", SMALL)])


class Unit(OnSystemd, Service):
    remove = NO_SERVICE

    def declared(self):
        absent = self.steady[1].get("state") == "absent"
        return super().declared() + (gone(PLACE + "bulkhead-web*", PLACE + "*/bulkhead-web*") if absent else [])

    def cleanup(self):
        for bind in reversed(jail.BINDS):
            if os.path.ismount(JAIL + bind["target"]):
                unmount(JAIL + bind["target"])
        subprocess.run(["rm", "-rf", "--one-file-system", BASE], check=True)


Unit("systemd-service-create", service())
Unit("systemd-service-change", service(environment=dict(A="2"), stop_timeout="3s", on_change="restart"), before=STARTED)
Unit("systemd-service-stop", service(state="stopped"), before=STARTED)
Unit("systemd-service-remove", ("service", dict(name="web", state="absent")), before=STARTED)


class Whole(Unit, Sandbox):
    remove = NO_SANDBOX
    prepare = Sandbox.prepare

    def declared(self):
        one = self.steady[1]["sandboxes"][0]
        if one.get("state") == "absent":
            return Sandbox.declared(self) + gone(GROUP, PLACE + "*bulkhead-web*", PLACE + "*/bulkhead-web*")
        return self.shows(one, {GROUP + "memory.max": str(int(one["cgroup"]["memory_max"][:-1]) << 20), GROUP + "pids.max": "64"})


TYPES = dict(types=["net", "pid", "mnt", "uts"], hostname="web")
THERE = [sandbox(namespaces=TYPES)]
Whole("systemd-sandbox-create", THERE[0])
Whole("systemd-sandbox-change", sandbox(namespaces=TYPES, cgroup=dict(memory_max="128M", pids_max=64)), before=THERE)
Whole("systemd-sandbox-remove", ("sandbox", dict(sandboxes=[dict(name="web", state="absent")])), before=THERE)
