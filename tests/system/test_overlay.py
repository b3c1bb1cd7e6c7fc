# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Overlays on this kernel: every state, every refusal, and changes that an observer never sees half-done."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import drive

from module_utils._kernel import mountinfo, overlayfs, syscalls
from module_utils._resources import _mounting


class Place:
    """Two layers, an upper and a work directory, and a mount point."""

    def __init__(self, top):
        self.top = str(top)
        syscalls.mount("test", self.top, "tmpfs", 0, "mode=755")
        for name in ("base", "app", "other"):
            os.makedirs("%s/%s/etc" % (self.top, name))
            with open("%s/%s/etc/%s" % (self.top, name, name), "w", encoding="utf-8") as stream:
                stream.write(name)

    def __call__(self, name):
        return "%s/%s" % (self.top, name)

    def options(self, **more):
        found = dict(path=self("mnt"), lower=[self("app"), self("base")], upper=self("upper"), work=self("work"))
        found.update(more)
        return {key: value for key, value in found.items() if value is not None}


@pytest.fixture
def place(tmp_path):
    made = Place(tmp_path)
    yield made
    for path in (made("mnt"), made.top):
        while True:
            try:
                syscalls.umount(path, syscalls.MNT_DETACH)
            except OSError:
                break
    host = drive.new_host()
    for name in host.claims.names("overlay") + host.records.names("overlay"):
        host.claims.drop("overlay", name)
        host.records.drop("overlay", name)
    links = host.state + "/links"
    if os.path.isdir(links):
        for name in os.listdir(links):
            os.unlink("%s/%s" % (links, name))
        os.rmdir(links)


def top(path):
    return mountinfo.read().top(path)


def test_every_state(place, full_cycle):
    full_cycle("overlay", place.options(), dict(path=place("mnt"), state="absent"))
    assert not os.path.exists(place("mnt")) and os.path.isdir(place("upper"))


def test_the_diff_tells_what_comes_and_goes(place, converge):
    options = place.options()
    shown = converge("overlay", **options)["diff"]["after"]
    assert shown["lower"] == options["lower"] and shown["upper"] == options["upper"] and shown["path"] == options["path"]
    assert converge("overlay", path=place("mnt"), state="absent")["diff"]["before"] == dict(shown, state="mounted")


def test_content(place, converge):
    converge("overlay", **place.options())
    assert sorted(os.listdir(place("mnt/etc"))) == ["app", "base"]
    with open(place("mnt/etc/new"), "w", encoding="utf-8") as stream:
        stream.write("x")
    assert os.listdir(place("upper/etc")) == ["new"]
    mount = top(place("mnt"))
    assert place("app") in mount.super_options and place("upper") in mount.super_options


def test_unmounted_keeps_the_upper_and_mounts_again(place, converge):
    converge("overlay", **place.options())
    open(place("mnt/kept"), "w", encoding="utf-8").close()
    assert converge("overlay", path=place("mnt"), state="unmounted")["changed"]
    assert not converge("overlay", path=place("mnt"), state="unmounted")["changed"]
    assert top(place("mnt")) is None
    converge("overlay", **place.options())
    assert os.path.exists(place("mnt/kept"))


def test_remove_data(place, converge):
    converge("overlay", **place.options())
    open(place("mnt/data"), "w", encoding="utf-8").close()
    converge("overlay", **place.options(state="absent"))
    assert os.path.exists(place("upper/data"))
    assert not converge("overlay", path=place("mnt"), state="absent", remove_data=True)["changed"]  # what it was made of is forgotten
    assert converge("overlay", **place.options(state="absent", remove_data=True))["changed"]
    assert not os.path.exists(place("upper")) and not os.path.exists(place("work"))
    assert not converge("overlay", **place.options(state="absent", remove_data=True))["changed"]


ACTS = [("remove", dict(state="absent", remove_data=True)), ("empty", dict(state="unmounted", reset=True)), ("empty", dict(reset=True))]


