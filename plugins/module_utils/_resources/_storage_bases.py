# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The bases of roots that are plain trees: the layers of an image, laid over each other once for each driver.

    roots/.bases-DRIVER/HEX/tree        the tree of a chain of layers, of whose digests HEX is the sha256
    roots/.bases-DRIVER/HEX/base.json   {"layers": the chain}

A base is a thing that can be made again: it has its name when it is whole and on the disk, `.new-HEX` before and `.old-HEX` when it
goes. It stays as long as an image, or a root that was made of it, has its chain.
"""

from __future__ import annotations

import hashlib
import json
import os

from .._kernel import merge, trees
from . import _storage_places, _store

_PREFIX = ".bases-"


def ensure(host, pieces, chain, storage=None):
    """The place of the base of a chain (digests, the lowest layer first), which is made where it is not there; ``storage``: of the root."""
    path = place(host, pieces.name, chain)
    if not os.path.isdir(path):
        _make(host, pieces, chain, path, storage and storage.of_base())
    return path


def place(host, driver, chain):
    """Where the base of a chain is or would be."""
    return "%s/%s%s/%s" % (_storage_places.roots(host), _PREFIX, driver, hashlib.sha256(" ".join(chain).encode()).hexdigest())


def _make(host, pieces, chain, path, storage):
    above, name = os.path.split(path)
    for each in (_storage_places.roots(host), above):
        os.makedirs(each, mode=0o700, exist_ok=True)
    new = "%s/.new-%s" % (above, name)
    _storage_places.discard(host, pieces, new)
    os.mkdir(new, 0o700)
    try:
        _store.write(new + "/base.json", json.dumps({"layers": chain}).encode())
        count = _lay(host, pieces, chain, new, storage)
        with pieces.opened(host, new) as tree:
            for digest in chain[count:]:
                _apply(_store.tree(host, digest), tree)
        pieces.seal(host, new)
        _store.flush(above)
        os.rename(new, path)
    except BaseException:
        _storage_places.discard(host, pieces, new)
        raise


def _lay(host, pieces, chain, new, storage):
    """Begin with the longest part of the chain that there is a base of: how many layers that has."""
    for count in range(len(chain) - 1, 0, -1):
        parent = place(host, pieces.name, chain[:count])
        if os.path.isdir(parent):
            pieces.snapshot(host, parent, new, storage)
            return count
    pieces.create(host, new, storage)
    return 0


def _apply(path, tree):
    fd = os.open(path, trees.DIRECTORY)
    try:
        merge.apply(fd, tree)
    finally:
        os.close(fd)


def unused(host):
    """[(driver, name)] of the bases that nothing needs, and of what a killed run has left of some."""
    found = [(folder[len(_PREFIX):], name) for folder in _storage_places.names(host) if folder.startswith(_PREFIX)
             for name in sorted(os.listdir("%s/%s" % (_storage_places.roots(host), folder)))]
    if not found:
        return []
    needed = {(driver, os.path.basename(place(host, driver, chain))) for driver in {driver for driver, name in found} for chain in _chains(host)}
    return [each for each in found if each not in needed]


def _chains(host):
    yield from (_store.once(known["layers"]) for known in _store.images(host).values())
    yield from (layers for name, layers in _storage_places.chains(host))


def tidy(host, unused_items=None):
    """Remove them. (An act, also for host.at_end.)"""
    from ._storage_tree import drivers

    host.drop("images")
    for driver, name in unused(host):
        pieces, folder = drivers()[driver].pieces, "%s/%s%s" % (_storage_places.roots(host), _PREFIX, driver)
        aside = name
        if not name.startswith("."):
            aside = ".old-" + name
            _storage_places.discard(host, pieces, "%s/%s" % (folder, aside))
            os.rename("%s/%s" % (folder, name), "%s/%s" % (folder, aside))
        _storage_places.discard(host, pieces, "%s/%s" % (folder, aside))
    _storage_places.clear_empty(host)
