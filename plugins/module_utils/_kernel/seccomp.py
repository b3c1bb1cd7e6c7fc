# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""System call filters: lists of names compiled to BPF bytes through libseccomp, by ctypes.

A list allows by name. A call that is known and not in it ends with EPERM; one that is newer than the list, and clone3 (whose flags
are out of a filter's sight), with ENOSYS, so that the C library falls back on what it did before that call existed.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_MASKED_EQ, _EQ = 7, 4
_CTL_NNP, _CTL_OPTIMIZE = 3, 8
_NAMESPACES = 0x7E020000  # every CLONE_NEW* flag that clone(2) takes; CLONE_NEWTIME's bit is part of its exit signal
_SUB_ARCHES = {"x86_64": ("x86",), "aarch64": ("arm",), "ppc64le": (), "s390x": ("s390",), "riscv64": ()}

# Everything a program needs that is not listed below with a capability.
COMMON = """
accept accept4 access adjtimex alarm arch_prctl bind brk cachestat capget capset chdir chmod chown chown32 clock_adjtime clock_adjtime64
clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64 close close_range connect
copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait
epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark
fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock fork fremovexattr
fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futex futex_requeue futex_time64 futex_wait
futex_waitv futex_wake futimesat get_mempolicy get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid getegid32
geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom
getresgid getresgid32 getresuid getresuid32 getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday getuid getuid32
getxattr getxattrat inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents
io_pgetevents_time64 io_setup io_submit ioctl ioprio_get ioprio_set ipc kill landlock_add_rule landlock_create_ruleset
landlock_restrict_self lchown lchown32 lgetxattr link linkat listen listxattr listxattrat llistxattr _llseek lremovexattr lseek
lsetxattr lstat lstat64 madvise map_shadow_stack mbind membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock
mlock2 mlockall mmap mmap2 mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend
mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep
newfstatat _newselect open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll
ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease pselect6 pselect6_time64 pwrite64 pwritev pwritev2 read
readahead readlink readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages removexattr removexattrat rename
renameat renameat2 restart_syscall riscv_flush_icache riscv_hwprobe rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask
rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo s390_guarded_storage
s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr sched_get_priority_max sched_get_priority_min sched_getaffinity
sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr
sched_setparam sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop semtimedop_time64 send sendfile
sendfile64 sendmmsg sendmsg sendto set_mempolicy set_mempolicy_home_node set_robust_list set_thread_area set_tid_address setfsgid
setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid setpriority setregid setregid32 setresgid
setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit setsid setsockopt setuid setuid32 setxattr setxattrat shmat shmctl
shmdt shmget shutdown sigaltstack signalfd signalfd4 sigprocmask sigreturn socketpair splice stat stat64 statfs statfs64 statx
swapcontext symlink symlinkat sync sync_file_range sync_file_range2 syncfs sysinfo tee tgkill time timer_create timer_delete
timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64
timerfd_settime timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname unlink unlinkat uretprobe uprobe utime
utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write writev
arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls socket
""".split()

# What a kept capability allows besides. All of these are refused with EPERM without it.
WITH = {
    "dac_read_search": "open_by_handle_at",
    "sys_admin": "bpf clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr move_mount open_tree "
                 "open_tree_attr perf_event_open pivot_root quotactl quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare "
                 "listmount statmount swapon swapoff",
    "sys_boot": "reboot",
    "sys_chroot": "chroot",
    "sys_module": "delete_module finit_module init_module",
    "sys_pacct": "acct",
    "sys_ptrace": "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace",
    "sys_rawio": "ioperm iopl",
    "sys_time": "clock_settime clock_settime64 settimeofday stime",
    "sys_tty_config": "vhangup",
    "syslog": "syslog",
    "bpf": "bpf",
    "perfmon": "perf_event_open",
    "sys_nice": "migrate_pages move_pages",
}
# Known, and refused whatever is kept.
NEVER = """
_sysctl add_key afs_syscall create_module get_kernel_syms io_uring_enter io_uring_register io_uring_setup kexec_file_load kexec_load
keyctl modify_ldt nfsservctl query_module request_key socketcall sysfs uselib userfaultfd ustat vm86 vm86old vserver
""".split()
# Values that an allowed call is refused for, compared in 32 bits as the kernel does (CVE-2019-10063).
REFUSED = (("ioctl", 1, 0x5412, "TIOCSTI"), ("ioctl", 1, 0x541C, "TIOCLINUX"),
           ("socket", 0, 40, "AF_VSOCK"), ("socket", 0, 38, "AF_ALG"))
PERSONALITIES = (0, 0x0008, 0x20000, 0x20008, 0xFFFFFFFF)


class Unable(Exception):
    """No filter can be made; the message says why."""


class _Compare(ctypes.Structure):
    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]


def library():
    """libseccomp, or Unable that names the package."""
    try:
        lib = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    except OSError:
        raise Unable("libseccomp.so.2 is not installed. Install the package libseccomp2 (libseccomp), or set seccomp: off.")
    lib.seccomp_init.restype = ctypes.c_void_p
    lib.seccomp_init.argtypes = (ctypes.c_uint32,)
    lib.seccomp_release.argtypes = (ctypes.c_void_p,)
    lib.seccomp_attr_set.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32)
    lib.seccomp_arch_resolve_name.restype = ctypes.c_uint32
    lib.seccomp_arch_native.restype = ctypes.c_uint32
    lib.seccomp_arch_add.argtypes = (ctypes.c_void_p, ctypes.c_uint32)
    lib.seccomp_syscall_resolve_name_arch.argtypes = (ctypes.c_uint32, ctypes.c_char_p)
    lib.seccomp_rule_add_array.argtypes = (ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.POINTER(_Compare))
    lib.seccomp_export_bpf.argtypes = (ctypes.c_void_p, ctypes.c_int)
    return lib


