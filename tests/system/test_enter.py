# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The entry by itself: what a spec makes of the process that becomes the command."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

import drive
import jail

from module_utils._kernel import nsfs, seccomp, syscalls

ENTER = os.path.join(drive.ROOT, "plugins", "module_utils", "_program", "enter.py")
ALONE = os.path.join(drive.ROOT, "tests", "alone")
KINDS = ("net", "uts", "ipc", "mnt", "pid", "cgroup", "time")


@pytest.fixture
def spec(tmp_path):
    """spec(**keys): the path of a spec whose command is told by ``sh`` or ``command``."""

    def make(sh=None, **keys):
        keys.setdefault("command", ["/bin/sh", "-c", sh])
        path = tmp_path / "spec.json"
        path.write_text(json.dumps(dict({"name": "test", "capabilities": []}, **keys)))
        return str(path)

    return make


@pytest.fixture
def root(tmp_path):
    """A plain root whose /usr is bound in."""
    path = jail.make(tmp_path / "root")
    for bind in jail.BINDS:
        os.makedirs(path + bind["target"], exist_ok=True)
        syscalls.mount(bind["source"], path + bind["target"], None, syscalls.MS_BIND)
    yield path
    for bind in reversed(jail.BINDS):
        syscalls.umount(path + bind["target"])


def enter(path, status=0, before=(), **keys):
    ended = subprocess.run([*before, sys.executable, "-IS", ENTER, path], capture_output=True, text=True, timeout=60, check=False, **keys)
    assert ended.returncode == status, ended.stderr or ended.stdout
    return ended.stdout.strip() if status == 0 else ended.stderr


def refused(path, word, status=125, **keys):
    line = enter(path, status, **keys)
    assert line.startswith("Cannot enter test: ") and line.endswith(".\n") and line.count("\n") == 1, line
    assert word in line


def fields(text):
    return {key: value.split() for key, dummy, value in (line.partition(":") for line in text.splitlines())}


# -- who it is

@pytest.mark.parametrize(("keys", "expected"), [
    ({}, (0, 0, [0, 1035])),
    ({"user": "web"}, (1033, 1034, [1035])),
    ({"user": "1033"}, (1033, 1034, [1035])),
    ({"user": "77", "group": "78"}, (77, 78, [])),
    ({"user": "77", "group": "web", "groups": ["more", "9"]}, (77, 1034, [9, 1035])),
    ({"user": "web", "groups": []}, (1033, 1034, [])),
    ({"user": "4294967294", "group": "4294967294"}, (4294967294, 4294967294, [])),
])
def test_identity(spec, root, keys, expected):
    uid, gid, groups = enter(spec("id -u; id -g; id -G", root=root, **keys)).splitlines()
    assert (int(uid), int(gid)) == expected[:2]
    assert set(map(int, groups.split())) - {int(gid)} == set(expected[2]) - {int(gid)}


@pytest.mark.parametrize("user", ["-1", "4294967295", "4294967296", "99999999999999999999", "+1", "01", "0x1", "1e3", "0:0", "1\n", "\u0661", "nobody-here"])
def test_bad_user(spec, root, user):
    refused(spec("id", root=root, user=user, group="0"), "user")


@pytest.mark.parametrize(("user", "word"), [("odd", "-1"), ("big", "4294967295")])
def test_bad_id_in_passwd(spec, root, user, word):
    """CVE-2026-30892: an id is digits or nothing."""
    refused(spec("id", root=root, user=user), word)


@pytest.mark.parametrize("group", ["-1", "4294967295", "odd", "none"])
def test_bad_group(spec, root, group):
    refused(spec("id", root=root, user="web", group=group), "group")


def test_number_without_entry_needs_a_group(spec, root):
    refused(spec("id", root=root, user="4242"), "group must be given")


WORDS = {"outside": "cannot look up its user", "magic": "cannot look up its user", "loop": "cannot look up its user", "socket": "cannot look up its user",
         "proc": "", "fifo": "not a regular file", "directory": "not a regular file", "large": "larger than"}


