# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the parts of the collection say of each other is so: action group, readmes of the roles, their defaults."""

from __future__ import annotations

import importlib
import os
import re

import pytest
import yaml
from ansible_collections.bulkhead.isolation.plugins.module_utils._model import build, image, image_sources, interface, sandbox, storage, upgrade

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))


def load(*path):
    with open(os.path.join(ROOT, *path), encoding="utf-8") as text:
        return yaml.safe_load(text)


def names(*path):
    folder = os.path.join(ROOT, *path)
    return sorted(name for name in os.listdir(folder) if name[0] not in "_.") if os.path.isdir(folder) else []


def modules():
    return [name[: -len(".py")] for name in names("plugins", "modules") if name.endswith(".py")]


def test_action_group_is_all_modules():
    assert list(load("meta", "runtime.yml")["action_groups"]) == ["bulkhead"]
    assert sorted(load("meta", "runtime.yml")["action_groups"]["bulkhead"]) == modules()


@pytest.mark.parametrize("name", modules())
def test_readme_lists_module(name):
    with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as text:
        assert "`%s`" % name in text.read()


@pytest.mark.parametrize("role", names("roles"))
def test_role(role):
    assert os.path.isfile(os.path.join(ROOT, "roles", role, "README.md"))
    specs = load("roles", role, "meta", "argument_specs.yml")["argument_specs"]
    declared = {}
    for entry in specs.values():
        declared.update({name: option["default"] for name, option in entry["options"].items() if "default" in option})
    defaults = load("roles", role, "defaults", "main.yml") or {}
    assert declared == defaults
    with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as text:
        assert "roles/%s/README.md" % role in text.read()


def test_site_is_of_all_roles():
    tasks = load("playbooks", "site.yml")[0]["tasks"]
    roles = [task["ansible.builtin.import_role"]["name"] for task in tasks if "ansible.builtin.import_role" in task]
    assert sorted(roles) == ["bulkhead.isolation." + name for name in names("roles")]


@pytest.mark.parametrize("name, keys", [
    ("sandbox", sandbox.KEYS + storage.KEYS + upgrade.KEYS),
    ("interface", interface.OPTIONS),
    ("image", tuple(image.LIMITS) + image_sources.HOST + sum(image_sources.BOOTSTRAP.values(), ()) + build._RUN + build._COPY + build._WRITE),
])
def test_keys_that_ansible_does_not_know_are_told_of(name, keys):
    text = importlib.import_module("ansible_collections.bulkhead.isolation.plugins.modules." + name).DOCUMENTATION
    assert [key for key in keys if not re.search(r"[CVO]\(([\w.]*\.)?%s\b" % key, text) and not re.search(r"^  %s:$" % key, text, re.M)] == []
