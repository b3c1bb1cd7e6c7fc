# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""cgroup on this kernel: every state as check, run, check, run, and what each limit does to processes, by the kernel's counters."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import drive
import pytest

NAME = "bulkhead/t"


def read(path):
    with open(path, encoding="ascii") as stream:
        return stream.read()


@pytest.fixture
def twice(converge):
    """Check, run, check, run: the check predicts the run exactly, and the second run is unchanged."""

    def act(**options):
        check, first = converge("cgroup", check=True, **options), converge("cgroup", **options)
        assert (check["actions"], check["diff"]) == (first["actions"], first["diff"])
        again = converge("cgroup", check=True, **options), converge("cgroup", **options)
        assert all(answer["actions"] == [] and not answer["changed"] and answer["diff"] == {"before": {}, "after": {}} for answer in again)
        return first

    return act


@pytest.fixture
def trees(host):
    return host.cgroups()


@pytest.fixture
def v1(trees):
    if trees.home("memory") in (None, "unified"):
        pytest.fail("this test is for a private host with v1 controllers: run it without --cgroup v2")
    return trees


@pytest.fixture
def run_in(trees):
    """run_in(code): Python in a child that joined NAME as the entry does; killed at the end."""
    children = []

    def act(code, *argv, **popen):
        files = trees.join_files(NAME)
        trees.make_leaf(NAME, "exec")
        join = "import os,signal\nfor path in %r:\n    open(path, 'w').write('0')\n" % (files,)
        child = subprocess.Popen([sys.executable, "-ISc", join + code, *argv], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, **popen)
        children.append(child)
        return child

    yield act
    for child in children:
        if child.poll() is None:
            child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()


@pytest.fixture(autouse=True)
def removed(host, converge):
    yield
    host.forget()
    if host.cgroups().exists(NAME):
        converge("cgroup", name=NAME, state="absent", kill=True)


def ready(child):
    assert child.stdout.readline() == b"ready\n"


SLEEP = "print('ready', flush=True)\nsignal.pause()"


