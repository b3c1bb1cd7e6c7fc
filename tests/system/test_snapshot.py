# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Snapshots of what sandboxes have written: exact, taken while nothing moves, and whatever happens, all goes on afterwards."""

from __future__ import annotations

import os
import signal
import time

import boxes
import drive
import filesystems
import jail
import pytest
from boxes import BASE, SIZE, made, reboot, sandbox, sandboxes, started, told, writer

from module_utils._engine.plan import Plan, run_plan
from module_utils._kernel import livecopy, manifest
from module_utils._model.errors import Problems
from module_utils._program import host as program
from module_utils._resources import _frozen

LIB = "/var/lib/bulkhead"
KINDS = [dict(), dict(driver="copy"), dict(size=SIZE, limit="loop"), dict(size=SIZE, keep=False)]
COUNT = "n=0; while :; do n=$((n+1)); echo $n > /srv/count; cp /srv/count /srv/copy; done"  # count and copy differ by one at most


@pytest.fixture(autouse=True)
def place(leaves_nothing):
    with boxes.place():
        yield
    drive.reap()


def snapshot(name="first", **more):
    return dict(dict(sandbox="box", name=name), **more)


def seen(name="box"):
    """What a manifest says of each name in /srv and /etc as the sandbox sees them, where not all may be on one device."""
    found = {}
    for directory in (b"srv", b"etc"):
        fd = os.open(b"/proc/%s/root/%s" % (started(name).encode(), directory), os.O_RDONLY | os.O_DIRECTORY)
        try:
            for entry in manifest.walk(fd, lambda path, stat, other: (True, True)):
                found[directory + b"/" + entry.path] = manifest.words(entry, entry.stat.st_mode & 0o170000, {})
        finally:
            os.close(fd)
    return found


def write(text, name="box"):
    """Something of each kind, and what comes from the image changed and removed."""
    top = "/proc/%s/root" % started(name)
    for path in ("/srv/a", "/srv/a/b"):
        os.makedirs(top + path, exist_ok=True)
    with open(top + "/srv/a/b/file", "w", encoding="utf-8") as stream:
        stream.write(text)
    os.setxattr(top + "/srv/a/b/file", "user.note", text.encode())
    os.utime(top + "/srv/a/b/file", ns=(10**18, 10**18 + len(text)))
    if not os.path.exists(top + "/srv/again"):
        os.link(top + "/srv/a/b/file", top + "/srv/again")
        os.symlink("../etc", top + "/srv/link")
        os.mkfifo(top + "/srv/fifo", 0o640)
    os.chown(top + "/srv/a", 5, len(text))
    if os.path.exists(top + "/out"):
        os.chmod(top + "/etc", 0o700 + len(text))


