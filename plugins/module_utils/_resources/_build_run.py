# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A command of a build, run as a service is: in a prepared root over the layers, through the one entry, in namespaces that end with us.

    this process                    keeper (pid 1 of the build)         the command
      unshare(pid), fork ---------> namespaces, mounts; waits
      fork, exec of the entry ----------------------------------------> joins them, drops its powers, runs
      waits for it                                                      ends
      kills the keeper ------------> ends, and with it all that is left in its pid namespace

Whatever kills this process kills the keeper (PR_SET_PDEATHSIG). The overlay is mounted in the keeper's mount namespace alone.
"""

from __future__ import annotations

import errno
import os
import signal
import stat

from .._kernel import nsfs, overlayfs, syscalls, trees
from .._model.errors import BulkheadError, Problems
from .._model.root import NODEV, NOEXEC, NOSUID, RO, RootSpec, Want
from .._model.service import DEFAULTS
from .._supervisor import entry, pick
from . import _birth, _furnish, _unit, root

# What a layer holds must mean the same without this overlay; what is written counts from the flush of the store on.
_OPTIONS = {"redirect_dir": "off", "metacopy": "off", "index": "off", "volatile": True}
_TYPES = ("pid", "ipc", "uts", "mnt")
_QUIET = NOSUID | NODEV | NOEXEC | RO
_TOLD = 4096  # bytes of the last output, for an error
_LINES = 10
HOSTNAME = "build"
LATE = 124  # the exit status of the entry when time is up


def require(host, image, steps):
    """Refuse what could not be run, before anything is touched."""
    _unit.require_filter(host, DEFAULTS)
    for group in dict.fromkeys(step.cgroup for step in steps if step.cgroup):
        if ("cgroup", group) not in host.promised and not host.cgroups().exists(group):
            if not host.check:
                raise BulkheadError("Cannot build image %s: there is no cgroup %s. Make it first, with the module cgroup." % (image, group))
            host.warn("The cgroup %s does not exist yet. Make it before the image %s." % (group, image))


class _Base:
    """The overlay that a root is prepared over, as RootSpec.base."""

    read_only = False

    def __init__(self, lowers, room):
        self.upper = room + "/upper"
        self._layers = overlayfs.Layers(lowers, self.upper, room + "/work", options=_OPTIONS)

    def layers(self):
        return self._layers


class _Furniture(_furnish.Furniture):
    """Remembers the mount points that the layers did not have: they are not to come into the new one."""

    made = ()

    def _points(self):
        self.made = [path for want in self.wants if want.kind not in ("mask", "read_only") for path in _missing(self.root, want)]
        super()._points()

    def tidy(self):
        """Remove them where they still are what was made, once nothing is mounted on them."""
        for path in sorted(set(self.made), key=len, reverse=True):
            above, name = trees.split(path)
            try:
                fd = trees.resolve(self.root, above, syscalls.O_PATH | os.O_DIRECTORY)
            except OSError:
                continue  # the command has removed what it was in
            try:
                _remove(fd, name)
            finally:
                os.close(fd)


def _missing(top, want):
    """The parts of a mount point that are not there, each with all above it."""
    names = trees.parts(trees.end_of_links(top, want.target) if want.follow else want.target)
    paths = ["/" + "/".join(names[:count + 1]) for count in range(len(names))]
    return [each for each in paths if not trees.exists(top, each)]


def _remove(directory, name):
    try:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode):
            os.rmdir(name, dir_fd=directory)
        elif stat.S_ISREG(found.st_mode) and not found.st_size and not stat.S_IMODE(found.st_mode):
            os.unlink(name, dir_fd=directory)
    except OSError as exc:
        if exc.errno not in (errno.ENOENT, errno.ENOTEMPTY):
            raise


def run(host, name, step, lowers, room, environment):
    """(exit status, the last lines of its output). ``room`` has an ``upper``, which holds afterwards what the command has written over
    the directories ``lowers``, the top one first; ``name`` says in errors what this is."""
    entry.ensure(host)
    _unit.make_filter(host, DEFAULTS)
    types = _TYPES + (("net",) if step.network == "none" else ())
    spec = RootSpec.from_options({}, "", Problems(), name=name, base=_Base(lowers, room), types=types)
    wants = root.wanted_mounts(host, spec)
    if step.network == "host" and os.path.exists("/etc/resolv.conf"):
        wants.append(Want("/etc/resolv.conf", "bind", _QUIET, "/etc/resolv.conf", follow=True))
    wants += [Want(dest, "bind", NOSUID | NODEV | RO, src) for src, dest in step.bind]
    furniture = _Furniture(host, spec, wants)
    try:
        request = _birth.Request(None, types)
        request.held, request.furnish, request.settle = True, furniture, _settle
        keeper = _birth.birth(host, request)[1]
        try:
            ended = _enter(host, name, step, keeper, room, environment)
        finally:
            os.kill(keeper, signal.SIGKILL)
            os.waitpid(keeper, 0)
        furniture.tidy()
        return ended
    finally:
        furniture.close()


def _settle(kinds):
    nsfs.set_names(HOSTNAME)
    if "net" in kinds:
        nsfs.loopback(True)


def _enter(host, name, step, keeper, room, environment):
    """Run the command in the keeper's namespaces: (exit status, the last lines of its output)."""
    kinds = [kind for kind in _TYPES + ("net",) if kind != "net" or step.network == "none"]
    pins = {kind: "%s/%d/ns/%s" % (host.proc, keeper, kind) for kind in kinds}
    options = dict(DEFAULTS, command=step.command, user=step.user, cwd=step.workdir, environment=environment)
    spec = dict(_unit.build(host, name, options, pins).spec, namespaces=pins, name=name, log=False, timeout=step.timeout)
    if step.cgroup:
        host.cgroups().make_leaf(step.cgroup, "exec")
        spec["cgroup"] = host.cgroups().join_files(step.cgroup, "exec")
    told = os.open(room + "/output", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    asked = os.memfd_create("entry")  # opened anew by its number; no file of the host has the environment
    try:
        os.unlink(room + "/output")
        os.write(asked, _unit.dump(spec).encode())
        words = entry.command(host, "/proc/self/fd/%d" % asked)
        status = _wait(pick(host).within(host, step.cgroup, words), asked, told)
        size = os.fstat(told).st_size
        text = os.pread(told, _TOLD, max(0, size - _TOLD)).decode("utf-8", "replace")
    finally:
        os.close(told)
        os.close(asked)
    return status, [line.strip() for line in text.splitlines() if line.strip()][-_LINES:]


def _wait(words, asked, told):
    """Start the entry, and its exit status. Without a home in the host's environment it has only what the spec says."""
    us = os.getpid()
    pid = os.fork()
    if not pid:
        try:
            syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() == us:
                os.dup2(told, 1)
                os.dup2(told, 2)
                os.set_inheritable(asked, True)
                os.execve(words[0], words, {"TERM": "dumb"})
        finally:
            os._exit(125)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
