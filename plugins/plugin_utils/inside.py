# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What makes of a connection to a host one into a sandbox of that host: every command goes through `bulkhead run`, and so does every file.

Nothing of a sandbox is looked up from outside: a path in it can be a link to anywhere, and means what it means inside only.
"""

from __future__ import annotations

import re
import shlex

import yaml
from ansible.errors import AnsibleConnectionFailure
from ansible_collections.bulkhead.isolation.plugins.module_utils._model import values

# the login shell of the host need not be one that knows these words, so it is given nothing but quoted ones
AS_ROOT = 'test "$(id -u)" != 0 || shift "$0"; exec "$@"'


class Inside:
    """Stands before a connection of Ansible's in the order of classes, and needs its ``exec_command`` alone."""

    def exec_command(self, cmd, in_data=None, sudoable=True):
        """Run a line of the shell inside: (exit status, output, errors). What did not come to be run there is a connection that failed."""
        sandbox, program = self.get_option("sandbox"), self.get_option("program")
        status, output, errors = super().exec_command(line(sandbox, program, self.get_option("host_become"), cmd), in_data=in_data, sudoable=sudoable)
        reason = refusal(status, errors.decode("utf-8", "replace"), sandbox, program)
        if reason:
            raise AnsibleConnectionFailure(reason)
        return status, output, errors


def line(sandbox, program, become, cmd):
    """The line for the host's shell that has the sandbox's shell take ``cmd``; root has no need of ``become``."""
    if not all(values.is_name(part) for part in sandbox.split("/", 1)):
        raise AnsibleConnectionFailure("Cannot enter %r: it is not the name of a sandbox, nor of a service of one (SANDBOX/SERVICE). "
                                       "Set bulkhead_sandbox to what `bulkhead list` shows." % sandbox)
    words = ["/bin/sh", "-c", AS_ROOT, str(len(become)), *become, program, "run", sandbox, "/bin/sh", "-c", cmd]
    return " ".join(shlex.quote(word) for word in words)


def documentation(ours, theirs):
    """The text of both, from which Ansible learns of the options: those of the connection that this one goes through, and ours before them."""
    theirs, ours = yaml.safe_load(theirs), yaml.safe_load(ours)
    options = {name: option for name, option in theirs["options"].items() if name != "remote_user"}  # it has another meaning here
    ours["options"] = dict(options, **ours.get("options", {}))
    ours["extends_documentation_fragment"] += theirs["extends_documentation_fragment"]
    return yaml.safe_dump(ours, width=10000)


def refusal(status, errors, sandbox, program):
    """Why the sandbox was not entered, if that is what the host said, or None: what a command answers inside is its own matter."""
    last = (errors.strip().splitlines() or [""])[-1].strip()
    if status in (1, 125) and last.startswith("Cannot enter %s: " % sandbox):
        return last
    if status == 1 and re.match(r"(sudo|doas): .*(password|tty|askpass|not permitted)", last, re.IGNORECASE):
        return ("Cannot enter %s: its host lets nobody but root do so without a password (%s). Allow `%s run %s` in its sudoers, "
                "set bulkhead_host_become, or connect as root." % (sandbox, last, program, sandbox))
    if status in (1, 126, 127) and re.search(r"%s: .*not found|No such file.*%s|%s: No such file" % ((re.escape(program),) * 3), last):
        return "Cannot enter %s: its host does not have %s. Run the role bulkhead.isolation.host there, or set bulkhead_program." % (sandbox, program)
    return None
