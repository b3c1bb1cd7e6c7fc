# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The mount namespace of a single service that declares binds, tmpfs, devices or masks and joins no pinned one.

It is pinned in the service's set of namespaces, or in a set of the service's own name, and gets a root that is prepared over the
service's directory by the same code as that of a sandbox. Once a service has one, it keeps it until it is removed.
"""

from __future__ import annotations

from .._engine.plan import Plan
from .._model.errors import BulkheadError, Problems
from .._model.namespace import NamespaceSpec
from .._model.root import RootSpec
from .._model.service import ROOT_OPTIONS
from . import namespace, root

KEY = "own_root"  # in the options that are written with the service: the name of the set


def name_of(spec, options):
    """The set that its mount namespace is pinned in. A slash is in no name of a set."""
    return options["namespace"] or spec.name.replace("/", ".")


def plan_it(host, spec, options, types, plan, stop):
    """Plan namespace and root, ``stop(plan)`` before what runs in an old one loses it. True when the service has to start again."""
    if options["root"] is None:
        raise BulkheadError("Cannot set up service %s: it has no root to mount %s in. Give root." % (
            spec.name, ", ".join(key for key in ROOT_OPTIONS if options[key]) or "anything"))
    name = name_of(spec, options)
    wanted = RootSpec.from_options({key: options[key] for key in ROOT_OPTIONS if options[key]}, "", Problems(), name=name,
                                   base=options["root"], types=tuple(types) + ("mnt",))
    part, mounts, spaces = Plan(), Plan(), Plan()
    root.prepare(host, wanted, part)
    stale = root.plan(host, wanted, mounts, fresh=not namespace.found(host, name).pins["mnt"].alive)
    if stale and spec.on_mismatch != "recreate":
        raise BulkheadError("Cannot change %s of service %s: its root has to be made anew for that, and the service restarted. "
                            "Set on_mismatch: recreate to do so." % (", ".join(stale), spec.name), keys=stale)
    space = _space(name, "present", spec.force)
    space.furnish, space.root_stale = (lambda host: root.furnish(host, wanted)), bool(stale)
    namespace.plan(host, space, spaces)
    renewed = bool(space.renewed)
    if "mnt" in space.made:
        mounts.steps = []  # the new root is furnished with all of it
    if renewed:
        stop(plan)
    for each in (part, spaces, mounts):
        each.records.clear()  # the record of the service makes it again
        each.before.pop("types", None)
        each.after.pop("types", None)
        plan.take(each)
    return renewed


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
