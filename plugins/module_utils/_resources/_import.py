# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The layers of a source, brought into the store: those that are there already are taken as they are, whoever brought them."""

from __future__ import annotations

import os

from .._kernel import manifest, streams, tarstream, unpack
from .._kernel.tarstream import ArchiveError
from .._model.bundle import TAMPERED
from .._model.image import digest_of
from . import _file_system, _store
from ._sources import Source


def bring(host, spec, wanted, key, config, damaged=()):
    """Unpack what is missing and give the image its name. ``wanted`` is the Content that was planned, ``key`` Source.key() then;
    ``config`` is said in place of what the source says; ``damaged`` layers are made anew."""
    arrival = _store.Arrival(host)
    try:
        with Source(host, spec, whole=True) as source:
            content = source.content()
            if content.digest != wanted.digest:
                raise ArchiveError("it was changed while it was read")
            digests = []
            for layer in content.layers:
                digests.append(_layer(host, spec, source, arrival, layer, digests, damaged))
        arrival.commit(spec.name, entry(spec, content, key, config, digests), damaged)
    except BaseException:
        arrival.clear()
        raise


def entry(spec, content, key, config, digests):
    """What the file of an image says."""
    made_from = dict(spec.made_from, path=spec.path, digest=content.digest, digests=content.digests, key=key)
    return named(spec.name, digests, content.config, config, made_from)


def named(name, digests, own, declared, made_from):
    """``own``: the config of the source; ``declared``: what the task says in place of it."""
    digests = _store.once(digests)
    config = {key: value for key, value in dict(own, **declared).items() if value is not None}
    return {"name": name, "digest": digest_of(digests, config), "layers": digests, "config": config,
            "own_config": own, "declared_config": declared, "made_from": made_from}


def allowed(spec, known):
    """Raise when a layer that is there already has what this declaration does not allow."""
    for key, allow, why in (("setuid", spec.allow_setuid, "is set-user-ID, set-group-ID or has capabilities"), ("devices", spec.allow_devices, "is a device")):
        if known.get(key) is not None and not allow:
            raise ArchiveError(why, os.fsencode(known[key]), "Set allow_%s: true to allow such files" % key)


def _layer(host, spec, source, arrival, layer, below, damaged):
    """The digest of one layer, in the store or on its way; ``below``: those of the layers under it, the lowest first."""
    there = layer.tree or layer.diff_id and _store.by_diff_id(host, layer.diff_id, below)
    if there in _store.layers(host) and there not in damaged:
        allowed(spec, _store.layers(host)[there])
        return there
    if layer.filesystem:
        return _file_system.bring(spec, arrival, layer)
    sources = []

    def fill(unpacker):
        if layer.region is None:
            unpack.whole(source.tree(), unpacker)
        else:
            diff_id = _archive(spec, layer, unpacker)
            sources.append({"diff_id": diff_id, "over": list(below) if unpacker.leans else None})

    digest = unpacked(arrival, arrival.room(), below, spec.rules, fill, {"sources": sources})
    if spec.source == "bundle" and digest != layer.tree:
        raise ArchiveError("its layer %s is not what its digest says" % layer.tree, advice=TAMPERED)
    return digest


def unpacked(arrival, path, below, rules, fill, known):
    """The digest of a new layer in a room: ``fill`` is called with the Unpacker of its tree, ``known`` is noted of it."""
    lowers = [arrival.tree(digest) for digest in reversed(below)]
    root, *lowers = opened = [os.open(each, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) for each in [path + "/tree"] + lowers]
    try:
        unpacker = unpack.Unpacker(root, rules, lowers)
        fill(unpacker)
        found = manifest.of(root, unpacker.known)
    finally:
        for fd in opened:
            os.close(fd)
    return arrival.layer(path, found, dict(known, setuid=_text(unpacker.setuid), devices=_text(unpacker.devices)))


def _text(name):
    return None if name is None else os.fsdecode(name)


def _archive(spec, layer, unpacker):
    """Unpack an archive and verify what it is; its diff_id."""
    if layer.size is not None and layer.size != layer.region.size:
        raise ArchiveError("its layer %s has %d bytes, not %d" % (layer.digest, layer.region.size, layer.size))
    with streams.Plain(layer.region, spec.limits["size"], spec.limits["ratio"]) as plain:
        unpack.whole(tarstream.Reader(tarstream.Bytes(plain)), unpacker)
    if layer.digest is not None and plain.digest() != layer.digest:
        raise ArchiveError("its layer %s is not what its digest says" % layer.digest)
    if layer.diff_id is not None and plain.diff_id() != layer.diff_id:
        raise ArchiveError("its layer %s is not what the config says: uncompressed it is %s" % (layer.diff_id, plain.diff_id()))
    return plain.diff_id()
