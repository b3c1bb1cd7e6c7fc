# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Starting and stopping many units of systemd at little cost to it: it is asked now and then what it has still to do.

docs/performance.md has what each way costs.
"""

from __future__ import annotations

import time

from .._model.errors import BulkheadError
from . import fresh, manager, systemctl


def start(host, units, there):
    """Start units, and wait until they are, or until systemd has given up. ``there(unit)``: does the kernel show it? Then it is not asked for."""
    if len(units) < 2:
        systemctl.start(host, *units)
        return
    new = {unit: fresh.stamp(host, unit) for unit in units if systemctl.is_new(host, unit)}
    try:
        queue(host, "start", units)
    finally:
        settle(host, units)  # also of those beside one that was refused
    left = [unit for unit in units if not there(unit)]
    found = (systemctl.states(host, left) or {}) if left else {}
    failed = [unit for unit in left if found.get(unit) not in ("active", "reloading")]
    fresh.remember(host, {unit: each for unit, each in new.items() if unit not in failed})
    if failed:
        raise BulkheadError("Cannot start %s: systemd has tried. Look at systemctl status %s." % (
            ", ".join(failed[:5]) + (", …" if len(failed) > 5 else ""), failed[0]))


def stop(host, units):
    """Stop units, and wait until they are."""
    if not units:
        return
    refused = manager.queue(host, "stop", units)
    if refused is None:
        systemctl.stop(host, *units)
        return
    _refuse(host, "stop", units, refused)
    settle(host, units)
    found = systemctl.states(host, units) or {}
    left = [unit for unit in units if found.get(unit) in ("active", "reloading", "activating")]
    if left:
        raise BulkheadError("Cannot stop %s: somebody has started it again. Look at systemctl status %s." % (left[0], left[0]))


def queue(host, verb, units):
    """Have systemd start or stop units, and wait for none of them."""
    refused = manager.queue(host, verb, units)
    if refused is None:
        systemctl.act(host, verb, units, ["--no-block"])
    else:
        _refuse(host, verb, units, refused)


def _refuse(host, verb, units, refused):
    systemctl.drop(host, *units)
    for unit, why in refused.items():
        raise BulkheadError("Cannot %s %s: %s. Look at systemctl status and journalctl -e." % (verb, unit, why.rstrip(".")))


def settle(host, units):
    """Wait until systemd has nothing to do any more for these units."""
    wanted, pause = set(units), 0.02
    while wanted.intersection(_jobs(host)):
        time.sleep(pause)
        pause = min(pause * 2, 1.0)


def _jobs(host):
    """The units that have something queued or under way."""
    found = manager.jobs(host)
    if found is None:
        lines = systemctl.command(host, "ask for its jobs", "list-jobs", "--plain", "--no-legend", "--no-pager").splitlines()
        found = [line.split()[1] for line in lines if len(line.split()) > 2]
    return found
