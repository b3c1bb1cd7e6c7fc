# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where snapshots lie: in the room that the storage driver of a sandbox has for copies, each a directory of its own.

    ROOM/NAME/              what the driver saved, and
    ROOM/NAME/snapshot.json {"driver", "layers", "written", "taken"}
    ROOM/.new-NAME, .old-NAME   one that is being made, or removed; nobody's after a run was killed

It comes and goes by one rename.
"""

from __future__ import annotations

import contextlib
import json
import os
import time

from . import _frozen, _layers, _storage, _store

_FILE = "/snapshot.json"


def _tops(host):
    return host.lib + "/snapshots", host.lib + "/roots/.saved"


def rooms(host, sandbox=None):
    """[(sandbox, directory)] of those that are there; the drivers have them in two places."""
    found = []
    for top in _tops(host):
        found += [(name, "%s/%s" % (top, name)) for name in _list(top) if sandbox in (None, name)]
    return found


def find(host, sandbox, name):
    """(path, what its snapshot.json says) of a snapshot, or None."""
    for dummy, room in rooms(host, sandbox):
        path = "%s/%s" % (room, name)
        known = _read(path)
        if known is not None:
            return path, known
    return None


def names(host, sandbox):
    """The names of the snapshots of a sandbox."""
    return sorted(name for dummy, room in rooms(host, sandbox) for name in _list(room) if not name.startswith(".") and _read("%s/%s" % (room, name)))


def show(host, sandbox, name):
    """A snapshot as the modules show it; None where there is none."""
    found = find(host, sandbox, name)
    if found is None:
        return None
    path, known = found
    return dict(known, sandbox=sandbox, name=name, path=path, state="present")


def leftovers(host, sandbox):
    """What killed runs have left of a sandbox's snapshots."""
    return ["%s/%s" % (room, name) for dummy, room in rooms(host, sandbox) for name in _list(room)
            if name.startswith(".") or not _read("%s/%s" % (room, name))]


# -- acts

def save(host, driver, sandbox, name):
    """Have the driver copy what was written, with the sandbox frozen at the end, and give the copy its name when all of it is on the disk."""
    room = driver.room(host, sandbox)
    os.makedirs(room, mode=0o700, exist_ok=True)
    new = "%s/.new-%s" % (room, name)
    driver.forget(host, new)
    try:
        driver.save(host, sandbox, new, _frozen.frozen(host, sandbox))
        taken = time.time()
        known = {"driver": driver.name, "layers": driver.find(host, sandbox).layers, "written": driver.measure(host, sandbox)["written"],
                 "taken": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(taken))}
        _store.write(new + _FILE, json.dumps(known).encode())
        _store.flush(new)
        os.rename(new, "%s/%s" % (room, name))
    except BaseException:
        with contextlib.suppress(OSError):  # what went wrong first is told
            driver.forget(host, new)
            tidy(host, sandbox)
        raise


def remove(host, path):
    """Remove a snapshot, or what is left of one."""
    known = _read(path)
    room, name = os.path.split(path)
    if not name.startswith("."):
        gone = "%s/.old-%s" % (room, name)
        _forget(host, gone, known)
        os.rename(path, gone)
        path = gone
    _forget(host, path, known)
    tidy(host, os.path.basename(room))


def _forget(host, path, known):
    known = known or _read(path)
    if known is None:  # half-made: what the place of it says
        known = {"driver": "overlay"}
        if "/roots/.saved/" in path:
            from . import _storage_places

            known = _storage_places.read(path) or {"driver": "copy"}
    _storage.named(known["driver"]).forget(host, path)


def tidy(host, sandbox):
    """Directories that hold nothing any more."""
    for top in _tops(host):
        for path in ("%s/%s" % (top, sandbox), top):
            _layers.remove_if_empty(path)


# -- plans

def plan_none(host, plan, sandbox=None):
    """Steps that remove all snapshots of a sandbox, or of all."""
    for owner, room in rooms(host, sandbox):
        if _list(room):
            plan.differ("snapshots of %s" % owner, [name for name in _list(room) if not name.startswith(".")], None)
            plan.add("remove the snapshots of sandbox %s" % owner,
                     lambda room=room: [remove(host, "%s/%s" % (room, name)) for name in _list(room)])
    plan_tidy(host, plan, sandbox)


def plan_tidy(host, plan, sandbox=None):
    """A step that removes directories that a killed run has left empty."""
    if any(os.path.isdir(path) and not _list(path) for path in [room for owner, room in rooms(host, sandbox)] + list(_tops(host))):
        plan.add("remove empty directories of snapshots", lambda: [tidy(host, owner) for owner, room in rooms(host, sandbox) or [("", "")]])


def _read(path):
    """What the file of a snapshot says; None where it is not there or not whole."""
    try:
        with open(path + _FILE, "rb") as stream:
            value = json.loads(stream.read())
    except (OSError, ValueError):
        return None
    keys = {"driver": str, "layers": list, "written": int, "taken": str}
    return value if isinstance(value, dict) and all(isinstance(value.get(key), kind) for key, kind in keys.items()) else None


def _list(path):
    try:
        return sorted(os.listdir(path))
    except (FileNotFoundError, NotADirectoryError):
        return []
