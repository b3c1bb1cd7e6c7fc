# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""bulkhead.service: the part of systemd's cgroup tree that is delegated to us.

    main        an idle process: without one, systemd takes the tree away
    keepers     the keepers of all sandboxes; in the scope of a login they would end with it
    NAME        cgroups of driver cgroupfs

Whoever stops, restarts or kills the service ends the idle process only (KillMode=process). When the host shuts down, what still
lives here is killed: a keeper, being an init, does not hear systemd's SIGTERM, and would be waited for.

A cgroup that hands controllers on takes no process itself, and a main process is started in that of its unit, but from systemd 254
on, where DelegateSubgroup= says otherwise. Before, the unit could not be started again while cgroups of driver cgroupfs live; there
it has no main process, and the idle one is left behind by a command after the start, which systemd runs in a cgroup of its own.
"""

from __future__ import annotations

import os
import time

from .._kernel import cgroupfs
from .._model.errors import BulkheadError
from . import systemctl

UNIT = "bulkhead.service"
MAIN, KEEPERS = RESERVED = ("main", "keepers")  # no names for cgroups of driver cgroupfs
PATIENCE = 10.0  # seconds for the idle process to be where it belongs
_SUBGROUP = 254
# The cgroup of the unit, whichever below it systemd has started us in.
_TOP = "top=$(sed -n s/^0:://p /proc/self/cgroup) top=/sys/fs/cgroup${top%/main} top=${top%/.control}; "
_PLACES = _TOP + "mkdir -p $top/main $top/keepers || exit; "
_STAY = _PLACES + "exec sleep infinity"
_LEAVE = _PLACES + "sleep infinity >/dev/null 2>&1 & echo $! >$top/main/cgroup.procs"
_FETCH = _TOP + "for each in $(cat $top/main/cgroup.procs); do kill $each; done"
_END = "[ \"$(systemctl is-system-running)\" = stopping ] || exit 0; " + _TOP + "for each in $top/*/cgroup.kill; do echo 1 >$each; done"


def render(version):
    """The text of the unit for this version of systemd."""
    if version >= _SUBGROUP:
        run = ["Type=exec", "DelegateSubgroup=" + MAIN, _line("ExecStart", _STAY), "Restart=always"]
    else:
        run = ["Type=oneshot", "RemainAfterExit=yes", _line("ExecStartPost", _LEAVE), _line("ExecStop", _FETCH)]
    return "\n".join([
        systemctl.MADE + "; what a drop-in beside it says is added",
        "[Unit]",
        "Description=Bulkhead: keepers of sandboxes, and cgroups of the driver cgroupfs",
        "Before=bulkhead-restore.service",
        "StartLimitIntervalSec=0",
        "",
        "[Service]",
        "Slice=bulkhead.slice",
        "Delegate=yes",
    ] + run + [
        _line("ExecStopPost", _END),
        "KillMode=process",
        "TasksMax=infinity",
        "OOMPolicy=continue",
        "",
        "[Install]",
        "WantedBy=multi-user.target",
        "",
    ])


def _line(key, script):
    return "%s=/bin/sh -c '%s'" % (key, script.replace("%", "%%").replace("$", "$$"))


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
    """Is its idle process where it belongs?"""
    return top is not None and bool(cgroupfs.read("%s/%s/cgroup.procs" % (top, MAIN)).strip())


def install(host):
    """Write the unit, and have systemd read it: one that it has not loaded it reads when that is started."""
    before, known = host.units_changed, systemctl.loaded(host, UNIT)
    systemctl.write(host, UNIT, render(systemctl.version(host)))
    if known:  # and a run that was killed may have written it and no more
        systemctl.reload(host, force=systemctl.show(host, [UNIT])[UNIT]["NeedDaemonReload"] == "yes")
    else:
        host.units_changed = before


def ensure(host):
    """The directory of its cgroup; written and started where that is needed. Under the lock, among the steps of a plan."""
    top = find(host)
    if not running(host, top):
        install(host)
        active = systemctl.show(host, [UNIT])[UNIT]["ActiveState"] == "active"  # and the idle process was killed
        (systemctl.restart if active else systemctl.start)(host, UNIT)
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
            raise BulkheadError("Cannot use %s: its idle process did not come to be in its cgroup within %d s. Look at systemctl status %s."
                                % (UNIT, PATIENCE, UNIT))
        time.sleep(0.02)
        systemctl.drop(host, UNIT)


def inhabitants(host):
    """The pids of all that live in it beside its idle process."""
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
    if os.path.islink("%s/multi-user.target.wants/%s" % (host.units, UNIT)):
        systemctl.disable(host, UNIT)
    if systemctl.remove(host, UNIT) or host.units_changed:
        systemctl.reload(host)
    systemctl.reset_failed(host, UNIT)
