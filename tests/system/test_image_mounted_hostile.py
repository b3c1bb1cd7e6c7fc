# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files that are to be mounted and are not what they should be, and hosts that cannot mount them: refused in one line, nothing stays."""

from __future__ import annotations

import os
import shutil
import struct

import archives
import drive
import filesystems
import pytest

from module_utils._kernel import syscalls

BASE = "/run/mounted"
LIB = "/var/lib/bulkhead"
HEAD = {"squashfs": 0, "erofs": 1024}


@pytest.fixture(autouse=True)
def place(leaves_nothing):
    os.makedirs(BASE + "/tree/sub")
    archives.write(BASE + "/tree/sub/file", os.urandom(50000))
    yield
    shutil.rmtree(BASE)


def made(kind, *options):
    return filesystems.make(kind, BASE + "/bad", BASE + "/tree", *options)


def change(at, data):
    def act(path):
        with open(path, "r+b") as stream:
            stream.seek(at)
            stream.write(data)
    return act


def refused(refuse, words, kind, path=BASE + "/bad", **options):
    """In check mode already, or when it was mounted and looked through."""
    message = refuse("image", **dict({"name": "bad", kind: path}, **options))
    assert message.startswith("Cannot import image bad from %s" % path) and words in message and message.isprintable(), message
    assert [os.listdir(LIB + "/" + name) for name in ("layers", "images") if os.path.isdir(LIB + "/" + name)] in ([], [[], []])
    assert not filesystems.loops() and "layers" not in open("/proc/self/mountinfo", encoding="utf-8").read()


CUT = {
    "of another kind": ("squashfs", lambda path: shutil.copy("/bin/busybox", path), "it is no squashfs"),
    "of the other kind": ("erofs", lambda path: filesystems.make("squashfs", path, BASE + "/tree"), "it is no erofs"),
    "empty": ("squashfs", lambda path: os.truncate(path, 0), "it is no squashfs"),
    "cut off": ("squashfs", lambda path: os.truncate(path, 40000), "it is cut off: of "),
    "cut off, erofs": ("erofs", lambda path: os.truncate(path, 40000), "it is cut off: of "),
    "of a version of old": ("squashfs", change(28, struct.pack("<HH", 3, 1)), "version 3.1"),
    "with blocks of no size": ("erofs", change(1024 + 12, b"\xff"), "it has blocks of 2^255 bytes"),
    "with more inodes than allowed": ("squashfs", change(4, struct.pack("<I", 5000000)), "more than 1000000 entries"),
    "with more inodes than allowed, erofs": ("erofs", change(1024 + 16, struct.pack("<Q", 1 << 60)), "more than 1000000 entries"),
    "with data in other files": ("erofs", change(1024 + 86, struct.pack("<H", 2)), "keeps its data in 2 other files"),
}


@pytest.mark.parametrize("name", CUT)
def test_head(refuse, name):
    """What its head tells is refused before anything is touched, so in check mode, too."""
    kind, damage, words = CUT[name]
    damage(made(kind))
    refused(refuse, words, kind, check=True)
    refused(refuse, words, kind)


def _zero(path, at):
    """Of what the head points to nothing is left."""
    size = os.path.getsize(path)
    change(at, bytes(size - at))(path)


def _tear(path):
    """The first inode, which is that of the file, is of no kind."""
    made("squashfs", "-noI")
    with open(path, "rb") as stream:
        stream.seek(64)
        table, = struct.unpack("<Q", stream.read(8))
    change(table + 2, bytes(2))(path)


TORN = {
    "squashfs of nowhere": ("squashfs", change(32, b"\x7f" * 8), "it cannot be mounted"),
    "erofs of nowhere": ("erofs", change(1024 + 14, b"\xff\xff"), "it cannot be mounted"),
    "squashfs without tables": ("squashfs", lambda path: _zero(path, 96), "it cannot be mounted"),
    "erofs without inodes": ("erofs", lambda path: _zero(path, 1152), "it cannot be mounted"),
    "squashfs with a torn inode": ("squashfs", _tear, "its entry 'file' cannot be read"),
}


@pytest.mark.parametrize("name", TORN)
def test_torn(refuse, name):
    """What only the kernel can tell."""
    kind, damage, words = TORN[name]
    damage(made(kind))
    refused(refuse, words, kind)


