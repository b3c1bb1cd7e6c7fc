# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Storage drivers: what holds of a root is the same, however it is made of the layers of an image."""

from __future__ import annotations

import json
import os
import shutil

import archives
import drive
import jail
import pytest
import storage
from archives import directory, entry, tar
from storage import DRIVERS, LIB, box, root_of, sandboxes, told

from module_utils._program import whole

pytestmark = pytest.mark.usefixtures("place")
MORE = [tar(directory(b"srv"), entry(b"srv/.wh.gone"), entry(b"srv/upper", b"upper"), directory(b"opt"), entry(b"opt/.wh..wh..opq"), entry(b"opt/new", b"new"))]


PROVES = {"devicemapper": pytest.mark.proves("storage driver devicemapper"), "btrfs": pytest.mark.proves("storage driver btrfs"),
          "copy": pytest.mark.proves("storage driver copy")}


@pytest.fixture(params=[pytest.param(each, marks=PROVES.get(each, ())) for each in DRIVERS])
def driver(request):
    """A driver that this host has."""
    return request.param


@pytest.fixture
def place(leaves_nothing):
    with storage.on_disk(), storage.place():
        yield


def change(root):
    """Everything that can become of a name: what is told of it."""
    archives.write(root + "/etc/new", b"new")
    os.unlink(root + "/srv/file")  # the other name of it stays
    archives.write(root + "/srv/file", b"other")
    os.chmod(root + "/srv/kept", 0o600)
    os.unlink(root + "/srv/gone")
    shutil.rmtree(root + "/opt")
    archives.write(root + "/opt/again", b"again")
    os.unlink(root + "/etc/link")
    os.symlink("elsewhere", root + "/etc/link")
    os.link(root + "/etc/new", root + "/etc/same")
    os.mkfifo(root + "/srv/pipe")
    os.setxattr(root + "/srv/kept", "user.colour", b"blue")
    for name in ("etc/new", "srv/file", "opt/again", "opt", "etc", "srv", "etc/link", "srv/pipe"):
        os.utime("%s/%s" % (root, name), ns=(5, 5), follow_symlinks=False)
    return {"added": ["/etc/new", "/etc/same", "/opt/again", "/srv/pipe"], "modified": ["/etc/link", "/srv/file", "/srv/kept"],
            "deleted": ["/opt/deep", "/opt/old", "/srv/gone"]}


def test_from_nothing_and_back(converge, full_cycle, driver):
    storage.image()
    one = box(driver)
    full_cycle("sandbox", sandboxes(one), sandboxes(dict(one, state="absent")))
    users = dict(types=["user", "net"] + storage.TYPES, uid_map=["0 100000 65536"], gid_map=["0 100000 65536"])
    for options in (dict(one, namespaces={}), dict(one, namespaces=users)):
        full_cycle("sandbox", sandboxes(options), sandboxes(dict(options, state="absent")))
    converge("image", name="it", state="absent")
    assert storage.stored() == []


def test_what_one_writes_no_other_sees(converge, driver):
    storage.image(*MORE)
    converge("sandbox", **sandboxes(box(driver), box(driver, "other")))
    roots = [root_of(name) for name in ("box", "other")]
    for root in roots:
        assert sorted(os.listdir(root + "/srv")) == ["file", "kept", "same", "upper"] and os.listdir(root + "/opt") == ["new"]
        assert os.stat(root + "/srv/file").st_nlink == 2 and os.stat(root + "/srv/kept").st_uid == 7
    archives.write(roots[0] + "/srv/file", b"mine")
    os.unlink(roots[0] + "/srv/kept")
    assert jail.text(roots[1] + "/srv/file") == "file" and os.path.exists(roots[1] + "/srv/kept")
    assert not converge("image", name="it", verify=True)["changed"]
    both = ["/srv/file"] + ["/srv/same"] * (driver != "overlay")  # which breaks the link of a file of a layer when it is written
    assert told("box")["changes"] == {"added": [], "modified": both, "deleted": ["/srv/kept"]}
    assert told("other")["changes"] == {"added": [], "modified": [], "deleted": []}
    converge("sandbox", **sandboxes(box(driver), box(driver, "other"), box(driver, "third")))
    assert jail.text(root_of("third") + "/srv/file") == "file"


