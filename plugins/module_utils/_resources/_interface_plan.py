# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One interface: what is refused, what is made, changed in place or made anew, and what is taken away."""

from __future__ import annotations

from .._engine.plan import Plan
from .._kernel import netmessages as nm
from .._kernel import nsfs
from .._model import addresses, rules
from .._model.errors import BulkheadError
from . import _allocation, _bandwidth, _devices, _hostnet, _interface_show, _link_changes, _links, _ports, _rules
from . import _interface_steps as _steps

NOUN = _links.NOUN


def member(spec):
    """What the firewall is to know of an interface on a network."""
    spread = [(each["host_address"], host_port, each["port"][0] + host_port - each["host_port"][0], each["protocol"])
              for each in spec.publish or () for host_port in range(each["host_port"][0], each["host_port"][1] + 1)]
    allow = None
    if spec.egress is not None and spec.egress["policy"] == "deny":
        allow = [(each["to"], each["protocol"], each["port"]) for each in spec.egress["allow"]]
    return rules.Member(spec.key, _links.mac_of(spec), [each.partition("/")[0] for each in spec.resolved], spread, allow)


def firewall(host, plan, thing):
    """The steps by which the firewall learns of it, before or after those of the link."""
    part, before = Plan(), _rules.owners(host).get(thing.owner, {})
    _rules.plan(host, part, thing)
    if not part.steps:
        return
    plan.take(part, "firewall")
    for key, show in (("publish", _interface_show.published), ("egress", _interface_show.egress)):
        texts = show(before), show(thing.elements())
        if texts[0] != texts[1]:
            plan.differ(key, *texts)


# -- refused

def refuse(host, spec, plan):
    """What cannot be, told before anything is touched. In check mode what an earlier task may make is a warning."""
    if spec.trouble is not None:
        raise spec.trouble
    if not _links.space(host, spec.namespace).alive and ("namespace", spec.namespace) not in host.promised:
        _lacking(host, plan, spec, "there is no net namespace %s. Make it first, with the module namespace" % spec.namespace)
    if spec.network is not None and spec.net is None:
        _lacking(host, plan, spec, "there is no network %s. Make it first, with the module network" % spec.network)
    if spec.net is not None:
        _refuse_on_network(spec)


def _refuse_on_network(spec):
    subnets = dict(spec.net.subnets)
    for each in spec.addresses or ():
        address = each.partition("/")[0]
        home = next((subnet for subnet in subnets if addresses.contains(subnet, address)), None)
        if home is None:
            raise BulkheadError("Cannot give %s to interface %s: it lies in no subnet of network %s (%s). Use an address of these." % (
                each, spec.key, spec.network, ", ".join(subnets)))
        if subnets[home] == address:
            raise BulkheadError("Cannot give %s to interface %s: it is the gateway of network %s. Use another one." % (each, spec.key, spec.network))
    if spec.egress is None or spec.egress["policy"] != "deny":
        return
    if not spec.net.antispoof:
        raise BulkheadError("Cannot deny what interface %s may send: on network %s it could send from another's address. Set antispoof: true of "
                            "that network." % (spec.key, spec.network))
    if not spec.net.routed:
        raise BulkheadError("Cannot deny what interface %s may send: members of network %s reach each other past the host's rules. Set "
                            "mode: routed of that network." % (spec.key, spec.network))


def _lacking(host, plan, spec, what):
    text = "Cannot create interface %s: %s." % (spec.key, what)
    if not host.check:
        raise BulkheadError(text)
    plan.warn(text + " An earlier task is expected to do so.")


def _bridge(host, spec, plan):
    """The link that the end of a veth is on."""
    name = spec.bridge or spec.net and spec.net.device
    if spec.type != "veth" or not name:
        return None
    link = _hostnet.links(host).get(name)
    if link is None and ("network", spec.network) not in host.promised:
        _lacking(host, plan, spec, "there is no bridge %s. Make it first" % name if spec.bridge else
                 "there is no bridge %s of network %s. Have the module network make it again" % (name, spec.network))
    elif link is not None and link["kind"] != "bridge":
        raise BulkheadError("Cannot create interface %s: %s is no bridge. Name one." % (spec.key, name))
    return link


# -- present

