# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is somebody else's, or would be lost, is not taken away unasked."""

from __future__ import annotations

import os
import subprocess

import drive
import pytest
from module_utils._engine import places
from module_utils._kernel import nsfs, syscalls


@pytest.fixture(name="netns")
def fixture_netns():
    """/run/netns/web, as somebody else may have made it."""
    os.makedirs("/run/netns", exist_ok=True)
    yield "/run/netns/web"
    nsfs.unpin("/run/netns/web")


def write(path):
    with open(path, "w", encoding="utf-8") as stream:
        stream.write("mine")


@pytest.mark.parametrize("make", [write, os.mkdir, lambda path: nsfs.make_pin("/proc/self/ns/uts", path)], ids=["file", "directory", "uts"])
def test_what_lies_where_a_pin_belongs(netns, refuse, make):
    make(netns)
    for options in (dict(types=["net"]), dict(types=["net", "uts"]), dict(state="absent")):
        assert "was made by somebody else" in refuse("namespace", name="web", **options)
    assert os.path.exists(netns)


def test_the_empty_file_that_a_crash_leaves_is_nobody_s(netns, converge):
    open(netns, "w", encoding="utf-8").close()
    assert converge("namespace", name="web", types=["net"])["changed"]
    assert converge("namespace", name="web", state="absent")["changed"]


def test_nothing_is_removed_to_be_made_anew_where_that_cannot_be(converge, refuse):
    converge("namespace", name="web", types=["uts", "pid"])
    before = os.stat("/run/bulkhead/ns/web/uts").st_ino
    maps = dict(uid_map=["0 100000 1000"], gid_map=["0 100000 1000"])
    wrong = dict(types=["uts", "pid", "user"], cgroup="no/such", on_mismatch="recreate", **maps)
    assert refuse("namespace", name="web", **wrong).startswith("Cannot create namespaces web: there is no cgroup no/such. Make it first")
    assert refuse("namespace", name="web", types=["uts"], owner="nobody", on_mismatch="recreate").startswith(
        "Cannot create namespaces web: there is no user namespace of the name nobody")
    assert os.stat("/run/bulkhead/ns/web/uts").st_ino == before
    converge("namespace", name="web", state="absent")


def test_a_process_of_the_host_in_the_cgroup_of_a_sandbox_is_not_killed_unasked(converge, refuse):
    converge("sandbox", sandboxes=[{"name": "web"}])
    with subprocess.Popen(["sleep", "1000"]) as process:
        converge("cgroup", name="bulkhead/web", processes=[process.pid])
        absent = [{"name": "web", "state": "absent"}]
        for check in (True, False):
            assert "processes that are not of its services live in it: %d (sleep)" % process.pid in refuse("sandbox", check, sandboxes=absent)
        assert process.poll() is None
        converge("sandbox", sandboxes=absent, kill=True)
        assert process.wait(10) == -9


def test_a_library_that_is_a_link_is_one_mount(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "lib").symlink_to(tmp_path / "disk")
    host = drive.new_host(lib=str(tmp_path / "lib"), state=str(tmp_path / "run"))
    try:
        for dummy in range(2):
            places.ensure(host)
            host.forget()
            assert len(host.mounts().at(str(tmp_path / "disk"))) == 1
        places.clear(host)
        host.forget()
        assert not host.mounts().at(str(tmp_path / "disk"))
    finally:
        while True:
            try:
                syscalls.umount(str(tmp_path / "disk"), syscalls.MNT_DETACH)
            except OSError:
                break
