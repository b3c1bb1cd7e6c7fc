# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The program `bulkhead`: what a host can do with its sandboxes without Ansible, by the same engine.

Each verb imports what it needs: entering a sandbox, which is done most often, needs least.
"""

from __future__ import annotations

import os
import sys

from .._engine import aside
from .._engine.host import Host
from .._model import values
from .._model.errors import BulkheadError, Problems
from . import command

USAGE = """usage: bulkhead VERB

  restore                     make everything again that /etc/bulkhead records, as after a reboot
  list                        show what is recorded, and what of it is there
  run NAME COMMAND...         run a command in a sandbox or like a service (SANDBOX/SERVICE), and end with its status
  enter NAME [COMMAND...]     the same with a terminal of its own; without a command, a shell
  clear                       take away all that a reboot would take; records and data stay
  check                       say what this host allows
"""


def main(arguments):
    """Returns the exit status: 0 done, 1 refused or failed (one line each on stderr), 2 called wrongly; of run and enter, the command's."""
    verb, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if verb in ("help", "--help", "-h"):
        sys.stdout.write(USAGE)
        return 0
    if verb not in VERBS or not _fits(verb, rest):
        sys.stderr.write(USAGE)
        return 2
    if os.geteuid() != 0:
        return _say(["Cannot %s: this needs root." % verb])
    try:
        host = Host(command.run)
        aside.join(host)
        return VERBS[verb](host, rest)
    except BulkheadError as exc:
        return _say([exc.message])
    except OSError as exc:
        return _say(["Cannot %s: %s." % (verb, exc)])


def _fits(verb, rest):
    least, most = {"run": (2, None), "enter": (1, None)}.get(verb, (0, 0))
    return len(rest) >= least and (most is None or len(rest) <= most)


def _restore(host, rest):
    """At boot it is the main process of a unit (systemd says so), and its lines go to the journal: few, and failures as errors."""
    from . import whole

    host.booting = host.systemd and os.environ.get("SYSTEMD_EXEC_PID") == str(os.getpid())
    done, failed = whole.restore(host)
    _tell(["Restored all that is recorded%s, in %d steps." % (" but %d" % len(failed) if failed else "", len(done))] if host.booting else done)
    if not failed:
        return 0
    lines = host.warnings + [message if record.name in message else "Cannot restore %s %s: %s" % (record.noun, record.name, message)
                             for record, message in failed]
    return _say(["<3>" + line for line in lines] if host.booting else lines)


def _clear(host, rest):
    from .._engine.engine import converge
    from . import host as whole_host

    _tell(converge(host, whole_host, {"state": "absent", "clear": True}).joined("actions"))
    return 0


def _list(host, rest):
    from . import whole

    rows = [("NOUN", "NAME", "STATE", "SERVICES")]
    for record in whole.recorded(host):
        rows.append((record.noun, record.name) + whole.state(host, record))
    for row in rows if len(rows) > 1 else ():
        sys.stdout.write("%-10s %-24s %-8s %s\n" % row)
    return 0


def _check(host, rest):
    from .._resources import preflight

    found = preflight.survey(host)
    missing = ["Packages are missing: %s." % ", ".join(found["missing_tools"])] if found["missing_tools"] else []
    networks = found["missing_network_tools"]
    _tell(["Linux %s, cgroups %s, init %s" % (found["kernel"], found["cgroup_mode"], found["init"])] + found["limits"]
          + (["Networks need packages that are missing: %s." % ", ".join(networks)] if networks else []))
    return _say(found["problems"] + missing)


def _run(host, rest):
    from . import visit

    return visit.visit(host, _name(rest[0]), rest[1:], False)


def _enter(host, rest):
    from . import visit

    if not os.isatty(0) or not os.isatty(1):
        raise BulkheadError("Cannot enter %s: this needs a terminal. Use run without one." % rest[0])
    return visit.visit(host, _name(rest[0]), rest[1:] or ["/bin/sh"], True)


def _name(text):
    problems = Problems()
    for part in text.split("/", 1):
        values.name(part, "NAME", problems)
    problems.raise_if_any()
    return text


def _tell(lines):
    for line in lines:
        sys.stdout.write(line + "\n")


def _say(lines):
    for line in lines:
        sys.stderr.write(line + "\n")
    return 1 if lines else 0


VERBS = {"restore": _restore, "list": _list, "clear": _clear, "check": _check, "run": _run, "enter": _enter}
