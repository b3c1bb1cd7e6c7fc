# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is done to a slice beside its limits: processes moved into it, and its removal."""

from __future__ import annotations

import os
import time

from .._kernel.cgroupfs import UNIFIED, nested, read, write
from .._model import slices
from .._model.errors import BulkheadError
from .._supervisor import many, systemctl
from ._cgroup_acts import plan_end
from ._cgroup_slice import SHARED, set_live
from ._cgroup_units import nobodys, ours, owned
from .cgroup import NOUN, names, whole

PATIENCE = 10.0  # seconds for systemd to move a process
_MANAGER = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")


def plan_processes(it):
    """A slice has no processes of its own: each is moved into a scope of its own below it, which ends with it."""
    for pid in it.spec.processes:
        before = it.trees.members(pid, it.host.proc)
        if not before:
            raise BulkheadError("Cannot move process %d into cgroup %s: there is no such process." % (pid, it.name))
        if it.found and _inside(it, before):
            continue

        def undo(pid=pid, before=before):
            write(before[UNIFIED] + "/cgroup.procs", str(pid))

        def apply(pid=pid):
            scope = "%s-exec-%d.scope" % (it.unit[:-len(".slice")], pid)
            status, output, errors = it.host.run(["busctl", "--quiet", "call", *_MANAGER, "StartTransientUnit", "ssa(sv)a(sa(sv))", scope, "fail", "2",
                                                  "Slice", "s", it.unit, "PIDs", "au", "1", str(pid), "0"])
            end = time.monotonic() + PATIENCE
            while not status and not _inside(it, it.trees.members(pid, it.host.proc)):
                if time.monotonic() > end:
                    status, errors = 1, "systemd did not do it within %d s" % PATIENCE
                time.sleep(0.01)
            if status:
                raise BulkheadError("Cannot move process %d into cgroup %s: %s. Look at systemctl status %s." % (
                    pid, it.name, (errors or output).strip().rstrip(".") or "busctl ended with status %d" % status, scope))

        it.plan.differ("process %d" % pid, it.trees.relative(UNIFIED, before[UNIFIED]), it.name)
        it.plan.add("move process %d into %s" % (pid, it.name), whole(apply, undo), undo)


def _inside(it, members):
    return (members.get(UNIFIED, "") + "/").startswith(it.trees.slice_path(it.name) + "/")


def plan_absent(host, trees, spec, plan, found):
    name, unit = spec.name, systemctl.slice_unit(spec.name)
    plan.record(NOUN, name, None)
    mine, claim = ours(host, name), host.claims.read(NOUN, name)
    if unit == SHARED:
        if mine:
            _plan_bare(host, spec, plan, unit)
        return
    if not found:
        if mine or claim is not None:  # stopped by hand, or by a run that was killed before its end
            if mine:
                plan.differ("state", "present", "absent")
            plan.add("remove cgroup %s" % name if mine else "forget cgroup %s" % name, lambda: _remove(host, name, None))
        return
    if not mine and claim is None and not spec.force and nobodys(host, trees, name):
        return  # there for others below it, or for no one
    below = [each for each in host.cached((NOUN, None), lambda: names(host)) if each.startswith(name + "/") and trees.at(each) is trees]
    if below:
        raise BulkheadError("Cannot remove cgroup %s: it holds the cgroup %s. Remove that first." % (name, below[0]), below=below)
    plan_end(host, trees, spec, plan, lambda: _kill(host, trees, name))
    path = trees.slice_path(name)
    plan.add("remove cgroup %s" % name, lambda: _remove(host, name, path))
    if not owned(host, name, found) and not spec.force:
        raise BulkheadError("Cannot %s: cgroup %s was not made by Bulkhead. Set force: true to do it all the same." % (plan.steps[0].name, name))


def _plan_bare(host, spec, plan, unit):
    """The slice that holds all of ours stays, without limits."""
    old = systemctl.read(host, unit)

    def apply():
        systemctl.remove(host, unit)
        set_live(host, unit, slices.changes(sorted(slices.read(old)), {}))
        systemctl.reload(host)
        host.claims.drop(NOUN, spec.name)

    plan.differ("unit_file", old, None)
    plan.add("remove the limits of cgroup %s" % spec.name, apply)


def _kill(host, trees, name):
    """Stopping the units in it keeps systemd from starting them again; then nothing is waited for."""
    unit, path = systemctl.slice_unit(name), trees.slice_path(name)
    if trees.frozen(name):
        systemctl.thaw(host, unit)
    many.queue(host, "stop", [unit])
    if os.path.isdir(path) and not trees.kill(name):
        raise BulkheadError("Cannot kill the processes of cgroup %s: %s did not die in time. Look for state D." % (
            name, ", ".join(str(pid) for pid in trees.processes(name)[:5])))


def _remove(host, name, path):
    """Its unit file; it is stopped at the end of the run, with all others. ``path``: of its cgroup, None where it does not run."""
    unit = systemctl.slice_unit(name)
    host.claims.begin(NOUN, name)  # as long as it runs it is to be known as ours
    changed = host.units_changed
    systemctl.remove(host, unit)
    host.units_changed = changed  # a unit that has ended is forgotten by itself
    host.at_end(_stop, (name, unit, path))


def _stop(host, gone):
    """Stop the slices whose files are gone, the deepest first, and forget them."""
    gone = sorted(gone, key=lambda item: -item[0].count("/"))
    for name, unit, path in gone:
        if path and read(path + "/cgroup.freeze", "0").strip() == "1":  # now: _kill() has thawed its own, which may have ended meanwhile
            systemctl.thaw(host, unit)
        _forget_settings(host, unit)
    many.stop(host, [unit for name, unit, path in gone if path and os.path.isdir(path)])
    left = [name for name, unit, path in gone if path and os.path.isdir(path)]
    for name, unit, path in gone:
        if name not in left:
            host.claims.drop(NOUN, name)
    _stop_parents(host, [(name, path) for name, unit, path in gone if path])
    if left:
        raise BulkheadError("Cannot remove cgroup %s: something lives in it still. Stop that, and run again." % ", ".join(left[:5]), left=left)


def _stop_parents(host, gone):
    """Those that systemd has made up for what is gone, and that hold nothing any more: it does not stop them by itself."""
    level = gone
    while level:
        level = sorted({(name.rpartition("/")[0], os.path.dirname(path)) for name, path in level if "/" in name})
        level = [(name, path) for name, path in level if name != "bulkhead" and os.path.isdir(path) and not nested(path)
                 and not read(path + "/cgroup.procs").strip() and systemctl.read(host, systemctl.slice_unit(name)) is None]
        told = systemctl.show(host, [systemctl.slice_unit(name) for name, path in level])
        level = [(name, path) for name, path in level if not told[systemctl.slice_unit(name)]["FragmentPath"]]
        many.stop(host, [systemctl.slice_unit(name) for name, path in level])


def _forget_settings(host, unit):
    """What `systemctl set-property` was told for it would come back with the next of its name."""
    for root in systemctl.settings(host):
        directory = "%s/%s.d" % (root, unit)
        if os.path.isdir(directory):
            systemctl.remove_settings(host, unit, [entry[len("50-"):-len(".conf")] for entry in os.listdir(directory) if entry.endswith(".conf")])
