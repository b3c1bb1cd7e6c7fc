# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Bad input: each is one refusal of one line that names what is wrong, and nothing was touched.

A case is a noun, the path of an option in a declaration that is good but for it, and a bad value. `@` in text stands for a
directory that has what the values name: layers, a file, a loop of symbolic links, an upper that is in use.
"""

from __future__ import annotations

import copy
import json
import os
import random
import re
import shutil
import subprocess
import sys

import pytest

import drive
import leftovers

from module_utils._kernel import syscalls
from module_utils._model.errors import BulkheadError, Problems

ALL = ["net", "uts", "ipc", "mnt", "pid", "cgroup", "time"]
MAP = ["0 100000 65536"]
SLEEP = ["/bin/sleep", "1"]
GOOD = {
    "cgroup": {"name": "bulkhead/bad"},
    "namespace": {"name": "bad", "types": ALL + ["user"], "uid_map": MAP, "gid_map": MAP},
    "overlay": {"path": "@/mnt", "lower": ["@/base"], "upper": "@/upper", "work": "@/work"},
    "service": {"name": "bad", "root": "@/root", "command": SLEEP},
    "sandbox": {"sandboxes": [{"name": "bad", "namespaces": {"types": ALL}, "cgroup": {"pids_max": 9}, "overlay": {"lower": ["@/root"]},
                               "services": [{"name": "s", "command": SLEEP}]}]},
}
GONE = object()  # as a value: the option is left out
DIGIT = "\u0663"  # a digit, but not one of ours
WRONG = [True, 1.5, [], {}, [[]], {"": ""}]

NAME = ["", ".", "..", "a/..", "/a", "a//b", "a/", "a\nb", "a\0b", "x" * 300, "\xf1and\xfa", "\uff57eb", "web ", "-web", ".web", "web:x",
        "a\x1b[31m", "a\u202eb", "\ud800", "a%b", "$(id)", "a;b", 7, True, 1.5, [], ["web"], {"a": 1}]
SIZE = [-1, "-1", "1e999", "12Q", "", "K", "1.5.5M", "1,5M", "0x10", "1_000", DIGIT, 1 << 63, "9" * 30, "8E", "9999999P", "12 34", "max max",
        float("inf"), float("nan")] + WRONG
COUNT = [-1, "-1", "1e3", "12Q", "", DIGIT, 1 << 40, "9" * 30, "0x10", "ten"] + WRONG
BOOL = ["maybe", "", 2, -1, 1.5, "truee", [], {}, "on\n"]
PATH = ["relative", "./a", "~/a", "", "/a/../b", "/a/./b", "/..", "/a\nb", "/a\0b", "/" + "x" * 300, "/" + "x/" * 3000, "/\u202e", 5, True, {}]
TIME = [-1, "-1s", "10 parsecs", "1e3s", "s", "", "1.s", "9" * 30, "99999999999h", 1 << 63, "10S"] + WRONG
TEXTS = ["", 5, True, {}, "text"]  # in place of a list
LISTS = ["text", 5, True, ["a"], [{}]]  # in place of a dictionary
IDS = [-1, "-1", "4294967295", 1 << 32, "1.0", "01", "1 ", "", "a b", "a:b", "\xe9", "a\0", "a\nb", "root\n", "#1", True, 1.5, [], {}]

# (path, bad values); the path "" stands for several options together
CGROUP = [
    ("name", [value for value in NAME if value != "a/.."] + [
        "bulkhead/tasks", "cgroup.procs", "bulkhead/memory.max", "cpu.stat", "notify_on_release", "bulkhead/hugetlb.2MB.max", "release_agent",
        "io.stat/a", "a/../../b", "/".join(["a" * 60] * 20), None]),
    ("memory_max", SIZE), ("memory_swap_max", SIZE[:4]), ("hugetlb.2MB.max", SIZE[:5]), ("memory_reclaim", SIZE[:8]),
    ("pids_max", COUNT + [4194305]), ("max_depth", COUNT[:4]), ("cpu_weight", COUNT[:4] + [0, 10001, True]),
    ("cpu_weight_nice", [-21, 20, "--1", True]), ("cpu_max_burst", TIME[:6]), ("cpu_uclamp_min", ["101", -1, "x", "1e2", True]),
    ("cpu_max", ["0", 0, -1, "-50%", "%", "1e9", "50%%", True, "0.001", "half", [], {}, {"quota": "50ms", "period": "2s"}, {"period": "10ms"},
                 {"quota": "1us"}, {"quota": "max", "burst": 1}, "99999999", float("inf"), float("nan")]),
    ("cpu_idle", BOOL), ("frozen", BOOL[:4]), ("pressure", BOOL[:2]), ("type", ["leaf", 1, ["domain"]]),
    ("cpuset_cpus", ["0-", "-3", "3-1", "a", "0;1", "0,,1", True, {}, "8192", DIGIT, ["x"], "4095"]), ("cpuset_mems", ["0--1", 1.5, "99"]),
    ("cpuset_partition", ["Root", True, [], {}]),
    ("io_max", ["8:0", {"device": "8:0"}, True]), ("io_max[0]", ["8:0", 5, {}, {"rbps": "1M"}, {"device": "8:0"}]),
    ("io_max[0].device", ["sda", "8", "8:x", ":", "8:0:0", "/dev/../sda", "", 5, True, None, [], "@/missing", "@/loop/x", "/dev/null", "/proc",
                          "4000:9"]),
    ("io_max[0].rbps", [0, "0"] + SIZE[:6]), ("io_max[0].riops", [0, "1e3", 1 << 33, True, []]), ("io_latency[0].target", TIME[:3]),
    ("processes", TEXTS[1:]), ("processes[0]", [0, -1, "x", True, 1.5, [], 4194303, 1 << 23]),
    ("delegate", LISTS + [{}]), ("delegate.user", ["", "a:b", -1, True, [], "a\nb", "no-such-user"]),
    ("hugetlb", LISTS + [{"2M": {}}, {2: {"max": 1}}, {"3MB": {"max": "6M"}}, {"2MB": {"min": 1}}, {"2MB": 1}, {"XMB": {"max": 1}}]),
    ("rdma_max", LISTS + [{"a b": {"hca_handle": 1}}, {"mlx": {"speed": 1}}, {"mlx": 5}, {"": {"hca_handle": 1}}]),
    ("misc_max", LISTS[:2] + [{"a\nb": 1}, {"res": -1}, {5: 5}]), ("dmem_max", [{"a": "12Q"}, {"a": True}]),
    ("unified", LISTS + [{"cgroup.procs": "1"}, {"memory.max/../../x": "1"}, {"": "1"}, {"a b": "1"}, {"nodot": "1"}, {5: "1"}, {"cgroup.kill": 1},
                         {"x.y\n": "1"}, {"memory.max": "12Q"}, {"memory.oom.group": "2"}, {"no.such": [1]}, {"no.such": "a\0"}, {"io.max": "garbage"}]),
    ("state", ["gone", "", True, 5, []]), ("driver", ["systemd", "v2", 5, ""]), ("kill", BOOL[:3]), ("force", BOOL[:3]),
    ("allow_below_usage", BOOL[:2]), ("memory_maxx", ["1M"]),
    ("", [{"a\nb": 1}, {5: 1}, {"cpu_weight": 1, "cpu_weight_nice": 1}, {"cpu_idle": True, "cpu_weight": 100},
          {"cpu_max": 1, "cpu_max_burst": "10s"}, {"memory_max": "1M", "unified": {"memory.max": "2M"}}]),
]
NAMESPACE = [
    ("name", NAME + [None]), ("types", ["moon", [], "", 5, True, {}, None]), ("types[0]", ["moon", "NET", "", 5, None, ["net"], {}, "net\n"]),
    ("hostname", ["", "a b", "-a", "x" * 65, "a\nb", "a\0b", "\xe9", 5, True, [], {}, "a/b", DIGIT]), ("domainname", ["", "(none)", "x" * 65, 5]),
    ("sysctls", LISTS + [{"": 1}, {"kernel.panic": 1}, {"vm.swappiness": 1}, {"net/../kernel/panic": 1}, {"net..x": 1}, {"net.x\n": 1}, {5: 1},
                         {"kernel.hostname": "a"}, {"net": 1}, {"fs.file-max": 1}, {"net.a": 1, "net/a": 2}, {"net/ipv4/ip_forward": ""},
                         {"net.ipv4.ip_forward": []}, {"net.ipv4.ip_forward": "1\0"}, {"net." + "x" * 300: 1}, {"net.no_such_sysctl": 1}]),
    ("uid_map", [[], "0 0", 5, {}, ["0 0 0"], ["0 0"], ["0 1 2 3"], ["a b c"], ["0 0 -1"], ["-1 0 1"], ["0 4294967295 1"], ["0 4294967290 10"],
                 ["4294967290 0 10"], ["0 1e5 10"], ["0 0 10", "5 100 10"], ["0 100 10", "10 105 10"], ["0 0 1", "0 0 1"], [{"inside": 0}],
                 [{"inside": 0, "outside": 0, "count": 1, "more": 1}], [{"inside": True, "outside": 0, "count": 1}], [5], [None], [[0, 0, 1]],
                 ["%d %d 1" % (each, each) for each in range(341)], ["%d %d 1" % (each + 10 ** 8, each + 10 ** 9) for each in range(300)],
                 ["0 0 99999999999999999999999"], None]),
    ("gid_map", [[], ["0 0 10", "9 100 1"], ["0 4294967295 1"], {"0": 0}, None]),
    ("time_offsets", LISTS + [{"monotonic": "x"}, {"boottime": 1 << 62}, {"realtime": 1}, {"monotonic": True}, {"monotonic": None},
                              {"monotonic": "--5"}, {"monotonic": 1.5}, {"boottime": []}, {"monotonic": -(10 ** 9)}]),
    ("loopback", BOOL), ("cgroup", ["/a", "a//b", "..", "a/../b", "", 5, True, [], "no/such"]), ("owner", NAME[:5] + [5, "bad", "none-such"]),
    ("state", ["started", 5, []]), ("on_mismatch", ["explode", True, []]), ("force", BOOL[:2]), ("kill", BOOL[:2]), ("type", ["net"]),
    ("", [{"types": ["net"], "uid_map": GONE, "gid_map": GONE, "hostname": "a"}, {"types": ["user"], "uid_map": GONE}, {"owner": "alive"},
          {"types": ["uts"], "uid_map": GONE, "gid_map": GONE, "owner": "alive"}, {"types": ["uts"], "uid_map": GONE, "gid_map": GONE, "owner": "bad"},
          {"types": ["uts"], "uid_map": GONE, "gid_map": GONE, "sysctls": {"net.ipv4.ip_forward": 1}},
          {"types": ["uts"], "uid_map": GONE, "gid_map": GONE, "loopback": True}, {"types": ["uts"], "gid_map": GONE}]),
]
OVERLAY = [
    ("path", PATH + ["/", None, [], "@/file", "@/loop", "@/loop/x", "@/file/x"]), ("lower", [[], "", 5, True, {}, None, ["@/base"] * 2]),
    ("lower[0]", PATH + [None, [], "@/missing", "@/file", "@/loop", "@/loop/x", "@/file/x", "@/busy/upper", "@/busy/upper/in"]),
    ("lower", [["@/l%d" % each for each in range(501)], ["@/" + ("%d" % each) * 80 + "/" + "y" * 200 for each in range(400)], ["@/base", "@/alias"],
               ["@/base/in", "@/base"], ["@/base", "@/missing"], ["@/base", "relative"], ["@/base"] + ["@/x%d" % each for each in range(500)]]),
    ("data", [5, {}, ["relative"], ["@/base"], ["@/missing"], ["@/l%d" % each for each in range(500)]]),
    ("upper", PATH + [None, [], "@/file", "@/loop", "@/loop/x", "@/missing/x", "@/base", "@/work", "@/base/in", "@/busy/upper", "@/busy-alias/upper",
                      "@/busy/upper/in", "/proc/upper", "@/work/in", "@/file/x", "/"]),
    ("work", PATH + [None, [], "@/file", "@/loop", "@/missing/x", "@/upper", "@/base/in", "@/busy/work", "@/busy/upper/in", "/run/other-mount", "@/upper/in"]),
    ("options", LISTS + [{"index": "maybe"}, {"redirect_dir": "sideways"}, {"volatile": "maybe"}, {"nosuch": 1}, {5: 1}, {"upperdir": "/x"},
                         {"xino": []}, {"index": {}}, {"metacopy": 5}, {"nfs_export": True, "index": False}, {"nfs_export": "on", "metacopy": "on"},
                         {"verity": "on", "metacopy": "off"}, {"metacopy": "on", "redirect_dir": "off"}, {"userxattr": True, "metacopy": "on"},
                         {"lowerdir=/": 1}, {"nosuid": "maybe"}, {"a\nb": 1}]),
    ("read_only", BOOL), ("namespace", NAME[:6] + [5, [], "none-such", "alive"]), ("state", ["present", 5, []]), ("on_mismatch", ["explode", []]),
    ("reset", BOOL[:2]), ("force", BOOL[:2]), ("lazy", BOOL[:2]), ("remove_data", BOOL[:2]), ("layers", [["@/base"]]),
    ("", [{"path": "@/upper/mnt"}, {"path": "@/work/mnt"}, {"upper": GONE, "work": GONE, "reset": True}, {"upper": "@/base/u", "work": "@/base/w"},
          {"lower": ["@/busy/upper/in"], "upper": "@/busy/upper", "work": "@/busy/work"}, {"upper": "@/busy/work"},
          {"lower": ["@/full/in"], "upper": "@/full"}, {"work": "@/full"}, {"path": "@/mounted", "lower": ["@/missing"]},
          {"path": "@/mounted", "lower": ["@/base", "@/other"], "upper": "@/busy/upper", "work": "@/busy/work"}]),
]
ROOT_PARTS = [
    ("bind", TEXTS[1:]), ("bind[0]", ["/a", 5, {}, {"source": "/a"}, {"target": "/a"}, {"source": "@/base", "target": "/b", "rw": True}]),
    ("bind[0].source", PATH + [None, "@/missing", "@/loop/x"]), ("bind[0].target", PATH + [None, "/", "/proc", "/proc/sys", "/sys", "/dev", "/dev/pts"]),
    ("bind[0].read_only", BOOL[:3]), ("tmpfs[0]", ["/a", 5, {}, {"size": "1M"}]), ("tmpfs[0].target", PATH[:6] + ["/", "/proc/x"]),
    ("tmpfs[0].size", SIZE[:4] + [0, "0", True, "max"]), ("tmpfs[0].mode", ["999", "rwx", "", "77777", True, -1, []]),
    ("devices", TEXTS[1:4]), ("devices[0]", ["relative", "/etc/passwd", "/dev", "/dev/pts/0", 5, {}, {"path": "/dev/../x"},
                                             {"path": "/dev/null2", "source": "/dev/null", "mode": "999"}, {"path": "/dev/x", "source": "@/file"},
                                             "/dev/no-such-device"]),
    ("masked_paths", TEXTS[1:]), ("masked_paths[0]", PATH[:6]), ("read_only_paths[0]", PATH[:6]),
    ("", [{"tmpfs": [{"target": "/a"}, {"target": "/a"}]}, {"bind": [{"source": "@/base", "target": "/a"}], "tmpfs": [{"target": "/a"}]},
          {"devices": ["/dev/null", "/dev/null"]}]),
]
SERVICE_PARTS = [
    ("command", ["/bin/true", "", 5, True, {}, [], [""], None]), ("command[0]", ["a\0b", [], {}, True, None]),
    ("command[1]", ["a\0b", [], None, "x" * 200000]),
    ("user", IDS + ["no-such-user"]), ("group", IDS[:8] + ["no-such-group"]), ("groups", ["root", 5, {}]), ("groups[0]", IDS[:6] + ["no-such-group"]),
    ("environment", LISTS + [{"": "a"}, {"A=B": "a"}, {"1A": "a"}, {"A": "a\0b"}, {"A": []}, {"A": None}, {5: "a"}, {"A\n": "a"}, {"A": "x" * 140000}]),
    ("cwd", PATH[:8]), ("umask", ["999", "rwx", "", "1777", True, -1, [], "01777"]), ("capabilities", ["chown", 5, {}]),
    ("capabilities[0]", ["fly", "", "CAP_", 5, True, None, [], "chown\n", "cap_cap_chown", "all"]),
    ("ambient_capabilities", ["chown", ["sys_admin"], ["fly"]]), ("no_new_privs", BOOL),
    ("seccomp", ["a/b", "../x", "", 5, True, {}, [], ["read"], ["execve", 5], ["execve", "a-b"], ["execve", []], "x" * 300, "a\0b",
                 ["execve", "flyaway_call"], "no-such-list"]),
    ("rlimits", LISTS + [{"nofiles": 5}, {"nofile": -2}, {"nofile": [5, 4]}, {"nofile": [1, 2, 3]}, {"nofile": "12Q"}, {"nofile": True}, {"nofile": []},
                         {"nofile": {"soft": 5}}, {"nofile": {"soft": "unlimited", "hard": 4}}, {"nofile": {"min": 1}}, {5: 5}, {"nofile": 1 << 70},
                         {"nofile": None}]),
    ("stop_signal", ["SIGFLY", "", 9, True, [], "SIG", "SIGSIGTERM", "STOP"]), ("stop_timeout", TIME + ["2h"]),
    ("restart", ["sometimes", True, 5, [], ""]),
    ("log", ["yes", 5, [], {"size": 1}, {"enabled": "maybe"}, {"max_size": "12Q"}, {"max_size": 1}, {"max_files": 1}, {"max_files": "many"}]),
    ("health", LISTS + [{}, {"tcp": 1, "http": "http://127.0.0.1/"}, {"interval": "10s"}, {"tcp": 0}, {"tcp": 65536}, {"tcp": "example.org:80"},
                        {"tcp": "127.0.0.1:x"}, {"tcp": True}, {"tcp": [80]}, {"tcp": "999.1.1.1:80"}, {"http": "https://127.0.0.1/"},
                        {"http": "http://example.org/"}, {"http": "http://127.0.0.1:0/"}, {"http": "http://127.0.0.1/a b"}, {"http": 5},
                        {"http": "http://127.0.0.1/\r\nX: y"}, {"http": "http:///"}, {"command": []}, {"command": "true"}, {"command": ["a\0"]},
                        {"tcp": 80, "interval": "1us"}, {"tcp": 80, "timeout": "2h"}, {"tcp": 80, "retries": 0}, {"tcp": 80, "retries": True}]),
    ("nice", [-21, 20, "x", True, 1.5]), ("oom_score_adj", [-1001, 1001, "x", True]), ("enabled", BOOL[:3]), ("state", ["running", 5, True, []]),
    ("comand", [["/bin/true"]]),
]
SERVICE = SERVICE_PARTS + ROOT_PARTS + [
    ("name", NAME + ["a/b/c", None]), ("root", PATH + ["@/missing", "@/file", "@/loop", "@/loop/x"]),
    ("namespace", NAME[:4] + [5, [], "none-such"]), ("cgroup", ["/a", "..", "", 5, [], "no/such"]), ("on_change", ["explode", 5, []]),
    ("on_mismatch", ["explode"]), ("force", BOOL[:2]), ("", [{"command": GONE}, {"root": GONE}]),
]
ONE = "sandboxes[0]"
LOCK = "/run/bulkhead.lock"  # taken once the options are good, and then the host is read


def below(part, table, skip=(), first=2, last=1):
    """The first and last values of another table, for that part of a sandbox."""
    return [("%s%s.%s" % (ONE, part, path) if path else ONE + part, values[:first] + values[-last:]) for path, values in table
            if path not in skip and (path or not part)]


def both(upper, work, other_upper, other_work, other_lower="@/base"):
    """Two sandboxes with these directories."""
    return [{"name": "a", "namespaces": {"types": ["uts"]}, "overlay": {"lower": ["@/base"], "upper": upper, "work": work}},
            {"name": "b", "namespaces": {"types": ["uts"]}, "overlay": {"lower": [other_lower], "upper": other_upper, "work": other_work}}]


SANDBOX = below("", ROOT_PARTS, first=3, last=3) + below(".services[0]", SERVICE_PARTS)
SANDBOX += below(".cgroup", CGROUP, ("name", "state", "driver", "kill", "force", "processes[0]"))
SANDBOX += below(".namespaces", NAMESPACE, ("name", "cgroup", "owner", "types", "uid_map", "gid_map", "state", "on_mismatch", "force", "kill"))
SANDBOX += [(ONE + ".overlay." + path, values) for path, values in OVERLAY if path in ("lower[0]", "options", "layers")]
SANDBOX += [
    ("sandboxes", ["web", 5, True, {}]), (ONE, ["web", 5, True, [], {}]), (ONE + ".color", ["blue"]), (ONE + ".name", NAME + [None]),
    (ONE + ".state", ["started", 5, [], True]), (ONE + ".namespaces", LISTS), (ONE + ".cgroup", LISTS), (ONE + ".overlay", LISTS),
    (ONE + ".namespaces.cgroup", ["other", 5]), (ONE + ".namespaces.name", ["other"]), (ONE + ".cgroup.name", ["other"]),
    (ONE + ".overlay.state", ["absent", "unmounted"]), (ONE + ".overlay.namespace", ["alive"]), (ONE + ".overlay.reset", [True]),
    (ONE + ".overlay.remove_data", [True]), (ONE + ".overlay.on_mismatch", ["recreate"]), (ONE + ".overlay.path", ["/srv/elsewhere"]),
    (ONE + ".namespaces.types", [[], ["moon"], "moon"]), (ONE + ".services", TEXTS[1:]), (ONE + ".services[0]", ["s", 5, [], {}]),
    (ONE + ".services[0].name", NAME + [None]), (ONE + ".services[0].command", [GONE]), (ONE + ".services[0].root", ["/"]),
    (ONE + ".services[0].namespace", ["x"]), (ONE + ".services[0].cgroup", ["x"]), (ONE + ".services[0].bind", [[]]),
    (ONE + ".overlay.upper", ["relative", "@/upper"]), (ONE + ".overlay.lower", [["@/base", "@/base"], GONE, [], ["@/missing"]]),
    (ONE + ".root", ["@/root", "relative", 5]),
    ("defaults", LISTS), ("defaults.name", ["web"]), ("defaults.color", ["blue"]), ("defaults.cgroup.memory_max", ["12Q"]),
    ("sandboxes", [[{"name": "a"}, {"name": "a"}], [{"name": "a"}, {"name": "b", "state": "absent"}, {"name": "b"}],
                   [{"name": "a", "services": [{"name": "s", "command": SLEEP}] * 2}],
                   both("@/free/u", "@/free/w", "@/free/u", "@/free/x")]),
    (ONE, [{"overlay": {"lower": ["@/root"], "upper": "@/busy/upper", "work": "@/busy/work2"}},
           {"overlay": {"lower": ["@/root"], "upper": "@/free/upper", "work": "@/busy/work"}},
           {"overlay": {"lower": ["@/root"], "upper": "@/free/upper", "work": "/run/other-mount"}},
           {"overlay": {"lower": ["@/root"], "upper": "@/root/upper", "work": "@/free/work"}},
           {"state": "absent", "cgroup": {"memory_max": "12Q"}}, {"state": "absent", "services": 5}]),
]
# What an entry of a list has beside the bad value.
ENTRY = {"io_max": {"device": "8:0", "rbps": "1M"}, "io_latency": {"device": "8:0", "target": "1s"}, "bind": {"source": "@/base", "target": "/b"},
         "tmpfs": {"target": "/t"}}


def placed(options, path, value):
    """A copy of the options with the value at the path; what is on the way is made."""
    options = copy.deepcopy(options)
    keys = [int(word) if word.isdigit() else word for word in re.findall(r"[^.\[\]]+", path)]
    if not keys:
        options.update(value)
        return {key: item for key, item in options.items() if item is not GONE}
    here = options
    for key, following, before in zip(keys, keys[1:], [""] + keys):
        fresh = copy.deepcopy(ENTRY.get(before, {})) if isinstance(following, str) else []
        if isinstance(here, list) and key >= len(here):
            here.append(fresh)
        elif isinstance(here, dict) and here.get(key) is None:
            here[key] = fresh
        here = here[key]
    last = keys[-1]
    if path == ONE and isinstance(value, dict) and value:
        here[0].update(value)
    elif value is GONE:
        del here[last]
    elif isinstance(here, list):
        here[last:last + 1] = [value]
    else:
        here[last] = value
    return options


def cases():
    """[(id, noun, path, value)], all distinct."""
    found = {}
    for noun, table in (("cgroup", CGROUP), ("namespace", NAMESPACE), ("overlay", OVERLAY), ("service", SERVICE), ("sandbox", SANDBOX)):
        for path, bad in table:
            for value in bad:
                found.setdefault((noun, path, repr(value)), (noun, path, value))
    return [("%s-%s-%d" % (noun, path or "together", number), noun, path, value) for number, (noun, path, value) in enumerate(found.values())]


CASES = cases()


# -- the place

@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The directory that `@` stands for, and beside it a cgroup, a set of namespaces and an overlay that live."""
    top = str(tmp_path_factory.mktemp("bad"))
    syscalls.mount("test", top, "tmpfs", 0, "mode=755")
    for name in ("base/in", "other", "root/etc", "root/bin", "busy/upper/in", "busy/work", "free/u/in", "full/in"):
        os.makedirs("%s/%s" % (top, name))
    for name, text in (("file", ""), ("root/etc/passwd", "root:x:0:0::/:/bin/sh\n"), ("root/etc/group", "root:x:0:\n")):
        with open("%s/%s" % (top, name), "w", encoding="utf-8") as stream:
            stream.write(text)
    shutil.copy(shutil.which("busybox"), top + "/root/bin/sleep")  # a static one
    for name, target in (("loop", "loop2"), ("loop2", "loop"), ("alias", "base"), ("busy-alias", "busy"), ("free-alias", "free")):
        os.symlink(target, "%s/%s" % (top, name))
    alive = [("cgroup", {"name": "bulkhead/alive", "pids_max": 50, "memory_max": "64M"}),
             ("namespace", {"name": "alive", "types": ["uts", "ipc"], "hostname": "alive"}),
             ("overlay", {"path": top + "/mounted", "lower": [top + "/base"], "upper": top + "/busy/upper", "work": top + "/busy/work"})]
    for noun, options in alive:
        assert "error" not in drive.converge(noun, options)
    yield top
    for noun, options in alive:
        drive.converge(noun, dict({key: options[key] for key in ("name", "path") if key in options}, state="absent"))
    syscalls.umount(top, syscalls.MNT_DETACH)


