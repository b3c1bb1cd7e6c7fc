# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Supervised services on this kernel: every state, what a change does, how they end, and what a killed part leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess

import pytest

import drive
import jail

from module_utils._kernel import syscalls
from module_utils._resources import service
from module_utils._supervisor import runit, scan

SLEEP = ["/bin/sleep", "100000"]
KINDS = ["net", "uts", "ipc", "mnt", "pid", "cgroup"]
SECRET = "s3cr3t-of-the-test"


@pytest.fixture(autouse=True)
def tidy():
    yield
    jail.clear()


@pytest.fixture
def cycle(full_cycle):
    def act(**options):
        full_cycle("service", dict(options), dict(name=options["name"], state="absent"))

    return act


def show(name="a"):
    return service.show(drive.new_host(), name)


def pid(name="a"):
    return show(name)["pid"]


def log(name="a"):
    return jail.text("/var/log/bulkhead/%s/current" % name.replace("/", ":"))


def alive(number):
    try:
        return jail.text("/proc/%d/stat" % number).rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# -- states

def test_plain_chroot(cycle):
    cycle(name="a", root="/", command=SLEEP)


def test_in_namespaces_and_cgroup(cycle, converge):
    converge("cgroup", name="bulkhead/a", pids_max=50)
    converge("namespace", name="n", types=KINDS, cgroup="bulkhead/a", hostname="inside")
    cycle(name="a", command=SLEEP, namespace="n", cgroup="bulkhead/a", health=dict(command=["hostname"], interval="50ms"))


def test_with_a_root_of_its_own(cycle, tmp_path):
    cycle(name="a", root=jail.make(tmp_path), command=SLEEP, bind=jail.BINDS, tmpfs=[dict(target="/run", size="1M")])


def test_root_of_its_own_is_of_its_namespaces(converge, tmp_path):
    """Its /proc is that of the pid namespace it is born in, also when the set has a mount namespace, and is made anew with it."""
    root = jail.make(tmp_path)
    told = dict(name="a", root=root, namespace="n", bind=jail.BINDS, command=[
        "/bin/sh", "-c", "ls /proc > /tmp/proc; ls /sys/class/net > /tmp/net; sleep 100000"])
    for types in (["pid", "net"], KINDS):
        converge("namespace", name="n", types=types)
        converge("service", **told)
        jail.until(lambda: os.path.exists(root + "/tmp/net") and jail.text(root + "/tmp/net"))
        assert [int(word) for word in jail.text(root + "/tmp/proc").split() if word.isdigit()][0] == 1
        assert len([word for word in jail.text(root + "/tmp/proc").split() if word.isdigit()]) <= 4
        assert jail.text(root + "/tmp/net").split() == ["lo"]
        assert not converge("service", **told)["changed"]
        os.unlink(root + "/tmp/net")
        first = pid()
        converge("namespace", name="n", types=["pid", "net"], state="absent", kill=True)
        converge("namespace", name="n", types=types)
        answer = converge("service", **told)
        assert "create mnt of namespaces a.root" in answer["actions"] and not alive(first)
        jail.until(lambda: os.path.exists(root + "/tmp/net"))
        assert not converge("service", **told)["changed"]
        converge("service", name="a", state="absent")
        converge("namespace", name="n", state="absent", kill=True)
        os.unlink(root + "/tmp/net")


def test_user_namespace(converge, tmp_path):
    """The directory appears by the ids inside, and what was made outside by root is root's inside."""
    root = jail.make(tmp_path)
    converge("namespace", name="n", types=["user", "pid", "uts"], uid_map=["0 100000 65536"], gid_map=["0 100000 65536"])
    options = dict(name="a", root=root, namespace="n", bind=jail.BINDS, user="web",
                   command=["/bin/sh", "-c", "exec > /dev/stdout; stat -c %u:%n /etc/passwd; id -u; exec sleep 100000"])
    converge("service", **options)
    jail.until(lambda: "1033" in log())
    assert "0:/etc/passwd" in log() and os.stat("/proc/%d" % pid()).st_uid == 101033
    assert not converge("service", **options)["changed"]


