#!/usr/bin/python
# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: interface
short_description: Manage interfaces in named net namespaces
version_added: 0.2.0
author:
  - Bulkhead contributors (@bulkhead)
description:
  - Makes links in net namespaces, with addresses, routes, bandwidth, published ports and all that belongs to them.
  - All interfaces of a host are one task. The host is read once and the firewall is set by one transaction, however many they
    are. Every input error is reported at once, each with its path, before the host is touched.
  - Addresses, routes, rates, ports and most of the rest are changed in place, while connections live. What was changed by hand is
    mended. What the kernel fixes when a link is made is refused or made again, see O(on_mismatch).
  - Only keys that the task names are compared, and lists that it names are exact. Routes and rules that somebody else
    added with C(ip) are left alone. On a network of ours addresses, MAC, ports and egress are always held to what was declared
    last, as the firewall lets nothing else through.
requirements:
  - pyroute2 0.5.14 or newer (Debian C(python3-pyroute2))
  - nftables, with JSON (Debian C(nftables)), for interfaces on networks
  - wireguard-tools, for interfaces of type C(wireguard)
extends_documentation_fragment:
  - bulkhead.isolation.attributes
  - bulkhead.isolation.attributes.change
options:
  interfaces:
    description:
      - The interfaces, each a dictionary of the keys below.
      - C(namespace) is the name of the net namespace, see M(bulkhead.isolation.namespace). C(name) is the name in it, of at most 15 bytes.
        Both are required.
      - C(state) is V(present), the default, or V(absent). What is removed leaves no link, rule, route, record or file.
      - C(type) is V(veth), the default, V(macvlan), V(ipvlan), V(vlan), V(vxlan), V(dummy), V(wireguard), V(tap), or V(device) for a
        device of the host that is moved in. What the running kernel does not have is refused with the name of the module.
      - C(network) is the network that a C(veth) is on, see M(bulkhead.isolation.network), or C(bridge) a bridge that somebody else made.
      - C(parent) is the device of the host that a C(macvlan), C(ipvlan), C(vlan) or C(vxlan) stands on. C(mode) is that of a
        C(macvlan) (V(bridge), the default, V(private), V(vepa), V(passthru) or V(source)) or of an C(ipvlan) (V(l2), the default, V(l3) or V(l3s)).
        C(vlan_id) is of a C(vlan), and C(vni), C(remote), C(local) and C(port) (4789) are of a C(vxlan).
      - C(device) is the device that is moved in. It is moved back under its old name, with its old MAC and MTU, when the
        interface is removed. One that the host uses, because it has an address, a default route or a place in a bridge, is refused
        without O(force).
      - C(private_key_file), C(listen_port) and C(peers) are of a C(wireguard). A peer is a dictionary of C(public_key), C(endpoint), C(allowed_ips),
        C(keepalive) in seconds and C(preshared_key_file). Keys are read from files of the host.
      - C(mac), C(mtu) and C(up). A MAC that is not declared follows from namespace and name, and
        on what is not a network of ours also from the host, by its machine-id. C(up) is V(true) by default.
      - C(addresses) is a list of addresses with prefix, such as V(10.42.0.7/24). On a network it may be left out, and then one
        of each subnet is given, the same at each making and after a reboot.
      - C(gateway) says whether the gateways of the network are the default routes. It is V(true) by default for the first interface
        of a namespace on a network that is not internal.
      - C(routes) is a list of dictionaries of C(to) (a subnet, an address or V(default)), C(via), C(source), C(metric), C(table), C(mtu) and C(type)
        (V(unicast), V(blackhole), V(unreachable), V(prohibit) or V(throw)).
      - C(rules) is a list of dictionaries of C(from), C(to), C(mark), C(table) and C(priority). One without addresses is of IPv4 and IPv6.
      - C(neighbours) is a list of dictionaries of C(address) and C(mac).
      - C(sysctls) is a dictionary of what is below C(net/ipv4/conf/NAME) and C(net/ipv6/conf/NAME), such as C(ipv4.rp_filter) or
        C(ipv6.accept_ra). A name without a family, such as C(forwarding), is set in both. On a network with IPv6 C(ipv6.accept_ra)
        is V(0) by default, for any other member could say that it is the way out.
      - C(bandwidth) is a dictionary of C(transmit), what leaves the namespace, and C(receive), what comes in (of C(veth)). Each is a rate in
        the words of C(tc), such as V(10mbit), or a dictionary of C(rate), C(burst) in bytes, C(delay), C(jitter) and C(loss) in percent.
      - C(publish) is a list of ports of the host that lead to the interface, such as V(8080:80), V(127.0.0.1:8080:80),
        V(53:53/udp) or V(8000-8010:9000-9010), or dictionaries of C(host_address), C(host_port), C(port) and C(protocol). They are reached
        from outside, from the host itself and from other members.
      - C(egress) is a dictionary of C(policy), V(allow) (the default) or V(deny), and C(allow), the list of what may be reached all the same,
        dictionaries of C(to), C(port) and C(protocol). It needs a network of C(mode=routed) with C(antispoof).
      - C(aliases) is a list of further names by which other members find this one.
    type: list
    elements: dict
    required: true
  defaults:
    description: Keys for all interfaces of O(interfaces). Dictionaries are merged key by key, and lists are replaced.
    type: dict
  purge:
    description:
      - Remove interfaces that were made by this module and are no longer declared. Those of sandboxes are not touched.
    type: bool
    default: false
  on_mismatch:
    description:
      - What to do when something differs that a link has from its making, namely its type, parent, mode, C(vlan_id), C(vni),
        C(local) or C(port).
      - V(fail) refuses. V(recreate) removes the link and makes it again, which ends its connections.
    type: str
    choices: [fail, recreate]
    default: fail
  force:
    description:
      - Whether to change or remove also links that were not made by this collection, and to move devices that the host uses.
      - Such a link that is as declared is left alone, and not adopted.
    type: bool
    default: false
