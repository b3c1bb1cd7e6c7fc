# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is on this machine: mounts, loop devices, namespaces, cgroups, processes, its network, files below the run-time paths.

Two snapshots are compared, so that a test can say that it left nothing behind and broke nothing that was there.
"""

from __future__ import annotations

import fcntl
import glob
import os
import re
import struct
import subprocess
import time

from module_utils._kernel import netlink

FILES = ("/run", "/etc/bulkhead", "/etc/netns", "/var/lib/bulkhead", "/var/log/bulkhead")
# Of a real host: where units have files, what its own services do with theirs in /run, and where these services are.
UNITS = ("/etc/systemd/system", "/etc/systemd/system.control", "/run/systemd/system", "/run/systemd/system.control")
ITS_OWN = ("/run/systemd", "/run/udev", "/run/user", "/run/log", "/run/sudo")
SERVICES = "/system.slice/"
KERNEL = 0x200000  # PF_KTHREAD
# What the engine makes once for the whole host, and keeps; and the directory that mount(8) and umount(8) make and remove.
PLACES = re.compile(
    r"(mount|file) /run/bulkhead(/(ns|mntns|mnt|made|service|bin))?$"
    r"|(mount|file) /run/bulkhead/(mntns/\.template|bin/[^/]+)$"
    r"|mount /var/lib/bulkhead$"
    r"|mount /run/netns$"
    r"|file (/run/bulkhead\.lock|/run/netns)$"
    r"|file /run/bulkhead/made/[a-z_]+$"
    r"|file /etc/bulkhead/[a-z_]+\.d$"
    r"|file /var/lib/bulkhead/(uppers|layers|images)$"
    r"|file /run/mount$"
)
OCTAL = re.compile(r"\\([0-7]{3})")


def _read(path):
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as stream:
            return stream.read()
    except OSError:
        return ""


def mounts():
    """{line: count}: a mount point, what is mounted there and how it propagates; as we see it, and as the host does, where we are aside."""
    found = {}
    for line in (_read("/proc/self/mountinfo") + _read("/proc/1/mountinfo")).splitlines():
        left, right = line.split(" - ", 1)
        fields = left.split()
        point = OCTAL.sub(lambda octal: chr(int(octal.group(1), 8)), fields[4])
        kind, source = right.split()[:2]
        root = fields[3] if kind != "nsfs" else ""
        spread = " ".join(sorted({word.split(":")[0] for word in fields[6:]}))
        key = point, "%s %s %s %s" % (kind, source, root, spread)
        found[key] = found.get(key, 0) + 1
    return {("mount " + point, "%s, %d times" % (text, count)) for (point, text), count in found.items()}


def loops():
    """The loop devices with a file behind them that is below the run-time paths of this private host."""
    found, places = set(), {line.split()[2] for line in _read("/proc/self/mountinfo").splitlines() if line.split()[4].startswith(FILES)}
    for path in glob.glob("/sys/block/loop*/loop/backing_file"):
        name, shown, info = path.split("/")[3], _read(path).strip(), bytearray(232)
        if not shown.startswith(FILES):  # that of another host may be, too
            continue
        try:
            fd = os.open("/dev/" + name, os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            continue
        try:
            fcntl.ioctl(fd, 0x4C05, info)  # LOOP_GET_STATUS64
        except OSError:
            continue  # none any more
        finally:
            os.close(fd)
        device = struct.unpack_from("Q", info)[0]
        if "%d:%d" % (os.major(device), os.minor(device)) in places:
            found.add(("loop device " + name, shown))
    return found


def processes():
    """The processes with the time of their start, our own threads, and the namespaces that they are in."""
    found, spaces = {("thread %s" % task, "of ourselves") for task in os.listdir("/proc/self/task")}, set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        record = _read("/proc/%s/stat" % pid)
        if not record:
            continue
        name = record[record.index("(") + 1:record.rindex(")")]
        fields = record[record.rindex(")") + 2:].split()
        if int(fields[6]) & KERNEL or "::" + SERVICES in _read("/proc/%s/cgroup" % pid):
            continue
        words = _read("/proc/%s/cmdline" % pid).replace("\0", " ").strip()
        found.add(("process %s started at %s" % (pid, fields[19]), "%s %s" % (fields[0] if fields[0] == "Z" else "", words or name)))
        for kind in ("cgroup", "ipc", "mnt", "net", "pid", "pid_for_children", "time", "time_for_children", "user", "uts"):
            try:
                spaces.add(("namespace " + os.readlink("/proc/%s/ns/%s" % (pid, kind)), "of a process"))
            except OSError:
                pass
    return found, spaces


def cgroups():
    """Every cgroup in every hierarchy."""
    return {("cgroup " + where, "") for where, names, files in os.walk("/sys/fs/cgroup")
            if "cgroup.procs" in files and not where.startswith("/sys/fs/cgroup" + SERVICES)}


def units():
    """What systemd has in memory of ours, where it is init, and in which state."""
    if not os.path.isdir("/run/systemd/system"):
        return set()
    listed = subprocess.run(["systemctl", "list-units", "--all", "--full", "--plain", "--no-legend", "bulkhead*", "run-netns*", "run-bulkhead*"],
                            stdout=subprocess.PIPE, text=True, check=True).stdout
    return {("unit " + line.split()[0], " ".join(line.split()[1:4])) for line in listed.splitlines()}


def interfaces():
    return {("interface " + line.split(":")[0].strip(), "") for line in _read("/proc/net/dev").splitlines()[2:]}


def network():
    """What belongs to no interface by its name alone: addresses, routes, rules, qdiscs, packet filters, and who forwards."""
    found = set()
    with netlink.open() as net:
        names = {link["index"]: link["name"] for link in net.links()}
        for kind in ("addresses", "routes", "rules", "neighbours", "qdiscs"):
            for each in getattr(net, kind)():
                for passing in ("stats", "tentative", "failed"):
                    each.pop(passing, None)
                if each.get("scope") != "link" or kind == "routes":  # the kernel's own addresses come some time after their link
                    found.add(("network %s of %s" % (kind, names.get(each.pop("index", None))), str(sorted(each.items()))))
    try:
        rules = subprocess.run(["nft", "list", "ruleset"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False).stdout
        found.update(("network packet filter", line) for line in rules.splitlines())
    except FileNotFoundError:
        pass
    for family in ("ipv4", "ipv6"):
        for word in ("forwarding", "accept_ra"):
            for name in {"all", "default", *names.values()}:
                value = _read("/proc/sys/net/%s/conf/%s/%s" % (family, name, word)).strip()
                found.add(("network %s of %s" % (word, name), "%s %s" % (family, value)))
    return found


def files():
    """Files below the run-time paths, on whichever mount they are; the content of overlays is not ours to list."""
    found = set()
    for top in FILES + UNITS:
        for where, names, plain in os.walk(top):
            names[:] = [name for name in names if os.path.join(where, name) not in ITS_OWN]
            if re.match(r"/run/bulkhead/mnt/[^/]+$", where):
                names[:] = []
                continue
            for name in names + plain:
                found.add(("file %s/%s" % (where, name), ""))
    return found


def descriptors():
    """What this process holds open."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(("descriptor " + name, os.readlink("/proc/self/fd/" + name)))
        except OSError:
            pass
    return found


class Snapshot:
    """The state of the machine at one moment."""

    def __init__(self):
        alive, spaces = processes()
        self.things = mounts() | loops() | alive | spaces | cgroups() | units() | interfaces() | network() | files() | descriptors()

    def difference(self, later):
        """What LATER has more, and what it has less, as lines; processes and namespaces may end."""
        more = ["more: %s %s" % thing for thing in sorted(later.things - self.things) if not PLACES.match(thing[0])]
        less = ["less: %s %s" % thing for thing in sorted(self.things - later.things)
                if not thing[0].startswith(("process ", "namespace ", "descriptor ", "loop ")) and not PLACES.match(thing[0])]
        return more + less

    def settled(self, patience=5.0, passing=None):
        """The difference to now, without lines that match ``passing``. The kernel finishes some ends on its own time, so it is looked at again."""
        end = time.monotonic() + patience
        pause = 0.005
        while True:
            lines = [line for line in self.difference(Snapshot()) if not (passing and passing.match(line))]
            if not lines or time.monotonic() > end or all(": file " in line for line in lines):
                return lines
            time.sleep(pause)
            pause = min(pause * 2, 0.5)
