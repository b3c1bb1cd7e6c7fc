# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How a set of namespaces is born: one or two forked children become the namespaces, and the parent pins what they are.

The parent never leaves the host's namespaces. It alone binds the pins, last, when everything inside is done. A child that
will be a keeper then waits for the parent's word; when the parent dies instead, the pipe ends, and the child with it. So a
birth that is killed anywhere leaves pins of which some are missing or dead, and no process.

    parent                               child (pid 1 of the new pid namespace)
      opens pins, template, image
      unshare(pid), fork ------------->  joins the cgroup, joins kept namespaces, unshares the others
      (setns back)                       sets names and sysctls, brings lo up, gets its mounts, furnishes them
      binds the pins      <- ready ----
      ------------------ go ---------->  becomes the keeper, or exits

With a user namespace, whose child alone may make what it owns, another child stands in between: it enters that namespace,
the parent writes its maps, and then it forks the above.
"""

from __future__ import annotations

import errno
import json
import os
import signal

from .._kernel import keeper, nsfs
from .._kernel import syscalls as sc
from .._model.errors import BulkheadError
from .._model.namespace import map_text
from . import _pins


class Request:
    """What is to be born.

    ``make``: types. ``join``: {type: path} of the set's pins that stay. ``owner``: path of the user namespace that owns (not
    when ``make`` has user, which then owns). ``cgroup_files``: files to write `0` to;
    ``cgroup_leaf``: the one to which the keeper is moved when its cgroup namespace is made (cgroup2). ``settle(types)``: sets what belongs
    inside the namespaces of these types, called within them. ``furnish()``: called in a copy of the template's mounts, last;
    None: the mounts are a copy of the host's, to which the host's changes propagate (slave). ``held``: nothing is pinned, and the
    keeper ends with the caller, whose child it is.
    """

    __slots__ = ("name", "make", "join", "owner", "uid_map", "gid_map", "time_offsets", "cgroup_files", "cgroup_leaf", "settle", "furnish",
                 "bare", "held")

    def __init__(self, name, make, join=None):
        self.name, self.make, self.join = name, frozenset(make), join or {}
        self.owner = self.uid_map = self.gid_map = self.time_offsets = None
        self.cgroup_files, self.cgroup_leaf = (), None
        self.settle = self.furnish = None
        self.held = False
        self.bare = True  # furnish starts from the template; False: from the host's mounts

    @property
    def owned(self):
        return "user" in self.make or self.owner is not None


def birth(host, request):
    """Make and pin. Returns ({type: identity}, pid of the keeper or None); on an error nothing is left."""
    return _Birth(host, request).run()


def template(host):
    """The path of the template mount namespace: a small read-only tmpfs with whole /proc and /sys (without which a mount
    namespace owned by a user namespace cannot mount its own). New ones start from it, as the cost of unshare(2) grows with
    the mounts of the namespace that it starts from."""
    path = nsfs.pin_path(host, nsfs.TEMPLATE, "mnt")
    if not nsfs.look(path, "mnt").alive:
        nsfs.unpin(path)
        request = Request(nsfs.TEMPLATE, ("mnt",))
        request.bare, request.furnish = False, lambda: _furnish_template(host.state + "/mnt")
        birth(host, request)
    return path


def _furnish_template(point):
    sc.mount(None, "/", None, sc.MS_REC | sc.MS_PRIVATE)
    sc.mount("bulkhead", point, "tmpfs", sc.MS_NOSUID | sc.MS_NODEV, "mode=0755,size=64k,nr_inodes=16")
    for directory in ("proc", "sys", "dev", "root"):
        os.mkdir("%s/%s" % (point, directory), 0o755)
    quiet = sc.MS_NOSUID | sc.MS_NODEV | sc.MS_NOEXEC
    sc.mount("proc", point + "/proc", "proc", quiet)
    sc.mount("sysfs", point + "/sys", "sysfs", quiet)
    sc.mount(None, point, None, sc.MS_REMOUNT | sc.MS_BIND | sc.MS_RDONLY | sc.MS_NOSUID | sc.MS_NODEV)
    os.chdir(point)
    sc.pivot_root(".", ".")  # the old root is now on top of the new one
    sc.umount(".", sc.MNT_DETACH)


class _Birth:
    def __init__(self, host, request):
        self.host, self.request = host, request
        self.proc = host.proc
        self.keep = "pid" in request.make
        self.mnt_from_template = "mnt" in request.make and request.furnish is not None and request.bare
        self.floor = nsfs.mount_id(self.proc + "/self/ns/mnt") if "mnt" in request.make else None
        self.fds = {}
        self.bound = []
        self.inner = None  # the pid of the process that has all the namespaces

    def run(self):
        request, child, done = self.request, None, False
        start = template(self.host) if self.mnt_from_template else None
        try:
            for key, path in list(request.join.items()) + [("owner", request.owner), ("template", start)]:
                if path is not None:
                    self.fds[key] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            if self.keep:
                self.fds["keeper"] = keeper.descriptor()
            for name, pair in (("up", os.pipe()), ("go", os.pipe()), ("end", os.pipe())):
                self.fds[name + "_r"], self.fds[name + "_w"] = pair
            child = self._fork(self.keep and not request.owned)
            if child == 0:
                self._child(self._outer if request.owned else self._inner)
            self._close("up_w", "go_r", "end_r")
            if not request.owned or not self.keep:
                self.inner = child
            self._listen(child)
            if self.keep and request.cgroup_leaf is not None:
                _join(request.cgroup_leaf, self.inner)
            found = {} if request.held else self._pin()
            if request.owned and request.settle:
                self._settle_owned()
            os.write(self.fds["go_w"], b"g")
            self._end()
            done = True
        finally:
            self._close("go_w", "end_w")  # whoever still waits ends by that
            if child is not None and not (done and self.keep and not request.owned):
                os.waitpid(child, 0)
            if not done:
                self._take_back()
            self._close(*list(self.fds))
        return found, self.inner if self.keep else None

    # -- the parent

    def _fork(self, new_pid):
        """fork(2), the child in a new pid namespace: unshare(2) of that type concerns only children, and is undone."""
        if not new_pid:
            return os.fork()
        home = os.open(self.proc + "/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        sc.unshare(sc.CLONE_NEWPID)
        pid = None
        try:
            pid = os.fork()
        finally:
            if pid != 0:
                sc.setns(home, sc.CLONE_NEWPID)
            os.close(home)
        return pid

    def _listen(self, child):
        """Serve the children until they are ready."""
        for line in self._lines():
            if line == "maps":
                self._write(child, "uid_map", map_text(self.request.uid_map))
                self._write(child, "gid_map", map_text(self.request.gid_map))
                os.write(self.fds["go_w"], b"m")
            elif line.startswith("pid "):
                self.inner = int(line[4:])
            elif line == "offsets":
                offsets = sorted(self.request.time_offsets.items())
                self._write(self.inner, "timens_offsets", "".join("%s %d 0\n" % item for item in offsets))
                os.write(self.fds["go_w"], b"o")
            elif line == "ready":
                return

    def _lines(self):
        buffer = b""
        while True:
            data = os.read(self.fds["up_r"], 65536)
            if not data:
                raise OSError(errno.ECHILD, "the process that builds them was killed")
            buffer += data
            while b"\n" in buffer:
                line, unused, buffer = buffer.partition(b"\n")
                line = line.decode()
                if line.startswith("{"):
                    _raise(json.loads(line))
                yield line

    def _write(self, pid, name, text):
        """One write(2) to a file of a process: maps can be written only once and whole."""
        path = "%s/%d/%s" % (self.proc, pid, name)
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        except OSError as exc:
            raise OSError(exc.errno, exc.strerror, name) from exc
        finally:
            os.close(fd)

    def _pin(self):
        found = {}
        for kind in nsfs.TYPES:
            if kind in self.request.make:
                link = "time_for_children" if kind == "time" else kind
                found[kind] = _pins.pin(self.host, self.request.name, kind, "%s/%d/ns/%s" % (self.proc, self.inner, link))
                self.bound.append(kind)
        return found

    def _settle_owned(self):
        """What the root of a user namespace may not set on every kernel is set by the host's, from a child that visits."""
        paths = {kind: nsfs.pin_path(self.host, self.request.name, kind) for kind in self.request.make}
        outside = {kind: path for kind, path in paths.items() if kind in ("uts", "ipc", "net")}
        if outside:
            nsfs.child(outside, lambda: self.request.settle(outside))
        if "user" in paths:
            nsfs.child({"user": paths["user"]}, lambda: self.request.settle(("user",)))

    def _end(self):
        """The pipe ends when the keeper is executed, or the child exits; an error comes before."""
        try:
            for line in self._lines():
                pass
        except OSError as exc:
            if exc.errno != errno.ECHILD:
                raise
        if self.keep:
            with open("%s/%d/cmdline" % (self.proc, self.inner), "rb") as stream:
                if stream.read() != keeper.NAME + b"\0":  # one that is killed closes the pipe, too
                    raise OSError(errno.ECHILD, "the keeper was killed")

    def _take_back(self):
        self._close("up_w")
        if "up_r" in self.fds:
            while os.read(self.fds["up_r"], 65536):  # until the last of the children is gone
                pass
        _pins.unpin(self.host, self.request.name, reversed(self.bound))

    def _close(self, *names):
        for name in names:
            if name in self.fds:
                os.close(self.fds.pop(name))

    # -- the children: they leave by os._exit or by execve, never through the parent's frames

    def _child(self, work):
        try:
            self._close("up_r", "go_w", "end_w")
            sc.prctl(sc.PR_SET_PDEATHSIG, signal.SIGKILL)
            work()
        except BulkheadError as exc:
            self._say(json.dumps({"message": exc.message}))
        except OSError as exc:
            self._fail(exc.errno, exc.strerror or str(exc), exc.filename and os.fsdecode(exc.filename))
        except BaseException as exc:  # a fault of ours: say it in one line, as a traceback of a child helps nobody
            self._fail(None, "%s: %s" % (type(exc).__name__, " ".join(str(exc).split())), None)
        finally:
            os._exit(0)

    def _say(self, line):
        os.write(self.fds["up_w"], line.encode() + b"\n")

    def _fail(self, number, reason, path):
        self._say(json.dumps({"errno": number or errno.EIO, "reason": reason, "path": path}))

    def _hear(self):
        """Wait for the parent's word; when it is dead, end."""
        if not os.read(self.fds["go_r"], 1):
            os._exit(0)

    def _prepare(self):
        """What needs the host's paths and the host's root's rights."""
        os.setsid()
        for entry in os.listdir(self.proc + "/self/fd"):
            try:
                os.set_inheritable(int(entry), False)  # the keeper is to hold nothing of the host's, stdio included
            except OSError:  # the directory's own
                pass
        if self.request.make.intersection(("pid", "cgroup")):
            for path in self.request.cgroup_files:
                try:
                    _join(path, 0)
                except OSError as exc:  # it hands controllers on, so it takes no process: then the root is the leaf
                    if exc.errno != errno.EBUSY or self.request.cgroup_leaf is None:
                        raise
                    _join(self.request.cgroup_leaf, 0)

    def _outer(self):
        """Enter the user namespace that owns; fork the one who lives there."""
        request = self.request
        self._prepare()
        if "template" in self.fds:
            sc.setns(self.fds["template"], sc.CLONE_NEWNS)
        if "user" in request.make:
            sc.unshare(sc.CLONE_NEWUSER)
            self._say("maps")
            self._hear()
        else:
            sc.setns(self.fds["owner"], sc.CLONE_NEWUSER)
        os.setgroups([])
        for change in (os.setresgid, os.setresuid):
            try:
                change(0, 0, 0)
            except OSError as exc:
                if exc.errno != errno.EINVAL:  # no 0 in the map: stay the nobody that one is there
                    raise
        sc.prctl(sc.PR_SET_PDEATHSIG, signal.SIGKILL)  # a change of ids has cleared it
        if not self.keep:
            self._inner()
        sc.unshare(sc.CLONE_NEWPID)
        pid = os.fork()
        if pid == 0:
            # The host's procfs tells it. It comes from here, as the one in between may be killed before it could say it.
            self._say("pid " + os.readlink(self.proc + "/self"))
            self._inner()
        self._close("up_w", "go_r")
        os.read(self.fds["end_r"], 1)  # the parent has done all: a pid is not used again before, as its parent lives
        os._exit(0)

    def _inner(self):
        """Get all the namespaces and what belongs in them. In a forked one no exception may leave: _child() catches it."""
        request = self.request
        if not request.owned:
            self._prepare()
        for kind in nsfs.TYPES:
            if kind in request.join and kind not in ("user", "pid", "mnt"):
                sc.setns(self.fds[kind], nsfs.FLAGS[kind])
        flags = 0
        for kind in request.make.difference(("user", "pid", "mnt")):
            flags |= nsfs.FLAGS[kind]
        if flags:
            sc.unshare(flags)
        if "time" in request.make and request.time_offsets:
            self._say("offsets")
            self._hear()
        if request.settle and not request.owned:
            request.settle(request.make)
        if "mnt" in request.make:
            self._mounts()
        elif "mnt" in request.join:
            sc.setns(self.fds["mnt"], sc.CLONE_NEWNS)
        os.chdir("/")
        self._say("ready")
        self._hear()
        if self.keep:
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
            if not request.held:
                sc.prctl(sc.PR_SET_PDEATHSIG, 0)
            sc.execveat(self.fds["keeper"], ["keeper"], {})
        os._exit(0)

    def _mounts(self):
        """A mount namespace that the parent's may pin, with what belongs in it."""
        if "template" in self.fds and not self.request.owned:
            sc.setns(self.fds["template"], sc.CLONE_NEWNS)
        nsfs.unshare_mounts(self.floor, self.proc)
        if self.request.furnish is None:
            sc.mount(None, "/", None, sc.MS_REC | sc.MS_SLAVE)
        else:
            self.request.furnish()


def _join(path, pid):
    """Move a process (0: the caller) into a cgroup by its `tasks` or `cgroup.procs`."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, b"%d" % pid)
    finally:
        os.close(fd)


def _raise(error):
    if "message" in error:
        raise BulkheadError(error["message"])
    raise OSError(error["errno"], error["reason"], error["path"])
