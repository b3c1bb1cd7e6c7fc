# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Show what the kernel says of sandboxes, beside the host: table.py NAME...

Nothing here is asked of the collection. Namespaces are read from /proc/PID/ns and the pins, limits and usage from the cgroup tree,
layers from the mount table of a process inside and their sizes from what is in them, and `ls /` and `ps` are run inside by
nsenter(1). Networks are what ip(8) and nft(8) say: bridges, what is on them, and which ports of the host lead there. Where systemd is init,
the pins are mounted in a mount namespace that no unit sees, so this looks from there.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

PINS = "/run/bulkhead/ns"
ENGINE = "/run/bulkhead/engine"  # the mount namespace that the pins are mounted in, where systemd is init
CGROUPS = "/sys/fs/cgroup"
TYPES = ("pid", "net", "mnt", "ipc", "uts", "cgroup")
FLAGS = {"pid": "pid", "net": "net", "mnt": "mount", "ipc": "ipc", "uts": "uts", "cgroup": "cgroup"}


def read(path, default=""):
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read().strip()
    except OSError:
        return default


def pin(name, kind):
    return "/run/netns/%s" % name if kind == "net" else "%s/%s/%s" % (PINS, name, kind)


def identity(path):
    """The number of a namespace, as `readlink /proc/PID/ns/TYPE` shows it."""
    try:
        return os.stat(path).st_ino
    except OSError:
        return None


def processes(name):
    """The pids, as the host counts, of what lives in the sandbox's pid namespace; its pid 1 is the first."""
    wanted = identity(pin(name, "pid"))
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if wanted and identity("/proc/%s/ns/pid" % pid) == wanted:
            inside = [line.split()[-1] for line in read("/proc/%s/status" % pid).splitlines() if line.startswith("NSpid:")]
            if inside:
                found.append((int(inside[0]), int(pid)))
    return [pid for inner, pid in sorted(found)]


def inside(name, *command):
    """The output of a command of the sandbox's own, run in all of its namespaces."""
    argv = ["nsenter"] + ["--%s=%s" % (FLAGS[kind], pin(name, kind)) for kind in TYPES] + list(command)
    ended = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
                           env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}, timeout=30)
    return ended.stdout.rstrip().splitlines()


def cgroup(pid, name):
    """{controller: directory} of the sandbox that a process is in; one of its services may live in a leaf further down."""
    found = {}
    for line in read("/proc/%d/cgroup" % pid).splitlines():
        number, controllers, path = line.split(":", 2)
        parts = path.strip("/").split("/")
        own = [part for part in parts if part in (name, "bulkhead-%s.slice" % name.replace("-", "\\x2d"))]
        if not own:
            continue
        path = "/".join(parts[:parts.index(own[0]) + 1])
        for controller in controllers.split(",") if controllers else ("unified",):
            for top in (controller, controllers, "unified", "."):
                directory = os.path.normpath(os.path.join(CGROUPS, top, path))
                if os.path.isdir(directory):
                    found.setdefault(controller, directory)
                    break
    return found


def mebibytes(text):
    if not text.isdigit():
        return text or "-"
    return "none" if int(text) >= 1 << 60 else "%gM" % round(int(text) / (1 << 20), 1)


def resources(pid, name):
    """[(what, text)]: limits and usage, from the files of cgroup v1 or v2, whichever the controller is bound to."""
    tree = cgroup(pid, name)
    unified = tree.get("unified", "")

    def value(controller, old, new):
        directory = tree.get(controller)
        return read("%s/%s" % (directory, old)) if directory else read("%s/%s" % (unified, new))

    memory = value("memory", "memory.limit_in_bytes", "memory.max"), value("memory", "memory.usage_in_bytes", "memory.current")
    pids = value("pids", "pids.max", "pids.max"), value("pids", "pids.current", "pids.current")
    if tree.get("cpu"):
        quota, period = (read("%s/cpu.cfs_%s_us" % (tree["cpu"], word)) for word in ("quota", "period"))
        used = read("%s/cpuacct.usage" % tree.get("cpuacct", tree["cpu"]), "0")
        used = int(used) / 1e9
    else:
        quota, dummy, period = read(unified + "/cpu.max").partition(" ")
        used = int(dict(line.split() for line in read(unified + "/cpu.stat", "usage_usec 0").splitlines())["usage_usec"]) / 1e6
    cpu = "%d%% of one" % (100 * int(quota) / int(period)) if quota.isdigit() and period.isdigit() else "none"
    if tree.get("blkio"):
        limits = [line for word in ("read", "write") for line in
                  ("%s %s" % (word, text) for text in read("%s/blkio.throttle.%s_bps_device" % (tree["blkio"], word)).splitlines())]
        disk = ", ".join("%s %s/s on %s" % (word, mebibytes(rate), device) for word, device, rate in map(str.split, limits))
    else:
        disk = read(unified + "/io.max")
    return [
        ("memory", "limit %s, used %s" % tuple(mebibytes(text) for text in memory)),
        ("cpu", "limit %s, used %.2f s" % (cpu, used)),
        ("tasks", "limit %s, there are %s" % pids),
        ("disk", disk or "none"),
    ]


