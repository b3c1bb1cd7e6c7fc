#!/usr/bin/python
# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: cgroup_info
short_description: Control groups with their limits and usage
version_added: 0.1.0
description:
  - Shows control groups as the kernel has them, in normal values (bytes, microseconds), with usage and pressure.
author:
  - Bulkhead contributors (@bulkhead)
extends_documentation_fragment:
  - bulkhead.isolation.attributes
  - bulkhead.isolation.attributes.info
options:
  name:
    description: Paths of cgroups below the root of the tree. Without it, all that this collection made.
    type: list
    elements: str
seealso:
  - module: bulkhead.isolation.cgroup
"""

EXAMPLES = r"""
- name: All cgroups that were made by this collection
  bulkhead.isolation.cgroup_info:
  register: ours

- name: One of them
  bulkhead.isolation.cgroup_info:
    name: [bulkhead/web]
  register: web

- name: Make sure that it was removed
  ansible.builtin.assert:
    that: web.cgroups | length == 0

- name: Show what it uses
  ansible.builtin.debug:
    msg: "{{ ours.cgroups | map(attribute='usage') }}"
"""

RETURN = r"""
cgroups:
  description: The cgroups that exist, each as M(bulkhead.isolation.cgroup) returns it.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: The path below the root of the tree.
      type: str
      returned: success
      sample: bulkhead/web
    memory_max:
      description: As in M(bulkhead.isolation.cgroup), like all other keys.
      type: raw
      returned: when the controller is there
      sample: 268435456
    usage:
      description: What is used, in bytes and microseconds.
      type: dict
      returned: success
      sample: {memory: 1048576, pids: 3, cpu_usec: 81000}
"""

from ansible_collections.bulkhead.isolation.plugins.module_utils._adapter import run_info
from ansible_collections.bulkhead.isolation.plugins.module_utils._resources import cgroup


def main():
    run_info(cgroup, dict(name=dict(type="list", elements="str")))


if __name__ == "__main__":
    main()
