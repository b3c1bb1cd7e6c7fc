# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Control groups as files: which controller is where, and a cgroup as its directories in all hierarchies that we use.

Sources: Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/. A hierarchy is known by its key: the controllers that it
was mounted with (`memory`, `cpu,cpuacct`), or `unified` for cgroup2. Names are relative to the root of the hierarchies.
"""

from __future__ import annotations

import errno
import os
import signal
import time

from . import built

UNIFIED = "unified"
# The v1 controllers whose hierarchies a cgroup of ours has a directory in.
V1_CONTROLLERS = ("cpu", "cpuacct", "cpuset", "memory", "pids", "blkio", "freezer", "devices", "hugetlb", "rdma", "misc",
                  "net_cls")
ALIASES = {"io": "blkio"}  # v2's word -> v1's
_OPTIONS = {"io.latency": "BLK_CGROUP_IOLATENCY"}  # files that a kernel may be built without although it has their controller
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ENODEV, errno.ESRCH, errno.EOPNOTSUPP)
PATIENCE = 5.0  # seconds that freezing or dying processes are waited for


class Trees:
    """The hierarchies below ``root`` (usually /sys/fs/cgroup), from a mount table.

    ``mode`` is unified, v1, hybrid or none; ``roots`` maps the keys of the v1 hierarchies, and `unified` where cgroup2 counts,
    to directories; ``controllers`` are those that cgroup2 has. A cgroup2 tree beside v1 counts only when it has a controller.
    ``nests``: parents are made and removed by us. Where systemd is init, `_supervisor/slices.py` stands in for this.
    """

    driver, nests = "cgroupfs", True

    def __init__(self, root, table):
        self.root, self.roots, self.controllers, self._v1 = root, {}, (), {}
        top = table.top(root)
        if top is not None and top.fstype == "cgroup2":
            self.mode, self.roots[UNIFIED] = "unified", root
        else:
            for mount in table.below(root):
                if mount.fstype == "cgroup" and table.top(mount.target) is mount:
                    self._add_v1(mount)
            self.mode = "v1" if self._v1 else "none"
            beside = next((mount.target for mount in table.below(root)
                           if mount.fstype == "cgroup2" and table.top(mount.target) is mount), None)
            if beside and self._v1:
                self.mode = "hybrid"
            elif beside:
                self.mode = "unified"
            if beside and (self.mode == "unified" or read(beside + "/cgroup.controllers").strip()):
                self.roots[UNIFIED] = beside
        if UNIFIED in self.roots:
            self.controllers = tuple(read(self.roots[UNIFIED] + "/cgroup.controllers").split())

    @classmethod
    def read(cls, host):
        """The trees of the engine's host."""
        return cls(host.cgroup, host.mounts())

    def _add_v1(self, mount):
        options = mount.super_options.split(",")
        ours = [word for word in V1_CONTROLLERS if word in options]
        if ours and not any(word in self._v1 for word in ours):
            key = ",".join(ours)
            self.roots[key] = mount.target
            self._v1.update((word, key) for word in ours)

    # -- where things are

    def at(self, name):  # pylint: disable=unused-argument
        """The trees that a name lives in."""
        return self

    def expect(self, names):
        """These names are going to be asked about: it may be cheaper to ask at once."""

    def home(self, controller):
        """The key of the hierarchy that has a controller (v2's word for it), or None. `cgroup` is cgroup2's core."""
        if controller in self.controllers or (controller == "cgroup" and self.mode == "unified"):
            return UNIFIED
        return self._v1.get(ALIASES.get(controller, controller))

    def lack(self, controller):
        """What an option that needs it is told."""
        return "needs the controller %s, which this host's cgroups do not have" % controller

    def keys(self, needed=()):
        """The hierarchies that a cgroup lives in: every v1 one; cgroup2 when it is the only one, or has one of ``needed``."""
        return [key for key in self.roots if key != UNIFIED or self.mode == "unified" or UNIFIED in needed]

    def path(self, name, key):
        return "%s/%s" % (self.roots[key], name)

    def exists(self, name):
        """{key: [st_dev, st_ino]} of the directories that NAME has; the pair is the identity of one."""
        found = {}
        for key in self.roots:
            try:
                status = os.stat(self.path(name, key))
            except (FileNotFoundError, NotADirectoryError):
                continue
            found[key] = [status.st_dev, status.st_ino]
        return found

    def children(self, name, keys=None):
        """The names directly below, in any hierarchy; '' is the root."""
        found = set()
        for key in self.roots if keys is None else keys:
            try:
                if not nested(self.path(name, key)):
                    continue
                with os.scandir(self.path(name, key)) as entries:
                    found.update(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
            except FileNotFoundError:
                continue
        return sorted(found)

    def processes(self, name, keys=None):
        """Pids in NAME and below, in any hierarchy or those of ``keys``. All of other pid namespaces count as one pid 0."""
        pids = set()
        for key in self.roots if keys is None else keys:
            path = self.path(name, key)
            for directory in [each[0] for each in os.walk(path)] if nested(path) else [path]:
                pids.update(_pids(directory))
        return sorted(pids)

    def populated(self, name):
        """Does a process live in NAME or below, in any hierarchy? The first that shows one answers."""
        return any(self.processes(name, (key,)) for key in self.roots)

    def join_files(self, name, leaf=None, unified=None):
        """The files to write `0` to, so that the calling (single-threaded) process is in NAME, in LEAF of it on cgroup2.

        ``unified``: whether NAME will have a directory in a cgroup2 tree beside v1; None: as it has now.
        """
        files = [self.path(name, key) + "/tasks" for key in self.roots if key != UNIFIED]
        if UNIFIED in self.roots:
            path = self.path(name, UNIFIED)
            if self.mode == "unified" or (os.path.isdir(path) if unified is None else unified):
                files.append("%s/%s/cgroup.procs" % (path, leaf or "exec"))
        return files

    # -- changes; all of them bear their own half-done result

    def make(self, name, keys, made):
        """Directories of NAME and of its parents; ``made`` is given the (key, name) of each that was not there. On v1 the
        cpus and memory nodes are filled from the parent, as a cpuset without them takes no process."""
        for key in keys:
            self._make(key, name, made)
            if key == self._v1.get("cpuset"):
                _fill_cpuset(self.path(name, key), self.roots[key])

    def _make(self, key, name, made):
        try:
            os.mkdir(self.path(name, key), 0o755)
        except FileExistsError:
            return
        except FileNotFoundError:
            if "/" not in name:
                raise
            self._make(key, name.rpartition("/")[0], made)
            os.mkdir(self.path(name, key), 0o755)
        made.append((key, name))

    def unmake(self, made):
        """Remove what make() made, the deepest first, but a parent that others live in by now: it goes with the last of them."""
        for key, name in reversed(made):
            if not nested(self.path(name, key)):
                _rmdir(self.path(name, key))

    def make_leaf(self, name, leaf):
        """The directory of a leaf on cgroup2 (v1 has none): where processes live, as NAME may have controllers enabled below."""
        path = self.path(name, UNIFIED) if UNIFIED in self.roots else None
        if path and os.path.isdir(path):
            _mkdir(path + "/" + leaf)

    def remove(self, name, patience=PATIENCE):
        """NAME and everything below, which must be empty of processes (EBUSY); those that are dying are waited for."""
        end = time.monotonic() + patience
        for key in self.roots:
            path = self.path(name, key)
            for directory in [each[0] for each in os.walk(path, topdown=False)] if nested(path) else [path]:
                while True:
                    try:
                        _rmdir(directory)
                        break
                    except OSError as exc:
                        if exc.errno != errno.EBUSY or self.processes(name, (key,)) or time.monotonic() > end:
                            raise
                    time.sleep(0.005)

    def enable(self, name, controllers):
        """Controllers in the subtree_control of every ancestor of NAME, so that its files exist (cgroup2)."""
        parts = name.split("/")
        for depth in range(len(parts)):
            missing = self.disabled("/".join(parts[:depth]), controllers)
            if missing:
                path = self.path("/".join(parts[:depth]), UNIFIED)
                write(path + "/cgroup.subtree_control", " ".join("+" + word for word in missing))

    def disabled(self, name, controllers):
        """Those of ``controllers`` that the children of NAME do not have."""
        enabled = read(self.path(name, UNIFIED) + "/cgroup.subtree_control", "").split()
        return [word for word in controllers if word not in enabled]

    def attach(self, name, pids, leaf="exec", keys=None):
        """Move whole processes into NAME (into LEAF of it on cgroup2; None: NAME itself, as threaded ones need).

        A pid 0, which stands for one that we cannot see, stays: to the kernel it would be ourselves.
        """
        for key in self.roots if keys is None else keys:
            path = self.path(name, key)
            if not pids or not os.path.isdir(path):
                continue
            if key == UNIFIED and leaf:
                path += "/" + leaf
                _mkdir(path)
            for pid in pids:
                if pid:
                    write(path + "/cgroup.procs", str(pid))

    def members(self, pid, proc="/proc"):
        """{key: path of the directory} that a process is in; {} when there is no such process."""
        found = {}
        for line in read("%s/%d/cgroup" % (proc, pid)).splitlines():
            words, path = line.split(":", 2)[1:]
            key = UNIFIED if not words else next((self._v1[word] for word in words.split(",") if word in self._v1), None)
            if key in self.roots:
                found[key] = self.roots[key] + path
        return found

    def relative(self, key, path):
        """The path of a directory of members() below the root of its hierarchy."""
        return path[len(self.roots[key]):] or "/"

    def freezable(self):
        return self.home("freezer") or self.home("cgroup")

    def frozen(self, name):
        """Whether NAME is asked to be frozen, by itself."""
        if self.home("freezer"):
            path = self.path(name, self.home("freezer"))
            return read(path + "/freezer.self_freezing", "0").strip() == "1"
        if self.home("cgroup"):
            return read(self.path(name, UNIFIED) + "/cgroup.freeze", "0").strip() == "1"
        return False

    def freeze(self, name, on, patience=PATIENCE):
        """Freeze or thaw, and wait until the kernel says that it is done; False when it was not in ``patience`` seconds."""
        if self.home("freezer"):
            path = self.path(name, self.home("freezer"))
            write(path + "/freezer.state", "FROZEN" if on else "THAWED")
            return _until(lambda: read(path + "/freezer.state", "").strip() == "FROZEN" if on
                          else read(path + "/freezer.self_freezing", "0").strip() == "0", patience)
        path = self.path(name, UNIFIED)
        write(path + "/cgroup.freeze", "1" if on else "0")
        return _until(lambda: "frozen %d" % on in read(path + "/cgroup.events", ""), patience)

    def kill(self, name, patience=PATIENCE):
        """SIGKILL to everything in NAME and below; returns whether all of it is gone.

        cgroup2 does it at once (5.14, not in threaded cgroups). Else the processes are frozen, so that none can fork away,
        signalled through descriptors, so that no reused pid is hit, and thawed to die.
        """
        if self.mode == "unified":
            try:
                write(self.path(name, UNIFIED) + "/cgroup.kill", "1")
                return _until(lambda: not self.populated(name), patience)
            except OSError as exc:
                if exc.errno not in (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP):  # ENODEV: systemd has removed it meanwhile
                    raise
        end = time.monotonic() + patience
        while self.populated(name):
            if time.monotonic() >= end:
                return False
            try:
                if self.freezable():
                    self.freeze(name, True, 1.0)
                _signal(self, name)
            finally:
                if self.freezable():
                    self.freeze(name, False, 0)
            _until(lambda: not self.populated(name), min(1.0, patience))
        return True


def read(path, default=""):
    """The text of a file of the kernel; ``default`` when there is none (a cgroup may vanish at any time)."""
    parts = []
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # open() takes three times as long, and there are many
        try:
            while not parts or parts[-1]:
                parts.append(os.read(descriptor, 65536))
        finally:
            os.close(descriptor)
    except OSError as exc:
        if exc.errno not in _GONE:
            raise
        return default
    return b"".join(parts).decode("utf-8", "surrogateescape")


def write(path, text):
    """One write(2), as the kernel wants it; the error names the file."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode() + b"\n")
    except OSError as exc:
        raise OSError(exc.errno, exc.strerror, path) from exc
    finally:
        os.close(descriptor)


def built_without(file, proc="/proc"):
    """Is this kernel known to be built without a file that its controller may have?"""
    return file in _OPTIONS and built.lacks(_OPTIONS[file], proc=proc)


def nested(path):
    """Does a directory have directories in it? Its link count tells (on cgroupfs; 1 is a file system that does not tell)."""
    try:
        return os.stat(path).st_nlink != 2
    except (FileNotFoundError, NotADirectoryError):
        return False


def _pids(directory):
    text = read(directory + "/cgroup.procs", None)
    if text is None:  # a threaded cgroup refuses it
        text = read(directory + "/cgroup.threads")
    return [int(word) for word in text.split()]


def _signal(trees, name):
    holders = []
    try:
        for pid in trees.processes(name):
            try:
                if pid > 1:
                    holders.append((pid, os.pidfd_open(pid) if hasattr(os, "pidfd_open") else None))
            except OSError as exc:
                if exc.errno == errno.ENOSYS:
                    holders.append((pid, None))
        still = trees.processes(name)
        for pid, descriptor in holders:
            try:
                if pid in still and descriptor is not None:
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                elif pid in still:
                    os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
    finally:
        for pid, descriptor in holders:
            if descriptor is not None:
                os.close(descriptor)


def _until(condition, patience):
    end, pause = time.monotonic() + patience, 0.001
    while not condition():
        if time.monotonic() >= end:
            return False
        time.sleep(pause)
        pause = min(pause * 2, 0.05)
    return True


def _fill_cpuset(path, root):
    parent = os.path.dirname(path)
    for name in ("/cpuset.cpus", "/cpuset.mems"):
        if not read(path + name).strip():
            if path != root and not read(parent + name).strip():
                _fill_cpuset(parent, root)
            write(path + name, read(parent + name).strip())


def _mkdir(path):
    try:
        os.mkdir(path, 0o755)
    except FileExistsError:
        pass


def _rmdir(path):
    try:
        os.rmdir(path)
    except FileNotFoundError:
        pass
