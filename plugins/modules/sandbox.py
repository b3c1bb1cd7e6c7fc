#!/usr/bin/python
# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: sandbox
short_description: Full isolated workloads under one name each
version_added: 0.1.0
description:
  - Brings a host's sandboxes about. A sandbox is pinned namespaces, a cgroup with limits, a root file system with a
    read-write layer of its own, interfaces on networks, and supervised services inside, all under one name.
  - All sandboxes of a host are one task. Every input error is reported at once, each with its path, before the host is touched.
    A sandbox that fails is undone and reported while the others are made.
  - A declaration is the whole. A key that was declared and no longer is returns to the kernel's default, and lists are exact.
  - Limits, hostname, sysctls, binds, tmpfs, addresses, routes, rates and published ports are changed in place while services run.
    What only a restart can carry is announced in RV(restart_required).
requirements:
  - For C(services) what M(bulkhead.isolation.chroot_service) requires
  - For C(network) and C(interfaces) what M(bulkhead.isolation.interface) requires
extends_documentation_fragment:
  - bulkhead.isolation.attributes
  - bulkhead.isolation.attributes.change
options:
  sandboxes:
    description:
      - The host's sandboxes. The keys of each are described below. C(namespaces), C(cgroup), C(overlay) and the entries of
        C(services) take the options of the modules M(bulkhead.isolation.namespace), M(bulkhead.isolation.cgroup),
        M(bulkhead.isolation.overlay) and M(bulkhead.isolation.chroot_service), without their names, paths and states, which
        follow from the sandbox.
      - C(name) is the name, at most 64 of the characters C(A-Z a-z 0-9 _ . -) with a letter or digit first. Names that end in C(.trial),
        C(.previous) or C(.older) are kept for upgrades.
      - C(state) is V(present), the default, or V(absent), or V(rolled_back), which is present with the version of its image that it ran
        with before the last upgrade. A sandbox that is rolled back stays so, whether it is declared V(rolled_back) or V(present), until its
        image is another one or C(upgrade) says C(retry).
      - C(namespaces) is a dictionary with C(types) and what M(bulkhead.isolation.namespace) knows of C(hostname), C(sysctls),
        C(uid_map) and so on.
      - C(cgroup) is a dictionary of limits. The cgroup is C(bulkhead/NAME), where systemd is init the slice C(bulkhead-NAME.slice);
        see C(driver) of M(bulkhead.isolation.cgroup).
      - C(overlay) is a dictionary with C(lower), the layers with the topmost first. The read-write layer is below
        C(/var/lib/bulkhead/uppers/NAME) unless C(upper) and C(work) say otherwise.
      - C(image) is the name of an image, see M(bulkhead.isolation.image), whose layers are those of the overlay. C(overlay) can
        then say the rest, as C(options) or C(read_only). A service that names no C(command) takes that, and what it does not say of
        C(environment), C(user), C(group), C(cwd) and C(health), from the image.
      - C(upgrade) is a dictionary that says what is done where what C(image) stands for is not what the sandbox runs with. C(upper) is
        V(refuse), the default, V(keep) for what was written to stay, or V(fresh) for an empty read-write layer, where the former is kept beside
        until the next upgrade. V(keep) is refused where the overlay has C(options) that bind what was written to its layers, such as
        C(redirect_dir). C(trial) says whether the new image is first started beside, in a sandbox C(NAME.trial) of the same
        declaration, and asked for its health; it is true with V(keep) and V(fresh), and needs a service with C(health). C(drain) is the time
        that open connections have to end before the services are stopped, by default V(1s). C(retry) takes up an image again that was rolled back
        from. See the notes.
      - C(storage) says how the root is made of the layers of C(image), and how much may be written to it. It is a dictionary. Without it the
        driver is overlay, without a limit.
      - C(storage.driver) is V(overlay), V(btrfs), V(copy), V(devicemapper), V(aufs) or V(auto), the default, which is overlay where the host
        can, else btrfs, else copy. With V(overlay) the layers are shown as they are, and what is written lies in an upper. The others make a
        tree of all layers of an image once, its base, and a root is a copy of that, made by a snapshot of a subvolume (V(btrfs), where
        C(/var/lib/bulkhead) or C(/var/lib/bulkhead/roots) lies on one), file by file with shared blocks where the file system has them (V(copy)), or
        by a snapshot of a volume of a thin pool (V(devicemapper)). A driver that the host lacks is refused. C(storage.pool) of V(devicemapper)
        is a block device, or a file of C(storage.pool_size) that is made where it is missing, by default C(/var/lib/bulkhead/pool.img).
      - C(storage.size) is how much may be written at most, layers not counted. Files and directories count in whole blocks, and of a root where nothing is
        written yet less than 64 KiB are in use. Who writes more gets C(ENOSPC), or C(EDQUOT) where the kernel's quotas keep the limit. The size
        changes in place, up and down, but not below what is written. Without it there is no limit, but with V(devicemapper) V(10G).
      - C(storage.limit) says how V(overlay) and V(copy) keep the size. V(quota) is a project quota, where C(/var/lib/bulkhead) is on an ext4 or xfs that
        is mounted with C(prjquota). V(loop) is an ext4 in a file beside, made by C(mkfs.ext4), which takes room on the host as it is written. V(tmpfs) is
        memory, of V(overlay) with C(storage.keep) set to V(false) only. V(auto), the default, takes V(quota) for a sandbox with a user
        namespace where the host has it, else V(tmpfs) where nothing is kept and V(loop) where it is. Without a user namespace, whoever
        owns a file may take it out of its project, so V(quota) is then no limit for who means harm, and has to be named. V(btrfs) has quota groups,
        which are turned on with the first limit.
      - C(storage.keep) set to V(false) lets go of what was written whenever the root is made anew, after a reboot for one, and with the removal of the
        sandbox. Another driver, pool or kind of limit is refused for a root that is there.
      - C(root) is a directory to use as the root in place of an overlay.
      - C(network) is the name of a network, see M(bulkhead.isolation.network), or a dictionary with its C(name) and what
        M(bulkhead.isolation.interface) knows of C(addresses), C(publish), C(egress), C(bandwidth), C(aliases) and so on. It is
        the interface C(eth0). It needs V(net) among the C(types) of C(namespaces).
      - C(interfaces) is a list of further interfaces, each with the C(name) and the options of M(bulkhead.isolation.interface).
      - C(bind), C(tmpfs), C(devices), C(masked_paths) and C(read_only_paths) belong to the sandbox's root.
      - C(services) is a list of services.
    type: list
    elements: dict
    required: true
  defaults:
    description:
      - Keys for all sandboxes of O(sandboxes). Dictionaries are merged key by key, and lists are replaced.
    type: dict
  purge:
    description:
      - Remove sandboxes that were made by this module and are no longer declared. What single modules made is not touched.
    type: bool
    default: false
  remove_data:
    description:
      - Whether removing a sandbox also removes its read-write layer when that holds data. An empty one is always removed.
    type: bool
    default: false
  on_change:
    description:
      - What to do when a change can only be carried by a restart of a service. V(report) announces it in RV(restart_required),
        V(restart) restarts the service in the same run.
    type: str
    choices: [report, restart]
    default: report
  on_mismatch:
    description:
      - What to do when a namespace or the root cannot be changed in place, for example when another layer is declared.
        V(fail) refuses and names the keys. V(recreate) stops the services, makes namespaces and root anew and starts the
        services again. The read-write layer is kept. For another image C(upgrade) of a sandbox says more.
    type: str
    choices: [fail, recreate]
    default: fail
  kill:
    description:
      - Whether removing a sandbox ends processes in it that are not its services, for example of logins.
    type: bool
    default: false
  reset:
    description:
      - Sandboxes whose read-write layer is emptied, as a list of names, or V(true) for all of O(sandboxes). Their services are
        stopped before and started after. It is done in each run that says so, and is never recorded.
    type: raw
