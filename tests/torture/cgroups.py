# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The operations of cgroups, and the first run on a host."""

from __future__ import annotations

import glob
import os
import subprocess

from operation import Operation, Sleeper, expect, gone, text, unmount

V1 = "/sys/fs/cgroup/%s/bulkhead/web/"
DISK = "%d:%d" % (os.major(os.stat("/").st_dev), os.minor(os.stat("/").st_dev))
SMALL = dict(name="bulkhead/web", cpu_max="50%", cpu_weight=200, memory_max="256M", pids_max=128,
             io_max=[dict(device=DISK, rbps="20M", wiops=500)])
LARGE = dict(SMALL, cpu_max=1.5, memory_max="512M", memory_swap_max="64M", pids_max="max",
             io_max=[dict(device=DISK, rbps="40M", wiops=600)])
NO_CGROUP = [("cgroup", dict(name="bulkhead/web", state="absent", kill=True))]


class Cgroup(Operation):
    remove = NO_CGROUP

    def declared(self):
        options = self.steady[1]
        if options.get("state") == "absent":
            return gone("/sys/fs/cgroup/*/bulkhead")
        wanted = {}
        if "memory_max" in options:
            wanted[V1 % "memory" + "memory.limit_in_bytes"] = str(int(options["memory_max"][:-1]) << 20)
            wanted[V1 % "pids" + "pids.max"] = str(options["pids_max"])
            wanted[V1 % "cpu" + "cpu.cfs_quota_us"] = {"50%": "50000", 1.5: "150000"}[options["cpu_max"]]
            device = options["io_max"][0]
            wanted[V1 % "blkio" + "blkio.throttle.read_bps_device"] = "%s %d" % (DISK, int(device["rbps"][:-1]) << 20)
            wanted[V1 % "blkio" + "blkio.throttle.write_iops_device"] = "%s %d" % (DISK, device["wiops"])
        if "frozen" in options:
            wanted[V1 % "freezer" + "freezer.state"] = "FROZEN" if options["frozen"] else "THAWED"
        return expect(wanted)


class WithProcess(Cgroup):
    """A process in a cgroup: moved there, frozen there, killed there."""

    def prepare(self):
        self.sleeper = Sleeper()
        for noun, options in [self.act, self.steady]:
            if "processes" in options:
                options["processes"] = [self.sleeper.process.pid]

    def damage(self):
        if "processes" not in self.act[1]:
            for directory in glob.glob("/sys/fs/cgroup/*/bulkhead/web"):
                with open(directory + "/tasks", "w") as stream:
                    stream.write(str(self.sleeper.process.pid))

    def cleanup(self):
        self.sleeper.end()


Cgroup("cgroup-create", ("cgroup", SMALL))
Cgroup("cgroup-create-bare", ("cgroup", dict(name="bulkhead/web")))
Cgroup("cgroup-change", ("cgroup", LARGE), before=[("cgroup", SMALL)])
Cgroup("cgroup-change-back", ("cgroup", SMALL), before=[("cgroup", LARGE)])
Cgroup("cgroup-remove", ("cgroup", dict(name="bulkhead/web", state="absent")), before=[("cgroup", SMALL)])
Cgroup("cgroup-freeze", ("cgroup", dict(name="bulkhead/web", frozen=True)), before=[("cgroup", SMALL)])
Cgroup("cgroup-thaw", ("cgroup", dict(name="bulkhead/web", frozen=False)),
       before=[("cgroup", dict(SMALL, frozen=True))])
WithProcess("cgroup-attach", ("cgroup", dict(name="bulkhead/web", processes=[0])), before=[("cgroup", SMALL)])
WithProcess("cgroup-kill", ("cgroup", dict(name="bulkhead/web", state="absent", kill=True)), before=[("cgroup", SMALL)])


class FirstRun(Cgroup):
    """On a host where nothing of ours was ever made, or after a reboot."""

    def damage(self):
        points = [line.split()[4] for line in text("/proc/self/mountinfo").splitlines()]
        if points.count("/var/lib/bulkhead") > 1:
            unmount("/var/lib/bulkhead")
        for dummy in range(points.count("/run/bulkhead")):  # with all that is mounted below
            unmount("/run/bulkhead")
        subprocess.run("rm -rf /run/bulkhead /run/bulkhead.lock /etc/bulkhead/*", shell=True, check=True)


FirstRun("first-run", ("cgroup", dict(name="bulkhead/web")))
