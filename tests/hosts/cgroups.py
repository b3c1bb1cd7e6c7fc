# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What test_cgroups.py runs on the host, in one process for each test, as each Python and each login costs seconds there:
`python3 cgroups.py NAME`. It needs nothing but Python."""

from __future__ import annotations

import os
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(__file__))), "system"))

import drive  # noqa: E402

NAME, UNIT = "bulkhead/t-1.x", "bulkhead-t\\x2d1.x.slice"
FILE = "/etc/systemd/system/" + UNIT
TOP = "/sys/fs/cgroup/bulkhead.slice/"
GROUP, INNER = TOP + UNIT, TOP + "bulkhead.service/" + NAME
DISK = next(("/dev/" + name for name in ("vda", "sda") if os.path.exists("/dev/" + name)), "/")
VERSION = int(subprocess.run(["systemctl", "--version"], capture_output=True, text=True, check=True).stdout.split()[1])


def run(*words):
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()


def read(path):
    with open(path, encoding="utf-8") as stream:
        return stream.read().strip()


def write(path, text):
    with open(path, "w", encoding="utf-8") as stream:
        stream.write(text)


def told(unit, word):
    return run("systemctl", "show", "--value", "--property=" + word, "--", unit)


def twice(name=NAME, **options):
    """Check, run, check, run: what the checks said came about, and the second time there was nothing to do. The actions."""
    options["name"] = name
    foreseen, made, quiet, again = (drive.apart("cgroup", options, check) for check in (True, False, True, False))
    assert "error" not in foreseen and "error" not in made, (foreseen, made)
    assert foreseen["diff"] == made["diff"] and foreseen["actions"] == made["actions"], (foreseen, made)
    for answer in (quiet, again):
        assert not answer["changed"] and "error" not in answer, answer
    return made["actions"]


def refuse(name=NAME, **options):
    options["name"] = name
    answers = [drive.apart("cgroup", options, check) for check in (True, False)]
    assert answers[0].get("error") and answers[0] == answers[1], answers
    return answers[0]["error"]


def shown(name=NAME):
    return drive.isolated(lambda: drive.info("cgroup", name=[name]))["cgroups"][0]


def workload(*words, unit="t-workload", group=UNIT):
    run("systemd-run", "--quiet", "--collect", "--unit=" + unit, "--slice=" + group, *(words or ("sleep", "1000")))
    return int(told(unit + ".service", "MainPID"))


def clean():
    if os.path.exists(GROUP):
        subprocess.run(["systemctl", "stop", "t-workload.service", "t-other.service"], check=False, capture_output=True)
    places = {"bulkhead/t-1.x/child": GROUP + "/" + UNIT[:-len(".slice")] + "-child.slice", NAME: GROUP, "bulkhead": "/etc/systemd/system/bulkhead.slice"}
    for name, path in places.items():
        if os.path.exists(path) or name == NAME and (os.path.exists(FILE) or os.path.exists(INNER)):
            answer = drive.apart("cgroup", {"name": name, "state": "absent", "kill": True, "force": True})
            assert "error" not in answer, answer
    assert not os.path.exists(FILE) and not os.path.exists(GROUP) and not os.path.exists(INNER)
    left = [path + "/" + entry for path in ("/run/systemd/system.control", "/etc/systemd/system.control", "/etc/systemd/system")
            if os.path.isdir(path) for entry in os.listdir(path) if entry.startswith("bulkhead-t") or ".new" in entry]
    assert not left, left


def test_limits_are_properties_and_kernel_values():
    made = twice(memory_max="64M", memory_high="48M", memory_low="1M", memory_min="8K", cpu_max={"quota": "5ms", "period": "50ms"}, cpu_weight=300,
                 pids_max=40, io_weight=200, io_max=[{"device": DISK, "rbps": "1M", "wiops": 50}], cpuset_cpus="0", memory_swap_max=0)
    assert made[0] == "create cgroup " + NAME and "set memory.max of " + NAME in made
    for file, value in (("memory.max", "67108864"), ("cpu.max", "5000 50000"), ("cpu.weight", "300"), ("pids.max", "40"), ("cpuset.cpus", "0"),
                        ("memory.swap.max", "0"), ("memory.min", "8192"), ("io.weight", "default 200")):
        assert read("%s/%s" % (GROUP, file)) == value, file
    assert "rbps=1048576 wbps=max riops=max wiops=50" in read(GROUP + "/io.max")
    view = shown()
    assert view["driver"] == "systemd" and view["unit"] == UNIT and view["unit_file"] == FILE and view["paths"] == {"unified": GROUP}
    assert view["owned"] and view["memory_max"] == 64 << 20 and view["drop_ins"] == []
    assert told(UNIT, "NeedDaemonReload") == "no" and read(FILE).startswith("# made by bulkhead")
    assert not run("systemd-analyze", "verify", FILE)
    run("systemctl", "daemon-reload")
    twice_nothing = drive.apart("cgroup", {"name": NAME, "memory_max": "64M", "cpu_weight": 300, "cpuset_cpus": "0"})
    assert not twice_nothing["changed"] and read(GROUP + "/cpu.max") == "5000 50000"


def test_live_changes_keep_the_workload_and_are_in_the_file_alone():
    twice(memory_max="64M", pids_max=40, cpu_weight=50, io_max=[{"device": DISK, "rbps": "1M", "wbps": "2M"}])
    pid = workload()
    assert twice(memory_max="32M", cpu_max="25%", cpuset_cpus="0-1", io_max=[{"device": DISK, "rbps": "max"}]) == [
        "set %s of %s" % (file, NAME) for file in ("cpu.max", "memory.max", "io.max", "cpuset.cpus")]
    assert read(GROUP + "/memory.max") == str(32 << 20) and read(GROUP + "/cpu.max") == "25000 100000" and read(GROUP + "/cpu.weight") == "50"
    assert "rbps=max wbps=2097152" in read(GROUP + "/io.max")
    assert int(told("t-workload.service", "MainPID")) == pid and os.path.exists("/proc/%d" % pid)
    assert told(UNIT, "DropInPaths") == "" and told(UNIT, "NeedDaemonReload") == "no"
    text = read(FILE)
    assert "MemoryMax=33554432" in text and "CPUQuota=25%" in text and "IOReadBandwidthMax" not in text and "TasksMax=40" in text
    run("systemctl", "daemon-reload")
    assert read(GROUP + "/memory.max") == str(32 << 20) and read(GROUP + "/cpu.max") == "25000 100000"


def test_each_option_there_and_back():
    rows = {"cpu_weight": (20, 100), "cpu_max": ("50%", "max"), "memory_min": ("1M", 0), "memory_low": ("1M", 0), "memory_high": ("64M", "max"),
            "memory_max": ("64M", "max"), "memory_swap_max": ("1M", "max"), "io_weight": (20, 100), "cpuset_cpus": ("1", ""), "cpuset_mems": ("0", ""),
            "io_max": ([{"device": DISK, "riops": 7}], [{"device": DISK, "riops": "max"}]), "pids_max": (9, "max")}
    twice()
    if VERSION >= 256:
        zswap = {"memory_zswap_max": ("1M", "max"), "memory_zswap_writeback": (False, True)}
        twice(memory_max="1G")
        if os.path.exists(GROUP + "/memory.zswap.max"):
            rows.update(zswap)
        else:
            assert "which this kernel does not have" in refuse(memory_zswap_max="1M")
    for side in (0, 1):
        assert len(twice(**{option: pair[side] for option, pair in rows.items()})) == len(rows)
    assert len(twice(cpu_idle=True)) == len(twice(cpu_idle=False)) == 1


def test_drift_is_mended():
    twice(memory_max="64M", pids_max=40, cpuset_cpus="0")
    declared = {"memory_max": "64M", "pids_max": 40, "cpuset_cpus": "0"}
    for file, value, option in (("memory.max", "max", "memory.max"), ("pids.max", "7", "pids.max"), ("cpuset.cpus", "1", "cpuset.cpus")):
        write(GROUP + "/" + file, value)
        assert twice(**declared) == ["set %s of %s" % (option, NAME)]
    run("systemctl", "set-property", UNIT, "MemoryMax=5M")  # for good
    assert twice(**declared) == ["set memory.max of " + NAME]
    run("systemctl", "set-property", "--runtime", UNIT, "TasksMax=64", "MemoryMax=64M")
    assert twice(**declared) == ["set pids.max of " + NAME]
    run("systemctl", "set-property", UNIT, "MemoryMax=64M")  # the same value, but it would win over a later one
    assert twice(**declared) == ["write " + UNIT]
    run("systemctl", "set-property", UNIT, "MemoryHigh=1G")  # what is not declared is the administrator's
    assert twice(**declared) == []
    run("systemctl", "revert", UNIT)
    write(FILE, read(FILE).replace("67108864", "1048576"))
    assert twice(**declared) == ["write " + UNIT]
    os.unlink(FILE)
    assert twice(**declared) == ["write " + UNIT]
    run("systemctl", "daemon-reload")
    assert read(GROUP + "/memory.max") == str(64 << 20) and told(UNIT, "DropInPaths") == ""
    run("systemctl", "stop", UNIT)
    assert twice(**declared)[0] == "create cgroup " + NAME
    os.makedirs(FILE + ".d")
    try:
        write(FILE + ".d/mine.conf", "[Slice]\nMemoryMax=9M\n")
        run("systemctl", "daemon-reload")
        run("systemctl", "set-property", "--runtime", UNIT, "MemoryMax=9M")
        assert "mine.conf sets it too" in refuse(**declared)
    finally:
        os.unlink(FILE + ".d/mine.conf")
        os.rmdir(FILE + ".d")
        run("systemctl", "daemon-reload")
    assert twice(**declared) == ["set memory.max of " + NAME]


def test_freeze_and_thaw():
    twice()
    pid = workload()  # a frozen slice takes no new units
    assert twice(frozen=True) == ["freeze " + NAME] and read(GROUP + "/cgroup.freeze") == "1"
    assert twice(frozen=False) == ["thaw " + NAME]
    assert twice(frozen=True, pids_max=50) == ["set pids.max of " + NAME, "freeze " + NAME]
    assert "frozen 1" in read("/sys/fs/cgroup" + told("t-workload.service", "ControlGroup") + "/cgroup.events")
    run("systemctl", "daemon-reload")
    write(GROUP + "/cgroup.freeze", "0")
    assert twice(frozen=True) == ["freeze " + NAME]
    assert twice(frozen=False) == ["thaw " + NAME]
    write(GROUP + "/cgroup.freeze", "1")
    assert twice(frozen=False) == ["thaw " + NAME] and os.path.exists("/proc/%d" % pid)
    twice(frozen=True)
    twice(state="absent", kill=True)
    assert not os.path.exists("/proc/%d" % pid)


def test_processes_are_moved_into_scopes():
    twice()
    child = subprocess.Popen(["sleep", "1000"])
    try:
        assert twice(processes=[child.pid]) == ["move process %d into %s" % (child.pid, NAME)]
        assert "/%s/" % UNIT in read("/proc/%d/cgroup" % child.pid) and shown()["processes"] == [child.pid]
        assert "1 processes live in it" in refuse(state="absent")
    finally:
        child.kill()
        child.wait()
    twice(state="absent")


def test_what_systemd_cannot_do_is_refused_by_name():
    for options in ({"cpu_max_burst": "1ms"}, {"cpu_uclamp_min": 5}, {"cpu_weight_nice": 1}, {"memory_swap_high": "1M"}, {"memory_oom_group": True},
                    {"max_depth": 3}, {"max_descendants": 3}, {"pressure": False}, {"type": "threaded"}, {"delegate": {"user": 5}},
                    {"unified": {"memory.foo": "1"}}, {"cpuset_cpus_exclusive": "1"}):
        text = refuse(**options)
        assert "driver: cgroupfs" in text and (list(options)[0] in text), text
    for options in ({"hugetlb": {"2MB": {"max": "4M"}}}, {"misc_max": {"sev": 1}}, {"rdma_max": {"a": {"hca_handle": 1}}}):
        assert "allow_undelegated: true" in refuse(**options)
    assert "CPUSetPartition of systemd 261" in refuse(cpuset_partition="root")
    if VERSION < 253:
        assert "MemoryZSwapMax of systemd 253, and this host has systemd 252" in refuse(memory_zswap_max="1M")
    assert "between 12.34% and 12.35%" in refuse(cpu_max={"quota": "12345us"})
    assert "0 is not taken" in refuse(memory_max=0)
    assert "io_latency needs io.latency, which this kernel does not have" in refuse(io_latency=[{"device": DISK, "target": "5ms"}])
    assert not os.path.exists(FILE)


def test_removal_and_what_it_refuses():
    twice()
    workload()
    assert "1 processes live in it" in refuse(state="absent")
    twice("bulkhead/t-1.x/child", pids_max=5)
    assert "it holds the cgroup bulkhead/t-1.x/child" in refuse(state="absent", kill=True)
    twice("bulkhead/t-1.x/child", state="absent")
    assert os.path.exists(GROUP)
    run("systemd-run", "--quiet", "--collect", "--unit=t-other", "--slice=" + UNIT, "--property=Restart=always", "sleep", "1000")
    assert twice(state="absent", kill=True) == ["kill the processes of " + NAME, "remove cgroup " + NAME]
    assert told("t-workload.service", "ActiveState") in ("inactive", "failed") and not os.path.exists(GROUP)


def test_foreign_slices():
    workload(group="t-foreign.slice")
    assert "was not made by Bulkhead" in refuse("t/foreign", pids_max=50)
    assert "was not made by Bulkhead" in refuse("t/foreign", state="absent", kill=True)
    assert "is the unit file of user.slice" in refuse("user", pids_max=50, force=True)
    run("systemctl", "stop", "t-workload.service")
    assert not os.path.exists("/etc/systemd/system/t-foreign.slice")


def test_the_slice_of_all_takes_limits_and_stays():
    assert twice("bulkhead", pids_max=5000)[-1] == "set pids.max of bulkhead"
    assert read(TOP + "pids.max") == "5000"
    assert twice("bulkhead", state="absent") == ["remove the limits of cgroup bulkhead"]
    assert read(TOP + "pids.max") == "max" and not os.path.exists("/etc/systemd/system/bulkhead.slice")


def test_the_delegated_subtree():
    twice(driver="cgroupfs", cpu_max_burst="1ms", cpu_max="50%", memory_oom_group=True, max_depth=3, memory_max="64M", delegate={"user": 65534})
    assert read(INNER + "/cpu.max.burst") == "1000" and read(INNER + "/memory.oom.group") == "1" and os.stat(INNER).st_uid == 65534
    view = shown()
    assert view["driver"] == "cgroupfs" and view["paths"] == {"unified": INNER} and view["owned"] and "unit" not in view
    run("systemctl", "daemon-reload")
    assert twice(memory_max="32M") == ["set memory.max of " + NAME]  # auto is what is there
    assert "by driver cgroupfs" in refuse(driver="systemd", memory_max="1M")
    child = subprocess.Popen(["sleep", "1000"])
    twice(processes=[child.pid])
    assert read("/proc/%d/cgroup" % child.pid).endswith(INNER[len("/sys/fs/cgroup"):] + "/exec")
    twice(frozen=True)
    assert "which systemd does not hand on" in refuse(hugetlb={"2MB": {"max": "4M"}})
    twice(hugetlb={"2MB": {"max": "4M"}}, allow_undelegated=True)
    run("systemctl", "daemon-reload")
    assert read(INNER + "/hugetlb.2MB.max") == str(4 << 20) and read(INNER + "/memory.max") == str(32 << 20)
    assert "1 processes live in it" in refuse(state="absent")
    twice(state="absent", kill=True)
    child.wait()
    assert refuse("keepers/x", driver="cgroupfs").endswith("Choose another name.")


def test_two_hundred_sandboxes_are_few_processes():
    names = ["t-many%03d" % number for number in range(200)]
    drive.apart("cgroup", {"name": NAME})
    times = []

    def counted(options, check=False):
        host, calls = drive.new_host(), []
        plain = host._run
        host._run = lambda argv, data=None, env=None: calls.append(argv[:3]) or plain(argv, data, env)
        begun = time.monotonic()
        outcome = drive.engine.converge(host, drive.resource("sandbox"), options, check)
        times.append(round(time.monotonic() - begun, 2))
        assert not outcome.errors, outcome.errors[0].error
        return outcome.changed, calls

    def many(limit):
        return {"sandboxes": [{"name": name, "cgroup": {"pids_max": limit, "memory_max": "32M"}} for name in names]}

    for limit, processes in ((40, 5), (40, 2)):
        changed, calls = counted(many(limit))
        assert changed == (processes > 2) and len(calls) <= processes, calls
        verbs = [each for call in calls for each in call if each in ("show", "daemon-reload", "start")]
        assert verbs.count("daemon-reload") <= 1, calls
    run("systemctl", "daemon-reload")
    changed, calls = counted(many(40), True)
    assert not changed and len(calls) <= 2, calls
    changed, calls = counted({"sandboxes": [{"name": name, "state": "absent"} for name in names]})
    assert changed and len(calls) <= 8, calls
    assert not [entry for entry in os.listdir("/etc/systemd/system") if entry.startswith("bulkhead-t\\x2dmany")]
    assert not [entry for entry in os.listdir(TOP) if entry.startswith("bulkhead-t\\x2dmany")]
    sys.stderr.write("  200 made, again, checked, removed: %s s\n" % times)


def main(name):
    clean()
    try:
        globals()[name]()
    finally:
        clean()


if __name__ == "__main__":
    main(sys.argv[1])