notes:
  - The members of a network find each other by name. What a sandbox on a network shows as C(/etc/hosts) and C(/etc/resolv.conf) are
    C(/etc/netns/NAME/hosts) and C(/etc/netns/NAME/resolv.conf) of the host, mounted read-only, with itself, its C(hostname), all other
    members of its networks and their C(aliases), and the name servers of the networks. They are written in place, so that running
    services see who comes and goes. Files that somebody else has put there are kept, and the sandbox is refused.
  - Where C(/etc/resolv.conf) of an image is a link, what it leads to inside the root is mounted on, and made where it leads nowhere. A
    file that C(bind) puts in one of these two places is there instead. A sandbox without a network keeps the files of its image, and so
    does one without V(mnt) among the C(types) of C(namespaces), for which C(ip netns exec) shows them.
  - An upgrade never has the old and the new image write to one read-write layer at once. The trial writes to a copy of it as it is at one
    moment, for the end of which the sandbox is frozen, or to an empty one. It has an address of its own on the same networks, is
    published nowhere, and nobody finds it by a name. It is refused where a C(bind) can be written to, for both would write there, and
    without V(net) among the C(types), for both would take the same ports. A trial that is not
    healthy is removed, and the sandbox was not touched. Else connections to the sandbox wait, in its own net namespace, while its services are
    stopped and those of the new image are started. TCP asks again after a second by itself, so that no client is refused. When these are not
    healthy, or anything fails, the sandbox is brought back as it was. A client that keeps a connection open has C(drain) to end it.
  - What a sandbox ran with before stays in the store as long as it can be rolled back to. A reboot brings back what ran, whatever the image is now.
  - With V(user) but not V(mnt) in the C(types) of C(namespaces), files keep the ids that they have on the host, and those outside
    the maps are shown inside as the overflow id, which is C(nobody).
