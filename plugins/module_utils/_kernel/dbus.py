# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""As much of D-Bus as asking takes: method calls to one who has a name on the system bus, many on their way at once. No signals.

Source: the D-Bus Specification, 0.43. Both byte orders are read; ours is the machine's.
"""

from __future__ import annotations

import os
import socket
import struct
import sys

PATIENCE = 60.0  # seconds for an answer: one that reads all unit files has been seen to take ten on an emulated host
_AT_ONCE = 64  # calls without an answer yet; the bus allows a connection 128
_ORDER = "l" if sys.byteorder == "little" else "B"
_CALL, _RETURN, _ERROR = 1, 2, 3
_PATH, _INTERFACE, _MEMBER, _ERROR_NAME, _REPLY, _DESTINATION, _SIGNATURE = 1, 2, 3, 4, 5, 6, 8  # fields of a header
_FIXED = {"y": "B", "b": "I", "n": "h", "q": "H", "i": "i", "u": "I", "x": "q", "t": "Q", "d": "d", "h": "I"}
_ALIGNED = {"g": 1, "v": 1, "s": 4, "o": 4, "a": 4, "(": 8, "{": 8}
_HEAD = 16  # bytes that say how long the rest of a message is


class BusError(Exception):
    """Somebody answers with an error: ``name``, such as org.freedesktop.systemd1.NoSuchUnit, and words."""

    def __init__(self, name, text):
        super().__init__(text or name)
        self.name = name


class Bus:
    """A connection, for use with `with`. Raises OSError where there is no bus, or it does not answer."""

    def __init__(self, path, patience=PATIENCE):
        self._serial, self._rest = 0, b""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(patience)
            self._socket.connect(path)
            self._socket.sendall(b"\0AUTH EXTERNAL %s\r\n" % str(os.geteuid()).encode().hex().encode())
            answer = self._read_line()
            if not answer.startswith(b"OK "):
                raise OSError("the bus does not take us: " + answer.decode("ascii", "replace"))
            self._socket.sendall(b"BEGIN\r\n")
            self.calls("org.freedesktop.DBus", [("/org/freedesktop/DBus", "org.freedesktop.DBus", "Hello", "")])
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *dummy):
        self._socket.close()

    def calls(self, destination, calls):
        """The answers to calls (path, interface, member, signature, argument…): a list of values each, or a BusError.

        Arguments may be of the types s, o, u, b and as.
        """
        found = {}
        for first in range(0, len(calls), _AT_ONCE):
            waiting = {}
            for index, call in enumerate(calls[first:first + _AT_ONCE], first):
                self._serial += 1
                waiting[self._serial] = index
                self._socket.sendall(_message(self._serial, destination, *call))
            while waiting:
                serial, answer = self._receive()
                if serial in waiting:
                    found[waiting.pop(serial)] = answer
        return [found[index] for index in range(len(calls))]

    def _receive(self):
        """(serial of what it answers, values or BusError) of the next message; (None, None) of one that answers nothing."""
        head = self._read(_HEAD)
        order = "<" if head[:1] == b"l" else ">"
        body, fields = (struct.unpack_from(order + "I", head, offset)[0] for offset in (4, 12))
        rest = self._read(fields + -fields % 8 + body)
        known = dict(_Reader(order, (head + rest)[:_HEAD + fields], _HEAD - 4).read("a(yv)"))
        if head[1] not in (_RETURN, _ERROR):
            return None, None
        values = _Reader(order, rest[len(rest) - body:]).read_all(known.get(_SIGNATURE, ""))
        if head[1] == _ERROR:
            values = BusError(known.get(_ERROR_NAME, ""), values[0] if values and isinstance(values[0], str) else "")
        return known.get(_REPLY), values

    def _read(self, count):
        parts, size = [self._rest], len(self._rest)
        while size < count:
            part = self._socket.recv(1 << 17)
            if not part:
                raise OSError("the bus has closed the connection")
            parts.append(part)
            size += len(part)
        data = b"".join(parts)
        self._rest = data[count:]
        return data[:count]

    def _read_line(self):
        line = b""
        while not line.endswith(b"\r\n"):
            line += self._read(1)
        return line[:-2]


def _message(serial, destination, path, interface, member, signature, *arguments):
    body = bytearray()
    for kind, value in zip(_split(signature), arguments):
        _write(body, kind, value)
    data = bytearray(struct.pack("=cBBBII", _ORDER.encode(), _CALL, 0, 1, len(body), serial))
    fields = bytearray()
    for code, kind, value in ((_PATH, "o", path), (_INTERFACE, "s", interface), (_MEMBER, "s", member), (_DESTINATION, "s", destination),
                              (_SIGNATURE, "g", signature)):
        if value:
            fields += bytes(-len(fields) % 8) + bytes((code, 1)) + kind.encode() + b"\0"
            _write(fields, kind, value)
    data += struct.pack("=I", len(fields)) + fields  # 16 bytes of head come before, so what is aligned in them stays so
    return bytes(data + bytes(-len(data) % 8) + body)


def _write(data, kind, value):
    if kind == "as":
        texts = bytearray()
        for each in value:
            _write(texts, "s", each)
        data += bytes(-len(data) % 4) + struct.pack("=I", len(texts)) + texts
    elif kind in ("u", "b"):
        data += bytes(-len(data) % 4) + struct.pack("=I", value)
    else:
        text = value.encode("utf-8", "surrogateescape")
        data += bytes((len(text),)) if kind == "g" else bytes(-len(data) % 4) + struct.pack("=I", len(text))
        data += text + b"\0"


def _split(signature):
    """The complete types that a signature consists of: `sa(si)u` -> s, a(si), u."""
    found, start = [], 0
    while start < len(signature):
        end = _end(signature, start)
        found.append(signature[start:end])
        start = end
    return found


def _end(signature, at):
    """Where the complete type that begins there ends."""
    if signature[at] == "a":
        return _end(signature, at + 1)
    if signature[at] in "({":
        at += 1
        while signature[at] not in ")}":
            at = _end(signature, at)
    return at + 1


class _Reader:
    """Reads values from where a message, or its body, begins in ``data``."""

    def __init__(self, order, data, at=0):
        self.order, self.data, self.at = order, data, at

    def read_all(self, signature):
        return [self.read(kind) for kind in _split(signature)]

    def read(self, kind):
        first = kind[0]
        if first in _FIXED:
            return bool(self._number(_FIXED[first])) if first == "b" else self._number(_FIXED[first])
        self._align(_ALIGNED[first])
        if first in "sog":
            return self._text(self._number("B" if first == "g" else "I"))
        if first == "v":
            return self.read(self._text(self._number("B")))
        if first == "a":
            return self._array(kind[1:])
        return [self.read(each) for each in _split(kind[1:-1])]

    def _array(self, kind):
        """A list; of entries of a dictionary, a dict."""
        size = self._number("I")
        self._align(struct.calcsize(_FIXED[kind[0]]) if kind[0] in _FIXED else _ALIGNED[kind[0]])
        end, found = self.at + size, []
        while self.at < end:
            found.append(self.read(kind))
        return dict(found) if kind[0] == "{" else found

    def _align(self, size):
        self.at += -self.at % size

    def _number(self, form):
        size = struct.calcsize(form)
        self._align(size)
        value = struct.unpack_from(self.order + form, self.data, self.at)[0]
        self.at += size
        return value

    def _text(self, length):
        text = self.data[self.at:self.at + length].decode("utf-8", "surrogateescape")
        self.at += length + 1
        return text
