# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""cgroup by driver systemd, with a systemd that is not one: every row of the table, drift, removal, and what a run of many costs."""

from __future__ import annotations

import os
import sys

import pytest
from ansible_collections.bulkhead.isolation.plugins.module_utils._engine import places
from ansible_collections.bulkhead.isolation.plugins.module_utils._engine.engine import converge
from ansible_collections.bulkhead.isolation.plugins.module_utils._engine.host import Host
from ansible_collections.bulkhead.isolation.plugins.module_utils._kernel import built
from ansible_collections.bulkhead.isolation.plugins.module_utils._kernel.mountinfo import Table
from ansible_collections.bulkhead.isolation.plugins.module_utils._model import slices
from ansible_collections.bulkhead.isolation.plugins.module_utils._model.cgroup import CgroupSpec
from ansible_collections.bulkhead.isolation.plugins.module_utils._model.errors import BulkheadError, Problems
from ansible_collections.bulkhead.isolation.plugins.module_utils._model.limits import MAX, TABLE
from ansible_collections.bulkhead.isolation.plugins.module_utils._resources import _cgroup_slice, cgroup
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

from fake_systemd import DISK, NUMBER, Systemd  # noqa: E402

NAME, UNIT = "bulkhead/w-b", "bulkhead-w\\x2db.slice"  # a name that is escaped

# option: (declared, the kernel's text, the lines in the unit file)
ROWS = {
    "cpu_weight": (300, "300", ["CPUWeight=300"]),
    "cpu_max": ({"quota": "5ms", "period": "50ms"}, "5000 50000", ["CPUQuota=10%", "CPUQuotaPeriodSec=50000us"]),
    "cpu_idle": (True, "1", ["CPUWeight=idle"]),
    "memory_min": ("8K", "8192", ["MemoryMin=8192"]),
    "memory_low": ("8K", "8192", ["MemoryLow=8192"]),
    "memory_high": ("1M", "1048576", ["MemoryHigh=1048576"]),
    "memory_max": ("1M", "1048576", ["MemoryMax=1048576"]),
    "memory_swap_max": (0, "0", ["MemorySwapMax=0"]),
    "memory_zswap_max": ("1M", "1048576", ["MemoryZSwapMax=1048576"]),
    "memory_zswap_writeback": (False, "0", ["MemoryZSwapWriteback=no"]),
    "io_weight": (20, "default 20", ["IOWeight=20"]),
    "io_max": ([{"device": NUMBER, "rbps": "1M", "wiops": 5}], "254:0 rbps=1048576 wbps=max riops=max wiops=5",
               ["IOReadBandwidthMax=/dev/vda 1048576", "IOWriteIOPSMax=/dev/vda 5"]),
    "io_latency": ([{"device": NUMBER, "target": "10ms"}], "254:0 target=10000", ["IODeviceLatencyTargetSec=/dev/vda 10000us"]),
    "cpuset_cpus": ("0-1,3", "0-1,3", ["AllowedCPUs=0-1 3"]),
    "cpuset_mems": ("0", "0", ["AllowedMemoryNodes=0"]),
    "cpuset_partition": ("root", "root", ["CPUSetPartition=root"]),
    "pids_max": (9, "9", ["TasksMax=9"]),
}
BACK = {"io_max": [{"device": NUMBER, "rbps": MAX, "wiops": MAX}], "io_latency": [{"device": NUMBER, "target": 0}], "cpu_max": MAX}


