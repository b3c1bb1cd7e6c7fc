# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The host as the engine sees it: where its trees are, how commands are run on it, and what was read of it in this run."""

from __future__ import annotations

import os

from .._kernel import mountinfo
from .records import Claims, Failures, Records

STATE = "/run/bulkhead"


class Host:
    """Every root path is a parameter, so that unit tests put fake trees in their place.

    ``run(argv, data=None, env=None)`` runs a command and returns (status, output, errors); modules inject Ansible's.
    What is read is kept until ``forget()``: the host is read once per run, not once per item.
    """

    def __init__(self, run=None, proc="/proc", sys="/sys", cgroup="/sys/fs/cgroup", state=STATE,
                 etc="/etc/bulkhead", lib="/var/lib/bulkhead", log="/var/log/bulkhead", netns="/run/netns",
                 lock="/run/bulkhead.lock", units="/etc/systemd/system", names="/etc/netns",
                 bus="/run/dbus/system_bus_socket"):
        self._run = run
        self.proc, self.sys, self.cgroup = proc, sys, cgroup
        self.state, self.etc, self.lib, self.log = state, etc, lib, log
        self.netns, self.lock = netns, lock
        self.names = names  # where ip-netns(8) looks for hosts and resolv.conf of a namespace
        self.units = units  # where unit files of ours lie; see `_supervisor/systemctl.py` for these four
        self.bus = bus  # the socket of the system bus; None: there is none
        self.units_changed, self.systemd_version = False, None
        self._ending, self._systemd = {}, None
        self.claims = Claims(state + "/made")
        self.records = Records(etc)
        self.failures = Failures(state + "/failed")
        self.warnings = []
        self.healthy = {}  # {service: what its health check said after it was started in this run}
        self.booting = False  # this is the restore that the boot waits for: what it starts comes after it
        self.check = False  # in check mode what a task or an earlier one of the play needs may not be there yet: a warning
        self.promised = set()  # (noun, name) that an earlier task of the play, or an earlier part of this plan, makes
        self._cache = {}

    def another(self):
        """A second object of the same host, which has read nothing yet: for a run within a step of this one's."""
        other = Host(self._run, self.proc, self.sys, self.cgroup, self.state, self.etc, self.lib, self.log, self.netns, self.lock, self.units,
                     self.names, self.bus)
        other._systemd, other.booting, other.units_changed = self._systemd, self.booting, self.units_changed
        return other

    def run(self, argv, data=None, env=None):
        """Run a command in the C locale: (exit status, output, errors)."""
        if self._run is None:
            raise RuntimeError("this host was made without a way to run commands")
        environment = {"LC_ALL": "C"}
        environment.update(env or {})
        return self._run(argv, data, environment)

    def cached(self, key, read):
        """What ``read()`` returned for ``key`` in this run."""
        if key not in self._cache:
            self._cache[key] = read()
        return self._cache[key]

    def drop(self, key):
        """A step needs it as it is now."""
        self._cache.pop(key, None)

    def forget(self):
        """Steps have been taken: what was read may be wrong."""
        self._cache.clear()
        self.claims.forget()
        self.records.forget()

    def at_end(self, act, item):
        """``act(host, items)`` is called once when the steps of all plans are taken, with all items that it was given."""
        self._ending.setdefault(act, []).append(item)

    def finish(self):
        """Do what was left for the end."""
        while self._ending:
            act = next(iter(self._ending))
            act(self, self._ending.pop(act))

    def mounts(self):
        """The mount table of the engine's own mount namespace."""
        return self.cached("mounts", lambda: mountinfo.read(self.proc))

    def cgroups(self):
        """The cgroup hierarchies (`_kernel/cgroupfs.py: Trees`); where systemd is init, its slices (`_supervisor/slices.py`)."""
        return self.cached("cgroups", self._read_cgroups)

    def _read_cgroups(self):
        from .._kernel import cgroupfs

        trees = cgroupfs.Trees.read(self)
        if self.systemd and trees.mode == "unified":
            from .._supervisor import slices

            return slices.SliceTrees(self)
        return trees

    @property
    def aside(self):
        """Does the engine work in a mount namespace of its own (`aside.py`)? Where systemd is init, and not on fake trees."""
        return self.systemd and self.state == STATE

    @property
    def systemd(self):
        """Is systemd the init of this host? (sd_booted(3))"""
        if self._systemd is None:  # asked for each item
            self._systemd = os.path.isdir("/run/systemd/system")
        return self._systemd

    def warn(self, text):
        if text not in self.warnings:
            self.warnings.append(text)
