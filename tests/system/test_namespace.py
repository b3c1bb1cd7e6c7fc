# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sets of namespaces on this kernel: every type, every state, every broken pin, and what a keeper is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

import drive

from module_utils._kernel import nsfs, syscalls
from module_utils._resources import namespace

ALL = ["user", "cgroup", "ipc", "uts", "net", "pid", "time", "mnt"]
MAPS = dict(uid_map=["0 100000 65536"], gid_map=[dict(inside=0, outside=100000, count=65536)])
HERE = os.path.dirname(os.path.realpath(__file__))


@pytest.fixture(autouse=True)
def tidy():
    yield
    for name in namespace.names(drive.new_host()):
        drive.converge("namespace", dict(name=name, state="absent", kill=True, force=True))


def show(name="web"):
    return namespace.show(drive.new_host(), name)


def pins(name="web"):
    return namespace.Found(drive.new_host(), name).pins


def inside(kinds, *command, name="web"):
    argv = ["nsenter"] + ["--%s=%s" % ({"mnt": "mount"}.get(kind, kind), pins(name)[kind].path) for kind in kinds] + list(command)
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


def text(path):
    with open(path, encoding="utf-8") as stream:
        return stream.read().strip()


def until(condition, patience=20):
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("kind", ALL)
def test_each_type_alone(full_cycle, kind):
    more = MAPS if kind == "user" else {}
    full_cycle("namespace", dict(name="web", types=[kind], **more), dict(name="web", state="absent"))


def test_all_types_at_once(converge, full_cycle):
    options = dict(name="web", types=ALL, hostname="inner", domainname="example", time_offsets={"boottime": 5000}, loopback=True,
                   sysctls={"net.ipv4.ip_forward": 1, "kernel.shmmax": 8192, "fs.mqueue.msg_max": 20, "user.max_net_namespaces": 7}, **MAPS)
    converge("namespace", **options)
    found = show()
    assert sorted(found["types"]) == sorted(ALL) and all(pin["alive"] for pin in found["types"].values())
    assert (found["hostname"], found["domainname"], found["loopback"]) == ("inner", "example", True)
    assert found["uid_map"] == found["gid_map"] == [[0, 100000, 65536]]
    assert found["time_offsets"] == {"monotonic": 0, "boottime": 5000}
    assert inside(["uts"], "hostname") == "inner" != os.uname().nodename
    values = inside(["net", "ipc"], "cat", *("/proc/sys/" + key for key in ("net/ipv4/ip_forward", "kernel/shmmax", "fs/mqueue/msg_max")))
    assert values.split() == ["1", "8192", "20"]
    assert float(inside(["time"], "cat", "/proc/uptime").split()[0]) > 5000
    user = pins()["user"].identity
    assert all(nsfs.owner(pin.path) == user for kind, pin in pins().items() if kind != "user")
    converge("namespace", name="web", state="absent")
    full_cycle("namespace", options, dict(name="web", state="absent"))


def test_net_is_what_ip_netns_shows(converge):
    converge("namespace", name="web", types=["net"])
    assert "web" in subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout.split()
    lo = subprocess.run(["ip", "netns", "exec", "web", "ip", "-br", "link", "show", "lo"], capture_output=True, text=True, check=True).stdout
    assert "UP" in lo.split("<")[1]
    subprocess.run(["ip", "netns", "delete", "web"], check=True)
    assert converge("namespace", name="web", types=["net"])["changed"]
    assert pins()["net"].alive


def test_lo_stays_down_when_told(converge):
    converge("namespace", name="web", types=["net"], loopback=False)
    assert show()["loopback"] is False
    assert not converge("namespace", name="web", types=["net"])["changed"]
    assert converge("namespace", name="web", types=["net"], loopback=True)["actions"] == ["bring up lo of namespaces web"]
    assert show()["loopback"] is True


def test_names_and_sysctls_change_in_place(converge):
    first = dict(name="web", types=["uts", "net", "user"], hostname="one", sysctls={"net.ipv4.ip_forward": 0, "user.max_uts_namespaces": 3}, **MAPS)
    converge("namespace", **first)
    before = {kind: pin.identity for kind, pin in pins().items()}
    second = dict(first, hostname="two", sysctls={"net/ipv4/ip_forward": "1", "user.max_uts_namespaces": 4})
    predicted = converge("namespace", check=True, **second)
    done = converge("namespace", **second)
    assert predicted == done
    assert done["diff"] == {"before": {"hostname": "one", "sysctls.net/ipv4/ip_forward": "0", "sysctls.user/max_uts_namespaces": "3"},
                            "after": {"hostname": "two", "sysctls.net/ipv4/ip_forward": "1", "sysctls.user/max_uts_namespaces": "4"}}
    assert not converge("namespace", **second)["changed"]
    assert {kind: pin.identity for kind, pin in pins().items()} == before