def layers(pid):
    """The directories of the overlay at the root of a process, the topmost first."""
    for line in reversed(read("/proc/%d/mountinfo" % pid).splitlines()):
        left, dummy, right = line.partition(" - ")
        kind, source, options = right.split(" ", 2)
        if left.split()[4] == "/" and kind == "overlay":
            words = [word.partition("=") for word in options.split(",")]
            upper = ["%s (read-write, its own)" % value for key, dummy, value in words if key == "upperdir"]
            lower = [part for key, dummy, value in words if key in ("lowerdir", "lowerdir+") for part in value.split(":")]
            return upper + lower
    return ["no overlay"]


def short(path):
    """A path with no more than the beginning of a digest."""
    return re.sub("[0-9a-f]{64}", lambda digest: digest.group()[:12] + "...", path)


def size(path):
    """The bytes of all files in a directory, each once however many names it has."""
    found = {}
    for where, dummy, names in os.walk(path):
        for name in names:
            one = os.lstat(os.path.join(where, name))
            found[one.st_ino] = one.st_size
    return sum(found.values())


def amount(number):
    """Bytes in the largest unit that leaves one before the point."""
    for unit, scale in (("M", 1 << 20), ("K", 1 << 10)):
        if number >= scale:
            return "%.1f%s" % (number / scale, unit)
    return "%dB" % number


def shared(names):
    """The read-only layers under all sandboxes, how large each is, who has it, and what is saved by its being there once."""
    users = {}
    for name in names:
        for pid in processes(name)[-1:]:
            for layer in layers(pid):
                users.setdefault(layer, []).append(name)
    rows = [(layer, size(layer), who) for layer, who in users.items() if os.path.isdir(layer)]
    if not rows:
        return []
    rows.sort(key=lambda row: (-len(row[2]), -row[1]))
    once, each = sum(row[1] for row in rows), sum(row[1] * len(row[2]) for row in rows)
    lines = ["", "layers"] + ["  %8s  %-14s %s" % (amount(row[1]), " ".join(row[2]), short(row[0])) for row in rows]
    return lines + ["  %8s  are on the disk, and would be %s if each sandbox had its own: %s saved" % tuple(map(amount, (once, each, each - once)))]


def listening(pid):
    """The addresses that TCP servers listen on in the net namespace of a process."""
    found = set()
    for table in ("tcp", "tcp6"):
        for words in map(str.split, read("/proc/%d/net/%s" % (pid, table)).splitlines()[1:]):
            if words[3] == "0A":
                address, dummy, port = words[1].partition(":")
                host = "*" if not address.strip("0") else "[::1]" if table == "tcp6" else ".".join(
                    str(int(address[at:at + 2], 16)) for at in (6, 4, 2, 0))
                found.add("%s:%d" % (host, int(port, 16)))
    return " ".join(sorted(found)) or "-"


def show(name):
    """The paragraph of one sandbox."""
    pids = processes(name)
    if not pids:
        return ["%s: no process lives there" % name]
    one = pids[-1]
    interfaces = [line.split(":")[0].strip() for line in read("/proc/%d/net/dev" % one).splitlines()[2:]]
    rows = resources(one, name)
    rows += [("network", "%s; servers listen on %s" % (" ".join(interfaces), listening(one)))]
    rows += [("" if number else "layers", short(layer)) for number, layer in enumerate(layers(one))]
    rows += [("ls /", " ".join(inside(name, "ls", "/")))]
    rows += [("" if number else "ps -e", line) for number, line in enumerate(inside(name, "ps", "-eo", "pid,user,args"))]
    return [name] + ["  %-10s %s" % row for row in rows]


