# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run the stages of the tests and count: ``tests/run.py [STAGE...]``, without a stage all that belong to `make test`.

A stage is a function that yields (name, passed, failed) for each thing that it ran. All stages run, whatever the others
say; the last line is the sum. What a stage prints goes to the screen when it was asked for by name, and otherwise to
build/log/STAGE.txt, which is shown when it failed. The Makefile sets what Ansible needs in the environment.
"""

from __future__ import annotations

import concurrent.futures
import glob
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from xml.etree import ElementTree

HERE = os.path.dirname(os.path.realpath(__file__))
ROOT = os.path.dirname(HERE)
sys.path.insert(0, os.path.join(ROOT, "scripts"))
import tree  # noqa: E402  pylint: disable=wrong-import-position

BIN = os.path.join(ROOT, ".venv", "bin")
ALONE = [os.path.join(BIN, "python"), os.path.join(ROOT, "tests", "alone")]
# The oldest pyroute2 that is promised (it needs a Python before 3.12), Debian 12's, Debian 13's and the newest.
PYROUTE2 = {"0.5.14": ("python3.9", "python3.10", "python3.11"), "0.7.2": ("python3.11", "python"), "0.7.7": ("python3.13", "python"), "0.9.7": ("python",)}
PYTEST = ["-q", "-p", "no:cacheprovider", "--junitxml"]
LIMIT = 1800  # seconds for one command
# of tests/system and tests/integration: minutes each
LONGEST = ("test_upgrade", "test_upgrade_storage", "test_storage", "test_storage_at_once", "test_leaks", "image_fleet", "quickstart")
HOSTS = ("debian12", "debian13")  # the virtual machines of tests/hosts and molecule; `make test` takes the last one


def search_path():
    """PATH with .venv first, and pyenv's Pythons themselves: its shims fail for those that are not selected."""
    folders = os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").split(":")
    pythons = sorted(glob.glob(os.path.expanduser("~/.pyenv/versions/3.*/bin")))
    return ":".join([BIN] + [folder for folder in folders if not folder.endswith("/.pyenv/shims")] + pythons)


class Runner:
    """Runs the commands of one stage, each in a session of its own, their output to one place."""

    def __init__(self, stage, shown):
        self.log = os.path.join(ROOT, "build", "log", stage + ".txt")
        self.out = None if shown else open(self.log, "w", encoding="utf-8")  # pylint: disable=consider-using-with
        self.env = dict(os.environ, PATH=search_path())
        for name in [name for name in self.env if name.startswith(("PYTHON", "VIRTUAL_ENV", "GIT_"))]:
            del self.env[name]

    def run(self, argv, cwd=tree.COPY, **env):
        """Return (exit status, output); the output has been shown or logged."""
        self.say("$ " + " ".join(argv))
        child = subprocess.Popen(
            argv, cwd=cwd, env=dict(self.env, **env), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True,
        )
        signal.signal(signal.SIGALRM, lambda *dummy: os.killpg(child.pid, signal.SIGKILL))
        signal.alarm(LIMIT if self.out else 0)  # by name, a stage may take as long as it likes
        lines = []
        for line in child.stdout:
            lines.append(line)
            self.say(line.rstrip("\n"))
        status = child.wait()
        signal.alarm(0)
        self.say("exit status %d" % status)
        return status, "".join(lines)

    def run_at_once(self, commands, cwd=tree.COPY):
        """The exit status of each, in order; what one of them printed comes in one piece when it has ended.

        One more runs than there are processors, since tests of services wait for much of their time."""
        def run(argv):
            child = subprocess.Popen(
                argv, cwd=cwd, env=self.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                errors="replace", start_new_session=True)
            try:
                text = child.communicate(timeout=LIMIT)[0]
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                text = child.communicate()[0]
            self.say("$ %s\n%s\nexit status %d" % (" ".join(argv), text, child.returncode))
            return child.returncode

        with concurrent.futures.ThreadPoolExecutor((os.cpu_count() or 1) + 1) as pool:
            yield from pool.map(run, commands)

    def say(self, line):
        print(line, file=self.out, flush=True)


def sanity(runner):
    status, text = runner.run(["ansible-test", "sanity", "--color", "no"])
    ran = len(re.findall(r'^Running sanity test "', text, re.M))
    bad = re.search(r"^FATAL: The (\d+) sanity test\(s\) listed below", text, re.M)
    failed = int(bad.group(1)) if bad else int(status != 0)
    yield "ansible-test sanity", max(ran - failed, 0), failed


