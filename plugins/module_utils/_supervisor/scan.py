# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Our one runsvdir: found, started detached from whoever needed it first, and woken.

runsvdir looks at its directory when the time of last modification has changed, which it checks every 5 s, and then waits out the
second in which that was. But with a log of its own (its `log` argument) it also sleeps on a pipe: a byte written to that pipe wakes it
at once, and a modification time set into the past spares the waiting. A new service is so noticed in 5 ms, the next one within 1 s.
"""

from __future__ import annotations

import os
import signal
import time

from .._model.errors import BulkheadError

_LOG = "log: " + "." * 59  # at least seven characters; without it there is no pipe
WAIT = 10.0  # seconds


def _words(host, program="runsvdir"):
    return [program, "-P", host.state + "/service", _LOG]


def find(host):
    """The pid of the running one, or None. The file is a hint; what runs is asked of /proc."""
    try:
        with open(host.state + "/bin/runsvdir.pid", encoding="utf-8") as stream:
            hint = stream.read().strip()
    except OSError:
        hint = ""
    for pid in [hint] + [name for name in os.listdir(host.proc) if name.isdigit()] if hint else os.listdir(host.proc):
        if pid.isdigit() and _is_ours(host, pid):
            return int(pid)
    return None


def ensure(host, program):
    """Start it unless it runs: in a session of its own, with nothing open, no part of the task that needed it. Returns its pid."""
    pid = find(host)
    if pid is None:
        pid = _detached(_words(host, program))
        with open(host.state + "/bin/runsvdir.pid", "w", encoding="utf-8") as stream:
            stream.write("%d\n" % pid)
    return pid


def wake(host):
    """Make it look at its directory."""
    place = host.state + "/service"
    now = os.stat(place)
    os.utime(place, ns=(now.st_atime_ns, now.st_mtime_ns - (7 + os.getpid() % 50) * 10 ** 9))
    pid = find(host)
    if pid is not None:
        try:
            fd = os.open("%s/%d/fd/2" % (host.proc, pid), os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return  # it ends, or has no pipe: it looks within 5 s
        try:
            os.write(fd, b".")
        except OSError:
            pass
        finally:
            os.close(fd)


def await_watch(host, home, watched):
    """Wait until a runsv watches the directory ``home``."""
    deadline, again = time.monotonic() + WAIT, 0.0
    while not watched(home):
        now = time.monotonic()
        if now > deadline:
            raise BulkheadError("Cannot start %s: runsvdir does not notice %s. Is another supervisor at work there?" % (
                os.path.basename(home).replace(":", "/"), home))
        if now > again:
            wake(host)
            again = now + 0.25
        time.sleep(0.005)


def shutdown(host):
    """End it. Services must be gone: what runs stays supervised by its own runsv, but nothing new is noticed."""
    pid = find(host)
    if pid is not None:
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + WAIT
        while find(host) is not None and time.monotonic() < deadline:
            time.sleep(0.01)
    try:
        os.unlink(host.state + "/bin/runsvdir.pid")
    except OSError:
        pass


def _is_ours(host, pid):
    """By its words, and by what they name where it lives: a process in a sandbox, or in a host within this host, can have the same."""
    place = host.state + "/service"
    try:
        with open("%s/%s/cmdline" % (host.proc, pid), "rb") as stream:
            words = stream.read().split(b"\0")
        return (len(words) > 2 and words[0].split(b"/")[-1] == b"runsvdir" and words[1] == b"-P" and words[2] == os.fsencode(place)
                and os.path.samestat(os.stat("%s/%s/root%s" % (host.proc, pid, place)), os.stat(place)))
    except OSError:
        return False


def _detached(words):
    """Run a program as a child of nobody: forked twice, its own session, no descriptor but /dev/null, default signals. Its pid."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setsid()
            if os.fork():
                os._exit(0)
            os.chdir("/")
            os.umask(0o022)
            for number in range(1, signal.NSIG):
                if number not in (signal.SIGKILL, signal.SIGSTOP, 32, 33):
                    signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, [])
            null = os.open("/dev/null", os.O_RDWR)
            for number in (0, 1, 2):
                os.dup2(null, number)
            os.write(write, b"%d\n" % os.getpid())
            os.dup2(write, 3, inheritable=False)  # closes at exec
            os.closerange(4, 1 << 16)
            os.execve(words[0], words, {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"})
        except BaseException:
            pass
        finally:
            os._exit(127)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read, "rb") as stream:
        answer = stream.read()
    if not answer.strip().isdigit():
        raise BulkheadError("Cannot start %s: it could not be forked." % words[0])
    return int(answer)
