#!/usr/bin/python
# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: sandbox_info
short_description: Read the sandboxes of a host
version_added: 0.1.0
description:
  - Shows sandboxes as the kernel and the supervisor show them, namely namespaces, limits and usage, root, interfaces and services.
extends_documentation_fragment:
  - bulkhead.isolation.attributes
  - bulkhead.isolation.attributes.info
options:
  names:
    description: The sandboxes to show. All that are recorded on the host when left out.
    type: list
    elements: str
  changes:
    description:
      - Whether to compare each sandbox's upper with the layers below, file by file.
      - Paths that are added, modified or deleted are told, as they are inside. Where a directory was deleted, what was in it is not
        told. A file whose content, mode, owner, time and attributes are as below is not modified, even where it was opened for writing.
    type: bool
    default: false
  storage:
    description: Whether to tell how much each sandbox has written, and which snapshots there are of it.
    type: bool
    default: false
seealso:
  - module: bulkhead.isolation.sandbox
author:
  - Bulkhead contributors (@bulkhead)
"""

EXAMPLES = r"""
- name: All sandboxes of the host
  bulkhead.isolation.sandbox_info:
  register: found

- name: One sandbox
  bulkhead.isolation.sandbox_info:
    names: [web]

- name: What was changed in a sandbox against its image
  bulkhead.isolation.sandbox_info:
    names: [web]
    changes: true
  register: web

- name: Tell what waits for a restart
  ansible.builtin.debug:
    msg: "{{ item.name }}: {{ item.services }}"
  loop: "{{ found.sandboxes }}"
"""

RETURN = r"""
sandboxes:
  description: One entry for each sandbox that exists, or that could not be made again after a reboot.
  type: list
  elements: dict
  returned: always
  contains:
    name:
      description: The name.
      type: str
    namespaces:
      description: As M(bulkhead.isolation.namespace_info) shows it, or null.
      type: dict
    cgroup:
      description: As M(bulkhead.isolation.cgroup_info) shows it, or null.
      type: dict
    root:
      description: The mounts of the prepared root, or null.
      type: dict
    overlay:
      description: As M(bulkhead.isolation.overlay_info) shows it, for a sandbox without a mount namespace.
      type: dict
    interfaces:
      description: As M(bulkhead.isolation.interface_info) shows them, with their addresses.
      type: list
      elements: dict
    services:
      description: As M(bulkhead.isolation.chroot_service_info) shows them.
      type: list
      elements: dict
    changes:
      description: What its upper has changed against its layers, as three lists of paths.
      returned: with O(changes)
      type: dict
      sample: {added: [/etc/new], modified: [/etc/hosts], deleted: [/etc/motd]}
    storage:
      description: The driver, the bytes that were written, as they lie on the disk, and the C(size) that limits them, or null. With C(limit) where
        the driver has limits of several kinds. With C(pool) where roots lie in a thin pool, its path, the bytes that it has, how many
        percent of it are in use, and how many bytes are promised to all roots together.
      returned: with O(storage)
      type: dict
      sample: {driver: overlay, written: 1048576, size: null}
    version:
      description: What of its image it runs with, and what it can be rolled back to, or null for one without an image.
      type: dict
      sample: {image: web, digest: "sha256:0c3f…", previous: {image: web, digest: "sha256:9a1e…"}, rolled_back: false}
    unfinished:
      description:
        - What a run has begun with it and not ended, as C(going to image NAME), C(trial), C(connections wait) or C(frozen). Where no run is at
          work, one was killed, and the next run of the sandbox goes on with it or takes it back.
      type: list
      elements: str
      sample: []
    snapshots:
      description: The names of its snapshots, see M(bulkhead.isolation.snapshot_info).
      returned: with O(storage)
      type: list
      elements: str
      sample: [before-upgrade]
    restore_error:
      description: Why it could not be made again after the last reboot, or null. It stays until the sandbox is converged.
      type: str
"""

from ansible_collections.bulkhead.isolation.plugins.module_utils._adapter import run_info
from ansible_collections.bulkhead.isolation.plugins.module_utils._resources import sandbox


def main():
    run_info(sandbox, dict(
        names=dict(type="list", elements="str"),
        changes=dict(type="bool", default=False),
        storage=dict(type="bool", default=False),
    ))


if __name__ == "__main__":
    main()
