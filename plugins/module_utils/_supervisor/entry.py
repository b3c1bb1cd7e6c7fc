# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The entry as it lies on the host: the interpreter, read-only, and the program `_program/enter.py`, compiled.

    bin/python3     a private read-only bind of the interpreter: `#!/proc/self/exe` as a command inside gets this file, and cannot
                    write to it (CVE-2019-5736)
    bin/enter.py    the program as text, for who wants to read what runs
    bin/enter       the same compiled by that interpreter, which saves 5 ms of 14 at each start
"""

from __future__ import annotations

import os
import sys

from .._kernel import syscalls as sc
from .._model.errors import BulkheadError

SYSTEM = "/usr/bin/python3"  # before the module's own, which may be a virtual environment that goes away
# Runs in the bound interpreter: proves that it works from there, and that the entry's own imports do.
_COMPILE = """
import _ctypes, _json, _signal, posix, sys, marshal, _frozen_importlib_external as external
with open(sys.argv[1], "rb") as source:
    code = compile(source.read(), "enter.py", "exec", dont_inherit=True, optimize=2)
with open(sys.argv[2], "wb") as target:
    target.write(external.MAGIC_NUMBER + bytes(12) + marshal.dumps(code))
"""


def command(host, spec):
    """The words that enter by a spec file."""
    return ["%s/bin/python3" % host.state, "-IS", "%s/bin/enter" % host.state, spec]


def program():
    """The text of the entry, wherever this collection was loaded from (a directory, or a zip file)."""
    from .._program import enter  # as data: it is never run here
    return enter.__loader__.get_source(enter.__name__)


def ensure(host):
    """Make what is missing or stale of it. Idempotent; bears the half-done result of a killed run. Needs places.ensure()."""
    home = host.state + "/bin"
    text, source, words = program(), _read(home + "/interpreter"), ""
    if _is_bound(host, home, source) and _read(home + "/enter.py") == text and os.path.exists(home + "/enter"):
        return
    temporary = home + "/.enter.new"
    for source in dict.fromkeys(os.path.realpath(path) for path in (SYSTEM, sys.executable) if path and os.access(path, os.X_OK)):
        if not _is_bound(host, home, source):
            _bind(host, home, source)
        _write(temporary + ".py", text)
        status, dummy, errors = host.run([home + "/python3", "-IS", "-c", _COMPILE, temporary + ".py", temporary])
        if not status:
            os.rename(temporary, home + "/enter")  # the text last: while it is missing or old, the next run compiles again
            os.rename(temporary + ".py", home + "/enter.py")
            return
        words = (errors.strip().splitlines() or ["no reason given"])[-1]
    raise BulkheadError("Cannot prepare the entry: no Python of this host works as %s/python3: %s. Install the package python3." % (home, words))


def clear(host):
    """Undo ensure(), and what services that are gone left beside it."""
    home = host.state + "/bin"
    _unbind(host, home + "/python3")
    for name in os.listdir(home) if os.path.isdir(home) else ():
        if name in ("python3", "enter", "enter.py", "interpreter") or name.startswith((".enter.", ".interpreter.", "seccomp-")):
            os.unlink("%s/%s" % (home, name))


def _is_bound(host, home, source):
    """Is this interpreter, as its file is now, bound read-only?"""
    mount = host.mounts().top(home + "/python3")
    return mount is not None and "ro" in mount.options and _same(source or "", home + "/python3")


def _bind(host, home, source):
    target, temporary = home + "/python3", home + "/.interpreter.new"
    _unbind(host, target)
    if os.path.exists(home + "/enter"):  # compiled by another interpreter, perhaps
        os.unlink(home + "/enter")
    _write(temporary, source)
    os.rename(temporary, home + "/interpreter")
    os.close(os.open(target, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o755))
    sc.mount(source, target, None, sc.MS_BIND)
    sc.mount(None, target, None, sc.MS_PRIVATE)
    sc.mount(None, target, None, sc.MS_REMOUNT | sc.MS_BIND | sc.MS_RDONLY | sc.MS_NOSUID | sc.MS_NODEV)
    host.drop("mounts")


def _unbind(host, target):
    while host.mounts().top(target) is not None:
        sc.umount(target, sc.MNT_DETACH | sc.UMOUNT_NOFOLLOW)
        host.drop("mounts")


def _same(path, other):
    try:
        one, two = os.stat(path), os.stat(other)
    except OSError:
        return False
    return (one.st_dev, one.st_ino) == (two.st_dev, two.st_ino)


def _read(path):
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.read()
    except OSError:
        return None


def _write(path, text):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    with os.fdopen(fd, "w", encoding="utf-8") as stream:
        stream.write(text)
