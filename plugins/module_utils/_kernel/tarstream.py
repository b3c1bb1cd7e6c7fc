# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an archive is made of, read strictly: what other readers guess at, or take in two ways, is refused with the entry named."""

from __future__ import annotations

BLOCK = 512
LONGEST = 4095  # bytes of a path
_EXTENDED = 1 << 20  # bytes of one extended header
_NUL = bytes(BLOCK)
FILE, LINK, SYMLINK, CHARACTER, DEVICE, DIRECTORY, FIFO = (
    "file", "hard link", "symbolic link", "character device", "block device", "directory", "fifo")
_KINDS = {b"0": FILE, b"\0": FILE, b"1": LINK, b"2": SYMLINK, b"3": CHARACTER, b"4": DEVICE, b"5": DIRECTORY, b"6": FIFO}
_ATTRIBUTE = b"SCHILY.xattr."
# Of a user's or a label's own world: numbers are what counts here, and labels are given by the host that the tree is used on.
_GLOBAL_BUT_HARMLESS = (b"comment",)
_MEANT = (b"path", b"linkpath", b"size", b"uid", b"gid", b"mtime")


class ArchiveError(Exception):
    """Why an archive is refused; ``entry`` is the name (bytes) of what is wrong in it, ``advice`` what would allow it."""

    def __init__(self, why, entry=None, advice=None):
        super().__init__(why)
        self.why, self.entry, self.advice = why, entry, advice

    def words(self):
        """`its entry 'a/b' …`, in one line of printable ASCII."""
        return self.why if self.entry is None else "its entry %s %s" % (shown(self.entry), self.why)


def shown(name):
    """A name of bytes as it is told: printable, quoted, not too long."""
    text = "".join(chr(byte) if 32 <= byte < 127 and byte not in b"'\\" else "\\x%02x" % byte for byte in name[:120])
    return "'%s%s'" % (text, "..." if len(name) > 120 else "")


class Member:
    """One entry. ``mtime`` in nanoseconds, ``link`` the target of a link, ``device`` (major, minor), ``xattrs`` {name: value} in bytes."""

    __slots__ = ("name", "kind", "mode", "uid", "gid", "mtime", "size", "link", "device", "xattrs")

    def __init__(self, name, kind, mode=0o755, uid=0, gid=0, mtime=0, size=0, link=b"", device=(0, 0), xattrs=None):
        self.name, self.kind, self.mode, self.uid, self.gid, self.mtime = name, kind, mode, uid, gid, mtime
        self.size, self.link, self.device, self.xattrs = size, link, device, xattrs or {}


class Bytes:
    """Exact reads from an iterable of chunks."""

    def __init__(self, chunks):
        self._chunks, self._left, self.at = iter(chunks), memoryview(b""), 0

    def some(self, most):
        """At least one byte and at most so many; empty at the end."""
        while not self._left:
            chunk = next(self._chunks, None)
            if chunk is None:
                return self._left
            self._left = memoryview(chunk)
        part, self._left = self._left[:most], self._left[most:]
        self.at += len(part)
        return part

    def exactly(self, count):
        """So many bytes, fewer at the end."""
        part = self.some(count)
        if len(part) == count:
            return bytes(part)
        parts, found = [bytes(part)], len(part)
        while part and found < count:
            part = self.some(count - found)
            parts.append(bytes(part))
            found += len(part)
        return b"".join(parts)

    def skip(self, count):
        """Pass over so many bytes; how many are missing."""
        while count:
            part = self.some(count)
            if not part:
                break
            count -= len(part)
        return count


class Places(Bytes):
    """The same of a region of a file, where what is passed over is not read."""

    def __init__(self, region):
        super().__init__(())
        self._region = region

    def some(self, most):
        part = self._region.read(self.at, min(most, 1 << 18))
        self.at += len(part)
        return memoryview(part)

    def skip(self, count):
        passed = max(0, min(count, self._region.size - self.at))
        self.at += passed
        return count - passed


