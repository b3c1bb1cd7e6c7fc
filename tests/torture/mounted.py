# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The operations of images whose layers are mounted."""

from __future__ import annotations

import os

import filesystems
from images import BASE, LIB, Image, image
from operation import mounted, unmount


class Mounted(Image):
    layers = [["etc", "etc/file", "etc/link"]]

    def prepare(self):
        super().prepare()
        filesystems.make("squashfs", BASE + "/it.squashfs", BASE + "/tree", "-all-root", "-mkfs-time", "0")  # each run makes the same file

    def trees(self):
        return ["%s/layers/%s/tree" % (LIB, name) for name in os.listdir(LIB + "/layers")] if os.path.isdir(LIB + "/layers") else []

    def declared(self):
        """Whether each layer that is a file is mounted once, and no loop device is there without."""
        there, wanted = [], [path for path in self.trees() if os.path.exists(os.path.dirname(path) + "/file")]
        for path in self.trees():
            there += [path] * len(mounted(path))
        wrong = [] if there == wanted else ["mounted are %s, not %s" % (there, wanted)]
        loops = filesystems.loops()
        return super().declared() + wrong + ([] if len(loops) == len(wanted) else ["there are the loop devices %s" % sorted(loops)])


class Unmounted(Mounted):
    def damage(self):
        for path in self.trees():
            unmount(path)


class Flipped(Mounted):
    def damage(self):
        for path in self.trees():
            with open(os.path.dirname(path) + "/file", "r+b") as stream:
                stream.write(b"x")


SQUASHFS = image(squashfs=BASE + "/it.squashfs")
Mounted("image-import-squashfs", SQUASHFS)
Mounted("image-replace-squashfs", image(oci=BASE + "/layout", prune=True), before=[SQUASHFS], layers=Image.layers)
Unmounted("image-mount", image(), before=[SQUASHFS])
Flipped("image-mend-squashfs", image(squashfs=BASE + "/it.squashfs", verify=True), before=[SQUASHFS])
Mounted("image-absent-squashfs", image(state="absent"), before=[SQUASHFS], layers=None)
