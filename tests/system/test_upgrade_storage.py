# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Upgrades of sandboxes with every kind of storage: what was written with which version is there after reboots and rollbacks, and goes with them."""

from __future__ import annotations

import os

import drive
import jail
import pytest
import storage
from archives import entry, tar
from boxes import reboot

from module_utils._program import whole

SIZE = 8 << 20
KINDS = [dict(driver="overlay"), dict(driver="overlay", size=SIZE, limit="loop"), dict(driver="copy"), dict(driver="copy", size=SIZE, limit="loop"),
         dict(driver="btrfs"), dict(driver="btrfs", size=SIZE)]
EPHEMERAL = [dict(kind, keep=False) for kind in (KINDS[0], KINDS[3], KINDS[4], dict(driver="overlay", size=SIZE, limit="tmpfs"))]


def words(kind):
    return "-".join(str(value) for key, value in kind.items() if key != "size") + ("-limited" if "size" in kind and "limit" not in kind else "")


@pytest.fixture(autouse=True)
def place(leaves_nothing):
    with storage.place():
        yield
        drive.reap()


def image(version):
    storage.image(tar(entry(b"opt/version", version.encode())))


def box(kind, state=None, **more):
    one = storage.box(kind["driver"], **dict({"upgrade": {"upper": "fresh"}}, **more))
    one["storage"] = dict(kind)
    return dict(sandboxes=[dict(one, state=state) if state else one])


def both(converge, **options):
    """Check, run, check, run."""
    predicted, done = (converge("sandbox", check=check, **options) for check in (True, False))
    assert done["changed"] and predicted["actions"] == done["actions"] and predicted["diff"] == done["diff"]
    for check in (True, False):
        again = converge("sandbox", check=check, **options)
        assert not again["changed"], again["actions"]


def restart():
    """A reboot, and the run that restores what was there."""
    reboot()
    done, failed = whole.restore(drive.new_host())
    assert done and not failed, failed
    assert whole.restore(drive.new_host()) == ([], [])


def write(text):
    with open(storage.root_of("box") + "/srv/mine", "w", encoding="utf-8") as stream:
        stream.write(text)


def seen():
    """(which version runs, what was written)."""
    top = storage.root_of("box")
    return jail.text(top + "/opt/version"), jail.text(top + "/srv/mine") if os.path.exists(top + "/srv/mine") else None


@pytest.mark.parametrize("kind", KINDS + EPHEMERAL, ids=words)
def test_fresh_reboot_and_back(converge, kind):
    kept = kind.get("keep", True)
    image("one")
    converge("sandbox", **box(kind))
    write("by one")
    image("two")
    both(converge, **box(kind))
    assert seen() == ("two", None)
    write("by two")
    restart()
    assert seen() == ("two", "by two" if kept else None)
    assert not converge("sandbox", **box(kind))["changed"]
    both(converge, **box(kind, "rolled_back"))
    assert seen() == ("one", "by one" if kept else None)
    restart()
    assert seen() == ("one", "by one" if kept else None)
    assert not converge("sandbox", **box(kind, "rolled_back"))["changed"]
    both(converge, **box(kind, upgrade={"upper": "fresh", "retry": True}))
    assert seen() == ("two", None)
    restart()
    both(converge, **box(kind, "rolled_back"))
    assert seen() == ("one", "by one" if kept else None)


@pytest.mark.parametrize("kind", KINDS + EPHEMERAL[-1:], ids=words)
def test_where_nothing_was_written_nothing_stays(converge, kind):
    """Without remove_data, too."""
    image("one")
    converge("sandbox", **box(kind))
    image("two")
    converge("sandbox", **box(kind))
    assert seen() == ("two", None)
    gone = dict(sandboxes=[dict(name="box", state="absent")], kill=True)
    both(converge, **gone)
    assert [name for name in storage.stored() if not name.startswith(".bases-")] == []


@pytest.mark.parametrize("kind", KINDS[1:5], ids=words)
def test_what_was_written_before_stays_with_what_is_written_now(converge, kind):
    image("one")
    converge("sandbox", **box(kind))
    write("by one")
    image("two")
    converge("sandbox", **box(kind))
    gone = dict(sandboxes=[dict(name="box", state="absent")], kill=True)
    both(converge, **gone)
    assert storage.stored(), "what was written is gone"
    both(converge, **dict(gone, remove_data=True))
    assert [name for name in storage.stored() if not name.startswith(".bases-")] == []
