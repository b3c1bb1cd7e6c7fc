# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From the supervisor's start of a service to its command, against `runc run` of the same command on the same root; and the
memory of what stays beside an idle service in a sandbox of its own."""

from __future__ import annotations

import json
import os
import subprocess
import time

import engine
import measure

WORD = b"started"
RESIDENT = 1.5 * (1 << 20)  # bytes that are allowed
STARTS = 30
SLEEP = {"name": "sleep", "command": ["/bin/sleep", "infinity"]}


def converge(options):
    outcome = engine.converge(engine.Host(engine.command), engine.sandbox, options)
    if outcome.errors:
        raise RuntimeError(outcome.errors[0].error.message)


def first_word(argv, folder):
    """Milliseconds from the start of a program until its command has written its first bytes."""
    begin = time.perf_counter()
    with subprocess.Popen(argv, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as child:
        said = os.read(child.stdout.fileno(), 4096)
        spent = (time.perf_counter() - begin) * 1e3
        rest = child.stdout.read()
    if child.returncode or not said.startswith(WORD):
        raise RuntimeError("%s: exit status %d: %s" % (argv[0], child.returncode, measure.tail(said + rest)))
    return spent


def bundle(work, lower):
    """What runc needs: its own default configuration, with our command and an overlay of the same layers."""
    folder = work + "/bundle"
    for name in ("", "/rootfs", "/upper", "/work"):
        os.mkdir(folder + name)
    subprocess.run(["mount", "-t", "overlay", "-o", "lowerdir=%s,upperdir=%s/upper,workdir=%s/work" % (lower, folder, folder),
                    "overlay", folder + "/rootfs"], check=True)
    subprocess.run(["runc", "spec"], cwd=folder, check=True)
    with open(folder + "/config.json", encoding="utf-8") as stream:
        config = json.load(stream)
    config["process"].update(terminal=False, args=["/bin/echo", WORD.decode()])
    config["root"]["readonly"] = False
    with open(folder + "/config.json", "w", encoding="utf-8") as stream:
        json.dump(config, stream)
    return folder


def rows(work, lower):
    box = {"name": "box", "namespaces": {"hostname": "box"}}
    types = [*engine.DEFAULTS["namespaces"]["types"], "cgroup"]
    wanted = {"defaults": dict(engine.DEFAULTS, namespaces={"types": types}, overlay={"lower": [lower]}), "sandboxes": [box]}
    name, limit = "start of a service: run script to its command, of runc run", 1
    try:
        folder = bundle("/run", lower)  # both uppers on a tmpfs
        box["services"] = [SLEEP, {"name": "echo", "command": ["/bin/echo", WORD.decode()], "restart": "no", "state": "stopped"}]
        converge(wanted)
        home = "/run/bulkhead/service/box:echo"
        found = measure.rounds(STARTS, lambda: first_word(["./run"], home),
                               lambda: first_word(["runc", "run", "--bundle", folder, "bench"], folder))
        yield measure.row(name, limit, *found)
    except (RuntimeError, OSError, subprocess.CalledProcessError) as exc:
        yield measure.missing(name, limit, str(exc))
    yield from resident(wanted, box)


def resident(wanted, box):
    name, limit = "resident beside an idle service (PSS)", 1
    try:
        box["services"] = [SLEEP]
        converge(wanted)
        time.sleep(1)  # what ends by itself has ended
        found = beside("sleep")
        line = measure.row(name, limit, [sum(found.values()) / 1024], [RESIDENT / 1024], "KiB")
        yield dict(line, parts={word: size // 1024 for word, size in found.items()})
    except (RuntimeError, OSError) as exc:
        yield measure.missing(name, limit, str(exc))
    converge({"sandboxes": [{"name": "box", "state": "absent"}], "remove_data": True})


def beside(own):
    """{command and pid: PSS in bytes} of all processes in this private host, but ours, the command itself, and runsvdir (one a host)."""
    found, me = {}, {os.getpid(), os.getppid(), 1}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) not in me:
            try:
                with open("/proc/%s/comm" % entry, encoding="utf-8") as stream:
                    word = stream.read().strip()
                if word in (own, "runsvdir"):
                    continue
                with open("/proc/%s/smaps_rollup" % entry, encoding="utf-8") as stream:
                    sizes = [line.split() for line in stream]
            except (FileNotFoundError, ProcessLookupError):  # one that was about to end
                continue
            found["%s %s" % (word, entry)] = sum(int(words[1]) << 10 for words in sizes if words[0] == "Pss:")
    if not found:
        raise RuntimeError("there is no keeper and no supervisor")
    return found