class TestV1:
    """The controllers of a host whose controllers are v1's."""

    pytestmark = pytest.mark.usefixtures("v1")

    def test_limits_made_changed_and_removed(self, twice, trees, host):
        made = twice(name=NAME, cpu_max="50%", cpu_weight=200, memory_max="64M", memory_swap_max="32M", pids_max=10, cpuset_cpus="0")
        assert made["actions"][0] == "create cgroup " + NAME
        assert read(trees.path(NAME, "memory") + "/memory.memsw.limit_in_bytes") == "%d\n" % (96 << 20)
        assert twice(name=NAME, memory_max="16M")["actions"] == ["set memory.limit_in_bytes of " + NAME, "set memory.memsw.limit_in_bytes of " + NAME]
        assert read(trees.path(NAME, "memory") + "/memory.memsw.limit_in_bytes") == "%d\n" % (48 << 20)
        assert twice(name=NAME, memory_max="128M")["actions"] == ["set memory.memsw.limit_in_bytes of " + NAME, "set memory.limit_in_bytes of " + NAME]
        assert twice(name=NAME, memory_max=5000)["diff"]["after"] == {"memory_max": 4096}  # the kernel rounds down to pages
        twice(name=NAME, cpu_max={"quota": "20ms", "period": "50ms"}, cpu_max_burst="15ms")
        twice(name=NAME, cpu_max={"quota": "10ms", "period": "40ms"}, cpu_max_burst="5ms")
        twice(name=NAME, cpu_max="max", memory_max="max", memory_swap_max="max", cpuset_cpus="", io_weight=500)
        assert twice(name=NAME, state="absent")["actions"] == ["remove cgroup " + NAME]
        assert not trees.exists("bulkhead") and not host.claims.names("cgroup")

    def test_a_mark_without_means_is_refused(self, refuse, trees):
        if trees.home("net_cls"):
            pytest.fail("this test is for a private host without the v1 controller net_cls")
        assert refuse("cgroup", name=NAME, net_mark=16) == (
            "Cannot set up cgroup %s: net_mark needs the v1 controller net_cls or cgroup v2 alone. Remove what this host cannot do." % NAME)

    def test_io_limits_merge_by_device(self, twice, trees):
        disk = "/var/lib"
        twice(name=NAME, io_max=[{"device": disk, "rbps": "20M"}])
        twice(name=NAME, io_max=[{"device": disk, "wiops": 500}])
        assert read(trees.path(NAME, "blkio") + "/blkio.throttle.read_bps_device").split()[1] == str(20 << 20)
        twice(name=NAME, io_max=[{"device": disk, "rbps": "max", "wiops": "max"}])
        assert read(trees.path(NAME, "blkio") + "/blkio.throttle.read_bps_device") == ""

    def test_what_has_no_equivalent_is_refused_by_name(self, refuse, trees):
        error = refuse("cgroup", name=NAME, memory_high="1M", pids_max=3, unified={"memory.oom.group": 1}, delegate={"user": "nobody"}, max_depth=3)
        assert all(word in error for word in ("memory_high", "memory_oom_group", "delegate", "max_depth")) and "pids_max" not in error
        assert not trees.exists("bulkhead")

    def test_swap_alone_is_refused(self, refuse):
        assert "Set memory_max too" in refuse("cgroup", name=NAME, memory_swap_max="1M")

    def test_memory_max_kills_the_hog_and_nothing_else(self, twice, run_in, trees):
        twice(name=NAME, memory_max="24M", memory_swap_max=0)
        bystander = run_in(SLEEP)
        ready(bystander)
        hog = run_in("held = []\nwhile True:\n    held.append(b'x' * (1 << 20))\nprint('survived')")
        assert hog.wait(timeout=60) == -signal.SIGKILL
        assert bystander.poll() is None
        assert "oom_kill 1\n" in read(trees.path(NAME, "memory") + "/memory.oom_control")

    def test_pids_max_makes_fork_fail(self, twice, run_in):
        twice(name=NAME, pids_max=2)
        child = run_in("out = []\nfor each in range(3):\n    try:\n        pid = os.fork()\n        if not pid:\n            signal.pause()\n"
                       "        out.append(pid)\n    except BlockingIOError:\n        print('refused', len(out), flush=True)\n        break\n"
                       "for pid in out:\n    os.kill(pid, 9)\n    os.waitpid(pid, 0)")
        assert child.stdout.readline() == b"refused 1\n"

    def test_quota_throttles(self, twice, run_in, trees):
        twice(name=NAME, cpu_max="10%")
        ready(run_in("print('ready', flush=True)\nwhile True: pass"))
        path, end = trees.path(NAME, "cpu") + "/cpu.stat", time.monotonic() + 60
        while "nr_throttled 0\n" in read(path) and time.monotonic() < end:
            time.sleep(0.05)
        assert "nr_throttled 0\n" not in read(path)

    def test_cpuset_pins(self, twice, run_in):
        twice(name=NAME, cpuset_cpus="0")
        child = run_in(SLEEP)
        ready(child)
        assert os.sched_getaffinity(child.pid) == {0}

    def test_a_limit_below_usage(self, twice, run_in, refuse, trees):
        twice(name=NAME, memory_max="256M")
        ready(run_in("held = b'x' * (32 << 20)\n" + SLEEP))
        assert "allow_below_usage" in refuse("cgroup", name=NAME, memory_max="4M")
        assert twice(name=NAME, pids_max=1) and "it uses 1 now" in refuse("cgroup", name=NAME, pids_max=0)
        twice(name=NAME, pids_max=0, allow_below_usage=True)

    def test_a_part_made_by_hand_is_completed_and_joined(self, twice, run_in, trees):
        twice(name=NAME, pids_max=9)
        os.rmdir(trees.path(NAME, "cpu"))
        assert twice(name=NAME, pids_max=9, cpu_weight=50)["actions"] == ["create cgroup " + NAME, "set cpu.shares of " + NAME]


def test_freeze_stops_and_thaw_goes_on(twice, run_in, trees):
    twice(name=NAME)
    child = run_in("print('ready', flush=True)\nwhile True: print('tick', flush=True)", bufsize=0)
    ready(child)
    assert twice(name=NAME, frozen=True)["actions"] == ["freeze " + NAME]
    assert trees.frozen(NAME)
    os.set_blocking(child.stdout.fileno(), False)
    while child.stdout.read(1 << 20):
        pass  # what was written before
    assert not child.stdout.read(1)
    assert twice(name=NAME, frozen=False)["actions"] == ["thaw " + NAME]
    os.set_blocking(child.stdout.fileno(), True)
    assert b"tick" in child.stdout.read(20)


def test_processes_are_moved_once(twice, trees):
    with subprocess.Popen(["sleep", "600"]) as child:
        try:
            assert twice(name=NAME, processes=[child.pid])["actions"] == ["create cgroup " + NAME, "move process %d into %s" % (child.pid, NAME)]
            assert trees.processes(NAME) == [child.pid]
        finally:
            child.kill()


