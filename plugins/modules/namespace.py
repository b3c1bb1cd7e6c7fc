#!/usr/bin/python
# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: namespace
short_description: Manage sets of pinned Linux namespaces
version_added: 0.1.0
author:
  - Bulkhead contributors (@bulkhead)
description:
  - Makes namespaces of any of the eight types that live without a process, because they are pinned to a file, and
    sets what belongs inside them.
  - One or several namespaces share a name and form a set. Those that a living set lacks are added to it, and pins that
    are broken are mended, that is a plain file that a crash left, a pid namespace whose init has died, or a namespace
    of another type.
  - Only options that the task names are compared. What can be changed in place is changed in place.
extends_documentation_fragment:
  - bulkhead.isolation.attributes
  - bulkhead.isolation.attributes.change
options:
  name:
    description:
      - The name of the set.
      - A net namespace is pinned at C(/run/netns/NAME), where C(ip netns) looks, the others below C(/run/bulkhead).
    type: str
    required: true
  types:
    description:
      - The types of the namespaces.
      - Required with O(state=present). Types that the set has and the list does not name are left alone.
      - With O(state=absent), only these are removed; without the option the whole set is.
      - A V(pid) namespace gets an init that only sleeps and reaps orphans, its keeper.
      - A V(mnt) namespace starts as a copy of the host's mounts, to which changes on the host propagate.
      - A V(user) namespace owns the other namespaces of its set.
    type: list
    elements: str
    choices: [user, cgroup, ipc, uts, net, pid, time, mnt]
  hostname:
    description: The host name in the V(uts) namespace. Changed in place.
    type: str
  domainname:
    description: The NIS domain name in the V(uts) namespace. Changed in place.
    type: str
  sysctls:
    description:
      - Kernel parameters inside the namespaces. Changed in place.
      - Only those that a namespace has of its own are allowed, that is C(net.*), C(user.*), C(fs.mqueue.*) and those of
        System V IPC below C(kernel).
      - An interface name with a dot needs the form with slashes, as in C(net/ipv4/conf/eth0.100/forwarding).
    type: dict
  uid_map:
    description:
      - How user ids inside the V(user) namespace map to the host's, at most 340 entries.
      - Each entry is a dictionary with the keys C(inside), C(outside) and C(count), or a text of these three numbers, as
        in C(/proc/PID/uid_map).
      - Required with the type V(user). The kernel fixes it when the namespace is made, see O(on_mismatch).
    type: list
    elements: raw
  gid_map:
    description: The same as O(uid_map) for group ids.
    type: list
    elements: raw
  time_offsets:
    description:
      - By how many seconds the clocks in the V(time) namespace are ahead of the host's.
      - The kernel fixes it when the first process enters the namespace, see O(on_mismatch).
    type: dict
    suboptions:
      monotonic:
        description: Offset of C(CLOCK_MONOTONIC) in seconds, which may be negative.
        type: int
        default: 0
      boottime:
        description: Offset of C(CLOCK_BOOTTIME) in seconds, which may be negative.
        type: int
        default: 0
  loopback:
    description:
      - Whether the interface C(lo) in the V(net) namespace is up.
      - A new one is brought up unless this is V(false). In a living one it is changed only when the option is given.
    type: bool
  cgroup:
    description:
      - The cgroup, relative to the root of the hierarchy, in which the keeper lives and in which the V(cgroup) namespace is
        rooted. It must exist, see M(bulkhead.isolation.cgroup).
    type: str
  owner:
    description:
      - The name of a set whose V(user) namespace owns the namespaces of this one.
      - The kernel fixes it when they are made, see O(on_mismatch).
    type: str
  on_mismatch:
    description:
      - What to do when O(uid_map), O(gid_map), O(time_offsets), O(cgroup), O(owner) or the user namespace of the set
        differ from what a living namespace was made with.
      - V(fail) refuses. V(recreate) removes the namespaces concerned and makes them again.
    type: str
    choices: [fail, recreate]
    default: fail
  kill:
    description:
      - Whether processes that live in namespaces that are to be removed or made again are killed.
      - Without it, such a removal is refused and the processes are named.
    type: bool
    default: false
  force:
    description:
      - Whether to change or remove also namespaces that were not made by this collection, such as those of C(ip netns add).
      - Such a namespace that is as declared is left alone, and not adopted.
    type: bool
    default: false
  state:
    description: Whether the set is to exist.
    type: str
    choices: [present, absent]
    default: present
