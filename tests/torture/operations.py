# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The operations that are broken at each of their system calls: every act of every module.

`declared` looks at the kernel with its own eyes (files of cgroupfs, mountinfo, nsfs), not through the engine.
"""

from __future__ import annotations

import collections
import ctypes
import glob
import os
import signal
import subprocess
import time

import drive
import jail
from module_utils._supervisor import entry, scan

TABLE = collections.OrderedDict()


class Operation:
    """act: (noun, options), after `before` was done and the host damaged; `remove` takes everything away again.

    ``once``: an act that is done each time it is asked for (kill, restart, reset); ``steady`` is then what is declared after it.
    """

    once = False
    before = ()
    remove = ()

    def __init__(self, name, act, **rest):
        self.name, self.act, self.steady = name, act, act
        self.__dict__.update(rest)
        TABLE[name] = self

    def prepare(self):
        """Before anything else: files, processes."""

    def damage(self):
        """After the set-up, before the broken run: what somebody else did to the host."""

    def declared(self):
        """What the kernel shows differently from what was declared, as lines."""
        return []

    def cleanup(self):
        """The reverse of prepare()."""


def text(path):
    try:
        with open(path) as stream:
            return stream.read().strip()
    except OSError as exc:
        return exc.strerror


def expect(wanted):
    """Lines for the files whose content is not the wanted."""
    return ["%s is %r, not %r" % (path, text(path), value) for path, value in wanted.items() if text(path) != value]


def gone(*patterns):
    return ["%s is there" % path for pattern in patterns for path in glob.glob(pattern)]


libc = ctypes.CDLL(None, use_errno=True)


def unmount(path):
    """By hand, and without the files in /run that umount(8) keeps."""
    if libc.umount2(os.fsencode(path), 2):
        raise OSError(ctypes.get_errno(), "umount %s" % path)


class Sleeper:
    """A process of somebody else's, in a cgroup."""

    def __init__(self, *directories):
        self.process = subprocess.Popen(["sleep", "1000"])
        for directory in directories:
            with open(directory + "/cgroup.procs", "w") as stream:
                stream.write(str(self.process.pid))

    def end(self):
        for state in glob.glob("/sys/fs/cgroup/freezer/**/freezer.state", recursive=True):
            with open(state, "w") as stream:
                stream.write("THAWED")
        self.process.kill()
        self.process.wait()


# cgroup

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

# namespace

ALL = ["net", "uts", "ipc", "mnt", "pid", "cgroup", "time"]
SET = dict(name="web", types=ALL, hostname="web", sysctls={"net.ipv4.ip_forward": "1"}, loopback=True,
           time_offsets=dict(monotonic=1000))
OWNED = dict(name="web", types=["user", "net", "uts", "pid", "mnt"], hostname="web", uid_map=["0 100000 1000"],
             gid_map=["0 100000 1000"])
NO_SET = [("namespace", dict(name="web", state="absent", kill=True))]


def pin(kind):
    return {"net": "/run/netns/web", "mnt": "/run/bulkhead/mntns/web"}.get(kind, "/run/bulkhead/ns/web/" + kind)


def pins():
    """{path: type:[inode]} of the namespaces that are pinned."""
    found = {}
    for line in text("/proc/self/mountinfo").splitlines():
        left, right = line.split(" - ")
        if right.startswith("nsfs"):
            found[left.split()[4]] = left.split()[3]
    return found


def hostname():
    return subprocess.run(["nsenter", "--uts=" + pin("uts"), "hostname"], capture_output=True, text=True, check=False).stdout.strip()


