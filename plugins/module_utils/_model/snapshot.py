# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A snapshot: what a sandbox had written at one moment, by name."""

from __future__ import annotations

from . import values

STATES = ("present", "absent", "restored")


class SnapshotSpec:
    """Snapshot ``name`` of ``sandbox``. ``kill``: visitors may be killed where the root is made anew."""

    __slots__ = ("key", "sandbox", "name", "state", "kill")

    @classmethod
    def from_options(cls, options, path, problems):
        spec, prefix = cls(), path + "." if path else ""
        spec.sandbox = values.name(options.get("sandbox"), prefix + "sandbox", problems)
        spec.name = values.name(options.get("name"), prefix + "name", problems)
        spec.state = values.choice(options.get("state", "present"), prefix + "state", problems, STATES)
        spec.kill = values.boolean(options.get("kill", False), prefix + "kill", problems)
        spec.key = "%s/%s" % (spec.sandbox, spec.name)
        return spec
