# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an image is declared to be."""

from __future__ import annotations

import hashlib
import json

from .._kernel.loopdev import KINDS as MOUNTED
from .._kernel.unpack import Rules
from . import build, image_sources, oci, values

STATES = ("present", "absent")
SOURCES = ("oci", "docker", "tar", "directory", "commit", "host", "bootstrap", "from", "bundle") + MOUNTED
KEYS = ("name",) + SOURCES + (
    "steps", "reference", "platform", "digest", "config", "allow_setuid", "allow_devices", "limits", "verify", "export", "pack", "prune", "state")
OF_DIGEST = ("oci", "docker", "tar", "directory", "commit", "bundle") + MOUNTED  # whose digest can be declared
SET_UID = ("host", "bootstrap", "bundle")  # such files are a part of distributions; of a bundle they were allowed where the image was made
CONFIG = ("entrypoint", "command", "env", "user", "workdir", "stop_signal", "labels", "ports", "volumes")
# bytes where nothing else is said; the ratio is of what comes out of a decompressor to what goes in
LIMITS = {"entries": 1000000, "size": 64 << 30, "file_size": 32 << 30, "ratio": 250}


class ImageSpec:
    """``source`` is one of SOURCES or None; ``path`` is where that is, of a sandbox its name until the host is looked at, of a parent its name;
    ``kept`` are layers that a build takes as they are, known when it is planned."""

    __slots__ = KEYS + ("key", "source", "path", "rules", "kept")

    @classmethod
    def from_options(cls, options, path, problems):
        spec, prefix = cls(), path + "." if path else ""
        options = values.mapping(options, path or "image", problems, KEYS)

        def each(key, parse, *rest):
            value = options.get(key)
            return None if value is None else parse(value, prefix + key, problems, *rest)

        spec.name = each("name", values.name)
        for key in SOURCES:
            setattr(spec, key, each(key, _PARSERS.get(key, values.absolute)))
        for key in ("allow_setuid", "allow_devices", "verify", "prune"):
            setattr(spec, key, each(key, values.boolean) or False)
        spec.state = each("state", values.choice, STATES) or "present"
        spec.reference = each("reference", values.text, 300)
        spec.platform = each("platform", _platform) or oci.own_platform()
        spec.digest = each("digest", _digest)
        spec.export = each("export", values.absolute)
        spec.pack = each("pack", Pack.from_options)
        spec.config = each("config", _config)
        spec.steps = each("steps", build.steps) or []
        spec.limits = dict(LIMITS, **(each("limits", _limits) or {}))
        spec._check(options, prefix, problems)
        if options.get("allow_setuid") is None:
            spec.allow_setuid = spec.source in SET_UID
        spec.key, spec.kept = spec.name or "", ()
        spec.rules = Rules(spec.allow_setuid, spec.allow_devices, *(spec.limits[key] for key in ("entries", "size", "file_size")))
        return spec

    def _check(self, options, prefix, problems):
        named = [key for key in SOURCES if options.get(key) is not None]
        self.source = named[0] if named else None
        self.path = getattr(self, self.source) if named else None
        if self.source == "host":
            self.path = "/"
        elif self.source == "bootstrap":
            self.path = image_sources.bootstrap_words(self.bootstrap)
        if options.get("name") is None and not (self.prune and not named and self.state == "present"):
            problems.add(prefix + "name", "this is required")
        if len(named) > 1:
            problems.add(prefix + named[1], "%s is named already: an image has one source" % named[0])
        if self.source == "from" and self.path is not None and self.path == self.name:
            problems.add(prefix + "from", "an image cannot be its own parent")
        if self.state == "absent" and named:
            problems.add(prefix + named[0], "an image that is to be absent needs no source")
        for key in ("export", "pack"):
            if options.get(key) is not None and (self.state == "absent" or options.get("name") is None):
                problems.add(prefix + key, "this goes with an image that is to be present")
        if self.source == "bundle" and options.get("config") is not None:
            problems.add(prefix + "config", "an image that comes in a bundle has that of the image that was packed")
        for key, sources in (("reference", ("oci", "docker")), ("platform", ("oci", "docker")), ("digest", OF_DIGEST), ("steps", ("from",))):
            if options.get(key) is not None and self.source not in sources:
                problems.add(prefix + key, "this goes with %s" % " or ".join(sources))

    @property
    def made_from(self):
        """What of the declaration says which image it is to be."""
        return {"type": self.source, "reference": self.reference, "platform": self.platform if self.source in ("oci", "docker") else None}


class Pack:
    """Where an image is written as a bundle: ``path``, the ``layers`` that are to be in it (None: all), and the user who may read it."""

    __slots__ = ("path", "layers", "owner")

    @classmethod
    def from_options(cls, value, path, problems):
        pack, value = cls(), values.mapping(value, path, problems, cls.__slots__)
        pack.path = values.absolute(value.get("path"), path + ".path", problems)
        pack.layers = None if value.get("layers") is None else [
            _digest(each, "%s.layers[%d]" % (path, index), problems) for index, each in enumerate(values.items(value["layers"], path + ".layers", problems))]
        pack.owner = values.integer(value.get("owner", 0), path + ".owner", problems, 0, (1 << 32) - 2)
        return pack


def digest_of(layers, config):
    """The digest of an image: of the digests of its layers, the lowest first, and of what it says of its services."""
    text = json.dumps({"layers": layers, "config": config}, sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


_PARSERS = {"commit": values.name, "from": values.name, "host": image_sources.host, "bootstrap": image_sources.bootstrap}


def _platform(value, path, problems):
    if isinstance(value, str) and 2 <= len(value.split("/")) <= 3 and all(values.is_name(part) for part in value.split("/")):
        return value
    problems.add(path, "%s is not a platform such as linux/amd64" % values.quoted(value))
    return None


def _digest(value, path, problems):
    try:
        return oci.digest(value, "it")
    except oci.ArchiveError:
        problems.add(path, "%s is not a digest of the form sha256:HEX" % values.quoted(value))
        return None


def _limits(value, path, problems):
    found = {}
    for key, number in values.mapping(value, path, problems, tuple(LIMITS)).items():
        if key in ("size", "file_size"):
            found[key] = values.size(number, "%s.%s" % (path, key), problems)
        elif key in LIMITS:
            found[key] = values.integer(number, "%s.%s" % (path, key), problems, 1)
    return {key: number for key, number in found.items() if number is not None}


def _config(value, path, problems):
    """What the image says for the services of it, in place of what its source says; null takes a key away."""
    found = {}
    for key, given in values.mapping(value, path, problems, CONFIG).items():
        where = "%s.%s" % (path, key)
        if given is None:
            found[key] = None
        elif key in ("entrypoint", "command", "ports", "volumes"):
            found[key] = [values.text(item, "%s[%d]" % (where, index), problems) for index, item in enumerate(values.items(given, where, problems))]
        elif key in ("env", "labels"):
            found[key] = {name: values.text(item, "%s.%s" % (where, name), problems) for name, item in values.mapping(given, where, problems).items()}
            for name in found[key]:
                if not isinstance(name, str) or not name or "=" in name or "\0" in name:
                    problems.add(where, "%s is not a name" % values.quoted(name))
        elif key in CONFIG:
            found[key] = values.text(given, where, problems, 4096)
    return found
