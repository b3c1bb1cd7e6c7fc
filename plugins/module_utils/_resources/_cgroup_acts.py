# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is done to a cgroup beside its limits: delegation, processes, reclaim, removal. Read only when it is asked for."""

from __future__ import annotations

import os

from .._kernel.cgroupfs import UNIFIED, nested, read, write
from .._model.errors import BulkheadError
from .cgroup import NOUN, owned, whole


def plan(it):
    """``it``: the plan of a present cgroup (`cgroup._Present`)."""
    if it.spec.delegate:
        _delegate(it)
    _attach(it)
    if it.spec.reclaim:
        plan_reclaim(it)


def _delegate(it):
    wanted = {word: _id(word, value) for word, value in it.spec.delegate.items() if value is not None}
    directory = it.trees.path(it.name, UNIFIED)
    files = read(it.host.sys + "/kernel/cgroup/delegate", "cgroup.procs\ncgroup.threads\ncgroup.subtree_control").split()
    now = {}
    for path in [directory] + ["%s/%s" % (directory, file) for file in files]:
        try:
            status = os.stat(path)
        except OSError:
            continue
        now[path] = (status.st_uid, status.st_gid)
    pair = (wanted["user"], wanted.get("group", -1))
    if now and all(uid == pair[0] and pair[1] in (-1, gid) for uid, gid in now.values()):
        return

    def apply():
        for file in [""] + files:
            try:
                os.chown("%s/%s" % (directory, file), *pair)
            except FileNotFoundError:
                pass  # a controller's file that this cgroup does not have

    def undo():
        for path, ids in now.items():
            os.chown(path, *ids)

    before = now.get(directory)
    it.plan.differ("delegate", dict(zip(("user", "group"), before)) if before else None, wanted)
    it.plan.add("delegate %s to %s" % (it.name, it.spec.delegate["user"]), whole(apply, undo), undo if now else None)


def _attach(it):
    leaf = None if it.spec.value("type") == "threaded" else "exec"
    for pid in it.spec.processes:
        before = it.trees.members(pid, it.host.proc)
        if not before:
            raise BulkheadError("Cannot move process %d into cgroup %s: there is no such process." % (pid, it.name))
        keys = [key for key in it.trees.keys() if key in before]
        inside = [it.trees.path(it.name, key) for key in keys]
        if it.found and all((before[key] + "/").startswith(path + "/") for key, path in zip(keys, inside)):
            continue

        def undo(pid=pid, before=before):
            for path in before.values():
                write(path + "/cgroup.procs", str(pid))

        def apply(pid=pid):
            it.trees.attach(it.name, [pid], leaf)

        it.plan.differ("process %d" % pid, it.trees.relative(keys[0], before[keys[0]]), it.name)
        it.plan.add("move process %d into %s" % (pid, it.name), whole(apply, undo), undo)


def plan_reclaim(it):
    path = it.trees.path(it.name, UNIFIED) + "/memory.reclaim"

    def apply():
        try:
            write(path, str(it.spec.reclaim))
        except BlockingIOError:
            it.host.warn("The kernel could not reclaim all of %d bytes from cgroup %s." % (it.spec.reclaim, it.name))

    it.plan.add("reclaim memory of %s" % it.name, apply)


def refuse_own(host, trees, name, verb):
    """A run that froze or killed itself would hang, or end half-way."""
    if any((path + "/").startswith(trees.path(name, key) + "/") for key, path in trees.members(os.getpid(), host.proc).items()):
        raise BulkheadError("Cannot %s cgroup %s: this very run lives in it. Run from a login outside of it." % (verb, name))


def plan_absent(host, trees, spec, plan, found, claim):
    name = spec.name
    plan.record(NOUN, name, None)
    if not found:
        if claim is not None:  # removed by hand, or by a run that was killed before its end
            plan.add("forget cgroup %s" % name, lambda: remove(host, trees, name))
        return
    below = [each for each in host.cached((NOUN, None), lambda: host.claims.names(NOUN)) if each.startswith(name + "/") and trees.exists(each)]
    if below:
        raise BulkheadError("Cannot remove cgroup %s: it holds the cgroup %s. Remove that first." % (name, below[0]), below=below)
    strange = [key for key in found if key != UNIFIED and trees.children(name, (key,))]
    if strange and not spec.force:
        raise BulkheadError("Cannot remove cgroup %s: others have made cgroups in it, such as %s. Remove them, or set force: true." % (
            name, trees.children(name, strange)[0]))
    plan_end(host, trees, spec, plan, lambda: _kill(trees, name))
    plan.add("remove cgroup %s" % name, lambda: remove(host, trees, name))


def plan_end(host, trees, spec, plan, kill):
    """What a removal begins with, whatever the driver: who lives in it is killed where that was asked for, and else refused."""
    name, populated = spec.name, trees.populated(spec.name)
    if populated and not spec.kill:
        pids = trees.processes(name)
        raise BulkheadError("Cannot remove cgroup %s: %d processes live in it (%s). Stop them, or set kill: true." % (
            name, len(pids), ", ".join(str(pid) for pid in pids[:5])), processes=pids)
    plan.differ("state", "present", "absent")
    if populated:
        refuse_own(host, trees, name, "kill the processes of")
        plan.add("kill the processes of %s" % name, kill)


def _kill(trees, name):
    if not trees.kill(name):
        raise BulkheadError("Cannot kill the processes of cgroup %s: %s did not die in time. Look for state D." % (
            name, ", ".join(str(pid) for pid in trees.processes(name)[:5])))


def remove(host, trees, name):
    """Remove it, and those parents that were made only for it and hold nothing any more. The claims go last, its own at the
    very end, so that a run that is killed here is brought to its end by the next."""
    gone = [name]
    trees.remove(name)
    while "/" in name:
        name = name.rpartition("/")[0]
        if any(nested(trees.path(name, key)) for key in trees.roots):
            break
        claim, found = host.claims.read(NOUN, name), trees.exists(name)
        identity = claim.get("identity") if claim else {}
        if claim is None or (identity is not None and not identity.get("parent")) or host.records.read(NOUN, name):
            break
        if found and (not owned(host, name, found) or trees.processes(name)):
            break
        trees.remove(name)
        gone.append(name)
    for each in reversed(gone):
        host.claims.drop(NOUN, each)


def _id(word, value):
    if isinstance(value, int) or value.isdigit():
        return int(value)
    import grp
    import pwd

    try:
        return pwd.getpwnam(value).pw_uid if word == "user" else grp.getgrnam(value).gr_gid
    except KeyError:
        raise BulkheadError("Cannot delegate to the %s %s: this host has none of that name. Create it first." % (word, value)) from None
