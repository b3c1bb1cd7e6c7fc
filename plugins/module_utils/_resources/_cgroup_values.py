# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Values of limits beside what a host has of them: the part that counts, devices, and files that a kernel lacks."""

from __future__ import annotations

import os

from .._kernel.cgroupfs import UNIFIED, built_without, read
from .._model.errors import BulkheadError


def writes(limit, home, value):
    return [(limit.file, line) for line in limit.lines(value)] if home == UNIFIED else limit.v1[2](value)


def declared_part(now, wanted, default, exact):
    """Both sides of a keyed file, cut to what was declared; with ``exact`` what is there undeclared returns to the default."""
    left, right = {}, {}
    for key in list(wanted) + ([key for key in now if key not in wanted] if exact else []):
        if key in wanted:
            item = wanted[key]
        else:
            item = dict.fromkeys(now[key], default) if isinstance(now[key], dict) else default
        if isinstance(item, dict):
            left[key] = {word: now.get(key, {}).get(word, default) for word in item}
        else:
            left[key] = now.get(key, default)
        right[key] = item
    return left, right


def shown(limit, value):
    """A normal value as results show it: devices as a list, as they are declared."""
    if limit.kind == "devices" and value is not None:
        return [dict(value[key], device=key) for key in sorted(value)]
    return value


def lacks(host, trees, name, home, controller, file):
    """Does this kernel lack a file? A cgroup that has the controller shows it. Where there is none, what the kernel is built of does;
    what neither tells is found out by writing."""
    names = [name.rsplit("/", depth)[0] for depth in range(name.count("/") + 1)]
    for each in names if trees.exists(names[-1]) else trees.children("", (home,))[:3]:
        path = trees.path(each, home)
        if os.path.exists("%s/%s" % (path, file)):
            return False
        if os.path.isdir(path) and (home != UNIFIED or controller in read(path + "/cgroup.controllers").split()):
            return True
    return home == UNIFIED and built_without(file, host.proc)


def by_number(host, value):
    """{device: limits} with the number of the disk in place of whatever named it."""
    from .._kernel.blockdev import NoDevice, whole_disk

    found = {}
    for word, item in value.items():
        try:
            disk = host.cached(("disk", word), lambda word=word: whole_disk(word, host.sys, host.mounts))
            found.setdefault(disk, {}).update(item)
        except NoDevice as exc:
            raise BulkheadError("Cannot limit the I/O of %s: %s." % (word, exc)) from exc
    return found