class Machine:
    """A host whose init is the fake systemd."""

    def __init__(self, tmp_path, monkeypatch, version=257):
        self.root, units = str(tmp_path / "cgroup"), tmp_path / "units" / "system"
        self.systemd = Systemd(self.root, str(units), version)
        self.table = Table("1 0 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 0:9 / %s rw - cgroup2 cgroup2 rw\n" % self.root)
        self.roots = {name: str(tmp_path / name) for name in ("state", "etc", "lib", "lock", "sys", "proc")}
        disk = tmp_path / "sys" / "dev" / "block" / NUMBER
        disk.mkdir(parents=True)
        (disk / "uevent").write_text("MAJOR=254\nDEVNAME=%s\n" % DISK[len("/dev/"):])
        monkeypatch.setattr(places, "ensure", lambda host: False)
        monkeypatch.setattr(built, "lacks", lambda option, **roots: False)  # it would look at the kernel that runs the tests
        monkeypatch.setattr(Host, "systemd", True)

    def host(self):
        host = Host(self.systemd.run, cgroup=self.root, units=self.systemd.units, bus=None, **self.roots)
        host.mounts = lambda: self.table
        return host

    def converge(self, check=False, noun=cgroup, **options):
        return converge(self.host(), noun, options, check)

    def twice(self, **options):
        options.setdefault("name", NAME)
        before = self.state()
        check = self.converge(True, **options)
        assert self.state() == before
        first, quiet, again = self.converge(**options), self.converge(True, **options), self.converge(**options)
        assert check.joined("actions") == first.joined("actions") and check.difference() == first.difference()
        assert quiet.joined("actions") == again.joined("actions") == [], again.difference()
        return first.joined("actions")

    def refuse(self, **options):
        options.setdefault("name", NAME)
        before = self.state()
        with pytest.raises(BulkheadError) as caught:
            self.converge(**options)
        assert "\n" not in caught.value.message and self.state() == before
        return caught.value.message

    def state(self):
        """All files of the units and of the tree."""
        return {path: open(path, encoding="utf-8").read() for top in (self.root, self.systemd.units, self.systemd.units + ".control")
                for directory, dummy, names in os.walk(top) for path in ["%s/%s" % (directory, name) for name in names]}

    def kernel(self, file, unit=UNIT):
        with open("%s/%s" % (self.systemd.directory(unit), file), encoding="ascii") as stream:
            return stream.read().strip()

    def verbs(self):
        """What systemctl was asked for since the last time."""
        calls, self.systemd.calls = self.systemd.calls, []
        return [next(word for word in call[1:] if word != "--no-ask-password") for call in calls]


@pytest.fixture(params=[252, 257])
def machine(request, tmp_path, monkeypatch):
    return Machine(tmp_path, monkeypatch, request.param)


@pytest.fixture
def newest(tmp_path, monkeypatch):
    return Machine(tmp_path, monkeypatch, 261)


def test_every_property_of_the_table_is_tried():
    assert set(ROWS) == {option for option, limit in TABLE.items() if limit.systemd}


@pytest.mark.parametrize("option", sorted(ROWS))
@pytest.mark.parametrize("live", [False, True])
def test_every_row(newest, option, live):
    value, text, lines = ROWS[option]
    if live:
        newest.twice(pids_max=77)
    assert newest.twice(**{option: value})[-1] == "set %s of %s" % (TABLE[option].file, NAME)
    assert newest.kernel(TABLE[option].file) == text
    unit = newest.systemd.file(UNIT)
    assert [line for line in lines if line in unit.splitlines()] == lines and unit.startswith("# made by bulkhead")
    assert not newest.systemd.drop_ins(UNIT)
    default = BACK.get(option, TABLE[option].default)
    assert newest.twice(**{option: default}) == ["set %s of %s" % (TABLE[option].file, NAME)]
    assert not newest.systemd.drop_ins(UNIT)
    newest.systemd.daemon_reload()
    newest.systemd.apply(UNIT)
    assert not newest.converge(name=NAME, **{option: default}).changed


