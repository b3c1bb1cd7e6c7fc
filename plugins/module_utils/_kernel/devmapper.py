# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The device mapper: what devices it has, as sysfs shows them, and changes of them by dmsetup(8).

Devices are known by number and by their node /dev/dm-N: no names of ours in /dev/mapper, and no waiting for udev, which a host need
not have, and which has nothing to do with them. Sizes are in sectors of 512 bytes, as in tables.
"""

from __future__ import annotations

import errno
import os

TOOL = "dmsetup"
SECTOR = 512
_ALONE = ["--noudevsync", "--noudevrules"]
_CODES = {os.strerror(code): code for code in errno.errorcode}
_SNAPSHOT = '"$0" suspend "$1" && { "$0" message "$2" 0 "$3"; said=$?; "$0" resume %s "$1"; exit $said; }' % " ".join(_ALONE)


class Device:
    """``number``: MAJOR:MINOR; ``sectors``: 0 as long as it has no table; ``suspended``: who writes to it waits."""

    __slots__ = ("name", "uuid", "number", "node", "sectors", "suspended")

    def __init__(self, name, uuid, number, node, sectors, suspended):
        self.name, self.uuid, self.number, self.node, self.sectors, self.suspended = name, uuid, number, node, sectors, suspended


def devices(sys, prefix):
    """{name: Device} of those whose names begin so. Nothing is changed, nor a program run."""
    found = {}
    for node in sorted(os.listdir(sys + "/block")) if os.path.isdir(sys + "/block") else ():
        if not node.startswith("dm-"):
            continue
        try:
            name, uuid, suspended, number, sectors = (
                _read("%s/block/%s/%s" % (sys, node, what)) for what in ("dm/name", "dm/uuid", "dm/suspended", "dev", "size"))
        except OSError:
            continue  # it has gone
        if name.startswith(prefix):
            found[name] = Device(name, uuid, number, "/dev/" + node, int(sectors), suspended == "1")
    return found


def create(run, tool, name, uuid, table):
    """Make a device; OSError as of all of these."""
    _ask(run, [tool, "create", name, "--uuid", uuid, "--table", table] + _ALONE)


def reload(run, tool, name, table):
    """Give a device another table, which takes the place of the one that it has at once."""
    _ask(run, [tool, "reload", name, "--table", table])
    resume(run, tool, name)


def resume(run, tool, name):
    _ask(run, [tool, "resume", name] + _ALONE)


def remove(run, tool, name):
    """Remove a device; somebody who only looks at it (udev does at each that comes) is given some seconds. A dmsetup of a run that was
    killed may have done it just now."""
    try:
        _ask(run, [tool, "remove", "--retry", name] + _ALONE)
    except OSError as exc:
        if exc.errno != errno.ENXIO:
            raise


def message(run, tool, name, words):
    """Tell the target of a device something."""
    _ask(run, [tool, "message", name, "0", words])


def message_while(run, tool, held, name, words):
    """The same, while the device ``held`` stands still, its file system being whole on it. By one shell: if the engine is killed
    meanwhile, it goes on all the same."""
    _ask(run, ["/bin/sh", "-c", _SNAPSHOT, tool, held, name, words])


def status(run, tool, name):
    """The words of a device's target about itself, behind its name."""
    return _ask(run, [tool, "status", name]).split()[3:]


def _ask(run, words):
    """What dmsetup prints. Its last words on an error are the kernel's."""
    ended, output, errors = run(words)
    if ended:
        lines = [line for line in errors.splitlines() if line and line != "Command failed."]
        said = lines[0].rpartition(": ")[2].rstrip(".") if lines else "exit status %d" % ended
        raise OSError(_CODES.get(said, errno.EIO), " ".join(lines) or said)
    return output


def _read(path):
    with open(path, encoding="ascii") as stream:
        return stream.read().strip()
