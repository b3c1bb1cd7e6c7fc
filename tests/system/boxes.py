# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sandboxes of an image with a busybox, one that waits and one that writes until it is stopped; and what a reboot does to them."""

from __future__ import annotations

import contextlib
import os
import re
import shutil

import drive
import jail
from archives import Layout, directory, entry, symlink, tar

from module_utils._engine.plan import Plan, run_plan
from module_utils._model.errors import Problems
from module_utils._program import host as program

BASE = "/run/boxes"
SIZE = 8 << 20
LEAST = SIZE - (128 << 10)  # what a file has of it at the least: up to 64 KiB are of directories, and of the last write of 64 KiB there may be nothing
TYPES = ["uts", "ipc", "mnt", "pid"]
WRITE = """
dd if=/dev/zero of=/srv/big bs=64k conv=fsync 2> /out/error; echo $? > /out/status; echo done > /out/done
exec sleep 1000
"""


@contextlib.contextmanager
def place():
    """Where the layout and the sandboxes' words go; in the end no sandbox, image or directory of these is there."""
    os.makedirs(BASE)
    yield
    for name in drive.new_host().records.names("sandboxes"):
        answer = drive.converge("sandbox", sandboxes(sandbox(name, state="absent")))
        assert "error" not in answer, answer
    jail.clear_images()
    shutil.rmtree(BASE)


def made(*more):
    """The image, with ``more`` entries, and the directories of the host that sandboxes tell what happened in."""
    with open("/bin/busybox", "rb") as stream:
        busybox = stream.read()
    tools = [symlink(b"bin/" + name, b"busybox") for name in (b"sh", b"sleep", b"dd", b"cp", b"mv")]
    names = [directory(name) for name in (b"srv", b"proc", b"sys", b"dev", b"etc", b"out")]
    shutil.rmtree(BASE + "/layout", ignore_errors=True)
    path = Layout(BASE + "/layout", tar(directory(b"bin"), entry(b"bin/busybox", busybox, mode=0o755), *tools, *names, *more)).done()
    answer = drive.converge("image", dict(name="busybox", oci=path))
    assert "error" not in answer, answer


def sandbox(name="box", **more):
    os.makedirs("%s/out/%s" % (BASE, name), exist_ok=True)
    return dict(dict(name=name, image="busybox", namespaces=dict(types=TYPES), bind=[dict(source="%s/out/%s" % (BASE, name), target="/out")],
                     services=[dict(name="app", command=["/bin/sleep", "1000"])]), **more)


def writer(name, **more):
    """One that writes as much as it can, and then waits."""
    return sandbox(name, services=[dict(name="app", command=["/bin/sh", "-c", WRITE])], **more)


def sandboxes(*each):
    return dict(sandboxes=[dict(name=box["name"], state="absent") if box.get("state") == "absent" else box for box in each],
                remove_data=True, kill=True)


def started(name):
    """The pid of the service's command, as the host knows it."""
    def found():
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if jail.text("/proc/%s/cmdline" % pid).endswith("sleep\0001000\0") and \
                        re.search(r"/bulkhead/%s(/|$)" % re.escape(name), jail.text("/proc/%s/cgroup" % pid), re.M):
                    return pid
            except OSError:  # it has ended
                pass
        return None
    return jail.until(found)


def told(name):
    """What a writer told: what its dd said, its exit status, and how large the file is."""
    jail.until(lambda: os.path.exists("%s/out/%s/done" % (BASE, name)))
    size = os.stat("/proc/%s/root/srv/big" % started(name)).st_size
    return dict({key: jail.text("%s/out/%s/%s" % (BASE, name, key)).strip() for key in ("error", "status")}, size=size)


def reboot():
    """What a reboot takes: all that is alive, and no data."""
    take_away(clear=True)


def take_away(**options):
    """What the module `host` does with state=absent."""
    host, plan = drive.new_host(), Plan()
    program.plan(host, program.parse(dict(options, state="absent", program="/nowhere/bulkhead"), "", Problems()), plan)
    run_plan(plan)
