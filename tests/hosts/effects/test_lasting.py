# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What lasts: a process under a limit that is changed, limits when systemd reads its units again, and delegated subtrees."""

from __future__ import annotations

import signal

import pytest

NOBODY, OTHER = 65534, 65533
MIB = 1 << 20


@pytest.mark.proves("limits changed in place")
def test_a_limit_changed_in_place_leaves_the_process_alone(guest, group):
    """The process is the same, and the new limit reaches it."""
    limited = group(memory_max="200M", memory_swap_max=0, pids_max=50)
    limited.start("grow", "grow")
    pid = guest.pid("grow")
    born = guest.started(pid)
    guest.tell("grow", 20)
    assert guest.line("grow") == {"held": 20}
    limited.declare(memory_max="48M", pids_max=20)
    assert guest.started(pid) == born and guest.wait("grow", 0) is None
    guest.tell("grow", 100)
    assert guest.wait("grow") == -signal.SIGKILL
    assert limited.number("memory.peak") <= 48 * MIB


@pytest.mark.proves("limits after daemon-reload")
def test_limits_survive_daemon_reload(guest, group):
    limited = group(memory_max="64M", memory_swap_max=0, cpu_max="30%", pids_max=40, cpu_weight=300)
    limited.declare(pids_max=5, memory_max="48M")  # one that was changed in place since
    limited.start("hold", "hold")
    names = ["memory.max", "memory.swap.max", "cpu.max", "pids.max", "cpu.weight"]
    before = [limited.number(name) if name != "cpu.max" else guest.read(limited.file(name))[0] for name in names]
    assert before == [48 * MIB, 0, "30000 100000\n", 5, 300]
    for verb in ("daemon-reload", "daemon-reexec"):
        assert guest.run(["systemctl", verb])[0] == 0
        assert [limited.number(name) if name != "cpu.max" else guest.read(limited.file(name))[0] for name in names] == before
    assert limited.start("fork", "fork", 10) == {"children": 3, "reason": "EAGAIN"}
    assert guest.wait("hold", 0) is None


@pytest.mark.proves("delegate")
def test_delegation_lets_that_user_and_nobody_else(guest, group):
    given = group(driver="cgroupfs", pids_max=50, delegate={"user": NOBODY, "group": NOBODY})
    path = given.file("")
    limit, own = path + "pids.max", path + "mine"
    for user, code, allowed in (
        (OTHER, "os.mkdir(%r)" % own, False),
        (NOBODY, "os.mkdir(%r)" % own, True),
        (NOBODY, "open(%r, 'w').write('max')" % limit, False),  # the limits stay with root
        (NOBODY, "os.rmdir(%r)" % own, True),
    ):
        assert (guest.run_as(user, code)[0] == 0) == allowed, (user, code)
    files = guest.read("/sys/kernel/cgroup/delegate")[0].split()
    owners = guest.owners(path)
    assert {name for name, uid in owners.items() if uid == NOBODY} == {name for name in files if name in owners}
    given.declare(delegate={"user": "root", "group": "root"})
    assert guest.run_as(NOBODY, "os.mkdir(%r)" % own)[0] != 0


@pytest.mark.proves("delegate")
def test_a_delegated_subtree_distributes_what_it_was_given(guest, group):
    """The user makes a cgroup, limits it, and moves a process of its own into it; the limit that root set holds above it."""
    given = group(driver="cgroupfs", pids_max=6, delegate={"user": NOBODY, "group": NOBODY})
    path = given.file("")
    given.start("fork", "as_user", NOBODY, "wait_then_fork", 10)
    code = "\n".join([
        "os.mkdir(%r)" % (path + "mine"), "open(%r, 'w').write('+pids')" % (path + "cgroup.subtree_control"),
        "open(%r, 'w').write('3')" % (path + "mine/pids.max"), "open(%r, 'w').write('%d')" % (path + "mine/cgroup.procs", guest.pid("fork"))])
    status, dummy, errors = guest.run_as(NOBODY, code)
    assert status == 0, errors
    guest.tell("fork", 1)
    assert guest.line("fork") == {"children": 2, "reason": "EAGAIN"}
    guest.end()
    assert guest.run_as(NOBODY, "os.rmdir(%r)" % (path + "mine"))[0] == 0
