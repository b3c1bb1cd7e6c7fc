# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The operations of images."""

from __future__ import annotations

import gzip
import json
import os
import subprocess

import archives
import drive
from archives import Layout, directory, entry, hard_link, symlink, tar
from operation import Operation

from module_utils._supervisor import entry as service_entry

BASE = "/run/torture"
LIB = "/var/lib/bulkhead"
LOWEST = tar(directory(b"etc", mode=0o751),
             entry(b"etc/passwd", b"root", owner=(0, 42), pax={"SCHILY.xattr.user.a": b"b"}), hard_link(b"etc/other", b"etc/passwd"),
             symlink(b"lib", b"usr/lib"), entry(b"pipe", kind=b"6"), directory(b"opt"), entry(b"opt/gone", b"x"))
TOP = tar(entry(b"etc/new", b"new"), directory(b"opt"), entry(b"opt/.wh..wh..opq"), entry(b".wh.pipe"))
OTHER = tar(entry(b"other", b"other"))
NO_IMAGES = [("image", dict(name="web", state="absent")), ("image", dict(name="old", state="absent")), ("image", dict(prune=True))]


class Image(Operation):
    remove = NO_IMAGES
    names = ("web.json",)
    layers = [["etc", "etc/other", "etc/passwd", "lib", "opt", "opt/gone", "pipe"], ["etc", "etc/new", "opt", "pipe"]]

    def prepare(self):
        os.makedirs(BASE, exist_ok=True)
        Layout(BASE + "/layout", LOWEST, TOP, compress=gzip.compress).done()
        archives.write(BASE + "/other.tar", OTHER)
        archives.write(BASE + "/tree/etc/file", b"text")
        os.symlink("file", BASE + "/tree/etc/link")
        for name in ("etc/file", "etc/link", "etc", ""):  # so that each run makes the same layer
            os.utime("%s/tree/%s" % (BASE, name), ns=(0, 0), follow_symlinks=False)

    def declared(self):
        """The image and its layers, by what is on the disk."""
        found, wanted = [], self.layers
        if os.path.isdir(LIB + "/images"):
            found += ["%s is in the store" % name for name in os.listdir(LIB + "/images") if name not in self.names]
        path = LIB + "/images/web.json"
        if (wanted is not None) != os.path.exists(path):
            return found + ["there is %s image" % ("no" if wanted else "an")]
        if wanted is not None:
            with open(path, encoding="utf-8") as stream:
                trees = ["%s/layers/%s/tree" % (LIB, digest[7:]) for digest in json.load(stream)["layers"]]
            there = [sorted(os.path.relpath(os.path.join(where, name), tree) for where, names, files in os.walk(tree) for name in names + files)
                     for tree in trees]
            found += [] if there == wanted else ["it holds %s" % there]
        return found + ["%s is in the store" % name for name in os.listdir(LIB + "/layers") if name.startswith(".")]

    def cleanup(self):
        subprocess.run(["rm", "-rf", BASE], check=True)


class Damaged(Image):
    def damage(self):
        with open(LIB + "/images/web.json", encoding="utf-8") as stream:
            tree = "%s/layers/%s/tree" % (LIB, json.load(stream)["layers"][0][7:])
        os.chmod(tree + "/etc", 0o777)


def image(**options):
    return "image", dict(dict(name="web"), **options)


OCI = image(oci=BASE + "/layout")
TAR = image(tar=BASE + "/other.tar")
Image("image-import-oci", OCI)
Image("image-import-directory", image(directory=BASE + "/tree"), layers=[["etc", "etc/file", "etc/link"]])
Image("image-replace-and-prune", image(tar=BASE + "/other.tar", prune=True), before=[OCI], layers=[["other"]])
Damaged("image-mend", image(oci=BASE + "/layout", verify=True), before=[OCI])
Image("image-config", image(oci=BASE + "/layout", config=dict(command=["/bin/true"])), before=[OCI])
Image("image-absent", image(state="absent"), before=[OCI], layers=None)
Image("image-prune", ("image", dict(prune=True)), before=[OCI, TAR], layers=[["other"]])


class Archived(Image):
    """What the role has brought for it goes with it."""

    def damage(self):
        for name in ("one", "two"):
            archives.write(LIB + "/archives/web/" + name, OTHER)
        archives.write(LIB + "/bundles/web", OTHER)

    def declared(self):
        return super().declared() + ["there are " + name for name in ("archives", "bundles") if os.path.exists("%s/%s" % (LIB, name))]


Archived("image-absent-archives", image(state="absent"), before=[OCI], layers=None)


