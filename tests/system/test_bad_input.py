# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Bad input: each is answered by one line that names where it is, before anything is touched, and never by a traceback."""

from __future__ import annotations

import copy
import os
import random

import drive
import pytest

LAYER = "/run/layer"
LOCK = "/run/bulkhead.lock"
NAMES = ["", ".", "..", "a/b/", "/web", "we b", "web\n", "web\0", "-web", "_web", ".web", "wéb", "a" * 300, "web;rm", "$(id)", "web'",
         "\ud800", 7.5, True, [], ["web"], {}, {"a": 1}]
SIZES = ["-1", -1, "1e999", "12Q", "", " ", "M", "-1.5M", "0x10", "1 Mo", "1_000", float("nan"), float("inf"), 1.5, True, [], {}, "9" * 40,
         "8E", "16384P", "１２", "5\n6", "\0"]
NUMBERS = ["-1", -1, "one", "1e3", "", 1.5, True, [], {}, "9" * 40, 1 << 70, "1\n2", "0x7"]
PATHS = ["", "relative", "./here", "/a/../b", "/a/./b", "/a\nb", "/a\0b", "/" + "a" * 300, "/" + "a/" * 3000, "//host\x1b[2J", 5, True, [], {}]
TIMES = ["-5s", "1 day", "s", "", "1e3ms", [], {}, True, "5 min"]
WORDS = ["", "Present", "gone", 0, 7, [], {}, True, "started\n", "a" * 300]
BOOLEANS = ["maybe", 2, [], {}, "", "yes\n"]
CPUS = ["0", "0%", "-50%", "50 %%", "1e999", "150%%", "", "x", -1, 0, True, [], {}, {"quota": "50ms", "period": "2s"}, {"quota": 0},
        {"quota": "1us"}, {"period": "100ms"}, {"quota": "50ms", "periods": "100ms"}, float("nan"), float("inf")]
LISTS = ["text", 5, {"a": 1}, True]

