# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sandboxes of images: the layers are the image's, and so is what a service does not say of itself."""

from __future__ import annotations

import os
import shutil

import archives
import drive
import jail
import pytest
from archives import Layout, directory, entry, symlink, tar

from module_utils._engine.plan import Plan, run_plan
from module_utils._kernel import manifest
from module_utils._model.errors import Problems
from module_utils._program import host as program
from module_utils._program import whole

BASE = "/run/boxes"
TYPES = ["net", "uts", "ipc", "mnt", "pid"]
CONFIG = dict(Entrypoint=["/bin/sleep"], Cmd=["1000"], Env=["A=image", "B=image"], User="33:44", WorkingDir="/srv")


@pytest.fixture(autouse=True)
def place(leaves_nothing):
    os.makedirs(BASE)
    yield
    drive.converge("overlay", dict(path=BASE + "/mnt", state="absent"))
    jail.clear_images()
    shutil.rmtree(BASE)


def busybox():
    with open("/bin/busybox", "rb") as stream:
        return stream.read()


def make(converge, config=None, more=()):
    lowest = tar(directory(b"bin"), entry(b"bin/busybox", busybox(), mode=0o755), symlink(b"bin/sleep", b"busybox"), directory(b"srv"), directory(b"proc"),
                 directory(b"sys"), directory(b"dev"), directory(b"etc"), entry(b"etc/old", b"old"))
    path = Layout(BASE + "/layout", lowest, tar(entry(b"etc/.wh.old"), entry(b"etc/new", b"new")), *more, config=config or CONFIG).done()
    converge("image", name="sleeper", oci=path)


def sandbox(**more):
    return dict(sandboxes=[dict(dict(name="box", image="sleeper", namespaces=dict(types=TYPES)), **more)], remove_data=True, kill=True)


def process(host):
    """The pid of the service's command."""
    def found():
        for pid in filter(str.isdigit, os.listdir("/proc")):
            if jail.text("/proc/%s/cmdline" % pid).startswith("/bin/sleep\0") and os.path.exists("/proc/%s/root/etc/new" % pid):
                return pid
        return None
    return jail.until(found)


def test_service_of_the_image(converge, full_cycle):
    make(converge)
    full_cycle("sandbox", sandbox(services=[dict(name="app")]), sandbox(state="absent"))
    converge("sandbox", **sandbox(services=[dict(name="app", environment={"B": "own"})]))
    pid = process(drive.new_host())
    status = jail.text("/proc/%s/status" % pid)
    assert jail.text("/proc/%s/cmdline" % pid) == "/bin/sleep\x001000\0" and "Uid:\t33\t33" in status and "Gid:\t44\t44" in status
    assert {"A=image", "B=own"} <= set(jail.text("/proc/%s/environ" % pid).split("\0")) and os.readlink("/proc/%s/cwd" % pid) == "/srv"
    assert sorted(os.listdir("/proc/%s/root/etc" % pid)) == ["new"]
    assert not converge("sandbox", **sandbox(services=[dict(name="app", environment={"B": "own"})]))["changed"]


def test_declared_wins(converge, refuse):
    make(converge, config=dict(User="no-such-user"))
    assert "services[0] with what image sleeper says.command" in refuse("sandbox", **sandbox(services=[dict(name="app")]))
    converge("sandbox", **sandbox(services=[dict(name="app", command=["/bin/sleep", "2000"])]))
    assert jail.text("/proc/%s/cmdline" % process(drive.new_host())) == "/bin/sleep\x002000\0"


def test_image_comes_and_goes(converge, refuse):
    assert "there is no image sleeper" in refuse("sandbox", **sandbox())
    assert "no image sleeper yet" in converge("sandbox", check=True, **sandbox())["warnings"][0]
    make(converge)
    converge("sandbox", **sandbox())
    assert "sandbox box is declared with it" in refuse("image", name="sleeper", state="absent")
    shutil.rmtree(BASE + "/layout")
    make(converge, more=(tar(entry(b"etc/newer", b"x")),))
    assert "on_mismatch: recreate" in refuse("sandbox", **sandbox())
    converge("image", prune=True)
    converge("sandbox", on_mismatch="recreate", **sandbox())
    assert not converge("sandbox", **sandbox())["changed"]
    converge("sandbox", **sandbox(state="absent"))
    converge("image", name="sleeper", state="absent")


