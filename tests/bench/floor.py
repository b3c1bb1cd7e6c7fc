# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The floor: what N sandboxes cost in bare system calls, with nothing parsed, compared, recorded or undone.

    floor.py operations [N]   milliseconds for each of: a pinned net, uts and ipc namespace, an overlay mount, a cgroup with one limit
    floor.py make [N]         milliseconds for each sandbox; they stay
    floor.py remove [N]       the same, to remove them again

A sandbox is pinned net, uts, ipc, mnt and pid namespaces, a keeper in them, a prepared root (an overlay and what is mounted in
it) and a cgroup with four limits in all hierarchies: what the engine makes of one, by the calls that make it. It is run in a
private host (tests/alone), prints one JSON object, and imports nothing of the project.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import signal
import socket
import struct
import sys
import time

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWPID, CLONE_NEWNET = 0x00020000, 0x04000000, 0x08000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC = 1, 2, 4, 8, 32, 4096, 16384
MS_PRIVATE, MS_SHARED = 1 << 18, 1 << 20
MNT_DETACH = 2
QUIET = MS_NOSUID | MS_NODEV | MS_NOEXEC
SYS_pivot_root = {"x86_64": 155}.get(os.uname().machine, 41)
SYS_execveat = {"x86_64": 322}.get(os.uname().machine, 281)
SYS_open_tree, SYS_move_mount, SYS_fsopen, SYS_fsconfig, SYS_fsmount, SYS_pidfd_open = 428, 429, 430, 431, 432, 434
SYS_openat2, SYS_mount_setattr = 437, 442
AT_EMPTY_PATH, EMPTY_PATHS = 0x1000, 0x44  # MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH
PR_SET_PDEATHSIG = 1
NS_GET_MNTNS_ID = 0x8008B705

