# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What hosts start from, made once and kept in the cache: the image of a suite, and the state of a host that has booted it.

The image is named by a digest of its recipe (make-image), the running state in it by one of the machine too: another
recipe, QEMU or accelerator is another directory, and one that is there is whole and never changed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time

import qemu

HERE = os.path.dirname(os.path.realpath(__file__))
CACHE = "/var/cache/bulkhead/hosts"
SUITES = ("bookworm", "trixie")  # Debian 12 and 13
PROBE = 40  # seconds for a boot with KVM, which takes some 10 where it works
KEPT = 30 * 86400  # seconds for which an image stays that nobody uses


def digest(*parts):
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def tell(text):
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def alone(name):
    """One at a time in the cache, of those that make the same thing."""
    os.makedirs(CACHE, exist_ok=True)
    with open(os.path.join(CACHE, ".%s.lock" % name), "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def image(suite):
    """The directory of the image of a suite; it is made when it is not there."""
    if suite not in SUITES:
        raise qemu.Unable("Cannot make a test host of %s: its suite is not known. Choose from %s." % (suite, ", ".join(SUITES)))
    recipe = os.path.join(HERE, "make-image")
    with open(recipe, encoding="utf-8") as source:
        path = os.path.join(CACHE, "%s-%s" % (suite, digest(source.read())))
    if not os.path.isdir(path):
        tell("hosts: making the image of %s" % suite)
        # Mounts of the work end with it, however it ends.
        words = ["unshare", "--mount", "--propagation", "private", "--", recipe, path, suite]
        ended = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True, check=False)
        if ended.returncode:
            raise qemu.Unable("Cannot make the image of %s: exit status %d.\n%s" % (suite, ended.returncode, ended.stdout))
        drop_unused(suite)
    os.utime(path)
    return path


def drop_unused(suite):
    """Remove the images of other recipes that no checkout has used for long: each takes a gigabyte and more."""
    with os.scandir(CACHE) as entries:
        for entry in entries:
            if entry.name.startswith(suite + "-") and time.time() - entry.stat().st_mtime > KEPT:
                shutil.rmtree(entry.path)


def new_disk(path, backing):
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw" if backing.endswith(".img") else "qcow2",
                    "-b", backing, path], check=True)


def accelerator(path):
    """kvm where an image really boots with it, else tcg. A /dev/kvm that can be opened says little: the kernel may hang.

    What was found is remembered for this kernel of this machine and this QEMU.
    """
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    with open("/proc/cpuinfo", encoding="utf-8") as source:
        cpu = next((line for line in source if line.startswith("model name")), "")
    memory = os.path.join(CACHE, "accelerator-" + digest(os.uname().release, qemu.version(), cpu))
    with alone("accelerator"):
        if not os.path.exists(memory):
            found = "kvm" if boots(path) else "tcg"
            tell("hosts: %s" % ("KVM works here" if found == "kvm" else "KVM does not boot here: hosts are emulated"))
            with open(memory + ".part", "w", encoding="ascii") as target:
                target.write(found)
            os.replace(memory + ".part", memory)
        with open(memory, encoding="ascii") as source:
            return source.read()


def boots(path):
    """Whether the image comes to its login prompt with KVM, in time."""
    folder = os.path.join(CACHE, ".probe")
    shutil.rmtree(folder, ignore_errors=True)
    os.mkdir(folder)
    process = qemu.Process(folder)
    try:
        new_disk(process.path("disk.qcow2"), path + "/disk.img")
        process.start(qemu.arguments(path, "kvm"), qemu.free_port())
        end = time.monotonic() + PROBE
        while time.monotonic() < end and process.pid():
            with open(process.path("console.log"), "rb") as console:
                if b" login:" in console.read():
                    return True
            time.sleep(0.2)
        return False
    except (qemu.Unable, OSError):
        return False
    finally:
        process.kill()
        shutil.rmtree(folder)


def running(suite, boot):
    """(image, state): a directory with disk.qcow2 and memory, of a host that has just booted.

    boot(directory) brings the one that is made to the point at which it is taken.
    """
    path = image(suite)
    words = qemu.arguments(path, accelerator(path))
    state = os.path.join(path, "running-" + digest(qemu.version(), *words))
    with alone(os.path.basename(path)):
        if not os.path.isdir(state):
            tell("hosts: booting %s for the first time" % suite)
            part = state + ".part"
            qemu.Process(part).kill()  # of a run that was killed
            shutil.rmtree(part, ignore_errors=True)
            os.mkdir(part)
            process = qemu.Process(part)
            try:
                new_disk(process.path("disk.qcow2"), path + "/disk.img")
                boot(process, path, words)
                process.save("memory")
            finally:
                process.kill()
            os.rename(part, state)
    return path, state