def test_input(refuse):
    message = refuse("sandbox", sandboxes=[dict(name="box", image="a/b", overlay=dict(lower=[BASE])), dict(name="b", image="x", root=BASE)])
    for words in ("sandboxes[0].image", "sandboxes[0].overlay.lower: the layers are those of the image", "sandboxes[1].root: a sandbox has one root"):
        assert words in message


def test_without_a_mount_namespace(converge, full_cycle):
    make(converge)
    options = dict(sandboxes=[dict(name="box", image="sleeper")], remove_data=True)
    full_cycle("sandbox", options, dict(sandboxes=[dict(name="box", state="absent")], remove_data=True))
    converge("sandbox", **options)
    assert os.listdir("/run/bulkhead/mnt/box/etc") == ["new"]
    archives.write("/run/bulkhead/mnt/box/etc/mine", b"x")
    converge("sandbox", sandboxes=[dict(name="box", state="absent")], remove_data=True)


@pytest.mark.proves("image after a reboot")
def test_restored(converge):
    """After all that a reboot takes is gone, the record of the sandbox and the store are enough."""
    make(converge)
    converge("sandbox", **sandbox(services=[dict(name="app")]))
    plan = Plan()
    problems = Problems()
    spec = program.parse(dict(state="absent", clear=True), "", problems)
    program.plan(drive.new_host(), spec, plan)
    run_plan(plan)
    assert not os.path.exists("/run/bulkhead/mnt")
    done, failed = whole.restore(drive.new_host())
    assert done and not failed, failed
    assert jail.text("/proc/%s/cmdline" % process(drive.new_host())) == "/bin/sleep\x001000\0"
    assert not converge("sandbox", **sandbox(services=[dict(name="app")]))["changed"]


def test_commit(converge, refuse, full_cycle):
    """What a sandbox has written over its image, be it removed, replaced or renamed, is the same tree in the image that is made of it."""
    make(converge)
    more = (tar(directory(b"opt"), entry(b"opt/a", b"a"), directory(b"opt/d"), entry(b"opt/d/x", b"x")),)
    shutil.rmtree(BASE + "/layout")
    make(converge, more=more)
    converge("sandbox", sandboxes=[dict(name="box", image="sleeper")])
    top = "/run/bulkhead/mnt/box/"
    os.unlink(top + "opt/a")
    shutil.rmtree(top + "opt/d")
    archives.write(top + "opt/d/y", b"y")
    archives.write(top + "etc/mine", b"mine")
    os.chmod(top + "srv", 0o700)
    os.link(top + "etc/mine", top + "etc/same")
    os.rename(top + "etc/new", top + "etc/newer")
    assert drive.info("sandbox", names=["box"], changes=True)["sandboxes"][0]["changes"] == {
        "added": ["/etc/mine", "/etc/newer", "/etc/same", "/opt/d/y"], "modified": ["/srv"], "deleted": ["/etc/new", "/opt/a", "/opt/d/x"]}
    wanted = image_of(top)
    full_cycle("image", dict(name="made", commit="box"), dict(name="made", state="absent"))
    converge("image", name="made", commit="box")
    found = drive.info("image", name="made")["images"][0]
    below = drive.info("image", name="sleeper")["images"][0]
    assert found["lower"][1:] == below["lower"] and found["config"] == below["config"] and found["layers"][3]["shared_by"] == []
    converge("overlay", path=BASE + "/mnt", lower=found["lower"])
    assert image_of(BASE + "/mnt") == wanted
    archives.write(top + "etc/mine", b"other")
    assert converge("image", name="made", commit="box", check=True)["changed"]
    assert "set-user-ID" in (os.chmod(top + "etc/mine", 0o4755), refuse("image", name="made", commit="box"))[1]
    assert "none of that name" in refuse("image", name="made", commit="none")
    assert "does not exist yet" in converge("image", name="made", commit="none", check=True)["warnings"][0]
    converge("overlay", path=BASE + "/mnt", state="absent")
    converge("sandbox", sandboxes=[dict(name="box", state="absent")], remove_data=True)


def image_of(path):
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return manifest.of(fd).text
    finally:
        os.close(fd)
