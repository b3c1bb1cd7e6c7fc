# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Interfaces: links in named net namespaces, with addresses, routes, bandwidth and what the firewall knows of them.

The host and each namespace are read once in a run, in find(), which also gives addresses to those that declare none. One of them is
planned by `_interface_plan.py`: compared by `_links.py` (what only a new link has), `_ports.py` (its end on the host),
`_link_changes.py` (what is inside) and `_bandwidth.py`, and carried out for all together by `_link_acts.py`.

For the composite, whose Specs come from `_model/interface.py: of_sandbox` and are checked against each other, all of a run at
once, by `check_list`:

    interface.find(host, specs, gone)                    once, in find(); ``gone``: names of sandboxes that are to go
    interface.plan_for(host, name, specs, plan, anew)    all interfaces of a sandbox; call it after its namespaces are planned
    interface.plan_removal(host, name, plan)             before its namespaces are removed, after its services are stopped
    interface.recorded_specs(host)                       of all records, with ``spec.resolved`` as it was last allocated
    interface.shown(host, name)                          those in a namespace, as `interface_info` shows them

After find() ``spec.resolved`` is the list of addresses with prefix that an interface has when the run is done.
"""

from __future__ import annotations

import os

from .._engine.plan import Plan
from .._model.interface import InterfaceSpec, parse
from .._model.sandbox import interfaces_of
from . import _allocation, _hostnet, _interface_plan, _interface_show, _link_acts, _links, _names, _ports, _rules, network
from . import _interface_steps as _steps

NOUN = _links.NOUN
_SANDBOXES = "sandboxes"  # the word of their records

__all__ = ("NOUN", "expand", "find", "info", "parse", "plan", "plan_for", "plan_removal", "recorded", "recorded_specs", "result", "shown")


# -- found

def find(host, specs, gone=()):
    """Read the host once, give addresses and MACs to all, and tell the firewall what is to come.

    ``gone`` are namespaces whose interfaces all go. Of one with exact Specs, those that these do not name go, too.
    """
    _hostnet.need(host)
    known = host.cached((NOUN, "declared"), dict)  # of this run: {key: Spec}
    known.update((spec.key, spec) for spec in specs)
    host.drop((NOUN, "declared by namespace"))
    present = [spec for spec in specs if spec.state == "present"]
    for spec in specs:
        if spec.former is None and not spec.exact:
            options = host.records.options(NOUN, spec.key)
            spec.drop(options)
            _fill(spec)
        for each in (spec, spec.former):
            if each is not None and each.network is not None:
                each.net = network.declared(host, each.network)
        if spec.former is not None:
            spec.former.resolved = _had(host, spec.former)
    for spec in specs:
        if spec.state == "present" or not _links.marked(host, spec.key):
            _links.space(host, spec.namespace).read(_kinds(spec))
    for spec in present:
        spec.leads_out = _leads_out(host, spec, known)
    if not uses_rules(host):
        for spec in present:
            spec.resolved = list(spec.addresses or ())
        return
    _allocation.allocate(host, present, lambda spec: _links.found(host, spec), lambda: [
        each for each in recorded_specs(host) if each.key not in known])
    things = [_interface_plan.member(spec) for spec in present if spec.net is not None and spec.trouble is None]
    exact = {spec.namespace for spec in specs if spec.exact}.union(gone)
    leave = [spec.key for spec in specs if spec.state == "absent" or spec.net is None]
    leave += [key for name in exact for key in keys(host, name) if key not in known or name in gone]
    _rules.expect(host, things + [_rules.Absent(key) for key in leave])


def _fill(spec):
    """What the firewall is told must be whole: what a task leaves out of it is as it was declared last."""
    if spec.former is None or spec.network is None or spec.former.network != spec.network:
        return
    for key in ("mac", "mtu", "addresses", "publish", "egress", "aliases", "gateway"):
        if getattr(spec, key) is None:
            setattr(spec, key, getattr(spec.former, key))


def _kinds(spec):
    """What of its namespace has to be read."""
    if spec.state == "absent":
        return ["links"]
    kinds = ["links", "addresses", "routes"]
    for each in (spec, spec.former):
        if each is not None:
            kinds += [kind for kind, key in (("rules", "rules"), ("neighbours", "neighbours"), ("qdiscs", "bandwidth")) if getattr(each, key) is not None]
    return kinds


def _leads_out(host, spec, known):
    """Is its network the way out of its namespace? Where nobody says so, that of the first interface on one that has a way out."""
    if spec.net is None or spec.gateway is not None:
        return bool(spec.net is not None and spec.gateway)
    if spec.net.internal:
        return False
    own = host.cached((NOUN, "declared by namespace"), lambda: _by_namespace(known.values(), lambda each: each.key))[spec.namespace]
    for other in [each for each in neighbours_of(host, spec) if each.key not in known] + own:
        if other is spec:
            return True
        if other.state == "present" and other.net is not None and (other.gateway or other.gateway is None and not other.net.internal):
            return False
    return True


def uses_rules(host):
    """Has the host networks of ours, or what is left of them?"""
    return bool(network.networks(host) or host.claims.names(network.NOUN))


# -- planned

def expand(host, specs):
    """With purge: what this module recorded and the list does not name is to go."""
    if not specs.purge:
        return specs
    declared = {spec.key for spec in specs}
    gone = [InterfaceSpec.absent(key) for key in host.records.names(NOUN) if key not in declared]
    find(host, gone)
    return specs + gone


def plan(host, spec, plan):
    """See `_engine/plan.py`."""
    (_interface_plan.absent if spec.state == "absent" else _interface_plan.present)(host, spec, plan)
    _plan_names(host, spec, plan)


def _plan_names(host, spec, plan):
    """The files of names are the namespace's: they are written with the first of its interfaces in this run."""
    if host.cached((NOUN, "names", spec.namespace), lambda: spec) is not spec:
        return
    known = host.cached((NOUN, "declared"), dict)
    own = host.cached((NOUN, "declared by namespace"), lambda: _by_namespace(known.values(), lambda each: each.key))[spec.namespace]
    if any(each.network is not None and each.net is None for each in own):  # in check mode: it would be told by then
        return
    mine = [each for each in neighbours_of(host, spec) if each.key not in known]
    mine += [each for each in own if each.state == "present" and each.trouble is None]
    _names.plan(host, spec.namespace, plan, _names.of([each for each in mine if each.net is not None]))


