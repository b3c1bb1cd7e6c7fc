# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Control groups where systemd is init and the only one to write to its tree: slices, and the subtree that it has delegated to us.

Who asks where a cgroup is, whether it is there and who lives in it gets the same answers as from `_kernel/cgroupfs.py: Trees`.
"""

from __future__ import annotations

import os

from .._kernel.cgroupfs import UNIFIED, Trees, built_without, read, write
from .._model.errors import BulkheadError
from . import subtree, systemctl

DELEGATED = ("cpu", "cpuset", "io", "memory", "pids")  # what systemd hands on


class SliceTrees(Trees):
    """The whole tree of the host: a name is a slice, or a directory in the delegated subtree where one is there."""

    driver, nests = "systemd", False  # which makes parents and takes them away

    def __init__(self, host):
        super().__init__(host.cgroup, host.mounts())
        self.host = host
        self.promised = set()  # names that this run makes in the delegated subtree
        systemctl.expect(host, [subtree.UNIT, systemctl.slice_unit("bulkhead")])

    def expect(self, names):
        for name in names:
            try:
                systemctl.expect(self.host, [systemctl.slice_unit(name)])
            except BulkheadError:
                pass  # too long a name is told to who asks about it

    def delegated(self, undelegated=False):
        """The delegated subtree; ``undelegated``: with the controllers that systemd does not hand on."""
        return self.host.cached(("delegated", undelegated), lambda: DelegatedTrees(self, undelegated))

    def at(self, name):
        """The trees that NAME lives in: the delegated subtree, or these."""
        if name in self.promised or name and name.split("/")[0] not in subtree.RESERVED and self.delegated().exists(name):
            return self.delegated()
        return self

    def slice_path(self, name):
        """Where the cgroup of a slice is; where it is to be expected, when it is not there."""
        if not name:
            return self.roots[UNIFIED]
        unit = systemctl.slice_unit(name)
        usual = self.roots[UNIFIED] + systemctl.slice_group(unit)
        if os.path.isdir(usual):
            return usual
        group = systemctl.show(self.host, [unit])[unit]["ControlGroup"]
        return self.roots[UNIFIED] + group if group else usual

    def path(self, name, key):
        trees = self.at(name)
        return self.slice_path(name) if trees is self else trees.path(name, key)

    def exists(self, name):
        trees = self.at(name)
        if trees is not self:
            return trees.exists(name)
        try:
            status = os.stat(self.slice_path(name))
        except (FileNotFoundError, NotADirectoryError):
            return {}
        return {UNIFIED: [status.st_dev, status.st_ino]}

    def join_files(self, name, leaf=None, unified=None):
        """Nothing to write to for a slice: who is to live there is started there by systemd."""
        trees = self.at(name)
        return [] if trees is self else trees.join_files(name, leaf, unified)

    def make_leaf(self, name, leaf):
        trees = self.at(name)
        if trees is not self:
            trees.make_leaf(name, leaf)

    def lacks(self, controller, file):
        """Does this kernel lack a file? A cgroup anywhere at the top that has the controller shows it, else what it is built of."""
        for entry in self.host.cached("top cgroups", lambda: list(_directories(self.roots[UNIFIED]))):
            if os.path.exists("%s/%s" % (entry, file)):
                return False
            if controller == "cgroup" or controller in read(entry + "/cgroup.controllers").split():
                return True
        return self.host.cached(("built without", file), lambda: built_without(file, self.host.proc))


class DelegatedTrees(Trees):
    """The cgroups of driver cgroupfs, below bulkhead.service. It is started with the first of them."""

    def __init__(self, outer, undelegated):
        self.outer, self.host = outer, outer.host
        self.mode, self._v1 = "unified", {}
        top = subtree.find(self.host)
        self.there = top is not None
        self.root = top or outer.slice_path("bulkhead") + "/" + subtree.UNIT
        self.roots = {UNIFIED: self.root}
        given = read(self.root + "/cgroup.controllers").split() if top else [word for word in outer.controllers if word in DELEGATED]
        self.controllers = tuple(given) + tuple(word for word in outer.controllers if undelegated and word not in given)

    def lack(self, controller):
        if controller in self.outer.controllers:
            return "needs the controller %s, which systemd does not hand on. Set allow_undelegated: true to do so" % controller
        return super().lack(controller)

    def members(self, pid, proc="/proc"):
        return self.outer.members(pid, proc)

    def relative(self, key, path):
        return self.outer.relative(key, path)

    def exists(self, name):
        return super().exists(name) if self.there else {}

    def make(self, name, keys, made):
        top = subtree.ensure(self.host)
        if top != self.root:
            raise BulkheadError("Cannot create cgroup %s: %s is in %s now. Run again." % (name, subtree.UNIT, top))
        self.there = True
        super().make(name, keys, made)

    def enable(self, name, controllers):
        """Also above ourselves, where systemd does not do it: it knows nothing of these controllers and leaves them alone."""
        path = self.outer.roots[UNIFIED]
        for part in self.root[len(path):].strip("/").split("/"):
            enabled = read(path + "/cgroup.subtree_control").split()
            missing = [word for word in controllers if word not in enabled and word not in DELEGATED]
            if missing:
                write(path + "/cgroup.subtree_control", " ".join("+" + word for word in missing))
            path += "/" + part
        super().enable(name, controllers)


def _directories(path):
    with os.scandir(path) as entries:
        yield from sorted(entry.path for entry in entries if entry.is_dir(follow_symlinks=False))