@pytest.mark.parametrize(("verb", "options"), ACTS)
def test_a_mount_in_the_upper_is_refused_before_anything_is_removed(place, converge, refuse, verb, options):
    converge("overlay", **place.options())
    for name in ("a", "inner", "z"):
        os.makedirs(place("upper/%s/sub" % name))
        open(place("upper/%s/data" % name), "w", encoding="utf-8").close()
    os.symlink(place.top, place("alias"))
    before = sorted(os.walk(place("upper")))
    syscalls.mount("inner", place("upper/inner/sub"), "tmpfs")
    try:
        for top_of in (place, lambda name: place("alias/" + name)):
            wanted = place.options(upper=top_of("upper"), work=top_of("work"), **options)
            said = refuse("overlay", **wanted)
            assert said == "Cannot %s %s: %s (tmpfs) is mounted in it. Unmount that first." % (verb, top_of("upper"), place("upper/inner/sub"))
            assert refuse("overlay", check=True, **wanted) == said
            assert top(place("mnt")).fstype == "overlay" and sorted(os.walk(place("upper"))) == before
    finally:
        syscalls.umount(place("upper/inner/sub"))
    assert converge("overlay", **place.options(**options))["changed"]


@pytest.mark.parametrize(("verb", "options"), ACTS)
def test_a_mount_made_in_the_upper_after_the_plan(place, converge, monkeypatch, verb, options):
    """The step looks again: nothing is removed, and what was unmounted before is mounted again."""
    converge("overlay", **place.options())
    open(place("mnt/data"), "w", encoding="utf-8").close()
    os.mkdir(place("mnt/sub"))
    old = _mounting.Build.unmount_old

    def late(build):
        old(build)
        syscalls.mount("late", place("upper/sub"), "tmpfs")
    monkeypatch.setattr(_mounting.Build, "unmount_old", late)
    answer = drive.converge("overlay", place.options(**options))
    syscalls.umount(place("upper/sub"))
    assert answer["error"].startswith("Cannot %s %s: %s (tmpfs) is mounted in it" % (verb, place("upper"), place("upper/sub"))), answer
    assert answer["keys"]["not_undone"] == [] and os.path.exists(place("mnt/data")) and os.path.isdir(place("mnt/sub"))


def test_reset_is_an_act(place, converge, refuse):
    converge("overlay", **place.options())
    for dummy in range(2):
        open(place("mnt/data"), "w", encoding="utf-8").close()
        predicted = converge("overlay", check=True, **place.options(reset=True))
        done = converge("overlay", **place.options(reset=True))
        assert done["changed"] and predicted["actions"] == done["actions"]
        assert not os.path.exists(place("mnt/data")) and not os.path.exists(place("upper/data"))
    assert sorted(os.listdir(place.top)) == ["app", "base", "mnt", "other", "upper", "work"]
    assert not converge("overlay", **place.options())["changed"]


def test_change_of_layers(place, converge, refuse):
    converge("overlay", **place.options())
    changed = place.options(lower=[place("other"), place("base")])
    assert "on_mismatch: recreate" in refuse("overlay", **changed)
    assert sorted(os.listdir(place("mnt/etc"))) == ["app", "base"]
    predicted = converge("overlay", check=True, on_mismatch="recreate", **changed)
    done = converge("overlay", on_mismatch="recreate", **changed)
    assert predicted["actions"] == done["actions"] and list(done["diff"]["after"]) == ["lower"]
    assert sorted(os.listdir(place("mnt/etc"))) == ["base", "other"]
    assert not converge("overlay", **changed)["changed"]
    assert len(mountinfo.read().at(place("mnt"))) == 1


def test_change_without_a_common_upper_has_no_gap(place, converge):
    read_only = place.options(upper=None, work=None)
    converge("overlay", **read_only)
    done = converge("overlay", on_mismatch="recreate", **dict(read_only, lower=[place("other"), place("base")]))
    assert done["actions"] == ["replace overlay on " + place("mnt")]
    assert sorted(os.listdir(place("mnt/etc"))) == ["base", "other"]
    assert len(mountinfo.read().at(place("mnt"))) == 1


