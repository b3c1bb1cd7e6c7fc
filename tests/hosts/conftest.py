# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Tests on real hosts: virtual machines with systemd. BULKHEAD_TEST_HOSTS names those to run on; default: debian12,debian13.

A test that asks for `host` runs on each of them, one host after the other. It finds the host clean or as a test before left
it, and takes away what it makes; one that cannot asks for `fresh_host`, which is reset before and after.
"""

from __future__ import annotations

import os
import sys

import pytest

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path[:0] = [HERE, HERE + "/effects"]

import record  # noqa: E402
import remote  # noqa: E402
from record import pytest_runtest_makereport  # noqa: E402, F401  pylint: disable=unused-import

JAIL = "/srv/jail"


def pytest_configure(config):
    record.pytest_configure(config)
    config.addinivalue_line("markers", "core: also part of `make test`, on one host")


def pytest_generate_tests(metafunc):
    if "machine" in metafunc.fixturenames:
        names = os.environ.get("BULKHEAD_TEST_HOSTS") or ",".join(remote.SUITES)
        metafunc.parametrize("machine", names.split(","), indirect=True, scope="session")


@pytest.fixture(scope="session")
def machine(request):
    """One virtual machine for all tests on it; it and its directory are removed at the end."""
    host = remote.Host(request.param, "test-%s-%d" % (request.param, os.getpid()))
    request.session.stash[record.KIND] = host.name
    yield host
    host.destroy()


@pytest.fixture(scope="session")
def shell(machine):  # pylint: disable=redefined-outer-name
    """shell(command): the list of words that run a line of the shell there as root, for a process of the test's own."""
    return machine.shell


@pytest.fixture
def host(machine):  # pylint: disable=redefined-outer-name
    """The host; one that a failed test has left switched off is brought back."""
    if not machine.machine.is_running():
        machine.reset()
    return machine


@pytest.fixture
def jail(machine):  # pylint: disable=redefined-outer-name
    """The path of a root directory there, into which /usr is to be bound (tests/system/jail.py)."""
    machine.python("import jail; jail.make(%r)" % JAIL)
    yield JAIL
    machine.attempt(["rm", "-rf", JAIL])  # it may be off


@pytest.fixture
def fresh_host(machine):  # pylint: disable=redefined-outer-name
    """The host in its clean state, and nothing of the test is there for the next one."""
    machine.reset()
    yield machine
    machine.reset()
