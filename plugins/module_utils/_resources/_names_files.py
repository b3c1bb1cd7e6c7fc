# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The files of names of a namespace, `/etc/netns/NAMESPACE/hosts` and `resolv.conf`: found, and written in place.

A file is ours as long as its first line says so, which outlives a reboot as the file does. No link is followed.
"""

from __future__ import annotations

import errno
import os
import stat

from .._model.root import NAMED as FILES

MARK = "# Kept by Bulkhead. What is changed here by hand is changed back.\n"
MODE = 0o644
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a fifo of that name does not make us wait


class File:
    """One as it is: its ``text`` (None: it is not there), is it ``ours``, and has it the ``rights`` that we give it?"""

    __slots__ = ("text", "ours", "rights")

    def __init__(self, text=None, ours=True, rights=True):
        self.text, self.ours, self.rights = text, ours, rights


def _open(host, namespace, make=False):
    """The directory of a namespace; None where there is none."""
    if make:
        os.makedirs(host.names, mode=0o755, exist_ok=True)
    try:
        top = os.open(host.names, _DIRECTORY)
        try:
            if make:
                try:
                    os.mkdir(namespace, 0o755, dir_fd=top)
                except FileExistsError:
                    pass
            return os.open(namespace, _DIRECTORY, dir_fd=top)
        finally:
            os.close(top)
    except FileNotFoundError:
        return None
    except OSError as exc:  # a link, or no directory
        raise OSError(exc.errno, exc.strerror, "%s/%s" % (host.names, namespace)) from exc


def _read(directory, name):
    try:
        fd = os.open(name, os.O_RDONLY | _FILE, dir_fd=directory)
    except FileNotFoundError:
        return File()
    except OSError as exc:
        if exc.errno in (errno.ELOOP, errno.ENXIO):  # a link, a socket
            return File("", ours=False)
        raise
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            return File("", ours=False)
        text = os.read(fd, found.st_size + 1).decode("utf-8", "replace")
    finally:
        os.close(fd)
    # One without content is what a power cut may leave of ours, and is a loss to nobody.
    return File(text, text.startswith(MARK) or not text.strip("\0\n "),
                (stat.S_IMODE(found.st_mode), found.st_uid) == (MODE, os.geteuid()))


def found(host, namespace):
    """{file: its File}."""
    directory = _open(host, namespace)
    if directory is None:
        return {name: File() for name in FILES}
    try:
        return {name: _read(directory, name) for name in FILES}
    finally:
        os.close(directory)


def put(host, namespace, texts):
    """Write the files whose text is given, and remove those whose text is None. Directories come and go with them."""
    directory = _open(host, namespace, make=any(text is not None for text in texts.values()))
    if directory is None:
        return
    try:
        for name in FILES:
            _unlink(directory, ".%s.new" % name)  # of a run that was killed
        for name, text in texts.items():
            if text is None:
                _unlink(directory, name)
            else:
                _write(directory, name, text.encode())
    finally:
        os.close(directory)
    for path in ("%s/%s" % (host.names, namespace), host.names):
        try:
            os.rmdir(path)
        except OSError as exc:
            if exc.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT) and not os.path.ismount(path):
                raise
            break


def _write(directory, name, data):
    try:
        fd = os.open(name, os.O_WRONLY | _FILE, dir_fd=directory)
    except FileNotFoundError:
        _create(directory, name, data)
        return
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EEXIST, "this is no plain file", name)
        os.fchown(fd, os.geteuid(), os.getegid())
        os.fchmod(fd, MODE)
        # One call, with blank lines to the end of the old text: whoever reads meanwhile sees no half of an old line.
        os.pwrite(fd, data.ljust(found.st_size, b"\n"), 0)
        os.ftruncate(fd, len(data))
    finally:
        os.close(fd)


def _create(directory, name, data):
    """There whole or not at all."""
    partial = ".%s.new" % name
    fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FILE, MODE, dir_fd=directory)
    try:
        os.fchmod(fd, MODE)  # whatever the umask said
        os.pwrite(fd, data, 0)
    finally:
        os.close(fd)
    os.rename(partial, name, src_dir_fd=directory, dst_dir_fd=directory)


def _unlink(directory, name):
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        pass
