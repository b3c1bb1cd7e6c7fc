# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What 50 roots of an image of 2,000 files and 16 MB cost with each storage driver, beside overlay's. No figures, but a table.

Roots of overlay and copy lie on a tmpfs, those of btrfs on one in a file there, and copy is measured on that, too, where it shares blocks.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys

import measure

COUNT, PAIRS, FILES, SIZE = 50, 4, 2000, 8 << 10
ROOTS = "/var/lib/bulkhead/roots"
DRIVE = [sys.executable, measure.ROOT + "/tests/system/drive.py", "image"]
WORDS = (("base", "the first root, with its base", "ms"), ("make", "making, each", "ms"), ("again", "a run that changes nothing, each", "ms"),
         ("remove", "removing, each", "ms"), ("space", "on the disk, each", "KiB"))


def rows(work, lower):
    for number in range(FILES):
        os.makedirs("%s/usr/%d" % (lower, number // 50), exist_ok=True)
        with open("%s/usr/%d/%d" % (lower, number // 50, number), "wb") as stream:
            stream.write(os.urandom(SIZE))
    subprocess.run(DRIVE + [json.dumps({"name": "stored", "directory": lower, "allow_setuid": True})], check=True, stdout=subprocess.DEVNULL)
    for driver, on in (("copy", None), ("copy", "btrfs"), ("btrfs", "btrfs")):
        if on and shutil.which("mkfs.btrfs") is None:
            yield measure.missing("%d roots by %s on %s" % (COUNT, driver, on), None, "btrfs-progs is not installed")
            continue
        with place(work, on):
            ours, theirs = measure.rounds(PAIRS, lambda driver=driver: stored(driver), lambda: stored("overlay"))
        for key, what, unit in WORDS:
            yield measure.row("%d roots by %s%s: %s, of overlay's" % (COUNT, driver, " on " + on if on and on != driver else "", what), None,
                              *[[each[key] for each in side] for side in (ours, theirs)], unit=unit, allowed=lambda value: max(value, 1))


def stored(driver):
    return measure.answer([sys.executable, "stored.py", driver, str(COUNT)], cwd=measure.HERE)


@contextlib.contextmanager
def place(work, on):
    """A btrfs at the place of roots, where one is wanted."""
    if on is None:
        yield
        return
    with open(work + "/btrfs", "wb") as stream:
        stream.truncate(4 << 30)
    os.makedirs(ROOTS, exist_ok=True)
    subprocess.run(["mkfs.btrfs", "-q", work + "/btrfs"], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["mount", "-o", "loop", work + "/btrfs", ROOTS], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", ROOTS], check=True)
