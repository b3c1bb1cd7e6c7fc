#!/usr/bin/python
# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: chroot_service
short_description: Manage supervised services in a root of their own
version_added: 0.1.0
author:
  - Bulkhead contributors (@bulkhead)
description:
  - Runs a command in a root directory, in pinned namespaces and a cgroup, with little of root's power, and keeps it running
    through the host's systemd, or C(runit) where that is not the init.
  - With systemd a service is the unit C(bulkhead-NAME.service), of a sandbox C(bulkhead-SANDBOX-SERVICE.service), whose main process
    is the command itself. Its file is written whole by this module, and a change of it is found and mended. Drop-ins beside it are yours.
  - Options that the task does not name keep what an earlier task gave them, or else the default.
  - What of a change reaches a running process only by a restart is written, and announced in RV(restart_required), see O(on_change).
extends_documentation_fragment:
  - bulkhead.isolation.attributes
  - bulkhead.isolation.attributes.change
requirements:
  - systemd 246 or later, or runit, and with a pid namespace tini, on the managed host
  - libseccomp, unless O(seccomp=off)
options:
  name:
    description:
      - The name of the service.
      - A service of a sandbox is called C(SANDBOX/SERVICE), see M(bulkhead.isolation.sandbox).
    type: str
    required: true
  command:
    description:
      - The program and its arguments. No shell is involved.
      - A program without a slash is looked up by the C(PATH) of O(environment), inside.
      - It must stay in the foreground. Required when the service is new.
    type: list
    elements: str
  root:
    description:
      - The directory that becomes the root. Without O(namespace) of type mnt it is required.
      - With a pinned mnt namespace, the default is the root of that namespace, and this is a directory inside it.
      - A plain directory without a mount namespace of its own is a chroot, which keeps a program in order but is no
        security boundary for one that is root with capabilities. The default O(capabilities) have none that leave it.
    type: path
  user:
    description:
      - The user that the command runs as, by the name in C(/etc/passwd) of the root or by number.
      - The files of the root are read, never those of the host.
      - The default is V(root).
    type: str
  group:
    description:
      - The primary group, by the name in C(/etc/group) of the root or by number.
      - The default is the one in C(/etc/passwd). It must be given for a number that is not there.
    type: str
  groups:
    description:
      - The supplementary groups. The default is those that C(/etc/group) of the root names the user in.
    type: list
    elements: str
  environment:
    description:
      - The environment of the command. Nothing is inherited.
      - C(PATH), C(HOME), C(USER) and C(LOGNAME) are set unless they are given.
      - The values are shown in no result, difference or log.
    type: dict
  cwd:
    description:
      - The working directory inside. The default is V(/).
    type: path
  umask:
    description:
      - The file mode creation mask in octal digits. The default is V(0022).
    type: str
  namespace:
    description:
      - The name of a set of pinned namespaces to join all of, see M(bulkhead.isolation.namespace).
    type: str
  cgroup:
    description:
      - The cgroup to join, relative to the root of the hierarchy, see M(bulkhead.isolation.cgroup). It must exist.
    type: str
  capabilities:
    description:
      - The capabilities that remain. The bounding set is exactly these; root has them, other users have those of O(ambient_capabilities).
      - The default is V(chown), V(dac_override), V(fowner), V(fsetid), V(kill), V(net_bind_service), V(setgid) and V(setuid),
        what a server needs that starts as root and becomes another user. Give V([]) for one that needs nothing.
      - Some, such as V(sys_admin), V(sys_ptrace), V(sys_module) or V(mknod), undo the isolation unless the set has a user namespace.
    type: list
    elements: str
  ambient_capabilities:
    description:
      - Those of O(capabilities) that a command of another user than root has from the start.
    type: list
    elements: str
  no_new_privs:
    description:
      - Whether executing a file can give no privileges, as set-user-ID files do. The default is V(true).
    type: bool
  seccomp:
    description:
      - Which system calls are allowed.
      - V(default) is a list of some 400 that programs need, and of those that belong to the kept O(capabilities). Among the
        refused are mounting, namespaces, keyrings, modules, bpf, perf, io_uring, userfaultfd, ptrace, and pushing characters
        into a terminal. Refused calls end with EPERM, unknown ones with ENOSYS.
      - V(off) allows all.
      - Another word is the name of a file in C(/etc/bulkhead/seccomp) with the names of all allowed system calls.
      - A list is that of all allowed system calls itself.
      - The default is V(default).
    type: raw
  rlimits:
    description:
      - Limits by their names in setrlimit(2), in lower case and without C(RLIMIT_), such as C(nofile) or C(memlock).
      - A value is a number, V(max), a list of a soft and a hard one, or a dictionary with the keys C(soft) and C(hard).
    type: dict
  nice:
    description: The nice value.
    type: int
  oom_score_adj:
    description: How likely the kernel is to kill it when memory runs out, from V(-1000) to V(1000).
    type: int
  bind:
    description:
      - Files and directories of the host that are mounted inside.
      - Each has C(source) on the host and C(target) inside, and may have C(read_only), C(recursive), C(nosuid), C(nodev), C(noexec).
      - This and the four options below need a root of the service's own. It gets a mount namespace, pinned as the set
        C(NAME.root), whose root is prepared over O(root). It keeps that until it is removed.
      - Services of a sandbox share one root, so there these options belong to M(bulkhead.isolation.sandbox).
    type: list
    elements: dict
  tmpfs:
    description: Empty file systems in memory, each with C(target) and perhaps C(size) and C(mode).
    type: list
    elements: dict
  devices:
    description: Devices of the host that are there inside, each a path below C(/dev), or C(path), C(source) and C(mode).
    type: list
    elements: raw
  masked_paths:
    description: Paths that are covered inside, besides those of /proc and /sys that tell about the host.
    type: list
    elements: path
  read_only_paths:
    description: Paths that cannot be written to inside, besides those of /proc and /sys that reach the host.
    type: list
    elements: path
  stop_signal:
    description:
      - The signal that asks the command to end. The default is V(TERM).
    type: str
  stop_timeout:
    description:
      - How long it may take to end before it is killed, such as V(10s), which is the default.
    type: str
  restart:
    description:
      - Whether the supervisor starts the command again when it has ended, at most once a second, and for as long as that goes on.
      - V(on-failure) does so unless it ended with status 0, and is the default.
      - Whoever stops the unit or the service by hand has it stopped until the next run.
    type: str
    choices: ["no", "on-failure", "always"]
  log:
    description:
      - What becomes of standard output and error. By default they are kept, by the journal with systemd (C(journalctl -u UNIT)),
        else by C(svlogd) in C(/var/log/bulkhead/NAME).
      - With the journal they are a socket, so a command cannot open C(/dev/stdout) anew; give it a file, or have it write to what it has open.
    type: dict
    suboptions:
      enabled:
        description: Whether anything is kept.
        type: bool
      max_size:
        description: The size at which a file is rotated, by default V(1M). The journal has limits of its own, and this is not used.
        type: str
      max_files:
        description: How many rotated files are kept, by default 10. The same of the journal.
        type: int
  health:
    description:
      - A check that is run inside, with one of C(command), C(tcp) and C(http).
      - After a start the module waits for it to succeed, at most C(start_period) and C(retries) times C(interval), and warns when
        it does not. C(chroot_service_info) runs it whenever it is asked.
      - A change of it needs no restart.
    type: dict
    suboptions:
      command:
        description: A program and its arguments, run as the service itself is. Status 0 is healthy.
        type: list
        elements: str
      tcp:
        description: A port, or C(ADDRESS:PORT), that must accept a connection.
        type: str
      http:
        description: A URL such as V(http://127.0.0.1/) that must answer with a status of 200 to 399. The host is an address or C(localhost).
        type: str
      interval:
        description: The longest time between two checks. The default is V(10s).
        type: str
      timeout:
        description: How long one check may take. The default is V(5s).
        type: str
      retries:
        description: How many intervals to wait. The default is V(3).
        type: int
      start_period:
        description: How long the command may take before that. The default is V(0s).
        type: str
  enabled:
    description:
      - Whether it is started at boot, by systemd after C(bulkhead restore), else by that. The default is V(true).
    type: bool
  on_change:
    description:
      - What to do about changes that only a restart carries into the running process. They are written at once in any case.
      - V(report) names them in RV(restart_required), in this run and in each that follows until it was restarted.
      - V(restart) restarts the service.
    type: str
    choices: [report, restart]
    default: report
  on_mismatch:
    description:
      - What to do when the service's own prepared root has to be made anew, as when O(root) is another directory.
      - V(fail) refuses. V(recreate) does so and restarts the service.
    type: str
    choices: [fail, recreate]
    default: fail
  force:
    description:
      - Whether a mount namespace that was not made by this collection may be used for the service's own root.
    type: bool
    default: false
  state:
    description:
      - V(started) and V(stopped) say whether it runs.
      - V(restarted) starts it, or stops and starts it when it runs, and is always a change.
      - V(absent) stops and removes it, with its log.
    type: str
    choices: [started, stopped, restarted, absent]
    default: started
seealso:
  - module: bulkhead.isolation.chroot_service_info
  - module: bulkhead.isolation.sandbox
  - module: bulkhead.isolation.namespace
  - module: bulkhead.isolation.cgroup
"""

EXAMPLES = r"""
- name: A web server in a directory, the namespaces web and the cgroup bulkhead/web
  bulkhead.isolation.chroot_service:
    name: web
    root: /srv/jails/web
    command: [/usr/sbin/nginx, -g, daemon off;]
    namespace: web
    cgroup: bulkhead/web
    stop_signal: QUIT
    health:
      http: http://127.0.0.1/
      interval: 2s

- name: A program that needs no power at all, in a plain chroot
  bulkhead.isolation.chroot_service:
    name: worker
    root: /srv/jails/worker
    command: [/opt/worker/bin/worker, --foreground]
    user: worker
    capabilities: []
    environment:
      LANG: C.UTF-8
      TOKEN: "{{ worker_token }}"
    rlimits:
      nofile: [1024, 4096]
      core: 0

- name: A root of its own with a part of the host in it
  bulkhead.isolation.chroot_service:
    name: files
    root: /srv/jails/files
    command: [/usr/bin/busybox, httpd, -f, -p, "8080"]
    bind:
      - {source: /srv/www, target: /var/www/html, read_only: true}
    tmpfs:
      - {target: /run, size: 16M}
    on_change: restart

- name: Restart it
  bulkhead.isolation.chroot_service:
    name: web
    state: restarted

- name: Remove it
  bulkhead.isolation.chroot_service:
    name: web
    state: absent
"""

RETURN = r"""
service:
  description: The service as M(bulkhead.isolation.chroot_service_info) shows it, after the run. In check mode as it is.
  returned: success
  type: dict
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
actions:
  description: The names of the steps taken, in check mode of those to be taken.
  returned: success
  type: list
  elements: str
  sample: ["create service web", "start service web"]
restart_required:
  description:
    - What waits for a restart, each with the C(name) of the service and the C(keys) of the options.
    - The key C(namespace) is also there when the namespaces were made anew while the process ran.
  returned: success
  type: list
  elements: dict
  sample: [{name: web, keys: [environment]}]
"""

from ansible_collections.bulkhead.isolation.plugins.module_utils._adapter import run
from ansible_collections.bulkhead.isolation.plugins.module_utils._resources import service


def main():
    run(service, dict(
        name=dict(type="str", required=True),
        command=dict(type="list", elements="str"),
        root=dict(type="path"),
        user=dict(type="str"),
        group=dict(type="str"),
        groups=dict(type="list", elements="str"),
        environment=dict(type="dict", no_log=True),
        cwd=dict(type="path"),
        umask=dict(type="str"),
        namespace=dict(type="str"),
        cgroup=dict(type="str"),
        capabilities=dict(type="list", elements="str"),
        ambient_capabilities=dict(type="list", elements="str"),
        no_new_privs=dict(type="bool"),
        seccomp=dict(type="raw"),
        rlimits=dict(type="dict"),
        nice=dict(type="int"),
        oom_score_adj=dict(type="int"),
        bind=dict(type="list", elements="dict"),
        tmpfs=dict(type="list", elements="dict"),
        devices=dict(type="list", elements="raw"),
        masked_paths=dict(type="list", elements="path"),
        read_only_paths=dict(type="list", elements="path"),
        stop_signal=dict(type="str"),
        stop_timeout=dict(type="str"),
        restart=dict(type="str", choices=["no", "on-failure", "always"]),
        log=dict(type="dict", options=dict(
            enabled=dict(type="bool"),
            max_size=dict(type="str"),
            max_files=dict(type="int"),
        )),
        health=dict(type="dict", options=dict(
            command=dict(type="list", elements="str"),
            tcp=dict(type="str"),
            http=dict(type="str"),
            interval=dict(type="str"),
            timeout=dict(type="str"),
            retries=dict(type="int"),
            start_period=dict(type="str"),
        )),
        enabled=dict(type="bool"),
        on_change=dict(type="str", choices=["report", "restart"], default="report"),
        on_mismatch=dict(type="str", choices=["fail", "recreate"], default="fail"),
        force=dict(type="bool", default=False),
        state=dict(type="str", choices=["started", "stopped", "restarted", "absent"], default="started"),
    ))


if __name__ == "__main__":
    main()
