# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The documents of an OCI image layout and of a docker-archive: index, manifest, config. Untrusted, and so read strictly.

A document that could be taken for two kinds, a descriptor that points elsewhere than at a blob, a key that is there twice: refused.
"""

from __future__ import annotations

import json
import os

from .._kernel.tarstream import ArchiveError

MOST = 4 << 20  # bytes of one document
_DEPTH = 4  # of indexes in indexes
INDEX, MANIFEST, CONFIG, LAYER = ("application/vnd.oci.image." + end for end in ("index.v1+json", "manifest.v1+json", "config.v1+json", "layer.v1.tar"))
NAME = "org.opencontainers.image.ref.name"
_INDEX = (INDEX, "application/vnd.docker.distribution.manifest.list.v2+json")
_MANIFEST = (MANIFEST, "application/vnd.docker.distribution.manifest.v2+json")
_CONFIG = (CONFIG, "application/vnd.docker.container.image.v1+json")
_DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
_LAYERS = tuple(LAYER + end for end in ("", "+gzip", "+zstd")) + tuple(_DOCKER_LAYER + end for end in ("", ".gzip", ".zstd"))
_NAMES = (NAME, "io.containerd.image.name")
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "armv6l": "arm", "i686": "386", "i386": "386"}


class Descriptor:
    """Where a blob is, by its digest, and what it is said to be."""

    __slots__ = ("digest", "size", "media_type", "platform", "names")

    def __init__(self, value, what):
        value = _kind(value, dict, what)
        self.digest, self.size = digest(value.get("digest"), what), _kind(value.get("size"), int, what + ": its size")
        self.media_type = _kind(value.get("mediaType"), str, what + ": its mediaType")
        if value.get("urls"):
            raise ArchiveError("%s is to be fetched from elsewhere, which is not supported" % what)
        if self.size < 0 or isinstance(self.size, bool):
            raise ArchiveError("%s has an impossible size" % what)
        self.platform = platform_of(value.get("platform"), what)
        annotations = _kind(value.get("annotations") or {}, dict, what + ": its annotations")
        self.names = [annotations[key] for key in _NAMES if isinstance(annotations.get(key), str)]


def digest(value, what):
    """sha256:HEX; other algorithms are not in use."""
    hexadecimal = value[7:] if isinstance(value, str) and value.startswith("sha256:") else ""
    if len(hexadecimal) != 64 or set(hexadecimal) - set("0123456789abcdef"):
        raise ArchiveError("%s has no digest of the form sha256:…" % what)
    return value


def _kind(value, kind, what):
    if not isinstance(value, kind):
        raise ArchiveError("%s is not a%s" % (what, {dict: "n object", list: " list", str: " text", int: " number"}[kind]))
    return value


def document(data, what, kind=dict):
    """JSON, each key once."""
    def pairs(found):
        keys = [key for key, value in found]
        if len(set(keys)) != len(keys):
            raise ArchiveError("%s has a key twice" % what)
        return dict(found)

    try:
        return _kind(json.loads(data.decode("utf-8"), object_pairs_hook=pairs), kind, what)
    except (ValueError, RecursionError):
        raise ArchiveError("%s is not JSON" % what) from None


def platform_of(value, what):
    """(os, architecture, variant), None where it is not told."""
    if value is None:
        return None
    value = _kind(value, dict, what + ": its platform")
    return tuple(_kind(value.get(key) or "", str, what + ": its platform") for key in ("os", "architecture", "variant"))


def own_platform():
    machine = os.uname().machine
    return "linux/" + _MACHINES.get(machine, machine)


def fits(found, wanted):
    """Is a platform the wanted one, given as `os/architecture[/variant]`? One that is not told fits."""
    if found is None:
        return True
    parts = wanted.split("/")
    return list(found[:len(parts)]) == parts


def select(read, index, what, reference, wanted):
    """The Descriptor of the one manifest that is meant, and the digests of all that lead to it.

    ``read(descriptor, what)`` gives the verified content of a blob; ``reference`` is a tag or a digest, or None.
    """
    found = list(_manifests(read, index, what, reference, ()))
    meant = [(entry, seen) for entry, seen in found if fits(entry.platform, wanted)]
    if not meant:
        if found:
            raise ArchiveError("it is for %s, not for %s" % (", ".join(sorted({"/".join(filter(None, entry.platform)) for entry, seen in found})), wanted),
                               advice="Set platform to take one of these all the same")
        raise ArchiveError("it has no image %s" % reference if reference else "it has no image",
                           advice="It has %s" % (", ".join(_references(index)) or "no names"))
    if len({entry.digest for entry, seen in meant}) > 1:
        raise ArchiveError("it has several images: %s" % ", ".join(sorted({name for entry, seen in meant for name in entry.names or [entry.digest]})[:10]),
                           advice="Set reference or platform")
    return meant[0]


def _references(index):
    return sorted({name for value in index.get("manifests", ()) if isinstance(value, dict)
                   for name in Descriptor(value, "an entry").names})[:10]


def _manifests(read, index, what, reference, seen):
    """(Descriptor, the digests that lead to it) of all manifests that a reference, or no reference, can mean."""
    if len(seen) > _DEPTH:
        raise ArchiveError("%s is nested more than %d deep" % (what, _DEPTH))
    _version(index, what, _INDEX, ("layers", "config"))
    for number, value in enumerate(_kind(index.get("manifests"), list, what + ": its manifests")):
        entry = Descriptor(value, "%s: its manifests[%d]" % (what, number))
        if reference and entry.digest != reference and reference not in entry.names and not any(
                name.endswith(":" + reference) for name in entry.names):
            # An index in this one may have it, by its digest.
            if entry.media_type not in _INDEX or not reference.startswith("sha256:"):
                continue
            below = reference
        else:
            below = None
        if entry.media_type in _INDEX:
            if entry.digest in seen:
                raise ArchiveError("%s leads to itself" % what)
            name = "the index %s" % entry.digest
            yield from _manifests(read, document(read(entry, name), name), name, below, seen + (entry.digest,))
        elif entry.media_type in _MANIFEST:
            if entry.platform is None or entry.platform[0] != "unknown":  # what is no image but says something of one
                yield entry, seen + (entry.digest,)
        else:
            raise ArchiveError("%s: its manifests[%d] is of an unknown kind %.80r" % (what, number, entry.media_type))


def _version(value, what, kinds, foreign):
    if value.get("schemaVersion") != 2 or isinstance(value["schemaVersion"], bool):
        raise ArchiveError("%s is not of schemaVersion 2" % what)
    if value.get("mediaType", kinds[0]) not in kinds:
        raise ArchiveError("%s says that it is of another kind" % what)
    for key in foreign:
        if key in value:
            raise ArchiveError("%s has %s, as something of another kind has" % (what, key))


def parts(manifest, what):
    """(the Descriptor of the config, those of the layers, the lowest first)."""
    _version(manifest, what, _MANIFEST, ("manifests", "fsLayers"))
    config = Descriptor(manifest.get("config"), what + ": its config")
    if config.media_type not in _CONFIG:
        raise ArchiveError("%s is no image: its config is of an unknown kind %.80r" % (what, config.media_type))
    layers = [Descriptor(value, "%s: its layers[%d]" % (what, number))
              for number, value in enumerate(_kind(manifest.get("layers"), list, what + ": its layers"))]
    for number, layer in enumerate(layers):
        if layer.media_type not in _LAYERS:
            raise ArchiveError("%s: its layers[%d] is of an unknown kind %.80r" % (what, number, layer.media_type))
    return config, layers


def docker(entries, reference):
    """(the name of the config, those of the layers) of the one image of a docker-archive's manifest.json that is meant."""
    found = []
    for number, entry in enumerate(entries):
        what = "manifest.json[%d]" % number
        entry = _kind(entry, dict, what)
        tags = [_kind(tag, str, what + ": its RepoTags") for tag in _kind(entry.get("RepoTags") or [], list, what + ": its RepoTags")]
        config = _kind(entry.get("Config"), str, what + ": its Config")
        layers = [_kind(layer, str, what + ": its Layers") for layer in _kind(entry.get("Layers"), list, what + ": its Layers")]
        if not reference or reference in tags or any(tag.endswith(":" + reference) for tag in tags) or reference in "sha256:" + config:
            found.append((config, layers, tags))
    if len(found) != 1:
        names = sorted({tag for config, layers, tags in found for tag in tags} if found else {
            tag for entry in entries for tag in entry.get("RepoTags") or []})[:10]
        raise ArchiveError("it has several images: %s" % ", ".join(names) if found else "it has no image %s" % (reference or ""),
                           advice="Set reference" if found else "It has %s" % (", ".join(names) or "no names"))
    return found[0][:2]


