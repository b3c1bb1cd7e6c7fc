# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What was written with the version before, which is kept beside what is written now: `upper.previous` and `work.previous`.

Each directory is known by its inode, which is noted before the first of them is moved, and each is moved by one rename. So whoever
comes after a run that was killed finds out which is which, and each act here can be done again. Services are stopped.
"""

from __future__ import annotations

import os

from .._kernel import syscalls
from .._model.upgrade import BESIDE
from . import _layers

PREVIOUS, OLDER = BESIDE  # older: that of the version before the one before, until the switch has come off


def inodes(paths):
    """{path: inode} of the directories that are in place."""
    return {path: os.stat(path).st_ino for path in paths if os.path.isdir(path)}


def lay_aside(host, driver, inodes):
    """Have empty directories in their places, and them beside. ``driver``: the storage driver whose they are."""
    for path, inode in inodes.items():
        if _inode(path) == inode:
            if os.path.lexists(path + PREVIOUS):
                driver.forget(host, path + OLDER)
                os.rename(path + PREVIOUS, path + OLDER)
            os.rename(path, path + PREVIOUS)
        if not os.path.isdir(path):
            found = os.stat(path + PREVIOUS)
            os.mkdir(path, 0o700)
            os.chown(path, found.st_uid, found.st_gid)
            os.chmod(path, found.st_mode & 0o7777)


def change_places(inodes):
    """Have those of the version before in place of these, and these beside."""
    for path, inode in inodes.items():
        if _inode(path) == inode and os.path.isdir(path + PREVIOUS):
            syscalls.exchange(path, path + PREVIOUS)


def bring_back(host, driver, inodes, fresh):
    """Undo lay_aside() (``fresh``) or change_places(), however far they have come."""
    for path, inode in inodes.items():
        if _inode(path) != inode and _inode(path + PREVIOUS) == inode:
            if os.path.isdir(path):
                syscalls.exchange(path, path + PREVIOUS)
            else:
                os.rename(path + PREVIOUS, path)
            if fresh:  # that of the version that did not come to stay
                driver.forget(host, path + PREVIOUS)
        if os.path.lexists(path + OLDER):
            driver.forget(host, path + PREVIOUS)
            os.rename(path + OLDER, path + PREVIOUS)


def forget(host, driver, paths, words):
    """Remove what nobody can come back to any more."""
    for path in paths:
        for word in words:
            if os.path.lexists(path + word):
                driver.forget(host, path + word)


def plan_removal(host, driver, name, remove_data, plan):
    """Steps that remove it with the sandbox, or after it: where something was written only when told to."""
    there = [path + word for path in driver.movable(host, name) for word in (PREVIOUS, OLDER) if os.path.lexists(path + word)]
    if not there or not remove_data and any(driver.has_data(host, path) for path in there):
        return
    plan.add("remove what was written with the version before", lambda: _remove(host, driver, there))


def _remove(host, driver, there):
    for path in there:
        if os.path.lexists(path):  # else it went with the file system that it was in
            driver.forget(host, path)
    _layers.remove_if_empty(_layers.own_parent(host, there[0]))


def _inode(path):
    try:
        return os.stat(path).st_ino
    except OSError:
        return None
