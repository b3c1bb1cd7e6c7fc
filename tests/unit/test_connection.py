# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Connections into a sandbox: what the host's shell is given, and what of its answer means that the sandbox was not entered."""

from __future__ import annotations

import subprocess

import pytest
import yaml
from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.connection import local, ssh
from ansible_collections.bulkhead.isolation.plugins.connection import sandbox, sandbox_local
from ansible_collections.bulkhead.isolation.plugins.plugin_utils import inside

HOSTILE = ["true", "", "echo 'a' \"b\" $(id) `id`; exit 3", "\n'\"\\ $x &&", "ü \t*"]


@pytest.fixture(name="shown")
def fixture_shown(tmp_path):
    """A program that shows what it is called with, a word to a line of its own."""
    path = tmp_path / "show it"
    path.write_text('#!/bin/sh\nprintf "<%s>" "$@"\n')
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash"])
@pytest.mark.parametrize("cmd", HOSTILE)
@pytest.mark.parametrize("become", [[], ["/bin/echo", "not for root"]])
def test_each_word_arrives_as_it_is(shown, shell, cmd, become):
    answer = subprocess.run([shell, "-c", inside.line("web/app", shown, become, cmd)], capture_output=True, text=True, check=True).stdout
    assert answer == "<run><web/app></bin/sh><-c><%s>" % cmd


def test_who_is_not_root_goes_by_become(shown):
    line = inside.line("web", shown, ["/bin/echo", "by", "it"], "true").replace('"$(id -u)"', "1000", 1)
    answer = subprocess.run(["/bin/sh", "-c", line], capture_output=True, text=True, check=True).stdout
    assert answer == "by it %s run web /bin/sh -c true\n" % shown


@pytest.mark.parametrize("name", ["", ".", "..", "-h", "a b", "a;b", "a/", "/a", "a/b/c", "a\n", "a/../b", "ü", "x" * 65, "$(id)"])
def test_names_are_names(name):
    with pytest.raises(AnsibleConnectionFailure, match="it is not the name of a sandbox"):
        inside.line(name, "/usr/local/bin/bulkhead", [], "true")


@pytest.mark.parametrize("status, errors, words", [
    (1, "Warning: Permanently added\nCannot enter web: there is no such sandbox.\n", "Cannot enter web: there is no such sandbox."),
    (125, "Cannot enter web: its supervisor is gone.", "Cannot enter web: its supervisor is gone."),
    (1, "sudo: a password is required", "without a password (sudo: a password is required)"),
    (1, "sudo: /opt/bulkhead: command not found", "does not have /opt/bulkhead"),
    (127, "web: 1: exec: /opt/bulkhead: not found", "does not have /opt/bulkhead"),
    (127, "2: line 1: /opt/bulkhead: No such file or directory", "does not have /opt/bulkhead"),
    (0, "Cannot enter web: no", None),
    (1, "Cannot enter other: no", None),
    (1, "", None),
    (2, "Cannot enter web: no", None),
    (1, "grep: /etc/shadow: Permission denied", None),
    (127, "/bin/sh: 1: nginx: not found", None),
])
def test_a_command_that_fails_is_not_a_sandbox_that_cannot_be_entered(status, errors, words):
    answer = inside.refusal(status, errors, "web", "/opt/bulkhead")
    assert answer is None if words is None else words in answer


@pytest.mark.parametrize("ours, theirs", [(sandbox, ssh), (sandbox_local, local)])
def test_their_options_are_there(ours, theirs):
    merged, options = yaml.safe_load(ours.DOCUMENTATION), yaml.safe_load(theirs.DOCUMENTATION)["options"]
    assert set(merged["options"]) >= set(options) - {"remote_user"} and "remote_user" not in merged["options"]
    assert merged["extends_documentation_fragment"] == ["bulkhead.isolation.inside", "connection_pipelining"]
    assert ours.Connection.exec_command is inside.Inside.exec_command
