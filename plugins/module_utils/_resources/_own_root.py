# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The mount namespace of a single service that declares binds, tmpfs, devices or masks, and that is in no sandbox.

It is pinned as the set NAME.root, and gets a root that is prepared over the service's directory by the same code as a sandbox's.
Its /proc, /sys and queues are those of the namespaces that the service joins: when these were made anew, so is the root.
Once a service has one, it keeps it until it is removed.
"""

from __future__ import annotations

import errno
import json
import os
import signal

from .._engine.plan import Plan
from .._kernel import nsfs
from .._kernel import syscalls as sc
from .._model.errors import BulkheadError, Problems
from .._model.namespace import NamespaceSpec
from .._model.root import RootSpec
from .._model.service import ROOT_OPTIONS
from . import namespace, root

KEY = "own_root"  # in the options that are written with the service: {name: the set, captured: {type: identity}}
_CAPTURED = ("user", "pid", "net", "ipc", "cgroup")


def name_of(name):
    """The set that the mount namespace of a service is pinned as. A slash is in no name of a set."""
    name = name.replace("/", ".") + ".root"
    if len(name) > 64:
        raise BulkheadError("Cannot set up service %s: the name %s of its mount namespace is longer than 64. Use a shorter name." % (name[:-5], name))
    return name


def left(host, name):
    """As KEY, where a run was killed after the set was made and before that was written with the service; else None."""
    name = name.replace("/", ".") + ".root"
    ours = host.claims.read(root.NOUN, name) is not None or host.claims.read(namespace.NOUN, name) is not None
    return {"name": name} if ours and host.records.options(namespace.NOUN, name) is None else None


def prepared(host, name):
    """Is the root of this set one that a sandbox prepared?"""
    return host.claims.read(root.NOUN, name) is not None


def plan_it(host, spec, options, types, now, plan, stop):
    """Plan namespace and root; ``stop(plan)`` before what runs in an old one loses it.

    Returns (what to write as KEY, whether the service has to start again).
    """
    if options["root"] is None:
        raise BulkheadError("Cannot set up service %s: it has no root to mount %s in. Give root." % (
            spec.name, ", ".join(key for key in ROOT_OPTIONS if options[key]) or "anything"))
    name = name_of(spec.name)
    paths = {kind: nsfs.pin_path(host, options["namespace"], kind) for kind in types}
    pins = namespace.found(host, options["namespace"]).pins if types else {}
    written = {"name": name, "captured": {kind: list(pins[kind].identity) for kind in _CAPTURED if kind in types}}
    wanted = RootSpec.from_options({key: options[key] for key in ROOT_OPTIONS if options[key]}, "", Problems(), name=name,
                                   base=options["root"], types=tuple(types) + ("mnt",),
                                   maps=namespace.maps(host, options["namespace"]) if "user" in types else None)
    part, mounts, spaces = Plan(), Plan(), Plan()
    root.prepare(host, wanted, part)
    stale = root.plan(host, wanted, mounts, fresh=not namespace.found(host, name).pins["mnt"].alive)
    captured = (now.options.get(KEY) or written)["captured"] != written["captured"]
    if stale and not captured and spec.on_mismatch != "recreate":
        raise BulkheadError("Cannot change %s of service %s: its root has to be made anew for that, and the service restarted. "
                            "Set on_mismatch: recreate to do so." % (", ".join(stale), spec.name), keys=stale)
    space = _space(name, "present", spec.force)
    space.furnish, space.root_stale = (lambda host: _Within(host, wanted, paths).both()), bool(stale) or captured
    namespace.plan(host, space, spaces)
    renewed = bool(space.renewed)
    if "mnt" in space.made:
        mounts.steps = []  # the new root is furnished with all of it
        create = spaces.steps[-1]
        create.undo = _undo(host, name, create.undo)
    if renewed:
        stop(plan)
    for each in (part, spaces, mounts):
        each.records.clear()  # the record of the service makes it again
        each.before.pop("types", None)
        each.after.pop("types", None)
        plan.take(each)
    return written, renewed


def _undo(host, name, undo):
    """Undo the making of a set, and forget what was noted of its root."""
    def both():
        undo()
        host.claims.drop(root.NOUN, name)
    return both


def plan_removal(host, name, plan, force=False):
    """The mount namespace goes, and what was noted about its root."""
    part = Plan()
    namespace.plan(host, _space(name, "absent", force), part)
    root.plan_removal(host, name, part)
    plan.steps += part.steps


def _space(name, state, force):
    space = NamespaceSpec.from_options({"name": name, "types": ["mnt"], "state": state}, "", Problems())
    space.kill, space.force = True, force  # what lives in it is the service, which is stopped by then
    return space


class _Within:
    """Furnish a root from within other namespaces, so that the kernel's file systems in it are theirs.

    Made in the host's namespaces; called in the new mount namespace, by a process that is there for this alone. Processes are
    born into a pid namespace, so a child of it does the work; it shares the mount namespace, whose root changes for both.
    """

    def __init__(self, host, wanted, paths):
        self.fds = {}
        try:
            for kind in nsfs.TYPES:
                if kind in paths and kind not in ("user", "mnt"):
                    self.fds[kind] = os.open(paths[kind], os.O_RDONLY | os.O_CLOEXEC)
            self.furnish, self.end = root.furnish(host, wanted)
            self.acting = root.acting(wanted)  # the mount namespace is the host's, so what is made there would be its root's
        except BaseException:
            self._close()
            raise

    def both(self):
        return self, self.close

    def close(self):
        self._close()
        self.end()

    def _close(self):
        while self.fds:
            os.close(self.fds.popitem()[1])

    def __call__(self):
        for kind, fd in self.fds.items():
            sc.setns(fd, nsfs.FLAGS[kind])
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            self._work(write)
        os.close(write)
        with os.fdopen(read, "rb") as stream:
            answer = stream.read().decode("utf-8", "replace")
        os.waitpid(child, 0)
        if answer != "done":
            told = json.loads(answer) if answer else {"errno": errno.ECHILD, "reason": "the process that furnishes was killed", "path": None}
            raise BulkheadError(told["message"]) if "message" in told else OSError(told["errno"], told["reason"], told["path"])

    def _work(self, write):
        """No exception may leave: the frames above belong to the parent."""
        try:
            sc.prctl(sc.PR_SET_PDEATHSIG, signal.SIGKILL)
            with self.acting:
                self.furnish()
            answer = "done"
        except BulkheadError as exc:
            answer = json.dumps({"message": exc.message})
        except OSError as exc:
            answer = json.dumps({"errno": exc.errno or errno.EIO, "reason": exc.strerror or str(exc), "path": exc.filename and str(exc.filename)})
        except BaseException as exc:
            answer = json.dumps({"errno": errno.EIO, "reason": "%s: %s" % (type(exc).__name__, exc), "path": None})
        try:
            os.write(write, answer.encode("utf-8", "replace"))
        finally:
            os._exit(0)
