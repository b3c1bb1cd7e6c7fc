# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The table `inet bulkhead`: its sets, chains and rules, which are the same on every host and at every time.

All that differs is elements of the sets (`_model/rules.py`). Rules are written as `nft -n -j` lists them, so that what is found
can be compared with what is meant; forms in which versions of nft differ are brought to one by `normal()`.
A verdict `accept` ends this table's chain only: somebody else's table still has its say, and a `drop` there holds.
"""

from __future__ import annotations

FAMILY, TABLE = "inet", "bulkhead"
TABLE_OBJECT = {"table": {"family": FAMILY, "name": TABLE}}

_FAMILIES = (("4", "ipv4_addr", "ip"), ("6", "ipv6_addr", "ip6"))
_SETS = {
    "bridges": ["ifname"],  # of our networks
    "guarded": ["ifname"],  # of networks whose members may send from their own addresses only
    "pairs": ["ifname", "ifname"],  # whose members may open connections to whose: (from, to)
    "outward": ["ifname"],  # may leave by any device
    "uplinks": ["ifname", "ifname"],  # may leave by this device
    "masquerade": ["ifname"],  # leave with the host's address
    "inward": ["ifname", "ifname"],  # open connections into an internal network, whose members know no way back but to their gateway
    "opened": ["nf_proto", "ifname"],  # forward that family only because we have turned that on
    "closed": ["nf_proto"],  # of this family the whole host forwards only because we have turned that on
}
_INTERVALS = {"services": ["ifname", "inet_proto", "inet_service"]}  # of the host, for members
_MAPS = {}
for _digit, _address, _protocol in _FAMILIES:
    _SETS["members" + _digit] = ["ether_addr", _address]
    _INTERVALS["hairpin" + _digit] = ["ifname", _address]  # each bridge with its subnets
    _SETS["egress" + _digit] = [_address]  # may open only what is in the next two
    _INTERVALS["allow" + _digit] = [_address, "inet_proto", _address, "inet_service"]
    _INTERVALS["allow_any" + _digit] = [_address, _address]
    for _name, _key in (("publish", [_address, "inet_proto", "inet_service"]), ("publish_any", ["inet_proto", "inet_service"])):
        _MAPS[_name + _digit] = _key, _address
        _MAPS[_name + "_port" + _digit] = _key, "inet_service"
KINDS = dict(_SETS, **_INTERVALS, **{_name: _key for _name, (_key, _data) in _MAPS.items()})  # of each set, what a value consists of


# -- the words of rules

def _meta(key):
    return {"meta": {"key": key}}


def _field(protocol, field):
    return {"payload": {"protocol": protocol, "field": field}}


def _fib(which):
    return {"fib": {"result": "type", "flags": [which]}}


def _is(left, right, op="=="):
    """``left``: one thing, or a tuple of things that a set joins."""
    return {"match": {"op": op, "left": {"concat": list(left)} if isinstance(left, tuple) else left, "right": right}}


def _not(left, right):
    return _is(left, right, "!=")


def _prefix(address, length):
    return {"prefix": {"addr": address, "len": length}}


def _jump(chain):
    return {"jump": {"target": chain}}


_IN, _OUT = _meta("iifname"), _meta("oifname")
_FROM_US, _TO_US = _is(_IN, "@bridges"), _is(_OUT, "@bridges")
_FROM_OTHERS, _TO_OTHERS = _not(_IN, "@bridges"), _not(_OUT, "@bridges")
_FAMILY, _PROTOCOL, _PORT = _meta("nfproto"), _meta("l4proto"), _field("th", "dport")
_KNOWN = _is({"ct": {"key": "state"}}, [2, 4], "in")  # established, related
_PUBLISHED = _is({"ct": {"key": "status"}}, 32, "in")  # dnat
_LOCAL = 2  # RTN_LOCAL
_ACCEPT, _DROP, _RETURN, _MASQUERADE = {"accept": None}, {"drop": None}, {"return": None}, {"masquerade": None}
_REJECT = {"reject": {"type": "icmpx", "expr": 3}}  # admin-prohibited
_NEIGHBOURS = [130, 131, 132, 133, 135, 136, 143]  # icmpv6: what finds routers, neighbours and listeners
_BASES = {  # chain: (type, hook, priority)
    "guard": ("filter", "prerouting", -300),
    "prerouting": ("nat", "prerouting", -100),
    "output": ("nat", "output", -100),
    "forward": ("filter", "forward", 0),
    "input": ("filter", "input", 0),
    "redirects": ("filter", "output", 0),
    "postrouting": ("nat", "postrouting", 100),
}


def _published(digit, family):
    every = (_PROTOCOL, _PORT)
    return [[_to(family, (_field(family, "daddr"),) + every, "publish", digit)],
            [_is(_fib("daddr"), _LOCAL)] + ([_not(_field("ip6", "daddr"), "::1")] if family == "ip6" else []) + [  # never routed away
                _to(family, every, "publish_any", digit)]]


def _to(family, key, name, digit):
    """Two maps of one key, because nft 1.0.6 cannot make a map to an address and a port from JSON."""
    address, port = ({"map": {"key": {"concat": list(key)}, "data": "@%s%s" % (name + part, digit)}} for part in ("", "_port"))
    return {"dnat": {"family": family, "addr": address, "port": port}}


def _listed(digit, family):
    here, there = _field(family, "saddr"), _field(family, "daddr")
    return [[_is((here, _PROTOCOL, there, _PORT), "@allow" + digit), _RETURN],
            [_is((here, there), "@allow_any" + digit), _RETURN]]


_CHAINS = {
    # What members send, before anything else is thought about it. 127.0.0.0/8 is the host's own, though the bridges route it
    # (route_localnet) for the sake of ports published there.
    "guard": [
        [_FROM_US, _is(_field("ip", "saddr"), _prefix("127.0.0.0", 8)), _DROP],
        [_FROM_US, _is(_field("ip", "daddr"), _prefix("127.0.0.0", 8)), _DROP],
        [_is(_IN, "@guarded"), _not((_field("ether", "saddr"), _field("ip", "saddr")), "@members4"), _DROP],
        [_is(_IN, "@guarded"), _not(_field("ip6", "saddr"), {"set": ["::", _prefix("fe80::", 10)]}),
         _not((_field("ether", "saddr"), _field("ip6", "saddr")), "@members6"), _DROP],
    ],
    "publish": _published("4", "ip") + _published("6", "ip6"),
    "prerouting": [[_jump("publish")]],
    "output": [[_jump("publish")]],
    # Connections that were let in or out once go on, whatever becomes of the elements.
    "forward": [
        [_KNOWN, _ACCEPT],
        [_is((_FAMILY, _IN), "@opened"), _TO_OTHERS, _DROP],
        [_is(_FAMILY, "@closed"), _FROM_OTHERS, _TO_OTHERS, _DROP],
        [_FROM_OTHERS, _TO_OTHERS, _ACCEPT],
        [_FROM_US, _jump("egress")],
        [_PUBLISHED, _ACCEPT],
        [_is((_IN, _OUT), "@pairs"), _ACCEPT],
        [_TO_US, _DROP],
        [_is(_IN, "@outward"), _ACCEPT],
        [_is((_IN, _OUT), "@uplinks"), _ACCEPT],
        [_DROP],
    ],
    "input": [
        [_FROM_OTHERS, _ACCEPT],
        [_KNOWN, _ACCEPT],
        [_is(_field("icmpv6", "type"), {"set": _NEIGHBOURS}), _ACCEPT],
        [_jump("egress")],
        [_is(_PROTOCOL, {"set": [1, 58]}), _ACCEPT],  # icmp, icmpv6
        [_is((_IN, _PROTOCOL, _PORT), "@services"), _ACCEPT],
        [_DROP],
    ],
    "egress": [
        [_is(_field("ip", "saddr"), "@egress4"), _jump("listed")],
        [_is(_field("ip6", "saddr"), "@egress6"), _jump("listed")],
    ],
    "listed": _listed("4", "ip") + _listed("6", "ip6") + [[_REJECT]],
    # Of mode routed: a member that was told the way to another one would go where the bridge lets nothing through. For IPv6 there is no
    # sysctl against that, and IPv4's holds only where it is off for the whole host.
    "redirects": [
        [_TO_US, _is(_field("icmp", "type"), 5), _DROP],
        [_TO_US, _is(_field("icmpv6", "type"), 137), _DROP],
    ],
    # The host itself, and a member that meets one of its network by an address of the host, are answered through us. There is no
    # iifname here for a frame that br_netfilter hands over.
    "postrouting": [
        [_TO_US, _PUBLISHED, _is(_fib("saddr"), _LOCAL), _MASQUERADE],
        [_is((_OUT, _field("ip", "saddr")), "@hairpin4"), _PUBLISHED, _MASQUERADE],
        [_is((_OUT, _field("ip6", "saddr")), "@hairpin6"), _PUBLISHED, _MASQUERADE],
        [_is(_IN, "@masquerade"), _TO_OTHERS, _MASQUERADE],
        [_is((_IN, _OUT), "@inward"), _MASQUERADE],
    ],
}
_ORDER = sorted(_CHAINS, key=lambda name: (name in _BASES, name == "egress"))  # what is jumped to is there before


def objects():
    """The whole, as `nft -j` adds and lists it, but for the elements."""
    found = [TABLE_OBJECT]
    found += [_object("set", name, type=kinds if len(kinds) > 1 else kinds[0]) for name, kinds in _SETS.items()]
    found += [_object("set", name, type=kinds, flags=["interval"]) for name, kinds in _INTERVALS.items()]
    found += [_object("map", name, type=kinds, map=data) for name, (kinds, data) in _MAPS.items()]
    for name in _ORDER:
        base = dict(zip(("type", "hook", "prio"), _BASES[name]), policy="accept") if name in _BASES else {}
        found.append(_object("chain", name, **base))
    for name in _ORDER:
        found += [{"rule": {"family": FAMILY, "table": TABLE, "chain": name, "expr": expressions}} for expressions in _CHAINS[name]]
    return found


def _object(kind, name, **keys):
    return {kind: dict(family=FAMILY, table=TABLE, name=name, **keys)}


def normal(listed):
    """What a table is, to be compared: {(kind, name): …}, with its rules by chain; without handles and elements."""
    found = {}
    for each in listed:
        (kind, keys), = each.items()
        if kind == "rule":
            found.setdefault(("rules", keys.get("chain")), []).append({key: keys[key] for key in keys if key not in ("handle", "chain")})
        else:
            keys = {key: value for key, value in keys.items() if key not in ("handle", "elem")}
            found[kind, keys.get("name")] = keys
    return found
