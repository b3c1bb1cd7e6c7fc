# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How the root of a sandbox is made of an image's layers, and what may be written to it."""

from __future__ import annotations

from . import values

DRIVERS = ("overlay", "btrfs", "copy", "devicemapper", "aufs")
LIMITS = ("quota", "loop", "tmpfs")  # of the drivers that have no limit of their own
POOL = "/var/lib/bulkhead/pool.img"
KEYS = ("driver", "pool", "pool_size", "size", "limit", "keep")


class StorageSpec:
    """``driver`` and ``limit``: None is chosen by what the host has. Sizes in bytes; None: no limit, or the driver's default.

    ``on_mismatch``: recreate allows that another root takes the place of the one that is there.
    """

    __slots__ = KEYS + ("on_mismatch",)

    def __init__(self):
        self.driver = self.pool = self.pool_size = self.size = self.limit = None
        self.keep, self.on_mismatch = True, "fail"

    @classmethod
    def from_options(cls, options, path, problems):
        """``options``: the value of `storage:`, None where nothing is declared."""
        spec, options = cls(), values.mapping(options, path, problems, known=KEYS)

        def each(key, parse, *rest):
            value = options.get(key)
            return None if value is None else parse(value, "%s.%s" % (path, key), problems, *rest)

        spec.driver, spec.limit = (None if value == "auto" else value for value in (
            each("driver", values.choice, ("auto",) + DRIVERS), each("limit", values.choice, ("auto",) + LIMITS)))
        spec.pool = each("pool", values.absolute)
        spec.pool_size, spec.size = each("pool_size", values.size), each("size", values.size)
        spec.keep = each("keep", values.boolean) is not False
        spec._check(options, path, problems)
        return spec

    def of_base(self):
        """What of it holds for the base of a root, too: where it lies, and not what may be written to the root."""
        spec = StorageSpec()
        spec.driver, spec.pool, spec.pool_size = self.driver, self.pool, self.pool_size
        return spec

    def _check(self, options, path, problems):
        for key in ("size", "pool_size"):
            if getattr(self, key) == 0:
                problems.add("%s.%s" % (path, key), "0 would leave nothing to write to")
        for key in ("pool", "pool_size"):
            if options.get(key) is not None and self.driver != "devicemapper":
                problems.add("%s.%s" % (path, key), "belongs to driver: devicemapper")
        if self.limit and self.driver in ("btrfs", "devicemapper"):
            problems.add(path + ".limit", "driver %s has a limit of its own. Leave it out" % self.driver)
        if self.limit and self.size is None:
            problems.add(path + ".limit", "is how a size is kept. Give size, too")
        if self.limit == "tmpfs" and self.keep:
            problems.add(path + ".limit", "a tmpfs is memory, and gone at a reboot. Set keep: false, too")
        if self.driver == "devicemapper":
            self.pool = self.pool or POOL
