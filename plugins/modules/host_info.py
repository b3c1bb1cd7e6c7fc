#!/usr/bin/python
# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: host_info
short_description: What kernel, tools and privileges of a host allow
version_added: 0.1.0
description:
  - Reads what this collection can do on a host and says in plain words what is missing or limited. It changes nothing and
    needs nothing installed but Python.
author:
  - Bulkhead contributors (@bulkhead)
extends_documentation_fragment:
  - bulkhead.isolation.attributes
  - bulkhead.isolation.attributes.info
seealso:
  - module: bulkhead.isolation.sandbox
"""

EXAMPLES = r"""
- name: Ask what this host allows
  bulkhead.isolation.host_info:
  register: survey

- name: Go on only where sandboxes can be made
  ansible.builtin.assert:
    that: survey.host.problems | length == 0
    fail_msg: "{{ survey.host.problems | join(' ') }}"

- name: Say what this host limits
  ansible.builtin.debug:
    msg: "{{ survey.host.limits }}"
"""

RETURN = r"""
host:
  description: What was found.
  returned: success
  type: dict
  contains:
    system:
      description: How the system calls itself.
      type: str
      returned: success
      sample: Debian GNU/Linux 13 (trixie)
    tested:
      description: Whether this release of the collection is tested on this system. The module warns where it is not.
      type: bool
      returned: success
      sample: true
    kernel:
      description: The release of the running kernel.
      type: str
      returned: success
      sample: 6.1.0-37-amd64
    init:
      description: The name of process 1; V(systemd) where systemd is the init.
      type: str
      returned: success
      sample: runit
    systemd:
      description: The version of systemd where it is the init, else V(null).
      type: int
      returned: success
      sample: 257
    boot:
      description:
        - What can run C(bulkhead restore) at boot here, one of V(systemd), V(cron), V(runit) (the host's own), or V(null). The
          module M(bulkhead.isolation.host) sees to it.
      type: str
      returned: success
      sample: systemd
    cgroup_mode:
      description: Which cgroup trees are mounted, one of V(unified), V(hybrid), V(v1) and V(none).
      type: str
      returned: success
      sample: unified
    controllers:
      description: The cgroup controllers that can be used, in the words of cgroup v2.
      type: list
      elements: str
      returned: success
      sample: [cpu, cpuset, io, memory, pids]
    namespaces:
      description: The types of namespaces that can be made.
      type: list
      elements: str
      returned: success
      sample: [cgroup, ipc, mnt, net, pid, time, user, uts]
    overlay:
      description: Whether the kernel has the overlay file system, loaded or to be loaded when it is first used.
      type: bool
      returned: success
      sample: true
    tools:
      description: The programs that services need on a host with this init, each with its path or V(null).
      type: dict
      returned: success
      sample: {runsvdir: /usr/bin/runsvdir, tini: null}
    libseccomp:
      description: Whether the library that makes seccomp filters can be loaded.
      type: bool
      returned: success
      sample: true
    missing_tools:
      description: The packages (by their names in Debian) that the missing programs and libraries come from.
      type: list
      elements: str
      returned: success
      sample: [tini]
    missing_network_tools:
      description: The packages (by their names in Debian) that networks and interfaces need and the host lacks. Nothing else needs them.
      type: list
      elements: str
      returned: success
      sample: [nftables, python3-pyroute2]
    problems:
      description: One sentence for each thing without which nothing works here, and what to do about it.
      type: list
      elements: str
      returned: success
      sample: []
    limits:
      description: One sentence for each thing that cannot be used here, although the rest works.
      type: list
      elements: str
      returned: success
      sample: ["Root lacks the capability sys_resource: hard rlimits cannot be raised and oom_score_adj cannot be lowered."]
"""

from ansible_collections.bulkhead.isolation.plugins.module_utils._adapter import run_info
from ansible_collections.bulkhead.isolation.plugins.module_utils._resources import preflight


def main():
    run_info(preflight, dict())


if __name__ == "__main__":
    main()
