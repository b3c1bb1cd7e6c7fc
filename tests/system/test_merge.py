# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Layers that are laid over each other as files are what the kernel's overlay shows of them; and what has become different in a tree,
laid over what it was, is that tree."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess

import pytest
from test_changes import CASES, MAKE

from module_utils._kernel import copytree, difference, manifest, merge, syscalls

OPTIONS = "lowerdir=%s,upperdir=upper,workdir=work"


@pytest.fixture
def top(tmp_path):
    """A directory on a file system of its own, with the layers base and app, the current one."""
    syscalls.mount("test", str(tmp_path), "tmpfs", 0, "mode=755")
    before = os.getcwd()
    os.chdir(tmp_path)
    try:
        subprocess.run(["sh", "-ec", MAKE + "mkdir upper work mnt tree whole other; chmod 751 app"], check=True)
        os.setxattr("app", "user.x", b"y")
        shutil.copystat("app", "upper")  # whose own are shown of the top directory
        yield str(tmp_path)
    finally:
        os.chdir(before)
        syscalls.umount(str(tmp_path), syscalls.MNT_DETACH)


@contextlib.contextmanager
def opened(*paths):
    with contextlib.ExitStack() as stack:
        found = []
        for path in paths:
            found.append(os.open(path, os.O_RDONLY | os.O_DIRECTORY))
            stack.callback(os.close, found[-1])
        yield found


def lay(target, *layers):
    """Make an empty directory what these layers are together, the lowest first."""
    with opened(target, *layers) as (tree, *below):
        for layer in below:
            merge.apply(layer, tree)


def text(path):
    with opened(path) as (fd,):
        return manifest.of(fd).text


def differs(one, other):
    return manifest.difference(text(one), text(other))


def written(script):
    """Run a script in an overlay of app over base, and in a tree of its own, which is a copy of what whole is."""
    syscalls.mount("overlay", "mnt", "overlay", 0, OPTIONS % "app:base")
    lay("whole", "base", "app")
    assert differs("mnt", "whole") is None
    with opened("whole", "tree") as pair:
        copytree.copy(*pair)
    for place in ("mnt", "tree"):
        script(place)


def like_the_kernel():
    """What is in the upper, laid over the layers, is what the overlay shows."""
    lay("other", "base", "app", "upper")
    assert differs("mnt", "other") is None
    syscalls.umount("mnt")


def there_and_back():
    """What is different, laid over what it was, is what it is."""
    with opened("whole", "tree") as (base, tree):
        told = difference.between(base, tree)
        merge.lay(difference.written(base, tree), base)
        assert difference.between(base, tree) == {"added": [], "modified": [], "deleted": []}
    assert differs("tree", "whole") is None
    return told


@pytest.mark.parametrize("script, told", CASES)
def test_each_way_of_changing(top, script, told):
    written(lambda place: subprocess.run(["sh", "-ec", script], cwd=place, check=True))
    like_the_kernel()
    assert there_and_back() == told


def anything(seed):
    """The same changes for the same number, some of which fail, to names that are few."""
    def act(place):
        dice = random.Random(seed)
        names = ["etc", "dir", "gone", "file", "etc/one", "etc/two", "dir/sub", "dir/new", "dir/sub/file", "new", "new/deep", "todir", "hidden"]
        for number in range(40):
            one, other = ("%s/%s" % (place, dice.choice(names)) for each in range(2))
            act, when = dice.randrange(10), (dice.randrange(1 << 30), dice.randrange(1 << 60))
            with contextlib.suppress(OSError):
                if act == 0:
                    os.mkdir(one, 0o700 + dice.randrange(0o77))
                elif act in (1, 2):
                    subprocess.run(["rm", "-rf", one], check=False, stderr=subprocess.DEVNULL)
                elif act in (3, 4):
                    fd = os.open(one, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK)  # a fifo refuses
                    os.write(fd, b"%d" % number * dice.randrange(3))
                    os.close(fd)
                elif act == 5:
                    os.symlink("dir", one)
                elif act == 6 and os.path.isfile(one):
                    os.rename(one, other)
                elif act == 7:
                    os.mkfifo(one)
                elif act == 8:
                    os.setxattr(one, "user.number", b"%d" % number)
                else:
                    os.chmod(one, 0o600 + dice.randrange(0o77))
                os.utime(one, ns=when, follow_symlinks=False)
        for where, folders, files in os.walk(place):
            for name in folders + files:
                os.utime(os.path.join(where, name), ns=(0, 7), follow_symlinks=False)
        os.utime(place, ns=(0, 7))
    return act


@pytest.mark.parametrize("seed", range(60))
def test_anything(top, seed):
    written(anything(seed))
    shown = differs("mnt", "tree")
    assert shown is None, shown
    like_the_kernel()
    there_and_back()


def test_hard_links(top):
    def script(place):
        os.link(place + "/file", place + "/etc/more")
        os.link(place + "/file", place + "/etc/most")
    written(script)
    like_the_kernel()
    assert there_and_back() == dict(added=["/etc/more", "/etc/most"], modified=[], deleted=[])
    assert os.stat("whole/file").st_nlink == 3


def test_nothing_is_followed(top):
    """A layer has a directory where the tree below has a link that leads out, and the other way round."""
    os.makedirs("precious/sub")
    for path in ("base/etc", "base/dir"):
        subprocess.run(["rm", "-rf", path], check=True)
        os.symlink(top + "/precious", path)
    os.makedirs("app/dir/sub", exist_ok=True)
    lay("whole", "base", "app")
    assert os.listdir("precious") == ["sub"] and os.listdir("precious/sub") == [] and not os.path.islink("whole/dir")
    lay("other", "app", "base")
    assert os.path.islink("other/dir") and os.listdir("precious") == ["sub"]
    with opened("whole", "other") as pair:
        assert "/dir" in difference.between(*pair)["modified"]


@pytest.mark.parametrize("note", ["redirect", "metacopy"])
def test_what_means_something_elsewhere_is_refused(top, note):
    os.setxattr("app/dir/app", "trusted.overlay." + note, b"/gone")
    with pytest.raises(OSError, match="redirect or metacopy"):
        lay("whole", "base", "app")


def test_content_is_compared_where_it_may_be_another(top):
    """The size, the times and the owner are put back by who has changed it."""
    lay("whole", "base")
    with opened("whole", "tree") as pair:
        copytree.copy(*pair)
    found = os.stat("tree/etc/two")
    with open("tree/etc/two", "wb") as stream:
        stream.write(b"TWO\n")
    os.utime("tree/etc/two", ns=(found.st_atime_ns, found.st_mtime_ns))
    with opened("whole", "tree") as pair:
        assert difference.between(*pair)["modified"] == ["/etc/two"]
        assert difference.space(*pair) == 0 and not difference.has_data(*pair)  # which read no content
