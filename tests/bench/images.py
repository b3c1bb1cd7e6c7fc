# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Import of an image of 5 layers and 300 MB of this host's files into the store, against umoci's unpacking of the same; and a sandbox
over an image that was built (over.py), against the bare overlay mount.

Both verify every digest and hash every file: the import for its manifest, umoci for its mtree. The import flushes what it has written to the
disk before it is named; umoci does not, so the file system is flushed behind it.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile

import measure

sys.path.insert(0, measure.ROOT + "/tests/system")
import archives  # noqa: E402  pylint: disable=wrong-import-position

LIMIT, PAIRS, LAYERS, SIZE = 1.2, 6, 5, 60 << 20
MOUNT = 5  # milliseconds that a sandbox over an image may take beside the mount
HOME = "/var/lib/bulkhead/bench"
OPTIONS = {"name": "bench", "oci": HOME + "/layout", "allow_setuid": True}
DRIVE = [sys.executable, measure.ROOT + "/tests/system/drive.py", "image"]


def layers():
    """Archives of files of this host, each of so many bytes."""
    def files():
        for where, names, found in os.walk("/usr"):
            names.sort()
            for name in sorted(found):
                path = os.path.join(where, name)
                if os.path.isfile(path) and not os.path.islink(path) and os.path.getsize(path) < 8 << 20:
                    yield path

    every = files()
    for dummy in range(LAYERS):
        packed, size = io.BytesIO(), 0
        with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for path in every:
                archive.add(path, recursive=False)
                size += os.path.getsize(path)
                if size >= SIZE:
                    break
        yield packed.getvalue()


def bring(options):
    """Milliseconds of an import, or of a removal, in a process of its own."""
    return measure.timed(DRIVE + [json.dumps(options)])


def rows(work, lower):
    yield from imports()
    found = measure.answer([sys.executable, "over.py", lower], cwd=measure.HERE)
    yield measure.row("a sandbox over an image that was built, of the bare overlay mount + %d ms" % MOUNT, 1, found["ours"], found["bare"],
                      allowed=lambda value: value + MOUNT)


def imports():
    name = "import of %d layers, %d MB, of umoci's unpacking" % (LAYERS, LAYERS * SIZE >> 20)
    if shutil.which("umoci") is None:
        yield measure.missing(name, LIMIT, "umoci is not installed")
        return
    os.makedirs(HOME)
    archives.Layout(HOME + "/layout", *layers(), compress=lambda data: gzip.compress(data, 6)).done()
    measure.answer(DRIVE + [json.dumps(OPTIONS), "check"])  # what both read is in memory

    def ours():
        spent = bring(OPTIONS)
        bring({"name": "bench", "state": "absent"})
        return spent

    def theirs():
        spent = measure.timed(["umoci", "unpack", "--image", HOME + "/layout:latest", HOME + "/bundle"]) + measure.timed(["sync", "-f", HOME])
        shutil.rmtree(HOME + "/bundle")
        return spent

    yield measure.row(name, LIMIT, *measure.rounds(PAIRS, ours, theirs))
    subprocess.run(["rm", "-rf", HOME], check=True)
