# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A limit of a directory by project quota. Each has a project of its own, of a number that nobody else uses."""

from __future__ import annotations

import contextlib
import os
import stat
import zlib

from .._kernel import manifest, quota
from .._model.errors import BulkheadError

_FIRST, _COUNT = 0x42480000, 1 << 16  # numbers of projects that are ours
_TRIES = 4096


def find(host, directory):
    """(limit in bytes or None, bytes in use or None) of a directory that has a project of ours; None: it has none."""
    try:
        with _opened(directory) as fd:
            number = quota.project(fd)
            if not _FIRST <= number < _FIRST + _COUNT:
                return None
            try:
                size, used, unused = quota.read(fd, number, _device(host, directory))
            except OSError:
                return None, None  # not on any more
            return size or None, used
    except OSError:
        return None


def lacks(host, directory):
    """None, or (what is missing, what to do)."""
    place = directory
    while not os.path.isdir(place):
        place = os.path.dirname(place)
    mount = host.mounts().holder(os.path.realpath(place))
    if mount is None or not set(quota.OPTIONS).intersection(mount.super_options.split(",")):
        return ("the file system of %s has no quotas of projects on" % place,
                "Mount it with prjquota (of ext4, after tune2fs -O project,quota)")
    with _opened(place) as fd:
        return None if quota.works(fd, mount.source) else ("this kernel does not let us manage quotas", "Run where that is allowed")


def make(host, directory, size):
    """Give a directory, with all that is in it, a project of its own. Nobody writes there meanwhile."""
    with _opened(directory) as fd:
        number = quota.project(fd)
        if not _FIRST <= number < _FIRST + _COUNT:
            number = _free(host, fd, directory)
        quota.set_limit(fd, number, size, _device(host, directory))  # first, so that the number is taken
        for entry in manifest.walk(fd):
            if stat.S_ISDIR(entry.stat.st_mode) or stat.S_ISREG(entry.stat.st_mode):
                with _opened(entry.name, entry.parent, 0) as each:
                    quota.set_project(each, number)


def set_limit(host, directory, size):
    """Bytes; 0: no limit."""
    with _opened(directory) as fd:
        if size and not quota.works(fd, _device(host, directory)):
            raise BulkheadError("Cannot limit %s: quotas of projects are not on any more. Mount its file system with prjquota." % directory)
        quota.set_limit(fd, quota.project(fd), size, _device(host, directory))


def remove(host, directory):
    """Take limit and project off a directory; what is in it is of that project still, until it is removed."""
    with _opened(directory) as fd:
        number = quota.project(fd)
        if _FIRST <= number < _FIRST + _COUNT:
            with contextlib.suppress(OSError):
                quota.set_limit(fd, number, 0, _device(host, directory))
            quota.set_project(fd, 0)


def number(directory):
    """The project of a directory, for who is about to remove it."""
    with _opened(directory) as fd:
        return quota.project(fd)


def release(host, place, project):
    """A project whose directory is gone has no limit any more. ``place``: a directory on the same file system."""
    with _opened(place) as fd, contextlib.suppress(OSError):
        quota.set_limit(fd, project, 0, _device(host, place))


def _free(host, fd, directory):
    device, start = _device(host, directory), zlib.crc32(os.fsencode(directory))
    for step in range(_TRIES):
        candidate = _FIRST + (start + step) % _COUNT
        if quota.read(fd, candidate, device) == (0, 0, 0):
            return candidate
    raise BulkheadError("Cannot limit %s: all projects that were tried are in use. Remove quotas that nobody needs." % directory)


def _device(host, directory):
    mount = host.mounts().holder(os.path.realpath(directory))
    return mount.source if mount is not None else ""


@contextlib.contextmanager
def _opened(name, parent=None, kind=os.O_DIRECTORY):
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | kind, dir_fd=parent)
    try:
        yield fd
    finally:
        os.close(fd)
