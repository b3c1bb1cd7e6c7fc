# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The host as an object, for the module `host`: program, supervisor and restore at boot are there, or nothing of ours is any more."""

from __future__ import annotations

import os
import shutil
import stat
import sys

from .._engine import places
from .._kernel import nsfs
from .._kernel import syscalls as sc
from .._model import values
from .._model.errors import BulkheadError
from .._supervisor import boot, entry, fresh, runit, scan, subtree, systemctl
from . import archive, whole

NOUN = "host"
PROGRAM = "/usr/local/bin/bulkhead"
OLDEST = (3, 9)
MODE, OWNER = 0o755, (0, 0)


class HostSpec:
    """What is to be on the host. ``clear``: only what a reboot would take, for it is to be restored."""

    __slots__ = ("key", "program", "interpreter", "state", "remove_data", "clear")

    def __init__(self):
        self.key = NOUN
        self.program = self.interpreter = None
        self.state, self.remove_data, self.clear = "present", False, False


def parse(options, path, problems):
    """Read the options of the module."""
    spec = HostSpec()
    spec.program = values.absolute(options.get("program", PROGRAM), "program", problems)
    if options.get("interpreter") is not None:
        spec.interpreter = values.absolute(options["interpreter"], "interpreter", problems)
    spec.state = values.choice(options.get("state", "present"), "state", problems, ("present", "absent"))
    spec.remove_data = values.boolean(options.get("remove_data", False), "remove_data", problems)
    spec.clear = options.get("clear", False)
    return spec


def plan(host, spec, plan):
    """See `_engine/plan.py`."""
    if spec.state == "present":
        _plan_program(spec, plan)
        if _supervisor(host) is None:
            plan.differ("supervisor", "absent", "running")
            plan.add("start the supervisor", lambda: scan.ensure(host, runit.tool("runsvdir")), lambda: scan.shutdown(host))
        boot.plan(host, spec.program, plan)
        return
    for noun, name, resource in whole.existing(host, and_recorded=not spec.clear):
        plan.differ("%s %s" % (noun, name), "present", "absent")
        plan.add("remove %s %s" % (noun, name),
                 lambda each=(name, resource): whole.remove(host, each[0], each[1], remove_data=spec.remove_data, keep_record=spec.clear))
    if not spec.clear:
        if spec.remove_data:
            _snapshots().plan_none(host, plan)
            _images().plan_none(host, plan)
        boot.plan_removal(host, plan)
        _plan_files(host, spec, plan)
    if plan.steps or any(host.mounts().top(path) is not None for path, flags, propagation in places.parts(host)) \
            or not spec.clear and any(_removable(host, path) for path in _tops(host)):
        if host.systemd:
            plan.differ("places", "present", "absent")
        else:
            plan.differ("supervisor", "running" if scan.find(host) else "absent", "absent")
        plan.add("remove %sthe places of ours" % ("" if host.systemd else "the supervisor and "), lambda: _remove_places(host, spec.clear))


def _images():
    from .._resources import image  # much code, for the one who has images

    return image


def _snapshots():
    from .._resources import _saved  # those of sandboxes that are gone

    return _saved


def result(host, params, outcome):
    """What the module returns beside the actions."""
    return {"host": {"program": params["program"] if os.path.exists(params["program"]) else None, "supervisor": _supervisor(host),
                     "boot": boot.place(host) if boot.found(host) else None}}


def _supervisor(host):
    """The pid of what keeps services running; systemd is there without us."""
    return 1 if host.systemd else scan.find(host)


# -- the program

def _plan_program(spec, plan):
    content = archive.build(spec.interpreter or interpreter())
    found = _found(spec.program)
    if found == (content, MODE) + OWNER:
        return
    plan.differ("program", None if found is None else "another version", spec.program)
    plan.add("install program %s" % spec.program, lambda: _install(spec.program, content))