def test_absent_with_processes(twice, refuse, run_in, converge, trees):
    twice(name=NAME)
    children = [run_in("os.fork()\nos.fork()\n" + SLEEP), run_in(SLEEP)]
    for child in children:
        ready(child)
    error = refuse("cgroup", name=NAME, state="absent")
    assert "processes live in it" in error and "kill: true" in error
    converge("cgroup", name=NAME, frozen=True)
    check = converge("cgroup", check=True, name=NAME, state="absent", kill=True)
    first = converge("cgroup", name=NAME, state="absent", kill=True)
    assert check["actions"] == first["actions"] == ["kill the processes of " + NAME, "remove cgroup " + NAME]
    assert [child.wait(timeout=30) for child in children] == [-9, -9]
    assert converge("cgroup", name=NAME, state="absent", kill=True)["actions"] == []
    assert not trees.exists("bulkhead")


def test_a_run_neither_freezes_nor_kills_itself(converge, trees):
    converge("cgroup", name=NAME)
    files = trees.join_files(NAME)
    trees.make_leaf(NAME, "exec")

    def inside(**options):
        def act():
            for path in files:
                with open(path, "w", encoding="ascii") as stream:
                    stream.write("0")
            return drive.converge("cgroup", dict(options, name=NAME), True)
        return drive.isolated(act)["error"]

    assert inside(frozen=True).startswith("Cannot freeze cgroup %s: this very run lives in it." % NAME)
    assert inside(state="absent", kill=True).startswith("Cannot kill the processes of cgroup %s: this very run lives in it." % NAME)


def test_kill_of_forkers_leaves_none(twice, run_in, converge, trees):
    twice(name=NAME)
    ready(run_in("print('ready', flush=True)\nsignal.signal(17, signal.SIG_IGN)\nwhile True:\n    if not os.fork():\n        os.fork()\n        os._exit(0)"))
    converge("cgroup", name=NAME, state="absent", kill=True)
    assert not trees.exists(NAME)


def test_foreign_is_unchanged_or_refused(twice, converge, refuse, trees):
    keys = list(trees.roots)
    trees.make(NAME, keys, [])
    assert converge("cgroup", name=NAME)["changed"] is False
    assert "was not made by Bulkhead" in refuse("cgroup", name=NAME, frozen=True)
    assert "force: true" in refuse("cgroup", name=NAME, state="absent")
    twice(name=NAME, frozen=True, force=True)
    twice(name=NAME, frozen=False, force=True)
    assert converge("cgroup", name=NAME, state="absent", force=True)["actions"] == ["remove cgroup " + NAME]
    os_parents(trees)


def os_parents(trees):
    """What the test made by hand it removes by hand."""
    trees.remove("bulkhead")


def test_made_anew_by_another_is_foreign(twice, refuse, trees):
    twice(name=NAME)
    trees.remove(NAME)
    trees.make(NAME, list(trees.roots), [])
    assert "was not made by Bulkhead" in refuse("cgroup", name=NAME, frozen=True)
    trees.remove(NAME)
    assert twice(name=NAME)["actions"] == ["create cgroup " + NAME]


def test_a_parent_with_our_cgroups_stays(twice, refuse, trees):
    twice(name=NAME)
    assert "holds the cgroup " + NAME in refuse("cgroup", name="bulkhead", state="absent", kill=True)
    twice(name=NAME + "2")
    twice(name=NAME, state="absent")
    assert trees.exists("bulkhead")
    twice(name=NAME + "2", state="absent")
    assert not trees.exists("bulkhead")


def test_a_declared_parent_outlives_its_children(twice, trees):
    twice(name="bulkhead", frozen=False)
    twice(name=NAME)
    twice(name=NAME, state="absent")
    assert trees.exists("bulkhead")
    twice(name="bulkhead", state="absent")


def test_shown(twice, converge, host):
    from module_utils._resources import cgroup

    twice(name=NAME)
    view = cgroup.show(host, NAME)
    assert (view["name"], view["owned"], view["frozen"], view["processes"]) == (NAME, True, False, [])
    assert cgroup.names(host) == ["bulkhead", NAME]
    assert cgroup.show(host, "bulkhead/none") is None


class TestUnified:
    """A cgroup2 tree alone (`tests/alone --cgroup v2`), started from inside as a private host of its own."""

    def test_in_a_private_host(self):
        if "unified" in os.environ.get("BULKHEAD_TEST_MODE", ""):
            return
        alone = os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(__file__))), "alone")
        ended = subprocess.run([sys.executable, alone, "--cgroup", "v2", sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
                                "--deselect", __file__ + "::TestV1", os.path.dirname(os.path.realpath(__file__)) + "/test_cgroup.py",
                                os.path.dirname(os.path.realpath(__file__)) + "/cgroup_unified.py",
                                os.path.dirname(os.path.realpath(__file__)) + "/net_mark_unified.py", "-k", "not TestV1"],
                               env=dict(os.environ, BULKHEAD_TEST_MODE="unified"), capture_output=True, text=True, timeout=300, check=False)
        assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-2000:]
