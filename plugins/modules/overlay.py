#!/usr/bin/python
# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: overlay
short_description: Manage overlay file systems
version_added: 0.1.0
author:
  - Bulkhead contributors (@bulkhead)
description:
  - Mounts directories as the layers of one tree with the kernel's OverlayFS, on the host or inside a pinned mount namespace.
  - What is declared is compared with what the kernel shows, and only that. A layer that has the same name but is another
    directory than the one that was mounted counts as a difference.
  - The kernel ignores every option when an overlay is remounted, so a change of layers or options is a new overlay in the
    place of the old one, see O(on_mismatch). Flags of the mount change in place.
  - An upper is never mounted twice. One that is in use in any mount namespace of the host is refused.
extends_documentation_fragment:
  - bulkhead.isolation.attributes
  - bulkhead.isolation.attributes.change
options:
  path:
    description:
      - Where the overlay is mounted. The last directory of the path is made when it is missing.
      - With O(namespace), a path inside that namespace.
    type: path
    required: true
  lower:
    description:
      - The read-only layers, the top one first, at most 500 together with O(data).
      - Required with O(state=mounted).
    type: list
    elements: path
  data:
    description: Data-only layers, whose files are seen only through the metadata of the O(lower) layers.
    type: list
    elements: path
  upper:
    description:
      - The directory that takes the changes. Made when it is missing, inside a directory that exists.
      - Without it the overlay is read-only.
    type: path
  work:
    description:
      - An empty directory on the same mount as O(upper), for the kernel's use. Made when it is missing.
      - Required with O(upper).
    type: path
  options:
    description:
      - Options of the file system, namely V(index), V(metacopy), V(nfs_export), V(redirect_dir), V(uuid), V(userxattr), V(verity),
        V(volatile) and V(xino), with the kernel's values.
      - Flags of the mount, namely V(nosuid), V(nodev) and V(noexec), with V(true) or V(false).
      - An option that is not named is left as it is.
    type: dict
  read_only:
    description: Whether the mount is read-only although it has an upper. Changed in place.
    type: bool
  namespace:
    description:
      - The name of a set with a pinned mount namespace, see M(bulkhead.isolation.namespace). The overlay is mounted there, and
        nothing of it shows on the host.
      - The layers, O(upper) and O(work) are paths of the host all the same.
    type: str
  reset:
    description: Empty the upper. This is an act and reports C(changed=true) each time.
    type: bool
    default: false
  remove_data:
    description:
      - With O(state=absent), whether O(upper) and O(work) are removed although they hold data.
      - Without it, only empty ones below C(/var/lib/bulkhead) are removed.
    type: bool
    default: false
  on_mismatch:
    description:
      - What to do when a mounted overlay differs in what only a new mount can change.
      - V(fail) refuses. V(recreate) replaces it. The upper is kept.
    type: str
    choices: [fail, recreate]
    default: fail
  lazy:
    description:
      - Whether to unmount or replace the overlay although processes use it, as C(umount --lazy) does. They keep what they have open.
      - Without it this is refused and the processes are named.
    type: bool
    default: false
  force:
    description:
      - Whether to replace or unmount also what was not mounted by this collection.
      - An overlay that is as declared is left alone, and not adopted.
    type: bool
    default: false
  state:
    description:
      - V(mounted) mounts the overlay.
      - V(unmounted) unmounts it and keeps everything else.
      - V(absent) also removes the mount point when it is empty, and the upper as O(remove_data) says.
      - V(absent) forgets what was recorded of the overlay, so a later V(absent) with O(remove_data) needs O(upper) and O(work) named.
    type: str
    choices: [mounted, unmounted, absent]
    default: mounted
seealso:
  - module: bulkhead.isolation.overlay_info
  - module: bulkhead.isolation.sandbox
  - name: OverlayFS
    description: The kernel's documentation of the layers and options.
    link: https://docs.kernel.org/filesystems/overlayfs.html
"""

EXAMPLES = r"""
- name: Two layers with an upper
  bulkhead.isolation.overlay:
    path: /run/bulkhead/mnt/web
    lower: [/srv/layers/nginx, /srv/layers/debian]
    upper: /var/lib/bulkhead/uppers/web/upper
    work: /var/lib/bulkhead/uppers/web/work
    options: {redirect_dir: "off"}

