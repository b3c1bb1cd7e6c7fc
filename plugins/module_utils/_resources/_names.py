# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The names by which the members of a network find each other: `/etc/netns/NAMESPACE/hosts` and `resolv.conf`.

That is where ip-netns(8) takes the files from that a command sees as /etc/hosts and /etc/resolv.conf, and the prepared root of a
sandbox has binds of them. So they are written in place: a bind, and who runs behind it, shows the same inode for good.
A file is ours as long as its first line says so, which outlives a reboot as the file does. No link is followed.

Who is a member is noted for each namespace by a claim. A change of it is a step of that namespace; the files of the others follow
at the end of the run, as what a bridge knows of its ports does.
"""

from __future__ import annotations

import errno
import os
import stat

from .._model.errors import BulkheadError, reason
from .._model.root import NAMED as FILES

NOUN = "names"
MARK = "# Kept by Bulkhead. What is changed here by hand is changed back.\n"
LOCAL = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"
RESOLVERS = ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf")  # the second: what is behind the stub at 127.0.0.53
SERVERS = 3  # MAXNS of resolv.conf(5): further ones are not asked
MODE = 0o644
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a fifo of that name does not make us wait


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
            for unused, each in sorted(_own(host, namespace).items()):
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


# -- the files

class _File:
    """One as it is: its ``text`` (None: it is not there), is it ``ours``, and has it the ``rights`` that we give it?"""

    __slots__ = ("text", "ours", "rights")

    def __init__(self, text=None, ours=True, rights=True):
        self.text, self.ours, self.rights = text, ours, rights


def _open(host, namespace, make=False):
    """The directory of a namespace; None where there is none."""
    if make:
        os.makedirs(host.names, mode=0o755, exist_ok=True)
    try:
        top = os.open(host.names, _DIRECTORY)
        try:
            if make:
                try:
                    os.mkdir(namespace, 0o755, dir_fd=top)
                except FileExistsError:
                    pass
            return os.open(namespace, _DIRECTORY, dir_fd=top)
        finally:
            os.close(top)
    except FileNotFoundError:
        return None
    except OSError as exc:  # a link, or no directory
        raise OSError(exc.errno, exc.strerror, "%s/%s" % (host.names, namespace)) from exc


def _read(directory, name):
    try:
        fd = os.open(name, os.O_RDONLY | _FILE, dir_fd=directory)
    except FileNotFoundError:
        return _File()
    except OSError as exc:
        if exc.errno in (errno.ELOOP, errno.ENXIO):  # a link, a socket
            return _File("", ours=False)
        raise
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            return _File("", ours=False)
        text = os.read(fd, found.st_size + 1).decode("utf-8", "replace")
    finally:
        os.close(fd)
    # One without content is what a power cut may leave of ours, and is a loss to nobody.
    return _File(text, text.startswith(MARK) or not text.strip("\0\n "),
                 (stat.S_IMODE(found.st_mode), found.st_uid) == (MODE, os.geteuid()))


def _found(host, namespace):
    """{file: its _File}."""
    directory = _open(host, namespace)
    if directory is None:
        return {name: _File() for name in FILES}
    try:
        return {name: _read(directory, name) for name in FILES}
    finally:
        os.close(directory)


def _put(host, namespace, texts):
    """Write the files whose text is given, and remove those whose text is None. Directories come and go with them."""
    directory = _open(host, namespace, make=any(text is not None for text in texts.values()))
    if directory is None:
        return
    try:
        for name, text in texts.items():
            _unlink(directory, ".%s.new" % name)  # of a run that was killed
            if text is None:
                _unlink(directory, name)
            else:
                _write(directory, name, text.encode())
    finally:
        os.close(directory)
    for path in ("%s/%s" % (host.names, namespace), host.names):
        try:
            os.rmdir(path)
        except OSError:  # not empty
            break


def _write(directory, name, data):
    try:
        fd = os.open(name, os.O_WRONLY | _FILE, dir_fd=directory)
    except FileNotFoundError:
        _create(directory, name, data)
        return
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EEXIST, "this is no plain file", name)
        os.fchown(fd, os.geteuid(), os.getegid())
        os.fchmod(fd, MODE)
        # One call, with blank lines to the end of the old text: whoever reads meanwhile sees no half of an old line.
        os.pwrite(fd, data.ljust(found.st_size, b"\n"), 0)
        os.ftruncate(fd, len(data))
    finally:
        os.close(fd)


def _create(directory, name, data):
    """There whole or not at all."""
    partial = ".%s.new" % name
    fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FILE, MODE, dir_fd=directory)
    try:
        os.fchmod(fd, MODE)  # whatever the umask said
        os.pwrite(fd, data, 0)
    finally:
        os.close(fd)
    os.rename(partial, name, src_dir_fd=directory, dst_dir_fd=directory)


def _unlink(directory, name):
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        pass


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
    old = {name: found[name].text for name in wrong}
    plan.add("%s names of %s" % ("write" if members else "remove", namespace),
             lambda: _act(host, namespace, before, members, {name: wanted[name] for name in wrong}),
             lambda: _act(host, namespace, members, before, old))


def _shown(members):
    """{interface: its addresses and aliases}, for a difference; None without any."""
    return {name: each["addresses"] + each["aliases"] for name, each in members.items()} or None


def _act(host, namespace, before, after, texts):
    if after:
        host.claims.complete(NOUN, namespace, after)
    _put(host, namespace, texts)
    if not after:
        host.claims.drop(NOUN, namespace)
    if before != after:
        for each in list(before.values()) + list(after.values()):
            host.at_end(_refresh, each["network"])


def plan_network(host, name, options, plan):
    """The files of a network's members where it is declared by these options from now on; of a network that goes, {}."""
    host.cached("zones", dict)[name] = Zone(options)
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
    host.drop("members of networks")
    host.drop("lines")
    for namespace in host.claims.names(NOUN):
        try:
            if _reached(host, _own(host, namespace)).intersection(networks):
                _put_all(host, {namespace: _stale(host, namespace)}, 1)
        except OSError as exc:
            host.warn("Cannot write the names of %s: %s." % (namespace, reason(exc)))