class Reader:
    """The members of a tar archive (POSIX pax and ustar, GNU, V7), in its order; ``data()`` is the content of the last one.

    ``source``: Bytes or Places. ``at`` is where that content starts.
    """

    def __init__(self, source):
        self._bytes = source
        self._left = self._padding = 0
        self._name = None

    @property
    def at(self):
        return self._bytes.at

    def __iter__(self):
        while True:
            left = self._bytes.skip(self._left)
            if left or self._bytes.skip(self._padding):
                raise ArchiveError("is cut short: %d bytes of it are missing" % left if left else "is cut short", self._name)
            self._left = self._padding = 0
            member = self._next()
            if member is None:
                self._end()
                return
            self._name, self._left, self._padding = member.name, member.size, -member.size % BLOCK
            yield member

    def data(self):
        """In chunks; what is not taken is passed over."""
        while self._left:
            chunk = self._bytes.some(self._left)
            if not chunk:
                raise ArchiveError("is cut short: %d bytes of it are missing" % self._left, self._name)
            self._left -= len(chunk)
            yield chunk

    def _end(self):
        """Behind the end there may be zeros, to fill the record up, and nothing else."""
        while True:
            chunk = self._bytes.some(1 << 20)
            if not chunk:
                return
            if chunk.tobytes().strip(b"\0"):
                raise ArchiveError("there is something behind the end of the archive")

    def _next(self):
        extended, long_name, long_link = {}, None, None
        while True:
            block = self._bytes.exactly(BLOCK)
            if block == _NUL:
                if extended or long_name is not None or long_link is not None:
                    raise ArchiveError("it ends behind a header that belongs to an entry")
                return None
            if len(block) < BLOCK:
                raise ArchiveError("it is cut short: it has no end" if not block or self._name is None else "it is cut short behind %s" % shown(self._name))
            kind, size = block[156:157], self._checked(block)
            if kind == b"x":
                if extended:
                    raise ArchiveError("two extended headers belong to one entry")
                extended = self._extended(size)
            elif kind == b"g":
                for key in self._extended(size):
                    if key in _MEANT or key.startswith((_ATTRIBUTE, b"GNU.sparse.", b"SCHILY.acl.")):
                        raise ArchiveError("a header for all entries sets %s" % shown(key))
            elif kind == b"L":
                long_name = self._long(size, long_name)
            elif kind == b"K":
                long_link = self._long(size, long_link)
            else:
                return self._member(block, kind, size, extended, long_name, long_link)

    def _checked(self, block):
        """The size that a header tells, if its checksum is right."""
        total = sum(block) - sum(block[148:156]) + 8 * 32
        told = _number(block[148:156], "checksum", None)
        if told != total:
            signed = total - 256 * sum(byte > 127 for byte in block[:148] + block[156:])  # as some old tars have it
            if told != signed:
                raise ArchiveError("it is no tar archive, or its first header is damaged" if self._name is None else
                                   "a header is damaged, behind %s" % shown(self._name))
        return _number(block[124:136], "size", _cut(block[:100]))

    def _payload(self, size, most):
        if not 0 <= size <= most:
            raise ArchiveError("a header of an entry has %d bytes, and %d are allowed" % (size, most))
        data = self._bytes.exactly(size)
        if len(data) != size or len(self._bytes.exactly(-size % BLOCK)) != -size % BLOCK:
            raise ArchiveError("it is cut short in a header")
        return data

    def _long(self, size, before):
        if before is not None:
            raise ArchiveError("two long names belong to one entry")
        return _cut(self._payload(size, LONGEST + 1))

    def _extended(self, size):
        data, found = self._payload(size, _EXTENDED), {}
        while data:
            length, space, rest = data.partition(b" ")
            if not space or not length.isdigit() or len(length) > 7:
                raise ArchiveError("an extended header is not well-formed")
            record, data = data[len(length) + 1:int(length)], data[int(length):]
            key, equals, value = record.partition(b"=")
            if not equals or not value.endswith(b"\n") or not key or int(length) != len(length) + 1 + len(record):
                raise ArchiveError("an extended header is not well-formed")
            if key in found:
                raise ArchiveError("an extended header has %s twice" % shown(key))
            found[key] = value[:-1]
        return found

    def _member(self, block, kind, size, extended, long_name, long_link):
        name, link = _cut(block[:100]), _cut(block[157:257])
        if block[257:263] == b"ustar\0" and block[345]:
            name = _cut(block[345:500]) + b"/" + name
        name = long_name if long_name is not None else name
        link = long_link if long_link is not None else link
        name, link = extended.get(b"path", name), extended.get(b"linkpath", link)
        if b"\0" in name + link:
            raise ArchiveError("has a NUL in its name or target", name)
        if any(key.startswith(b"GNU.sparse.") for key in extended) or kind == b"S":
            raise ArchiveError("is stored with holes, which is not supported", name)
        if kind not in _KINDS:
            raise ArchiveError("is of an unknown type %s" % shown(kind), name)
        if any(key.startswith(b"SCHILY.acl.") for key in extended):
            raise ArchiveError("has an access control list, which is not supported", name)
        word = _KINDS[kind]
        if kind == b"\0" and name.endswith(b"/"):
            word = DIRECTORY  # how V7 wrote it
        member = Member(name, word, _number(block[100:108], "mode", name), _number(block[108:116], "owner", name),
                        _number(block[116:124], "group", name), _number(block[136:148], "time", name, True) * 10 ** 9, size, link)
        if word in (CHARACTER, DEVICE):
            member.device = (_number(block[329:337], "device", name), _number(block[337:345], "device", name))
        for key, field in ((b"uid", "uid"), (b"gid", "gid"), (b"size", "size")):
            if key in extended:
                setattr(member, field, _decimal(extended[key], field, name))
        if b"mtime" in extended:
            member.mtime = _time(extended[b"mtime"], name)
        member.xattrs = {key[len(_ATTRIBUTE):]: value for key, value in extended.items()
                         if key.startswith(_ATTRIBUTE) and key != _ATTRIBUTE + b"security.selinux"}
        return self._sound(member)

    @staticmethod
    def _sound(member):
        if member.size and member.kind != FILE:
            raise ArchiveError("is a %s and has content" % member.kind, member.name)
        if not 0 <= member.size < 1 << 62:
            raise ArchiveError("has an impossible size", member.name)
        if not (0 <= member.uid < (1 << 32) - 1 and 0 <= member.gid < (1 << 32) - 1):
            raise ArchiveError("has an impossible owner", member.name)
        if not -(1 << 31) <= member.mtime // 10 ** 9 < 1 << 34:
            raise ArchiveError("has an impossible time", member.name)
        if not (0 <= member.device[0] < 1 << 12 and 0 <= member.device[1] < 1 << 20):
            raise ArchiveError("has an impossible device number", member.name)
        member.mode &= 0o7777  # some writers put the type of the file there, too
        return member