def interpreter():
    """The Python of the program: the host's own where it is new enough, for a virtual environment may go; else the one at hand."""
    own = "/usr/bin/python3"
    version = os.path.realpath(own).rpartition("python3.")[2]
    if os.access(own, os.X_OK) and (not version.isdigit() or (3, int(version)) >= OLDEST):
        return own
    return sys.executable


def _found(path):
    """(content, mode, user, group) of the program, or None; what else is there by that name is not ours to replace or remove."""
    try:
        state = os.lstat(path)
    except OSError:
        return None
    content = b""
    if stat.S_ISREG(state.st_mode):
        with open(path, "rb") as stream:
            content = stream.read()
    if archive.MARK not in content:
        raise BulkheadError("Cannot manage program %s: something else is there. Remove it, or give another path." % path)
    return content, stat.S_IMODE(state.st_mode), state.st_uid, state.st_gid


def _install(path, content):
    directory, name = os.path.split(path)
    os.makedirs(directory, exist_ok=True)
    temporary = "%s/.%s.new" % (directory, name)
    try:
        os.unlink(temporary)  # of a run that was killed
    except FileNotFoundError:
        pass
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE)
    with os.fdopen(fd, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fchmod(fd, MODE)  # whatever the umask said
        os.fchown(fd, *OWNER)
        os.fsync(fd)
    os.rename(temporary, path)


# -- nothing of ours any more

def _plan_files(host, spec, plan):
    """Files of ours; logs are data."""
    if _found(spec.program) is not None:
        plan.differ("program", spec.program, None)
        plan.add("remove program %s" % spec.program, lambda: os.unlink(spec.program))
    logs = ["%s/%s" % (host.log, name) for name in _list(host.log)] if spec.remove_data else []
    if logs:
        plan.differ("logs", host.log, None)
        plan.add("remove the logs in %s" % host.log, lambda: [shutil.rmtree(path) for path in logs if os.path.isdir(path)])


def _remove_places(host, clear):
    host.finish()  # what was removed has left something for the end, which is now
    if not host.systemd:
        scan.shutdown(host)
    elif not clear:
        subtree.remove(host)
        if not any(each.is_dir() for each in _scan(host.cgroup + "/bulkhead.slice")):  # systemd's own making; it stays where a unit is in it
            systemctl.stop(host, "bulkhead.slice")
    elif not subtree.inhabitants(host):  # its unit is what a reboot leaves
        systemctl.stop(host, subtree.UNIT)
    nsfs.unpin(nsfs.pin_path(host, nsfs.TEMPLATE, "mnt"))
    entry.clear(host)
    fresh.clear(host)
    host.forget()
    if os.path.isdir(host.lib + "/layers"):
        _images().unmount(host)
    places.clear(host)
    host.forget()
    _remove_empty(host.state)
    if clear:
        return
    for top in _tops(host):
        _remove_empty(top)
    if host.mounts().top(host.netns) is not None and not _list(host.netns):
        # The shared mount that ip-netns(8) makes as we do; it makes it again when it needs it.
        sc.umount(host.netns)
        _remove_empty(host.netns)


def _tops(host):
    return host.etc, host.lib, host.log


def _scan(path):
    try:
        return list(os.scandir(path))
    except OSError:
        return []


def _list(path):
    try:
        return os.listdir(path)
    except OSError:
        return []


def _removable(host, top):
    """Are there directories of ours in it, or is it one, that hold nothing? What lies deeper is data; a mount point stays."""
    children = _list(top)
    if not children:
        return os.path.isdir(top) and host.mounts().top(top) is None
    return any(os.path.isdir(path) and not os.listdir(path) for path in ("%s/%s" % (top, name) for name in children))


def _remove_empty(top):
    """Remove the directories in it, and itself, that hold nothing."""
    for path in ["%s/%s" % (top, name) for name in _list(top)] + [top]:
        try:
            os.rmdir(path)
        except OSError:
            pass  # a file, not empty, a mount point or not there: then it stays, and so does the one that holds it
