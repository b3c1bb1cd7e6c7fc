# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""tests/alone: what is seen inside, how it ends, and that nothing of it stays outside."""

from __future__ import annotations

import glob
import os
import pty
import signal
import subprocess
import time

import pytest

ALONE = os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(__file__))), "alone")
BLOCKED = """
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
print(*[errno.errorcode[ctypes.get_errno()] for number in %r if libc.syscall(number, 0, 0, 0, 0) == -1])
"""


def inside(*words, status=0, **keys):
    ended = subprocess.run([ALONE, *words], capture_output=True, text=True, timeout=60, check=False, **keys)
    assert ended.returncode == status, ended.stderr
    return ended.stdout


def own_cgroups(pid):
    return glob.glob("/sys/fs/cgroup/**/bulkhead-alone-%d" % pid, recursive=True)


def wait_for(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("kind", ["cgroup", "ipc", "mnt", "net", "pid", "uts"])
def test_namespaces_are_its_own(kind):
    assert inside("readlink", "/proc/self/ns/" + kind).strip() != os.readlink("/proc/self/ns/" + kind)


def test_pid_one_is_its_init():
    lines = inside("ps", "-e", "-o", "pid=,comm=").split("\n")
    assert lines[0].split()[0] == "1"
    assert len([line for line in lines if line]) == 2  # its init, and ps


def test_cgroups_look_like_the_root():
    shown = inside("cat", "/proc/self/cgroup").splitlines()
    assert shown
    assert all(line.endswith(":/") for line in shown)


def test_cgroup_layout_is_the_hosts():
    assert inside("ls", "-a", "/sys/fs/cgroup").split() == sorted([".", ".."] + os.listdir("/sys/fs/cgroup")) or \
        os.path.exists("/sys/fs/cgroup/cgroup.procs")


def test_pure_cgroup2():
    assert inside("--cgroup", "v2", "stat", "-f", "-c", "%T", "/sys/fs/cgroup").strip() == "cgroup2fs"
    inside("--cgroup", "v2", "sh", "-c", "mkdir /sys/fs/cgroup/a && echo $$ > /sys/fs/cgroup/a/cgroup.procs")


def test_fresh_directories():
    shown = inside("find", "/run", "/etc/bulkhead", "/var/lib/bulkhead", "/var/log/bulkhead", "-mindepth", "1")
    assert sorted(shown.split()) == ["/run/lock", "/run/shm"]


def test_only_loopback_and_it_is_up():
    assert inside("ls", "/sys/class/net").split() == ["lo"]
    assert int(inside("cat", "/sys/class/net/lo/flags"), 16) & 1


@pytest.mark.parametrize("spread", ["private", "shared"])
def test_propagation_of_the_root(spread):
    lines = inside("--root", spread, "cat", "/proc/self/mountinfo").splitlines()
    assert all(("shared:" in line.split(" - ")[0]) == (spread == "shared") for line in lines)


@pytest.mark.parametrize(("name", "numbers"), [
    ("openat2", [437]), ("fsopen", [430, 431, 432, 433]), ("open_tree", [428, 429]), ("statmount", [457, 458]),
    ("mount_setattr", [442]), ("copy_file_range", [326 if os.uname().machine == "x86_64" else 285])])
def test_block(name, numbers):
    assert inside("--block", name, "python3", "-c", BLOCKED % numbers).split() == ["ENOSYS"] * len(numbers)
    assert "ENOSYS" not in inside("python3", "-c", BLOCKED % numbers)


def test_several_blocked():
    assert inside("--block", "openat2,fsopen", "python3", "-c", BLOCKED % [437, 430]).split() == ["ENOSYS"] * 2


@pytest.mark.parametrize(("script", "status"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -TERM $$", 143)])
def test_status(script, status):
    inside("sh", "-c", script, status=status)


def test_command_not_found():
    inside("/nonexistent", status=127)


def test_input_passes():
    assert inside("cat", input="hello") == "hello"


@pytest.mark.parametrize("words", [[], ["--cgroup", "v3", "true"], ["--block", "fork", "true"], ["--colour", "true"]])
def test_bad_use(words):
    inside(*words, status=64)


def test_terminal_passes():
    pid, terminal = pty.fork()
    if not pid:
        os.execv(ALONE, [ALONE, "sh", "-c", "tty; test -t 0"])
    with open(terminal, "rb", buffering=0) as stream:
        shown = b""
        try:
            while True:
                shown += stream.read(100)
        except OSError:
            pass
    assert b"/dev/pts/" in shown
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_terminal_interrupt_arrives_once(tmp_path):
    note = tmp_path / "note"
    script = "trap 'echo got >> %s' INT; echo ready; for i in 1 2 3 4 5 6; do sleep 0.2; done" % note
    pid, terminal = pty.fork()
    if not pid:
        os.execv(ALONE, [ALONE, "bash", "-c", script])
    with open(terminal, "r+b", buffering=0) as stream:
        while b"ready" not in stream.read(100):
            pass
        stream.write(b"\x03")
        os.waitpid(pid, 0)
    assert note.read_text() == "got\n"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signal_is_forwarded(number, status, tmp_path):
    note = tmp_path / "note"
    with subprocess.Popen([ALONE, "sh", "-c", "touch %s; exec sleep 60" % note]) as process:
        wait_for(note.exists)
        process.send_signal(number)
        assert process.wait(20) == status


def test_everything_inside_ends_with_it():
    """Daemons, frozen processes, nested cgroups, mounts, namespaces that were left."""
    inside("sh", "-c", """
        setsid sleep 1234 &
        ip netns add left
        mount -t tmpfs left /etc/bulkhead
        for tree in freezer memory; do
            test -d /sys/fs/cgroup/$tree || continue
            mkdir -p /sys/fs/cgroup/$tree/a/b
            sleep 1235 & echo $! > /sys/fs/cgroup/$tree/a/b/tasks
        done
        if test -d /sys/fs/cgroup/freezer; then echo FROZEN > /sys/fs/cgroup/freezer/a/freezer.state; fi
        unshare --fork --pid --mount-proc sleep 1236 &
        exit 0
    """)
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            with open(path) as stream:
                assert "\x00123" not in stream.read()
        except OSError:
            pass


def test_many_at_once():
    script = "mkdir -p /sys/fs/cgroup/memory/a/b; touch /etc/bulkhead/x; test $(ls /etc/bulkhead | wc -l) = 1"
    running = [subprocess.Popen([ALONE, "sh", "-c", script]) for dummy in range(8)]
    assert [process.wait(60) for process in running] == [0] * 8


def test_one_in_another():
    assert inside(ALONE, ALONE, "ps", "-e", "-o", "pid=").split()[0] == "1"


def test_what_the_machine_has_mounted_there_is_not_seen():
    script = "mkdir -p /run/bulkhead; mount -t tmpfs outer /run/bulkhead; mount -t tmpfs outer /etc/bulkhead; exec %s grep -c outer /proc/self/mountinfo"
    assert inside("sh", "-c", script % ALONE, status=1).strip() == "0"


def test_killed_leaves_no_process_and_the_next_clears(tmp_path):
    note = tmp_path / "note"
    with subprocess.Popen([ALONE, "sh", "-c", "touch %s; mkdir /sys/fs/cgroup/a /sys/fs/cgroup/*/a; sleep 60" % note],
                          stderr=subprocess.DEVNULL) as process:
        wait_for(note.exists)
        process.kill()
    wait_for(lambda: "touch %s" % note not in subprocess.run(["ps", "-e", "-o", "args="], capture_output=True, text=True,
                                                             check=True).stdout)
    assert own_cgroups(process.pid)
    inside("true")
    assert not own_cgroups(process.pid)


def test_mount_points_cannot_be_removed_meanwhile(tmp_path):
    """rmdir of a mount point unmounts it in every other mount namespace: what is written then would be the machine's."""
    note, before = tmp_path / "note", set(os.listdir("/etc/bulkhead"))
    with subprocess.Popen([ALONE, "sh", "-c", "ls -A /etc/bulkhead > %s; exec sleep 60" % note]) as process:
        wait_for(note.exists)
        held = set(os.listdir("/etc/bulkhead"))
        process.terminate()
    assert held - before == {".tests-alone"}
    assert set(os.listdir("/etc/bulkhead")) == before
    assert note.read_text() == ""
