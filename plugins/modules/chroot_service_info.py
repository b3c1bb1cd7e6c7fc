#!/usr/bin/python
# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: chroot_service_info
short_description: Show supervised services
version_added: 0.1.0
author:
  - Bulkhead contributors (@bulkhead)
description:
  - Shows services as they are written and as they run, also those of sandboxes, and runs their health checks.
extends_documentation_fragment:
  - bulkhead.isolation.attributes
  - bulkhead.isolation.attributes.info
options:
  name:
    description: The name of one service, C(SANDBOX/SERVICE) in a sandbox. Without it all are shown.
    type: str
seealso:
  - module: bulkhead.isolation.chroot_service
"""

EXAMPLES = r"""
- name: Read all services
  bulkhead.isolation.chroot_service_info:
  register: all

- name: Read one of a sandbox
  bulkhead.isolation.chroot_service_info:
    name: web/nginx
  register: web

- name: Check that it is well, and nothing waits for a restart
  ansible.builtin.assert:
    that:
      - web.services[0].healthy
      - web.services[0].restart_required | length == 0
"""

RETURN = r"""
services:
  description: The services, sorted by name. Empty when there is none, or none of that name.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: The name of the service.
      returned: always
      type: str
    state:
      description: V(started), V(stopped) or V(absent).
      returned: always
      type: str
    healthy:
      description: What the health check said. None when there is none, it does not run, or it was not asked.
      returned: when present
      type: bool
    pid:
      description: The process of the command as the host sees it.
      returned: when present
      type: int
    supervised_pid:
      description: The process that the supervisor holds. It is the same, or with runit the init that waits outside of a pid namespace.
      returned: when present
      type: int
    since:
      description: When it was started, in seconds since 1970.
      returned: when present
      type: int
    restart_required:
      description: The options that the running process does not have as they are written.
      returned: when present
      type: list
      elements: str
    log_file:
      description: Where the newest lines of its log are. None when nothing is kept, and where the journal has it.
      returned: when present
      type: str
    command:
      description: The program and its arguments.
      returned: when present
      type: list
      elements: str
    root:
      description: The directory that becomes the root.
      returned: when present
      type: str
    user:
      description: The user.
      returned: when present
      type: str
    group:
      description: The primary group. None for the user's own.
      returned: when present
      type: str
    groups:
      description: The supplementary groups. None for the user's own.
      returned: when present
      type: list
      elements: str
    environment:
      description: The names of the variables.
      returned: when present
      type: list
      elements: str
    cwd:
      description: The working directory.
      returned: when present
      type: str
    umask:
      description: The file mode creation mask.
      returned: when present
      type: str
    namespace:
      description: The set of namespaces.
      returned: when present
      type: str
    cgroup:
      description: The cgroup.
      returned: when present
      type: str
    capabilities:
      description: The capabilities that remain.
      returned: when present
      type: list
      elements: str
    ambient_capabilities:
      description: Those that are ambient.
      returned: when present
      type: list
      elements: str
    no_new_privs:
      description: Whether executing a file can give no privileges.
      returned: when present
      type: bool
    seccomp:
      description: V(default), V(off), the name of a list, or a list.
      returned: when present
      type: raw
    rlimits:
      description: Soft and hard limits by name; V(-1) is no limit.
      returned: when present
      type: dict
    nice:
      description: The nice value. None when it is left alone.
      returned: when present
      type: int
    oom_score_adj:
      description: The same of the kernel's choice when memory runs out.
      returned: when present
      type: int
    stop_signal:
      description: The signal that asks it to end.
      returned: when present
      type: str
    stop_timeout:
      description: The time until it is killed, in microseconds.
      returned: when present
      type: int
    restart:
      description: The restart policy.
      returned: when present
      type: str
    log:
      description: C(enabled), C(max_size) in bytes, C(max_files).
      returned: when present
      type: dict
    health:
      description: The check, with times in microseconds.
      returned: when present
      type: dict
    enabled:
      description: Whether it is started at boot.
      returned: when present
      type: bool
    bind:
      description: The binds of its own root.
      returned: when it has them
      type: list
      elements: dict
    tmpfs:
      description: The memory file systems of its own root.
      returned: when it has them
      type: list
      elements: dict
    devices:
      description: The devices of its own root.
      returned: when it has them
      type: list
      elements: raw
    masked_paths:
      description: The covered paths of its own root.
      returned: when it has them
      type: list
      elements: str
    read_only_paths:
      description: The read-only paths of its own root.
      returned: when it has them
      type: list
      elements: str
"""

from ansible_collections.bulkhead.isolation.plugins.module_utils._adapter import run_info
from ansible_collections.bulkhead.isolation.plugins.module_utils._resources import service


def main():
    run_info(service, dict(name=dict(type="str")))


if __name__ == "__main__":
    main()
