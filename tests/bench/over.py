# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A sandbox over a built image, made by the engine in one process, and the bare overlay mount of the same layers: `over.py LOWER`.

Milliseconds of each of the times that either was made: {"ours": […], "bare": […]}.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time

import engine
from module_utils._engine.engine import converge
from module_utils._engine.host import Host
from module_utils._kernel import syscalls
from module_utils._resources import image, sandbox

TIMES, BARE = 24, "/run/over"
STEPS = [{"write": {"dest": "/one", "content": "one"}}, {"write": {"dest": "/two", "content": "two"}}]
GONE = {"sandboxes": [{"name": "over", "state": "absent"}], "remove_data": True}


def act(resource, options):
    """Milliseconds of a run that changes something."""
    host = Host(engine.command)
    begin = time.perf_counter()
    outcome = converge(host, resource, options)
    spent = (time.perf_counter() - begin) * 1e3
    if outcome.errors or not outcome.changed:
        raise SystemExit(outcome.errors[0].error.message if outcome.errors else "nothing was changed")
    return spent


def bare(lower):
    """Milliseconds of directories and one mount(2)."""
    begin = time.perf_counter()
    for name in ("upper", "work", "merged"):
        os.makedirs("%s/%s" % (BARE, name))
    syscalls.mount("overlay", BARE + "/merged", "overlay", 0, "lowerdir=%s,upperdir=%s/upper,workdir=%s/work" % (":".join(lower), BARE, BARE))
    spent = (time.perf_counter() - begin) * 1e3
    syscalls.umount(BARE + "/merged")
    shutil.rmtree(BARE)
    return spent


def main(lower):
    act(image, {"name": "base", "directory": lower, "allow_setuid": True})
    act(image, {"name": "built", "from": "base", "steps": STEPS})
    layers = image.show(Host(engine.command), "built")["lower"]
    found = {"ours": [], "bare": []}
    for dummy in range(TIMES):
        found["ours"].append(act(sandbox, {"sandboxes": [{"name": "over", "image": "built"}]}))
        act(sandbox, GONE)
        found["bare"].append(bare(layers))
    for name in ("built", "base"):
        act(image, {"name": name, "state": "absent"})
    return found


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