def test_another_directory_of_the_same_name(place, converge, refuse):
    converge("overlay", **place.options())
    os.rename(place("app"), place("old"))
    os.makedirs(place("app/etc"))
    assert "lower" in refuse("overlay", **place.options())
    converge("overlay", on_mismatch="recreate", **place.options())
    assert os.listdir(place("mnt/etc")) == ["base"]
    assert not converge("overlay", **place.options())["changed"]


def test_flags_change_in_place(place, converge):
    converge("overlay", **place.options())
    identity = top(place("mnt")).id
    done = converge("overlay", **place.options(read_only=True, options={"nosuid": True}))
    assert done["changed"] and top(place("mnt")).id == identity
    assert {"ro", "nosuid"} <= set(top(place("mnt")).options)
    assert not converge("overlay", **place.options(read_only=True, options={"nosuid": True}))["changed"]
    assert not converge("overlay", **place.options())["changed"]
    converge("overlay", **place.options(read_only=False))
    open(place("mnt/x"), "w", encoding="utf-8").close()


OPTIONS = [
    {"redirect_dir": "off"}, {"redirect_dir": "on"}, {"redirect_dir": "follow"}, {"redirect_dir": "nofollow"}, {"index": "on"}, {"index": "off"},
    {"metacopy": "on"}, {"metacopy": "off"}, {"nfs_export": "on", "index": "on"}, {"xino": "on"}, {"xino": "off"}, {"xino": "auto"},
    {"userxattr": True}, {"userxattr": False}, {"volatile": True}, {"uuid": "null"}, {"uuid": "off"}, {"uuid": "auto"}, {"uuid": "on"},
    {"redirect_dir": False}, {"index": True}, {"noexec": True, "nodev": True, "nosuid": True},
]


@pytest.mark.parametrize("upper", [True, False])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_options_compare_truthfully(place, options, upper, refuse):
    declared = place.options(options=options)
    if not upper:
        if "volatile" in options or "index" in options or "nfs_export" in options or options.get("uuid") == "on":
            return
        del declared["upper"], declared["work"]
    first = drive.converge("overlay", declared)
    assert "error" not in first, first
    again = drive.converge("overlay", declared)
    assert "error" not in again and not again["changed"], (again, top(place("mnt")).super_options)
    if "volatile" in options:
        other = dict(declared, options=dict(options, redirect_dir="on"))
        assert "reset: true" in refuse("overlay", on_mismatch="recreate", **other)


def test_volatile_leftover_is_refused_until_reset(place, converge, refuse):
    converge("overlay", **place.options(options={"volatile": True}))
    converge("overlay", **place.options(state="unmounted"))
    assert "reset: true" in refuse("overlay", **place.options())
    assert converge("overlay", **place.options(reset=True))["changed"]
    assert not converge("overlay", **place.options())["changed"]


def test_many_layers_with_long_names(place, converge):
    deep = place("x" * 120 + "/" + "y" * 120 + "/" + "z" * 120)
    lower = []
    for number in range(500):
        lower.append("%s/%03d" % (deep, number))
        os.makedirs(lower[-1] + "/etc")
        open("%s/etc/%d" % (lower[-1], number), "w", encoding="utf-8").close()
    options = place.options(lower=lower)
    assert converge("overlay", **options)["changed"]
    assert len(os.listdir(place("mnt/etc"))) == 500
    assert not converge("overlay", **options)["changed"]
    converge("overlay", **place.options(state="absent"))
    assert not os.path.exists("/run/bulkhead/links")


def test_names_that_need_escapes(place, converge):
    names = ["a b", "c:d", "e,f", "g\\h", "i\\:j", "k#l", "ü", "lowerdir=x", "tab"]
    for name in names:
        os.makedirs(place(name) + "/etc/" + name)
    options = place.options(lower=[place(name) for name in names], upper=place("up,p:e r"), work=place("w\\ork"), path=place("m:n t"))
    converge("overlay", **options)
    assert sorted(os.listdir(place("m:n t/etc"))) == sorted(names)
    assert not converge("overlay", **options)["changed"]
    converge("overlay", **dict(options, state="absent"))