class Namespace(Operation):
    remove = NO_SET

    def declared(self):
        options, found = self.steady[1], pins()
        if options.get("state") == "absent":
            return gone("/run/netns/web", "/run/bulkhead/ns/web", "/run/bulkhead/mntns/web") + [
                "%s is pinned" % path for path in found if path.endswith("/web") or "/web/" in path]
        wrong = ["no %s namespace is pinned" % kind for kind in options["types"]
                 if not found.get(pin(kind), "").startswith(kind + ":")]
        if "hostname" in options and hostname() != options["hostname"]:
            wrong.append("the hostname is %r" % hostname())
        if "pid" in options["types"] and subprocess.run(["nsenter", "--pid=" + pin("pid"), "true"], check=False).returncode:
            wrong.append("the pid namespace is dead")
        return wrong


class Damaged(Namespace):
    """Pins that are plain files, gone, or of a pid namespace whose init died."""

    def damage(self):
        for path in (pin("net"), pin("uts")):
            unmount(path)
        os.unlink(pin("uts"))
        for path in glob.glob("/proc/[0-9]*/comm"):
            if text(path) == "keeper":
                os.kill(int(path.split("/")[2]), signal.SIGKILL)


Namespace("namespace-create", ("namespace", SET))
Namespace("namespace-create-net", ("namespace", dict(name="web", types=["net"])))
Namespace("namespace-create-owned", ("namespace", OWNED))
Namespace("namespace-change", ("namespace", dict(SET, hostname="www", sysctls={"net.ipv4.ip_forward": "0"})),
          before=[("namespace", SET)])
Namespace("namespace-add", ("namespace", SET), before=[("namespace", dict(name="web", types=["uts"]))])
Namespace("namespace-recreate", ("namespace", dict(SET, time_offsets=dict(monotonic=2000), on_mismatch="recreate")),
          before=[("namespace", SET)])
Damaged("namespace-mend", ("namespace", SET), before=[("namespace", SET)])
Namespace("namespace-in-cgroup", ("namespace", dict(name="web", types=["pid", "cgroup"], cgroup="bulkhead/web")),
          before=[("cgroup", dict(name="bulkhead/web"))], remove=NO_SET + NO_CGROUP)
Namespace("namespace-remove", ("namespace", dict(name="web", state="absent")), before=[("namespace", SET)])

# overlay

BASE = "/run/torture"
LAYERS = [BASE + "/top", BASE + "/base"]
PLACE = "/run/bulkhead/mnt/web"
OVERLAY = dict(path=PLACE, lower=LAYERS, upper="/var/lib/bulkhead/uppers/web/upper", work="/var/lib/bulkhead/uppers/web/work")
NO_OVERLAY = [("overlay", dict(OVERLAY, state="absent", remove_data=True))]


def mounted(path):
    """The options of the file systems that are stacked at a path, the lowest first."""
    lines = [line.split(" - ") for line in text("/proc/self/mountinfo").splitlines()]
    return [right for left, right in lines if left.split()[4] == path]


class Overlay(Operation):
    remove = NO_OVERLAY

    def prepare(self):
        for path in LAYERS + [BASE + "/third"]:
            os.makedirs(path, exist_ok=True)
            with open(path + "/" + os.path.basename(path), "w") as stream:
                stream.write(path)

    def damage(self):
        if os.path.ismount(PLACE):
            with open(PLACE + "/written", "w") as stream:
                stream.write("data")

    def declared(self):
        options, found = self.steady[1], mounted(PLACE)
        if options["state"] != "mounted":
            return ["mounted: %s" % found] if found else []
        if len(found) != 1 or not found[0].startswith("overlay"):
            return ["mounted are %s" % found]
        shown = sorted(os.listdir(PLACE))
        wanted = [os.path.basename(path) for path in options["lower"]]
        if "upper" in options and self.before and not self.act[1].get("reset"):
            wanted.append("written")
        return [] if shown == sorted(wanted) else ["it holds %s, not %s" % (shown, sorted(wanted))]

    def cleanup(self):
        subprocess.run(["rm", "-rf", BASE], check=True)


def overlay(**options):
    return "overlay", dict(OVERLAY, **dict(dict(state="mounted"), **options))