def present(host, spec, plan, way=_steps.Way()):
    """Plan an interface that is to be there."""
    refuse(host, spec, plan)
    if spec.network is not None and spec.net is None:
        _foresee(host, spec, plan)
        return
    before = now = _Nothing(host, spec) if way.anew else _links.found(host, spec)
    bridge = _bridge(host, spec, plan)
    recreate = _refuse_mismatch(host, spec, now)
    if recreate:
        now = _Nothing(host, spec)
    index, outer, maker, device = now.link and now.link["index"], now.end and now.end["index"], None, None
    if now.link is None:
        _links.refuse_lacking(host, spec)
        if spec.type == "device":
            device = _devices.find(host, spec, before)
        elif spec.type != "tap":
            index, outer, maker = _links.make(host, spec, now.space, way.anew, bridge, spec.mtu or (spec.net and spec.net.mtu))
    changes = _changes(host, spec, now, outer, bridge)
    if (recreate or changes) and before.link is not None and not before.ours(host, spec) and not spec.force:
        raise BulkheadError("Cannot change interface %s: it was made by somebody else. Set force: true to change it all the same, or use another "
                            "name." % spec.key)
    if spec.net is not None:
        firewall(host, plan, member(spec))
    elif _uses_rules(host):
        firewall(host, plan, _rules.Absent(spec.key))
    _steps.clear(host, spec, before, plan, way)
    if recreate:
        _steps.remove(host, spec, before, plan, way)
    if now.link is None:
        _steps.make(host, spec, now.space, plan, way, index, maker, changes, device)
    else:
        for change in changes:
            _steps.change(host, spec, now.space, plan, way, index, change)
    _record(host, spec, plan)


def _foresee(host, spec, plan):
    """In check mode, on a network that an earlier task is to make: what its rules and addresses will be is not known yet."""
    now = _links.found(host, spec)
    words = "create interface %s" if now.link is None else "put %s on the bridge of network " + spec.network
    if now.link is None:
        plan.differ("type", None, spec.type)
    plan.differ("network", None if now.link is None else spec.former and spec.former.network, spec.network)
    plan.add(words % spec.key, lambda: None)


class _Nothing:
    """What there is of an interface whose namespace or whose link is made anew."""

    def __init__(self, host, spec):
        self.space = _links.space(host, spec.namespace)
        self.link = self.end = self.rest = self.stray = self.claim = self.origin = None


def _refuse_mismatch(host, spec, now):
    """Has it to be made again?"""
    if now.link is None:
        return False
    different = _links.mismatch(host, spec, now)
    if not different:
        return False
    if now.origin is not None:  # what it was like is in the one claim of the interface, until it is back
        raise BulkheadError("Cannot change %s of interface %s: the device %s of the host is there. Remove the interface first, which moves it back."
                            % (", ".join(different), spec.key, now.origin["name"]), keys=sorted(different))
    if now.ours(host, spec) and spec.on_mismatch != "recreate" and not now.unfinished():
        key, (before, after) = next(iter(different.items()))
        raise BulkheadError("Cannot change %s of interface %s: the kernel fixes it when it is made (it is %s). Set on_mismatch: recreate to make it "
                            "again." % (", ".join(different), spec.key, before), keys=sorted(different))
    return True


def _changes(host, spec, now, outer, bridge):
    """All that differs; for a link that is yet to be made, all that is declared."""
    found, wanted = [], _wanted(host, spec, now)
    if spec.type == "veth":
        found += _ports.changes(host, spec, now.end, outer, bridge, _links.mac_of(spec), wanted.mtu)
    found += _link_changes.inside(host, spec, now, wanted)
    if spec.type == "vxlan" and now.link is not None and spec.remote is not None and now.link["data"].get("remote") != spec.remote:
        found.append(_remote(spec, now))
    if spec.type == "wireguard":
        from . import _wireguard

        found += _wireguard.changes(host, spec, now)
    former = spec.former.bandwidth if spec.exact and spec.former is not None else None
    for side, there, outside in (("transmit", now.link, False), ("receive", now.end, True)):
        if side == "receive" and spec.type != "veth" or spec.bandwidth is None and side not in (former or ()):
            continue
        qdiscs = ()
        if there is not None:
            known = host.cached("host's qdiscs", lambda: _hostnet.read(host, "qdiscs")) if outside else now.space.qdiscs
            qdiscs = [each for each in known if each["index"] == there["index"]]
        found += _bandwidth.changes(host, spec, qdiscs, side, (spec.bandwidth or {}).get(side), outer if outside else None)
    return found


def _remote(spec, now):
    old, data = now.link["data"].get("remote"), {"vni": now.link["data"]["vni"]}
    return _link_changes.Change("set remote of %s" % spec.key, "remote", old, spec.remote,
                                lambda index: [nm.set_data(index, "vxlan", dict(data, remote=spec.remote))],
                                lambda index: [nm.set_data(index, "vxlan", dict(data, remote=old or "0.0.0.0"))])