def real(value, top):
    """The value with `@` replaced."""
    if isinstance(value, str):
        return top + value[1:] if value.startswith("@/") else value
    if isinstance(value, dict):
        return {key: real(item, top) for key, item in value.items()}
    return [real(item, top) for item in value] if isinstance(value, list) else value


class State:
    """What can be touched, at one moment: all that leaves_nothing knows, the place itself, what lives, claims and records."""

    def __init__(self, top):
        self.things = {thing for thing in leftovers.Snapshot().things if thing[0] != "file " + LOCK}
        for folder in (top, "/etc/bulkhead", "/run/bulkhead/made"):
            for where, names, files in os.walk(folder):
                for name in names + files:
                    found = os.lstat("%s/%s" % (where, name))
                    self.things.add(("%s/%s" % (where, name), repr((found.st_mode, found.st_size, found.st_ino, found.st_mtime_ns))))
        host = drive.new_host()
        for noun, name in (("cgroup", "bulkhead/alive"), ("namespace", "alive"), ("overlay", top + "/mounted")):
            self.things.add((noun, json.dumps(drive.resource(noun).show(host, name), sort_keys=True, default=str)))

    def difference(self, other):
        return sorted(self.things ^ other.things)


def leaves(value):
    """The texts and numbers in a value, as an error may show them."""
    if isinstance(value, dict):
        return [leaf for pair in value.items() for item in pair for leaf in leaves(item)]
    if isinstance(value, (list, tuple)):
        return [leaf for item in value for leaf in leaves(item)]
    return [] if value is None or value is GONE or isinstance(value, bool) else [str(value)]


