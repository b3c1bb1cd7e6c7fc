# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Go into a sandbox or a service: the same entry as a service's start, with another command."""

from __future__ import annotations

import os
import sys

from .. import _once
from .._engine import places
from .._engine.lock import Lock
from .._model.errors import BulkheadError
from .._model.service import DEFAULTS
from .._resources import _unit, namespace, overlay, sandbox, service
from .._supervisor import entry, pick
from . import command, terminal


def visit(host, name, words, with_terminal):
    """Run ``words`` inside and return its exit status; without a terminal this process becomes the one that waits for it."""
    spec, group, options = _like(host, name)
    spec = dict(spec, name=name, command=words, namespaces=dict(spec["namespaces"], pid=spec["pid_namespace"]), die_with_parent=False,
                notify=False, started=None, stdin="inherit", tty=with_terminal, log=False)
    if group:
        spec["cgroup"] = host.cgroups().join_files(group, "exec")
    with Lock(host.lock, "visit"):
        places.ensure(host)
        entry.ensure(host)
        _unit.make_filter(host, options)
        if group:
            host.cgroups().make_leaf(group, "exec")
    fd = os.memfd_create("entry")  # close-on-exec: for the entry it is opened anew by its number
    os.write(fd, _unit.dump(spec).encode())
    os.set_inheritable(fd, True)
    _once.keep()  # this process ends as another program, and not at the end of this one
    argv = pick(host).within(host, group, entry.command(host, "/proc/self/fd/%d" % fd))

    def execute():
        os.execve(argv[0], argv, {"TERM": os.environ.get("TERM", "dumb")})

    if with_terminal:
        return command.exit_status(terminal.relay(execute))
    sys.stdout.flush()
    execute()


def _like(host, name):
    """(the entry spec of what NAME is, its cgroup or None, the options that its seccomp filter is made from)."""
    now = service.found(host, name)
    if now.files is not None:
        return now.spec, now.effective["cgroup"], now.effective
    pins = {kind: pin.path for kind, pin in namespace.found(host, name).pins.items() if pin.alive}
    group = sandbox.PREFIX + name
    options = dict(DEFAULTS, command=None, namespace=name, cgroup=group if host.cgroups().exists(group) else None)
    root = "%s/mnt/%s" % (host.state, name)
    if "mnt" not in pins and overlay.show(host, (None, root)):
        options["root"] = root
    if not pins and options["root"] is None:
        raise BulkheadError("Cannot enter %s: there is no such sandbox, set of namespaces or service. See `bulkhead list`." % name)
    if "mnt" not in pins and options["root"] is None:
        raise BulkheadError("Cannot enter %s: it has no root of its own. Use nsenter(1) with its pins in %s/ns/%s." % (name, host.state, name))
    return _unit.build(host, name + "/exec", options, pins).spec, options["cgroup"], options
