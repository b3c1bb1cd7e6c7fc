#!/usr/bin/python
# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: namespace_info
short_description: Show sets of pinned Linux namespaces
version_added: 0.1.0
author:
  - Bulkhead contributors (@bulkhead)
description:
  - Shows pinned namespaces as the kernel has them, also those of C(ip netns add).
extends_documentation_fragment:
  - bulkhead.isolation.attributes
  - bulkhead.isolation.attributes.info
options:
  name:
    description: The name of one set. Without it all are shown.
    type: str
seealso:
  - module: bulkhead.isolation.namespace
"""

EXAMPLES = r"""
- name: Read all sets
  bulkhead.isolation.namespace_info:
  register: all

- name: Read one
  bulkhead.isolation.namespace_info:
    name: web
  register: web

- name: Check that its pid namespace lives
  ansible.builtin.assert:
    that: web.namespaces[0].types.pid.alive
"""

RETURN = r"""
namespaces:
  description: The sets, sorted by name. Empty when there is none, or none of that name.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: The name of the set.
      returned: always
      type: str
    state:
      description: Always V(present).
      returned: always
      type: str
    owned:
      description: Whether all of it was made by this collection.
      returned: always
      type: bool
    keeper:
      description: The pid, on the host, of the keeper of the pid namespace. None when there is none.
      returned: always
      type: int
    types:
      description:
        - What is pinned, by type.
        - C(condition) is V(alive), V(dead) for a pid namespace without its init, V(wrong) for a namespace of another type,
          V(file) for the empty file that is left of a pin, or V(taken) for something else.
      returned: always
      type: dict
      sample:
        net:
          path: /run/netns/web
          identity: net:[4026532476]
          alive: true
          condition: alive
    hostname:
      description: The host name inside.
      returned: when there is a uts namespace
      type: str
    domainname:
      description: The NIS domain name inside.
      returned: when there is a uts namespace
      type: str
    loopback:
      description: Whether C(lo) is up inside.
      returned: when there is a net namespace
      type: bool
    uid_map:
      description: Lists of the first id inside, the first id outside, and how many.
      returned: when there is a user namespace
      type: list
      elements: list
      sample: [[0, 100000, 65536]]
    gid_map:
      description: The same for groups.
      returned: when there is a user namespace
      type: list
      elements: list
      sample: [[0, 100000, 65536]]
    time_offsets:
      description: The offsets of the clocks in seconds.
      returned: when there is a time namespace
      type: dict
      sample: {monotonic: 0, boottime: 864000}
"""

from ansible_collections.bulkhead.isolation.plugins.module_utils._adapter import run_info
from ansible_collections.bulkhead.isolation.plugins.module_utils._resources import namespace


def main():
    run_info(namespace, dict(name=dict(type="str")))


if __name__ == "__main__":
    main()
