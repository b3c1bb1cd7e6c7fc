# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The operations of overlays."""

from __future__ import annotations

import os
import subprocess

from namespaces import NO_SET
from operation import Operation, mounted

BASE = "/run/torture"
LAYERS = [BASE + "/top", BASE + "/base"]
PLACE = "/run/bulkhead/mnt/web"
OVERLAY = dict(path=PLACE, lower=LAYERS, upper="/var/lib/bulkhead/uppers/web/upper", work="/var/lib/bulkhead/uppers/web/work")
NO_OVERLAY = [("overlay", dict(OVERLAY, state="absent", remove_data=True))]


class Overlay(Operation):
    remove = NO_OVERLAY

    def prepare(self):
        for path in LAYERS + [BASE + "/third"]:
            os.makedirs(path, exist_ok=True)
            with open(path + "/" + os.path.basename(path), "w") as stream:
                stream.write(path)

    def damage(self):
        if os.path.ismount(PLACE):
            with open(PLACE + "/written", "w") as stream:
                stream.write("data")

    def declared(self):
        options, found = self.steady[1], mounted(PLACE)
        if options["state"] != "mounted":
            return ["mounted: %s" % found] if found else []
        if len(found) != 1 or not found[0].startswith("overlay"):
            return ["mounted are %s" % found]
        shown = sorted(os.listdir(PLACE))
        wanted = [os.path.basename(path) for path in options["lower"]]
        if "upper" in options and self.before and not self.act[1].get("reset"):
            wanted.append("written")
        return [] if shown == sorted(wanted) else ["it holds %s, not %s" % (shown, sorted(wanted))]

    def cleanup(self):
        subprocess.run(["rm", "-rf", BASE], check=True)


def overlay(**options):
    return "overlay", dict(OVERLAY, **dict(dict(state="mounted"), **options))


MOUNTED = [overlay()]
Overlay("overlay-mount", overlay())
Overlay("overlay-mount-read-only", ("overlay", dict(path=PLACE, lower=LAYERS, state="mounted")))
Overlay("overlay-replace", overlay(lower=[BASE + "/third"] + LAYERS, on_mismatch="recreate"), before=MOUNTED)
Overlay("overlay-attributes", overlay(options=dict(noexec=True, nodev=True)), before=MOUNTED)
Overlay("overlay-reset", overlay(reset=True), before=MOUNTED, once=True, steady=overlay())
Overlay("overlay-unmount", ("overlay", dict(path=PLACE, state="unmounted")), before=MOUNTED)
Overlay("overlay-absent", ("overlay", dict(path=PLACE, state="absent")), before=MOUNTED)
Overlay("overlay-absent-with-data", ("overlay", dict(path=PLACE, state="absent", remove_data=True)), before=MOUNTED)
Overlay("overlay-in-namespace", overlay(path="/mnt", namespace="web"), before=[("namespace", dict(name="web", types=["mnt"]))],
        remove=[("overlay", dict(OVERLAY, path="/mnt", namespace="web", state="absent", remove_data=True))] + NO_SET,
        declared=lambda: [])