def test_refusals(place, refuse, converge):
    os.makedirs(place("base/inner"))
    os.symlink("loop", place("loop"))
    open(place("file"), "w", encoding="utf-8").close()
    os.makedirs(place("busy/x"))
    before = sorted(os.listdir(place.top))
    for more, words in (
        (dict(lower=[place("none")]), "No such file"),
        (dict(lower=[place("loop")]), "Too many levels"),
        (dict(lower=[place("file")]), "not a directory"),
        (dict(lower=[place("base/inner"), place("base")]), "inside the other"),
        (dict(upper=place("base/inner")), "inside the other"),
        (dict(work=place("upper/work")), "inside each other"),
        (dict(work=place("busy")), "not empty"),
        (dict(upper=place("none/upper")), "no directory"),
        (dict(path=place("none/mnt")), "no directory"),
        (dict(path=place("file")), "not a directory"),
        (dict(path=place("upper/mnt")), "must not be inside"),
        (dict(work="/dev/shm/bulkhead-test-work"), "different mounts"),
        (dict(lower=["/l%d" % number for number in range(501)]), "limit of 500"),
        (dict(lower=[]), "at least one"),
        (dict(work=None), "go together"),
        (dict(upper=None, work=None, reset=True), "no upper"),
        (dict(namespace="none"), "no mount namespace"),
        (dict(options={"bogus": 1}), "no such option"),
    ):
        assert words in refuse("overlay", **place.options(**more)), more
    assert sorted(os.listdir(place.top)) == before and top(place("mnt")) is None


