# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""bulkhead.service: the part of systemd's cgroup tree that is delegated to us.

    main        its idle main process: without one, systemd takes the tree away
    keepers     the keepers of all sandboxes; in the scope of a login they would end with it
    NAME        cgroups of driver cgroupfs

Whoever stops, restarts or kills the service ends the main process only (KillMode=process), and it comes back by itself. When the
host shuts down, what still lives here is killed: a keeper, being an init, does not hear systemd's SIGTERM, and would be waited for.
"""

from __future__ import annotations

import os
import time

from .._kernel import cgroupfs
from .._model.errors import BulkheadError
from . import systemctl

UNIT = "bulkhead.service"
MAIN, KEEPERS = RESERVED = ("main", "keepers")  # no names for cgroups of driver cgroupfs
PATIENCE = 10.0  # seconds for the main process to be where it belongs
_SUBGROUP = 254  # the systemd from which it starts a main process in a cgroup below that of its unit
# The cgroup of the unit, whichever below it systemd has started us in.
_TOP = "top=$(sed -n s/^0:://p /proc/self/cgroup) top=/sys/fs/cgroup${top%/main} top=${top%/.control}"
_STAY = _TOP + "; mkdir -p $top/main $top/keepers && echo 0 >$top/main/cgroup.procs && exec sleep infinity"
_END = "[ \"$(systemctl is-system-running)\" = stopping ] || exit 0; " + _TOP + "; for each in $top/*/cgroup.kill; do echo 1 >$each; done"


def render(version):
    """The text of the unit for this version of systemd."""
    return "\n".join([
        systemctl.MADE + "; what a drop-in beside it says is added",
        "[Unit]",
        "Description=Bulkhead: keepers of sandboxes, and cgroups of the driver cgroupfs",
        "Before=bulkhead-restore.service",
        "StartLimitIntervalSec=0",
        "",
        "[Service]",
        "Type=exec",
        "Slice=bulkhead.slice",
        "Delegate=yes",
    ] + (["DelegateSubgroup=" + MAIN] if version >= _SUBGROUP else []) + [
        "ExecStart=/bin/sh -c '%s'" % _escaped(_STAY),
        "ExecStopPost=/bin/sh -c '%s'" % _escaped(_END),
        "KillMode=process",
        "Restart=always",
        "TasksMax=infinity",
        "OOMPolicy=continue",
        "",
        "[Install]",
        "WantedBy=multi-user.target",
        "",
    ])


def _escaped(script):
    return script.replace("%", "%%").replace("$", "$$")


def find(host):
    """The directory of its cgroup, None when there is none. It is there, too, while something lives in a unit that was stopped."""
    usual = host.cgroup + "/bulkhead.slice/" + UNIT
    if os.path.isdir(usual):
        return usual
    return _asked(host)


def _asked(host):
    group = systemctl.show(host, [UNIT])[UNIT]["ControlGroup"]
    path = host.cgroup + group
    return path if group and os.path.isdir(path) else None


def running(host, top):
    """Is its main process where it belongs?"""
    return top is not None and bool(cgroupfs.read("%s/%s/cgroup.procs" % (top, MAIN)).strip())


def install(host):
    """Write the unit, and have systemd read it; returns whether it was another before."""
    changed = systemctl.write(host, UNIT, render(systemctl.version(host)))
    # A run that was killed may have written it and no more.
    systemctl.reload(host, force=systemctl.show(host, [UNIT])[UNIT]["NeedDaemonReload"] == "yes")
    return changed


def ensure(host):
    """The directory of its cgroup; written and started where that is needed. Under the lock, among the steps of a plan."""
    top = find(host)
    if not running(host, top):
        install(host)
        try:
            systemctl.start(host, UNIT)
        except BulkheadError as exc:
            # Before systemd 254 a unit cannot be started again in a cgroup that hands controllers on to those who live in it. These
            # do live on, and nobody takes their cgroup away: others may join them.
            top = find(host)
            if top is None or not cgroupfs.read(top + "/cgroup.subtree_control").strip():
                raise
            host.warn("%s Its cgroup is used all the same; it can start again when no cgroup of driver cgroupfs is left, or after a reboot."
                      % exc.message)
        else:
            top = _started(host)
    os.makedirs("%s/%s" % (top, KEEPERS), exist_ok=True)
    return top


def _started(host):
    end = time.monotonic() + PATIENCE
    while True:
        top = find(host)
        if running(host, top):
            return top
        if time.monotonic() > end:
            raise BulkheadError("Cannot use %s: its main process did not come to be in its cgroup within %d s. Look at systemctl status %s."
                                % (UNIT, PATIENCE, UNIT))
        time.sleep(0.02)
        systemctl.drop(host, UNIT)


def inhabitants(host):
    """The pids of all that live in it beside its main process."""
    top = find(host)
    found = []
    for directory, dummy, names in os.walk(top) if top else ():
        if directory != "%s/%s" % (top, MAIN):
            found += cgroupfs.read(directory + "/cgroup.procs").split()
    return sorted(int(pid) for pid in found)


def remove(host):
    """Stop it, and take its unit away. Not while somebody lives in it."""
    there = inhabitants(host)
    if there:
        raise BulkheadError("Cannot remove %s: processes live in its cgroup: %s. Remove what they belong to." % (
            UNIT, ", ".join(str(pid) for pid in there[:5])))
    unit = systemctl.show(host, [UNIT])[UNIT]
    if unit["ActiveState"] not in ("inactive", "failed", ""):
        systemctl.stop(host, UNIT)
    if unit["UnitFileState"] == "enabled":
        systemctl.disable(host, UNIT)
    if systemctl.remove(host, UNIT) or host.units_changed:
        systemctl.reload(host)
    systemctl.reset_failed(host, UNIT)