VALID = {
    "cgroup": dict(name="bulkhead/web"),
    "namespace": dict(name="web", types=["net"]),
    "overlay": dict(path="/run/place", lower=[LAYER]),
    "service": dict(name="web", root=LAYER, command=["/bin/true"]),
    "sandbox": dict(name="web", namespaces=dict(types=["net", "mnt", "pid"]), overlay=dict(lower=[LAYER]),
                    services=[dict(name="one", command=["/bin/true"])]),
}
# noun: {where it goes wrong: the values}; dots go into dictionaries, numbers into lists
BAD = {
    "cgroup": {
        "name": NAMES + ["web//two", "../web", "web/../..", "tasks", "cpu.max", "web/cgroup.procs", "web/", "x/" * 600 + "x"],
        "memory_max": SIZES, "memory_high": SIZES, "memory_swap_max": SIZES[:6], "pids_max": NUMBERS, "cpu_max": CPUS,
        "cpu_weight": NUMBERS + [0, 10001, "max"], "cpu_weight_nice": [-21, 20, "x", True], "cpu_max_burst": TIMES,
        "io_max": LISTS + [[{}], [{"device": "/dev/null"}], [{"rbps": "1M"}], [{"device": "8", "rbps": 1}], [{"device": "8:0:1", "rbps": 1}],
                           [{"device": "8:0", "rbps": "12Q"}], [{"device": "8:0", "speed": 1}], ["8:0"], [None]],
        "frozen": BOOLEANS, "processes": LISTS[:1] + [[0], [-1], ["x"], [1.5], [True], [1 << 40]], "state": WORDS,
        "delegate": ["web", {}, {"user": ""}, {"user": -1}, {"user": 1 << 32}, {"user": True}, {"group": "x"}, {"user": "a\nb"},
                     {"user": "web", "groups": 1}],
        "unified": ["x", {"../x": 1}, {"memory.max/../../x": 1}, {"tasks": 1}, {"cgroup.procs": 1}, {"memory.max": "12Q"}, {"a.b": "\0"}, {1: 2},
                    {"a\nb.c": 1}, {"memory.x": []}],
        "hugetlb": ["x", {"2": {"max": 1}}, {"2MB": {"max": "12Q"}}, {"2MB": {"min": 1}}, {"2MB": 5}],
        "memory_reclaim": SIZES[:4], "driver": ["systemd", "fs", 5], "memroy_max": ["1M"], "cpuset_cpus": ["a", "3-1", "1,,2", "0-", -1, {}],
    },
    "namespace": {
        "name": NAMES + ["a/b"], "types": ["", "nets", ["net", "nets"], [], 5, {"a": 1}, True, [["net"]], [None], ["NET"]],
        "hostname": ["", "a" * 65, "a b", "a\nb", "-a", "ä", 5, [], "a/b"],
        "sysctls": ["x", {"kernel.panic": 1}, {"vm.swappiness": 1}, {"net..ipv4": 1}, {"net/../kernel/panic": 1}, {"net.ipv4.ip_forward": "\0"},
                    {"net.ipv4.ip_forward": ""}, {"kernel.hostname": "x"}, {"net": 1}, {5: 1}, {"net.ipv4.x\n": 1}, {"net.ipv4.ip_forward": []}],
        "on_mismatch": WORDS, "state": WORDS, "cgroup": NAMES[:8], "owner": NAMES[:8] + ["web"], "loopback": BOOLEANS,
        "time_offsets": [dict(monotonic=1)], "uid_map": [["0 0 1"]],
    },
    "namespace+user": {
        "uid_map": ["0 0 1", [], ["0 0"], ["0 0 0"], ["0 0 -1"], ["a b c"], [[0, 0, 1]], [{"inside": 0}], ["0 0 1", "0 10 1"], ["0 0 10", "5 100 10"],
                    ["0 0 10", "100 5 10"], ["0 4294967290 10"], ["%d %d 1" % (each, each) for each in range(341)], [5], {"a": 1},
                    ["0 0 99999999999"]],
        "gid_map": [[], ["0"], ["1 1 4294967296"]],
        "time_offsets": ["x", dict(monotonic="x"), dict(realtime=1), dict(boottime=1 << 70), dict(monotonic=True), dict(monotonic=[])],
    },
    "overlay": {
        "path": PATHS + ["/", None], "lower": [None, [], [""], ["relative"], ["/a\nb"], [LAYER, LAYER], [5], 5, {"a": 1}, True,
                                                ["/l%d" % each for each in range(501)], ["/a/../b"]],
        "upper": PATHS, "work": PATHS, "state": WORDS, "read_only": BOOLEANS, "on_mismatch": WORDS, "namespace": NAMES,
        "options": ["x", 5, {"index": "maybe"}, {"colour": "on"}, {"redirect_dir": 7}, {"metacopy": "on", "redirect_dir": "off"},
                    {"nfs_export": "on", "index": "off"}, {"userxattr": True, "metacopy": "on"}, {"userxattr": "maybe"}, {"verity": []}],
        "reset": [True] + BOOLEANS, "lowers": [[LAYER]],
    },
    "service": {
        "name": NAMES + ["a/b/c"], "command": ["", [], "/bin/true", [""], ["/bin/true", "a\0b"], [5.5, []], {"a": 1}, True, [None]],
        "root": PATHS, "cwd": PATHS, "user": ["", "a b", "a:b", "-1", "4294967295", "01", -1, 1 << 32, True, [], "a\nb", "a" * 300, "1e3"],
        "group": ["", "a:b", -1], "groups": LISTS[:2] + [["a b"], [-1]],
        "environment": ["x", {"": "a"}, {"A=B": "c"}, {"A": "b\0"}, {"1A": "x"}, {"A": []}, {"A\n": "x"}, {5: "x"}, {"A": "x" * 200000}],
        "umask": ["999", "abc", 0o1000, True, "", [], "0o22"], "namespace": NAMES[:9], "cgroup": NAMES[:9],
        "capabilities": ["x", ["nothing"], ["cap_sys_admin", "CAP_FLY"], [5], [None], [["chown"]], {"a": 1}, [""]],
        "ambient_capabilities": [["fly"], "x", [5]], "no_new_privs": BOOLEANS, "seccomp": ["", "a/b", "../x", ["read"], [5], {}, 5, "a\nb"],
        "rlimits": ["x", {"files": 5}, {"nofile": "x"}, {"nofile": [5, 4]}, {"nofile": [1, 2, 3]}, {"nofile": -5}, {"nofile": True}, {"nofile": []},
                    {"nofile": {"soft": 5, "heart": 6}}],
        "stop_signal": ["", "SIGFOO", 99, 0, [], "TERM\n"], "stop_timeout": TIMES, "restart": ["", "never", 5, [], "On-Failure"],
        "log": ["x", {"max_size": "1"}, {"max_files": 1}, {"size": 1}, {"enabled": "maybe"}, 5],
        "health": ["x", {}, {"tcp": 80, "http": "http://127.0.0.1/"}, {"tcp": 0}, {"tcp": 65536}, {"tcp": "example.org:80"}, {"tcp": "x"},
                   {"http": "https://127.0.0.1/"}, {"http": "http://example.org/"}, {"http": "http://127.0.0.1:x/"}, {"http": "http://127.0.0.1/a b"},
                   {"http": "http://127.0.0.1/\r\nX: y"}, {"command": []}, {"command": "true"}, {"tcp": 80, "retries": 0}, {"tcp": 80, "interval": "0s"},
                   {"tcp": 80, "every": 5}, {"tcp": True}],
        "nice": [-21, 20, "x", True, []], "oom_score_adj": [-1001, 1001, "x"], "state": WORDS, "enabled": BOOLEANS, "on_change": WORDS,
        "bind": LISTS + [[{}], ["x"], [{"source": "a", "target": "/b"}], [{"source": "/a"}], [{"source": "/a", "target": "/"}],
                         [{"source": "/a", "target": "/proc/x"}], [{"source": "/a", "target": "/b", "rw": True}],
                         [{"source": "/a", "target": "/b/../c"}], [{"source": "/a", "target": "/b", "read_only": "maybe"}],
                         [{"source": "/a", "target": "/b"}, {"source": "/c", "target": "/b"}]],
        "tmpfs": LISTS + [[{}], [{"target": "/a", "size": "12Q"}], [{"target": "/a", "size": 0}], [{"target": "/a", "mode": "999"}],
                          [{"target": "/dev"}], [{"target": "/a", "size": "max"}]],
        "devices": LISTS + [["null"], ["/etc/passwd"], ["/dev"], ["/dev/pts/0"], ["/dev/null", "/dev/null"], [{"path": "/dev/x", "mode": "8"}], [5]],
        "masked_paths": ["x", ["relative"], [5]], "read_only_paths": [["/a/../b"], 5],
    },
    "sandbox": {
        "name": NAMES + ["a/b", None], "state": WORDS, "namespaces": ["x", {"hostname": "a"}, {"types": ["nets"]}, {"types": ["net"], "name": "x"},
                                                                      {"types": ["net"], "hostname": "a"}, 5],
        "cgroup": ["x", {"name": "x"}, {"state": "absent"}, {"memory_max": "12Q"}, {"colour": 1}, 5],
        "overlay": ["x", {}, {"lower": []}, {"lower": ["x"]}, {"lower": [LAYER], "upper": "/a"}, 5],
        "root": ["/other", "relative"], "services": ["x", [5], [{}], [{"name": "a b", "command": ["/x"]}], [{"name": "a"}],
                                                     [{"name": "a", "command": ["/x"], "root": "/"}], [{"name": "a", "command": ["/x"], "bind": []}],
                                                     [{"name": "a", "command": ["/x"]}, {"name": "a", "command": ["/y"]}],
                                                     [{"name": ["a"], "command": ["/x"]}], [{"name": {}, "command": ["/x"]}]],
        "bind": [[{"source": "a", "target": "/b"}], 5], "devices": [["/etc"]], "colour": ["red"],
    },
}
USER = dict(name="web", types=["user", "time"], uid_map=["0 100000 10"], gid_map=["0 100000 10"])


