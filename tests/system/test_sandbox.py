# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sandboxes on this kernel: real Debian roots, real services, looked at from outside."""

from __future__ import annotations

import copy
import glob
import os
import signal
import subprocess
import time

import drive
import layers
import pytest

TYPES = ["net", "uts", "ipc", "mnt", "pid", "cgroup"]
SLEEP = {"name": "sleep", "command": ["/bin/sleep", "10000"]}


@pytest.fixture(scope="session")
def base():
    return layers.directory() + "/base"


@pytest.fixture
def declare(base):
    """declare(names…): the options of a task that declares these sandboxes."""

    def act(*names, services=(SLEEP,), **more):
        one = {"namespaces": {"types": TYPES}, "cgroup": {"memory_max": "256M", "pids_max": 64}, "overlay": {"lower": [base]}}
        return dict({"sandboxes": [dict(copy.deepcopy(one), name=name, services=copy.deepcopy(list(services))) for name in names]}, **more)

    return act


@pytest.fixture(autouse=True)
def all_gone(leaves_nothing):
    """After each test its sandboxes and the supervisor are taken away; what is left then is a leak."""
    yield
    answer = drive.converge("sandbox", {"sandboxes": [], "purge": True, "remove_data": True, "kill": True})
    assert "error" not in answer, answer["error"]
    host = drive.new_host()
    from module_utils._supervisor import entry, scan

    scan.shutdown(host)
    entry.clear(host)


def shown(name):
    return drive.resource("sandbox").show(drive.new_host(), name)


def inside(name, *command):
    """What a command prints inside, entered with the tools of the host and not with ours."""
    pins = ["--%s=/run/bulkhead/ns/%s/%s" % (kind, name, kind) for kind in ("uts", "ipc", "pid", "cgroup")]
    argv = ["nsenter", "--mount=/run/bulkhead/ns/%s/mnt" % name, "--net=/run/netns/%s" % name] + pins + ["--"] + list(command)
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


def main_pid(name, service="sleep"):
    found = [each for each in shown(name)["services"] if each["name"] == "%s/%s" % (name, service)][0]
    return found["pid"]


def started(pid):
    """When a process was started, in clock ticks since boot."""
    with open("/proc/%d/stat" % pid, encoding="ascii") as stream:
        return stream.read().rpartition(") ")[2].split()[19]


def until(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.05)


def test_every_state_is_predicted_made_and_kept(full_cycle, declare):
    full_cycle("sandbox", declare("web", "cache"), {"sandboxes": [{"name": "web", "state": "absent"}, {"name": "cache", "state": "absent"}]})


def test_what_is_inside_is_isolated(converge, declare):
    options = declare("web")
    options["sandboxes"][0]["namespaces"]["hostname"] = "inner"
    converge("sandbox", **options)
    assert inside("web", "hostname") == "inner" != os.uname().nodename
    assert inside("web", "cat", "/proc/1/comm") == "keeper"
    for kind in TYPES:
        assert inside("web", "readlink", "/proc/self/ns/" + kind) != os.readlink("/proc/self/ns/" + kind)
    assert inside("web", "stat", "-f", "-c", "%T", "/") == "overlayfs"
    assert sorted(set(inside("web", "ps", "axo", "comm").split())) == ["COMMAND", "keeper", "ps", "sleep"]
    inside("web", "touch", "/root/mine")
    assert os.path.exists("/var/lib/bulkhead/uppers/web/upper/root/mine")
    for line in open("/proc/%d/cgroup" % main_pid("web"), encoding="ascii"):
        number, controllers, path = line.strip().split(":", 2)
        if controllers in ("memory", "pids", "cpu", "freezer"):
            assert path.endswith("/bulkhead/web"), line


def test_all_input_errors_come_at_once_with_their_paths(refuse, declare):
    options = declare("web", "web", "../x")
    options["sandboxes"][0]["cgroup"]["memory_max"] = "12Q"
    options["sandboxes"][0]["namespaces"]["types"] = ["net", "moon"]
    options["sandboxes"][1]["services"][0]["capabilities"] = ["fly"]
    options["sandboxes"][1]["color"] = "blue"
    error = refuse("sandbox", **options)
    for path in ("sandboxes[0].cgroup.memory_max: ", "sandboxes[0].namespaces.types[1]: ", "sandboxes[1].services[0].capabilities[0]: ",
                 "sandboxes[1].color: ", "sandboxes[1].name: ", "sandboxes[2].name: "):
        assert path in error
    assert not os.path.exists("/run/bulkhead/ns/web")


