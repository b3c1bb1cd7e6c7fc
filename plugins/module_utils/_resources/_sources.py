# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What images are made from: an OCI image layout, a docker-archive, a tar archive, a directory of the host, what a sandbox has written,
the running host, a file that is a file system."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat

from .._kernel import manifest, streams, syscalls, tarstream, trees
from .._kernel.tarstream import ArchiveError
from .._model import bundle, oci
from .._model.errors import BulkheadError
from .._model.image import MOUNTED, digest_of
from . import _bootstrap, _file_system, _host_root, _sandbox_image, _storage, _store
from ._tree import Tree

_LINKS = 8  # of a docker-archive, from one layer to the same one under another name
_SMALL = oci.MOST
_KEPT = 16 * _SMALL  # bytes of documents of an archive that is compressed as a whole


class Layer:
    """Where the archive of one layer is; what is None is not known before it is read. Without ``region`` it is a directory, and
    ``digest`` that of the layer that it is to be. ``tree`` is the latter, where that is known of an archive; ``filesystem`` is what a
    layer is that is mounted."""

    __slots__ = ("region", "digest", "diff_id", "size", "tree", "filesystem")

    def __init__(self, region, digest=None, diff_id=None, size=None, tree=None, filesystem=None):
        self.region, self.digest, self.diff_id, self.size = region, digest, diff_id, size
        self.tree, self.filesystem = tree or (digest if region is None or filesystem else None), filesystem


class Content:
    """What was found out about a source: ``digest`` says which image it is, ``layers`` the lowest first, ``config`` as oci.config().

    ``digests`` are those that lead to it, too, as that of an index does.
    """

    __slots__ = ("digest", "layers", "config", "digests")

    def __init__(self, digest, layers, config=None, digests=()):
        self.digest, self.layers, self.config, self.digests = digest, layers, config or {}, list(digests) or [digest]


