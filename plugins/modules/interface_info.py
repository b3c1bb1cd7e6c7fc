#!/usr/bin/python
# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: interface_info
short_description: Show interfaces in named net namespaces
version_added: 0.2.0
author:
  - Bulkhead contributors (@bulkhead)
description:
  - Shows the interfaces in net namespaces as the kernel has them, also those that somebody else made, but not C(lo).
extends_documentation_fragment:
  - bulkhead.isolation.attributes
  - bulkhead.isolation.attributes.info
options:
  namespace:
    description: The namespace to show. Without it all are shown that C(ip netns) knows.
    type: str
  name:
    description: Only interfaces of this name.
    type: str
seealso:
  - module: bulkhead.isolation.interface
"""

EXAMPLES = r"""
- name: Read all
  bulkhead.isolation.interface_info:
  register: all

- name: Read the address that was given to a namespace
  bulkhead.isolation.interface_info:
    namespace: web
    name: eth0
  register: web

- name: Tell it
  ansible.builtin.debug:
    msg: "{{ web.interfaces[0].addresses }}"
"""

RETURN = r"""
interfaces:
  description: The interfaces, sorted by namespace and name.
  returned: success
  type: list
  elements: dict
  contains:
    namespace:
      description: The name of the net namespace.
      type: str
      returned: always
    name:
      description: The name in it.
      type: str
      returned: always
    state:
      description: Always V(present).
      type: str
      returned: always
    owned:
      description: Whether it was made by this collection.
      type: bool
      returned: always
    type:
      description: The type, in the words of M(bulkhead.isolation.interface) where it knows it, else in the kernel's.
      type: str
      returned: always
    mac:
      description: The MAC.
      type: str
      returned: always
    mtu:
      description: The MTU.
      type: int
      returned: always
    up:
      description: Whether it is up.
      type: bool
      returned: always
    addresses:
      description: The addresses with prefix, without link-local ones.
      type: list
      elements: str
      returned: always
      sample: ["10.42.0.7/24", "fd00:42::7/64"]
    allocated:
      description: Those that were given to it, not declared.
      type: list
      elements: str
      returned: always
    routes:
      description: The routes through it but the kernel's own, with C(to), and C(via), C(source), C(metric), C(mtu) and C(table) where they have them.
      type: list
      elements: dict
      returned: always
      sample: [{"to": "default", "via": "10.42.0.1"}]
    network:
      description: The network that it is on, or null.
      type: str
      returned: always
    bridge:
      description: The bridge that its end on the host is on, or null.
      type: str
      returned: always
    host_end:
      description: The name of its end on the host, or null.
      type: str
      returned: always
    bandwidth:
      description:
        - For C(transmit) and C(receive) what limits there are, or null. With C(rate), C(burst) in bytes, C(delay) and C(jitter) in microseconds, C(loss)
          in percent, and the counters C(bytes), C(packets), C(drops) and C(overlimits).
      type: dict
      returned: always
      sample: {"transmit": {"rate": "10mbit", "burst": 32768, "bytes": 340, "packets": 2, "drops": 0, "overlimits": 0}, "receive": null}
    published:
      description: The ports of the host that lead to it.
      type: list
      elements: str
      returned: always
      sample: ["127.0.0.1:8090/udp", "8080/tcp"]
    egress:
      description: V(allow), or V(deny) with what is allowed all the same.
      type: str
      returned: always
      sample: deny all but 10.42.0.0/24, 192.0.2.10 tcp 443
    parent:
      description: The device of the host that it stands on, or null.
      type: str
      returned: of the types that have one
    mode:
      description: The mode.
      type: str
      returned: of type macvlan and ipvlan
    vlan_id:
      description: The VLAN.
      type: int
      returned: of type vlan
    vni:
      description: The number of the vxlan.
      type: int
      returned: of type vxlan
    remote:
      description: The address that it sends to.
      type: str
      returned: of type vxlan, where it has one
    local:
      description: The address that it sends from.
      type: str
      returned: of type vxlan, where it has one
    port:
      description: The port of UDP that it uses.
      type: int
      returned: of type vxlan
    device:
      description: The name that a device had on the host.
      type: str
      returned: of type device
"""

from ansible_collections.bulkhead.isolation.plugins.module_utils._adapter import run_info
from ansible_collections.bulkhead.isolation.plugins.module_utils._resources import interface


def main():
    run_info(interface, dict(namespace=dict(type="str"), name=dict(type="str")))


if __name__ == "__main__":
    main()
