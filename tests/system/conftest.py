# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Tests that make real cgroups, mounts and namespaces. They run in a private host: `tests/alone pytest tests/system`."""

from __future__ import annotations

import os
import sys

import pytest

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path[:0] = [HERE, os.path.dirname(HERE) + "/hosts/effects"]

import drive  # noqa: E402
import leftovers  # noqa: E402
import record  # noqa: E402
from record import pytest_configure, pytest_runtest_makereport  # noqa: E402, F401  pylint: disable=unused-import


def pytest_sessionstart(session):
    if not os.environ.get("BULKHEAD_ALONE"):
        pytest.exit("these tests change the host: run them as `tests/alone pytest tests/system`", returncode=4)


@pytest.fixture(autouse=True)
def leaves_nothing():
    """Each test leaves the machine as it found it."""
    before = leftovers.Snapshot()
    yield
    left = before.settled()
    assert not left, "left behind:\n" + "\n".join(left)


@pytest.fixture
def host():
    """The engine's view of this private host."""
    return drive.new_host()


@pytest.fixture(autouse=True)
def column(request):
    """What a test proves is found on a host without systemd, and goes to the column of those in docs/support.md."""
    if not request.node.get_closest_marker("proves") or not record.FOLDER:
        yield
        return
    if drive.new_host().cgroups().home("memory") in (None, "unified"):
        pytest.fail("this test is for a private host with v1 controllers: run it without --cgroup v2")
    request.session.stash[record.KIND] = "plain"
    yield
    request.session.stash[record.KIND] = None


@pytest.fixture
def converge():
    """converge(noun, check=False, **options): what the module would answer; an error fails the test."""

    def act(noun, check=False, **options):
        answer = drive.converge(noun, options, check)
        assert "error" not in answer, answer["error"]
        return answer

    return act


@pytest.fixture
def refuse():
    """refuse(noun, **options): the one line that the engine refuses with."""

    def act(noun, check=False, **options):
        answer = drive.converge(noun, options, check)
        assert "error" in answer, answer
        assert "\n" not in answer["error"], answer["error"]
        return answer["error"]

    return act


@pytest.fixture
def full_cycle(converge):
    """full_cycle(noun, present, absent): check, run, check, run of both; the check predicts the run, the second is unchanged."""

    def act(noun, present, absent):
        for options in (present, absent):
            predicted = converge(noun, check=True, **options)
            done = converge(noun, **options)
            assert predicted["changed"] and done["changed"]
            assert predicted["actions"] == done["actions"]
            assert predicted["diff"] == done["diff"]
            for check in (True, False):
                again = converge(noun, check=check, **options)
                assert not again["changed"], again["actions"]

    return act
