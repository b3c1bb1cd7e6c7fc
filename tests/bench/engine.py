# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The engine without Ansible, in one process: `engine.py make|remove COUNT LOWER`. Prints milliseconds for each sandbox.

With a fourth argument, a profile (cProfile, by own time) goes to that file.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
sys.path.insert(0, ROOT + "/plugins")

from module_utils._engine.engine import converge  # noqa: E402
from module_utils._engine.host import Host  # noqa: E402
from module_utils._resources import sandbox  # noqa: E402

DEFAULTS = {
    "namespaces": {"types": ["net", "uts", "ipc", "mnt", "pid"]},
    "cgroup": {"memory_max": "256M", "pids_max": 128, "cpu_max": "50%", "io_max": [{"device": "/", "rbps": "20M"}]},
}


def declare(count, lower):
    """What the module `sandbox` is given for so many."""
    return {"defaults": dict(DEFAULTS, overlay={"lower": [lower]}),
            "sandboxes": [{"name": "s%d" % index, "namespaces": {"hostname": "s%d" % index}} for index in range(count)]}


def command(argv, data=None, env=None):
    import subprocess  # only where a command is run: what it brings along is taken care of in every forked child

    data = data.encode() if isinstance(data, str) else data
    ended = subprocess.run(argv, input=data, env=dict(os.environ, **(env or {})), capture_output=True, check=False)
    return ended.returncode, ended.stdout.decode(), ended.stderr.decode()


def keepers():
    """How many keepers there are now."""
    found = 0
    for entry in os.listdir("/proc"):
        try:
            with open("/proc/%s/comm" % entry, encoding="utf-8") as stream:
                found += stream.read() == "keeper\n"
        except OSError:
            continue
    return found


def profiled(file, host, options, resource=sandbox):
    import cProfile
    import pstats

    profiler = cProfile.Profile()
    outcome = profiler.runcall(converge, host, resource, options)
    with open(file, "w", encoding="utf-8") as stream:
        for order, count in (("tottime", 45), ("cumtime", 60)):
            pstats.Stats(profiler, stream=stream).sort_stats(order).print_stats(count)
    return outcome


def main(what, count, lower, profile=None):
    count, host = int(count), Host(command)
    options = declare(count, lower)
    if what == "remove":
        options = {"sandboxes": [{"name": entry["name"], "state": "absent"} for entry in options["sandboxes"]]}
    gc.disable()  # as _once.py does in a module call
    gc.freeze()
    begin = time.perf_counter()
    outcome = profiled(profile, host, options) if profile else converge(host, sandbox, options)
    spent = time.perf_counter() - begin
    if outcome.errors:
        raise SystemExit(outcome.errors[0].error.message)
    wanted = count if what == "make" else 0
    deadline = time.monotonic() + 5
    while keepers() != wanted and time.monotonic() < deadline:
        time.sleep(0.01)  # the last one may not have its name yet
    if not outcome.changed or keepers() != wanted:
        raise SystemExit("%s %d: changed: %s, keepers: %d" % (what, count, outcome.changed, keepers()))
    return {"count": count, "each": spent / count * 1e3}


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