class Export(Image):
    def declared(self):
        return super().declared() + ([] if sorted(os.listdir(BASE + "/out")) == ["blobs", "index.json", "oci-layout"] else ["it is not whole"])


Export("image-export", image(export=BASE + "/out"), before=[OCI])


class Packed(Image):
    def declared(self):
        return super().declared() + ([] if [name for name in os.listdir(BASE) if "bundle" in name] == ["web.bundle"] else ["it is not whole"])


class Bundle(Packed):
    """A bundle of the same image, packed here before."""

    def prepare(self):
        super().prepare()
        for noun, options in (OCI, PACK, *NO_IMAGES):
            assert "error" not in drive.converge(noun, options)


PACK = image(pack=dict(path=BASE + "/web.bundle", owner=1))
Packed("image-pack", PACK, before=[OCI])
Bundle("image-import-bundle", image(bundle=BASE + "/web.bundle"))


def parent():
    with open("/bin/busybox", "rb") as stream:
        busybox = stream.read()
    links = [symlink(b"bin/" + word, b"busybox") for word in (b"echo", b"rm", b"sh", b"touch")]
    return tar(directory(b"bin"), entry(b"bin/busybox", busybox, mode=0o755), *links, directory(b"dev"), directory(b"etc"), directory(b"proc"),
               directory(b"srv"), entry(b"srv/old", b"old"), directory(b"sys"))


class Built(Image):
    """Each run makes the same layers, also of what is run: it sets the times of what it changes."""

    remove = NO_IMAGES[:1] + [("image", dict(name="base", state="absent"))] + NO_IMAGES[2:]
    names = ("web.json", "base.json")
    layers = [["bin", "bin/busybox", "bin/echo", "bin/rm", "bin/sh", "bin/touch", "dev", "etc", "proc", "srv", "srv/old", "sys"],
              ["etc", "etc/file", "etc/link"], ["srv", "srv/new", "srv/old"]]

    def prepare(self):
        super().prepare()
        archives.write(BASE + "/parent.tar", parent())

    def cleanup(self):
        service_entry.clear(drive.new_host())
        super().cleanup()


COPY = dict(copy=dict(src=BASE + "/tree", dest="/"))
RUN = dict(run="rm /srv/old; echo new >/srv/new; touch -d @0 /srv/new /srv", network="none")
PARENT = image(name="base", tar=BASE + "/parent.tar")
BUILD = image(steps=[COPY, RUN], **{"from": "base"})
Built("image-build", BUILD, before=[PARENT])
Built("image-build-changed", image(steps=[RUN], prune=True, **{"from": "base"}), before=[PARENT, BUILD], layers=[Built.layers[0], Built.layers[2]])

MADE = """mkdir -p "$1/etc" "$1/dev"
echo text >"$1/etc/file"
touch -d @0 "$1/etc/file"
"""
MMDEBSTRAP = """#!/bin/sh -e
while [ "$1" != -- ]; do shift; done
mkdir "$3"
set -- "$3"
""" + MADE
DNF = """#!/bin/sh -e
for each; do case $each in --installroot=*) root=${each#*=};; --setopt=reposdir=*) grep -q gpgkey=file: "${each##*=}/1.repo";; esac; done
mkdir -p "$root/var/cache/dnf"
echo >"$root/var/cache/dnf/x"
echo >"$root/dev/null"
set -- "$root"
""" + MADE


class Bootstrap(Image):
    """In the place of the tool one that makes a small tree: how it is run and what becomes of the tree is ours."""

    layers = [["dev", "etc", "etc/file"]]
    tool, text = "mmdebstrap", MMDEBSTRAP

    def prepare(self):
        super().prepare()
        os.chmod(archives.write("%s/bin/%s" % (BASE, self.tool), self.text.encode()), 0o755)
        os.environ["PATH"] = BASE + "/bin:" + os.environ["PATH"]

    def cleanup(self):
        os.environ["PATH"] = os.environ["PATH"].partition(":")[2]
        super().cleanup()


Bootstrap("image-bootstrap", image(bootstrap=dict(suite="test", mirror="copy:///none")))
Bootstrap("image-bootstrap-dnf", image(bootstrap=dict(release="1", packages=["a"], repositories=["file:///none"], keyring=BASE + "/other.tar")), tool="dnf",
          text=DNF, layers=[["dev", "etc", "etc/file", "proc", "usr", "usr/lib", "usr/lib/sysimage", "usr/lib/sysimage/rpm", "var", "var/cache",
                             "var/cache/dnf", "var/lib", "var/lib/rpm"]])