CGROUPS = "/sys/fs/cgroup"
BASE = "/run/floor"
KINDS = ("net", "uts", "ipc", "pid", "mnt")
FILE_SYSTEMS = (  # in the root: target, type, flags, options
    ("proc", "proc", QUIET, None),
    ("sys", "sysfs", QUIET | MS_RDONLY, None),
    ("sys/fs/cgroup", "tmpfs", QUIET | MS_RDONLY, "size=4k,mode=755"),
    ("dev", "tmpfs", MS_NOSUID | MS_NOEXEC, "size=64k,mode=755"),
    ("dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620,gid=5"),
    ("dev/mqueue", "mqueue", QUIET, None),
    ("dev/shm", "tmpfs", QUIET, "mode=1777,size=67108864"),
)
NODES = (("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0))
LINKS = (("ptmx", "pts/ptmx"), ("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"), ("stdout", "/proc/self/fd/1"),
         ("stderr", "/proc/self/fd/2"), ("core", "/proc/kcore"))
READ_ONLY = ("proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger")
MASKED = ("proc/acpi", "proc/asound", "proc/kcore", "proc/keys", "proc/latency_stats", "proc/sched_debug", "proc/scsi",
          "proc/timer_list", "proc/timer_stats", "sys/devices/virtual/powercap", "sys/firmware")
LIMITS = {  # four limits, in the files of cgroup v1 and of cgroup2
    "memory": (("memory.limit_in_bytes", "268435456"),),
    "pids": (("pids.max", "128"),),
    "cpu": (("cpu.cfs_period_us", "100000"), ("cpu.cfs_quota_us", "50000")),
    "blkio": (("blkio.throttle.read_bps_device", "%s 20971520"),),
}
LIMITS2 = (("memory.max", "268435456"), ("pids.max", "128"), ("cpu.max", "50000 100000"), ("io.max", "%s rbps=20971520"))

HOW = (ctypes.c_uint64 * 3)(0x200000 | os.O_CLOEXEC, 0, 0x12)  # O_PATH; RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
libc = ctypes.CDLL(None, use_errno=True)
libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
libc.syscall.restype = ctypes.c_long


def check(result):
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def mount(source, target, fstype, flags, data=None):
    check(libc.mount(*[value.encode() if value else None for value in (source, target, fstype)], flags, data and data.encode()))


def syscall(number, *words):
    return check(libc.syscall(ctypes.c_long(number), *(ctypes.c_long(word) if isinstance(word, int) else word for word in words)))


def write(path, text):
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    os.write(fd, text.encode())
    os.close(fd)


def read(path):
    with open(path, encoding="ascii") as stream:
        return stream.read().strip()


# One operation at a time, in a mount namespace of this process


def operations(count):
    check(libc.unshare(CLONE_NEWNS))
    mount(None, "/", None, MS_REC | MS_PRIVATE)
    base = "/tmp/floor.%d" % os.getpid()
    os.mkdir(base, 0o700)
    mount("tmpfs", base, "tmpfs", 0)
    for name in ("ns", "o", "lower"):
        os.mkdir(base + "/" + name)
    home = {kind: os.open("/proc/self/ns/" + kind, os.O_RDONLY | os.O_CLOEXEC) for kind in ("net", "uts", "ipc")}
    group = "%s/floor" % next(path for path in (CGROUPS + "/pids", CGROUPS) if os.path.exists(path + "/cgroup.procs"))
    os.mkdir(group)

    def pin(kind, flag):
        def one(index):
            path = "%s/ns/%s%d" % (base, kind, index)
            with open(path, "w", encoding="ascii"):
                pass
            check(libc.unshare(flag))
            mount("/proc/self/ns/" + kind, path, None, MS_BIND)
            check(libc.setns(home[kind], flag))
        return one

    def overlay(index):
        one = "%s/o/%d" % (base, index)
        for name in ("/upper", "/work", "/merged"):
            os.makedirs(one + name)
        mount("overlay", one + "/merged", "overlay", 0, "lowerdir=%s/lower,upperdir=%s/upper,workdir=%s/work" % (base, one, one))

    def cgroup(index):
        os.mkdir("%s/%d" % (group, index))
        try:
            with open("%s/%d/pids.max" % (group, index), "w", encoding="ascii") as limit:
                limit.write("64")
        except OSError:  # a cgroup2 tree without controllers
            pass

    steps = (("net", pin("net", CLONE_NEWNET)), ("uts", pin("uts", CLONE_NEWUTS)), ("ipc", pin("ipc", CLONE_NEWIPC)),
             ("overlay", overlay), ("cgroup", cgroup))
    cost = {}
    try:
        for name, step in steps:
            begin = time.perf_counter()
            for index in range(count):
                step(index)
            cost[name] = (time.perf_counter() - begin) / count * 1e3
    finally:
        for entry in os.scandir(group):
            if entry.is_dir():
                os.rmdir(entry.path)
        os.rmdir(group)
        check(libc.umount2(base.encode(), MNT_DETACH))
        os.rmdir(base)
    return cost


# Whole sandboxes


def hierarchies():
    """{controller: directory}; cgroup2 as ``unified``, when it is the only one."""
    found = {}
    for line in read("/proc/self/mountinfo").splitlines():
        fields = line.split()
        end = fields.index("-")
        words = [word for word in fields[end + 3].split(",") if word != "rw"]
        if fields[end + 1] == "cgroup" and not words[0].startswith("name="):
            found[words[0]] = fields[4]
        elif fields[end + 1] == "cgroup2" and fields[4] == CGROUPS:
            found["unified"] = fields[4]
    return found


def device():
    """MAJOR:MINOR of a whole disk: limits are not for partitions."""
    for name in sorted(os.listdir("/sys/block")):
        if not name.startswith(("loop", "ram", "zram")):
            return read("/sys/block/%s/dev" % name)
    raise SystemExit("no disk to limit")


def keeper():
    """An ELF image that only sleeps: pause() for ever; x86_64 and aarch64."""
    if os.uname().machine == "x86_64":
        machine, code = 62, b"\xb8\x22\x00\x00\x00\x0f\x05\xeb\xf7"
    else:
        machine, code = 183, struct.pack("<7I", 0xD2800000, 0xD2800001, 0xD2800002, 0xD2800003, 0xD2800928, 0xD4000001, 0x17FFFFFA)
    size = 64 + 56 + len(code)
    image = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, machine, 1, 0x400078, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    image += struct.pack("<IIQQQQQQ", 1, 5, 0, 0x400000, 0x400000, size, size, 0x10000) + code
    fd = os.memfd_create("keeper", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(fd, image)
    fcntl.fcntl(fd, 1033, 15)  # F_ADD_SEALS: all of them
    return fd


def mount_id():
    fd = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return struct.unpack("=Q", fcntl.ioctl(fd, NS_GET_MNTNS_ID, bytes(8)))[0]
    except OSError:  # before Linux 6.11, where they are ordered as they are made
        return None
    finally:
        os.close(fd)


def own_mounts(least):
    """unshare(NEWNS) until it is younger than the pinner's: recent kernels hand ids out to each CPU in batches."""
    allowed = os.sched_getaffinity(0)
    for cpu in [None, *sorted(allowed)]:
        if cpu is not None:
            os.sched_setaffinity(0, {cpu})
        check(libc.unshare(CLONE_NEWNS))
        if least is None or mount_id() > least:
            break
    os.sched_setaffinity(0, allowed)


def ground():
    """What all of them stand on: a mount for each kind of thing, and the near-empty mount namespace that they start from."""
    for name, propagation in (("", MS_PRIVATE), ("/ns", MS_SHARED), ("/mntns", MS_PRIVATE), ("/upper", MS_PRIVATE)):
        os.makedirs(BASE + name, exist_ok=True)
        mount("floor", BASE + name, "tmpfs", 0, "mode=755")
        mount(None, BASE + name, None, propagation)
    os.makedirs(BASE + "/lower")
    for name in ("proc", "sys", "dev"):  # the root's own directories
        os.mkdir(BASE + "/lower/" + name)
    for controller, path in hierarchies().items():
        os.mkdir(path + "/floor")
        prepare(path, path + "/floor", controller)
    up, ready = os.pipe()
    least = mount_id()
    child = os.fork()
    if not child:
        try:
            own_mounts(least)
            mount(None, "/", None, MS_REC | MS_PRIVATE)
            point = BASE + "/lower"  # any directory will do
            mount("floor", point, "tmpfs", 0)
            for name in ("proc", "sys", "dev", "root"):
                os.mkdir(point + "/" + name)
            mount("proc", point + "/proc", "proc", QUIET)
            mount("sysfs", point + "/sys", "sysfs", QUIET)
            os.chdir(point)
            syscall(SYS_pivot_root, b".", b".")
            check(libc.umount2(b".", MNT_DETACH))
            os.write(ready, b"r")
            signal.pause()
        finally:
            os._exit(1)
    os.close(ready)
    if os.read(up, 1) != b"r":
        raise SystemExit("no template")
    pin(child, "mnt", BASE + "/mntns/template")
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def resolve(root, path):
    """A descriptor of a place inside the root, however hostile it is."""
    return syscall(SYS_openat2, root, path.encode(), ctypes.byref(HOW), 24)


def attach(source, target, attributes):
    """A detached mount, made private and with these attributes, on an open place, which is closed."""
    syscall(SYS_mount_setattr, source, b"", AT_EMPTY_PATH, ctypes.byref((ctypes.c_uint64 * 4)(attributes, 0, MS_PRIVATE, 0)), 32)
    syscall(SYS_move_mount, source, b"", target, b"", EMPTY_PATHS)
    os.close(target)


def prepare(parent, path, controller):
    """A new cgroup is not ready for processes before that."""
    if controller == "cpuset":
        for name in ("cpuset.cpus", "cpuset.mems"):
            write(path + "/" + name, read(parent + "/" + name))
    elif controller == "unified" and read(path + "/cgroup.controllers"):
        write(path + "/cgroup.subtree_control", "+cpu +io +memory +pids")


def pin(pid, kind, path):
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0))
    mount("/proc/%d/ns/%s" % (pid, kind), path, None, MS_BIND)


def pins(name):
    return [("%s/mntns/%s" if kind == "mnt" else "%s/ns/%s/" + kind) % (BASE, name) for kind in KINDS]


class Maker:
    def __init__(self):
        ground()
        self.trees = hierarchies()
        self.cpuset = {name: read(self.trees["cpuset"] + "/floor/" + name) for name in ("cpuset.cpus", "cpuset.mems")} if "cpuset" in self.trees else {}
        self.device = device()
        self.home = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self.template = os.open(BASE + "/mntns/template", os.O_RDONLY | os.O_CLOEXEC)
        self.least = mount_id()
        self.masks = [(path, os.path.isdir("/" + path)) for path in MASKED if os.path.exists("/" + path)]
        self.read_only = [path for path in READ_ONLY if os.path.exists("/" + path)]

    def make(self, index):
        name = "s%d" % index
        files = self.cgroup(name)
        root = self.overlay(name)
        image = keeper()
        up_r, up_w = os.pipe()
        go_r, go_w = os.pipe()
        check(libc.unshare(CLONE_NEWPID))
        child = os.fork()
        if not child:
            try:
                os.close(up_r)
                os.close(go_w)
                self.inside(name, files, root, up_w, go_r, image)
            except OSError as exc:
                os.write(2, ("floor: %s\n" % exc).encode())
            finally:
                os._exit(1)
        check(libc.setns(self.home, CLONE_NEWPID))
        os.close(up_w)
        os.close(go_r)
        os.close(root)
        os.close(image)
        if os.read(up_r, 1) != b"r":
            raise SystemExit("a sandbox failed")
        os.mkdir("%s/ns/%s" % (BASE, name))
        for kind, path in zip(KINDS, pins(name)):
            pin(child, kind, path)
        os.write(go_w, b"g")
        os.read(up_r, 1)  # the end of file: the keeper has been executed
        os.close(up_r)
        os.close(go_w)

    def cgroup(self, name):
        files = []
        for controller, tree in self.trees.items():
            path = "%s/floor/%s" % (tree, name)
            os.mkdir(path)
            if controller == "unified":
                os.mkdir(path + "/keeper")
                files.append(path + "/keeper/cgroup.procs")
                limits = LIMITS2 if "memory" in read(path + "/cgroup.controllers") else ()
            else:
                files.append(path + "/tasks")
                limits = self.cpuset.items() if controller == "cpuset" else LIMITS.get(controller, ())
            for file, text in limits:
                write(path + "/" + file, text % self.device if "%" in text else text)
        return files

    def overlay(self, name):
        upper = "%s/upper/%s" % (BASE, name)
        for part in ("", "/upper", "/work"):
            os.mkdir(upper + part)
        context = syscall(SYS_fsopen, b"overlay", 1)
        for key, value in (("lowerdir", BASE + "/lower"), ("upperdir", upper + "/upper"), ("workdir", upper + "/work")):
            syscall(SYS_fsconfig, context, 1, key.encode(), value.encode(), 0)
        syscall(SYS_fsconfig, context, 6, None, None, 0)
        root = syscall(SYS_fsmount, context, 1, 0)
        os.close(context)
        return root

    def inside(self, name, files, root, up_w, go_r, image):
        """As pid 1 of the new pid namespace."""
        check(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
        os.setsid()
        for fd in (0, 1, 2):
            os.set_inheritable(fd, False)  # the keeper holds nothing of ours
        for path in files:
            write(path, "0")
        check(libc.unshare(CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWIPC))
        socket.sethostname(name)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            fcntl.ioctl(control, 0x8914, struct.pack("16sH14x", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP
        check(libc.setns(self.template, CLONE_NEWNS))
        own_mounts(self.least)
        os.umask(0)
        os.chdir("/proc")
        attach(root, os.open("/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC), 0)
        for target, fstype, flags, data in FILE_SYSTEMS:
            fd = resolve(root, target)
            mount(fstype, "self/fd/%d" % fd, fstype, flags, data)
            os.close(fd)
            if target == "dev":
                dev = resolve(root, target)
                for node, major, minor in NODES:
                    os.mknod(node, 0o020666, os.makedev(major, minor), dir_fd=dev)
                for link, where in LINKS:
                    os.symlink(where, link, dir_fd=dev)
                for name in ("pts", "mqueue", "shm"):
                    os.mkdir(name, 0o755, dir_fd=dev)
                os.close(dev)
        for target in self.read_only:
            fd = resolve(root, target)
            attach(syscall(SYS_open_tree, fd, b"", 1 | AT_EMPTY_PATH | os.O_CLOEXEC), fd, 1)  # OPEN_TREE_CLONE; read-only
        for target, directory in self.masks:
            fd = resolve(root, target)
            if directory:
                mount("tmpfs", "self/fd/%d" % fd, "tmpfs", QUIET | MS_RDONLY, "size=4k,mode=755")
                os.close(fd)
            else:
                null = resolve(root, "dev/null")
                attach(syscall(SYS_open_tree, null, b"", 1 | AT_EMPTY_PATH | os.O_CLOEXEC), fd, 0)
                os.close(null)
        os.fchdir(root)
        syscall(SYS_pivot_root, b".", b".")
        check(libc.umount2(b".", MNT_DETACH))
        os.chdir("/")
        os.write(up_w, b"r")
        if os.read(go_r, 1) != b"g":
            os._exit(1)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        check(libc.prctl(PR_SET_PDEATHSIG, 0, 0, 0, 0))
        words = (ctypes.c_char_p * 2)(b"keeper", None)
        syscall(SYS_execveat, image, b"", words, (ctypes.c_char_p * 1)(None), 0x1000)  # AT_EMPTY_PATH


def remove(index, trees, inits):
    name = "s%d" % index
    status = os.stat("%s/ns/%s/pid" % (BASE, name))
    pid = inits[(status.st_dev, status.st_ino)]
    end = syscall(SYS_pidfd_open, pid, 0)
    os.kill(pid, signal.SIGKILL)
    select_one(end)
    os.close(end)
    for path in pins(name):
        check(libc.umount2(path.encode(), MNT_DETACH))
        os.unlink(path)
    os.rmdir("%s/ns/%s" % (BASE, name))
    for path in ("/work/work", "/work", "/upper", ""):
        os.rmdir("%s/upper/%s%s" % (BASE, name, path))
    for controller, tree in trees.items():
        if controller == "unified":
            os.rmdir("%s/floor/%s/keeper" % (tree, name))
        patient_rmdir("%s/floor/%s" % (tree, name))


def select_one(fd):
    import select

    select.select([fd], [], [])


def patient_rmdir(path):
    """A process that has just died may still be counted."""
    while True:
        try:
            return os.rmdir(path)
        except OSError as exc:
            if exc.errno != errno.EBUSY:
                raise
            time.sleep(0.0005)


def census():
    """{identity of a pid namespace: its init}."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                status = os.stat("/proc/%s/ns/pid" % entry)
            except OSError:
                continue
            found[(status.st_dev, status.st_ino)] = int(entry)
    return found


def main(what="make", count="200"):
    count = int(count)
    if what == "operations":
        cost = operations(count)
        return dict({name: round(value, 4) for name, value in cost.items()}, count=count)
    if not os.environ.get("BULKHEAD_ALONE"):
        raise SystemExit("run this in a private host: tests/alone")
    if what == "make":
        maker = Maker()
        begin = time.perf_counter()
        for index in range(count):
            maker.make(index)
    else:
        begin = time.perf_counter()
        trees, inits = hierarchies(), census()
        for index in range(count):
            remove(index, trees, inits)
    each = (time.perf_counter() - begin) / count * 1e3
    if what == "remove":
        for path in trees.values():
            os.rmdir(path + "/floor")
        for name in ("/mntns/template", "/upper", "/mntns", "/ns", ""):
            check(libc.umount2((BASE + name).encode(), MNT_DETACH))
    return {"count": count, "each": round(each, 4)}


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
