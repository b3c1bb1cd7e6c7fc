# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An image written as an OCI image layout, for other tools and other hosts. The same image is always the same bytes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil

from .._kernel import tarwrite
from .._model import oci
from .._model.errors import BulkheadError
from . import _store

_DIGEST = "io.bulkhead.image.digest"  # annotation: which image of the store it is


def plan(host, spec, plan, imported):
    """A step where the layout is not there, or is that of another image. ``imported``: the image itself is about to change."""
    there = _exported(spec.export)
    if there is None and os.path.lexists(spec.export):
        raise BulkheadError("Cannot export image %s to %s: something else is there. Remove it, or name another path." % (spec.name, spec.export))
    if not os.path.isdir(os.path.dirname(spec.export)):
        raise BulkheadError("Cannot export image %s to %s: there is no directory to make it in. Make it first." % (spec.name, spec.export))
    if imported or there != _digest(host, spec.name):
        plan.differ("export", "of another image" if there else None, spec.export)
        plan.add("export image %s to %s" % (spec.name, spec.export), lambda: _export(host, spec.name, spec.export))


def _digest(host, name):
    return _store.image(host, name)["digest"]


def _exported(path):
    """The digest of the image that was exported there, "" where it is not whole; None when what is there is no export."""
    if not os.path.isdir(path) or not set(os.listdir(path)) <= {"oci-layout", "index.json", "blobs"}:
        return None
    try:
        with open(path + "/index.json", "rb") as stream:
            index = oci.document(stream.read(oci.MOST), "index.json")
        return index["annotations"][_DIGEST]
    except (OSError, oci.ArchiveError, KeyError, TypeError):
        return "" if not os.listdir(path) else None


def _export(host, name, path):
    """Beside its place first, then into it; what was there goes last."""
    known, (parent, last) = _store.image(host, name), os.path.split(path)
    new, old = ("%s/.%s.bulkhead-%s" % (parent, last, word) for word in ("new", "old"))
    for left in (new, old):
        shutil.rmtree(left, ignore_errors=True)
    try:
        os.makedirs(new + "/blobs/sha256", mode=0o755)
        layers = [_layer(host, new, digest) for digest in known["layers"]]
        platform = (known["made_from"].get("platform") or oci.own_platform()).split("/")
        config = _blob(new, oci.config_document(known["config"], platform, [layer["digest"] for layer in layers]), oci.CONFIG)
        manifest = _blob(new, {"schemaVersion": 2, "mediaType": oci.MANIFEST, "config": config, "layers": layers}, oci.MANIFEST)
        manifest.update(platform=dict(zip(("os", "architecture", "variant"), platform)), annotations={oci.NAME: name})
        _write(new + "/oci-layout", {"imageLayoutVersion": "1.0.0"})
        _write(new + "/index.json", {"schemaVersion": 2, "mediaType": oci.INDEX, "manifests": [manifest], "annotations": {_DIGEST: known["digest"]}})
        _store.flush(new)
        if os.path.lexists(path):
            os.rename(path, old)
        os.rename(new, path)
    except BaseException:
        if os.path.lexists(old) and not os.path.lexists(path):
            os.rename(old, path)
        shutil.rmtree(new, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _layer(host, layout, digest):
    """Write a layer as an archive, uncompressed, so that its digest is its diff_id; its descriptor."""
    root = os.open(_store.tree(host, digest), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    partial, found, size = layout + "/blobs/partial", hashlib.sha256(), 0
    try:
        with open(partial, "wb", opener=_private) as stream:
            for chunk in tarwrite.archive(root):
                found.update(chunk)
                size += len(chunk)
                stream.write(chunk)
    finally:
        os.close(root)
    os.rename(partial, "%s/blobs/sha256/%s" % (layout, found.hexdigest()))
    return {"mediaType": oci.LAYER, "digest": "sha256:" + found.hexdigest(), "size": size}


def _private(path, flags):
    """A layer may hold what only some may read."""
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _blob(layout, value, media_type):
    data = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    digest = hashlib.sha256(data).hexdigest()
    _store.write("%s/blobs/sha256/%s" % (layout, digest), data)
    return {"mediaType": media_type, "digest": "sha256:" + digest, "size": len(data)}


def _write(path, value):
    _store.write(path, json.dumps(value, sort_keys=True).encode())
