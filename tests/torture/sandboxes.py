# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The operations of sandboxes."""

from __future__ import annotations

import os

import jail
from cgroups import V1
from namespaces import ALL, hostname, pin, pins
from operation import expect, gone, text
from overlays import BASE
from services import SLEEP, Service, running, settle


def sandbox(**more):
    one = dict(name="web", namespaces=dict(types=ALL[:-1], hostname="web"), cgroup=dict(memory_max="256M", pids_max=64),
               overlay=dict(lower=[BASE + "/own"]), bind=jail.BINDS, services=[dict(name="sleep", command=SLEEP, environment=dict(A="1"))])
    one.update(more)
    return "sandbox", dict(sandboxes=[one])


NO_SANDBOX = [("sandbox", dict(sandboxes=[dict(name="web", state="absent")], remove_data=True, kill=True))]


class Sandbox(Service):
    remove = NO_SANDBOX

    def prepare(self):
        jail.make(BASE + "/own")

    def declared(self):
        one = (self.steady[1]["sandboxes"] or [dict(state="absent")])[0]
        if one.get("state") == "absent":
            return gone("/run/netns/web", "/run/bulkhead/ns/web", "/run/bulkhead/mntns/web", "/sys/fs/cgroup/*/bulkhead",
                        "/run/bulkhead/service/web*") + ["it runs" for pid in running()]
        return self.shows(one, {V1 % "memory" + "memory.limit_in_bytes": str(int(one["cgroup"]["memory_max"][:-1]) << 20)})

    def shows(self, one, files):
        """What does one that is there show differently, with these files of its cgroup?"""
        pids = settle(len(one["services"]))
        if len(pids) != len(one["services"]):
            return ["%d processes run" % len(pids)]
        wrong = expect(files)
        if hostname() != one["namespaces"]["hostname"]:
            wrong.append("the hostname is %r" % hostname())
        for kind in one["namespaces"]["types"]:
            for pid in pids:
                if os.readlink("/proc/%d/ns/%s" % (pid, kind)) != pins().get(pin(kind)) and kind != "cgroup":
                    wrong.append("the service is not in the pinned %s namespace" % kind)
        for pid in pids:
            if "A=%s" % one["services"][0]["environment"]["A"] not in text("/proc/%d/environ" % pid).split("\0"):
                wrong.append("its environment is %r" % text("/proc/%d/environ" % pid))
        return wrong


THERE = [sandbox()]
USERS = dict(types=["user"] + ALL[:-1], hostname="web", uid_map=["0 100000 65536"], gid_map=["0 100000 65536"])
OTHER = [dict(name="sleep", command=SLEEP, environment=dict(A="2"))]
Sandbox("sandbox-create", sandbox())
Sandbox("sandbox-create-without-service", sandbox(services=[]))
Sandbox("sandbox-change", ("sandbox", dict(sandbox(cgroup=dict(memory_max="128M"), services=OTHER,
                                                   namespaces=dict(types=ALL[:-1], hostname="www"))[1], on_change="restart")), before=THERE)
Sandbox("sandbox-recreate", ("sandbox", dict(sandbox(overlay=dict(lower=[BASE + "/own", BASE + "/more"]))[1], on_mismatch="recreate")),
        before=THERE, prepare=lambda: (jail.make(BASE + "/own"), os.makedirs(BASE + "/more")))
Sandbox("sandbox-absent", ("sandbox", dict(sandboxes=[dict(name="web", state="absent")])), before=THERE)
Sandbox("sandbox-purge", ("sandbox", dict(sandboxes=[], purge=True, remove_data=True)), before=THERE)
Sandbox("sandbox-with-users", sandbox(namespaces=USERS, services=[]))
Sandbox("sandbox-with-users-change", sandbox(namespaces=USERS, services=[], devices=[dict(path="/dev/more", source="/dev/null")],
                                             tmpfs=[dict(target="/n/m")]), before=[sandbox(namespaces=USERS, services=[])])
