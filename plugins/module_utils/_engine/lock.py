# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One lock for each host, so that two runs at once do not build the same thing twice."""

from __future__ import annotations

import errno
import fcntl
import os
import time

from .._model.errors import BulkheadError

WAIT = 120.0  # seconds; a converge of some hundred sandboxes takes a few
# The same while it is held by who makes an image, for that one may download packages, unpack archives and run the commands of a build meanwhile.
LONG = 3600.0


class Lock:
    """flock(2) on a 0600 file, which the kernel releases with the last process that holds it. A context manager."""

    def __init__(self, path, words, wait=WAIT, long=LONG):
        self.path, self.words, self.wait, self.long = path, words, wait, long
        self._fd = None

    def __enter__(self):
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        begun = time.monotonic()
        deadline = begun + self.wait
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as exc:
                now, holder = time.monotonic(), os.pread(fd, 200, 0).decode("utf-8", "replace").strip() or "an unknown process"
                image = holder.endswith("(image)")
                if image:  # the patience with others begins after that
                    deadline = max(deadline, min(now + self.wait, begun + self.long))
                if exc.errno not in (errno.EWOULDBLOCK, errno.EINTR) or now > deadline:
                    os.close(fd)
                    raise BulkheadError("Cannot lock %s: %s has held it for more than %d s. Wait for it, or end it and run again."
                                        % (self.path, holder, self.long if image else self.wait))
            time.sleep(0.02)
        try:
            os.ftruncate(fd, 0)
            os.pwrite(fd, ("process %d (%s)\n" % (os.getpid(), self.words)).encode(), 0)
        except OSError:
            pass  # no room; it is held all the same, by an unknown process
        self._fd = fd
        return self

    def __exit__(self, *exc):
        os.ftruncate(self._fd, 0)
        os.close(self._fd)
        self._fd = None