def _cut(field):
    return field.partition(b"\0")[0]


def _number(field, what, name, negative=False):
    """Octal digits, or GNU's binary form for what does not fit."""
    if field[0] & 0x80:
        number = int.from_bytes(field, "big", signed=False) & ((1 << (8 * len(field) - 1)) - 1)
        if field[0] & 0x40:
            number -= 1 << (8 * len(field) - 1)
        if number >= 0 or negative:
            return number
        raise ArchiveError("has a negative %s" % what, name)
    text = _cut(field).strip(b" ")
    if text.strip(b"01234567"):
        if name is None:
            raise ArchiveError("it is no tar archive, or a header is damaged")
        raise ArchiveError("has no number for its %s" % what, name)
    return int(text, 8) if text else 0


def _decimal(text, what, name):
    if not text.isdigit() or len(text) > 20:
        raise ArchiveError("has no number for its %s" % what, name)
    return int(text)


def _time(text, name):
    """`-12.5` as nanoseconds, by whole numbers."""
    sign, digits = (-1, text[1:]) if text[:1] == b"-" else (1, text)
    whole, point, part = digits.partition(b".")
    if not whole.isdigit() or len(whole) > 20 or (point and part and not part.isdigit()):
        raise ArchiveError("has no number for its time", name)
    return sign * (int(whole) * 10 ** 9 + int((part[:9] + b"0" * 9)[:9]))
