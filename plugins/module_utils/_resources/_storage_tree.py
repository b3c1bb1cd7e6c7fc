# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Storage drivers whose root is a plain tree: a copy-on-write copy of a base (`_storage_bases.py`), in places (`_storage_places.py`).

What was written is what is different from the base (`_kernel/difference.py`). The drivers differ in their pieces alone.
"""

from __future__ import annotations

import contextlib
import json
import os

from .._engine.plan import Plan, run_plan
from .._kernel import difference, manifest, merge, syscalls
from .._model.errors import BulkheadError, reason
from .._model.upgrade import BESIDE
from . import _layers, _storage, _storage_bases, _storage_places, _store
from ._tree import Tree


_ANEW = "make root of sandbox %s anew"  # the name of that step


class TreeDriver(_storage.Driver):
    """See `_storage.Driver`."""

    def __init__(self, pieces):
        self.name, self.pieces = pieces.name, pieces

    def probe(self, host):
        return self.pieces.probe(host)

    def find(self, host, name):
        place = _storage_places.place(host, name)
        known = _storage_places.read(place)
        if known is None or known["driver"] != self.name:
            return None
        return _storage.Root(known["layers"], self.pieces.size(host, place), self.pieces.is_ready(host, place))

    def base(self, host, spec):
        return self.path(host, spec.key)

    # -- plans

    def plan_make(self, host, spec, plan):
        self._plan_sweep(host, spec.key, plan)
        place, found = _storage_places.place(host, spec.key), self.find(host, spec.key)
        host.promised.add(("root", spec.key))
        if found is None:
            if _storage_places.is_foreign(place):
                raise BulkheadError("Cannot make the root of sandbox %s: %s is there, and was not made by us. Move it away." % (spec.key, place))
            why = self.probe(host)
            if why:  # what its root lay on may not be mounted
                raise BulkheadError("Cannot make the root of sandbox %s: %s. %s." % ((spec.key,) + why))
            self.pieces.plan_room(host, spec.key, spec.storage, plan)
            self._plan_layers(host, spec, plan)
            plan.differ("driver", None, self.name)
            plan.differ("layers", None, spec.chain)
            self._plan_root(host, spec, plan, "make root of sandbox %s (%s)" % (spec.key, self.name))
            return host.records.options("sandboxes", spec.key) is not None  # which runs with one that was laid aside, or is lost
        self.pieces.plan_ready(host, spec.key, place, spec.storage, plan)
        if not os.path.isdir(_storage_bases.place(host, self.name, found.layers)):  # by which is told what was written
            _layers.plan_mounts(host, [_store.tree(host, digest) for digest in found.layers], plan)
            plan.add("make base of root of sandbox %s (%s)" % (spec.key, self.name),
                     lambda: _storage_bases.ensure(host, self.pieces, found.layers, spec.storage))
        if spec.chain in (None, found.layers):
            return False
        if spec.storage.on_mismatch != "recreate":
            raise BulkheadError("Cannot change storage.layers of sandbox %s: its root has to be made anew for that, and its services restarted. "
                                "Set on_mismatch: recreate to do so; what was written is kept." % spec.key, keys=["storage.layers"])
        self.pieces.plan_room(host, spec.key, spec.storage, plan)
        self._plan_layers(host, spec, plan, found.layers)
        plan.differ("layers", found.layers, spec.chain)
        self._plan_root(host, spec, plan, _ANEW % spec.key)
        return True

    def refuse_stopped(self, host, name):
        if self.find(host, name) is not None:
            self.pieces.refuse_stopped(host, name, _storage_places.place(host, name))

    def plan_reset(self, host, spec, plan):
        found = self.find(host, spec.key)
        if found is None:
            return False
        if spec.chain in (None, found.layers):
            self._plan_layers(host, spec, plan)
        plan.steps = [step for step in plan.steps if step.name != _ANEW % spec.key]  # of other layers, and empty, in one
        self._plan_root(host, spec, plan, "empty root of sandbox %s" % spec.key, fresh=True)
        return True

    def _plan_root(self, host, spec, plan, words, fresh=False):
        """A step after which the root is of the right layers, with what was written in the one that is there at that moment, or ``fresh``."""
        place = _storage_places.place(host, spec.key)
        _layers.refuse_mounts(host.mounts(), place, "replace", self.pieces.mounts(host, place))
        back = []

        def undo():
            back.pop()()
        plan.add(words, lambda: back.append(self._bring(host, spec, fresh)), undo)

    @staticmethod
    def _plan_layers(host, spec, plan, more=()):
        """What is to be read of layers is mounted, where they are files."""
        _layers.plan_mounts(host, [_store.tree(host, digest) for digest in dict.fromkeys([*(spec.chain or ()), *more])], plan)

    def _plan_sweep(self, host, name, plan):
        if _storage_places.leftovers(host, name):
            plan.add("remove what a killed run has left of root %s" % name, lambda: _sweep(host, name))

    def plan_removal(self, host, name, remove_data, plan, lazy=False):
        self._plan_sweep(host, name, plan)
        if _storage_bases.unused(host):
            plan.add("remove bases of roots that nothing needs", lambda: _storage_bases.tidy(host))
        place, found = _storage_places.place(host, name), self.find(host, name)
        if found is None and os.path.isdir(place) and not _storage_places.is_foreign(place):
            plan.add("remove directory %s" % place, lambda: _layers.remove_if_empty(place))
        if found is None or not (remove_data or not self.has_data(host, place)):
            return
        _layers.refuse_mounts(host.mounts(), place, gone=self.pieces.mounts(host, place))
        plan.differ("storage", {"driver": self.name, "layers": found.layers}, None)
        plan.add("remove root of sandbox %s (%s)" % (name, self.name), lambda: self._remove(host, name))

    def has_data(self, host, path):
        known = _storage_places.read(path)
        if known is None or not os.path.isdir(_storage_bases.place(host, self.name, known["layers"])):
            return True  # for all that can be told
        with self._pair(host, path, known["layers"]) as pair:
            return difference.has_data(*pair)

    # -- acts

    def _bring(self, host, spec, fresh):
        """What takes it back is the answer. A root that an upgrade has laid aside has left an empty directory (`_kept.py`)."""
        name, place = spec.key, _storage_places.place(host, spec.key)
        now = _storage_places.read(place)
        if now is None:
            os.rename(self._build(host, spec), place)
            return lambda: self._remove(host, name)
        if now["layers"] == spec.chain and not fresh:
            ready = Plan()
            self.pieces.plan_ready(host, name, place, spec.storage, ready)
            run_plan(ready)
            return lambda: None
        self._build(host, spec, None if fresh else now["layers"])
        self._exchange(host, name)
        host.at_end(_discard_left, (self, name))
        return lambda: self._exchange(host, name)

    def _build(self, host, spec, written_over=None):
        """The place of a new root, whole and on the disk, which has its name not yet. ``written_over``: the chain of the root that is
        there, of which what was written is taken over."""
        new = "%s/.new-%s" % (_storage_places.roots(host), spec.key)
        base = _storage_bases.ensure(host, self.pieces, spec.chain, spec.storage)
        _storage_places.discard(host, self.pieces, new)
        os.mkdir(new, 0o700)
        try:
            _store.write(new + "/root.json", json.dumps({"driver": self.name, "layers": spec.chain, "image": spec.image}).encode())
            self.pieces.snapshot(host, base, new, spec.storage)
            if written_over is not None:
                _storage_bases.ensure(host, self.pieces, written_over, spec.storage)
                with self._pair(host, _storage_places.place(host, spec.key), written_over) as pair, self.pieces.opened(host, new) as tree:
                    merge.lay(difference.written(*pair), tree)
            _flush(new)
        except BaseException:
            _storage_places.discard(host, self.pieces, new)
            raise
        return new

    @staticmethod
    def _exchange(host, name):
        syscalls.exchange("%s/.new-%s" % (_storage_places.roots(host), name), _storage_places.place(host, name))

    def _remove(self, host, name):
        old = "%s/.old-%s" % (_storage_places.roots(host), name)
        _storage_places.discard(host, self.pieces, old)
        os.rename(_storage_places.place(host, name), old)
        _storage_places.discard(host, self.pieces, old)
        host.at_end(_storage_bases.tidy, name)

    # -- what was written

    @contextlib.contextmanager
    def _pair(self, host, place, layers):
        """Descriptors of the base and of the tree of a root."""
        base = _storage_bases.place(host, self.name, layers)
        with self.pieces.opened(host, base) as one, self.pieces.opened(host, place) as other:
            yield one, other

    def _written(self, host, name, read):
        found = self.find(host, name)
        if found is None:
            return None
        try:
            with self._pair(host, _storage_places.place(host, name), found.layers) as pair:
                return read(*pair)
        except OSError as exc:
            raise BulkheadError("Cannot compare the root of sandbox %s with its layers: %s. Mend that." % (name, reason(exc))) from exc

    def path(self, host, name):
        return _storage_places.place(host, name) + "/tree"

    def changes(self, host, name):
        return self._written(host, name, difference.between)

    def digest(self, host, name):
        return self._written(host, name, lambda *pair: manifest.of_entries(difference.written(*pair)).digest)

    @contextlib.contextmanager
    def members(self, host, name):
        with self._pair(host, _storage_places.place(host, name), self.find(host, name).layers) as pair:
            yield Tree(pair[1], upper=True, entries=difference.written(*pair))

    def measure(self, host, name):
        place = _storage_places.place(host, name)
        written = self.pieces.written(host, place)
        if written is None:
            written = self._written(host, name, difference.space)
        return {"driver": self.name, "written": written or 0, "size": self.pieces.size(host, place), **self.pieces.measured(host)}

    # -- copies of it

    def copy(self, host, name, other, still):
        new = "%s/.new-%s" % (_storage_places.roots(host), other)
        place = _storage_places.place(host, name)
        self._copy(host, place, new, lambda: self.pieces.snapshot_in_use(host, place, new, still))
        os.rename(new, _storage_places.place(host, other))

    def movable(self, host, name):
        return [_storage_places.place(host, name)]

    def room(self, host, name):
        return "%s/.saved/%s" % (_storage_places.roots(host), name)

    def save(self, host, name, path, still):
        os.makedirs(path, mode=0o700)
        place = _storage_places.place(host, name)
        _store.write(path + "/root.json", json.dumps(_storage_places.read(place)).encode())
        self.pieces.snapshot_in_use(host, place, path, still)
        self.pieces.seal(host, path)

    def put_back(self, host, name, path, storage=None):
        new = "%s/.new-%s" % (_storage_places.roots(host), name)
        self._copy(host, path, new, lambda: self.pieces.snapshot(host, path, new, storage))
        self._exchange(host, name)
        host.at_end(_discard_left, (self, name))

    def take_back(self, host, name):
        self._exchange(host, name)

    def _copy(self, host, path, new, make):
        """Another place like one that is there, on the disk; ``make()`` makes its tree."""
        _storage_places.discard(host, self.pieces, new)
        os.mkdir(new, 0o700)
        try:
            _store.write(new + "/root.json", json.dumps(_storage_places.read(path)).encode())
            make()
            _flush(new)
        except BaseException:
            _storage_places.discard(host, self.pieces, new)
            raise

    def forget(self, host, path):
        _storage_places.discard(host, self.pieces, path)
        host.at_end(_storage_bases.tidy, path)


def _flush(place):
    """A place to its disk; what is mounted on the tree has another one."""
    for path in (place + "/tree", place):
        _store.flush(path)


def _discard_left(host, items):
    """The roots that others have taken the place of."""
    for driver, name in items:
        for path in _storage_places.leftovers(host, name):
            _storage_places.discard(host, driver.pieces, path)
    _storage_bases.tidy(host)


def _sweep(host, name):
    for path in _storage_places.leftovers(host, name):
        _storage_places.discard(host, _driver_left(host, [path]).pieces, path)


def driver_of(host, name, half=False):
    """The driver that has a root of this sandbox, with ``half`` of what a killed run has left of one; None."""
    known = _storage_places.read(_storage_places.place(host, name))
    if known is None and half:
        place = _storage_places.place(host, name)
        left = _storage_places.leftovers(host, name) + [place + word for word in BESIDE if os.path.lexists(place + word)]
        return _driver_left(host, left + [place] * (os.path.isdir(place) and not _storage_places.is_foreign(place)))
    return drivers().get(known["driver"]) if known else None


def _driver_left(host, paths):
    """That of a place that may not be whole: nothing is in it before it says whose it is."""
    for path in paths:
        known = _storage_places.read(path)
        return drivers().get(known["driver"] if known else "copy")
    return None


_DRIVERS = {}


def drivers():
    """{name: its driver}; one object each."""
    if not _DRIVERS:
        from . import _storage_aufs, _storage_btrfs, _storage_copy, _storage_thin

        _DRIVERS.update((each.PIECES.name, TreeDriver(each.PIECES)) for each in (_storage_aufs, _storage_btrfs, _storage_copy, _storage_thin))
    return _DRIVERS