seealso:
  - module: bulkhead.isolation.namespace_info
  - module: bulkhead.isolation.sandbox
  - name: namespaces(7)
    description: The manual page of namespaces.
    link: https://man7.org/linux/man-pages/man7/namespaces.7.html
"""

EXAMPLES = r"""
- name: A network of its own, also for ip netns exec web
  bulkhead.isolation.namespace:
    name: web
    types: [net]

- name: Everything that a service can have of its own
  bulkhead.isolation.namespace:
    name: web
    types: [net, uts, ipc, mnt, pid, cgroup]
    hostname: web
    cgroup: bulkhead/web
    sysctls:
      net.ipv4.ip_unprivileged_port_start: 80
      kernel.shmmax: 67108864

- name: A user namespace in which root is user 100000 of the host, and what it owns
  bulkhead.isolation.namespace:
    name: build
    types: [user, net, uts, pid]
    uid_map:
      - {inside: 0, outside: 100000, count: 65536}
    gid_map:
      - 0 100000 65536

- name: A clock that started ten days ago, made again when it differs
  bulkhead.isolation.namespace:
    name: aged
    types: [time]
    time_offsets:
      boottime: 864000
    on_mismatch: recreate

- name: Remove the set, and end what lives in it
  bulkhead.isolation.namespace:
    name: web
    kill: true
    state: absent
"""

RETURN = r"""
namespace:
  description: The set as M(bulkhead.isolation.namespace_info) shows it, after the run. In check mode as it is.
  returned: success
  type: dict
  contains:
    name:
      description: The name of the set.
      returned: always
      type: str
    state:
      description: V(present), or V(absent) when there is nothing of that name.
      returned: always
      type: str
    owned:
      description: Whether all of it was made by this collection.
      returned: when present
      type: bool
    keeper:
      description: The pid, on the host, of the keeper of the pid namespace. None when there is none.
      returned: when present
      type: int
    types:
      description: What is pinned, by type.
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
actions:
  description: The names of the steps taken, in check mode of those to be taken.
  returned: success
  type: list
  elements: str
  sample: ["create net of namespaces web"]
restart_required:
  description: Always empty here, as nothing of a set waits for a restart.
  returned: success
  type: list
  elements: dict
processes:
  description: The processes because of which a removal was refused, each with C(pid) and C(command).
  returned: on such a failure
  type: list
  elements: dict
"""

from ansible_collections.bulkhead.isolation.plugins.module_utils._adapter import run
from ansible_collections.bulkhead.isolation.plugins.module_utils._resources import namespace


def main():
    run(namespace, dict(
        name=dict(type="str", required=True),
        types=dict(type="list", elements="str", choices=["user", "cgroup", "ipc", "uts", "net", "pid", "time", "mnt"]),
        hostname=dict(type="str"),
        domainname=dict(type="str"),
        sysctls=dict(type="dict"),
        uid_map=dict(type="list", elements="raw"),
        gid_map=dict(type="list", elements="raw"),
        time_offsets=dict(type="dict", options=dict(
            monotonic=dict(type="int", default=0),
            boottime=dict(type="int", default=0),
        )),
        loopback=dict(type="bool"),
        cgroup=dict(type="str"),
        owner=dict(type="str"),
        on_mismatch=dict(type="str", choices=["fail", "recreate"], default="fail"),
        kill=dict(type="bool", default=False),
        force=dict(type="bool", default=False),
        state=dict(type="str", choices=["present", "absent"], default="present"),
    ))


if __name__ == "__main__":
    main()