@pytest.mark.parametrize("option", sorted(option for option, limit in TABLE.items() if not limit.systemd))
def test_what_has_no_property_is_refused(machine, option):
    values = {"choice": "threaded", "flag": True, "percent": 5, "time": "1ms", "size": "1M", "number": 1, "ranges": "0"}
    value = values.get(TABLE[option].kind, 1)
    if TABLE[option].kind == "table":
        value = {"a": {"hca_handle": 1} if option == "rdma_max" else 1}
    text = machine.refuse(**{option: value})
    assert "%s has no property in a slice of systemd, so it needs driver: cgroupfs" % option in text
    assert ("allow_undelegated" in text) == (TABLE[option].controller in ("rdma", "misc", "dmem"))


@pytest.mark.parametrize("option", sorted(option for option in ROWS if TABLE[option].systemd[1] > slices.OLDEST))
def test_an_older_systemd_is_refused_by_name(tmp_path, monkeypatch, option):
    word, since = TABLE[option].systemd
    host = Machine(tmp_path, monkeypatch, since - 1)
    assert "%s needs the property %s of systemd %d, and this host has systemd %d" % (option, word, since, since - 1) in host.refuse(
        **{option: ROWS[option][0]})


def test_other_refusals(machine):
    for options, words in (
            ({"cpu_max": {"quota": "12345us"}}, "between 12.34% and 12.35%"), ({"cpu_max": {"quota": "max", "period": "5ms"}}, "Leave the period out"),
            ({"memory_max": 0}, "0 is not taken"), ({"pids_max": 0}, "0 is not taken"), ({"delegate": {"user": 5}}, "delegate is not for a slice"),
            ({"hugetlb": {"2MB": {"max": 1}}}, "allow_undelegated"), ({"unified": {"memory.foo": "1"}}, "unified.memory.foo has no property")):
        assert words in machine.refuse(**options)
    text = machine.refuse(max_depth=1, pressure=False, memory_max="1M")
    assert "max_depth has" in text and "pressure has" in text and "memory_max" not in text


def test_a_kernel_built_without_a_file(machine, monkeypatch):
    """No cgroup has the controller yet that would show it: what the kernel is built with does."""
    for missing in ("OTHER", "BLK_CGROUP_IOLATENCY"):
        monkeypatch.setattr(built, "lacks", lambda option, missing=missing, **roots: option == missing)
        for driver in ("auto", "cgroupfs"):
            options = {"name": "w", "driver": driver, "io_latency": ROWS["io_latency"][0]}
            if missing == "OTHER":
                assert "set io.latency of w" in machine.converge(True, **options).joined("actions")
            else:
                assert "io_latency needs io.latency, which this kernel does not have" in machine.refuse(**options)


def test_limits_of_several_tasks_are_in_one_file(machine):
    assert machine.twice(memory_max="1M") == ["create cgroup " + NAME, "set memory.max of " + NAME]
    assert machine.twice(io_max=[{"device": NUMBER, "rbps": 5}]) == ["set io.max of " + NAME]
    assert machine.twice(io_max=[{"device": NUMBER, "wbps": 6}], cpu_weight=5) == ["set cpu.weight of " + NAME, "set io.max of " + NAME]
    assert slices.read(machine.systemd.file(UNIT)) == {"MemoryMax": ["1048576"], "IOReadBandwidthMax": ["/dev/vda 5"],
                                                       "IOWriteBandwidthMax": ["/dev/vda 6"], "CPUWeight": ["5"]}
    assert machine.kernel("memory.max") == "1048576" and "rbps=5 wbps=6" in machine.kernel("io.max")
    assert machine.twice(cpu_idle=False) == []
    assert machine.twice(cpu_idle=True) == ["set cpu.idle of " + NAME]
    assert machine.twice(cpu_weight=7) == ["set cpu.weight of " + NAME] and machine.kernel("cpu.idle") == "0"


def test_a_slice_without_limits(machine):
    assert machine.twice() == ["create cgroup " + NAME]
    assert machine.twice(state="absent") == ["remove cgroup " + NAME]
    assert machine.twice(state="absent") == [] and not os.listdir(machine.systemd.units)


