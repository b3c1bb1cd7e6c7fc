# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The operations of sandboxes that may write so many bytes, and of snapshots of what they wrote."""

from __future__ import annotations

import os
import subprocess

from cgroups import V1
from images import image
from operation import Operation, expect, gone, mounted, text, unmount
from overlays import BASE
from roots import NEW, ROOTS, TREE, Root, Subvolume, root
from sandboxes import NO_SANDBOX, Sandbox, sandbox

LIB = "/var/lib/bulkhead"
HOME = LIB + "/uppers/web"
MIB = 1 << 20


def limited(storage, **more):
    return sandbox(**dict(dict(namespaces=dict(types=["mnt", "ipc"]), cgroup={}, bind=[], services=[], storage=storage), **more))


def snapshot(**more):
    return "snapshot", dict(dict(sandbox="web", name="one"), **more)


def kept(path, content=None):
    """What a service would have written; or what is there."""
    if content is not None:
        with open(path, "w", encoding="utf-8") as stream:
            stream.write(content)
    return text(path)


class Stored(Operation):
    """``kept``: what the file that the damage writes holds in the end; None: it is gone."""

    remove = NO_SANDBOX
    kept = "data"

    def prepare(self):
        for name in ("proc", "sys", "dev", "etc"):
            os.makedirs("%s/own/%s" % (BASE, name), exist_ok=True)

    def damage(self):
        if self.before:
            kept(HOME + "/upper/kept", "data")

    def declared(self):
        one = self.steady[1]["sandboxes"][0] if "sandboxes" in self.steady[1] else self.before[0][1]["sandboxes"][0]
        if one.get("state") == "absent":
            return gone(HOME, LIB + "/uppers/.web*", LIB + "/snapshots") + ["mounted: %s" % each for each in mounted(HOME)]
        storage, found, wrong = one["storage"], mounted(HOME), []
        if "size" in storage:
            kind = "tmpfs" if storage.get("limit") == "tmpfs" else "ext4"
            wrong += [] if [each.split()[0] for each in found] == [kind] else ["mounted are %s" % found]
            now = os.statvfs(HOME)
            size = (now.f_bavail + now.f_blocks - now.f_bfree) * now.f_frsize
            wrong += [] if size == storage["size"] else ["it may hold %d bytes" % size]
        if self.before:
            shown = kept(HOME + "/upper/kept")
            wrong += [] if shown == (self.kept or "No such file or directory") else ["it holds %r" % shown]
        return wrong + gone(HOME + "/*.bulkhead-discarded", LIB + "/snapshots/*/.*", LIB + "/uppers/.web.img.new")

    def cleanup(self):
        subprocess.run(["rm", "-rf", BASE], check=True)


class Unmounted(Stored):
    def damage(self):
        super().damage()
        unmount(HOME)


class Saved(Stored):
    """Its snapshot was taken when nothing was written yet."""

    def declared(self):
        there, wanted = os.path.exists(LIB + "/snapshots/web/one/snapshot.json"), self.act[1]["state"] != "absent"
        return super().declared() + ([] if there == wanted else ["there is %s snapshot" % ("no" if wanted else "a")])


class Taken(Sandbox):
    """Of a service that runs, and is to run on."""

    def declared(self):
        return expect({V1 % "freezer" + "freezer.state": "THAWED"}) + [
            each for each in ["the snapshot is not there"] if not os.path.exists(LIB + "/snapshots/web/one/snapshot.json")] + gone(
                LIB + "/snapshots/web/.*", "/run/bulkhead/made/frozen/*")


LOOP, TMPFS = dict(size=8 * MIB, limit="loop"), dict(size=8 * MIB, limit="tmpfs", keep=False)
Stored("limit-create-loop", limited(LOOP))
Stored("limit-create-tmpfs", limited(TMPFS))
Stored("limit-grow-loop", limited(dict(LOOP, size=64 * MIB)), before=[limited(LOOP)])
Stored("limit-shrink-loop", limited(dict(LOOP, size=MIB)), before=[limited(LOOP)])
Stored("limit-resize-tmpfs", limited(dict(TMPFS, size=MIB)), before=[limited(TMPFS)])
Unmounted("limit-mount-again", limited(LOOP), before=[limited(LOOP)])
Stored("limit-reset", ("sandbox", dict(limited(LOOP)[1], reset=["web"])), before=[limited(LOOP)], once=True, steady=limited(LOOP), kept=None)
ABSENT = ("sandbox", dict(sandboxes=[dict(name="web", state="absent")], remove_data=True))
Stored("limit-absent-loop", ABSENT, before=[limited(LOOP)])
Stored("limit-absent-tmpfs", ABSENT, before=[limited(TMPFS)])
Taken("snapshot-take", snapshot(), before=[sandbox()])
Saved("snapshot-remove", snapshot(state="absent"), before=[limited({}), snapshot()])
Saved("snapshot-restore", snapshot(state="restored"), before=[limited({}), snapshot()], once=True, steady=limited({}), kept=None)
Saved("snapshot-restore-loop", snapshot(state="restored"), before=[limited(LOOP), snapshot()], once=True, steady=limited(LOOP), kept=None)
Saved("snapshot-restore-tmpfs", snapshot(state="restored"), before=[limited(TMPFS), snapshot()], once=True, steady=limited(TMPFS), kept=None)


class Copied(Root):
    """A snapshot of a plain tree, or an image of one, which is the same each time."""

    def damage(self):
        super().damage()
        for name in ("/kept", ""):
            os.utime(TREE + "/etc" + name, ns=(0, 0))

    def declared(self):
        path = {"snapshot": "%s/.saved/web/one/snapshot.json" % ROOTS, "image": LIB + "/images/old.json"}[self.act[0]]
        return super().declared() + gone(ROOTS + "/.saved/web/.*") + ([] if os.path.exists(path) else ["there is no %s" % path])


class CopiedSubvolume(Copied, Subvolume):
    pass


class Dismounted(Root):
    """A copy whose limit was unmounted, as by a reboot."""

    def damage(self):
        super().damage()
        unmount(TREE)


def limited_root(driver, size=8 * MIB):
    return root(driver, storage=dict(dict(driver=driver, size=size), **(dict(limit="loop") if driver == "copy" else {})))


for tree, name in ((Root, "copy"), (Subvolume, "btrfs")):
    tree("limit-root-%s-create" % name, limited_root(name), before=[NEW])
    tree("limit-root-%s-resize" % name, limited_root(name, 16 * MIB), before=[NEW, limited_root(name)], kept="data")
    tree("limit-root-%s-absent" % name, ABSENT, before=[NEW, limited_root(name)])
for tree, name in ((Copied, "copy"), (CopiedSubvolume, "btrfs")):
    tree("snapshot-take-%s" % name, snapshot(), before=[NEW, root(name)], steady=root(name), kept="data")
    tree("snapshot-restore-%s" % name, snapshot(state="restored"), before=[NEW, root(name), snapshot()], once=True, steady=root(name))
    tree("image-commit-%s" % name, image(name="old", commit="web"), before=[NEW, root(name)], steady=root(name), kept="data")
Copied("snapshot-restore-copy-loop", snapshot(state="restored"), before=[NEW, limited_root("copy"), snapshot()], once=True, steady=limited_root("copy"))
Dismounted("limit-root-copy-mount-again", limited_root("copy"), before=[NEW, limited_root("copy")], kept="data")
