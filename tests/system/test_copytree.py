# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Copies of trees: all that a tree can hold is in the copy, on the same file system and on another, and nothing leads outside."""

from __future__ import annotations

import errno
import os
import socket
import stat
import subprocess

import pytest

from module_utils._kernel import copytree, manifest, syscalls, trees
from module_utils._model.errors import reason

LIB = "/var/lib/bulkhead"  # a tmpfs of this private host: another file system than tmp_path
LATER = 4 * 10**18  # in 2096: a time of access that reading does not change (relatime)


def copy(source, target):
    with opened(source) as one, opened(target) as other:
        copytree.copy(int(one), int(other))


class opened:
    """A directory's descriptor for as long as it is needed."""

    def __init__(self, path):
        self.fd = os.open(str(path), os.O_RDONLY | os.O_DIRECTORY)

    def __enter__(self):
        return self

    def __int__(self):
        return self.fd

    def __exit__(self, *unused):
        os.close(self.fd)


def told(path):
    """The manifest of a tree, and of each name what that leaves out: the time of access, the number of names, all extended attributes."""
    with opened(path) as root:
        text = manifest.of(int(root)).text
        more = {}
        for entry in manifest.walk(int(root)):
            if entry.path != b"sock":
                names = 1 if os.path.isdir(os.fsencode(str(path)) + b"/" + entry.path) else entry.stat.st_nlink
                more[entry.path] = (entry.stat.st_atime_ns, names, manifest.xattrs(entry.parent, entry.name, left_out=()))
    return text, more


@pytest.fixture
def tree(tmp_path):
    """A directory with one of everything."""
    top = tmp_path / "source"
    deep = top / "a" / "b"
    deep.mkdir(parents=True)
    (deep / "file").write_bytes(os.urandom(3 << 20))
    (top / "empty").write_bytes(b"")
    os.link(deep / "file", top / "again")
    os.symlink("/etc/passwd", top / "out")
    os.symlink("..", top / "a" / "up")
    os.link(top / "out", top / "a" / "out", follow_symlinks=False)
    with open(top / "holes", "wb") as stream:
        for at in (1 << 20, 5 << 20):
            stream.seek(at)
            stream.write(b"x" * 4096)
        stream.truncate(64 << 20)
    (top / "odd \n\xff name").write_text("x", encoding="utf-8")
    os.mkfifo(top / "fifo")
    os.mknod(top / "gone", 0o020000, 0)  # a whiteout
    os.mknod(top / "null", 0o020666, os.makedev(1, 3))
    os.mknod(top / "disk", 0o060600, os.makedev(7, 99))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(top / "sock"))
    (top / "power").write_text("x", encoding="utf-8")
    os.chown(top / "power", 1, 2)
    os.setxattr(top / "power", "security.capability", b"\1\0\0\2\0\4\0\0\0\0\0\0\0\0\0\0\0\0\0\0")
    os.chmod(top / "power", 0o6751)
    os.setxattr(deep, "trusted.overlay.opaque", b"y")
    os.setxattr(top / "gone", "trusted.note", b"\0\1", follow_symlinks=False)
    os.setxattr(top / "out", "trusted.note", b"link", follow_symlinks=False)
    os.setxattr(top / "empty", "user.note", b"")
    # struct posix_acl_xattr: version 2; owner rwx, user 7 r, group r, mask r, others nothing
    access = b"\2\0\0\0" + b"".join(tag.to_bytes(2, "little") + may.to_bytes(2, "little") + who.to_bytes(4, "little") for tag, may, who in (
        (1, 7, 0xFFFFFFFF), (2, 4, 7), (4, 4, 0xFFFFFFFF), (16, 4, 0xFFFFFFFF), (32, 0, 0xFFFFFFFF)))
    os.setxattr(top / "a", "system.posix_acl_access", access)
    os.setxattr(top / "a", "system.posix_acl_default", access)  # which must not be given to the copy of what is in it
    for number, (where, names, files) in enumerate(os.walk(top, topdown=False)):
        for name in files + names:
            path = os.path.join(where, name)
            os.chown(path, number + 5, 70000, follow_symlinks=False) if name != "power" else None
            os.utime(path, ns=(LATER + number, 123456789 + number), follow_symlinks=False)
    os.chmod(deep, 0o1000)
    os.chmod(top / "a", 0o2750)
    os.chmod(top, 0o711)
    os.chown(top, 3, 4)
    os.utime(top, ns=(LATER, 10**17 + 1))
    return top


def test_all_that_a_tree_can_hold(tree, tmp_path):
    before = told(tree)
    here, there = tmp_path / "copy", LIB + "/copy"
    os.mkdir(here)
    os.mkdir(there)
    copy(tree, here)
    assert told(here) == before
    copy(here, there)
    assert told(there) == before
    for made in (str(here), there):
        assert os.stat(made + "/holes").st_blocks * 512 < 1 << 20
        assert os.path.samefile(made + "/again", made + "/a/b/file") and not os.path.exists(made + "/sock")
    with opened(LIB) as parent:
        trees.remove_tree(int(parent), "copy")


def test_nothing_in_the_target_is_replaced_or_followed(tree, tmp_path):
    here, away = tmp_path / "copy", tmp_path / "away"
    here.mkdir()
    away.mkdir()
    os.symlink(away, here / "a")
    with pytest.raises(FileExistsError):
        copy(tree, here)
    assert not os.listdir(away)


