# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Directories opened below a root that may be hostile, where no part of a path may be a link or lead to another mount."""

from __future__ import annotations

import errno
import os

from . import syscalls

_BENEATH = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_NO_XDEV
DIRECTORY = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def open_at(root, path, flags=os.O_RDONLY | DIRECTORY):
    """A descriptor of ``path`` (bytes, plain parts) below the descriptor ``root``; ELOOP or ENOTDIR where a part is a link."""
    try:
        return syscalls.openat2(root, path or b".", flags | os.O_CLOEXEC, _BENEATH)
    except OSError as exc:
        if exc.errno not in (errno.ENOSYS, errno.EPERM):  # what seccomp filters of containers answer to unknown calls
            raise
    return _walk(root, path, flags)


def _walk(root, path, flags):
    """The same for kernels before 5.6: one part at a time, none followed."""
    here, device = os.open(b".", syscalls.O_PATH | DIRECTORY, dir_fd=root), os.fstat(root).st_dev
    parts = [part for part in path.split(b"/") if part not in (b"", b".")]
    try:
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            below = os.open(part, (flags | os.O_NOFOLLOW | os.O_CLOEXEC) if last else syscalls.O_PATH | DIRECTORY, dir_fd=here)
            os.close(here)
            here = below
            if os.fstat(here).st_dev != device:
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)
        if parts:
            result, here = here, -1
            return result
        return os.open(b".", flags | os.O_CLOEXEC, dir_fd=root)
    finally:
        if here >= 0:
            os.close(here)
