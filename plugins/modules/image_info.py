#!/usr/bin/python
# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: image_info
short_description: Show images and their layers
version_added: 0.2.0
author:
  - Bulkhead contributors (@bulkhead)
description:
  - Shows the images in the store of the host, what they share, and the layers that nothing needs.
extends_documentation_fragment:
  - bulkhead.isolation.attributes
  - bulkhead.isolation.attributes.info
options:
  name:
    description: The name of one image. Without it all are shown.
    type: str
  verify:
    description: Whether to read all layers in the store, and to say of each whether it is what its digest says.
    type: bool
    default: false
seealso:
  - module: bulkhead.isolation.image
"""

EXAMPLES = r"""
- name: Read all images
  bulkhead.isolation.image_info:
  register: all

- name: Read one
  bulkhead.isolation.image_info:
    name: debian
  register: debian

- name: Check that the removed one is gone
  ansible.builtin.assert:
    that: debian.images | length == 0

- name: How many bytes prune would free
  ansible.builtin.debug:
    msg: "{{ all.layers | selectattr('unused') | map(attribute='size') | sum }}"
"""

RETURN = r"""
images:
  description: The images, sorted by name. Empty when there is none, or none of that name.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Its name.
      returned: always
      type: str
    state:
      description: Always V(present).
      returned: always
      type: str
    digest:
      description: The digest of its layers and config together.
      returned: always
      type: str
    layers:
      description:
        - The layers, the lowest first, each with its C(digest), C(size) in bytes, number of C(entries), C(path), and the other images
          that it is C(shared_by). One that is mounted has C(squashfs) or C(erofs) as its C(filesystem), and C(mounted) says whether it is;
          its size is that of its file.
      returned: always
      type: list
      elements: dict
    lower:
      description: The directories of the layers, the top one first, as O(bulkhead.isolation.overlay#module:lower) takes them.
      returned: always
      type: list
      elements: str
    config:
      description:
        - What it says of its services, those of C(entrypoint), C(command), C(env), C(user), C(workdir), C(ports), C(volumes), C(labels),
          C(stop_signal) and C(health) that it says.
      returned: always
      type: dict
    size:
      description: The bytes of all files in its layers.
      returned: always
      type: int
    unique_size:
      description: The bytes of those layers that no other image has.
      returned: always
      type: int
    source:
      description:
        - What it was imported from, with C(type), C(path), C(digest), C(reference) and C(platform). Of an image that was built C(path) is the name of
          its parent, and there is no digest.
      returned: always
      type: dict
layers:
  description: All layers in the store, sorted by digest.
  returned: success
  type: list
  elements: dict
  contains:
    digest:
      description: The digest of all that is in it.
      returned: always
      type: str
    size:
      description: The bytes of all its files; of one that is mounted, those of the file that it is.
      returned: always
      type: int
    entries:
      description: How many names are in it.
      returned: always
      type: int
    path:
      description: Its directory. Where systemd is init, one that is mounted is so in the mount namespace C(/run/bulkhead/engine) only.
      returned: always
      type: str
    filesystem:
      description: V(squashfs) or V(erofs), where it is a file that is mounted. None where it is a directory.
      returned: always
      type: str
    mounted:
      description: Whether it is mounted, where it is to be. None where it is a directory.
      returned: always
      type: bool
    shared_by:
      description: The images that have it.
      returned: always
      type: list
      elements: str
    in_use_by:
      description: The mount or recorded declaration that it is in. None when it is in none.
      returned: always
      type: str
    damaged:
      description: In words what is wrong with it, with O(verify). None where nothing is, or nobody has looked.
      returned: always
      type: str
    unused:
      description: Whether O(bulkhead.isolation.image#module:prune) would remove it.
      returned: always
      type: bool
"""

from ansible_collections.bulkhead.isolation.plugins.module_utils._adapter import run_info
from ansible_collections.bulkhead.isolation.plugins.module_utils._resources import image


def main():
    run_info(image, dict(
        name=dict(type="str"),
        verify=dict(type="bool", default=False),
    ))


if __name__ == "__main__":
    main()
