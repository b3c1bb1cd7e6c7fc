#!/usr/bin/python
# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: network_info
short_description: Show networks that sandboxes are on
version_added: 0.2.0
author:
  - Bulkhead contributors (@bulkhead)
description:
  - Shows networks, their bridges as the kernel has them, and who is on them.
requirements:
  - nftables, with JSON (Debian C(nftables)), where there are members
extends_documentation_fragment:
  - bulkhead.isolation.attributes
  - bulkhead.isolation.attributes.info
options:
  name:
    description: The name of one network. Without it all are shown.
    type: str
seealso:
  - module: bulkhead.isolation.network
  - module: bulkhead.isolation.interface_info
"""

EXAMPLES = r"""
- name: Read all networks
  bulkhead.isolation.network_info:
  register: all

- name: Read one
  bulkhead.isolation.network_info:
    name: lab
  register: lab

- name: Say who is on it
  ansible.builtin.debug:
    msg: "{{ lab.networks[0].members | map(attribute='name') | join(', ') }}"
"""

RETURN = r"""
networks:
  description: The networks, sorted by name. Empty when there is none, or none of that name.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: The name of the network.
      returned: always
      type: str
    state:
      description: Always V(present).
      returned: always
      type: str
    owned:
      description: Whether its bridge was made by this collection.
      returned: always
      type: bool
    device:
      description: The name of the bridge.
      returned: always
      type: str
      sample: bh-lab
    mac:
      description: The MAC address of the bridge, which follows from the network's name.
      returned: always
      type: str
    mtu:
      description: The MTU of the bridge.
      returned: always
      type: int
    up:
      description: Whether the bridge is up.
      returned: always
      type: bool
    vlan_filtering:
      description: Whether the bridge heeds VLAN tags.
      returned: always
      type: bool
    subnets:
      description: The subnets of the bridge's addresses, and these as gateways.
      returned: always
      type: list
      elements: dict
      sample: [{subnet: 10.42.0.0/24, gateway: 10.42.0.1}]
    mode:
      description: V(bridged) or V(routed). This and what follows down to C(dns) is as declared. None where there is no record of it.
      returned: always
      type: str
    inter_sandbox:
      description: Whether members may reach each other.
      returned: always
      type: bool
    masquerade:
      description: Whether members leave the host with the host's address.
      returned: always
      type: bool
    internal:
      description: Whether there is no way out.
      returned: always
      type: bool
    uplink:
      description: The one device that members may leave by. None for any.
      returned: always
      type: str
    reaches:
      description: The networks whose members may be reached.
      returned: always
      type: list
      elements: str
    host_services:
      description: What members may reach on the host.
      returned: always
      type: list
      elements: dict
      sample: [{protocol: udp, port: "53"}]
    antispoof:
      description: Whether members may send from their own MAC and addresses only.
      returned: always
      type: bool
    dns:
      description: The name servers and search domains of members. None for those of the host.
      returned: always
      type: dict
    members:
      description: The interfaces on it, each with its C(name), the C(device) on the host, its C(mac) and its C(addresses).
      returned: always
      type: list
      elements: dict
      sample: [{name: web/eth0, device: bh0123456789ab, mac: "02:00:5e:10:00:01", addresses: [10.42.0.7]}]
"""

from ansible_collections.bulkhead.isolation.plugins.module_utils._adapter import run_info
from ansible_collections.bulkhead.isolation.plugins.module_utils._resources import network


def main():
    run_info(network, dict(name=dict(type="str")))


if __name__ == "__main__":
    main()
