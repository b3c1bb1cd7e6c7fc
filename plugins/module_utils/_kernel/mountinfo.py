# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The mount table of one mount namespace, as /proc/PID/mountinfo tells it (man 5 proc_pid_mountinfo)."""

from __future__ import annotations

import bisect
import os


class Mount:
    """One line: ids are numbers, ``device`` is MAJOR:MINOR, paths are unescaped, ``super_options`` stay as escaped text.

    What is behind the device is alike in most mount namespaces, and then shared: it is not to be changed.
    """

    __slots__ = ("id", "parent", "device", "root", "target", "options", "propagation", "fstype", "source", "super_options")

    def __init__(self, line):
        number, parent, self.device, rest = line.split(" ", 3)
        self.id, self.parent = int(number), int(parent)
        if rest not in _known:
            _known[rest] = _parse(rest.split(" "))
        self.root, self.target, self.options, self.propagation, self.fstype, self.source, self.super_options = _known[rest]

    @property
    def shared(self):
        return any(tag.startswith("shared:") for tag in self.propagation)


_known = {}  # the text of a line behind its device: what it says


def _parse(fields):
    end = fields.index("-", 3)  # optional fields end at a lone hyphen, and there may be none of them
    # Propagation is such as shared:12, master:3; none: private. The last field is to be split on commas before unescaping: a comma
    # inside a value arrives as \\054 or backslash-comma.
    return (unescape(fields[0]), unescape(fields[1]), fields[2].split(","), fields[3:end], fields[end + 1], unescape(fields[end + 2]),
            fields[end + 3] if len(fields) > end + 3 else "")


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
        self.mounts = [Mount(line) for line in text.splitlines()]
        self._maps = self._placed = None

    def _mapped(self):
        """({id: mount}, {(parent, target): mounts}, {target: mounts}), made when first asked for."""
        if self._maps is None:
            self._maps = {mount.id: mount for mount in self.mounts}, {}, {}
            for mount in self.mounts:
                self._maps[1].setdefault((mount.parent, mount.target), []).append(mount)
                self._maps[2].setdefault(mount.target, []).append(mount)
        return self._maps

    @property
    def by_id(self):
        return self._mapped()[0]

    def at(self, path):
        """All mounts with this mount point, in the table's order."""
        return self._mapped()[2].get(path, [])

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
            stacked = [each for each in self._mapped()[1].get((mount.id, prefix), ()) if each is not mount]
            if not stacked:
                break
            mount = stacked[-1]
        return mount

    def below(self, path):
        """Mounts at ``path`` or below it."""
        start = path.rstrip("/") + "/"
        return [mount for mount in self.mounts if mount.target == path or mount.target.startswith(start)]

    def inside(self, path):
        """Mounts that lie on a directory or below it, whatever it is called, a covered mount too: they keep it from being removed."""
        home = self.holder(path)
        if home is None:
            return []
        device, place = place_on(home, path)
        first, found = (device, place.rstrip("/") + "/"), []
        if self._placed is None:  # all of them, in the order of their places, as many directories are asked for
            over = [(self.by_id.get(mount.parent), mount) for mount in self.mounts]
            places = [place_on(parent, mount.target) if parent is not None else ("", "") for parent, mount in over]
            self._placed = sorted((each[0], each[1] + "/", number) for number, each in enumerate(places))
        at = bisect.bisect_left(self._placed, first)
        while at < len(self._placed) and self._placed[at][0] == device and self._placed[at][1].startswith(first[1]):
            found.append(self._placed[at][2])
            at += 1
        mounts = [self.mounts[number] for number in sorted(found) if self.mounts[number].id != home.id]
        return ([home] if home.target == path and path != "/" else []) + mounts


def place_on(mount, path):
    """(device, where on its file system) that a path on this mount is."""
    return mount.device, (mount.root.rstrip("/") + path[len(mount.target.rstrip("/")):]) or "/"


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
