# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the parts of the bench share: interleaved pairs, medians, rows of the table, and the payloads of module calls."""

from __future__ import annotations

import glob
import json
import os
import shutil
import statistics
import subprocess
import sys
import time

NOTHING = "bench.mark.nothing"
HERE = os.path.dirname(os.path.realpath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
BIN = os.path.join(ROOT, ".venv", "bin")
COLLECTIONS = os.path.join(ROOT, "build")
COMMUNITY = os.path.join(ROOT, "build", "community")  # the one module of community.general that a figure is compared with
PAIRS = 12


class Absent(Exception):
    """A part of the project that a figure needs is not there; the message says which."""


def row(name, limit, measured, baseline, unit="ms", allowed=None):
    """One figure of series that were measured in pairs.

    ``ratio`` is the median of the pairs' ratios, each measured over allowed baseline; ``allowed(b)`` says what is allowed for a
    baseline of b (default: b itself). ``spread`` are the quartiles of the ratios. Without a limit it is told and does not count.
    """
    allowed = allowed or (lambda value: value)
    ratios = sorted(one / allowed(other) for one, other in zip(measured, baseline))
    ratio = statistics.median(ratios)
    low, dummy, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else (ratio, ratio, ratio)
    return {"name": name, "ratio": round(ratio, 3), "limit": limit, "holds": None if limit is None else ratio <= limit,
            "measured": round(statistics.median(measured), 3), "baseline": round(statistics.median(baseline), 3), "unit": unit,
            "spread": [round(low, 3), round(high, 3)], "pairs": len(ratios)}


def missing(name, limit, why):
    """A figure that could not be measured does not hold."""
    return {"name": name, "ratio": None, "limit": limit, "holds": False, "measured": None, "baseline": None, "unit": "",
            "spread": None, "pairs": 0, "why": why}


def rounds(count, *steps):
    """Call the steps ``count`` times, every other time in the opposite order; a list of results for each step."""
    found = [[] for dummy in steps]
    for index in range(count):
        order = range(len(steps))
        for which in order if index % 2 == 0 else reversed(order):
            found[which].append(steps[which]())
    return found


def timed(argv, **words):
    """Milliseconds that a command takes; it must succeed."""
    begin = time.perf_counter()
    ended = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False, **words)
    spent = (time.perf_counter() - begin) * 1e3
    if ended.returncode:
        raise RuntimeError("%s: exit status %d: %s" % (" ".join(argv), ended.returncode, tail(ended.stdout + ended.stderr)))
    return spent


def answer(argv, **words):
    """The JSON object that a command prints."""
    ended = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False, **words)
    if ended.returncode:
        raise RuntimeError("%s: exit status %d: %s" % (" ".join(argv), ended.returncode, tail(ended.stderr)))
    return json.loads(ended.stdout)


def tail(text):
    lines = text.decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:600] if lines else "no output"


# Module calls


def environment(work, **more):
    """The environment of Ansible's commands, with everything that they write below ``work``."""
    path = ":".join([BIN] + [entry for entry in os.environ["PATH"].split(":") if not entry.endswith("/shims")])
    return dict(os.environ, PATH=path, ANSIBLE_COLLECTIONS_PATH="%s:%s" % (COLLECTIONS, work), ANSIBLE_HOME=work + "/home",
                ANSIBLE_LOCAL_TEMP=work + "/local", ANSIBLE_REMOTE_TMP=work + "/remote", ANSIBLE_NOCOLOR="1",
                ANSIBLE_LOCALHOST_WARNING="0", ANSIBLE_DEPRECATION_WARNINGS="0", PYTHONUNBUFFERED="1", **more)


def collect(work):
    """Put the do-nothing module where it is found as ours are: in a collection, bench.mark."""
    folder = work + "/ansible_collections/bench/mark/plugins/modules"
    os.makedirs(folder)
    shutil.copy(HERE + "/nothing.py", folder)


def playbook(work, tasks, *words):
    """argv of ansible-playbook for (name, module, options) on this host."""
    path = os.path.join(work, "play.yml")
    with open(path, "w", encoding="utf-8") as stream:
        json.dump([{"hosts": "all", "gather_facts": False,
                    "tasks": [{"name": name, module: options} for name, module, options in tasks]}], stream)
    return [BIN + "/ansible-playbook", "--inventory", "localhost,", "--connection", "local", "--extra-vars",
            json.dumps({"ansible_python_interpreter": sys.executable}), path, *words]


def payload(work, module, options):
    """Run one task and keep what Ansible sent for it: the path of a program that is the same module call."""
    remote = work + "/remote"
    shutil.rmtree(remote, ignore_errors=True)
    env = environment(work, ANSIBLE_KEEP_REMOTE_FILES="1", ANSIBLE_PIPELINING="0")
    ended = subprocess.run(playbook(work, [(module, module, options)]), env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT, check=False)
    found = glob.glob(remote + "/*/AnsiballZ_*.py")
    if ended.returncode or len(found) != 1:
        lines = [line for line in ended.stdout.decode("utf-8", "replace").splitlines() if "fatal" in line or "ERROR" in line]
        raise RuntimeError("%s: %s" % (module, lines[0][:600] if lines else tail(ended.stdout)))
    kept = "%s/%s.py" % (work, module.rpartition(".")[2])
    shutil.move(found[0], kept)
    return kept


def call(path):
    """Milliseconds of one module call on the target; it must change nothing."""
    begin = time.perf_counter()
    ended = subprocess.run([sys.executable, path], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
    spent = (time.perf_counter() - begin) * 1e3
    result = json.loads(ended.stdout)
    if ended.returncode or result.get("failed") or result.get("changed"):
        raise RuntimeError("%s: %s" % (os.path.basename(path), result.get("msg") or "changed: %s" % result.get("actions") or tail(ended.stderr)))
    return spent