def cases():
    for noun, keys in BAD.items():
        for key, values in keys.items():
            for number, value in enumerate(values):
                yield pytest.param(noun, key, value, id="%s-%s-%d" % (noun, key, number))


def generated(number=150, seed=20240607):
    """Noise: a good declaration with a few bytes of something else in it."""
    generator = random.Random(seed)
    parsers = [("cgroup", "memory_max"), ("cgroup", "name"), ("cgroup", "cpu_max"), ("namespace", "name"), ("namespace", "hostname"),
               ("service", "name"), ("service", "stop_timeout"), ("service", "user"), ("overlay", "path"), ("sandbox", "name")]
    for index in range(number):
        noun, key = generator.choice(parsers)
        text = "".join(generator.choice("\0\n\t /.%-:~éЖ\x7f\u202e\"'\\{}[]") for _ in range(generator.randint(1, 40)))
        yield pytest.param(noun, key, text + "?" + text, id="generated-%d" % index)


def asked(noun, key, value):
    """(noun, options, how the path of the error begins)."""
    if noun == "namespace+user":
        return "namespace", dict(USER, **{key: value}), key
    options = dict(copy.deepcopy(VALID[noun]), **{key: value})
    if noun == "sandbox":
        other = dict(VALID["sandbox"], name="other")
        return noun, dict(sandboxes=[other, options]), "sandboxes[1]"
    return noun, options, key


