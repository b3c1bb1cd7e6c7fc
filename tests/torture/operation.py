# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an operation that is broken at each of its system calls is, and looks at the kernel for its checks.

`declared` looks with its own eyes (files of cgroupfs, mountinfo, nsfs), not through the engine.
"""

from __future__ import annotations

import collections
import ctypes
import errno
import glob
import os
import subprocess
import time

TABLE = collections.OrderedDict()


class Operation:
    """act: (noun, options), after `before` was done and the host damaged; `remove` takes everything away again.

    ``fails``: a part of the error that the act ends with, which leaves things as declared().
    ``once``: an act that is done each time it is asked for (kill, restart, reset); ``steady`` is then what is declared after it.
    """

    once = False
    fails = None
    systemd = False  # is it for a real host, where systemd is init, and not for a private one?
    patience = 30.0  # seconds for a traced run
    before = ()
    remove = ()

    def __init__(self, name, act, **rest):
        self.name, self.act, self.steady = name, act, act
        self.__dict__.update(rest)
        TABLE[name] = self

    def prepare(self):
        """Before anything else: files, processes."""

    def damage(self):
        """After the set-up, before the broken run: what somebody else did to the host."""

    def declared(self):
        """What the kernel shows differently from what was declared, as lines."""
        return []

    def shown(self):
        """More that is to be as the unbroken run leaves it: a set of lines."""
        return set()

    def cleanup(self):
        """The reverse of prepare()."""


def text(path):
    try:
        with open(path) as stream:
            return stream.read().strip()
    except OSError as exc:
        return exc.strerror


def expect(wanted):
    """Lines for the files whose content is not the wanted."""
    return ["%s is %r, not %r" % (path, text(path), value) for path, value in wanted.items() if text(path) != value]


def gone(*patterns):
    return ["%s is there" % path for pattern in patterns for path in glob.glob(pattern)]


libc = ctypes.CDLL(None, use_errno=True)


def unmount(path, flags=2):
    """By hand, and without the files in /run that umount(8) keeps; with MNT_DETACH, or ``flags`` 0, which gives ends a moment."""
    end = time.monotonic() + 5
    while libc.umount2(os.fsencode(path), flags):
        if ctypes.get_errno() != errno.EBUSY or time.monotonic() > end:
            raise OSError(ctypes.get_errno(), "umount %s" % path)
        time.sleep(0.02)


class Sleeper:
    """A process of somebody else's, in a cgroup."""

    def __init__(self, *directories):
        self.process = subprocess.Popen(["sleep", "1000"])
        for directory in directories:
            with open(directory + "/cgroup.procs", "w") as stream:
                stream.write(str(self.process.pid))

    def end(self):
        for state in glob.glob("/sys/fs/cgroup/freezer/**/freezer.state", recursive=True):
            with open(state, "w") as stream:
                stream.write("THAWED")
        self.process.kill()
        self.process.wait()


def mounted(path):
    """The options of the file systems that are stacked at a path, the lowest first."""
    lines = [line.split(" - ") for line in text("/proc/self/mountinfo").splitlines()]
    return [right for left, right in lines if left.split()[4] == path]