def test_upper_in_use_in_another_mount_namespace(place, refuse):
    for name in ("m", "upper", "work"):
        os.mkdir(place(name))
    code = ("import sys, time; sys.path.insert(0, %r)\nfrom module_utils._kernel import syscalls\nsyscalls.mount('o', %r, 'overlay', 0, "
            "'lowerdir=%s,upperdir=%s,workdir=%s')\nprint(flush=True); time.sleep(60)") % (
                drive.ROOT + "/plugins", place("m"), place("base"), place("upper"), place("work"))
    holder = subprocess.Popen(["unshare", "-m", sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        holder.stdout.readline()
        said = refuse("overlay", **place.options())
        assert "in use" in said and "process %d" % holder.pid in said
        assert "in use" in refuse("overlay", **place.options(lower=[place("upper"), place("base")], upper=None, work=None))
        for verb, options in (("remove", dict(state="absent", remove_data=True)), ("reset", dict(state="unmounted", reset=True))):
            said = refuse("overlay", **place.options(**options))
            assert said.startswith("Cannot %s overlay %s: %s is in use" % (verb, place("mnt"), place("upper"))), said
        assert os.path.isdir(place("upper"))
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()


@pytest.fixture
def busy(place, converge):
    """An overlay of its own that is mounted, its layers in busy/."""
    for name in ("busy/upper/in", "busy/lower/in"):
        os.makedirs(place(name))
    options = dict(path=place("busy/mnt"), lower=[place("busy/lower"), place("base")], upper=place("busy/upper"), work=place("busy/work"))
    converge("overlay", **options)
    yield options
    converge("overlay", path=options["path"], state="absent")


@pytest.mark.parametrize("more", [
    dict(upper="busy/upper"), dict(upper="busy/upper/in"), dict(upper="busy/upper/new"), dict(upper="busy/lower"), dict(upper="alias/upper/in"),
    dict(upper="busy"), dict(work="busy/work/work"), dict(work="busy/upper/new"), dict(lower=["busy/upper/in", "base"]),
    dict(lower=["busy/upper", "base"]), dict(lower=["alias/upper/in", "base"], upper=None, work=None),
], ids=str)
def test_a_layer_inside_the_upper_of_another_is_refused(place, busy, refuse, more):
    os.symlink("busy", place("alias"))
    more = {key: value and (place(value) if isinstance(value, str) else [place(name) for name in value]) for key, value in more.items()}
    said = refuse("overlay", **place.options(**more))
    assert "the overlay on " + place("busy/mnt") in said and "in use" in said
    assert not os.path.exists(place("mnt")) and not os.path.exists(place("busy/upper/new"))


def test_a_layer_beside_those_of_another_is_taken(place, busy, converge):
    os.makedirs(place("busy/beside"))
    shared = [place("busy/lower"), place("busy/beside"), place("base")]
    assert converge("overlay", **place.options(lower=shared, upper=place("busy/up"), work=place("busy/wk")))["changed"]


ELSEWHERE = """
import os, sys
sys.path.insert(0, sys.argv[1] + "/plugins")
from module_utils._kernel import syscalls
top = sys.argv[2]
syscalls.mount(top + "/elsewhere", top, None, syscalls.MS_BIND)  # this process's own, over all that was there
for name in ("mnt", "lower", "upper", "work"):
    os.makedirs("%s/%s" % (top, name))
syscalls.mount("o", top + "/mnt", "overlay", 0, "lowerdir=%s/lower,upperdir=%s/upper,workdir=%s/work" % (top, top, top))
if sys.argv[3:]:
    os.chroot(top + "/mnt")
print(flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("exists", [False, True])
def test_a_host_within_this_host_has_the_same_names(place, converge, refuse, exists):
    """Its upper has the name of ours and is another directory; the one that it does use is refused, whatever we call it."""
    os.makedirs(place("elsewhere"))
    if exists:
        os.makedirs(place("upper"))
    holder = subprocess.Popen(["unshare", "-m", sys.executable, "-c", ELSEWHERE, drive.ROOT, place.top], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        holder.stdout.readline()
        assert "process %d" % holder.pid in refuse("overlay", **place.options(lower=[place("elsewhere/upper"), place("base")]))
        assert converge("overlay", **place.options())["changed"]
    finally:
        holder.communicate()


def test_a_host_within_this_host_that_no_longer_sees_the_name(place, converge, refuse):
    """Where its overlay is its root the name leads nowhere for it: then it may be ours, and is refused (docs/limits.md)."""
    for name in ("elsewhere", "upper", "work"):
        os.makedirs(place(name))
    holder = subprocess.Popen(["unshare", "-m", sys.executable, "-c", ELSEWHERE, drive.ROOT, place.top, "chroot"],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        holder.stdout.readline()
        for options in ({}, dict(state="absent", remove_data=True)):
            assert "process %d" % holder.pid in refuse("overlay", **place.options(**options))
    finally:
        holder.communicate()
    assert converge("overlay", **place.options())["changed"]


def test_copies_that_an_unmount_reaches_do_not_matter(place, converge):
    """A mount namespace made after the overlay has a slave of it: our mount points lie on a shared mount."""
    path = "/run/bulkhead/mnt/copied"
    options = place.options(path=path)
    converge("overlay", **options)
    copy = subprocess.Popen(["unshare", "-m", "--propagation", "slave", "sh", "-c", "echo; exec sleep 60"], stdout=subprocess.PIPE)
    try:
        copy.stdout.readline()
        assert mountinfo.read(pid=copy.pid).top(path)
        assert converge("overlay", on_mismatch="recreate", **dict(options, lower=[place("base"), place("other")]))["changed"]
        assert sorted(os.listdir("/proc/%d/root%s/etc" % (copy.pid, path))) == ["base", "other"]
        assert len(mountinfo.read(pid=copy.pid).at(path)) == 1
    finally:
        copy.kill()
        copy.communicate()
        converge("overlay", path=path, state="absent")


@pytest.mark.parametrize(("propagation", "script"), [("private", ""), ("slave", "mount -n -t tmpfs t /run/bulkhead/mnt/copied/etc; ")])
def test_copies_that_it_does_not_reach_are_refused(place, converge, refuse, propagation, script):
    path = "/run/bulkhead/mnt/copied"
    options = place.options(path=path)
    converge("overlay", **options)
    copy = subprocess.Popen(["unshare", "-m", "--propagation", propagation, "sh", "-c", script + "echo; exec sleep 60"], stdout=subprocess.PIPE)
    try:
        copy.stdout.readline()
        said = refuse("overlay", on_mismatch="recreate", **dict(options, lower=[place("base"), place("other")]))
        assert "pid %d" % copy.pid in said and "keeps a copy" in said
        assert sorted(os.listdir(path + "/etc")) == ["app", "base"]
    finally:
        copy.kill()
        copy.communicate()
        converge("overlay", path=path, state="absent")


def test_an_overlay_in_use_stays(place, converge, refuse):
    converge("overlay", **place.options())
    holder = subprocess.Popen(["sleep", "60"], cwd=place("mnt"))
    try:
        for options in (place.options(state="unmounted"), place.options(lower=[place("base")], on_mismatch="recreate"), place.options(reset=True)):
            said = refuse("overlay", **options)
            assert "pid %d" % holder.pid in said and "lazy: true" in said
        converge("overlay", **place.options(state="unmounted", lazy=True))
        assert top(place("mnt")) is None
    finally:
        holder.kill()
        holder.wait()


def test_foreign_mounts(place, converge, refuse):
    os.makedirs(place("mnt"))
    syscalls.mount("foreign", place("mnt"), "tmpfs")
    assert "not made by us" in refuse("overlay", **place.options())
    assert "not made by us" in refuse("overlay", **place.options(state="absent"))
    syscalls.umount(place("mnt"))
    syscalls.mount("foreign", place("mnt"), "overlay", 0, "lowerdir=%s:%s" % (place("app"), place("base")))
    as_it_is = place.options(upper=None, work=None)
    assert not converge("overlay", **as_it_is)["changed"]
    assert drive.new_host().claims.read("overlay", place("mnt")) is None
    assert "not made by us" in refuse("overlay", on_mismatch="recreate", **dict(as_it_is, lower=[place("base")]))
    assert "not made by us" in refuse("overlay", **dict(as_it_is, state="unmounted"))
    assert converge("overlay", force=True, **dict(as_it_is, state="unmounted"))["changed"]
    assert top(place("mnt")) is None


def test_stacked_mounts(place, converge, refuse):
    converge("overlay", **place.options())
    syscalls.mount("foreign", place("mnt"), "overlay", 0, "lowerdir=%s:%s" % (place("app"), place("base")))
    assert "not made by us" in refuse("overlay", **place.options())
    assert converge("overlay", force=True, **place.options())["changed"]
    assert len(mountinfo.read().at(place("mnt"))) == 1
    assert not converge("overlay", **place.options())["changed"]


def test_a_failed_mount_is_undone(place, converge, monkeypatch):
    def fail(*args):
        raise OSError(12, "Cannot allocate memory")
    monkeypatch.setattr(overlayfs, "detached", fail)
    answer = drive.converge("overlay", place.options())
    assert "Undone: make directory" in answer["error"]
    assert not os.path.exists(place("upper")) and not os.path.exists(place("mnt"))
    monkeypatch.undo()
    assert converge("overlay", **place.options())["changed"]


def test_a_foreign_mount_is_not_undone(place, monkeypatch):
    """What is no overlay, or lies below one, cannot be mounted again, and is not said to be."""
    def failing(act):
        def fail(*args):
            if any(isinstance(each, overlayfs.Layers) and each.upper for each in args):
                raise OSError(12, "Cannot allocate memory")
            return act(*args)
        return fail
    for name in ("detached", "mount_at"):
        monkeypatch.setattr(overlayfs, name, failing(getattr(overlayfs, name)))
    os.makedirs(place("mnt"))
    for kind, data in (("tmpfs", None), ("overlay", "lowerdir=%s:%s" % (place("app"), place("base")))):
        syscalls.mount("foreign", place("mnt"), "tmpfs")
        if kind == "overlay":
            syscalls.mount("foreign", place("mnt"), kind, 0, data)
        keys = drive.converge("overlay", place.options(force=True))["keys"]
        assert keys["not_undone"] == ["unmount overlay from %s (not mounted again: tmpfs)" % place("mnt")], keys
        assert "unmount overlay from %s" % place("mnt") not in keys["undone"]
        assert [mount.fstype for mount in mountinfo.read().at(place("mnt"))] == ["overlay"] * (kind == "overlay")


def test_an_undo_keeps_data_and_takes_mount_points(place, monkeypatch):
    def fail(*args):
        os.makedirs(place("upper/proc/deep"))
        os.close(os.open(place("upper/node"), os.O_CREAT, 0))
        if data:
            open(place("upper/data"), "w", encoding="utf-8").close()
        raise OSError(12, "Cannot allocate memory")
    monkeypatch.setattr(overlayfs, "detached", fail)
    data = False
    assert not drive.converge("overlay", place.options())["keys"]["not_undone"] and not os.path.exists(place("upper"))
    data = True
    answer = drive.converge("overlay", place.options())
    assert answer["keys"]["not_undone"] == ["make directory %s (there is data in it)" % place("upper")], answer
    assert os.path.exists(place("upper/data"))


def test_killed_between_claim_and_mount(place, converge):
    host = drive.new_host()
    converge("overlay", **place.options())
    host.claims.complete("overlay", place("mnt"), None)
    assert converge("overlay", on_mismatch="recreate", **place.options(lower=[place("other"), place("base")]))["changed"]


def test_check_mode_on_a_bare_host(place, converge):
    answer = converge("overlay", check=True, **place.options(lower=[place("later"), place("base")], namespace="later"))
    assert answer["changed"] and any("later" in text for text in answer["warnings"])
    assert not os.path.exists(place("upper"))


def pinned(name):
    """Pin a mount namespace, as the namespace module lays it out. Recent kernels hand out ids in batches to each processor, and one with a
    lower id than ours cannot be pinned: then another processor makes one."""
    pin = "/run/bulkhead/mntns/" + name
    open(pin, "w", encoding="utf-8").close()
    for processor in sorted(os.sched_getaffinity(0)):
        holder = subprocess.Popen(["taskset", "--cpu-list", str(processor), "unshare", "-m", "--propagation", "private", "sh", "-c", "echo; exec sleep 60"],
                                  stdout=subprocess.PIPE)
        try:
            holder.stdout.readline()
            syscalls.mount("/proc/%d/ns/mnt" % holder.pid, pin, None, syscalls.MS_BIND)
            return pin
        except OSError as exc:
            assert exc.errno == 22
        finally:
            holder.kill()
            holder.wait()
            holder.stdout.close()
    raise AssertionError("cannot pin a mount namespace")


def test_inside_a_pinned_namespace(place, converge, full_cycle, refuse):
    converge("overlay", **place.options())
    converge("overlay", **place.options(state="absent"))
    if not overlayfs.can_detach():
        pin = pinned("inner")
        assert "no detached mounts" in refuse("overlay", **place.options(namespace="inner"))
        syscalls.umount(pin, syscalls.MNT_DETACH)
        os.unlink(pin)
        return
    pin = pinned("inner")
    try:
        os.makedirs(place("mnt"), exist_ok=True)
        full_cycle("overlay", place.options(namespace="inner"), place.options(state="absent", namespace="inner", remove_data=True))
        converge("overlay", **place.options(namespace="inner"))
        assert top(place("mnt")) is None
        assert "pinned by " + pin in refuse("overlay", **place.options())
        converge("overlay", **place.options(namespace="inner", state="absent"))
    finally:
        syscalls.umount(pin, syscalls.MNT_DETACH)
        os.unlink(pin)