@pytest.fixture(autouse=True)
def layer(leaves_nothing):
    os.mkdir(LAYER)
    if os.path.exists(LOCK):
        os.unlink(LOCK)  # its coming back tells that a run went further than the input
    yield
    os.rmdir(LAYER)


def refused(noun, options, where, check=False):
    answer = drive.converge(noun, options, check)
    assert "error" in answer, "accepted: %s" % answer
    text = answer["error"]
    assert text.isprintable(), text
    assert text.startswith("Cannot "), text
    assert len(text) < 4000
    assert where in text, text
    return answer


@pytest.mark.parametrize(("noun", "key", "value"), [*cases(), *generated()])
def test_refused(noun, key, value):
    noun, options, where = asked(noun, key, value)
    answer = refused(noun, options, where)
    assert answer["keys"]["errors"], "a refusal of the Spec names its errors"
    assert not os.path.exists(LOCK), "the host was touched"


def test_enough_cases():
    assert len(list(cases())) >= 200


def test_all_errors_at_once():
    """Every error of a list of sandboxes comes in one answer, each with its own path."""
    bad = dict(name="we b", namespaces=dict(types=["nets"]), cgroup=dict(memory_max="12Q", pids_max=-1), overlay=dict(lower=["x"]),
               services=[dict(name="a", command=[], user=-1)])
    errors = refused("sandbox", dict(sandboxes=[bad, dict(VALID["sandbox"], cgroup=dict(cpu_max="x"))]), "sandboxes[1].cgroup.cpu_max")
    for path in ("sandboxes[0].name", "sandboxes[0].namespaces.types[0]", "sandboxes[0].cgroup.memory_max", "sandboxes[0].cgroup.pids_max",
                 "sandboxes[0].overlay.lower[0]", "sandboxes[0].services[0].command", "sandboxes[0].services[0].user"):
        assert any(line.startswith(path + ":") for line in errors["keys"]["errors"]), (path, errors["keys"]["errors"])


