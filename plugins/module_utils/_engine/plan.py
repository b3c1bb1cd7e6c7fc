# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Steps, the plan that holds them, and how it is run: forward, or back again when a step fails."""

from __future__ import annotations

from .._model.errors import BulkheadError, reason

# Plans of one run. Not all of a long list: for each slice or service that it starts, systemd looks at all the other slices that are
# there, so those of sandboxes whose turn comes later had better not be (docs/performance.md).
SIDE_BY_SIDE = 32


class Step:
    """One act on the host, named as a result shows it (`set memory.max of bulkhead/web`).

    ``apply`` and ``undo`` take no arguments; ``apply`` tolerates its own half-done result from a killed run;
    ``undo`` is None where nothing has to be taken back. ``together``: a function of the host and a list of things, with ``thing``
    the one of this step: it does ahead, at once for the steps of many plans, what ``apply`` then finds done, or raises for.
    ``gather``: the same, but not before all plans that run side by side have come so far; it raises nothing. ``instead``: in place of
    undoing this step and those after it, one by one, this brings back what was before, and raises what it could not.
    """

    __slots__ = ("name", "apply", "undo", "together", "thing", "ahead", "gather", "instead")

    def __init__(self, name, apply, undo=None, together=None, thing=None, gather=None, instead=None):
        self.name = name
        self.apply = apply
        self.undo = undo
        self.together, self.thing, self.ahead, self.gather = together, thing, False, gather
        self.instead = instead


class Plan:
    """What stands between one Spec and the host: steps, the difference, what a restart would carry, what to record."""

    def __init__(self, key=""):
        self.key = key  # the object's name, for the lists of the composite
        self.steps = []
        self.before = {}
        self.after = {}
        self.restart = []  # [{"name": …, "keys": […]}]
        self.warnings = []
        self.records = {}  # {(noun, name): (options or None to forget, merge)}
        self.error = None

    @property
    def changed(self):
        return bool(self.steps)

    @property
    def actions(self):
        return [step.name for step in self.steps]

    def add(self, name, apply, undo=None, together=None, thing=None, gather=None, instead=None):
        """Append a step."""
        self.steps.append(Step(name, apply, undo, together, thing, gather, instead))

    def differ(self, key, before, after):
        """Note a difference of one declared key; None before or after means that it is not there."""
        self.before[key] = before
        self.after[key] = after

    def needs_restart(self, name, keys):
        """Announce that only a restart carries these keys into a running process."""
        if keys:
            self.restart.append({"name": name, "keys": sorted(keys)})

    def warn(self, text):
        if text not in self.warnings:
            self.warnings.append(text)

    def record(self, noun, name, options, merge=False):
        """Declare what to keep at /etc/bulkhead for restore; ``merge`` adds to the keys that are recorded already."""
        self.records[(noun, name)] = (options, merge)

    def take(self, part, prefix=None):
        """Append another plan's content to this one; ``prefix`` nests its difference below that key."""
        self.steps += part.steps
        self.restart += part.restart
        self.records.update(part.records)
        for text in part.warnings:
            self.warn(text)
        for mine, theirs in ((self.before, part.before), (self.after, part.after)):
            if prefix is None:
                mine.update(theirs)
            elif theirs:
                mine.setdefault(prefix, {}).update(theirs)


def run_together(host, plans):
    """Do ahead what can be done at once for many plans, as one call of systemctl serves all."""
    groups = {together: [] for together in _in_order(plans)}
    for plan in plans:
        for step in plan.steps if plan.error is None else ():
            if step.together is not None:
                groups[step.together].append(step)
    for together, steps in groups.items():
        for step in steps:
            step.ahead = True
        together(host, [step.thing for step in steps])


def _in_order(plans):
    """What is done together, in the order that the plans have them in: rules before links also where a first plan has no rules."""
    order = []
    for plan in plans:
        place = len(order)
        for together in [step.together for step in reversed(plan.steps) if plan.error is None and step.together is not None]:
            if together in order:
                place = order.index(together)
            else:
                order.insert(place, together)
    return order


def run_plans(host, plans):
    """Run each plan that has no error; yield (plan, None or its error) as they end."""
    ready = [plan for plan in plans if plan.error is None]
    for first in range(0, len(ready), SIDE_BY_SIDE):
        yield from _run_side_by_side(host, ready[first:first + SIDE_BY_SIDE])


def _run_side_by_side(host, plans):
    running = [(plan, _run(plan)) for plan in plans]
    while running:
        groups, waiting = {}, []
        for plan, run in running:
            try:
                step = next(run, None)
            except BulkheadError as exc:
                yield plan, exc
                continue
            if step is None:
                yield plan, None
            else:
                groups.setdefault(step.gather, []).append(step.thing)
                waiting.append((plan, run))
        for gather, things in groups.items():
            gather(host, things)
        running = waiting


def run_plan(plan):
    """Run one plan by itself: what is gathered is done by each step for itself."""
    for dummy in _run(plan):
        pass


def _run(plan):
    """Apply the steps in order. When one fails, undo those before it, the last first, and say so in the error.

    It stops at each step that waits for those of other plans.
    """
    done = []
    for step in plan.steps:
        if step.gather is not None:
            yield step
        try:
            step.apply()
        except (BulkheadError, OSError) as exc:
            undone, stuck = _undo(done + [each for each in plan.steps if each.ahead and each is not step and each not in done])
            text = exc.message if isinstance(exc, BulkheadError) else "Cannot %s: %s." % (step.name, reason(exc))
            if undone:
                text += " Undone: %s." % ", ".join(undone)
            if stuck:
                text += " Could not undo: %s." % ", ".join(stuck)
            keys = dict(exc.keys) if isinstance(exc, BulkheadError) else {}
            keys.update(failed_step=step.name, undone=undone, not_undone=stuck)
            raise BulkheadError(text, **keys)
        done.append(step)


def _undo(done):
    undone, stuck = [], []
    covered = next((place for place, step in enumerate(done) if step.instead is not None), len(done))
    for step in done[covered:covered + 1] + done[:covered][::-1]:
        undo = step.instead or step.undo
        if undo is None:
            continue
        try:
            undo()
            undone.append(step.name)
        except (BulkheadError, OSError) as exc:
            stuck.append("%s (%s)" % (step.name, reason(exc)))
    return undone, stuck
