# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One QEMU process: its command line, how it is told what to do (QMP), and how it is found again and ended by its pid."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import time

PROGRAM = "qemu-system-x86_64"
# `max` and not `host` without KVM: there is nothing else to choose from.
ACCELERATORS = {
    "tcg": ["-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max"],
    "kvm": ["-accel", "kvm", "-cpu", "host"],
}
# Time that passes with the instructions that are carried out, whatever else this machine does: what costs as much takes as long.
COUNTED = ["-accel", "tcg,thread=single,tb-size=512", "-icount", "shift=2,sleep=on", "-cpu", "max"]  # 4 ns each
KERNEL = "root=/dev/vda rw console=ttyS0 loglevel=4 mitigations=off"
MEMORY = 2048
CPUS = int(os.environ.get("BULKHEAD_TEST_CPUS", "2"))


class Unable(Exception):
    """A host cannot be had; the message is one line: Cannot <verb> <object>: <reason>. <what to do>."""


def version():
    return subprocess.run([PROGRAM, "--version"], stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[0]


def arguments(image, accelerator, memory=MEMORY, cpus=CPUS, counted=False):
    """What makes the machine what it is: a running state fits only a machine with the same ones."""
    return [
        "-M", "q35", *(COUNTED if counted else ACCELERATORS[accelerator]), "-m", str(memory), "-smp", str(cpus), "-nodefaults", "-no-user-config",
        "-display", "none", "-kernel", image + "/vmlinuz", "-initrd", image + "/initrd", "-append", KERNEL,
        "-device", "virtio-net-pci,netdev=net", "-device", "virtio-rng-pci", "-rtc", "base=utc,clock=host",
    ]


class Process:
    """The QEMU of one directory: it runs there, with disk.qcow2, and keeps there console.log, qemu.log, qmp and pid."""

    def __init__(self, directory):
        self.directory = directory

    def path(self, name):
        return os.path.join(self.directory, name)

    def pid(self):
        """The pid of a QEMU that runs for this directory, else None: a number alone may be another process by now."""
        try:
            with open(self.path("pid"), encoding="ascii") as source:
                pid = int(source.read())
            if os.path.realpath("/proc/%d/cwd" % pid) != os.path.realpath(self.directory):
                return None
            with open("/proc/%d/cmdline" % pid, "rb") as source:
                return pid if PROGRAM.encode() in source.read() else None
        except (OSError, ValueError):
            return None

    def start(self, words, port, state=None):
        """Start it, with a forwarded port on loopback; from a saved running state, or by booting the disk."""
        argv = [
            PROGRAM, *words, "-drive", "file=disk.qcow2,if=virtio,format=qcow2,cache=unsafe,discard=unmap",
            "-netdev", "user,id=net,hostfwd=tcp:127.0.0.1:%d-:22" % port,
            "-serial", "file:console.log", "-qmp", "unix:qmp,server=on,wait=off", "-pidfile", "pid",
        ]
        if state:
            argv += ["-incoming", "exec:cat '%s'" % state]
        with open(self.path("qemu.log"), "wb") as log:
            child = subprocess.Popen(  # pylint: disable=consider-using-with  # it outlives us
                argv, cwd=self.directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )
        end = time.monotonic() + 30
        while time.monotonic() < end:
            if child.poll() is not None:
                with open(self.path("qemu.log"), encoding="utf-8", errors="replace") as log:
                    raise Unable("Cannot start a test host: %s." % (" ".join(log.read().split()) or "QEMU ended"))
            if self.pid() and os.path.exists(self.path("qmp")):
                break
            time.sleep(0.05)
        else:
            child.kill()
            raise Unable("Cannot start a test host: QEMU does not come up. See %s." % self.path("qemu.log"))
        if state:
            while self.tell(("query-status",))[0]["status"] == "inmigrate":
                time.sleep(0.05)
            self.tell(("cont",))  # it was halted when its state was saved, and so it comes back

    def kill(self):
        """What a power cut does: what the guest has not flushed to its disk is lost."""
        self.end(0)

    def end(self, patience):
        """Wait until it has ended, and end it when that takes too long. Until it has, it has its disk locked."""
        pid = self.pid()
        if pid:
            process = os.pidfd_open(pid)
            try:
                if not select.select([process], [], [], patience)[0]:
                    os.kill(pid, signal.SIGKILL)
                    select.select([process], [], [])
                os.waitpid(pid, 0)
            except ChildProcessError:
                pass  # it is not our own child
            finally:
                os.close(process)
        for name in ("pid", "qmp"):
            try:
                os.unlink(self.path(name))
            except FileNotFoundError:
                pass

    def tell(self, *commands):
        """Send QMP commands, ("stop",) or ("migrate", {"uri": …}); return the answers."""
        folder = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with socket.socket(socket.AF_UNIX) as channel:
                channel.settimeout(30)
                channel.connect("/proc/self/fd/%d/qmp" % folder)  # the path of a socket has at most 107 bytes
                with channel.makefile("rw", encoding="utf-8") as stream:
                    stream.readline()  # its greeting
                    return [ask(stream, *command) for command in (("qmp_capabilities",), *commands)][1:]
        finally:
            os.close(folder)

    def save(self, path):
        """Write the running state to a file, and end the machine: disk.qcow2 is then what belongs to that state."""
        self.tell(
            ("stop",), ("migrate-set-parameters", {"max-bandwidth": 1 << 40}), ("migrate", {"uri": "exec:cat > '%s'" % path}),
        )
        while True:
            status = self.tell(("query-migrate",))[0].get("status")
            if status == "completed":
                break
            if status in ("failed", "cancelled"):
                raise Unable("Cannot save the state of a test host: QEMU says %s. See %s." % (status, self.path("qemu.log")))
            time.sleep(0.1)
        self.tell(("quit",))
        self.end(30)


def ask(stream, name, words=None):
    stream.write(json.dumps({"execute": name, "arguments": words or {}}) + "\n")
    stream.flush()
    while True:
        line = stream.readline()
        if not line:
            if name == "quit":
                return {}
            raise Unable("Cannot control a test host: QEMU closed the connection.")
        answer = json.loads(line)
        if "error" in answer:
            raise Unable("Cannot control a test host: %s says %s." % (name, answer["error"]["desc"]))
        if "return" in answer:  # and not an event
            return answer["return"]


def free_port():
    """A port on loopback that nobody has. Somebody may take it before QEMU does: then QEMU says so and ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