def listed(*command):
    """What a command that answers in JSON says; nothing when it is not there, or has nothing to say."""
    try:
        ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False, timeout=30)
        return json.loads(ended.stdout or "[]")
    except (OSError, ValueError):
        return []


def addresses(link):
    """The addresses of a link as ip(8) shows it, but those that each link gives itself."""
    return " ".join("%s/%d" % (each["local"], each["prefixlen"]) for each in link.get("addr_info", ()) if each["scope"] == "global")


def published():
    """{interface: [text]}: which ports of the host lead to which of its own, by the maps of the firewall."""
    found, ports = {}, {}
    for item in dict(listed("nft", "-n", "-j", "list", "table", "inet", "bulkhead") or {}).get("nftables", ()):
        name, elements = item.get("map", {}).get("name", ""), item.get("map", {}).get("elem", ())
        for key, value in elements if name.startswith("publish") else ():
            owner, key = key["elem"].get("comment"), tuple(map(str, key["elem"]["val"]["concat"]))
            if "_port" in name:
                ports.setdefault(owner, {})[key] = value
    for owner, pairs in ports.items():
        found[owner] = sorted({"port %s of the host to port %s" % (key[-1], value) for key, value in pairs.items()})
    return found


def networks(names):
    """The bridges of networks with what is on them, as a picture, and the names by which the sandboxes find each other."""
    links, lines, ways = listed("ip", "-json", "-details", "address", "show"), [], published()
    for bridge in links:
        if not bridge.get("ifalias", "").startswith("bulkhead network "):
            continue
        lines += ["", "network " + bridge["ifalias"].split()[-1], "  the host  %s %s" % (bridge["ifname"], addresses(bridge))]
        for end in sorted((link for link in links if link.get("master") == bridge["ifname"]), key=lambda link: link.get("ifalias", "")):
            name, dummy, interface = end.get("ifalias", "").rpartition(" ")[2].partition("/")
            shown = listed("nsenter", "--net=" + pin(name, "net"), "ip", "-json", "address", "show", "dev", interface)
            text = "%-8s %s %s" % (name, interface, addresses(shown[0]) if shown else "")
            lines += [" " * 12 + "|", " " * 12 + "+-- " + "  <-- ".join([text] + ways.get("%s/%s" % (name, interface), []))]
    for name in names if lines else ():
        known = [line.split() for other in names if other != name for line in inside(name, "getent", "hosts", other)]
        lines += ["  %s finds %s" % (name, ", ".join("%s at %s" % (words[1], words[0]) for words in known))] if known else []
    return lines


def hostname(name):
    return " ".join(inside(name, "cat", "/proc/sys/kernel/hostname"))


def first(name):
    """Pid 1 of a sandbox, as the host sees it."""
    pids = processes(name)
    return "%s (%d)" % (read("/proc/%d/comm" % pids[0]), pids[0]) if pids else "-"


def main(names):
    """Print what each has of its own beside the host's, then a paragraph for each."""
    rows = [("kernel says", "the host") + tuple(names)]
    for kind in TYPES:
        rows.append((kind + " ns", str(identity("/proc/1/ns/" + kind))) + tuple(str(identity(pin(name, kind)) or "-") for name in names))
    rows.append(("hostname", read("/proc/sys/kernel/hostname")) + tuple(map(hostname, names)))
    rows.append(("pid 1", read("/proc/1/comm") + " (1)") + tuple(map(first, names)))
    for row in rows:
        print(("%-12s" % row[0] + "".join("%-18s" % cell for cell in row[1:])).rstrip())
    for name in names:
        print()
        for line in show(name):
            print(line)
    for line in shared(names) + networks(names):
        print(line)


def look_from_the_engine():
    """Start again in the mount namespace of the engine, where there is one and we are not in it."""
    there = identity("/proc/1/root" + ENGINE)
    if there and read("/proc/1/comm") == "systemd" and there != identity("/proc/self/ns/mnt"):
        again = [sys.executable, os.path.abspath(__file__)] + sys.argv[1:]  # nsenter changes the working directory
        os.execvp("nsenter", ["nsenter", "--mount=/proc/1/root" + ENGINE, "--"] + again)


if __name__ == "__main__":
    look_from_the_engine()
    main(sys.argv[1:])
