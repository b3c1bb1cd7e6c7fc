# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Changes in the prepared root of a living sandbox: a short visit to its mount namespace each.

What the host gives is opened before the visit. Inside, processes may be hostile: targets are resolved below the root, and
a mount is reached by the descriptor of its root.
"""

from __future__ import annotations

import errno
import os

from .._kernel import inside, nsfs, syscalls, trees
from .._model.root import WORDS
from . import _furnish, _layers, _mapped

NOUN = "root"


class Change:
    """One difference and the step that makes it."""

    __slots__ = ("words", "key", "before", "after", "apply", "undo", "kept")

    def __init__(self, words, key, before, after, apply, undo=None, kept=()):
        self.words, self.key, self.before, self.after, self.apply, self.undo = words, key, before, after, apply, undo
        self.kept = kept  # descriptors for the way back

    def release(self):
        """There is no way back any more."""
        while self.kept:
            os.close(self.kept.pop())


def claim(host, name):
    """What we noted when we made the root: the targets and devices that are ours, and the identities of the layers."""
    return (host.claims.read(NOUN, name) or {}).get("identity") or {}


def note(host, spec, wants):
    """Note it: what is no longer declared is found by this, and nothing else that somebody mounts inside is touched."""
    layers = {} if isinstance(spec.base, str) else _layers.identities(spec.base.layers())
    host.claims.complete(NOUN, spec.name, {"targets": sorted(want.target for want in wants if want.live), "layers": layers,
                                           "devices": sorted(device[0] for device in spec.devices)})


def replaced(host, name, yes):
    """Note, before it happens, that something else takes the place of what the root is over (``yes``), or that it is back. A root that is
    made forgets it; so a run that is killed in between leaves a root of which the next one knows that it has to be made anew."""
    noted = claim(host, name)
    if noted and yes != bool(noted.get("replaced")):
        host.claims.complete(NOUN, name, dict(noted, replaced=yes))


def _remember(host, spec, key, name):
    """Add one to what is noted, before it is made: a run that is killed then leaves nothing that is taken for somebody else's."""
    noted = claim(host, spec.name)
    if name not in noted.get(key, ()):
        host.claims.complete(NOUN, spec.name, dict(noted, **{key: sorted(list(noted.get(key, ())) + [name])}))


def _visit(host, spec):
    return inside.Inside(nsfs.pin_path(host, spec.name, "mnt"), host.proc)


def _of(spec):
    return "in the root of %s" % spec.name


def mount(host, spec, want, path):
    """What is declared and not there."""
    def apply():
        _remember(host, spec, "targets", want.target)
        source = _furnish.open_source(want) if want.kind == "bind" else -1
        try:
            with _visit(host, spec) as there, _mapped.acting(spec):
                os.fchdir(there.procfs)
                _furnish.make_want(there.root, want, source)
        finally:
            if source >= 0:
                os.close(source)
    after = " ".join((["bind of %s" % want.source] if want.kind == "bind" else [want.kind]) + want.words)
    return Change("mount %s %s" % (want.name, _of(spec)), path, None, after, apply, lambda: _detach(host, spec, path))


def _detach(host, spec, path):
    with _visit(host, spec) as there:
        fd = trees.resolve(there.root, path)
        try:
            # The descriptor's own mount, wherever its path leads by now; its /proc is the host's or of the sandbox's pid namespace,
            # so the link is taken from our descriptor of the host's.
            os.fchdir(there.procfs)
            syscalls.umount("self/fd/%d" % fd, syscalls.MNT_DETACH)
        finally:
            os.close(fd)


def unmount(host, spec, path, before):
    """What is there and not declared, or something else than declared. A clone is kept for the way back."""
    kept = []

    def apply():
        with _visit(host, spec) as there:
            fd = trees.resolve(there.root, path)
            try:
                kept.append(syscalls.open_tree(fd, "", syscalls.OPEN_TREE_CLONE | syscalls.AT_EMPTY_PATH | syscalls.AT_RECURSIVE))
            finally:
                os.close(fd)
        _detach(host, spec, path)

    def undo():
        with _visit(host, spec) as there:
            target = trees.resolve(there.root, path)
            try:
                syscalls.move_mount(kept[-1], target)
            finally:
                os.close(target)
    return Change("unmount %s %s" % (path, _of(spec)), path, before, None, apply, undo, kept)


