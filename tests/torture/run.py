# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Kill every operation at every mutating system call, and let every such call fail in every way; then see it converge.

    python tests/torture/run.py                    every point (`make torture`)
    python tests/torture/run.py --sample SEED      some of them, the same for the same seed (`make test`)
    python tests/torture/run.py --only 'cgroup-create 0 rename /run/bulkhead/made/cgroup/bulkhead.json 1 EPERM'   one
    python tests/torture/run.py --ways KILL,FULL --until 13:10 --operation 'root-*'   so of these, as many as there is time for
    python tests/torture/run.py --list             the operations
    python3 tests/torture/run.py --here            those of a host where systemd is init, on this host itself (tests/hosts/test_torture.py)

A point is (process, call, on what, K): the K-th time that this process makes that call on it. They are taken from the trace of
the unbroken run; a call without its point, or a point to which the run does not come, fails. After each: the next run converges
to what was declared, the run after it is unchanged, removal is clean, its second run unchanged, and nothing is left on the host.
KILL kills the process when it enters the call; so does ABANDON, after which nothing is run again but the removal. FULL fails a call
for which the disk has no room left, and every later one on the disk, of what takes things back, too, until the run has ended.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import fnmatch
import json
import os
import queue
import random
import signal
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), "system")]
import calls  # noqa: E402

ALONE = os.path.join(os.path.dirname(HERE), "alone")
# Made only when the supervisor has to be waited for, or once for each mount namespace that something lives in at that moment.
SOMETIMES = (("utimensat", "/run/bulkhead/service"), ("write", "pipe"), ("setns", "/run/bulkhead/mntns/.template"), ("setns", "mnt:[#]"))
UNREACHED = "the run did not come to this call"
LOOPS = ("/supervise/control", "/run/bulkhead/service", "pipe")  # asked again and again: one time is as another
KILLS = ("KILL", "ABANDON")
ERRORS = ("EPERM", "ENOMEM", "ENOSPC", "EBUSY", "EINTR", "EAGAIN", "ENOSYS")
WAYS = (*KILLS, "FULL", *ERRORS)


