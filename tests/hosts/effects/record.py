# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the tests found on a host, in build/support/KIND.json, of which tests/unit/support_document.py makes docs/support.md.

Its two hooks are pytest's: a conftest.py imports them, and says in the session's stash of which KIND the host is."""

from __future__ import annotations

import json
import os

import pytest

COPY = "/build/ansible_collections/bulkhead/isolation"  # of a checkout, on which Ansible's tools work
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))).replace(COPY, "")
# Empty: nothing is written down.
FOLDER = os.environ.get("BULKHEAD_SUPPORT", ROOT + "/build/support")
KIND = pytest.StashKey[str]()
REASON = pytest.StashKey[str]()


def pytest_configure(config):
    config.addinivalue_line("markers", "proves(capability): the row of docs/support.md that stands on this test")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Write down what a test that is marked `proves` has proved."""
    outcome = (yield).get_result().outcome
    kind = item.session.stash.get(KIND, None)
    for marker in item.iter_markers("proves") if kind and (call.when == "call" or call.excinfo) else ():
        note(kind, marker.args[0], outcome, item.stash.get(REASON, None), item.nodeid.rpartition("/")[2])


def note(kind, capability, outcome, reason, test):
    """Write down one result. A test that failed takes back what an earlier run proved."""
    os.makedirs(FOLDER, exist_ok=True)
    path = "%s/%s.json" % (FOLDER, kind)
    found = {}
    if os.path.exists(path):
        with open(path, encoding="utf-8") as stream:
            found = json.load(stream)
    tests = found.setdefault(capability, {})
    tests[test] = {"outcome": "refused" if outcome == "passed" and reason else outcome, "reason": reason}
    with open(path + ".new", "w", encoding="utf-8") as stream:
        json.dump(found, stream, indent=1, sort_keys=True)
    os.replace(path + ".new", path)