def test_one_that_fails_is_undone_and_the_others_are_made(declare, tmp_path):
    options = declare("good", "bad", "fine")
    options["sandboxes"][1]["bind"] = [{"source": str(tmp_path / "missing"), "target": "/mnt"}]
    options["sandboxes"][1]["services"] = []
    answer = drive.converge("sandbox", options)
    assert "bad" in answer["error"] and "\n" not in answer["error"]
    assert shown("good") and shown("fine") and not shown("bad")
    assert drive.converge("sandbox", declare("good", "fine"))["changed"] is False


@pytest.mark.parametrize("others", [(), ("good",)])
def test_those_that_fail_first_leave_what_the_others_live_in(converge, declare, others):
    options = declare("bad", "worse", *others)
    for each in options["sandboxes"][:2]:
        each["services"] = [{"name": "x", "command": ["/bin/no-such-command"]}]
    answer = drive.converge("sandbox", options)
    assert [answer["keys"][name]["not_undone"] for name in ("bad", "worse")] == [[], []], answer
    assert bool(glob.glob("/sys/fs/cgroup/*/bulkhead")) == bool(others)
    if others:
        converge("sandbox", sandboxes=[{"name": name, "state": "absent"} for name in others], remove_data=True)
    assert not glob.glob("/sys/fs/cgroup/*/bulkhead")


MADE = ["make directory /var/lib/bulkhead/uppers/web/work", "make directory /var/lib/bulkhead/uppers/web/upper", "create cgroup bulkhead/web"]
BIRTH = "create cgroup, ipc, uts, net, pid, mnt of namespaces web"


@pytest.mark.parametrize(("more", "failed", "undone"), [
    # What only the kernel refuses: a sysctl's value inside the new namespaces, and, as the very last, a start.
    ({"namespaces": {"types": TYPES, "sysctls": {"net.ipv4.ip_forward": "banana"}}}, BIRTH, MADE),
    ({"services": [{"name": "x", "command": ["/bin/no-such-command"]}]}, "start service web/x", ["create service web/x", BIRTH] + MADE),
])
def test_a_failure_half_way_undoes_what_was_made(declare, more, failed, undone):
    options = declare("web")
    options["sandboxes"][0].update(more)
    answer = drive.converge("sandbox", options)
    assert answer["keys"]["web"] == {"failed_step": failed, "undone": undone, "not_undone": []}, answer
    assert answer["error"].endswith(" Undone: %s." % ", ".join(undone))
    assert not answer["changed"] and not answer["actions"] and shown("web") is None
    left = [where + "/" + name for top in ("/run/bulkhead", "/run/netns", "/etc/bulkhead", "/var/lib/bulkhead", "/var/log/bulkhead")
            for where, names, files in os.walk(top) for name in names + files if "web" in name or where.startswith("/run/bulkhead/made/")]
    assert not left + glob.glob("/sys/fs/cgroup/*/bulkhead")


def test_a_limit_changes_in_place_and_the_service_runs_on(converge, declare):
    options = declare("web")
    converge("sandbox", **options)
    pid = main_pid("web")
    born = started(pid)
    options["sandboxes"][0]["cgroup"]["memory_max"] = "128M"
    options["sandboxes"][0]["namespaces"]["hostname"] = "renamed"
    options["sandboxes"][0]["tmpfs"] = [{"target": "/srv", "size": "1M"}]
    predicted = converge("sandbox", check=True, **options)
    done = converge("sandbox", **options)
    assert predicted["actions"] == done["actions"] and done["restart_required"] == []
    assert (main_pid("web"), started(pid)) == (pid, born)
    assert inside("web", "hostname") == "renamed" and inside("web", "stat", "-f", "-c", "%T", "/srv") == "tmpfs"
    assert not converge("sandbox", **options)["changed"]


def test_a_dropped_key_returns_to_the_kernel_s_default(converge, declare):
    options = declare("web")
    options["sandboxes"][0]["tmpfs"] = [{"target": "/srv", "size": "1M"}]
    converge("sandbox", **options)
    del options["sandboxes"][0]["cgroup"]["pids_max"], options["sandboxes"][0]["tmpfs"]
    assert converge("sandbox", **options)["changed"]
    assert shown("web")["cgroup"]["pids_max"] == "max"
    assert inside("web", "stat", "-f", "-c", "%T", "/srv") == "overlayfs"
    assert not converge("sandbox", **options)["changed"]


