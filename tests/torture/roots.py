# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The operations of roots that are plain trees: copies, and snapshots of btrfs."""

from __future__ import annotations

import json
import os
import subprocess

import archives
import drive
from archives import Layout, directory, entry, hard_link, symlink, tar
from images import NO_IMAGES, image
from operation import Operation, gone, text, unmount
from overlays import BASE
from sandboxes import NO_SANDBOX, sandbox

from module_utils._engine import places

ROOTS = "/var/lib/bulkhead/roots"
TREE = ROOTS + "/web/tree"
LOWEST = tar(*[directory(name) for name in (b"dev", b"etc", b"proc", b"sys", b"opt")], entry(b"etc/file", b"file", owner=(0, 42)),
             hard_link(b"etc/same", b"etc/file"), symlink(b"lib", b"usr/lib"), entry(b"opt/gone", b"gone"))
TOP = tar(entry(b"etc/new", b"new"), entry(b"opt/.wh.gone"))
OLD, NEW = image(name="old", tar=BASE + "/old.tar"), image(oci=BASE + "/layout")


def root(driver, **more):
    return sandbox(**dict(dict(namespaces=dict(types=["mnt", "ipc"]), cgroup={}, bind=[], services=[], overlay=None, image="web",
                               storage=dict(driver=driver)), **more))


class Root(Operation):
    """``kept``: what the file that the damage writes holds in the end; None: it is gone, or there never was one."""

    remove = NO_SANDBOX + NO_IMAGES
    kept = None

    def prepare(self):
        Layout(BASE + "/layout", LOWEST, TOP).done()
        archives.write(BASE + "/old.tar", LOWEST)

    def damage(self):
        if os.path.isdir(TREE):
            archives.write(TREE + "/etc/kept", b"data")
            os.unlink(TREE + "/etc/file")

    def declared(self):
        wrong = gone(ROOTS + "/.new-*", ROOTS + "/.old-*", ROOTS + "/.bases-*/.*")
        one = self.steady[1]["sandboxes"][0]
        if one.get("state") == "absent":
            return wrong + gone(ROOTS + "/web")
        known, there = json.loads(text(ROOTS + "/web/root.json")), sorted(os.listdir(TREE + "/etc"))
        wanted = ["kept", "new", "same"] if self.kept else ["file", "new", "same"]
        wrong += [] if known["image"] == "web" and len(known["layers"]) == 2 else ["root.json says %s" % known]
        wrong += [] if there == wanted and os.listdir(TREE + "/opt") == [] else ["etc holds %s, not %s" % (there, wanted)]
        shown = text(TREE + "/etc/kept")
        return wrong + ([] if shown == (self.kept or "No such file or directory") else ["it holds %r" % shown])

    def cleanup(self):
        subprocess.run(["rm", "-rf", BASE], check=True)


class Subvolume(Root):
    """On a btrfs of its own."""

    def prepare(self):
        super().prepare()
        places.ensure(drive.new_host())  # what is mounted before these is mounted twice
        os.makedirs(ROOTS, mode=0o700, exist_ok=True)
        with open(BASE + "/btrfs", "wb") as stream:
            stream.truncate(128 << 20)
        subprocess.run(["mkfs.btrfs", "-q", BASE + "/btrfs"], check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["mount", "-o", "loop", BASE + "/btrfs", ROOTS], check=True)

    def cleanup(self):
        unmount(ROOTS, 0)  # busy as long as anything has a file there, a loop device too
        os.rmdir(ROOTS)
        super().cleanup()


ABSENT = ("sandbox", dict(sandboxes=[dict(name="web", state="absent")], remove_data=True))
for kind, driver in ((Root, "copy"), (Subvolume, "btrfs")):
    steady = root(driver)
    kind("root-%s-create" % driver, steady, before=[NEW])
    kind("root-%s-absent" % driver, ABSENT, before=[NEW, steady])
    kind("root-%s-reset" % driver, ("sandbox", dict(steady[1], reset=["web"])), before=[NEW, steady], once=True, steady=steady)
    kind("root-%s-another-image" % driver, ("sandbox", dict(steady[1], on_mismatch="recreate")), before=[OLD, NEW, root(driver, image="old")], kept="data")
    fresh = root(driver, upgrade=dict(upper="fresh", trial=False))
    kind("root-%s-fresh" % driver, fresh, before=[image(tar=BASE + "/old.tar"), fresh, NEW])