def test_a_failed_change_is_undone(refuse, converge):
    converge("namespace", name="web", types=["uts", "net"], hostname="one")
    message = refuse("namespace", name="web", types=["uts", "net"], hostname="two", sysctls={"net.ipv4.ip_forward": "nonsense"})
    assert "Invalid argument" in message and "Undone: set hostname" in message
    assert show()["hostname"] == "one"
    assert "there is none of that name in a namespace" in refuse("namespace", name="web", types=["net"], sysctls={"net.ipv4.no_such": 1})


def test_a_birth_that_fails_leaves_nothing(refuse):
    message = refuse("namespace", name="web", types=["uts", "net", "pid"], sysctls={"net.ipv4.ip_forward": "nonsense"})
    assert message.startswith("Cannot create uts, net, pid of namespaces web: Invalid argument")
    assert show() is None and not os.path.exists("/run/netns/web") and not os.path.exists("/run/bulkhead/ns/web")


def test_types_are_added_to_a_living_set(converge):
    converge("namespace", name="web", types=["net", "uts"], hostname="one")
    before = pins()
    done = converge("namespace", name="web", types=["net", "uts", "ipc", "pid", "mnt"])
    assert done["actions"] == ["create ipc, pid, mnt of namespaces web"]
    after = pins()
    assert after["net"].identity == before["net"].identity and after["uts"].identity == before["uts"].identity
    keeper = show()["keeper"]
    for kind in ("net", "uts", "ipc", "pid", "mnt"):
        assert nsfs.identity("/proc/%d/ns/%s" % (keeper, kind)) == after[kind].identity
    assert not converge("namespace", name="web", types=["net"])["changed"]  # fewer are named: the others are left alone
    assert converge("namespace", name="web", types=["ipc"], state="absent")["changed"]
    assert pins()["ipc"].state == "absent" and pins()["net"].alive
    assert drive.new_host().records.options("namespace", "web") == {"types": ["uts", "net", "pid", "mnt"], "hostname": "one"}


def plain_file(path):
    with open(path, "w", encoding="ascii"):
        pass


def other_type(path):
    plain_file(path)
    syscalls.mount("/proc/self/ns/user", path, None, syscalls.MS_BIND)


def other_mount(path):
    if not os.path.exists(path):
        plain_file(path)
    syscalls.mount("/etc/hostname", path, None, syscalls.MS_BIND)


def stacked(path):
    other_type(path)
    other_mount(path)


def link(path):
    os.symlink("/etc/hostname", path)


@pytest.mark.parametrize("damage", [plain_file, other_type, other_mount, stacked, link, os.mkdir])
@pytest.mark.parametrize("kind", ["net", "ipc", "mnt"])
def test_broken_pins_are_mended(converge, damage, kind):
    options = dict(name="web", types=["uts", kind])
    converge("namespace", **options)
    path, uts = pins()[kind].path, pins()["uts"].identity
    nsfs.unpin(path)
    damage(path)
    assert not pins()[kind].alive
    assert converge("namespace", check=True, **options)["actions"] == converge("namespace", **options)["actions"] == [
        "remove %s of namespaces web" % kind, "create %s of namespaces web" % kind]
    assert not converge("namespace", **options)["changed"]
    assert pins()[kind].alive and pins()["uts"].identity == uts


@pytest.mark.parametrize("damage", [plain_file, other_type, link, os.mkdir])
def test_broken_pins_are_removed(converge, damage):
    converge("namespace", name="web", types=["uts", "net"])
    for kind in ("uts", "net"):
        nsfs.unpin(pins()[kind].path)
        damage(pins()[kind].path)
    assert converge("namespace", name="web", state="absent")["changed"]
    assert not converge("namespace", name="web", state="absent")["changed"]
    assert not os.path.lexists("/run/netns/web") and not os.path.lexists("/run/bulkhead/ns/web")


