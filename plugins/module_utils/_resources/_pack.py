# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An image written as a bundle: one file, for a store that lacks some of its layers. Everything in it is known by the image's digest.

    bundle.json       the layers of the image, the lowest first, and its config
    layers/HEX        a layer: the archive of its tree, of which HEX is the digest, or the file system that it is, of which HEX is the sha256

It may be written to a directory where everybody may write: what is there is neither followed nor believed.
"""

from __future__ import annotations

import os
import stat

from .._kernel import streams, tarstream, tarwrite
from .._model import bundle
from .._model.errors import BulkheadError
from . import _store
from ._sources import Packed

_FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_MOST = 1 << 16  # files


def plan(host, spec, plan, imported):
    """A step where the bundle is not there, or is another one. ``imported``: the image itself is about to change."""
    pack, known = spec.pack, _store.image(host, spec.name)
    if not os.path.isdir(os.path.dirname(pack.path)):
        raise BulkheadError("Cannot pack image %s to %s: there is no directory to make it in. Make it first." % (spec.name, pack.path))
    if os.path.lexists(pack.path) and not _is_ours(pack.path):
        raise BulkheadError("Cannot pack image %s to %s: something else is there. Remove it, or name another path." % (spec.name, pack.path))
    if not imported:
        for digest in pack.layers or ():
            if digest not in known["layers"]:
                raise BulkheadError("Cannot pack image %s: it has no layer %s. Look again at what it has." % (spec.name, digest))
        if _is_packed(host, pack, known):
            return
    plan.differ("pack", None, pack.path)
    plan.add("pack image %s to %s" % (spec.name, pack.path), lambda: _write(host, spec))


def result(host, name, path):
    """Of a bundle that is there: its path, the digests of the layers in it, its size in bytes; None."""
    known = _store.image(host, name)
    names, size = _names(path) if known else ((), 0)
    return {"path": path, "layers": [digest for digest in known["layers"] if bundle.file_of(digest) in names], "size": size} if names else None


def _document(host, known):
    return bundle.document([(digest, _store.layers(host)[digest].get("filesystem")) for digest in known["layers"]], known["config"])


def _wanted(pack, known):
    return [digest for digest in known["layers"] if pack.layers is None or digest in pack.layers]


def _open(path):
    fd = os.open(path, os.O_RDONLY | _FILE)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(0, "no regular file")
    return fd


def _is_ours(path):
    """Does it begin as a bundle?"""
    try:
        fd = _open(path)
    except OSError:
        return False
    try:
        return next(iter(tarstream.Reader(tarstream.Places(streams.Region(fd))))).name == bundle.NAME.encode()
    except (tarstream.ArchiveError, StopIteration):
        return False
    finally:
        os.close(fd)


def _files(fd):
    return Packed(tarstream.Reader(tarstream.Places(streams.Region(fd))), streams.Region(fd), _MOST)


def _names(path):
    """(the names in a bundle, its size)."""
    try:
        fd = _open(path)
    except OSError:
        return (), 0
    try:
        return _files(fd).names(), os.fstat(fd).st_size
    except tarstream.ArchiveError:
        return (), 0
    finally:
        os.close(fd)


def _is_packed(host, pack, known):
    """Is the bundle there, whole, and its owner's alone? Nobody else can have written it, and who receives it trusts nothing of it."""
    try:
        fd = _open(pack.path)
    except OSError:
        return False
    try:
        found, files = os.fstat(fd), _files(fd)
        return (found.st_uid, stat.S_IMODE(found.st_mode)) == (pack.owner, 0o400) and files.read(bundle.NAME, 1 << 30) == _document(host, known) and \
            files.names() == {bundle.NAME} | {bundle.file_of(digest) for digest in _wanted(pack, known)}
    except tarstream.ArchiveError:
        return False
    finally:
        os.close(fd)


def _write(host, spec):
    """Beside its place first, for nobody else until it is whole, then into it."""
    parent, name = os.path.split(spec.pack.path)
    known, partial = _store.image(host, spec.name), "%s/.%s.bulkhead-new" % (parent, name)
    if os.path.lexists(partial):
        os.unlink(partial)
    fd = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | _FILE, 0o600)
    try:
        with open(fd, "wb", closefd=False) as stream:
            _entry(stream, bundle.NAME, [_document(host, known)])
            for digest in _wanted(spec.pack, known):
                _layer(host, stream, digest)
            stream.write(bytes(2 * tarstream.BLOCK))
        os.fchmod(fd, 0o400)
        os.fchown(fd, spec.pack.owner, -1)
        os.rename(partial, spec.pack.path)
    except BaseException:
        os.unlink(partial)
        raise
    finally:
        os.close(fd)


def _layer(host, stream, digest):
    if _store.layers(host)[digest].get("filesystem"):
        fd = os.open(_store.place(host, digest) + "/file", os.O_RDONLY | _FILE)
        chunks = streams.Region(fd).chunks()
    else:
        fd = os.open(_store.tree(host, digest), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        chunks = tarwrite.archive(fd)
    try:
        _entry(stream, bundle.file_of(digest), chunks)
    finally:
        os.close(fd)


def _entry(stream, name, chunks):
    """A file of the bundle, whose size is known only when it is written: the header is written twice, with the same length."""
    start = stream.tell()
    stream.write(tarwrite.file_header(name, 0))
    size = 0
    for chunk in chunks:
        size += len(chunk)
        stream.write(chunk)
    stream.write(bytes(-size % tarstream.BLOCK))
    end = stream.tell()
    stream.seek(start)
    stream.write(tarwrite.file_header(name, size))
    stream.seek(end)
