# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What root can do from inside a service with default options: attacks.py tries it, and here is what it came to."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess

import pytest

import drive
import jail

from module_utils._model.service import CAPABILITIES
from module_utils._kernel import caps

HERE = os.path.dirname(os.path.realpath(__file__))
EXE_ATTACK = """#!/proc/self/exe
import os
fd = os.open("/proc/self/exe", os.O_RDONLY)
os.set_inheritable(fd, True)
os.execv("/usr/bin/python3", ["python3", "-c", '''
import errno, os, time
words = []
for path in ("/proc/self/fd/%d",):
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC):
        try:
            os.open(path, flags)
            words.append("opened")
        except OSError as exc:
            words.append(errno.errorcode[exc.errno])
try:
    os.fchmod(%d, 0o777)
    words.append("chmod")
except OSError as exc:
    words.append(errno.errorcode[exc.errno])
with open("/tmp/exe.new", "w") as stream:
    stream.write(" ".join(words))
os.rename("/tmp/exe.new", "/tmp/exe")
time.sleep(1000)
''' % (fd, fd)])
"""


def digest(path):
    with open(path, "rb") as stream:
        return hashlib.sha256(stream.read()).hexdigest()


def good(noun, **options):
    answer = drive.converge(noun, options)
    assert "error" not in answer, answer
    return answer


@pytest.fixture(scope="module")
def inside(tmp_path_factory):
    """A service with everything of its own, that attacks; its root directory."""
    root = jail.make(tmp_path_factory.mktemp("root"))
    shutil.copy(HERE + "/attacks.py", root + "/etc/attacks.py")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("\0bulkhead-host")
    listener.listen()
    with open("/proc/sys/kernel/ns_last_pid", "w", encoding="ascii") as stream:
        stream.write("5000")  # so that no process inside has the same number
    victim = subprocess.Popen(["sleep", "1000"])
    os.environ["BULKHEAD_SECRET"] = "of the host"
    told = json.dumps({"pid": victim.pid, "disk": os.stat("/").st_dev})
    good("sandbox", sandboxes=[dict(
        name="prey", root=root, bind=jail.BINDS, cgroup=dict(pids_max=50, memory_max="256M"),
        namespaces=dict(types=["net", "uts", "ipc", "mnt", "pid", "cgroup"], hostname="prey"),
        services=[dict(name="prey", command=["/usr/bin/python3", "/etc/attacks.py", told], health=dict(command=["true"], interval="10ms"))],
    )])
    yield root
    assert victim.poll() is None, "the process of the host was killed"
    victim.kill()
    victim.wait()
    listener.close()
    jail.clear()


@pytest.fixture(scope="module")
def results(inside):
    jail.until(lambda: os.path.exists(inside + "/tmp/result.json"))
    return json.loads(jail.text(inside + "/tmp/result.json"))


def test_every_attack_is_refused(results):
    words = {name: word for name, word in results.items() if isinstance(word, str)}
    assert len(words) > 80
    assert not {name: word for name, word in words.items() if word not in ("refused", "missing")}


@pytest.mark.parametrize("name", ["chroot out", "mount tmpfs", "mknod the host's disk", "ptrace the keeper", "syscall keyctl", "syscall add_key",
                                  "TIOCSTI", "TIOCSTI with high bits", "/proc/1/root", "/proc/1/exe", "/proc/1/fd", "unshare user",
                                  "write /proc/sys/kernel/core_pattern", "write /proc/sys/vm/overcommit_memory", "socket raw", "make a cgroup",
                                  "clone with a new user namespace", "unmount a mask", "personality without randomisation"])
def test_it_is_refused_and_not_missing(results, name):
    assert results[name] == "refused"


def test_the_host_s_processes_are_not_there(results):
    assert results["kill a process of the host"] == "missing"
    assert len(results["processes"]) <= 4 and 1 in results["processes"]


def test_descriptors(results):
    assert results["descriptors"] == [0, 1, 2]
    assert results["targets"][0] in ("/dev/null",) or results["targets"][0].startswith("pipe:")
    assert all(target.startswith("pipe:") for target in results["targets"][1:])


def test_the_five_sets(results):
    status = {key: value.strip() for key, value in results["status"].items()}
    mask = "%016x" % sum(1 << caps.BITS[name] for name in CAPABILITIES)
    assert status["CapInh"] == status["CapAmb"] == "%016x" % 0
    assert status["CapPrm"] == status["CapEff"] == status["CapBnd"] == mask
    assert status["NoNewPrivs"] == "1" and status["Seccomp"] == "2"


def test_environment_is_its_own(results):
    assert sorted(set(results["environment"]) - {"LC_CTYPE"}) == ["HOME", "LOGNAME", "PATH", "USER"]


def test_no_terminal(results):
    session = results["session"]
    assert session[1] == session[2]  # a group of its own; the session's leader is outside of the pid namespace
    assert session[0] in (0, session[2])


def test_who_enters_does_not_show_the_host(inside, results):
    """Health checks come in one after another while attacks.py watches /proc."""
    host = drive.new_host()
    for number in range(30):
        assert drive.resource("service").check(host, "prey/prey") is True
    assert jail.until(lambda: int(jail.text(inside + "/tmp/seen") or 0) > 5)
    assert not os.path.exists(inside + "/tmp/leaks"), jail.text(inside + "/tmp/leaks")


def test_exe_of_the_entry(inside, tmp_path):
    """CVE-2019-5736: a command whose interpreter is /proc/self/exe gets the host's Python, and tries to overwrite it."""
    root = jail.make(tmp_path)
    jail.write(root, "etc/evil", EXE_ATTACK)
    os.chmod(root + "/etc/evil", 0o755)
    interpreter = jail.text("/run/bulkhead/bin/interpreter").strip()
    before = digest(interpreter), os.stat(interpreter).st_mode
    answer = drive.converge("service", dict(name="evil", root=root, command=["/etc/evil"], bind=jail.BINDS))
    try:
        assert "error" not in answer, answer
        jail.until(lambda: os.path.exists(root + "/tmp/exe"))
        words = jail.text(root + "/tmp/exe").split()
        # our own Python runs from the same file, so the kernel may say first that it is busy; to truncate and chmod it says the rest
        assert set(words[:2]) <= {"EROFS", "ETXTBSY"} and words[2:] == ["EROFS"] * 2
    finally:
        drive.converge("service", dict(name="evil", state="absent"))
    assert (digest(interpreter), os.stat(interpreter).st_mode) == before
