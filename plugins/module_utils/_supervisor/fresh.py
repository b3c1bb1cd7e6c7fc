# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which unit files systemd has read as they are, without asking it: NeedDaemonReload takes as much of it as reading the unit again.

What it has once said of a file that is the same since is still so: STATE/read.json has {unit: [inode, time of the inode's last change]}
of those, and of what was read when it was started. It is only for units that have no drop-ins, and for as long as nobody has systemd
read all units again: with drop-ins that came and went meanwhile it would have what is not there.
"""

from __future__ import annotations

import json
import os

from . import common, manager

# Where units of the system have files (systemd.unit(5)).
PLACES = ("/etc/systemd/system.control", "/run/systemd/system.control", "/run/systemd/transient", "/run/systemd/generator.early",
          "/etc/systemd/system", "/etc/systemd/system.attached", "/run/systemd/system", "/run/systemd/system.attached",
          "/run/systemd/generator", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system",
          "/run/systemd/generator.late")


def entries(host):
    """The names of all files of units and directories of drop-ins. Listed once per run."""
    return host.cached("systemd entries", lambda: {
        entry for place in dict.fromkeys((host.units,) + PLACES) if os.path.isdir(place) for entry in os.listdir(place)})


def is_read(host, unit):
    """Does systemd have the file of ours of a loaded unit as it is, and no drop-ins? False: it has to be asked."""
    known = host.cached("systemd read", lambda: _load(host))
    return unit in known and known[unit] == stamp(host, unit) and not has_drop_ins(host, unit)


def has_drop_ins(host, unit):
    """Is there a directory of drop-ins for it: its own, of a part of its name that ends with a dash, or of its kind?"""
    stem, dot, kind = unit.rpartition(".")
    parts = stem.split("-")
    names = [unit, kind] + ["%s-%s%s" % ("-".join(parts[:count]), dot, kind) for count in range(1, len(parts))]
    return any(name + ".d" in entries(host) for name in names)


def stamp(host, unit):
    """What tells one version of the file from another; None when there is none."""
    try:
        status = os.stat("%s/%s" % (host.units, unit), follow_symlinks=False)
    except OSError:
        return None
    return [status.st_ino, status.st_ctime_ns]


def remember(host, stamps):
    """systemd has read these versions: {unit: stamp}. Kept at the end of the run."""
    stamps = {unit: each for unit, each in stamps.items() if each is not None}
    host.cached("systemd read", lambda: _load(host)).update(stamps)
    if stamps:
        host.at_end(_save, stamps)


def _path(host):
    return host.state + "/read.json"


def _load(host):
    try:
        found = json.loads(common.text(_path(host)) or "{}")
    except ValueError:  # of a power cut
        found = {}
    return found.get("units", {}) if found and found.get("since") == manager.read_since(host) else {}


def _save(host, stamps):
    known = dict(_load(host))
    for each in stamps:
        known.update(each)
    since = manager.read_since(host)
    if since is None or not os.path.isdir(host.state):
        return
    try:
        common.put(_path(host), json.dumps({"since": since, "units": {unit: each for unit, each in known.items() if each == stamp(host, unit)}}), 0o600)
    except OSError:  # of no room, say: what is not noted is asked again
        clear(host)


def clear(host):
    """Nothing is noted any more."""
    for path in (_path(host), "%s/.read.json.new" % host.state):
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
