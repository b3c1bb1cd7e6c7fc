# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    """What both connections into a sandbox, by ssh and on the controller itself, are told in the same way."""

    DOCUMENTATION = r"""
options:
  sandbox:
    description:
      - The sandbox to work in, as C(bulkhead list) names it on its host.
      - C(SANDBOX/SERVICE) works as that service does, with its user, capabilities, limits and system calls.
    type: str
    required: true
    vars:
      - name: bulkhead_sandbox
  remote_user:
    description:
      - Who the tasks are inside, which is C(root) unless O(sandbox) names a service that runs as somebody else.
      - It says whose home C(~) is and whether a task still has to become its O(ignore:become_user). It makes nobody of anyone.
    type: str
    default: root
    vars:
      - name: bulkhead_sandbox_user
  program:
    description: Where the role P(bulkhead.isolation.host#role) has put the program on the sandbox's host.
    type: str
    default: /usr/local/bin/bulkhead
    vars:
      - name: bulkhead_program
  host_become:
    description:
      - The words before the program's for a user who is not root on the sandbox's host. They must not ask for anything.
      - >-
        Only O(program) is run by them. In F(/etc/sudoers) C(deploy ALL=NOPASSWD: /usr/local/bin/bulkhead run web *) suffices for the sandbox
        C(web), and gives root inside of C(web) alone.
      - Becoming another user inside is what C(become) does, as everywhere.
    type: list
    elements: str
    default: [sudo, -n]
    vars:
      - name: bulkhead_host_become
"""