class Worker:
    """A host that answers requests: a private one, replaced when something was left on it, or this one."""

    def __init__(self, alone, cpu):
        # On one processor: the kernel hands out the ids of mount namespaces in batches to each, and so the same calls are made.
        self.alone = ["taskset", "--cpu-list", str(cpu), *alone]
        self.process = None

    def ask(self, request):
        if self.process is None:
            self.process = subprocess.Popen([*self.alone, sys.executable, "-B", os.path.join(HERE, "worker.py")], text=True,
                                            stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        answer = json.loads(line) if line else {"points": [], "problems": ["the test's own process died"], "dirty": True}
        if answer["dirty"]:
            self.close()
        return answer

    def close(self):
        """Returns what the private host itself found wrong at its end."""
        process, self.process = self.process, None
        if process is None:
            return None
        process.stdin.close()
        process.stdout.close()
        return process.wait()


class Tally:
    """Counts and shows the outcome."""

    def __init__(self):
        self.lock = threading.Lock()
        self.counts = collections.OrderedDict()
        self.failed = 0
        self.passed = 0
        self.unreached = 0
        self.late = collections.Counter()  # {operation: points that there was no time for}

    def note(self, operation, kind, label, problems):
        with self.lock:
            counts = self.counts.setdefault(operation, collections.Counter())
            counts[kind] += 1
            counts["failed" if problems else "passed"] += 1
            if problems:
                self.failed += 1
                print("FAILED %s" % label)
                for problem in problems[:6] + (["and %d lines more" % (len(problems) - 6)] if len(problems) > 6 else []):
                    print("    " + problem.rstrip().replace("\n", "\n    "))
                sys.stdout.flush()
            else:
                self.passed += 1

    def show(self, seconds):
        print("%-28s %6s %6s %6s %6s %6s %6s" % ("operation", "calls", "kills", "errors", "passed", "failed", "left"))
        for name, counts in self.counts.items():
            print("%-28s %6d %6d %6d %6d %6d %6d" % (name, *(counts[word] for word in ("calls", "kill", "error", "passed", "failed")), self.late[name]))
        total = sum((counts for counts in self.counts.values()), collections.Counter())
        print("%d kill points, %d errors, %d traces in %d s" % (total["kill"], total["error"], total["trace"], seconds))
        if self.unreached:
            print("%d of them at a call of a loop that did not have to wait that time" % self.unreached)
        print("%d passed, %d failed" % (self.passed, self.failed))


def at_once(jobs, alone, items, act):
    """act(worker, item) for each item, on so many private hosts."""
    waiting = queue.SimpleQueue()
    for item in items:
        waiting.put(item)

    processors = sorted(os.sched_getaffinity(0))

    def serve(number):
        worker = Worker(alone, processors[number % len(processors)])
        try:
            while True:
                act(worker, waiting.get_nowait())
        except queue.Empty:
            pass
        finally:
            worker.close()

    threads = [threading.Thread(target=serve, args=[number]) for number in range(min(jobs, max(len(items), 1)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def traces(jobs, alone, names, tally):
    """{operation: its points}: each is traced twice, and must pass the same calls."""
    found = {}

    def act(worker, name):
        first = worker.ask({"trace": name})
        problems = first["problems"]
        if not problems:
            second = worker.ask({"trace": name})
            problems = list(second["problems"])
            calls = [set(map(tuple, run["points"])) for run in (first, second)]
            kinds = [{point[:3] for point in some} for some in calls]
            different = sorted(kind for kind in kinds[0] ^ kinds[1] if kind[1:] not in SOMETIMES)
            if different:
                problems.append("two runs make different calls: %s" % different)
            # of a loop that waits, what both came to
            found[name] = [point for point in first["points"] if tuple(point) in calls[1]
                           and not (point[3] > 3 and point[2].endswith(LOOPS))]
        tally.note(name, "trace", name, problems)
        tally.counts[name]["calls"] = len(found.get(name, ()))

    at_once(jobs, alone, names, act)
    return found


def choose(points, arguments):
    """[(operation, point, error)]: everything, or the sample of a seed, spread over the operations."""
    ways = arguments.ways.split(",")
    kills, errors = ([(name, point, way) for name in sorted(points) for point in points[name] for way in some
                      if way in ways and (way != "FULL" or point[1] in calls.GROWING)] for some in (KILLS, ("FULL", *ERRORS)))
    kills, errors = ([case for case in cases if arguments.process in (None, case[1][0])] for cases in (kills, errors))
    if arguments.sample is None:
        return kills + errors
    generator = random.Random(arguments.sample)
    chosen = []
    for cases, number in ((kills, arguments.kills), (errors, arguments.errors)):
        generator.shuffle(cases)
        by_name = collections.defaultdict(list)
        for case in cases:
            by_name[case[0]].append(case)
        turns = sorted((turn, name, case) for name, some in by_name.items() for turn, case in enumerate(some[:number]))
        chosen += [case for turn, name, case in sorted(turns, key=lambda entry: entry[:2])][:number]
    return chosen


def chunks(cases, spread):
    """Lists of cases of one operation each, as a worker keeps the state of that; SPREAD: so that any number of the first is an even sample."""
    groups = collections.defaultdict(list)
    for case in cases:
        groups[case[0]].append(case)
    if not spread:
        return [some[at:at + 40] for some in groups.values() for at in range(0, len(some), 40)]
    found = []
    for some in groups.values():
        parts = -(-len(some) // 20)
        some = sorted(some, key=lambda case: WAYS.index(case[2]))
        order = sorted(range(parts), key=lambda number: "{:012b}".format(number)[::-1])
        found += [((turn + 0.5) / parts, some[first::parts]) for turn, first in enumerate(order)]
    return [chunk for dummy, chunk in sorted(found, key=lambda entry: entry[0])]


def label(name, point, error):
    return "%s %s %s" % (name, " ".join(map(str, point)), error)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", metavar="SEED")
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--errors", type=int, default=60)
    parser.add_argument("--operation", action="append", metavar="GLOB", help="only these")
    parser.add_argument("--only", metavar="LABEL")
    parser.add_argument("--ways", default=",".join(WAYS), help="only these of %(default)s")
    parser.add_argument("--process", help="only calls of this one; 0 is the engine's own")
    parser.add_argument("--until", metavar="HH:MM", help="run no further point after that; what was run until then is an even sample")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--alone", default="", help="options for the private hosts, such as '--root shared'")
    parser.add_argument("--here", action="store_true", help="no private hosts: on this one, where systemd is init, what is for such a host")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--points", action="store_true", help="show the calls of each operation, break nothing")
    arguments = parser.parse_args()
    import operations

    names = [name for name, operation in operations.TABLE.items() if operation.systemd == arguments.here
             and (not arguments.operation or any(fnmatch.fnmatch(name, glob) for glob in arguments.operation))]
    if arguments.list:
        print("\n".join(names))
        return 0
    start = time.monotonic()
    alone = [] if arguments.here else [ALONE, *arguments.alone.split()]
    jobs = 1 if arguments.here else arguments.jobs
    tally = Tally()
    if arguments.only:
        name, process, call, what, count, error = arguments.only.split()
        cases = [(name, [process, call, what, int(count)], error)]
    else:
        points = traces(jobs, alone, names, tally)
        if arguments.points:
            for name in names:
                for point in points.get(name, ()):
                    print(name, *point)
            return 1 if tally.failed else 0
        cases = choose(points, arguments)

    end = datetime.datetime.combine(datetime.date.today(), datetime.time.fromisoformat(arguments.until or "23:59"))
    told = threading.Event()
    signal.signal(signal.SIGTERM, lambda *dummy: told.set())  # then what was run until then is told

    def act(worker, case):
        name, point, error = case
        if told.is_set() or arguments.until and datetime.datetime.now() > end:
            tally.late[name] += 1
            return
        answer = worker.ask({"point": [name, *point], "error": error})
        problems = answer["problems"]
        if tuple(point[1:3]) in SOMETIMES and problems == [UNREACHED]:
            tally.unreached += 1  # the run did not have to wait this time, and was looked at as an unbroken one
            problems = []
        tally.note(name, "kill" if error in KILLS else "error", label(name, point, error), problems)

    at_once(jobs, alone, chunks(cases, arguments.until), lambda worker, chunk: [act(worker, case) for case in chunk])
    tally.show(time.monotonic() - start)
    return 1 if tally.failed else 0


if __name__ == "__main__":
    sys.exit(main())