def _wanted(host, spec, now):
    """What is compared: what is declared, what the network gives, and in the composite what was declared before and is not any more."""
    former = spec.former if spec.exact else None
    dropped = {key for key in ("mtu", "addresses", "routes", "rules", "neighbours", "sysctls") if former is not None and getattr(former, key) is not None
               and getattr(spec, key) is None}
    exact = {key for key in ("addresses", "routes", "rules", "neighbours") if getattr(spec, key) is not None} | dropped
    routes = spec.routes
    if spec.net is not None:
        routes = _gateway_routes(spec) + list(spec.routes or ())
        exact.update(["addresses", "routes"] if spec.exact else ())
        if spec.gateway is not None and not (spec.former is not None and spec.former.routes):
            exact.add("routes")
    given = spec.resolved if spec.net is not None or spec.addresses is not None else None
    return _link_changes.Wanted(
        mac=_links.mac_of(spec) if spec.net is not None or spec.mac or now.link is None or spec.exact else None,
        mtu=spec.mtu or (spec.net and spec.net.mtu) or (1500 if "mtu" in dropped else None),
        up=spec.up,
        addresses=given if given is not None or "addresses" not in dropped else [],
        routes=routes if routes is not None or "routes" not in exact else [], former_routes=spec.former.routes if spec.former is not None else None,
        rules=spec.rules if "rules" not in dropped else [], kept_rules=_other_rules(host, spec) if "rules" in exact else None,
        neighbours=spec.neighbours if "neighbours" not in dropped else [], sysctls=_sysctls(host, spec, former, now),
        exact=exact, dad=spec.net is None)


def _gateway_routes(spec):
    if not spec.leads_out:
        return []
    families = {addresses.family(each) for each in spec.resolved}
    declared = {route["family"] for route in spec.routes or () if route["to"] == "default" and route["metric"] is None and route["table"] == 254}
    return [{"to": "default", "via": gateway, "family": addresses.family(gateway), "source": None, "metric": None, "table": 254, "mtu": None,
             "type": "unicast"} for subnet, gateway in spec.net.subnets if addresses.family(gateway) in families - declared]


def _uses_rules(host):
    from . import interface  # it stands on this file

    return interface.uses_rules(host)


def _other_rules(host, spec):
    from . import interface  # it stands on this file

    return [rule for other in interface.neighbours_of(host, spec) for rule in other.rules or ()]


def _sysctls(host, spec, former, now):
    """What is declared, and what it needs beside. Those that are not declared any more go back to what new links of the namespace have."""
    own = dict(spec.sysctls or {})
    if spec.net is not None and any(addresses.family(each) == 6 for each in spec.resolved):
        own.setdefault(_link_changes.ACCEPT_RA, "0")  # else any member could say that it is the gateway of all others
    gone = [key for key in (former.sysctls if former is not None and former.sysctls else ()) if key not in own]
    if not gone or now.link is None:
        return own
    wanted = dict(own)
    with nsfs.visit({"net": now.space.path}, host.proc):
        for key in gone:
            family, slash, word = key.partition("/")
            try:
                wanted[key] = nsfs.read_sysctl("net/%s/conf/default/%s" % (family, word), host.proc)
            except OSError:
                continue
    return wanted


def _record(host, spec, plan):
    if not spec.exact:
        former = spec.former  # of another type or place, nothing of it holds any more
        plan.record(NOUN, spec.key, spec.options, merge=former is not None and all(
            getattr(former, key) == getattr(spec, key) for key in ("type", "network", "bridge")))
    allocated = spec.resolved if spec.addresses is None and spec.net is not None else None
    if allocated or _allocation.recorded(host, spec.key):
        plan.record(_allocation.NOUN, spec.key, {"addresses": allocated} if allocated else None)


# -- absent

def absent(host, spec, plan, way=_steps.Way()):
    """Plan an interface that is not to be there. What the firewall and the records know of it goes, too."""
    now = _links.found(host, spec, going=True)
    if now.link is not None and not now.ours(host, spec) and not spec.force:
        raise BulkheadError("Cannot remove interface %s: it was made by somebody else. Set force: true to remove it all the same." % spec.key)
    _steps.clear(host, spec, now, plan, way)
    if now.link is not None or _steps.left(host, spec, now):
        _steps.remove(host, spec, now, plan, way)
    elif now.claim is not None:
        plan.add("forget interface %s" % spec.key, lambda: host.claims.drop(NOUN, spec.key))
    forget(host, spec, plan)


def forget(host, spec, plan):
    """The rules and records of an interface go."""
    if _uses_rules(host) or spec.former is not None and spec.former.network is not None:
        firewall(host, plan, _rules.Absent(spec.key))
    plan.record(NOUN, spec.key, None)
    plan.record(_allocation.NOUN, spec.key, None)
