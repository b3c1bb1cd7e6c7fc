# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Walks inside roots: by openat2 and by the fallback alike, deep, across no mount, and against a process that swaps names."""

from __future__ import annotations

import ctypes
import errno
import os
import time

import pytest

from module_utils._kernel import syscalls, trees


@pytest.fixture
def root(tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "out").mkdir()
    fd = os.open(str(tmp_path / "root"), os.O_PATH | os.O_DIRECTORY)
    yield fd, str(tmp_path / "root"), str(tmp_path / "out")
    os.close(fd)


def way(fd):
    path = os.readlink("/proc/self/fd/%d" % fd)
    os.close(fd)
    return path


@pytest.mark.parametrize("resolve", [trees.resolve, trees._walk])
def test_links_stay_inside(root, resolve):
    fd, top, out = root
    os.makedirs(top + "/a/b/c")
    for name, target in (("abs", "/a/b"), ("a/up", "../../../../../../a"), ("esc", "../" * 30 + out[1:]), ("loop", "loop"), ("dir/", "a")):
        os.symlink(target, top + "/" + name.rstrip("/"))
    open(top + "/file", "w", encoding="utf-8").close()
    for path, found in (("/abs/c", "/a/b/c"), ("a/up/b", "/a/b"), ("/../../..", ""), ("/a/b/../../dir/b", "/a/b"),
                        ("", ""), ("/abs/", "/a/b"), ("/file", "/file")):
        assert way(resolve(fd, path, os.O_PATH)) == top + found, path
    for path, code in (("/esc", errno.ENOENT), ("/loop", errno.ELOOP), ("/file/x", errno.ENOTDIR), ("/file/", errno.ENOTDIR), ("/none/x", errno.ENOENT)):
        with pytest.raises(OSError) as error:
            resolve(fd, path, os.O_PATH)
        assert error.value.errno == code, path
    link = resolve(fd, "/abs", os.O_PATH | os.O_NOFOLLOW)
    assert os.readlink("", dir_fd=link) == "/a/b"
    os.close(link)
    opened = resolve(fd, "/a", os.O_RDONLY | os.O_DIRECTORY)
    assert sorted(os.listdir(opened)) == ["b", "up"]
    os.close(opened)


def test_the_end_of_links(root):
    fd, top, out = root
    os.mkdir(top + "/etc")
    for name, target in (("etc/one", "../run/x"), ("etc/two", "one"), ("etc/three", "/etc/two"), ("etc/out", "../" * 9 + "run"), ("loop", "loop")):
        os.symlink(target, top + "/" + name)
    for path, found in (("/etc/one", "/run/x"), ("/etc/two", "/run/x"), ("/etc/three", "/run/x"), ("/etc/out", "/run"), ("/etc", "/etc"),
                        ("/none", "/none"), ("/none/x", "/none/x")):
        assert trees.end_of_links(fd, path) == found
    with pytest.raises(OSError, match="Too many levels"):
        trees.end_of_links(fd, "/loop")
    assert os.listdir(out) == [] and not os.path.exists(top + "/run")


def test_making(root):
    fd, top, out = root
    os.umask(0o077)
    try:
        os.close(trees.make_dirs(fd, "/x/y/z"))
        os.close(trees.make_dirs(fd, "/x/y/z"))
        os.close(trees.make_file(fd, "/x/f/file"))
    finally:
        os.umask(0o022)
    assert os.stat(top + "/x/y").st_mode & 0o777 == 0o755 and os.stat(top + "/x/f/file").st_mode & 0o777 == 0
    os.symlink(out, top + "/dangling")
    for path in ("/dangling/x", "/x/../../y", "/x/f/file/z"):
        with pytest.raises(OSError):
            trees.make_dirs(fd, path)
    assert os.listdir(out) == []


def test_thousands_deep(root):
    fd, top, out = root
    here = os.open(top, os.O_RDONLY)
    for dummy in range(6000):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    assert not trees.has_data(fd)
    trees.remove_tree(fd, "d")
    trees.remove_tree(fd, "d")
    assert trees.is_empty(fd)


def test_links_and_mounts_are_not_crossed(root):
    fd, top, out = root
    os.makedirs(top + "/t/bind")
    os.makedirs(top + "/t/other")
    open(out + "/precious", "w", encoding="utf-8").close()
    os.symlink(out, top + "/t/link")
    syscalls.mount(out, top + "/t/bind", None, syscalls.MS_BIND)
    try:
        with pytest.raises(OSError) as error:
            trees.remove_tree(fd, "t")
        assert error.value.errno == errno.EXDEV
    finally:
        syscalls.umount(top + "/t/bind")
    trees.remove_tree(fd, "t")
    assert os.listdir(out) == ["precious"] and os.listdir(top) == []


def test_data(root):
    fd, top, out = root
    os.close(trees.make_dirs(fd, "/a/b"))
    os.close(trees.make_file(fd, "/a/point"))
    assert not trees.has_data(fd) and not trees.is_empty(fd)
    for make in (lambda path: open(path, "w", encoding="utf-8").close(), lambda path: os.symlink("x", path), lambda path: os.mknod(path, 0o20000, 0)):
        make(top + "/a/b/new")
        assert trees.has_data(fd)
        os.unlink(top + "/a/b/new")


def test_a_process_that_swaps_names(root):
    """A directory and a link to the outside change places all the time; nothing is ever made or removed outside."""
    fd, top, out = root
    os.makedirs(out + "/keep/sub")
    os.makedirs(top + "/real")
    os.symlink(out, top + "/link")
    seconds, libc = float(os.environ.get("BULKHEAD_RACE", "2")), ctypes.CDLL(None)
    attacker = os.fork()
    if attacker == 0:
        try:
            while os.getppid() != 1:
                libc.renameat2(-100, (top + "/real").encode(), -100, (top + "/link").encode(), 2)  # RENAME_EXCHANGE
        finally:
            os._exit(0)
    end, made = time.monotonic() + seconds, 0
    try:
        while time.monotonic() < end:
            for act in (lambda: os.close(trees.make_dirs(fd, "/real/keep/new")), lambda: os.close(trees.make_file(fd, "/real/file")),
                        lambda: trees.remove_tree(fd, "real"), lambda: os.close(trees._walk(fd, "/real/keep", os.O_RDONLY | os.O_DIRECTORY))):
                try:
                    act()
                    made += 1
                except OSError:
                    pass
            for name in ("real", "link"):
                try:
                    os.mkdir(top + "/" + name)
                except OSError:
                    pass
    finally:
        os.kill(attacker, 9)
        os.waitpid(attacker, 0)
    assert made and os.listdir(out) == ["keep"] and os.listdir(out + "/keep") == ["sub"]