def default(kept):
    """The default list for these kept capabilities (names): (allowed, refused with EPERM)."""
    kept = set(kept)
    if "sys_admin" in kept:  # it implies the newer two
        kept |= {"bpf", "perfmon"}
    allowed, refused = set(COMMON), set(NEVER)
    for capability, calls in WITH.items():
        (allowed if capability in kept else refused).update(calls.split())
    return allowed, refused - allowed


def unknown(names):
    """Those of the names that no architecture of this machine has (for what a user wrote)."""
    lib = library()
    arches = _arches(lib)
    return [name for name in names if all(lib.seccomp_syscall_resolve_name_arch(arch, name.encode()) == -1 for arch in arches)]


def compile_default(kept):
    """The BPF bytes of the default list for these kept capabilities."""
    allowed, refused = default(kept)
    free = "sys_admin" in kept
    return _compile(allowed, refused, namespaces=free)


def compile_names(names):
    """The BPF bytes of a list of names and nothing else: all other calls of this machine end with EPERM."""
    return _compile(set(names), (), namespaces=True, named=True)


def _arches(lib):
    machine = os.uname().machine
    more = [lib.seccomp_arch_resolve_name(name.encode()) for name in _SUB_ARCHES.get(machine, ())]
    return [lib.seccomp_arch_native()] + [arch for arch in more if arch]


def _compile(allowed, refused, namespaces, named=False):
    lib = library()
    arches = _arches(lib)
    context = lib.seccomp_init(_ERRNO | (errno.EPERM if named else errno.ENOSYS))
    if not context:
        raise Unable("libseccomp gives no context.")

    def rule(action, name, *compares):
        number = lib.seccomp_syscall_resolve_name_arch(arches[0], name.encode())
        if number == -1:
            return  # newer than this libseccomp: it ends as unknown calls do
        array = (_Compare * len(compares))(*compares) if compares else None
        result = lib.seccomp_rule_add_array(context, action, number, len(compares), array)
        if result < 0 and result not in (-errno.EDOM, -errno.EEXIST):
            raise Unable("libseccomp refuses a rule for %s: %s." % (name, os.strerror(-result)))

    try:
        lib.seccomp_attr_set(context, _CTL_NNP, 0)  # the entry sets it, or not
        lib.seccomp_attr_set(context, _CTL_OPTIMIZE, 2)  # a binary tree; EINVAL before libseccomp 2.5
        for arch in arches[1:]:
            lib.seccomp_arch_add(context, arch)
        flags_at = 1 if os.uname().machine.startswith("s390") else 0
        for name in sorted(allowed - {"clone"}):
            rule(_ALLOW, name)
        if "clone" in allowed or not named:
            rule(_ALLOW, "clone", *(() if namespaces else (_Compare(flags_at, _MASKED_EQ, _NAMESPACES, 0),)))
        if not namespaces:
            for bit in range(32):
                if _NAMESPACES >> bit & 1:
                    rule(_ERRNO | errno.EPERM, "clone", _Compare(flags_at, _MASKED_EQ, 1 << bit, 1 << bit))
        if not named:
            for value in PERSONALITIES:
                rule(_ALLOW, "personality", _Compare(0, _EQ, value, 0))
        for name in sorted(refused):
            if name != "clone3":
                rule(_ERRNO | errno.EPERM, name)
        return _prologue(lib, arches) + _export(lib, context)
    finally:
        lib.seccomp_release(context)


def _export(lib, context):
    fd = os.memfd_create("seccomp", os.MFD_CLOEXEC)
    try:
        result = lib.seccomp_export_bpf(context, fd)
        if result < 0:
            raise Unable("libseccomp cannot export it: %s." % os.strerror(-result))
        size = os.lseek(fd, 0, os.SEEK_END)
        return os.pread(fd, size, 0)
    finally:
        os.close(fd)


def _prologue(lib, arches):
    """BPF that runs before libseccomp's program and falls into it: it refuses REFUSED. An allow list of libseccomp cannot say
    "all values but this one" of the low 32 bits of an argument, and comparing 64 bits lets the kernel and us see two values."""
    load, equal, refuse, go = 0x20, 0x15, 0x06, 0x05  # ld [k]; jeq k, true, false; ret k; ja k
    little = struct.pack("=H", 1) == struct.pack("<H", 1)
    code = []
    for arch in arches:
        block = [(load, 0, 0, 0)]
        for name, argument, value, dummy in REFUSED:
            number = lib.seccomp_syscall_resolve_name_arch(arch, name.encode())
            if number < 0:
                continue
            low = 16 + 8 * argument + (0 if little else 4)
            block += [(equal, 0, 3, number), (load, 0, 0, low), (equal, 0, 1, value), (refuse, 0, 0, _ERRNO | errno.EPERM),
                      (load, 0, 0, 0)]
            # not this call: three on, to the load of the number again, which is harmless
        code += [(load, 0, 0, 4), (equal, 1, 0, arch), (go, 0, 0, len(block))] + block
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)
