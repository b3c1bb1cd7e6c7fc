# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Work inside directory trees that may be hostile: by descriptors alone, so that no symlink or rename leads outside.

A tree is given by the descriptor of its root. Paths are read as a process chrooted there would read them.
"""

from __future__ import annotations

import errno
import os
import stat

from . import syscalls

_IN_ROOT = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS
_SAME_MOUNT = syscalls.RESOLVE_NO_XDEV | syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_BENEATH
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LINKS = 40  # the kernel's own limit of symlinks in one walk


def _error(code, path):
    return OSError(code, os.strerror(code), path)


def _missing_openat2(exc):
    return exc.errno in (errno.ENOSYS, errno.EPERM)  # EPERM: what seccomp filters of containers answer to unknown calls


def parts(path):
    """The components of a path; `..` is refused where the caller will create something."""
    return [part for part in path.split("/") if part not in ("", ".")]


def resolve(root, path, flags=syscalls.O_PATH):
    """A descriptor of ``path`` inside the tree ``root``; symlinks are followed inside it (not the last one with O_NOFOLLOW)."""
    try:
        return syscalls.openat2(root, path.lstrip("/") or ".", flags, _IN_ROOT)
    except OSError as exc:
        if not _missing_openat2(exc):
            raise
    return _walk(root, path, flags)


def _walk(root, path, flags):
    """resolve() for kernels before 5.6: one component at a time, none followed by the kernel."""
    todo, held, links = parts(path)[::-1], [os.open(".", syscalls.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root)], 0
    must_be_directory = path.endswith("/")
    try:
        while todo:
            name = todo.pop()
            if name == "..":
                if len(held) > 1:
                    os.close(held.pop())
                continue
            last = not todo
            fd = os.open(name, syscalls.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=held[-1])
            kind = stat.S_IFMT(os.fstat(fd).st_mode)
            if kind == stat.S_IFLNK and not (last and flags & os.O_NOFOLLOW and not must_be_directory):
                target = os.readlink("", dir_fd=fd)
                os.close(fd)
                links += 1
                if links > _LINKS or not target:
                    raise _error(errno.ELOOP, path)
                if target.startswith("/"):
                    while len(held) > 1:
                        os.close(held.pop())
                must_be_directory = must_be_directory or (last and target.endswith("/"))
                todo.extend(parts(target)[::-1])
                continue
            held.append(fd)
            if kind != stat.S_IFDIR and todo:
                raise _error(errno.ENOTDIR, path)
        directory = stat.S_ISDIR(os.fstat(held[-1]).st_mode)
        if not directory and (must_be_directory or flags & os.O_DIRECTORY):
            raise _error(errno.ENOTDIR, path)
        if flags & syscalls.O_PATH:
            return held.pop()
        if directory:
            return os.open(".", flags | os.O_CLOEXEC, dir_fd=held[-1])
        # The last name again, now for reading or writing: a link put there meanwhile is refused, another file is noticed.
        fd = os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=held[-2])
        if not os.path.samestat(os.fstat(fd), os.fstat(held[-1])):
            os.close(fd)
            raise _error(errno.EAGAIN, path)
        return fd
    finally:
        for fd in held:
            os.close(fd)


def exists(root, path):
    """Whether ``path`` leads to something inside the tree."""
    try:
        os.close(resolve(root, path))
        return True
    except OSError as exc:
        if exc.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return False
        raise


def make_dirs(root, path, mode=0o755):
    """An O_PATH descriptor of the directory ``path``, made with its parents where missing."""
    flags = syscalls.O_PATH | os.O_DIRECTORY
    try:
        return resolve(root, path, flags)
    except FileNotFoundError:
        pass
    names = parts(path)
    if ".." in names:
        raise _error(errno.EINVAL, path)
    here, walked = os.dup(root), ""
    try:
        for name in names:
            parent, walked = here, walked + "/" + name
            try:
                here = resolve(root, walked, flags)  # from the root again: an absolute link on the way starts there
            except FileNotFoundError:
                # A link that leads nowhere is not ours to complete: mkdirat says that the name is taken.
                try:
                    _mkdir(parent, name, mode)
                except FileExistsError:
                    raise _error(errno.ENOENT, walked) from None
                here = os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
            os.close(parent)
        result, here = here, -1
        return result
    finally:
        if here >= 0:
            os.close(here)


def _mkdir(parent, name, mode):
    """mkdirat(2) with exactly these bits; a chmod afterwards could be led elsewhere by a link."""
    mask = os.umask(0)
    try:
        os.mkdir(name, mode, dir_fd=parent)
    finally:
        os.umask(mask)


def split(path):
    """Parent and last name of a path inside a root."""
    names = parts(path)
    if not names or ".." in names:
        raise _error(errno.EINVAL, path)
    return "/" + "/".join(names[:-1]), names[-1]


def make_file(root, path, mode=0):
    """An O_PATH descriptor of the file ``path``: what is there, else an empty file is made (for a bind to cover)."""
    try:
        return resolve(root, path)
    except FileNotFoundError:
        pass
    parent, name = split(path)
    directory = make_dirs(root, parent)
    try:
        os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=directory))
        return os.open(name, syscalls.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    finally:
        os.close(directory)


def end_of_links(root, path):
    """Where a path leads that leads nowhere yet: the last name is read as long as it is a link, and nothing is made."""
    for unused in range(_LINKS):
        try:
            fd = resolve(root, path, syscalls.O_PATH | os.O_NOFOLLOW)
        except FileNotFoundError:
            return path
        try:
            if not stat.S_ISLNK(os.fstat(fd).st_mode):
                return path
            target = os.readlink("", dir_fd=fd)
        finally:
            os.close(fd)
        path = os.path.normpath(target if target.startswith("/") else "%s/%s" % (os.path.dirname(path), target))
    raise _error(errno.ELOOP, path)


def _enter(directory, name):
    """Open a sub-directory for reading; EXDEV when another mount lies on it."""
    try:
        return syscalls.openat2(directory, name, DIRECTORY, _SAME_MOUNT)
    except OSError as exc:
        if not _missing_openat2(exc):
            raise
    fd = os.open(name, DIRECTORY, dir_fd=directory)
    if mount_id(fd) != mount_id(directory):
        os.close(fd)
        raise _error(errno.EXDEV, name)
    return fd


def mount_id(fd, proc="/proc"):
    with open("%s/self/fdinfo/%d" % (proc, fd), encoding="ascii") as info:
        for line in info:
            if line.startswith("mnt_id:"):
                return int(line[7:])
    return os.fstat(fd).st_dev


def _walk_tree(directory, visit_file, leave_directory, moving=False):
    """Visit a tree bottom-up without recursion and with two descriptors, however deep it is.

    ``visit_file(fd, name)`` may return True to end the walk; ``leave_directory(fd, name)`` is called in the parent.
    Going up is by `..`, checked to be the directory that we came from: one moved away meanwhile ends the walk. ``moving``: one that is gone
    when its turn comes is no error.
    """
    here = os.open(".", DIRECTORY, dir_fd=directory)
    above = []  # for each directory we are in: its name, its parent's identity, the parent's names still to do
    try:
        todo = _names(here)
        while True:
            while todo:
                name, is_directory = todo.pop()
                if not is_directory:
                    if visit_file(here, name):
                        return True
                    continue
                identity = os.fstat(here)
                try:
                    child = _enter(here, name)
                except OSError as exc:
                    if moving and exc.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                        continue
                    raise
                os.close(here)
                here = child
                above.append((name, (identity.st_dev, identity.st_ino), todo))
                todo = _names(here)
            if not above:
                return False
            name, identity, todo = above.pop()
            parent = os.open("..", DIRECTORY, dir_fd=here)
            os.close(here)
            here = parent
            found = os.fstat(here)
            if (found.st_dev, found.st_ino) != identity:
                raise _error(errno.EAGAIN, name)
            leave_directory(here, name)
    finally:
        os.close(here)


def _names(fd):
    with os.scandir(fd) as entries:
        return [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]


def empty_tree(directory):
    """Remove everything below an open directory, never across a mount (EXDEV) and never through a symlink."""
    _walk_tree(directory, lambda fd, name: os.unlink(name, dir_fd=fd), lambda fd, name: os.rmdir(name, dir_fd=fd))


def remove_tree(parent, name):
    """Remove the directory ``name`` of an open directory with everything below; no error when it is not there."""
    try:
        fd = _enter(parent, name)
    except FileNotFoundError:
        return
    try:
        empty_tree(fd)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=parent)


def is_empty(directory):
    """Whether an open directory has no entries."""
    fd = os.open(".", DIRECTORY, dir_fd=directory)
    try:
        with os.scandir(fd) as entries:
            return next(entries, None) is None
    finally:
        os.close(fd)


def has_data(directory):
    """Whether a tree holds more than mount points: anything but directories and empty files without permissions."""
    def data(fd, name):
        found = os.stat(name, dir_fd=fd, follow_symlinks=False)
        return not (stat.S_ISREG(found.st_mode) and found.st_size == 0 and stat.S_IMODE(found.st_mode) == 0)
    return _walk_tree(directory, data, lambda fd, name: None)


def disk_space(directory):
    """The bytes that what is in a tree takes on the disk, each file once, whatever names it has. It may be in use."""
    seen, blocks = set(), [0]

    def add(fd, name):
        try:
            found = os.stat(name, dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            return
        if found.st_nlink == 1 or found.st_ino not in seen:
            seen.add(found.st_ino)
            blocks[0] += found.st_blocks

    _walk_tree(directory, add, add, moving=True)
    return blocks[0] * 512
