# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The system calls that Python 3.9 does not offer, by ctypes: one function each, no policy.

Every function raises OSError with the kernel's errno. Flags and numbers are those of the kernel's uapi headers.
The numbers above 423 are the same on every architecture; older ones are reached through libc.
"""

from __future__ import annotations

import ctypes
import errno
import os

# mount(2)
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_MOVE, MS_REC = 32, 4096, 8192, 16384
MS_UNBINDABLE, MS_PRIVATE, MS_SLAVE, MS_SHARED = 1 << 17, 1 << 18, 1 << 19, 1 << 20
MNT_DETACH, UMOUNT_NOFOLLOW = 2, 8

# clone(2), unshare(2), setns(2)
CLONE_NEWTIME, CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS = 0x80, 0x20000, 0x02000000, 0x04000000
CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x08000000, 0x10000000, 0x20000000, 0x40000000

# openat2(2), open(2)
RESOLVE_NO_XDEV, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH, RESOLVE_IN_ROOT = 1, 2, 4, 8, 16
O_PATH = getattr(os, "O_PATH", 0o10000000)
AT_FDCWD, AT_SYMLINK_NOFOLLOW, AT_EMPTY_PATH, AT_RECURSIVE = -100, 0x100, 0x1000, 0x8000

# the new mount API
OPEN_TREE_CLONE, OPEN_TREE_CLOEXEC = 1, os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH, MOVE_MOUNT_T_EMPTY_PATH, MOVE_MOUNT_BENEATH = 0x4, 0x40, 0x200
FSOPEN_CLOEXEC, FSMOUNT_CLOEXEC = 1, 1
FSCONFIG_SET_FLAG, FSCONFIG_SET_STRING, FSCONFIG_SET_PATH_EMPTY, FSCONFIG_SET_FD = 0, 1, 4, 5
FSCONFIG_CMD_CREATE, FSCONFIG_CMD_RECONFIGURE = 6, 7
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC = 1, 2, 4, 8
MOUNT_ATTR_NOSYMFOLLOW, MOUNT_ATTR_IDMAP = 0x200000, 0x100000

# prctl(2)
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS, PR_SET_CHILD_SUBREAPER = 1, 4, 38, 36

_OPEN_TREE, _MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT = 428, 429, 430, 431, 432
_PIDFD_OPEN, _OPENAT2, _MOUNT_SETATTR, _PIDFD_SEND_SIGNAL, _QUOTACTL_FD = 434, 437, 442, 424, 443

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)
_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_void_p)


def _checked(result, path=None):
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), path)
    return result


def _syscall(number, *args, path=None):
    """Integers are passed as longs and bytes as pointers; syscall(2) is variadic, so widths are made explicit."""
    return _checked(_libc.syscall(ctypes.c_long(number), *(
        ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in args)), path)


def _bytes(text):
    return None if text is None else os.fsencode(text)


def mount(source, target, fstype=None, flags=0, data=None):
    """mount(2). Note that the kernel cuts ``data`` at 4095 bytes without a word: longer data is refused here."""
    data = _bytes(data)
    if data is not None and len(data) > 4095:
        raise OSError(errno.E2BIG, "mount options of more than 4095 bytes", target)
    _checked(_libc.mount(_bytes(source), _bytes(target), _bytes(fstype), flags, data), target)


def umount(target, flags=UMOUNT_NOFOLLOW):
    """umount2(2)."""
    _checked(_libc.umount2(_bytes(target), flags), target)


def setns(fd, nstype=0):
    """setns(2)."""
    _checked(_libc.setns(fd, nstype))


def unshare(flags):
    """unshare(2)."""
    _checked(_libc.unshare(flags))


def pivot_root(new, old):
    """pivot_root(2), which libc does not wrap."""
    number = {"x86_64": 155, "aarch64": 41, "riscv64": 41, "ppc64le": 203, "s390x": 217}.get(os.uname().machine, 218)
    _syscall(number, _bytes(new), _bytes(old), path=new)


def prctl(option, arg=0):
    """prctl(2) with one argument."""
    return _checked(_libc.prctl(ctypes.c_int(option), ctypes.c_ulong(arg), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)))


def openat2(dirfd, path, flags, resolve, mode=0):
    """openat2(2): a descriptor, close-on-exec. EAGAIN (a rename raced with the walk) and EINTR are tried again."""
    how = (ctypes.c_uint64 * 3)(flags | os.O_CLOEXEC, mode, resolve)
    for attempt in range(64):
        try:
            return _syscall(_OPENAT2, dirfd, _bytes(path), ctypes.byref(how), ctypes.sizeof(how), path=path)
        except OSError as exc:
            if exc.errno not in (errno.EAGAIN, errno.EINTR) or attempt == 63:
                raise


def open_tree(dirfd, path, flags=OPEN_TREE_CLONE):
    """open_tree(2): with OPEN_TREE_CLONE a detached copy of the mount at ``path`` (AT_RECURSIVE: and what is below)."""
    return _syscall(_OPEN_TREE, dirfd, _bytes(path), flags | OPEN_TREE_CLOEXEC, path=path)


def move_mount(from_fd, to_fd, to_path="", from_path="", flags=None):
    """move_mount(2). Empty paths mean the descriptors themselves."""
    if flags is None:
        flags = 0
    if not from_path:
        flags |= MOVE_MOUNT_F_EMPTY_PATH
    if not to_path:
        flags |= MOVE_MOUNT_T_EMPTY_PATH
    _syscall(_MOVE_MOUNT, from_fd, _bytes(from_path), to_fd, _bytes(to_path), flags, path=to_path or None)


def fsopen(fstype):
    """fsopen(2): a configuration context for a new file system."""
    return _syscall(_FSOPEN, _bytes(fstype), FSOPEN_CLOEXEC, path=fstype)


def fsconfig_string(fd, key, value):
    """fsconfig(2) FSCONFIG_SET_STRING. Values are at most 255 bytes."""
    _syscall(_FSCONFIG, fd, FSCONFIG_SET_STRING, _bytes(key), _bytes(value), 0, path=key)


def fsconfig_flag(fd, key):
    """fsconfig(2) FSCONFIG_SET_FLAG."""
    _syscall(_FSCONFIG, fd, FSCONFIG_SET_FLAG, _bytes(key), None, 0, path=key)


def fsconfig_fd(fd, key, value_fd):
    """fsconfig(2) FSCONFIG_SET_FD (overlay layers: Linux 6.13)."""
    _syscall(_FSCONFIG, fd, FSCONFIG_SET_FD, _bytes(key), None, value_fd, path=key)


def fsconfig_create(fd):
    """fsconfig(2) FSCONFIG_CMD_CREATE: make the superblock."""
    _syscall(_FSCONFIG, fd, FSCONFIG_CMD_CREATE, None, None, 0)


def fsmount(fd, attributes=0):
    """fsmount(2): the detached mount of a created context."""
    return _syscall(_FSMOUNT, fd, FSMOUNT_CLOEXEC, attributes)


def fs_messages(fd):
    """What the kernel logged on a configuration context ("e overlay: …"), one line each."""
    lines = []
    while len(lines) < 32:
        try:
            text = os.read(fd, 8192)
        except OSError:
            break
        if not text:
            break
        lines.append(text.decode("utf-8", "replace").strip())
    return lines


def mount_setattr(fd, path="", attr_set=0, attr_clr=0, propagation=0, userns_fd=0, recursive=False):
    """mount_setattr(2), Linux 5.12."""
    attributes = (ctypes.c_uint64 * 4)(attr_set, attr_clr, propagation, userns_fd)
    flags = (AT_EMPTY_PATH if not path else 0) | (AT_RECURSIVE if recursive else 0)
    _syscall(_MOUNT_SETATTR, fd, _bytes(path), flags, ctypes.byref(attributes), ctypes.sizeof(attributes), path=path or None)


def execveat(fd, argv, env):
    """execveat(2) of an open file itself; returns only by raising."""
    number = {"x86_64": 322, "aarch64": 281, "riscv64": 281, "ppc64le": 362, "s390x": 354}.get(os.uname().machine, 281)
    arguments = (ctypes.c_char_p * (len(argv) + 1))(*(_bytes(arg) for arg in argv), None)
    environment = (ctypes.c_char_p * (len(env) + 1))(*(_bytes("%s=%s" % item) for item in env.items()), None)
    _syscall(number, fd, b"", arguments, environment, AT_EMPTY_PATH)


def pidfd_open(pid):
    """pidfd_open(2): a process that cannot be confused with a later one of the same number."""
    return _syscall(_PIDFD_OPEN, pid, 0)


def pidfd_send_signal(pidfd, signum):
    """pidfd_send_signal(2)."""
    _syscall(_PIDFD_SEND_SIGNAL, pidfd, signum, None, 0)


def exchange(one, other):
    """renameat2(2) with RENAME_EXCHANGE: two paths of one file system take each other's place at once."""
    number = {"x86_64": 316, "ppc64le": 357, "s390x": 347}.get(os.uname().machine, 276)
    _syscall(number, AT_FDCWD, _bytes(one), AT_FDCWD, _bytes(other), 2, path=one)


