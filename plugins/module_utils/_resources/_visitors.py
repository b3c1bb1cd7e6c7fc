# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who lives in a sandbox and is neither its keeper nor of its services."""

from __future__ import annotations

import os

from .._kernel import holders, nsfs
from .._model.errors import BulkheadError
from .._model.sandbox import PREFIX
from . import namespace, service


def refuse(host, services, name, verb, kill):
    """Refuse where there are processes in the sandbox that neither are its keeper nor descend from it or from a service: logins, debuggers.

    When its cgroup goes, too, those of the host that somebody has moved there count as well.
    """
    now = namespace.found(host, name)
    if kill:
        return
    own = {now.keeper(host)} | {service.pid(host, each) for each in services}
    inside = namespace.members(host, now, [kind for kind, pin in now.pins.items() if pin.alive]) if now.exists else {}
    if verb == "remove":
        inside.update((pid, holders.command(host.proc, pid)) for pid in host.cgroups().processes(PREFIX + name) if _at_home(host, pid))
    visitors = {pid: command for pid, command in inside.items() if not own.intersection(_ancestors(host, pid))
                and os.path.exists("%s/%d" % (host.proc, pid))}  # it has not ended meanwhile, as those that serve one request do
    if visitors:
        shown = ", ".join("%d (%s)" % item for item in list(visitors.items())[:5])
        raise BulkheadError("Cannot %s sandbox %s: processes that are not of its services live in it: %s. Let them end, or set kill: true." % (
            verb, name, shown), processes=[{"pid": pid, "command": command} for pid, command in visitors.items()])


def _at_home(host, pid):
    """Is a process's root that of the host?"""
    try:
        return os.path.samestat(os.stat("%s/%d/root" % (host.proc, pid)), os.stat("/"))
    except OSError:
        return False


def _ancestors(host, pid):
    """The process and all above it."""
    found = []
    while pid and pid not in found:
        found.append(pid)
        pid = nsfs.parent(pid, host.proc)
    return found