def _set(host, spec, path, flags):
    with _visit(host, spec) as there:
        fd = trees.resolve(there.root, path)
        try:
            os.fchdir(there.procfs)
            syscalls.mount(None, "self/fd/%d" % fd, None, syscalls.MS_REMOUNT | syscalls.MS_BIND | flags)
        finally:
            os.close(fd)


def attributes(host, spec, path, before, after):
    """ro, nosuid, nodev, noexec of a mount."""
    now, then = (sum(bit for bit, word in WORDS if side.get(word)) for side in (before, after))
    words = [" ".join(word for bit, word in WORDS if flags & bit) or "rw" for flags in (now, then)]
    return Change("set %s on %s %s" % (words[1], path, _of(spec)), path, words[0], words[1],
                  lambda: _set(host, spec, path, then), lambda: _set(host, spec, path, now))


def resize(host, spec, path, before, after):
    """The size of a tmpfs; what is in it stays."""
    def act(size):
        with _visit(host, spec) as there:
            fd = trees.resolve(there.root, path)
            try:
                flags = os.fstatvfs(fd).f_flag & 0xf
                os.fchdir(there.procfs)
                syscalls.mount(None, "self/fd/%d" % fd, None, syscalls.MS_REMOUNT | flags, "size=%d" % size)
            finally:
                os.close(fd)
    return Change("set size of tmpfs on %s %s" % (path, _of(spec)), path + " size", before, after,
                  lambda: act(after), lambda: act(before))


def chmod(host, spec, path, before, after):
    """The mode of a tmpfs's root."""
    def act(mode):
        with _visit(host, spec) as there:
            fd = trees.resolve(there.root, path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fchmod(fd, mode)
            finally:
                os.close(fd)
    return Change("set mode of tmpfs on %s %s" % (path, _of(spec)), path + " mode", "%04o" % before, "%04o" % after,
                  lambda: act(after), lambda: act(before))


def _in_dev(host, spec, act):
    with _visit(host, spec) as there:
        dev = trees.resolve(there.root, "/dev", syscalls.O_PATH | os.O_DIRECTORY)
        try:
            if syscalls.fs_magic(dev) != 0x01021994:
                raise OSError(18, "this is not the tmpfs that was mounted", "/dev")
            os.fchdir(there.procfs)
            with _mapped.acting(spec):
                act(dev)
        finally:
            os.close(dev)


def _unlink(dev, name):
    try:
        parent = trees.resolve(dev, os.path.dirname(name) or ".", syscalls.O_PATH | os.O_DIRECTORY)
    except FileNotFoundError:
        return
    try:
        _uncover(parent, os.path.basename(name))
        os.unlink(os.path.basename(name), dir_fd=parent)
    except FileNotFoundError:
        pass
    finally:
        os.close(parent)


def _uncover(parent, name):
    """Unmount the device of the host's that may lie on a file in /dev; our working directory is the host's procfs."""
    try:
        fd = os.open(name, syscalls.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    except FileNotFoundError:
        return
    try:
        syscalls.umount(_furnish.on_fd(fd), syscalls.MNT_DETACH)
    except OSError as exc:
        if exc.errno != errno.EINVAL:  # nothing is mounted there: a node
            raise
    finally:
        os.close(fd)


def node(host, spec, name, before, number, mode, source=None):
    """A device that is missing, or another one than declared; with ``source`` a clone of the host's."""
    def apply():
        _remember(host, spec, "devices", name)
        fd = _furnish.open_device(source, number) if source else -1

        def act(dev):
            _unlink(dev, name)
            if source:
                _furnish.lay_device(dev, name, fd)
            else:
                _furnish.make_node(dev, name, number, mode)
        try:
            _in_dev(host, spec, act)
        finally:
            if fd >= 0:
                os.close(fd)
    return Change("make device /dev/%s %s" % (name, _of(spec)), "/dev/" + name, before,
                  "%d:%d %04o" % (os.major(number), os.minor(number), mode & 0o7777), apply,
                  lambda: _in_dev(host, spec, lambda dev: _unlink(dev, name)))


def no_node(host, spec, name):
    """A device that is no longer declared."""
    return Change("remove device /dev/%s %s" % (name, _of(spec)), "/dev/" + name, "there", None,
                  lambda: _in_dev(host, spec, lambda dev: _unlink(dev, name)))