seealso:
  - module: bulkhead.isolation.sandbox_info
  - module: bulkhead.isolation.namespace
  - module: bulkhead.isolation.cgroup
  - module: bulkhead.isolation.overlay
  - module: bulkhead.isolation.chroot_service
  - module: bulkhead.isolation.network
  - module: bulkhead.isolation.interface
  - plugin: bulkhead.isolation.sandbox
    plugin_type: connection
author:
  - Bulkhead contributors (@bulkhead)
"""

EXAMPLES = r"""
- name: The service that an image is made for
  bulkhead.isolation.sandbox:
    sandboxes:
      - name: cache
        namespaces: {types: [net, uts, ipc, mnt, pid, cgroup]}
        image: redis
        services: [{name: redis}]

- name: Two services, each in a sandbox of its own
  bulkhead.isolation.sandbox:
    defaults:
      namespaces: {types: [net, uts, ipc, mnt, pid, cgroup]}
      cgroup: {pids_max: 128}
    sandboxes:
      - name: web
        namespaces: {hostname: web}
        cgroup: {memory_max: 256M, cpu_max: 50%}
        overlay: {lower: [/srv/layers/nginx, /srv/layers/debian]}
        services:
          - name: nginx
            command: [/usr/sbin/nginx, -g, daemon off;]
            capabilities: [chown, setgid, setuid, net_bind_service]
            health: {tcp: 80}
      - name: cache
        overlay: {lower: [/srv/layers/redis, /srv/layers/debian]}
        services:
          - {name: redis, command: [/usr/bin/redis-server], user: redis}

- name: A web server on a port of the host, and a cache that it alone can reach, by the name cache
  bulkhead.isolation.sandbox:
    defaults:
      namespaces: {types: [net, uts, ipc, mnt, pid, cgroup]}
    sandboxes:
      - name: web
        overlay: {lower: [/srv/layers/nginx, /srv/layers/debian]}
        network:
          name: lab
          publish: ["8080:80"]
          bandwidth: {transmit: 100mbit}
      - name: cache
        overlay: {lower: [/srv/layers/redis, /srv/layers/debian]}
        network: lab

