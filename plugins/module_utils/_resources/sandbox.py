# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sandboxes: the plans of the single nouns under one name, in the order in which they stand on each other.

Upwards: files of names, cgroup, namespaces with the prepared root, what is mounted in it, interfaces, services. Downwards the
other way round. Where namespaces or root have to be made anew, the services are stopped before and started after.
What knows of interfaces is imported where some are declared or were.
"""

from __future__ import annotations

from .._engine.plan import Plan
from .._model.cgroup import CgroupSpec
from .._model.errors import BulkheadError, Problems
from .._model.namespace import NamespaceSpec
from .._model.sandbox import PREFIX, SandboxSpec, interfaces_of, parse
from .._model.upgrade import SUFFIX as TRIAL
from .._model.upgrade import of_trial
from . import _frozen, _kept, _names, _storage, _versions, _visitors, cgroup, namespace, overlay, root, service

NOUN = "sandbox"
RECORD = "sandboxes"  # /etc/bulkhead/sandboxes.d
PARTS = ("namespaces", "cgroup", "overlay", "services")

__all__ = ("NOUN", "expand", "find", "info", "names", "parse", "plan", "result", "show")


def find(host, specs):
    """What is asked about each is asked at once."""
    _expect(host, [spec.key for spec in specs] + [name for name in names(host) if specs.policy["purge"]])
    service.expect(host, [each.name for spec in specs for each in spec.services])
    _find_interfaces(host, specs)


def _find_interfaces(host, specs):
    """Addresses are given to all that are declared before the first is planned."""
    present = {spec.key for spec in specs if spec.state == "present"}
    gone = {spec.key for spec in specs if spec.state == "absent"}
    gone.update(name for name in names(host) if specs.policy["purge"] and name not in present)
    declared, networked = [], []
    for spec in specs:
        before = _interfaces_before(host, spec.key) if spec.key in present else {}
        for each in spec.interfaces if before else ():
            each.drop(before.get(each.name))
        declared += spec.interfaces if spec.key in present else []
        networked += [spec.key] if before and not spec.interfaces else []
    networked += [name for name in sorted(gone) if _has_interfaces(host, name)]
    if declared or networked:
        _interface().find(host, declared, networked)


def _interface():
    from . import interface

    return interface


def _upgrade():
    from . import _upgrade as found  # much code, for the one who has images

    return found


def _interfaces_before(host, name):
    """{interface: its options} as the sandbox was declared last."""
    return {each.name: each.options for each in interfaces_of(name, host.records.options(RECORD, name) or {})}


def _has_interfaces(host, name):
    """Was any declared, made by hand with the module `interface`, or left in the rules by a run that was killed?"""
    if host.records.names("network") or host.claims.names("network"):
        return bool(_interface().keys(host, name))
    made = host.cached("namespaces with interfaces", lambda: {key.partition("/")[0] for key in host.claims.names("interface")})
    return name in made or bool(_interfaces_before(host, name))


def _expect(host, keys):
    host.cgroups().expect([PREFIX + key for key in keys])
    wanted = set(keys)
    service.expect(host, [name for name in _all_services(host) if name.partition("/")[0] in wanted])


def expand(host, specs):
    """With purge: what is recorded and no longer declared is to go."""
    if not specs.policy["purge"]:
        return specs
    declared = {spec.key for spec in specs}
    return specs + [SandboxSpec.absent(name, specs.policy) for name in names(host) if name not in declared]


def plan(host, spec, plan):
    """See `_engine/plan.py`."""
    _frozen.plan(host, spec.key, plan)
    (_absent if spec.state == "absent" else _present)(host, spec, plan)


# -- present

def _present(host, spec, plan):
    upgrade = _versions.Stays()
    if spec.image is not None or spec.key in _versions.names(host):
        upgrade = _upgrade().begin(host, spec, plan)
    driver = _storage.settle(host, spec)
    recorded = host.records.options(RECORD, spec.key) or {}
    declared = {each.name for each in spec.services}
    for name in _services(host, spec.key):
        if name not in declared:
            plan.take(_part(service.plan_removal, host, name), name)
    if recorded:
        _plan_claims(host, spec, plan)
    group = Plan()
    spec.cgroup.force = _lost(host, "cgroup", spec.cgroup.name, recorded)
    spec.cgroup.drop(recorded.get("cgroup"))
    cgroup.plan(host, spec.cgroup, group)
    host.promised.add(("cgroup", spec.cgroup.name))
    store, spaces, replaced = _plan_root(host, spec, recorded, driver, upgrade)
    links = _plan_interfaces(host, spec)
    base = _plan_chroot(host, spec)
    renewed = replaced or bool(spec.namespaces is not None and spec.namespaces.renewed) or _unmounts(base)
    upgrade.plan_hold(plan)
    if renewed:
        _visitors.refuse(host, _services(host, spec.key), spec.key, "recreate", spec.policy["kill"])
        for name in sorted(declared.intersection(_services(host, spec.key))):
            service.plan_stop(host, name, plan)
    upgrade.plan_written(plan)
    files = Plan()
    members = _names.of(spec.interfaces, [spec.namespaces.hostname] if spec.interfaces and spec.namespaces.hostname else [])
    if members or _interfaces_before(host, spec.key):
        _names.plan(host, spec.key, files, members)
    if members:
        plan.take(files)  # before the root shows them
    plan.take(group, "cgroup")
    plan.take(store, "storage")
    plan.take(spaces)
    plan.take(base, "overlay")
    plan.take(links, "interfaces")
    if not members:
        plan.take(files)
    for each in spec.services:
        each.renew = renewed
        each.on_change = spec.policy["on_change"] or "report"
        plan.take(_part(service.plan, host, each), each.name)
    upgrade.plan_last(plan)
    plan.record(RECORD, spec.key, spec.options)


def _plan_interfaces(host, spec):
    """The plan of all its interfaces, which its namespaces, planned before, may bear or not yet."""
    plan = Plan()
    if spec.interfaces or _interfaces_before(host, spec.key):
        anew = spec.namespaces is None or "net" in spec.namespaces.made
        _interface().plan_for(host, spec.key, spec.interfaces, plan, anew)
    return plan


def _plan_chroot(host, spec):
    """The plan of the overlay of a sandbox without a mount namespace, on the host; what lives in it is looked at by the caller."""
    if spec.overlay is None or spec.root is not None:
        return Plan()
    spec.overlay.lazy = bool(_services(host, spec.key))  # they are stopped before it is taken away
    return _part(overlay.plan, host, spec.overlay)


def _unmounts(plan):
    """Does it take away the mount that services live in?"""
    return any(action.startswith(("replace ", "unmount ")) for action in plan.actions)


def _plan_root(host, spec, recorded, driver, upgrade):
    """(the plan of what the root is stored in, that of namespaces and prepared root, does another root take the place of one?)"""
    store, replaced = Plan(), False
    if driver is None:
        return store, _plan_namespaces(host, spec, recorded, upgrade.lets), replaced
    replaced = driver.plan_make(host, spec, store)
    empty = spec.policy["reset"] is True or spec.key in (spec.policy["reset"] or ())
    if empty:
        replaced = driver.plan_reset(host, spec, store) or replaced
    saved = (spec.policy.get("put_back") or {}).get(spec.key)  # by the module snapshot
    if not empty and saved is None:
        driver.refuse_stopped(host, spec.key)
    if saved is not None:
        replaced = True
        store.add("put back what sandbox %s had written" % spec.key, lambda: driver.put_back(host, spec.key, saved, spec.storage),
                  lambda: driver.take_back(host, spec.key))
    lets = upgrade.lets | {"root"}  # a run that was killed may have put another one in its place
    spaces = _plan_namespaces(host, spec, recorded, lets, replaced or upgrade.anew)
    if not (spec.storage.keep or empty or saved) and spec.namespaces is not None and "mnt" in spec.namespaces.made:
        replaced = driver.plan_reset(host, spec, store) or replaced
    return store, spaces, replaced or upgrade.anew


def _plan_namespaces(host, spec, recorded, lets, replaced=False):
    """The plan of namespaces and prepared root, which are made in one step because the root captures the namespaces.

    ``lets``: the keys of the root that may change all the same; ``replaced``: its directory or upper becomes another one.
    """
    wanted, plan = spec.namespaces, Plan()
    if wanted is None:
        if namespace.found(host, spec.key).exists and recorded.get("namespaces"):
            plan.take(_part(namespace.plan, host, _no_namespaces(spec)), "namespaces")
        return plan
    mounts, spaces = Plan(), Plan()
    if spec.root is not None:
        root.prepare(host, spec.root, plan)
        stale = root.plan(host, spec.root, mounts, fresh=not namespace.found(host, spec.key).pins["mnt"].alive)
        if not lets.issuperset(stale) and wanted.on_mismatch != "recreate":
            raise BulkheadError("Cannot change %s of sandbox %s: its root has to be made anew for that, and its services restarted. "
                                "Set on_mismatch: recreate to do so; the read-write layer is kept." % (", ".join(stale), spec.key),
                                keys=stale)
        wanted.furnish, wanted.root_stale = (lambda host: root.furnish(host, spec.root)), bool(stale) or replaced
    wanted.drop(recorded.get("namespaces"))
    wanted.force = _lost(host, "namespace", spec.key, recorded)
    wanted.kill = True  # who may be killed has been looked at by then: services are stopped, visitors refused
    namespace.plan(host, wanted, spaces)
    if spec.root is not None and host.claims.read(root.NOUN, spec.key) is None:
        for step in spaces.steps:
            _forgets_root(host, spec.key, step)
    host.promised.add(("namespace", spec.key))
    plan.take(spaces, "namespaces")
    if "mnt" in wanted.made:
        mounts.steps = []  # the new root is furnished with all of it
    plan.take(mounts, "root")
    return plan


def _forgets_root(host, name, step):
    """Where a first root is made in a step, what was noted about it goes when the step fails or is undone."""
    apply, undo = step.apply, step.undo

    def forget():
        gone = Plan()
        root.plan_removal(host, name, gone)
        for each in gone.steps:
            each.apply()

    def act():
        try:
            apply()
        except (BulkheadError, OSError):
            forget()
            raise

    def back():
        undo()
        forget()

    step.apply, step.undo = act, undo and back


# -- absent

def _absent(host, spec, plan):
    recorded = host.records.options(RECORD, spec.key) or {}
    if spec.key in _versions.names(host):
        _upgrade().plan_sweep(host, spec.key, plan)
    _visitors.refuse(host, _services(host, spec.key), spec.key, "remove", spec.policy["kill"])
    services = _services(host, spec.key)
    for name in services:
        plan.take(_part(service.plan_removal, host, name), name)
    if _has_interfaces(host, spec.key):
        plan.take(_part(_interface().plan_removal, host, spec.key), "interfaces")
    spaces = _no_namespaces(spec)
    spaces.force = _lost(host, "namespace", spec.key, recorded)
    plan.take(_part(namespace.plan, host, spaces), "namespaces")
    root.plan_removal(host, spec.key, plan)
    driver = _storage.of_name(host, spec.key)
    driver.plan_removal(host, spec.key, bool(spec.policy["remove_data"]), plan, bool(services))
    _kept.plan_removal(host, driver, spec.key, bool(spec.policy["remove_data"]), plan)
    if spec.key in _versions.names(host):
        _upgrade().plan_removal(host, spec.key, plan)
    if spec.policy["remove_data"]:
        from . import _saved  # for the one who has snapshots

        _saved.plan_none(host, plan, spec.key)
    group = CgroupSpec.from_options({}, "cgroup", Problems(), name=PREFIX + spec.key)
    group.state, group.kill, group.force = "absent", True, _lost(host, "cgroup", PREFIX + spec.key, recorded)
    plan.take(_part(cgroup.plan, host, group), "cgroup")
    _names.plan(host, spec.key, plan, {})
    if plan.steps:
        plan.differ("state", "present", "absent")
    plan.record(RECORD, spec.key, None)
    for noun, name in [(namespace.NOUN, spec.key), (cgroup.NOUN, group.name)] + [(service.NOUN, each) for each in services]:
        plan.record(noun, name, None)  # of single modules that changed a part


def _no_namespaces(spec):
    gone = NamespaceSpec.from_options({}, "namespaces", Problems(), name=spec.key)
    gone.state, gone.kill = "absent", True
    return gone


# -- helpers

def _lost(host, noun, name, recorded):
    """Is a claim lost while the record says that we made the sandbox? Then its parts are ours all the same."""
    return bool(recorded) and host.claims.read(noun, name) is None


def _plan_claims(host, spec, plan):
    """Claims that are lost (somebody emptied /run/bulkhead/made) are written again, so that removal finds what is ours."""
    name, parent = PREFIX + spec.key, PREFIX.rstrip("/")
    trees, lost = host.cgroups(), {}
    if host.claims.read(namespace.NOUN, spec.key) is None:
        alive = {kind: list(pin.identity) for kind, pin in namespace.found(host, spec.key).pins.items() if pin.alive}
        if alive:
            lost[(namespace.NOUN, spec.key)] = alive
    if trees.at(name).nests and host.claims.read(cgroup.NOUN, name) is None and trees.exists(name):  # a slice is known by its unit file
        lost[(cgroup.NOUN, name)] = trees.exists(name)
        if host.claims.read(cgroup.NOUN, parent) is None:
            lost[(cgroup.NOUN, parent)] = dict(trees.exists(parent), parent=True)
    if lost:
        plan.add("note again what is ours of sandbox %s" % spec.key,
                 lambda: [host.claims.complete(*key, identity) for key, identity in lost.items()])


def _part(plan_it, host, spec):
    part = Plan()
    plan_it(host, spec, part)
    return part


def _services(host, name):
    """The services of a sandbox that exist, as `web/nginx`."""
    return [each for each in _all_services(host) if each.startswith(name + "/")]


def _all_services(host):
    return host.cached("service names", lambda: service.names(host))


# -- what the modules answer

def show(host, name, healthy=None):
    """One sandbox as its parts show themselves; None when nothing of it is there, nor should be. ``healthy(service)`` tells its health."""
    now = namespace.found(host, name)
    found = {
        "name": name,
        "namespaces": namespace.show(host, name) if now.exists else None,
        "cgroup": cgroup.show(host, PREFIX + name),
        "root": root.show(host, name) if now.pins["mnt"].alive else None,
        "overlay": overlay.show(host, host.state + "/mnt/" + name),
        "interfaces": _interface().shown(host, name) if now.pins["net"].alive and _has_interfaces(host, name) else [],
        "services": [shown for shown in (service.show(host, each, healthy and healthy(each)) for each in _services(host, name)) if shown],
    }
    found["version"], found["unfinished"] = _versions.show(host, name), _unfinished(host, name)
    found["restore_error"] = host.failures.read(name)
    return found if any(found[key] for key in PARTS + ("restore_error",)) else None


def _unfinished(host, name):
    """What a run has begun: where none is at work, the next one of this sandbox mends it."""
    begun = _versions.known(host, name).get("next")
    found = ["going to image %s" % begun["version"]["image"]] if begun else []
    found += ["trial"] if host.records.options(RECORD, name + TRIAL) else []
    return found + [words for noun, words in (("held", "connections wait"), (_frozen.NOUN, "frozen")) if host.claims.read(noun, name) is not None]


def names(host):
    return [name for name in host.records.names(RECORD) if not of_trial(name)]


def result(host, params, outcome):
    """Whole where something was done and stays done; another one by its name, for reading all of it costs more than comparing it, and nobody
    looks for an error among it."""
    shown, known = [], set(names(host))
    acted = {plan.key for plan in outcome.plans if (plan.changed if plan.error is None else plan.error.keys.get("not_undone"))}
    _expect(host, acted)
    for plan in outcome.plans:
        if plan.key in acted:
            whole = show(host, plan.key, host.healthy.get)
        else:
            whole = {"name": plan.key} if plan.key in known else None
        if whole is not None:
            shown.append(dict(whole, changed=plan.changed and plan.error is None))
    return {"sandboxes": shown}


def info(host, params):
    wanted = params.get("names") or names(host)
    _expect(host, wanted)
    shown = [each for each in (show(host, name, lambda each: service.check(host, each)) for name in wanted) if each]
    for each in shown:
        driver = _storage.of_name(host, each["name"])
        if params.get("changes"):
            each["changes"] = driver.changes(host, each["name"])
        if params.get("storage"):
            from . import _saved  # for the one who asks

            each["storage"], each["snapshots"] = driver.measure(host, each["name"]), _saved.names(host, each["name"])
    return {"sandboxes": shown}
