# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""cgroup on fake trees: which controller is where, and what is planned, written and refused on v1, v2 and hybrid hosts."""

from __future__ import annotations

import os

import pytest
from ansible_collections.bulkhead.isolation.plugins.module_utils._engine import places
from ansible_collections.bulkhead.isolation.plugins.module_utils._engine.engine import converge
from ansible_collections.bulkhead.isolation.plugins.module_utils._engine.host import Host
from ansible_collections.bulkhead.isolation.plugins.module_utils._kernel import cgroupfs
from ansible_collections.bulkhead.isolation.plugins.module_utils._kernel.mountinfo import Table
from ansible_collections.bulkhead.isolation.plugins.module_utils._model.cgroup import CgroupSpec
from ansible_collections.bulkhead.isolation.plugins.module_utils._model.errors import BulkheadError, Problems
from ansible_collections.bulkhead.isolation.plugins.module_utils._resources import cgroup

UNIFIED_FILES = {
    "cgroup.procs": "", "cgroup.controllers": "cpu cpuset io memory pids\n", "cgroup.subtree_control": "", "cgroup.max.depth": "max\n", "cgroup.freeze": "0\n",
    "cgroup.events": "populated 0\nfrozen 0\n", "cgroup.type": "domain\n", "cpu.max": "max 100000\n", "cpu.max.burst": "0\n", "cpu.weight": "100\n",
    "cpu.idle": "0\n", "memory.max": "max\n", "memory.high": "max\n", "memory.current": "8192\n", "memory.swap.max": "max\n", "memory.oom.group": "0\n",
    "io.max": "", "io.weight": "default 100\n", "pids.max": "max\n", "pids.current": "0\n", "cpuset.cpus": "\n", "cpuset.cpus.partition": "member\n",
    "cpu.stat": "usage_usec 7\nuser_usec 5\n", "memory.foo": "bar\n",
}
V1_FILES = {
    "cpu": {"cpu.shares": "1024\n", "cpu.cfs_quota_us": "-1\n", "cpu.cfs_period_us": "100000\n", "cpu.cfs_burst_us": "0\n", "cpu.idle": "0\n"},
    "cpuset": {"cpuset.cpus": "\n", "cpuset.mems": "\n"},
    "memory": {"memory.limit_in_bytes": "9223372036854771712\n", "memory.memsw.limit_in_bytes": "9223372036854771712\n", "memory.usage_in_bytes": "0\n"},
    "pids": {"pids.max": "max\n", "pids.current": "0\n"},
    "freezer": {"freezer.state": "THAWED\n", "freezer.self_freezing": "0\n"},
}
HYBRID_FILES = {"cgroup.procs": "", "cgroup.controllers": "hugetlb\n", "cgroup.subtree_control": "", "hugetlb.2MB.max": "max\n"}


def fill(directory, files):
    os.makedirs(directory, exist_ok=True)
    for name, text in files.items():
        with open("%s/%s" % (directory, name), "w", encoding="ascii") as stream:
            stream.write(text)


