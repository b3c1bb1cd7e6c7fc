# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A terminal of its own for a command inside, passed on to ours: what runs inside never holds the terminal of the host.

A process that shares a terminal can type into it (TIOCSTI, CVE-2017-5226) or change it under its user; one that has its own
can do so to nobody but itself.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import termios
import tty

SIZE = 65536


def relay(execute):
    """Call ``execute()``, which does not return, in a child with a new terminal, and pass on until it ends: its wait status.

    The entry makes it the controlling terminal, once it leads a session inside the sandbox's pid namespace.
    """
    master, slave = os.openpty()
    _copy_size(master)
    child = os.fork()
    if child == 0:
        try:
            os.close(master)
            for fd in (0, 1, 2):
                os.dup2(slave, fd)
            os.close(slave)
            execute()
        finally:
            os._exit(125)
    os.close(slave)
    signal.signal(signal.SIGWINCH, lambda signum, frame: _copy_size(master))
    saved = termios.tcgetattr(0)
    tty.setraw(0, termios.TCSADRAIN)  # what has been typed ahead is for inside
    try:
        _pass_on(master)
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, saved)
        os.close(master)
    return os.waitpid(child, 0)[1]


def _pass_on(master):
    """Both ways, until nobody holds the other end any more (EIO)."""
    watched = [master, 0]
    while True:
        for fd in select.select(watched, [], [])[0]:
            try:
                data = os.read(fd, SIZE)
            except OSError as exc:
                if exc.errno != errno.EIO:
                    raise
                data = b""
            if not data and fd == master:
                return
            if not data:  # our own input has ended: say so inside, and listen on
                watched.remove(0)
                data = b"\x04"
            _write(1 if fd == master else master, data)


def _write(fd, data):
    while data:
        data = data[os.write(fd, data):]


def _copy_size(master):
    fcntl.ioctl(master, termios.TIOCSWINSZ, fcntl.ioctl(0, termios.TIOCGWINSZ, b"\0" * 8))
