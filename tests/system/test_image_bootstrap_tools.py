# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Bootstraps by dnf, zypper and debootstrap themselves, of archives that are made here, as a private host has no network."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess

import drive
import jail
import pytest
import rpms
from rpms import BASE

URL = "file://%s/repository" % BASE
STORE = "/var/lib/bulkhead/layers"
TOOLS = pytest.mark.parametrize("tool", ["dnf", "zypper"])


@pytest.fixture(autouse=True, scope="module")
def packages():
    """The repository as it was made and signed: in BASE/whole."""
    shutil.rmtree(BASE, ignore_errors=True)
    rpms.keys("ours", "theirs")
    rpms.repository()
    shutil.copytree(BASE + "/repository", BASE + "/plain")
    rpms.sign("ours")
    shutil.copytree(BASE + "/repository", BASE + "/whole")
    rpms.stop_agent()
    yield
    shutil.rmtree(BASE)


@pytest.fixture(autouse=True)
def place(leaves_nothing):
    bring()
    yield
    jail.clear_images()


def bring(which="whole"):
    shutil.rmtree(BASE + "/repository", ignore_errors=True)
    if which:
        shutil.copytree("%s/%s" % (BASE, which), BASE + "/repository")


def of(tool, name="base", **more):
    found = dict(dict(tool=tool, release="1", packages=["base"], repositories=[URL], keyring=BASE + "/ours.asc"), **more)
    return dict(name=name, bootstrap={key: value for key, value in found.items() if value is not None})


def image(name="base"):
    return drive.info("image", name=name)["images"][0]


def tree():
    return image()["lower"][0]


def files(top):
    return sorted(os.path.relpath(os.path.join(where, name), top) for where, dummy, names in os.walk(top) for name in names)


@TOOLS
def test_a_bootstrap(converge, full_cycle, tmp_path, tool):
    full_cycle("image", of(tool), dict(name="base", state="absent"))
    answer = converge("image", **of(tool))
    assert answer["actions"] == ["import image base from a bootstrap of 1 by " + tool]
    assert image()["source"]["path"] == "a bootstrap of 1 by " + tool and not [name for name in os.listdir(STORE) if name.startswith(".")]
    # what packages brought, what a script of them made, the database; no cache, no log, no history
    assert files(tree()) == ["bin/busybox", "bin/sh", "bin/su", "bin/version", "etc/by-script", "etc/group", "etc/passwd", "srv/page",
                             "usr/lib/sysimage/rpm/rpmdb.sqlite", "usr/lib/sysimage/rpm/rpmdb.sqlite-wal"]
    assert jail.text(tree() + "/etc/by-script") == "0\n" and os.listdir(tree() + "/dev") == os.listdir(tree() + "/proc") == []
    assert os.stat(tree() + "/bin/su").st_mode & 0o7777 == 0o4755 and os.stat(tree() + "/srv/page").st_gid == 7
    shutil.copytree(tree(), tmp_path / "copy", symlinks=True)  # rpm writes beside the database that it reads
    asked = subprocess.run(["rpm", "--root", tmp_path / "copy", "--dbpath", "/var/lib/rpm", "-qa"], capture_output=True, check=True, text=True)
    assert sorted(line for line in asked.stdout.split() if not line.startswith("gpg-pubkey")) == ["base-1-1.noarch", "extra-1-1.noarch"]
    box = dict(name="box", image="base", namespaces=dict(types=["net", "uts", "ipc", "mnt", "pid"]),
               services=[dict(name="web", command=["/bin/busybox", "httpd", "-f", "-p", "8080", "-h", "/srv"], user="web")])
    converge("sandbox", sandboxes=[box])
    ask = ["ip", "netns", "exec", "box", "busybox", "wget", "-q", "-O", "-", "http://127.0.0.1:8080/page"]
    assert jail.until(lambda: subprocess.run(ask, capture_output=True, check=False).stdout) == b"a page"
    converge("sandbox", sandboxes=[dict(name="box", state="absent")], remove_data=True, kill=True)


@TOOLS
def test_by_what_is_declared(converge, tool):
    """What the repository has meanwhile does not matter until the declaration is another; the same packages are the same layer."""
    converge("image", **of(tool))
    first = [layer["digest"] for layer in image()["layers"]]
    bring(None)
    assert not converge("image", **of(tool))["changed"] and not converge("image", check=True, **of(tool))["changed"]
    bring()
    assert converge("image", **of(tool, serial="2"))["changed"] and [layer["digest"] for layer in image()["layers"]] == first
    predicted = converge("image", check=True, **of(tool, packages=["base", "other"]))
    assert converge("image", **of(tool, packages=["base", "other"]))["diff"] == predicted["diff"] and os.path.exists(tree() + "/srv/other")
    assert not converge("image", **of(tool, packages=["other", "base"]))["changed"]


