# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Real root file systems for the tests: the layers of the quickstart, from the same cache, made when they are not there."""

from __future__ import annotations

import hashlib
import os
import subprocess

import yaml

FILES = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__)))) + "/playbooks"


def directory():
    """The directory with `base`, `nginx` and `redis`, named as playbooks/vars/layers.yml names it."""
    with open(FILES + "/vars/quickstart.yml", encoding="utf-8") as stream:
        variables = yaml.safe_load(stream)
    with open(FILES + "/files/make-layers", encoding="utf-8") as stream:
        script = stream.read().rstrip()
    with open("/etc/os-release", encoding="utf-8") as stream:
        suite = dict(line.rstrip().split("=", 1) for line in stream if "=" in line)["VERSION_CODENAME"]
    recipe = variables["bulkhead_recipe"]
    digest = hashlib.sha256((recipe + script).encode()).hexdigest()[:12]
    path = "/var/cache/bulkhead/%s-%s" % (suite, digest)
    if not os.path.isdir(path):
        subprocess.run([FILES + "/files/make-layers", path, suite] + recipe.split(), check=True)
    return path


if __name__ == "__main__":
    directory()