def kill(pid):
    os.kill(pid, signal.SIGKILL)
    until(lambda: not nsfs.running(pid))
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        pass


def test_a_dead_pid_namespace_is_made_again(converge):
    options = dict(name="web", types=["pid", "net", "mnt"])
    converge("namespace", **options)
    before = pins()
    kill(show()["keeper"])
    assert pins()["pid"].state == "dead" and show()["types"]["pid"]["condition"] == "dead"
    done = converge("namespace", **options)
    assert done["actions"] == ["remove pid of namespaces web", "create pid of namespaces web"]
    assert done["diff"]["before"]["stale"] == {"pid": "dead"}
    after = pins()
    assert after["pid"].alive and after["net"].identity == before["net"].identity and after["mnt"].identity == before["mnt"].identity
    assert nsfs.identity("/proc/%d/ns/mnt" % after["pid"].init) == after["mnt"].identity
    assert not converge("namespace", **options)["changed"]


def test_liveness_without_the_new_ioctls(converge, monkeypatch):
    converge("namespace", name="web", types=["pid"])
    monkeypatch.setattr(nsfs, "_NS_GET_PID_FROM_PIDNS", 0xB7FF)
    keeper = pins()["pid"].init
    assert pins()["pid"].alive and nsfs.identity("/proc/%d/ns/pid" % keeper) == pins()["pid"].identity
    kill(keeper)
    assert pins()["pid"].state == "dead"


def test_the_keeper(converge):
    converge("namespace", name="web", types=["pid", "mnt", "net"])
    keeper = show()["keeper"]
    proc = "/proc/%d/" % keeper
    assert os.listdir(proc + "fd") == []
    assert os.readlink(proc + "exe").startswith("/memfd:keeper")
    until(lambda: text(proc + "comm") == "keeper")  # it has just been executed
    with open(proc + "status", encoding="ascii") as stream:
        status = dict(line.rstrip("\n").split(":\t", 1) for line in stream if ":\t" in line)
    assert status["Name"] == "keeper" and status["NSpid"].split()[-1] == "1"
    assert int(status["SigIgn"], 16) >> (signal.SIGCHLD - 1) & 1
    with open(proc + "smaps_rollup", encoding="ascii") as stream:
        assert next(int(line.split()[1]) for line in stream if line.startswith("Pss:")) <= 64
    with pytest.raises(OSError), open(proc + "exe", "r+b"):
        pass  # nobody writes to it
    os.kill(keeper, signal.SIGTERM)
    # An orphan inside is reaped by the kernel, as SIGCHLD is ignored.
    inside(["pid", "mnt"], "sh", "-c", "(true & exec true) & exec true")
    until(lambda: not text(proc + "task/%d/children" % keeper))
    assert nsfs.running(keeper)
    # Without privilege nothing of it can be followed, although it runs as the same user.
    assert subprocess.run(["setpriv", "--reuid", "0", "--bounding-set", "-sys_ptrace,-dac_override,-dac_read_search", "--inh-caps",
                           "-all", "readlink", proc + "root"], capture_output=True, check=False).returncode != 0


def test_what_the_kernel_fixed_is_refused_or_made_again(converge, refuse):
    converge("namespace", name="web", types=["user", "net", "time"], time_offsets={"monotonic": 10}, **MAPS)
    wider = dict(name="web", types=["user", "net"], uid_map=["0 200000 1000"], gid_map=MAPS["gid_map"])
    message = refuse("namespace", **wider)
    assert message.startswith("Cannot change uid_map of namespaces web") and "on_mismatch: recreate" in message
    done = converge("namespace", on_mismatch="recreate", **wider)
    assert done["actions"] == ["remove user, net of namespaces web", "create user, net of namespaces web"]
    assert done["diff"]["before"]["uid_map"] == [[0, 100000, 65536]] and done["diff"]["after"]["uid_map"] == [[0, 200000, 1000]]
    assert not converge("namespace", **wider)["changed"]
    later = dict(name="web", types=["time"], time_offsets={"boottime": -3})
    assert "time_offsets" in refuse("namespace", **later)
    assert converge("namespace", on_mismatch="recreate", **later)["changed"]
    assert show()["time_offsets"] == {"monotonic": 0, "boottime": -3}


