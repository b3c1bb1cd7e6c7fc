# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Idmapped mounts (mount_setattr(2), Linux 5.12): the files of a host's tree with the ids of a user namespace.

What is stored as id 0 shows as the id that is 0 inside, and what that one makes is stored as 0 again.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal

from . import syscalls

_PR_GET_DUMPABLE, _PR_GET_SECUREBITS, _PR_SET_SECUREBITS, _NO_SETUID_FIXUP = 3, 27, 28, 4

_libc = ctypes.CDLL(None, use_errno=True)


def user_namespace(uid_map, gid_map, proc="/proc"):
    """The descriptor of a user namespace with these maps (texts as they are written), in which nobody lives.

    A child makes it and waits for the end of a pipe, which comes also when we are killed.
    """
    up_r, up_w = os.pipe()
    go_r, go_w = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(up_r)
            os.close(go_w)
            syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
            syscalls.unshare(syscalls.CLONE_NEWUSER)
            os.write(up_w, b"0")
            os.read(go_r, 1)
        except OSError as exc:
            os.write(up_w, b"%d" % (exc.errno or errno.EIO))
        finally:
            os._exit(0)
    os.close(up_w)
    os.close(go_r)
    try:
        answer = int(os.read(up_r, 16) or errno.ECHILD)
        if answer:
            raise OSError(answer, os.strerror(answer), "user namespace")
        for name, text in (("uid_map", uid_map), ("gid_map", gid_map)):
            fd = os.open("%s/%d/%s" % (proc, pid, name), os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, text.encode())
            except OSError as exc:
                raise OSError(exc.errno, exc.strerror, name) from exc
            finally:
                os.close(fd)
        return os.open("%s/%d/ns/user" % (proc, pid), os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(up_r)
        os.close(go_w)
        os.waitpid(pid, 0)


def clone(path, users, recursive=False):
    """A detached, private clone of what is at ``path``, with the ids of the user namespace ``users``; of what is mounted below, without.

    OSError: ENOSYS before Linux 5.12, EINVAL where this file system has no idmapped mounts, EPERM where it is one already.
    """
    fd = syscalls.open_tree(syscalls.AT_FDCWD, path, syscalls.OPEN_TREE_CLONE | (syscalls.AT_RECURSIVE if recursive else 0))
    try:
        syscalls.mount_setattr(fd, propagation=syscalls.MS_PRIVATE, recursive=recursive)
        syscalls.mount_setattr(fd, attr_set=syscalls.MOUNT_ATTR_IDMAP, userns_fd=users)
    except OSError as exc:
        os.close(fd)
        raise OSError(exc.errno, exc.strerror, path) from exc
    return fd


def mapped(number, lines):
    """The host's id of what is stored as ``number``, or None where the map ([[inside, outside, count], …]) has none."""
    for start, outside, count in lines:
        if start <= number < start + count:
            return outside + number - start
    return None


class Acting:
    """A context: with these ids towards file systems, and all capabilities kept. What is made on the way belongs to them.

    In-process, as fsuid and fsgid are the thread's alone. The file system that an idmapped mount shows has no name for root's own id.
    """

    __slots__ = ("ids", "_bits", "_dumpable")

    def __init__(self, uid, gid):
        self.ids = (uid, gid)

    def __enter__(self):
        self._bits, self._dumpable = syscalls.prctl(_PR_GET_SECUREBITS), syscalls.prctl(_PR_GET_DUMPABLE)
        syscalls.prctl(_PR_SET_SECUREBITS, self._bits | _NO_SETUID_FIXUP)  # else the capabilities for files go with the 0
        try:
            self._become(*self.ids)
        except OSError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc):
        self._become(os.geteuid(), os.getegid())
        syscalls.prctl(_PR_SET_SECUREBITS, self._bits)
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, int(self._dumpable == 1))

    @staticmethod
    def _become(uid, gid):
        for change, value in ((_libc.setfsgid, gid), (_libc.setfsuid, uid)):
            change(ctypes.c_uint(value))
            if change(ctypes.c_int(-1)) & 0xFFFFFFFF != value:  # they report nothing but what was before
                raise OSError(errno.EPERM, os.strerror(errno.EPERM), "setfsuid")
