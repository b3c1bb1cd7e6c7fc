# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The names by which the members of a network find each other: `/etc/netns/NAMESPACE/hosts` and `resolv.conf`.

That is where ip-netns(8) takes the files from that a command sees as /etc/hosts and /etc/resolv.conf, and the prepared root of a
sandbox has binds of them. So they are written in place: a bind, and who runs behind it, shows the same inode for good.
How they are read and written is in `_names_files.py`.

Who is a member is noted for each namespace by a claim. A change of it is a step of that namespace, done ahead for all of a run, so
that what starts in the first of them finds the last; the files of others follow at the end.
"""

from __future__ import annotations

from .._model.errors import BulkheadError, reason
from .._model.upgrade import of_trial
from ._names_files import FILES, MARK
from ._names_files import found as _found
from ._names_files import put as _put

NOUN = "names"
LOCAL = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"
RESOLVERS = ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf")  # the second: what is behind the stub at 127.0.0.53
SERVERS = 3  # MAXNS of resolv.conf(5): further ones are not asked


class Zone:
    """A network as the files tell of it, by its declaration.

    ``servers`` and ``search``: None is the host's own. ``internal``: nothing of the host's can be asked from there. ``open``: its
    members reach each other. ``reaches``: the networks whose members they reach, too.
    """

    __slots__ = ("servers", "search", "internal", "open", "reaches")

    def __init__(self, options):
        dns = options.get("dns") or {}
        self.servers, self.search = dns.get("servers"), dns.get("search")
        self.internal, self.open = bool(options.get("internal")), options.get("inter_sandbox") in (None, True)
        self.reaches = tuple(options.get("reaches") or ())


# -- what they say

def hosts(namespace, own, others):
    """The text of hosts; ``own``: [(address, [alias])] of its interfaces, ``others``: what lines() gave, in which it may be, too."""
    mine = "".join("%s %s\n" % (address, " ".join([namespace] + aliases)) for address, aliases in own)
    return MARK + LOCAL + mine + "".join(text for name, text in others if name != namespace)


def lines(members):
    """[(namespace, its lines)] of [(namespace, addresses, aliases)]. The name of one is no alias of another; an alias may be of several."""
    taken = {name for name, addresses, aliases in members}
    return [(name, "".join("%s %s\n" % (address, " ".join([name] + [word for word in aliases if word not in taken])) for address in addresses))
            for name, addresses, aliases in sorted(members)]


def resolver(servers, search):
    """The text of resolv.conf."""
    return MARK + ("search %s\n" % " ".join(search) if search else "") + "".join("nameserver %s\n" % each for each in servers[:SERVERS])


def upstream(paths=RESOLVERS):
    """(servers, search) of the host's own resolv.conf that can be asked from elsewhere: no loopback, no link-local."""
    search = []
    for path in paths:
        servers, words = _resolver(path)
        search = search or words
        if any(map(_elsewhere, servers)):
            return [each for each in servers if _elsewhere(each)], search
    return [], search


def _elsewhere(server):
    return not (server.startswith("127.") or server == "::1" or "%" in server)


def _resolver(path):
    servers, search = [], []
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            lines = stream.read(1 << 16).splitlines()
    except OSError:
        return servers, search
    for words in map(str.split, lines):
        if len(words) > 1 and words[0] == "nameserver":
            servers.append(words[1])
        elif len(words) > 1 and words[0] in ("search", "domain"):
            search = words[1:]
    return servers, search


def _texts(host, namespace, own):
    """{file: text} of a namespace; ``own``: {interface: {network, addresses, aliases}}. All None without any."""
    if not own:
        return dict.fromkeys(FILES)
    mine = [(address, each["aliases"]) for unused, each in sorted(own.items()) for address in each["addresses"]]
    return {"hosts": hosts(namespace, mine, _lines(host, _reached(host, own))), "resolv.conf": resolver(*_servers(host, own))}


def _reached(host, own):
    """The networks whose members are told."""
    found = set()
    for each in own.values():
        zone = _zone(host, each["network"])
        found.update(zone.reaches + ((each["network"],) if zone.open else ()))
    return frozenset(found)


def _lines(host, networks):
    """lines() of these networks; made once, for they are those of many files."""
    known = host.cached("lines", dict)
    if networks not in known:
        known[networks] = lines([member for network in networks for member in _members(host).get(network, ())])
    return known[networks]


def _servers(host, own):
    """(servers, search) of the networks that a namespace is on, in the order of its interfaces."""
    servers, search = {}, {}
    for unused, each in sorted(own.items()):
        zone = _zone(host, each["network"])
        outside = ([], []) if zone.internal else host.cached("upstream", upstream)
        servers.update(dict.fromkeys(outside[0] if zone.servers is None else zone.servers))
        search.update(dict.fromkeys(outside[1] if zone.search is None else zone.search))
    return list(servers), list(search)


def _members(host):
    """{network: [(namespace, addresses, aliases)]} of all claims."""
    def collect():
        found = {}
        for namespace in host.claims.names(NOUN):
            for unused, each in () if of_trial(namespace) else sorted(_own(host, namespace).items()):  # which nobody is to find
                found.setdefault(each["network"], []).append((namespace, each["addresses"], each["aliases"]))
        return found
    return host.cached("members of networks", collect)


