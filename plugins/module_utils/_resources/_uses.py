# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who else uses the directories of an overlay.

The kernel takes a layer that lies in the upper or work of another overlay, and then the behaviour of both is undefined. So all
overlays of all mount namespaces, and those that the same run is going to mount, are looked at. Directories are known by device
and inode, whatever they are called; the names that a mount table shows are as they were when the overlay was mounted.
"""

from __future__ import annotations

import os

from .._kernel import holders, inside, mountinfo
from .._kernel.holders import identity


def table_of(host, who):
    """The whole mount table of a process or pin; without mounts when it is gone."""
    def scan():
        try:
            return mountinfo.read(host.proc, who) if isinstance(who, int) else inside.table(who, host.proc)
        except OSError:
            return mountinfo.Table("")
    return host.cached(("table of", who), scan)


def namespace_of(host, who):
    """The identity of the mount namespace of a process or pin; None when it is gone."""
    return identity("%s/%d/ns/mnt" % (host.proc, who) if isinstance(who, int) else who)


def _chain(host, path):
    """The keys of a directory and of all above it on the same file system; what is not there is known by its name."""
    known = host.cached("directories above", dict)
    if path not in known:
        found, parent = identity(path), os.path.dirname(path)
        above = _chain(host, parent) if parent != path else ()
        if found and above and above[0][0] != found[0]:
            above = ()
        known[path] = (tuple(found) if found else path,) + above
    return known[path]


def _real(host, path):
    return host.cached(("chain", path), lambda: _chain(host, real(host, path)))


def real(host, path):
    """Where a path leads, once per run: a layer is of many overlays."""
    return host.cached(("real", path), lambda: os.path.realpath(path))


def _in_use(host, overlays):
    """What overlays are made of, once per run.

    ({upper or work: [(who, Mount, its name)]}, {what has a layer in it or is one: [the same]}), directories by their keys.
    """
    def scan():
        uppers, above, home, here = {}, {}, {}, identity(host.proc + "/self/ns/mnt")
        for who, mount, layers in overlays:
            if who not in home:
                home[who] = namespace_of(host, who) == here
            for path in layers.lower + layers.data + [layers.upper, layers.work]:
                if not path or not path.startswith("/") or path == "/":
                    continue  # mounted by a descriptor or a relative name: nothing to go by
                for chain in _seen_by(host, None if home[who] else who, mount, path):
                    for key in chain:
                        above.setdefault(key, []).append((who, mount, path))
                    if path in (layers.upper, layers.work):
                        uppers.setdefault(chain[0], []).append((who, mount, path))
        return uppers, above
    return host.cached("layers in use", scan)


def _seen_by(host, who, mount, path):
    """The chains of what a layer's name may mean: to us, and to the process whose mount table shows it, unless that is us.

    A name is as it was when the overlay was mounted. Where we have nothing of that name it is not one of ours; else it is,
    but where that process has another directory of that name beside an overlay that it can reach: a host within this host.
    """
    ours = [chain for chain in [_real(host, path)] if isinstance(chain[0], tuple)]
    name = "%s/%d/root%s" % (host.proc, who, path) if isinstance(who, int) else None
    theirs = identity(name) if name else None
    if not theirs or (ours and ours[0][0] == tuple(theirs)):
        return ours
    return [_chain(host, name)] + ([] if _beside(table_of(host, who), mount, path) else ours)


def _beside(table, mount, path):
    """Whether a mount of this table can be reached, and what is at the path is not seen through it."""
    here = table.holder(path)
    while here is not None and here.id != mount.id and here.parent != here.id:
        here = table.by_id.get(here.parent)
    top = table.top(mount.target)
    return (here is None or here.id != mount.id) and top is not None and top.id == mount.id


def conflict(host, overlays, what, layers, replaced, own):
    """(why, advice) when a layer is, or is in, the upper or work of another overlay, or the other way round; else None.

    ``overlays`` are all that there are, as (who, Mount, Layers); those with a device among ``replaced``, and those in the mount
    namespace of the sandbox ``own``, are gone by then.
    """
    every = [path for path in layers.lower + layers.data + [layers.upper, layers.work] if path]
    changed = [path for path in (layers.upper, layers.work) if path]
    uppers, above = _in_use(host, overlays)
    for path in every:
        chain = _real(host, path)
        for key in chain:
            for who, mount, name in uppers.get(key, ()):
                if _stays(host, who, mount, replaced, own):
                    return _words("%s is %sin use as upper or work" % (path, "" if key == chain[0] else "inside %s, which is " % name), host, who, mount)
    for path in changed:
        for who, mount, name in above.get(_real(host, path)[0], ()):
            if _stays(host, who, mount, replaced, own):
                return _words("%s is or holds %s, which is in use as layer" % (path, name), host, who, mount)
    return _planned(host, what, every, changed)


def _stays(host, who, mount, replaced, own):
    return mount.device not in replaced and not (own and _is_in(host, who, own))


def _words(why, host, who, mount):
    return ("%s of the overlay on %s (%s)" % (why, mount.target, _who(host, who)), "Unmount that one, or name another directory")


def _planned(host, what, every, changed):
    """The same for overlays that this run is going to mount."""
    uppers, above = host.cached("planned layers", lambda: ({}, {}))
    for paths, known, keys in ((every, uppers, slice(None)), (changed, above, slice(1))):
        for path in paths:
            for key in _real(host, path)[keys]:
                for other, name in known.get(key, {}).items():
                    if other != what:
                        return ("%s and %s of the overlay %s in this run are the same, or one inside the other" % (path, name, other),
                                "Give each overlay its own")
    for path in every:
        for key in _real(host, path):
            above.setdefault(key, {})[what] = path
    for path in changed:
        uppers.setdefault(_real(host, path)[0], {})[what] = path
    return None


def _is_in(host, who, name):
    """Is the process or pin ``who`` (in) the mount namespace of this sandbox?"""
    here = identity("%s/mntns/%s" % (host.state, name))
    return here is not None and here == namespace_of(host, who)


def _who(host, who):
    return "process %d, %s" % (who, holders.command(host.proc, who)) if isinstance(who, int) else "pinned by %s" % who
