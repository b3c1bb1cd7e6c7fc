# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a module answers: one line when it fails, whatever the engine raises, and nothing of an environment's values."""

from __future__ import annotations

import json
import os

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.bulkhead.isolation.plugins.module_utils import _adapter
from ansible_collections.bulkhead.isolation.plugins.module_utils._engine.engine import Outcome
from ansible_collections.bulkhead.isolation.plugins.module_utils._engine.plan import Plan

SPEC = dict(name=dict(type="str", required=True), environment=dict(type="dict", no_log=True), sandboxes=dict(type="list", elements="dict", no_log=True))


class Thing:
    NOUN = "thing"

    @staticmethod
    def result(host, params, outcome):
        return {"thing": {"name": params["name"]}}


@pytest.fixture(name="answer")
def fixture_answer(monkeypatch, capsys):
    """answer(converge, **options): what the module prints when the engine is ``converge``."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)

    def act(converge, **options):
        monkeypatch.setattr(_adapter, "converge", converge)
        with patch_module_args(dict(options, _ansible_inject_invocation=True)), pytest.raises(SystemExit):
            _adapter.run(Thing, SPEC)
        return json.loads(capsys.readouterr().out)

    return act


def test_values_of_an_environment_reach_the_engine_and_not_the_answer(answer):
    seen = {}

    def converge(host, resource, options, check):
        seen.update(options)
        return Outcome([Plan()])

    found = answer(converge, name="1", environment={"A": "hush", "B": "1"}, sandboxes=[{"services": [{"environment": {"C": "hush"}}]}])
    assert seen["environment"] == {"A": "hush", "B": "1"} and seen["sandboxes"][0]["services"][0]["environment"] == {"C": "hush"}
    assert "hush" not in json.dumps(found)
    assert found["thing"] == {"name": "1"}, "what happens to be the value of a variable is masked everywhere"


@pytest.mark.parametrize("raised, words", [
    (FileNotFoundError(2, "No such file or directory", "/run/x\ny"), "Cannot manage thing: No such file or directory (/run/x\\ny). Mend"),
    (KeyError("x"), "Cannot manage thing: an error of Bulkhead's own, KeyError: 'x'. Report"),
])
def test_whatever_is_raised_is_told_in_one_line(answer, raised, words):
    def converge(*unused):
        raise raised

    found = answer(converge, name="a")
    assert found["failed"] and found["msg"].startswith(words) and "\n" not in found["msg"]
