# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is shown can be copied: each example of a module and each piece of YAML in a document is taken by the module or role that it is for.

Modules and roles read it as they would in a play, up to their Specs; the host is not looked at. Links of documents lead somewhere, and the names
of files that they tell of are those of files.
"""

from __future__ import annotations

import glob
import importlib
import os
import re

import pytest
import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.bulkhead.isolation.plugins.module_utils._model.errors import Problems

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
OURS = "bulkhead.isolation."
MODULES = sorted(os.path.basename(path)[:-len(".py")] for path in glob.glob(os.path.join(ROOT, "plugins", "modules", "*.py")))
CONNECTIONS = ("sandbox", "sandbox_local")
DOCUMENTS = sorted(os.path.relpath(path, ROOT) for pattern in ("*.md", "docs/**/*.md", "roles/*/README.md")
                   for path in glob.glob(os.path.join(ROOT, pattern), recursive=True))
# Keys of one entry of a list that a role takes for its loop over a module.
LISTS = {"bulkhead_networks": "network", "bulkhead_images": "image"}
BROUGHT = ("type", "src", "url", "checksum", "from_host")  # what the role `image` makes of an entry before the module sees it


def read(*path):
    with open(os.path.join(ROOT, *path), encoding="utf-8") as text:
        return text.read()


def known(name):
    """(what parses the options of a module, or None; its argument_spec), as the module itself hands them on."""
    module = importlib.import_module("ansible_collections.bulkhead.isolation.plugins.modules." + name)
    taken = []
    spare = {key: getattr(module, key) for key in ("run", "run_info") if hasattr(module, key)}
    for key in spare:
        setattr(module, key, lambda resource, spec: taken.append((resource, spec)))
    try:
        module.main()
    finally:
        for key, value in spare.items():
            setattr(module, key, value)
    (resource, spec), = taken
    return None if name.endswith("_info") else resource, spec


def take(name, options, path):
    """Have a module read its options. A value that is a template of a play stands for anything, so with one only the names count."""
    resource, spec = known(name)
    whole = {key: value for key, value in (options or {}).items() if not templated(value)}
    unknown = set(options or {}) - set(spec)
    assert not unknown, "%s: %s has no option %s" % (path, name, ", ".join(sorted(unknown)))
    spec = {key: dict(option, required=option.get("required") and key in whole) for key, option in spec.items()} if whole != (options or {}) else spec
    read_by_ansible = ArgumentSpecValidator(spec).validate(whole)
    assert not read_by_ansible.error_messages, "%s: %s" % (path, read_by_ansible.error_messages)
    if resource is not None and whole == (options or {}):
        problems = Problems()
        resource.parse({key: value for key, value in read_by_ansible.validated_parameters.items() if value is not None}, "", problems)
        assert not problems.errors, "%s: %s" % (path, problems.errors)


def templated(value):
    return "{{" in str(value)


def take_tasks(tasks, path):
    """The tasks of a play; how many of them are of our modules."""
    count = 0
    for task in tasks:
        for key in [key for key in task if key.startswith(OURS)]:
            assert key[len(OURS):] in MODULES, "%s: there is no module %s" % (path, key)
            take(key[len(OURS):], task[key], path)
            count += 1
    return count


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_module(name):
    text = importlib.import_module("ansible_collections.bulkhead.isolation.plugins.modules." + name).EXAMPLES
    tasks = yaml.safe_load(text)
    assert all(task.get("name") for task in tasks)
    assert take_tasks(tasks, name) and any(OURS + name in task for task in tasks)


@pytest.mark.parametrize("name", CONNECTIONS)
def test_examples_of_connection(name):
    play, = yaml.safe_load(importlib.import_module("ansible_collections.bulkhead.isolation.plugins.connection." + name).EXAMPLES)
    assert play["tasks"] and play["hosts"]


# -- YAML in documents

def pieces(document):
    """(line, text) of each block of YAML in a document."""
    lines, start, block = read(document).split("\n"), 0, []
    for number, line in enumerate(lines, 1):
        if start and line.startswith("```"):
            yield start, "\n".join(block)
            start, block = 0, []
        elif start:
            block.append(line)
        elif line == "```yaml":
            start = number
    assert not start, "%s:%d is not closed" % (document, start)


PIECES = [(document, line, text) for document in DOCUMENTS for line, text in pieces(document)]


@pytest.mark.parametrize("document, line, text", PIECES, ids=["%s:%d" % piece[:2] for piece in PIECES])
def test_yaml_of_document(document, line, text):
    assert take_piece(yaml.safe_load(text), "%s:%d" % (document, line)), "nothing in it is known to this test"


def take_piece(data, path):
    """One piece is a play, roles of one, tasks, entries of a list, a key of an entry, an inventory, or an answer."""
    if isinstance(data, list) and "roles" in data[0]:
        return sum(take_piece(play["roles"], path) for play in data)
    if isinstance(data, list) and "role" in data[0]:
        return sum(take_role(entry, path) for entry in data)
    if isinstance(data, list) and any(key.startswith(OURS) for key in data[0]):
        return take_tasks(data, path)
    if isinstance(data, list):  # of sandboxes where one says what only they have, else of images
        noun = "bulkhead_sandboxes" if any("upgrade" in entry or "storage" in entry for entry in data) else "bulkhead_images"
        return take_variables({noun: data}, path)
    if "storage" in data:
        return take_variables({"bulkhead_sandboxes": [dict(data, name="one", image="one")]}, path)
    if "errors" in data:
        return check_errors(data["errors"])
    assert all(isinstance(group, dict) and "hosts" in group for group in data.values()), path
    return sum(take_variables({key: value for key, value in group.get("vars", {}).items() if not key.startswith("ansible_")}, path) + 1
               for group in data.values())


def take_role(entry, path):
    assert entry["role"].startswith(OURS), path
    options = yaml.safe_load(read("roles", entry["role"][len(OURS):], "meta", "argument_specs.yml"))["argument_specs"]["main"]["options"]
    unknown = set(entry.get("vars", {})) - set(options)
    assert not unknown, "%s: role %s has no variable %s" % (path, entry["role"], ", ".join(sorted(unknown)))
    return take_variables(entry.get("vars", {}), path) + 1


def take_variables(variables, path):
    for name, module in LISTS.items():
        for entry in variables.get(name, ()):
            take_entry(module, entry, path)
    if "bulkhead_sandboxes" in variables:
        sandboxes = [dict({"namespaces": {"types": ["net", "mnt", "pid"]}}, **entry) for entry in variables["bulkhead_sandboxes"]] \
            if "bulkhead_defaults" not in variables else variables["bulkhead_sandboxes"]
        take("sandbox", dict({"defaults": variables["bulkhead_defaults"]} if "bulkhead_defaults" in variables else {}, sandboxes=stub(sandboxes)), path)
    return len(variables)


def take_entry(module, entry, path):
    """An entry of a list is what the module takes; of an image, where its archive is brought from is the role's."""
    if module == "image":
        kind = entry.get("type")
        entry = dict({key: value for key, value in entry.items() if key not in BROUGHT}, **({kind: "/archive"} if kind else {}))
    take(module, entry, path)