- name: A read-only view that is replaced when its layers change
  bulkhead.isolation.overlay:
    path: /srv/view
    lower: [/srv/layers/tools, /srv/layers/debian]
    on_mismatch: recreate

- name: Start again with an empty upper
  bulkhead.isolation.overlay:
    path: /run/bulkhead/mnt/web
    lower: [/srv/layers/nginx, /srv/layers/debian]
    upper: /var/lib/bulkhead/uppers/web/upper
    work: /var/lib/bulkhead/uppers/web/work
    reset: true

- name: Data for one sandbox, not seen on the host
  bulkhead.isolation.overlay:
    path: /srv/data
    namespace: web
    lower: [/srv/data/today, /srv/data/base]

- name: Remove it with its data
  bulkhead.isolation.overlay:
    path: /run/bulkhead/mnt/web
    upper: /var/lib/bulkhead/uppers/web/upper
    work: /var/lib/bulkhead/uppers/web/work
    state: absent
    remove_data: true
"""

RETURN = r"""
overlay:
  description: The overlay as M(bulkhead.isolation.overlay_info) shows it, after the run. In check mode as it is.
  returned: success
  type: dict
  contains:
    path:
      description: Where it is, symbolic links resolved.
      returned: always
      type: str
    namespace:
      description: The pinned mount namespace that it is mounted in. None for the host's.
      returned: always
      type: str
    state:
      description: V(mounted), or V(unmounted) when there is no overlay.
      returned: always
      type: str
    lower:
      description: The read-only layers, the top one first.
      returned: when mounted
      type: list
      elements: str
    data:
      description: The data-only layers below them.
      returned: when mounted
      type: list
      elements: str
    upper:
      description: The directory that takes the changes. None when the overlay is read-only.
      returned: when mounted
      type: str
    work:
      description: The work directory of the upper.
      returned: when mounted
      type: str
    read_only:
      description: Whether the mount is read-only.
      returned: when mounted
      type: bool
    options:
      description: All options of the file system and of the mount, in one form whatever the kernel, also those that equal the default.
      returned: when mounted
      type: dict
      sample: {index: "off", metacopy: "off", redirect_dir: follow, nosuid: false}
    device:
      description: The device number of the file system, which the kernel gives anew at each mount.
      returned: when mounted
      type: str
      sample: "0:42"
    stacked:
      description: How many mounts lie on the path, one on the other.
      returned: when mounted
      type: int
    ours:
      description: Whether it was mounted by this collection.
      returned: when mounted
      type: bool
    raw:
      description: The options of the file system as the kernel shows them.
      returned: when mounted
      type: str
actions:
  description: The names of the steps taken, in check mode of those to be taken.
  returned: success
  type: list
  elements: str
  sample: ["make directory /srv/view", "mount overlay on /srv/view"]
restart_required:
  description: Always empty here.
  returned: success
  type: list
  elements: dict
holders:
  description: The processes because of which the overlay was not unmounted, each with C(pid) and what it C(holds).
  returned: on such a failure
  type: list
  elements: dict
"""

from ansible_collections.bulkhead.isolation.plugins.module_utils._adapter import run
from ansible_collections.bulkhead.isolation.plugins.module_utils._resources import overlay


def main():
    run(overlay, dict(
        path=dict(type="path", required=True),
        lower=dict(type="list", elements="path"),
        data=dict(type="list", elements="path"),
        upper=dict(type="path"),
        work=dict(type="path"),
        options=dict(type="dict"),
        read_only=dict(type="bool"),
        namespace=dict(type="str"),
        reset=dict(type="bool", default=False),
        remove_data=dict(type="bool", default=False),
        on_mismatch=dict(type="str", choices=["fail", "recreate"], default="fail"),
        lazy=dict(type="bool", default=False),
        force=dict(type="bool", default=False),
        state=dict(type="str", choices=["mounted", "unmounted", "absent"], default="mounted"),
    ))


if __name__ == "__main__":
    main()