def lint(runner):
    for argv in (
        ["ansible-lint", "--nocolor"],
        ["antsibull-docs", "lint-collection-docs", "--plugin-docs", "--skip-rstcheck", "."],
        ["antsibull-changelog", "lint"],
        ["antsibull-changelog", "lint-changelog-yaml", "changelogs/changelog.yaml"],
        ["ansible-galaxy", "collection", "build", "--force", "--output-path", os.path.join(ROOT, "build")],
    ):
        status = runner.run(argv)[0]
        yield " ".join(argv[:2]), int(status == 0), int(status != 0)


def pytest(runner, folder, more=(), what="", **env):
    report = _report(folder)
    status = runner.run(["pytest", *PYTEST, report, *more, "tests/" + folder], **env)[0]
    yield ("pytest tests/" + folder + what, *_counts(report, status))


def _report(name):
    path = os.path.join(ROOT, "build", "log", name + ".xml")
    if os.path.exists(path):
        os.unlink(path)
    return path


def _counts(report, status):
    passed = failed = 0
    if os.path.exists(report):
        for suite in ElementTree.parse(report).getroot().iter("testsuite"):
            failed += int(suite.get("failures")) + int(suite.get("errors"))
            passed += int(suite.get("tests")) - int(suite.get("skipped"))
    passed = max(passed - failed, 0)
    return passed, failed or int(status != 0)


def unit(runner):
    yield from pytest(runner, "unit")


def layers(runner):
    # Real root file systems, which cannot be had inside a private host: it has no network.
    status = runner.run(["python", "tests/system/layers.py"])[0]
    yield "layers", int(status == 0), int(status != 0)


def system(runner):
    # Each file in a private host of its own, some at once; the longest first, that it is not alone at the end.
    names = sorted((os.path.basename(path)[:-len(".py")] for path in glob.glob(os.path.join(tree.COPY, "tests", "system", "test_*.py"))),
                   key=lambda name: (name not in LONGEST, name))
    reports = {name: _report(name) for name in names}
    commands = [[*ALONE, "pytest", *PYTEST, reports[name], "tests/system/%s.py" % name] for name in names]
    for name, status in zip(names, runner.run_at_once(commands)):
        yield ("pytest tests/system/%s.py" % name, *_counts(reports[name], status))


def pyroute2(runner):
    # What the netlink adapter promises, under each pyroute2; they are fetched ahead, as a private host has no network.
    for version, pythons in PYROUTE2.items():
        python = next(filter(None, (shutil.which(name, path=search_path()) for name in pythons)), pythons[0])
        folder = os.path.join(ROOT, "build", "pyroute2", version)
        if not os.path.isdir(os.path.join(folder, "pyroute2")):
            runner.run(["pip", "install", "--quiet", "--no-deps", "--target", folder, "pyroute2==" + version])
        text = runner.run([*ALONE, python, "tests/system/netlink_contract.py", version], PYTHONPATH=folder)[1]
        passed, failed = map(int, (re.findall(r"^pyroute2 .*: (\d+) passed, (\d+) failed$", text, re.M) or [(0, 1)])[-1])
        yield "pyroute2 " + version, passed, failed


def fallbacks(runner):
    # What the kernel layer does where / is shared, and where a kernel has not the newer system calls.
    reports, commands = {}, []
    for options, names in (
        (["--block", "openat2"], ["trees", "overlay", "root", "namespace", "image", "image_hostile", "image_build"]),
        (["--block", "openat2,copy_file_range"], ["copytree", "merge", "changes", "storage_features"]),
        (["--root", "shared"], ["trees", "overlay", "root", "namespace"]),
        (["--block", "fsopen,mount_setattr,statmount"], ["overlay", "root", "namespace"]),
        (["--cgroup", "v2"], ["overlay", "root", "namespace"]),
    ):
        what = " ".join(options)
        reports[what] = _report("fallbacks" + what.replace(" ", "-"))
        commands.append([*ALONE, *options, "pytest", *PYTEST, reports[what], *["tests/system/test_%s.py" % name for name in names]])
    for what, status in zip(reports, runner.run_at_once(commands)):
        yield (what, *_counts(reports[what], status))


def torture(runner):
    # All points when asked for by name; `make test` takes a sample with a fixed seed. It makes its private hosts itself.
    sample = [] if runner.out is None else ["--sample", "1"]
    status, text = runner.run(["python", "tests/torture/run.py", *sample], cwd=ROOT)
    counts = re.findall(r"^(\d+) passed, (\d+) failed$", text, re.M) or [(0, 0)]
    passed, failed = int(counts[-1][0]), int(counts[-1][1])
    yield "tests/torture/run.py", passed, failed or int(status != 0)


def integration(runner):
    # Each target in a private host of its own, some at once; the longest first.
    names = sorted((name for name in os.listdir(os.path.join(tree.COPY, "tests", "integration", "targets"))
                    if not name.startswith(("setup_", "prepare_"))),  # only what other targets depend on
                   key=lambda name: (name not in LONGEST, name))
    commands = [[*ALONE, "ansible-test", "integration", "--color", "no", "--allow-destructive", "--allow-root", name] for name in names]
    for name, status in zip(names, runner.run_at_once(commands)):
        yield name, int(status == 0), int(status != 0)


