# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a test does with a test host: commands as root, the engine without Ansible, and the host's own misfortunes."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import subprocess
import tarfile
import time

import images
import machine
import packages

ROOT = os.path.dirname(os.path.dirname(images.HERE))
TREE = "/root/bulkhead"  # on the host: plugins and tests of this checkout
SUITES = {"debian12": "bookworm", "debian13": "trixie"}


class Host:
    """A host by its name; `name` says which Debian it is, and `machine` is the virtual machine itself."""

    def __init__(self, name, instance, **size):
        self.name = name
        self.machine = machine.Machine(instance)
        self.machine.create(SUITES[name], **size)
        self.reset()

    def shell(self, line):
        """The words of a command that runs a line of the shell there as root, by a connection of its own."""
        return ["ssh", "-F", self.machine.process.path("ssh_config"), self.machine.name, "sudo sh -c " + shlex.quote(line)]

    def attempt(self, command, data=None, patience=300):
        """(exit status, output, errors) of a command of the shell, or of a list of words, as root."""
        line = command if isinstance(command, str) else shlex.join(command)
        binary = isinstance(data, bytes)
        ended = self.machine.ssh("sudo sh -c " + shlex.quote(line), input=data or (b"" if binary else ""),
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=not binary, timeout=patience)
        return ended.returncode, ended.stdout, ended.stderr

    def run(self, command, data=None, patience=300):
        """Its output; it must succeed."""
        status, output, errors = self.attempt(command, data, patience)
        assert status == 0, "%s: exit status %d\n%s%s" % (command, status, output, errors)
        return output

    def python(self, source, *words, patience=300):
        """What a program of Python prints, run as root where `import drive` gives the engine."""
        return self.run(["env", "PYTHONPATH=%s/tests/system" % TREE, "python3", "-", *words], source, patience)

    def converge(self, noun, check=False, patience=300, **options):
        """What the module would answer: changed, actions, diff, …; `error` when it is refused (tests/system/drive.py)."""
        return self.converges(noun, [check], patience, **options)[0]

    def converges(self, noun, checks, patience=300, **options):
        """The answers to the same in check mode or not, one after the other: each Python that is started here costs seconds."""
        words = ["python3", TREE + "/tests/system/drive.py", noun, json.dumps(options)] + ["check" if check else "run" for check in checks]
        return [json.loads(line) for line in self.run(words, patience=patience).splitlines()]

    def suite(self, words, **environment):
        """How many tests of tests/system pass there, in a private host beside what systemd runs; none of them is skipped, nor written down."""
        said = self.run("cd %s; env %s BULKHEAD_SUPPORT= tests/alone python3 -m pytest -q -p no:cacheprovider %s 2>&1" % (
            TREE, " ".join("%s=%s" % item for item in environment.items()), words), patience=3600)
        found = re.fullmatch(r"(\d+) passed(, \d+ deselected)?( in .*)?", said.splitlines()[-1])
        assert found, said
        return int(found.group(1))

    def bring(self):
        """The tree of this checkout, as it is now."""
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w:gz") as target:
            for folder in ("plugins", "tests"):
                target.add(os.path.join(ROOT, folder), folder, filter=lambda item: None if "__pycache__" in item.name else item)
        self.run("rm -rf %s; mkdir -p %s; tar -C %s -xzf -" % (TREE, TREE, TREE), archive.getvalue())

    def install(self, *names):
        """The files of packages of its Debian; their scripts would only take long here, and what they depend on is there or not needed."""
        for path in packages.fetched(SUITES[self.name], names):
            files = subprocess.run(["dpkg-deb", "--fsys-tarfile", path], stdout=subprocess.PIPE, check=True).stdout
            self.run("tar -C / --keep-directory-symlink -xf -", files)

    # What may happen to a host

    def reset(self):
        """Clean and running, with the tree."""
        self.machine.reset()
        self.bring()

    def boot_id(self):
        return self.run("cat /proc/sys/kernel/random/boot_id").strip()

    def reboot(self, settled=True):
        """It reboots itself; return when it is there again, and (settled) when all that starts at boot has ended."""
        before = self.boot_id()
        self.attempt("systemctl reboot")
        self.machine.forget_connection()
        end = time.monotonic() + machine.BOOT
        while machine.await_login(self.machine.process, self.machine.name) == before:
            assert time.monotonic() < end, "%s does not reboot" % self.name
            time.sleep(0.5)
        if settled:
            self.settle()

    def poweroff(self):
        """The power is cut."""
        self.machine.kill()

    def start(self, settled=True):
        """It boots from its disk."""
        self.machine.start()
        if settled:
            self.settle()

    def settle(self):
        """Wait for the end of the boot; return how systemd finds itself: running, or degraded when a unit failed."""
        return self.attempt("systemctl is-system-running --wait")[1].strip()

    def destroy(self):
        self.machine.destroy()


def until(condition, patience=120):
    """Wait for what the host brings about by itself."""
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.5)
