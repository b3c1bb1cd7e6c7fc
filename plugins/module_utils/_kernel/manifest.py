# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a directory tree holds, entry by entry, and the digest of that.

The manifest is text in the form of mtree(5), with full names, sorted by their bytes, one line for each entry: type, mode, owner,
time, size and digest of the content, target of a link, device number, extended attributes. Names of one file are a group: the
first has the line of the file, the others name it. Two trees with one manifest are the same to whoever looks at them.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import os
import re
import stat

from . import beneath, syscalls

_CHUNK = 1 << 20
_ODD = re.compile(rb"[^!\"$-\[\]-~]")
_LEFT_OUT = ("security.selinux",)  # given by the policy of the host that the tree lies on
OPAQUE = "trusted.overlay.opaque"
GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE)  # or something else has its name


class Entry:
    """Something in a tree: its path (bytes, empty for the root), its parent's descriptor and its name there, what stat(2) says."""

    __slots__ = ("path", "parent", "name", "stat", "_xattrs")

    def __init__(self, path, parent, name, found, known=None):
        self.path, self.parent, self.name, self.stat = path, parent, name, found
        self._xattrs = known

    @property
    def xattrs(self):
        """{name: value} of its extended attributes, read when they are asked for."""
        if self._xattrs is None:
            self._xattrs = xattrs(self.parent, self.name)
        return self._xattrs

    def open(self):
        """A descriptor of the content of a regular file, which is still the one that was looked at: what has come in its place, perhaps with
        its inode number, is not opened, for it may be a device."""
        fd = os.open(self.name, syscalls.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.parent)
        try:
            found = os.fstat(fd)
            if not (stat.S_ISREG(found.st_mode) and os.path.samestat(found, self.stat)):
                raise OSError(errno.ESTALE, "it was replaced while it was read", self.path)
            return os.open("/proc/self/fd/%d" % fd, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        finally:
            os.close(fd)

    def chunks(self, size=_CHUNK):
        """The content of a regular file; ESTALE where it was written while it was read."""
        fd = self.open()
        try:
            while True:
                chunk = os.read(fd, size)
                if not chunk:
                    break
                yield chunk
            found = os.fstat(fd)
            if (found.st_size, found.st_mtime_ns) != (self.stat.st_size, self.stat.st_mtime_ns):
                raise OSError(errno.ESTALE, "it was changed while it was read", self.path)
        finally:
            os.close(fd)

    def target(self):
        return os.readlink(self.name, dir_fd=self.parent)


def xattrs(parent, name, left_out=_LEFT_OUT):
    """{name: value} of all extended attributes that are part of a tree."""
    path = b"/proc/self/fd/%d/%s" % (parent, name)
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as exc:
        if exc.errno != errno.EOPNOTSUPP:
            raise
        return {}
    return {key: os.getxattr(path, key, follow_symlinks=False) for key in names if key not in left_out} if names else {}


def walk(root, choose=None, moving=False):
    """The Entries of a tree, its root first, parents before what is in them, names in the order of their bytes.

    Nothing is followed and no other file system is entered: that is an error (EXDEV). A parent's descriptor is good until the next.
    ``choose(path, stat, other)`` says of each but the root whether it is in the tree, and of a directory whether what is in it is
    looked at: a pair of truth values. ``other``: it is on another device than what it is in, which is then no error.
    ``moving``: somebody writes to it, and what is gone when its turn comes is no error either.
    """
    found = os.fstat(root)
    device, stack = found.st_dev, []
    yield Entry(b"", root, b".", found)
    here = os.open(b".", os.O_RDONLY | beneath.DIRECTORY, dir_fd=root)
    todo, path = _names(here), b""
    try:
        while True:
            while todo:
                name = todo.pop()
                try:
                    found, taken, entered = os.stat(name, dir_fd=here, follow_symlinks=False), True, True
                except FileNotFoundError:
                    if not moving:
                        raise
                    continue
                if choose is not None:
                    taken, entered = choose(path + name, found, found.st_dev != device)
                elif found.st_dev != device:
                    raise OSError(errno.EXDEV, "another file system is mounted there", path + name)
                if taken:
                    yield Entry(path + name, here, name, found)
                if entered and stat.S_ISDIR(found.st_mode):
                    try:
                        child = os.open(name, os.O_RDONLY | beneath.DIRECTORY, dir_fd=here)
                    except OSError as exc:
                        if not (moving and exc.errno in GONE):
                            raise
                        continue
                    stack.append((here, todo, path, device))
                    here, path, device = child, path + name + b"/", found.st_dev
                    if len(stack) > 512:
                        raise OSError(errno.ENAMETOOLONG, "it is nested more than 512 deep", path[:-1])
                    todo = _names(here)
            os.close(here)
            here = -1
            if not stack:
                return
            here, todo, path, device = stack.pop()
    finally:
        for fd in [here] + [each[0] for each in stack]:
            if fd >= 0:
                os.close(fd)


def _names(fd):
    return sorted(map(os.fsencode, os.listdir(fd)), reverse=True)


class Manifest:
    """``text`` in bytes, its ``digest``, the number of ``entries`` and the ``size`` of all content."""

    def __init__(self, lines, size):
        self.text = b"#mtree\n" + b"".join(b"%s %s\n" % (_name(path), lines[path]) for path in sorted(lines))
        self.digest = "sha256:" + hashlib.sha256(self.text).hexdigest()
        self.entries, self.size = len(lines), size


def of(root, known=None):
    """The Manifest of the tree ``root`` (descriptor). ``known``: {inode: sha256 in hex} of content that need not be read again."""
    return of_entries(walk(root), known)


def of_entries(entries, known=None):
    """The same of some Entries."""
    lines, groups, size, known = {}, {}, 0, known or {}
    for entry in entries:
        kind = stat.S_IFMT(entry.stat.st_mode)
        if kind == stat.S_IFSOCK:
            continue  # it means nothing without the process that made it
        if kind != stat.S_IFDIR and entry.stat.st_nlink > 1:
            group = groups.setdefault(entry.stat.st_ino, [])
            group.append(entry.path)
            if len(group) > 1:
                continue
        if kind == stat.S_IFREG:
            size += entry.stat.st_size
        lines[entry.path] = words(entry, kind, known)
    for group in groups.values():
        first, told = min(group), lines.pop(group[0])
        lines.update((path, b"type=file hardlink=" + _name(first)) for path in group)
        lines[first] = told
    return Manifest(lines, size)


def _name(path):
    return b"./" + _escaped(path) if path else b"."


def _escaped(text):
    return _ODD.sub(lambda match: b"\\%03o" % match.group()[0], text)


def words(entry, kind, known):
    """What the manifest says of an entry."""
    found = entry.stat
    meta = b" mode=%04o uid=%d gid=%d time=%d.%09d" % (
        stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, *divmod(found.st_mtime_ns, 10 ** 9))
    if kind == stat.S_IFREG:
        digest = known.get(found.st_ino)
        if digest is None:
            content = hashlib.sha256()
            for chunk in entry.chunks():
                content.update(chunk)
            digest = content.hexdigest()
        told = b"type=file%s size=%d sha256digest=%s" % (meta, found.st_size, digest.encode())
    elif kind == stat.S_IFLNK:
        told = b"type=link%s link=%s" % (meta, _escaped(os.fsencode(entry.target())))
    elif kind in (stat.S_IFDIR, stat.S_IFIFO):
        told = (b"type=dir" if kind == stat.S_IFDIR else b"type=fifo") + meta
    else:
        told = b"type=%s%s device=native,%d,%d" % (b"char" if kind == stat.S_IFCHR else b"block", meta,
                                                   os.major(found.st_rdev), os.minor(found.st_rdev))
    for key in sorted(entry.xattrs):
        told += b" xattr.%s=%s" % (_escaped(os.fsencode(key)), base64.b64encode(entry.xattrs[key]))
    return told


def difference(wanted, found):
    """(name, what is different) of the first entry that two manifests (text) tell differently; None when they are equal."""
    sides = []
    for text in (wanted, found):
        sides.append(dict(each.partition(b" ")[::2] for each in text.splitlines()[1:]))
    for name in sorted(set(sides[0]) | set(sides[1])):
        before, after = sides[0].get(name), sides[1].get(name)
        if before != after:
            if before is None or after is None:
                return name.decode(), "is missing" if after is None else "was added"
            words = [dict(word.partition(b"=")[::2] for word in side.split(b" ")) for side in (before, after)]
            keys = [key.decode() for key in list(words[0]) + [each for each in words[1] if each not in words[0]]
                    if words[0].get(key) != words[1].get(key)]
            return name.decode(), "differs in %s" % ", ".join({"sha256digest": "content"}.get(key, key) for key in keys)
    return None


def same_content(one, other):
    """Have two streams, read from where they are, one content?"""
    while True:
        chunk = one.read(_CHUNK)
        if chunk != other.read(_CHUNK):
            return False
        if not chunk:
            return True
