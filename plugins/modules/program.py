#!/usr/bin/python
# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: program
short_description: Install the program C(bulkhead) on a host
version_added: 0.1.0
description:
  - Installs the program C(bulkhead), one executable file made of the same sources that the modules of this collection run,
    so that a host can restore, list, enter and clear its sandboxes without Ansible.
  - The role P(bulkhead.isolation.host#role) does this for you. No module of this collection needs the program.
author:
  - Bulkhead contributors (@bulkhead)
extends_documentation_fragment:
  - bulkhead.isolation.attributes
  - bulkhead.isolation.attributes.change
options:
  path:
    description:
      - The absolute path of the program. Missing parent directories are made.
    type: path
    default: /usr/local/bin/bulkhead
  interpreter:
    description:
      - The Python that runs the program, 3.9 or newer, with nothing but its standard library.
      - The default is C(/usr/bin/python3) where that is new enough, else the Python that runs this module.
    type: path
  state:
    description:
      - V(present) installs the program of this version of the collection, V(absent) removes it.
    type: str
    choices: [present, absent]
    default: present
seealso:
  - module: bulkhead.isolation.host_info
  - module: bulkhead.isolation.sandbox
"""

EXAMPLES = r"""
- name: Install the program
  bulkhead.isolation.program:

- name: Install it elsewhere, for a Python of your own
  bulkhead.isolation.program:
    path: /opt/bulkhead/bin/bulkhead
    interpreter: /opt/python/bin/python3

- name: Remove the program
  bulkhead.isolation.program:
    state: absent
"""

RETURN = r"""
program:
  description: The program as declared.
  returned: success
  type: dict
  sample: {path: /usr/local/bin/bulkhead, state: present}
actions:
  description: The names of the steps taken; in check mode those that would be taken.
  returned: success
  type: list
  elements: str
  sample: [install program /usr/local/bin/bulkhead]
restart_required:
  description: Always empty, for a program has nothing to restart.
  returned: success
  type: list
  elements: dict
  sample: []
"""

from ansible_collections.bulkhead.isolation.plugins.module_utils._adapter import run
from ansible_collections.bulkhead.isolation.plugins.module_utils._program import install
from ansible_collections.bulkhead.isolation.plugins.module_utils._program import main as _main  # noqa: F401, pylint: disable=unused-import

# The program is made of what this module was sent with, and importing its main brings all that it needs.


def main():
    run(install, dict(
        path=dict(type="path", default="/usr/local/bin/bulkhead"),
        interpreter=dict(type="path"),
        state=dict(type="str", choices=["present", "absent"], default="present"),
    ))


if __name__ == "__main__":
    main()
