# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The trial of an upgrade: a sandbox NAME.trial of the same declaration over the new layers, made beside NAME, asked for its health, removed.

It is made and removed by the same code as any sandbox, in runs within a step, all trials of a run in one. Its record is written first:
with that a later run, or the restore after a power cut, takes away what a killed run has left. Nothing of NAME is touched;
it stands still for the end of the copy of what it has written.
"""

from __future__ import annotations

from .._engine import engine
from .._model.errors import BulkheadError, reason
from .._model.sandbox import POLICY, SandboxList, SandboxSpec
from .._model.upgrade import SUFFIX, declaration
from .._supervisor import pick
from . import _frozen, namespace, service

RECORD = "sandboxes"


class Given:
    """The resource `sandbox`, for Specs that are not read from a list of the user's; ``change(spec)`` is called for each."""

    NOUN = "sandbox"

    def __init__(self, change=None, **policy):
        from . import sandbox  # which stands on this file

        self.find, self.plan, self._change = sandbox.find, sandbox.plan, change
        self._policy = dict(dict.fromkeys(POLICY), on_mismatch="recreate", kill=True, **policy)

    def parse(self, options, path, problems):
        specs = SandboxList()
        specs.policy = self._policy
        for entry in options:
            specs.append(SandboxSpec.from_options(entry, entry["name"], problems, self._policy))
            if self._change is not None and not problems.errors:
                self._change(specs[-1])
        return specs


class Trial:
    """One trial; ``error`` is why it failed. ``keep``: with a copy of what is written."""

    def __init__(self, spec, driver, version, keep):
        self.of, self.name, self.version, self.keep, self.driver = spec.key, spec.key + SUFFIX, version, keep, driver
        self.options = declaration(spec.key, spec.options, driver.name)
        self.services = ["%s/%s" % (self.name, each.name.partition("/")[2]) for each in spec.services if each.state != "stopped"]
        self.error = None


def foreseen(host, spec):
    """Refuse where something of somebody else's has the name."""
    name = spec.key + SUFFIX
    if name not in recorded(host) and namespace.found(host, name).exists:
        raise BulkheadError("Cannot upgrade sandbox %s: there are namespaces %s already, which a trial would have. Remove them, or set upgrade.trial: "
                            "false." % (spec.key, name))


def recorded(host):
    """The trials that are on their way, or that a killed run has left."""
    return host.cached("trials", lambda: {name for name in host.records.names(RECORD) if name.endswith(SUFFIX)})


def plan_sweep(host, name, plan):
    """A step that takes away what a killed run has left."""
    if name + SUFFIX in recorded(host):
        plan.add("remove what is left of the trial of sandbox %s" % name, lambda: _remove(host, [name + SUFFIX]))


def hold_all(host, trials):
    """Make them all, ask for their health, and remove them again. Raises nothing: each knows its own error."""
    try:
        _make(host, trials)
    except (BulkheadError, OSError) as exc:
        for trial in trials:
            trial.error = trial.error or exc
    try:
        _remove(host, [trial.name for trial in trials])
    except (BulkheadError, OSError) as exc:
        for trial in trials:
            trial.error = trial.error or exc


def _make(host, trials):
    host.records.write_all({(RECORD, trial.name): (trial.options, False) for trial in trials})
    host.drop("trials")
    ready = []
    for trial in trials:
        try:
            if trial.keep:
                _copy(host, trial)
            ready.append(trial)
        except (BulkheadError, OSError) as exc:
            trial.error = exc
    if not ready:
        return
    other, versions = host.another(), {trial.name: trial.version for trial in ready}

    def change(spec):
        spec.upgrade.version = versions[spec.key]

    outcome = engine.converge_within(other, Given(change), [trial.options for trial in ready])
    failed = {plan.key: _cause(plan.error) for plan in outcome.errors}
    for trial in ready:
        trial.error = failed.get(trial.name) or _unwell(other, trial.services)


def _cause(error):
    """An error without what was undone after it: all of the trial goes."""
    undone = error.keys.get("undone")
    return BulkheadError(error.message.replace(" Undone: %s." % ", ".join(undone), "")) if undone else error


def _unwell(host, names):
    """Which service is not as it should be, as an error; None."""
    for name in names:
        if host.healthy.get(name) is False:
            return _ill(host, name, "is not healthy")
        if not service.Found(host, name).running:
            return _ill(host, name, "has ended")
    return None


def _ill(host, name, what):
    return BulkheadError("service %s %s. Its last words: %s" % (name.partition("/")[2], what, pick(host).last_words(host, name) or "none"))


def _copy(host, trial):
    """What is written until now, for the trial to write on. The sandbox stands still for what has changed while the most was copied."""
    try:
        trial.driver.copy(host, trial.of, trial.name, _frozen.frozen(host, trial.of))
    except (BulkheadError, OSError) as exc:
        raise BulkheadError("what is written cannot be copied for its trial: %s. Set upgrade.trial: false to go without" % (
            reason(exc).rstrip("."))) from exc


def _remove(host, names):
    gone = Given(remove_data=True)
    outcome = engine.converge_within(host.another(), gone, [{"name": name, "state": "absent"} for name in names])
    host.records.forget()
    host.drop("trials")
    for each in outcome.errors:
        raise each.error