def syncfs(fd):
    """syncfs(2): flush the file system that an open file lies on."""
    _checked(_libc.syncfs(fd))


def quotactl(fd, device, command, kind, number, buffer):
    """quotactl_fd(2) on the file system of an open file; before Linux 5.14 quotactl(2), which wants its block device. Fills ``buffer``."""
    place = (ctypes.c_char * len(buffer)).from_buffer(buffer)
    command = command << 8 | kind
    try:
        _syscall(_QUOTACTL_FD, fd, command, number, place)
    except OSError as exc:
        if exc.errno not in (errno.ENOSYS, errno.EPERM):  # EPERM: what seccomp filters of containers answer to unknown calls
            raise
        _checked(_libc.quotactl(ctypes.c_uint(command), _bytes(device), ctypes.c_uint(number), place), device)


def fs_magic(path):
    """f_type of statfs(2): which kind of file system ``path`` (or the descriptor) is on."""
    buffer = ctypes.create_string_buffer(256)  # struct statfs is 120 bytes on 64-bit; f_type is its first word
    if isinstance(path, int):
        _checked(_libc.fstatfs(path, buffer))
    else:
        _checked(_libc.statfs(_bytes(path), buffer), path)
    return ctypes.cast(buffer, ctypes.POINTER(ctypes.c_ulong))[0] & 0xFFFFFFFF
