# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Snapshots of what sandboxes have written: saved, removed, put back.

Putting back is a run of the sandbox as it is recorded, with one act more: so its services are stopped and started, and its root is made
anew, as for any other reason.
"""

from __future__ import annotations

from .._model.errors import BulkheadError, Problems
from .._model.snapshot import SnapshotSpec
from . import _frozen, _saved, _storage, _store, sandbox

NOUN = "snapshot"


def parse(options, path, problems):
    return SnapshotSpec.from_options(options, path, problems)


def plan(host, spec, plan):
    """See `_engine/plan.py`."""
    found = _saved.find(host, spec.sandbox, spec.name)
    _frozen.plan(host, spec.sandbox, plan)
    left = _saved.leftovers(host, spec.sandbox)
    if left:
        plan.add("remove what a killed run has left of snapshots of sandbox %s" % spec.sandbox, lambda: [_saved.remove(host, path) for path in left])
    if spec.state == "absent":
        _saved.plan_tidy(host, plan, spec.sandbox)
    if spec.state == "present" and found is None:
        _plan_saved(host, spec, plan)
    elif spec.state == "absent" and found is not None:
        plan.differ("state", "present", "absent")
        plan.add("remove snapshot %s of sandbox %s" % (spec.name, spec.sandbox), lambda: _saved.remove(host, found[0]))
    elif spec.state == "restored":
        _plan_restored(host, spec, plan, found)


def _plan_saved(host, spec, plan):
    driver = _driver(host, spec, "take")
    if driver is not None:
        root = driver.find(host, spec.sandbox)
        if root is None or not root.ready:
            raise _refused(spec, "take", "the sandbox has no root of layers, or it is not there now", "Converge the sandbox first")
        _refuse_bound(host, spec, "take", driver)
        plan.differ("state", "absent", "present")
        plan.add("save what sandbox %s has written as snapshot %s" % (spec.sandbox, spec.name),
                 lambda: _saved.save(host, driver, spec.sandbox, spec.name),
                 lambda: _saved.remove(host, _saved.find(host, spec.sandbox, spec.name)[0]))


def _driver(host, spec, verb):
    """The driver of a sandbox. In check mode an earlier task may be going to make it: None."""
    if host.records.options(sandbox.RECORD, spec.sandbox) is None:
        if host.check:
            host.warn("There is no sandbox %s yet; an earlier task is expected to make it." % spec.sandbox)
            return None
        raise _refused(spec, verb, "there is no sandbox %s" % spec.sandbox, "Name one that is declared")
    return _storage.of_name(host, spec.sandbox)


def _refused(spec, verb, why, advice):
    return BulkheadError("Cannot %s snapshot %s of sandbox %s: %s. %s." % (verb, spec.name, spec.sandbox, why, advice))


def _refuse_bound(host, spec, verb, driver):
    why = driver.obstacle(host, spec.sandbox)
    if why:
        raise _refused(spec, verb, *why)


def _plan_restored(host, spec, plan, found):
    driver = _driver(host, spec, "restore")
    if found is None:
        if not host.check:
            raise _refused(spec, "restore", "there is none of that name", "Name one of: %s" % (
                ", ".join(_saved.names(host, spec.sandbox)) or "(there are none)"))
        host.warn("There is no snapshot %s of sandbox %s yet; an earlier task is expected to take it." % (spec.name, spec.sandbox))
    if driver is None or found is None:
        return
    _refuse_bound(host, spec, "restore", driver)
    path, known = found
    size = driver.measure(host, spec.sandbox)["size"]
    if size is not None and known["written"] > size:
        raise _refused(spec, "restore", "it has %d bytes, and the sandbox may write %d" % (known["written"], size), "Give a larger storage.size")
    problems = Problems()
    # A run that was killed may have left a root over the upper of before; this one makes it anew in any case.
    specs = sandbox.parse({"sandboxes": [host.records.options(sandbox.RECORD, spec.sandbox)], "kill": spec.kill, "on_mismatch": "recreate"}, "", problems)
    problems.raise_if_any()
    if specs[0].root is None:
        raise _refused(spec, "restore", "the sandbox has no mount namespace of its own", "Name mnt among the types of its namespaces")
    specs.policy["put_back"] = {spec.sandbox: path}
    sandbox.find(host, specs)
    sandbox.plan(host, specs[0], plan)
    if known["driver"] != driver.name or known["layers"] != _layers(host, driver, specs[0]):
        raise _refused(spec, "restore", "it was taken over other layers than those that the sandbox has now",
                       "Bring its image back first (state: rolled_back, after an upgrade)")
    plan.differ("restored", None, spec.name)


def _layers(host, driver, wanted):
    """The chain of a sandbox's root; of one that a killed run has not made again, what is declared."""
    root = driver.find(host, wanted.key)
    if root is not None:
        return root.layers
    if wanted.chain is not None:
        return wanted.chain
    known = {_store.tree(host, digest): digest for digest in _store.layers(host)}
    return [known.get(path, path) for path in reversed(wanted.overlay.lower)]


def result(host, params, outcome):
    """What the module returns beside the usual."""
    shown = _saved.show(host, params["sandbox"], params["name"])
    return {"snapshot": shown or {"sandbox": params["sandbox"], "name": params["name"], "state": "absent"}}


def info(host, params):
    """What the _info module returns."""
    owners = sorted({name for name, room in _saved.rooms(host, params.get("sandbox"))})
    shown = [_saved.show(host, owner, name) for owner in owners for name in _saved.names(host, owner)
             if params.get("name") in (None, name)]
    return {"snapshots": [each for each in shown if each is not None]}
