# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Archives of images, made byte by byte, so that they can be wrong in any way: tar, OCI image layout, docker-archive."""

from __future__ import annotations

import hashlib
import json
import os
import platform

ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
INDEX, MANIFEST, CONFIG, LAYER = ("application/vnd.oci.image." + end for end in (
    "index.v1+json", "manifest.v1+json", "config.v1+json", "layer.v1.tar"))


def padded(data):
    return data + bytes(-len(data) % 512)


def octal(number, width):
    return b"%0*o\0" % (width - 1, number)


def header(name, kind=b"0", size=0, mode=0o644, owner=(0, 0), mtime=0, link=b"", device=(0, 0), prefix=b"", magic=b"ustar\x0000", **fields):
    """512 bytes. ``fields`` overwrite: {"size_field": bytes, …} in place of the formatted numbers; checksum: bytes."""
    raw = bytearray(512)

    def put(at, width, value):
        assert len(value) <= width, value
        raw[at:at + len(value)] = value

    put(0, 100, name)
    put(100, 8, fields.get("mode_field", octal(mode, 8)))
    put(108, 8, fields.get("uid_field", octal(owner[0], 8)))
    put(116, 8, octal(owner[1], 8))
    put(124, 12, fields.get("size_field", octal(size, 12)))
    put(136, 12, fields.get("mtime_field", octal(mtime, 12)))
    put(156, 1, kind)
    put(157, 100, link)
    put(257, 8, magic)
    put(329, 8, fields.get("major_field", octal(device[0], 8)))
    put(337, 8, octal(device[1], 8))
    put(345, 155, prefix)
    raw[148:156] = fields.get("checksum", b"%06o\0 " % (sum(raw) - sum(raw[148:156]) + 256))
    return bytes(raw)


def entry(name, data=b"", pax=None, **rest):
    """A header and its content, behind an extended header where ``pax`` is given: a dict, or the bytes of it."""
    before = b""
    if pax is not None:
        text = pax if isinstance(pax, bytes) else b"".join(record(key.encode() if isinstance(key, str) else key, value) for key, value in pax.items())
        before = header(b"pax", b"x", len(text)) + padded(text)
    return before + header(name[:100], size=rest.pop("size", len(data)), **rest) + padded(data)


def record(key, value):
    """One record of an extended header; its length counts itself."""
    length = len(key) + len(value) + 3
    while len(b"%d %s=%s\n" % (length, key, value)) != length:
        length = len(b"%d %s=%s\n" % (length, key, value))
    return b"%d %s=%s\n" % (length, key, value)


def directory(name, **rest):
    return entry(name, kind=b"5", **dict(dict(mode=0o755), **rest))


def symlink(name, target, **rest):
    return entry(name, kind=b"2", link=target, **dict(dict(mode=0o777), **rest))


def hard_link(name, target, **rest):
    return entry(name, kind=b"1", link=target, **rest)


def tar(*entries):
    return b"".join(entries) + bytes(1024)


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def write(path, data):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as stream:
        stream.write(data if isinstance(data, bytes) else json.dumps(data).encode())
    return str(path)


class Layout:
    """An OCI image layout of these layers (bytes of tar archives). What is wrong is put in between the parts."""

    def __init__(self, path, *layers, compress=None, config=None):
        self.path = str(path)
        self.blobs = []
        self.config = {"os": "linux", "architecture": ARCHITECTURE, "config": config or {},
                       "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]}}
        packed = [compress(layer) if compress else layer for layer in layers]
        self.manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "layers": [
            self.blob(layer, LAYER + {b"\x1f\x8b": "+gzip", b"\x28\xb5": "+zstd"}.get(layer[:2], "")) for layer in packed]}
        self.entry = {"annotations": {"org.opencontainers.image.ref.name": "latest"}}
        self.index = {"schemaVersion": 2, "manifests": []}
        self.layout = {"imageLayoutVersion": "1.0.0"}

    def blob(self, data, media_type):
        """Write a blob; its descriptor."""
        data = data if isinstance(data, bytes) else json.dumps(data).encode()
        write("%s/blobs/sha256/%s" % (self.path, digest(data)[7:]), data)
        return {"mediaType": media_type, "digest": digest(data), "size": len(data)}

    def done(self):
        """Write what leads to the layers; the path."""
        if isinstance(self.manifest, dict):
            self.manifest.setdefault("config", self.blob(self.config, CONFIG))
        self.index["manifests"].append(dict(self.blob(self.manifest, MANIFEST), **self.entry))
        write(self.path + "/index.json", self.index)
        write(self.path + "/oci-layout", self.layout)
        return self.path


def docker(path, *layers, tags=("it:latest",), **changes):
    """A docker-archive; ``changes`` to its manifest.json's entry."""
    config = json.dumps({"os": "linux", "architecture": ARCHITECTURE, "config": {"Cmd": ["/bin/true"]},
                         "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]}}).encode()
    names = ["%d/layer.tar" % number for number in range(len(layers))]
    told = dict({"Config": digest(config)[7:] + ".json", "RepoTags": list(tags), "Layers": names}, **changes)
    return write(path, tar(*[entry(name.encode(), layer) for name, layer in zip(names, layers)],
                           entry(digest(config)[7:].encode() + b".json", config), entry(b"manifest.json", json.dumps([told]).encode())))
