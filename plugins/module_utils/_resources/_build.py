# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An image over another by steps, each a layer: those that have been built are found by their keys, the rest are built in order.

See docs/decisions/a-build-is-keyed-by-its-inputs.md.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat

from .._kernel import manifest, trees, unpack
from .._kernel.tarstream import ArchiveError
from .._model.errors import BulkheadError, reason
from . import _build_files, _import, _store
from ._sources import Tree

NOUN = "image"
_OURS = ("upper", "work")  # in a room, while its layer is made


def plan(host, spec, plan, known, damaged):
    """Steps that build what is missing. The config of the parent when the layers stay as they are, None when the image is made."""
    parent = _parent(host, spec, damaged)
    build = _Build(host, spec, parent, damaged)
    made_from = known["made_from"] if known else {}
    if not damaged and not build.missing and known and known["layers"] == _store.once(build.digests) and (
            made_from["type"], made_from["key"]) == (spec.source, build.key):
        return parent["config"]
    if build.missing and any(step.kind == "run" for step in spec.steps[-build.missing:]):
        _runner().require(host, spec.name, spec.steps[-build.missing:])
    numbers = range(len(spec.steps) - build.missing, len(spec.steps))
    # No key is shown: it is made of values of environments, too, and short ones could be found by trying.
    plan.differ("source", {"type": made_from["type"], "path": made_from["path"]} if known else None, {"type": spec.source, "path": spec.path})
    plan.differ("layers", known["layers"] if known else None, _store.once(build.digests) + [
        "step %d: %s" % (number + 1, spec.steps[number].told) for number in numbers])
    if damaged:
        plan.differ("damaged", sorted(damaged.values()), [])
    for number in numbers:
        plan.add("build step %d of image %s (%s)" % (number + 1, spec.name, spec.steps[number].told), lambda number=number: build.step(number))
    config = spec.config if spec.config is not None else known["declared_config"] if known else {}
    plan.add("make image %s from %s" % (spec.name, spec.path), lambda: build.finish(config), lambda: _store.put_back(host, spec.name, known))
    host.promised.add((NOUN, spec.name))
    spec.kept = tuple(build.digests)
    return None


def _runner():
    from . import _build_run  # much code, for the one who runs something

    return _build_run


def _parent(host, spec, damaged):
    """What the store knows of the parent; None in check mode where an earlier task is expected to make it."""
    known = _store.image(host, spec.path)
    if known is None:
        if not host.check:
            raise BulkheadError("Cannot build image %s: there is no image %s. Import that first." % (spec.name, spec.path))
        host.warn("There is no image %s yet; an earlier task is expected to make it." % spec.path)
        return {"layers": [], "config": {}, "made_from": {}}
    for digest in known["layers"]:
        if digest in damaged or digest not in _store.layers(host):
            why = damaged.get(digest) or "its layer %s is missing" % _store.short(digest)
            raise BulkheadError("Cannot build image %s: image %s cannot be used: %s. Make that one again." % (spec.name, spec.path, why))
    return known


