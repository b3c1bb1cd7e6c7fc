# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The program `bulkhead` as an object on the host, for the module `program`: one executable file, compared byte by byte."""

from __future__ import annotations

import os
import stat
import sys

from .._model import values
from .._model.errors import BulkheadError
from . import archive

NOUN = "program"
OLDEST = (3, 9)


class ProgramSpec:
    """Where the program is to be, or not to be, and which Python runs it."""

    __slots__ = ("key", "path", "interpreter", "state")

    def __init__(self, path, interpreter, state):
        self.key = self.path = path
        self.interpreter, self.state = interpreter, state


def parse(options, path, problems):
    """Read the options of the module."""
    where = values.absolute(options.get("path"), "path", problems)
    interpreter = options.get("interpreter")
    if interpreter is not None:
        interpreter = values.absolute(interpreter, "interpreter", problems)
    return ProgramSpec(where, interpreter, values.choice(options.get("state", "present"), "state", problems, ("present", "absent")))


def plan(host, spec, plan):
    """One step at most: put the file in place by a rename, or take it away."""
    found = _found(spec.path)
    if spec.state == "absent":
        if found is not None:
            plan.differ("state", "present", "absent")
            plan.add("remove program %s" % spec.path, lambda: os.unlink(spec.path))
        return
    content = archive.build(spec.interpreter or interpreter())
    if found is not None and found[0] == content and found[1] == 0o755 and found[2] == (0, 0):
        return
    plan.differ("state", None if found is None else "another version", "present")
    plan.add("install program %s" % spec.path, lambda: _install(spec.path, content))


def result(host, params, outcome):
    """What the module returns beside the actions."""
    return {"program": {"path": params["path"], "state": params["state"]}}


def interpreter():
    """The Python of the program: the host's own where it is new enough, for a virtual environment may go; else the one at hand."""
    host = "/usr/bin/python3"
    version = os.path.realpath(host).rpartition("python3.")[2]
    if os.access(host, os.X_OK) and (not version.isdigit() or (3, int(version)) >= OLDEST):
        return host
    return sys.executable


def _found(path):
    """(content, mode, owner) of the file, or None; what is no regular file is not ours to replace."""
    try:
        state = os.lstat(path)
    except OSError:
        return None
    if not stat.S_ISREG(state.st_mode):
        raise BulkheadError("Cannot install program %s: it exists and is no regular file. Remove it, or give another path." % path)
    with open(path, "rb") as stream:
        return stream.read(), stat.S_IMODE(state.st_mode), (state.st_uid, state.st_gid)


def _install(path, content):
    directory, name = os.path.split(path)
    os.makedirs(directory, exist_ok=True)
    temporary = "%s/.%s.new" % (directory, name)
    try:
        os.unlink(temporary)  # of a run that was killed
    except FileNotFoundError:
        pass
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o755)
    with os.fdopen(fd, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fchmod(fd, 0o755)  # whatever the umask said
        os.fchown(fd, 0, 0)
        os.fsync(fd)
    os.rename(temporary, path)
