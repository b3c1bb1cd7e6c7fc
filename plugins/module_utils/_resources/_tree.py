# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A directory of the host, read as an archive is."""

from __future__ import annotations

import fcntl
import os
import stat

from .._kernel import copytree, manifest, tarstream
from .._kernel.tarstream import ArchiveError, Member

# What overlayfs notes in an upper for itself; a redirect or a metacopy are not among them.
_NOTES = {b"trusted.overlay." + word for word in (b"opaque", b"origin", b"impure", b"nlink", b"upper", b"uuid", b"protattr")}


class Tree:
    """A directory as members, as a tarstream.Reader gives them: parents first, one name of a file before its others.

    ``upper``: it is the upper of an overlay, whose whiteouts and opaque directories become those of an archive. ``choice`` says what is
    taken and in which form, as `_host_root.Choice` does. ``entries``: what it is made of, where that is not all of the directory.
    """

    def __init__(self, root, upper=False, choice=None, entries=None):
        self._upper, self._choice = upper, choice
        self._entries = manifest.walk(root, choice and choice.choose) if entries is None else entries
        self._entry, self._content, self._first, self._whole = None, None, {}, set()

    def __iter__(self):
        kinds = {stat.S_IFREG: tarstream.FILE, stat.S_IFDIR: tarstream.DIRECTORY, stat.S_IFLNK: tarstream.SYMLINK,
                 stat.S_IFCHR: tarstream.CHARACTER, stat.S_IFBLK: tarstream.DEVICE, stat.S_IFIFO: tarstream.FIFO}
        for entry in self._taken():
            found, kind = entry.stat, kinds.get(stat.S_IFMT(entry.stat.st_mode))
            if kind is None:
                continue  # a socket, which means nothing without the process that made it
            if entry.name.startswith(b".wh."):
                raise ArchiveError("has a name that images keep for what a layer removes", entry.path)
            self._entry = entry
            member = Member(entry.path or b".", kind, stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, found.st_mtime_ns,
                            xattrs={os.fsencode(key): value for key, value in entry.xattrs.items()})
            marks = self._marks(entry, member) if self._upper else ()
            if kind == tarstream.SYMLINK:
                member.link = os.fsencode(entry.target())
            elif kind == tarstream.CHARACTER and self._upper and not found.st_rdev:
                parent, slash, name = entry.path.rpartition(b"/")
                member.name, member.kind = parent + slash + b".wh." + name, tarstream.FILE
            elif kind in (tarstream.CHARACTER, tarstream.DEVICE):
                member.device = os.major(found.st_rdev), os.minor(found.st_rdev)
            elif kind == tarstream.FILE:
                first = self._first.setdefault((found.st_dev, found.st_ino), entry.path) if found.st_nlink > 1 else entry.path
                if first != entry.path:
                    member.kind, member.link = tarstream.LINK, first
                else:
                    member.size = found.st_size
            self._content = self._choice and self._choice.shape(member, entry)
            yield member
            yield from marks
        if self._choice:
            self._choice.done()

    def _taken(self):
        """What it is made of, once. No variable holds it, in which a traceback would keep its directories open."""
        entries, self._entries = self._entries, ()
        return entries

    @staticmethod
    def _marks(entry, member):
        """What the kernel has noted about an entry of an upper goes; that a directory is opaque becomes a member of its own."""
        notes = {key for key in member.xattrs if key.startswith(b"trusted.overlay.")}
        for key in notes - _NOTES:
            raise ArchiveError("has the extended attribute %s, whose meaning is lost outside of this overlay" % tarstream.shown(key), member.name)
        opaque = b"trusted.overlay.opaque" in notes and member.xattrs[b"trusted.overlay.opaque"] == b"y"
        for key in notes:
            del member.xattrs[key]
        return [Member((entry.path + b"/" if entry.path else b"") + b".wh..wh..opq", tarstream.FILE)] if opaque else ()

    def data(self):
        if self._content is not None:
            return (self._content,)
        return File(self._entry, self._whole) if stat.S_ISREG(self._entry.stat.st_mode) else ()


class File:
    """The content of a file: in chunks, or shared with another one where both are on a file system that can do that.

    ``unable``: the devices that cannot, as was seen.
    """

    def __init__(self, entry, unable):
        self._entry, self._unable = entry, unable

    def __iter__(self):
        return self._entry.chunks()

    def share(self, fd):
        """Give an empty file the same blocks; False when that cannot be."""
        device = self._entry.stat.st_dev
        if device in self._unable:
            return False
        source = self._entry.open()
        try:
            fcntl.ioctl(fd, copytree.FICLONE, source)
            return True
        except OSError:
            self._unable.add(device)
            return False
        finally:
            os.close(source)