def test_drift_is_mended(machine):
    declared = {"memory_max": "1M", "pids_max": 9}
    machine.twice(**declared)
    machine.systemd.put(machine.systemd.directory(UNIT), "memory.max", "max")
    assert machine.twice(**declared) == ["set memory.max of " + NAME]
    machine.systemd.set_property(UNIT, "TasksMax=8")
    assert machine.twice(**declared) == ["set pids.max of " + NAME]
    machine.systemd.set_property(UNIT, "TasksMax=9")
    assert machine.twice(**declared) == ["write " + UNIT] and not machine.systemd.drop_ins(UNIT)
    machine.systemd.set_property(UNIT, "CPUWeight=9")
    assert machine.twice(**declared) == [] and machine.kernel("cpu.weight") == "9"
    os.unlink(machine.systemd.units + "/" + UNIT)
    assert machine.twice(**declared) == ["write " + UNIT]
    machine.systemd.stop(UNIT)
    assert machine.twice(**declared)[0] == "create cgroup " + NAME
    os.makedirs("%s/%s.d" % (machine.systemd.units, UNIT))
    machine.systemd.put("%s/%s.d" % (machine.systemd.units, UNIT), "mine.conf", "[Slice]\nTasksMax=8")
    machine.systemd.daemon_reload()
    machine.systemd.apply(UNIT)
    assert "mine.conf sets it too, and would win at the next boot" in machine.refuse(**declared)


def test_settings_for_an_earlier_slice_of_the_name(machine):
    machine.systemd.start(UNIT)
    machine.systemd.set_property(UNIT, "CPUQuota=10%")
    machine.systemd.stop(UNIT)
    machine.twice(cpu_max="20%")
    assert machine.kernel("cpu.max") == "20000 100000" and not machine.systemd.drop_ins(UNIT)
    machine.systemd.stop(UNIT)
    os.makedirs("%s/%s.d" % (machine.systemd.units, UNIT))
    machine.systemd.put("%s/%s.d" % (machine.systemd.units, UNIT), "mine.conf", "[Slice]\nCPUQuota=20%")
    assert machine.twice(cpu_max="20%")[0] == "create cgroup " + NAME
    machine.systemd.stop(UNIT)
    with pytest.raises(BulkheadError, match="the kernel has 20000 100000. Look at .*mine.conf"):
        machine.converge(name=NAME, cpu_max="30%")


def test_a_killed_run_is_brought_to_its_end(machine):
    machine.twice(memory_max="1M")
    with open(machine.systemd.units + "/" + UNIT, "w", encoding="utf-8") as stream:  # written, and no more
        stream.write(slices.render("# made by bulkhead", NAME, {"MemoryMax": ["2097152"]}))
    assert machine.twice(memory_max="2M") == ["set memory.max of " + NAME]
    machine.systemd.set_property(UNIT, "MemoryMax=3145728")  # told, and the drop-in still there
    assert machine.twice(memory_max="3M") == ["write " + UNIT]
    os.unlink(machine.systemd.units + "/" + UNIT)  # removal: the file is gone, and it runs
    assert machine.twice(state="absent") == ["remove cgroup " + NAME]
    with open(machine.systemd.units + "/" + UNIT, "w", encoding="utf-8") as stream:  # creation: the file, and it does not run
        stream.write(slices.render("# made by bulkhead", NAME, {}))
    assert machine.twice(state="absent") == ["remove cgroup " + NAME]


def test_an_empty_unit_file_is_what_a_power_cut_leaves(machine):
    for options, actions in (({"memory_max": "1M"}, ["create cgroup " + NAME, "set memory.max of " + NAME]), ({"state": "absent"}, ["remove cgroup " + NAME])):
        os.makedirs(machine.systemd.units, exist_ok=True)
        with open(machine.systemd.units + "/" + UNIT, "w", encoding="ascii"):
            machine.systemd.load(UNIT)  # at boot, for a service that is to be in it
        assert machine.twice(**options) == actions
        machine.systemd.stop(UNIT)
    assert not os.listdir(machine.systemd.units)


