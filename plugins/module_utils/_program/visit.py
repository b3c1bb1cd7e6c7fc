# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Go into a sandbox or a service: the same entry as a service's start, with another command."""

from __future__ import annotations

import os
import sys

from .._engine import places
from .._engine.lock import Lock
from .._model.errors import BulkheadError
from .._model.service import DEFAULTS
from .._resources import _unit, namespace, overlay, sandbox, service
from .._supervisor import entry
from . import command, terminal


def visit(host, name, words, with_terminal):
    """Run ``words`` inside and return its exit status; without a terminal this process becomes the one that waits for it."""
    options, types = _place(host, name)
    options = dict(options, command=words, health=None)
    unit = _unit.build(host, name.partition("/")[0] + "/exec", options, types)  # in the leaf `exec` of its cgroup
    spec = dict(unit.spec, name=name, namespaces=dict(unit.spec["namespaces"], pid=unit.pid_pin), die_with_parent=False,
                stdin="inherit", tty=with_terminal)
    with Lock(host.lock, "visit"):
        places.ensure(host)
        entry.ensure(host)
        _unit.make_filter(host, options)
        if options["cgroup"]:
            host.cgroups().make_leaf(options["cgroup"], "exec")
    fd = os.memfd_create("entry")  # close-on-exec: for the entry it is opened anew by its number
    os.write(fd, _unit.dump(spec).encode())
    os.set_inheritable(fd, True)
    argv = entry.command(host, "/proc/self/fd/%d" % fd)

    def execute():
        os.execve(argv[0], argv, {"TERM": os.environ.get("TERM", "dumb")})

    if with_terminal:
        return command.exit_status(terminal.relay(execute))
    sys.stdout.flush()
    execute()


def _place(host, name):
    """(every option of the service that it is like, the types of namespaces to join)."""
    now = service.found(host, name)
    if now.files is not None:
        options = now.effective
        return options, _alive(host, options["namespace"]) if options["namespace"] else ()
    types = _alive(host, name)
    group = sandbox.PREFIX + name
    options = dict(DEFAULTS, namespace=name if types else None, cgroup=group if host.cgroups().exists(group) else None)
    path = "%s/mnt/%s" % (host.state, name)
    if "mnt" not in types and overlay.show(host, (None, path)):
        options["root"] = path
    if not types and options["root"] is None:
        raise BulkheadError("Cannot enter %s: there is no such sandbox, set of namespaces or service. See `bulkhead list`." % name)
    if options["root"] is None and "mnt" not in types:
        raise BulkheadError("Cannot enter %s: it has no root of its own. Use nsenter(1) with %s." % (
            name, "its pins in %s/ns/%s" % (host.state, name)))
    return options, types


def _alive(host, name):
    return tuple(kind for kind, pin in namespace.found(host, name).pins.items() if pin.alive)