@pytest.mark.proves("snapshots")
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_every_state(converge, full_cycle, kind):
    made()
    declared = sandboxes(sandbox(storage=kind), sandbox("beside"))
    converge("sandbox", **declared)
    write("as it was")
    before, other = seen(), started("beside")
    full_cycle("snapshot", snapshot(), snapshot(state="absent"))
    converge("snapshot", **snapshot())
    write("changed")
    os.unlink("/proc/%s/root/srv/again" % started("box"))
    with open("/proc/%s/root/srv/more" % started("box"), "wb") as stream:
        stream.write(b"x" * (SIZE // 2))
    assert seen() != before
    for dummy in range(2):  # an act: it is done each time
        pid = started("box")
        predicted, done = (converge("snapshot", check=check, **snapshot(state="restored")) for check in (True, False))
        assert predicted["changed"] and predicted["actions"] == done["actions"] and predicted["diff"] == done["diff"]
        assert seen() == before and started("box") != pid and started("beside") == other
        again = "/proc/%s/root/srv/again" % started("box")
        assert os.stat(again).st_nlink == 2 and os.path.samefile(again, "/proc/%s/root/srv/a/b/file" % started("box"))
        write("once more")
    assert not converge("sandbox", **declared)["changed"]
    assert drive.info("sandbox", names=["box"], storage=True)["sandboxes"][0]["snapshots"] == ["first"]
    shown = drive.info("snapshot", sandbox="box")["snapshots"]
    assert [(each["sandbox"], each["name"], each["state"]) for each in shown] == [("box", "first", "present")]
    assert drive.info("snapshot", name="none")["snapshots"] == []
    converge("snapshot", **snapshot(state="absent"))
    assert drive.info("snapshot")["snapshots"] == [] and not os.path.exists(LIB + "/snapshots") and not os.path.exists(LIB + "/roots/.saved")


def test_several_in_any_order_and_after_a_reboot(converge):
    made()
    converge("sandbox", **sandboxes(sandbox()))
    views = {}
    for name in ("one", "two", "three"):
        write(name)
        views[name] = seen()
        converge("snapshot", **snapshot(name))
    reboot()
    converge("sandbox", **sandboxes(sandbox()))
    for name in ("one", "three", "two"):
        converge("snapshot", **snapshot(name, state="restored"))
        assert seen() == views[name]


def test_refusals(converge, refuse):
    made()
    assert refuse("snapshot", **snapshot()) == ("Cannot take snapshot first of sandbox box: there is no sandbox box. Name one that is declared.")
    assert "is not a name" in refuse("snapshot", **snapshot("../x"))
    assert not converge("snapshot", **snapshot(state="absent"))["changed"]
    converge("sandbox", **sandboxes(sandbox(storage=dict(size=SIZE))))
    assert refuse("snapshot", **snapshot(state="restored")) == (
        "Cannot restore snapshot first of sandbox box: there is none of that name. Name one of: (there are none).")
    with open("/proc/%s/root/srv/more" % started("box"), "wb") as stream:
        stream.write(b"x" * (SIZE // 2))
    converge("snapshot", **snapshot())
    os.unlink("/proc/%s/root/srv/more" % started("box"))
    os.sync()
    converge("sandbox", **sandboxes(sandbox(storage=dict(size=SIZE // 4))))
    assert "and the sandbox may write %d. Give a larger storage.size." % (SIZE // 4) in refuse("snapshot", **snapshot(state="restored"))
    reboot()
    assert "Converge the sandbox first" in refuse("snapshot", **snapshot("second"))


def test_a_full_sandbox_is_saved_and_put_back(converge):
    made()
    declared = sandboxes(writer("box", storage=dict(size=SIZE)))
    converge("sandbox", **declared)
    size = told("box")["size"]
    converge("snapshot", **snapshot())
    converge("snapshot", **snapshot(state="restored"))
    assert os.stat("/proc/%s/root/srv/big" % started("box")).st_size >= size
    assert drive.info("sandbox", names=["box"], storage=True)["sandboxes"][0]["storage"]["size"] == SIZE
    assert not converge("sandbox", **declared)["changed"]


def counting(**more):
    return sandboxes(sandbox(services=[dict(name="app", command=["/bin/sh", "-c", COUNT])], **more))


def count(top):
    return [int(jail.text("%s/%s" % (top, name)) or 0) for name in ("count", "copy")]


def live():
    return LIB + "/uppers/box/upper/srv"


def goes_on():
    """The service of `box` counts on."""
    before = jail.until(lambda: count(live())[1])
    jail.until(lambda: count(live())[1] > before)


def test_nothing_moves_while_it_is_copied(converge, monkeypatch):
    made()
    converge("sandbox", **counting())
    goes_on()
    rest, moments = livecopy.LiveCopy.rest, []

    def slow(self, source):
        moments.append(count(live()))
        time.sleep(0.5)
        rest(self, source)
        moments.append(count(live()))

    monkeypatch.setattr(livecopy.LiveCopy, "rest", slow)
    converge("snapshot", **snapshot())
    assert moments[0] == moments[1] == count(LIB + "/snapshots/box/first/upper/srv")
    goes_on()


PAIRS = """n=0; while :; do n=$((n+1)); for i in 0 1 2 3 4 5 6 7 8 9; do echo $n > /srv/.new; mv /srv/.new /srv/$i; done; done"""


def slowly(monkeypatch):
    """Copies take long enough for a writer to come in between two files, if it could."""
    add = livecopy.LiveCopy.add

    def slow(self, entry):
        time.sleep(0.01)
        add(self, entry)

    monkeypatch.setattr(livecopy.LiveCopy, "add", slow)


@pytest.mark.parametrize("kind", KINDS[1:3], ids=str)
def test_who_writes_all_the_time_is_never_copied_torn(converge, monkeypatch, kind):
    """Ten files get one number after the other: so those of a moment begin with one number, and the rest have the number before."""
    made()
    slowly(monkeypatch)
    converge("sandbox", **sandboxes(sandbox(storage=kind, services=[dict(name="app", command=["/bin/sh", "-c", PAIRS])])))
    time.sleep(1)
    for number in range(8):
        converge("snapshot", **snapshot("s%d" % number))
        shown = drive.info("sandbox", names=["box"], storage=True, changes=True)["sandboxes"][0]  # what goes while they look is no error
        assert shown["storage"]["written"] and "/srv/0" in shown["changes"]["added"]
        room = LIB + ("/roots/.saved/box/s%d/tree/srv/" if kind.get("driver") else "/snapshots/box/s%d/upper/srv/") % number
        found = [int(jail.text(room + str(each))) for each in range(10)]
        turn = found.index(found[-1])
        assert found == [found[0]] * turn + [found[0] - (turn > 0)] * (10 - turn), found
    converge("snapshot", **snapshot("s7", state="restored"))


def test_a_copy_that_fails_is_no_snapshot_and_all_goes_on(converge, refuse, monkeypatch):
    made()
    converge("sandbox", **counting())
    goes_on()

    def full(self, source):
        os.mkdir("half", dir_fd=self.root)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(livecopy.LiveCopy, "rest", full)
    said = refuse("snapshot", **snapshot())
    assert "No space left on device" in said and "\n" not in said
    assert not os.path.exists(LIB + "/snapshots")
    goes_on()


@pytest.mark.parametrize("both", [False, True])
def test_killed_while_it_is_frozen(converge, monkeypatch, both):
    """Its child thaws; and where that is killed, too, the next run of the sandbox does."""
    made()
    converge("sandbox", **counting())
    goes_on()
    ready, told_so = os.pipe()
    pid = os.fork()
    if not pid:
        def hang(self, source):  # its child has an end of this pipe, too, so nobody waits for it to be closed
            os.write(told_so, b"x")
            time.sleep(1000)

        livecopy.LiveCopy.rest = hang
        drive.converge("snapshot", snapshot())
        os._exit(1)
    os.close(told_so)
    with os.fdopen(ready, "rb") as stream:
        assert stream.read(1) == b"x"
    trees = drive.new_host().cgroups()
    assert trees.frozen("bulkhead/box")
    if both:
        for guard in jail.text("/proc/%d/task/%d/children" % (pid, pid)).split():
            os.kill(int(guard), signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    if both:
        assert trees.frozen("bulkhead/box") and drive.info("sandbox", names=["box"])["sandboxes"][0]["unfinished"] == ["frozen"]
        assert converge("sandbox", **counting())["actions"] == ["thaw sandbox box"]
        assert not converge("sandbox", **counting())["changed"]
    jail.until(lambda: not trees.frozen("bulkhead/box"))
    goes_on()
    converge("snapshot", **snapshot("second"))
    assert os.listdir(LIB + "/snapshots/box") == ["second"] and not drive.new_host().claims.names(_frozen.NOUN)
    goes_on()


def test_one_that_is_frozen_stays_so(converge):
    made()
    converge("sandbox", **counting())
    goes_on()
    trees = drive.new_host().cgroups()
    trees.freeze("bulkhead/box", True)
    converge("snapshot", **snapshot())
    assert trees.frozen("bulkhead/box")
    trees.freeze("bulkhead/box", False)
    goes_on()


def test_put_back_is_undone_where_the_root_cannot_be_made(converge, refuse, monkeypatch):
    made()
    declared = sandboxes(sandbox(storage=dict(size=SIZE)))
    converge("sandbox", **declared)
    write("as it was")
    converge("snapshot", **snapshot())
    write("changed")
    now = seen()
    os.rename(BASE + "/out/box", BASE + "/out/away")
    assert "does not exist" in refuse("snapshot", **snapshot(state="restored"))
    os.rename(BASE + "/out/away", BASE + "/out/box")
    from module_utils._resources import root

    def broken(host, spec):
        monkeypatch.undo()
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(root, "furnish", broken)
    assert "Undone: " in refuse("snapshot", **snapshot(state="restored"))
    converge("sandbox", **declared)
    assert seen() == now and not converge("sandbox", **declared)["changed"]
    assert not os.path.exists(LIB + "/uppers/box/upper.bulkhead-discarded")


@pytest.mark.parametrize("point, again", [
    ("_storage_overlay.syscalls.exchange", "snapshot"), ("_storage_overlay.syscalls.exchange", "sandbox"), ("namespace._remove", "snapshot"),
    ("namespace._remove", "sandbox"), ("namespace._remove", "reboot"), ("root.furnish", "sandbox"), ("_storage_overlay._discard", "sandbox")])
def test_put_back_by_a_run_that_is_killed(converge, point, again):
    """Whoever comes next, a task of the sandbox as it always was, too, finds the way: all of what was written, or all of the snapshot."""
    made()
    declared = sandboxes(sandbox(), sandbox("beside"))
    converge("sandbox", **declared)
    write("as it was")
    before, other = seen(), started("beside")
    converge("snapshot", **snapshot())
    write("changed")
    now = seen()
    drive.killed("snapshot", point, snapshot(state="restored"))
    if again == "reboot":
        reboot()
    if again == "snapshot":
        converge("snapshot", **snapshot(state="restored"))
        assert seen() == before
    else:
        predicted, done = (converge("sandbox", check=check, **declared) for check in (True, False))
        assert predicted["actions"] == done["actions"]
        assert seen() == (now if point == "_storage_overlay.syscalls.exchange" else before)
    assert not converge("sandbox", **declared)["changed"] and (started("beside") == other or again == "reboot")
    assert not os.path.exists(LIB + "/uppers/box/upper.bulkhead-discarded")
    converge("snapshot", **snapshot(state="restored"))
    assert seen() == before


@pytest.mark.parametrize("kind", KINDS[:3], ids=str)
def test_a_reset_by_a_run_that_is_killed(converge, kind):
    """What was written is gone, and the next run is over what is there now."""
    made()
    declared = sandboxes(sandbox(storage=kind))
    converge("sandbox", **declared)
    empty = seen()
    write("as it was")
    drive.killed("sandbox", "namespace._remove", dict(declared, reset=["box"]))
    assert converge("sandbox", check=True, **declared)["actions"] == converge("sandbox", **declared)["actions"]
    assert seen() == empty and not converge("sandbox", **declared)["changed"]


def test_they_go_with_the_data_of_the_sandbox(converge):
    made()
    converge("sandbox", **sandboxes(sandbox(), sandbox("beside")))
    for name in ("box", "beside"):
        write("kept", name)
        converge("snapshot", **snapshot(sandbox=name))
    gone = dict(sandboxes(sandbox(state="absent")), remove_data=False)
    converge("sandbox", **gone)
    assert not converge("sandbox", **gone)["changed"]
    assert len(drive.info("snapshot")["snapshots"]) == 2
    gone["remove_data"] = True
    assert converge("sandbox", check=True, **gone)["actions"] == converge("sandbox", **gone)["actions"]
    assert [each["sandbox"] for each in drive.info("snapshot")["snapshots"]] == ["beside"]
    converge("sandbox", sandboxes=[], purge=True, remove_data=True, kill=True)
    assert not os.path.exists(LIB + "/snapshots") and not filesystems.loops()


def test_the_host_without_anything_of_ours_has_none(converge):
    made()
    converge("sandbox", **sandboxes(sandbox()))
    write("kept")
    converge("snapshot", **snapshot())
    converge("sandbox", **dict(sandboxes(sandbox(state="absent")), remove_data=False))
    host, plan = drive.new_host(), Plan()
    program.plan(host, program.parse(dict(state="absent", remove_data=True), "", Problems()), plan)
    assert "remove the snapshots of sandbox box" in plan.actions
    run_plan(plan)
    assert not os.path.exists(LIB + "/snapshots")
    converge("sandbox", **sandboxes(sandbox(state="absent")))