def test_a_change_for_the_process_is_announced_until_it_is_restarted(converge, declare):
    options = declare("web")
    converge("sandbox", **options)
    pid = main_pid("web")
    options["sandboxes"][0]["services"][0]["environment"] = {"SECRET": "hidden-value"}
    first = converge("sandbox", **options)
    assert first["changed"] and first["restart_required"] == [{"name": "web/sleep", "keys": ["environment"]}]
    assert "hidden-value" not in str(first)
    second = converge("sandbox", **options)
    assert not second["changed"] and second["restart_required"] == first["restart_required"]
    assert main_pid("web") == pid
    done = converge("sandbox", on_change="restart", **options)
    assert done["actions"] == ["restart service web/sleep"] and done["restart_required"] == []
    until(lambda: main_pid("web") not in (None, pid))
    assert not converge("sandbox", on_change="restart", **options)["changed"]


def test_another_layer_needs_leave_and_keeps_the_data(converge, refuse, declare, base, tmp_path):
    options = declare("web")
    converge("sandbox", **options)
    inside("web", "sh", "-c", "echo precious > /root/data")
    extra = tmp_path / "layer"
    (extra / "opt").mkdir(parents=True)
    (extra / "opt/new").write_text("x")
    options["sandboxes"][0]["overlay"]["lower"] = [str(extra), base]
    pid = main_pid("web")
    assert "on_mismatch: recreate" in refuse("sandbox", **options)
    assert main_pid("web") == pid
    predicted = converge("sandbox", check=True, on_mismatch="recreate", **options)
    done = converge("sandbox", on_mismatch="recreate", **options)
    assert predicted["actions"] == done["actions"] and "stop service web/sleep" in done["actions"]
    assert inside("web", "cat", "/root/data") == "precious" and inside("web", "cat", "/opt/new") == "x"
    assert main_pid("web") not in (None, pid)
    assert not converge("sandbox", **options)["changed"]


def test_a_dead_keeper_is_seen_and_all_is_mended(converge, declare):
    options = declare("web")
    converge("sandbox", **options)
    inside("web", "sh", "-c", "echo precious > /root/data")
    keeper = shown("web")["namespaces"]["keeper"]
    os.kill(keeper, signal.SIGKILL)
    os.waitpid(keeper, 0)  # the engine that made it was this process
    predicted = converge("sandbox", check=True, **options)
    done = converge("sandbox", **options)
    assert done["changed"] and predicted["actions"] == done["actions"]
    assert inside("web", "cat", "/root/data") == "precious"
    until(lambda: main_pid("web") is not None)
    assert not converge("sandbox", **options)["changed"]


@pytest.mark.parametrize("asked", ["kernel", "census"])
def test_mending_that_fails_leaves_no_keeper(converge, declare, monkeypatch, asked):
    """Also where Linux, before 6.11, does not tell the init of a pid namespace: who they are was read before there was a new keeper."""
    from module_utils._kernel import nsfs

    if asked == "census":
        monkeypatch.setattr(nsfs, "_NS_GET_PID_FROM_PIDNS", 0)
    options = declare("web")
    converge("sandbox", **options)
    inside("web", "mv", "/usr/bin/sleep", "/usr/bin/slept")
    keeper = shown("web")["namespaces"]["keeper"]
    os.kill(keeper, signal.SIGKILL)
    os.waitpid(keeper, 0)
    answer = drive.converge("sandbox", options)
    assert "Undone: " in answer["error"] and "create pid, mnt of namespaces web" in answer["error"], answer
    assert subprocess.run(["pgrep", "-x", "keeper"], check=False, stdout=subprocess.PIPE).stdout == b""
    upper = "/var/lib/bulkhead/uppers/web/upper/usr/bin/"
    os.rename(upper + "slept", upper + "sleep")
    assert converge("sandbox", **options)["changed"]
    until(lambda: main_pid("web") is not None)


@pytest.mark.parametrize("damage", [
    "umount -l /run/bulkhead/ns/web/uts", "rm /run/bulkhead/ns/web/mnt", "umount -l /run/netns/web", "rm -r /run/bulkhead/made",
    "rm -r /etc/bulkhead/sandboxes.d", "nsenter --mount=/run/bulkhead/mntns/web --pid=/run/bulkhead/ns/web/pid umount -l /dev/shm",
    "nsenter --mount=/run/bulkhead/mntns/web --pid=/run/bulkhead/ns/web/pid umount -l /proc",
    "echo -1 > /sys/fs/cgroup/memory/bulkhead/web/memory.limit_in_bytes", "rm -r /run/bulkhead/service/web:sleep",
])
def test_damage_from_outside_is_mended(converge, declare, damage):
    options = declare("web", on_mismatch="recreate")
    converge("sandbox", **options)
    subprocess.run(["sh", "-c", damage + "; rm -rf /run/mount"], check=True)  # where umount(8) keeps its notes
    predicted = converge("sandbox", check=True, **options)
    done = converge("sandbox", **options)
    assert predicted["actions"] == done["actions"]
    until(lambda: main_pid("web") is not None)
    assert inside("web", "stat", "-f", "-c", "%T", "/proc") == "proc"
    assert shown("web")["cgroup"]["memory_max"] == 256 << 20
    assert not converge("sandbox", **options)["changed"]


