# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A device mapper that keeps its devices in memory and shows them in a fake /sys, with the mounts of what is on them in a fake /proc."""

from __future__ import annotations

import os
import shutil


class Killed(BaseException):
    """The engine is killed at this call."""


class DeviceMapper:
    """``devices``: {name: (uuid, table)}; ``volumes``: {id: id of what it is a snapshot of, or None}; ``before(words)`` is asked ahead of each
    call, and may raise Killed."""

    def __init__(self, folder, status="0 1/1024 2/4704 - rw no_discard_passdown error_if_no_space - 256"):
        self.sys, self.proc = str(folder / "sys"), str(folder / "proc")
        self.devices, self.volumes, self.mounts, self.status, self.numbers = {}, {}, {}, status, {}
        self.before = lambda words: None
        os.makedirs(self.sys + "/block")
        os.makedirs(self.proc + "/self")
        self._show_mounts()

    def run(self, argv, data=None, env=None):
        name = os.path.basename(argv[0])
        self.before(argv)
        try:
            if name == "dmsetup":
                return 0, getattr(self, "_" + argv[1])(*argv[2:]) or "", ""
            if name == "sh":  # while a device stands still
                assert self.devices[argv[4]][2] and argv[5] == "bulkhead-pool"
                self._message(argv[5], "0", argv[6])
            return 0, "", ""
        except OSError as exc:
            return 1, "", "device-mapper: %s ioctl on %s  failed: %s\nCommand failed.\n" % (argv[1], argv[2], exc.args[0])

    def mount(self, node, target, fstype, flags=0, data=None):
        self.before(["mount", node, target])
        assert fstype == "ext4" and "discard" in data.split(",")
        assert node in ["/dev/dm-%d" % number for name, number in self.numbers.items() if name in self.devices]
        os.makedirs(target + "/lost+found", exist_ok=True)
        self.mounts[target] = "253:" + node[len("/dev/dm-"):]
        self._show_mounts()

    def umount(self, target, flags=0):
        self.before(["umount", target])
        del self.mounts[target]
        self._show_mounts()

    def forget_mounts(self):
        """As a reboot does."""
        self.mounts.clear()
        self._show_mounts()

    def _show_mounts(self):
        with open(self.proc + "/self/mountinfo", "w", encoding="ascii") as stream:
            stream.write("1 0 0:1 / / rw - tmpfs none rw\n" + "".join(
                "%d 1 %s / %s rw - ext4 /dev/x rw\n" % (place + 2, number, target) for place, (target, number) in enumerate(sorted(self.mounts.items()))))

    def _create(self, name, dummy, uuid, flag, table, *rest):
        assert name not in self.devices and flag == "--table" and rest == ("--noudevsync", "--noudevrules")
        self.numbers.setdefault(name, len(self.numbers))
        if " thin " in table and int(table.split()[-1]) not in self.volumes:
            raise OSError("No data available")
        self.devices[name] = (uuid, table, True)
        path = "%s/block/dm-%d" % (self.sys, self.numbers[name])
        os.makedirs(path + "/dm")
        for what, text in (("dm/name", name), ("dm/uuid", uuid), ("dm/suspended", "0"), ("dev", "253:%d" % self.numbers[name]), ("size", table.split()[1])):
            with open("%s/%s" % (path, what), "w", encoding="ascii") as stream:
                stream.write(text + "\n")

    def _remove(self, dummy, name, *rest):
        number = "253:%d" % self.numbers[name]
        if number in self.mounts.values() or any(number in table.split() for uuid, table, dummy in self.devices.values()):
            raise OSError("Device or resource busy")
        del self.devices[name]
        shutil.rmtree("%s/block/dm-%d" % (self.sys, self.numbers[name]))

    def _message(self, name, sector, words):
        assert name in self.devices and sector == "0"
        verb, number, *more = words.split()
        number = int(number)
        if verb == "delete":
            if "bulkhead-%d" % number in self.devices:
                raise OSError("Device or resource busy")
            if number not in self.volumes:
                raise OSError("No data available")
            del self.volumes[number]
            return
        if number in self.volumes:
            raise OSError("File exists")
        if more and int(more[0]) not in self.volumes:
            raise OSError("No data available")
        self.volumes[number] = int(more[0]) if more else None

    def _status(self, name):
        return "0 %s thin-pool %s\n" % (self.devices[name][1].split()[1], self.status)

    def _reload(self, name, flag, table):
        uuid = self.devices[name][0]
        del self.devices[name]
        shutil.rmtree("%s/block/dm-%d" % (self.sys, self.numbers[name]))
        self._create(name, "--uuid", uuid, flag, table, "--noudevsync", "--noudevrules")

    def _resume(self, name, *rest):
        assert name in self.devices
