# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The lists of an interface: addresses, routes, rules, neighbours, sysctls, bandwidth, published ports, egress, peers.

Each parser returns the normal form, with every key there, or adds problems. Families that a text does not tell are of all families.
"""

from __future__ import annotations

from . import addresses, values

MAIN = 254  # the kernel's table `main`
PROTOCOLS = ("tcp", "udp")
ROUTE_TYPES = ("unicast", "blackhole", "unreachable", "prohibit", "throw")
_U32 = (1 << 32) - 1
_MOST_PORTS = 1024  # of one range; each is an element of the firewall
_FIRST_PRIORITY = 1000  # of rules that name none; before those of the kernel, which are 32766 and 32767
_BASE64 = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")


def _each(value, path, problems, parse):
    """The entries of a list, parsed; those with errors are left out."""
    found = [parse(item, "%s[%d]" % (path, index), problems) for index, item in enumerate(values.items(value, path, problems))]
    return [each for each in found if each is not None]


def _entries(value, path, problems, parsers, needed=()):
    """Dictionaries whose keys have these parsers; a key that is left out is None."""
    return _each(value, path, problems, lambda item, here, problems: _entry(item, here, problems, parsers, needed))


def _entry(value, path, problems, parsers, needed=()):
    before = len(problems.errors)
    value = values.mapping(value, path, problems, tuple(parsers))
    found = {key: None if value.get(key) is None else parse(value[key], "%s.%s" % (path, key), problems) for key, parse in parsers.items()}
    for key in needed:
        if value.get(key) is None:
            problems.add("%s.%s" % (path, key), "is missing")
    return found if len(problems.errors) == before else None


def _whole(low, high):
    return lambda value, path, problems: values.integer(value, path, problems, low, high)


def _once(found, key, path, problems, words):
    """Every entry another ``key(entry)``."""
    seen = set()
    for index, entry in enumerate(found):
        if key(entry) in seen:
            problems.add("%s[%d]" % (path, index), "%s is declared twice" % words)
        seen.add(key(entry))
    return found


def any_address(value, path, problems):
    """An address of one host, or a multicast group (the remote end of a vxlan)."""
    found = addresses.number(value)
    if found is not None and (found[1] >> 28 == 0xe if found[0] == 4 else found[1] >> 120 == 0xff):
        return addresses.show(*found)
    return addresses.address(value, path, problems)


def own_addresses(value, path, problems):
    """[`10.42.0.7/24`, …], each address once."""
    return _once(_each(value, path, problems, addresses.with_prefix), lambda each: each.partition("/")[0], path, problems, "the address")


def routes(value, path, problems):
    """[{to, family, via, source, metric, table, mtu, type}], to `default` where none is named."""
    found = []
    for index, route in enumerate(values.items(value, path, problems)):
        here = "%s[%d]" % (path, index)
        route = _entry(route, here, problems, {
            "to": addresses.target, "via": addresses.address, "source": addresses.address, "metric": _whole(1, _U32),
            "table": _table, "mtu": _whole(68, 65535), "type": lambda *args: values.choice(*args, ROUTE_TYPES)})
        if route is None:
            continue
        route.update(to=route["to"] or "default", table=route["table"] or MAIN, type=route["type"] or "unicast")
        texts = [text for text in (route["to"], route["via"], route["source"]) if text not in (None, "default")]
        families = {addresses.family(text) for text in texts}
        if len(families) > 1:
            problems.add(here, "has IPv4 and IPv6 in one route")
            continue
        if route["type"] != "unicast" and (route["via"] or route["source"]):
            problems.add(here, "a route of type %s leads nowhere: leave out via and source" % route["type"])
        route["family"] = families.pop() if families else 4
        if route["to"] != "default" and "/" not in route["to"]:
            route["to"] += "/%d" % addresses.BITS[route["family"]]
        if route["to"] in ("0.0.0.0/0", "::/0"):
            route["to"] = "default"
        found.append(route)
    return _once(found, route_key, path, problems, "the route")


def route_key(route):
    """What tells two routes of a namespace apart. Where no metric is named, it is the one that the kernel gives."""
    return route["family"], route["to"], route["table"], route["metric"] or (1024 if route["family"] == 6 else 0)


def _table(value, path, problems):
    words = {"main": MAIN, "default": 253}
    return words[value] if isinstance(value, str) and value in words else values.integer(value, path, problems, 1, _U32)


def rules(value, path, problems):
    """[{family, priority, from, to, mark: None, N or (N, mask), table}]; one without addresses is of both families."""
    found = []
    for index, rule in enumerate(values.items(value, path, problems)):
        here = "%s[%d]" % (path, index)
        rule = _entry(rule, here, problems, {"from": addresses.target, "to": addresses.target, "mark": _mark, "table": _table,
                                             "priority": _whole(1, 32765)}, needed=("table",))
        if rule is None:
            continue
        rule["priority"] = rule["priority"] or _FIRST_PRIORITY + index
        for side in ("from", "to"):
            if rule[side] == "default":
                rule[side] = None
            elif rule[side] and "/" not in rule[side]:
                rule[side] += "/%d" % addresses.BITS[addresses.family(rule[side])]
        families = {addresses.family(rule[side]) for side in ("from", "to") if rule[side]}
        if len(families) > 1:
            problems.add(here, "has IPv4 and IPv6 in one rule")
            continue
        found += [dict(rule, family=family) for family in families or (4, 6)]
    return _once(found, lambda rule: (rule["family"], rule["priority"]), path, problems, "the priority")


def _mark(value, path, problems):
    mark, slash, mask = str(value).partition("/")
    numbers = []
    for text in (mark, mask) if slash else (mark,):
        try:
            numbers.append(values.integer(int(text, 0), path, problems, 0, _U32))
        except ValueError:
            problems.add(path, "%s is not a mark, such as 7 or 0x10/0xf0" % values.quoted(value))
            return None
    return tuple(numbers) if slash else numbers[0]


def neighbours(value, path, problems):
    """[{address, mac}], permanent ones."""
    found = _entries(value, path, problems, {"address": addresses.address, "mac": addresses.mac}, needed=("address", "mac"))
    return _once(found, lambda each: each["address"], path, problems, "the neighbour")


def sysctls(value, path, problems):
    """{`ipv4/forwarding`: text}, of net/FAMILY/conf/INTERFACE; a name without its family is of both."""
    found = {}
    for key, text in values.mapping(value, path, problems).items():
        here = "%s.%s" % (path, key) if isinstance(key, str) and key.isprintable() else path
        family, slash, word = key.replace(".", "/", 1).partition("/") if isinstance(key, str) else ("", "", "")
        if not slash:
            family, word = None, family
        if family not in (None, "ipv4", "ipv6") or not word.isascii() or not word.replace("_", "").isalnum():
            problems.add(here, "is not a sysctl of an interface, such as forwarding, ipv4.rp_filter or ipv6.accept_ra")
            continue
        text = values.text(int(text) if isinstance(text, bool) else text, here, problems, 100)
        if text is not None and not text.strip():
            problems.add(here, "the value is empty")
        for each in (family,) if family else ("ipv4", "ipv6"):
            if "%s/%s" % (each, word) in found:
                problems.add(here, "is declared twice")
            elif text is not None:
                found["%s/%s" % (each, word)] = " ".join(text.split())
    return found


def bandwidth(value, path, problems):
    """{transmit, receive: {rate: bits/s, burst: bytes, delay: µs, jitter: µs, loss: percent}}, of those that are declared."""
    found = {}
    for side, wanted in values.mapping(value, path, problems, ("transmit", "receive")).items():
        here = "%s.%s" % (path, side)
        if wanted is None or side not in ("transmit", "receive"):
            continue
        wanted = _entry(wanted if isinstance(wanted, dict) else {"rate": wanted}, here, problems, {
            "rate": addresses.rate, "burst": values.size, "delay": values.time_us, "jitter": values.time_us, "loss": _percent})
        if wanted is None:
            continue
        if wanted["rate"] is None and wanted["burst"] is not None:
            problems.add(here + ".burst", "is of a rate, and there is none")
        if wanted["jitter"] is not None and wanted["delay"] is None:
            problems.add(here + ".jitter", "is of a delay, and there is none")
        if not any(wanted[key] is not None for key in ("rate", "delay", "loss")):
            problems.add(here, "says nothing. Give a rate, a delay or a loss")
        found[side] = wanted
    return found


def _percent(value, path, problems):
    text = str(value).strip()
    text = text[:-1].strip() if text.endswith("%") else text
    try:
        number = float(text) if not isinstance(value, bool) and text.replace(".", "", 1).isdigit() else None
    except ValueError:
        number = None
    if number is None or number > 100:
        problems.add(path, "%s is not a part of 100, such as 0.5%%" % values.quoted(value))
        return None
    return number


def publish(value, path, problems):
    """[{host_address: text or None for all, host_port: (first, last), port: (first, last), protocol}]."""
    return _once(_each(value, path, problems, _published), lambda each: (each["host_address"], each["host_port"], each["protocol"]), path, problems, "the port")


def _published(value, path, problems):
    """`8080:80`, `127.0.0.1:8080:80/udp`, `[::1]:8080:80`, `8000-8010:9000-9010`, `80`, or a dictionary."""
    if isinstance(value, (str, int)) and not isinstance(value, bool):
        text, slash, protocol = str(value).partition("/")
        head, colon, port = text.rpartition(":")
        address, colon, host_port = head.rpartition(":")
        if address[:1] == "[" and address[-1:] == "]":
            address = address[1:-1]
        elif ":" in address:
            problems.add(path, "%s is not of the form [ADDRESS:]PORT:PORT[/PROTOCOL]. An IPv6 address is written in brackets" % values.quoted(value))
            return None
        value = {"host_address": address or None, "host_port": host_port or port, "port": port, "protocol": protocol or None}
    found = _entry(value, path, problems, {
        "host_address": _host_address, "host_port": addresses.ports, "port": addresses.ports,
        "protocol": lambda *args: values.choice(*args, PROTOCOLS)})
    if found is None:
        return None
    if found["port"] is None and found["host_port"] is None:
        problems.add(path + ".port", "is missing")
        return None
    found["port"] = found["port"] or found["host_port"]
    found["host_port"] = found["host_port"] or found["port"]
    found["protocol"] = found["protocol"] or "tcp"
    if found["host_address"] == "::1":
        problems.add(path, "IPv6 has no way from ::1 into a namespace. Use 127.0.0.1, or leave the address out")
    if found["port"][1] - found["port"][0] >= _MOST_PORTS:
        problems.add(path, "has more than %d ports" % _MOST_PORTS)
    if found["port"][1] - found["port"][0] != found["host_port"][1] - found["host_port"][0]:
        problems.add(path, "the ranges %s and %s are not of one length" % (
            addresses.show_ports(found["host_port"]), addresses.show_ports(found["port"])))
        return None
    return found


def _host_address(value, path, problems):
    """One of the host's, or all of a family."""
    return value if value in ("0.0.0.0", "::") else addresses.address(value, path, problems, loopback=True)


