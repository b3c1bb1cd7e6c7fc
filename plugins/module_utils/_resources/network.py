# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Networks: a bridge with the gateways' addresses (`_bridge.py`), forwarding for it (`_forwarding.py`), and its rules (`_rules.py`).

A network is compared whole: what the task names, over what was declared before, over the defaults. For its rules are one thing, and
a rule that somebody has taken away by hand is missed whether or not the task happens to name its option.
"""

from __future__ import annotations

from .._engine.plan import Plan
from .._model import rules
from .._model.errors import BulkheadError, Problems
from .._model.network import KEYS, NetworkSpec, device_of
from .._model.network import shown as _shown
from . import _bridge, _forwarding, _hostnet, _names, _network_checks, _rules

NOUN = _bridge.NOUN


def parse(options, path, problems):
    return NetworkSpec.from_options(options, path, problems)


# -- what others ask

def declared(host, name):
    """The whole of a network that is recorded, a NetworkSpec with every default applied; None when there is none."""
    return networks(host).get(name)


def networks(host):
    """{name: whole NetworkSpec} of all records that can be read."""
    return host.cached("networks", lambda: _networks(host))


def _networks(host):
    found = {}
    for name in host.records.names(NOUN):
        options = host.records.options(NOUN, name)
        try:
            found[name] = _whole(name, options)
        except BulkheadError as exc:
            host.warn("Cannot use the record of network %s: %s" % (name, exc.message))
    return {name: spec for name, spec in found.items() if spec is not None}


def _whole(name, options):
    if options is None:
        return None
    spec = NetworkSpec.from_options({"name": name}, "", Problems()).over(options)
    return spec if spec.subnets else None


def recorded(host):
    """The things of all records for rules that have to be made anew (`_rules.py`)."""
    known = networks(host)
    return [_net(spec, known) for spec in known.values()] + [_opened(_forwarding.Turned.claimed(host))]


def _net(spec, known):
    """What the firewall is to know of a network. One that it reaches and that is still to come is told when it comes."""
    reached = [known[name] for name in spec.reaches if name in known]
    return rules.Net(spec.name, spec.device, [subnet for subnet, gateway in spec.subnets], masquerade=spec.masquerade,
                     internal=spec.internal, uplink=spec.uplink, reaches=[other.device for other in reached],
                     inter_sandbox=spec.inter_sandbox, antispoof=spec.antispoof, host_services=spec.host_services,
                     inward=[other.device for other in reached if other.internal])


def _opened(turned):
    return _rules.Opened(turned.ipv4, turned.ipv6 is not None)


# -- found and planned

class _Now:
    """What a plan stands on: the whole as it is to be (None: absent), the bridge, the other networks, forwarding, rules."""

    __slots__ = ("recorded", "whole", "others", "found", "forwarding", "things", "missing")

    def __init__(self, host, spec):
        self.recorded = host.records.options(NOUN, spec.name)
        self.others = {name: other for name, other in networks(host).items() if name != spec.name}
        self.whole = spec.over(self.recorded) if spec.state == "present" else None
        device = self.whole.device if self.whole else (self.recorded or {}).get("device") or device_of(spec.name)
        self.found = _bridge.Found(host, spec.name, device)
        after = dict(self.others)
        if self.whole and self.whole.subnets:
            after[spec.name] = self.whole
        made = host.claims.names(NOUN)  # what is recorded only was cleared away, or is still to be restored
        self.forwarding = _forwarding.Forwarding(host, [other for name, other in after.items() if name in made or name == spec.name])
        self.missing = [name for name in self.whole.reaches if name not in after] if self.whole else []
        self.things = [_net(after[spec.name], after) if spec.name in after else _rules.Absent(spec.name), _opened(self.forwarding.after)]
        self.things += [_net(other, after) for name, other in self.others.items() if spec.name in other.reaches and name in made]


def find(host, specs):
    _hostnet.need(host)
    for spec in specs:
        _rules.expect(host, _now(host, spec).things)


def _now(host, spec):
    return host.cached((NOUN, "now", spec.name), lambda: _Now(host, spec))


def plan(host, spec, plan):
    """See `_engine/plan.py`."""
    now = _now(host, spec)
    if now.whole is None:
        _plan_absent(host, spec, plan, now)
    else:
        _plan_present(host, now.whole, plan, now)
    now.forwarding.plan_on(host, plan)


def _plan_present(host, spec, plan, now):
    _network_checks.check(host, spec, now.recorded, now.found, now.others, plan)
    for name in now.missing:
        if (NOUN, name) not in host.promised:
            plan.warn("There is no network %s yet, which network %s is to reach. It does when that is made." % (name, spec.name))
    options = dict(now.recorded or {}, **spec.declared)
    _plan_rules(host, plan, now)
    _names.plan_network(host, spec.name, options, plan)
    if now.found.link is None:
        _bridge.plan_create(host, spec, plan)
    else:
        used = _rules.used(host) if now.found.members() else None
        _bridge.plan_changes(host, spec, now.found, used, plan)
        if "mtu" in plan.after and now.found.members():
            plan.warn("Members of network %s take its MTU on when they are converged again." % spec.name)
    if not spec.internal and spec.uplink is None and not any(_forwarding.default_devices(host, family) for family in spec.families):
        plan.warn("Network %s has no way out now: the host has no default route." % spec.name)
    plan.record(NOUN, spec.name, options)
    host.promised.add((NOUN, spec.name))


def _plan_absent(host, spec, plan, now):
    if now.found.link is not None:
        _bridge.refuse_foreign(spec, now.found, now.found.link["name"], "remove")
        _network_checks.residents(spec, now.found)
        _bridge.plan_remove(host, spec, now.found, plan)
    elif host.claims.read(NOUN, spec.name) is not None:
        plan.add("forget network %s" % spec.name, lambda: host.claims.drop(NOUN, spec.name))
    _plan_rules(host, plan, now)
    _names.plan_network(host, spec.name, {}, plan)
    plan.record(NOUN, spec.name, None)


def _plan_rules(host, plan, now):
    now.forwarding.plan_off(host, plan)
    for thing in now.things:
        part = Plan()
        _rules.plan(host, part, thing)
        plan.take(part, None if thing is now.things[0] else "host" if thing.owner == rules.HOST else thing.owner)


# -- shown

def show(host, name):
    """A network as `network_info` shows it, None when its bridge is not there."""
    spec = declared(host, name)
    found = _bridge.Found(host, name, spec.device if spec else device_of(name))
    if found.link is None or not (found.ours or spec):
        return None
    link = found.link
    shown = dict(_shown(spec) if spec else dict.fromkeys(KEYS), name=name, state="present", owned=found.ours, device=link["name"],
                 mac=link["mac"], mtu=link["mtu"], up=link["up"], vlan_filtering=bool(link["data"].get("vlan_filtering")),
                 subnets=_bridge.subnets(found.addresses))
    owners = _rules.owners(host) if found.ports else {}
    shown["members"] = [_member(owner, port, owners.get(owner, {})) for owner, port in sorted(found.members().items())]
    return shown


def _member(owner, port, elements):
    known = [pair for key in ("members4", "members6") for pair in elements.get(key, ())]
    return {"name": owner, "device": port["name"], "mac": known[0][0] if known else None, "addresses": sorted(address for mac, address in known)}


def names(host):
    """All networks: of records, of claims, and of bridges that bear our mark."""
    found = set(host.records.names(NOUN)).union(host.claims.names(NOUN))
    mark = _bridge.alias("")
    return sorted(found.union(link["alias"][len(mark):] for link in _hostnet.links(host).values() if (link["alias"] or "").startswith(mark)))


def result(host, params, outcome):
    """What the module returns beside the common keys."""
    return {NOUN: show(host, params["name"]) or {"name": params["name"], "state": "absent"}}


def info(host, params):
    """What the _info module returns."""
    wanted = [params["name"]] if params.get("name") else names(host)
    return {"networks": [shown for shown in (show(host, name) for name in wanted) if shown is not None]}
