# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Storage driver aufs, which few kernels have: the tree of a root is its base, and PLACE/rw over it, which takes what is written."""

from __future__ import annotations

import contextlib
import os

from .._kernel import mountinfo, syscalls, trees
from .._model.errors import BulkheadError
from . import _storage_bases, _storage_places
from ._storage_copy import Copy


class Aufs(Copy):
    """See `_storage_pieces.Pieces`. Bases and saved copies are plain trees, and a root that was put back is one."""

    name = "aufs"

    def probe(self, host):
        with open(host.proc + "/filesystems", encoding="ascii") as stream:
            return None if "aufs" in stream.read().split() else ("this kernel has no aufs", "Name another driver")

    def snapshot(self, host, source, place, storage=None):
        if storage is None or os.path.exists(place + "/base.json"):
            super().snapshot(host, source, place, storage)
            return
        for name in ("rw", "tree"):
            os.mkdir("%s/%s" % (place, name), 0o755)
        found = os.stat(source + "/tree")
        os.chown(place + "/rw", found.st_uid, found.st_gid)
        os.chmod(place + "/rw", found.st_mode & 0o7777)
        self._mount(host, place)

    @staticmethod
    def _mount(host, place):
        base = _storage_bases.place(host, "aufs", _storage_places.read(place)["layers"])
        if not os.path.isdir(base):
            raise BulkheadError("Cannot mount %s/tree: its base is not there. Import its image again." % place)
        syscalls.mount("none", place + "/tree", "aufs", 0, "br=%s/rw=rw:%s/tree=ro" % (place, base))
        host.drop("mounts")

    def mounts(self, host, place):
        top = mountinfo.read(host.proc).top(os.path.realpath(place) + "/tree")
        return [top] if top is not None and top.fstype == "aufs" else []

    def is_ready(self, host, place):
        return not os.path.isdir(place + "/rw") or bool(self.mounts(host, place))

    def plan_ready(self, host, name, place, storage, plan):
        if not self.is_ready(host, place):
            plan.differ("mounted", False, True)
            plan.add("mount root of sandbox %s" % name, lambda: self._mount(host, place))

    @contextlib.contextmanager
    def opened(self, host, place):
        if not self.is_ready(host, place):
            self._mount(host, place)
        with super().opened(host, place) as fd:
            yield fd

    def remove(self, host, place):
        while self.mounts(host, place):
            syscalls.umount(place + "/tree")
        host.drop("mounts")
        super().remove(host, place)
        fd = os.open(place, trees.DIRECTORY)
        try:
            trees.remove_tree(fd, "rw")
        finally:
            os.close(fd)


PIECES = Aufs()