def test_shared_and_measured(converge, driver):
    storage.image()
    converge("sandbox", **sandboxes(*[box(driver, "box%d" % number) for number in range(3)]))
    before = told("box1")["storage"]
    assert before["driver"] == driver and before["written"] < 64 << 10 and before["size"] == (10 << 30 if driver == "devicemapper" else None)
    archives.write(root_of("box1") + "/srv/big", os.urandom(1 << 20))
    os.sync()
    assert told("box1")["storage"]["written"] - before["written"] >= 1 << 20
    assert told("box2")["storage"]["written"] < 64 << 10


def test_changes_are_told_and_committed(converge, full_cycle, driver):
    """The same layer, whatever the driver."""
    storage.image()
    converge("sandbox", **sandboxes(box(driver)))
    wanted = change(root_of("box"))
    assert told("box")["changes"] == wanted
    full_cycle("image", dict(name="made", commit="box"), dict(name="made", state="absent"))
    converge("image", name="made", commit="box")
    converge("sandbox", **sandboxes(box(driver), box("overlay", "over", image="made"), box("copy", "copied", image="made")))
    assert storage.manifest_of("over") == storage.manifest_of("copied") == storage.manifest_of("box")
    archives.write(root_of("box") + "/etc/new", b"newer")
    assert converge("image", name="made", commit="box")["changed"]


def test_removal_keeps_data_unless_told(converge, driver):
    storage.image()
    one, gone = box(driver), dict(sandboxes=[dict(name="box", state="absent")])
    converge("sandbox", **sandboxes(one))
    converge("sandbox", **gone)
    assert "box" not in storage.stored()  # nothing was written
    converge("sandbox", **sandboxes(one))
    archives.write(root_of("box") + "/srv/mine", b"mine")
    converge("sandbox", **gone)
    assert not converge("sandbox", **gone)["changed"] and "box" in storage.stored()
    if driver != "overlay":
        assert "in use" in converge("image", name="it", state="absent")["warnings"][0]
        storage.image()
    converge("sandbox", **sandboxes(one))
    assert jail.text(root_of("box") + "/srv/mine") == "mine"
    predicted = converge("sandbox", check=True, remove_data=True, **gone)
    assert converge("sandbox", remove_data=True, **gone)["actions"] == predicted["actions"]
    assert "box" not in storage.stored()


@pytest.mark.parametrize("types", [storage.TYPES, None])
def test_reset(converge, refuse, driver, types):
    storage.image()
    both = [box(driver, name, namespaces=dict(types=types) if types else {}) for name in ("box", "other")]
    converge("sandbox", **sandboxes(*both))
    pid = storage.pid_of("box")
    for name in ("box", "other"):
        archives.write(root_of(name) + "/srv/mine", b"mine")
        os.unlink(root_of(name) + "/srv/file")
    answers = [converge("sandbox", check=check, reset=["box"], **sandboxes(*both)) for check in (True, False)]
    assert answers[0]["changed"] and answers[0]["actions"] == answers[1]["actions"]
    assert storage.pid_of("box") != pid
    assert sorted(os.listdir(root_of("box") + "/srv")) == ["file", "gone", "kept", "same"] and os.path.exists(root_of("other") + "/srv/mine")
    assert not converge("sandbox", **sandboxes(*both))["changed"]
    assert converge("sandbox", reset=True, **sandboxes(*both))["changed"] and not os.path.exists(root_of("other") + "/srv/mine")
    assert "reset[0]: 'none' is not among" in refuse("sandbox", reset=["none"], **sandboxes(*both))
    assert not storage.leftovers()


def test_reboot(converge, driver):
    storage.image()
    converge("sandbox", **sandboxes(box(driver)))
    archives.write(root_of("box") + "/srv/mine", b"mine")
    storage.reboot()
    done, failed = whole.restore(drive.new_host())
    assert not failed and jail.text(root_of("box") + "/srv/mine") == "mine"
    assert not converge("sandbox", **sandboxes(box(driver)))["changed"]


