# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a role says of its variables is what it does: specification, defaults, README and tasks agree."""

from __future__ import annotations

import os
import re

import pytest
import yaml

ROLES = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__)))), "roles")
NAMES = sorted(os.listdir(ROLES))


def load(role, *path):
    with open(os.path.join(ROLES, role, *path), encoding="utf-8") as stream:
        return yaml.safe_load(stream)


def text(role, *path):
    with open(os.path.join(ROLES, role, *path), encoding="utf-8") as stream:
        return stream.read()


def options(role):
    return load(role, "meta", "argument_specs.yml")["argument_specs"]["main"]["options"]


def tasks(role):
    return "".join(text(role, "tasks", name) for name in sorted(os.listdir(os.path.join(ROLES, role, "tasks"))))


def test_there_are_roles():
    assert NAMES == ["host", "image", "network", "sandbox"]


@pytest.mark.parametrize("role", NAMES)
def test_defaults_are_those_of_the_specification(role):
    defaults = load(role, "defaults", "main.yml")
    assert defaults == {name: option.get("default") for name, option in options(role).items() if not option.get("required")}


@pytest.mark.parametrize("role", NAMES)
def test_each_default_is_of_its_type(role):
    types = {"str": str, "path": str, "bool": bool, "list": list, "dict": dict, "int": int, "raw": object}
    for name, option in options(role).items():
        assert isinstance(option["default"], types[option["type"]]), name
        assert option["default"] in option.get("choices", [option["default"]]), name


@pytest.mark.parametrize("role", NAMES)
def test_each_variable_is_used_and_explained(role):
    for name in options(role):
        assert re.search(r"\b%s\b" % name, tasks(role)), name + " is used by no task"
        assert "`%s`" % name in text(role, "README.md"), name + " is not in the README"


@pytest.mark.parametrize("role", NAMES)
def test_tasks_use_no_unknown_variable(role):
    known = set(options(role)) | set(re.findall(r"register: (\w+)", tasks(role))) | set(re.findall(r"^    +(\w+):", tasks(role), re.M))
    if os.path.exists(os.path.join(ROLES, role, "vars")):
        known |= set(load(role, "vars", "main.yml"))
    assert set(re.findall(r"\bbulkhead_\w+", tasks(role))) <= known


@pytest.mark.parametrize("role", NAMES)
def test_facts_are_not_injected_variables(role):
    assert not re.search(r"\bansible_(?!facts|check_mode|playbook_python|become)\w+", tasks(role))


def test_the_list_role_is_a_handful_of_tasks():
    assert len(load("sandbox", "tasks", "main.yml")) <= 5


def test_the_role_hands_on_every_option_of_a_network():
    path = os.path.join(ROLES, "..", "plugins", "modules", "network.py")
    with open(path, encoding="utf-8") as stream:
        documented = yaml.safe_load(re.search(r'DOCUMENTATION = r"""\n(.*?)"""', stream.read(), re.S).group(1))["options"]
    task = next(task for task in load("network", "tasks", "main.yml") if "bulkhead.isolation.network" in task)
    given = task["bulkhead.isolation.network"]
    assert set(given) == set(documented)
    assert all(text == "{{ item.%s | default(omit) }}" % name for name, text in given.items() if name != "name")


def test_the_role_hands_on_every_option_of_an_image():
    path = os.path.join(ROLES, "..", "plugins", "modules", "image.py")
    with open(path, encoding="utf-8") as stream:
        documented = yaml.safe_load(re.search(r'DOCUMENTATION = r"""\n(.*?)"""', stream.read(), re.S).group(1))["options"]
    task = next(task for task in load("image", "tasks", "make.yml") if task["name"] == "Bring about the images")
    assert set(task["bulkhead.isolation.image"]) == set(documented)


def test_the_policy_of_the_role_is_that_of_the_module():
    """Every option of the module can be given to the role, under its own name."""
    path = os.path.join(ROLES, "..", "plugins", "modules", "sandbox.py")
    with open(path, encoding="utf-8") as stream:
        documented = yaml.safe_load(re.search(r'DOCUMENTATION = r"""\n(.*?)"""', stream.read(), re.S).group(1))["options"]
    ours = {name[len("bulkhead_"):]: option for name, option in options("sandbox").items() if name != "bulkhead_verify"}
    assert set(ours) == set(documented)
    for name, option in ours.items():
        assert option["type"] == documented[name]["type"], name
        assert option.get("choices") == documented[name].get("choices"), name
        if "default" in documented[name]:
            assert option["default"] == documented[name]["default"], name
