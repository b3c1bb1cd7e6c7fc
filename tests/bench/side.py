# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One side of scale.py, on a test host that is clean: `side.py sandboxes|plain|alike COUNT`. Prints JSON: {phase: {what: cost}}."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "system"))
ROOT = "/srv/lower"
IDLE = 3.0  # seconds without work, which is the end of a phase
COMMAND = ["/bin/sleep", "infinity"]
PLAIN = """[Unit]
Description=Plain service %d

[Service]
ExecStart=/bin/sleep infinity

[Install]
WantedBy=multi-user.target
"""
# What a sandbox has of systemd: a slice with the same limits, and the start is over when the service says so.
ALIKE = """[Unit]
Description=Service %d

[Service]
Type=notify
NotifyAccess=all
Slice=alike-%d.slice
ExecStart=/bin/sh -c 'systemd-notify --ready; exec /bin/sleep infinity'

[Install]
WantedBy=multi-user.target
"""
SLICE = """[Unit]
Description=Slice %d

[Slice]
CPUQuota=50%%
MemoryMax=256M
TasksMax=128
"""


def run(*argv):
    subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)


def journald():
    return int(subprocess.run(["systemctl", "show", "--property=MainPID", "--value", "systemd-journald.service"], stdout=subprocess.PIPE,
                              check=True).stdout)


def cpu(pid):
    """Seconds of processor time that a process has had, by the scheduler's clock; its children's is not in it."""
    with open("/proc/%d/schedstat" % pid, encoding="ascii") as stream:
        return int(stream.read().split()[0]) / 1e9


def memory(pid):
    """(PSS, anonymous) in KiB."""
    found = {}
    with open("/proc/%d/smaps_rollup" % pid, encoding="ascii") as stream:
        for line in stream:
            word, dummy, rest = line.partition(":")
            found[word] = rest.split()
    return int(found["Pss"][0]), int(found["Anonymous"][0])


def settle(pids):
    """Wait until none of them has had a millisecond of work for a while."""
    before, since = [cpu(pid) for pid in pids], time.monotonic()
    while time.monotonic() - since < IDLE:
        time.sleep(0.2)
        now = [cpu(pid) for pid in pids]
        if sum(now) - sum(before) > 0.005:
            before, since = now, time.monotonic()


def costs(act):
    """What an act costs pid 1 and journald until both are idle."""
    pids = {"systemd": 1, "journald": journald()}
    settle(pids.values())
    before = {who: (cpu(pid),) + memory(pid) for who, pid in pids.items()}
    begin = time.monotonic()
    act()
    spent = time.monotonic() - begin
    settle(pids.values())
    found = {"time": spent}
    for who, pid in pids.items():
        after = (cpu(pid),) + memory(pid)
        found.update({"%s %s" % (who, what): new - old for what, old, new in zip(("cpu", "memory", "anonymous"), before[who], after)})
    return found


# -- the sides: what is to be measured, by phase

def plain(count):
    return _services({"plain%d.service" % index: PLAIN % index for index in range(count)})


def alike(count):
    units = {"alike-%d.slice" % index: SLICE % index for index in range(count)}
    return _services(dict(units, **{"alike%d.service" % index: ALIKE % (index, index) for index in range(count)}))


def _services(units):
    """With `ip netns add` for each of the services; systemd makes and removes their slices with them."""
    services = [unit[:-len(".service")] for unit in units if unit.endswith(".service")]
    slices = [unit for unit in units if unit.endswith(".slice")]

    def make():
        for unit, text in units.items():
            with open("/etc/systemd/system/" + unit, "w", encoding="ascii") as stream:
                stream.write(text)
        run("systemctl", "daemon-reload")
        for name in services:
            run("ip", "netns", "add", name)
        run("systemctl", "start", *services)

    def remove():
        run("systemctl", "stop", *services, *slices)
        for unit in units:
            os.unlink("/etc/systemd/system/" + unit)
        for name in services:
            run("ip", "netns", "del", name)
        run("systemctl", "daemon-reload")

    return {"make": make, "remove": remove}


def sandboxes(count):
    import drive
    import inside

    inside.small_root(ROOT)
    names = ["s%d" % index for index in range(count)]
    defaults = {"namespaces": {"types": ["net", "uts", "ipc", "mnt", "pid", "cgroup"]}, "overlay": {"lower": [ROOT]},
                "cgroup": {"memory_max": "256M", "pids_max": 128, "cpu_max": "50%"},
                "services": [{"name": "sleep", "command": COMMAND}]}

    def converge(changed, **options):
        answer = drive.isolated(lambda: drive.converge("sandbox", options), patience=3600)
        if "error" in answer or answer["changed"] != changed:
            raise SystemExit(answer.get("error") or "changed: %s" % answer["changed"])

    entries = [{"name": name, "namespaces": {"hostname": name}} for name in names]
    return {"make": lambda: converge(True, defaults=defaults, sandboxes=entries),
            "again": lambda: converge(False, defaults=defaults, sandboxes=entries),
            "remove": lambda: converge(True, sandboxes=[{"name": name, "state": "absent"} for name in names])}


def small_pages():
    """Memory in pages of 4 KiB only: with huge ones, what is counted grows by steps of 2 MiB."""
    with open("/sys/kernel/mm/transparent_hugepage/enabled", "w", encoding="ascii") as stream:
        stream.write("never")


def main(side, count):
    small_pages()
    phases = {"plain": plain, "alike": alike, "sandboxes": sandboxes}[side](int(count))
    print(json.dumps({phase: costs(act) for phase, act in phases.items()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
