# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The program `bulkhead`: built as the role installs it, run without Ansible; restore after all run-time state is gone."""

from __future__ import annotations

import glob
import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time

import drive
import pytest
from module_utils._kernel import syscalls
from module_utils._program import archive

TYPES = ["pid", "net", "mnt", "ipc", "uts", "cgroup"]
LINKS = ("sh", "ls", "ps", "cat", "sleep", "id", "hostname", "true")


@pytest.fixture(name="root")
def fixture_root(tmp_path):
    """A root file system of one static program."""
    if not os.path.exists("/bin/busybox"):
        pytest.fail("busybox is missing: install busybox-static")
    for name in ("bin", "etc", "dev", "proc", "sys", "tmp"):
        (tmp_path / "root" / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", tmp_path / "root" / "bin" / "busybox")
    for name in LINKS:
        (tmp_path / "root" / "bin" / name).symlink_to("busybox")
    (tmp_path / "root" / "etc" / "passwd").write_text("root:x:0:0:root:/:/bin/sh\nwww:x:33:33:www:/:/bin/sh\n")
    (tmp_path / "root" / "etc" / "group").write_text("root:x:0:\nwww:x:33:\n")
    return str(tmp_path / "root")


@pytest.fixture(name="bulkhead")
def fixture_bulkhead(tmp_path):
    """bulkhead(*words, input=None) -> (exit status, output, errors)."""
    path = str(tmp_path / "bulkhead")
    with open(path, "wb") as stream:
        stream.write(archive.build(shutil.which("python3", path="/usr/bin") or sys.executable))
    os.chmod(path, 0o755)

    def run(*words, text=None):
        ended = subprocess.run([path, *words], input=text, capture_output=True, text=True, timeout=120, check=False, cwd="/",
                               env={"PATH": "/usr/bin:/bin"})
        assert "Traceback" not in ended.stderr, ended.stderr
        return ended.returncode, ended.stdout, ended.stderr

    run.path = path
    return run


@pytest.fixture(name="sandboxes")
def fixture_sandboxes(root, converge):
    """The options of two sandboxes that are there; they are gone at the end."""
    def one(name, **more):
        return dict({"name": name, "namespaces": {"types": TYPES, "hostname": name}, "overlay": {"lower": [root]},
                     "services": [{"name": "sleep", "command": ["/bin/sleep", "100000"], "user": "www", "capabilities": []}]}, **more)

    options = {"sandboxes": [one("web", cgroup={"memory_max": "64M", "pids_max": 32}), one("cache")]}
    converge("sandbox", **options)
    yield options
    remove(options)


def remove(options):
    gone = [{"name": each["name"], "state": "absent"} for each in options["sandboxes"]]
    answer = drive.converge("sandbox", {"sandboxes": gone, "kill": True, "remove_data": True})
    assert "error" not in answer, answer


@pytest.fixture(autouse=True)
def fixture_supervisor_ends(leaves_nothing):
    """Our runsvdir stays by design; a test is to leave nothing."""
    yield
    from module_utils._supervisor import scan

    host = drive.new_host()
    if os.path.isdir(host.state + "/service"):
        scan.shutdown(host)
        for path in (host.state + "/service/.seccomp", host.state + "/code"):
            shutil.rmtree(path, ignore_errors=True)
    for name in os.listdir(host.log):
        shutil.rmtree("%s/%s" % (host.log, name))
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:  # keepers that a test killed are children of this process
            pass
    except ChildProcessError:
        pass


def destroy_run_time_state():
    """What a reboot does, with none of our code: processes, mounts, namespaces, cgroups, /run."""
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) not in (1, os.getpid(), os.getppid()):
            try:
                with open("/proc/%s/comm" % name, encoding="utf-8") as stream:
                    comm = stream.read().strip()
                if comm in ("runsvdir", "runsv", "svlogd", "tini", "keeper", "sleep"):
                    os.kill(int(name), signal.SIGKILL)
            except OSError:
                pass
    for dummy in range(20):
        with open("/proc/self/mountinfo", encoding="utf-8") as stream:
            points = [line.split()[4] for line in stream]
        ours = [point for point in points if point.startswith(("/run/bulkhead", "/run/netns"))]
        if not ours:
            break
        for point in reversed(ours):
            syscalls.umount(point, syscalls.MNT_DETACH)
    shutil.rmtree("/run/bulkhead", ignore_errors=True)
    shutil.rmtree("/run/netns", ignore_errors=True)
    if os.path.exists("/run/bulkhead.lock"):
        os.unlink("/run/bulkhead.lock")
    deadline = time.monotonic() + 10
    while True:  # dying processes leave their cgroups in their own time
        for directory in sorted((name for top in glob.glob("/sys/fs/cgroup/*/bulkhead") + glob.glob("/sys/fs/cgroup/bulkhead")
                                 for name, dummy, files in os.walk(top)), key=len, reverse=True):
            try:
                os.rmdir(directory)
            except OSError:
                pass
        left = glob.glob("/sys/fs/cgroup/*/bulkhead") + glob.glob("/sys/fs/cgroup/bulkhead")
        if not left:
            return
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def sleepers():
    """{hostname: uid} of the processes that the services are."""
    found = {}
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            with open(path, "rb") as stream:
                if stream.read() != b"/bin/sleep\x00100000\x00":
                    continue
            pid = path.split("/")[2]
            seen = subprocess.run(["nsenter", "--uts=/proc/%s/ns/uts" % pid, "hostname"], capture_output=True, text=True, check=True)
            found[seen.stdout.strip()] = os.stat("/proc/" + pid).st_uid
        except OSError:
            pass
    return found