def test_owned_by_another_set(converge, refuse):
    options = dict(name="app", types=["net", "uts", "pid"], owner="web", hostname="owned")
    warned = converge("namespace", check=True, **options)
    assert warned["changed"] and "no user namespace of the name web" in warned["warnings"][0]
    assert "no user namespace of the name web" in refuse("namespace", **options)
    converge("namespace", name="web", types=["user"], **MAPS)
    converge("namespace", **options)
    assert not converge("namespace", **options)["changed"]
    assert {nsfs.owner(pin.path) for pin in pins("app").values() if pin.alive} == {pins()["user"].identity}
    assert "keeper" in refuse("namespace", name="web", state="absent")  # the keeper of app lives in it
    converge("namespace", name="app", state="absent")
    converge("namespace", name="app", types=["net"])
    assert "Cannot change owner" in refuse("namespace", name="app", types=["net"], owner="web")
    assert converge("namespace", name="app", types=["net"], owner="web", on_mismatch="recreate")["changed"]


def test_who_lives_inside_is_named_or_killed(converge, refuse):
    converge("namespace", name="web", types=["net", "uts", "pid"])
    outside = subprocess.Popen(["ip", "netns", "exec", "web", "sleep", "1000"])
    within = subprocess.Popen(["nsenter", "--pid=" + pins()["pid"].path, "sleep", "1000"])
    try:
        def living():
            return sorted(namespace.members(drive.new_host(), namespace.Found(drive.new_host(), "web"), ["net", "pid"]).values())

        until(lambda: living() == ["sleep", "sleep"])
        message = refuse("namespace", check=True, name="web", state="absent")
        assert message == refuse("namespace", name="web", state="absent")
        assert "%d (" % outside.pid in message and "2 processes live" in message and "kill: true" in message
        assert converge("namespace", name="web", state="absent", kill=True)["changed"]
        assert outside.wait(20) == -signal.SIGKILL and within.wait(20) in (-signal.SIGKILL, 128 + signal.SIGKILL)
    finally:
        outside.kill()
        within.kill()
        outside.wait()
        within.wait()


def test_what_others_made(converge, refuse):
    subprocess.run(["ip", "netns", "add", "web"], check=True)
    try:
        assert not converge("namespace", name="web", types=["net"])["changed"]  # as declared, and not adopted
        assert show()["owned"] is False
        for options in (dict(types=["net", "uts"]), dict(types=["net"], loopback=True), dict(state="absent")):
            assert "was made by somebody else" in refuse("namespace", name="web", **options)
            assert "was made by somebody else" in refuse("namespace", check=True, name="web", **options)
        converge("namespace", name="web", types=["net"], loopback=True, force=True)
        assert show()["loopback"] and not show()["owned"]
        converge("namespace", name="web", state="absent", force=True)
        assert not os.path.exists("/run/netns/web")
    finally:
        nsfs.unpin("/run/netns/web")


def test_replaced_by_others_is_foreign(converge, refuse):
    converge("namespace", name="web", types=["net"])
    subprocess.run(["ip", "netns", "add", "other"], check=True)  # while web is there, so that it gets a number of its own
    subprocess.run(["ip", "netns", "delete", "web"], check=True)
    nsfs.make_pin("/run/netns/other", "/run/netns/web")
    subprocess.run(["ip", "netns", "delete", "other"], check=True)
    assert "was made by somebody else" in refuse("namespace", name="web", state="absent")
    subprocess.run(["ip", "netns", "delete", "web"], check=True)
    converge("namespace", name="web", state="absent")


def test_the_keeper_lives_in_the_cgroup(converge, refuse):
    options = dict(name="web", types=["pid", "cgroup", "net"], cgroup="bulkhead/web")
    assert "no cgroup bulkhead/web" in converge("namespace", check=True, **options)["warnings"][0]
    assert "there is no cgroup bulkhead/web" in refuse("namespace", **options)
    converge("cgroup", name="bulkhead/web")
    try:
        converge("namespace", **options)
        assert not converge("namespace", **options)["changed"]
        with open("/proc/%d/cgroup" % show()["keeper"], encoding="ascii") as stream:
            assert any(line.rstrip().endswith(("/bulkhead/web", "/bulkhead/web/keeper")) for line in stream)
        assert "/bulkhead" not in inside(["pid", "cgroup"], "cat", "/proc/%d/cgroup" % show()["keeper"])
        converge("cgroup", name="bulkhead/other")
        moved = dict(options, cgroup="bulkhead/other")
        assert "Cannot change cgroup" in refuse("namespace", **moved)
        assert converge("namespace", on_mismatch="recreate", **moved)["actions"][1] == "create cgroup, pid of namespaces web"
        assert not converge("namespace", **moved)["changed"]
    finally:
        converge("namespace", name="web", state="absent")
        for name in ("bulkhead/web", "bulkhead/other", "bulkhead"):
            converge("cgroup", name=name, state="absent", force=True)


