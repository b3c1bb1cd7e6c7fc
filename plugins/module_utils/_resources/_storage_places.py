# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where roots that are plain trees lie.

    roots/NAME/tree        the root of a sandbox
    roots/NAME/root.json   {"driver", "layers": its chain, "image": the name that it was made by}
    roots/NAME.previous    the one that it was before an upgrade with an empty one (`_kept.py`)
    roots/.new-NAME        one in the making, or the one before, which another has taken the place of
    roots/.old-NAME        one on its way out
    roots/.bases-DRIVER/   see `_storage_bases.py`
    roots/.saved/NAME/     copies of a root, which snapshots are made of

A root comes, goes and changes by one rename of roots/NAME. What begins with `.new-` or `.old-` is nobody's.
"""

from __future__ import annotations

import json
import os

from .._kernel import trees


def roots(host):
    return host.lib + "/roots"


def place(host, name):
    return "%s/%s" % (roots(host), name)


def names(host):
    return _list(roots(host))


def _list(path):
    try:
        return sorted(os.listdir(path))
    except FileNotFoundError:
        return []


def read(path):
    """What a root.json says; None where it is not there or not one of ours."""
    try:
        with open(path + "/root.json", "rb") as stream:
            value = json.loads(stream.read())
    except (OSError, ValueError):
        return None
    whole = isinstance(value, dict) and isinstance(value.get("driver"), str) and isinstance(value.get("layers"), list)
    return value if whole and all(isinstance(each, str) for each in value["layers"]) else None


def is_foreign(path):
    """Is there something that is no root of ours? An empty directory may be what a root was laid aside from."""
    return os.path.lexists(path) and read(path) is None and (not os.path.isdir(path) or os.path.islink(path) or bool(os.listdir(path)))


def chains(host):
    """[(name, the layers)] of all roots, and of all saved copies."""
    found = [(name, place(host, name)) for name in names(host) if not name.startswith(".")]
    for name in _list(roots(host) + "/.saved"):
        found += [(name, "%s/.saved/%s/%s" % (roots(host), name, each)) for each in _list("%s/.saved/%s" % (roots(host), name))]
    return [(name, known["layers"]) for name, known in ((name, read(path)) for name, path in found) if known is not None]


def leftovers(host, name):
    """The places of what a killed run has left of a root."""
    return [path for path in ("%s/.%s-%s" % (roots(host), word, name) for word in ("new", "old")) if os.path.lexists(path)]


def discard(host, pieces, path):
    """Remove a place, whole or half-made; no error where it is not there."""
    if not os.path.lexists(path):
        return
    pieces.remove(host, path)
    fd = os.open(os.path.dirname(path), trees.DIRECTORY)
    try:
        trees.remove_tree(fd, os.path.basename(path))
    finally:
        os.close(fd)


def clear_empty(host):
    """Directories that are there for nothing any more."""
    for path in ["%s/%s" % (roots(host), name) for name in names(host) if name.startswith((".bases-", ".saved"))] + [roots(host)]:
        if os.path.isdir(path) and not os.path.ismount(path) and not os.listdir(path):
            os.rmdir(path)
