# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a bundle says of its image: the digests of the layers and the config, of which the image's own digest is made. Untrusted, and read strictly."""

from __future__ import annotations

import json

from .._kernel.loopdev import KINDS
from .._kernel.tarstream import ArchiveError
from . import oci

NAME = "bundle.json"
TAMPERED = "Verify the image where it was packed, and pack it again"
_FORM = 1
_KEYS = {"bundle", "layers", "config"}
_HEALTH = ("interval", "timeout", "start_period", "retries")


def file_of(digest):
    """The name of a layer in a bundle."""
    return "layers/" + digest.partition(":")[2]


def document(layers, config):
    """``layers``: [(digest, filesystem or None)], the lowest first. The same image is always the same bytes."""
    value = {"bundle": _FORM, "layers": [{"digest": digest, "filesystem": filesystem} for digest, filesystem in layers], "config": config}
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def parse(data):
    """The layers and the config that document() was given."""
    value = oci.document(data, NAME)
    if value.get("bundle") != _FORM or isinstance(value["bundle"], bool) or set(value) != _KEYS or not isinstance(value["layers"], list):
        raise ArchiveError("its %s is of another form" % NAME)
    layers = []
    for layer in value["layers"]:
        if not isinstance(layer, dict) or set(layer) != {"digest", "filesystem"} or layer["filesystem"] not in (None,) + KINDS:
            raise ArchiveError("its %s has a layer of another form" % NAME)
        layers.append((oci.digest(layer["digest"], "a layer in its " + NAME), layer["filesystem"]))
    if len({digest for digest, filesystem in layers}) != len(layers):
        raise ArchiveError("its %s has a layer twice" % NAME)
    return layers, _config(value["config"])


def _config(value):
    """As an image of the store has it: every key of its kind, and none that is not known."""
    if not isinstance(value, dict) or not all(key in _CONFIG and _CONFIG[key](each) for key, each in value.items()):
        raise ArchiveError("its %s has a config of another form" % NAME)
    return value


def _text(value):
    return isinstance(value, str) and "\0" not in value


def _texts(value):
    return isinstance(value, list) and all(map(_text, value))


def _table(value):
    return isinstance(value, dict) and all(map(_text, value)) and all(map(_text, value.values()))


def _health(value):
    """The command, and beside it numbers."""
    return isinstance(value, dict) and bool(value.get("command")) and _texts(value["command"]) and all(
        key in _HEALTH and isinstance(each, int) and not isinstance(each, bool) and each >= 0 for key, each in value.items() if key != "command")


_CONFIG = {"entrypoint": _texts, "command": _texts, "ports": _texts, "volumes": _texts, "env": _table, "labels": _table,
           "user": _text, "workdir": _text, "stop_signal": _text, "health": _health}