def test_pids_survive_the_maker(converge):
    """Made by another process, as by a module: the keeper outlives it, and a second one sees it all as it is."""
    options = dict(name="web", types=["net", "uts", "pid", "mnt"], hostname="web")
    for changed in (True, False):
        done = subprocess.run([sys.executable, drive.__file__, "namespace", json.dumps(options)], capture_output=True, text=True, check=True)
        assert json.loads(done.stdout)["changed"] is changed, done.stdout
    assert pins()["pid"].alive and not converge("namespace", **options)["changed"]


@pytest.mark.parametrize("first, second", [(0, 1), (1, 0), (0, 0)])
def test_pinned_from_a_later_mount_namespace(first, second):
    """The kernel hands out ids of mount namespaces per CPU, and refuses to pin one with a smaller id than the pinner's."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        cpus = cpus * 2
    code = (
        "import os, sys; sys.path.insert(0, %r); import drive\n"
        "from module_utils._kernel import syscalls\n"
        "os.sched_setaffinity(0, {%d}); syscalls.unshare(syscalls.CLONE_NEWNS); os.sched_setaffinity(0, {%d})\n"
        "for options in (dict(types=['mnt', 'pid']), dict(state='absent')):\n"
        "    for changed in (True, False):\n"
        "        done = drive.converge('namespace', dict(name='far', **options))\n"
        "        assert done['changed'] is changed, done\n" % (HERE, cpus[first], cpus[second])
    )
    for dummy in range(3):
        subprocess.run([sys.executable, "-c", code], check=True)
    nsfs.unpin("/run/bulkhead/ns/far/mnt")


@pytest.mark.parametrize("root", ["private", "shared"])
def test_with_either_kind_of_root(root):
    """All of it on a host whose mounts are shared, as systemd leaves them, and on one whose mounts are private."""
    script = "\n".join((
        "set -e",
        "drive() { %s %s/drive.py namespace \"$1\" | grep -q '\"changed\": '$2; }" % (sys.executable, HERE),
        "all='{\"name\": \"web\", \"types\": [\"net\",\"uts\",\"ipc\",\"mnt\",\"pid\",\"cgroup\",\"time\"], \"hostname\": \"web\"}'",
        "drive \"$all\" true; drive \"$all\" false",
        "ip netns exec web ip link show lo | grep -q UP",
        "nsenter --mount=/run/bulkhead/mntns/web --pid=/run/bulkhead/ns/web/pid --uts=/run/bulkhead/ns/web/uts hostname | grep -qx web",
        "drive '{\"name\": \"web\", \"state\": \"absent\"}' true; drive '{\"name\": \"web\", \"state\": \"absent\"}' false",
        "test -z \"$(ls -A /run/netns /run/bulkhead/ns /run/bulkhead/mntns | grep web)\"",
    ))
    subprocess.run([sys.executable, os.path.dirname(HERE) + "/alone", "--root", root, "bash", "-c", script], check=True)


def test_the_cgroup_namespace_is_rooted_in_the_declared_cgroup(converge, host):
    """On cgroup2 processes live in leaves below it, and see themselves there, not beside it."""
    converge("cgroup", name="bulkhead/rooted")
    converge("namespace", name="rooted", types=["pid", "cgroup"], cgroup="bulkhead/rooted")
    try:
        keeper = drive.resource("namespace").show(drive.new_host(), "rooted")["keeper"]
        seen = subprocess.run(["nsenter", "--cgroup=/run/bulkhead/ns/rooted/cgroup", "cat", "/proc/%d/cgroup" % keeper],
                              check=True, capture_output=True, text=True).stdout.splitlines()
        unified = host.cgroups().mode == "unified"
        counted = ("",) if unified else ("memory", "pids", "cpu")
        assert {line.split(":", 2)[2] for line in seen if line.split(":")[1] in counted} == {"/keeper" if unified else "/"}
    finally:
        converge("namespace", name="rooted", state="absent")
        converge("cgroup", name="bulkhead/rooted", state="absent")
