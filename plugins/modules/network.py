#!/usr/bin/python
# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: network
short_description: Manage networks that sandboxes are on
version_added: 0.2.0
author:
  - Bulkhead contributors (@bulkhead)
description:
  - Makes a bridge on the host with the gateways of its subnets, lets the host forward for it, and keeps the rules by which its
    members are let out, and kept from other networks and from the host's own services.
  - All rules are in one nftables table of our own, C(inet bulkhead), and are set in one transaction. Nothing of other tables
    is touched. Where somebody else's firewall would drop what this one lets through, there is a warning.
  - Interfaces and sandboxes become members by M(bulkhead.isolation.interface) and M(bulkhead.isolation.sandbox).
  - All is changed in place, and what was changed by hand is mended. An option that a task does not name stays as it was
    declared before, and has its default when it never was.
  - Forwarding is turned on only where it is needed, and turned off again with the last network. What comes in by a device
    that forwards only because of that goes to networks of ours and nowhere else.
requirements:
  - nftables, with JSON (Debian C(nftables))
  - pyroute2 0.5.14 or newer (Debian C(python3-pyroute2))
extends_documentation_fragment:
  - bulkhead.isolation.attributes
  - bulkhead.isolation.attributes.change
options:
  name:
    description: The name of the network.
    type: str
    required: true
  subnets:
    description:
      - The subnets, each a text such as V(10.42.0.0/24) or V(fd00:42::/64), or a dictionary with the keys C(subnet) and C(gateway).
      - The gateway is the bridge's own address, the first one of the subnet unless it is named.
      - Required for a new network. The list is exact, so a subnet that is not named any more is taken away. That is refused
        as long as a member has an address in it.
      - A subnet that overlaps one of another network, or an address or a route of the host, is refused, see O(force).
    type: list
    elements: raw
  device:
    description:
      - The name of the bridge, at most 15 bytes.
      - The default is C(bh-NAME), or C(bh-) and a digest of the name where that would be too long.
      - A change renames the bridge, which is down for a moment then.
    type: str
  mode:
    description:
      - V(bridged) lets members of the network see each other's frames.
      - V(routed) has all that they send each other go through the host, so that the egress policies of members hold among
        them, too. The host answers for the addresses of all of them.
      - The default of a new network is V(bridged).
    type: str
    choices: [bridged, routed]
  inter_sandbox:
    description: Whether members of the network may reach each other. V(true) in a new network.
    type: bool
  masquerade:
    description: Whether members leave the host with the host's address. V(true) in a new network.
    type: bool
  internal:
    description: Whether there is no way out. V(false) in a new network.
    type: bool
  uplink:
    description:
      - The one device that members may leave by.
      - V(any) lets them leave by whatever device the host's routes say, which is the default.
    type: str
  reaches:
    description:
      - The names of other networks whose members may be reached from this one. Their answers come back, but connections
        are opened one way only.
      - A network that is named here and made later is reached from then on.
      - Members of an O(internal) network have no way back but to their gateway, so they see that instead of who reaches them.
    type: list
    elements: str
  host_services:
    description:
      - What members may reach on the host itself. None in a new network, except C(ping) and what IPv6 needs to find neighbours.
    type: list
    elements: dict
    suboptions:
      protocol:
        description: The protocol.
        type: str
        choices: [tcp, udp]
        required: true
      port:
        description: A port or a range, such as V(53) or V(8000-8010).
        type: str
        required: true
  antispoof:
    description:
      - Whether members may send from their own MAC and addresses only. V(true) in a new network.
      - The MAC is held to by the bridge from Linux 5.18 on.
    type: bool
  mtu:
    description:
      - The MTU of the bridge, and of members that name none. The kernel's default is 1500.
      - Members that are there take a new one on when they are converged again.
    type: int
  vlan_filtering:
    description: Whether the bridge heeds VLAN tags. Refused where the kernel was built without it.
    type: bool
  dns:
    description:
      - The name servers and search domains in C(/etc/netns/NAME/resolv.conf) of members.
      - Without it they are those of the host, and where these are a stub on the host itself, those that the stub asks.
    type: dict
    suboptions:
      servers:
        description: Addresses of name servers.
        type: list
        elements: str
      search:
        description: Domains.
        type: list
        elements: str
  force:
    description:
      - With O(state=present), whether a bridge of that name that somebody else made is taken over, and whether a subnet may
        overlap what the host has.
      - With O(state=absent), whether the network is removed although there are members on it, which are cut off then.
    type: bool
    default: false
  state:
    description:
      - Whether the network is to exist.
      - V(absent) is refused as long as members are on it, see O(force).
    type: str
    choices: [present, absent]
    default: present
seealso:
  - module: bulkhead.isolation.network_info
  - module: bulkhead.isolation.interface
  - module: bulkhead.isolation.sandbox