def test_another_image(converge, refuse, driver):
    """What was written is kept, and lies over the new layers."""
    storage.image()
    converge("sandbox", **sandboxes(box(driver)))
    change(root_of("box"))
    storage.image(tar(directory(b"usr"), entry(b"usr/newer", b"newer"), directory(b"srv"), entry(b"srv/file", b"changed below"),
                      entry(b"etc/.wh.old")), name="next")
    following = sandboxes(box(driver, image="next"))
    assert "on_mismatch: recreate" in refuse("sandbox", **following)
    answers = [converge("sandbox", check=check, on_mismatch="recreate", **following) for check in (True, False)]
    assert answers[0]["actions"] == answers[1]["actions"] and not converge("sandbox", **following)["changed"]
    root = root_of("box")
    assert jail.text(root + "/usr/newer") == "newer" and jail.text(root + "/srv/file") == "other" and os.listdir(root + "/opt") == ["again"]
    assert not os.path.exists(root + "/srv/gone") and sorted(os.listdir(root + "/etc")) == ["link", "new", "same"]
    assert os.getxattr(root + "/srv/kept", "user.colour") == b"blue" and os.stat(root + "/etc/new").st_nlink == 2
    assert not storage.leftovers()


def test_driver_stays(converge, refuse, driver):
    storage.image()
    converge("sandbox", **sandboxes(box(driver)))
    for other in [each for each in DRIVERS if each != driver]:
        assert "Cannot change storage.driver of sandbox box from %s to %s" % (driver, other) in refuse("sandbox", **sandboxes(box(other)))
    assert not converge("sandbox", **sandboxes(dict(box(driver), storage=dict(driver="auto"))))["changed"]


@pytest.mark.parametrize("driver", [each for each in DRIVERS if each != "overlay"])
def test_not_made_by_us(converge, refuse, driver):
    storage.image()
    archives.write(LIB + "/roots/box/precious", b"x")
    assert "was not made by us. Move it away." in refuse("sandbox", **sandboxes(box(driver)))
    converge("sandbox", **sandboxes(dict(box(driver), state="absent")))
    assert jail.text(LIB + "/roots/box/precious") == "x"
    shutil.rmtree(LIB + "/roots/box")
    converge("sandbox", **sandboxes(box(driver)))
    with open(LIB + "/roots/box/root.json", encoding="utf-8") as stream:
        told_of = json.load(stream)
    assert told_of["driver"] == driver and told_of["image"] == "it"


@pytest.mark.parametrize("driver", [each for each in DRIVERS if each != "overlay"])
def test_base_that_is_lost(converge, driver):
    storage.image()
    converge("sandbox", **sandboxes(box(driver)))
    archives.write(root_of("box") + "/srv/mine", b"mine")
    bases = LIB + "/roots/.bases-" + driver
    storage.resource(driver).pieces.remove(drive.new_host(), "%s/%s" % (bases, os.listdir(bases)[0]))
    shutil.rmtree(bases)
    assert "its base" in drive.apart("sandbox", sandboxes(dict(box(driver), state="absent")), True).get("error", "its base")
    answers = [converge("sandbox", check=check, **sandboxes(box(driver))) for check in (True, False)]
    assert answers[0]["actions"] == answers[1]["actions"] == ["make base of root of sandbox box (%s)" % driver]
    assert told("box")["changes"]["added"] == ["/srv/mine"]


def test_links_lead_nowhere(converge, driver):
    """A service puts links in the place of all that is in its root, to where the host has precious things."""
    storage.image()
    precious = archives.write(storage.BASE + "/precious/file", b"precious")
    converge("sandbox", **sandboxes(box(driver)))
    root = root_of("box")
    for name in ("srv", "opt", "etc"):
        shutil.rmtree("%s/%s" % (root, name))
        os.symlink(os.path.dirname(precious), "%s/%s" % (root, name))
    os.mkfifo(root + "/fifo")
    os.symlink("/", root + "/all")
    assert told("box")["changes"]["added"] == ["/all", "/fifo"] and told("box")["storage"]["written"] < 1 << 20
    converge("image", name="made", commit="box")
    storage.image(*MORE, name="next")
    converge("sandbox", on_mismatch="recreate", **sandboxes(box(driver, image="next")))
    assert os.readlink(root_of("box") + "/srv") == os.path.dirname(precious)
    converge("sandbox", reset=True, **sandboxes(box(driver, image="next")))
    converge("sandbox", **sandboxes(dict(box(driver), state="absent")))
    assert os.listdir(os.path.dirname(precious)) == ["file"] and jail.text(precious) == "precious"


def test_chosen_by_probe(converge):
    storage.image()
    answer = converge("sandbox", **sandboxes(dict(box("overlay"), storage=dict(driver="auto"))))
    assert answer["changed"] and told("box")["storage"]["driver"] == "overlay"


