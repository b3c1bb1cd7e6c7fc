# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One module call that changes nothing, of each module, against a do-nothing module on the same host by the same transport.

Twice: the call on the target alone (the program that Ansible sends, run by the same interpreter), and the whole task, from the
controller and back, by Ansible's default transport. The same with pipelining is told beside the figures: Python then reads the
program from its standard input, byte by byte, so that its size counts (0.28 ms/KiB), not its work.
"""

from __future__ import annotations

import os
import subprocess
import time

import measure

LIMIT = 1.15
LIMITS = {"memory_max": "256M", "pids_max": 128, "cpu_max": "50%", "io_max": [{"device": "/", "rbps": "20M"}]}
TYPES = ["net", "uts", "ipc", "mnt", "pid"]


def modules(lower):
    """{module: options}: what is declared once and then found as declared."""
    return {
        "cgroup": dict(LIMITS, name="bulkhead/call"),
        "namespace": {"name": "call", "types": TYPES, "hostname": "call"},
        "overlay": {"path": "/run/bulkhead/mnt/call", "lower": [lower], "upper": "/var/lib/bulkhead/uppers/call/upper",
                    "work": "/var/lib/bulkhead/uppers/call/work"},
        "image": {"name": "call", "directory": lower},
        "chroot_service": {"name": "call", "root": lower, "command": ["/bin/sleep", "infinity"], "seccomp": "default"},
        "sandbox": {"sandboxes": [{"name": "box", "namespaces": {"types": TYPES, "hostname": "box"}, "cgroup": LIMITS,
                                   "overlay": {"lower": [lower]}, "services": [{"name": "sleep", "command": ["/bin/sleep", "infinity"]}]}]},
    }


def rows(work, lower):
    nothing = measure.payload(work, measure.NOTHING, {})
    whole = []
    for module, options in modules(lower).items():
        name = "call that changes nothing: " + module
        if not os.path.exists("%s/ansible_collections/bulkhead/isolation/plugins/modules/%s.py" % (measure.COLLECTIONS, module)):
            yield measure.missing(name, LIMIT, "there is no module " + module)
            continue
        try:
            path = measure.payload(work, "bulkhead.isolation." + module, options)
            measure.call(path)  # keeps its code
            found = measure.rounds(measure.PAIRS, lambda path=path: measure.call(path), lambda: measure.call(nothing))
            yield measure.row(name, LIMIT, *found)
            whole.append((module, options))
        except RuntimeError as exc:
            yield measure.missing(name, LIMIT, str(exc))
    yield from tasks(work, whole, "task that changes nothing: ", LIMIT, "0")
    yield from tasks(work, whole, "the same, pipelined: ", None, "1")


def tasks(work, wanted, title, limit, pipelining):
    """The whole tasks of one playbook run: nothing, one, nothing, the next, …"""
    plan = []
    for dummy in range(measure.PAIRS):
        for module, options in wanted:
            plan += [("nothing", measure.NOTHING, {}), (module, "bulkhead.isolation." + module, options)]
    spent = {module: ([], []) for module, options in wanted}
    # without skipped hosts the line of a task is shown with its result only
    env = measure.environment(work, ANSIBLE_PIPELINING=pipelining, ANSIBLE_STDOUT_CALLBACK="ansible.builtin.default",
                              ANSIBLE_DISPLAY_SKIPPED_HOSTS="true")
    with subprocess.Popen(measure.playbook(work, plan), env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True) as child:
        name, begin, before = None, 0.0, 0.0
        for line in child.stdout:
            now = time.perf_counter()
            if line.startswith("TASK ["):
                name, begin = line[6:].partition("]")[0], now
            elif line.startswith("ok: "):
                took = (now - begin) * 1e3
                if name in spent:
                    spent[name][0].append(took)
                    spent[name][1].append(before)
                before = took
            elif line.startswith(("changed: ", "fatal: ")):
                raise RuntimeError("%s: %s" % (name, line[:600]))
    for module, found in spent.items():
        yield measure.row(title + module, limit, *found)