@pytest.mark.parametrize("block", ["", "openat2"])
@pytest.mark.parametrize("kind", ["outside", "magic", "proc", "fifo", "directory", "large", "socket", "loop"])
def test_passwd_that_is_none(spec, root, kind, block):
    """The root's own file, whatever it is, leads nowhere else."""
    path = root + "/etc/passwd"
    os.unlink(path)
    before = [ALONE, "--block", block] if block else []
    if kind == "outside":  # to the host's file in every lookup that does not stop at the root; in it, to itself
        os.symlink("../../../../../../../../etc/passwd", path)
    elif kind == "magic":
        os.symlink("/proc/1/root/etc/passwd", path)
        syscalls.mount("proc", root + "/proc", "proc")
    elif kind == "proc":
        os.symlink("/proc/self/environ", path)
        syscalls.mount("proc", root + "/proc", "proc")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        os.mkdir(path)
    elif kind == "large":
        jail.write(root, "etc/passwd", "web:x:1:1::/:\n" * 400000)
    elif kind == "socket":
        socket.socket(socket.AF_UNIX).bind(path)
    else:
        os.symlink("passwd", path)
    try:
        refused(spec("id", root=root, user="daemon"), WORDS[kind], before=before)
    finally:
        if kind in ("magic", "proc"):
            syscalls.umount(root + "/proc")


@pytest.mark.parametrize("block", ["", "openat2"])
def test_links_inside_the_root(spec, root, block):
    os.rename(root + "/etc/passwd", root + "/var/users")
    os.symlink("/../var/./users", root + "/etc/passwd")
    os.symlink("/var", root + "/link")
    before = [ALONE, "--block", block] if block else []
    assert enter(spec("id -u; pwd", root=root, user="web", cwd="/link/../var/"), before=before).split() == ["1033", "/var"]


# -- what it has

def test_environment_is_exact(spec):
    shown = enter(spec(command=["env"], environment={"A": "1 \u00e9", "HOME": "/x"}), env=dict(os.environ, SECRET="s"))
    assert sorted(shown.splitlines()) == ["A=1 \u00e9", "HOME=/x", "LOGNAME=root",
                                          "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "USER=root"]


def test_nothing_is_open(spec):
    extra = [os.open("/", os.O_RDONLY) for dummy in range(3)] + [os.dup2(1, 200)]
    try:
        shown = enter(spec(command=["/bin/ls", "/proc/self/fd"]), pass_fds=extra)
    finally:
        for fd in extra:
            os.close(fd)
    assert shown.split() == ["0", "1", "2", "3"]  # the last is the listing


def test_input_is_empty(spec):
    assert enter(spec("cat; readlink /proc/self/fd/0"), input="secret") == "/dev/null"


def test_input_is_empty_without_dev(spec, root):
    assert enter(spec("cat; echo end", root=root), input="secret") == "end"


@pytest.mark.parametrize("user", ["root", "nobody"])
def test_output_may_be_opened_again(spec, user):
    assert enter(spec("echo again > /proc/self/fd/1; true", user=user, groups=[])).split("\n")[0] == "again"


def test_signals_are_the_default(spec):
    def spoil():
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGCHLD, 40])

    shown = fields(enter(spec(command=["/bin/cat", "/proc/self/status"]), preexec_fn=spoil))
    assert [int(shown[key][0], 16) for key in ("SigBlk", "SigIgn", "SigCgt")] == [0, 0, 0]