@pytest.mark.parametrize("value", ["x", 5, {"a": 1}, [5], [None], [[]], [{}], [{"name": "web"}, {"name": "web"}]])
def test_list_of_sandboxes(value):
    refused("sandbox", dict(sandboxes=value), "sandboxes")


@pytest.mark.parametrize("value", ["x", 5, [1], {"name": "x"}, {"colour": 1}])
def test_defaults(value):
    refused("sandbox", dict(sandboxes=[VALID["sandbox"]], defaults=value), "defaults")


def test_same_upper_twice():
    upper = dict(lower=[LAYER], upper="/run/u/upper", work="/run/u/work")
    refused("sandbox", dict(sandboxes=[dict(VALID["sandbox"], name=name, overlay=upper) for name in "ab"]), "sandboxes[1].overlay.upper")


# What only the host can tell is refused before the first step too.

def test_missing_layer():
    refused("overlay", dict(path="/run/place", lower=["/run/nothing"]), "/run/nothing")


def test_layer_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    refused("overlay", dict(path="/run/place", lower=[str(tmp_path / "file")]), str(tmp_path / "file"))


def test_cyclic_layer(tmp_path):
    os.symlink("loop", tmp_path / "loop")
    refused("overlay", dict(path="/run/place", lower=[str(tmp_path / "loop")]), str(tmp_path / "loop"))


def test_cyclic_mount_point(tmp_path):
    os.symlink("loop", tmp_path / "loop")
    refused("overlay", dict(path=str(tmp_path / "loop" / "x"), lower=[LAYER]), str(tmp_path / "loop"))


def test_mount_point_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    refused("overlay", dict(path=str(tmp_path / "file"), lower=[LAYER]), str(tmp_path / "file"))


def test_upper_inside_a_layer(tmp_path):
    for name in ("layer/upper", "work"):
        os.makedirs(tmp_path / name)
    refused("overlay", dict(path="/run/place", lower=[str(tmp_path / "layer")], upper=str(tmp_path / "layer/upper"), work=str(tmp_path / "work")),
            "upper")


def test_work_not_empty(tmp_path):
    for name in ("upper", "work/full"):
        os.makedirs(tmp_path / name)
    refused("overlay", dict(path="/run/place", lower=[LAYER], upper=str(tmp_path / "upper"), work=str(tmp_path / "work")), str(tmp_path / "work"))


@pytest.mark.parametrize("device", ["/dev/nothing-here/x", "250:250", "/proc"])
def test_no_such_device(device):
    refused("cgroup", dict(name="bulkhead/web", io_max=[dict(device=device, rbps=1 << 20)]), device)


def test_no_such_process():
    refused("cgroup", dict(name="bulkhead/web", processes=[4194303]), "4194303")


def test_no_such_user():
    refused("cgroup", dict(name="bulkhead/web", delegate=dict(user="nobody-here")), "")


@pytest.mark.parametrize("options", [dict(namespace="nothing"), dict(cgroup="nothing"), dict(root="/run/nothing"), dict(seccomp="nothing"),
                                     dict(bind=[dict(source="/run/nothing", target="/a")])])
def test_service_without(options):
    refused("service", dict(VALID["service"], **options), "nothing")


def test_ambient_capability_that_is_not_kept():
    refused("service", dict(VALID["service"], ambient_capabilities=["sys_admin"]), "ambient_capabilities")


def test_overlay_in_a_namespace_that_is_not():
    refused("overlay", dict(path="/mnt", lower=[LAYER], namespace="nothing"), "nothing")


def test_owner_that_is_not():
    refused("namespace", dict(name="web", types=["net"], owner="nothing"), "nothing")


def test_sysctl_that_is_not():
    refused("namespace", dict(name="web", types=["net"], sysctls={"net.ipv4.nothing": "1"}), "nothing")
