# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The arrows of import point down only, and nothing below the adapter knows Ansible (docs/architecture.md)."""

from __future__ import annotations

import ast
import os
import sys

import pytest

PLUGINS = os.path.join(os.path.dirname(__file__), "..", "..", "plugins")
UTILS = os.path.normpath(os.path.join(PLUGINS, "module_utils"))
OURS = ("ansible_collections", "bulkhead", "isolation", "plugins", "module_utils")

# A layer may import itself and what stands below it here. _supervisor and _engine are neighbours: neither imports the other.
RANK = {"modules": 6, "_adapter": 5, "_program": 5, "_resources": 4, "_supervisor": 3, "_engine": 3, "_model": 2, "_kernel": 1, "_once": 0}
NEIGHBOURS = {("_supervisor", "_engine"), ("_engine", "_supervisor"), ("_adapter", "_program"), ("_program", "_adapter")}


def sources():
    for top in (UTILS, os.path.normpath(os.path.join(PLUGINS, "modules"))):
        for folder, dummy, names in os.walk(top):
            for name in sorted(names):
                if name.endswith(".py") and name != "__init__.py":
                    yield os.path.relpath(os.path.join(folder, name), os.path.dirname(top))


def layer(path):
    """The layer of a file, such as module_utils/_engine/plan.py."""
    parts = path[: -len(".py")].split("/")
    return "modules" if parts[0] == "modules" else parts[1]


def imports(path):
    """Every import of a file as the parts of an absolute name: at the top, in functions, and under conditions."""
    with open(os.path.join(UTILS, "..", path), encoding="utf-8") as source:
        found = ast.walk(ast.parse(source.read(), path))
    here = OURS[:-1] + tuple(path.split("/")[:-1])
    for node in found:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, tuple(alias.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else ()
            base += tuple(node.module.split(".")) if node.module else ()
            for alias in node.names:
                yield node.lineno, base + (alias.name,)


def violations(path):
    mine = layer(path)
    for line, name in imports(path):
        if name[: len(OURS)] == OURS:
            theirs = name[len(OURS)]
            allowed = theirs in RANK and RANK[theirs] <= RANK[mine] and (mine, theirs) not in NEIGHBOURS
            if mine == "modules":
                allowed = theirs in ("_adapter", "_resources", "_program", "_once")
            if name[len(OURS):][:2] == ("_program", "enter"):
                allowed = True  # it stands on nothing, and is imported so that a module brings it along
            if name[len(OURS):][:2] in (("_supervisor", "systemctl"), ("_supervisor", "slices")) and mine == "_engine":
                allowed = True  # they stand on nothing of the engine, and where systemd is init the host is read through them
            if path.endswith("_program/enter.py"):
                allowed = False
            if not allowed:
                yield "%s:%d imports %s" % (path, line, ".".join(name[len(OURS):]))
        elif name[0] in ("ansible", "ansible_collections") and mine not in ("_adapter", "modules"):
            yield "%s:%d imports Ansible: %s" % (path, line, ".".join(name))
        elif name[0] == "pyroute2" and path.endswith("_kernel/_netformat.py"):
            continue  # in the function that writes messages
        elif name[0] not in sys.stdlib_module_names and name[0] not in ("__future__", "ansible"):
            yield "%s:%d imports %s, which is not in Python" % (path, line, ".".join(name))


def test_there_are_sources():
    assert len(list(sources())) > 5


@pytest.mark.parametrize("path", list(sources()))
def test_arrows_point_down(path):
    assert layer(path) in RANK, path + " is in no layer"
    assert not list(violations(path))


@pytest.mark.parametrize(
    "path, text, expected",
    [
        ("module_utils/_kernel/x.py", "from .._engine import plan", 1),
        ("module_utils/_kernel/x.py", "def f():\n    from .._model.values import size", 1),
        ("module_utils/_engine/x.py", "from .._kernel import syscalls\nfrom . import plan\nimport os", 0),
        ("module_utils/_engine/x.py", "from .._supervisor import runit", 1),
        ("module_utils/_engine/x.py", "from .._supervisor import systemctl", 0),
        ("module_utils/_kernel/x.py", "from .._supervisor import systemctl", 1),
        ("module_utils/_resources/x.py", "from ansible.module_utils.basic import AnsibleModule", 1),
        ("module_utils/_adapter.py", "from ansible.module_utils.basic import AnsibleModule\nfrom ._engine import engine", 0),
        ("module_utils/_program/enter.py", "from .._kernel import caps", 1),
        ("module_utils/_supervisor/x.py", "from .._program import enter", 0),
        ("module_utils/_supervisor/x.py", "from .._program import main", 1),
        ("module_utils/_model/x.py", "import yaml", 1),
        ("modules/x.py", "from ansible_collections.bulkhead.isolation.plugins.module_utils._kernel import caps", 1),
        ("modules/x.py", "from ansible_collections.bulkhead.isolation.plugins.module_utils._resources import overlay", 0),
    ],
)
def test_the_test_sees(path, text, expected, tmp_path, monkeypatch):
    target = tmp_path / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
    monkeypatch.setattr(sys.modules[__name__], "UTILS", str(tmp_path / "module_utils"))
    (tmp_path / "module_utils").mkdir(exist_ok=True)
    assert len(list(violations(path))) == expected