MOUNTED = [overlay()]
Overlay("overlay-mount", overlay())
Overlay("overlay-mount-read-only", ("overlay", dict(path=PLACE, lower=LAYERS, state="mounted")))
Overlay("overlay-replace", overlay(lower=[BASE + "/third"] + LAYERS, on_mismatch="recreate"), before=MOUNTED)
Overlay("overlay-attributes", overlay(options=dict(noexec=True, nodev=True)), before=MOUNTED)
Overlay("overlay-reset", overlay(reset=True), before=MOUNTED, once=True, steady=overlay())
Overlay("overlay-unmount", ("overlay", dict(path=PLACE, state="unmounted")), before=MOUNTED)
Overlay("overlay-absent", ("overlay", dict(path=PLACE, state="absent")), before=MOUNTED)
Overlay("overlay-absent-with-data", ("overlay", dict(path=PLACE, state="absent", remove_data=True)), before=MOUNTED)
Overlay("overlay-in-namespace", overlay(path="/mnt", namespace="web"), before=[("namespace", dict(name="web", types=["mnt"]))],
        remove=[("overlay", dict(OVERLAY, path="/mnt", namespace="web", state="absent", remove_data=True))] + NO_SET,
        declared=lambda: [])

# service

JAIL = BASE + "/jail"
SLEEP = ["/usr/bin/sleep", "54321"]
SERVICE = dict(name="web", root=JAIL, command=SLEEP, environment=dict(A="1"), rlimits=dict(nofile=64))
NO_SERVICE = [("service", dict(name="web", state="absent"))]


def running(words=tuple(SLEEP)):
    """The pids that execute just these words."""
    return [int(path.split("/")[2]) for path in glob.glob("/proc/[0-9]*/cmdline") if text(path).split("\0")[:-1] == list(words)]


def settle(number):
    """The pids, when they are so many; a service that its supervisor starts by itself may not have come to its command yet."""
    end = time.monotonic() + 5
    while len(running()) != number and time.monotonic() < end:
        time.sleep(0.02)
    return running()


class Service(Operation):
    remove = NO_SERVICE

    def prepare(self):
        jail.make(JAIL)
        for bind in jail.BINDS:
            os.makedirs(JAIL + bind["target"], exist_ok=True)
            subprocess.run(["mount", "--no-mtab", "--bind", bind["source"], JAIL + bind["target"]], check=True)

    def declared(self):
        state = self.steady[1].get("state", "started")
        pids = settle(int(state not in ("absent", "stopped")))
        if state == "absent":
            return gone("/run/bulkhead/service/web") + (["it runs"] if pids else [])
        if len(pids) != (state != "stopped"):
            return ["%d processes run" % len(pids)]
        if not pids:
            return []
        wanted = "A=%s" % self.steady[1].get("environment", SERVICE["environment"])["A"]
        if wanted not in text("/proc/%d/environ" % pids[0]).split("\0"):
            return ["its environment is %r" % text("/proc/%d/environ" % pids[0])]
        return []

    def cleanup(self):
        host = drive.new_host()
        scan.shutdown(host)
        entry.clear(host)
        for bind in reversed(jail.BINDS):
            if os.path.ismount(JAIL + bind["target"]):
                unmount(JAIL + bind["target"])
        subprocess.run(["rm", "-rf", "--one-file-system", BASE, "/run/mount", "/var/log/bulkhead/web"], check=True)


def service(**options):
    return "service", dict(SERVICE, **options)


STARTED = [service()]
Service("service-start", service())
Service("service-start-second", service(), before=[("service", dict(SERVICE, name="other", command=["/usr/bin/sleep", "11111"]))],
        remove=NO_SERVICE + [("service", dict(name="other", state="absent"))])
Service("service-start-own-root", ("service", dict(SERVICE, root=BASE + "/own", bind=jail.BINDS)),
        prepare=lambda: jail.make(BASE + "/own"))
Service("service-start-inside", service(namespace="web", cgroup="bulkhead/web"),
        before=[("cgroup", dict(name="bulkhead/web")), ("namespace", dict(name="web", types=["pid", "net", "uts"]))],
        remove=NO_SERVICE + NO_SET + NO_CGROUP)