def stub(value):
    """Paths that begin with a variable of the site are absolute, whatever it says."""
    if isinstance(value, dict):
        return {key: stub(each) for key, each in value.items()}
    if isinstance(value, list):
        return [stub(each) for each in value]
    return re.sub(r"^\{\{ bulkhead_layers \}\}", "/layers", value) if isinstance(value, str) else value


def check_errors(errors):
    """The errors that are shown are those that the declaration of them gives."""
    problems = Problems()
    known("sandbox")[0].parse({"sandboxes": [{
        "name": "web", "namespaces": {"types": ["net", "nett"]}, "cgroup": {"memory_max": "12Q"}, "overlay": {"lower": []}}]}, "", problems)
    assert errors == problems.errors
    return len(errors)


# -- links and names of files

def slug(heading):
    """The anchor that a heading of Markdown gets."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document):
    text = re.sub(r"^```.*?^```", "", read(document), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?:", target) or document == "CHANGELOG.md":
            continue
        path, dummy, anchor = target.partition("#")
        place = os.path.normpath(os.path.join(os.path.dirname(document), path)) if path else document
        assert os.path.exists(os.path.join(ROOT, place)), "%s: %s is not there" % (document, target)
        if anchor:
            assert anchor in [slug(heading) for heading in re.findall(r"^#+ (.*)$", read(place), re.M)], "%s: %s" % (document, target)


@pytest.mark.parametrize("document", [document for document in DOCUMENTS if not document.startswith(("docs/decisions", "CHANGELOG"))])
def test_names_of_files_are_those_of_files(document):
    """Names such as `_kernel/below.py`, `test_many.py` and `tests/hosts/vm`. A page of docs/decisions may tell of what was."""
    files = {os.path.relpath(os.path.join(folder, name), ROOT) for top in ("docs", "extensions", "playbooks", "plugins", "roles", "scripts", "tests")
             for folder, dummy, names in os.walk(os.path.join(ROOT, top)) for name in names}
    for name in re.findall(r"`((?:[\w.-]+/)*[\w-]+\.py|(?:tests|docs|plugins|playbooks|scripts)/[\w./-]+)`", read(document)):
        assert any(file == name or file.endswith("/" + name) or file.startswith(name.rstrip("/") + "/") for file in files) or name == "enter.py", \
            "%s: there is no file %s" % (document, name)
