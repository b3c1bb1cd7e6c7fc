# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Copies of trees that are in use are what the trees were while they stood still, whatever was done to them before."""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import shutil
import time

import pytest
from test_copytree import opened, told

from module_utils._kernel import copytree, livecopy, manifest, syscalls

NAMES = ["a", "b", "c", "d"]


class Writer:
    """Does things at random to a tree, as somebody who would rather not be seen."""

    def __init__(self, top, seed):
        self.top, self.random = str(top), random.Random(seed)
        for dummy in range(60):
            self.act()

    def path(self):
        return os.path.join(self.top, *self.random.choices(NAMES, k=self.random.randint(1, 3)))

    def act(self):
        kinds = [self.write, self.write, self.write, self.same_size, self.make, self.make, self.move, self.move, self.link, self.remove, self.attributes,
                 self.symlink, self.turn]
        with contextlib.suppress(OSError):
            self.random.choice(kinds)(self.path())

    def write(self, path):
        with open(path, "ab") as stream:
            stream.write(self.random.randbytes(self.random.randint(1, 20000)))

    def same_size(self, path):
        found = os.stat(path)
        with open(path, "r+b") as stream:
            stream.write(self.random.randbytes(1))
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))

    def make(self, path):
        os.mkdir(path, 0o750)

    def move(self, path):
        os.rename(path, self.path())

    def link(self, path):
        os.link(path, self.path())

    def symlink(self, path):
        os.symlink(self.path(), path)

    def remove(self, path):
        shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)

    def turn(self, path):
        """What was a directory is none, or the other way round."""
        made = os.path.isdir(path)
        self.remove(path)
        (self.write if made else self.make)(path)

    def attributes(self, path):
        os.chown(path, self.random.randint(0, 9), 5, follow_symlinks=False)
        os.setxattr(path, "user.note", self.random.randbytes(8))


def copy(source, target, still):
    target.mkdir()
    with opened(source) as one, opened(target) as other:
        livecopy.copy(int(one), int(other), still)


@pytest.mark.parametrize("seed", range(150))
def test_it_is_what_the_tree_was_while_it_stood_still(tmp_path, monkeypatch, seed):
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    writer, walk, wanted = Writer(source, seed), manifest.walk, []
    if seed % 2:
        time.sleep(0.02)  # else all of it is of the moment in which the copy begins

    def moving(root, choose=None, moving=False):
        for entry in walk(root, choose, moving):
            if moving and writer.random.random() < 0.4:
                writer.act()
            yield entry

    @contextlib.contextmanager
    def still():
        for dummy in range(writer.random.randint(0, 12)):
            writer.act()
        wanted.append(told(source))
        yield
        for dummy in range(5):
            writer.act()

    monkeypatch.setattr(manifest, "walk", moving)
    copy(source, target, still())
    monkeypatch.undo()
    text, more = told(target)
    assert text == wanted[0][0]
    assert {path: each[1:] for path, each in more.items()} == {path: each[1:] for path, each in wanted[0][1].items()}


def test_what_was_not_changed_is_not_read_again(tmp_path, monkeypatch):
    source, content, when = tmp_path / "source", copytree.Copy._content, {"ahead": [], "still": []}
    source.mkdir()
    for number in range(20):
        (source / str(number)).write_text(str(number), encoding="utf-8")
    time.sleep(0.02)
    now = "ahead"

    def counted(self, *rest):
        when[now].append(rest[-1])
        content(self, *rest)

    @contextlib.contextmanager
    def still():
        nonlocal now
        now = "still"
        (source / "7").write_text("changed", encoding="utf-8")
        yield

    monkeypatch.setattr(copytree.Copy, "_content", counted)
    copy(source, tmp_path / "target", still())
    assert len(when["ahead"]) == 20 and when["still"] == [7]
    assert (tmp_path / "target" / "7").read_text(encoding="utf-8") == "changed"


def test_what_is_written_to_a_mapping_is_seen(tmp_path):
    """A page that was written to before is written to again, which by itself is no change of the file that the kernel notes."""
    source = tmp_path / "source"
    source.mkdir()
    with open(source / "file", "w+b") as stream:
        stream.truncate(1 << 20)
        with mmap.mmap(stream.fileno(), 1 << 20) as mapped:
            mapped[5] = 1
            time.sleep(0.02)

            @contextlib.contextmanager
            def still():
                mapped[5] = 2
                yield

            copy(source, tmp_path / "target", still())
    assert (tmp_path / "target" / "file").read_bytes()[5] == 2


def test_on_a_tmpfs_nothing_is_copied_ahead(tmp_path):
    """There the kernel notes no change by a mapping at all."""
    source = tmp_path / "source"
    source.mkdir()
    syscalls.mount("none", str(source), "tmpfs")
    try:
        with open(source / "file", "w+b") as stream:
            stream.truncate(4096)
            with mmap.mmap(stream.fileno(), 4096) as mapped:
                mapped[5] = 1

                @contextlib.contextmanager
                def still():
                    mapped[5] = 2
                    yield

                time.sleep(0.02)
                copy(source, tmp_path / "target", still())
        assert (tmp_path / "target" / "file").read_bytes()[5] == 2
    finally:
        syscalls.umount(str(source))


def test_an_error_of_the_target_is_one(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    (source / "large").write_bytes(bytes(range(256)) * 8192)
    syscalls.mount("none", str(target), "tmpfs", 0, "size=1M")
    try:
        with pytest.raises(OSError, match="No space left"), opened(source) as one, opened(target) as other:
            livecopy.copy(int(one), int(other), contextlib.nullcontext())
    finally:
        syscalls.umount(str(target))