def plan_for(host, name, specs, plan, anew):
    """All interfaces of a sandbox, and the removal of those of ours in its namespace that ``specs`` does not name.

    ``anew``: its net namespace is made, or made again, by a step before these: nothing of what is in it now counts, and the
    links are made when the steps are taken, not ahead. The rules of the firewall are set ahead in any case.
    ``spec.drop(recorded options of that interface)`` is called before, where there are some.
    """
    declared = {spec.key for spec in specs}
    for key in keys(host, name):
        if key not in declared:
            spec, part = _absent(host, key), Plan()
            # With its namespace all goes but a device of the host, which has to be back before that.
            goes = anew and _links.found(host, spec).origin is None
            (_interface_plan.forget if goes else _interface_plan.absent)(host, spec, part)
            plan.take(part, key.partition("/")[2])
    if anew:
        _links.space(host, name).empty()
    for spec in specs:
        part = Plan()
        _interface_plan.present(host, spec, part, _steps.Way(anew))
        plan.take(part, spec.name)


def plan_removal(host, name, plan):
    """Take all interfaces of ours in a namespace away, and what the firewall and the records know of them; devices that were
    moved in go back. For all plans of a run the links are removed at once, at the end.
    """
    for key in keys(host, name):
        spec, part = _absent(host, key), Plan()
        now = _links.found(host, spec, going=True)
        if now.end is not None or now.rest is not None:
            part.differ("type", "veth", None)
            part.add("remove interface %s" % key, lambda spec=spec, now=now: _remove_at_end(host, spec, now))
            _interface_plan.forget(host, spec, part)
        else:
            _interface_plan.absent(host, spec, part, _steps.Way(ahead=False))
        plan.take(part, key.partition("/")[2])


def _absent(host, key):
    spec = InterfaceSpec.absent(key)
    former = {each.key: each for each in recorded_specs(host)}.get(key)
    if former is not None:
        spec.former = former
    spec.force = True  # what is in a sandbox of ours goes with it
    return spec


def _remove_at_end(host, spec, now):
    for end in (now.end, now.rest):
        if end is not None:
            host.at_end(_remove_ends, (spec, end["name"]))
    host.claims.drop(NOUN, spec.key)


