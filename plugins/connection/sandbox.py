# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Tasks inside a sandbox of a host that is reached by ssh."""

from __future__ import annotations

DOCUMENTATION = r"""
name: sandbox
short_description: Run tasks inside a sandbox of a host that is reached by ssh
version_added: 0.1.0
author:
  - Bulkhead contributors (@bulkhead)
description:
  - Tasks, facts and files of a play work inside of a sandbox that M(bulkhead.isolation.sandbox) has made, as if it were a host of its own.
    It needs no ssh server and no network.
  - What is run inside gets what a service there gets, which are namespaces, root, the cgroup C(bulkhead/SANDBOX/exec) with the limits of the
    sandbox, and no more capabilities.
  - All options of P(ansible.builtin.ssh#connection) are there, for the way to the sandbox's host, but O(ignore:use_tty) and
    O(ignore:ssh_transfer_method). A terminal of the host is never shared with a sandbox, and files are read and written from inside.
  - The sandbox needs C(/bin/sh); to copy files C(dd); for modules Python. C(ansible.builtin.raw) does without.
extends_documentation_fragment:
  - bulkhead.isolation.inside
options:
  host_user:
    description: Who logs in on the sandbox's host.
    type: str
    vars:
      - name: ansible_user
      - name: ansible_ssh_user
    env:
      - name: ANSIBLE_REMOTE_USER
    ini:
      - section: defaults
        key: remote_user
    cli:
      - name: user
        option: --user
    keyword:
      - name: remote_user
seealso:
  - plugin: bulkhead.isolation.sandbox_local
    plugin_type: connection
  - module: bulkhead.isolation.sandbox
"""

EXAMPLES = r"""
# inventory.yml: web and cache are sandboxes of one host
# sandboxes:
#   hosts:
#     web.one: {ansible_host: one.example.org, bulkhead_sandbox: web}
#     cache.one: {ansible_host: one.example.org, bulkhead_sandbox: cache}
#   vars:
#     ansible_connection: bulkhead.isolation.sandbox
#     ansible_user: deploy
- name: Set up what runs inside
  hosts: sandboxes
  tasks:
    - name: A page
      ansible.builtin.copy:
        content: It works.
        dest: /srv/www/index.html
        mode: "0644"
"""

from ansible.plugins.connection import ssh
from ansible_collections.bulkhead.isolation.plugins.plugin_utils import inside

globals().update(DOCUMENTATION=inside.documentation(DOCUMENTATION, ssh.DOCUMENTATION))


class Connection(inside.Inside, ssh.Connection):
    """ssh to the host, and from there inside."""

    transport = "bulkhead.isolation.sandbox"

    def set_options(self, task_keys=None, var_options=None, direct=None):
        """Those of ssh, but for two that would pass by the sandbox's own view of things."""
        super().set_options(task_keys=task_keys, var_options=var_options, direct=direct)
        self.set_option("use_tty", False)
        self.set_option("ssh_transfer_method", "piped")

    def _build_command(self, binary, subsystem, *other_args):
        """For ssh the remote user is who logs in; for all others it is who the tasks are inside."""
        user = self.get_option("remote_user")
        self.set_option("remote_user", self.get_option("host_user"))
        try:
            return super()._build_command(binary, subsystem, *other_args)
        finally:
            self.set_option("remote_user", user)