class Machine:
    """A fake host: a tree that grows the kernel's files where a cgroup is made, and a mount table that tells of it."""

    def __init__(self, tmp_path, monkeypatch, mode):
        self.root = str(tmp_path / "cgroup")
        lines = ["1 0 8:1 / / rw - ext4 /dev/sda1 rw"]
        self.kinds = {}
        if mode == "unified":
            lines.append("2 1 0:9 / %s rw - cgroup2 cgroup2 rw" % self.root)
            self.kinds[self.root] = UNIFIED_FILES
        else:
            lines.append("2 1 0:8 / %s rw - tmpfs tmpfs rw" % self.root)
            for number, name in enumerate(V1_FILES):
                path = "%s/%s" % (self.root, name)
                lines.append("%d 2 0:%d / %s rw shared:4 - cgroup cgroup rw,%s" % (number + 10, number + 20, path, name))
                self.kinds[path] = dict(V1_FILES[name], tasks="", **{"cgroup.procs": ""})
        if mode == "hybrid":
            lines.append("30 2 0:40 / %s/unified rw - cgroup2 cgroup2 rw" % self.root)
            self.kinds[self.root + "/unified"] = HYBRID_FILES
        for path, files in self.kinds.items():
            fill(path, files)
        if mode != "unified":
            fill(self.root + "/cpuset", {"cpuset.cpus": "0-3\n", "cpuset.mems": "0\n"})
        self.table = Table("\n".join(lines) + "\n")
        self.roots = {name: str(tmp_path / name) for name in ("state", "etc", "lib", "lock", "sys", "proc")}
        mkdir, rmdir = os.mkdir, os.rmdir

        def born(path, mode=0o777):
            mkdir(path, mode)
            root = next((root for root in sorted(self.kinds, reverse=True) if str(path).startswith(root + "/")), None)
            if root:
                fill(path, self.kinds[root])

        def died(path):
            if str(path).startswith(self.root):
                for name in os.listdir(path):
                    if os.path.isfile("%s/%s" % (path, name)):
                        os.unlink("%s/%s" % (path, name))
            rmdir(path)

        def written(path, text):
            with open(path, "r+", encoding="ascii") as stream:
                stream.truncate()
                stream.write(text.replace("+", "") + "\n")
            self.log.append((path[len(self.root) + 1:], text))

        self.log = []
        monkeypatch.setattr(cgroupfs.os, "mkdir", born)
        monkeypatch.setattr(cgroupfs.os, "rmdir", died)
        for module in (cgroupfs, cgroup):
            monkeypatch.setattr(module, "write", written)
        monkeypatch.setattr(places, "ensure", lambda host: None)
        monkeypatch.setattr(Host, "systemd", False)

    def host(self):
        host = Host(cgroup=self.root, **self.roots)
        host.cached("mounts", lambda: self.table)
        host.forget = lambda: None
        return host

    def converge(self, check=False, **options):
        return converge(self.host(), cgroup, options, check)

    def twice(self, **options):
        check, first, again = self.converge(True, **options), self.converge(**options), self.converge(**options)
        assert check.joined("actions") == first.joined("actions") and check.difference() == first.difference()
        assert again.joined("actions") == [], again.difference()
        return first.joined("actions")

    def refuse(self, **options):
        with pytest.raises(BulkheadError) as caught:
            self.converge(**options)
        assert "\n" not in caught.value.message
        return caught.value.message


@pytest.fixture
def machine(tmp_path, monkeypatch):
    return lambda mode: Machine(tmp_path, monkeypatch, mode)


def test_where_controllers_are(machine):
    trees = machine("unified").host().cgroups()
    assert (trees.mode, trees.home("memory"), trees.home("cgroup"), trees.home("hugetlb")) == ("unified", "unified", "unified", None)
    assert trees.join_files("a/b", "nginx") == [trees.root + "/a/b/nginx/cgroup.procs"]


def test_where_controllers_are_on_a_hybrid_host(machine):
    trees = machine("hybrid").host().cgroups()
    assert (trees.mode, trees.home("memory"), trees.home("cgroup"), trees.home("hugetlb"), trees.home("io")) == ("hybrid", "memory", None, "unified", None)
    assert "unified" not in trees.keys() and "unified" in trees.keys(["unified"])
    assert [path[len(trees.root):] for path in trees.join_files("a")] == ["/%s/a/tasks" % name for name in V1_FILES]
    assert trees.join_files("a", "x", unified=True)[-1] == trees.root + "/unified/a/x/cgroup.procs"


def test_co_mounted_and_hidden_hierarchies(tmp_path):
    root = str(tmp_path)
    table = Table("1 0 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 0:8 / %(r)s rw - tmpfs tmpfs rw\n3 2 0:9 / %(r)s/cpu,cpuacct rw - cgroup cgroup rw,cpuacct,cpu\n"
                  "4 2 0:10 / %(r)s/systemd rw - cgroup cgroup rw,xattr,name=systemd\n5 2 0:11 / %(r)s/pids rw - cgroup cgroup rw,pids\n"
                  "6 5 0:12 / %(r)s/pids rw - tmpfs over rw\n" % {"r": root})
    trees = cgroupfs.Trees(root, table)
    assert trees.roots == {"cpu,cpuacct": root + "/cpu,cpuacct"} and trees.home("cpuacct") == "cpu,cpuacct" and trees.home("pids") is None


def test_no_tree(tmp_path):
    assert cgroupfs.Trees(str(tmp_path), Table("1 0 8:1 / / rw - ext4 /dev/sda1 rw\n")).mode == "none"


