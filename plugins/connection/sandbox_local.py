# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Tasks inside a sandbox of the controller itself."""

from __future__ import annotations

DOCUMENTATION = r"""
name: sandbox_local
short_description: Run tasks inside a sandbox of the controller itself
version_added: 0.1.0
author:
  - Bulkhead contributors (@bulkhead)
description:
  - What P(bulkhead.isolation.sandbox#connection) does on other hosts, on the host that runs Ansible.
  - All options of P(ansible.builtin.local#connection) are there.
extends_documentation_fragment:
  - bulkhead.isolation.inside
seealso:
  - plugin: bulkhead.isolation.sandbox
    plugin_type: connection
  - module: bulkhead.isolation.sandbox
"""

EXAMPLES = r"""
- name: Set up what runs inside
  hosts: localhost
  gather_facts: true
  vars:
    ansible_connection: bulkhead.isolation.sandbox_local
    bulkhead_sandbox: web
    ansible_python_interpreter: /usr/bin/python3
  tasks:
    - name: A page
      ansible.builtin.copy:
        content: It works.
        dest: /srv/www/index.html
        mode: "0644"
"""

from ansible.errors import AnsibleError, AnsibleFileNotFound
from ansible.plugins.connection import local
from ansible_collections.bulkhead.isolation.plugins.plugin_utils import inside

globals().update(DOCUMENTATION=inside.documentation(DOCUMENTATION, local.DOCUMENTATION))
BLOCK = 65536  # of dd, in bytes


class Connection(inside.Inside, local.Connection):
    """A process of ours on this host, and from there inside."""

    transport = "bulkhead.isolation.sandbox_local"

    def put_file(self, in_path, out_path):
        """Written by a command inside, so that no link there leads out."""
        try:
            with open(in_path, "rb") as stream:
                data = stream.read()
        except FileNotFoundError as exc:
            raise AnsibleFileNotFound("Cannot copy %s into %s: there is no such file." % (in_path, self.get_option("sandbox"))) from exc
        self._transfer("dd of=%s bs=%d%s" % (self._shell.quote(out_path), BLOCK, "" if data else " count=0"), data)

    def fetch_file(self, in_path, out_path):
        """Read by a command inside."""
        data = self._transfer("dd if=%s bs=%d" % (self._shell.quote(in_path), BLOCK), None)
        with open(out_path, "wb") as stream:
            stream.write(data)

    def _transfer(self, command, data):
        status, output, errors = self.exec_command(command, in_data=data, sudoable=False)
        if status:
            raise AnsibleError("Cannot copy by `%s` in %s: %s" % (command, self.get_option("sandbox"), errors.decode("utf-8", "replace").strip()))
        return output
