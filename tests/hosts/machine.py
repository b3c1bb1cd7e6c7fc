# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A test host: a virtual machine with stock Debian, known by its name, and all of it in one directory.

The directory has ssh_config, by which ssh and Ansible reach it (host keys are checked: they are known from the image), the disk,
the console, and what QEMU is controlled by. BULKHEAD_HOSTS names where the directories are; without it, build/hosts.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time

import images
import qemu

COPY = "/build/ansible_collections/bulkhead/isolation"  # of a checkout, on which Ansible's tools work
BOOT = 600  # seconds: an emulated boot takes 30 to 50, and many times that with the cores of the machine in use


def place():
    checkout = os.path.dirname(os.path.dirname(images.HERE))
    checkout = checkout[: -len(COPY)] if checkout.endswith(COPY) else checkout
    return os.environ.get("BULKHEAD_HOSTS") or os.path.join(checkout, "build", "hosts")


def names():
    return sorted(name for name in os.listdir(place())) if os.path.isdir(place()) else []


def secure_shell(config, words, **options):
    return subprocess.run(["ssh", "-F", config, *words], check=False, **options)


def write_access(directory, name, port, image):
    """ssh_config and known_hosts for whoever wants to reach the host."""
    with open(image + "/host_key.pub", encoding="ascii") as source:
        key = " ".join(source.read().split()[:2])
    lines = [
        "Host %s" % name, "  HostName 127.0.0.1", "  Port %d" % port, "  User tester", "  HostKeyAlias %s" % name,
        '  IdentityFile "%s/id"' % image, "  IdentitiesOnly yes", '  UserKnownHostsFile "%s/known_hosts"' % directory,
        "  GlobalKnownHostsFile /dev/null", "  StrictHostKeyChecking yes", "  LogLevel ERROR",
        "  ServerAliveInterval 15", "  ServerAliveCountMax 12",  # a host that reboots does not always end its connections
    ]
    for path, text in (("known_hosts", "%s %s\n" % (name, key)), ("ssh_config", "\n".join(lines) + "\n")):
        with open(os.path.join(directory, path), "w", encoding="utf-8") as target:
            target.write(text)


def await_login(process, name, patience=BOOT):
    """Wait until the host lets its user in, and set its clock, which stands since its state was saved."""
    end = time.monotonic() + patience
    while True:
        words = ["-o", "ConnectTimeout=10", name, "sudo date --set=@%d && cat /proc/sys/kernel/random/boot_id" % (time.time() + 1)]
        try:
            ended = secure_shell(process.path("ssh_config"), words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE, text=True, timeout=60)
            if ended.returncode == 0:
                return ended.stdout.split()[-1]
            why = " ".join(ended.stderr.split())
        except subprocess.TimeoutExpired:
            why = "ssh waits"
        if not process.pid():
            raise qemu.Unable("Cannot start %s: QEMU ended. See %s." % (name, process.path("qemu.log")))
        if time.monotonic() > end:
            raise qemu.Unable("Cannot reach %s: %s. See %s." % (name, why, process.path("console.log")))
        time.sleep(0.5)


def first_boot(process, image, words):
    """Boot a host, and wait until all that starts at boot has come to an end: that is the clean state."""
    port = qemu.free_port()
    write_access(process.directory, "first", port, image)
    process.start(words, port)
    await_login(process, "first")
    ended = secure_shell(process.path("ssh_config"), ["first", "sudo systemctl is-system-running --wait; systemctl --failed; sync"],
                         stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    if not ended.stdout.startswith("running"):
        raise qemu.Unable("Cannot use the image %s: its units do not all start.\n%s" % (image, ended.stdout))


class Machine:
    def __init__(self, name):
        self.name = name
        self.directory = os.path.join(place(), name)
        self.process = qemu.Process(self.directory)

    def settings(self):
        """What it was made of: suite, memory, cpus, port, image, accelerator, and the saved state or None."""
        try:
            with open(self.process.path("settings.json"), encoding="utf-8") as source:
                return json.load(source)
        except FileNotFoundError:
            raise qemu.Unable("Cannot find the test host %s: nobody has started it. Run `tests/hosts/vm start %s SUITE`."
                              % (self.name, self.name)) from None

    def exists(self):
        return os.path.exists(self.process.path("settings.json"))

    def is_running(self):
        return self.process.pid() is not None

    def create(self, suite, memory=qemu.MEMORY, cpus=qemu.CPUS, cold=False, counted=False):
        """Make its directory: of the state in the cache, or, with another size, counted or cold, of the image, to be booted."""
        if cold or counted or (memory, cpus) != (qemu.MEMORY, qemu.CPUS):
            image, state = images.image(suite), None
        else:
            image, state = images.running(suite, first_boot)
        self.destroy()
        os.makedirs(self.directory)
        found = {"suite": suite, "memory": memory, "cpus": cpus, "counted": counted, "port": qemu.free_port(), "image": image, "state": state,
                 "accelerator": images.accelerator(image)}
        write_access(self.directory, self.name, found["port"], image)
        self.new_disk(found)
        with open(self.process.path("settings.json"), "w", encoding="utf-8") as target:
            json.dump(found, target)

    def new_disk(self, settings):
        images.new_disk(self.process.path("disk.qcow2"), settings["state"] + "/disk.qcow2" if settings["state"]
                        else settings["image"] + "/disk.img")

    def launch(self, state=None):
        settings = self.settings()
        words = qemu.arguments(settings["image"], settings["accelerator"], settings["memory"], settings["cpus"], settings.get("counted", False))
        self.process.start(words, settings["port"], state + "/memory" if state else None)
        await_login(self.process, self.name)

    def start(self):
        """Boot what is on its disk; a host that runs is let be."""
        if not self.is_running():
            self.launch()

    def reset(self):
        """Back to the clean running state, whatever was done to it; in seconds, where there is a saved state."""
        settings = self.settings()
        self.kill()
        self.new_disk(settings)
        self.launch(settings["state"])

    def kill(self):
        """Cut its power."""
        self.forget_connection()
        self.process.kill()

    def stop(self, patience=300):
        """Ask it to power off, and cut its power when it does not."""
        if self.is_running():
            self.process.tell(("system_powerdown",))
            self.process.end(patience)
        self.kill()

    def destroy(self):
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def forward(self, protocol, port, outer=None):
        """The port of this machine's loopback by which a port of the host is reached, tcp or udp, until it is off or reset.

        Another host finds it at 10.0.2.2, which is also where it seems to come from.
        """
        outer = outer or qemu.free_port()
        words = "hostfwd_add net %s:127.0.0.1:%d-:%d" % (protocol, outer, port)
        said = self.process.tell(("human-monitor-command", {"command-line": words}))[0]
        if said:
            raise qemu.Unable("Cannot forward a port to %s: %s." % (self.name, said.strip()))
        return outer

    # Commands share one connection. The path of its socket is relative: a long one would not fit.

    def ssh(self, *command, **options):
        words = ["-o", "ControlMaster=auto", "-o", "ControlPath=control", "-o", "ControlPersist=60", self.name, *command]
        return secure_shell("ssh_config", words, cwd=self.directory, **options)

    def forget_connection(self):
        if os.path.exists(self.process.path("control")):
            secure_shell("ssh_config", ["-o", "ControlPath=control", "-O", "exit", self.name], cwd=self.directory,
                         stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                os.unlink(self.process.path("control"))  # its process may have ended without
            except FileNotFoundError:
                pass