def test_unified_limits(machine):
    host = machine("unified")
    assert host.twice(name="b/w", memory_max="1M", cpu_max=0.5, io_weight=50, unified={"memory.oom.group": "1", "memory.foo": "baz"}) == [
        "create cgroup b/w", "enable cpu io memory for b/w", "set cpu.max of b/w", "set memory.max of b/w", "set memory.oom.group of b/w",
        "set io.weight of b/w", "set memory.foo of b/w"] or host.log
    assert ("b/cgroup.subtree_control", "+cpu +io +memory") in host.log


@pytest.mark.usefixtures("machine")
def test_v1_limits(machine):
    host = machine("v1")
    host.twice(name="b/w", cpu_max="25%", memory_max="8M", memory_swap_max="4M", pids_max=7, cpuset_cpus="1,2")
    assert ("memory/b/w/memory.memsw.limit_in_bytes", str(12 << 20)) in host.log and ("cpu/b/w/cpu.cfs_quota_us", "25000") in host.log
    assert ("cpuset/b/cpuset.cpus", "0-3") in host.log and ("cpuset/b/w/cpuset.mems", "0") in host.log
    assert host.twice(name="b/w", cpuset_cpus="") == ["set cpuset.cpus of b/w"]
    assert host.twice(name="b/w", state="absent") == ["remove cgroup b/w"]
    assert not os.path.exists(host.root + "/memory/b")


def test_cpus_that_are_not_there_are_refused(machine, tmp_path):
    for mode, there in (("v1", "0-3"), ("unified", "0-7")):
        host = machine(mode)
        os.makedirs(str(tmp_path / "sys/devices/system/cpu"), exist_ok=True)
        (tmp_path / "sys/devices/system/cpu/possible").write_text("0-7\n", encoding="ascii")
        assert host.refuse(name="b/w", cpuset_cpus="2-9") == (
            "Cannot set cpuset_cpus of cgroup b/w to 2-9: there is no %s among the %s that it can have. Use some of these." % (
                "4-9" if mode == "v1" else "8-9", there))
        assert not os.path.exists(host.root + "/b") and not os.path.exists(host.root + "/cpuset/b")
    host = machine("v1")
    host.twice(name="b", cpuset_cpus="1-2")
    assert "there is no 3 among the 1-2" in host.refuse(name="b/w", cpuset_cpus="1,3")
    host.twice(name="b/w", cpuset_cpus="")


def test_hybrid_uses_both(machine):
    host = machine("hybrid")
    assert host.twice(name="w", pids_max=4) == ["create cgroup w", "set pids.max of w"]
    assert not os.path.exists(host.root + "/unified/w")
    assert host.twice(name="w", hugetlb={"2MB": {"max": "5M"}}) == ["create cgroup w", "enable hugetlb for w", "set hugetlb.2MB.max of w"]
    assert ("unified/w/hugetlb.2MB.max", str(4 << 20)) in host.log


@pytest.mark.parametrize(("mode", "options", "words"), [
    ("v1", {"memory_high": 1}, "memory_high has no equivalent in cgroup v1"),
    ("v1", {"io_weight": 1}, "io_weight needs the controller io"),
    ("v1", {"max_depth": 1}, "max_depth needs cgroup v2 alone"),
    ("v1", {"unified": {"memory.foo": "1"}}, "unified.memory.foo has no equivalent"),
    ("hybrid", {"delegate": {"user": 0}}, "delegate has no equivalent"),
    ("unified", {"misc_max": {"a": 1}}, "misc_max needs the controller misc"),
])
def test_refused_by_name(machine, mode, options, words):
    host = machine(mode)
    assert words in host.refuse(name="w", **options)
    assert not host.log and not host.host().cgroups().exists("w")


def test_a_file_that_this_kernel_lacks(machine):
    host = machine("unified")
    host.twice(name="w", memory_max="1M")
    assert "memory_zswap_max needs memory.zswap.max" in host.refuse(name="w", memory_zswap_max="1M")
    assert "memory_zswap_max needs memory.zswap.max" in host.refuse(name="other", memory_zswap_max="1M")


def test_below_usage(machine):
    host = machine("unified")
    host.twice(name="w", memory_max="1M")
    assert "it uses 8192 now" in host.refuse(name="w", memory_max="4K")
    assert host.twice(name="w", memory_max="4K", allow_below_usage=True) == ["set memory.max of w"]


