# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One part of the bench, in a private host of its own: `tests/alone python inside.py PART ROWS`. Rows are written as they come."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile

import measure

PROGRAMS = ("/bin/sleep", "/bin/echo")


def small_root(path):
    """A root file system of two programs and their libraries, copied from this host."""
    for name in ("proc", "sys", "dev", "etc", "tmp", "run"):
        os.makedirs(path + "/" + name)
    files = set(PROGRAMS)
    for program in PROGRAMS:
        listed = subprocess.run(["ldd", program], stdout=subprocess.PIPE, check=True).stdout.decode()
        files.update(word for word in listed.split() if word.startswith("/"))
    for file in files:
        os.makedirs(path + os.path.dirname(file), exist_ok=True)
        shutil.copy2(os.path.realpath(file), path + file)
    for name, text in (("passwd", "root:x:0:0:root:/:/bin/sh\n"), ("group", "root:x:0:\n")):
        with open("%s/etc/%s" % (path, name), "w", encoding="ascii") as stream:
            stream.write(text)


def main(part, out):
    if not os.environ.get("BULKHEAD_ALONE"):
        raise SystemExit("Cannot run the bench: it makes sandboxes. Run tests/bench/run.py, which gives it a private host.")
    work = tempfile.mkdtemp(prefix="bulkhead-bench-")
    lower = "/run/lower"
    try:
        measure.collect(work)
        small_root(lower)
        with open(out, "w", encoding="utf-8") as stream:
            for row in importlib.import_module(part).rows(work, lower):
                stream.write(json.dumps(row) + "\n")
                stream.flush()
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