def config(value, what):
    """(what a service can take from it, the digests of the uncompressed layers, the platform) of an image's config."""
    rootfs = _kind(value.get("rootfs"), dict, what + ": its rootfs")
    if rootfs.get("type") != "layers":
        raise ArchiveError("%s: its rootfs is of an unknown type" % what)
    diff_ids = [digest(each, "%s: its diff_ids[%d]" % (what, number))
                for number, each in enumerate(_kind(rootfs.get("diff_ids"), list, what + ": its diff_ids"))]
    platform = tuple(_kind(value.get(key) or "", str, what + ": its " + key) for key in ("os", "architecture", "variant"))
    return _service(_kind(value.get("config") or {}, dict, what + ": its config"), what), diff_ids, platform


def _service(value, what):
    def each(key, kind):
        found = value.get(key)
        return None if found in (None, "", [], {}) else _kind(found, kind, "%s: its %s" % (what, key))

    def texts(key, found):
        for text in found or ():
            if "\0" in _kind(text, str, "%s: its %s" % (what, key)):
                raise ArchiveError("%s: its %s has a NUL" % (what, key))
        return found

    env = dict(entry.partition("=")[::2] for entry in texts("Env", each("Env", list)) or () if not entry.startswith("="))
    labels = each("Labels", dict) or {}
    texts("Labels", list(labels.values()))
    found = {
        "entrypoint": texts("Entrypoint", each("Entrypoint", list)), "command": texts("Cmd", each("Cmd", list)),
        "env": env, "user": each("User", str), "workdir": each("WorkingDir", str), "stop_signal": each("StopSignal", str), "labels": labels,
        "ports": sorted(each("ExposedPorts", dict) or ()), "volumes": sorted(each("Volumes", dict) or ()),
        "health": _health(each("Healthcheck", dict), what, texts),
    }
    return {key: kept for key, kept in found.items() if kept}


