# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The one path: options -> Specs -> what the kernel shows -> plans -> steps -> result. Check mode stops after the plans."""

from __future__ import annotations

from .._model.errors import BulkheadError, Problems, reason
from . import aside, places
from .lock import Lock
from .plan import Plan, run_plans, run_together


class Outcome:
    """What a run did, or in check mode would do."""

    def __init__(self, plans):
        self.plans = plans
        self.errors = [plan for plan in plans if plan.error is not None]

    @property
    def changed(self):
        return any(plan.changed for plan in self.plans if plan.error is None)

    def joined(self, attribute):
        """A list of all plans; those that were refused or undone have done nothing."""
        return [each for plan in self.plans if plan.error is None for each in getattr(plan, attribute)]

    def difference(self):
        """(before, after): of one object its keys, of a list of objects those by name."""
        if len(self.plans) == 1 and not self.plans[0].key:
            return self.plans[0].before, self.plans[0].after
        return tuple({plan.key: getattr(plan, side) for plan in self.plans if plan.error is None and (plan.before or plan.after)}
                     for side in ("before", "after"))


def converge(host, resource, options, check=False):
    """Bring what ``options`` declare about, and return an Outcome. Input errors are raised before the host is read.

    A resource parses its options into one Spec or a list. Of a list, each Spec has a plan of its own, and one that is
    refused or fails does not keep the others from being made; of one Spec, the error is raised.
    """
    specs, many = _parse(resource, options)
    host.check = check
    if check:
        aside.join(host)
        return Outcome(_plan(host, resource, specs, many))
    with Lock(host.lock, resource.NOUN):
        aside.join(host)  # who held the lock before may have made that, or taken it away
        host.forget()
        host.claims.sweep()
        host.records.sweep()
        return _run(host, resource, options, specs, many)


def converge_within(host, resource, options):
    """The same as part of a step of another run, which has the lock. ``host`` is not the object of that run: what is read, and what is left
    for the end, is this one's own.
    """
    return _run(host, resource, options, *_parse(resource, options))


def _run(host, resource, options, specs, many):
    promised = set(host.promised)
    plans = _plan(host, resource, specs, many)
    records = {}
    if any(plan.steps for plan in plans) and places.ensure(host):
        host.forget()
        host.promised = promised
        plans = _plan(host, resource, _parse(resource, options)[0], many)
    try:
        run_together(host, plans)
        for plan, plan.error in run_plans(host, plans):
            if plan.error is None:
                records.update(plan.records)
            elif not many:
                raise plan.error
    finally:
        host.finish()  # what was undone has left something to do, too
    if many:
        host.failures.drop(plan.key for plan in plans if plan.error is None)
    try:
        host.records.write_all(records)
    except OSError as exc:
        raise BulkheadError("Cannot record %s: %s. It is as declared, but would not be restored after a reboot. Mend that and run again." % (
            ", ".join(sorted("%s %s" % key for key in records)[:5]), reason(exc))) from exc
    host.forget()
    return Outcome(plans)


def _parse(resource, options):
    """(the list of Specs, were they declared as a list?)"""
    problems = Problems()
    specs = resource.parse(options, "", problems)
    problems.raise_if_any()
    return (specs, True) if isinstance(specs, list) else ([specs], False)


def _plan(host, resource, specs, many):
    if hasattr(resource, "find"):
        resource.find(host, specs)
    if hasattr(resource, "expand"):  # a list may mean more than it names: purge adds what is no longer declared
        specs = resource.expand(host, specs)
    plans = []
    for spec in specs:
        plan = Plan(spec.key if many else "")
        try:
            resource.plan(host, spec, plan)
        except BulkheadError as exc:
            if not many:
                raise
            plan.error = exc
        except OSError as exc:  # one that cannot be looked at does not keep the others from being made
            if not many:
                raise
            plan.error = BulkheadError("Cannot look at %s %s: %s. Mend that on the host and run again." % (resource.NOUN, spec.key, reason(exc)))
        plans.append(plan)
    return plans
