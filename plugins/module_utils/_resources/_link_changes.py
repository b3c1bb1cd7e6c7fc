# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What of an interface is changed in place inside its namespace: the link's own values, addresses, routes, rules, neighbours, sysctls.

Each function compares what is declared with what is there, and returns Changes. Of a link that is yet to be made nothing is
there, so the same Changes make all of it.
"""

from __future__ import annotations

from .._kernel import netmessages as nm
from .._kernel import netlink, nsfs
from .._model import addresses
from .._model import interface_parts as parts

ACCEPT_RA = "ipv6/accept_ra"  # set before the link is up
_STATIC = 4  # RTPROT_STATIC: routes and rules of ours have it, those that somebody adds with ip(8) have not


class Change:
    """One difference. ``forth(index)`` are the messages that make it, ``back(index)`` those that take it back; both for the namespace,
    or with ``outside`` for the host. ``call`` and ``uncall`` (index) are what is no message: done before the messages, with ``last``
    after them.
    """

    __slots__ = ("words", "key", "before", "after", "forth", "back", "outside", "call", "uncall", "last")

    def __init__(self, words, key, before, after, forth=None, back=None, outside=False, call=None, uncall=None, last=False):
        self.words, self.key, self.before, self.after = words, key, before, after
        self.forth, self.back, self.outside = forth, back, outside
        self.call, self.uncall, self.last = call, uncall, last


def inside(host, spec, now, wanted):
    """All of them, in the order in which they stand on each other. ``wanted`` is a Wanted."""
    changes = _values(spec, now, wanted)
    flushed = any(change.key == "mac" for change in changes)  # with its MAC the kernel takes its neighbours away
    changes += _addresses(spec, now, wanted)
    if wanted.up:
        changes += _routes(spec, now, wanted)
    changes += _neighbours(spec, now, wanted, flushed) + _rules(spec, now, wanted) + _sysctls(host, spec, now, wanted)
    return changes


class Wanted:
    """What an interface is to be. None: not compared; of a list: what is there and not in it is left alone unless ``exact`` names it.

    ``kept_rules`` are of other interfaces of the namespace, ``former_routes`` those that were declared before: what is in no link is
    known by them.
    """

    __slots__ = ("mac", "mtu", "up", "addresses", "routes", "rules", "neighbours", "sysctls", "exact", "dad", "kept_rules",
                 "former_routes")

    def __init__(self, **values):
        for name in self.__slots__:
            setattr(self, name, values.get(name))


def _values(spec, now, wanted):
    """MAC, MTU, up. Those that a new link is born with need no message."""
    found = []
    for key in ("mac", "mtu", "up"):
        after, before = getattr(wanted, key), now.link and now.link[key]
        if now.link is None and key != "up" and spec.type not in ("device", "tap"):
            continue
        if after is None or before == after or (now.link is None and after is False):
            continue
        words = "bring %s %s" % ("up" if after else "down", spec.key) if key == "up" else "set %s of %s" % (key, spec.key)
        found.append(Change(words, key, before, after, lambda index, key=key, after=after: [nm.set_link(index, **{key: after})],
                            lambda index, key=key, before=before: [nm.set_link(index, **{key: before})]))
    return found


def _mine(spec, now, kind):
    """What there is of that kind on this link."""
    return [each for each in getattr(now.space, kind) if each["index"] == now.link["index"]] if now.link is not None else []


# -- addresses

def _addresses(spec, now, wanted):
    if wanted.addresses is None:
        return []
    families = (4, 6) if wanted.up else (4,)  # from a link that is down IPv6 takes them away
    current = [each["address"] for each in _mine(spec, now, "addresses")
               if each["permanent"] and each["scope"] != "link" and each["family"] in families]
    declared = [each for each in wanted.addresses if addresses.family(each) in families]
    new = [each for each in declared if each not in current]
    old = [each for each in current if each not in declared] if "addresses" in wanted.exact else []
    # Of the same address with another prefix IPv6 bears only one, so that one goes first; otherwise what is new comes first.
    hosts = {each.partition("/")[0] for each in new}
    first = [each for each in old if each.partition("/")[0] in hosts]
    after = [each for each in current if each not in old] + new
    return [_address(spec, now, each, current, after, wanted.dad, each in new)
            for each in first + new + [each for each in old if each not in first]]


def _address(spec, now, address, before, after, dad, come):
    def give(index):
        return [nm.new_address(index, address, dad=bool(dad))]

    def take(index):
        return [nm.delete_address(index, address)]

    def keep_others(unused):
        """With the first of a subnet the kernel takes its others away, and routes with them, unless told to promote one."""
        nsfs.write_sysctl("net/ipv4/conf/%s/promote_secondaries" % spec.name, "1")

    return Change("add address %s to %s" % (address, spec.key) if come else "remove address %s of %s" % (address, spec.key), "addresses",
                  before or None, after, *((give, take) if come else (take, give)),
                  call=None if come or addresses.family(address) == 6 else keep_others)


# -- routes

def _routes(spec, now, wanted):
    if wanted.routes is None and "routes" not in wanted.exact:
        return []
    declared = {parts.route_key(route): route for route in wanted.routes or ()}
    known = set(declared).union(parts.route_key(route) for route in wanted.former_routes or ())
    current = {parts.route_key(route): route for route in now.space.routes if _is_ours(route, now, known)}
    changes = []
    before, after = _shown(current), _shown({**(current if "routes" not in wanted.exact else {}), **declared})
    for key, route in declared.items():
        old = current.get(key)
        if old is None or not _same_route(route, old, now):
            changes.append(Change("%s %s of %s" % ("change" if old else "add", _route_words(route), spec.key), "routes", before or None, after,
                                  lambda index, route=route, old=old: [_new_route(index, route, old is not None)],
                                  lambda index, route=route, old=old: [_new_route(index, old, True) if old else _delete_route(index, route)]))
    for key, old in current.items():
        if key not in declared and old["protocol"] == _STATIC and "routes" in wanted.exact:
            changes.append(Change("remove %s of %s" % (_route_words(old), spec.key), "routes", before, after,
                                  lambda index, old=old: [_delete_route(index, old)], lambda index, old=old: [_new_route(index, old, False)]))
    return changes


def _is_ours(route, now, known):
    """On this link, or without any and declared, now or before."""
    if route["type"] == "unicast":
        return now.link is not None and route["index"] == now.link["index"]
    return parts.route_key(route) in known


def _same_route(declared, found, now):
    return found["type"] == declared["type"] and (declared["type"] != "unicast" or found["index"] == now.link["index"]) and \
        found["via"] == declared["via"] and not found.get("hops") and all(
            declared[key] is None or found[key] == declared[key] for key in ("source", "mtu"))


def _new_route(index, route, replace):
    """In the place of one that is ours only: one through another device is not ours to replace."""
    return nm.new_route(route["to"], via=route["via"], index=index if route["type"] == "unicast" else None, family=route["family"],
                        source=route["source"], metric=route["metric"], table=route["table"], kind=route["type"], mtu=route["mtu"], replace=replace)


def _delete_route(index, route):
    return nm.delete_route(route["to"], via=route["via"], index=index if route["type"] == "unicast" else None, family=route["family"],
                           metric=route["metric"], table=route["table"], kind=route["type"])


def _route_words(route):
    to = route["to"] if route["to"] != "default" or route["family"] == 4 else "default (IPv6)"
    return "route %s%s" % (to, " via " + route["via"] if route["via"] else "")


def _shown(routes):
    return [_route_words(route)[len("route "):] for key, route in sorted(routes.items(), key=str)]


# -- neighbours

def _neighbours(spec, now, wanted, flushed):
    if wanted.neighbours is None or not wanted.up:
        return []
    current = {each["address"]: each["mac"] for each in _mine(spec, now, "neighbours") if not each["proxy"] and not flushed}
    declared = {each["address"]: each["mac"] for each in wanted.neighbours}
    changes = []
    for address in dict.fromkeys(list(declared) + (list(current) if "neighbours" in wanted.exact else [])):
        before, after = current.get(address), declared.get(address)
        if before != after:
            forth, back = [_neighbour(address, mac) for mac in (after, before)]
            changes.append(Change("%s neighbour %s of %s" % ("set" if after else "remove", address, spec.key), "neighbours",
                                  current or None, declared, forth, back))
    return changes


def _neighbour(address, mac):
    return lambda index: [nm.new_neighbour(index, address, mac) if mac else nm.delete_neighbour(index, address)]


# -- rules

def _rules(spec, now, wanted):
    """They belong to the namespace: those of its other interfaces (``kept_rules``) stay, and those of somebody else."""
    if wanted.rules is None:
        return []
    current = [{key: rule[key] for key in _RULE} for rule in now.space.rules if rule["protocol"] == _STATIC and rule["action"] == "table"]
    declared = [_plain_rule(rule) for rule in wanted.rules]
    others = [_plain_rule(rule) for rule in wanted.kept_rules or ()]
    old = [rule for rule in current if rule not in declared and rule not in others] if "rules" in wanted.exact else []
    new = [rule for rule in declared if rule not in current]
    before = [_rule_words(rule) for rule in current if rule not in others] or None
    after = [_rule_words(rule) for rule in current if rule not in others and rule not in old] + [_rule_words(rule) for rule in new]
    changes = []
    for rule in old + new:
        acts = [lambda unused, rule=rule, act=act: [act(**_arguments(rule))] for act in (nm.new_rule, nm.delete_rule)]
        changes.append(Change("%s rule %s of %s" % ("add" if rule in new else "remove", _rule_words(rule), spec.key), "rules", before, after,
                              *(acts if rule in new else reversed(acts))))
    return changes


_RULE = ("family", "priority", "from", "to", "mark", "table")


def _plain_rule(rule):
    mark = rule["mark"]
    return dict({key: rule[key] for key in _RULE}, mark=(mark, 0xFFFFFFFF) if isinstance(mark, int) else mark)


def _arguments(rule):
    return {"source" if key == "from" else key: rule[key] for key in _RULE}


def _rule_words(rule):
    return "%d (IPv%d)" % (rule["priority"], rule["family"])


# -- sysctls

def _sysctls(host, spec, now, wanted):
    """Where the kernel has no IPv6, what is declared of both families is of IPv4 alone."""
    if not wanted.sysctls:
        return []
    current = {}
    if now.link is not None and ACCEPT_RA in wanted.sysctls and netlink.accept_ra(now.link) is not None:
        current[ACCEPT_RA] = str(netlink.accept_ra(now.link))
    if now.link is not None and set(wanted.sysctls).difference(current):
        with nsfs.visit({"net": now.space.path}, host.proc):
            for key in wanted.sysctls:
                current[key] = _read(spec, key, host.proc)
    changes = []
    for key, text in wanted.sysctls.items():
        family, slash, word = key.partition("/")
        twin = "%s/%s" % ("ipv6" if family == "ipv4" else "ipv4", word)
        if now.link is not None and current[key] is None and current.get(twin) is not None:
            continue
        if current.get(key) != text:
            path = _path(spec, key)
            # A new interface has both families or not, which is seen when it is there; a change is of one that was read.
            changes.append(Change("set %s of %s" % (path, spec.key), "sysctls." + key.replace("/", "."), current.get(key), text, last=key != ACCEPT_RA,
                                  call=lambda unused, path=path, text=text, optional=twin in wanted.sysctls: _write(path, text, optional),
                                  uncall=lambda unused, path=path, old=current.get(key): old is not None and _write(path, old, True)))
    return changes


def _path(spec, key):
    family, slash, word = key.partition("/")
    return "net/%s/conf/%s/%s" % (family, spec.name, word)


def _read(spec, key, proc):
    try:
        return nsfs.read_sysctl(_path(spec, key), proc)
    except OSError:
        return None


def _write(path, text, optional):
    try:
        nsfs.write_sysctl(path, text)
    except FileNotFoundError:
        if not optional:
            raise