def test_changes_of_the_root_of_its_own(converge, refuse, tmp_path):
    root, other = jail.make(tmp_path / "one"), jail.make(tmp_path / "two")
    converge("service", name="a", root=root, command=SLEEP, bind=jail.BINDS)
    first = pid()
    done = converge("service", name="a", tmpfs=[dict(target="/run", size="1M")])
    assert done["changed"] and done["restart_required"] == [] and pid() == first
    assert " /run tmpfs " in jail.text("/proc/%d/mounts" % first)
    converge("service", name="a", tmpfs=[])
    assert " /run tmpfs " not in jail.text("/proc/%d/mounts" % first) and pid() == first
    assert "on_mismatch: recreate" in refuse("service", name="a", root=other)
    done = converge("service", name="a", root=other, on_mismatch="recreate")
    assert done["actions"][0] == "stop service a" and done["actions"][-1] == "start service a" and pid() != first
    assert os.stat("/proc/%d/root" % pid()).st_ino == os.stat(other).st_ino


def test_stopped_started_restarted(converge):
    converge("service", name="a", root="/", command=SLEEP, state="stopped")
    assert show()["state"] == "stopped" and show()["pid"] is None
    assert not converge("service", name="a", state="stopped")["changed"]
    assert converge("service", check=True, name="a", state="started")["actions"] == ["configure service a", "start service a"]
    converge("service", name="a", state="started")
    first = pid()
    assert not converge("service", name="a")["changed"]
    for dummy in range(2):
        answer = converge("service", name="a", state="restarted")
        assert answer["changed"] and answer["actions"] == ["restart service a"]
    assert pid() != first and not alive(first)
    converge("service", name="a", state="stopped")
    assert not alive(first)


def test_all_that_is_asked_for_is_there(converge):
    converge("service", name="a", root="/", command=SLEEP, user="nobody", group="daemon", groups=["mail"], cwd="/tmp", umask="0027", nice=3,
             oom_score_adj=200, capabilities=["kill", "chown"], ambient_capabilities=["kill"], rlimits=dict(nofile=[64, 128], core=0),
             environment=dict(A="b"))
    status = {line.partition(":")[0]: line.split()[1:] for line in jail.text("/proc/%d/status" % pid()).splitlines()}
    assert status["Uid"] == ["65534"] * 4 and status["Gid"] == ["1"] * 4 and status["Groups"] == ["8"]
    assert int(status["CapAmb"][0], 16) == 1 << 5 and int(status["CapBnd"][0], 16) == (1 << 5) | 1 and status["Umask"] == ["0027"]
    assert os.readlink("/proc/%d/cwd" % pid()) == "/tmp" and jail.text("/proc/%d/oom_score_adj" % pid()) == "200\n"
    assert "A=b" in jail.text("/proc/%d/environ" % pid()).split("\0")
    shown = show()
    assert shown["capabilities"] == ["chown", "kill"] and shown["rlimits"] == {"nofile": [64, 128], "core": [0, 0]}
    assert "Max open files            64                   128" in jail.text("/proc/%d/limits" % pid())


# -- changes

@pytest.mark.parametrize(("key", "value"), [
    ("command", ["/bin/sleep", "99999"]), ("user", "nobody"), ("group", "daemon"), ("groups", ["mail"]), ("environment", {"A": "c"}),
    ("cwd", "/tmp"), ("umask", "0077"), ("capabilities", []), ("no_new_privs", False), ("seccomp", "off"), ("rlimits", {"core": 0}), ("nice", 1),
    ("oom_score_adj", 5), ("root", "/usr/..")])
def test_what_needs_a_restart(converge, key, value):
    if key == "root":
        os.makedirs("/run/other/bin", exist_ok=True)
        value = "/run/other"
    converge("service", name="a", root="/", command=SLEEP, environment={"A": "b"})
    first = pid()
    predicted = converge("service", check=True, name="a", **{key: value})
    done = converge("service", name="a", **{key: value})
    wanted = [{"name": "a", "keys": [key]}]
    assert predicted["changed"] and done["changed"] and predicted["restart_required"] == done["restart_required"] == wanted
    again = converge("service", name="a")
    assert not again["changed"] and again["restart_required"] == wanted and pid() == first
    assert show()["restart_required"] == [key]
    if key != "root":
        after = converge("service", name="a", on_change="restart")
        assert after["changed"] and after["restart_required"] == [] and after["actions"] == ["restart service a"]
        assert pid() != first and converge("service", name="a")["restart_required"] == []
    else:
        os.rmdir("/run/other/bin")
        os.rmdir("/run/other")


@pytest.mark.parametrize(("key", "value"), [
    ("health", {"command": ["true"]}), ("restart", "always"), ("stop_signal", "QUIT"), ("stop_timeout", "3s"), ("enabled", False),
    ("log", {"max_size": "64K"})])
def test_what_needs_no_restart(converge, key, value):
    converge("service", name="a", root="/", command=SLEEP)
    first = pid()
    done = converge("service", name="a", **{key: value})
    assert done["changed"] and done["restart_required"] == [] and list(done["diff"]["after"]) == [key]
    assert not converge("service", name="a", **{key: value})["changed"] and pid() == first