def test_a_step_that_fails_takes_all_back(machine):
    machine.systemd.fail = "start"
    with pytest.raises(BulkheadError, match="Cannot start bulkhead-w.x2db.slice: It was told to fail"):
        machine.converge(name=NAME, memory_max="1M")
    machine.systemd.fail = None
    assert not os.listdir(machine.systemd.units) and not machine.systemd.active and not machine.host().claims.names("cgroup")
    machine.twice(memory_max="1M", pids_max=5)
    before = machine.state()
    machine.systemd.fail = "TasksMax=6"
    with pytest.raises(BulkheadError, match="told to fail"):
        machine.converge(name=NAME, memory_max="2M", pids_max=6)
    machine.systemd.fail = None
    assert machine.state() == before


def test_what_systemd_does_not_bring_about_is_an_error(machine, monkeypatch):
    machine.twice(memory_max="1M")
    monkeypatch.setattr(machine.systemd, "apply", lambda unit: None)
    with pytest.raises(BulkheadError, match="systemd was told 2097152, and the kernel has 1048576"):
        machine.converge(name=NAME, memory_max="2M")


def test_foreign_slices(machine):
    machine.systemd.start("other.slice")
    machine.systemd.put(machine.systemd.directory("other.slice"), "cgroup.procs", "4711")
    assert "was not made by Bulkhead" in machine.refuse(name="other", pids_max=5)
    assert "was not made by Bulkhead" in machine.refuse(name="other", state="absent", kill=True)
    assert machine.twice(name="other", pids_max=5, force=True) == ["set pids.max of other"]
    machine.systemd.put(machine.systemd.units, "mine.slice", "[Slice]\nTasksMax=4")
    assert "was not made by Bulkhead" in machine.refuse(name="mine", pids_max=5)


def test_freeze(machine):
    assert machine.twice(frozen=True)[-1] == "freeze " + NAME
    machine.systemd.put(machine.systemd.directory(UNIT), "cgroup.freeze", "0")
    assert machine.twice(frozen=True) == ["freeze " + NAME]
    assert machine.twice(frozen=False) == ["thaw " + NAME]


def test_removal(machine):
    machine.twice()
    machine.twice(name=NAME + "/child")
    assert "it holds the cgroup bulkhead/w-b/child" in machine.refuse(state="absent")
    machine.twice(name=NAME + "/child", state="absent")
    machine.systemd.put(machine.systemd.directory(UNIT), "cgroup.procs", "4711")
    assert "1 processes live in it (4711)" in machine.refuse(state="absent")
    assert machine.converge(True, name=NAME, state="absent", kill=True).joined("actions") == ["kill the processes of " + NAME, "remove cgroup " + NAME]


def test_parents_come_and_go_with_what_is_below(machine):
    machine.twice(name="bulkhead/a/b/c")
    assert machine.twice(name="bulkhead/a", pids_max=5) == ["set pids.max of bulkhead/a"]
    assert machine.twice(name="bulkhead/a/b", state="absent") == []
    machine.twice(name="bulkhead/a/b/c", state="absent")
    assert sorted(machine.systemd.active) == ["bulkhead-a.slice", "bulkhead.slice"]
    machine.twice(name="bulkhead/a", state="absent")
    machine.twice(name="x/y/z")
    machine.twice(name="x/y/z", state="absent")
    assert sorted(machine.systemd.active) == ["bulkhead.slice"]


def test_the_slice_of_all_stays(machine):
    machine.twice(name=NAME)
    assert machine.twice(name="bulkhead", pids_max=50) == ["set pids.max of bulkhead"]
    assert machine.twice(name="bulkhead", state="absent") == ["remove the limits of cgroup bulkhead"]
    assert machine.kernel("pids.max", "bulkhead.slice") == "max" and UNIT in machine.systemd.active


