# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the tests of effects stand on: one host for all of them, and a record of what each of them proved there."""

from __future__ import annotations

import os
import shlex
import sys

import pytest

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, HERE)

import guest as guests  # noqa: E402
import record  # noqa: E402

DATA = "/var/tmp/bulkhead-data"  # on the disk, two files to read from and write to
SWAP = "/var/tmp/bulkhead-swap"


if "BULKHEAD_SHELL" in os.environ:  # any host, by the words that go in front of a line of the shell there

    @pytest.fixture(scope="session")
    def shell():
        words = shlex.split(os.environ["BULKHEAD_SHELL"])
        return lambda line: words + [line]


@pytest.fixture(scope="session")
def connected(request, shell):
    """The host, with the agent in it."""
    found = guests.Guest(shell)
    found.connect()
    request.session.stash[record.KIND] = found.kind()
    yield found
    found.close()


@pytest.fixture
def guest(connected):
    """The host; workloads of the test are ended after it."""
    yield connected
    connected.end()


@pytest.fixture
def refused(request, guest):
    """refused(noun, **options): the engine's refusal, which becomes the reason in docs/support.md."""

    def act(noun, **options):
        line = guest.refusal(noun, **options)
        request.node.stash[record.REASON] = line
        return line

    return act


@pytest.fixture
def group(guest):
    """group(name, **limits): a cgroup through the engine, with what is done in it; all of them go at the end."""
    made = []

    def act(name="bulkhead/t", **limits):
        found = guests.Group(guest, name, limits.pop("driver", "auto"))
        if not any(each.name == name for each in made):
            made.append(found)
        found.declare(**limits)
        return found

    yield act
    guest.end()
    for each in reversed(made):
        each.declare(state="absent", kill=True)


@pytest.fixture(scope="module")  # other modules reset the host
def swap(connected):
    """Swap space on the host."""
    off = "swapoff %s 2>/dev/null; rm -f %s" % (SWAP, SWAP)
    status, dummy, errors = connected.run(["sh", "-c", off + "; umask 077; fallocate -l 256M %s && mkswap -q %s && swapon %s" % (SWAP, SWAP, SWAP)])
    assert not status, errors
    yield
    connected.run(["sh", "-c", off])


@pytest.fixture(scope="module")  # other modules reset the host
def disk(connected):
    """Two files of 32 MiB on a real disk, and the disk's number: (paths, MAJOR:MINOR)."""
    paths = [DATA + "1", DATA + "2"]
    for path in paths:
        status, dummy, errors = connected.run(["dd", "if=/dev/urandom", "of=" + path, "bs=1M", "count=32", "oflag=direct", "status=none"])
        assert not status, errors
    yield paths, connected.device(paths[0])
    connected.run(["rm", *paths])