def test_switching_the_log_off_and_on(converge):
    converge("service", name="a", root="/", command=["/bin/sh", "-c", "echo heard; exec sleep 100000"])
    jail.until(lambda: "heard" in log())
    for enabled in (False, True):
        assert converge("service", name="a", log=dict(enabled=enabled))["restart_required"] == [{"name": "a", "keys": ["log"]}]
        converge("service", name="a", on_change="restart")
        assert converge("service", name="a")["restart_required"] == []
        assert (os.readlink("/proc/%d/fd/1" % pid()) == "/dev/null") == (not enabled)


def test_only_named_keys_change(converge):
    converge("service", name="a", root="/", command=SLEEP, user="nobody", environment={"A": "b"})
    answer = converge("service", name="a", umask="0077")
    assert set(answer["diff"]["after"]) == {"umask"}
    assert show()["user"] == "nobody" and show()["environment"] == ["A"]


def test_namespaces_made_anew_are_noticed(converge):
    converge("namespace", name="n", types=["net", "uts"])
    converge("service", name="a", root="/", command=SLEEP, namespace="n")
    converge("namespace", name="n", types=["net"], state="absent", kill=True)
    converge("namespace", name="n", types=["net", "uts"])
    converge("service", name="a")
    assert os.stat("/proc/%d/ns/net" % pid()).st_ino == os.stat("/run/netns/n").st_ino


def test_values_of_the_environment_are_nowhere(converge):
    answers = [converge("service", name="a", root="/", command=SLEEP, environment={"TOKEN": SECRET}),
               converge("service", check=True, name="a", environment={"TOKEN": SECRET + "2"}),
               converge("service", name="a", environment={"TOKEN": SECRET + "2"})]
    assert SECRET not in json.dumps([answers, show(), service.info(drive.new_host(), {})], default=str)
    assert answers[1]["diff"]["after"]["environment"] == {"TOKEN": "(another value)"}
    for where, dummy, names in os.walk("/run/bulkhead"):
        for name in names:
            path = where + "/" + name
            if path.endswith((".json", "run", "finish", "check", "current")) and os.path.isfile(path) and SECRET in jail.text(path):
                assert os.stat(path).st_mode & 0o077 == 0, path
    assert SECRET not in subprocess.run(["ps", "axww"], capture_output=True, text=True, check=True).stdout


# -- how it ends

def test_children_go_with_it(converge):
    converge("cgroup", name="bulkhead/a", pids_max=50)
    converge("namespace", name="n", types=["pid"])
    for options in (dict(), dict(cgroup="bulkhead/a"), dict(namespace="n")):
        converge("service", name="a", root="/", command=["/bin/sh", "-c", "trap '' TERM; sleep 100001 & sleep 100002; sleep 100003"],
                 stop_timeout="200ms", **options)
        jail.until(lambda: len(_sleepers()) == 2)
        assert converge("service", name="a", state="stopped")["changed"]
        assert not _sleepers()
        converge("service", name="a", state="absent")


