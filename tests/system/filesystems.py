# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""File systems in files, made by the tools that everybody makes them by; and the loop devices of this private host."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess

LIB = "/var/lib/bulkhead"
GET_STATUS = 0x4C05  # LOOP_GET_STATUS64


def make(kind, path, tree, *options):
    """The path of a new file system of a directory."""
    command = {"squashfs": ["mksquashfs", tree, path, "-noappend", "-quiet", "-no-progress"], "erofs": ["mkfs.erofs", path, tree]}[kind]
    subprocess.run(command + list(options), check=True, stdout=subprocess.DEVNULL)
    return path


def loops():
    """{name: lo_flags} of the loop devices with a file of the store behind them."""
    found = {}
    for name in filter(lambda name: os.path.isdir("/sys/block/%s/loop" % name), os.listdir("/sys/block")):
        info = bytearray(232)
        try:
            fd = os.open("/dev/" + name, os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            continue
        try:
            fcntl.ioctl(fd, GET_STATUS, info)
        except OSError:  # none any more
            continue
        finally:
            os.close(fd)
        if struct.unpack_from("Q", info)[0] == os.stat(LIB).st_dev:
            found[name] = struct.unpack_from("I", info, 52)[0]
    return found