def test_purge_takes_what_we_made_and_keeps_data(converge, declare):
    converge("sandbox", **declare("web", "cache"))
    converge("cgroup", name="single", pids_max=5)
    inside("cache", "sh", "-c", "echo precious > /root/data")
    options = declare("web", purge=True)
    predicted = converge("sandbox", check=True, **options)
    done = converge("sandbox", **options)
    assert predicted["actions"] == done["actions"] and done["changed"]
    assert shown("cache") is None and shown("web")
    assert open("/var/lib/bulkhead/uppers/cache/upper/root/data", encoding="ascii").read() == "precious\n"
    assert not converge("sandbox", **options)["changed"]
    assert drive.resource("cgroup").show(drive.new_host(), "single")["pids_max"] == 5
    converge("cgroup", name="single", state="absent")
    converge("sandbox", **declare("web", "cache"))
    assert inside("cache", "cat", "/root/data") == "precious"
    assert converge("sandbox", purge=True, remove_data=True, sandboxes=[])["changed"]
    assert not os.path.exists("/var/lib/bulkhead/uppers/cache")


def test_a_visitor_is_not_killed_unasked(converge, refuse, declare):
    converge("sandbox", **declare("web"))
    visitor = subprocess.Popen(["nsenter", "--mount=/run/bulkhead/ns/web/mnt", "--pid=/run/bulkhead/ns/web/pid", "sleep", "1000"])
    try:
        until(lambda: "sleep 1000\n" in inside("web", "ps", "axo", "args") + "\n")
        error = refuse("sandbox", sandboxes=[{"name": "web", "state": "absent"}])
        assert "sleep" in error and "kill: true" in error
        assert converge("sandbox", kill=True, sandboxes=[{"name": "web", "state": "absent"}])["changed"]
        visitor.wait(10)
    finally:
        visitor.kill()
        visitor.wait()


def test_single_modules_see_the_parts_of_a_sandbox_as_ours(converge, declare):
    converge("sandbox", **declare("web"))
    assert not converge("namespace", name="web", types=TYPES)["changed"]
    assert not converge("cgroup", name="bulkhead/web", pids_max=64)["changed"]
    assert converge("cgroup", name="bulkhead/web", pids_max=32)["actions"] == ["set pids.max of bulkhead/web"]
    assert converge("service", name="web/sleep", state="stopped")["actions"] == ["configure service web/sleep", "stop service web/sleep"]


def test_a_sandbox_without_a_mount_namespace_is_a_chroot_on_an_overlay(full_cycle, declare):
    options = declare("jail")
    options["sandboxes"][0]["namespaces"]["types"] = ["uts"]
    full_cycle("sandbox", options, {"sandboxes": [{"name": "jail", "state": "absent"}]})


def test_a_chroot_sandbox_changes_its_layers_with_leave(converge, refuse, declare, base, tmp_path):
    (tmp_path / "layer").mkdir()
    options = declare("jail")
    options["sandboxes"][0]["namespaces"]["types"] = ["uts"]
    converge("sandbox", **options)
    pid = main_pid("jail")
    options["sandboxes"][0]["overlay"]["lower"] = [str(tmp_path / "layer"), base]
    assert "on_mismatch: recreate" in refuse("sandbox", **options)
    assert main_pid("jail") == pid
    predicted = converge("sandbox", check=True, on_mismatch="recreate", **options)
    done = converge("sandbox", on_mismatch="recreate", **options)
    assert predicted["actions"] == done["actions"] and "stop service jail/sleep" in done["actions"]
    until(lambda: main_pid("jail") not in (None, pid))
    assert not converge("sandbox", **options)["changed"]


def test_defaults_are_merged_by_key(converge, base):
    converge("sandbox", defaults={"namespaces": {"types": ["uts"]}, "cgroup": {"pids_max": 9, "memory_max": "64M"}},
             sandboxes=[{"name": "a"}, {"name": "b", "cgroup": {"pids_max": 10}}])
    assert [shown(name)["cgroup"]["pids_max"] for name in "ab"] == [9, 10]
    assert shown("b")["cgroup"]["memory_max"] == 64 << 20