def test_what_may_be_in_it(converge, refuse):
    top = BASE + "/tree/sub/"
    for kind in ("squashfs", "erofs"):
        def with_(name, act, words, kind=kind, **options):
            archives.write(top + name, b"x")
            act(top + name)
            made(kind)
            refused(refuse, words, kind, **options)
            os.unlink(top + name)

        with_("su", lambda path: os.chmod(path, 0o4755), "its entry 'sub/su' is set-user-ID", allow_devices=True)
        with_("capable", lambda path: os.setxattr(path, "security.capability", b"\1\0\0\2" + b"\0\x20" + bytes(14)), "'sub/capable' is set-user-ID")
        with_("null", lambda path: (os.unlink(path), os.mknod(path, 0o20666, os.makedev(1, 3))), "'sub/null' is a character device", allow_setuid=True)
        with_("gone", lambda path: (os.unlink(path), os.mknod(path, 0o20000, 0)), "'sub/gone' is a whiteout", allow_devices=True)
        with_(".wh.gone", lambda path: None, "has a name that images keep")
        with_("trusted", lambda path: os.setxattr(path, "trusted.overlay.metacopy", b""), "has the extended attribute 'trusted.overlay.metacopy'")
        with_("hidden", lambda path: (os.unlink(path), os.mkdir(path), os.setxattr(path, "trusted.overlay.opaque", b"y"), os.rename(path, top[:-4] + "d"),
                                      archives.write(path, b"")), "'trusted.overlay.opaque'")
        os.rmdir(top[:-4] + "d")
        made(kind)
        refused(refuse, "more than 2 entries", kind, limits=dict(entries=2))
        refused(refuse, "more than 1000 bytes", kind, limits=dict(size=1000))
        refused(refuse, "has more than 1000 bytes", kind, limits=dict(file_size=1000))
        for number in range(5):
            os.link(top + "file", "%sname%d" % (top, number))  # one inode, six names
        made(kind)
        refused(refuse, "more than 6 entries", kind, limits=dict(entries=6))
        for number in range(5):
            os.unlink("%sname%d" % (top, number))
    archives.write(top + "su", b"x")
    os.chmod(top + "su", 0o4755)
    os.mknod(top + "null", 0o20666, os.makedev(1, 3))
    made("squashfs")
    converge("image", name="good", squashfs=BASE + "/bad", allow_setuid=True, allow_devices=True)
    assert "'sub/su'" in refuse("image", name="good", squashfs=BASE + "/bad", allow_devices=True)
    assert "'sub/null'" in refuse("image", name="other", squashfs=BASE + "/bad", allow_setuid=True)
    tree = drive.info("image", name="good")["images"][0]["lower"][0]
    with pytest.raises(PermissionError):
        os.open(tree + "/sub/null", os.O_RDONLY)
    converge("image", name="good", state="absent")


def test_a_host_that_cannot(refuse):
    """Without the file system in the kernel, or loop devices: by name, before anything is touched."""
    made("erofs")
    with open("/proc/filesystems", encoding="ascii") as stream:
        archives.write(BASE + "/filesystems", stream.read().replace("erofs", "none").encode())
    syscalls.mount(BASE + "/filesystems", "/proc/filesystems", None, syscalls.MS_BIND)
    refused(refuse, "this kernel has no erofs", "erofs", check=True)
    syscalls.umount("/proc/filesystems")
    syscalls.mount("/dev/null", "/dev/loop-control", None, syscalls.MS_BIND)
    refused(refuse, "there is no /dev/loop-control. Load the kernel module loop", "erofs", check=True)
    syscalls.umount("/dev/loop-control")


def test_while_it_is_copied(refuse, monkeypatch):
    """A file that is written meanwhile is not taken."""
    path = made("squashfs")
    way_in = drive.resource("_file_system")
    copy = way_in._copy

    def change_first(layer, target):
        change(-1 % os.path.getsize(path), b"\xff")(path)
        copy(layer, target)
    monkeypatch.setattr(way_in, "_copy", change_first)
    refused(refuse, "it was changed while it was read", "squashfs")
    assert not os.path.exists(LIB + "/images/bad.json")