def fault(answer, noun, path, value, options):
    """What is wrong with a refusal, or None."""
    if "error" not in answer:
        return "it was accepted: %s" % (answer["actions"],)
    text = answer["error"]
    if answer["changed"]:
        return "it was refused (%s), and yet something changed: %s" % (text, answer["actions"])
    if not text.isprintable() or "Traceback" in text or "Errno" in text or len(text) > 2000:
        return "no line to be read: %r" % text
    if not re.match(r"Cannot [a-z]+ \S.*: \S", text) or text.count("Cannot ") != 1:
        return "not one refusal of the form `Cannot ...: ...`: %s" % text
    if text.startswith("Cannot use the options: "):
        places = [path] if path else list(value) + [noun]
        for one, other in (("upper", "work"), ("work", "upper"), ("data", "lower"), ("defaults.", ONE + ".")):  # said of what goes with it
            places += [path.replace(one, other)] if path else []
        named = any(str(each) in text for each in places)
    else:
        words = leaves(value) + path.split(".") + [str(options.get("name")), str(options.get("path"))]
        named = any(word in text for word in words if len(word) > 1)
    return None if named else "it does not name what is wrong: %s" % text


def undo(noun, options):
    """Take away what was made although it should have been refused."""
    from module_utils._supervisor import entry, scan

    if noun == "sandbox":
        found = [entry["name"] for entry in options["sandboxes"] if isinstance(entry, dict) and isinstance(entry.get("name"), str)]
        drive.converge("sandbox", {"sandboxes": [{"name": name, "state": "absent"} for name in sorted(set(found))], "remove_data": True, "kill": True})
    else:
        drive.converge(noun, dict({"name": options.get("name")} if noun != "overlay" else {"path": options.get("path")}, state="absent", force=True))
    host = drive.new_host()
    scan.shutdown(host)
    entry.clear(host)