def _remove_ends(host, ends):
    acts = [_link_acts.Act(goes=end, outside=lambda unused, spec=spec: _ports.removal(host, spec.former, _links.mac_of(spec.former)))
            for spec, end in ends if spec.former is not None]
    acts += [_link_acts.Act(goes=end) for spec, end in ends if spec.former is None]
    host.drop("host's neighbours")
    _link_acts.do(host, acts)
    for act in acts:
        if act.error is not None:
            host.warn("Cannot remove the device %s of the host: %s." % (act.goes, act.error))


# -- known

def keys(host, name):
    """`NAME/INTERFACE` of all interfaces of ours in a namespace, there or left in rules, claims or records."""
    return sorted(host.cached((NOUN, "keys"), lambda: _keys(host)).get(name, ()))


def _keys(host):
    found = {}
    known = set(host.claims.names(NOUN)).union(host.records.names(NOUN), host.records.names(_allocation.NOUN),
                                               filter(None, map(_hostnet.member, _hostnet.links(host).values())))
    if uses_rules(host):
        known.update(owner for owner in _rules.owners(host) if owner and "/" in owner)
    known.update(spec.key for spec in recorded_specs(host))
    for key in known:
        found.setdefault(key.partition("/")[0], set()).add(key)
    return found


def recorded_specs(host):
    """The Specs of all records, those of sandboxes too, with ``resolved``."""
    return host.cached((NOUN, "recorded"), lambda: _recorded_specs(host))


def _recorded_specs(host):
    found = [InterfaceSpec.recorded(key, host.records.options(NOUN, key) or {}) for key in host.records.names(NOUN)]
    for name in host.records.names(_SANDBOXES):
        found += interfaces_of(name, host.records.options(_SANDBOXES, name) or {})
    for spec in found:
        spec.resolved = _had(host, spec)
        spec.net = network.declared(host, spec.network) if spec.network is not None else None
    return found


def _had(host, spec):
    """The addresses of an interface that is recorded."""
    return list(spec.addresses if spec.addresses is not None else _allocation.recorded(host, spec.key))


def neighbours_of(host, spec):
    """The recorded Specs of the other interfaces of its namespace. Where there are none, the records of all others are not read."""
    names = host.cached((NOUN, "recorded names"), lambda: _by_namespace(host.records.names(NOUN)))
    boxes = host.cached((NOUN, "recorded sandboxes"), lambda: set(host.records.names(_SANDBOXES)))
    if set(names.get(spec.namespace, ())) <= {spec.key} and spec.namespace not in boxes:
        return []
    specs = host.cached((NOUN, "recorded by namespace"), lambda: _by_namespace(recorded_specs(host), lambda each: each.key))
    return [each for each in specs.get(spec.namespace, ()) if each.key != spec.key]


def _by_namespace(things, key=str):
    found = {}
    for each in things:
        found.setdefault(key(each).partition("/")[0], []).append(each)
    return found


def recorded(host):
    """The Members of all records, for rules that have to be made anew (`_rules.py`)."""
    return [_interface_plan.member(spec) for spec in recorded_specs(host) if spec.net is not None]


# -- shown

def shown(host, name):
    """The interfaces of a namespace but lo, as `interface_info` shows them: [dict], sorted by name."""
    space = _links.space(host, name)
    names = sorted(link["name"] for link in space.links if link["kind"] != "loopback")
    return [each for each in (show(host, "%s/%s" % (name, word)) for word in names) if each is not None]


def show(host, key):
    """One, or None where there is none."""
    spec = InterfaceSpec.absent(key)
    spec.drop(host.records.options(NOUN, key))
    return _interface_show.show(host, spec, uses_rules(host))


def result(host, params, outcome):
    """Whole where something changed; an unchanged one by its name, for reading all of it costs more than comparing it."""
    found = []
    for plan in outcome.plans:
        namespace, slash, name = plan.key.partition("/")
        named = {"namespace": namespace, "name": name}
        changed = plan.changed and plan.error is None
        whole = show(host, plan.key) if plan.changed or plan.error is not None else named
        found.append(dict(whole or dict(named, state="absent"), changed=changed))
    return {"interfaces": found}


def info(host, params):
    """What the _info module returns."""
    wanted = [params["namespace"]] if params.get("namespace") else _namespaces(host)
    return {"interfaces": [each for name in wanted for each in shown(host, name) if params.get("name") in (None, each["name"])]}


def _namespaces(host):
    try:
        return sorted(name for name in os.listdir(host.netns) if _links.space(host, name).alive)
    except OSError:
        return []
