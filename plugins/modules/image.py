#!/usr/bin/python
# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: image
short_description: Manage images, which are stacks of read-only layers
version_added: 0.2.0
author:
  - Bulkhead contributors (@bulkhead)
description:
  - Keeps images in a store on the host, C(/var/lib/bulkhead). An image is a name for a list of layers and for what they say of
    their services. A layer is a directory tree, kept once however many images have it, under the digest of all that is in it.
  - Imports an OCI image layout, a docker-archive, a tar archive or a directory of the host. No container engine is needed.
  - Archives are not trusted. Every digest in them is verified. What leads out of the tree, what is made twice, what is cut short
    or in a form that can be read in two ways is refused with the entry named, and nothing of it stays.
  - An image is unchanged when its source has the digest that it was imported from. That is told without unpacking anything.
    The digest of an OCI image is that of its manifest, of a docker-archive that of the config (the image's ID), of a tar archive and of a
    file system that of the file, of a directory that of its whole content, and of a bundle that of the image, as
    M(bulkhead.isolation.image_info) tells it. O(host) and O(bootstrap) say of themselves. A file with the same path, inode, size and times as
    at its import is not read again, and neither is the content of a directory in which all files have theirs.
  - Builds an image O(from) another by O(steps), of which each is a layer. An unchanged build does nothing.
  - A layer gets its name when all of it is on the disk, and an image after its layers. A run that is killed leaves an image as
    it was, and what it leaves beside is removed by the next run.
extends_documentation_fragment:
  - bulkhead.isolation.attributes
  - bulkhead.isolation.attributes.change
options:
  name:
    description:
      - The name of the image.
      - Required, but where only O(prune) is asked for.
    type: str
  oci:
    description: An OCI image layout on the host, a directory or a tar archive of one. The archive may be compressed.
    type: path
  docker:
    description: A docker-archive on the host, as C(docker save) and C(podman save) write it. It may be compressed.
    type: path
  tar:
    description:
      - A tar archive on the host that holds a root file system. It becomes an image of one layer.
      - It may be compressed by gzip, xz or zstd, for which the host needs C(zstd).
    type: path
  directory:
    description:
      - A directory on the host that holds a root file system, which is copied. It becomes an image of one layer.
      - Sockets are left out. A directory on which another file system is mounted is refused.
    type: path
  squashfs:
    description:
      - A file on the host that is a squashfs file system with a root file system in it. It becomes an image of one layer.
      - The file is copied into the store as it is, and mounted there by a loop device, read-only, C(nodev) and C(nosuid). Nothing is unpacked.
        The mount is there again after a reboot, and a run finds and mends one that somebody has taken away.
      - The host needs loop devices and the file system in its kernel. The kernel reads the structures of the file, so take only files of
        those whom you trust.
    type: path
  erofs:
    description: The same of a file that is an erofs file system, without further files of data.
    type: path
  bundle:
    description:
      - A file that O(pack) has written, on this host or another. Layers that are not in it are taken from the store, where they have to be.
      - The image gets the layers and the config of the one that was packed, and so has the same digest, which is what O(digest) tells. Nothing of
        the file is trusted. Each layer has to be what its digest says, and all of it what the image's digest says.
      - With O(digest) the image is unchanged as long as it has that, whether the file is there or not. Files that are set-user-ID are
        allowed here, as they were where the image was made.
    type: path
  commit:
    description:
      - The name of a sandbox. What it has written becomes a layer over its own layers, which are in the store.
      - The image has the config of the sandbox's image. A file that is written while it is read is refused, so stop services first.
      - The digest is that of its layers and of all that it has written.
    type: str
  from:
    description:
      - The name of another image of the store, the parent. The image has its layers, one more for each of O(steps), and its config.
      - When the parent is replaced by other layers, the image is built again. Layers of the parent need no O(allow_setuid) here.
    type: str
  steps:
    description:
      - What makes an image of the one that it is O(from), in this order. Each step is a dictionary with one of C(run), C(copy) and C(write), and
        becomes a layer.
      - A step is built where it, a step before, the parent's layers or what it copies has changed, or where another image has been built by the
        same steps so far its layer is taken. Times and owners of what is copied do not matter. What the world outside has meanwhile, such as a
        newer package, does not either; change the step to have it run again, by a variable in its C(env) for example.
      - C(run) is a line, or several, for C(/bin/sh -e -c), or a list of words, which needs no shell. It is run over the layers so far in
        namespaces of its own, with prepared C(/proc), read-only C(/sys) and C(/dev), an empty standard input, and the capabilities and the filter of
        system calls that a service has by default. What it leaves running is ended.
      - Beside C(run) there may be C(env), variables over those of the parent's config, which are neither logged nor returned; C(user), by default
        V(root), by name or number as in the image; C(workdir), by default V(/); C(network), V(host) for that of the host with its
        C(/etc/resolv.conf), which is the default, or V(none); C(timeout), as V(10m), by default none; C(cgroup), the name of a cgroup that is there,
        whose limits then hold for the command, as M(bulkhead.isolation.cgroup) makes one; and C(bind), a list of C(src) on the host and C(dest) inside,
        which the command sees read-only there, and whose content is a part of what the step depends on.
      - C(copy) is a dictionary with C(src), a file or directory on the host, and C(dest), the place of just that file, or of what is in that directory.
        It is read at each run, to see whether it has changed. Sockets and extended attributes are left out.
      - C(write) is a dictionary with C(dest) and C(content), the text of the file.
      - Both may have C(owner) and C(group), names of the image's own files or numbers, by default root, and C(mode) of the files, by default that of the
        source or V('0644'). Directories that are there stay as they are. No symbolic link of the image is followed. A C(dest) that leads
        through one is refused, and one in the place of a file is replaced by it.
    type: list
    elements: dict
  host:
    description:
      - The running system's own root as an image, without any download. V(true), or a dictionary with C(exclude) and C(include), lists of paths,
        of which the longest that fits decides.
      - It takes C(/usr), C(/etc), C(/opt), C(/bin), C(/sbin) and C(/lib*), of C(/var) the databases of package managers, so that they work over it, and
        of all else empty directories. Other file systems that are mounted below these are not followed, where C(include) does not name them.
      - What is the host's own is left out. That is all that not every user may read, but programs of C(/usr), and keys,
        passwords, rules of C(sudo), and what is about the host's networks and disks. All passwords are locked. C(machine-id) and
        C(resolv.conf) are empty, C(hostname) and C(hosts) tell of localhost. The list is in the documentation of security. A secret that every
        user of the host may read in a place of which nobody knows is taken, as is what C(include) names.
      - Files are copied, or shared by reflink where the file system of the store can do that. A file that is written meanwhile is refused.
      - The image is unchanged as long as the names, inodes, sizes and times of what it takes are, and what it tells in another form.
    type: raw
  bootstrap:
    description:
      - A new root file system of a distribution, made on the host by a C(tool) of that, which has to be installed there, V(mmdebstrap) or
        V(debootstrap) of Debian, Ubuntu or what derives from them, V(dnf) or V(zypper) of distributions of rpm packages, V(apk) of Alpine. By default
        it is V(mmdebstrap) where C(suite) is named, and V(dnf) where C(release) is.
      - The image is unchanged as long as this declaration is. Change its C(serial), any text, to have it made of the packages of today. The same
        packages give the same layer, whenever they are installed. Recommended packages are not installed.
      - With V(mmdebstrap) and V(debootstrap) C(suite) is required, as V(trixie). C(variant) is one of those of C(mmdebstrap), with V(debootstrap)
        V(minbase), V(buildd) or V(important), by default V(minbase). C(include) is a list of packages. C(components), a list, is by default that of
        the host's apt, or V(main). C(mirror) is a URL, with V(mmdebstrap) also a line of a C(sources.list), or a list of these. By default packages
        come from where the host's own apt takes those of the suite, with V(mmdebstrap) with its updates, or from the same archive for another suite of
        the same distribution. What it names stays in the image.
      - With the others C(packages), a list, is required; it is all that is installed, with what that needs. C(repositories) is a list of URLs, by default
        the repositories of the host. With V(dnf) and V(zypper) C(release), which V(dnf) requires, is what C($releasever) stands for in them.
      - C(architecture) is by default that of the host. V(zypper) has no such option.
      - C(keyring) is a file or, but with V(debootstrap), a directory of keys that packages or the lists of them are to be signed with, by default those
        that the host's own package manager trusts. C(unsigned), true, has nothing verified; V(mmdebstrap) has C([trusted=yes]) in a line of its C(mirror)
        for that. C(unsigned) goes with C(repositories) or, with V(debootstrap), C(mirror). With V(dnf), V(zypper) and V(apk) C(keyring) goes with
        C(repositories), too.
    type: dict
  reference:
    description:
      - Which image of O(oci) or O(docker) is meant, where there are several, by a tag, a whole name or a digest.
    type: str
  platform:
    description:
      - For which platform, as V(linux/amd64) or V(linux/arm/v7), where an index has several. An image for another platform is refused.
      - By default that of the host.
    type: str
  digest:
    description:
      - The digest that the source must have, as the description of the module says it for each kind of source. With O(oci) that of an
        index that leads to the manifest is taken, too.
      - A source with another digest is refused before anything is unpacked.
    type: str
  config:
    description:
      - What the image says of its services, in place of what its source says. A key that is V(null) is taken away.
      - Without this option it stays as it was declared. V({}) goes back to what the source says.
      - The keys are V(entrypoint), V(command), V(ports) and V(volumes), which are lists, V(env) and V(labels), which are dictionaries, and
        V(user), V(workdir) and V(stop_signal).
    type: dict
  allow_setuid:
    description:
      - Whether files may be set-user-ID or set-group-ID or have capabilities. Without it an image with such files is refused.
      - The root file systems of distributions have some, as C(su) and C(passwd) are. By default it is V(true) with O(host), O(bootstrap) and
        O(bundle), and V(false) otherwise.
    type: bool
  allow_devices:
    description: Whether there may be device nodes. Without it an image with such is refused. A sandbox has its own C(/dev).
    type: bool
    default: false
  limits:
    description:
      - How much one layer may hold, against archives that are made to fill the host.
      - V(entries), by default 1000000. V(size), the bytes of the uncompressed archive and of all files, by default V(64G).
        V(file_size), of one file, by default V(32G). V(ratio), how many bytes a compressed one may hold, by default 250.
    type: dict
  verify:
    description:
      - Whether to read all layers of the image, and to compare them with their digests. One bit that has flipped, a changed mode,
        attribute or time is found.
      - With a source named, a damaged layer is made again, and without one that is an error.
    type: bool
    default: false
  export:
    description:
      - Where to write the image as an OCI image layout, a directory that other tools and other hosts can read. Its parent is there.
      - What was exported there before is replaced when the image has changed. Anything else is refused.
      - The same image is always the same bytes. Layers are not compressed.
    type: path
  pack:
    description:
      - Writes the image to a file for the store of another host, which takes it as O(bundle). It is a dictionary.
      - C(path) is required. Its parent is there. A bundle of before is replaced when it is another one. Anything else is refused.
      - C(layers) is a list of the digests of the layers to have in it, those that the other store lacks. By default all are.
      - C(owner) is the number of the user who alone may read it, by default root. The role P(bulkhead.isolation.image#role) does all of this
        between the hosts of an inventory, with C(from_host).
    type: dict
  prune:
    description:
      - Whether to remove all layers that are of no image and in no mount and no recorded declaration.
    type: bool
    default: false
  state:
    description:
      - V(present) imports the image where it is not there or its source has another digest. Layers of an image that is replaced stay
        until O(prune).
      - V(absent) removes the image, and its layers that no other image has and that are not in use. A layer in use stays, and a
        warning says so.
    type: str
    choices: [present, absent]
    default: present
notes:
  - While an image is made, a step of a build is run or a distribution is bootstrapped, other runs of this collection on the same host wait, for an hour
    at most. Then they fail, and name who they waited for.
  - C(user.) extended attributes are kept, and C(security.capability) with O(allow_setuid). C(security.selinux) is left out, and all
    others are refused, as are access control lists and files stored with holes. So is one that the file system of the store cannot hold, as
    C(user.) on a tmpfs before Linux 6.6.
  - A directory that no entry of a layer's archive tells of is as in the layers below, else of root, with mode 0755.
seealso:
  - module: bulkhead.isolation.image_info
  - module: bulkhead.isolation.overlay
  - module: bulkhead.isolation.sandbox
  - name: OCI image specification
    description: What an image layout is.
    link: https://github.com/opencontainers/image-spec/blob/main/spec.md
"""

EXAMPLES = r"""
- name: An image of an OCI layout
  bulkhead.isolation.image:
    name: debian
    oci: /srv/images/debian
    reference: bookworm
    allow_setuid: true

- name: Use it for a sandbox
  bulkhead.isolation.sandbox:
    sandboxes:
      - name: web
        namespaces: {types: [mnt, pid, uts, ipc, net]}
        image: debian

- name: What docker save has written, if it is what we know
  bulkhead.isolation.image:
    name: cache
    docker: /srv/images/redis.tar
    digest: sha256:6cb8d0a4ac8e1c2d3d0a7e5e3b9d7c4a1f00c5c7e9be7d4a0b1c2d3e4f5a6b7c

- name: A root file system of one archive, with what a service is to take from it
  bulkhead.isolation.image:
    name: tools
    tar: /srv/images/tools.tar.zst
    config:
      command: [/usr/bin/tool, --serve]
      env: {LANG: C.UTF-8}

- name: A file system in a file, which is mounted and not unpacked
  bulkhead.isolation.image:
    name: firmware
    squashfs: /srv/images/firmware.squashfs
    allow_setuid: true

- name: This host as an image, with nothing to download
  bulkhead.isolation.image:
    name: host
    host:
      exclude: [/opt, /usr/src]
      include: [/etc/redis]

- name: A small Debian with what we need
  bulkhead.isolation.image:
    name: base
    bootstrap:
      suite: trixie
      include: [ca-certificates, python3-minimal]
      serial: "2026-11"

- name: A root file system of rpm packages, on a host of any distribution that has dnf
  bulkhead.isolation.image:
    name: other
    bootstrap:
      release: 42
      packages: [bash, coreutils, dnf]
      repositories:
        - https://mirror.example.org/fedora/releases/42/Everything/x86_64/os/
        - https://mirror.example.org/fedora/updates/42/Everything/x86_64/
      keyring: /etc/keys/fedora-42.asc

- name: See that nothing has happened to its files
  bulkhead.isolation.image:
    name: tools
    verify: true

- name: Keep what was installed in a sandbox as an image of its own
  bulkhead.isolation.image:
    name: web
    commit: build

- name: An image over another
  bulkhead.isolation.image:
    name: shop
    from: debian
    steps:
      - run: |
          apt-get update
          apt-get install -y --no-install-recommends nginx-light
          apt-get clean
          rm -rf /var/lib/apt/lists/*
        env: {DEBIAN_FRONTEND: noninteractive}
        cgroup: builds
      - copy: {src: /srv/shop/site, dest: /srv/www, owner: www-data}
      - write:
          dest: /etc/nginx/sites-enabled/default
          content: "server { listen 80; root /srv/www; }"
    config:
      command: [/usr/sbin/nginx, -g, daemon off;]

- name: Give it to other tools, as in umoci unpack --image /srv/out/tools:tools
  bulkhead.isolation.image:
    name: tools
    export: /srv/out/tools

- name: Write it for another host, which has all layers but one
  bulkhead.isolation.image:
    name: shop
    pack:
      path: /srv/out/shop.bundle
      layers: ["sha256:6cb8d0a4ac8e1c2d3d0a7e5e3b9d7c4a1f00c5c7e9be7d4a0b1c2d3e4f5a6b7c"]

- name: Take it there
  bulkhead.isolation.image:
    name: shop
    bundle: /srv/in/shop.bundle

- name: Remove it
  bulkhead.isolation.image:
    name: tools
    state: absent

- name: Remove all layers that are of no image
  bulkhead.isolation.image:
    prune: true
"""

RETURN = r"""
image:
  description: The image as M(bulkhead.isolation.image_info) shows it, after the run. In check mode as it is. None without O(name).
  returned: success
  type: dict
  contains:
    name:
      description: Its name.
      returned: always
      type: str
    state:
      description: V(present) or V(absent).
      returned: always
      type: str
    digest:
      description: The digest of its layers and config together.
      returned: when present
      type: str
    layers:
      description:
        - The layers, the lowest first, each with its C(digest), C(size) in bytes, number of C(entries), C(path), and the other images
          that it is C(shared_by). One that is mounted has C(squashfs) or C(erofs) as its C(filesystem), and C(mounted) says whether it is;
          its size is that of its file.
      returned: when present
      type: list
      elements: dict
    lower:
      description: The directories of the layers, the top one first, as O(bulkhead.isolation.overlay#module:lower) takes them.
      returned: when present
      type: list
      elements: str
    config:
      description:
        - What it says of its services, those of C(entrypoint), C(command), C(env), C(user), C(workdir), C(ports), C(volumes), C(labels),
          C(stop_signal) and C(health) that it says.
      returned: when present
      type: dict
    size:
      description: The bytes of all files in its layers.
      returned: when present
      type: int
    unique_size:
      description: The bytes of those layers that no other image has.
      returned: when present
      type: int
    source:
      description:
        - What it was imported from, with C(type), C(path), C(digest), C(reference) and C(platform). Of an image that was built C(path) is the name of
          its parent, and there is no digest.
      returned: when present
      type: dict
packed:
  description: The bundle that is at the path of O(pack) after the run. None where there is none.
  returned: with O(pack)
  type: dict
  contains:
    path:
      description: Its path.
      returned: always
      type: str
    layers:
      description: The digests of the layers in it, the lowest first.
      returned: always
      type: list
      elements: str
    size:
      description: Its bytes.
      returned: always
      type: int
actions:
  description: The names of the steps taken, in check mode of those to be taken.
  returned: success
  type: list
  elements: str
  sample: ["import image debian from /srv/images/debian"]
restart_required:
  description: Always empty here.
  returned: success
  type: list
  elements: dict
"""

from ansible_collections.bulkhead.isolation.plugins.module_utils._adapter import run
from ansible_collections.bulkhead.isolation.plugins.module_utils._resources import image


def main():
    run(image, dict(
        name=dict(type="str"),
        oci=dict(type="path"),
        docker=dict(type="path"),
        tar=dict(type="path"),
        directory=dict(type="path"),
        squashfs=dict(type="path"),
        erofs=dict(type="path"),
        bundle=dict(type="path"),
        commit=dict(type="str"),
        steps=dict(type="list", elements="dict", no_log=True),  # in it are values of environments
        host=dict(type="raw"),
        bootstrap=dict(type="dict"),
        reference=dict(type="str"),
        platform=dict(type="str"),
        digest=dict(type="str"),
        config=dict(type="dict"),
        allow_setuid=dict(type="bool"),
        allow_devices=dict(type="bool", default=False),
        limits=dict(type="dict"),
        verify=dict(type="bool", default=False),
        export=dict(type="path"),
        pack=dict(type="dict"),
        prune=dict(type="bool", default=False),
        state=dict(type="str", choices=["present", "absent"], default="present"),
        **{"from": dict(type="str")},
    ))


if __name__ == "__main__":
    main()