def test_info(machine):
    machine.twice(memory_max="1M")
    view = cgroup.info(machine.host(), {})["cgroups"][0]
    assert (view["name"], view["driver"], view["unit"], view["owned"]) == (NAME, "systemd", UNIT, True)
    assert view["paths"] == {"unified": machine.root + "/bulkhead.slice/" + UNIT} and view["unit_file"] == machine.systemd.units + "/" + UNIT
    trees = machine.host().cgroups()
    assert trees.join_files(NAME, "x") == [] and trees.path("bulkhead/no", "unified") == machine.root + "/bulkhead.slice/bulkhead-no.slice"


class Many:
    """Cgroups as parts of a composite that takes a list, as sandbox does."""

    NOUN, plan = "sandbox", staticmethod(cgroup.plan)

    @staticmethod
    def parse(options, path, problems):
        specs = []
        for name, limits, recorded in options["parts"]:
            spec = CgroupSpec.from_options(limits or {}, path, problems, name="bulkhead/" + name)
            spec.state = "absent" if limits is None else "present"
            spec.drop(recorded)
            specs.append(spec)
        return specs

    @staticmethod
    def find(host, specs):
        host.cgroups().expect([spec.name for spec in specs])


def many(count, recorded=None, **limits):
    return {"noun": Many, "parts": [("s%d" % number, limits, recorded) for number in range(count)]}


def test_one_property_that_is_two_options(machine):
    parts = [{"cpu_idle": True}, {"cpu_weight": 300}, {"cpu_idle": True}, {"pids_max": 5}]
    for recorded, limits, text in zip([None] + parts, parts, ["idle", "300", "idle", None]):
        outcome = machine.converge(noun=Many, parts=[("s", limits, recorded)])
        assert outcome.changed and not outcome.errors
        assert slices.read(machine.systemd.file("bulkhead-s.slice")).get("CPUWeight", [None]) == [text]
        assert not machine.converge(noun=Many, parts=[("s", limits, recorded)]).changed
    assert machine.kernel("cpu.idle", "bulkhead-s.slice") == "0"


def test_many_are_few_processes(machine):
    assert machine.converge(**many(60, memory_max="1M", pids_max=5)).changed
    assert machine.verbs() == ["list-units"] + ["start", "list-jobs"] * 2  # once for 32; of what is new, none is asked about
    assert not machine.converge(**many(60, memory_max="1M", pids_max=5)).changed
    assert machine.verbs() == ["list-units", "show"]
    assert machine.converge(**many(3, {"memory_max": "1M", "pids_max": 5}, memory_max="2M")).joined("actions") == [
        "set %s of bulkhead/s%d" % (file, number) for number in range(3) for file in ("memory.max", "pids.max")]
    verbs = machine.verbs()
    assert verbs.count("daemon-reload") == 1 and verbs.count("set-property") == 3 and verbs.count("show") == 1
    assert machine.kernel("pids.max", "bulkhead-s2.slice") == "max" and "TasksMax" not in machine.systemd.file("bulkhead-s2.slice")
    assert machine.converge(noun=Many, parts=[("s%d" % number, None, None) for number in range(60)]).changed
    assert sorted(machine.verbs()) == ["list-units", "show", "stop"]
    assert not os.listdir(machine.systemd.units) and list(machine.systemd.active) == ["bulkhead.slice"]


def test_one_of_many_that_fails_is_told_and_undone(machine):
    machine.converge(**many(3, memory_max="1M"))
    machine.systemd.fail_unit = "bulkhead-s1.slice"
    outcome = machine.converge(**many(3, memory_max="2M"))
    assert [(plan.key, plan.error.message.split(":")[0]) for plan in outcome.errors] == [
        ("bulkhead/s1", "Cannot set MemoryMax of bulkhead-s1.slice")]
    assert [machine.kernel("memory.max", "bulkhead-s%d.slice" % number) for number in range(3)] == ["2097152", "1048576", "2097152"]
    machine.systemd.fail_unit = None
    assert machine.converge(**many(3, memory_max="2M")).joined("actions") == ["set memory.max of bulkhead/s1"]