def egress(value, path, problems):
    """{policy, allow: [{to: subnet, protocol: None, tcp or udp, port: None or (first, last)}]}."""
    value = {"policy": value} if isinstance(value, str) else value
    found = _entry(value, path, problems, {
        "policy": lambda *args: values.choice(*args, ("allow", "deny")),
        "allow": lambda value, path, problems: _entries(value, path, problems, {
            "to": _destination, "port": addresses.ports, "protocol": lambda *args: values.choice(*args, PROTOCOLS)}, needed=("to",))})
    if found is None:
        return None
    found["policy"] = found["policy"] or ("deny" if found["allow"] is not None else "allow")
    if found["policy"] == "allow" and found["allow"]:
        problems.add(path + ".allow", "is for the policy deny: with allow, all is allowed")
    found["allow"] = found["allow"] or []
    for index, each in enumerate(found["allow"]):
        if each["port"] is not None and each["protocol"] is None:
            each["protocol"] = "tcp"
        elif each["protocol"] is not None and each["port"] is None:
            each["port"] = (1, 65535)
    return found


def _destination(value, path, problems):
    text = addresses.target(value, path, problems)
    if text == "default":
        problems.add(path, "name the families: 0.0.0.0/0, ::/0")
        return None
    return text if text is None or "/" in text else "%s/%d" % (text, addresses.BITS[addresses.family(text)])


