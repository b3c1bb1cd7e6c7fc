#!/usr/bin/python
# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: host
short_description: Make a host ready for sandboxes, or free of them
version_added: 0.1.0
description:
  - Installs the program C(bulkhead), one executable file made of the same sources that the modules of this collection run, so
    that a host can restore, list, enter and clear its sandboxes without Ansible; and has C(bulkhead restore) run at boot, by the unit
    C(bulkhead-restore.service) where systemd is the init, else by cron where it runs, else by the host's own runit.
  - Where systemd is not the init, starts the supervisor of the services, detached from the task that starts it.
  - Or takes everything away that this collection made on the host.
  - The role P(bulkhead.isolation.host#role) does this for you. The other modules need neither, and start the supervisor
    themselves when they first need it.
author:
  - Bulkhead contributors (@bulkhead)
extends_documentation_fragment:
  - bulkhead.isolation.attributes
  - bulkhead.isolation.attributes.change
options:
  program:
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
      - V(present) has the program of this version of the collection installed and run at boot, and the supervisor running.
      - V(absent) removes all sandboxes, services, overlays, interfaces, namespaces, networks and cgroups that the modules of this
        collection made, their records, the supervisor, what runs at boot, and the program. Processes in them are killed.
    type: str
    choices: [present, absent]
    default: present
  remove_data:
    description:
      - Whether V(absent) also removes the read-write layers that hold data, the snapshots, the images, and the logs of services.
    type: bool
    default: false
seealso:
  - module: bulkhead.isolation.host_info
  - module: bulkhead.isolation.sandbox
"""

EXAMPLES = r"""
- name: Install the program, have it run at boot, and have a supervisor
  bulkhead.isolation.host:

- name: Install the program elsewhere, for a Python of your own
  bulkhead.isolation.host:
    program: /opt/bulkhead/bin/bulkhead
    interpreter: /opt/python/bin/python3

- name: Remove all that this collection made here, but the data
  bulkhead.isolation.host:
    state: absent

- name: Remove the data too
  bulkhead.isolation.host:
    state: absent
    remove_data: true
"""

RETURN = r"""
host:
  description: The host as it is.
  returned: success
  type: dict
  contains:
    program:
      description: The path of the program, or V(null).
      type: str
      returned: success
      sample: /usr/local/bin/bulkhead
    supervisor:
      description: The pid of the supervisor of the services, or V(null); 1 where that is systemd.
      type: int
      returned: success
      sample: 4711
    boot:
      description: What runs C(bulkhead restore) at boot, one of V(systemd), V(cron), V(runit), or V(null) where nothing does.
      type: str
      returned: success
      sample: systemd
actions:
  description: The names of the steps taken; in check mode those that would be taken.
  returned: success
  type: list
  elements: str
  sample: [install program /usr/local/bin/bulkhead, start the supervisor]
restart_required:
  description: Always empty.
  returned: success
  type: list
  elements: dict
  sample: []
"""

from ansible_collections.bulkhead.isolation.plugins.module_utils import _once  # noqa: F401, pylint: disable=unused-import
from ansible_collections.bulkhead.isolation.plugins.module_utils._adapter import run
from ansible_collections.bulkhead.isolation.plugins.module_utils._program import host
from ansible_collections.bulkhead.isolation.plugins.module_utils._program import main as _main  # noqa: F401, pylint: disable=unused-import

# The program is made of what this module was sent with, and importing its main brings all that it needs.


def main():
    run(host, dict(
        program=dict(type="path", default="/usr/local/bin/bulkhead"),
        interpreter=dict(type="path"),
        state=dict(type="str", choices=["present", "absent"], default="present"),
        remove_data=dict(type="bool", default=False),
    ))


if __name__ == "__main__":
    main()
