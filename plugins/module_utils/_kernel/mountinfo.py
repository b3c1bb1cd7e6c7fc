# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The mount table of one mount namespace, as /proc/PID/mountinfo tells it (man 5 proc_pid_mountinfo)."""

from __future__ import annotations

import os


class Mount:
    """One line: ids are numbers, ``device`` is MAJOR:MINOR, paths are unescaped, ``super_options`` stay as escaped text."""

    __slots__ = ("id", "parent", "device", "root", "target", "options", "propagation", "fstype", "source", "super_options")

    def __init__(self, fields, separator):
        self.id, self.parent = int(fields[0]), int(fields[1])
        self.device = fields[2]
        self.root, self.target = unescape(fields[3]), unescape(fields[4])
        self.options = fields[5].split(",")
        self.propagation = fields[6:separator]  # such as shared:12, master:3; none: private
        self.fstype = fields[separator + 1]
        self.source = unescape(fields[separator + 2])
        # Split on commas before unescaping: a comma inside a value arrives as \\054 or backslash-comma.
        self.super_options = fields[separator + 3] if len(fields) > separator + 3 else ""

    @property
    def shared(self):
        return any(tag.startswith("shared:") for tag in self.propagation)


def unescape(text):
    """Undo the kernel's octal escapes (space, tab, newline, backslash, #)."""
    if "\\" not in text:
        return text
    out, rest = [], text
    while True:
        head, slash, rest = rest.partition("\\")
        out.append(head)
        if not slash:
            return "".join(out)
        if len(rest) >= 3 and all(char in "01234567" for char in rest[:3]):
            out.append(chr(int(rest[:3], 8)))
            rest = rest[3:]
        else:
            out.append("\\")


class Table:
    """All mounts, and which of them is on top at a path.

    The last line of a path need not be what a path walk reaches (mounts beneath and mounts over parents are listed
    by id on some kernels), so the top is found by walking from parent to child.
    """

    def __init__(self, text):
        self.mounts = []
        for line in text.splitlines():
            fields = line.split(" ")
            # Optional fields end at a lone hyphen, and there are at least none of them.
            self.mounts.append(Mount(fields, fields.index("-", 6)))
        self.by_id = {mount.id: mount for mount in self.mounts}
        self._children = {}
        for mount in self.mounts:
            self._children.setdefault((mount.parent, mount.target), []).append(mount)
        self._by_target = {}
        for mount in self.mounts:
            self._by_target.setdefault(mount.target, []).append(mount)

    def at(self, path):
        """All mounts with this mount point, in the table's order."""
        return self._by_target.get(path, [])

    def top(self, path):
        """The mount that a walk to ``path`` ends on when ``path`` is a mount point, else None."""
        mount = self.holder(path)
        return mount if mount is not None and mount.target == path else None

    def holder(self, path):
        """The mount that ``path`` lies on: where a walk from the root arrives."""
        found, prefix = self._above(None, "/"), ""
        for part in path.split("/"):
            if part:
                prefix += "/" + part
                found = self._above(found, prefix)
        return found

    def _above(self, mount, prefix):
        """``mount``, or what is stacked on it at ``prefix``."""
        if mount is None:
            roots = [each for each in self.at(prefix) if each.parent not in self.by_id or each.parent == each.id]
            mount = roots[-1] if roots else None
        while mount is not None:
            stacked = [each for each in self._children.get((mount.id, prefix), ()) if each is not mount]
            if not stacked:
                break
            mount = stacked[-1]
        return mount

    def below(self, path):
        """Mounts at ``path`` or below it."""
        start = path.rstrip("/") + "/"
        return [mount for mount in self.mounts if mount.target == path or mount.target.startswith(start)]


def read(procfs="/proc", pid="self"):
    """The table of a process's mount namespace, read until two reads agree in length.

    Kernels before 5.8 may skip entries while mounts change (runc #2404), which a second read shows.
    """
    path, previous = "%s/%s/mountinfo" % (procfs, pid), None
    for attempt in range(8):
        with open(path, encoding="utf-8", errors="surrogateescape") as stream:
            text = stream.read()
        if previous is not None and text.count("\n") == previous:
            break
        previous = text.count("\n")
        if attempt == 0 and not _old_kernel():
            break
    return Table(text)


def _old_kernel():
    release = os.uname().release.split(".")
    return (int(release[0]), int("".join(c for c in release[1] if c.isdigit()) or 0)) < (5, 8)
