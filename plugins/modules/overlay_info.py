#!/usr/bin/python
# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: overlay_info
short_description: Show overlay file systems
version_added: 0.1.0
author:
  - Bulkhead contributors (@bulkhead)
description:
  - Shows mounted overlays as the kernel has them, with options in one form whatever the kernel, also those that others have mounted.
extends_documentation_fragment:
  - bulkhead.isolation.attributes
  - bulkhead.isolation.attributes.info
options:
  path:
    description: Where one is mounted. Without it all are shown.
    type: path
  namespace:
    description: The name of a set with a pinned mount namespace. Without it the host's overlays are shown.
    type: str
  changes:
    description:
      - Whether to compare each overlay's upper with the layers below, file by file.
      - Paths that are added, modified or deleted are told, as they are inside. Where a directory was deleted, what was in it is not
        told. A file whose content, mode, owner, time and attributes are as below is not modified, even where it was opened for writing.
    type: bool
    default: false
seealso:
  - module: bulkhead.isolation.overlay
"""

EXAMPLES = r"""
- name: Read all overlays of the host
  bulkhead.isolation.overlay_info:
  register: all

- name: Read one
  bulkhead.isolation.overlay_info:
    path: /run/bulkhead/mnt/web
  register: web

- name: Check that nothing is mounted in the removed place
  ansible.builtin.assert:
    that: web.overlays | length == 0

- name: Read the root of a sandbox, and what was changed in it
  bulkhead.isolation.overlay_info:
    path: /
    namespace: web
    changes: true
"""

RETURN = r"""
overlays:
  description: The overlays, sorted by path. Empty when there is none, or none at that path.
  returned: success
  type: list
  elements: dict
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
      description: Always V(mounted).
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
    changes:
      description: What its upper has changed against its layers, as three lists of paths.
      returned: with O(changes)
      type: dict
      sample: {added: [/etc/new], modified: [/etc/hosts], deleted: [/etc/motd]}
    raw:
      description: The options of the file system as the kernel shows them.
      returned: when mounted
      type: str
"""

from ansible_collections.bulkhead.isolation.plugins.module_utils._adapter import run_info
from ansible_collections.bulkhead.isolation.plugins.module_utils._resources import overlay


def main():
    run_info(overlay, dict(
        path=dict(type="path"),
        namespace=dict(type="str"),
        changes=dict(type="bool", default=False),
    ))


if __name__ == "__main__":
    main()
