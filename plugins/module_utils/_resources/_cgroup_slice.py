# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A cgroup as a slice of systemd: one unit file with all of its limits, and what is running brought to the same.

A slice that runs gets its limits by `systemctl set-property --runtime`, which acts at once on every version (a daemon-reload
does not apply them from 257 on). The drop-ins that this leaves are taken away again, so that the unit file is all there is.
"""

from __future__ import annotations

import os

from .._kernel.blockdev import device_node
from .._kernel.cgroupfs import UNIFIED
from .._model import slices
from .._model.errors import BulkheadError, reason
from .._model.limits import MAX
from .._supervisor import many, subtree, systemctl
from ._cgroup_units import nobodys, ours, owned
from ._cgroup_values import by_number, declared_part, shown
from .cgroup import NOUN, _Present

SHARED = "bulkhead.slice"  # holds all of ours, bulkhead.service too: its limits come and go, itself stays


def chosen(trees, spec):
    """The trees of the driver that is asked for, or that the cgroup is there by."""
    inner = trees.at(spec.name)
    there = inner.driver if inner is not trees else "systemd" if ours(trees.host, spec.name) else None
    driver = spec.driver if spec.driver != "auto" else there or "systemd"
    if there and driver != there and spec.state == "present":
        raise BulkheadError("Cannot make cgroup %s by driver %s: it is there by driver %s. Remove it first, or leave driver out." % (
            spec.name, driver, there))
    if driver == "systemd":
        return trees
    if spec.name.split("/")[0] in subtree.RESERVED:
        raise BulkheadError("Cannot manage cgroup %s: %s is a place of our own in the delegated subtree. Choose another name." % (
            spec.name, spec.name.split("/")[0]))
    if spec.state == "present":
        trees.promised.add(spec.name)
    return trees.delegated(spec.allow_undelegated)


def plan(host, trees, spec, plan):
    """See `cgroup.plan`."""
    found = trees.exists(spec.name)
    if spec.state == "absent":
        from . import _cgroup_slice_acts

        _cgroup_slice_acts.plan_absent(host, trees, spec, plan, found)
        return
    unit = systemctl.slice_unit(spec.name)
    told = systemctl.show(host, [unit])[unit]
    own = not found or unit == SHARED or owned(host, spec.name, found) or nobodys(host, trees, spec.name)
    foreign = told["FragmentPath"] not in ("", systemctl.path(host, unit))
    if foreign:
        raise BulkheadError("Cannot change cgroup %s: %s is the unit file of %s, which is not of Bulkhead. Use systemctl set-property." % (
            spec.name, told["FragmentPath"], unit))
    if not found and not spec.force and (systemctl.read(host, unit) or systemctl.MADE)[:len(systemctl.MADE)] != systemctl.MADE:
        own = False
    Slice(host, trees, spec, plan, found, own, told).plan_all()
    if not own and not spec.force and plan.steps:
        raise BulkheadError("Cannot %s: cgroup %s was not made by Bulkhead. Set force: true to do it all the same." % (
            plan.steps[0].name, spec.name))


class Slice(_Present):
    """The plan of a slice that is to be there, and what its steps do."""

    def __init__(self, host, trees, spec, plan, found, own, told):
        super().__init__(host, trees, spec, plan, found, own)
        self.told, self.unit = told, systemctl.slice_unit(spec.name)
        self.sets, self.declares, self.done, self.error = [], set(), False, None
        self.old = self.new = self.words = self.back = None  # texts of the unit file; what set-property is told, forth and back

    def plan_all(self, claim=None):
        spec, name = self.spec, self.name
        self.settings = self._with_defaults(dict(spec.settings))
        version = systemctl.version(self.host) if slices.gated(limit for limit, value in self.settings.values()) else slices.OLDEST
        for limit, value in self.settings.values():
            self._refuse(limit, value, version)
        if spec.delegate and spec.delegate != {"user": 0, "group": 0}:
            self.refused.append("delegate is not for a slice of systemd, so it needs driver: cgroupfs")
        if self.refused:
            raise BulkheadError("Cannot set up cgroup %s: %s. Remove what this host cannot do." % (name, "; ".join(self.refused)), errors=self.refused)
        declared = [(key, limit, self._normal(limit, value)) for key, (limit, value) in self.settings.items()]
        for key, limit, value in declared:
            self._compare_value(key, limit, value)
        self._plan_unit(declared)
        if spec.frozen is False:
            self._freeze()
        if spec.processes or spec.reclaim:
            from . import _cgroup_acts, _cgroup_slice_acts

            _cgroup_slice_acts.plan_processes(self)
            if spec.reclaim:
                _cgroup_acts.plan_reclaim(self)
        if spec.frozen:
            self._freeze()
        if not spec.exact and (self.own or spec.force):
            self.plan.record(NOUN, name, spec.options, merge=True)

    def _with_defaults(self, settings):
        """Without those whose property says something else now: cpu_weight and cpu_idle are one."""
        declared = {name for limit, value in self.spec.settings.values() for name in slices.properties(limit)}
        return {key: (limit, value) for key, (limit, value) in super()._with_defaults(settings).items()
                if key in self.spec.settings or slices.properties(limit) and not declared.intersection(slices.properties(limit))}

    def _refuse(self, limit, value, version):
        text = slices.refusal(limit, value, version)
        if text is None and self.trees.home(limit.controller) is None:
            text = "%s %s" % (limit.option, self.trees.lack(limit.controller))
        if text is None and self._text(UNIFIED, limit.file) is None and self.trees.lacks(limit.controller, limit.file):
            text = "%s needs %s, which this kernel does not have" % (limit.option, limit.file)
        if text:
            self.refused.append(text)

    def _normal(self, limit, value):
        if limit.kind == "devices":
            return by_number(self.host, value)
        if limit.kind == "ranges":
            from ._cgroup_v1 import within

            return within(self, UNIFIED, limit, value)
        return limit.settle(value)

    def _compare_value(self, key, limit, wanted):
        now = self._now(limit)
        if limit.keyed:
            now, wanted = declared_part(now or {}, wanted, limit.default, self.spec.exact)
        if self.found and now == wanted:
            return
        self.check_usage(limit, wanted, now, UNIFIED)
        self.plan.differ(key, shown(limit, now) if self.found else None, shown(limit, wanted))
        self.sets.append((limit, wanted))

    def _now(self, limit):
        """The present value. Without the file systemd has not turned the controller on here, as nothing needed it."""
        now = self.current(limit, UNIFIED)
        if now is None:
            now = {} if limit.keyed else limit.default
        return now

    # -- the unit file

    def _plan_unit(self, declared):
        self.old = systemctl.read(self.host, self.unit)
        before = after = slices.read(self.old) if ours(self.host, self.name) else {}
        for key, limit, value in declared:
            if key in self.spec.settings and not limit.keyed or limit.keyed and value:
                after = slices.merged(after, limit, value, self._node)
            if limit.keyed and self.spec.exact:
                after = self._only(after, limit, value)
            if key not in self.spec.settings:
                after = {name: lines for name, lines in after.items() if name not in slices.properties(limit)}
        self.new = slices.render(systemctl.MADE, self.name, after)
        touched = {name for limit, wanted in self.sets for name in slices.properties(limit)}
        touched.update(name for name in set(before) | set(after) if before.get(name) != after.get(name))
        self.declares = {name for key, limit, value in declared for name in slices.properties(limit)}
        touched.update(self._overridden(self.declares, touched))
        if {"CPUQuota", "CPUQuotaPeriodSec"} & touched:
            touched.update(("CPUQuota", "CPUQuotaPeriodSec"))
        self.words, self.back = (slices.changes(sorted(touched), values) for values in (after, before))
        stale = self.told["FragmentPath"] == "" or self.told["NeedDaemonReload"] == "yes"
        if self.found and self.old == self.new and not touched and not stale:
            return
        if not self.found:
            self.plan.differ("state", "absent", "present")
            first = "create cgroup " + self.name
        else:
            first = None if self.sets else "write " + self.unit
            if first and self.old != self.new:
                self.plan.differ("unit_file", self.old, self.new)
        names = ([first] if first else []) + ["set %s of %s" % (limit.file, self.name) for limit, wanted in self.sets]
        checks = ([None] if first else []) + self.sets
        # Of what is there, one reload serves all; what is new is started when its turn comes (_engine/plan.py: SIDE_BY_SIDE).
        way = {"together" if self.found else "gather": bring_about, "thing": self}
        for index, step in enumerate(names):
            if index == 0:
                self.plan.add(step, lambda check=checks[0]: self._first(check), self.undo, **way)
            else:
                self.plan.add(step, lambda check=checks[index]: self._check(*check))

    def _only(self, values, limit, value):
        """Without the devices that are not declared: a composite's declaration is the whole."""
        nodes = {self._node(key) for key in value}
        kept = {name: [line for line in lines if name not in slices.properties(limit) or line.split(" ", 1)[0] in nodes]
                for name, lines in values.items()}
        return {name: lines for name, lines in kept.items() if lines}

    def _node(self, number):
        return self.host.cached(("node", number), lambda: device_node(number, self.host.sys))

    def _overridden(self, declared, touched):
        """The declared properties that somebody has set by `systemctl set-property`; other drop-ins are refused where they win."""
        found = set()
        for path in systemctl.words(self.told["DropInPaths"]):
            if "/system.control/%s.d/" % self.unit in path:
                name = os.path.basename(path)[len("50-"):-len(".conf")]
                found.update({name} & declared)
            elif self.found and touched & declared:  # of a slice that does not run, it shows after the start
                try:
                    with open(path, encoding="utf-8", errors="surrogateescape") as stream:
                        there = set(slices.read(stream.read())) & touched & declared
                except OSError:
                    continue
                if there:
                    raise BulkheadError("Cannot set %s of cgroup %s: %s sets it too, and would win at the next boot. Remove it there." % (
                        ", ".join(sorted(there)), self.name, path))
        return found

    # -- the steps

    def _first(self, check):
        if not self.done and self.error is None:
            bring_about(self.host, [self])
        if self.error is not None:
            self._undo_quietly()
            raise self.error
        if check is not None:
            try:
                self._check(*check)
            except BulkheadError:
                self._undo_quietly()
                raise

    def write(self):
        """The claim, then the file."""
        if self.own:
            self.host.claims.begin(NOUN, self.name)
        systemctl.write(self.host, self.unit, self.new)
        if not self.found:  # somebody's settings for an earlier slice of the name
            systemctl.remove_settings(self.host, self.unit, self.declares)

    def look(self):
        """After the start: is it there? The claim is completed."""
        self.found_now = self.trees.exists(self.name)
        if not self.found_now:
            raise BulkheadError("Cannot create cgroup %s: %s did not start. Look at systemctl status %s." % (self.name, self.unit, self.unit))
        if self.own:
            self.host.claims.complete(NOUN, self.name, dict(self.found_now, unit=self.unit))

    def _check(self, limit, wanted):
        """Does the kernel have the value now?"""
        found, self.found, self.texts = self.found, self.trees.exists(self.name), {}
        now = self._now(limit)
        self.found = found
        if limit.keyed:
            now = declared_part(now, wanted, limit.default, False)[0]
        if now != wanted:
            drop_ins = systemctl.show(self.host, [self.unit])[self.unit]["DropInPaths"]
            raise BulkheadError("Cannot set %s of %s: systemd was told %s, and the kernel has %s. Look at %s." % (
                limit.file, self.name, _words(limit, wanted), _words(limit, now), drop_ins or "journalctl -u " + self.unit))

    def undo(self):
        """The unit file and the limits as they were."""
        if self.old is None:
            systemctl.remove(self.host, self.unit)
        else:
            systemctl.write(self.host, self.unit, self.old)
        try:
            if not self.found:
                systemctl.stop(self.host, self.unit)
                if self.own and not self.trees.exists(self.name):
                    self.host.claims.drop(NOUN, self.name)
            elif self.back:
                set_live(self.host, self.unit, self.back)
        finally:
            systemctl.reload(self.host)

    def _undo_quietly(self):
        try:
            self.undo()
        except (BulkheadError, OSError):
            pass  # the first error is the one to tell; the next run finds what is left

    def _freeze(self):
        on, trees, name = self.spec.frozen, self.trees, self.name
        now = bool(self.found) and trees.frozen(name)
        if now == on:
            return
        verb, act, back = ("freeze", systemctl.freeze, systemctl.thaw) if on else ("thaw", systemctl.thaw, systemctl.freeze)
        if on:
            from ._cgroup_acts import refuse_own

            refuse_own(self.host, trees, name, verb)

        def apply():
            act(self.host, self.unit)
            if trees.frozen(name) != on:  # written by hand, so that systemd took it for done
                back(self.host, self.unit)
                act(self.host, self.unit)
            if trees.frozen(name) != on:
                raise BulkheadError("Cannot %s cgroup %s: the kernel did not follow. Look at systemctl status %s." % (verb, name, self.unit))

        self.plan.differ("frozen", now, on)
        self.plan.add("%s %s" % (verb, name), apply, lambda: back(self.host, self.unit))


