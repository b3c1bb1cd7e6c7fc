# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Inside one private host: break operations at the points that run.py names, and look at what comes of it.

Requests and answers are JSON lines on stdin and stdout.
    {"trace": OPERATION}                                 -> {"points": [[process, call, on what, K], …], "problems": […]}
    {"point": [OPERATION, process, call, on what, K], "error": E} -> {"problems": […], "dirty": is this host of no more use?}
E is an errno's name; FULL: ENOSPC, and again for all that needs room on the disk later in this run; KILL; or ABANDON: killed, and then
what was declared is given up: removed without another run.
"""

from __future__ import annotations

import errno
import json
import os
import pkgutil
import re
import sys

HERE = os.path.dirname(os.path.realpath(__file__))
sys.dont_write_bytecode = True
sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), "system")]
os.environ["PATH"] = "/usr/sbin:/usr/bin:/sbin:/bin"

import drive  # noqa: E402
import leftovers  # noqa: E402
import operations  # noqa: E402
import tracer  # noqa: E402


UNCOLLECTED = re.compile(r"more: process \d+ started at \d+ Z runsv$")  # runsvdir asks every five seconds for those that have ended


def import_all():
    """What the engine imports when it needs it would else be read from disk in each traced run."""
    import module_utils

    for module in pkgutil.walk_packages(module_utils.__path__, "module_utils."):
        if module.name.rsplit(".", 1)[-1] not in ("_adapter", "main", "enter", "__main__"):
            try:
                __import__(module.name)
            except ImportError:
                pass  # an operation that needs it says so


class Bench:
    """One operation on this host: set up, break, mend, remove, compare."""

    def __init__(self, name):
        self.operation = operations.TABLE[name]
        self.problems = []
        self.shown = None
        self.cycle(None, None)  # makes the places that stay
        if self.problems:
            raise RuntimeError("the unbroken cycle: %s" % "; ".join(self.problems))
        self.baseline = leftovers.Snapshot()

    def apply(self, task):
        return drive.isolated(lambda: drive.converge(*task), 2 * self.operation.patience)

    def must(self, what, task, changed=None):
        answer = self.apply(task)
        if "error" in answer:
            self.problems.append("%s fails: %s" % (what, answer["error"]))
        elif changed is not None and answer["changed"] != changed:
            self.problems.append("%s says changed=%s: %s" % (what, answer["changed"], answer["actions"]))
        return answer

    def cycle(self, point, error, abandon=False, lasting=False):
        """Everything that is done at one point. Returns the Run."""
        operation, self.problems = self.operation, []
        operation.prepare()
        for task in operation.before:
            self.must("the set-up", task)
        operation.damage()
        noun, options = operation.act
        run = tracer.trace(lambda: drive.converge(noun, options), point=point, error=error, lasting=lasting, patience=operation.patience)
        drive.new_host()  # joins the mount namespace that the engine works in, where that is aside: what is there is to be seen
        self.problems += run.problems
        claimed = self.judge(run, point, error)
        if not abandon:
            self.mend(claimed)
        for task in operation.remove:
            self.must("the removal", task)
        for task in operation.remove:
            self.must("the second removal", task, changed=False)
        operation.cleanup()
        return run

    def mend(self, claimed):
        """The next run brings about what was declared."""
        operation = self.operation
        if operation.fails:
            answer = self.apply(operation.act)
            if operation.fails not in answer.get("error", ""):
                self.problems.append("the next run does not end with %r: %s" % (operation.fails, answer))
            self.problems += ["the host is not as declared: %s" % line for line in operation.declared()]
            return
        if operation.once:  # an act is repeated only when it did not say that it was done
            if not claimed:
                self.must("the next run", operation.act)
        else:
            self.must("the next run", operation.act, changed=False if claimed else None)
        self.problems += ["the host is not as declared: %s" % line for line in operation.declared()]
        self.must("the run after it", operation.steady, changed=False)
        shown = operation.shown()
        self.shown = shown if self.shown is None else self.shown
        self.problems += ["%s an unbroken run: %s" % (words, line) for words, lines in (
            ("not as after", shown - self.shown), ("missing of", self.shown - shown)) for line in sorted(lines)]

    def judge(self, run, point, error):
        """Is the answer of the broken run one that a user may be given? Did it claim to be done?"""
        answer = run.answer
        if point is not None and not run.reached:
            self.problems.append("the run did not come to this call")
        if answer is None:
            if not run.killed or error is not None:
                self.problems.append("the run gave no answer")
            return False
        if "traceback" in answer:
            self.problems.append("traceback: " + answer["traceback"])
            return False
        if "error" in answer:
            text = answer["error"]
            if "\n" in text or not text.startswith("Cannot "):
                self.problems.append("not a one-line error: %r" % text)
            if point is None and not (self.operation.fails and self.operation.fails in text):
                self.problems.append("the unbroken run fails: " + text)
            return False
        if self.operation.fails:
            self.problems.append("it does not fail: %s" % answer)
        return True

    def point(self, point, error, abandon, lasting):
        for attempt in range(4):  # a call of a loop that waits may be made one time less
            if self.cycle(point, error, abandon, lasting).reached:
                break
        left = self.baseline.settled(passing=UNCOLLECTED)
        self.problems += ["left behind: " + line for line in left]
        return {"problems": self.problems, "dirty": bool(self.problems)}

    def trace(self):
        run = self.cycle(None, None)
        left = self.baseline.settled(passing=UNCOLLECTED)
        self.problems += ["left behind: " + line for line in left]
        return {"points": run.points, "problems": self.problems, "dirty": bool(self.problems)}


def main():
    import_all()
    benches = {}
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        name = request.get("trace") or request["point"][0]
        try:
            if name not in benches:
                benches.clear()  # the baseline of one operation is that of its own start
                benches[name] = Bench(name)
            if "trace" in request:
                answer = benches[name].trace()
            else:
                word = request["error"]
                error = None if word in ("KILL", "ABANDON") else getattr(errno, "ENOSPC" if word == "FULL" else word)
                answer = benches[name].point(request["point"][1:], error, word == "ABANDON", word == "FULL")
        except Exception as exc:
            import traceback

            answer = {"points": [], "problems": ["the test itself: %r %s" % (exc, traceback.format_exc())], "dirty": True}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