Service("service-configure", service(environment=dict(A="2"), on_change="restart"), before=STARTED)
Service("service-restart", service(state="restarted"), before=STARTED, once=True, steady=service())
Service("service-stop", service(state="stopped"), before=STARTED)
Service("service-absent", ("service", dict(name="web", state="absent")), before=STARTED)

# sandbox


def sandbox(**more):
    one = dict(name="web", namespaces=dict(types=ALL[:-1], hostname="web"), cgroup=dict(memory_max="256M", pids_max=64),
               overlay=dict(lower=[BASE + "/own"]), bind=jail.BINDS, services=[dict(name="sleep", command=SLEEP, environment=dict(A="1"))])
    one.update(more)
    return "sandbox", dict(sandboxes=[one])


NO_SANDBOX = [("sandbox", dict(sandboxes=[dict(name="web", state="absent")], remove_data=True, kill=True))]


class Sandbox(Service):
    remove = NO_SANDBOX

    def prepare(self):
        jail.make(BASE + "/own")

    def declared(self):
        one = (self.steady[1]["sandboxes"] or [dict(state="absent")])[0]
        if one.get("state") == "absent":
            return gone("/run/netns/web", "/run/bulkhead/ns/web", "/run/bulkhead/mntns/web", "/sys/fs/cgroup/*/bulkhead",
                        "/run/bulkhead/service/web*") + ["it runs" for pid in running()]
        pids = settle(len(one["services"]))
        if len(pids) != len(one["services"]):
            return ["%d processes run" % len(pids)]
        wrong = expect({V1 % "memory" + "memory.limit_in_bytes": str(int(one["cgroup"]["memory_max"][:-1]) << 20)})
        if hostname() != one["namespaces"]["hostname"]:
            wrong.append("the hostname is %r" % hostname())
        for kind in one["namespaces"]["types"]:
            for pid in pids:
                if os.readlink("/proc/%d/ns/%s" % (pid, kind)) != pins().get(pin(kind)) and kind != "cgroup":
                    wrong.append("the service is not in the pinned %s namespace" % kind)
        for pid in pids:
            if "A=%s" % one["services"][0]["environment"]["A"] not in text("/proc/%d/environ" % pid).split("\0"):
                wrong.append("its environment is %r" % text("/proc/%d/environ" % pid))
        return wrong


THERE = [sandbox()]
USERS = dict(types=["user"] + ALL[:-1], hostname="web", uid_map=["0 100000 65536"], gid_map=["0 100000 65536"])
OTHER = [dict(name="sleep", command=SLEEP, environment=dict(A="2"))]
Sandbox("sandbox-create", sandbox())
Sandbox("sandbox-create-without-service", sandbox(services=[]))
Sandbox("sandbox-change", ("sandbox", dict(sandbox(cgroup=dict(memory_max="128M"), services=OTHER,
                                                   namespaces=dict(types=ALL[:-1], hostname="www"))[1], on_change="restart")), before=THERE)
Sandbox("sandbox-recreate", ("sandbox", dict(sandbox(overlay=dict(lower=[BASE + "/own", BASE + "/more"]))[1], on_mismatch="recreate")),
        before=THERE, prepare=lambda: (jail.make(BASE + "/own"), os.makedirs(BASE + "/more")))
Sandbox("sandbox-absent", ("sandbox", dict(sandboxes=[dict(name="web", state="absent")])), before=THERE)
Sandbox("sandbox-purge", ("sandbox", dict(sandboxes=[], purge=True, remove_data=True)), before=THERE)
Sandbox("sandbox-with-users", sandbox(namespaces=USERS, services=[]))
Sandbox("sandbox-with-users-change", sandbox(namespaces=USERS, services=[], devices=[dict(path="/dev/more", source="/dev/null")],
                                             tmpfs=[dict(target="/n/m")]), before=[sandbox(namespaces=USERS, services=[])])
