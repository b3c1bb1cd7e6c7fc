# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Interfaces by the engine without Ansible, in one process: `attach.py prepare|make|remove COUNT`. Milliseconds for each interface.

`prepare` makes what they are attached to, the namespaces a0, a1, … and the network bench. A third argument is a file for a profile.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time

import engine
from module_utils._engine.engine import converge
from module_utils._engine.host import Host
from module_utils._resources import interface, namespace, network

NETWORK = {"name": "bench", "subnets": ["10.88.0.0/16"]}


def declare(count, **more):
    """What the module `interface` is given for so many: an address of each is allocated, the default route is the network's gateway."""
    return {"interfaces": [dict({"namespace": "a%d" % number, "name": "eth0"}, **(more or {"network": "bench"})) for number in range(count)]}


def prepare(count):
    for resource, options in [(network, NETWORK)] + [(namespace, {"name": "a%d" % number, "types": ["net"]}) for number in range(count)]:
        converge(Host(engine.command), resource, options)
    return {"count": count}


def main(what, count, profile=None):
    count, host = int(count), Host(engine.command)
    if what == "prepare":
        return prepare(count)
    import pyroute2.netlink  # noqa: F401  pylint: disable=unused-import

    options = declare(count) if what == "make" else declare(count, state="absent")
    gc.disable()  # as _once.py does in a module call
    gc.freeze()
    begin = time.perf_counter()
    outcome = engine.profiled(profile, host, options, interface) if profile else converge(host, interface, options)
    spent = time.perf_counter() - begin
    if outcome.errors:
        raise SystemExit(outcome.errors[0].error.message)
    there = len([name for name in os.listdir("/sys/class/net") if os.path.exists("/sys/class/net/%s/brport" % name)])
    if not outcome.changed or there != (count if what == "make" else 0):
        raise SystemExit("%s %d: changed: %s, ports: %d" % (what, count, outcome.changed, there))
    return {"count": count, "each": spent / count * 1e3}


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