- name: Exactly these sandboxes and no others
  bulkhead.isolation.sandbox:
    sandboxes: "{{ sandboxes }}"
    purge: true

- name: Move a sandbox to a newer base layer, restarting its services
  bulkhead.isolation.sandbox:
    on_mismatch: recreate
    sandboxes:
      - name: web
        overlay: {lower: [/srv/layers/nginx-2, /srv/layers/debian-2]}

- name: Have web run with what the image web is now, if that is healthy
  bulkhead.isolation.sandbox:
    sandboxes:
      - name: web
        namespaces: {types: [net, uts, ipc, mnt, pid, cgroup]}
        image: web
        upgrade: {upper: keep}
        network: {name: lab, publish: ["8080:80"]}
        services:
          - {name: nginx, health: {http: "http://127.0.0.1/"}}

- name: Back to the version before
  bulkhead.isolation.sandbox:
    sandboxes:
      - name: web
        state: rolled_back
        namespaces: {types: [net, uts, ipc, mnt, pid, cgroup]}
        image: web
        upgrade: {upper: keep}
        network: {name: lab, publish: ["8080:80"]}
        services:
          - {name: nginx, health: {http: "http://127.0.0.1/"}}

- name: Roots that are snapshots on a btrfs, of which each may write 2 GiB
  bulkhead.isolation.sandbox:
    defaults:
      namespaces: {types: [net, uts, ipc, mnt, pid, cgroup]}
      storage: {driver: btrfs, size: 2G}
    sandboxes:
      - {name: web, image: nginx, services: [{name: nginx}]}
      - {name: cache, image: redis, services: [{name: redis}]}

- name: Back to the image, whatever was written
  bulkhead.isolation.sandbox:
    reset: [web]
    sandboxes: "{{ sandboxes }}"

- name: Remove a sandbox and its data
  bulkhead.isolation.sandbox:
    remove_data: true
    sandboxes:
      - {name: web, state: absent}
"""

RETURN = r"""
actions:
  description: The names of the steps taken, in check mode of those to be taken.
  type: list
  elements: str
  returned: success
  sample: ["create cgroup bulkhead/web", "set memory.max of bulkhead/web"]
restart_required:
  description: Services that run with an older declaration, with the keys that a restart would carry.
  type: list
  elements: dict
  returned: success
  sample: [{"name": "web/nginx", "keys": ["environment"]}]
sandboxes:
  description:
    - The sandboxes that changed as they are after the run, in check mode as they are now, as M(bulkhead.isolation.sandbox_info) shows
      them. Those that did not change, were refused, or are as before after a failure, are named only.
  type: list
  elements: dict
  returned: success
  sample: [{"name": "web", "changed": false}]
  contains:
    name:
      description: The name.
      type: str
    changed:
      description: Whether something of it changed, which tells the two kinds of entries apart.
      type: bool
    restore_error:
      description:
        - Why it could not be made again after the last reboot, or null. It stays until the sandbox is converged. In an entry of
          one that changed.
      type: str
failed_items:
  description: The sandboxes that were refused or failed, with what was undone.
  type: list
  elements: dict
  returned: when some could not be converged
"""

from ansible_collections.bulkhead.isolation.plugins.module_utils._adapter import run
from ansible_collections.bulkhead.isolation.plugins.module_utils._resources import sandbox


def main():
    run(sandbox, dict(
        sandboxes=dict(type="list", elements="dict", required=True, no_log=True),  # in it are values of environments
        defaults=dict(type="dict", no_log=True),
        purge=dict(type="bool", default=False),
        remove_data=dict(type="bool", default=False),
        on_change=dict(type="str", choices=["report", "restart"], default="report"),
        on_mismatch=dict(type="str", choices=["fail", "recreate"], default="fail"),
        kill=dict(type="bool", default=False),
        reset=dict(type="raw"),
    ))


if __name__ == "__main__":
    main()
