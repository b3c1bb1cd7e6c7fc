# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Making a prepared root: what the host gives is opened before, as detached mounts; all else is mounted inside, by descriptors.

No path inside the root is ever given to a privileged call: targets are resolved within it, and what is mounted is verified
by its magic number. mount(2) gets self/fd/N, with a procfs of the host's as the working directory.
"""

from __future__ import annotations

import errno
import os
import stat

from .._kernel import overlayfs, syscalls, trees
from .._model.errors import BulkheadError
from .._model.root import LINKS, NODES, NODEV, RO
from . import _layers, _mapped

_MAGIC = {"proc": 0x9FA0, "sysfs": 0x62656572, "tmpfs": 0x01021994}
_SHARED_SUPERBLOCK = ("sysfs", "cgroup2")  # read-only must be the mount alone: others use the same superblock


def on_fd(fd):
    return "self/fd/%d" % fd


def mount_on(fstype, target, flags, data=""):
    """Mount a file system on an open directory."""
    if fstype in _SHARED_SUPERBLOCK:
        try:
            context = syscalls.fsopen(fstype)
        except OSError as exc:
            if exc.errno != errno.ENOSYS:
                raise
            syscalls.mount(fstype, on_fd(target), fstype, flags & ~RO)
            return False
        try:
            syscalls.fsconfig_create(context)
            fd = syscalls.fsmount(context, flags)
        finally:
            os.close(context)
        try:
            syscalls.move_mount(fd, target)
        finally:
            os.close(fd)
    else:
        syscalls.mount(fstype, on_fd(target), fstype, flags, data)
    return True


def attach(fd, target, flags, recursive=False):
    """Attach a detached mount on an open directory or file, private and with these attributes."""
    late = False
    try:
        syscalls.mount_setattr(fd, attr_set=flags, propagation=syscalls.MS_PRIVATE, recursive=recursive)
    except OSError as exc:  # before Linux 5.12
        if exc.errno != errno.ENOSYS:
            raise
        late = True
    syscalls.move_mount(fd, target)
    if late:
        syscalls.mount(None, on_fd(fd), None, syscalls.MS_PRIVATE | (syscalls.MS_REC if recursive else 0))
        if flags:
            syscalls.mount(None, on_fd(fd), None, syscalls.MS_REMOUNT | syscalls.MS_BIND | flags | _kept(fd))


def _kept(fd):
    """The flags that a mount has already: a remount would clear what it does not name."""
    return os.fstatvfs(fd).f_flag & 0xf  # ST_RDONLY, NOSUID, NODEV and NOEXEC have the values of their MS_ twins


def is_null(fd):
    found = os.fstat(fd)
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == os.makedev(1, 3)


def open_source(want):
    """A detached clone of what a bind shows."""
    return syscalls.open_tree(syscalls.AT_FDCWD, want.source,
                              syscalls.OPEN_TREE_CLONE | (syscalls.AT_RECURSIVE if want.recursive else 0))


def make_want(root, want, source=-1):
    """Make one mount inside the tree ``root``. False when its target is not there and need not be (masks)."""
    try:
        target = trees.resolve(root, want.target)
    except FileNotFoundError:
        if want.kind in ("mask", "read_only"):
            return False
        target = _make_point(root, _point(root, want), _is_file(source))
    try:
        top = want.target.split("/")[1]
        if want.live and top in ("proc", "sys") and syscalls.fs_magic(target) != _MAGIC["proc" if top == "proc" else "sysfs"]:
            raise OSError(errno.EXDEV, "this is not on the kernel's file system", want.target)
        if want.kind == "bind":
            attach(source, target, want.flags, want.recursive)
        elif want.kind == "read_only":
            fd = syscalls.open_tree(target, "", syscalls.OPEN_TREE_CLONE | syscalls.AT_EMPTY_PATH | syscalls.AT_RECURSIVE)
            try:
                attach(fd, target, RO, recursive=True)
            finally:
                os.close(fd)
        elif want.kind == "mask":
            _mask(root, target, want)
        elif not mount_on(want.kind, target, want.flags, want.data):
            _remount(root, want)
    except OSError as exc:
        raise OSError(exc.errno, exc.strerror, want.target) from exc
    finally:
        os.close(target)
    return True


def _point(root, want):
    """The path that a mount lies on."""
    return trees.end_of_links(root, want.target) if want.follow else want.target


def _is_file(source):
    return source >= 0 and not stat.S_ISDIR(os.fstat(source).st_mode)


def _make_point(root, path, is_file):
    return (trees.make_file if is_file else trees.make_dirs)(root, path)


def _remount(root, want):
    fd = trees.resolve(root, want.target)
    try:
        syscalls.mount(None, on_fd(fd), None, syscalls.MS_REMOUNT | syscalls.MS_BIND | want.flags)
    finally:
        os.close(fd)


def _mask(root, target, want):
    if stat.S_ISDIR(os.fstat(target).st_mode):
        syscalls.mount("tmpfs", on_fd(target), "tmpfs", want.flags, "size=4k,mode=555")
        return
    null = trees.resolve(root, "/dev/null", syscalls.O_PATH | os.O_NOFOLLOW)
    try:
        fd = syscalls.open_tree(null, "", syscalls.OPEN_TREE_CLONE | syscalls.AT_EMPTY_PATH)
    finally:
        os.close(null)
    try:
        if not is_null(fd):
            raise OSError(errno.ENODEV, "/dev/null is no null device", want.target)
        attach(fd, target, 0)
    finally:
        os.close(fd)


def make_node(dev, name, number, mode):
    """A device below an open /dev."""
    parent = trees.make_dirs(dev, "/" + "/".join(name.split("/")[:-1])) if "/" in name else os.dup(dev)
    try:
        mask = os.umask(0)
        try:
            os.mknod(name.split("/")[-1], mode, number, dir_fd=parent)
        finally:
            os.umask(mask)
    finally:
        os.close(parent)


def open_device(source, number):
    """A detached clone of a device of the host's, for a user namespace, whose /dev may have no nodes of its own."""
    fd = syscalls.open_tree(syscalls.AT_FDCWD, source, syscalls.OPEN_TREE_CLONE)
    if os.fstat(fd).st_rdev != number:
        os.close(fd)
        raise OSError(errno.ENODEV, "this is not the device that it should be", source)
    return fd


