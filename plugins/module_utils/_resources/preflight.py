# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What kernel, tools and privileges of a host allow, in plain words: read only, and before anything is installed."""

from __future__ import annotations

import ctypes
import os
import sys

from .._kernel import _netformat, built, cgroupfs
from .._supervisor import boot, systemctl

NOUN = "host"
# The bits of capabilities(7) without which nothing here works, and what the others are good for.
NEEDED = {"chown": 0, "dac_override": 1, "fowner": 3, "kill": 5, "setgid": 6, "setuid": 7, "setpcap": 8, "net_admin": 12,
          "sys_chroot": 18, "sys_admin": 21, "mknod": 27}
USEFUL = {"sys_ptrace": (19, "the namespaces of other users' processes cannot be read"),
          "sys_resource": (24, "hard rlimits cannot be raised and oom_score_adj cannot be lowered"),
          "sys_time": (25, "the clock offsets of a time namespace cannot be set")}
NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")
OPTIONAL = ("time", "user")
LIMITS = {"cpu": "cpu_*", "memory": "memory_*", "pids": "pids_max", "io": "io_*", "cpuset": "cpuset_*"}
TOOLS = {"runsvdir": "runit", "runsv": "runit", "sv": "runit", "svlogd": "runit", "tini": "tini",
         "nsenter": "util-linux"}
TOOLS_OF_SYSTEMD = {"systemctl": "systemd", "systemd-run": "systemd", "nsenter": "util-linux"}
NETWORKS = {"bridge": "BRIDGE", "veth": "VETH", "nf_tables": "NF_TABLES"}  # modules of the kernel, and the options that they are built by
OWN_PYTHON = "/usr/bin/python3"  # the host's, which the program is run by (`_program/host.py`)
OLDEST_SYSTEMD = 246  # it brought systemctl freeze and the barrier of sd_notify(3)
TESTED = (("debian", "12"), ("debian", "13"))  # ID and VERSION_ID of os-release(5)
OS_RELEASE = ("/etc/os-release", "/usr/lib/os-release")
PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")


def info(host, params):
    """The answer of host_info."""
    found = survey(host)
    if not found["tested"]:
        host.warn("%s is not among the systems that this release is tested on (Debian 12 and 13)." % (found["system"] or "This system"))
    return {"host": found}


def survey(host):
    """Facts, what is missing (`problems`: nothing works until it is mended) and what is limited (`limits`: it works without)."""
    kernel = os.uname().release
    spaces = [kind for kind in NAMESPACES if os.path.exists("%s/self/ns/%s" % (host.proc, kind)) and _allowed(host, kind)]
    overlay = has_overlay(host, kernel)
    effective = _capabilities(host)
    trees = cgroupfs.Trees.read(host)
    packages = TOOLS_OF_SYSTEMD if host.systemd else TOOLS
    tools = {name: which(name) for name in packages}
    library = _loads("libseccomp.so.2")
    problems, limits = [], []
    system, tested = _system()
    manager = systemctl.version(host) if host.systemd and tools["systemctl"] else None
    if manager is not None and manager < OLDEST_SYSTEMD:
        problems.append("systemd %d is too old: this release needs systemd %d or newer." % (manager, OLDEST_SYSTEMD))
    if host.systemd and trees.mode != "unified":
        problems.append("systemd keeps its cgroups in trees of version 1 here (%s): boot with systemd.unified_cgroup_hierarchy=1." % trees.mode)
    starts = boot.place(host)
    if starts is None:
        limits.append("Nothing that starts programs at boot was found (systemd, cron, the host's own runit): "
                      "run `bulkhead restore` after a reboot yourself.")
    if _version(kernel) < (5, 2):
        problems.append("Linux %s is too old: this release needs Linux 5.2 or newer." % kernel)
    elif _version(kernel) < (5, 14):
        limits.append("Linux %s has no cgroup.kill (5.14), so a cgroup is emptied by signals." % kernel)
    lacking = sorted(name for name, bit in NEEDED.items() if not effective >> bit & 1)
    if lacking:
        problems.append("Root lacks the capabilities %s here: run on the machine itself or in a privileged container." % ", ".join(lacking))
    limits += ["Root lacks the capability %s: %s." % (name, text) for name, (bit, text) in sorted(USEFUL.items()) if not effective >> bit & 1]
    for kind in NAMESPACES:
        if kind not in spaces:
            text = "There are no %s namespaces: the kernel has none, or user.max_%s_namespaces is 0." % (kind, kind)
            (limits if kind in OPTIONAL else problems).append(text)
    if not overlay:
        problems.append("There is no overlay file system: load the module overlay, or use a kernel that has it.")
    if trees.mode == "none":
        problems.append("No cgroup tree is mounted at %s: mount one (cgroup2)." % host.cgroup)
    else:
        limits += ["No cgroup hierarchy has the controller %s: %s cannot be used." % (name, LIMITS[name])
                   for name in sorted(LIMITS) if trees.home(name) is None]
    absent = networks(kernel, host.proc)
    if absent:
        limits.append("Networks cannot be made: this kernel lacks %s." % ", ".join(absent))
    missing = sorted({packages[name] for name, path in tools.items() if path is None} | ({"libseccomp"} if not library else set()))
    return {
        "system": system, "tested": tested, "kernel": kernel, "init": _init(host), "systemd": manager, "boot": starts,
        "cgroup_mode": trees.mode,
        "controllers": sorted(name for name in LIMITS if trees.home(name) is not None),
        "namespaces": spaces, "overlay": overlay, "tools": tools, "libseccomp": library, "missing_tools": missing,
        "missing_network_tools": missing_network_tools(host),
        "problems": problems, "limits": limits,
    }


