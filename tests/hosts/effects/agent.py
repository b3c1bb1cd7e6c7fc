# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The tests' hand on the host: answers calls of guest.py, a line of JSON each, through one ssh connection.

One process serves a whole file of tests, as each Python and each login costs seconds under software emulation. The engine is
called in forked children, each as a module call is a process of its own.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.realpath(__file__))
TESTS = os.path.dirname(os.path.dirname(HERE))
for folder in (TESTS + "/system", os.path.dirname(TESTS) + "/plugins"):
    sys.path.insert(0, folder)

import drive  # noqa: E402  pylint: disable=wrong-import-position

PROGRAM = "/usr/local/bin/bulkhead"
PATIENCE = 180  # seconds, emulated, with the cores of the machine in use

with open(HERE + "/workloads.py", encoding="utf-8") as source:
    WORKLOADS = source.read()


class Workload:
    """A process under test, with its output line by line."""

    def __init__(self, argv):
        self.child = subprocess.Popen(  # pylint: disable=consider-using-with
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0, start_new_session=True)
        self.text = b""

    def line(self, patience):
        """The next line as the value that it is."""
        end = time.monotonic() + patience
        while b"\n" not in self.text:
            if not select.select([self.child.stdout], [], [], max(end - time.monotonic(), 0))[0]:
                raise TimeoutError("the workload said nothing for %d seconds" % patience)
            more = os.read(self.child.stdout.fileno(), 1 << 16)
            if not more:
                raise EOFError("the workload ended with %s: %s" % (self.wait(patience), self.child.stderr.read().decode()[-2000:]))
            self.text += more
        line, dummy, self.text = self.text.partition(b"\n")
        return json.loads(line)

    def wait(self, patience):
        """The status it ends with; None when it does not end in that time."""
        try:
            return self.child.wait(timeout=patience)
        except subprocess.TimeoutExpired:
            return None

    def end(self):
        if self.child.poll() is None:
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait()
        for stream in (self.child.stdin, self.child.stdout, self.child.stderr):
            stream.close()


class Agent:
    """The calls."""

    def __init__(self):
        self.running = {}
        self.entry = PROGRAM

    # -- the engine

    def converge(self, noun, options, check=False):
        return drive.isolated(lambda: drive.converge(noun, options, check), PATIENCE)

    def show(self, noun, name):
        """What NOUN_info shows of it."""
        return _isolated(lambda: drive.resource(noun).show(drive.new_host(), name))

    def path(self, name):
        """The directory of a cgroup."""
        return _isolated(lambda: drive.new_host().cgroups().path(name, "unified"))

    def program(self, path=None):
        """The program is where a workload in a sandbox needs it: at a path, or as the module `host` has it, and then restore runs at boot."""
        _isolated(lambda: _program(path), 300.0)
        self.entry = path or PROGRAM
        return self.entry

    # -- workloads

    def workloads(self):
        """Their text."""
        return WORKLOADS

    def start(self, key, place, argv, patience=PATIENCE):
        """Run a workload (NAME, ARGUMENTS…) in a place ({cgroup}, {sandbox} or {}, the host); returns the first line that it says.

        A patience of 0 is not to wait for that.
        """
        command = [_python(place), "-ISc", WORKLOADS, *[str(word) for word in argv]]
        self.running[key] = Workload(_prefix(place, self.entry) + command)
        return self.running[key].line(patience) if patience else None

    def line(self, key, patience=PATIENCE):
        return self.running[key].line(patience)

    def wait(self, key, patience=PATIENCE):
        return self.running[key].wait(patience)

    def tell(self, key, word):
        """A line for its standard input."""
        self.running[key].child.stdin.write(b"%s\n" % str(word).encode())

    def pid(self, key):
        return self.running[key].child.pid

    def end(self, keys=None):
        for key in list(self.running if keys is None else keys):
            self.running.pop(key).end()

    # -- the host

    def run(self, argv, patience=PATIENCE):
        """(exit status, output, errors) of a command of the host."""
        ended = subprocess.run(argv, capture_output=True, text=True, timeout=patience, check=False, stdin=subprocess.DEVNULL)
        return ended.returncode, ended.stdout, ended.stderr

    def run_as(self, user, code):
        """The same of Python code, as a user of the host."""
        ended = subprocess.run([sys.executable, "-ISc", "import os\n" + code], capture_output=True, text=True, check=False,
                               stdin=subprocess.DEVNULL, user=user, group=user, extra_groups=[])
        return ended.returncode, ended.stdout, ended.stderr

    def read(self, *paths):
        texts = []
        for path in paths:
            with open(path, encoding="utf-8", errors="replace") as stream:
                texts.append(stream.read())
        return texts

    def write(self, path, text, mode=None):
        with open(path, "w", encoding="utf-8") as stream:
            stream.write(text)
        if mode is not None:
            os.chmod(path, mode)

    def status(self, pid):
        """/proc/PID/status as a dictionary."""
        return dict(line.split(":\t", 1) for line in self.read("/proc/%d/status" % pid)[0].splitlines() if ":\t" in line)

    def exists(self, path):
        return os.path.lexists(path)

    def device(self, path):
        """The number of the disk that a file is on."""
        number = os.stat(path).st_dev
        return "%d:%d" % (os.major(number), os.minor(number))

    def kind(self):
        """The row of hosts in docs/support.md that this one belongs to."""
        if not _systemd():
            return "plain"
        with open("/etc/os-release", encoding="utf-8") as stream:
            words = dict(line.rstrip().replace('"', "").split("=", 1) for line in stream if "=" in line)
        return words["ID"] + words["VERSION_ID"]

    def owner(self, path):
        found = os.stat(path)
        return found.st_uid, found.st_gid

    def owners(self, folder):
        """{name: user} of the files in a directory."""
        return {each.name: each.stat().st_uid for each in os.scandir(folder) if each.is_file()}

    def watch(self, paths, seconds):
        """The texts of files, again after a time, and the time between by the host's clock."""
        before, start = self.read(*paths), time.monotonic()
        time.sleep(seconds)
        return before, self.read(*paths), time.monotonic() - start

    def until(self, path, word, number, patience=PATIENCE):
        """Wait until the number after a word in a file is at least so great; returns the text."""
        end = time.monotonic() + patience
        while True:
            text = self.read(path)[0]
            found = [int(line.split()[1]) for line in text.splitlines() if line.split()[0] == word]
            if found and found[0] >= number:
                return text
            if time.monotonic() > end:
                raise TimeoutError("%s of %s did not come to %d: %s" % (word, path, number, text))
            time.sleep(0.05)

    def jail(self, path):
        """A directory with what a root needs, and what is to be bound into it."""
        import jail

        return jail.make(path), jail.BINDS

    def clear(self):
        """Take away all that the tests declared."""
        return _isolated(_clear, 300.0)


