# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An ext4 in a file that holds as much as it is told to, which is changed while it is mounted.

It is made with room for more, which costs little as the file has holes, and the rest is held back (reserved_clusters, which the
kernel keeps from everyone, root too). So what it may hold grows and shrinks without an unmount. At each mount anew it is told again.
"""

from __future__ import annotations

import errno
import os

BLOCK = 4096
TOOL = "mkfs.ext4"
_ROOM, _TIMES = 64 << 30, 8  # it can be told to hold at least so many bytes, or so many times as many as at first
_JOURNAL = 16  # MiB
# All that it has, whatever mke2fs.conf(5) of the host names: that may take what is to be written (orphan_file, a default of e2fsprogs 1.47, has
# 2 MiB of 64 GiB) or be unknown to the kernel. mke2fs knows these since 1.43.
_FEATURES = "ext_attr,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum"


def make(run, tool, path, size, journal):
    """Make a file system that holds ``size`` bytes in the new file ``path``: (0 or another exit status, what the tool said)."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(fd, max(_ROOM, -(-size // BLOCK) * BLOCK * _TIMES))
    finally:
        os.close(fd)
    return format_device(run, tool, path, journal)


def format_device(run, tool, path, journal=True, more=()):
    """The same of a device or file that is there, whole; ``more``: extended options."""
    features = ["-O", "none," + _FEATURES + ",has_journal" * journal] + (["-J", "size=%d" % _JOURNAL] if journal else [])
    status, dummy, errors = run([tool, "-q", "-F", "-m", "0", "-b", str(BLOCK), "-i", "8192", "-E", ",".join(("lazy_journal_init=1",) + more)]
                                + features + [path])
    return status, " ".join(errors.split())


def space(directory, sys):
    """(bytes that the mounted file system may hold, bytes in use)."""
    found = os.statvfs(directory)
    with open(_held_back(directory, sys), encoding="ascii") as stream:
        held = int(stream.read())
    return (found.f_blocks - held) * found.f_frsize, (found.f_blocks - found.f_bfree) * found.f_frsize


def set_space(directory, sys, size):
    """Let it hold ``size`` bytes, rounded up to whole blocks."""
    found = os.statvfs(directory)
    held = found.f_blocks - -(-size // found.f_frsize)
    if held < 0:
        raise OSError(errno.ENOSPC, "it was made for at most %d bytes" % (found.f_blocks * found.f_frsize), directory)
    with open(_held_back(directory, sys), "w", encoding="ascii") as stream:
        stream.write(str(held))


def has_stopped(directory):
    """Whether nothing in it can be read or written until it is mounted anew: Linux 6.6 to 6.14 stop one whose journal could not be written, as
    EXT4_IOC_SHUTDOWN does; others still read it. What answers is fsync(2): EROFS where it can only be read, EIO where it has stopped."""
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as exc:
        return exc.errno == errno.EIO
    return False


def _held_back(directory, sys):
    number = os.stat(directory).st_dev
    name = os.path.basename(os.path.realpath("%s/dev/block/%d:%d" % (sys, os.major(number), os.minor(number))))
    return "%s/fs/ext4/%s/reserved_clusters" % (sys, name)
