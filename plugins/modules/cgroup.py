#!/usr/bin/python
# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: cgroup
short_description: A control group with its limits
version_added: 0.1.0
description:
  - Makes a control group, sets its limits in place, and removes it. The options are cgroup v2's files, with C(_) for the dots.
  - On hosts with cgroup v1, or with both, each option goes to where its controller is. An option that has no equivalent there
    is refused by name before anything is touched.
  - Where systemd is init, a cgroup is a slice, C(bulkhead/web) the unit C(bulkhead-web.slice), and its limits are properties in
    one unit file, which hold at once, after a C(daemon-reload) and after a reboot. See O(driver) for what systemd has no property for.
  - Only the options that a task names are compared and changed.
author:
  - Bulkhead contributors (@bulkhead)
extends_documentation_fragment:
  - bulkhead.isolation.attributes
  - bulkhead.isolation.attributes.change
options:
  name:
    description:
      - The path below the root of the cgroup tree, names joined by C(/). Parents that are missing are made, and removed with
        the last cgroup below them. By O(driver=systemd) it is the name of a slice, by O(driver=cgroupfs) where systemd is init it is
        below the cgroup of C(bulkhead.service).
    type: str
    required: true
  state:
    description:
      - V(present) makes it and sets what is declared; V(absent) removes it and its empty children.
    type: str
    choices: [present, absent]
    default: present
  cpu_weight:
    description: Share of the cpu time beside its siblings, 1 to 10000. The kernel's default is 100.
    type: int
  cpu_weight_nice:
    description: The same share as a nice level, -20 to 19.
    type: int
  cpu_max:
    description:
      - The most cpu time. A number of cpus (V(1.5)), a part of one cpu (V(50%)), V(max), or a dictionary of C(quota) and
        C(period), both times such as V(50ms). The period is V(100ms) where it is not given.
    type: raw
  cpu_max_burst:
    description: Unused quota that may be saved up and used above O(cpu_max), a time such as V(10ms).
    type: str
  cpu_uclamp_min:
    description: The least performance that the processes ask of a cpu, as a percentage or V(max).
    type: str
  cpu_uclamp_max:
    description: The most performance that the processes ask of a cpu, as a percentage or V(max).
    type: str
  cpu_idle:
    description: Whether the processes run only when nothing else wants the cpu.
    type: bool
  memory_min:
    description: Memory that is never reclaimed, a size such as V(64M) or V(max).
    type: str
  memory_low:
    description: Memory that is reclaimed only when there is nothing else to reclaim.
    type: str
  memory_high:
    description: Above this, the processes are slowed down and their memory is reclaimed.
    type: str
  memory_max:
    description: The most memory. Above it, the kernel kills inside the cgroup.
    type: str
  memory_swap_max:
    description:
      - The most swap space. Cgroup v1 limits memory and swap together, where the sum of O(memory_max) and this is set.
    type: str
  memory_swap_high:
    description: Above this much swap, the processes are slowed down.
    type: str
  memory_zswap_max:
    description: The most memory for compressed swap.
    type: str
  memory_zswap_writeback:
    description: Whether compressed swap may be written to the disk.
    type: bool
  memory_oom_group:
    description: Whether all processes are killed together when one has to be.
    type: bool
  memory_reclaim:
    description: Reclaim this much memory now. This is an act, so it always counts as changed.
    type: str
  io_weight:
    description:
      - Share of the I/O beside its siblings, 1 to 10000. The kernel's default is 100. It works where the disk's scheduler is bfq or
        io.cost is set up.
    type: int
  io_max:
    description:
      - The most I/O per device. On cgroup v1 it reaches direct and synchronous I/O only.
    type: list
    elements: dict
    suboptions:
      device:
        description: A block device, C(MAJOR:MINOR), or any path, which means the disk that holds it.
        type: str
        required: true
      rbps:
        description: Bytes read in a second, a size or V(max).
        type: str
      wbps:
        description: Bytes written in a second, a size or V(max).
        type: str
      riops:
        description: Reads in a second, a number or V(max).
        type: str
      wiops:
        description: Writes in a second, a number or V(max).
        type: str
  io_latency:
    description: The I/O latency to keep per device.
    type: list
    elements: dict
    suboptions:
      device:
        description: As in O(io_max[].device).
        type: str
        required: true
      target:
        description: A time, such as V(10ms); V(0) is no target.
        type: str
        required: true
  cpuset_cpus:
    description: The cpus that may be used, such as V(0-3,5); empty means those of the parent.
    type: str
  cpuset_mems:
    description: The memory nodes that may be used; empty means those of the parent.
    type: str
  cpuset_cpus_exclusive:
    description: The cpus that no sibling may have.
    type: str
  cpuset_partition:
    description: The kind of partition. What the kernel takes as invalid is reported with its reason.
    type: str
    choices: [member, root, isolated]
  pids_max:
    description: The most processes and threads, a number or V(max).
    type: str
  hugetlb:
    description:
      - Huge pages by their size in the kernel's words, such as V(2MB), each with the sizes C(max) and C(rsvd_max).
    type: dict
  rdma_max:
    description: RDMA resources by device, each with C(hca_handle) and C(hca_object).
    type: dict
  misc_max:
    description: Miscellaneous resources of the kernel by name, a number or V(max) each.
    type: dict
  dmem_min:
    description: Device memory by region that is never reclaimed.
    type: dict
  dmem_low:
    description: Device memory by region that is reclaimed last.
    type: dict
  dmem_max:
    description: The most device memory by region.
    type: dict
  max_descendants:
    description: The most cgroups below, a number or V(max).
    type: str
  max_depth:
    description: How deep cgroups may be below, a number or V(max).
    type: str
  type:
    description: V(threaded) for a cgroup of threads; there is no way back from it.
    type: str
    choices: [domain, threaded]
  pressure:
    description: Whether the kernel counts pressure (PSI) for it.
    type: bool
  net_mark:
    description:
      - The mark (C(fwmark)) of packets that its processes send, for rules of yours by which they are routed, shaped or filtered
        (C(ip rule fwmark), C(tc filter fw), C(meta mark)). V(0) is no mark.
      - It is for processes in the network of the host. What a sandbox with a network of its own may send, its interfaces say.
      - Needs nftables; and cgroup v2 alone, or the v1 controller net_cls, whose C(net_cls.classid) it is there.
    type: int
  unified:
    description:
      - Files of cgroup v2 and their values, for what has no option of its own. Compared as text, or, where there is an option for the
        file, as that option.
    type: dict
  frozen:
    description: Whether all its processes stand still.
    type: bool
  processes:
    description:
      - Ids of processes to move into it. On cgroup v2 they live in its child C(exec), in a slice each in a scope of its own.
    type: list
    elements: int
  delegate:
    description: Who may make cgroups in it, on cgroup v2. The directory and the files that the kernel names for this change hands.
    type: dict
    suboptions:
      user:
        description: Name or number of a user of the host.
        type: str
        required: true
      group:
        description: Name or number of a group of the host.
        type: str
  driver:
    description:
      - How the cgroup is made. V(systemd) makes a slice. V(cgroupfs) writes to the cgroup tree; where systemd is init, to the part
        of it that systemd has delegated to C(bulkhead.service).
      - V(auto) is what the cgroup is there by, else V(systemd) where systemd is init and V(cgroupfs) elsewhere.
      - Options that systemd has no property for, or not in the host's version, are refused by name with V(systemd), before anything is
        touched. There is no property for O(cpu_weight_nice), O(cpu_max_burst), O(cpu_uclamp_min), O(cpu_uclamp_max),
        O(memory_swap_high), O(memory_oom_group), O(cpuset_cpus_exclusive), O(hugetlb), O(rdma_max), O(misc_max), O(dmem_min),
        O(dmem_low), O(dmem_max), O(max_descendants), O(max_depth), O(type), O(pressure), O(delegate) and other files in O(unified).
    type: str
    choices: [auto, systemd, cgroupfs]
    default: auto
  allow_undelegated:
    description:
      - With O(driver=cgroupfs) where systemd is init, hand on controllers that systemd does not, such as hugetlb, rdma and misc, by
        writing to the C(cgroup.subtree_control) of the root and of the cgroups above C(bulkhead.service), which are systemd's.
    type: bool
    default: false
  kill:
    description: With O(state=absent), kill the processes that live in it. Otherwise removal is refused while there are any.
    type: bool
    default: false
  allow_below_usage:
    description: Allow a limit below the present usage, on which the kernel may kill.
    type: bool
    default: false
  force:
    description: Change or remove a cgroup that was not made by this collection.
    type: bool
    default: false
