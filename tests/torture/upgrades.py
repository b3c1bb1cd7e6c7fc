# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The operations of upgrades: to another image, after a trial or without one, and back."""

from __future__ import annotations

import os
import subprocess

import archives
import drive
from images import NO_IMAGES
from operation import Operation, gone, text
from sandboxes import NO_SANDBOX
from services import settle

from module_utils._supervisor import entry as service_entry

BASE = "/run/torture"
TYPES = ["net", "mnt", "pid"]
COMMAND = ["/bin/busybox", "sleep", "54321"]


def image(version):
    return "image", dict(name="web", tar="%s/%s.tar" % (BASE, version))


def sandbox(upper, state="present", trial=False, **more):
    """It is healthy as long as it has no file /ill, as version three has one."""
    health = dict(command=["/bin/busybox", "test", "!", "-e", "/ill"], interval="50ms", retries=2)
    return "sandbox", dict(sandboxes=[dict(dict(name="web", state=state, image="web", namespaces=dict(types=TYPES), upgrade=dict(upper=upper, trial=trial),
                                                services=[dict(name="sleep", command=COMMAND, health=health)]), **more)])


class Upgrade(Operation):
    """Two versions of an image, of which the first has written something."""

    remove = NO_SANDBOX + NO_IMAGES
    version, kept = "two", "by one"
    moved, below = "/var/lib/bulkhead/uppers/web/upper", ""  # what may be laid aside as a whole, and what is written in it

    def prepare(self):
        os.makedirs(BASE, exist_ok=True)
        with open("/bin/busybox", "rb") as stream:
            busybox = stream.read()
        for version in ("one", "two", "three"):
            archives.write("%s/%s.tar" % (BASE, version), archives.tar(
                archives.directory(b"bin"), archives.entry(b"bin/busybox", busybox, mode=0o755), archives.directory(b"dev"), archives.directory(b"proc"),
                archives.directory(b"sys"), archives.directory(b"var"), archives.entry(b"version", version.encode()),
                *[archives.entry(b"ill", b"")] * (version == "three")))

    def damage(self):
        """What was written before all that: through the layer itself, as a later version may have come to its place by now."""
        previous = self.moved + ".previous"
        archives.write((previous if os.path.exists(previous) else self.moved) + self.below + "/kept", b"by one")

    def declared(self):
        pids = settle(1, COMMAND)
        if len(pids) != 1:
            return ["%d processes run" % len(pids)]
        found = [text("/proc/%d/root/%s" % (pids[0], name)) for name in ("version", "kept")]
        wrong = [] if found == [self.version, self.kept] else ["it is %s" % found]
        held = subprocess.run(["nsenter", "--net=/run/netns/web", "nft", "list", "ruleset"], capture_output=True, check=True).stdout
        return wrong + (["connections wait"] if held else []) + gone("/run/netns/*.trial", "/run/bulkhead/made/held/*", "/etc/bulkhead/sandboxes.d/*.trial*",
                                                                     "/var/lib/bulkhead/*/*.trial", "/run/bulkhead/service/*.trial*",
                                                                     "/var/lib/bulkhead/roots/.new-*", "/var/lib/bulkhead/roots/.old-*")

    def cleanup(self):
        service_entry.clear(drive.new_host())
        subprocess.run(["rm", "-rf", BASE], check=True)


def before(upper, **more):
    return [image("one"), sandbox(upper, **more), image("two")]


Upgrade("sandbox-upgrade", sandbox("keep", trial=True), before=before("keep"))
Upgrade("sandbox-upgrade-fresh", sandbox("fresh"), before=before("fresh"), kept="No such file or directory")
Upgrade("sandbox-roll-back", sandbox("fresh", "rolled_back"), before=before("fresh") + [sandbox("fresh")], version="one")


class Gone(Upgrade):
    """With what the version before has written, which was kept beside."""

    def declared(self):
        return gone("/run/netns/*", "/var/lib/bulkhead/uppers/*", "/etc/bulkhead/sandboxes.d/*", "/etc/bulkhead/versions.d/*")


ILL = [image("one"), sandbox("keep"), image("three")]
COPY, TREE = dict(storage=dict(driver="copy")), dict(moved="/var/lib/bulkhead/roots/web", below="/tree")
Upgrade("sandbox-upgrade-ill", sandbox("keep"), before=ILL, version="one", fails="is not healthy")
Upgrade("sandbox-upgrade-ill-fresh", sandbox("fresh"), before=ILL, version="one", fails="is not healthy")
Upgrade("sandbox-upgrade-ill-trial", sandbox("keep", trial=True), before=ILL, version="one", fails="The one before still runs")
Upgrade("sandbox-upgrade-copy", sandbox("keep", trial=True, **COPY), before=before("keep", **COPY), **TREE)
Upgrade("sandbox-upgrade-fresh-copy", sandbox("fresh", **COPY), before=before("fresh", **COPY), kept="No such file or directory", **TREE)
Upgrade("sandbox-roll-back-copy", sandbox("fresh", "rolled_back", **COPY), before=before("fresh", **COPY) + [sandbox("fresh", **COPY)], version="one", **TREE)
Gone("sandbox-upgrade-absent", ("sandbox", dict(sandboxes=[dict(name="web", state="absent")], remove_data=True)), before=before("fresh") + [sandbox("fresh")])
