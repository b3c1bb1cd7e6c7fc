# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run a function in a child, see each of its system calls and those of its descendants, and break one of them.

ptrace(2) instead of `strace -f -e inject`: strace counts `when=K` in each process and cannot name the process, so one K hits
several; here a point is (process, call, on what, K), where the process is named by its descent (`0.2.1`: the first child of the
second child of the function's process), and K counts the same call on the same thing, so that a loop that waits and asks again
renumbers nothing else. And the engine is imported once, so that a point takes milliseconds. x86_64 only.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import struct
import time
import traceback

import calls as syscalls

SETOPTIONS, GETEVENTMSG, SEIZE, INTERRUPT, LISTEN, GET_SYSCALL_INFO = 0x4200, 0x4201, 0x4206, 0x4207, 0x4208, 0x420E
POKEUSER, CONT, KILL, DETACH, SYSCALL = 6, 7, 8, 17, 24
SYSGOOD, FORK, VFORK, CLONE, EXEC, EXITKILL = 1, 2, 4, 8, 16, 0x100000
EVENT_FORK, EVENT_VFORK, EVENT_CLONE, EVENT_EXEC, EVENT_STOP = 1, 2, 3, 4, 128
ORIG_RAX, RAX = 15 * 8, 10 * 8
WALL = 0x40000000
NUMBER = re.compile("^#[0-9a-f]+$|[0-9]+")  # the former is what overlayfs names a file in its work directory
# These live on by design: they are let go as soon as they are what they are.
DAEMONS = ("keeper", "runsvdir", "runsv", "svlogd", "tini", "catatonit")

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.ptrace.restype = ctypes.c_long


def ptrace(request, pid, address=0, data=0):
    if libc.ptrace(request, pid, address, data) == -1:
        number = ctypes.get_errno()
        raise OSError(number, "ptrace %d: %s" % (request, os.strerror(number)))


class Task:
    """One traced process."""

    def __init__(self, pid, name):
        self.pid = pid
        self.name = name
        self.children = 0
        self.counts = {}
        self.foreign = False
        self.answer = None  # the error that the call which was just entered shall return


class Run:
    """What happened: the points passed, the answer of the function, and what was wrong with the run itself."""

    def __init__(self):
        self.points = []  # [(process, call, on what, K)]
        self.reached = False
        self.answer = None
        self.killed = False  # the function's own process was
        self.problems = []


class Tracer:
    """Runs ``function()``, whose result is JSON, in a traced child.

    ``point``: one of those; ``error``: the errno that this call returns instead of being made, or None: its process is
    killed when it enters the call. ``lasting``: later calls that need room on the disk return it, too.
    """

    def __init__(self, function, point=None, error=None, lasting=False, patience=30.0, grace=1.0):
        self.function, self.point, self.error, self.lasting = function, point, error, lasting
        self.patience, self.grace = patience, grace
        self.tasks = {}
        self.early = {}  # children that stopped before their parent told of them
        self.info = ctypes.create_string_buffer(88)
        self.run = Run()

    def start(self):
        answer = os.memfd_create("answer")
        ready, go = os.pipe()
        main = os.fork()
        if not main:
            try:
                os.close(go)
                os.read(ready, 1)
                self.report(answer)
            finally:
                os._exit(0)
        os.close(ready)
        self.tasks[main] = Task(main, "0")
        ptrace(SEIZE, main, 0, SYSGOOD | FORK | VFORK | CLONE | EXEC | EXITKILL)
        ptrace(INTERRUPT, main)
        os.waitpid(main, WALL)
        ptrace(SYSCALL, main)
        os.close(go)
        self.follow(main)
        text = os.pread(answer, 1 << 24, 0)
        os.close(answer)
        self.run.answer = json.loads(text) if text else None
        return self.run

    def report(self, answer):
        """In the child: run the function, leave its result in the file ANSWER."""
        me = os.getpid()
        try:
            result = self.function()
        except BaseException:
            result = {"traceback": traceback.format_exc()}
        if os.getpid() != me:  # a helper that the function forked came back out of it
            result = {"traceback": "a forked child returns into the code of its parent: %s" % result}
        os.pwrite(answer, json.dumps(result, default=str).encode().ljust(1 << 16), 0)

    def follow(self, main):
        end = time.monotonic() + self.patience
        ended = False
        pause = 0
        while self.tasks:
            pid, status = os.waitpid(-1, WALL | os.WNOHANG)
            if not pid:
                if time.monotonic() > end:
                    break
                pause += 1  # most stops follow each other at once
                os.sched_yield() if pause < 200 else time.sleep(0.0005)
                continue
            pause = 0
            if os.WIFEXITED(status) or os.WIFSIGNALED(status):
                self.tasks.pop(pid, None)
                if pid == main:
                    self.run.killed = os.WIFSIGNALED(status)
                    ended = True
                    end = min(end, time.monotonic() + self.grace)
            elif pid in self.tasks:
                self.stopped(self.tasks[pid], status)
            else:
                self.early[pid] = status
        if not ended:
            self.run.problems.append("does not end within %d s: %s" % (self.patience, "; ".join(map(self.where, self.tasks.values()))))
            for pid in list(self.tasks):
                os.kill(pid, signal.SIGKILL)
            while self.tasks:
                pid, status = os.waitpid(-1, WALL)
                if os.WIFEXITED(status) or os.WIFSIGNALED(status):
                    self.tasks.pop(pid, None)
        for pid in list(self.tasks):  # what outlives the function is for the check of what is left
            self.release(pid)

    def where(self, task):
        """What a process of the run is in."""
        try:
            with open("/proc/%d/syscall" % task.pid) as call, open("/proc/%d/wchan" % task.pid) as waits, open("/proc/%d/cmdline" % task.pid) as words:
                return "%s in call %s, %s: %s" % (task.name, call.read().strip(), waits.read(), words.read().replace("\0", " ")[:60])
        except OSError as exc:
            return "%s %s" % (task.name, exc.strerror)

    def release(self, pid):
        try:
            ptrace(INTERRUPT, pid)
            while True:
                status = os.waitpid(pid, WALL)[1]
                if not os.WIFSTOPPED(status):
                    break
                if status >> 16 == EVENT_STOP:
                    ptrace(DETACH, pid)
                    break
                number = os.WSTOPSIG(status)
                ptrace(CONT, pid, 0, number if status >> 16 == 0 and not number & 0x80 else 0)
        except OSError:
            pass
        self.tasks.pop(pid, None)

    def stopped(self, task, status):
        number, event = os.WSTOPSIG(status), status >> 16
        deliver = 0
        try:
            if number == signal.SIGTRAP | 0x80:
                if not self.call(task):
                    return
            elif event in (EVENT_FORK, EVENT_VFORK, EVENT_CLONE):
                message = ctypes.c_ulong()
                ptrace(GETEVENTMSG, task.pid, 0, ctypes.addressof(message))
                task.children += 1
                child = Task(message.value, "%s.%d" % (task.name, task.children))
                child.foreign = task.foreign
                self.tasks[child.pid] = child
                if child.pid in self.early:
                    self.stopped(child, self.early.pop(child.pid))
            elif event == EVENT_EXEC:
                task.foreign = True
                if self.program(task.pid) in DAEMONS:
                    self.tasks.pop(task.pid)
                    ptrace(DETACH, task.pid)
                    return
            elif event == EVENT_STOP:
                if number != signal.SIGTRAP:  # stopped by a signal, as it was told to be
                    ptrace(LISTEN, task.pid)
                    return
            elif event == 0:
                deliver = number
            seen = self.run.reached and not self.lasting and task.answer is None  # what comes after the point is of no interest
            ptrace(CONT if seen else SYSCALL, task.pid, 0, deliver)
        except ProcessLookupError:
            pass  # killed meanwhile: waitpid will say so

    def program(self, pid):
        """The name of the file that a process executes; of the keeper's, which is in memory (`/memfd:keeper`), too."""
        try:
            return os.readlink("/proc/%d/exe" % pid).replace(" (deleted)", "").replace(":", "/").rpartition("/")[2]
        except OSError:
            return ""

    def call(self, task):
        """At the entry or the exit of a call. False when the process is not to be resumed."""
        ptrace(GET_SYSCALL_INFO, task.pid, len(self.info), ctypes.addressof(self.info))
        if self.info.raw[0] == 2:  # exit
            if task.answer is not None:
                ptrace(POKEUSER, task.pid, RAX, -task.answer & (1 << 64) - 1)
                task.answer = None
            return True
        if self.info.raw[0] != 1:
            return True
        number, *args = struct.unpack_from("7Q", self.info.raw, 24)
        try:
            found = syscalls.classify(task.pid, number, args, task.foreign)
        except syscalls.Unclassified as exc:
            if str(exc) not in self.run.problems:
                self.run.problems.append(str(exc))
            return True
        if found is None:
            return True
        name, shown = found
        # pids and other numbers differ from run to run
        known = name, NUMBER.sub("#", shown).replace(" ", "_") or "-"
        task.counts[known] = task.counts.get(known, 0) + 1
        point = (task.name, *known, task.counts[known])
        self.run.points.append(point)
        if self.point is None:
            return True
        if self.run.reached:
            if not (self.lasting and syscalls.grows(task.pid, number, args)):
                return True
        elif point != tuple(self.point):
            return True
        self.run.reached = True
        if self.error is None:
            os.kill(task.pid, signal.SIGKILL)
            return False
        ptrace(POKEUSER, task.pid, ORIG_RAX, (1 << 64) - 1)
        task.answer = self.error
        return True


def trace(function, **keys):
    """Trace one run of ``function`` to its end."""
    return Tracer(function, **keys).start()
