# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which block device is meant: its number, its node, or a path that lies on it."""

from __future__ import annotations

import os
import stat


class NoDevice(Exception):
    """The words say why."""


def whole_disk(text, sysfs, mounts):
    """MAJOR:MINOR of the whole disk (limits of I/O are the disk's, not a partition's) that ``text`` means.

    ``text`` is MAJOR:MINOR, a block device, or any path: then the device that holds it, or will, when it is not there yet.
    ``mounts``: a function that returns the mount table, for file systems with device numbers of their own (btrfs).
    """
    number = text
    if text.startswith("/"):
        path = os.path.realpath(text)
        while not os.path.exists(path):
            path = os.path.dirname(path)
        status = os.stat(path)
        number = status.st_rdev if stat.S_ISBLK(status.st_mode) else status.st_dev
        if not os.major(number):
            mount = mounts().holder(path)
            try:
                number = os.stat(mount.source).st_rdev
            except (OSError, AttributeError):
                number = 0
        if not os.major(number):
            raise NoDevice("no block device holds it. Give a block device, or a path on one")
        number = "%d:%d" % (os.major(number), os.minor(number))
    entry = os.path.realpath("%s/dev/block/%s" % (sysfs, number))
    if not os.path.isdir(entry):
        raise NoDevice("this host has no block device %s. See lsblk" % number)
    if os.path.exists(entry + "/partition"):
        with open(os.path.dirname(entry) + "/dev", encoding="ascii") as stream:
            number = stream.read().strip()
    return number


def device_node(number, sysfs):
    """The path of the device node of MAJOR:MINOR, as the kernel names it."""
    try:
        with open("%s/dev/block/%s/uevent" % (sysfs, number), encoding="utf-8") as stream:
            names = [line[len("DEVNAME="):].strip() for line in stream if line.startswith("DEVNAME=")]
    except OSError:
        names = []
    return "/dev/" + (names[0] if names else "block/" + number)
