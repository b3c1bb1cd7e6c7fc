# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The words of networks: addresses, subnets, MACs, devices, rates, ports. Parsers as in `values.py`.

The normal form of an address is the kernel's own text: `10.42.0.7`, `fd00:42::7`; of a subnet `10.42.0.0/24`; of an address with
its prefix `10.42.0.7/24`. What is reckoned with is (family, number, length), of `split()`. The standard library's `ipaddress` does
the same in 18 µs an address and 1.3 ms (with functools 4 ms) of import; inet_pton(3) takes 0.2 µs and is there already.
"""

from __future__ import annotations

import hashlib
import socket

from . import values

BITS = {4: 32, 6: 128}
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_DEVICE_CHARACTERS = values.NAME_CHARACTERS.union("@+=~,")
_DEVICE_BYTES = 15  # IFNAMSIZ without the NUL
_RATES = {"": 1, "bit": 1, "bps": 8}  # in bits a second; tc(8), "PARAMETERS"
for _power, _letter in enumerate("kmgt", 1):
    _RATES.update({_letter + "bit": 1000 ** _power, _letter + "ibit": 1024 ** _power,
                   _letter + "bps": 8 * 1000 ** _power, _letter + "ibps": 8 * 1024 ** _power})
_LINK_LOCAL = "fe80::/10"
_FASTEST = 1 << 53  # bits a second; what JSON and the kernel's 64 bits of bytes both bear


# -- reckoning

def number(text):
    """(family, number) of the text of an address, or None when it is none."""
    for family, kind in _FAMILIES.items() if isinstance(text, str) else ():
        try:
            return family, int.from_bytes(socket.inet_pton(kind, text), "big")
        except (OSError, ValueError):  # ValueError: a NUL or a surrogate
            continue
    return None


def show(family, value):
    """The text of an address."""
    return socket.inet_ntop(_FAMILIES[family], value.to_bytes(BITS[family] // 8, "big"))


def split(text):
    """(family, number, length) of `ADDRESS/LENGTH` or of an address, which is as long as it can be. For normal forms."""
    address, slash, length = text.partition("/")
    family, value = number(address)
    return family, value, int(length) if slash else BITS[family]


def family(text):
    """4 or 6, of the normal form of an address or a subnet."""
    return 6 if ":" in text else 4


def subnet_of(text):
    """The subnet of an address with its prefix: `10.42.0.7/24` -> `10.42.0.0/24`."""
    kind, value, length = split(text)
    return "%s/%d" % (show(kind, value & _mask(kind, length)), length)


def contains(subnet_text, text):
    """Does an address, or all of a subnet, lie in a subnet?"""
    kind, base, length = split(subnet_text)
    other, value, longer = split(text)
    return kind == other and longer >= length and (value & _mask(kind, length)) == base & _mask(kind, length)


def overlap(one, other):
    """Have two subnets an address in common? Then one contains the other."""
    return contains(one, other) or contains(other, one)


def usable(subnet_text):
    """(first, last): the numbers that a host may have. Not the subnet's own and IPv4's broadcast, where there is room for more."""
    kind, base, length = split(subnet_text)
    last = base | (1 << BITS[kind] - length) - 1
    if length >= BITS[kind] - 1:  # RFC 3021, RFC 6164: of two addresses both, of one that one
        return base, last
    return base + 1, last - 1 if kind == 4 else last


def _mask(kind, length):
    return (1 << BITS[kind]) - (1 << BITS[kind] - length)


# -- parsers

def address(value, path, problems, loopback=False):
    """An IPv4 or IPv6 address that one host can have; those of ``lo`` only where they are of use."""
    found = number(value)
    if found is None:
        problems.add(path, "%s is not an IPv4 or IPv6 address" % values.quoted(value))
    elif not _of_one_host(*found) and not (loopback and _of_loopback(*found)):
        problems.add(path, "%s is not an address that a host can have" % value)
    else:
        return show(*found)
    return None


def with_prefix(value, path, problems):
    """An address with the length of its subnet's prefix: `10.42.0.7/24`."""
    found = _sliced(value)
    if found is None:
        problems.add(path, "%s is not an address with a prefix length, such as 10.42.0.7/24" % values.quoted(value))
        return None
    kind, base, length = found
    text = "%s/%d" % (show(kind, base), length)
    if not _of_one_host(kind, base):
        problems.add(path, "%s is not an address that a host can have" % text)
    elif _edge(kind, base, length):
        problems.add(path, "%s is the %s address of its subnet, and no host's" % (text, _edge(kind, base, length)))
    else:
        return text
    return None


def subnet(value, path, problems):
    """A subnet; bits after the prefix are a mistake, not a wish."""
    found = _sliced(value)
    if found is None:
        problems.add(path, "%s is not a subnet, such as 10.42.0.0/24 or fd00:42::/64" % values.quoted(value))
        return None
    kind, base, length = found
    if base & ~_mask(kind, length):
        problems.add(path, "%s has bits after its prefix. The subnet is %s/%d" % (
            values.quoted(value), show(kind, base & _mask(kind, length)), length))
        return None
    return "%s/%d" % (show(kind, base), length)


def target(value, path, problems):
    """Where packets go: an address, a subnet, or `default`. An address is given back without a length."""
    if value == "default":
        return value
    if isinstance(value, str) and "/" not in value:
        return address(value, path, problems)
    return subnet(value, path, problems)


def mac(value, path, problems):
    """The hardware address of one card: six bytes as `02:00:5e:10:00:01`."""
    parts = value.lower().replace("-", ":").split(":") if isinstance(value, str) else ()
    if len(parts) != 6 or not all(len(part) == 2 and set(part) <= set("0123456789abcdef") for part in parts):
        problems.add(path, "%s is not a MAC address, such as 02:00:5e:10:00:01" % values.quoted(value))
    elif int(parts[0], 16) & 1 or set(parts) == {"00"}:
        problems.add(path, "%s is not the address of one card: use one whose first byte is even, such as 02:..." % value)
    else:
        return ":".join(parts)
    return None


