# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Namespaces as the kernel shows them: what a pin holds, who lives inside, and short visits (namespaces(7), ioctl_nsfs(2)).

A namespace's identity is the (st_dev, st_ino) of its file, the number in `net:[4026531840]` being st_ino.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
import struct

from . import syscalls as sc

# In the order of joining: the user namespace first, as it may be what gives the right to the others; mnt last, as paths change.
FLAGS = {
    "user": sc.CLONE_NEWUSER, "cgroup": sc.CLONE_NEWCGROUP, "ipc": sc.CLONE_NEWIPC, "uts": sc.CLONE_NEWUTS,
    "net": sc.CLONE_NEWNET, "pid": sc.CLONE_NEWPID, "time": sc.CLONE_NEWTIME, "mnt": sc.CLONE_NEWNS,
}
TYPES = tuple(FLAGS)
TEMPLATE = ".template"  # no name of a set starts with a dot

_NS_GET_USERNS, _NS_GET_NSTYPE = 0xB701, 0xB703
_NS_GET_MNTNS_ID, _NS_GET_PID_FROM_PIDNS = 0x8008B705, 0x8004B706  # Linux 6.11
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_PROC_SUPER_MAGIC = 0x9FA0

_libc = ctypes.CDLL(None, use_errno=True)


def pin_path(host, name, kind):
    """Where the namespace of this type of a set is pinned."""
    if kind == "net":
        return "%s/%s" % (host.netns, name)
    if kind == "mnt":
        return "%s/mntns/%s" % (host.state, name)
    return "%s/ns/%s/%s" % (host.state, name, kind)


class Pin:
    """What a pin's path holds.

    ``state``: absent; file (an empty file, as a crash leaves it); taken (something else that is no namespace); wrong (a namespace
    of another type); dead (a pid namespace without its init, in which nothing can be started any more); alive.
    ``identity`` (st_dev, st_ino) of a namespace, ``init`` the pid of a pid namespace's init as the host sees it.
    """

    __slots__ = ("path", "kind", "state", "identity", "init")

    def __init__(self, path, kind, state, identity=None, init=None):
        self.path, self.kind, self.state = path, kind, state
        self.identity, self.init = identity, init

    @property
    def alive(self):
        return self.state == "alive"

    @property
    def link(self):
        """As `readlink /proc/PID/ns/TYPE` shows it."""
        return "%s:[%d]" % (self.kind, self.identity[1]) if self.identity else None


def look(path, kind, inits=None):
    """The Pin at a path. ``inits()`` is asked for {identity: pid} where the kernel has no ioctl for that (before 6.11)."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return Pin(path, kind, "absent")
    except OSError as exc:
        if exc.errno in (errno.ELOOP, errno.ENXIO, errno.ENOTDIR):
            return Pin(path, kind, "absent" if exc.errno == errno.ENOTDIR else "taken")
        raise
    try:
        try:
            flag = fcntl.ioctl(fd, _NS_GET_NSTYPE)
        except OSError:  # ENOTTY: no nsfs file
            found = os.fstat(fd)
            return Pin(path, kind, "file" if stat.S_ISREG(found.st_mode) and not found.st_size else "taken")
        identity = _identity(os.fstat(fd))
        if flag != FLAGS[kind]:
            return Pin(path, kind, "wrong", identity)
        init = _init(fd, identity, inits) if kind == "pid" else None
        return Pin(path, kind, "dead" if kind == "pid" and init is None else "alive", identity, init)
    finally:
        os.close(fd)


def identity(path):
    """(st_dev, st_ino) of a namespace's file, or None when it cannot be had (the process is gone, or a zombie)."""
    try:
        return _identity(os.stat(path))
    except OSError:
        return None


def _identity(status):
    return status.st_dev, status.st_ino