seealso:
  - module: bulkhead.isolation.cgroup_info
  - module: bulkhead.isolation.sandbox
"""

EXAMPLES = r"""
- name: A cgroup for the web server
  bulkhead.isolation.cgroup:
    name: bulkhead/web
    cpu_max: 50%
    cpu_weight: 200
    memory_max: 256M
    pids_max: 128
    io_max:
      - device: /var/lib/bulkhead
        rbps: 20M
        wiops: 500

- name: Move a process into it
  bulkhead.isolation.cgroup:
    name: bulkhead/web
    processes: [4711]

- name: Stop everything in it for a moment
  bulkhead.isolation.cgroup:
    name: bulkhead/web
    frozen: true

- name: A subtree that a user may manage
  bulkhead.isolation.cgroup:
    name: bulkhead/build
    driver: cgroupfs
    memory_high: 2G
    delegate:
      user: builder

- name: Remove it with all that runs in it
  bulkhead.isolation.cgroup:
    name: bulkhead/web
    state: absent
    kill: true
"""

RETURN = r"""
cgroup:
  description: The cgroup as it is, as M(bulkhead.isolation.cgroup_info) shows it.
  returned: success
  type: dict
  contains:
    name:
      description: The path below the root of the tree.
      type: str
      returned: success
      sample: bulkhead/web
    state:
      description: V(present) or V(absent). When absent, nothing else is returned.
      type: str
      returned: success
      sample: present
    mode:
      description: The host's cgroup trees, one of V(unified), V(hybrid) and V(v1).
      type: str
      returned: when present
      sample: unified
    driver:
      description: How it was made, V(systemd) or V(cgroupfs).
      type: str
      returned: when present
      sample: systemd
    unit:
      description: The slice.
      type: str
      returned: when the driver is systemd
      sample: bulkhead-web.slice
    unit_file:
      description: The file that systemd has read for it, if any.
      type: str
      returned: when the driver is systemd
      sample: /etc/systemd/system/bulkhead-web.slice
    drop_ins:
      description: Files beside it that add to it or win over it.
      type: list
      elements: str
      returned: when the driver is systemd
      sample: []
    owned:
      description: Whether this collection made it.
      type: bool
      returned: when present
      sample: true
    paths:
      description: Its directory in each hierarchy.
      type: dict
      returned: when present
      sample: {unified: /sys/fs/cgroup/bulkhead/web}
    cpu_weight:
      description: As the option. So are the other limits, each when its controller is there.
      type: int
      returned: when present and the controller is there
      sample: 200
    cpu_max:
      description: The quota and the period in microseconds.
      type: dict
      returned: when present and the controller is there
      sample: {quota: 50000, period: 100000}
    memory_max:
      description: In bytes, or V(max).
      type: raw
      returned: when present and the controller is there
      sample: 268435456
    io_max:
      description: Limits by device.
      type: list
      elements: dict
      returned: when present and the controller is there
      sample: [{device: "254:0", rbps: 20971520, wbps: max, riops: max, wiops: 500}]
    pids_max:
      description: A number, or V(max).
      type: raw
      returned: when present and the controller is there
      sample: 128
    frozen:
      description: Whether it is frozen by itself.
      type: bool
      returned: when present
      sample: false
    processes:
      description: The ids of the processes in it and below.
      type: list
      elements: int
      returned: when present
      sample: [4711]
    delegate:
      description: The numbers of the user and group that own it.
      type: dict
      returned: on cgroup v2
      sample: {user: 0, group: 0}
    usage:
      description: What is used, in bytes and microseconds.
      type: dict
      returned: when present
      sample: {memory: 1048576, pids: 3, cpu_usec: 81000, nr_throttled: 0}
    pressure_stall:
      description: Pressure (PSI) of cpu, memory and I/O.
      type: dict
      returned: when the kernel counts it
    raw:
      description: The kernel's files and their texts.
      type: dict
      returned: when present
      sample: {"memory.max": "268435456"}