def test_all_is_restored_after_a_reboot(bulkhead, sandboxes, converge):
    with open("/run/probe", "w", encoding="utf-8") as stream:  # what a service wrote is data, and survives
        stream.write("kept")
    shutil.move("/run/probe", "/var/lib/bulkhead/uppers/web/upper/probe")
    destroy_run_time_state()
    assert not sleepers()
    status, output, errors = bulkhead("restore")
    assert (status, errors) == (0, "")
    assert "start service web/sleep" in output.splitlines()
    assert sleepers() == {"web": 33, "cache": 33}
    assert bulkhead("run", "web", "cat", "/probe")[:2] == (0, "kept")
    again = converge("sandbox", **sandboxes)
    assert not again["changed"], again["actions"]
    assert bulkhead("restore") == (0, "", "")


def test_clear_leaves_records_and_data_only(bulkhead, sandboxes, converge):
    with open("/var/lib/bulkhead/uppers/web/upper/probe", "w", encoding="utf-8") as stream:
        stream.write("kept")
    status, output, errors = bulkhead("clear")
    assert (status, errors) == (0, "")
    assert not sleepers() and not os.path.exists("/run/bulkhead")
    assert not glob.glob("/sys/fs/cgroup/*/bulkhead") and not glob.glob("/sys/fs/cgroup/bulkhead")
    assert sorted(os.listdir("/etc/bulkhead/sandboxes.d")) == ["cache.json", "web.json"]
    with open("/proc/self/mountinfo", encoding="utf-8") as stream:
        assert "/run/bulkhead" not in stream.read()
    assert bulkhead("clear") == (0, "", "")
    assert bulkhead("restore")[0] == 0
    assert bulkhead("run", "web", "cat", "/probe")[:2] == (0, "kept")
    assert not converge("sandbox", **sandboxes)["changed"]