def aliases(value, path, problems):
    """Further names in the hosts files."""
    return _each(value, path, problems, values.name)


def peers(value, path, problems):
    """[{public_key, endpoint, allowed_ips, keepalive: s, preshared_key_file}] of a wireguard."""
    found = _entries(value, path, problems, {
        "public_key": _key, "endpoint": _endpoint, "allowed_ips": lambda *args: _each(*args, _destination),
        "keepalive": _whole(0, 65535), "preshared_key_file": values.absolute}, needed=("public_key",))
    return _once(found, lambda each: each["public_key"], path, problems, "the peer")


def _key(value, path, problems):
    if isinstance(value, str) and len(value) == 44 and value[-1] == "=" and _BASE64.issuperset(value[:-1]):
        return value
    problems.add(path, "this is not a public key of wireguard, 44 characters of base64")
    return None


def _endpoint(value, path, problems):
    """`192.0.2.1:51820`, `[2001:db8::1]:51820`. No names: they would have to be looked up at each run."""
    head, colon, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    bracketed = head[:1] == "[" and head[-1:] == "]"
    address = addresses.number(head[1:-1] if bracketed else head)
    if address is None or (address[0] == 6) != bracketed:
        problems.add(path, "%s is not of the form ADDRESS:PORT, with an IPv6 address in brackets" % values.quoted(value))
        return None
    port = addresses.port(port, path, problems)
    return port and "%s:%d" % ("[%s]" % addresses.show(*address) if bracketed else addresses.show(*address), port)