"""

EXAMPLES = r"""
- name: A network with a way out
  bulkhead.isolation.network:
    name: lab
    subnets: [10.42.0.0/24, fd00:42::/64]

- name: One for data bases, without a way out
  bulkhead.isolation.network:
    name: data
    subnets:
      - subnet: 10.43.0.0/24
        gateway: 10.43.0.254
    internal: true

- name: Let the first open connections to it
  bulkhead.isolation.network:
    name: lab
    reaches: [data]

- name: Members that see nothing of each other, and ask the name server of the host
  bulkhead.isolation.network:
    name: guests
    subnets: [10.44.0.0/16]
    inter_sandbox: false
    host_services:
      - {protocol: udp, port: 53}
      - {protocol: tcp, port: 53}
    dns: {servers: [10.44.0.1]}
    uplink: eth1

- name: Remove it, also from under its members
  bulkhead.isolation.network:
    name: guests
    state: absent
    force: true
"""

RETURN = r"""
network:
  description: The network as M(bulkhead.isolation.network_info) shows it, after the run. In check mode as it is.
  returned: success
  type: dict
  contains:
    name:
      description: The name of the network.
      returned: always
      type: str
    state:
      description: V(present) or V(absent).
      returned: always
      type: str
    owned:
      description: Whether its bridge was made by this collection.
      returned: when present
      type: bool
    device:
      description: The name of the bridge.
      returned: when present
      type: str
      sample: bh-lab
    mac:
      description: The MAC address of the bridge, which follows from the network's name.
      returned: when present
      type: str
    mtu:
      description: The MTU of the bridge.
      returned: when present
      type: int
    up:
      description: Whether the bridge is up.
      returned: when present
      type: bool
    vlan_filtering:
      description: Whether the bridge heeds VLAN tags.
      returned: when present
      type: bool
    subnets:
      description: The subnets of the bridge's addresses, and these as gateways.
      returned: when present
      type: list
      elements: dict
      sample: [{subnet: 10.42.0.0/24, gateway: 10.42.0.1}]
    mode:
      description: V(bridged) or V(routed). This and what follows down to C(dns) is as declared. None where there is no record of it.
      returned: when present
      type: str
    inter_sandbox:
      description: Whether members may reach each other.
      returned: when present
      type: bool
    masquerade:
      description: Whether members leave the host with the host's address.
      returned: when present
      type: bool
    internal:
      description: Whether there is no way out.
      returned: when present
      type: bool
    uplink:
      description: The one device that members may leave by. None for any.
      returned: when present
      type: str
    reaches:
      description: The networks whose members may be reached.
      returned: when present
      type: list
      elements: str
    host_services:
      description: What members may reach on the host.
      returned: when present
      type: list
      elements: dict
      sample: [{protocol: udp, port: "53"}]
    antispoof:
      description: Whether members may send from their own MAC and addresses only.
      returned: when present
      type: bool
    dns:
      description: The name servers and search domains of members. None for those of the host.
      returned: when present
      type: dict
    members:
      description: The interfaces on it, each with its C(name), the C(device) on the host, its C(mac) and its C(addresses).
      returned: when present
      type: list
      elements: dict
      sample: [{name: web/eth0, device: bh0123456789ab, mac: "02:00:5e:10:00:01", addresses: [10.42.0.7]}]
actions:
  description: The names of the steps taken, in check mode of those to be taken.
  returned: success
  type: list
  elements: str
  sample: ["set rules of lab", "create bridge bh-lab of network lab", "turn on forwarding of ipv4 eth0"]
restart_required:
  description: Always empty here.
  returned: success
  type: list
  elements: dict
members:
  description: The members because of which a removal or a change was refused.
  returned: on such a failure
  type: list
  elements: str
"""

from ansible_collections.bulkhead.isolation.plugins.module_utils._adapter import run
from ansible_collections.bulkhead.isolation.plugins.module_utils._resources import network


def main():
    run(network, dict(
        name=dict(type="str", required=True),
        subnets=dict(type="list", elements="raw"),
        device=dict(type="str"),
        mode=dict(type="str", choices=["bridged", "routed"]),
        inter_sandbox=dict(type="bool"),
        masquerade=dict(type="bool"),
        internal=dict(type="bool"),
        uplink=dict(type="str"),
        reaches=dict(type="list", elements="str"),
        host_services=dict(type="list", elements="dict", options=dict(
            protocol=dict(type="str", choices=["tcp", "udp"], required=True),
            port=dict(type="str", required=True),
        )),
        antispoof=dict(type="bool"),
        mtu=dict(type="int"),
        vlan_filtering=dict(type="bool"),
        dns=dict(type="dict", options=dict(
            servers=dict(type="list", elements="str"),
            search=dict(type="list", elements="str"),
        )),
        force=dict(type="bool", default=False),
        state=dict(type="str", choices=["present", "absent"], default="present"),
    ))


if __name__ == "__main__":
    main()
