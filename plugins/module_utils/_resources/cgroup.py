# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One cgroup: what the kernel has against what is declared, and the steps between them."""

from __future__ import annotations

from .._kernel.cgroupfs import UNIFIED, read, write
from .._model.cgroup import CgroupSpec
from .._model.errors import BulkheadError
from .._model.limits import MAX
from ._cgroup_values import by_number, declared_part, lacks, shown, writes

NOUN = "cgroup"
# option: (cgroup2 file, v1 file) of the present usage, below which a limit is not set by mistake
USAGE = {"memory_max": ("memory.current", "memory.usage_in_bytes"), "pids_max": ("pids.current", "pids.current"),
         "memory_swap_max": ("memory.swap.current", None)}


def parse(options, path, problems):
    return CgroupSpec.from_options(options, path, problems)


def find(host, specs):
    host.cgroups().expect([spec.name for spec in specs])


def plan(host, spec, plan):
    """The steps for one Spec. Everything that can be refused is refused here, before the first of them."""
    trees = host.cgroups()
    if trees.mode == "none":
        raise BulkheadError("Cannot manage cgroup %s: no cgroup hierarchy is mounted below %s. Mount cgroup2 there." % (spec.name, host.cgroup))
    if host.systemd:
        from . import _cgroup_slice

        if trees.mode != "unified":
            raise BulkheadError("Cannot manage cgroup %s: systemd has cgroup v1 here, in mode %s. Boot the host with "
                                "systemd.unified_cgroup_hierarchy=1." % (spec.name, trees.mode))
        trees = _cgroup_slice.chosen(trees, spec)
        if trees.driver == "systemd":
            _cgroup_slice.plan(host, trees, spec, plan)
        else:
            _plan(host, trees, spec, plan)
    elif spec.driver == "systemd":
        raise BulkheadError("Cannot manage cgroup %s by driver systemd: the init of this host is another. Leave driver out." % spec.name)
    else:
        _plan(host, trees, spec, plan)
    if spec.net_mark is not None or spec.state == "absent":
        from . import _cgroup_mark

        _cgroup_mark.plan(host, trees, spec, plan)


def _plan(host, trees, spec, plan):
    """By our own hands, in the cgroup tree."""
    found = trees.exists(spec.name)
    claim = host.claims.read(NOUN, spec.name)
    own = not found or _owns(claim, found)
    if spec.state == "absent":
        from ._cgroup_acts import plan_absent

        plan_absent(host, trees, spec, plan, found, claim)
    else:
        _Present(host, trees, spec, plan, found, own).plan_all(claim)
    if not own and not spec.force and plan.steps:
        raise BulkheadError("Cannot %s: cgroup %s was not made by Bulkhead. Set force: true to do it all the same." % (
            plan.steps[0].name, spec.name))


def owned(host, name, found):
    """Is what exists what we made? A directory made anew by somebody else has another inode."""
    if host.cgroups().at(name).driver == "systemd":
        from ._cgroup_units import owned as ours

        return ours(host, name, found)
    return _owns(host.claims.read(NOUN, name), found)


def _owns(claim, found):
    identity = claim.get("identity") if claim else None
    return claim is not None and (identity is None or all(identity.get(key) == pair for key, pair in found.items()))


