# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A sandbox of an image: its layers, and what the image says of services that name no command; and the way back, an image of a sandbox."""

from __future__ import annotations

from .._model.errors import BulkheadError, Problems
from .._model.service import ServiceSpec
from . import _storage, _store, _versions

_TIMES = ("interval", "timeout", "start_period")


def version(host, spec):
    """What its image is now (`_versions.py`); None in check mode, where an earlier task may make it."""
    found = _versions.of_image(host, spec.image)
    if found is None:
        if not host.check:
            raise BulkheadError("Cannot make sandbox %s: there is no image %s. Import it first." % (spec.key, spec.image))
        host.warn("There is no image %s yet; an earlier task is expected to make it." % spec.image)
    return found


def fill(host, spec, wanted):
    """Put what a version says in the place of the stand-ins."""
    spec.chain, spec.overlay.lower = _versions.chain(wanted), wanted["lower"]
    missing = [digest for digest in spec.chain if digest not in _store.layers(host)]
    if missing:
        raise BulkheadError("Cannot make sandbox %s: layer %s of image %s is missing. Import the image again." % (
            spec.key, _store.short(missing[0]), wanted["image"]))
    spec.overlay.declared["lower"] = spec.overlay.lower
    problems, config = Problems(), wanted["config"]
    for index, declared in spec.of_image.items():
        options = dict(defaults(config), **{key: value for key, value in declared.items() if value is not None})
        if "environment" in declared and "env" in config:
            options["environment"] = dict(config["env"], **(declared["environment"] or {}))
        where = "%s.services[%d] with what image %s says" % (spec.key, index, wanted["image"])
        spec.services[index] = ServiceSpec.from_options(options, where, problems, sandbox=spec)
    problems.raise_if_any()


def defaults(config):
    """The options of a service that an image's config stands for."""
    found = {"command": config.get("entrypoint", []) + config.get("command", []) or None, "environment": config.get("env"), "cwd": config.get("workdir")}
    user, colon, group = config.get("user", "").partition(":")
    found.update(user=user or None, group=group or None)
    health = config.get("health")
    if health:
        found["health"] = dict({key: "%dus" % health[key] for key in _TIMES if key in health}, command=health["command"])
        if "retries" in health:
            found["health"]["retries"] = health["retries"]
    return {key: value for key, value in found.items() if value is not None}


def _declared(host, name):
    options = host.records.options("sandboxes", name)
    if options is None and host.check:
        return {}  # an earlier task may make it
    if options is None:
        raise BulkheadError("Cannot commit sandbox %s: there is none of that name. Name one that is declared." % name)
    return options


def written(host, name):
    """The directory in which lies what a sandbox has written."""
    _declared(host, name)
    return _storage.of_name(host, name).path(host, name)


def layers(host, name):
    """(the digests of a sandbox's layers, the lowest first, the config of its image), if all of its layers are in the store."""
    options = _declared(host, name)
    known, found = _store.image(host, options["image"]) if options.get("image") else None, _storage.of_name(host, name).find(host, name)
    if found is not None:
        chain = found.layers
    elif known:
        chain = known["layers"]
    else:
        places = {_store.tree(host, digest): digest for digest in _store.layers(host)}
        chain = [places.get(path, path) for path in reversed((options.get("overlay") or {}).get("lower") or ["below"])]
    for layer in chain:
        if layer not in _store.layers(host):
            raise BulkheadError("Cannot commit sandbox %s: its layer %s is not in the store. Import it as an image first." % (name, layer))
    return chain, known["config"] if known else {}
