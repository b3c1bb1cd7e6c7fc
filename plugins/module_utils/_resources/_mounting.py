# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is mounted at an overlay's path, and the acts that mount, replace and unmount one there."""

from __future__ import annotations

import contextlib
import errno
import os

from .._kernel import inside, overlayfs, syscalls, trees
from .._model.errors import BulkheadError
from . import _layers

NOUN = "overlay"


def flags_of(spec, mount):
    """The attributes that the mount shall have: declared, else as they are."""
    now = set(mount.options) if mount is not None else set()
    flags = syscalls.MOUNT_ATTR_RDONLY if (("ro" in now) if spec.read_only is None else spec.read_only) else 0
    for key, bit in overlayfs.ATTRIBUTES.items():
        if spec.attributes.get(key, key in now):
            flags |= bit
    return flags


class Undeclared:
    read_only, attributes = None, {}


class Found:
    """What is at the path of an overlay: ``stack`` are the mounts there, the one that is reached last."""

    __slots__ = ("path", "stack", "mount", "layers", "promised")

    def __init__(self, host, namespace, path, required=True):
        self.promised = False
        self.path, table = look(host, namespace, path, required)
        if table is None:
            self.promised, self.stack = True, []
        else:
            top, self.stack = table.top(self.path), []
            while top is not None and top.target == self.path:
                self.stack.insert(0, top)
                top = table.by_id.get(top.parent)
        self.mount = self.stack[-1] if self.stack else None
        self.layers = _layers.read(host, self.mount) if self.is_overlay else None

    @property
    def is_overlay(self):
        return self.mount is not None and self.mount.fstype == "overlay"


def pin_of(host, namespace):
    return "%s/mntns/%s" % (host.state, namespace)


def look(host, namespace, path, required=True):
    """(where the path leads, the mount table there); no table when the namespace is only promised, or gone and not required."""
    if namespace is None:
        return os.path.realpath(path), host.mounts()
    pin = pin_of(host, namespace)
    if is_namespace(pin):
        with inside.Inside(pin, host.proc) as there:
            try:
                fd = trees.resolve(there.root, path)
            except OSError:
                return path, host.cached(("mounts", namespace), there.table)
            try:
                return os.readlink("self/fd/%d" % fd, dir_fd=there.procfs), host.cached(("mounts", namespace), there.table)
            finally:
                os.close(fd)
    if not required:
        return path, None
    if ("namespace", namespace) in host.promised or host.check:
        host.warn("The namespace %s does not exist yet; an earlier task is expected to make it." % namespace)
        return path, None
    raise BulkheadError("Cannot use overlay %s: no mount namespace %s is pinned. Make it with bulkhead.isolation.namespace."
                        % (path, namespace))


def is_namespace(path):
    """Is a namespace pinned here, or does a plain file lie there?"""
    try:
        return syscalls.fs_magic(path) == 0x6E736673
    except OSError:
        return False


def _tag(mount):
    return [mount.device, mount.id]


def owned(host, key, mount):
    claim = host.claims.read(NOUN, key)
    if claim is None:
        return False
    return claim.get("identity") is None or _tag(mount) in claim["identity"].get("mounts", ())


def place(spec):
    return spec.path if spec.namespace is None else "%s in namespace %s" % (spec.path, spec.namespace)


@contextlib.contextmanager
def visiting(host, spec):
    """In the mount namespace of the overlay."""
    if spec.namespace is None:
        yield None
    else:
        with inside.Inside(pin_of(host, spec.namespace), host.proc) as there:
            yield there


class Build:
    """The acts of a plan, with what they need."""

    def __init__(self, host, spec, found, layers, flags):
        self.host, self.spec, self.found, self.layers, self.flags = host, spec, found, layers, flags

    def _make(self, layers, flags):
        """A detached mount, or None where the kernel has none and it must be mounted in place."""
        try:
            return overlayfs.detached(layers, flags, _layers.short_links(self.host), _layers.stage(self.host))
        except OSError as exc:
            if exc.errno != errno.ENOSYS:
                raise
            if self.spec.namespace is not None:
                raise BulkheadError("Cannot mount overlay on %s: this kernel has no detached mounts (open_tree, Linux 5.2), which a "
                                    "pinned namespace needs. Mount it on the host." % place(self.spec)) from exc
            return None

    def _attach(self, layers, flags, beneath=False):
        """Claim, then mount: the claim has the identity before anything is to be seen."""
        host, spec, path = self.host, self.spec, self.found.path
        fd = self._make(layers, flags)
        if fd is None:
            host.claims.complete(NOUN, spec.key, None)
            overlayfs.mount_at(path, layers, flags, _layers.short_links(host))
            fd = os.open(path, syscalls.O_PATH | os.O_CLOEXEC)
            try:
                self._claim([_identity(host, fd)], layers)
            finally:
                os.close(fd)
            return False
        try:
            old = [_tag(mount) for mount in self.found.stack] if beneath else []
            self._claim([_identity(host, fd)] + old, layers)
            with visiting(host, spec) as there:
                target = trees.make_dirs(there.root, path) if there else os.open(path, syscalls.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    if not beneath:
                        syscalls.move_mount(fd, target)
                        return True
                    try:
                        syscalls.move_mount(fd, target, flags=syscalls.MOVE_MOUNT_BENEATH)
                        syscalls.umount(path, syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW)
                    except OSError as exc:
                        if exc.errno not in (errno.EINVAL, errno.EBUSY):  # before Linux 6.5, or not possible with this propagation
                            raise
                        syscalls.umount(path, syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW)
                        os.close(target)
                        target = os.open(path, syscalls.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                        syscalls.move_mount(fd, target)
                finally:
                    os.close(target)
            self._claim([_identity(host, fd)], layers)
        finally:
            os.close(fd)
        return True

    def _claim(self, mounts, layers):
        self.host.claims.complete(NOUN, self.spec.key, {"mounts": mounts, "layers": _layers.identities(layers)})

    def mount(self):
        self._attach(self.layers, self.flags)

    def unmount(self):
        self._unmount(1)
        self.host.claims.drop(NOUN, self.spec.key)

    def replace(self):
        if overlayfs.can_detach():
            self._attach(self.layers, self.flags, beneath=True)
        else:
            self._unmount(len(self.found.stack))
            self._attach(self.layers, self.flags)
        _layers.drop_links(self.host)

    def unmount_old(self):
        self._unmount(len(self.found.stack))
        self.host.claims.drop(NOUN, self.spec.key)
        if self.found.layers is not None:
            _layers.drop_links(self.host)

    def mount_old(self):
        """Undo unmount_old(). Only an overlay on top is made again; what else was there is beyond us, and the error says so."""
        if self.found.layers is not None:
            self._attach(self.found.layers, flags_of(Undeclared, self.found.mount))
        lost = [mount.fstype for mount in self.found.stack if mount is not self.found.mount or self.found.layers is None]
        if lost:
            raise BulkheadError("not mounted again: %s" % ", ".join(lost))

    def _unmount(self, count):
        flags = syscalls.UMOUNT_NOFOLLOW | (syscalls.MNT_DETACH if self.spec.lazy else 0)
        with visiting(self.host, self.spec):
            for dummy in range(count):
                try:
                    syscalls.umount(self.found.path, flags)
                except OSError as exc:
                    if exc.errno != errno.EINVAL:  # somebody else was faster
                        raise


def _identity(host, fd):
    """[MAJOR:MINOR, mount id] of an open mount, as mountinfo will show them."""
    device = os.fstat(fd).st_dev
    return ["%d:%d" % (os.major(device), os.minor(device)), trees.mount_id(fd, host.proc)]
