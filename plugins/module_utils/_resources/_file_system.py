# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A file system in a file on its way into the store: looked at, copied, mounted, and its tree looked through before it has a name."""

from __future__ import annotations

import errno
import hashlib
import os

from .._kernel import fsimage, loopdev, unpack
from .._kernel.tarstream import ArchiveError
from . import _mounted
from ._tree import Tree


def look(host, region, kind, limits):
    """The digest of a file, when this host can mount it and its head is as it should be."""
    why = _mounted.lacks(host, kind)
    if why:
        raise ArchiveError(why[0], advice=why[1])
    if region.size > limits["size"]:
        raise ArchiveError("it has more than %d bytes" % limits["size"], advice="Raise limits.size if that is as it should be")
    if fsimage.entries(region, kind) > limits["entries"]:
        raise ArchiveError("it has more than %d entries" % limits["entries"], advice="Raise limits.entries if that is as it should be")
    return region.digest()


def bring(spec, arrival, layer):
    """The digest of a layer on its way into the store: copied, mounted, looked through."""
    path = arrival.room()
    _copy(layer, path + "/file")
    try:
        loopdev.mount(path + "/file", path + "/tree", layer.filesystem, _mounted.FLAGS)
    except OSError as exc:
        raise _not_mounted(exc, layer.filesystem) from exc
    gate = unpack.Unpacker(None, spec.rules)
    root = os.open(path + "/tree", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for member in Tree(root):
            gate.look(member)
    except OSError as exc:
        raise ArchiveError("cannot be read: %s" % exc.strerror, exc.filename if isinstance(exc.filename, bytes) else b".") from exc
    finally:
        os.close(root)
    first = {word: None if name is None else os.fsdecode(name) for word, name in (("setuid", gate.setuid), ("devices", gate.devices))}
    return arrival.mounted(path, layer.digest, dict(first, filesystem=layer.filesystem, entries=gate.entries, size=layer.size))


def _not_mounted(exc, kind):
    if exc.errno == errno.ENODEV:
        return ArchiveError("this kernel has no %s" % kind, advice="Make a layer of another kind")
    return ArchiveError("it cannot be mounted: %s" % exc.strerror, advice="The log of the kernel says why; make it anew, for Linux as it is here")


def _copy(layer, path):
    found = hashlib.sha256()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o400)
    try:
        for chunk in layer.region.chunks():
            found.update(chunk)
            while chunk:
                chunk = chunk[os.write(fd, chunk):]
    finally:
        os.close(fd)
    if "sha256:" + found.hexdigest() != layer.digest:
        raise ArchiveError("it was changed while it was read")
