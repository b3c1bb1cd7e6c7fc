# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What runs inside, under the limits: `python3 -ISc THIS-TEXT NAME ARGUMENTS…`. Needs nothing but Python and the kernel.

Each says what it found by lines of JSON on its standard output; the first is there when what was asked for is held.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import signal
import sys
import time

MIB = 1 << 20
MAP_HUGETLB = 0x40000


def say(**found):
    os.write(1, json.dumps(found).encode() + b"\n")


def hold(*dummy):
    """Nothing, for ever."""
    say(ready=True, pid=os.getpid())
    while True:
        signal.pause()


def hog(size, then="hold"):
    """Touches so many MiB one after the other, and keeps them."""
    held = []
    for dummy in range(int(size)):
        page = mmap.mmap(-1, MIB)
        for offset in range(0, MIB, mmap.PAGESIZE):
            page[offset] = 1
        held.append(page)
    say(ready=True, held=len(held))
    while then == "hold":
        signal.pause()


def grow():
    """As hog, as many more MiB as each line of its standard input says."""
    held = []
    say(ready=True)
    for line in sys.stdin:
        for dummy in range(int(line)):
            held.append(mmap.mmap(-1, MIB))
            for offset in range(0, MIB, mmap.PAGESIZE):
                held[-1][offset] = 1
        say(held=len(held))


def family(count, size):
    """So many children that hold still, and then one hog."""
    for dummy in range(int(count)):
        if not os.fork():
            while True:
                signal.pause()
    say(ready=True)
    hog(size)


def spin(*dummy):
    """All the cpu time that there is."""
    say(ready=True)
    while True:
        pass


def fork(count):
    """Up to so many children; says how many came about and why the next did not."""
    children, reason = [], None
    for dummy in range(int(count)):
        try:
            pid = os.fork()
        except OSError as exc:
            reason = errno.errorcode[exc.errno]
            break
        if not pid:
            while True:
                signal.pause()
        children.append(pid)
    for pid in children:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    say(children=len(children), reason=reason)


def as_user(user, name, *arguments):
    """Another of these, as a user of the host."""
    os.setgroups([])
    os.setgid(int(user))
    os.setuid(int(user))
    globals()[name](*arguments)


def wait_then_fork(count):
    """As fork, after a line on its standard input."""
    say(ready=True)
    sys.stdin.readline()
    fork(count)


def affinity(cpu):
    """The cpus that it may use, before and after it tried to leave them."""
    before = sorted(os.sched_getaffinity(0))
    try:
        os.sched_setaffinity(0, {int(cpu)})
        reason = None
    except OSError as exc:
        reason = errno.errorcode[exc.errno]
    with open("/proc/self/stat", encoding="ascii") as stream:
        on = int(stream.read().rpartition(") ")[2].split()[36])
    say(before=before, reason=reason, after=sorted(os.sched_getaffinity(0)), on=on)


def disk(verb, path, size, block=str(MIB >> 2)):
    """Reads or writes so many bytes past the cache, waiting for each block; says the time they took."""
    size, block = int(size), int(block)
    descriptor = os.open(path, os.O_DIRECT | (os.O_RDONLY if verb == "read" else os.O_RDWR))
    buffer = mmap.mmap(-1, block)
    act = os.preadv if verb == "read" else os.pwritev
    say(ready=True)
    start, moved = time.monotonic(), 0
    while moved < size:
        count = act(descriptor, [buffer], moved % os.fstat(descriptor).st_size)
        assert count == block, count
        moved += count
    say(moved=moved, seconds=time.monotonic() - start)


def churn(verb, path, block=str(MIB >> 2)):
    """The same for ever."""
    while True:
        disk(verb, path, os.stat(path).st_size, block)


def huge(pages, size=str(2 * MIB)):
    """Touches huge pages one after the other."""
    size = int(size)
    try:
        memory = mmap.mmap(-1, int(pages) * size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_HUGETLB)
    except OSError as exc:
        say(touched=0, reason=errno.errorcode[exc.errno])
        return
    for page in range(int(pages)):
        memory[page * size] = 1
        say(touched=page + 1)


def count(path):
    """Counts in a file, one after the other."""
    descriptor, number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), 0
    say(ready=True)
    while True:
        number += 1
        os.pwrite(descriptor, b"%d" % number, 0)
        time.sleep(0.01)


def look(*paths):
    """Who it is, what the clocks show, and the text of some files."""
    texts = {}
    for path in paths:
        with open(path, encoding="utf-8") as stream:
            texts[path] = stream.read()
    say(pid=os.getpid(), uid=os.getuid(), gid=os.getgid(), hostname=os.uname().nodename, texts=texts,
        clocks={name: time.clock_gettime(getattr(time, "CLOCK_" + name)) for name in ("MONOTONIC", "BOOTTIME", "REALTIME")})


def make(path):
    """A file; says whose it is, seen from inside."""
    with open(path, "w", encoding="ascii") as stream:
        stream.write("made inside\n")
    say(uid=os.stat(path).st_uid, gid=os.stat(path).st_gid)


def owner(path):
    """Whose a file is, seen from inside."""
    found = os.stat(path)
    say(uid=found.st_uid, gid=found.st_gid)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
