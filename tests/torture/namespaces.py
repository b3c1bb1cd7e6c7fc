# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The operations of namespaces."""

from __future__ import annotations

import glob
import os
import signal
import subprocess

from cgroups import NO_CGROUP
from operation import Operation, gone, text, unmount

ALL = ["net", "uts", "ipc", "mnt", "pid", "cgroup", "time"]
SET = dict(name="web", types=ALL, hostname="web", sysctls={"net.ipv4.ip_forward": "1"}, loopback=True,
           time_offsets=dict(monotonic=1000))
OWNED = dict(name="web", types=["user", "net", "uts", "pid", "mnt"], hostname="web", uid_map=["0 100000 1000"],
             gid_map=["0 100000 1000"])
NO_SET = [("namespace", dict(name="web", state="absent", kill=True))]


def pin(kind):
    return {"net": "/run/netns/web", "mnt": "/run/bulkhead/mntns/web"}.get(kind, "/run/bulkhead/ns/web/" + kind)


def pins():
    """{path: type:[inode]} of the namespaces that are pinned."""
    found = {}
    for line in text("/proc/self/mountinfo").splitlines():
        left, right = line.split(" - ")
        if right.startswith("nsfs"):
            found[left.split()[4]] = left.split()[3]
    return found


def hostname():
    return subprocess.run(["nsenter", "--uts=" + pin("uts"), "hostname"], capture_output=True, text=True, check=False).stdout.strip()


class Namespace(Operation):
    remove = NO_SET

    def declared(self):
        options, found = self.steady[1], pins()
        if options.get("state") == "absent":
            return gone("/run/netns/web", "/run/bulkhead/ns/web", "/run/bulkhead/mntns/web") + [
                "%s is pinned" % path for path in found if path.endswith("/web") or "/web/" in path]
        wrong = ["no %s namespace is pinned" % kind for kind in options["types"]
                 if not found.get(pin(kind), "").startswith(kind + ":")]
        if "hostname" in options and hostname() != options["hostname"]:
            wrong.append("the hostname is %r" % hostname())
        if "pid" in options["types"] and subprocess.run(["nsenter", "--pid=" + pin("pid"), "true"], check=False).returncode:
            wrong.append("the pid namespace is dead")
        return wrong


class Damaged(Namespace):
    """Pins that are plain files, gone, or of a pid namespace whose init died."""

    def damage(self):
        for path in (pin("net"), pin("uts")):
            unmount(path)
        os.unlink(pin("uts"))
        for path in glob.glob("/proc/[0-9]*/comm"):
            if text(path) == "keeper":
                os.kill(int(path.split("/")[2]), signal.SIGKILL)


Namespace("namespace-create", ("namespace", SET))
Namespace("namespace-create-net", ("namespace", dict(name="web", types=["net"])))
Namespace("namespace-create-owned", ("namespace", OWNED))
Namespace("namespace-change", ("namespace", dict(SET, hostname="www", sysctls={"net.ipv4.ip_forward": "0"})),
          before=[("namespace", SET)])
Namespace("namespace-add", ("namespace", SET), before=[("namespace", dict(name="web", types=["uts"]))])
Namespace("namespace-recreate", ("namespace", dict(SET, time_offsets=dict(monotonic=2000), on_mismatch="recreate")),
          before=[("namespace", SET)])
Damaged("namespace-mend", ("namespace", SET), before=[("namespace", SET)])
Namespace("namespace-in-cgroup", ("namespace", dict(name="web", types=["pid", "cgroup"], cgroup="bulkhead/web")),
          before=[("cgroup", dict(name="bulkhead/web"))], remove=NO_SET + NO_CGROUP)
Namespace("namespace-remove", ("namespace", dict(name="web", state="absent")), before=[("namespace", SET)])
