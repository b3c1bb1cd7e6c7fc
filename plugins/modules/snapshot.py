#!/usr/bin/python
# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: snapshot
short_description: Keep, and put back, what a sandbox has written
version_added: 0.2.0
author:
  - Bulkhead contributors (@bulkhead)
description:
  - Saves what a sandbox has written, its read-write layer, under a name, and puts that back.
  - A snapshot has the files as they are, with owners, modes, times, hard links, holes and extended attributes, and not what is in
    the memory of services. Where the storage driver and the file system can, it takes room only for what is changed afterwards.
  - What was written is that of one moment. Most of it is copied while services run; then the sandbox is frozen by its cgroup for what has
    changed meanwhile, and goes on afterwards, also where the task is killed. A sandbox that was frozen already stays so.
  - Snapshots are beside the sandbox on the host, and do not count for its C(size). They are removed with the sandbox where
    that is removed with C(remove_data), and else stay.
requirements:
  - A sandbox with a root of layers, of an image or of an overlay
extends_documentation_fragment:
  - bulkhead.isolation.attributes
  - bulkhead.isolation.attributes.change
attributes:
  idempotent:
    description: A second run with the same options reports C(changed=false) and makes no change.
    support: partial
    details:
      - With O(state=restored) each run is an act that changes.
options:
  sandbox:
    description: The name of the sandbox.
    type: str
    required: true
  name:
    description: The name of the snapshot, at most 64 of the characters C(A-Z a-z 0-9 _ . -) with a letter or digit first.
    type: str
    required: true
  state:
    description:
      - V(present) takes the snapshot, if there is none of that name. One that is there is left as it is, so give a new one another name,
        or remove the old one.
      - V(absent) removes it.
      - V(restored) stops the services of the sandbox, makes what is written what it was when the snapshot was taken, makes the root anew
        and starts the services. What was written since is lost. It is refused where the sandbox has other layers now than then, where its
        C(size) is too small, and where it has no namespace of the type V(mnt).
      - V(present) and V(restored) are refused where the overlay of the sandbox has C(index), C(nfs_export) or C(volatile), with which the kernel
        takes a copy for something else.
      - When V(restored) fails, what was there before is brought back.
    type: str
    choices: [present, absent, restored]
    default: present
  kill:
    description: Whether O(state=restored) may kill processes in the sandbox that are not of its services, such as logins.
    type: bool
    default: false
seealso:
  - module: bulkhead.isolation.snapshot_info
  - module: bulkhead.isolation.sandbox
  - module: bulkhead.isolation.image
    description: With O(bulkhead.isolation.image#module:commit), what was written becomes a layer of an image.
"""

EXAMPLES = r"""
- name: Keep what is there before something is tried
  bulkhead.isolation.snapshot:
    sandbox: web
    name: before-migration

- name: Go back to it
  bulkhead.isolation.snapshot:
    sandbox: web
    name: before-migration
    state: restored

- name: Remove it
  bulkhead.isolation.snapshot:
    sandbox: web
    name: before-migration
    state: absent
"""

RETURN = r"""
actions:
  description: The names of the steps taken, in check mode of those to be taken.
  type: list
  elements: str
  returned: success
  sample: [save what sandbox web has written as snapshot before-migration]
restart_required:
  description: Always empty.
  type: list
  elements: dict
  returned: success
snapshot:
  description: The snapshot after the run, in check mode as it is now, as M(bulkhead.isolation.snapshot_info) shows it.
  type: dict
  returned: success
  sample: {sandbox: web, name: before-migration, state: absent}
"""

from ansible_collections.bulkhead.isolation.plugins.module_utils._adapter import run
from ansible_collections.bulkhead.isolation.plugins.module_utils._resources import snapshot


def main():
    run(snapshot, dict(
        sandbox=dict(type="str", required=True),
        name=dict(type="str", required=True),
        state=dict(type="str", choices=["present", "absent", "restored"], default="present"),
        kill=dict(type="bool", default=False),
    ))


if __name__ == "__main__":
    main()
