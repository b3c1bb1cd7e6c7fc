# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Random sequences of declarations, and of damage done to the host by others, against a model of what must be.

After each step: the check run made no call that changes the host and predicted the actions of the run; what was declared is
there, as the kernel shows it; the second run is unchanged. Each sequence ends with the removal of all, and nothing is left.

BULKHEAD_EXAMPLES: how many sequences (a fixed set of them otherwise).
"""

from __future__ import annotations

import glob
import os
import signal
import subprocess
import sys

import drive
import hypothesis
import jail
import leftovers
import pytest
from hypothesis import stateful
from hypothesis import strategies as some

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(__file__))), "torture"))

import calls  # noqa: E402
import tracer  # noqa: E402
from module_utils._kernel import syscalls  # noqa: E402
from module_utils._supervisor import entry, scan  # noqa: E402

EXAMPLES = int(os.environ.get("BULKHEAD_EXAMPLES", "0"))
BASE = "/run/model"
PLACE = "/run/bulkhead/mnt/web"
UPPER = "/var/lib/bulkhead/uppers/web/"
SLEEP = ["/usr/bin/sleep", "87654"]
TYPES = ["net", "uts", "ipc", "mnt", "pid", "cgroup"]
ALL_TYPES = TYPES + ["time"]


def text(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""


def mounted():
    """{mount point: [what is stacked there]}, of this mount namespace."""
    found = {}
    for line in text("/proc/self/mountinfo").splitlines():
        left, right = line.split(" - ")
        found.setdefault(left.split()[4], []).append((right.split()[0], left.split()[3]))
    return found


def pin(name, kind):
    return {"net": "/run/netns/" + name, "mnt": "/run/bulkhead/mntns/" + name}.get(kind, "/run/bulkhead/ns/%s/%s" % (name, kind))


def pids(words):
    return [int(path.split("/")[2]) for path in glob.glob("/proc/[0-9]*/cmdline") if text(path).split("\0")[:-1] == words]


def keepers():
    return [int(path.split("/")[2]) for path in glob.glob("/proc/[0-9]*/comm") if text(path) == "keeper\n"]


def hostname(name):
    return subprocess.run(["nsenter", "--uts=" + pin(name, "uts"), "hostname"], capture_output=True, text=True, check=False).stdout.strip()


def unmount(path):
    try:
        syscalls.umount(path)
    except OSError:
        pass


def clear():
    """Take everything away, by the engine."""
    jail.clear()
    drive.apart("overlay", dict(path=PLACE, state="absent", remove_data=True, upper=UPPER + "upper", work=UPPER + "work"))
    drive.apart("sandbox", dict(sandboxes=[], purge=True, remove_data=True, kill=True))
    host = drive.new_host()
    scan.shutdown(host)
    entry.clear(host)
    drive.command(["rm", "-rf", BASE])


class Machine(stateful.RuleBasedStateMachine):
    """The model: what was declared last of one cgroup, one set of namespaces, one overlay, one service, one sandbox."""

    def __init__(self):
        super().__init__()
        clear()  # what a sequence that failed has left
        self.start = leftovers.Snapshot()
        jail.make(BASE + "/root")
        for name in ("one", "two", "three"):
            os.makedirs("%s/%s" % (BASE, name))
        self.cgroup = {}
        self.namespace = {}
        self.overlay = {}
        self.service = {}
        self.sandbox = {}

    # -- one step of the engine, looked at from all sides

    def step(self, noun, options):
        traced = tracer.trace(lambda: drive.converge(noun, options, True))
        assert not traced.problems, traced.problems
        changes = [point for point in traced.points if calls.changes_host(point[1], point[2])]
        assert not changes, "the check run of %s changes the host: %s" % (options, changes)
        done = drive.apart(noun, options)
        assert "error" not in done, (options, done["error"])
        assert "error" not in traced.answer, (options, traced.answer.get("error"))
        assert traced.answer["actions"] == done["actions"], options
        assert traced.answer["changed"] == done["changed"]
        again = drive.apart(noun, options)
        assert "error" not in again, again["error"]
        assert not again["changed"], ("the second run", options, again["actions"])
        self.as_declared()
        return done

    def as_declared(self):
        for name, options in (("web", self.cgroup), ("box", self.sandbox.get("cgroup", {}))):
            for option, file in (("memory_max", "memory/bulkhead/%s/memory.limit_in_bytes"), ("pids_max", "pids/bulkhead/%s/pids.max")):
                if option in options:
                    assert text("/sys/fs/cgroup/" + file % name).strip() == str(options[option]), option
        found = mounted()
        for name, options in (("web", self.namespace), ("box", self.sandbox.get("namespaces", {}))):
            for kind in options.get("types", ()):
                assert [entry[0] for entry in found.get(pin(name, kind), [])] == ["nsfs"], pin(name, kind)
                assert found[pin(name, kind)][0][1].startswith(kind + ":[")
            if "hostname" in options:
                assert hostname(name) == options["hostname"]
            if "pid" in options.get("types", ()):
                subprocess.run(["nsenter", "--pid=" + pin(name, "pid"), "true"], check=True)
        if self.overlay.get("state") == "mounted":
            assert [entry[0] for entry in found.get(PLACE, [])] == ["overlay"]
            assert sorted(os.listdir(PLACE)) == []
        else:
            assert PLACE not in found
        running = len(pids(SLEEP))
        assert running == (self.service.get("state") == "started") + bool(self.sandbox)

    # -- declarations

    @stateful.rule(options=some.fixed_dictionaries({}, optional=dict(memory_max=some.sampled_from([64 << 20, 128 << 20]),
                                                                     pids_max=some.integers(10, 12), frozen=some.booleans())))
    def declare_cgroup(self, options):
        self.cgroup = dict(self.cgroup, name="bulkhead/web", **options)
        self.step("cgroup", dict(options, name="bulkhead/web"))

    @stateful.rule()
    def remove_cgroup(self):
        self.cgroup = {}
        self.step("cgroup", dict(name="bulkhead/web", state="absent"))

    @stateful.rule(types=some.sets(some.sampled_from(ALL_TYPES), min_size=1), hostname=some.sampled_from(["a", "b", None]))
    def declare_namespace(self, types, hostname):
        options = dict(name="web", types=sorted(types))
        if hostname and "uts" in types:
            options["hostname"] = hostname
        known = dict(self.namespace)
        known.update(options, types=sorted(types | set(known.get("types", ()))))
        self.namespace = known
        self.step("namespace", options)

    @stateful.rule()
    def remove_namespace(self):
        self.namespace = {}
        self.step("namespace", dict(name="web", state="absent", kill=True))

    @stateful.rule(lower=some.lists(some.sampled_from(["one", "two", "three"]), min_size=1, unique=True), noexec=some.booleans())
    def declare_overlay(self, lower, noexec):
        self.overlay = dict(state="mounted")
        self.step("overlay", dict(path=PLACE, lower=["%s/%s" % (BASE, name) for name in lower], upper=UPPER + "upper", work=UPPER + "work",
                                  options=dict(noexec=noexec), on_mismatch="recreate"))

    @stateful.rule(state=some.sampled_from(["unmounted", "absent"]))
    def remove_overlay(self, state):
        self.overlay = {}
        self.step("overlay", dict(path=PLACE, state=state, remove_data=state == "absent"))

    @stateful.rule(state=some.sampled_from(["started", "started", "stopped"]), value=some.sampled_from("ab"))
    def declare_service(self, state, value):
        self.service = dict(state=state)
        self.step("service", dict(name="web", root=BASE + "/root", bind=jail.BINDS, command=SLEEP, environment=dict(A=value), state=state,
                                  on_change="restart", on_mismatch="recreate", log=False))

    @stateful.rule()
    def remove_service(self):
        self.service = {}
        self.step("service", dict(name="web", state="absent"))

    @stateful.rule(hostname=some.sampled_from("ab"), memory=some.sampled_from([64 << 20, 128 << 20]),
                   types=some.sampled_from([TYPES, TYPES[:-1]]), lower=some.sampled_from([["one"], ["two", "one"]]))
    def declare_sandbox(self, hostname, memory, types, lower):
        one = dict(name="box", namespaces=dict(types=types, hostname=hostname), cgroup=dict(memory_max=memory), bind=jail.BINDS,
                   overlay=dict(lower=["%s/%s" % (BASE, name) for name in lower] + [BASE + "/root"]),
                   services=[dict(name="sleep", command=SLEEP, log=False)])
        self.sandbox = one
        self.step("sandbox", dict(sandboxes=[one], on_mismatch="recreate", on_change="restart"))

    @stateful.rule(purge=some.booleans())
    def remove_sandbox(self, purge):
        self.sandbox = {}
        self.step("sandbox", dict(sandboxes=[] if purge else [dict(name="box", state="absent")], purge=purge, remove_data=True, kill=True))

    # -- what others do to the host; the next declaration mends it

    @stateful.precondition(lambda self: self.cgroup)
    @stateful.rule(tree=some.sampled_from(["memory", "pids", "cpu"]), how=some.sampled_from(["remove", "limit"]))
    def damage_cgroup(self, tree, how):
        path = "/sys/fs/cgroup/%s/bulkhead/web" % tree
        if how == "remove":
            os.rmdir(path)
        elif tree == "pids":
            with open(path + "/pids.max", "w") as stream:
                stream.write("7")
        self.declare_cgroup({key: self.cgroup[key] for key in ("memory_max", "pids_max", "frozen") if key in self.cgroup})

    @stateful.precondition(lambda self: self.namespace)
    @stateful.rule(data=some.data(), how=some.sampled_from(["unmount", "unlink", "keeper", "other"]))
    def damage_namespace(self, data, how):
        kind = data.draw(some.sampled_from(self.namespace["types"]))
        if how == "keeper":
            for pid in keepers():
                if os.readlink("/proc/%d/ns/pid" % pid) == (mounted().get(pin("web", "pid")) or [("", "")])[0][1]:
                    os.kill(pid, signal.SIGKILL)
        else:
            unmount(pin("web", kind))
            if how == "unlink":
                os.unlink(pin("web", kind))
            elif how == "other":
                syscalls.mount("/proc/self/ns/user", pin("web", kind), None, syscalls.MS_BIND)
        self.declare_namespace(set(self.namespace["types"]), self.namespace.get("hostname"))

    @stateful.precondition(lambda self: self.overlay)
    @stateful.rule(how=some.sampled_from(["unmount", "place", "half"]))
    def damage_overlay(self, how):
        unmount(PLACE)
        if how == "place":
            os.rmdir(PLACE)
        if how == "half":
            os.makedirs(UPPER + "upper.bulkhead-discarded", exist_ok=True)
        self.declare_overlay(["one"], False)

    @stateful.precondition(lambda self: self.service.get("state") == "started" or self.sandbox)
    @stateful.rule(how=some.sampled_from(["kill", "runsv", "runsvdir"]))
    def damage_service(self, how):
        if how == "runsvdir":
            scan.shutdown(drive.new_host())
        elif how == "runsv":
            subprocess.run(["pkill", "-KILL", "-x", "runsv"], check=False)
            subprocess.run(["pkill", "-KILL", "-x", "tini"], check=False)
        for pid in pids(SLEEP):
            os.kill(pid, signal.SIGKILL)
        if self.service.get("state") == "started":
            sandbox, self.sandbox = self.sandbox, {}  # looked at when both are mended
            mended = drive.apart("service", dict(name="web", state="started"))
            assert "error" not in mended, mended["error"]
            self.sandbox = sandbox
        if self.sandbox:
            mended = drive.apart("sandbox", dict(sandboxes=[self.sandbox]))
            assert "error" not in mended, mended["error"]
        jail.until(lambda: len(pids(SLEEP)) == (self.service.get("state") == "started") + bool(self.sandbox))
        self.as_declared()

    @stateful.precondition(lambda self: self.cgroup or self.namespace)
    @stateful.rule(whole=some.booleans())
    def halves_of_killed_runs(self, whole):
        """What a run that was killed while it wrote leaves: a half-written file beside the one, or a claim without identity."""
        noun, name = ("cgroup", "bulkhead:web") if self.cgroup else ("namespace", "web")
        for path in glob.glob("/run/bulkhead/made/%s/%s.json" % (noun, name)) + glob.glob("/etc/bulkhead/%s.d/%s.json" % (noun, name)):
            if whole and path.startswith("/run"):
                with open(path, "w") as stream:
                    stream.write('{"identity": null}')
            with open("%s/.%s.new" % os.path.split(path), "w") as stream:
                stream.write('{"ide')
        if noun == "cgroup":
            self.declare_cgroup({"pids_max": 13})
        else:
            self.declare_namespace(set(self.namespace["types"]), None)

    def teardown(self):
        clear()
        left = self.start.settled()
        assert not left, "left behind:\n" + "\n".join(left)


Machine.TestCase.settings = hypothesis.settings(
    max_examples=EXAMPLES or 12, stateful_step_count=12, deadline=None, derandomize=not EXAMPLES, database=None,
    # a step takes a tenth of a second and more: what fails is shown as it was found, and made short only when that was asked for
    phases=list(hypothesis.Phase) if EXAMPLES else [hypothesis.Phase.generate],
    suppress_health_check=list(hypothesis.HealthCheck), print_blob=False)


@pytest.fixture(autouse=True)
def leaves_nothing():
    """Each sequence looks for itself."""


test_model = Machine.TestCase
