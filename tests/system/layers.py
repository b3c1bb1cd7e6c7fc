# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Real root file systems for the tests, in the cache of the quickstart, made when they are not there; and what the quickstart itself takes."""

from __future__ import annotations

import hashlib
import os
import subprocess

import yaml

FILES = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__)))) + "/playbooks"
RECIPE = "base=procps nginx=nginx redis=redis-server"


def directory(recipe=RECIPE):
    """The directory with `base`, `nginx` and `redis`, named as playbooks/vars/layers.yml names it."""
    with open("/etc/os-release", encoding="utf-8") as stream:
        suite = dict(line.rstrip().split("=", 1) for line in stream if "=" in line)["VERSION_CODENAME"]
    return _made("/var/cache/bulkhead/" + suite, "make-layers", recipe, suite)


def quickstart():
    """What the quickstart has in its cache, for a host without a network."""
    with open(FILES + "/vars/quickstart.yml", encoding="utf-8") as stream:
        variables = yaml.safe_load(stream)
    base = directory(variables["bulkhead_recipe"])
    _made(base, "fetch-packages", variables["bulkhead_debs"], base + "/base")


def _made(path, script, words, argument):
    """The directory that a script of the playbook makes of these words."""
    with open("%s/files/%s" % (FILES, script), encoding="utf-8") as stream:
        path += "-" + hashlib.sha256((words + stream.read().rstrip()).encode()).hexdigest()[:12]
    if not os.path.isdir(path):
        subprocess.run(["%s/files/%s" % (FILES, script), path, argument] + words.split(), check=True)
    return path


if __name__ == "__main__":
    directory()
    quickstart()
