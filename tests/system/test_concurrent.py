# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sixteen runs at once on one host: one of them makes an object, the others find it; none fails, none waits for ever."""

from __future__ import annotations

import os
import signal
import time

import drive
import jail
import pytest

from module_utils._engine.lock import Lock
from module_utils._model.errors import BulkheadError
from module_utils._supervisor import entry, scan

MANY = 16
BASE = "/run/at-once"
SLEEP = ["/usr/bin/sleep", "65432"]
TYPES = ["net", "uts", "ipc", "mnt", "pid", "cgroup"]


@pytest.fixture(autouse=True)
def furnished(leaves_nothing):
    """A layer and a root; afterwards nothing of ours is left."""
    jail.make(BASE + "/root")
    os.mkdir(BASE + "/layer")
    yield
    jail.clear()
    for name in ["web"] + ["web%d" % number for number in range(MANY)]:
        drive.converge("overlay", dict(path="/run/bulkhead/mnt/" + name, state="absent", remove_data=True))
    answer = drive.converge("sandbox", dict(sandboxes=[], purge=True, remove_data=True, kill=True))
    assert "error" not in answer, answer
    host = drive.new_host()
    scan.shutdown(host)
    entry.clear(host)
    drive.command(["rm", "-rf", BASE])


def task(noun, name="web", **more):
    """(noun, options) of an object with this name."""
    return noun, dict({
        "cgroup": lambda: dict(name="bulkhead/" + name, memory_max="64M", pids_max=50),
        "namespace": lambda: dict(name=name, types=TYPES, hostname=name),
        "overlay": lambda: dict(path="/run/bulkhead/mnt/" + name, lower=[BASE + "/layer"], upper="/var/lib/bulkhead/uppers/%s/upper" % name,
                                work="/var/lib/bulkhead/uppers/%s/work" % name),
        "service": lambda: dict(name=name, root=BASE + "/root", bind=jail.BINDS, command=SLEEP, log=False),
        "sandbox": lambda: dict(sandboxes=[dict(name=name, namespaces=dict(types=TYPES, hostname=name), cgroup=dict(pids_max=50),
                                                overlay=dict(lower=[BASE + "/root"]), bind=jail.BINDS,
                                                services=[dict(name="sleep", command=SLEEP, log=False)])]),
    }[noun](), **more)


def absent(noun, name="web"):
    if noun == "sandbox":
        return noun, dict(sandboxes=[dict(name=name, state="absent")], remove_data=True, kill=True)
    more = dict(overlay=dict(remove_data=True), cgroup=dict(kill=True), namespace=dict(kill=True))
    if noun == "overlay":
        return noun, dict(path="/run/bulkhead/mnt/" + name, state="absent", **more[noun])
    return noun, dict(name="bulkhead/" + name if noun == "cgroup" else name, state="absent", **more.get(noun, {}))


def changed(answers):
    failures = [answer["error"] for answer in answers if "error" in answer]
    assert not failures, failures
    return sum(answer["changed"] for answer in answers)


NOUNS = ["cgroup", "namespace", "overlay", "service", "sandbox"]


@pytest.mark.parametrize("noun", NOUNS)
def test_the_same_task(noun):
    assert changed(drive.at_once([task(noun)] * MANY)) == 1
    assert changed([drive.apart(*task(noun))]) == 0
    assert changed(drive.at_once([absent(noun)] * MANY)) == 1


def test_one_mount_and_one_process():
    """No mount is stacked and no process doubled, whatever the answers say."""
    changed(drive.at_once([task("overlay", "other")] * 8 + [task("sandbox")] * 8))
    with open("/proc/self/mountinfo") as stream:
        assert len([line for line in stream if line.split()[4] == "/run/bulkhead/mnt/other"]) == 1
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/cmdline" % pid, "rb") as stream:
                found += [pid] if stream.read().split(b"\0")[:-1] == [os.fsencode(word) for word in SLEEP] else []
        except OSError:
            pass
    assert len(found) == 1
    changed([drive.apart(*absent("overlay", "other"))])