def _sleepers():
    shown = subprocess.run(["ps", "axo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in shown.splitlines() if line.startswith("sleep 1000")]


@pytest.mark.parametrize("namespace", [False, True])
@pytest.mark.parametrize("number", ["QUIT", "INT"])
def test_stop_signal(converge, number, namespace):
    if namespace:
        converge("namespace", name="n", types=["pid"])
    converge("service", name="a", root="/", stop_signal=number, command=[
        "/bin/sh", "-c", "trap 'echo got-%s; exit 0' %s; trap 'echo wrong' TERM; echo ready; while :; do sleep 0.05; done" % (number, number)],
        **({"namespace": "n"} if namespace else {}))
    jail.until(lambda: "ready" in log())
    converge("service", name="a", state="stopped")
    jail.until(lambda: "got-" + number in log())
    assert "wrong" not in log()


@pytest.mark.parametrize(("restart", "code", "again"), [("no", 0, False), ("no", 1, False), ("on-failure", 0, False), ("on-failure", 1, True),
                                                        ("always", 0, True), ("always", 1, True)])
def test_restart_policy(converge, tmp_path, restart, code, again):
    command = "echo x >> %s/starts; while [ ! -e %s/end ]; do sleep 0.02; done; rm -f %s/end; exit %d" % (tmp_path, tmp_path, tmp_path, code)
    converge("service", name="a", root="/", command=["/bin/sh", "-c", command], restart=restart)
    (tmp_path / "end").touch()
    jail.until(lambda: not (tmp_path / "end").exists())
    if again:
        jail.until(lambda: len((tmp_path / "starts").read_text().split()) == 2)
        jail.until(lambda: show()["state"] == "started")
    else:
        jail.until(lambda: show()["state"] == "stopped" and runit.status(drive.new_host(), "a")["want"] == "stopped")
        assert len((tmp_path / "starts").read_text().split()) == 1


@pytest.mark.parametrize("victim", ["command", "tini", "runsv", "runsvdir"])
def test_a_killed_part_comes_back(converge, victim):
    converge("namespace", name="n", types=["pid"])
    converge("service", name="a", root="/", namespace="n", command=["/bin/sh", "-c", "sleep 100001; sleep 100002"], restart="always")
    jail.until(lambda: len(_sleepers()) == 1)
    before, host = show(), drive.new_host()
    if victim == "runsvdir":
        os.kill(scan.find(host), signal.SIGKILL)
        converge("service", name="a", state="restarted")
    else:
        parent = int(jail.text("/proc/%d/stat" % before["supervised_pid"]).rpartition(")")[2].split()[1])
        os.kill({"command": before["pid"], "tini": before["supervised_pid"], "runsv": parent}[victim], signal.SIGKILL)
        if victim == "runsv":
            scan.wake(host)
    jail.until(lambda: (show()["pid"] or before["pid"]) != before["pid"])
    jail.until(lambda: len(_sleepers()) == 1 and not alive(before["pid"]))


@pytest.mark.parametrize("restart", ["no", "always"])
def test_start_is_not_confused_by_an_earlier_end(converge, restart):
    """The command has died, and its supervisor tells of it only when the next start is under way."""
    converge("service", name="a", root="/", command=SLEEP, restart=restart)
    before = show()
    parent = int(jail.text("/proc/%d/stat" % before["pid"]).rpartition(")")[2].split()[1])
    os.kill(parent, signal.SIGSTOP)
    os.kill(before["pid"], signal.SIGKILL)
    jail.until(lambda: jail.text("/proc/%d/stat" % before["pid"]).rpartition(")")[2].split()[0] == "Z")  # until then it is a service that runs
    waker = subprocess.Popen(["/bin/sh", "-c", "sleep 0.5; kill -CONT %d" % parent])
    try:
        converge("service", name="a", state="started")
    finally:
        assert waker.wait() == 0
    now = show()
    assert now["state"] == "started" and now["pid"] != before["pid"]


def test_failed_start_is_undone(refuse):
    before = len(os.listdir("/run"))
    line = refuse("service", name="a", root="/", command=["nothing-of-this-name"])
    assert line.startswith("Cannot start a: cannot run nothing-of-this-name: not found. Undone: ")
    assert "Undone: create service a." in line
    assert show() is None and before <= len(os.listdir("/run"))


def test_failed_restart_puts_back_what_ran(converge, refuse):
    converge("service", name="a", root="/", command=SLEEP)
    refuse("service", name="a", command=["nothing-of-this-name"], on_change="restart")
    assert show()["state"] == "started" and show()["command"] == SLEEP
    assert not converge("service", name="a")["changed"]


# -- health

def test_health(converge, tmp_path):
    converge("service", name="a", root="/", command=SLEEP, health=dict(command=["test", "-e", str(tmp_path / "well")], interval="20ms", retries=2))
    assert service.check(drive.new_host(), "a") is False
    (tmp_path / "well").touch()
    assert service.check(drive.new_host(), "a") is True
    assert service.info(drive.new_host(), {"name": "a"})["services"][0]["healthy"] is True
    converge("service", name="a", state="stopped")
    assert service.check(drive.new_host(), "a") is None


def test_unhealthy_is_a_warning(converge):
    answer = converge("service", name="a", root="/", command=SLEEP, health=dict(tcp=9, interval="20ms", retries=1))
    assert any("not healthy" in text for text in answer["warnings"])


@pytest.mark.parametrize("kind", ["tcp", "http"])
def test_probe_is_inside(converge, kind):
    converge("namespace", name="n", types=["net"])
    where = {"tcp": 8099, "http": "http://localhost:8099/etc/hostname"}[kind]
    converge("service", name="a", root="/", namespace="n", command=["/usr/bin/python3", "-m", "http.server", "8099"], health={kind: where, "interval": "2s"})
    assert service.check(drive.new_host(), "a") is True
    converge("service", name="b", root="/", command=SLEEP, health={kind: where, "interval": "20ms", "retries": 1})
    assert service.check(drive.new_host(), "b") is False


# -- the supervisor

def test_supervisor_is_detached_and_alone(converge):
    converge("service", name="a", root="/", command=SLEEP)
    number = scan.find(drive.new_host())
    fields = jail.text("/proc/%d/stat" % number).rpartition(")")[2].split()
    assert int(fields[3]) != os.getsid(0) and int(fields[2]) != os.getpgrp()
    targets = {fd: os.readlink("/proc/%d/fd/%s" % (number, fd)) for fd in os.listdir("/proc/%d/fd" % number)}
    assert all(target == "/dev/null" or target == "/" or target.startswith("pipe:") for target in targets.values()), targets
    converge("service", name="b", root="/", command=SLEEP)
    assert scan.find(drive.new_host()) == number


def test_nothing_of_python_stays(converge):
    converge("namespace", name="n", types=["pid"])
    converge("service", name="a", root="/", namespace="n", command=SLEEP)
    shown = show()
    assert os.path.basename(os.readlink("/proc/%d/exe" % shown["supervised_pid"])) == "tini"
    assert sorted(int(fd) for fd in os.listdir("/proc/%d/fd" % shown["pid"])) == [0, 1, 2]


def test_entry_is_read_only_and_made_again(converge):
    converge("service", name="a", root="/", command=SLEEP)
    assert os.statvfs("/run/bulkhead/bin/python3").f_flag & os.ST_RDONLY
    for spoil in (lambda: syscalls.umount("/run/bulkhead/bin/python3"), lambda: os.unlink("/run/bulkhead/bin/enter"),
                  lambda: os.unlink("/run/bulkhead/bin/enter.py"), lambda: jail.write("/run/bulkhead/bin", "interpreter", "/bin/true")):
        spoil()
        converge("service", name="a", state="restarted")
        assert os.statvfs("/run/bulkhead/bin/python3").f_flag & os.ST_RDONLY and os.path.exists("/run/bulkhead/bin/enter")


def test_seccomp_lists(converge, refuse):
    os.makedirs("/etc/bulkhead/seccomp", exist_ok=True)
    common = "read write open openat close execve brk mmap munmap mprotect pread64 access arch_prctl set_tid_address set_robust_list rseq prlimit64 " \
             "getrandom fstat newfstatat clock_nanosleep exit_group nanosleep fcntl capset prctl chdir"
    jail.write("/etc/bulkhead/seccomp", "few", "# what sleep needs\n%s\n" % common.replace(" ", "\n"))
    jail.write("/etc/bulkhead/seccomp", "odd", "read\nexecve\nno_such_call\n")
    try:
        converge("service", name="a", root="/", command=SLEEP, seccomp="few")
        assert "Seccomp:\t2" in jail.text("/proc/%d/status" % pid())
        converge("service", name="b", root="/", command=SLEEP, seccomp=common.split())
        assert "no_such_call" in refuse("service", name="c", root="/", command=SLEEP, seccomp="odd")
        assert "/etc/bulkhead/seccomp/none" in refuse("service", name="c", root="/", command=SLEEP, seccomp="none")
        assert "not_a_call" in refuse("service", name="c", root="/", command=SLEEP, seccomp=["execve", "not_a_call"])
    finally:
        os.unlink("/etc/bulkhead/seccomp/few")
        os.unlink("/etc/bulkhead/seccomp/odd")
        os.rmdir("/etc/bulkhead/seccomp")


# -- refusals

@pytest.mark.parametrize(("options", "word"), [
    (dict(root="/"), "no command"), (dict(command=SLEEP), "no root"), (dict(root="/", command=SLEEP, namespace="none"), "no namespaces none"),
    (dict(root="/", command=SLEEP, user="no-one-here"), "no user no-one-here"), (dict(root="/", command=SLEEP, user="4242"), "its group must be given"),
    (dict(root="/", command=SLEEP, group="none-here"), "no group none-here"), (dict(root="/", command=SLEEP, groups=["none-here"]), "no group none-here"),
    (dict(root="/none", command=SLEEP), "is no directory"), (dict(root="/etc/passwd", command=SLEEP), "is no directory"),
    (dict(root="/", command=SLEEP, cgroup="none"), "no cgroup none"), (dict(command=SLEEP, bind=jail.BINDS), "no root"),
    (dict(root="/", command=SLEEP, ambient_capabilities=["sys_time"]), "sys_time")])
def test_refused_before_anything_is_touched(refuse, options, word):
    assert word in refuse("service", name="a", **options)
    assert not os.path.exists("/run/bulkhead/service/a")
