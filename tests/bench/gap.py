# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How long a sandbox cannot be asked while it goes to another image, and while its service is restarted: `gap.py`, in one process.

Both are taken from the stop of the service, a restart to its first healthy answer, a switch until connections are let in again.
Milliseconds: {"switch": […], "restart": […]}.
"""

from __future__ import annotations

import json
import os
import sys
import time

import engine
from module_utils._engine.engine import converge
from module_utils._engine.host import Host
from module_utils._resources import _held, image, sandbox, service
from module_utils._supervisor import pick

sys.path.insert(0, engine.ROOT + "/tests/system")
import archives  # noqa: E402  pylint: disable=wrong-import-position
from upgrades import HEALTH, SERVER, layers  # noqa: E402  pylint: disable=wrong-import-position

TIMES, PLACE = 12, "/run/gap"
TYPES = ["net", "uts", "ipc", "mnt", "pid"]


def act(resource, **options):
    """A run that must not fail."""
    outcome = converge(Host(engine.command), resource, options)
    if outcome.errors:
        raise SystemExit(outcome.errors[0].error.message)


def declare(name, state="started"):
    act(sandbox, sandboxes=[{"name": "web", "image": name, "namespaces": {"types": TYPES}, "upgrade": {"upper": "keep", "trial": False},
                             "services": [{"name": "httpd", "health": HEALTH, "state": state}]}])


def between(change, first, last):
    """Milliseconds from the call of one function to the return of another, each (where it is, its name), while ``change()`` is done."""
    moments = []
    time.sleep(1.1)  # runit keeps one that has just begun waiting for a second

    def watched(function, begins):
        def call(*args, **more):
            if begins:
                moments.append(time.perf_counter())
            answer = function(*args, **more)
            if not begins:
                moments.append(time.perf_counter())
            return answer
        return call

    own = [(place, name, getattr(place, name)) for place, name in (first, last)]
    for (place, name, function), begins in zip(own, (True, False)):
        setattr(place, name, watched(function, begins))
    try:
        change()
    finally:
        for place, name, function in own:
            setattr(place, name, function)
    return (moments[-1] - moments[0]) * 1e3


def main():
    os.makedirs(PLACE)
    found = {"switch": [], "restart": []}
    for version in ("one", "two"):
        path = archives.Layout("%s/%s" % (PLACE, version), *layers(version), config={"Cmd": SERVER}).done()
        act(image, name="base", oci=path)
        act(image, **{"name": version, "from": "base", "steps": [{"write": {"dest": "/srv/built", "content": version}}]})
    declare("one")
    supervisor = pick(Host(engine.command))
    for number in range(TIMES):
        name = ("two", "one")[number % 2]
        found["switch"].append(between(lambda: declare(name), (supervisor, "stop"), (_held, "release")))
        found["restart"].append(between(lambda: declare(name, "restarted"), (supervisor, "stop"), (service, "await_health")))
    act(sandbox, sandboxes=[{"name": "web", "state": "absent"}], remove_data=True, kill=True)
    for name in ("one", "two", "base"):
        act(image, name=name, state="absent")
    return found


if __name__ == "__main__":
    print(json.dumps(main()))