def test_the_composite_drops_what_is_no_longer_declared(machine):
    host = machine("unified")
    old = {"memory_max": "1M", "cpu_weight": 300, "frozen": True, "unified": {"memory.high": "1M"}}
    host.twice(name="w", memory_max="1M", cpu_weight=300, unified={"memory.high": "1M"})
    spec = CgroupSpec.from_options({"cpu_weight": 300}, "sandboxes[0].cgroup", Problems(), name="w")
    spec.drop(old)
    real = host.host()

    class Once:
        NOUN = "cgroup"
        parse = staticmethod(lambda options, path, problems: spec)
        plan = staticmethod(cgroup.plan)

    outcome = converge(real, Once, {})
    assert outcome.joined("actions") == ["set memory.max of w", "set memory.high of w"] and not outcome.plans[0].records


@pytest.mark.parametrize("name", [
    "tasks", "a/cgroup.procs", "cpu.max", "memory.x", "a//b", "../a", "/a", "a/..", "", "x" * 65, "a\nb", "notify_on_release", None, 5, "."])
def test_names(name):
    problems = Problems()
    CgroupSpec.from_options({"name": name}, "", problems)
    assert len(problems.errors) == 1 and problems.errors[0].startswith("name: ")


def test_all_errors_at_once_with_paths():
    problems = Problems()
    CgroupSpec.from_options({
        "memory_max": "12Q", "cpu_idle": True, "cpu_weight": 5, "unified": {"cgroup.procs": 1, "memory.max": "1M", "a/b": 1, "cpu.weight": 6},
        "hugetlb": {"3XB": {}, "2MB": {"max": "x"}}, "delegate": {"group": "a:b"}, "processes": [0], "frozen": "maybe",
    }, "s[1].cgroup", problems, name="w")
    assert sorted({error.split(": ")[0] for error in problems.errors}) == [
        "s[1].cgroup.cpu_idle", "s[1].cgroup.delegate.group", "s[1].cgroup.delegate.user", "s[1].cgroup.frozen",
        "s[1].cgroup.hugetlb", "s[1].cgroup.hugetlb.2MB.max",
        "s[1].cgroup.memory_max", "s[1].cgroup.processes[0]", "s[1].cgroup.unified", "s[1].cgroup.unified.cgroup.procs", "s[1].cgroup.unified.cpu.weight"]


def test_devices(machine, tmp_path):
    host = machine("unified")
    disks = tmp_path / "sys" / "devices"
    for path, number in (("vda", "254:0"), ("vda/vda1", "254:1")):
        (disks / path).mkdir(parents=True)
        (disks / path / "dev").write_text(number + "\n")
        (tmp_path / "sys" / "dev" / "block").mkdir(parents=True, exist_ok=True)
        (tmp_path / "sys" / "dev" / "block" / number).symlink_to(disks / path)
    (disks / "vda/vda1/partition").write_text("1\n")
    assert host.twice(name="w", io_max=[{"device": "254:1", "rbps": "1M"}]) != []
    assert ("w/io.max", "254:0 rbps=1048576") in host.log
    assert "no block device 9:9" in host.refuse(name="w", io_max=[{"device": "9:9", "rbps": 1}])
    assert "no block device holds it" in host.refuse(name="w", io_max=[{"device": "/proc", "rbps": 1}])


def test_a_step_that_fails_takes_its_own_part_back(machine, monkeypatch):
    host = machine("v1")
    mkdir = cgroupfs.os.mkdir

    def one_fails(path, mode=0o777):
        if path == host.root + "/memory/b/w" and os.path.isdir(host.root + "/memory/b"):
            raise OSError(28, "No space left on device", path)
        mkdir(path, mode)

    monkeypatch.setattr(cgroupfs.os, "mkdir", one_fails)
    assert "Cannot create cgroup b/w: No space left" in host.refuse(name="b/w")
    assert not host.host().cgroups().exists("b") and not host.host().claims.names("cgroup")


def test_what_a_killed_run_left_is_brought_to_its_end(machine):
    host = machine("v1")
    claims = host.host().claims
    claims.begin("cgroup", "b/w")
    os.makedirs(host.root + "/memory/b")
    assert host.twice(name="b/w") == ["create cgroup b/w"]
    claims.begin("cgroup", "gone")
    assert host.twice(name="gone", state="absent") == ["forget cgroup gone"]
    claims.begin("cgroup", "b/x")
    fill(host.root + "/memory/b/x", V1_FILES["memory"])
    assert host.twice(name="b/x", state="absent") == ["remove cgroup b/x"]
