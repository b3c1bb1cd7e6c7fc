# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Makes a tree from the members of an archive that may be hostile.

Everything is made below one descriptor, in a fresh directory, by descriptors of directories that were opened without following
anything; nothing is ever replaced. What an archive must not have is refused with the entry named.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat

from . import beneath, manifest, mountinfo, syscalls, trees
from .below import Below
from .tarstream import CHARACTER, DEVICE, DIRECTORY, FIFO, FILE, LINK, LONGEST, SYMLINK, ArchiveError, Member, shown

_PATH = syscalls.O_PATH | beneath.DIRECTORY
_DEEPEST = 256
_XATTRS = 1 << 16  # bytes of names and values of one entry
_WHITEOUT, _OPAQUE = b".wh.", b".wh..wh..opq"


class Rules:
    """What an archive may have."""

    __slots__ = ("allow_setuid", "allow_devices", "entries", "size", "file_size")

    def __init__(self, allow_setuid=False, allow_devices=False, entries=1000000, size=1 << 36, file_size=1 << 35):
        self.allow_setuid, self.allow_devices = allow_setuid, allow_devices
        self.entries, self.size, self.file_size = entries, size, file_size


class Unpacker:
    """``root``: a descriptor of an empty directory; ``lowers``: those of the trees below it, the top one first.

    Afterwards: ``known``, the digests of what was written, by inode; ``setuid`` and ``devices``, the first entry that is such, or
    None; ``leans``, whether the tree is what it is because of the trees below it.
    """

    def __init__(self, root, rules, lowers=()):
        self.root, self.rules, self.below = root, rules, Below(lowers)
        self.known, self.setuid, self.devices, self.leans = {}, None, None, False
        self._kinds = {b"": DIRECTORY}  # of every path that was made; None for one that is removed from the trees below
        self._directories = {}  # path: its Member, None for one that no entry tells of
        self._here, self._fd = None, -1  # the last parent
        self.entries = self._size = 0

    def add(self, member, data):
        """Make one member; ``data`` yields its content, and may have ``share(fd)``, which gives that to an empty file without a copy, if it can."""
        path = self._counted(member)
        try:
            self._add(member, path, data)
        except OSError as exc:
            raise ArchiveError("cannot be made: %s" % exc.strerror, member.name) from exc

    def look(self, member):
        """Refuse of a member of a tree that is there already what add() would."""
        self._counted(member)
        self._check(member)
        self._sized(member)

    def _counted(self, member):
        self.entries += 1
        if self.entries > self.rules.entries:
            raise ArchiveError("it has more than %d entries" % self.rules.entries, advice="Raise limits.entries if that is as it should be")
        return self._path(member.name)

    def _sized(self, member):
        self._size += member.size
        if self._size > self.rules.size:
            raise ArchiveError("it has more than %d bytes" % self.rules.size, advice="Raise limits.size if that is as it should be")

    def _add(self, member, path, data):
        parent, dummy, name = path.rpartition(b"/")
        if name.startswith(_WHITEOUT):
            self._whiteout(member, parent, name)
            return
        self._check(member)
        if path in self._kinds and not (member.kind == DIRECTORY == self._kinds[path]):
            raise ArchiveError("is removed and made" if self._kinds[path] is None else "is there twice", member.name)
        if member.kind == DIRECTORY:
            if path not in self._kinds:
                os.mkdir(name, 0o700, dir_fd=self._parent(parent, member))
                self._kinds[path] = DIRECTORY
            self._directories[path] = member
            return
        if not path:
            raise ArchiveError("is the root of the tree, and is no directory", member.name)
        getattr(self, {FILE: "_file", LINK: "_link", SYMLINK: "_symlink"}.get(member.kind, "_node"))(
            member, name, self._parent(parent, member), data)
        self._kinds[path] = member.kind

    def _path(self, name):
        if name.startswith(b"/"):
            raise ArchiveError("is an absolute path", name)
        if not name or b"\0" in name:
            raise ArchiveError("has no proper name", name)
        parts = [part for part in name.split(b"/") if part not in (b"", b".")]
        if b".." in parts:
            raise ArchiveError("leads upwards", name)
        if len(name) > LONGEST or any(len(part) > 255 for part in parts):
            raise ArchiveError("has too long a name", name)
        if len(parts) > _DEEPEST:
            raise ArchiveError("is nested more than %d deep" % _DEEPEST, name)
        return b"/".join(parts)

    def _check(self, member):
        """What may be in a tree at all."""
        rules = self.rules
        powers = member.kind == FILE and (member.mode & 0o6000 or b"security.capability" in member.xattrs)
        if powers:
            if not rules.allow_setuid:
                raise ArchiveError("is set-user-ID, set-group-ID or has capabilities", member.name, "Set allow_setuid: true to allow such files")
            self.setuid = self.setuid or member.name
        if member.kind in (CHARACTER, DEVICE):
            if member.kind == CHARACTER and member.device == (0, 0):
                raise ArchiveError("is a whiteout of an overlay, which an archive has in another form", member.name)
            if not rules.allow_devices:
                raise ArchiveError("is a %s" % member.kind, member.name, "Set allow_devices: true to allow devices")
            self.devices = self.devices or member.name
        if member.size > rules.file_size:
            raise ArchiveError("has more than %d bytes" % rules.file_size, member.name, "Raise limits.file_size if that is as it should be")
        if sum(len(key) + len(value) for key, value in member.xattrs.items()) > _XATTRS:
            raise ArchiveError("has more than %d bytes of extended attributes" % _XATTRS, member.name)
        for key in member.xattrs:  # those of a hard link are the file's own, told once more
            allowed = key.startswith(b"user.") and not key.startswith(b"user.overlay.") or key == b"security.capability" and member.kind in (FILE, LINK)
            if not allowed or member.kind not in (FILE, LINK, DIRECTORY):
                raise ArchiveError("has the extended attribute %s" % shown(key), member.name)

    def _parent(self, path, member):
        """The descriptor of a directory of this tree, which is made where no entry has told of it."""
        if path == self._here:
            return self._fd
        for end in [] if self._kinds.get(path) == DIRECTORY else [at for at in range(len(path)) if path[at:at + 1] == b"/"] + [len(path)]:
            part = path[:end]
            if part not in self._kinds:
                above, dummy, name = part.rpartition(b"/")
                os.mkdir(name, 0o700, dir_fd=self._open(above))
                self._kinds[part], self._directories[part] = DIRECTORY, None
            elif self._kinds[part] != DIRECTORY:
                what = self._kinds[part]
                raise ArchiveError("is below %s, which is %s" % (shown(part), "removed" if what is None else "a " + what), member.name)
        return self._open(path)

    def _open(self, path):
        if path != self._here:
            fd = beneath.open_at(self.root, path, _PATH)
            self.close()
            self._here, self._fd = path, fd
        return self._fd

    def close(self):
        """Let go of the last parent."""
        if self._fd >= 0:
            os.close(self._fd)
        self._here, self._fd = None, -1

    def _file(self, member, name, parent, data):
        content, left = hashlib.sha256(), member.size
        self._sized(member)
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=parent)
        try:
            shared = getattr(data, "share", None)
            shared = shared is not None and shared(fd)
            for chunk in data:
                left -= len(chunk)
                if left < 0:
                    raise ArchiveError("is larger than it said", member.name)
                content.update(chunk)
                while chunk and not shared:
                    chunk = chunk[os.write(fd, chunk):]
            if left:
                raise ArchiveError("is smaller than it said", member.name)
            self._finish(fd, member)
            self.known[os.fstat(fd).st_ino] = content.hexdigest()
        finally:
            os.close(fd)

    @staticmethod
    def _finish(fd, member):
        """Owner before mode and capabilities, which it would take away, and the time last."""
        os.fchown(fd, member.uid, member.gid)
        os.fchmod(fd, member.mode)
        for key, value in member.xattrs.items():
            try:
                os.setxattr(fd, key, value)
            except OSError as exc:
                raise _unheld(fd, member, key) if exc.errno == errno.EOPNOTSUPP else exc
        os.utime(fd, ns=(member.mtime, member.mtime))

    def _link(self, member, name, parent, data):
        try:
            target = self._path(member.link)
            why = None if self._kinds.get(target) == FILE else "is a %s" % self._kinds[target] if self._kinds.get(target) else \
                "is no file that comes before it"
        except ArchiveError as exc:
            why = exc.why
        if why:
            raise ArchiveError("is a hard link to %s, which %s" % (shown(member.link), why), member.name)
        above, dummy, old = target.rpartition(b"/")
        source = beneath.open_at(self.root, above, _PATH)
        try:
            os.link(old, name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(source)
        # A name of a file as any other: a further link may name it.
        member.kind = FILE

    def _symlink(self, member, name, parent, data):
        if not member.link or len(member.link) > LONGEST:
            raise ArchiveError("is a symbolic link without a proper target", member.name)
        os.symlink(member.link, name, dir_fd=parent)
        self._name(member, name, parent)

    def _node(self, member, name, parent, data):
        kind = {CHARACTER: stat.S_IFCHR, DEVICE: stat.S_IFBLK, FIFO: stat.S_IFIFO}[member.kind]
        os.mknod(name, kind | 0o600, os.makedev(*member.device), dir_fd=parent)
        self._name(member, name, parent)

    @staticmethod
    def _name(member, name, parent):
        """Owner, mode and time of what is not opened."""
        os.chown(name, member.uid, member.gid, dir_fd=parent, follow_symlinks=False)
        if member.kind != SYMLINK:
            fd = os.open(name, syscalls.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
            try:
                os.chmod("/proc/self/fd/%d" % fd, member.mode)  # the descriptor itself, whatever has its name now
            finally:
                os.close(fd)
        os.utime(name, ns=(member.mtime, member.mtime), dir_fd=parent, follow_symlinks=False)

    def _whiteout(self, member, parent, name):
        """What a layer removes from those below it; in the lowest there is nothing to remove."""
        gone = name[len(_WHITEOUT):]
        if member.kind != FILE or member.size or (name != _OPAQUE and (gone in (b"", b".", b"..") or gone.startswith(_WHITEOUT))):
            raise ArchiveError("is a whiteout of no proper form", member.name)
        if self._is_replaced(parent):
            return  # nothing of the layers below is seen there, as tools tell that remove a tree name by name
        self.leans = True
        path = parent + b"/" + gone if parent else gone
        if name != _OPAQUE:
            if path in self._kinds:
                raise ArchiveError("removes what the same archive makes" if self._kinds[path] else "removes a second time", member.name)
            self._kinds[path] = None
        directory = self._parent(parent, member)
        if not self.below.trees:
            return
        if name == _OPAQUE:
            os.setxattr("/proc/self/fd/%d" % directory, manifest.OPAQUE, b"y")
        else:
            os.mknod(gone, stat.S_IFCHR, 0, dir_fd=directory)
            os.utime(gone, ns=(0, 0), dir_fd=directory, follow_symlinks=False)

    def _is_replaced(self, path):
        """Is a path, or one above it, removed by this archive, or something that can hold nothing? A link could mean another place."""
        while path not in self._kinds:
            path = path.rpartition(b"/")[0]
        return self._kinds[path] not in (DIRECTORY, SYMLINK)

    def finish(self):
        """Directories get their owner, mode and time when nothing more is made in them: the deepest first."""
        self.close()
        self._directories.setdefault(b"", None)
        for path in sorted(self._directories, reverse=True):
            member = self._directories[path] or self._unsaid(path)
            try:
                fd = beneath.open_at(self.root, path)
                try:
                    self._finish(fd, member)
                finally:
                    os.close(fd)
            except OSError as exc:
                raise ArchiveError("cannot be made: %s" % exc.strerror, member.name) from exc

    def _unsaid(self, path):
        """A directory that no entry tells of is as it is below, and nothing in it is newer."""
        self.leans = True
        below = self.below.directory(path)[0]
        member = Member(path or b".", DIRECTORY)
        if below:
            found, xattrs = below
            member.mode, member.uid, member.gid, member.mtime = stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, found.st_mtime_ns
            member.xattrs = {os.fsencode(key): value for key, value in xattrs.items() if key.startswith("user.")}
        return member


def _unheld(fd, member, key):
    """The ArchiveError for an extended attribute that the file system of an open file has no place for."""
    mount = mountinfo.read().by_id[trees.mount_id(fd)]
    advice = "Put the store on one that can, such as ext4, xfs or btrfs"
    return ArchiveError("has the extended attribute %s, and the file system of %s (%s) cannot hold it" % (shown(key), mount.target, mount.fstype), member.name,
                        advice + (", or have Linux 6.6 or later, where a tmpfs can" if mount.fstype == "tmpfs" else ""))


def whole(reader, unpacker):
    """Every member of a reader (``iter()``, ``data()``)."""
    try:
        with contextlib.closing(iter(reader)) as members:  # with the directories that it has open
            for member in members:
                unpacker.add(member, reader.data())
        unpacker.finish()
    finally:
        unpacker.close()
