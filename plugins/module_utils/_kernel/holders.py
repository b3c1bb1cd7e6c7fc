# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who uses a file system: all mount tables of the host, and the processes that have a foot on a mount."""

from __future__ import annotations

import os

from . import inside, mountinfo


def identity(path):
    """[st_dev, st_ino], or None when there is nothing."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return [found.st_dev, found.st_ino]


def pids(procfs):
    return [int(name) for name in os.listdir(procfs) if name.isdigit()]


def command(procfs, pid):
    """The name of a process, as comm tells it."""
    try:
        with open("%s/%d/comm" % (procfs, pid), encoding="utf-8", errors="replace") as stream:
            return "".join(char if char.isprintable() else "?" for char in stream.read().rstrip("\n"))
    except OSError:
        return "?"


def tables(procfs, pins=()):
    """[(who, Table)] of every mount namespace: one process of each, then the pinned ones that no process is in.

    ``who`` is a pid or the path of the pin. What ends or is unpinned meanwhile is left out.
    """
    seen, found = set(), []
    for pid in pids(procfs):
        try:
            namespace = os.readlink("%s/%d/ns/mnt" % (procfs, pid))
            if namespace not in seen:
                found.append((pid, mountinfo.read(procfs, pid)))
                seen.add(namespace)
        except (OSError, ValueError):
            continue
    for pin in pins:
        try:
            namespace = "mnt:[%d]" % os.stat(pin).st_ino
            if namespace not in seen:
                found.append((pin, inside.table(pin, procfs)))
                seen.add(namespace)
        except OSError:
            continue
    return found


def processes(procfs, device):
    """[(pid, what)] of processes with a directory, file or mapping on the file system with this st_dev."""
    found = []
    for pid in pids(procfs):
        base = "%s/%d/" % (procfs, pid)
        for what in ("root", "cwd", "exe"):
            if _on(base + what, device):
                found.append((pid, what))
                break
        else:
            if _maps(base + "maps", device):
                found.append((pid, "mapped file"))
            elif any(_on(base + "fd/" + fd, device) for fd in _list(base + "fd")):
                found.append((pid, "open file"))
    return found


def _on(path, device):
    try:
        return os.stat(path).st_dev == device
    except OSError:
        return False


def _list(path):
    try:
        return os.listdir(path)
    except OSError:
        return []


def _maps(path, device):
    word = " %02x:%02x " % (os.major(device), os.minor(device))
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return word in stream.read()
    except OSError:
        return False
