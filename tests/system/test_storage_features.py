# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Features of overlays that bind what is written to its inodes, its mount or its layers: copies are exact, or refused by the name of the feature."""

from __future__ import annotations

import os
import shutil

import boxes
import jail
import pytest
from archives import directory, entry, hard_link
from boxes import made, reboot, sandbox, sandboxes, started

from module_utils._kernel import manifest

LIB = "/var/lib/bulkhead"
KEPT = [{}, {"redirect_dir": "on"}, {"redirect_dir": "on", "metacopy": "on"}, {"uuid": "on"}, {"xino": "on"}, {"userxattr": True}]


@pytest.fixture(autouse=True)
def place(leaves_nothing):
    with boxes.place():
        yield


def image(version):
    made(directory(b"usr"), entry(b"usr/%s" % version), directory(b"usr/share"), entry(b"usr/share/page", version), entry(b"usr/owned", b"of %s" % version),
         entry(b"usr/first", b"two names"), hard_link(b"usr/again", b"usr/first"))


def declared(options, **more):
    return sandboxes(sandbox(overlay={"options": options}, **more))


def top(path=""):
    return "/proc/%s/root/%s" % (started("box"), path)


def seen():
    """What a manifest says of /usr as the sandbox sees it."""
    fd = os.open(top("usr"), os.O_RDONLY | os.O_DIRECTORY)
    try:
        return manifest.of(fd).text
    finally:
        os.close(fd)


def write():
    """What makes the kernel note something in an upper: a directory that is renamed, an owner changed, one of two names written, what was removed anew."""
    for act in (lambda: os.rename(top("usr/share"), top("usr/moved")), lambda: os.rename(top("usr/owned"), top("usr/mine"))):
        try:
            act()
        except OSError as exc:
            assert exc.errno == 18, exc  # a directory of the layers, without redirect_dir
    os.chown(top("usr/mine"), 5, 6)
    with open(top("usr/first"), "w", encoding="utf-8") as stream:
        stream.write("changed")
    os.makedirs(top("usr/new/er"))


@pytest.mark.parametrize("options", KEPT, ids=str)
def test_a_snapshot_is_exact(converge, options):
    image(b"one")
    converge("sandbox", **declared(options))
    write()
    before = seen()
    converge("snapshot", sandbox="box", name="first")
    shutil.rmtree(top("usr"))
    os.makedirs(top("usr/other"))
    converge("snapshot", sandbox="box", name="first", state="restored")
    assert seen() == before
    assert not converge("sandbox", **declared(options))["changed"]


@pytest.mark.parametrize("key, value", [("index", "on"), ("nfs_export", "on"), ("volatile", True)])
def test_a_snapshot_that_would_not_be_is_refused(converge, refuse, key, value):
    image(b"one")
    converge("sandbox", **declared({}))
    converge("snapshot", sandbox="box", name="before")
    converge("sandbox", on_mismatch="recreate", **declared({key: value}))
    write()
    before, pid = seen(), started("box")
    for verb, name, state in (("take", "first", "present"), ("restore", "before", "restored")):
        for check in (True, False):
            said = refuse("snapshot", sandbox="box", name=name, state=state, check=check)
            assert said.startswith("Cannot %s snapshot %s of sandbox box: its overlay has %s, " % (verb, name, key))
            assert "Declare overlay.options.%s: " % key in said
    assert (seen(), started("box")) == (before, pid) and os.listdir(LIB + "/snapshots/box") == ["before"]


@pytest.mark.parametrize("options", [{"index": "on"}, {"redirect_dir": "on", "metacopy": "on"}, {"redirect_dir": "on"}], ids=str)
def test_what_is_bound_to_its_layers_is_not_laid_over_others(converge, refuse, options):
    image(b"one")
    rules = dict(upgrade={"upper": "keep"})
    converge("sandbox", **declared(options, **rules))
    write()
    before, pid = seen(), started("box")
    image(b"other")
    key = next(iter(options)) if len(options) == 1 else "metacopy"
    for more in (rules, dict(upgrade={"upper": "refuse"})):
        said = refuse("sandbox", on_mismatch="recreate", **declared(options, **more))
        assert said.startswith("Cannot upgrade sandbox box with what was written: its overlay has %s, " % key)
        assert said.endswith("Declare overlay.options.%s: off, or set upgrade.upper: fresh." % key)
    assert (seen(), started("box")) == (before, pid)
    reboot()
    assert refuse("sandbox", **declared(options, **rules)) == said  # as it would be mounted
    converge("sandbox", **declared(options, upgrade={"upper": "fresh"}))
    assert b"of other" in jail.text(top("usr/owned")).encode()
    converge("sandbox", **declared(options, upgrade={"upper": "fresh"}, state="rolled_back"))
    assert seen() == before


def test_what_was_left_below_before_the_feature_was_left_out(converge, refuse):
    image(b"one")
    rules = dict(upgrade={"upper": "keep"})
    converge("sandbox", **declared({"redirect_dir": "on"}, **rules))
    write()
    before = seen()
    converge("sandbox", on_mismatch="recreate", **declared({"redirect_dir": "off"}, **rules))
    assert seen() == before  # the kernel follows what is there
    image(b"other")
    said = refuse("sandbox", **declared({"redirect_dir": "off"}, **rules))
    assert "/usr/moved has its content still in the layers" in said and "\n" not in said
    os.rename(top("usr/moved/page"), top("usr/page"))
    shutil.rmtree(top("usr/moved"))
    converge("sandbox", **declared({"redirect_dir": "off"}, **rules))
    assert jail.text(top("usr/page")) == "one" and os.path.exists(top("usr/other"))
