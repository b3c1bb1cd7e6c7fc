# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""All that is recorded made again (`restore`), and all that we made taken away, object by object in the order of their dependence.

Each object has a plan of its own, made when its turn comes: what stood on it is gone by then, or what it stands on is there.
"""

from __future__ import annotations

import os

from .._engine import places
from .._engine.engine import converge
from .._engine.lock import Lock
from .._engine.plan import Plan, run_plan
from .._model.errors import BulkheadError, Problems, reason
from .._resources import cgroup, interface, namespace, network, overlay, sandbox, service

# (resource, the word of its records), in the order in which they are made.
NOUNS = ((cgroup, cgroup.NOUN), (network, network.NOUN), (namespace, namespace.NOUN), (interface, interface.NOUN), (overlay, overlay.NOUN),
         (service, service.NOUN), (sandbox, sandbox.RECORD))
LISTS = {interface: "interfaces", sandbox: "sandboxes"}  # made in one run, and the option that takes them


class Record:
    """One declaration that is recorded, and how it is given to its resource again. ``torn``: why it cannot be."""

    __slots__ = ("resource", "noun", "name", "options", "torn")

    def __init__(self, host, resource, word, name, options=None):
        self.resource, self.noun, self.name = resource, resource.NOUN, name
        options = options or host.records.options(word, name)
        self.torn = None if options is not None else "Cannot restore %s %s: its record %s is not whole. Declare it again, or remove it." % (
            self.noun, name, host.records.path(word, name))
        self.options = dict(_address(host, resource, name), **(options or {}))

    def at_boot(self):
        """Is it to come back by itself? A service that is not enabled is not; within a sandbox it stays stopped."""
        if self.resource is sandbox:
            self.options["services"] = [dict(each, state="stopped") if each.get("enabled") is False else each
                                        for each in self.options.get("services") or ()]
        return self.resource is not service or self.options.get("enabled") is not False


def recorded(host):
    """All records, in the order in which they are restored."""
    return [Record(host, resource, word, name) for resource, word in NOUNS
            for name in (sandbox.names(host) if resource is sandbox else host.records.names(word))]


def restore(host):
    """Make everything again that is recorded: (the names of the steps taken, [(record, why it could not be made)])."""
    done, everything = [], recorded(host)
    host.failures.keep({record.name for record in everything if record.resource is sandbox})
    failed = [(record, record.torn) for record in everything if record.torn]
    failed += _mount_layers(host, done)
    waiting = [record for record in everything if not record.torn and record.at_boot()]
    while waiting:
        refused = []
        for resource, word in NOUNS:
            mine = [each for each in waiting if each.resource is resource]
            for records in [mine] if resource in LISTS and mine else [[each] for each in mine]:
                refused += _make(host, resource, records, done)
        if len(refused) == len(waiting):  # a round that got nowhere; before that, one may have waited for another
            failed += refused
            break
        waiting = [record for record, message in refused]
    _note(host, {record.name: message for record, message in failed if record.resource is sandbox})
    return done, failed


def _mount_layers(host, done):
    """Images need no record, as the store is on the disk; what a reboot takes of them is the mounts of their layers."""
    if not os.path.isdir(host.lib + "/images"):
        return []
    from .._resources import _mounted, image  # much code, for the one who has images

    return [each for name in _mounted.images(host) for each in _make(host, image, [Record(host, image, image.NOUN, name, {"state": "present"})], done)]


def _note(host, failed):
    """Leave word for `sandbox` and `sandbox_info`, until it is converged; in our own place, which nothing of it may have needed yet."""
    if not failed:
        return
    try:
        with Lock(host.lock, "restore"):
            places.ensure(host)
            for name, message in failed.items():
                host.failures.write(name, message)
    except (BulkheadError, OSError) as exc:  # then only the journal tells
        host.warn("Cannot note what was not restored: %s." % reason(exc).rstrip("."))


def _make(host, resource, records, done):
    """Converge records in one run: [(record, why it was refused)]. Whatever goes wrong with one, the others have their turn."""
    options = _declared(resource, [each.options for each in records])
    if resource is sandbox:
        options["restore"] = True
    host.forget()
    host.promised.clear()
    try:
        outcome = converge(host, resource, options)
    except Exception as exc:
        if len(records) == 1:
            return [(records[0], exc.message if isinstance(exc, BulkheadError) else "Cannot restore %s %s: %s." % (
                records[0].noun, records[0].name, reason(exc) if isinstance(exc, OSError) else "an error of Bulkhead's own, %r" % exc))]
        # One of them cannot even be read: the others are made one by one.
        return [each for record in records for each in _make(host, resource, [record], done)]
    done += [name for plan in outcome.plans if plan.error is None for name in plan.actions]
    wrong = {plan.key: plan.error.message for plan in outcome.errors}
    return [(record, wrong[record.name]) for record in records if record.name in wrong]


def existing(host, and_recorded):
    """[(noun, name, resource)] of what we made and is there, or is at least recorded; the last made first.

    The parts of sandboxes go with these.
    """
    names = set(sandbox.names(host))
    parts = {(namespace.NOUN, name) for name in names} | {(cgroup.NOUN, sandbox.PREFIX + name) for name in names}
    parts |= {(overlay.NOUN, "%s/mnt/%s" % (host.state, name)) for name in names}
    found = [(sandbox.NOUN, name, sandbox) for name in sorted(names) if and_recorded or _is_there(host, name)]
    for resource in (service, overlay, interface, namespace, network, cgroup):
        made = set(service.names(host) if resource is service else host.claims.names(resource.NOUN))
        made |= set(host.records.names(resource.NOUN) if and_recorded else ())
        found += [(resource.NOUN, name, resource) for name in sorted(made, reverse=True)
                  if (resource.NOUN, name) not in parts and not (resource in (service, interface) and name.partition("/")[0] in names)]
    return found


def _is_there(host, name):
    found = sandbox.show(host, name)
    return bool(found) and any(found[part] for part in sandbox.PARTS)


def remove(host, name, resource, remove_data, keep_record):
    """Take one object away; with ``keep_record`` only for now."""
    host.forget()
    plan, problems = Plan(), Problems()
    options = dict(_address(host, resource, name), state="absent")
    if resource is overlay:
        options.update(state="unmounted" if keep_record else "absent", remove_data=remove_data)
    elif resource in (network, interface):
        options["force"] = True
    elif resource not in (sandbox, service):
        options["kill"] = True
    options = _declared(resource, [options])
    if resource is sandbox:
        options.update(kill=True, remove_data=remove_data)
    specs = resource.parse(options, "", problems)
    problems.raise_if_any()
    specs = specs if resource in LISTS else [specs]
    if hasattr(resource, "find"):
        resource.find(host, specs)
    resource.plan(host, specs[0], plan)
    run_plan(plan)
    if not keep_record:
        host.records.write_all(plan.records)


def _declared(resource, each):
    """Options for a resource that declare these objects, one or a list."""
    return {LISTS[resource]: each} if resource in LISTS else dict(each[0])


def _address(host, resource, name):
    """The options that say which object it is."""
    if resource is interface:
        namespace_name, slash, name = name.partition("/")
        return {"namespace": namespace_name, "name": name}
    if resource is not overlay:
        return {"name": name}
    options = host.records.options(overlay.NOUN, name)
    if options:
        return {key: options[key] for key in ("namespace", "path") if options.get(key)}
    inside, slash, path = name.replace("%3a", ":").replace("%25", "%").partition("/")  # the inverse of _model/overlay.py: key_of()
    return dict({"path": slash + path}, **({"namespace": inside} if inside else {}))


def state(host, record):
    """(present or absent, the states of its services) of something recorded."""
    if record.resource is overlay:
        found = overlay.show(host, (record.options.get("namespace"), record.options["path"]))
    else:
        found = record.resource.show(host, record.name)
    if record.resource is sandbox:
        services = ["%s %s" % (each["name"].partition("/")[2], each["state"]) for each in found["services"] if each] if found else []
        return "failed" if found and found["restore_error"] else "present" if found else "absent", ", ".join(services)
    return "present" if found else "absent", found["state"] if found and record.resource is service else ""
