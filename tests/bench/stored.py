# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Roots of one storage driver, in one process: `stored.py DRIVER COUNT`, over the image `stored`. Prints milliseconds for each root.

{"base": ms of the first root, with its base, "make", "again", "remove": ms each, "space": KiB on the disk each}
"""

from __future__ import annotations

import json
import os
import sys
import time

import engine
from module_utils._engine.engine import converge
from module_utils._engine.host import Host
from module_utils._resources import sandbox

LIB = "/var/lib/bulkhead"


def used():
    """KiB in use on the file systems that roots lie on."""
    found = {os.stat(path).st_dev: os.statvfs(path) for path in (LIB, LIB + "/roots") if os.path.isdir(path)}
    os.sync()
    return sum((each.f_blocks - each.f_bfree) * each.f_frsize for each in found.values()) / 1024


def act(names, changed=True, **more):
    """Milliseconds of a run over these sandboxes."""
    host = Host(engine.command)
    begin = time.perf_counter()
    outcome = converge(host, sandbox, {"sandboxes": [dict(name=name, **more) for name in names], "remove_data": True})
    spent = (time.perf_counter() - begin) * 1e3
    if outcome.errors or outcome.changed != changed:
        raise SystemExit(outcome.errors[0].error.message if outcome.errors else "changed: %s" % outcome.changed)
    return spent


def main(driver, count):
    names = ["s%d" % number for number in range(int(count))]
    declared = {"image": "stored", "namespaces": {"types": ["mnt"]}, "storage": {"driver": driver}}
    found = {"base": act(["first"], **declared)}
    before = used()
    found["make"] = act(names, **declared)
    found["space"] = used() - before
    found["again"] = act(names, changed=False, **declared)
    found["remove"] = act(names, state="absent")
    act(["first"], state="absent")
    return {key: value if key == "base" else value / len(names) for key, value in found.items()}


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