def test_absent_here(refuse):
    storage.image()
    message = refuse("sandbox", **sandboxes(box("aufs")))
    assert "Cannot make sandbox box with storage.driver aufs: this kernel has no aufs." in message


@pytest.mark.parametrize("upper", ["keep", "fresh"])
def test_upgrade_and_rollback(converge, driver, upper):
    """What was written comes along or is left behind; with the version before it comes back."""
    storage.image()
    one = dict(box(driver), upgrade=dict(upper=upper, trial=False))
    converge("sandbox", **sandboxes(one))
    archives.write(root_of("box") + "/srv/mine", b"mine")
    os.unlink(root_of("box") + "/srv/gone")
    storage.image(tar(directory(b"usr"), entry(b"usr/newer", b"newer")))
    answers = [converge("sandbox", check=check, **sandboxes(one)) for check in (True, False)]
    assert answers[0]["actions"] == answers[1]["actions"] and not converge("sandbox", **sandboxes(one))["changed"]
    assert jail.text(root_of("box") + "/usr/newer") == "newer"
    assert [os.path.exists(root_of("box") + "/srv/" + name) for name in ("mine", "gone")] == [upper == "keep", upper == "fresh"]
    archives.write(root_of("box") + "/srv/later", b"later")
    back = sandboxes(dict(one, state="rolled_back"))
    answers = [converge("sandbox", check=check, **back) for check in (True, False)]
    assert answers[0]["actions"] == answers[1]["actions"] and not converge("sandbox", **back)["changed"]
    root = root_of("box")
    assert jail.text(root + "/srv/mine") == "mine" and not os.path.exists(root + "/srv/gone") and not os.path.exists(root + "/usr/newer")
    assert os.path.exists(root + "/srv/later") == (upper == "keep")
    assert not storage.leftovers()


def test_reset_to_another_image(converge, driver):
    storage.image()
    converge("sandbox", **sandboxes(box(driver)))
    archives.write(root_of("box") + "/srv/mine", b"mine")
    storage.image(*MORE, name="next")
    options = dict(sandboxes(box(driver, image="next")), reset=["box"], on_mismatch="recreate")
    answers = [converge("sandbox", check=check, **options) for check in (True, False)]
    assert answers[0]["actions"] == answers[1]["actions"]
    assert sorted(os.listdir(root_of("box") + "/srv")) == ["file", "kept", "same", "upper"] and not storage.leftovers()


def test_snapshots(converge, driver):
    storage.image()
    converge("sandbox", **sandboxes(box(driver)))
    archives.write(root_of("box") + "/srv/mine", b"mine")
    one = dict(sandbox="box", name="one")
    answers = [converge("snapshot", check=check, **one) for check in (True, False)]
    assert answers[0]["actions"] == answers[1]["actions"] and not converge("snapshot", **one)["changed"]
    archives.write(root_of("box") + "/srv/mine", b"other")
    os.unlink(root_of("box") + "/srv/file")
    back = dict(one, state="restored")
    answers = [converge("snapshot", check=check, **back) for check in (True, False)]
    assert answers[0]["actions"] == answers[1]["actions"]
    assert jail.text(root_of("box") + "/srv/mine") == "mine" and os.path.exists(root_of("box") + "/srv/file")
    assert not converge("sandbox", **sandboxes(box(driver)))["changed"] and not storage.leftovers()
    converge("snapshot", **dict(one, state="absent"))


def test_everything_goes_with_the_host(converge, driver):
    storage.image()
    converge("sandbox", **sandboxes(box(driver)))
    archives.write(root_of("box") + "/srv/mine", b"mine")
    storage.host_absent()
    assert storage.stored() == [] and not os.path.exists(LIB + "/layers")


def test_file_system_of_the_roots_is_not_mounted(converge, refuse):
    """Nothing is made in its place."""
    storage.image()
    converge("sandbox", **sandboxes(box("btrfs")))
    archives.write(root_of("box") + "/srv/mine", b"mine")
    storage.reboot()
    with storage.unmounted():
        assert "/var/lib/bulkhead/roots is not on a btrfs. Mount one there" in refuse("sandbox", **sandboxes(box("btrfs")))
    assert not [name for name in os.listdir("/proc") if name.isdigit() and jail.text("/proc/%s/cmdline" % name) == "/bin/sleep\0001000\0"]
    converge("sandbox", **sandboxes(box("btrfs")))
    assert jail.text(root_of("box") + "/srv/mine") == "mine"