class _Present:
    """The plan of a cgroup that is to be there."""

    def __init__(self, host, trees, spec, plan, found, own):
        self.host, self.trees, self.spec, self.plan, self.found, self.own = host, trees, spec, plan, found, own
        self.name = spec.name
        self.refused, self.changes, self.texts = [], [], {}

    def plan_all(self, claim):
        settings = self.settings = self._with_defaults(dict(self.spec.settings))
        homes = {key: self._home(limit) for key, (limit, value) in settings.items()}
        self._refuse_others()
        if self.refused:
            raise BulkheadError("Cannot set up cgroup %s: %s. Remove what this host cannot do." % (self.name, "; ".join(self.refused)),
                                errors=self.refused)
        if self.own:
            needed = self.trees.keys(homes.values())
        else:  # of a foreign one only what is declared counts
            needed = sorted(set(homes.values()))
        missing = [key for key in needed if key not in self.found]
        if self.own and self.found and claim["identity"] is None:
            missing = needed  # a run that was killed while it made this is brought to its end
        for key, (limit, value) in settings.items():
            self._compare(key, limit, value, homes[key])
        if missing:
            self._create(missing)
        self._enable(sorted({limit.controller for key, (limit, value) in settings.items()
                             if homes[key] == UNIFIED and limit.controller != "cgroup"}))
        if self.spec.frozen is False:
            self._freeze()
        for step in self._ordered():
            self.plan.add(*step)
        if self.spec.delegate or self.spec.processes or self.spec.reclaim:
            from . import _cgroup_acts

            _cgroup_acts.plan(self)
        if self.spec.frozen:
            self._freeze()
        if not self.spec.exact and (self.own or self.spec.force):
            self.plan.record(NOUN, self.name, self.spec.options, merge=True)

    # -- where each option is, and what cannot be

    def _with_defaults(self, settings):
        """Options that the composite dropped go back to the kernel's default, where there is something to reset."""
        for key, limit in self.spec.reset.items() if self.found else ():
            known = limit.default is not None and limit.option != "type"
            if known and key not in settings and self.trees.home(limit.controller):
                settings[key] = (limit, {} if limit.keyed else limit.default)
        return settings

    def _home(self, limit):
        home = self.trees.home(limit.controller)
        if home is None and limit.controller == "cgroup":
            self.refused.append("%s needs cgroup v2 alone, and this host is %s" % (limit.option, self.trees.mode))
        elif home is None:
            self.refused.append("%s %s" % (limit.option, self.trees.lack(limit.controller)))
        elif home != UNIFIED and limit.v1 is None:
            self.refused.append("%s has no equivalent in cgroup v1, where this host has the controller %s" % (limit.option, limit.controller))
        else:
            for file in (limit.file,) if home == UNIFIED else limit.v1[1]:
                if self._text(home, file) is None and self.host.cached(
                        ("lacks", self.name.rpartition("/")[0], home, file),
                        lambda file=file: lacks(self.host, self.trees, self.name, home, limit.controller, file)):
                    self.refused.append("%s needs %s, which this kernel does not have" % (limit.option, file))
                    break
        return home

    def _refuse_others(self):
        if self.spec.frozen is not None and not self.trees.freezable():
            self.refused.append("frozen needs the v1 controller freezer or cgroup v2 alone")
        if self.spec.delegate and self.trees.mode != "unified":
            self.refused.append("delegate has no equivalent in cgroup v1, where handing over a cgroup is not safe")
        if self.spec.reclaim is not None and self.trees.home("memory") != UNIFIED:
            self.refused.append("memory_reclaim has no equivalent in cgroup v1")

    # -- limits

    def _texts(self, limit, home):
        """{file: text} as it is now, or None while there is no such directory or file."""
        texts = {file: self._text(home, file) for file in ((limit.file,) if home == UNIFIED else limit.v1[1])}
        return None if None in texts.values() else texts

    def _text(self, home, file):
        """A file as it is now, read once; None while there is none."""
        if home in self.found and (home, file) not in self.texts:
            self.texts[home, file] = read("%s/%s" % (self.trees.path(self.name, home), file), None)
        return self.texts.get((home, file))

    def current(self, limit, home):
        texts = self._texts(limit, home)
        if texts is None:
            return None
        return limit.read(texts[limit.file]) if home == UNIFIED else limit.v1[3](texts)

    def _compare(self, key, limit, value, home):
        if limit.kind == "devices":
            value = by_number(self.host, value)
        if home != UNIFIED and limit.controller == "memory":
            from ._cgroup_v1 import plan_memory

            plan_memory(self, key, home)
            return
        if limit.kind == "ranges":
            from ._cgroup_v1 import within

            value = within(self, home, limit, value)
        now = self.current(limit, home)
        if limit.option == "type":
            self._type(value, now)
            return
        wanted = limit.settle(value)
        if home != UNIFIED and not limit.keyed:  # what v1 can express of it
            wanted = limit.v1[3](dict(limit.v1[2](wanted)))
        if limit.keyed:
            now, wanted = declared_part(now or {}, wanted, limit.default, self.spec.exact)
        if now == wanted and home in self.found:
            return
        self.check_usage(limit, wanted, now, home)
        self.plan.differ(key, shown(limit, now) if home in self.found else None, shown(limit, wanted))
        if limit.option == "cpuset_partition" and now and "invalid" in now:
            self.plan.warn("cpuset.cpus.partition of %s is %s" % (self.name, now))
        self._write(limit, home, wanted, now)

    def _write(self, limit, home, wanted, now):
        old = {}
        if now not in (None, {}) and not (limit.kind == "choice" and "invalid" in now):
            for file, line in writes(limit, home, now):
                old.setdefault(file, []).append(line)
        new = {}
        for file, line in writes(limit, home, wanted):
            new.setdefault(file, []).append(line)
        for file, lines in new.items():
            if lines != old.get(file):
                self.change(home, file, lines, old.get(file), "invalid" if limit.option == "cpuset_partition" else None)

    def change(self, home, file, lines, old, refusal=None):
        path = "%s/%s" % (self.trees.path(self.name, home), file)
        name = "set %s of %s" % (file, self.name)

        def apply():
            for line in lines:
                write(path, line)
            answer = read(path).strip() if refusal else ""
            if refusal and refusal in answer:
                raise BulkheadError("Cannot %s: the kernel took it as %s." % (name, answer))

        def undo():
            for line in old or ():
                write(path, line)

        self.changes.append((name, whole(apply, undo), undo if old and home in self.found else None))

    def _ordered(self):
        """The kernel refuses a quota below the burst, and a v1 quota above its period's share: what becomes smaller goes first."""
        for first, second, option in (("cpu.cfs_period_us", "cpu.cfs_quota_us", "cpu_max"),
                                      ("cpu.cfs_quota_us", "cpu.cfs_burst_us", "cpu_max_burst"), ("cpu.max", "cpu.max.burst", "cpu_max_burst")):
            names = [change[0].split(" ")[1] for change in self.changes]
            if first not in names or second not in names or not self.plan.before[option]:
                continue
            before, after = self.plan.before[option], self.plan.after[option]
            if before["period"] > after["period"] if option == "cpu_max" else before > after:
                self.changes.insert(names.index(first), self.changes.pop(names.index(second)))
        return self.changes

    def check_usage(self, limit, wanted, now, home):
        if limit.option not in USAGE or wanted == MAX or home not in self.found or self.spec.allow_below_usage:
            return
        file = USAGE[limit.option][home != UNIFIED]
        usage = int(read("%s/%s" % (self.trees.path(self.name, home), file), "0").strip() or 0) if file else 0
        if wanted < usage and (now in (None, MAX) or wanted < now):
            raise BulkheadError("Cannot set %s of cgroup %s to %d: it uses %d now. Free that first, or set allow_below_usage: true." % (
                limit.option, self.name, wanted, usage), usage=usage)

    def _type(self, value, now):
        threaded = now == "threaded"
        if threaded and value != "threaded":
            raise BulkheadError("Cannot make cgroup %s a domain: the kernel's way to threaded has no way back. Remove it and make it again." % self.name)
        if value == "threaded" and not threaded:
            self.plan.differ("type", now, value)
            self.change(UNIFIED, "cgroup.type", [value], None)

    # -- what is no limit

    def _create(self, missing):
        trees, name, claims = self.trees, self.name, self.host.claims
        parts = name.split("/")
        parents = ["/".join(parts[:depth]) for depth in range(1, len(parts))]
        parents = [parent for parent in parents if self.host.cached((NOUN, parent), lambda name=parent: self._ours_to_make(name))]
        made = []

        def apply():
            for each in [name] + parents[::-1]:  # what a killed run leaves is then found from the name
                if self.own:
                    claims.begin(NOUN, each)
            pids = trees.processes(name) if self.found else []
            trees.make(name, missing, made)
            for parent in parents:
                if claims.read(NOUN, parent)["identity"] is None:
                    claims.complete(NOUN, parent, dict(trees.exists(parent), parent=True))
            if self.own:
                claims.complete(NOUN, name, trees.exists(name))
            trees.attach(name, pids, keys=missing)

        def undo():
            if not self.found:
                from ._cgroup_acts import remove

                remove(self.host, trees, name)
            trees.unmake(made)

        if not self.found:
            self.plan.differ("state", "absent", "present")
        self.plan.add("create cgroup %s" % name, whole(apply, undo), undo)

    def _ours_to_make(self, parent):
        """Is a parent not there, or was a run killed while it made it?"""
        return not self.trees.exists(parent) or (self.host.claims.read(NOUN, parent) or {"identity": 0})["identity"] is None

    def _enable(self, controllers):
        parts = self.name.split("/")
        if not controllers or not any(self.trees.disabled("/".join(parts[:depth]), controllers) for depth in range(len(parts))):
            return
        name = "enable %s for %s" % (" ".join(controllers), self.name)

        def apply():
            try:
                self.trees.enable(self.name, controllers)
            except OSError as exc:
                raise BulkheadError("Cannot %s: %s says %s. Move the processes that live in a parent of it into a cgroup of their own." % (
                    name, exc.filename, exc.strerror)) from exc

        self.plan.add(name, apply)

    def _freeze(self):
        on, trees, name = self.spec.frozen, self.trees, self.name
        now = bool(self.found) and trees.frozen(name)
        if now == on:
            return
        verb = "freeze" if on else "thaw"
        if on:
            from ._cgroup_acts import refuse_own

            refuse_own(self.host, trees, name, verb)

        def apply():
            if not trees.freeze(name, on):
                trees.freeze(name, not on, 0)
                raise BulkheadError("Cannot %s cgroup %s: a process in it did not follow in time. Look for one in state D." % (verb, name))

        self.plan.differ("frozen", now, on)
        self.plan.add("%s %s" % (verb, name), apply, lambda: trees.freeze(name, not on))


def whole(apply, undo):
    """A step that fails half-way takes back what it did: run_plan() undoes only the steps before it."""

    def act():
        try:
            apply()
        except (BulkheadError, OSError):
            try:
                undo()
            except OSError:
                pass  # the first error is the one to tell; the next run finds what is left
            raise

    return act


# -- what the modules answer

def show(host, name):
    """The cgroup as the kernel has it, in normal values; None when it is absent."""
    from ._cgroup_show import show as view

    return view(host, name)


def names(host):
    """The cgroups that we made and that are there."""
    known = host.claims.names(NOUN)
    if host.systemd:
        from ._cgroup_units import units

        known = sorted(set(known).union(units(host)))
        host.cgroups().expect(known)
    return [name for name in known if host.cgroups().exists(name)]


def result(host, params, outcome):
    return {"cgroup": show(host, params["name"]) or {"name": params["name"], "state": "absent"}}


def info(host, params):
    host.cgroups().expect(params.get("name") or ())
    return {"cgroups": [found for found in (show(host, name) for name in params.get("name") or names(host)) if found]}
