# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Slices, units and sandboxes of both, broken at system calls of their making, their change and their removal: tests/torture, on a real host.

A sample with a fixed seed; all of it is `python3 tests/torture/run.py --here`, run there as root.
"""

from __future__ import annotations

import re

import pytest
import remote

NAME, UNIT = "bystander", "bulkhead-bystander.service"


@pytest.fixture
def bystander(host, jail):
    """A service that is none of their business: pid() of its command."""
    def pid():
        return host.run(["systemctl", "show", "--property=MainPID", "--value", UNIT]).strip()

    answer = host.converge("service", name=NAME, root=jail, bind=[{"source": "/usr", "target": "/usr"}], command=["/bin/sleep", "1000000"])
    assert "error" not in answer, answer
    yield pid
    host.converge("service", name=NAME, state="absent")


@pytest.mark.parametrize("kind", ("slice", "service", "sandbox"))
def test_broken_anywhere(host, bystander, kind):
    before = bystander()
    said = host.run("python3 %s/tests/torture/run.py --here --sample 1 --kills 10 --errors 5 --operation 'systemd-%s-*'" % (remote.TREE, kind),
                    patience=7200)
    passed, failed = map(int, re.search(r"^(\d+) passed, (\d+) failed$", said, re.MULTILINE).groups())
    assert passed >= 15 and not failed, said
    assert bystander() == before != "0"
    assert host.run("systemctl list-units --failed --no-legend 'bulkhead*' 'run-netns*'") == ""
