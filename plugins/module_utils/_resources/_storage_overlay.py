# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Storage driver overlay: the layers as they lie in the store, and over them an upper that takes what is written.

The overlay itself is found, compared and mounted by `root.py` in a prepared root and by `overlay.py` on the host; here is what the
other drivers have another way of doing.
"""

from __future__ import annotations

import contextlib
import os

from .._engine.plan import Plan
from .._kernel import manifest, overlayfs, syscalls, trees
from .._model.errors import Problems
from .._model.overlay import OverlaySpec
from .._model.sandbox import overlay_defaults
from . import _layers, _limit, _live, _store, _storage, overlay, preflight, root

# What binds that which is written to its inodes, its mount or its layers: docs/decisions/what-is-bound-to-its-layers-is-not-copied.md
_BOUND = (
    ("nfs_export", "which knows what was written by inodes, and a copy has others"),
    ("index", "which knows what was written by inodes, and a copy has others"),
    ("volatile", "and the kernel mounts such an upper but once"),
)
_BOUND_TO_LAYERS = (
    ("metacopy", "which leaves content in the layers, where others have another"),
    ("redirect_dir", "which leaves content in the layers, where others have another"),
)
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Overlay(_storage.Driver):
    """See `_storage.Driver`."""

    name = "overlay"

    def probe(self, host):
        if not preflight.has_overlay(host, os.uname().release):
            return "this kernel has no overlay", "Name another driver"
        place = host.lib
        while not os.path.isdir(place):
            place = os.path.dirname(place)
        mount = host.mounts().holder(os.path.realpath(place))
        if mount is not None and mount.fstype in _layers.NO_UPPER:
            return "%s is on %s, which cannot hold an upper" % (host.lib, mount.fstype), "Name another driver, or put it elsewhere"
        return None

    def find(self, host, name):
        shown = _shown(host, name)
        if not shown:
            return None
        known = {_store.tree(host, digest): digest for digest in _store.layers(host)}
        limit = _limit.find(host, _home(host, name))
        return _storage.Root([known.get(path, path) for path in reversed(shown["lower"])], limit and limit.size, limit is None or limit.ready)

    def base(self, host, spec):
        return spec.overlay

    def plan_make(self, host, spec, plan):
        """Upper and work are made, and what is there is compared, where the overlay is mounted."""
        for path in _layers.leftovers((spec.overlay.upper, spec.overlay.work)) if spec.root is not None else ():  # else `overlay.py` does
            _layers.plan_discard(host, path, plan)
        limits = self._limits(host, spec.key, spec.storage)
        if limits is None:
            return False
        limits.inside = (spec.overlay.upper, spec.overlay.work)
        limits.alive = _shown(host, spec.key) is not None
        limits.mapped = spec.namespaces is not None and "user" in spec.namespaces.types
        return limits.make(plan)

    @staticmethod
    def _limits(host, name, storage=None):
        """The plans of the limit of a sandbox; None where there is none, was none and is to be none."""
        recorded = (host.records.options("sandboxes", name) or {}).get("storage") or {}
        home = _home(host, name)
        if (storage is None or storage.size is None) and recorded.get("size") is None and not _limit.left(host, home):
            return None
        return _limit.Plans(host, home, storage, [home + "/upper", home + "/work"])

    def plan_reset(self, host, spec, plan):
        if spec.root is None:
            spec.overlay.reset = True  # `overlay.py` unmounts it before, and says so
            return False
        there = [path for path in (spec.overlay.upper, spec.overlay.work) if path and ("emptied", path) not in host.promised
                 and (os.path.isdir(path) or ("directory", path) in host.promised)]
        for path in there:
            plan.add("empty %s" % path, lambda path=path: self._empty(host, spec.key, path), lambda path=path: self._fill(host, spec.key, path))
        return bool(there)

    @staticmethod
    def _empty(host, name, path):
        _live.replaced(host, name, True)
        _layers.set_aside(host, path)
        host.at_end(_discard, path)

    @staticmethod
    def _fill(host, name, path):
        _layers.put_back(path)
        _live.replaced(host, name, False)

    def plan_removal(self, host, name, remove_data, plan, lazy=False):
        recorded = host.records.options("sandboxes", name) or {}
        layers = OverlaySpec.from_options(recorded.get("overlay") or {}, "overlay", Problems(), defaults=overlay_defaults(name))
        limits = self._limits(host, name)
        remove_data = remove_data or (recorded.get("storage") or {}).get("keep") is False
        apart = limits is not None and limits.now is not None and limits.now.kind != "quota"  # removed as a whole, not name by name
        layers.state, layers.remove_data, layers.lazy = "absent", remove_data and not apart, lazy
        layers.force = bool(recorded) and host.claims.read(overlay.NOUN, layers.key) is None  # a claim that is lost: it is ours all the same
        part = Plan()
        overlay.plan(host, layers, part)
        if limits is not None:
            limits.remove(part, remove_data)
        plan.take(part, "overlay")
        plan.record(overlay.NOUN, layers.key, None)  # of the single module, if that changed it

    def path(self, host, name):
        declared = (host.records.options("sandboxes", name) or {}).get("overlay") or {}
        return declared.get("upper") or "%s/uppers/%s/upper" % (host.lib, name)

    def changes(self, host, name):
        return overlay.changes(_shown(host, name))

    @contextlib.contextmanager
    def members(self, host, name):
        from ._tree import Tree

        with _opened(self.path(host, name)) as fd:
            yield Tree(fd, upper=True)

    def digest(self, host, name):
        with _opened(self.path(host, name)) as fd:
            return manifest.of(fd).digest

    def measure(self, host, name):
        limit = _limit.find(host, _home(host, name))
        if limit is not None and limit.size is not None:
            return {"driver": self.name, "written": limit.used, "size": limit.size, "limit": limit.kind}
        shown = _shown(host, name)
        if not shown or not shown["upper"]:
            return {"driver": self.name, "written": 0, "size": None}
        with _opened(shown["upper"]) as fd:
            return {"driver": self.name, "written": trees.disk_space(fd), "size": None}

    def obstacle(self, host, name, other=False):
        shown, declared = _shown(host, name), (host.records.options("sandboxes", name) or {}).get("overlay") or {}
        if not shown:  # as it would be mounted
            shown = {"upper": None if declared.get("read_only") else self.path(host, name),
                     "options": dict(_layers.known(host), **(declared.get("options") or {}))}
        if not shown["upper"] or not os.path.isdir(shown["upper"]):
            return None
        on = {key for key, value in shown["options"].items() if value in ("on", True)}
        for key, why in _BOUND + _BOUND_TO_LAYERS if other else _BOUND:
            if key in on:
                return "its overlay has %s, %s" % (key, why), "Declare overlay.options.%s: %s" % (key, "false" if key == "volatile" else "off")
        if other:
            with _opened(shown["upper"]) as fd:
                path = overlayfs.left_below(fd)
            if path is not None:
                return "%s has its content still in the layers, from when its overlay had redirect_dir or metacopy" % path, "Write it anew"
        return None

    def copy(self, host, name, other, still):
        _layers.discard(host, _home(host, other))
        self.save(host, name, _home(host, other), still)

    def movable(self, host, name):
        declared = (host.records.options("sandboxes", name) or {}).get("overlay") or {}
        return [] if declared.get("read_only") else [self.path(host, name), declared.get("work") or "%s/work" % _home(host, name)]

    def has_data(self, host, path):
        return _layers.has_data(path)

    def room(self, host, name):
        return "%s/snapshots/%s" % (host.lib, name)

    def save(self, host, name, path, still):
        from .._kernel import livecopy

        os.makedirs(path + "/upper", mode=0o700)
        with _opened(self.path(host, name)) as one, _opened(path + "/upper") as other:
            livecopy.copy(one, other, still)

    def put_back(self, host, name, path, storage=None):
        now = self.path(host, name)
        aside = now + _layers.DISCARDED
        _layers.discard(host, aside)
        host.at_end(_discard, now)
        with self._room_for_two(host, name):
            os.mkdir(aside, 0o700)
            _copy(path + "/upper", aside)
            _store.flush(aside)  # before what was there goes
            _live.replaced(host, name, True)
            syscalls.exchange(aside, now)

    @contextlib.contextmanager
    def _room_for_two(self, host, name):
        """Until what was there before goes, its size comes to what may be written; who starts meanwhile has no byte more than else."""
        home = _home(host, name)
        limit = _limit.measure(host, home)
        if limit is None:
            yield
            return
        used, size = limit
        host.at_end(_limited_again, (home, size))
        _limit.resize(host, home, used + size + _limit.SPARE)
        yield
        _limit.resize(host, home, used + size, forced=True)

    def take_back(self, host, name):
        now = self.path(host, name)
        syscalls.exchange(now + _layers.DISCARDED, now)
        _live.replaced(host, name, False)

    def forget(self, host, path):
        _layers.discard(host, path)


def _home(host, name):
    """The directory that upper and work are in, and that a limit is of."""
    return "%s/uppers/%s" % (host.lib, name)


def _shown(host, name):
    """The overlay of a sandbox as the kernel shows it."""
    found = root.show(host, name)
    return found if found and found["lower"] else overlay.show(host, "%s/mnt/%s" % (host.state, name))


def _discard(host, paths):
    """What a reset has set aside, when all is done."""
    for path in paths:
        _layers.discard(host, path + _layers.DISCARDED)


def _limited_again(host, items):
    for directory, size in items:
        _limit.resize(host, directory, size, forced=True)


@contextlib.contextmanager
def _opened(path):
    fd = os.open(path, _DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def _copy(source, target):
    from .._kernel import copytree

    with _opened(source) as one, _opened(target) as other:
        copytree.copy(one, other)


DRIVER = Overlay()
