# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Ansible's tools want a collection at .../ansible_collections/NAMESPACE/NAME: keep a copy of the checkout there.

The copy has what git would know of the working tree (tracked files as they are now, and new files that are not
ignored). Only what differs is written, so that a run of one tool does not pull the files from under another.
"""

from __future__ import annotations

import os
import shutil
import subprocess

ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
COLLECTIONS = os.path.join(ROOT, "build")
COPY = os.path.join(COLLECTIONS, "ansible_collections", "bulkhead", "isolation")
KEEP = (".git/", ".ansible/", "tests/output/")  # what the tools leave in the copy


def wanted():
    """The files of the working tree, relative to its root."""
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, stdout=subprocess.PIPE, check=False,
    )
    if listed.returncode == 0:
        names = listed.stdout.decode().split("\0")
    else:  # unpacked from an archive, without a repository
        names = [os.path.relpath(os.path.join(folder, name), ROOT) for folder, name in walk(ROOT)]
    return {name for name in names if name and os.path.lexists(os.path.join(ROOT, name))}


def walk(top):
    for folder, folders, names in os.walk(top):
        folders[:] = [name for name in folders if name not in ("build", "__pycache__") and not name.startswith(".")]
        for name in names:
            if not name.endswith(".pyc"):
                yield folder, name


def same(one, other):
    a, b = os.lstat(one), os.lstat(other)
    return (a.st_mode, a.st_size, a.st_mtime_ns) == (b.st_mode, b.st_size, b.st_mtime_ns)


def sync():
    """Make the copy equal to the working tree and return its path."""
    names = wanted()
    for name in names:
        source, target = os.path.join(ROOT, name), os.path.join(COPY, name)
        if os.path.lexists(target) and same(source, target):
            continue
        os.makedirs(os.path.dirname(target), exist_ok=True)
        partial = target + ".partial"
        shutil.copy2(source, partial, follow_symlinks=False)
        os.replace(partial, target)
    if not os.path.isdir(os.path.join(COPY, ".git")):
        # A repository of its own, never committed to: ansible-test and ansible-lint ask git which files there are.
        subprocess.run(["git", "init", "--quiet", COPY], check=True)
    for folder, dummy, files in os.walk(COPY, topdown=False):
        for name in files:
            path = os.path.join(folder, name)
            relative = os.path.relpath(path, COPY)
            if relative not in names and not relative.startswith(KEEP) and not name.endswith((".pyc", ".partial")):
                os.unlink(path)
        relative = os.path.relpath(folder, COPY) + "/"
        if not os.listdir(folder) and not relative.startswith(KEEP):
            os.rmdir(folder)
    return COPY


if __name__ == "__main__":
    sync()
