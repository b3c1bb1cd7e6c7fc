# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The firewall of networks: one table `inet bulkhead`, whose rules never change (`_skeleton.py`), and sets whose elements do.

A transaction is reckoned from what the kernel has, and is taken whole or not at all: also the whole making anew, which thereby
disturbs no connection. Each element bears the name of its owner (`_model/rules.py`). The owners of a run are compared exactly, those of others are
left alone. For `network` and `interface`:

    _rules.expect(host, things)     once, in find(), with all that the run declares: so that of two members one may take in the
                                    same run what the other gives up. A thing is a Net, a Member or an Absent.
    _rules.plan(host, plan, thing)  in plan(): adds the steps. The rules of all plans are set by one transaction ahead of all
                                    other steps, so nothing is open for a moment; those of an Absent go after all other steps.
    _rules.used(host)               who has which address, MAC and published port, of the kernel and of what was expected.
    _rules.owners(host)             whose elements are in the kernel, to find what is left of things that are gone.

What is in `opened` and `closed` is a thing as well: `Opened(devices, ipv6)`, whose owner is the host.
Where the table is gone or was changed by hand it is made anew whole, with the elements that are in the kernel and those of
what is recorded: `recorded(host)` of `network.py` and `interface.py` return the Nets and Members of all records for that
(of sandboxes too; addresses as last allocated).
"""

from __future__ import annotations

from .._kernel import conntrack, nft, sockets
from .._model import rules
from .._model.errors import BulkheadError, reason
from . import _hostnet, _skeleton

_NFPROTO = {4: 2, 6: 10}  # NFPROTO_* of linux/netfilter.h
_WORDS = {number: word for word, number in rules.PROTOCOLS.items()}
_KINDS = {"inet_proto": _WORDS, "nf_proto": {2: "ipv4", 10: "ipv6"}}  # what is a number to nft


class Absent:
    """Of this owner nothing is to be left."""

    def __init__(self, owner):
        self.owner = owner

    def elements(self):
        return {}


class Opened:
    """What the host forwards only because we turned that on: IPv4 that comes in by these devices, IPv6 by any. What of it is neither
    from nor for a network of ours is dropped. All of them, or none.
    """

    owner = rules.HOST

    def __init__(self, devices, ipv6=False):
        self.devices, self.ipv6 = devices, ipv6

    def elements(self):
        found = {"opened": {(_NFPROTO[4], device): None for device in self.devices}, "closed": {(_NFPROTO[6],): None} if self.ipv6 else {}}
        return {name: elements for name, elements in found.items() if elements}


class Used:
    """Who has what: ``addresses`` {address: owner}, ``macs`` {MAC: owner}, ``published`` {(family, protocol's number, port):
    {host address, or "" for every one: owner}}. Of two who want the same, the first.
    """

    def __init__(self):
        self.addresses, self.macs, self.published = {}, {}, {}

    def add(self, owner, elements):
        for family in (4, 6):
            for mac, address in elements.get("members%d" % family, ()):
                self.addresses.setdefault(address, owner)
                self.macs.setdefault(mac, owner)
        for family, host_address, protocol, port in rules.published(elements):
            self.published.setdefault((family, protocol, port), {}).setdefault(host_address, owner)


class _Found:
    """The table as it is. ``there``: it exists; ``sound``: it is as it should be, but for the elements of owners."""

    def __init__(self, host):
        try:
            listed = nft.table(host.run, _skeleton.FAMILY, _skeleton.TABLE)
        except nft.NftError as exc:
            if not (host.check and exc.missing):
                raise _error("read the rules of networks", exc) from exc
            host.warn("Cannot read the rules of networks: %s. An earlier task is expected to install the package nftables." % exc)
            listed = None
        self.there = listed is not None
        self.owned = {}  # {owner: {set: {value: data}}}
        for name, elements in nft.elements(listed or ()).items():
            for value, (data, owner) in elements.items():
                self.owned.setdefault(owner, {}).setdefault(name, {})[value] = data
        self.sound = self.there and None not in self.owned and _skeleton.normal(listed) == _skeleton.normal(_skeleton.objects())
        self.announced = False  # does a plan of this run already mend the table?


class _Change:
    """Elements of one owner before and after; ``done`` when the transaction of all took them."""

    def __init__(self, owner, before, after):
        self.owner, self.before, self.after, self.done = owner, before, after, False


def expect(host, things):
    """What this run declares, all of it, before the first plan()."""
    expected, owned = _expected(host), _found(host).owned
    for thing in things:
        try:
            wanted = thing.elements()
        except BulkheadError:  # plan() raises it, where it is one of many
            continue
        known = expected.get(thing.owner, owned.get(thing.owner))
        if known is None:
            used(host).add(thing.owner, wanted)
        elif known != wanted:
            host.drop("rules used")
        expected[thing.owner] = wanted


def owners(host):
    """{owner: {set: {value: data}}} of what is in the kernel; {} where the table is not there."""
    return _found(host).owned


def used(host):
    """A Used."""
    return host.cached("rules used", lambda: _used(host))


def plan(host, plan, thing):
    """Add what is missing, and the difference as `rules`. Refuses what another owner has (an address, a MAC, a published port), and
    a port that a process of the host listens on. Warns where somebody else's firewall would drop what this one lets through.

    Steps: `set rules of lab`, `remove rules of web/eth0`, and where needed, once in a run, `mend table inet bulkhead`.
    """
    now, wanted = _found(host), thing.elements()
    if _expected(host).get(thing.owner) != wanted:
        expect(host, [thing])
    change = _Change(thing.owner, now.owned.get(thing.owner, {}), wanted)
    if wanted:
        _refuse(host, change)
        _refuse_ports_of_processes(host, change)
    if wanted and not now.sound and not now.announced:
        now.announced = True
        plan.differ("table", "changed" if now.there else None, "as it should be")
        mend = _Change(None, {}, {})
        plan.add("%s table %s %s" % ("mend" if now.there else "make", _skeleton.FAMILY, _skeleton.TABLE),
                 lambda: _apply(host, mend), together=_apply_all, thing=mend)
    if change.before == wanted:
        return
    plan.differ("rules", *_difference(change))
    if isinstance(thing, rules.Net):
        _warn_of_others(host, plan, thing)
    words = "the host" if thing.owner == rules.HOST else thing.owner
    if wanted:
        plan.add("set rules of %s" % words, lambda: _apply(host, change), lambda: host.at_end(_settle, (change.owner, change.before)),
                 together=_apply_all, thing=change)
    else:  # the last of all, so that what goes is held by its rules until it is gone
        plan.add("remove rules of %s" % words, lambda: host.at_end(_settle, (change.owner, {})),
                 lambda: host.at_end(_settle, (change.owner, change.before)))


# -- what is there

def _found(host):
    return host.cached("rules", lambda: _Found(host))


def _used(host):
    found, expected = Used(), _expected(host)
    for owner, elements in _found(host).owned.items():
        if owner not in expected:
            found.add(owner, elements)
    for owner, elements in expected.items():
        found.add(owner, elements)
    return found


def _expected(host):
    """{owner: {set: {value: data}}} of what this run declares."""
    return host.cached("rules expected", dict)


def _refuse(host, change):
    """What one owner has, no other can have."""
    taken, mine = used(host), Used()
    mine.add(change.owner, change.after)
    for kind in ("addresses", "macs"):
        for text in getattr(mine, kind):
            owner = getattr(taken, kind)[text]
            if owner != change.owner:
                raise BulkheadError("Cannot give %s to %s: %s has it. Use another one, or remove that first." % (text, change.owner, owner),
                                    owner=owner)
    for key, places in mine.published.items():
        for other, owner in taken.published[key].items():
            if owner != change.owner and ("" in places or not other or other in places):
                raise BulkheadError("Cannot publish port %d/%s for %s: it is published for %s. Use another port, or another address of the "
                                    "host for both." % (key[2], _WORDS[key[1]], change.owner, owner), owner=owner)


def _refuse_ports_of_processes(host, change):
    """A port that a process of the host listens on would be taken away from it."""
    fresh = rules.published(change.after).keys() - rules.published(change.before)
    if not fresh:
        return
    listening = host.cached("listening sockets", lambda: sockets.listening(host.proc))
    for family, host_address, protocol, port in sorted(fresh):
        for address, inode in listening.get((family, protocol, port), ()):
            if not host_address or address in ("0.0.0.0", "::", host_address):
                raise BulkheadError("Cannot publish port %d/%s for %s: %s listens on it. Stop that, or use another port." % (
                    port, _WORDS[protocol], change.owner, sockets.holder(host.proc, inode) or "a process of the host"))


def _warn_of_others(host, plan, net):
    """What passes our table may still be dropped by somebody else's."""
    try:
        chains = host.cached("base chains", lambda: nft.base_chains(host.run))
    except nft.NftError:  # not installed, in check mode
        return
    for chain in chains:
        if chain.get("hook") not in ("forward", "input") or chain["family"] not in ("ip", "ip6", "inet") or (
                chain["family"], chain["table"]) == (_skeleton.FAMILY, _skeleton.TABLE):
            continue
        if chain["table"] == "firewalld":
            plan.warn("firewalld may drop what network %s lets through. Have it trust the bridge, whose rules are ours: "
                      "firewall-cmd --permanent --zone=trusted --add-interface=%s && firewall-cmd --reload." % (net.name, net.bridge))
        elif chain.get("policy") == "drop":
            plan.warn("The chain %s of the table %s %s drops what no rule of it accepts, also of network %s. Have it accept what comes from "
                      "and goes to %s." % (chain["name"], chain["family"], chain["table"], net.name, net.bridge))


def _difference(change):
    """(before, after) as texts, by set, of the sets that differ."""
    names = [name for name in sorted(set(change.before) | set(change.after)) if change.before.get(name) != change.after.get(name)]
    return tuple({name: [_text(name, *each) for each in sorted(side[name].items(), key=str)] for name in names if name in side}
                 for side in (change.before, change.after))


def _text(name, value, data):
    words = ["%s-%s" % part if isinstance(part, tuple) else str(_KINDS.get(kind, {}).get(part, part))
             for kind, part in zip(_skeleton.KINDS.get(name, ()), value)]
    return " . ".join(words) + (" : %s" % data if data else "")


# -- transactions

def _apply_all(host, changes):
    """Ahead of all steps. Where nft refuses, each step tries for itself, and the one with the fault fails."""
    try:
        _transact(host, {change.owner: change.after for change in changes})
    except BulkheadError:
        return
    for change in changes:
        change.done = True


def _apply(host, change):
    if not change.done:
        _transact(host, {change.owner: change.after})


def _settle(host, items):
    """At the end of the run: [(owner, elements)], the later one of an owner counts."""
    _transact(host, dict(items))


def _transact(host, wanted):
    """Bring the owners in ``wanted`` to their elements, and the table to what it should be."""
    wanted.pop(None, None)
    for last in (False, True):
        now = _found(host)
        after = dict(now.owned) if now.sound else _known(host, now)
        after.update(wanted)
        commands = _commands(now, after, wanted) if now.sound else _anew(after)
        try:
            if commands:
                nft.transact(host.run, commands)
                _forget_flows(host, now.owned, after)
            break
        except nft.NftError as exc:
            if last or exc.missing:  # else somebody may have changed it since it was read
                raise _error("set the rules of networks", exc) from exc
        finally:
            host.drop("rules")


def _forget_flows(host, before, after):
    """A flow of UDP has no end while its client sends: what it was before a port was published, moved or taken back, it would stay."""
    before, after = ({key: target for elements in owned.values() for key, target in rules.published(elements).items()
                      if key[2] == rules.PROTOCOLS["udp"]} for owned in (before, after))
    gone = {(port, target) for (family, address, protocol, port), target in before.items()
            if after.get((family, address, protocol, port)) != target}
    fresh = {(address, port) for (family, address, protocol, port), target in after.items()
             if before.get((family, address, protocol, port)) != target}
    if not gone and not fresh:
        return
    try:
        local = {each["address"].partition("/")[0] for each in _hostnet.addresses(host)} if fresh else ()
        conntrack.forget(lambda flow: (flow.target[1], flow.answers) in gone or flow.answers == flow.target and (
            flow.target in fresh or ("", flow.target[1]) in fresh and (flow.target[0] in local or flow.target[0].startswith("127."))))
    except OSError as exc:
        host.warn("Cannot end the flows of UDP to ports that were published or taken back: %s. They go on until their clients pause." % reason(exc))


def _commands(now, after, wanted):
    if not any(after.values()):
        return [{"delete": _skeleton.TABLE_OBJECT}]
    there, commands = _joined(now.owned), []
    come = {name: {value: each for value, each in elements.items() if there.get(name, {}).get(value) != each}
            for name, elements in _joined(wanted).items()}
    for name, elements in there.items():
        _add(commands, "delete", name, {value: (data, None) for value, (data, owner) in elements.items()
                                        if value in come.get(name, ()) or owner in wanted and value not in wanted[owner].get(name, ())})
    for name, elements in come.items():
        _add(commands, "add", name, elements)
    return commands


def _known(host, now):
    """All elements of the kernel that are somebody's, and what the records know of."""
    known = {owner: elements for owner, elements in now.owned.items() if owner is not None}
    known.update((thing.owner, thing.elements()) for thing in _recorded(host))
    return known


def _anew(after):
    """The whole table."""
    commands = [{"add": _skeleton.TABLE_OBJECT}, {"delete": _skeleton.TABLE_OBJECT}]
    if any(after.values()):
        commands += [{"add": each} for each in _skeleton.objects()]
        for name, elements in _joined(after).items():
            if name in _skeleton.KINDS:
                _add(commands, "add", name, elements)
    return commands


def _joined(owned):
    """{set: {value: (data, owner)}}"""
    found = {}
    for owner, elements in owned.items():
        for name, values in elements.items():
            found.setdefault(name, {}).update((value, (data, owner)) for value, data in values.items())
    return found


def _add(commands, verb, name, elements):
    if elements:
        commands.append({verb: {"element": {"family": _skeleton.FAMILY, "table": _skeleton.TABLE, "name": name, "elem": [
            nft.element(value, data, owner) for value, (data, owner) in elements.items()]}}})


def _recorded(host):
    """The Nets and Members of all records."""
    from . import interface, network  # they stand on this file

    return list(network.recorded(host)) + list(interface.recorded(host))


def _error(verb, exc):
    advice = "Install the package nftables." if exc.missing else "See `nft list table inet bulkhead`, and dmesg for what the kernel lacks."
    return BulkheadError("Cannot %s: %s. %s" % (verb, str(exc).rstrip("."), advice))
