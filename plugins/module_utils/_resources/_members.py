# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who lives in a set of namespaces, and how they are ended."""

from __future__ import annotations

import os
import select
import signal

from .._kernel import nsfs
from .._kernel import syscalls as sc
from .._model.errors import BulkheadError

PATIENCE = 10.0  # seconds that a killed process is waited for


def members(host, now, kinds):
    """{pid: command} of the processes in these namespaces, without our keeper."""
    everybody = host.cached("census", lambda: nsfs.census(nsfs.TYPES, host.proc))
    mine, pids = now.keeper(host), set()
    for kind in kinds:
        pids.update(everybody.get(now.pins[kind].identity, ()))
    return {pid: command(host, pid) for pid in sorted(pids)
            if pid not in (mine, os.getpid()) and nsfs.running(pid, host.proc)}


def refuse(host, now, kinds, verb):
    """Raise when somebody lives in these namespaces."""
    inside = members(host, now, kinds) if kinds else {}
    if inside:
        shown = ", ".join("%d (%s)" % item for item in list(inside.items())[:5])
        raise BulkheadError("Cannot %s namespaces %s: %d process%s in them: %s%s. Stop them, or set kill: true." % (
            verb, now.name, len(inside), " lives" if len(inside) == 1 else "es live", shown, ", …" if len(inside) > 5 else ""),
            processes=[{"pid": pid, "command": name} for pid, name in inside.items()])


def kill(host, now, kinds):
    """The init of a pid namespace takes all in it along; what is in the other namespaces only is asked for once a run."""
    if "pid" in kinds and now.pins["pid"].init is not None:
        end(host, now.pins["pid"].init, now.pins["pid"])
    for kind in kinds:
        pin = now.pins[kind]
        for pid in members(host, now, [kind]) if pin.alive else ():
            end(host, pid, pin)


def end(host, pid, pin):
    """SIGKILL to a process, through a descriptor, if it still is in this namespace; wait until it is dead."""
    try:
        fd = sc.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if nsfs.identity("%s/%d/ns/%s" % (host.proc, pid, pin.kind)) == pin.identity:
            sc.pidfd_send_signal(fd, signal.SIGKILL)
            if not select.select([fd], [], [], PATIENCE)[0]:
                raise BulkheadError("Cannot kill process %d (%s): it did not die within %d s. Look at its state in /proc/%d/stack."
                                    % (pid, command(host, pid), PATIENCE, pid))
            if pid == pin.init:
                try:
                    os.waitpid(pid, os.WNOHANG)  # a keeper that this very run has made is our child
                except ChildProcessError:
                    pass
    except ProcessLookupError:
        pass
    finally:
        os.close(fd)


def command(host, pid):
    """What the kernel calls a process."""
    try:
        with open("%s/%d/comm" % (host.proc, pid), encoding="utf-8", errors="replace") as stream:
            return stream.read().strip()
    except OSError:
        return "gone"