def _own(host, namespace):
    """What is noted of a namespace."""
    return (host.claims.read(NOUN, namespace) or {}).get("identity") or {}


def _zone(host, network):
    zones = host.cached("zones", dict)
    if network not in zones:
        zones[network] = Zone(host.records.options("network", network) or {})
    return zones[network]


# -- what interfaces, networks and sandboxes call

def of(specs, aliases=()):
    """What plan() takes, of the InterfaceSpecs of a namespace; ``aliases`` are names of its own, such as its hostname."""
    return {each.name: {"network": each.network, "addresses": [address.partition("/")[0] for address in each.resolved],
                        "aliases": list(dict.fromkeys(list(each.aliases or ()) + [word for word in aliases if word != each.namespace]))}
            for each in specs if each.network}


def plan(host, namespace, plan, members, force=False):
    """The files of a namespace; ``members`` {interface: {"network": …, "addresses": [without prefix], "aliases": […]}} is all that
    it has on networks of ours from now on. Without any, the files go.
    """
    before = _own(host, namespace)
    wanted, found = _texts(host, namespace, members), _found(host, namespace)
    wrong = [name for name in FILES if found[name].text != wanted[name] or not found[name].rights]
    foreign = [name for name in wrong if not found[name].ours]
    if foreign and members and not force:
        raise BulkheadError("Cannot write %s/%s/%s: it was not made by Bulkhead. Move it away, and for other servers set dns of the network."
                            % (host.names, namespace, foreign[0]))
    if not members:
        wrong = [name for name in wrong if name not in foreign]
    if before == members and not wrong:
        return
    plan.differ("names", _shown(before), _shown(members))
    change = _Change(namespace, before, members, {name: found[name].text for name in wrong})
    plan.add("%s names of %s" % ("write" if members else "remove", namespace), lambda: _apply(host, change), lambda: _undo(host, change),
             _apply_all if members else None, change)


class _Change:
    """What a namespace has on networks before and after, the texts of its files that change, and how far that is done."""

    __slots__ = ("namespace", "before", "after", "old", "done", "error")

    def __init__(self, namespace, before, after, old):
        self.namespace, self.before, self.after, self.old = namespace, before, after, old
        self.done, self.error = False, None


def _shown(members):
    """{interface: its addresses and aliases}, for a difference; None without any."""
    return {name: each["addresses"] + each["aliases"] for name, each in members.items()} or None


def _apply_all(host, changes):
    """Who is a member is noted of all of them before the first file is written."""
    for act in (_note, _write_files):
        for change in changes:
            try:
                if change.error is None:
                    act(host, change)
            except OSError as exc:
                change.error = exc
    for change in changes:
        change.done = True


def _apply(host, change):
    if not change.done:
        _apply_all(host, [change])
    if change.error is not None:
        raise change.error


def _note(host, change):
    if change.after:
        host.claims.complete(NOUN, change.namespace, change.after)
    if change.before != change.after:
        for each in list(change.before.values()) + list(change.after.values()):
            host.at_end(_refresh, each["network"])
    _forget(host)


def _write_files(host, change):
    texts = _texts(host, change.namespace, change.after)
    _put(host, change.namespace, {name: texts[name] for name in change.old})
    if not change.after:
        host.claims.drop(NOUN, change.namespace)
        _forget(host)


def _undo(host, change):
    if change.before:
        host.claims.complete(NOUN, change.namespace, change.before)
    _put(host, change.namespace, change.old)
    if not change.before:
        host.claims.drop(NOUN, change.namespace)
    _forget(host)


def _forget(host):
    host.drop("members of networks")
    host.drop("lines")


def plan_network(host, name, options, plan):
    """The files of a network's members where it is declared by these options from now on; of a network that goes, {}."""
    zone = host.cached("zones", dict)[name] = Zone(options)
    if options and not zone.internal and zone.servers is None and not host.cached("upstream", upstream)[0]:
        plan.warn("Members of network %s can ask no name server: those of the host are its own alone. Set dns of the network." % name)
    stale = {namespace: _stale(host, namespace) for namespace in host.claims.names(NOUN)}
    if any(stale.values()):
        plan.differ("names", None, sorted(namespace for namespace, texts in stale.items() if texts))
        plan.add("write names of the members of network %s" % name, lambda: _put_all(host, stale, 1), lambda: _put_all(host, stale, 0))


def _stale(host, namespace):
    """{file: (its text, as it should be)} of those of ours that differ."""
    own, found = _own(host, namespace), _found(host, namespace)
    wanted = _texts(host, namespace, own) if own else {}
    return {name: (found[name].text, text) for name, text in wanted.items()
            if found[name].ours and (found[name].text != text or not found[name].rights)}


def _put_all(host, stale, side):
    for namespace, texts in stale.items():
        if texts:
            _put(host, namespace, {name: pair[side] for name, pair in texts.items()})


def _refresh(host, networks):
    """Whose network has other members than before learns of it. What cannot be written is told, and is no harm to those that can."""
    _forget(host)
    for namespace in host.claims.names(NOUN):
        try:
            if _reached(host, _own(host, namespace)).intersection(networks):
                _put_all(host, {namespace: _stale(host, namespace)}, 1)
        except OSError as exc:
            host.warn("Cannot write the names of %s: %s." % (namespace, reason(exc)))
