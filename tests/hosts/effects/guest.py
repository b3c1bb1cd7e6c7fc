# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host under test, as the tests of effects see it: calls of agent.py over there, and what they are mostly used for."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import time

HERE = os.path.dirname(os.path.realpath(__file__))
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(HERE)))
PARTS = ("plugins", "tests/system/drive.py", "tests/system/jail.py", "tests/hosts/effects")
FOLDER = "/root/bulkhead-tests"


def parcel():
    """A tar archive of the engine and of the agent."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for part in PARTS:
            archive.add(os.path.join(ROOT, part), part, filter=lambda each: None if "__pycache__" in each.name else each)
    return data.getvalue()


class Guest:
    """A host. shell(command) is the argument list that runs a command in a shell there, as root."""

    def __init__(self, shell):
        self.shell, self.agent = shell, None

    def connect(self, patience=180):
        subprocess.run(self.shell("mkdir -p %s && tar -xC %s" % (FOLDER, FOLDER)), input=parcel(), check=True, timeout=patience)
        self.agent = subprocess.Popen(  # pylint: disable=consider-using-with
            self.shell("exec python3 -B %s/tests/hosts/effects/agent.py" % FOLDER), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def close(self):
        """Leave the host, which may be gone."""
        agent, self.agent = self.agent, None
        if not agent:
            return
        try:
            agent.stdin.close()
            agent.wait(timeout=30)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            agent.kill()
            agent.wait()
        agent.stdout.close()

    def reboot(self, patience=300):
        """It reboots itself; returns when all that starts at boot has come to an end."""
        boot = "/proc/sys/kernel/random/boot_id"
        before = self.read(boot)[0]
        self.run(["systemctl", "reboot", "--no-block"])
        self.close()
        end = time.monotonic() + patience
        while True:
            try:
                found = subprocess.run(self.shell("cat " + boot), capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL)
                if found.returncode == 0 and found.stdout != before:
                    break
            except subprocess.TimeoutExpired:
                pass
            assert time.monotonic() < end, "the host does not come back"
            time.sleep(1)
        self.connect()
        return self.run(["systemctl", "is-system-running", "--wait"], patience)[1].strip()

    def __getattr__(self, name):
        """A call of the agent."""
        if name.startswith("_"):
            raise AttributeError(name)

        def act(*arguments, **options):
            if not self.agent:
                self.connect()
            self.agent.stdin.write(json.dumps([name, arguments, options], default=str) + "\n")
            self.agent.stdin.flush()
            line = self.agent.stdout.readline()
            assert line, "the host went away in %s%s" % (name, arguments)
            answer = json.loads(line)
            assert "error" not in answer, "%s%s: %s" % (name, arguments, answer["error"])
            return answer["value"]

        return act

    # -- the engine

    def declare(self, noun, check=False, **options):
        """What the module would answer; an error fails the test."""
        answer = self.converge(noun, options, check)
        assert "error" not in answer, answer["error"]
        return answer

    def refusal(self, noun, **options):
        """The one line that the engine refuses with."""
        answer = self.converge(noun, options)
        assert "error" in answer, answer
        return answer["error"]

    # -- files

    def number(self, path):
        return int(self.read(path)[0])

    def table(self, path):
        return table(self.read(path)[0])

    def started(self, pid):
        """When a process was started, in ticks since the host's boot."""
        return self.read("/proc/%d/stat" % pid)[0].rpartition(") ")[2].split()[19]


class Group:
    """A cgroup that the engine made on a host, and its driver."""

    def __init__(self, guest, name, driver="auto"):
        self.guest, self.name, self.driver, self.folder = guest, name, driver, None

    def declare(self, **limits):
        """Make or change it."""
        return self.guest.declare("cgroup", name=self.name, driver=self.driver, **limits)

    def place(self):
        return {"cgroup": self.name}

    def file(self, name):
        if not self.folder:
            self.folder = self.guest.path(self.name)
        return "%s/%s" % (self.folder, name)

    def start(self, key, *argv, **options):
        """Run a workload in it; returns the first line that it says, unless patience is 0."""
        return self.guest.start(key, self.place(), argv, **options)

    def number(self, name):
        return self.guest.number(self.file(name))

    def table(self, name):
        return self.guest.table(self.file(name))

    def shown(self):
        """What cgroup_info shows."""
        return self.guest.show("cgroup", self.name)

    def rate(self, name, word, seconds=3):
        """By how much a counter of the kernel's grows in a second."""
        before, after, passed = self.guest.watch([self.file(name)], seconds)
        return (counter(after[0], word) - counter(before[0], word)) / passed


def shares(groups, name, word, seconds=4):
    """By how much a counter grows in each of some cgroups in the same time."""
    before, after, dummy = groups[0].guest.watch([group.file(name) for group in groups], seconds)
    return [counter(new, word) - counter(old, word) for old, new in zip(before, after)]


def counter(text, word):
    """A counter in a file like cpu.stat, or the sum over all devices in one like io.stat."""
    pairs = [pair.split("=") for line in text.splitlines() for pair in line.split()[1:] if "=" in pair]
    return sum(int(number) for key, number in pairs if key == word) if pairs or not text else table(text)[word]


def table(text):
    """A file of words and numbers, such as memory.events."""
    return {line.split()[0]: int(line.split()[1]) for line in text.splitlines()}


def eventually(condition, patience=60):
    """Wait for what the kernel or systemd brings about by itself."""
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.2)


def near(found, wanted, part=0.3):
    """Whether a measured rate is what it should be, within the part that emulation costs."""
    sys.stdout.write("measured %.4g, wanted %.4g\n" % (found, wanted))
    return abs(found - wanted) <= part * wanted