@given(st.integers(1000, 10**9), st.integers(1000, 1000000))
def test_a_quota_is_exact_or_refused(quota, period):
    limit, value = TABLE["cpu_max"], {"quota": quota, "period": period}
    if slices.refusal(limit, value, 257) is None:
        percent = slices.assigned(limit, value, None)["CPUQuota"][0]
        whole, dummy, part = percent[:-1].partition(".")
        per_second = (int(whole) * 100 + int((part + "00")[:2])) * 100  # microseconds, as systemd counts
        assert per_second * period // 1000000 == quota and period >= 1000 * 1000000 // per_second


@given(st.dictionaries(st.sampled_from(["MemoryMax", "CPUWeight", "IOReadBandwidthMax"]), st.lists(st.sampled_from(["1", "a b", "=x"]), min_size=1)))
def test_a_unit_file_reads_back(values):
    assert slices.read(slices.render("# made by bulkhead", "a/b", values)) == values


def test_a_slice_below_another_is_stopped_with_it_at_shutdown():
    assert ["DefaultDependencies=no" in slices.render("# made by bulkhead", name, {}) for name in ("a", "a/b", "bulkhead/web")] == [False, True, True]


def test_systemd_with_cgroup_v1_is_refused(machine):
    machine.table = Table("1 0 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 0:9 / %(r)s rw - tmpfs tmpfs rw\n"
                          "3 2 0:9 / %(r)s/memory rw - cgroup cgroup rw,memory\n" % {"r": machine.root})
    assert "systemd has cgroup v1 here, in mode v1" in machine.refuse(memory_max="1M")


def test_the_delegated_subtree(machine):
    top = machine.root + "/bulkhead.slice/bulkhead.service"
    trees = machine.host().cgroups()
    spec = CgroupSpec.from_options({"name": NAME, "driver": "cgroupfs"}, "", Problems())
    assert not trees.delegated().exists(NAME) and trees.at(NAME) is trees
    assert _cgroup_slice.chosen(trees, spec) is trees.at(NAME) is trees.delegated()
    assert trees.join_files(NAME, "nginx") == [top + "/bulkhead/w-b/nginx/cgroup.procs"]  # known before it is there
    assert "cpu" in trees.delegated().controllers and "hugetlb" not in trees.delegated().controllers
    assert "which systemd does not hand on" in machine.refuse(driver="cgroupfs", hugetlb={"2MB": {"max": "4M"}})
    check = machine.converge(True, name=NAME, driver="cgroupfs", hugetlb={"2MB": {"max": "4M"}}, allow_undelegated=True, max_depth=3)
    assert check.joined("actions") == ["create cgroup " + NAME, "enable hugetlb for " + NAME, "set cgroup.max.depth of " + NAME,
                                       "set hugetlb.2MB.max of " + NAME]
    assert check.plans[0].records["cgroup", NAME][0]["driver"] == "cgroupfs" and check.plans[0].records["cgroup", NAME][0]["allow_undelegated"]
    for name in ("keepers", "main/x"):
        assert "is a place of our own" in machine.refuse(name=name, driver="cgroupfs")
    machine.twice(memory_max="1M")
    assert "it is there by driver systemd" in machine.refuse(driver="cgroupfs")
    os.makedirs(top + "/bulkhead/other")
    assert "it is there by driver cgroupfs" in machine.refuse(name="bulkhead/other", driver="systemd")
    view = cgroup.show(machine.host(), "bulkhead/other")
    assert view["driver"] == "cgroupfs" and view["paths"] == {"unified": top + "/bulkhead/other"}
