# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How the program runs other programs: what Ansible's run_command is to a module."""

from __future__ import annotations

import os

from .._model.errors import BulkheadError


def run(argv, data=None, env=None):
    """Run a command to its end: (exit status, output, errors). What it reads and writes are files, so that no pipe can fill up."""
    streams = [os.memfd_create(name) for name in ("input", "output", "errors")]
    try:
        os.write(streams[0], data if isinstance(data, bytes) else (data or "").encode())
        os.lseek(streams[0], 0, os.SEEK_SET)
        pid = _start(argv, dict(os.environ, **(env or {})), streams)
        status = os.waitpid(pid, 0)[1]
        output, errors = (_content(fd) for fd in streams[1:])
    finally:
        for fd in streams:
            os.close(fd)
    return exit_status(status), output, errors


def exit_status(status):
    """The status of waitpid(2) as a shell counts it: 128 and the number of the signal that ended it."""
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def _start(argv, env, streams):
    """The child tells on a pipe that closes at exec why there was none."""
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            for number, fd in enumerate(streams):
                os.dup2(fd, number)
            os.execvpe(argv[0], argv, env)
        except OSError as exc:
            os.write(tell, exc.strerror.encode())
        finally:
            os._exit(127)
    os.close(tell)
    with os.fdopen(told, "rb") as stream:
        reason = stream.read().decode()
    if reason:
        os.waitpid(pid, 0)
        raise BulkheadError("Cannot run %s: %s." % (argv[0], reason))
    return pid


def _content(fd):
    size = os.fstat(fd).st_size
    return os.pread(fd, size, 0).decode("utf-8", "replace")