class Source:
    """A context in which descriptors are open. ``whole``: layers will be read, too, not only what tells of them."""

    def __init__(self, host, spec, whole=False):
        self.host, self.spec, self.whole = host, spec, whole
        self._open, self._rooms, self._choice = contextlib.ExitStack(), [], None

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self._open.close()
        for name in self._rooms:
            _store.discard(self.host, name)
        self._rooms = []

    def exists(self):
        return self.spec.source == "bootstrap" or os.path.lexists(self.spec.path)

    def key(self):
        """What is told without reading: of a file its identity, size and times; None where that does not say enough."""
        if self.spec.source == "host":
            return [self.spec.path, self._chosen().key()]
        if self.spec.source == "bootstrap":
            return [self.spec.path, _bootstrap.key(self.spec)]
        found = self._stat()
        if stat.S_ISDIR(found.st_mode):
            return _walked(self.spec.path) if self.spec.source in ("directory", "commit") else None
        return [self.spec.path, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]

    def _stat(self):
        try:
            return os.stat(self.spec.path)
        except OSError as exc:
            raise BulkheadError("Cannot import image %s from %s: it cannot be read: %s. Name what is there." % (
                self.spec.name, self.spec.path, exc.strerror)) from exc

    def content(self):
        """The Content; ArchiveError for what is wrong with it."""
        if self.spec.source == "host":
            return Content(self._chosen().key(), [Layer(None)])
        if self.spec.source == "bootstrap":
            known = _bootstrap.known(self.host, self.spec)
            if not known:
                _bootstrap.require(self.host, self.spec)
            return Content(_bootstrap.key(self.spec), [Layer(None, digest=digest) for digest in known or [None]])
        directory = stat.S_ISDIR(self._stat().st_mode)
        if self.spec.source == "directory":
            if not directory:
                raise ArchiveError("it is no directory")
            digest = self._digest_of_tree()
            return Content(digest, [Layer(None, digest=digest)])
        if self.spec.source == "oci" and directory:
            return self._oci(Folder(self._hold(os.open(self.spec.path, syscalls.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))))
        if self.spec.source == "commit":
            return self._commit()
        region = self.file()
        if self.spec.source in MOUNTED:
            digest = _file_system.look(self.host, region, self.spec.source, self.spec.limits)
            return Content(digest, [Layer(region, digest=digest, size=region.size, filesystem=self.spec.source)])
        if self.spec.source == "bundle":
            return self._bundle(Packed(tarstream.Reader(tarstream.Places(region)), region, self.spec.limits["entries"]))
        if self.spec.source == "tar":
            digest = region.digest()
            return Content(digest, [Layer(region, digest=digest, size=region.size)])
        packed = self._packed(region)
        return self._oci(packed) if self.spec.source == "oci" else self._docker(packed)

    def file(self):
        """The region of the source, a regular file."""
        return streams.Region(self._hold(_regular(os.open(self.spec.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))))

    def directory(self):
        return self._hold(os.open(self.spec.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))

    def _hold(self, fd):
        self._open.callback(os.close, fd)
        return fd

    def tree(self):
        """The members of a directory."""
        if self.spec.source == "bootstrap":
            self._rooms.append(_bootstrap.room_name())
            root, choice = _bootstrap.make(self.host, self.spec, self._rooms[-1])
            return Tree(self._hold(root), False, choice)
        if self.spec.source == "commit":
            return self._open.enter_context(_storage.of_name(self.host, self.spec.commit).members(self.host, self.spec.commit))
        return Tree(self.directory(), choice=self._chosen() if self.spec.source == "host" else None)

    def _chosen(self):
        self._choice = self._choice or _host_root.Choice(self.host, self.spec.host)
        return self._choice

    def _commit(self):
        """The layers of a sandbox, and what it has written over them."""
        below, config = _sandbox_image.layers(self.host, self.spec.commit)
        try:
            text = " ".join(below + [_storage.of_name(self.host, self.spec.commit).digest(self.host, self.spec.commit)])
        except OSError as exc:
            raise _of(exc) from exc
        return Content("sha256:" + hashlib.sha256(text.encode()).hexdigest(), [Layer(None, digest=digest) for digest in below] + [Layer(None)], config)

    def _digest_of_tree(self):
        try:
            return manifest.of(self.directory()).digest
        except OSError as exc:
            raise _of(exc) from exc

    def _packed(self, region):
        """The files of an archive of files; of one that is compressed as a whole, layers are to be had by unpacking it first."""
        limits = self.spec.limits
        if region.compression() is None:
            return Packed(tarstream.Reader(tarstream.Places(region)), region, limits["entries"])
        with streams.Plain(region, limits["size"], limits["ratio"]) as plain:
            if not self.whole:
                return Packed(tarstream.Reader(tarstream.Bytes(plain)), None, limits["entries"])
            fd = self._hold(_nameless(_store.layers_of(self.host)))
            for chunk in plain:
                while chunk:
                    chunk = chunk[os.write(fd, chunk):]
        region = streams.Region(fd)
        return Packed(tarstream.Reader(tarstream.Places(region)), region, limits["entries"])

    def _oci(self, files):
        """The one manifest that is meant, everything that leads to it verified."""
        layout = oci.document(files.read("oci-layout", _SMALL), "oci-layout")
        if layout.get("imageLayoutVersion") != "1.0.0":
            raise ArchiveError("oci-layout is not of imageLayoutVersion 1.0.0")

        def blob(entry, what):
            data = files.read(_blob(entry), _SMALL)
            if len(data) != entry.size or "sha256:" + hashlib.sha256(data).hexdigest() != entry.digest:
                raise ArchiveError("%s is not what its digest %s says" % (what, entry.digest))
            return data

        index = oci.document(files.read("index.json", _SMALL), "index.json")
        chosen, seen = oci.select(blob, index, "index.json", self.spec.reference, self.spec.platform)
        what = "the manifest %s" % chosen.digest
        config, layers = oci.parts(oci.document(blob(chosen, what), what), what)
        what = "the config %s" % config.digest
        service, diff_ids, platform = oci.config(oci.document(blob(config, what), what), what)
        if len(layers) != len(diff_ids):
            raise ArchiveError("it has %d layers, and its config tells of %d" % (len(layers), len(diff_ids)))
        if not chosen.platform:
            self._check_platform(platform)
        return Content(chosen.digest, [
            Layer(files.region(self, _blob(layer)), layer.digest, diff_id, layer.size) for layer, diff_id in zip(layers, diff_ids)], service, seen)

    def _check_platform(self, platform):
        if not oci.fits(platform, self.spec.platform):
            raise ArchiveError("it is for %s, not for %s" % ("/".join(filter(None, platform)), self.spec.platform),
                               advice="Set platform to take it all the same")

    def _docker(self, files):
        name, layers = oci.docker(oci.document(files.read("manifest.json", _SMALL), "manifest.json", list), self.spec.reference)
        data = files.read(name, _SMALL)
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        stem = os.path.basename(name).partition(".")[0]
        if len(stem) == 64 and "sha256:" + stem != digest:
            raise ArchiveError("the config %s is not what its name says" % name)
        service, diff_ids, platform = oci.config(oci.document(data, "the config " + name), "the config " + name)
        if len(layers) != len(diff_ids):
            raise ArchiveError("it has %d layers, and its config tells of %d" % (len(layers), len(diff_ids)))
        self._check_platform(platform)
        return Content(digest, [Layer(files.region(self, each), None, diff_id) for each, diff_id in zip(layers, diff_ids)], service)

    def _bundle(self, files):
        """An image with those of its layers that are in the bundle; the others are in the store."""
        layers, config = bundle.parse(files.read(bundle.NAME, _SMALL))
        packed, found = files.names() - {bundle.NAME}, []
        if packed - {bundle.file_of(digest) for digest, filesystem in layers}:
            raise ArchiveError("it has what is no layer of its image")
        for digest, filesystem in layers:
            if bundle.file_of(digest) in packed:
                region = files.region(self, bundle.file_of(digest))
                if filesystem and digest not in _store.layers(self.host) and digest != _file_system.look(self.host, region, filesystem, self.spec.limits):
                    raise ArchiveError("its layer %s is not what its digest says" % digest, advice=bundle.TAMPERED)
                found.append(Layer(region, digest=digest if filesystem else None, size=region.size, tree=digest, filesystem=filesystem))
            elif digest in _store.layers(self.host):
                found.append(Layer(None, digest=digest))
            else:
                raise ArchiveError("its layer %s is neither in it nor in the store" % digest, advice="Pack it with that layer")
        return Content(digest_of([digest for digest, filesystem in layers], config), found, config)