def networks(kernel, proc):
    """What the kernel is known to lack for networks."""
    return [module for module, option in sorted(NETWORKS.items()) if built.lacks(option, module, kernel, proc)]


def missing_network_tools(host):
    """The packages that networks and interfaces lack, of which nothing else here has need: for this Python, and for the program's."""
    found = [] if which("nft") else ["nftables"]
    asked = [OWN_PYTHON, "-c", "import importlib.util, sys; sys.exit(importlib.util.find_spec('pyroute2') is None)"]
    apart = os.access(OWN_PYTHON, os.X_OK) and os.path.realpath(OWN_PYTHON) != os.path.realpath(sys.executable)
    if _netformat.missing() or apart and host.run(asked)[0]:
        found.append("python3-pyroute2")
    return found


def has_overlay(host, kernel):
    """Is overlayfs there, loaded or to be loaded by the kernel when it is first mounted? Asking by mounting would load it."""
    if "\toverlay\n" in cgroupfs.read(host.proc + "/filesystems"):
        return True
    lists = ("/lib/modules/%s/modules.dep" % kernel, "/lib/modules/%s/modules.builtin" % kernel)
    return any("/overlay.ko" in cgroupfs.read(path) for path in lists)


def which(name):
    """The path of a program of the host, or None."""
    for directory in PATH:
        path = "%s/%s" % (directory, name)
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    return None


def _system():
    """(how the system calls itself, whether it is one that is tested), from os-release(5)."""
    text = next((text for text in map(cgroupfs.read, OS_RELEASE) if text), "")
    fields = {key: value.strip("\"'") for key, equals, value in (line.partition("=") for line in text.splitlines()) if equals}
    name = fields.get("PRETTY_NAME") or fields.get("ID")
    return name, (fields.get("ID"), fields.get("VERSION_ID")) in TESTED


def _allowed(host, kind):
    return cgroupfs.read("%s/sys/user/max_%s_namespaces" % (host.proc, kind), "1").strip() != "0"


def _capabilities(host):
    for line in cgroupfs.read(host.proc + "/self/status").splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def _init(host):
    """The name of process 1; systemd where sd_booted(3) says so."""
    return "systemd" if host.systemd else cgroupfs.read(host.proc + "/1/comm").strip() or None


def _loads(library):
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _version(release):
    numbers = []
    for part in release.split("-")[0].split(".")[:2]:
        numbers.append(int(part) if part.isdigit() else 0)
    return tuple(numbers)