def test_another_file_system_in_the_source_is_an_error(tree, tmp_path):
    (tmp_path / "copy").mkdir()
    syscalls.mount("none", str(tree / "a"), "tmpfs")
    try:
        with pytest.raises(OSError) as error:
            copy(tree, tmp_path / "copy")
        assert error.value.errno == errno.EXDEV
    finally:
        syscalls.umount(str(tree / "a"))


def test_a_full_target_says_so(tree, tmp_path):
    (tmp_path / "copy").mkdir()
    syscalls.mount("none", str(tmp_path / "copy"), "tmpfs", 0, "size=1M")
    try:
        with pytest.raises(OSError) as error:
            copy(tree, tmp_path / "copy")
        assert error.value.errno == errno.ENOSPC
    finally:
        syscalls.umount(str(tmp_path / "copy"))


@pytest.mark.parametrize("name", ["", "a", "empty"])
def test_what_the_target_cannot_hold_is_named(tmp_path, name):
    """Of its root, a directory and a file; a name of an attribute is in one line, whatever it is."""
    source = tmp_path / "source"
    (source / "a").mkdir(parents=True)
    (source / "empty").touch()
    os.setxattr(source / name, "user.a\nb", b"x")
    (tmp_path / "copy").mkdir()
    syscalls.mount("none", str(tmp_path / "copy"), "ramfs")
    try:
        with pytest.raises(OSError) as error:
            copy(source, tmp_path / "copy")
        assert reason(error.value) == "the file system of the copy cannot hold the extended attribute 'user.a\\x0ab' (%s)" % (name or ".")
    finally:
        syscalls.umount(str(tmp_path / "copy"))


def test_what_is_written_meanwhile_is_no_copy(tree, tmp_path, monkeypatch):
    (tmp_path / "copy").mkdir()
    content = copytree.Copy._content

    def slow(self, source, fd, size):
        content(self, source, fd, size)
        with open(tree / "empty", "ab") as stream:
            stream.write(b"x")

    monkeypatch.setattr(copytree.Copy, "_content", slow)
    with pytest.raises(OSError) as error:
        copy(tree, tmp_path / "copy")
    assert error.value.errno == errno.ESTALE


@pytest.mark.parametrize("what", ["device", "directory", "link"])
def test_what_comes_in_the_place_of_a_file_is_not_opened(tmp_path, what):
    """Be it with the number of its inode, as ext4 gives that again at once."""
    path = tmp_path / "it"
    path.write_bytes(b"x")
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        before = os.stat(path)
        path.unlink()
        if what == "device":
            os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(240, 77))  # to open it would be another error: there is no driver
        elif what == "directory":
            path.mkdir()
        else:
            path.symlink_to("/etc/passwd")
        after = os.stat(path, follow_symlinks=False)
        number = os.stat_result((before.st_mode, after.st_ino, after.st_dev) + tuple(before)[3:])
        for looked_at in (before, number):
            with pytest.raises(OSError) as error:
                manifest.Entry(b"it", fd, b"it", looked_at).open()
            assert error.value.errno == errno.ESTALE
    finally:
        os.close(fd)


@pytest.mark.parametrize("when", [os.SEEK_DATA, os.SEEK_HOLE])
def test_what_is_cut_short_meanwhile_is_no_copy(tree, tmp_path, monkeypatch, when):
    (tmp_path / "copy").mkdir()
    seek = os.lseek

    def cut(fd, at, how):
        if how == when:
            os.truncate("/proc/self/fd/%d" % fd, at)
        return seek(fd, at, how)

    monkeypatch.setattr(os, "lseek", cut)
    with pytest.raises(OSError) as error:
        copy(tree, tmp_path / "copy")
    assert error.value.errno == errno.ESTALE


@pytest.mark.parametrize("lacks", ["_clones", "_ranges", "both"])
def test_each_way_of_copying_content(tree, tmp_path, monkeypatch, lacks):
    begin = copytree.Copy.__init__

    def less(self, root):
        begin(self, root)
        for key in ("_clones", "_ranges") if lacks == "both" else (lacks,):
            setattr(self, key, False)

    monkeypatch.setattr(copytree.Copy, "__init__", less)
    before = told(tree)
    (tmp_path / "copy").mkdir()
    copy(tree, tmp_path / "copy")
    assert told(tmp_path / "copy") == before


def test_content_is_shared_where_the_file_system_can(tmp_path):
    image, top = tmp_path / "disk", tmp_path / "mounted"
    top.mkdir()
    with open(image, "wb") as stream:
        stream.truncate(256 << 20)
    subprocess.run(["mkfs.btrfs", "-q", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(top)], check=True)
    try:
        (top / "one").mkdir()
        (top / "one" / "large").write_bytes(os.urandom(100 << 20))
        for number in range(5):  # 600 MB on a disk of 256
            (top / str(number)).mkdir()
            copy(top / "one", top / str(number))
        os.sync()
        with open(top / "4" / "large", "r+b") as stream:
            stream.write(b"changed")
        assert (top / "one" / "large").read_bytes()[:7] != b"changed" and (top / "4" / "large").stat().st_size == 100 << 20
    finally:
        subprocess.run(["umount", str(top)], check=True)