def _of(exc):
    """The ArchiveError for what the kernel says of a tree."""
    return ArchiveError(exc.strerror, exc.filename if isinstance(exc.filename, bytes) else None)


def _blob(entry):
    return "blobs/sha256/" + entry.digest.partition(":")[2]


class Folder:
    """Files below a directory, which may be hostile: nothing leads out of it, and what is not a regular file is not read."""

    def __init__(self, root):
        self._root = root

    def _file(self, name):
        try:
            return _regular(trees.resolve(self._root, name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        except OSError as exc:
            raise ArchiveError("its file %s cannot be read: %s" % (name, exc.strerror)) from exc

    def region(self, source, name):
        return streams.Region(source._hold(self._file(name)))  # pylint: disable=protected-access

    def read(self, name, most):
        fd = self._file(name)
        try:
            return streams.Region(fd).all(most, "its file " + name)
        finally:
            os.close(fd)


class Packed:
    """The files of an archive. Without ``region`` what is small was kept, and the rest can be named but not read."""

    def __init__(self, reader, region, entries):
        self._region, self._files, left = region, {}, _KEPT
        for member in reader:
            name = _plain(member.name)
            if name in self._files and member.kind != tarstream.DIRECTORY:
                raise ArchiveError("is there twice", member.name)
            if len(self._files) >= entries:
                raise ArchiveError("it has more than %d entries" % entries, advice="Raise limits.entries if that is as it should be")
            if member.kind == tarstream.FILE:
                start, kept = reader.at, None
                if region is None and member.size <= min(_SMALL, left):
                    kept = b"".join(map(bytes, reader.data()))
                    left -= len(kept)
                self._files[name] = (start, member.size, kept)
            elif member.kind in (tarstream.LINK, tarstream.SYMLINK):
                target = member.link if member.kind == tarstream.LINK else os.path.join(os.path.dirname(name), member.link)
                self._files[name] = _plain(target)

    def _find(self, name):
        found = _plain(name.encode("utf-8", "surrogatepass"))
        for dummy in range(_LINKS):
            place = self._files.get(found)
            if not isinstance(place, bytes):
                break
            found = place
        if not isinstance(place, tuple):
            raise ArchiveError("it has no file %s" % tarstream.shown(name.encode("utf-8", "surrogatepass")))
        return place

    def names(self):
        return {os.fsdecode(name) for name in self._files}

    def region(self, source, name):
        start, size, dummy = self._find(name)
        return self._region and streams.Region(self._region.fd, self._region.start + start, size)

    def read(self, name, most):
        start, size, kept = self._find(name)
        if size > most or (self._region is None and kept is None):
            raise ArchiveError("its file %s has %d bytes, and %d are allowed" % (name, size, most))
        return kept if kept is not None else self._region.read(start, size)


def _plain(name):
    """A name in one form; what leads out of the archive is in no archive."""
    found = os.path.normpath(name)
    if found.startswith((b"/", b"../")) or found == b"..":
        raise ArchiveError("leads out of the archive", name)
    return found


def _regular(fd):
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise ArchiveError("it is no regular file")
    return fd


def _nameless(directory):
    """A file that is gone when it is closed."""
    os.makedirs(directory, mode=0o700, exist_ok=True)
    path = "%s/.new-%d-archive" % (directory, os.getpid())
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    os.unlink(path)
    return fd


def _walked(path):
    """A digest of all that a directory tells without the content of its files being read."""
    told, fd = hashlib.sha256(), os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for entry in manifest.walk(fd):
            found = entry.stat
            told.update(b"%d %s %d %d %d %d %d %d\n" % (
                len(entry.path), entry.path, found.st_ino, found.st_mode, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_nlink))
    except OSError as exc:
        raise ArchiveError(exc.strerror, exc.filename if isinstance(exc.filename, bytes) else None) from exc
    finally:
        os.close(fd)
    return [path, "sha256:" + told.hexdigest()]
