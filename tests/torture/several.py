# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Two sandboxes in one run, of which more is done together than of one: their net namespaces are pinned ahead."""

from __future__ import annotations

from namespaces import pins
from operation import Operation, gone

TYPES = ["net", "uts", "ipc", "pid"]
NAMES = ["web", "db"]


def several(**more):
    return "sandbox", dict(sandboxes=[dict(dict(name=name, namespaces=dict(types=TYPES, hostname=name), services=[]), **more) for name in NAMES])


class Several(Operation):
    remove = [("sandbox", dict(sandboxes=[dict(name=name, state="absent") for name in NAMES], remove_data=True, kill=True))]

    def declared(self):
        found, wrong = pins(), []
        for name in NAMES:
            paths = ["/run/netns/" + name] + ["/run/bulkhead/ns/%s/%s" % (name, kind) for kind in TYPES[1:]]
            if self.steady[1]["sandboxes"][0].get("state") == "absent":
                wrong += gone(*paths) + gone("/run/bulkhead/made/namespace/%s.json" % name)
            else:
                wrong += ["there is no %s" % path for path in paths if path not in found]
        nets = [found.get("/run/netns/" + name) for name in NAMES]
        return wrong + (["they have one net namespace"] if nets[0] and nets[0] == nets[1] else [])


Several("sandbox-create-several", several())
Several("sandbox-absent-several", Several.remove[0], before=[several()])
