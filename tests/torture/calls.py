# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which system calls change the machine (x86_64).

Three classes. MUTATING: the next state of the host, or of another process of ours, depends on it; some only with certain
arguments. HARMLESS: reads, or changes only the calling process. A call in neither stops the test, so that none is missed.
"""

from __future__ import annotations

import os
import re
import struct

# name: (number, which argument is the path that it works on, or None)
MUTATING = {
    "write": (1, None), "open": (2, 0), "ioctl": (16, None), "pwrite64": (18, None), "writev": (20, None),
    "sendfile": (40, None), "sendto": (44, None), "sendmsg": (46, None), "bind": (49, None), "clone": (56, None),
    "fork": (57, None), "vfork": (58, None), "execve": (59, 0), "kill": (62, None), "flock": (73, None), "fsync": (74, None),
    "fdatasync": (75, None), "truncate": (76, 0), "ftruncate": (77, None), "rename": (82, 1), "mkdir": (83, 0), "rmdir": (84, 0),
    "creat": (85, 0), "link": (86, 1), "unlink": (87, 0), "symlink": (88, 1), "chmod": (90, 0), "fchmod": (91, None),
    "chown": (92, 0), "fchown": (93, None), "lchown": (94, 0), "mknod": (133, 0), "pivot_root": (155, 0), "chroot": (161, 0),
    "sync": (162, None), "mount": (165, 1), "umount2": (166, 0), "sethostname": (170, None), "setdomainname": (171, None),
    "quotactl": (179, None), "setxattr": (188, 0), "lsetxattr": (189, 0), "fsetxattr": (190, None), "removexattr": (197, 0),
    "lremovexattr": (198, 0), "fremovexattr": (199, None), "tkill": (200, None), "tgkill": (234, None), "openat": (257, 1),
    "mkdirat": (258, 1), "mknodat": (259, 1), "fchownat": (260, 1), "unlinkat": (263, 1), "renameat": (264, 3),
    "linkat": (265, 3), "symlinkat": (266, 2), "fchmodat": (268, 1), "unshare": (272, None), "splice": (275, None),
    "utimensat": (280, 1), "fallocate": (285, None), "pwritev": (296, None), "syncfs": (306, None), "sendmmsg": (307, None),
    "setns": (308, None), "renameat2": (316, 3), "execveat": (322, 1), "copy_file_range": (326, None), "pwritev2": (328, None),
    "pidfd_send_signal": (424, None), "open_tree": (428, 1), "move_mount": (429, 3), "fsopen": (430, 0), "fsconfig": (431, 2),
    "fsmount": (432, None), "fspick": (433, 1), "clone3": (435, None), "openat2": (437, 1), "mount_setattr": (442, 1),
    "fchmodat2": (452, 1), "setxattrat": (463, 1), "removexattrat": (466, 1), "open_tree_attr": (467, 1),
}
NAMES = {number: name for name, (number, path) in MUTATING.items()}

HARMLESS = frozenset(
    # read close stat fstat lstat poll lseek mmap mprotect munmap brk rt_sig* pread64 readv access pipe select sched_yield
    [0, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 17, 19, 21, 22, 23, 24, 25, 26, 27, 28]
    # dup dup2 pause nanosleep timers getpid socket connect accept recv shutdown listen names pairs options
    + [32, 33, 34, 35, 36, 37, 38, 39, 41, 42, 43, 45, 47, 48, 50, 51, 52, 53, 54, 55]
    # exit wait4 uname fcntl getdents getcwd chdir fchdir readlink umask time limits usage
    + [60, 61, 63, 72, 78, 79, 80, 81, 89, 95, 96, 97, 98, 99, 100]
    # the ids, groups, sessions and capabilities of the process itself
    + list(range(102, 127)) + [127, 128, 130, 131]
    # statfs priorities scheduling mlock prctl arch_prctl setrlimit gettid xattr reads futex affinity
    + [137, 138] + list(range(140, 153)) + [157, 158, 160, 186, 191, 192, 193, 194, 195, 196, 202, 203, 204]
    # epoll getdents64 tid restart fadvise clocks exit_group waitid keyctl (its own session) stat and readlink at, robust lists
    + [213, 217, 218, 219, 221, 222, 223, 224, 225, 226, 228, 229, 230, 231, 232, 233, 247, 250, 262, 267, 269, 270, 271, 273, 274]
    # signalfd timerfd eventfd accept4 dup3 pipe2 preadv prlimit64 handles getcpu vm_readv kcmp seccomp getrandom memfd
    + [281, 282, 283, 284, 286, 287, 288, 289, 290, 291, 292, 293, 295, 302, 303, 309, 310, 312, 317, 318, 319, 324, 327, 332, 334]
    # pidfd_open close_range pidfd_getfd faccessat2 epoll_pwait2 futexes cachestat statmount listmount mseal xattrat reads
    + [434, 436, 438, 439, 441, 449, 451, 453, 454, 455, 456, 457, 458, 459, 460, 462, 464, 465, 470]
)
# terminal and descriptor reads, NS_GET_*, SIOCGIF*, LOOP_GET_STATUS64
QUIET_IOCTLS = frozenset([0x4C05, 0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451, 0x8910, 0x8912, 0x8913, 0x8915, 0x8927, 0x8933]
                         + [0xB701, 0xB702, 0xB703, 0xB704, 0x8008B705, 0x8008B706, 0x8004B706, 0x8004B707, 0x8004B708, 0x8004B709])
# Changes only the process that calls it, takes the lock, or (open_tree) makes a copy that nobody sees and that goes with its
# descriptor: points to be killed at, but no change of the host.
LOCAL = frozenset(["clone", "clone3", "fork", "vfork", "execve", "execveat", "setns", "flock", "chroot", "fsync", "sync", "open_tree"])
WRITES = frozenset(["write", "pwrite64", "writev", "pwritev", "pwritev2"])
DESCRIPTOR_FIRST = WRITES | frozenset(["fchmod", "fchown", "ftruncate", "fallocate", "fsync", "fdatasync", "flock", "fsetxattr",
                                       "fremovexattr", "sendto", "sendmsg", "syncfs", "setns"])
# What needs room on the file system of a file or directory that is below one of these.
GROWING = WRITES | frozenset(["open", "openat", "openat2", "creat", "mkdir", "mkdirat", "mknod", "mknodat", "symlink", "symlinkat", "link", "linkat",
                              "fallocate", "sendfile", "splice", "copy_file_range", "setxattr", "lsetxattr", "fsetxattr", "setxattrat"])
DISK = ("/var/lib/bulkhead/", "/etc/bulkhead/", "/var/log/bulkhead/")
TO = {"copy_file_range": 2, "splice": 2}  # where the descriptor of what grows is not the first argument
O_CREAT, O_TRUNC, O_TMPFILE, OPEN_TREE_CLONE, AT_FDCWD = 0o100, 0o1000, 0o20000000, 1, 0xFFFFFF9C
RTM_BASE, RTM_END = 16, 128
NFT_GET = frozenset(10 << 8 | number for number in (1, 4, 7, 10, 13, 16, 19, 23))  # NFT_MSG_GET… of linux/netfilter/nf_tables.h
# D-Bus: what says who we are, the header field of a method's name, and those of systemd's that only ask.
GREETINGS = (b"\0AUTH ", b"BEGIN\r\n")
MEMBER = re.compile(rb"\x03\x01s\0....(\w+)\0", re.DOTALL)
ASKS = ("Hello", "Get", "ListJobs", "ListUnitsByPatterns")


class Unclassified(Exception):
    """A system call that is in neither list."""


def memory(pid, address, size):
    if not address:
        return b""
    try:
        with open("/proc/%d/mem" % pid, "rb", buffering=0) as stream:
            stream.seek(address)
            return stream.read(size) or b""
    except (OSError, OverflowError, ValueError):
        return b""


def string(pid, address):
    text = b""
    while len(text) < 4096:  # not over the end of the page: the next one may not be there
        part = memory(pid, address + len(text), 4096 - (address + len(text)) % 4096)
        text += part
        if not part or b"\0" in part:
            break
    return text.split(b"\0")[0].decode("utf-8", "backslashreplace")


def target(pid, descriptor):
    try:
        return os.readlink("/proc/%d/fd/%d" % (pid, descriptor & 0xFFFFFFFF))
    except OSError:
        return ""


def classify(pid, number, args, foreign):
    """(name, what it works on) of a call that is a point, or None. FOREIGN: the process has executed another program."""
    name = NAMES.get(number)
    if name is None:
        if number in HARMLESS:
            return None
        raise Unclassified("system call %d is in neither list of calls.py" % number)
    path = MUTATING[name][1]
    if name in ("open", "openat", "openat2"):
        flags = args[1] if name == "open" else args[2]
        if name == "openat2":
            flags = struct.unpack("Q", memory(pid, args[2], 8).ljust(8, b"\0"))[0]
        if not flags & (O_CREAT | O_TRUNC) and flags & O_TMPFILE != O_TMPFILE:
            return None
    elif name == "open_tree":
        if not args[2] & OPEN_TREE_CLONE:
            return None
    elif name == "ioctl":
        if args[1] in QUIET_IOCTLS:
            return None
        return name, "0x%x" % args[1]
    elif name in ("kill", "tkill", "tgkill", "pidfd_send_signal"):
        number = args[2 if name == "tgkill" else 1]
        return (name, "signal %d" % number) if number else None
    if name in DESCRIPTOR_FIRST:
        shown = target(pid, args[0])
        if shown.startswith(("/memfd:", "anon_inode:", "/dev/null", "/dev/pts", "/dev/tty")):
            return None
        if shown.startswith("pipe:") and (foreign or args[0] in (1, 2)):
            return None
        if shown.startswith(("pipe:", "socket:")):
            shown = shown.split(":")[0]
        if name == "sendto" and shown == "socket":
            size, number = struct.unpack("IH", memory(pid, args[1], 6).ljust(6, b"\0"))
            if not 16 <= size <= args[2]:
                return _message(name, memory(pid, args[1], args[2]))
            if RTM_BASE <= number < RTM_END:  # rtnetlink(7): of each four, the third asks only
                return None if number % 4 == 2 else (name, "rtnetlink %d" % number)
            if number in NFT_GET:
                return None
        return name, shown
    shown = string(pid, args[path]) if path is not None else ""
    return None if shown == "/dev/null" else (name, shown)


def _message(name, data):
    """classify() of what is sent to a socket that is none of netlink."""
    member = MEMBER.search(data)
    if data.startswith(GREETINGS) or member and member.group(1).decode() in ASKS:
        return None
    return name, "dbus " + member.group(1).decode() if member else "socket"


def grows(pid, number, args):
    """Does a call that classify() has taken for a point need room on the disk?"""
    name = NAMES[number]
    if name not in GROWING:
        return False
    path = MUTATING[name][1]
    if path is None:
        return target(pid, args[TO.get(name, 0)]).startswith(DISK)
    shown = string(pid, args[path])
    if not shown.startswith("/"):
        above = os.readlink("/proc/%d/cwd" % pid) if args[path - 1] & 0xFFFFFFFF == AT_FDCWD or not name.endswith("at") else target(pid, args[path - 1])
        shown = "%s/%s" % (above, shown)
    return (shown + "/").startswith(DISK)


def changes_host(name, shown):
    """Would a check run be wrong to make this call?"""
    return not (name in LOCAL or name in WRITES and shown in ("pipe", "socket"))