def _health(value, what, texts):
    """Docker's own addition: the command, and times in microseconds as everywhere here."""
    test = texts("Healthcheck", _kind(value.get("Test") or [], list, what + ": its Healthcheck")) if value else []
    if not test or test[0] not in ("CMD", "CMD-SHELL") or len(test) < 2:
        return None
    found = {"command": test[1:] if test[0] == "CMD" else ["/bin/sh", "-c", test[1]]}
    for key, name in (("Interval", "interval"), ("Timeout", "timeout"), ("StartPeriod", "start_period")):
        if value.get(key):
            found[name] = _kind(value[key], int, what + ": its Healthcheck") // 1000
    if value.get("Retries"):
        found["retries"] = _kind(value["Retries"], int, what + ": its Healthcheck")
    return found


def config_document(service, platform, diff_ids):
    """The inverse of config(): the document for what a service can take from an image."""
    told = {"Entrypoint": service.get("entrypoint"), "Cmd": service.get("command"), "User": service.get("user"), "WorkingDir": service.get("workdir"),
            "Env": ["%s=%s" % pair for pair in sorted(service.get("env", {}).items())], "StopSignal": service.get("stop_signal"),
            "Labels": service.get("labels"), "ExposedPorts": {port: {} for port in service.get("ports", ())},
            "Volumes": {path: {} for path in service.get("volumes", ())}}
    health = service.get("health")
    if health:
        told["Healthcheck"] = {"Test": ["CMD"] + health["command"], "Retries": health.get("retries"), "Interval": health.get("interval", 0) * 1000,
                               "Timeout": health.get("timeout", 0) * 1000, "StartPeriod": health.get("start_period", 0) * 1000}
        told["Healthcheck"] = {key: value for key, value in told["Healthcheck"].items() if value}
    return dict(zip(("os", "architecture", "variant"), platform), config={key: value for key, value in told.items() if value},
                rootfs={"type": "layers", "diff_ids": diff_ids})
