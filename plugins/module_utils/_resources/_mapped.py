# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The base of a root that is seen from a user namespace: layers, upper and directories with the ids of its maps.

Root inside is then root over the files of the image, and what it writes is stored with the ids that it has inside.
"""

from __future__ import annotations

import contextlib
import errno
import os

from .._kernel import idmap, inside, overlayfs, syscalls
from .._model.errors import BulkheadError, reason
from .._model.namespace import map_text
from . import _layers
from ._birth import template

_SINCE = (5, 19)  # before, overlay takes no idmapped layers


def acting(spec):
    """A context in which we make files as the root inside; without a user namespace, as ourselves."""
    if not spec.maps:
        return contextlib.nullcontext()
    return idmap.Acting(*[idmap.mapped(0, lines) for lines in spec.maps])


def owner(spec, path):
    """(uid, gid) that a base with this directory on top shows on the host, None where it is not mapped or not there."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    ids = tuple(idmap.mapped(number, lines) for number, lines in zip((found.st_uid, found.st_gid), spec.maps))
    return None if None in ids else ids


def check(host, spec):
    """Refuse, before anything is touched, what this kernel cannot show with other ids. Looked at by a clone that is mounted nowhere."""
    layers = None if isinstance(spec.base, str) else spec.base.layers()
    for key, lines in zip(("uid_map", "gid_map"), spec.maps):
        if idmap.mapped(0, lines) is None:
            raise _refusal(spec, "its %s has nothing for the id 0 inside, which owns the files of a root" % key, "Add such a line")
    if layers is not None and overlayfs.release() < _SINCE:
        raise _refusal(spec, "this kernel has no overlay over idmapped layers (Linux 5.19)")
    wanted = [spec.base] if layers is None else layers.lower + layers.data
    if layers is not None and layers.upper:
        top = _common(layers)
        if top == "/":
            raise _refusal(spec, "its upper %s and work %s have no directory in common" % (layers.upper, layers.work), "Put both into one")
        while not os.path.isdir(top):  # ours, which are made later
            top = os.path.dirname(top)
        wanted.append(top)
    known = host.cached("idmapped file systems", dict)
    for path in wanted:
        mount = host.mounts().holder(os.path.realpath(path))
        if mount is None or not os.path.isdir(path):
            continue  # said elsewhere
        if mount.id not in known:
            known[mount.id] = _probe(host, path, mount.fstype)
        if known[mount.id]:
            raise _refusal(spec, known[mount.id] % path)


def _probe(host, path, fstype):
    """None, or why not; with the place of the path."""
    try:
        users = idmap.user_namespace("0 100000 1\n", "0 100000 1\n", host.proc)
        try:
            os.close(idmap.clone(path, users))
        finally:
            os.close(users)
    except OSError as exc:
        if exc.errno == errno.ENOSYS:
            return "this kernel cannot show %s with the ids of a user namespace (mount_setattr, Linux 5.12)"
        if exc.errno == errno.EINVAL:
            return "%%s is on %s, which this kernel cannot show with the ids of a user namespace" % fstype
        return "%%s cannot be shown with the ids of a user namespace: %s" % reason(exc).split(" (")[0].replace("%", "%%")
    return None


def _refusal(spec, why, advice="Leave user out of the namespaces, or put the files elsewhere"):
    return BulkheadError("Cannot prepare the root of %s: %s. %s." % (spec.name, why, advice))


def _common(layers):
    return os.path.commonpath([os.path.realpath(layers.upper), os.path.realpath(layers.work)])


def opened(host, spec):
    """The detached mount of the base."""
    users = idmap.user_namespace(map_text(spec.maps[0]), map_text(spec.maps[1]), host.proc)
    try:
        if isinstance(spec.base, str):
            return idmap.clone(spec.base, users)
        return _overlay(host, spec, users)
    finally:
        os.close(users)


def _overlay(host, spec, users):
    """An overlay of idmapped clones.

    They are mounted in a mount namespace that lives for this call, each at the path of what it is a clone of: so the kernel is
    told the layers as ever, by descriptor or by name, and shows them by their own names. Overlayfs acts for those who use it with
    the ids of who mounts it; on these layers only mapped ones have a name, so it is mounted as the root inside.
    """
    layers = spec.base.layers()
    layers.lower, layers.data = ([os.path.realpath(path) for path in paths] for paths in (layers.lower, layers.data))
    points = [(path, False) for path in layers.lower + layers.data]
    if layers.upper:  # which must be on one mount with its work
        points.insert(0, (_common(layers), True))
        layers.upper, layers.work = os.path.realpath(layers.upper), os.path.realpath(layers.work)
    links, clones = _layers.short_links(host), []
    try:
        for path, recursive in points:
            clones.append((path, idmap.clone(path, users, recursive)))
        if overlayfs.wants_links(layers):
            os.makedirs(links, mode=0o700, exist_ok=True)
            clones.append((links, syscalls.open_tree(syscalls.AT_FDCWD, links, syscalls.OPEN_TREE_CLONE)))
        with inside.Inside(template(host), host.proc):
            syscalls.unshare(syscalls.CLONE_NEWNS)
            syscalls.mount("bulkhead", "/root", "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, "mode=755")
            os.chroot("/root")
            os.chdir("/")
            for path, fd in clones:
                os.makedirs(path, exist_ok=True)
                point = os.open(path, syscalls.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    syscalls.move_mount(fd, point)
                finally:
                    os.close(point)
            with acting(spec):
                return overlayfs.detached(layers, 0, links, _layers.stage(host))
    finally:
        for path, fd in clones:
            os.close(fd)
        _layers.remove_if_empty(links)