@TOOLS
def test_keys(converge, refuse, tool):
    """Packages are verified, by nothing but what is named, unless it is said that they are not."""
    for which, keyring in (("whole", "theirs.asc"), ("plain", "ours.asc")):
        bring(which)
        assert "%s ended with " % tool in refuse("image", **of(tool, keyring="%s/%s" % (BASE, keyring)))
    assert "this host's rpm trusts no keys. Name a keyring, or set unsigned: true" in refuse("image", **of(tool, keyring=None))
    assert not os.listdir(STORE) and drive.info("image")["images"] == []
    converge("image", **of(tool, keyring=None, unsigned=True))
    bring("whole")
    # what zypper has verified once is nothing to it that is asked anew
    converge("image", **of(tool))
    assert "%s ended with " % tool in refuse("image", **of(tool, keyring=BASE + "/theirs.asc"))
    missing = of(tool, keyring=BASE + "/none", serial="2")
    assert "the keys in %s/none cannot be read: No such file or directory. Name a keyring." % BASE in refuse("image", **missing)
    assert "%s/none does not exist yet" % BASE in converge("image", check=True, **missing)["warnings"][0]


@TOOLS
def test_the_repositories_of_the_host(converge, refuse, monkeypatch, tmp_path, tool):
    """Where none is named: those, and the keys that they or the host's rpm have."""
    subprocess.run(["mount", "-t", "overlay", "-o", "lowerdir=/etc,upperdir=%s,workdir=%s" % (made(tmp_path / "upper"), made(tmp_path / "work")),
                    "none", "/etc"], check=True)
    try:
        where = {"dnf": "/etc/yum.repos.d", "zypper": "/etc/zypp/repos.d"}[tool]
        os.makedirs(where)
        with open(where + "/ours.repo", "w", encoding="utf-8") as stream:
            stream.write("[ours]\nname=ours\nbaseurl=file://%s/$releasever\nenabled=1\ngpgcheck=1\n" % BASE)
            stream.write("gpgkey=file://%s/ours.asc\n" % BASE if tool == "dnf" else "")
        monkeypatch.setenv("HOME", str(tmp_path))  # where Debian's rpm has its database
        if tool == "zypper":
            assert "zypper ended with " in refuse("image", **of(tool, release="whole", repositories=None, keyring=None))
            rpms.run("rpm", "--import", BASE + "/ours.asc", HOME=str(tmp_path))
        converge("image", **of(tool, release="whole", repositories=None, keyring=None))
        assert os.path.exists(tree() + "/srv/page")
    finally:
        subprocess.run(["umount", "/etc"], check=True)


def made(path):
    path.mkdir()
    return path


@TOOLS
def test_refused(converge, refuse, monkeypatch, tool):
    message = refuse("image", **of(tool, packages=["base", "no-such-package"]))
    assert message.startswith("Cannot import image base from a bootstrap of 1 by %s: %s ended with " % (tool, tool)) and "no-such-package" in message
    assert "'bin/su' is set-user-ID" in refuse("image", allow_setuid=False, **of(tool))
    bring(None)
    assert "%s ended with" % tool in refuse("image", **of(tool)) and not os.listdir(STORE)
    monkeypatch.setenv("PATH", "/nowhere")
    assert refuse("image", **of(tool)) == (
        "Cannot import image base from a bootstrap of 1 by %s: %s is not installed. Install the package %s." % (tool, tool, tool))
    assert "is not installed yet" in converge("image", check=True, **of(tool))["warnings"][0] and not os.listdir(STORE)


@TOOLS
def test_a_script_that_fails(converge, tool):
    """Both tools go on, and so do we, but not in silence."""
    answer = converge("image", **of(tool, packages=["fails"]))
    assert len(answer["warnings"]) == 1 and "%post(fails-1-1.noarch) scriptlet failed" in answer["warnings"][0]


@TOOLS
def test_killed(converge, tool):
    """Killed while a script of a package runs: that ends, too, and the next run is as if there had been none."""
    pid = os.fork()
    if not pid:
        try:
            drive.converge("image", of(tool, packages=["slow"]))
        finally:
            os._exit(0)
    jail.until(lambda: [name for name in os.listdir(STORE) if os.path.exists("%s/%s/root/srv/begun" % (STORE, name))] and sleeping())
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    jail.until(lambda: not sleeping())
    assert converge("image", **of(tool))["actions"][0] == "remove what a killed run has left in the store"
    assert not [name for name in os.listdir(STORE) if name.startswith(".")]


def sleeping():
    return subprocess.run(["pgrep", "--full", "^/bin/sleep 1000$"], capture_output=True, check=False).stdout.split()
