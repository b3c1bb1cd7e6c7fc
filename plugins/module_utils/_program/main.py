# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The program `bulkhead`: what a host can do with its sandboxes without Ansible, by the same engine."""

from __future__ import annotations

import os
import sys

from .._engine.host import Host
from .._model.errors import BulkheadError
from . import command

USAGE = """usage: bulkhead VERB

  restore                  make everything again that is recorded in /etc/bulkhead
  list                     show what is recorded, and what of it exists
"""


def main(arguments):
    """Returns the exit status: 0 done, 1 refused or failed (one line on stderr), 2 called wrongly."""
    if not arguments or arguments[0] not in VERBS:
        sys.stderr.write(USAGE)
        return 0 if arguments[:1] in (["help"], ["--help"]) else 2
    if os.geteuid() != 0:
        sys.stderr.write("Cannot %s: this needs root.\n" % arguments[0])
        return 1
    try:
        return VERBS[arguments[0]](Host(command.run), arguments[1:])
    except BulkheadError as exc:
        sys.stderr.write(exc.message + "\n")
    except OSError as exc:
        sys.stderr.write("Cannot %s: %s.\n" % (arguments[0], exc))
    return 1


def show(host, arguments):
    """The records of the host."""
    return 0


VERBS = {"list": show}