def test_single_objects_are_restored_in_whatever_order_they_need(bulkhead, converge, root, tmp_path):
    """The namespaces' keeper lives in a cgroup that belongs to a sandbox, which is restored after them."""
    upper, work = str(tmp_path / "upper"), str(tmp_path / "work")
    calls = [("cgroup", {"name": "alone/a", "pids_max": 16}), ("namespace", {"name": "single", "types": ["uts", "net"], "hostname": "single"}),
             ("overlay", {"path": "/run/merged", "lower": [root], "upper": upper, "work": work}),
             ("service", {"name": "plain", "command": ["/bin/sleep", "100001"], "root": root}),
             ("service", {"name": "manual", "command": ["/bin/sleep", "100002"], "root": root, "enabled": False})]
    for noun, options in calls:
        converge(noun, **options)
    destroy_run_time_state()
    syscalls.umount("/run/merged")
    for directory in glob.glob("/sys/fs/cgroup/*/alone/a") + glob.glob("/sys/fs/cgroup/*/alone"):
        os.rmdir(directory)
    assert bulkhead("restore")[0] == 0
    for noun, options in calls[:-1]:
        again = converge(noun, **options)
        assert not again["changed"], (noun, again["actions"])
    assert converge("service", check=True, **calls[-1][1])["changed"], "what is not enabled does not come back by itself"
    rows = bulkhead("list")[1]
    assert "overlay" in rows and "single" in rows and "plain" in rows
    assert bulkhead("clear")[0] == 0
    for noun, options in (("service", {"name": "plain"}), ("service", {"name": "manual"}), ("namespace", {"name": "single"}),
                          ("cgroup", {"name": "alone/a"}), ("overlay", {"path": "/run/merged", "upper": upper, "work": work, "remove_data": True})):
        converge(noun, state="absent", **options)
    if os.path.isdir("/run/merged"):
        os.rmdir("/run/merged")


def test_what_cannot_be_restored_is_said_and_the_rest_is_made(bulkhead, sandboxes, root):
    bulkhead("clear")
    os.rename(root, root + ".away")
    path = "/etc/bulkhead/sandboxes.d/cache.json"
    with open(path, encoding="utf-8") as stream:
        record = json.load(stream)
    record["options"]["overlay"]["lower"] = [root + ".away"]
    with open(path, "w", encoding="utf-8") as stream:
        json.dump(record, stream)
    status, output, errors = bulkhead("restore")
    assert status == 1
    assert len(errors.splitlines()) == 1 and "web" in errors and root in errors
    assert list(sleepers()) == ["cache"]
    told = {each["name"]: each["restore_error"] for each in drive.info("sandbox")["sandboxes"]}
    assert told == {"web": errors.strip(), "cache": None}
    assert [line.split()[2] for line in bulkhead("list")[1].splitlines()[1:]] == ["present", "failed"]
    shutil.copytree(root + ".away", root, symlinks=True)
    assert bulkhead("restore")[0] == 0
    assert not os.path.exists("/run/bulkhead/failed") and sorted(sleepers()) == ["cache", "web"]
    assert {each["restore_error"] for each in drive.info("sandbox")["sandboxes"]} == {None}


def test_run_is_a_service_with_another_command(bulkhead, sandboxes):
    assert bulkhead("run", "web", "sh", "-c", "exit 7") == (7, "", "")
    assert bulkhead("run", "web", "cat", text="through\n") == (0, "through\n", "")
    assert bulkhead("run", "web", "hostname") == (0, "web\n", "")
    assert "uid=33(www)" in bulkhead("run", "web/sleep", "id")[1]
    status = bulkhead("run", "web", "cat", "/proc/self/status")[1]
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["NoNewPrivs"] == "1" and fields["Seccomp"] == "2"
    assert int(fields["CapBnd"], 16) & (1 << 21 | 1 << 19 | 1 << 12) == 0
    groups = bulkhead("run", "web", "cat", "/proc/self/cgroup")[1]
    assert "bulkhead" not in groups, "the cgroup namespace is its own"
    assert "100000" in bulkhead("run", "web", "ps")[1]


def test_the_environment_and_files_of_the_caller_stay_out(bulkhead, sandboxes):
    ended = subprocess.run([bulkhead.path, "run", "web", "sh", "-c", "echo $SECRET; ls /proc/self/fd"], capture_output=True, text=True,
                           check=True, env={"SECRET": "x", "PATH": "/usr/bin"}, close_fds=False)
    assert ended.stdout.split() == ["0", "1", "2", "3"], "3 is ls's own"


