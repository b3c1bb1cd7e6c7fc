#!/usr/bin/python
# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: snapshot_info
short_description: Show snapshots of sandboxes
version_added: 0.2.0
author:
  - Bulkhead contributors (@bulkhead)
description:
  - Shows what was kept of sandboxes by M(bulkhead.isolation.snapshot), also of sandboxes that are gone.
extends_documentation_fragment:
  - bulkhead.isolation.attributes
  - bulkhead.isolation.attributes.info
options:
  sandbox:
    description: The name of one sandbox. Without it the snapshots of all are shown.
    type: str
  name:
    description: The name of a snapshot. Without it all are shown.
    type: str
seealso:
  - module: bulkhead.isolation.snapshot
"""

EXAMPLES = r"""
- name: Read all snapshots of a sandbox
  bulkhead.isolation.snapshot_info:
    sandbox: web
  register: kept

- name: Say which there are
  ansible.builtin.debug:
    msg: "{{ kept.snapshots | map(attribute='name') | join(', ') }}"
"""

RETURN = r"""
snapshots:
  description: The snapshots, sorted by the names of sandbox and snapshot. Empty when there is none.
  returned: success
  type: list
  elements: dict
  contains:
    sandbox:
      description: The name of the sandbox.
      returned: always
      type: str
    name:
      description: The name of the snapshot.
      returned: always
      type: str
    state:
      description: Always V(present).
      returned: always
      type: str
    taken:
      description: When it was taken, in UTC.
      returned: always
      type: str
      sample: "2026-11-26T08:00:00Z"
    written:
      description: How many bytes the sandbox had written then, as its storage driver counts them.
      returned: always
      type: int
    driver:
      description: The storage driver that the sandbox had.
      returned: always
      type: str
      sample: overlay
    layers:
      description: The layers that it was taken over, the lowest first, digests of the store or paths.
      returned: always
      type: list
      elements: str
    path:
      description: The directory that it is kept in.
      returned: always
      type: str
"""

from ansible_collections.bulkhead.isolation.plugins.module_utils._adapter import run_info
from ansible_collections.bulkhead.isolation.plugins.module_utils._resources import snapshot


def main():
    run_info(snapshot, dict(sandbox=dict(type="str"), name=dict(type="str")))


if __name__ == "__main__":
    main()