def test_different_tasks():
    nouns = (NOUNS * MANY)[:MANY]
    names = ["web%d" % number for number in range(MANY)]
    pairs = list(zip(nouns, names))
    assert changed(drive.at_once([task(*pair) for pair in pairs])) == MANY
    assert changed(drive.at_once([task(*pair) for pair in pairs])) == 0
    assert changed(drive.at_once([absent(*pair) for pair in pairs])) == MANY
    assert changed(drive.at_once([absent(*pair) for pair in pairs])) == 0


def test_four_of_each():
    """Of each object exactly one run says that it made it."""
    nouns = ["cgroup", "namespace", "overlay", "sandbox"]
    answers = drive.at_once([task(noun, "web%d" % index) for index, noun in enumerate(nouns)] * 4)
    for index in range(4):
        assert changed(answers[index::4]) == 1
    for index, noun in enumerate(nouns):
        assert changed([drive.apart(*absent(noun, "web%d" % index))]) == 1


@pytest.mark.parametrize("noun", NOUNS)
def test_made_and_removed_at_once(noun):
    """Whatever the order, nobody fails, and the last word is kept."""
    changed(drive.at_once([task(noun), absent(noun)] * (MANY // 2)))
    changed([drive.apart(*absent(noun))])
    assert changed([drive.apart(*absent(noun))]) == 0


def hold(words, seconds=60):
    """A child that has the lock."""
    ready, done = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            with Lock("/run/bulkhead.lock", words):
                os.write(done, b"1")
                time.sleep(seconds)
        finally:
            os._exit(0)
    os.read(ready, 1)
    os.close(ready)
    os.close(done)
    return pid


def test_holder_of_the_lock_is_killed():
    """The kernel gives the lock to the next; nobody has to clean up after the dead."""
    holder = hold("dies")
    waiter = os.fork()
    if not waiter:
        try:
            os._exit(0 if drive.converge(*task("cgroup"))["changed"] else 1)
        finally:
            os._exit(2)
    time.sleep(0.3)
    assert os.waitpid(waiter, os.WNOHANG) == (0, 0)
    os.kill(holder, signal.SIGKILL)
    os.waitpid(holder, 0)
    assert drive.wait(waiter, 30)
    assert changed([drive.apart(*task("cgroup"))]) == 0


def test_the_wait_for_the_lock_ends_and_names_the_holder():
    holder = hold("sleeps")
    with pytest.raises(BulkheadError) as caught, Lock("/run/bulkhead.lock", "waits", wait=0.2):
        pass
    assert str(holder) in caught.value.message
    assert "sleeps" in caught.value.message
    assert "\n" not in caught.value.message
    os.kill(holder, signal.SIGKILL)
    os.waitpid(holder, 0)


def test_who_makes_an_image_is_waited_for_longer():
    """But not for ever; and it is not counted against those who have the lock after it."""
    holder = hold("image", 1)
    with Lock("/run/bulkhead.lock", "waits", wait=0.1):
        pass
    os.waitpid(holder, 0)
    holder = hold("image")
    with pytest.raises(BulkheadError) as caught, Lock("/run/bulkhead.lock", "waits", wait=0.1, long=0.5):
        pass
    assert "process %d (image) has held it" % holder in caught.value.message
    os.kill(holder, signal.SIGKILL)
    os.waitpid(holder, 0)


def test_check_runs_do_not_wait():
    holder = hold("sleeps")
    start = time.monotonic()
    assert changed([drive.apart(*task("cgroup"), check=True)]) == 1
    assert time.monotonic() - start < 30
    os.kill(holder, signal.SIGKILL)
    os.waitpid(holder, 0)


def test_some_are_killed():
    """Of sixteen runs some are killed at random moments: the others end well, and the next run finishes."""
    for moment in (0.001, 0.01, 0.03, 0.1, 0.3):
        children = []
        for index in range(MANY):
            pid = os.fork()
            if not pid:
                try:
                    os._exit(3 if "error" in drive.converge(*task("sandbox" if index % 2 else "namespace", "web%d" % (index % 4))) else 0)
                finally:
                    os._exit(2)
            children.append(pid)
        time.sleep(moment)
        for pid in children[::3]:
            os.kill(pid, signal.SIGKILL)
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
        assert set(codes) <= {0, -9}, codes
        for index in range(4):
            changed([drive.apart(*task("sandbox" if index % 2 else "namespace", "web%d" % index))])
            changed([drive.apart(*absent("sandbox" if index % 2 else "namespace", "web%d" % index))])
