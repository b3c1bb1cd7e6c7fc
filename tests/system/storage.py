# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sandboxes with roots of every storage driver, which lie on a btrfs in a file."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile

import drive
import jail
from archives import Layout, directory, entry, hard_link, symlink, tar
from boxes import BASE, TYPES, reboot

from module_utils._engine.plan import Plan, run_plan
from module_utils._kernel import manifest, syscalls
from module_utils._model.errors import Problems
from module_utils._program import host as program
from module_utils._resources import _storage_tree

LIB = "/var/lib/bulkhead"
DRIVERS = os.environ.get("BULKHEAD_TEST_DRIVERS", "overlay btrfs copy").split()  # devicemapper: on a test host (tests/hosts/test_storage.py)
DECLARED = {"devicemapper": dict(pool_size="300M")}  # beside the driver

__all__ = ("reboot",)


@contextlib.contextmanager
def place():
    """A btrfs at /var/lib/bulkhead/roots, and in the end nothing of ours."""
    os.makedirs(BASE)
    os.makedirs(LIB + "/roots", mode=0o700)
    with open(BASE + "/btrfs", "wb") as stream:
        stream.truncate(256 << 20)
    subprocess.run(["mkfs.btrfs", "-q", BASE + "/btrfs"], check=True)
    subprocess.run(["mount", "-o", "loop", BASE + "/btrfs", LIB + "/roots"], check=True)
    try:
        yield
        assert clear() == []
    finally:
        with contextlib.suppress(Exception):  # what failed has been told
            clear()
        while os.path.ismount(LIB + "/roots"):
            syscalls.umount(LIB + "/roots", syscalls.MNT_DETACH)
        if os.path.ismount(LIB):
            reboot()
        while os.path.ismount(LIB + "/roots"):
            syscalls.umount(LIB + "/roots", syscalls.MNT_DETACH)
        os.rmdir(LIB + "/roots")
        shutil.rmtree(BASE)


@contextlib.contextmanager
def on_disk():
    """/var/lib/bulkhead is an ext4: the tmpfs of a private host can hold user.* extended attributes on Linux 6.6 and later only."""
    with tempfile.TemporaryDirectory(dir="/run") as folder:
        with open(folder + "/ext4", "wb") as stream:
            stream.truncate(1 << 30)
        subprocess.run(["mkfs.ext4", "-q", folder + "/ext4"], check=True)
        subprocess.run(["mount", "--no-mtab", "-o", "loop", folder + "/ext4", LIB], check=True)
        disk = os.stat(LIB).st_dev
        try:
            yield
        finally:
            while os.stat(LIB).st_dev == disk:
                syscalls.umount(LIB, syscalls.MNT_DETACH)


@contextlib.contextmanager
def unmounted():
    """The btrfs is not mounted, after a reboot()."""
    syscalls.umount(LIB + "/roots")
    try:
        yield
    finally:
        reboot()  # nothing of ours is mounted
        subprocess.run(["mount", "-o", "loop", BASE + "/btrfs", LIB + "/roots"], check=True)


def host_absent():
    """What the module `host` does to take everything away."""
    plan, problems, host = Plan(), Problems(), drive.new_host()
    program.plan(host, program.parse(dict(state="absent", remove_data=True), "", problems), plan)
    run_plan(plan)
    host.finish()


def image(*more, name="it"):
    """An image with a busybox and some of each kind of thing."""
    with open("/bin/busybox", "rb") as stream:
        busybox = stream.read()
    lowest = tar(directory(b"bin"), entry(b"bin/busybox", busybox, mode=0o755), symlink(b"bin/sleep", b"busybox"), *[
        directory(path) for path in (b"proc", b"sys", b"dev", b"etc", b"opt", b"opt/deep", b"srv")],
        entry(b"etc/old", b"old"), symlink(b"etc/link", b"old"), entry(b"opt/old", b"old"), entry(b"opt/deep/er", b"er"),
        entry(b"srv/file", b"file"), hard_link(b"srv/same", b"srv/file"), entry(b"srv/gone", b"gone"), entry(b"srv/kept", b"kept", owner=(7, 8)))
    shutil.rmtree("%s/%s" % (BASE, name), ignore_errors=True)
    path = Layout("%s/%s" % (BASE, name), lowest, *more, config=dict(Cmd=["/bin/sleep", "1000"])).done()
    answer = drive.converge("image", dict(name=name, oci=path))
    assert "error" not in answer, answer


def box(driver, name="box", **more):
    return dict(dict(name=name, image="it", namespaces=dict(types=TYPES), storage=dict(DECLARED.get(driver, {}), driver=driver),
                     services=[dict(name="app")]), **more)


def sandboxes(*each):
    return dict(sandboxes=[dict(name=one["name"], state="absent") if one.get("state") == "absent" else one for one in each],
                remove_data=any(one.get("state") == "absent" for one in each))


def pid_of(name):
    """The process of its service."""
    def found():
        for pid in filter(str.isdigit, os.listdir("/proc")):
            if jail.text("/proc/%s/cmdline" % pid) == "/bin/sleep\0001000\0" and "/bulkhead/%s" % name in jail.text("/proc/%s/cgroup" % pid) + "/":
                return pid
        return None
    return jail.until(found)


def root_of(name):
    """Its root, as it sees that."""
    return "/proc/%s/root" % pid_of(name)


def told(name):
    return drive.info("sandbox", names=[name], changes=True, storage=True)["sandboxes"][0]


def manifest_of(name):
    """What there is to see in a root: only what is of the image, and not the mounts."""
    found = {}
    for top in ("etc", "srv", "opt", "bin"):
        fd = os.open("%s/%s" % (root_of(name), top), os.O_RDONLY | os.O_DIRECTORY)
        try:
            found[top] = manifest.of(fd).text
        finally:
            os.close(fd)
    return found


def resource(driver):
    return _storage_tree.drivers()[driver]


def clear():
    """Take away everything; what is left below roots/ and uppers/."""
    roots = {name for name in stored() if not name.startswith(".") and not name.endswith(".previous")}
    names = roots.union(drive.new_host().records.names("sandboxes"))
    drive.converge("sandbox", dict(sandboxes=[dict(name=name, state="absent") for name in sorted(names)], remove_data=True, kill=True))
    jail.clear_images()
    return stored()


def stored():
    """What there is below roots/ and uppers/."""
    return [name for folder in ("roots", "uppers") if os.path.isdir("%s/%s" % (LIB, folder)) for name in sorted(os.listdir("%s/%s" % (LIB, folder)))]


def leftovers():
    return [name for name in stored() if name.startswith((".new", ".old"))]