def derived_mac(words):
    """The same address for the same words, of those that are for everybody to give (locally administered)."""
    digest = bytearray(hashlib.sha256(words.encode()).digest()[:6])
    digest[0] = digest[0] & 0xfc | 0x02
    return ":".join("%02x" % byte for byte in digest)


def device(value, path, problems):
    """The name of a network device. The kernel takes more characters; `%`, `*` and quotes are patterns to it or to nft."""
    if not isinstance(value, str) or not value:
        problems.add(path, "%s is not the name of a network device" % values.quoted(value))
    elif len(value.encode("utf-8", "replace")) > _DEVICE_BYTES:
        problems.add(path, "%s is longer than the %d bytes that a network device's name can have" % (values.quoted(value), _DEVICE_BYTES))
    elif value in (".", "..", "all", "default", "lo") or value[0] == "-" or not _DEVICE_CHARACTERS.issuperset(value):
        problems.add(path, "%s is not the name of a network device. Use letters, digits and _ . - @ + = ~ ," % values.quoted(value))
    else:
        return value
    return None


def rate(value, path, problems):
    """Bits a second, in tc's words: `10mbit`, `1gbit`, `512kbit`, `100mibit` (powers of 1024), `1mbps` (bytes); a bare number is bits."""
    word = str(value).strip().lower() if isinstance(value, (str, int)) and not isinstance(value, bool) else ""
    digits = word.rstrip("abcdefghijklmnopqrstuvwxyz")
    whole, point, part = digits.partition(".")
    scale = _RATES.get(word[len(digits):])
    if scale is None or not _digits(whole) or point and not _digits(part):
        problems.add(path, "%s is not a rate. Use a number with kbit, mbit or gbit" % values.quoted(value))
        return None
    bits = int(whole) * scale + (int(part) * scale // 10 ** len(part) if part else 0)
    if not 8 <= bits <= _FASTEST:
        problems.add(path, "%s is out of range: the kernel counts in bytes a second, from 1" % values.quoted(value))
        return None
    return bits


def show_rate(bits):
    """The shortest text of a rate."""
    for power, letter in ((4, "t"), (3, "g"), (2, "m"), (1, "k")):
        if bits % 1000 ** power == 0:
            return "%d%sbit" % (bits // 1000 ** power, letter)
    return "%dbit" % bits


def port(value, path, problems):
    """A port of tcp or udp."""
    return values.integer(value, path, problems, 1, 65535)


def ports(value, path, problems):
    """(first, last) of one port or a range: `80`, `8000-8010`."""
    first, dash, last = value.partition("-") if isinstance(value, str) else (value, "", "")
    before = len(problems.errors)
    first = port(first, path, problems)
    last = port(last, path, problems) if dash and first is not None else first
    if len(problems.errors) > before:
        return None
    if last < first:
        problems.add(path, "the range %s ends before it begins" % values.quoted(value))
        return None
    return first, last


def show_ports(pair):
    """The text of a port or a range."""
    return "%d" % pair[0] if pair[0] == pair[1] else "%d-%d" % tuple(pair)


def subnet_and_gateway(value, path, problems):
    """(subnet, gateway) of `10.42.0.0/24` or of {subnet, gateway}. The gateway is the first address unless another is named."""
    if isinstance(value, dict):
        value = values.mapping(value, path, problems, ("subnet", "gateway"))
        text = subnet(value.get("subnet"), path + ".subnet", problems)
        wanted = value.get("gateway")
    else:
        text, wanted = subnet(value, path, problems), None
    if text is None:
        return None
    kind, base, length = split(text)
    if length > BITS[kind] - 2 or not _of_one_host(kind, base + 1) or contains(_LINK_LOCAL, text):
        problems.add(path, "%s has no room for a gateway and a member" % text if length > BITS[kind] - 2 else
                     "%s is not a subnet whose addresses hosts can have" % text)
        return None
    if wanted is None:
        return text, show(kind, usable(text)[0])
    gateway = address(wanted, path + ".gateway", problems)
    if gateway is None:
        return None
    first, last = usable(text)
    if number(gateway)[0] != kind or not first <= number(gateway)[1] <= last:
        problems.add(path + ".gateway", "%s is not an address of a host in %s. Use one from %s to %s" % (
            gateway, text, show(kind, first), show(kind, last)))
        return None
    return text, gateway


def _sliced(value):
    """(family, number, length) of `ADDRESS/LENGTH`, or None."""
    head, slash, length = value.partition("/") if isinstance(value, str) else ("", "", "")
    found = number(head)
    if not slash or found is None or not _digits(length) or int(length) > BITS[found[0]]:
        return None
    return found + (int(length),)


def _edge(kind, value, length):
    if length >= BITS[kind] - 1:
        return None
    if value & ~_mask(kind, length) == 0:
        return "own" if kind == 4 else "routers' anycast"
    return "broadcast" if kind == 4 and value | _mask(kind, length) == (1 << 32) - 1 else None


def _of_one_host(kind, value):
    """Not the unspecified one, loopback, multicast, reserved or broadcast, nor IPv4's in IPv6's clothes."""
    if kind == 4:
        return value >> 24 not in (0, 127) and value >> 28 not in (0xe, 0xf)
    return value > 1 and value >> 120 != 0xff and value >> 32 != 0xffff


def _of_loopback(kind, value):
    return value >> 24 == 127 if kind == 4 else value == 1


def _digits(word):
    return word.isascii() and word.isdigit() and len(word) <= 20