actions:
  description: The steps that were taken, or in check mode would be.
  returned: success
  type: list
  elements: str
  sample: [create cgroup bulkhead/web, set memory.max of bulkhead/web]
restart_required:
  description: Always empty, as limits change in place.
  returned: success
  type: list
  elements: dict
"""

from ansible_collections.bulkhead.isolation.plugins.module_utils._adapter import run
from ansible_collections.bulkhead.isolation.plugins.module_utils._resources import cgroup


def main():
    run(cgroup, dict(
        name=dict(type="str", required=True),
        state=dict(type="str", choices=["present", "absent"], default="present"),
        cpu_weight=dict(type="int"),
        cpu_weight_nice=dict(type="int"),
        cpu_max=dict(type="raw"),
        cpu_max_burst=dict(type="str"),
        cpu_uclamp_min=dict(type="str"),
        cpu_uclamp_max=dict(type="str"),
        cpu_idle=dict(type="bool"),
        memory_min=dict(type="str"),
        memory_low=dict(type="str"),
        memory_high=dict(type="str"),
        memory_max=dict(type="str"),
        memory_swap_max=dict(type="str"),
        memory_swap_high=dict(type="str"),
        memory_zswap_max=dict(type="str"),
        memory_zswap_writeback=dict(type="bool"),
        memory_oom_group=dict(type="bool"),
        memory_reclaim=dict(type="str"),
        net_mark=dict(type="int"),
        io_weight=dict(type="int"),
        io_max=dict(type="list", elements="dict", options=dict(
            device=dict(type="str", required=True), rbps=dict(type="str"), wbps=dict(type="str"), riops=dict(type="str"), wiops=dict(type="str"))),
        io_latency=dict(type="list", elements="dict", options=dict(
            device=dict(type="str", required=True), target=dict(type="str", required=True))),
        cpuset_cpus=dict(type="str"),
        cpuset_mems=dict(type="str"),
        cpuset_cpus_exclusive=dict(type="str"),
        cpuset_partition=dict(type="str", choices=["member", "root", "isolated"]),
        pids_max=dict(type="str"),
        hugetlb=dict(type="dict"),
        rdma_max=dict(type="dict"),
        misc_max=dict(type="dict"),
        dmem_min=dict(type="dict"),
        dmem_low=dict(type="dict"),
        dmem_max=dict(type="dict"),
        max_descendants=dict(type="str"),
        max_depth=dict(type="str"),
        type=dict(type="str", choices=["domain", "threaded"]),
        pressure=dict(type="bool"),
        unified=dict(type="dict"),
        frozen=dict(type="bool"),
        processes=dict(type="list", elements="int"),
        delegate=dict(type="dict", options=dict(user=dict(type="str", required=True), group=dict(type="str"))),
        driver=dict(type="str", choices=["auto", "systemd", "cgroupfs"], default="auto"),
        allow_undelegated=dict(type="bool", default=False),
        kill=dict(type="bool", default=False),
        allow_below_usage=dict(type="bool", default=False),
        force=dict(type="bool", default=False),
    ))


if __name__ == "__main__":
    main()
