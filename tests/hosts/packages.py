# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Packages of a suite beside those of its image, fetched here once: an apt-get update takes minutes on an emulated host."""

from __future__ import annotations

import os
import shutil
import subprocess

import images
import qemu

# Where this host's own apt takes Debian's packages, as in make-image.
MIRROR = ("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Origin: Debian", "Label: Debian")


def fetched(suite, names):
    """The paths of their .deb files, in the cache, without what they depend on. They are what the suite had when they were fetched."""
    folder = os.path.join(images.CACHE, "packages-%s-%s" % (suite, images.digest(*names)))
    with images.alone(os.path.basename(folder)):
        if not os.path.isdir(folder):
            images.tell("hosts: fetching %s of %s" % (" ".join(names), suite))
            part = folder + ".part"
            shutil.rmtree(part, ignore_errors=True)
            _fetch(part, suite, names)
            os.rename(part, folder)
    return sorted(os.path.join(folder, name) for name in os.listdir(folder))


def _fetch(folder, suite, names):
    """By an apt with directories of its own; this host's is left alone."""
    apt = os.path.join(folder, "apt")
    for name in ("lists/partial", "cache/archives/partial", "status"):
        os.makedirs(os.path.join(apt, os.path.dirname(name)), exist_ok=True)
    with open(apt + "/status", "w", encoding="ascii"), open(apt + "/sources.list", "w", encoding="ascii") as sources:
        sources.write("deb %s %s main\n" % (_run(*MIRROR).split()[0], suite))
    settings = {"Dir::Etc::SourceList": apt + "/sources.list", "Dir::Etc::SourceParts": "-", "Dir::State::Status": apt + "/status",
                "Dir::State::Lists": apt + "/lists", "Dir::Cache": apt + "/cache", "Acquire::Languages": "none", "APT::Sandbox::User": "root"}
    options = ["-q"] + ["-o%s=%s" % item for item in settings.items()]
    _run("apt-get", *options, "update", cwd=folder)
    _run("apt-get", *options, "download", *names, cwd=folder)
    shutil.rmtree(apt)


def _run(*words, **options):
    ended = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False, **options)
    if ended.returncode:
        raise qemu.Unable("Cannot fetch packages for test hosts: %s." % " ".join(ended.stderr.split()))
    return ended.stdout