def bring_about(host, entries):
    """Bring many slices about: all files, the limits of those that run one by one, one reload if one is needed, one start."""
    changed = host.units_changed
    for each in entries:
        _try(each, each.write)
        if each.found and each.words and each.error is None:
            _try(each, lambda each=each: set_live(host, each.unit, each.words))
    good = [each for each in entries if each.error is None]
    fresh = [each for each in good if not each.found]
    if len(fresh) < len(good) or any(each.told["LoadState"] == "masked" for each in fresh):  # as systemd takes an empty file
        _reload(host, good)
    start_error = _start(host, fresh)
    known = [each for each in fresh if each.told["LoadState"] != "not-found"]
    told = systemctl.show(host, [each.unit for each in known])
    stale = [each for each in known if told[each.unit]["ActiveState"] == "active" and (
        told[each.unit]["FragmentPath"] == "" or told[each.unit]["NeedDaemonReload"] == "yes")]
    if stale:  # systemd knew the unit before its file was there
        _reload(host, stale)
        for each in stale:
            if each.error is None and each.words:
                _try(each, lambda each=each: set_live(host, each.unit, each.words))
        _reload(host, stale)
    elif len(fresh) == len(good):
        host.units_changed = changed  # a new unit is read when it is started
    for each in good:
        if each.error is None:
            _try(each, each.look)
            if each.error is not None and start_error is not None:
                each.error = start_error
        each.done = each.error is None


def _start(host, entries):
    paths = {each.unit: each.trees.roots[UNIFIED] + systemctl.slice_group(each.unit) for each in entries}
    if entries:
        try:
            many.start(host, [each.unit for each in entries], lambda unit: os.path.isdir(paths[unit]))
        except BulkheadError as exc:
            return exc  # whose it is shows when each is looked at
    return None


def _reload(host, entries):
    try:
        systemctl.reload(host, force=True)
    except BulkheadError as exc:
        for each in entries:
            each.error = exc


def _try(entry, act):
    try:
        act()
    except BulkheadError as exc:
        entry.error = exc
    except OSError as exc:
        entry.error = BulkheadError("Cannot write %s: %s. Mend that on the host and run again." % (entry.unit, reason(exc)))


def set_live(host, unit, words):
    """`systemctl set-property`, without the drop-ins that it leaves, nor earlier ones of the same properties."""
    systemctl.set_properties(host, unit, words)
    systemctl.remove_settings(host, unit, {word.partition("=")[0] for word in words})


def _words(limit, value):
    return " ".join(limit.lines(value)) if value not in (None, {}) else MAX if limit.keyed else "nothing"