def lay_device(dev, name, fd):
    """Such a clone below an open /dev."""
    target = trees.make_file(dev, "/" + name)
    try:
        attach(fd, target, 0)
    finally:
        os.close(target)


def device(source):
    """(device number, mode with its type) of a device of the host."""
    found = os.stat(source)
    if not (stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode)):
        raise OSError(errno.ENODEV, "this is no device", source)
    return found.st_rdev, found.st_mode


def _dangling(root, path):
    """The first link on the way to a path inside the tree that leads nowhere or in a circle; None when there is none."""
    walked = ""
    for name in trees.parts(path):
        walked += "/" + name
        if trees.exists(root, walked):
            continue
        try:
            fd = trees.resolve(root, walked, syscalls.O_PATH | os.O_NOFOLLOW)
        except OSError:
            return None
        try:
            return walked if stat.S_ISLNK(os.fstat(fd).st_mode) else None
        finally:
            os.close(fd)
    return None


class Furniture:
    """Opened in the host's namespaces; called once, in a copy of the template, by the process that has all the namespaces."""

    def __init__(self, host, spec, wants):
        self.spec, self.wants = spec, wants
        self.sources, self.nodes, self.root = {}, {}, -1
        self.flags = NODEV | (RO if spec.read_only else 0)
        try:
            self._open(host)
        except BaseException:
            self.close()
            raise

    def _open(self, host):
        spec = self.spec
        if spec.maps:
            self.root = _mapped.opened(host, spec)
        elif isinstance(spec.base, str):
            self.root = syscalls.open_tree(syscalls.AT_FDCWD, spec.base, syscalls.OPEN_TREE_CLONE)
        else:
            self.root = overlayfs.detached(spec.base.layers(), 0, _layers.short_links(host), _layers.stage(host))
        for want in self.wants:
            if want.kind == "bind":
                self.sources[want.target] = open_source(want)
        for name, number, mode in NODES:
            self.nodes[name] = ("/dev/" + name, os.makedev(*number), stat.S_IFCHR | mode)
        for name, source, mode in spec.devices:
            number, kind = device(source)
            self.nodes[name] = (source, number, kind if mode is None else stat.S_IFMT(kind) | mode)
        if "user" in spec.types:  # whose root may not make nodes: clones of the host's instead
            for name, (source, number, mode) in self.nodes.items():
                self.sources["/dev/" + name] = open_device(source, number)
        with _mapped.acting(spec):
            self._points()

    def _points(self):
        """Make the missing mount points that lie in the base, here, as the host's root. Those on other mounts are made inside."""
        covered = []
        for want in self.wants:
            if want.kind in ("mask", "read_only"):
                continue
            path = _point(self.root, want)
            if any((path + "/").startswith(place + "/") for place in covered if place != path):
                continue
            covered.append(path)
            is_file = _is_file(self.sources.get(want.target, -1))
            try:
                os.close(_make_point(self.root, path, is_file))
            except OSError as exc:
                if exc.errno == errno.EROFS:
                    raise BulkheadError("Cannot prepare the root of %s: it is read-only and has no %s to mount on. "
                                        "Add that to a layer, or give an upper." % (self.spec.name, path)) from exc
                link = _dangling(self.root, path)
                if link:
                    raise BulkheadError("Cannot prepare the root of %s: %s is a link that leads nowhere. Make it a %s in a layer."
                                        % (self.spec.name, link, "file" if is_file and link == path else "directory")) from exc
                raise

    def __call__(self):
        os.umask(0)
        os.chdir("/proc")
        here = os.open("/root", syscalls.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        attach(self.root, here, self.flags)
        os.close(here)
        for want in self.wants:
            made = make_want(self.root, want, self.sources.get(want.target, -1))
            if made and want.target == "/dev":
                self._dev()
        os.fchdir(self.root)
        syscalls.pivot_root(".", ".")  # stacks the old root on the new one
        syscalls.umount(".", syscalls.MNT_DETACH)
        os.chdir("/")
        os.umask(0o022)

    def _dev(self):
        dev = trees.resolve(self.root, "/dev", syscalls.O_PATH | os.O_DIRECTORY)
        try:
            if syscalls.fs_magic(dev) != _MAGIC["tmpfs"]:
                raise OSError(errno.EXDEV, "this is not the tmpfs that was mounted", "/dev")
            for name, (source, number, mode) in self.nodes.items():
                fd = self.sources.get("/dev/" + name)
                if fd is None:
                    make_node(dev, name, number, mode)
                else:
                    lay_device(dev, name, fd)
            for name, target in LINKS:
                os.symlink(target, name, dir_fd=dev)
            for name in ("pts", "shm", "mqueue"):
                os.mkdir(name, 0o755, dir_fd=dev)
        finally:
            os.close(dev)

    def close(self):
        for fd in [self.root] + list(self.sources.values()):
            if fd >= 0:
                os.close(fd)
        self.root, self.sources = -1, {}