@pytest.mark.parametrize("words, line", [
    (("run", "nobody", "id"), "Cannot enter nobody: there is no such sandbox"),
    (("run", "../etc", "id"), "'..' is not a name"),
    (("run", "a\nb", "id"), "is not a name"),
    (("enter", "web"), "needs a terminal"),
])
def test_refusals_are_one_line(bulkhead, words, line):
    status, output, errors = bulkhead(*words)
    assert status == 1 and output == "" and len(errors.splitlines()) == 1 and line in errors


@pytest.mark.parametrize("words", [(), ("frob",), ("run",), ("run", "web"), ("list", "web"), ("restore", "--all")])
def test_wrong_calls_show_the_usage(bulkhead, words):
    status, output, errors = bulkhead(*words)
    assert status == 2 and errors.startswith("usage: bulkhead")


def test_enter_has_a_terminal_of_its_own(bulkhead, sandboxes):
    master, slave = pty.openpty()
    ours = os.fdopen(master, "r+b", buffering=0)
    child = subprocess.Popen([bulkhead.path, "enter", "web"], stdin=slave, stdout=slave, stderr=slave, close_fds=True, start_new_session=True)
    os.close(slave)
    os.write(master, b"hostname; true < /dev/tty && echo has-a-tty; cat\n")
    seen = b""

    def until(words):
        nonlocal seen
        deadline = time.monotonic() + 30
        while words not in seen:
            assert time.monotonic() < deadline, seen
            if select.select([master], [], [], 1)[0]:
                seen += os.read(master, 4096)

    until(b"has-a-tty\r\n")
    os.write(master, b"ready\n")
    until(b"ready\r\nready\r\n")  # echoed, and said again by cat: it is there
    os.write(master, b"\x03")  # interrupts what runs in it, not the program itself
    time.sleep(0.2)
    os.write(master, b"echo still-$((40+2)); exit 9\n")
    until(b"still-42\r\n")
    assert child.wait(30) == 9
    ours.close()
    assert b"job control" not in seen and b"process group" not in seen, seen


def test_check_says_what_the_host_allows(bulkhead):
    status, output, errors = bulkhead("check")
    assert status == 0, errors
    assert output.startswith("Linux " + os.uname().release)


def test_a_record_that_cannot_be_read_does_not_keep_the_others_from_coming_back(bulkhead, sandboxes):
    bulkhead("clear")
    with open("/etc/bulkhead/sandboxes.d/bad.json", "w", encoding="utf-8") as stream:
        json.dump({"options": {"name": "bad", "cgroup": {"memory_max": "12Q"}}}, stream)
    status, output, errors = bulkhead("restore")
    os.unlink("/etc/bulkhead/sandboxes.d/bad.json")
    assert status == 1 and len(errors.splitlines()) == 1 and "memory_max" in errors and "sandbox bad" in errors
    assert os.listdir("/run/bulkhead/failed") == ["bad"]
    assert bulkhead("restore") == (0, "", "") and not os.path.exists("/run/bulkhead/failed"), "its record is gone"
    assert sorted(sleepers()) == ["cache", "web"]


def test_a_record_that_is_not_whole_is_said_and_kept(bulkhead, converge):
    converge("namespace", name="torn", types=["uts"])
    path = "/etc/bulkhead/namespace.d/torn.json"
    with open(path, "w", encoding="utf-8") as stream:
        stream.write('{"options": {"ty')
    assert bulkhead("clear")[0] == 0
    assert bulkhead("restore") == (1, "", "Cannot restore namespace torn: its record %s is not whole. Declare it again, or remove it.\n" % path)
    with open(path, encoding="utf-8") as stream:
        assert stream.read() == '{"options": {"ty'
    converge("namespace", name="torn", state="absent")
    assert not os.path.exists(path)