def hosts(runner):
    # All tests on each host when asked for by name; `make test` takes those marked core, on one of them.
    for name in HOSTS if runner.out is None else HOSTS[-1:]:
        more = [] if runner.out is None else ["-m", "core"]
        yield from pytest(runner, "hosts", more=more, what=" on " + name, BULKHEAD_TEST_HOSTS=name)


def molecule(runner):
    # Without systemd in a private host on this kernel; and on virtual machines: all on both when asked for by name, else what
    # differs most with systemd on one of them, for an emulated host is slow.
    yield from scenarios(runner, "here", ALONE)
    if runner.out is None:
        yield from scenarios(runner, "machines")
    else:
        yield from scenarios(runner, HOSTS[-1], more=["--exclude", "host", "--exclude", "image"])
    for name in HOSTS:  # of a run that was cut short
        runner.run(["python", "tests/hosts/vm", "destroy", "molecule-" + name])


def scenarios(runner, platform, before=(), more=()):
    # The scenario `default` makes what the others stand on. What molecule keeps of an earlier run is stale.
    for old in glob.glob(os.path.join(ROOT, "build", "ansible", "tmp", "molecule.*")):
        shutil.rmtree(old)
    status, text = runner.run([*before, "molecule", "test", "--all", "--report", *more], NO_COLOR="1", BULKHEAD_PLATFORM=platform)
    failures = {}  # of each scenario; one that others stand on has several rows
    for name, failed in re.findall(r"^(\S+) +: actions=.* failed=(\d+)", text.rpartition("SCENARIO RECAP")[2], re.M):
        failures[name] = failures.get(name, 0) + int(failed)
    for name, failed in failures.items():
        yield "molecule %s on %s" % (name, platform), int(not failed), int(failed > 0)
    if status and not any(failures.values()):
        yield "molecule on " + platform, 0, 1


def bench(runner):
    status = runner.run(["python", "tests/bench/run.py"], cwd=ROOT)[0]
    yield "bench", int(status == 0), int(status != 0)


# name: (function, the folder without which there is nothing to run)
STAGES = {
    "sanity": (sanity, "."), "lint": (lint, "."), "unit": (unit, "tests/unit"),
    "integration": (integration, "tests/integration/targets"), "system": (system, "tests/system"),
    "layers": (layers, "tests/system"), "pyroute2": (pyroute2, "tests/system"), "fallbacks": (fallbacks, "tests/system"),
    "molecule": (molecule, "extensions/molecule"), "hosts": (hosts, "tests/hosts"),
    "torture": (torture, "tests/torture"), "bench": (bench, "tests/bench"),
}
TEST = ["lint", "unit", "sanity", "layers", "pyroute2", "integration", "system", "fallbacks", "hosts", "molecule", "torture"]  # cheap first


def main():
    names = sys.argv[1:] or TEST
    unknown = [name for name in names if name not in STAGES]
    if unknown:
        sys.exit("Cannot run %s: no such stage. Choose from %s." % (", ".join(unknown), ", ".join(STAGES)))
    os.makedirs(os.path.join(ROOT, "build", "log"), exist_ok=True)
    tree.sync()
    rows = []
    for name in names:
        start, results = time.monotonic(), []
        runner = Runner(name, shown=bool(sys.argv[1:]))
        function, folder = STAGES[name]
        if os.path.isdir(os.path.join(tree.COPY, folder)):
            results = list(function(runner)) or [("nothing was run", 0, 1)]
            if not any(passed + failed for dummy, passed, failed in results):
                results = [("nothing was run", 0, 1)]
        passed, failed = sum(row[1] for row in results), sum(row[2] for row in results)
        rows.append((name, passed, failed, time.monotonic() - start))
        if runner.out is not None:
            runner.out.close()
            if failed:
                with open(runner.log, encoding="utf-8") as log:
                    print(log.read())
            print("%-12s %d passed, %d failed" % (name + ":", passed, failed), flush=True)
        for what in [row[0] for row in results if row[2]]:
            print("FAILED: %s: %s" % (name, what), flush=True)
    print("\n%-12s %8s %8s %8s" % ("stage", "passed", "failed", "seconds"))
    for row in rows:
        print("%-12s %8d %8d %8.1f" % row)
    passed, failed = sum(row[1] for row in rows), sum(row[2] for row in rows)
    print("\n%d passed, %d failed" % (passed, failed), flush=True)
    return failed > 0 or passed == 0


if __name__ == "__main__":
    sys.exit(main())
