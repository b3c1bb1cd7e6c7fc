# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Hostile archives: each is refused in one line that names what is wrong in it, nothing of it stays, nothing outside is touched."""

from __future__ import annotations

import ctypes
import os
import shutil

import archives
import drive
import hostile
import pytest

BASE = "/run/hostile"
OUT = BASE + "/out"
STORE = ("/var/lib/bulkhead/layers", "/var/lib/bulkhead/images")


@pytest.fixture(autouse=True)
def outside(leaves_nothing):
    os.makedirs(OUT)
    archives.write(OUT + "/precious", b"precious")
    yield
    shutil.rmtree(BASE)


def untouched():
    """Nothing is in the store, and nothing outside has changed."""
    assert [os.listdir(path) for path in STORE if os.path.isdir(path)] in ([], [[], []])
    assert os.listdir(OUT) == ["precious"] and os.stat(OUT + "/precious").st_nlink == 1
    with open(OUT + "/precious", "rb") as stream:
        assert stream.read() == b"precious"


def refused(refuse, wanted, **options):
    message = refuse("image", name="bad", **options)
    assert message.startswith("Cannot import image bad from %s" % BASE), message
    assert wanted in message and message.isprintable(), message
    untouched()


@pytest.mark.parametrize("name", hostile.TARS)
def test_tar(refuse, name):
    data, wanted = hostile.TARS[name]
    refused(refuse, wanted, tar=archives.write(BASE + "/bad.tar", data))


@pytest.mark.parametrize("name", hostile.BOMBS)
def test_bomb(refuse, name):
    make, limits, wanted = hostile.BOMBS[name]
    refused(refuse, wanted, tar=archives.write(BASE + "/bomb.tar.gz", make()), limits=limits)


@pytest.mark.parametrize("name", hostile.LAYOUTS)
def test_layout(refuse, name):
    make, wanted = hostile.LAYOUTS[name]
    refused(refuse, wanted, oci=make(BASE + "/layout"))


@pytest.mark.parametrize("change, wanted", [
    (dict(Config="../../../etc/shadow"), "shadow"), (dict(Config="0" * 64 + ".json"), "0000"), (dict(Layers=["/etc/shadow"]), "shadow"),
    (dict(Layers=[]), "1"), (dict(Layers="0/layer.tar"), "Layers"), (dict(Config=None), "Config"), (dict(RepoTags="x"), "RepoTags"),
], ids=lambda value: str(value)[:30])
def test_docker(refuse, change, wanted):
    refused(refuse, wanted, docker=archives.docker(BASE + "/docker.tar", archives.tar(hostile.A), **change))


@pytest.mark.parametrize("entry, wanted", [
    (archives.symlink(b"0/layer.tar", b"../../../etc/shadow"), "etc/shadow"), (archives.symlink(b"0/layer.tar", b"/etc/shadow"), "etc/shadow"),
    (archives.symlink(b"0/layer.tar", b"layer.tar"), "0/layer.tar"), (archives.symlink(b"0/layer.tar", b"../none"), "0/layer.tar"),
    (archives.entry(b"../x", b"x"), "'../x'"),
])
def test_docker_links(refuse, entry, wanted):
    """Old archives have a link in place of a layer that is there already; one that leads elsewhere is none."""
    path = archives.docker(BASE + "/docker.tar", archives.tar(hostile.A))
    with open(path, "rb") as stream:
        rest = stream.read()[len(archives.entry(b"0/layer.tar", archives.tar(hostile.A))):]
    refused(refuse, wanted, docker=archives.write(path, entry + rest))


def test_entries_of_a_second_layer(refuse):
    """The first layer is whole, the second is not: neither stays. A link in the one leads the other nowhere."""
    first = archives.tar(archives.symlink(b"l", OUT.encode()))
    for second, wanted in ((archives.tar(archives.entry(b"l/new", b"x")), "'l'"), (archives.tar(hostile.A, hostile.A), "'a'")):
        refused(refuse, wanted, oci=archives.Layout(BASE + "/layout", first, second).done())
        shutil.rmtree(BASE + "/layout")


def test_directory(refuse, converge):
    """A directory is read by the same rules; a socket in it means nothing."""
    top = BASE + "/dir"
    for name, make in (("dev", lambda path: os.mknod(path, 0o20600, os.makedev(1, 3))), (".wh.a", lambda path: archives.write(path, b"")),
                       ("white", lambda path: os.mknod(path, 0o20000, 0)), ("su", lambda path: os.chmod(archives.write(path, b""), 0o4755)),
                       ("opaque", lambda path: (os.mkdir(path), os.setxattr(path, "trusted.overlay.opaque", b"y")))):
        os.makedirs(top)
        make("%s/%s" % (top, name))
        refused(refuse, "'%s'" % name, directory=top)
        shutil.rmtree(top)
    os.makedirs(top)
    archives.write(BASE + "/file", b"x")
    refused(refuse, "no directory", directory=BASE + "/file")
    refused(refuse, "cannot be read", directory=BASE + "/none")


class Attacker:
    """A process that makes every directory of a tree that is being unpacked, and a link out, change places, as fast as it can."""

    def __init__(self):
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self.attack()
            finally:
                os._exit(0)

    @staticmethod
    def attack():
        libc, parent = ctypes.CDLL(None), os.getppid()
        while os.getppid() == parent:
            for name in [name for name in (os.listdir(STORE[0]) if os.path.isdir(STORE[0]) else ()) if name.startswith(".new-")]:
                link = ("%s/%s/link" % (STORE[0], name)).encode()
                try:
                    os.symlink(OUT, link)
                except OSError:
                    pass
                for path in ("d", "d/e", "d/e/f"):
                    for dummy in range(3):
                        libc.renameat2(-100, ("%s/%s/tree/%s" % (STORE[0], name, path)).encode(), -100, link, 2)  # RENAME_EXCHANGE

    def end(self):
        os.kill(self.pid, 9)
        os.waitpid(self.pid, 0)


def test_under_attack():
    """Whoever swaps names of the tree while it is made may spoil it, and never leads a write, a mode or an owner elsewhere."""
    members = [archives.directory(b"d"), archives.directory(b"d/e"), archives.directory(b"d/e/f")]
    for number in range(1500):
        members += [archives.entry(b"%sx%d" % (where, number), b"text", owner=(7, 8), mode=0o666) for where in (b"d/", b"d/e/", b"d/e/f/")]
    path = archives.write(BASE + "/large.tar", archives.tar(*members))
    attacker, outcomes = Attacker(), []
    try:
        for dummy in range(int(os.environ.get("BULKHEAD_RACE", "8"))):
            answer = drive.converge("image", dict(name="raced", tar=path))
            outcomes.append(answer.get("error", "done"))
            assert os.listdir(OUT) == ["precious"]
            drive.converge("image", dict(name="raced", state="absent"))
    finally:
        attacker.end()
    drive.converge("image", dict(name="raced", state="absent"))
    for path in STORE:  # what the attacker has put there is not ours to take away
        shutil.rmtree(path)
    found = os.stat(OUT)
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (0, 0, 0o755) and os.listdir(OUT) == ["precious"]
    assert any(outcome != "done" for outcome in outcomes), "the attack reached nothing: %s" % outcomes