# -- the tests

@pytest.mark.parametrize(("noun", "path", "value"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_one_refusal_and_nothing_touched(place, noun, path, value):
    options = real(placed(GOOD[noun], path, value), place)
    if os.path.exists(LOCK):
        os.unlink(LOCK)
    before = State(place)
    answer = drive.converge(noun, copy.deepcopy(options))
    touched = before.difference(State(place))
    if touched:
        undo(noun, options)
    wrong = fault(answer, noun, path, real(value, place), options)
    assert not wrong, wrong
    assert not touched, "%s, and yet: %s" % (answer["error"], touched)
    assert os.path.exists(LOCK) != answer["error"].startswith("Cannot use the options: ")
    again = drive.converge(noun, options, check=True)  # what an earlier task may make yet is a warning there
    assert again.get("error") == answer["error"] or again.get("warnings"), "the check says: %s" % again


@pytest.mark.parametrize(("upper", "work", "lower"), [
    ("@/free/x", "@/free/w", "@/base"), ("@/free/u/in", "@/free/x", "@/base"), ("@/free/w", "@/free/x", "@/base"),
    ("@/free-alias/u", "@/free/x", "@/base"), ("@/free/x", "@/free/y", "@/free/u"), ("@/free/x", "@/free/y", "@/missing"),
    ("@/busy/upper", "@/free/y", "@/base"), ("/proc/upper", "/proc/work", "@/base"),
])
def test_of_two_sandboxes_the_bad_one_is_refused_alone(place, upper, work, lower):
    try:
        answer = drive.converge("sandbox", {"sandboxes": real(both("@/free/u", "@/free/w", upper, work, lower), place)})
        shown = [drive.resource("sandbox").show(drive.new_host(), name) for name in "ab"]
        assert re.match(r"Cannot mount overlay /run/bulkhead/mnt/b: \S", answer["error"]) and answer["error"].isprintable(), answer
        assert shown[0] and not shown[1]
        assert not [action for action in answer["actions"] if action.endswith(("/b", " b"))], answer["actions"]
        assert sorted(os.listdir(place + "/free")) == ["u", "w"]
    finally:
        drive.converge("sandbox", {"sandboxes": [{"name": "a", "state": "absent"}, {"name": "b", "state": "absent"}]})
        shutil.rmtree(place + "/free")
        os.makedirs(place + "/free/u/in")


def test_all_errors_of_a_run_come_at_once():
    bad = {"name": "we b", "namespaces": {"types": ["nets"]}, "cgroup": {"memory_max": "12Q", "pids_max": -1}, "overlay": {"lower": ["x"]},
           "services": [{"name": "a", "command": [], "user": -1}]}
    errors = drive.converge("sandbox", {"sandboxes": [bad, {"name": "b", "cgroup": {"cpu_max": "x"}}], "defaults": {"colour": 1}})["keys"]["errors"]
    for path in ("defaults.colour", ONE + ".name", ONE + ".namespaces.types[0]", ONE + ".cgroup.memory_max", ONE + ".cgroup.pids_max",
                 ONE + ".overlay.lower[0]", ONE + ".services[0].command", ONE + ".services[0].user", "sandboxes[1].cgroup.cpu_max"):
        assert [error for error in errors if error.startswith(path + ": ")], (path, errors)


def test_what_is_good_is_taken(place):
    for noun, options in GOOD.items():
        answer = drive.converge(noun, real(options, place), check=True)
        assert "error" not in answer and answer["changed"], answer


def test_there_are_enough():
    assert len(CASES) >= 200
    for noun in GOOD:
        assert sum(case[1] == noun for case in CASES) >= 40


# -- generated

SEED = 20261125
ODD = "\0\n\t\x1b /\\:;|$*~%='\"@\x7f\u00a0\u202e\u0663\u00e9\uff10\U0001f4a9\ud800"
# Where text is never right unless it is a word or a name, and where a number has to be right.
WORDS = {
    "cgroup": ["name", "io_max[0].device"], "namespace": ["name", "types[0]", "hostname", "owner", "cgroup"],
    "overlay": ["lower[0]", "options.index", "read_only", "namespace", "state", "on_mismatch"],
    "service": ["name", "user", "group", "groups[0]", "capabilities[0]", "namespace", "cgroup", "restart"],
    "sandbox": [ONE + ".name", ONE + ".namespaces.hostname", ONE + ".overlay.lower[0]", ONE + ".services[0].capabilities[0]", ONE + ".services[0].name"],
}
NUMBERS = {
    "cgroup": ["memory_max", "cpu_max", "pids_max", "cpuset_cpus", "io_max[0].rbps", "processes[0]", "memory_reclaim", "frozen"],
    "namespace": ["uid_map[0]", "gid_map[0]", "loopback", "time_offsets.boottime", "types[0]"], "overlay": ["options.volatile", "read_only", "lower[0]"],
    "service": ["user", "rlimits.nofile", "health.tcp", "stop_timeout", "umask", "nice", "no_new_privs"],
    "sandbox": [ONE + ".cgroup.memory_max", ONE + ".tmpfs[0].size", ONE + ".services[0].health.http", ONE + ".services[0].stop_timeout"],
}


def noise(dice):
    """Text that is the right form of nothing: odd characters, one of them printed."""
    text = [dice.choice("az09.-_MK" + ODD) for dummy in range(dice.choice([1, 2, 3, 9, 300]))]
    text.insert(dice.randrange(len(text) + 1), dice.choice("|$*~=\\\"\u0663\u00e9\U0001f4a9"))
    return "".join(text)


def number(dice):
    """A number that no option takes, or its text."""
    value = dice.choice([-dice.randrange(1 << 33, 1 << 70), (1 << 63) + dice.randrange(1 << 70), dice.random() * 1e30 + 0.5, float("-inf")])
    return dice.choice([value, str(value)])


def anything(dice, depth=0):
    """Any value that YAML can give."""
    kind = dice.randrange(9 if depth < 3 else 7)
    if kind == 7:
        return [anything(dice, depth + 1) for dummy in range(dice.randrange(4))]
    if kind == 8:
        return {dice.choice([noise(dice), "name", "device", "quota", "source", "target", 5, None, True]): anything(dice, depth + 1)
                for dummy in range(dice.randrange(4))}
    return [None, dice.choice([True, False]), dice.randrange(-9, 1 << 33), dice.random() * 100, noise(dice), number(dice),
            dice.choice(["max", "512M", "50%", "10s", "a", "/a", "0-1", "0 0 1", "8:0", "", "on", "absent", "0644"])][kind]


@pytest.mark.parametrize("noun", sorted(GOOD))
def test_generated_values_are_refused(place, noun):
    dice = random.Random("%d %s" % (SEED, noun))
    before = State(place)
    for dummy in range(100):
        path, value = dice.choice([(dice.choice(WORDS[noun] + NUMBERS[noun]), noise(dice)), (dice.choice(NUMBERS[noun]), number(dice))])
        options = placed(real(GOOD[noun], place), path, value)
        answer = drive.converge(noun, real(options, place))
        wrong = fault(answer, noun, path, value, options)
        if "error" not in answer:
            undo(noun, options)
        assert not wrong, (path, value, wrong)
    assert not before.difference(State(place))


@pytest.mark.parametrize("noun", sorted(GOOD))
def test_whatever_is_said_is_taken_or_refused_in_one_line(noun):
    """Any value anywhere: parsing ends, and what it raises is a refusal."""
    dice, paths = random.Random("%d any %s" % (SEED, noun)), sorted({case[2] for case in CASES if case[1] == noun})
    for dummy in range(3000):
        options = GOOD[noun]
        for path in dice.sample(paths, dice.randrange(1, 3)):
            try:
                options = placed(options, path, anything(dice)) if path else dict(options, name=anything(dice))
            except (AttributeError, IndexError, KeyError, TypeError):
                continue  # the way is blocked by the value before
        problems = Problems()
        try:
            drive.resource(noun).parse(copy.deepcopy(options), "", problems)
            problems.raise_if_any()
        except BulkheadError as refusal:
            assert refusal.message.isprintable() and refusal.message.startswith("Cannot "), (options, refusal.message)
        except Exception as exc:  # pylint: disable=broad-exception-caught
            raise AssertionError("%r for %r" % (exc, options)) from exc


# -- through Ansible

TASKS = [
    ("cgroup", {"name": "bulkhead/../bad", "memory_max": "12Q", "pids_max": -1}, ["name: ", "memory_max: ", "pids_max: "]),
    ("cgroup", {"name": "bulkhead/bad", "io_max": [{"device": "@/missing", "rbps": "1M"}]}, ["@/missing"]),
    ("namespace", {"name": "x" * 300, "types": ["user"], "uid_map": ["0 0 10", "5 100 10"], "gid_map": []}, ["name: ", "uid_map: ", "gid_map: "]),
    ("namespace", {"name": "bad", "types": ["net"], "owner": "none-such"}, ["none-such"]),
    ("overlay", {"path": "@/mnt", "lower": ["@/l%d" % each for each in range(501)]}, ["lower: 501 layers"]),
    ("overlay", {"path": "@/mnt", "lower": ["@/loop"]}, ["@/loop"]),
    ("chroot_service", {"name": "bad", "root": "@/root", "command": ["a\0b"], "capabilities": ["fly"], "rlimits": {"files": 1}, "environment": {"A=": "x"}},
     ["command[0]: ", "capabilities[0]: ", "rlimits.files: ", "environment."]),
    ("chroot_service", {"name": "bad", "root": "@/missing", "command": ["/bin/true"]}, ["@/missing"]),
    ("sandbox", {"sandboxes": [{"name": "a\nb"}, {"name": "c", "overlay": {"lower": ["x"]}, "cgroup": {"cpu_max": "1e999"}}, {"name": "d", "colour": 1}]},
     ["sandboxes[0].name: ", "sandboxes[1].overlay.lower[0]: ", "sandboxes[1].cgroup.cpu_max: ", "sandboxes[2].colour: "]),
    ("sandbox", {"sandboxes": [{"name": "bad", "namespaces": {"types": ["mnt", "pid"]}, "overlay": {"lower": ["@/missing"]}}]}, ["@/missing"]),
]


def test_through_ansible(place, tmp_path):
    """The same from the modules themselves: a failure of one line with its errors, without an exception."""
    before, answers = State(place), str(tmp_path / "answers.json")
    tasks = [{"bulkhead.isolation." + name: real(options, place), "ignore_errors": True, "register": "answer_%d" % number}
             for number, (name, options, dummy) in enumerate(TASKS)]
    content = "{{ [%s] | to_json }}" % ", ".join(task["register"] for task in tasks)
    tasks.append({"ansible.builtin.copy": {"content": content, "dest": answers, "mode": "0600"}})
    with open(tmp_path / "play.yml", "w", encoding="utf-8") as stream:
        json.dump([{"hosts": "localhost", "gather_facts": False, "tasks": tasks}], stream)
    command = shutil.which("ansible-playbook", path=os.path.dirname(sys.executable) + ":" + os.environ["PATH"])
    collections = drive.ROOT.rpartition("/ansible_collections/")[0] or drive.ROOT + "/build"
    run = subprocess.run(
        [command, "--inventory", "localhost,", "--connection", "local", str(tmp_path / "play.yml")],
        capture_output=True, text=True, check=False,
        env=dict(os.environ, ANSIBLE_COLLECTIONS_PATH=collections, ANSIBLE_HOME=str(tmp_path / "home"), ANSIBLE_REMOTE_TMP=str(tmp_path / "tmp"),
                 ANSIBLE_PYTHON_INTERPRETER=sys.executable, LC_ALL="C.UTF-8"))
    assert run.returncode == 0, run.stdout + run.stderr
    assert "Traceback" not in run.stdout + run.stderr
    with open(answers, encoding="utf-8") as stream:
        for (name, options, named), answer in zip(TASKS, json.load(stream)):
            assert answer["failed"] and not answer["changed"], (name, answer)
            assert "exception" not in answer or "Traceback" not in answer["exception"], (name, answer)
            assert answer["msg"].startswith("Cannot ") and answer["msg"].isprintable(), (name, answer["msg"])
            for word in real(named, place):
                assert word in answer["msg"], (word, answer["msg"])
            if len(named) > 1:
                assert len(answer["errors"]) == len(named), answer["errors"]
    assert not before.difference(State(place))
