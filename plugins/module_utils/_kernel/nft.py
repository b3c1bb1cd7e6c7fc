# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""nftables by `nft -j`: one table read, and changed by one transaction. libnftables-json(5).

Numbers are asked for everywhere (`-n`): names of protocols come from /etc/protocols, which small hosts do not have.
Elements are `{set: {value: (data, comment)}}`, with ``value`` a tuple of what the set's type joins and ``data`` a tuple or None.
Of these, a prefix is text with a slash, and a range a pair of numbers.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import struct

# linux/netfilter/nfnetlink.h and nf_tables.h
_NETLINK_NETFILTER, _NLMSG_ERROR = 12, 2
_SUBSYSTEM, _BATCH_BEGIN, _BATCH_END, _DELETE_TABLE, _NFTA_TABLE_NAME, _INET = 10, 0x10, 0x11, 2, 1, 1
PLACES = ("/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin", "/usr/local/bin")
_ABSENT = "No such file or directory"  # of a table; the words of the kernel, in the C locale


class NftError(Exception):
    """What nft said, on one line. ``missing``: it is not installed."""

    def __init__(self, words, missing=False):
        super().__init__(words)
        self.missing = missing


def table(run, family, name):
    """What is in a table: [{"set": {…}}, {"chain": {…}}, {"rule": {…}}, …], or None when it is not there."""
    status, output, errors = run([_program(), "-n", "-j", "list", "table", family, name])
    if status and _ABSENT in errors:
        return None
    return _objects(status, output, errors)


def base_chains(run):
    """The chains of all tables that hang on a hook: [{family, table, name, type, hook, prio, policy}]."""
    listed = _objects(*run([_program(), "-n", "-j", "list", "chains"]))
    return [each["chain"] for each in listed if "hook" in each.get("chain", ())]


def transact(run, commands):
    """Take all commands or none: [{"add": {"table": {…}}}, …]."""
    _take(run, ["-j"], json.dumps({"nftables": commands}))


def script(run, text):
    """The same of commands in nft's own language, for what its JSON has no words for."""
    _take(run, [], text)


def drop_table(name):
    """Delete a table of the family inet of the net namespace that we are in; no error where there is none. Without nft, which takes its
    time to start. Raises OSError."""
    def message(kind, flags, sequence, family, resource, data=b""):
        body = struct.pack("=BBH", family, 0, socket.htons(resource)) + data
        return struct.pack("=IHHII", 16 + len(body), kind, flags, sequence, 0) + body

    named = name.encode() + b"\0"
    attribute = struct.pack("=HH", 4 + len(named), _NFTA_TABLE_NAME) + named + bytes(-len(named) % 4)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER) as one:
        one.settimeout(60)
        one.send(message(_BATCH_BEGIN, 1, 0, 0, _SUBSYSTEM) + message(_SUBSYSTEM << 8 | _DELETE_TABLE, 5, 1, _INET, 0, attribute)
                 + message(_BATCH_END, 1, 2, 0, _SUBSYSTEM))
        while True:  # of the batch it is told, too, where that fails
            answer = one.recv(8192)
            while answer:
                length, kind, dummy, sequence = struct.unpack_from("=IHHI", answer)
                error = -struct.unpack_from("=i", answer, 16)[0] if kind == _NLMSG_ERROR else 0
                if error and error != errno.ENOENT:
                    raise OSError(error, os.strerror(error))
                if kind == _NLMSG_ERROR and sequence == 1:
                    return
                answer = answer[-(-length // 4) * 4:]


def elements(objects):
    """{set or map: {value: (data, comment)}} of a listed table."""
    found = {}
    for each in objects:
        for kind in ("set", "map"):
            if kind in each:
                found[each[kind]["name"]] = dict(_element(item, kind == "map") for item in each[kind].get("elem", ()))
    return found


def element(value, data=None, comment=None):
    """One element as nft takes it."""
    val = _joined(value)
    if comment is not None:
        val = {"elem": {"val": val, "comment": comment}}
    return val if data is None else [val, _joined(data)]


def _program():
    for place in PLACES:
        if os.access(place + "/nft", os.X_OK):
            return place + "/nft"
    raise NftError("nft is not installed", missing=True)


def _take(run, options, text):
    status, output, errors = run([_program()] + options + ["-f", "-"], data=text)
    if status:
        raise NftError(_words(errors or output))


def _objects(status, output, errors):
    if status:
        raise NftError(_words(errors))
    try:
        listed = json.loads(output)["nftables"]
    except (ValueError, KeyError, TypeError):
        raise NftError("nft does not answer in JSON. It was built without it, or is older than 0.9.1") from None
    return [each for each in listed if "metainfo" not in each]


def _words(text):
    """The first line, which says what is wrong; those after it show the place in a text that the user did not write."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    words = lines[0] if lines else "no reason given"
    return words.split("Error: ", 1)[-1]


def _element(item, mapped):
    item, data = item if mapped else (item, None)
    comment = None
    if isinstance(item, dict) and "elem" in item:
        comment, item = item["elem"].get("comment"), item["elem"]["val"]
    return _split(item), (None if data is None else _split(data), comment)


def _split(item):
    parts = item["concat"] if isinstance(item, dict) and "concat" in item else [item]
    return tuple(_atom(part) for part in parts)


def _atom(part):
    if isinstance(part, dict):
        if "prefix" in part:
            return "%s/%d" % (part["prefix"]["addr"], part["prefix"]["len"])
        if "range" in part:
            return tuple(part["range"])
        return json.dumps(part, sort_keys=True)  # none that we make: as one that is not as declared
    return part


def _joined(value):
    parts = [_written(part) for part in value]
    return {"concat": parts} if len(parts) > 1 else parts[0]


def _written(part):
    if isinstance(part, tuple):
        return {"range": list(part)}
    if isinstance(part, str) and "/" in part:
        address, slash, length = part.partition("/")
        return {"prefix": {"addr": address, "len": int(length)}}
    return part
