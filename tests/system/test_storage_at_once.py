# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Storage and upgrades: many runs at once on one host, and one after the other, of which nothing stays."""

from __future__ import annotations

import os
import shutil

import drive
import filesystems
import pytest
import storage
import upgrades
from cycles import cycle
from leftovers import Snapshot
from storage import BASE, LIB, box, root_of, sandboxes

MANY = 8
CYCLES = max(int(os.environ.get("BULKHEAD_CYCLES", "300")) // 15, 1)
SIZE = 8 << 20
KINDS = {"overlay-loop": dict(driver="overlay", size=SIZE, limit="loop"), "overlay-tmpfs": dict(driver="overlay", size=SIZE, limit="tmpfs", keep=False),
         "copy": dict(driver="copy"), "copy-loop": dict(driver="copy", size=SIZE, limit="loop"), "btrfs": dict(driver="btrfs"),
         "btrfs-limited": dict(driver="btrfs", size=SIZE)}


@pytest.fixture(autouse=True)
def place(leaves_nothing):
    with storage.place():
        yield


def of_kind(kind, **more):
    return dict(box(None, **more), storage=KINDS[kind])


def changed(answers):
    failures = [answer["error"] for answer in answers if "error" in answer]
    assert not failures, failures
    return sum(answer["changed"] for answer in answers)


def at_once(*tasks):
    return changed(drive.at_once(list(tasks)))


def one(kind):
    return "sandbox", sandboxes(of_kind(kind))


NONE = "sandbox", sandboxes(box(None, state="absent"))


def snapshot(**more):
    return "snapshot", dict(dict(sandbox="box", name="one"), **more)


def put(text):
    with open(root_of("box") + "/srv/mine", "w", encoding="utf-8") as stream:
        stream.write(text)


def got():
    with open(root_of("box") + "/srv/mine", encoding="utf-8") as stream:
        return stream.read()


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_task(kind):
    storage.image()
    assert at_once(*[one(kind)] * MANY) == 1
    assert at_once(*[one(kind)] * 2) == 0
    reset = one(kind)[0], dict(one(kind)[1], reset=["box"])
    put("mine")
    assert at_once(*[reset] * 3) == 3  # an act, each time it is asked for
    assert not os.path.exists(root_of("box") + "/srv/mine")
    assert at_once(*[NONE] * MANY) == 1
    assert not filesystems.loops()


@pytest.mark.parametrize("kind", KINDS)
def test_snapshots(kind):
    storage.image()
    at_once(one(kind))
    put("saved")
    assert at_once(*[snapshot()] * MANY) == 1
    put("written after")
    assert at_once(snapshot(state="restored"), snapshot(state="restored"), snapshot(), snapshot(name="two"), one(kind)) in (3, 4)
    assert got() == "saved"
    assert at_once(*[snapshot(state="absent")] * MANY) == 1
    assert at_once(NONE, one(kind), snapshot(name="two", state="absent"), NONE) > 0
    at_once(NONE)
    assert not os.path.isdir(LIB + "/snapshots")


@pytest.mark.parametrize("kind", KINDS)
def test_made_and_removed_at_once(kind):
    storage.image()
    at_once(*[one(kind), NONE] * 4)
    at_once(NONE)
    assert not filesystems.loops() and not storage.leftovers()


def test_upgrades():
    """Of a sandbox that is tried beside, by each run that finds it not upgraded: by one."""
    upgrades.image(lambda noun, **options: changed([drive.converge(noun, options)]), BASE, "one")
    task = "sandbox", upgrades.sandbox()
    at_once(task)
    upgrades.image(lambda noun, **options: changed([drive.converge(noun, options)]), BASE, "two")
    assert at_once(*[task] * MANY) == 1
    back = "sandbox", upgrades.sandbox(state="rolled_back")
    assert at_once(*[back] * MANY) == 1
    assert at_once(*[back, task] * 3) == 0  # it stays with the version before
    gone = "sandbox", sandboxes(dict(name="web", state="absent"))
    assert at_once(*[gone] * 2) == 1
    shutil.rmtree(BASE + "/layout")


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_stays(kind):
    """Mounts, loop devices, descriptors, memory, processes, files."""
    storage.image()
    still = "sandbox", sandboxes(of_kind(kind, services=[]))
    cycle(still, NONE, CYCLES)
    changed([drive.converge(*still)])
    cycle(snapshot(), snapshot(state="absent"), CYCLES)
    changed([drive.converge(*snapshot())])
    before = Snapshot()
    for dummy in range(CYCLES):
        assert changed([drive.converge(*snapshot(state="restored"))])
    left = [line for line in before.settled() if " descriptor " in line or " mount " in line or " loop " in line]
    assert len([line for line in left if line.startswith("more")]) <= len([line for line in left if line.startswith("less")]), left
    changed([drive.converge(*NONE)])