def owner(path):
    """The identity of the user namespace that owns a pinned one, None when it is an ancestor of ours."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        user = fcntl.ioctl(fd, _NS_GET_USERNS)
        try:
            return _identity(os.fstat(user))
        finally:
            os.close(user)
    except OSError:  # EPERM
        return None
    finally:
        os.close(fd)


def _init(fd, identity, inits):
    try:
        pid = fcntl.ioctl(fd, _NS_GET_PID_FROM_PIDNS, 1)
    except OSError as exc:
        if exc.errno == errno.ESRCH:
            return None
        return (inits or census_inits)().get(identity)
    return pid if running(pid) else None


def running(pid, proc="/proc"):
    """Whether a process is there and no zombie."""
    return _stat(pid, proc)[0] not in (b"Z", b"X", b"")


def parent(pid, proc="/proc"):
    """The pid of a process's parent, 0 when it has none that we see or is gone."""
    return int(_stat(pid, proc)[1] or 0)


def _stat(pid, proc):
    """State and what follows in /proc/PID/stat, behind the name, which may have anything in it."""
    try:
        with open("%s/%d/stat" % (proc, pid), "rb") as stream:
            return stream.read().rpartition(b") ")[2].split() or (b"", b"")
    except OSError:
        return b"", b""


def mount_id(path="/proc/self/ns/mnt"):
    """The id that the kernel orders mount namespaces by, or None before Linux 6.11 (where the order is that of creation)."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return struct.unpack("=Q", fcntl.ioctl(fd, _NS_GET_MNTNS_ID, bytes(8)))[0]
    except OSError:
        return None
    finally:
        os.close(fd)


def census(kinds, proc="/proc"):
    """{identity: [pid, …]} of every process, by the namespaces of these types that it is in. One pass, about 5 µs each."""
    found = {}
    for entry in os.listdir(proc):
        if entry.isdigit():
            for kind in kinds:
                which = identity("%s/%s/ns/%s" % (proc, entry, kind))
                if which is not None:
                    found.setdefault(which, []).append(int(entry))
    return found


def census_inits(proc="/proc"):
    """{identity: pid} of the living inits of all pid namespaces below ours."""
    found = {}
    for which, pids in census(("pid",), proc).items():
        for pid in pids:
            try:
                with open("%s/%d/status" % (proc, pid), encoding="ascii", errors="replace") as stream:
                    line = next((each for each in stream if each.startswith("NSpid:")), "")
            except OSError:
                continue
            if line.split()[-1:] == ["1"] and running(pid, proc):
                found[which] = pid
    return found


class visit:
    """Be in namespaces of the types net, uts and ipc for some lines, in this process; `with visit({"net": path}): …`.

    These three change nothing else of a process and can be left again, unlike user, mnt (shared by threads) and time.
    """

    def __init__(self, paths, proc="/proc"):
        self.paths, self.proc, self._home = paths, proc, []

    def __enter__(self):
        try:
            for kind in self.paths:
                target = os.open(self.paths[kind], os.O_RDONLY | os.O_CLOEXEC)
                try:
                    home = os.open("%s/self/ns/%s" % (self.proc, kind), os.O_RDONLY | os.O_CLOEXEC)
                    self._home.append((home, FLAGS[kind]))
                    sc.setns(target, FLAGS[kind])
                finally:
                    os.close(target)
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *exc):
        while self._home:
            home, flag = self._home.pop()
            sc.setns(home, flag)  # an error here must not be survived: it would leave the engine in a foreign namespace
            os.close(home)


def child(paths, work, watch=None):
    """Run ``work()`` in a forked child that joined these namespaces ({type: path}); an OSError there is raised here.

    Returns the text that ``work()`` returns, or the result of ``watch(pid)``, which is run here while the child waits inside.
    """
    up_r, up_w = os.pipe()
    go_r, go_w = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(up_r)
            os.close(go_w)
            fds = [(os.open(paths[kind], os.O_RDONLY), FLAGS[kind]) for kind in TYPES if kind in paths]
            if "user" in paths:  # it would take away the right to the others
                fds.append(fds.pop(0))
            for fd, flag in fds:
                sc.setns(fd, flag)
            os.write(up_w, b"=" + (work() or "").encode("utf-8", "replace"))
            os.read(go_r, 1)
        except OSError as exc:
            os.write(up_w, ("%d %s" % (exc.errno or errno.EIO, exc.filename or "")).encode("utf-8", "replace"))
        finally:
            os._exit(0)
    os.close(up_w)
    os.close(go_r)
    try:
        answer = os.read(up_r, 4096).decode("utf-8", "replace")
        if answer.startswith("="):
            return watch(pid) if watch else answer[1:]
        code, space, where = answer.partition(" ")
        code = int(code) if code else errno.ECHILD
        raise OSError(code, os.strerror(code), where or None)
    finally:
        os.close(up_r)
        os.close(go_w)
        os.waitpid(pid, 0)


def unshare_mounts(floor, proc="/proc"):
    """A new mount namespace for the caller that the one with the id ``floor`` (`mount_id()`) may pin: one with a higher id.

    Recent kernels hand these ids out in batches to each CPU, so another CPU may be needed. (Older ones count up.)
    """
    allowed = os.sched_getaffinity(0)
    for cpu in [None] + list(range(os.cpu_count() or 1)):
        if cpu is not None:
            try:
                os.sched_setaffinity(0, {cpu})
            except OSError:  # not for us, or offline
                continue
        sc.unshare(sc.CLONE_NEWNS)
        if floor is None or mount_id(proc + "/self/ns/mnt") > floor:
            break
    if cpu is not None:
        os.sched_setaffinity(0, allowed)


# -- what is set from inside; these act on the namespaces that the caller is in

def read_sysctl(key, proc="/proc"):
    """The value of `net/ipv4/ip_forward`, runs of white space as one space."""
    with open("%s/sys/%s" % (proc, key), "rb", buffering=0) as stream:
        return " ".join(stream.read().decode("utf-8", "replace").split())


def write_sysctl(key, value, proc="/proc"):
    """Write one, and only to procfs.

    Those of an ipc namespace belong to the root of the user namespace that owns it, and capabilities do not count.
    """
    path = "%s/sys/%s" % (proc, key)
    try:
        _write(path, value)
    except PermissionError:
        uid = os.stat(path).st_uid
        if uid == os.geteuid():
            raise
        os.seteuid(uid)
        try:
            _write(path, value)
        finally:
            os.seteuid(0)


def _write(path, value):
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            if sc.fs_magic(fd) != _PROC_SUPER_MAGIC:
                raise OSError(errno.EXDEV, "this is no procfs")
            os.write(fd, value.encode() + b"\n")
        finally:
            os.close(fd)
    except OSError as exc:
        raise OSError(exc.errno, exc.strerror, path) from exc


def set_names(hostname=None, domainname=None):
    """sethostname(2), setdomainname(2): unlike their sysctls they work for the root of a user namespace."""
    for call, value in ((_libc.sethostname, hostname), (_libc.setdomainname, domainname)):
        if value is not None:
            data = value.encode()
            if call(data, ctypes.c_size_t(len(data))) < 0:
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code))


def loopback(up=None):
    """Whether `lo` is up; with ``up``, set it so (netdevice(7))."""
    fd = _libc.socket(2, 2 | os.O_CLOEXEC, 0)  # AF_INET, SOCK_DGRAM
    if fd < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    try:
        flags = struct.unpack("16sH14x", fcntl.ioctl(fd, _SIOCGIFFLAGS, struct.pack("16sH14x", b"lo", 0)))[1]
        if up is not None and bool(flags & _IFF_UP) != up:
            fcntl.ioctl(fd, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags ^ _IFF_UP))
            return up
        return bool(flags & _IFF_UP)
    finally:
        os.close(fd)


# -- pins

def reserve_pin(path):
    """A new file of mode 000 for a pin, as ip-netns(8) makes it; FileExistsError when there is one."""
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0))


def make_pin(source, path):
    """Bind a namespace's file on a new file."""
    reserve_pin(path)
    try:
        sc.mount(source, path, None, sc.MS_BIND)
    except OSError:
        os.unlink(path)
        raise


def unpin(path):
    """Take a pin away whatever it holds, also one of which only the file is left, or that has mounts stacked on it."""
    for attempt in range(64):
        try:
            sc.umount(path, sc.MNT_DETACH | sc.UMOUNT_NOFOLLOW)
        except OSError as exc:
            if exc.errno not in (errno.EINVAL, errno.ENOENT):  # no mount there, or nothing
                raise
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        except IsADirectoryError:
            os.rmdir(path)
        except OSError as exc:
            if exc.errno == errno.EBUSY and attempt < 63:  # another mount was below
                continue
            raise
        return