@pytest.mark.parametrize(("keys", "sets"), [
    ({"capabilities": [0, 10]}, [0, 0x401, 0x401, 0x401, 0]),
    ({"capabilities": []}, [0, 0, 0, 0, 0]),
    ({"user": "nobody", "capabilities": [0, 10]}, [0, 0, 0, 0x401, 0]),
    ({"user": "nobody", "capabilities": [0, 10], "ambient": [10]}, [0x400, 0x400, 0x400, 0x401, 0x400]),
    ({"capabilities": [0, 10], "ambient": [10]}, [0x400, 0x401, 0x401, 0x401, 0x400]),
])
@pytest.mark.parametrize("nnp", [True, False])
def test_five_sets(spec, tmp_path, keys, sets, nnp):
    (tmp_path / "filter").write_bytes(seccomp.compile_default([]))
    shown = fields(enter(spec(command=["/bin/cat", "/proc/self/status"], no_new_privs=nnp, seccomp=str(tmp_path / "filter"), groups=[], **keys)))
    assert [int(shown["Cap" + name][0], 16) for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")] == sets
    assert shown["NoNewPrivs"] == [str(int(nnp))] and shown["Seccomp"] == ["2"]


def test_capability_that_the_host_lacks(spec):
    with open("/proc/self/status", encoding="ascii") as stream:
        mask = int(fields(stream.read())["CapPrm"][0], 16)
    lacking = [bit for bit in range(41) if not mask >> bit & 1] or [63]
    refused(spec("true", capabilities=lacking[:1]), "does not have the capabilities numbered %d" % lacking[0])


def test_limits_and_the_like(spec):
    shown = enter(spec("ulimit -Sn; ulimit -Hn; ulimit -c; umask; nice; cat /proc/self/oom_score_adj", umask=0o27, nice=5, oom_score_adj=321,
                       rlimits={"nofile": [100, 200], "core": [0, 0]}))
    assert shown.split() == ["100", "200", "0", "0027", "5", "321"]


def test_session_and_terminal(spec):
    sid, terminal, tty = enter(spec("read -r pid name state parent group sid terminal rest < /proc/$$/stat; echo $((sid - $$)) $terminal; tty || :")
                               ).replace("not a tty", "none").split()
    assert (sid, terminal, tty) == ("0", "0", "none")


def test_own_keyring(spec):
    """keyctl(KEYCTL_GET_KEYRING_ID, session): another one than ours."""
    ask = ("import ctypes, platform; print(ctypes.CDLL(None).syscall({'x86_64': 250, 'aarch64': 219}[platform.machine()], 0, -3, 1))")
    ours = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True).stdout.strip()
    theirs = enter(spec(command=[sys.executable, "-c", ask], capabilities=[1]))
    assert int(theirs) > 0 and theirs != ours


# -- where it is

def test_namespaces(spec, converge):
    converge("cgroup", name="bulkhead/e", pids_max=50)
    converge("namespace", name="e", types=list(KINDS), hostname="inside", cgroup="bulkhead/e")
    try:
        host = drive.new_host()
        pins = {kind: nsfs.pin_path(host, "e", kind) for kind in KINDS}
        joins = host.cgroups().join_files("bulkhead/e", "exec")
        shown = enter(spec("hostname; echo $$; cat /proc/self/cgroup; for k in net uts ipc mnt cgroup time; do readlink /proc/self/ns/$k; done",
                           namespaces=pins, cgroup=joins, capabilities=[1, 19, 21])).splitlines()
        assert shown[0] == "inside" and int(shown[1]) < 50
        for kind, line in zip(("net", "uts", "ipc", "mnt", "cgroup", "time"), shown[-6:]):
            assert line == "%s:[%d]" % (kind, os.stat(pins[kind]).st_ino)
        groups = [line for line in shown if ":memory:" in line or line.startswith("0::")]
        assert groups
    finally:
        converge("namespace", name="e", state="absent", kill=True)
        converge("cgroup", name="bulkhead/e", state="absent", kill=True)


def test_user_namespace(spec, converge):
    maps = dict(uid_map=["0 100000 65536"], gid_map=["0 100000 65536"])
    converge("namespace", name="u", types=["user", "uts", "net", "pid"], **maps)
    try:
        host = drive.new_host()
        pins = {kind: nsfs.pin_path(host, "u", kind) for kind in ("user", "uts", "net", "pid")}
        shown = enter(spec("id -u; cat /proc/self/uid_map; grep CapEff /proc/self/status; hostname changed && hostname",
                           namespaces=pins, capabilities=[21], groups=[])).split()
        assert shown == ["0", "0", "100000", "65536", "CapEff:", "0000000000200000", "changed"]
    finally:
        converge("namespace", name="u", state="absent", kill=True)


def test_started_is_a_link_of_the_spec(spec, tmp_path):
    path = spec("true", started=str(tmp_path / "started.json"))
    for dummy in range(2):
        enter(path)
        assert os.path.samefile(path, tmp_path / "started.json")


def test_directory_of_the_host_is_no_way_out(spec, root):
    """CVE-2024-21626: a working directory that is a descriptor of the host's."""
    fd = os.open("/", os.O_RDONLY)
    syscalls.mount("proc", root + "/proc", "proc")
    try:
        for path in ("/proc/self/fd/%d" % fd, "/proc/1/cwd", "/proc/self/cwd", "/proc/self/root"):
            refused(spec("ls", root=root, cwd=path), "directory", pass_fds=[fd])
            refused(spec("ls", root=root, cwd=path), "directory", pass_fds=[fd], before=[ALONE, "--block", "openat2"])
    finally:
        os.close(fd)
        syscalls.umount(root + "/proc")


