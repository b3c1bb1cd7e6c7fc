# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""_kernel/ext4.py: a file system that has stopped is told from one that works."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess

from module_utils._kernel import ext4, syscalls

SHUTDOWN, NO_FLUSH = 0x8004587D, 2  # EXT4_IOC_SHUTDOWN, EXT4_GOING_FLAGS_NOLOGFLUSH


def test_one_that_has_stopped(tmp_path):
    """It is so by what an aborted journal does on some kernels; the next mount finds what was written before."""
    image, place = str(tmp_path / "image"), str(tmp_path / "place")
    with open(image, "wb") as stream:
        stream.truncate(32 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    os.mkdir(place)
    subprocess.run(["mount", "-o", "loop", image, place], check=True)
    try:
        with open(place + "/kept", "w", encoding="ascii") as stream:
            stream.write("kept")
            stream.flush()
            os.fsync(stream.fileno())
        assert not ext4.has_stopped(place)
        fd = os.open(place, os.O_RDONLY)
        fcntl.ioctl(fd, SHUTDOWN, struct.pack("I", NO_FLUSH))
        os.close(fd)
        assert ext4.has_stopped(place)
    finally:
        syscalls.umount(place)
    subprocess.run(["mount", "-o", "loop", image, place], check=True)
    try:
        assert not ext4.has_stopped(place)
        with open(place + "/kept", encoding="ascii") as stream:
            assert stream.read() == "kept"
        subprocess.run(["mount", "-o", "remount,ro", place], check=True)
        assert not ext4.has_stopped(place)
    finally:
        syscalls.umount(place)
