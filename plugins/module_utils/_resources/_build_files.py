# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files of a build: what the host has, and what is declared, as the members of an archive that is unpacked over the layers below.

No link of the image is followed: nothing is made through one, and one that has the name of a file is replaced by it.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time

from .._kernel import tarstream
from .._kernel.below import Below
from .._kernel.tarstream import ArchiveError, Member
from ._sources import Tree

_IDS = 4 << 20  # bytes of /etc/passwd or /etc/group


class Copied:
    """A file or a directory of the host, read member by member as a tarstream.Reader is; then ``digest()`` tells what was read.

    Names are those below ``src``, empty for a file. Owners, times and extended attributes are no part of the digest.
    """

    def __init__(self, src, mode=None):
        self._src, self._mode, self._told, self._member, self._chunks = src, mode, hashlib.sha256(), None, ()

    def __iter__(self):
        fd = os.open(self._src, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            found = os.fstat(fd)
            if stat.S_ISDIR(found.st_mode):
                tree = Tree(fd)
                for member in tree:
                    member.name = b"" if member.name == b"." else member.name
                    yield self._next(member, tree.data)
            elif stat.S_ISREG(found.st_mode):
                yield self._next(Member(b"", tarstream.FILE, stat.S_IMODE(found.st_mode), mtime=found.st_mtime_ns, size=found.st_size),
                                 lambda: iter(lambda: os.read(fd, 1 << 20), b""))
            else:
                raise ArchiveError("it is neither a file nor a directory")
        finally:
            os.close(fd)

    def _next(self, member, chunks):
        if self._mode is not None and member.kind == tarstream.FILE:
            member.mode = self._mode
        member.uid = member.gid = 0
        member.xattrs = {}
        self._told.update(b"%d %s %s %d %d %s %d %d\n" % (len(member.name), member.name, member.kind.encode(), member.mode, len(member.link),
                                                          member.link, *member.device))
        self._member, self._chunks = member, chunks
        return member

    def data(self):
        return self._content() if self._member.kind == tarstream.FILE else ()

    def _content(self):
        content = hashlib.sha256()
        for chunk in self._chunks():
            content.update(chunk)
            yield chunk
        self._told.update(content.digest())

    def digest(self):
        return self._told.hexdigest()

    def read(self):
        """Read all of it, for the digest alone."""
        for dummy in self:
            _pass(self.data())
        return self.digest()


def _pass(chunks):
    for dummy in chunks:
        pass


class Written:
    """The one file that a step writes, read in the same way."""

    def __init__(self, step):
        self._content = step.content.encode("utf-8", "surrogateescape")
        self._mode = 0o644 if step.mode is None else step.mode

    def __iter__(self):
        yield Member(b"", tarstream.FILE, self._mode, mtime=time.time_ns(), size=len(self._content))

    def data(self):
        return [self._content] if self._content else ()


class Placed:
    """A reader whose members are put to the place that a step names, over the trees below."""

    def __init__(self, step, reader, below):
        self._reader, self._below = reader, below
        self._top = os.fsencode(step.dest).strip(b"/")
        self._uid = _number(below, step.owner, b"etc/passwd", "user")
        self._gid = _number(below, step.group, b"etc/group", "group")

    def __iter__(self):
        parts = self._top.split(b"/")
        for count in range(1, len(parts)):
            self._directory(b"/".join(parts[:count]))
        for member in self._reader:
            member.name = self._name(member.name)
            if member.kind == tarstream.LINK:
                member.link = self._name(member.link)
            member.uid, member.gid = self._uid, self._gid
            if self._wanted(member):
                yield member
            else:
                _pass(self._reader.data())

    def data(self):
        return self._reader.data()

    def _name(self, name):
        return b"/".join(filter(None, (self._top, name)))

    def _wanted(self, member):
        """A directory that is there stays as it is; nothing takes the place of one, and none that of a file."""
        if member.kind == tarstream.DIRECTORY:
            return not self._directory(member.name)
        found = self._below.entry(member.name) if member.name else (None, None)
        if found and (found[0] is None or stat.S_ISDIR(found[0].st_mode)):
            raise ArchiveError("is a directory in the image", member.name or b"/", "Name the place of the file itself in dest")
        return True

    def _directory(self, path):
        """Is there a directory of this name below? Anything else there is refused."""
        found = self._below.entry(path) if path else True
        if found and path and stat.S_ISLNK(found[0].st_mode):
            raise ArchiveError("is a symbolic link in the image, and none is followed", path, "Name the place that it leads to in dest")
        if found and path and not stat.S_ISDIR(found[0].st_mode):
            raise ArchiveError("is no directory in the image", path, "Name another dest")
        return bool(found)


def placed(step, reader, trees):
    """The members of a step's files over these trees (descriptors, the top one first)."""
    return Placed(step, reader, Below(trees))


def _number(below, word, path, what):
    """The id of a user or group, by the image's own files."""
    if word is None:
        return 0
    if word.isdigit():
        return int(word)
    try:
        lines = (below.read(path, _IDS) or b"").decode("utf-8", "surrogateescape").splitlines()
    except OSError:  # a link, or no directory above
        lines = []
    for fields in (line.split(":") for line in lines):
        if fields[0] == word and len(fields) > 3 and fields[2].isdigit() and int(fields[2]) < 0xFFFFFFFF:
            return int(fields[2])
    if word == "root":
        return 0
    raise ArchiveError("there is no %s %s in its /%s" % (what, word, path.decode()), advice="Add it in a step before, or give a number")
