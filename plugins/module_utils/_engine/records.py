# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What we made (claims, below /run) and what was declared (records, below /etc).

A claim says that an object is ours; it is written before the object is made, with no identity, and completed after,
so that a run that is killed in between leaves nothing that the next run would take for somebody else's.
A record is the declared Spec for restore after a reboot; it is written last. Neither is believed about the present.
A failure is why restore could not make a sandbox, for whoever asks later.
"""

from __future__ import annotations

import errno
import json
import os

from .._kernel.syscalls import syncfs


def file_name(name):
    """`bulkhead/web` as one file name; the colon is in no name's alphabet."""
    return name.replace("/", ":") + ".json"


def object_name(entry):
    """The inverse of file_name()."""
    return entry[:-len(".json")].replace(":", "/")


class _Store:
    def __init__(self, root, suffix):
        self.root, self.suffix = root, suffix
        self._known = {}  # path: what was read or written in this run

    def forget(self):
        """Another run may have written since."""
        self._known.clear()

    def path(self, noun, name):
        return "%s/%s%s/%s" % (self.root, noun, self.suffix, file_name(name))

    def names(self, noun):
        """The names that have an entry."""
        entries = _listed("%s/%s%s" % (self.root, noun, self.suffix))
        return sorted(object_name(entry) for entry in entries if entry.endswith(".json") and not entry.startswith("."))

    def sweep(self):
        """Take away what killed runs left half-written."""
        for directory in _listed(self.root):
            for entry in _listed("%s/%s" % (self.root, directory)):
                if entry.startswith(".") and entry.endswith(".new"):
                    _unlink("%s/%s/%s" % (self.root, directory, entry))

    def read(self, noun, name):
        """The entry, or None when there is none or it is not whole."""
        path = self.path(noun, name)
        if path not in self._known:
            self._known[path] = self._load(path)
        value = self._known[path]
        return None if value is None else dict(value)

    def _load(self, path):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as exc:
            if exc.errno == errno.ENOENT:
                return None
            raise
        try:
            value = json.loads(os.read(fd, os.fstat(fd).st_size + 1))
        except ValueError:
            return None
        finally:
            os.close(fd)
        return value if isinstance(value, dict) else None

    def drop(self, noun, name):
        path = self.path(noun, name)
        self._known.pop(path, None)
        _unlink(path)


class Claims(_Store):
    """What we made, with the kernel's identity of it: `{"identity": …}`; None says that we were making it."""

    def __init__(self, root):
        super().__init__(root, "")

    def begin(self, noun, name):
        """We are about to make this."""
        if self.read(noun, name) is None:
            self._write(noun, name, None)

    def complete(self, noun, name, identity):
        """It is made, and this is what the kernel calls it."""
        self._write(noun, name, identity)

    def owns(self, noun, name, identity):
        """Is the object that exists with this identity ours?"""
        claim = self.read(noun, name)
        return claim is not None and claim.get("identity") in (None, identity)

    def _write(self, noun, name, identity):
        path = self.path(noun, name)
        self._known.pop(path, None)
        try:
            _replace(path, {"identity": identity})
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            _replace(path, {"identity": identity})


class Records(_Store):
    """The declared Specs: `{"options": …}`."""

    def __init__(self, root):
        super().__init__(root, ".d")

    def options(self, noun, name):
        """The recorded options; None when there is no record, or one that is not whole."""
        options = (self.read(noun, name) or {}).get("options")
        return options if isinstance(options, dict) else None

    def write_all(self, entries):
        """Write and remove in one batch: `{(noun, name): (options or None, merge)}`. Returns how many files changed."""
        changed = []
        for (noun, name), (options, merge) in entries.items():
            old = self.options(noun, name)
            if options is None:
                if old is not None or os.path.lexists(self.path(noun, name)):
                    self.drop(noun, name)
                continue
            new = dict(old or {}, **options) if merge else options
            if new != old:
                changed.append((self.path(noun, name), {"options": new}))
        for path, value in changed:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            _write_partial(path, value)
        if changed:
            _flush(self.root)
        for path, value in changed:
            self._known.pop(path, None)
            os.rename(_partial(path), path)
        return len(changed)


class Failures:
    """Why a sandbox could not be restored: one text each, below /run, until it is converged again."""

    def __init__(self, root):
        self.root = root

    def path(self, name):
        return "%s/%s" % (self.root, name)

    def read(self, name):
        """The text, or None. A name that is asked for may be anything; it is looked up, not made a path of."""
        if name not in _listed(self.root):
            return None
        try:
            with open(self.path(name), encoding="utf-8", errors="replace") as stream:
                return stream.read().strip() or None
        except OSError:
            return None

    def write(self, name, text):
        os.makedirs(self.root, mode=0o755, exist_ok=True)
        with open(self.path(name), "w", encoding="utf-8") as stream:
            stream.write(text + "\n")

    def keep(self, names):
        """Drop all but those of these names."""
        self.drop(set(_listed(self.root)).difference(names))

    def drop(self, names):
        """They are as declared again, or gone."""
        there = set(_listed(self.root))
        for name in there.intersection(names):
            _unlink(self.path(name))
            there.discard(name)
            if not there:
                os.rmdir(self.root)


def _partial(path):
    """The name before the rename; always the same, so that the next write or drop takes away what a killed run left."""
    return "%s/.%s.new" % os.path.split(path)


def _replace(path, value):
    _write_partial(path, value)
    try:
        os.rename(_partial(path), path)
    except OSError:
        _unlink(_partial(path))
        raise


def _write_partial(path, value):
    partial = _partial(path)
    data = json.dumps(value, sort_keys=True).encode()  # dump() to a stream takes the slow encoder
    try:
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            while data:
                data = data[os.write(fd, data):]
        finally:
            os.close(fd)
    except OSError as exc:
        exc.filename = partial  # write(2) does not say of what
        _unlink(partial)
        raise


def _flush(directory):
    """The file system's data to its disk, before names point to it: one flush for many files."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        syncfs(fd)
    finally:
        os.close(fd)


def _listed(path):
    try:
        return os.listdir(path)
    except OSError as exc:
        if exc.errno in (errno.ENOENT, errno.ENOTDIR):
            return []
        raise


def _unlink(path):
    try:
        os.unlink(path)
    except OSError as exc:
        if exc.errno != errno.ENOENT:
            raise
