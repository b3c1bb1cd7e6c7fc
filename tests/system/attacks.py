# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs inside a service, as root: tries to get out, and notes what each attempt came to in /tmp/result.json.

`refused` is an attempt that the kernel answered with an error of REFUSALS, `missing` one for which there is nothing to attack.
Afterwards it watches /proc for processes that show another root than its own, for as long as it lives.
"""

from __future__ import annotations

import ctypes
import errno
import glob
import json
import os
import socket
import stat
import sys
import termios
import time

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
REFUSALS = ("EPERM", "EACCES", "EROFS", "ENOSYS")
MISSING = ("ENOENT", "ESRCH", "ENXIO", "ENODEV", "ECONNREFUSED")  # nobody listens in an empty network
NUMBERS = {
    "ptrace": 101, "_sysctl": 156, "pivot_root": 155, "acct": 163, "mount": 165, "umount2": 166, "swapon": 167, "reboot": 169,
    "sethostname": 170, "iopl": 172, "init_module": 175, "quotactl": 179, "kexec_load": 246, "add_key": 248, "request_key": 249,
    "keyctl": 250, "unshare": 272, "perf_event_open": 298, "fanotify_init": 300, "open_by_handle_at": 304, "clock_settime": 227,
    "setns": 308, "process_vm_readv": 310, "kcmp": 312, "finit_module": 313, "kexec_file_load": 320, "bpf": 321, "userfaultfd": 323,
    "io_uring_setup": 425, "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsmount": 432, "clone3": 435, "pidfd_getfd": 438,
    "mount_setattr": 442, "chroot": 161, "syslog": 103, "ioperm": 173, "personality": 135,
}
HOST = json.loads(sys.argv[1])  # {"pid": a process of the host, "disk": the device number of the host's root}
results = {}


def note(name, word):
    results[name] = word


def attempt(name, function, *arguments):
    try:
        note(name, "succeeded: %r" % (function(*arguments),))
    except OSError as exc:
        word = errno.errorcode.get(exc.errno, str(exc.errno))
        note(name, "refused" if word in REFUSALS else "missing" if word in MISSING else "failed: " + word)


def syscall(name, *arguments):
    words = [ctypes.c_long(word) if isinstance(word, int) else word for word in arguments]
    result = libc.syscall(ctypes.c_long(NUMBERS[name]), *words)
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result


def clone(flags):
    pid = libc.syscall(ctypes.c_long(56), ctypes.c_long(flags | 17), None, None, None, None)
    if pid == 0:
        os._exit(0)
    if pid < 0:
        raise OSError(ctypes.get_errno(), "clone")
    os.waitpid(pid, 0)
    return pid


def overwrite(path):
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, b"0")
    finally:
        os.close(fd)


def some(path):
    """Read from it; nothing to read is what a mask gives."""
    fd = os.open(path, os.O_RDONLY)
    try:
        found = os.read(fd, 64)
    finally:
        os.close(fd)
    if not found:
        raise PermissionError(errno.EPERM, "it is empty")
    return found


def listing(path):
    found = [os.readlink("%s/%s" % (path, name)) for name in os.listdir(path)]
    if not found:
        raise PermissionError(errno.EPERM, "it holds nothing")
    return found


def push(high):
    main, terminal = os.openpty()
    try:
        if libc.ioctl(terminal, ctypes.c_ulong(high | termios.TIOCSTI), b"x") < 0:
            raise OSError(ctypes.get_errno(), "ioctl")
    finally:
        os.close(main)
        os.close(terminal)


def of_init(name):
    """The host as it may be seen through process 1: the same as ours is nothing gained."""
    found, own = os.stat("/proc/1/" + name), os.stat("/" if name in ("root", "cwd") else "/proc/self/" + name)
    if (found.st_dev, found.st_ino) == (own.st_dev, own.st_ino):
        raise PermissionError(errno.EPERM, "it is our own")
    return os.readlink("/proc/1/" + name)


def escape_by_chroot():
    os.makedirs("/tmp/deep", exist_ok=True)
    fd = os.open("/", os.O_RDONLY)
    os.chroot("/tmp/deep")
    os.fchdir(fd)


def status():
    with open("/proc/self/status", encoding="utf-8") as stream:
        return dict(line.split(":", 1) for line in stream.read().splitlines())


def main():
    note("descriptors", sorted(int(fd) for fd in os.listdir("/proc/self/fd"))[:-1])  # the last is the listing itself
    for name in NUMBERS:
        if name != "personality":  # asking for the usual one is allowed
            attempt("syscall " + name, syscall, name, 0, 0, 0, 0, 0)
    attempt("chroot out", escape_by_chroot)
    attempt("mount tmpfs", syscall, "mount", b"none", b"/tmp", b"tmpfs", 0, 0)
    attempt("remount /proc/sys", syscall, "mount", b"none", b"/proc/sys", b"none", 32 | 4096, 0)
    attempt("unmount /proc/sys", syscall, "umount2", b"/proc/sys", 2)
    attempt("unmount a mask", syscall, "umount2", b"/proc/keys", 2)
    attempt("mknod the host's disk", os.mknod, "/tmp/disk", stat.S_IFBLK | 0o600, HOST["disk"])
    attempt("mknod /dev/mem", os.mknod, "/tmp/mem", stat.S_IFCHR | 0o600, os.makedev(1, 1))
    for path in ("/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/vm/overcommit_memory", "/proc/sysrq-trigger",
                 "/proc/sys/kernel/hostname", "/sys/kernel/mm/transparent_hugepage/enabled", "/sys/power/state", "/proc/irq/0/smp_affinity",
                 "/proc/sys/net/ipv4/ip_forward", "/sys/kernel/uevent_helper"):
        attempt("write " + path, overwrite, path)
    for path in ("/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/1/environ", "/proc/1/mem", "/proc/1/maps", "/proc/1/auxv"):
        attempt("read " + path, some, path)
    attempt("ptrace a process of the host", syscall, "ptrace", 16, HOST["pid"], 0, 0)
    attempt("kill a process of the host", os.kill, HOST["pid"], 9)
    attempt("ptrace the keeper", syscall, "ptrace", 16, 1, 0, 0)
    for name in ("root", "cwd", "exe"):
        attempt("/proc/1/" + name, of_init, name)
    attempt("/proc/1/fd", listing, "/proc/1/fd")
    attempt("/proc/1/root/..", os.open, "/proc/1/root/../../etc/shadow", os.O_RDONLY)
    for flag, kind in ((0x10000000, "user"), (0x20000, "mnt"), (0x40000000, "net"), (0x20000000, "pid"), (0x2000000, "cgroup")):
        attempt("unshare " + kind, syscall, "unshare", flag)
        attempt("clone with a new %s namespace" % kind, clone, flag)
    for path in glob.glob("/proc/1/ns/*"):
        attempt("setns " + os.path.basename(path), lambda path=path: syscall("setns", os.open(path, os.O_RDONLY), 0))
    attempt("TIOCSTI", push, 0)
    attempt("TIOCSTI with high bits", push, 1 << 32)
    attempt("personality without randomisation", syscall, "personality", 0x0040000)
    for name, family, kind, number in (("raw", socket.AF_INET, socket.SOCK_RAW, 1), ("packet", socket.AF_PACKET, socket.SOCK_RAW, 0),
                                       ("vsock", 40, 1, 0), ("alg", 38, 5, 0)):
        attempt("socket " + name, socket.socket, family, kind, number)
    attempt("abstract socket of the host", socket.socket(socket.AF_UNIX).connect, "\0bulkhead-host")
    for name in ("memory.max", "memory.limit_in_bytes", "pids.max", "cgroup.procs", "tasks", "release_agent", "notify_on_release"):
        found = glob.glob("/sys/fs/cgroup/**/" + name, recursive=True)
        attempt("cgroup file " + name, overwrite, found[0] if found else "/sys/fs/cgroup/" + name)
    attempt("make a cgroup", os.mkdir, "/sys/fs/cgroup/mine")
    note("targets", [os.readlink("/proc/self/fd/%d" % fd) for fd in (0, 1, 2)])
    note("status", status())
    note("environment", dict(os.environ))
    note("processes", [int(pid) for pid in os.listdir("/proc") if pid.isdigit()])
    note("session", [os.getsid(0), os.getpgrp(), os.getpid()])
    with open("/tmp/result.new", "w", encoding="utf-8") as stream:
        json.dump(results, stream)
    os.rename("/tmp/result.new", "/tmp/result.json")
    watch()


def watch():
    """Look at whoever comes in: an entering process must not show the host through /proc."""
    own, seen = os.stat("/"), set()
    mine = (own.st_dev, own.st_ino)
    while True:
        for pid in os.listdir("/proc"):
            if not pid.isdigit() or int(pid) in (1, os.getpid()):
                continue
            seen.add(pid)
            for name in ("root", "cwd", "exe", "fd", "environ", "mem", "ns/mnt"):
                try:
                    path = "/proc/%s/%s" % (pid, name)
                    if name in ("root", "cwd"):
                        found = os.stat(path + "/etc/..") if name == "root" else os.stat(path)
                        if name == "root" and (found.st_dev, found.st_ino) == mine or name == "cwd":
                            continue
                    elif name == "exe":
                        if not os.readlink(path).startswith("/run/bulkhead/bin"):
                            continue
                    elif name == "fd":
                        if all(not os.readlink("%s/%s" % (path, fd)).startswith(("/run/bulkhead", "/sys", "mnt:")) for fd in os.listdir(path)):
                            continue
                    else:
                        continue
                    with open("/tmp/leaks", "a", encoding="utf-8") as stream:
                        stream.write(path + "\n")
                except OSError:
                    pass
        with open("/tmp/seen", "w", encoding="utf-8") as stream:
            stream.write("%d\n" % len(seen))
        time.sleep(0.0005)


if __name__ == "__main__":
    main()
