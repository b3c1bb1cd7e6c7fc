# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Being inside another mount namespace for a moment, in-process: 2 µs where a fork costs a millisecond."""

from __future__ import annotations

import os

from . import mountinfo, syscalls


class Inside:
    """A context manager. Within it nothing may be imported or looked up by path but what is meant to be inside.

    ``procfs`` is a descriptor of the host's /proc: also inside, the process sees itself there. ``root`` is one of the root inside.
    """

    __slots__ = ("pin", "procfs", "root", "_home", "_cwd", "_root")

    def __init__(self, pin, proc="/proc"):
        self.pin, self.procfs, self.root = pin, proc, -1

    def __enter__(self):
        opened = []
        try:
            for path, flags in ((self.pin, os.O_RDONLY), (self.procfs + "/self/ns/mnt", os.O_RDONLY),
                                (self.procfs, syscalls.O_PATH), (".", syscalls.O_PATH), ("/", syscalls.O_PATH)):
                opened.append(os.open(path, flags | os.O_CLOEXEC))
            pin, self._home, self.procfs, self._cwd, self._root = opened
            syscalls.setns(pin, syscalls.CLONE_NEWNS)
        except OSError:
            for fd in opened:
                os.close(fd)
            raise
        os.close(pin)
        self.root = os.open("/", syscalls.O_PATH | os.O_CLOEXEC)
        return self

    def __exit__(self, *exc):
        _go_home(self._home)
        # setns(2) leaves us at the root of the namespace, which is not where a process in a chroot came from.
        if not os.path.samestat(os.stat("/"), os.fstat(self._root)):
            os.fchdir(self._root)
            os.chroot(".")
        os.fchdir(self._cwd)
        for fd in (self._home, self.procfs, self._cwd, self._root, self.root):
            os.close(fd)

    def table(self):
        """The mount table inside."""
        fd = os.open("self/mountinfo", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.procfs)
        with open(fd, encoding="utf-8", errors="surrogateescape") as stream:
            return mountinfo.Table(stream.read())


def _go_home(fd):
    """setns(2) back, tried again: to go on, and be it to undo, in a foreign mount namespace would do harm there."""
    for attempt in range(8):
        try:
            syscalls.setns(fd, syscalls.CLONE_NEWNS)
            return
        except OSError as exc:
            if attempt == 7:
                raise RuntimeError("cannot leave a mount namespace: %s" % exc) from exc


def table(pin, proc="/proc"):
    """The mount table of a pinned mount namespace."""
    with Inside(pin, proc) as inside:
        return inside.table()