def test_missing_things(spec, root, tmp_path):
    refused(spec("true", root=str(tmp_path / "none")), "root")
    refused(spec("true", root=root, cwd="/none"), "directory")
    refused(spec("true", namespaces={"net": str(tmp_path / "none")}), "net namespace")
    refused(spec("true", namespaces={"net": "/proc/self/ns/uts"}), "net namespace")
    refused(spec("true", seccomp=str(tmp_path / "none")), "seccomp")
    refused(spec("true", cgroup=["/sys/fs/cgroup/none/tasks"]), "cgroup")
    (tmp_path / "spec.json").write_text('{"name": "test"')
    assert "Traceback" not in enter(str(tmp_path / "spec.json"), 125)


# -- how it ends

@pytest.mark.parametrize(("command", "status"), [(["/none"], 127), (["none"], 127), (["/etc"], 126), (["/etc/passwd"], 126)])
def test_command_that_cannot_be_run(spec, command, status):
    refused(spec(command=command), "cannot run " + command[0], status)


def test_path_is_that_of_its_environment(spec, root):
    os.makedirs(root + "/var/tools")
    jail.write(root, "var/tools/mine", "#!/bin/sh\necho mine\n")
    os.chmod(root + "/var/tools/mine", 0o755)
    assert enter(spec(command=["mine"], root=root, environment={"PATH": "/none:relative::/var/tools"})) == "mine"


@pytest.mark.parametrize("fork", [False, True])
@pytest.mark.parametrize(("sh", "status"), [("exit 7", 7), ("kill -9 $$", 137)])
def test_status(spec, sh, status, fork):
    ended = subprocess.run([sys.executable, "-IS", ENTER, spec(sh, **({"timeout": 50} if fork else {}))], check=False, timeout=60)
    assert ended.returncode == (status if fork or status < 128 else 128 - status)


def test_time_is_up(spec):
    begin = time.monotonic()
    enter(spec("sleep 50 & sleep 50", timeout=1), 124)
    assert time.monotonic() - begin < 20


def test_signals_are_passed_on(spec, converge, tmp_path):
    converge("namespace", name="s", types=["pid"])
    try:
        pins = {"pid": nsfs.pin_path(drive.new_host(), "s", "pid")}
        note = tmp_path / "note"
        child = subprocess.Popen([sys.executable, "-IS", ENTER, spec(
            "trap 'echo term > %s; exit 3' TERM; touch %s; while :; do sleep 0.05; done" % (note, note), namespaces=pins)])
        jail.until(note.exists)
        child.terminate()
        assert child.wait(20) == 3 and note.read_text() == "term\n"
        with subprocess.Popen([sys.executable, "-IS", ENTER, spec("touch %s.2; exec sleep 1000" % note, namespaces=pins)]) as child:
            jail.until(lambda: os.path.exists(str(note) + ".2"))
            child.kill()  # nobody can pass that on
        jail.until(lambda: not any("sleep\x001000" in jail.text("/proc/%s/cmdline" % pid) for pid in os.listdir("/proc")
                                   if pid.isdigit() and os.path.exists("/proc/%s/cmdline" % pid)))
    finally:
        converge("namespace", name="s", state="absent", kill=True)


# -- the probe

def test_probe(spec):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        where = {"host": "127.0.0.1", "port": server.getsockname()[1], "timeout": 5}
        enter(spec("", probe=where))
        server.accept()[0].close()

        def answer(line):
            peer = server.accept()[0]
            peer.recv(1000)
            peer.sendall(line)
            peer.close()

        for line, status in ((b"HTTP/1.1 200 OK\r\n\r\n", 0), (b"HTTP/1.0 302 Found\r\n", 0), (b"HTTP/1.1 500 No\r\n", 1), (b"\0" * 300, 1), (b"", 1)):
            thread = threading.Thread(target=answer, args=(line,))
            thread.start()
            ended = subprocess.run([sys.executable, "-IS", ENTER, spec("", probe=dict(where, path="/x"))], capture_output=True, check=False, timeout=60)
            thread.join()
            assert ended.returncode == status, (line, ended.stderr)
    refused(spec("", probe=where), "cannot reach it", 1)
