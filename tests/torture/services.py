# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The operations of services."""

from __future__ import annotations

import glob
import os
import subprocess
import time

import drive
import jail
from cgroups import NO_CGROUP
from namespaces import NO_SET
from operation import Operation, gone, text, unmount
from overlays import BASE

from module_utils._supervisor import entry, scan

JAIL = BASE + "/jail"
SLEEP = ["/usr/bin/sleep", "54321"]
SERVICE = dict(name="web", root=JAIL, command=SLEEP, environment=dict(A="1"), rlimits=dict(nofile=64))
NO_SERVICE = [("service", dict(name="web", state="absent"))]


def running(words=tuple(SLEEP)):
    """The pids that execute just these words."""
    return [int(path.split("/")[2]) for path in glob.glob("/proc/[0-9]*/cmdline") if text(path).split("\0")[:-1] == list(words)]


def settle(number, words=tuple(SLEEP)):
    """The pids, when they are so many; a service that its supervisor starts by itself may not have come to its command yet."""
    end = time.monotonic() + 5
    while len(running(words)) != number and time.monotonic() < end:
        time.sleep(0.02)
    return running(words)


class Service(Operation):
    remove = NO_SERVICE

    def prepare(self):
        jail.make(JAIL)
        for bind in jail.BINDS:
            os.makedirs(JAIL + bind["target"], exist_ok=True)
            subprocess.run(["mount", "--no-mtab", "--bind", bind["source"], JAIL + bind["target"]], check=True)

    def declared(self):
        state = self.steady[1].get("state", "started")
        pids = settle(int(state not in ("absent", "stopped")))
        if state == "absent":
            return gone("/run/bulkhead/service/web") + (["it runs"] if pids else [])
        if len(pids) != (state != "stopped"):
            return ["%d processes run" % len(pids)]
        if not pids:
            return []
        wanted = "A=%s" % self.steady[1].get("environment", SERVICE["environment"])["A"]
        if wanted not in text("/proc/%d/environ" % pids[0]).split("\0"):
            return ["its environment is %r" % text("/proc/%d/environ" % pids[0])]
        return []

    def cleanup(self):
        host = drive.new_host()
        scan.shutdown(host)
        entry.clear(host)
        for bind in reversed(jail.BINDS):
            if os.path.ismount(JAIL + bind["target"]):
                unmount(JAIL + bind["target"])
        subprocess.run(["rm", "-rf", "--one-file-system", BASE, "/run/mount", "/var/log/bulkhead/web"], check=True)


def service(**options):
    return "service", dict(SERVICE, **options)


STARTED = [service()]
Service("service-start", service())
Service("service-start-second", service(), before=[("service", dict(SERVICE, name="other", command=["/usr/bin/sleep", "11111"]))],
        remove=NO_SERVICE + [("service", dict(name="other", state="absent"))])
Service("service-start-own-root", ("service", dict(SERVICE, root=BASE + "/own", bind=jail.BINDS)),
        prepare=lambda: jail.make(BASE + "/own"))
Service("service-start-inside", service(namespace="web", cgroup="bulkhead/web"),
        before=[("cgroup", dict(name="bulkhead/web")), ("namespace", dict(name="web", types=["pid", "net", "uts"]))],
        remove=NO_SERVICE + NO_SET + NO_CGROUP)
Service("service-configure", service(environment=dict(A="2"), on_change="restart"), before=STARTED)
Service("service-restart", service(state="restarted"), before=STARTED, once=True, steady=service())
Service("service-stop", service(state="stopped"), before=STARTED)
Service("service-absent", ("service", dict(name="web", state="absent")), before=STARTED)