notes:
  - Members of a network find each other by the names of their namespaces, in C(/etc/netns/NAME/hosts). C(ip netns exec) and
    sandboxes show it as C(/etc/hosts).
  - A namespace is not removed by M(bulkhead.isolation.namespace) as long as a device of the host is in it.
  - Where the host has C(net.bridge.bridge-nf-call-iptables) set, as Docker sets it, members that are kept from each other
    (C(inter_sandbox=false) or C(mode=routed) of the network) do not reach ports that are published by one of them. They reach it by its own address
    where the network lets them.
seealso:
  - module: bulkhead.isolation.interface_info
  - module: bulkhead.isolation.network
  - module: bulkhead.isolation.namespace
  - module: bulkhead.isolation.sandbox
"""

EXAMPLES = r"""
- name: Two namespaces on a network, one of them published
  bulkhead.isolation.interface:
    defaults:
      name: eth0
      network: lab
    interfaces:
      - namespace: web
        publish: ["80:8080", "443:8443"]
        bandwidth: {transmit: 100mbit, receive: 100mbit}
      - namespace: cache
        addresses: [10.42.0.7/24]
        aliases: [redis]

- name: A host of the local network in its own right
  bulkhead.isolation.interface:
    interfaces:
      - namespace: printer
        name: eth0
        type: macvlan
        parent: enp3s0
        addresses: [192.0.2.50/24]
        routes:
          - {to: default, via: 192.0.2.1}

- name: Only what is named here may be reached
  bulkhead.isolation.interface:
    interfaces:
      - namespace: build
        name: eth0
        network: closed
        egress:
          policy: deny
          allow:
            - {to: 192.0.2.10, port: 443, protocol: tcp}
            - {to: 10.42.0.0/24}

- name: A bad line, for a laboratory
  bulkhead.isolation.interface:
    interfaces:
      - namespace: client
        name: eth0
        network: lab
        bandwidth:
          transmit: {rate: 2mbit, delay: 80ms, jitter: 10ms, loss: 1%}

- name: A card of the host
  bulkhead.isolation.interface:
    interfaces:
      - {namespace: router, name: wan, type: device, device: enp4s0, addresses: [198.51.100.2/30]}

- name: Remove an interface; of type device, the card goes back to the host
  bulkhead.isolation.interface:
    interfaces:
      - {namespace: router, name: wan, state: absent}
"""

RETURN = r"""
actions:
  description: The names of the steps taken, in check mode of those to be taken.
  type: list
  elements: str
  returned: success
  sample: ["set rules of web/eth0", "create interface web/eth0", "write names of web"]
restart_required:
  description: Always empty here, as nothing of an interface waits for a restart.
  type: list
  elements: dict
  returned: success
interfaces:
  description:
    - The interfaces that changed as they are after the run, in check mode as they are now, as M(bulkhead.isolation.interface_info)
      shows them. Those that did not change are named only.
  type: list
  elements: dict
  returned: success
  sample: [{"namespace": "web", "name": "eth0", "changed": false}]
  contains:
    namespace:
      description: The name of the net namespace.
      type: str
      returned: always
    name:
      description: The name in it.
      type: str
      returned: always
    changed:
      description: Whether something of it changed, which tells the two kinds of entries apart.
      type: bool
      returned: always
    state:
      description: V(present) or V(absent).
      type: str
      returned: when it changed
failed_items:
  description: The interfaces that were refused or failed, with what was undone. Their C(name) is C(NAMESPACE/NAME).
  type: list
  elements: dict
  returned: when some could not be converged
"""

from ansible_collections.bulkhead.isolation.plugins.module_utils._adapter import run
from ansible_collections.bulkhead.isolation.plugins.module_utils._resources import interface


def main():
    run(interface, dict(
        interfaces=dict(type="list", elements="dict", required=True),
        defaults=dict(type="dict"),
        purge=dict(type="bool", default=False),
        on_mismatch=dict(type="str", choices=["fail", "recreate"], default="fail"),
        force=dict(type="bool", default=False),
    ))


if __name__ == "__main__":
    main()
