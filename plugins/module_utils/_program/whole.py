# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""All that is recorded made again (`restore`), and all that we made taken away, object by object in the order of their dependence.

Each object has a plan of its own, made when its turn comes: what stood on it is gone by then, or what it stands on is there.
"""

from __future__ import annotations

from .._engine.engine import converge
from .._engine.plan import Plan, run_plan
from .._model.errors import BulkheadError, Problems
from .._resources import cgroup, namespace, overlay, sandbox, service

# (resource, the word of its records), in the order in which they are made.
NOUNS = ((cgroup, cgroup.NOUN), (namespace, namespace.NOUN), (overlay, overlay.NOUN), (service, service.NOUN), (sandbox, sandbox.RECORD))


def recorded(host):
    """[(noun, name, resource, options as a task gives them)] of all records, in the order in which they are restored."""
    found = []
    for resource, word in NOUNS:
        for name in host.records.names(word):
            options = dict(_address(host, resource, name), **(host.records.options(word, name) or {}))
            found.append((resource.NOUN, name, resource, {"sandboxes": [options]} if resource is sandbox else options))
    return found


def restore(host):
    """Make everything again that is recorded: (the names of the steps taken, what could not be done)."""
    done, waiting = [], recorded(host)
    while waiting:
        refused = []
        for each in waiting:
            host.forget()
            host.promised.clear()
            try:
                outcome = converge(host, each[2], each[3])
                if outcome.errors:
                    raise outcome.errors[0].error
                done += outcome.joined("actions")
            except BulkheadError as exc:
                refused.append((each, exc.message))
        if len(refused) == len(waiting):  # a round that got nowhere; before that, one may have waited for another
            return done, [message for each, message in refused]
        waiting = [each for each, message in refused]
    return done, []


def existing(host):
    """[(noun, name, resource)] of what we made and is there, the last made first; parts of sandboxes go with these."""
    sandboxes = set(sandbox.names(host))
    parts = {(namespace.NOUN, name) for name in sandboxes} | {(cgroup.NOUN, sandbox.PREFIX + name) for name in sandboxes}
    parts |= {(overlay.NOUN, "%s/mnt/%s" % (host.state, name)) for name in sandboxes}
    found = [(sandbox.NOUN, name, sandbox) for name in sorted(sandboxes)]
    found += [(service.NOUN, name, service) for name in service.names(host) if name.partition("/")[0] not in sandboxes]
    for resource in (overlay, namespace, cgroup):
        found += [(resource.NOUN, name, resource) for name in sorted(host.claims.names(resource.NOUN), reverse=True)
                  if (resource.NOUN, name) not in parts]
    return found


def remove(host, name, resource, remove_data, keep_record):
    """Take one object away; with ``keep_record`` only for now."""
    host.forget()
    plan, problems = Plan(), Problems()
    options = dict(_address(host, resource, name), state="absent")
    if resource is sandbox:
        spec = sandbox.parse({"sandboxes": [options], "kill": True, "remove_data": remove_data}, "", problems)[0]
    elif resource is overlay:
        options.update(state="unmounted" if keep_record else "absent", remove_data=remove_data)
        spec = overlay.parse(options, "", problems)
    else:
        spec = resource.parse(options if resource is service else dict(options, kill=True), "", problems)
    problems.raise_if_any()
    resource.plan(host, spec, plan)
    run_plan(plan)
    if not keep_record:
        host.records.write_all(plan.records)


def _address(host, resource, name):
    """The options that say which object it is."""
    if resource is not overlay:
        return {"name": name}
    options = host.records.options(overlay.NOUN, name)
    if options:
        return {key: options[key] for key in ("namespace", "path") if options.get(key)}
    inside, slash, path = name.replace("%3a", ":").replace("%25", "%").partition("/")  # the inverse of _model/overlay.py: key_of()
    return dict({"path": slash + path}, **({"namespace": inside} if inside else {}))


def state(host, resource, options):
    """(present or absent, the states of its services) of something recorded."""
    if resource is sandbox:
        found = sandbox.show(host, options["sandboxes"][0]["name"])
        services = ["%s %s" % (each["name"].partition("/")[2], each["state"]) for each in found["services"]] if found else []
        return "present" if found else "absent", ", ".join(services)
    if resource is overlay:
        found = overlay.show(host, (options.get("namespace"), options["path"]))
    else:
        found = resource.show(host, options["name"])
    return "present" if found else "absent", found["state"] if found and resource is service else ""