def _clear():
    import jail

    jail.clear()
    return True


def _isolated(function, patience=PATIENCE):
    """What the function returns in a forked child; what goes wrong there goes wrong here."""
    answer = drive.isolated(function, patience)
    if isinstance(answer, dict) and "error" in answer:
        raise RuntimeError(answer["error"])
    return answer


def _systemd():
    return os.path.isdir("/run/systemd/system")


def _python(place):
    """The interpreter inside a sandbox is one that is bound into it (jail.BINDS)."""
    return os.path.realpath(sys.executable) if "sandbox" in place else sys.executable


def _prefix(place, entry):
    """What goes in front of a command to run it there."""
    if "sandbox" in place:
        return [entry, "run", place["sandbox"]]
    if "cgroup" not in place:
        return []
    files, unit = _isolated(lambda: _joined(place["cgroup"]))
    if files:
        return ["/bin/sh", "-c", "for file in %s; do echo 0 > $file || exit 99; done; exec \"$@\"" % " ".join(files), "join"]
    return ["systemd-run", "--scope", "--quiet", "--collect", "--slice=" + unit, "--"]


def _joined(name):
    """The files by which a process joins a cgroup, or the slice that systemd is to start it in."""
    trees = drive.new_host().cgroups()
    files = trees.join_files(name, "exec")
    if not files:
        from module_utils._supervisor import systemctl

        return [], systemctl.slice_unit(name)
    trees.make_leaf(name, "exec")
    return files, None


def _program(path):
    from module_utils._engine import engine
    from module_utils._program import archive, host as whole

    if not path:
        return engine.converge(drive.new_host(), whole, {}, False).joined("actions")
    with open(path, "wb") as stream:
        stream.write(archive.build("/usr/bin/python3"))
    os.chmod(path, 0o755)
    return []


def main():
    agent = Agent()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a child prints goes to the log
    try:
        for line in sys.stdin:
            name, arguments, options = json.loads(line)
            try:
                answer = {"value": getattr(agent, name)(*arguments, **options)}
            except Exception as exc:  # pylint: disable=broad-except
                answer = {"error": "%s: %s" % (type(exc).__name__, exc)}
            answers.write(json.dumps(answer, default=str) + "\n")
            answers.flush()
    finally:
        agent.end()


if __name__ == "__main__":
    main()