class _Build:
    """What is known of a build before anything is built, and the acts of building it.

    ``digests``: of the layers that are there, the lowest first, ``missing``: how many steps are to be run, ``key``: that of the
    last one, which stands for the whole; None when what a step copies is not there yet.
    """

    def __init__(self, host, spec, parent, damaged):
        self.host, self.spec, self.parent, self.damaged = host, spec, parent, damaged
        self.digests, self.keys, self.arrival = list(parent["layers"]), [], None
        key = _hash({"layers": parent["layers"]})
        for number, step in enumerate(spec.steps):
            sources = self._sources(number, step) if key else None
            key = sources and _hash({"below": key, "step": self._canonical(step), "sources": sources[0]})
            self.keys.append((key, sources and sources[0]))
        self.key, self.missing = key, 0
        without = set(damaged) | _store.doomed(host)
        for number, (key, dummy) in enumerate(self.keys):
            found = key and _store.by_key(host, key, self.digests, without)
            if not found:
                self.missing = len(self.keys) - number
                break
            self._allowed(number, found)
            self.digests.append(found)

    def _canonical(self, step):
        told = step.canonical()
        if step.kind == "run":
            told["env"] = self._environment(step)
        return told

    def _environment(self, step):
        return dict(self.parent["config"].get("env", {}), **step.env)

    def _sources(self, number, step):
        """([the digest of each]), as a tuple so that none is not nothing; None where one is yet to come."""
        found = []
        for src in step.sources:
            if self.host.check and not os.path.lexists(src):
                self.host.warn("%s does not exist yet; an earlier task is expected to make it." % src)
                return None
            try:
                found.append(_build_files.Copied(src, step.mode if step.kind == "copy" else None).read())
            except (ArchiveError, OSError) as exc:
                raise self._refusal(number, exc, "%s cannot be read: " % src) from exc
        return (found,)

    def _refusal(self, number, exc, what=""):
        words = exc.words() if isinstance(exc, ArchiveError) else reason(exc)
        return self._error(number, ": " + what + words, getattr(exc, "advice", None) or "Mend that, or the step")

    def _error(self, number, why, advice, **keys):
        return BulkheadError("Cannot build image %s: step %d (%s)%s. %s." % (self.spec.name, number + 1, self.spec.steps[number].told, why, advice),
                             step=number + 1, **keys)

    def _allowed(self, number, digest):
        try:
            _import.allowed(self.spec, _store.layers(self.host)[digest])
        except ArchiveError as exc:
            raise self._refusal(number, exc) from exc

    def step(self, number):
        """Build the layer of one step, in the room for what is in the making; when it fails nothing of this build stays."""
        if self.arrival is None:
            self.arrival = _store.Arrival(self.host)
        step, (key, sources) = self.spec.steps[number], self.keys[number]
        built = {"sources": [], "built": [{"key": key, "over": list(self.digests)}]}
        try:
            room = self.arrival.room()
            fill = self._run(number, room) if step.kind == "run" else lambda unpacker: self._place(step, sources, unpacker)
            self.digests.append(_import.unpacked(self.arrival, room, _store.once(self.digests), self.spec.rules, fill, built))
        except ArchiveError as exc:
            self.arrival.clear()
            raise self._refusal(number, exc) from exc
        except BaseException:
            self.arrival.clear()
            raise

    def _place(self, step, sources, unpacker):
        """Unpack what a step copies or writes."""
        reader = _build_files.Copied(step.src, step.mode) if step.kind == "copy" else _build_files.Written(step)
        unpack.whole(_build_files.placed(step, reader, unpacker.below.trees), unpacker)
        if step.kind == "copy" and reader.digest() != sources[0]:
            raise ArchiveError("%s was changed while it was read" % step.src)

    def _run(self, number, room):
        """Run a command over the layers; what unpacks its upper."""
        step, name = self.spec.steps[number], "step %d of image %s" % (number + 1, self.spec.name)
        lowers = [self.arrival.tree(digest) for digest in reversed(_store.once(self.digests))]
        _directories(room, lowers)
        status, lines = _runner().run(self.host, name, step, lowers, room, self._environment(step))
        if status:
            late = step.timeout and status == _runner().LATE
            ended = "took longer than its timeout of %d s" % step.timeout if late else "ended with status %d" % status
            raise self._error(number, " %s%s" % (ended, ", and said: %s" % " | ".join(map(_printable, lines)) if lines else ""),
                              "Mend the step and run again", status=status, output=lines)
        again = self._sources(number, step)
        if again != (self.keys[number][1],):
            raise ArchiveError("what it is shown was changed while it ran")

        def fill(unpacker):
            with _opened(room + "/upper") as fd:
                unpack.whole(Tree(fd, upper=True), unpacker)
            with _opened(room) as fd:
                for each in _OURS:
                    trees.remove_tree(fd, each)
        return fill

    def finish(self, config):
        """Give layers and image their names."""
        arrival = self.arrival or _store.Arrival(self.host)
        try:
            made_from = dict(self.spec.made_from, path=self.spec.path, digest=None, digests=[], key=self.key,
                             platform=self.parent["made_from"].get("platform"))
            arrival.commit(self.spec.name, _import.named(self.spec.name, self.digests, self.parent["config"], config, made_from), self.damaged)
        except BaseException:
            arrival.clear()
            raise
        for digest in self.damaged:
            if digest not in self.digests:
                _store.disown(self.host, digest)


@contextlib.contextmanager
def _opened(path):
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _hash(value):
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _printable(line):
    return "".join(char if char.isprintable() else " " for char in line)[:200]


def _directories(room, lowers):
    """An upper whose own directory is as the layers show it, and a work directory."""
    for name in _OURS:
        os.mkdir("%s/%s" % (room, name), 0o700)
    with _opened(lowers[0]) as fd:
        found, xattrs = os.fstat(fd), manifest.xattrs(fd, b".")
    upper = room + "/upper"
    os.chown(upper, found.st_uid, found.st_gid)
    os.chmod(upper, stat.S_IMODE(found.st_mode))
    for key, value in xattrs.items():
        if key.startswith("user.") and key != manifest.OPAQUE:
            os.setxattr(upper, key, value)
    os.utime(upper, ns=(found.st_mtime_ns, found.st_mtime_ns))
