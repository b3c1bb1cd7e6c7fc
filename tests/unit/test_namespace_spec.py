# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What may be declared of a set of namespaces, and what is refused, each with its path."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.bulkhead.isolation.plugins.module_utils._kernel import nsfs
from ansible_collections.bulkhead.isolation.plugins.module_utils._model import namespace as model
from ansible_collections.bulkhead.isolation.plugins.module_utils._model.errors import Problems

MAPS = dict(uid_map=["0 100000 65536"], gid_map=["0 100000 65536"])


def parse(path="", **options):
    problems = Problems()
    spec = model.NamespaceSpec.from_options(options, path, problems, **({"name": "web"} if path else {}))
    return spec, problems.errors


def test_a_whole_declaration():
    spec, errors = parse(name="web", types=["mnt", "user", "net", "net", "time", "uts", "ipc"], hostname="web", time_offsets={"boottime": "-7"},
                         sysctls={"net.ipv4.ip_forward": True, "net/ipv4/conf/eth0.100/forwarding": 0, "kernel.sem": " 1  2\t3 4"}, **MAPS)
    assert not errors
    assert spec.types == ["user", "ipc", "uts", "net", "time", "mnt"]
    assert spec.sysctls == {"net/ipv4/ip_forward": "1", "net/ipv4/conf/eth0.100/forwarding": "0", "kernel/sem": "1 2 3 4"}
    assert spec.uid_map == [[0, 100000, 65536]]
    assert spec.time_offsets == {"monotonic": 0, "boottime": -7}
    assert (spec.state, spec.on_mismatch, spec.force, spec.kill, spec.loopback, spec.exact) == ("present", "fail", False, False, None, False)
    assert "state" not in spec.options and "name" not in spec.options


def test_the_types_are_the_kernels():
    assert model.TYPES == nsfs.TYPES


def test_of_a_composite():
    spec, errors = parse("sandboxes[3].namespaces", types=["uts"], hostname="web")
    assert (spec.name, spec.exact, errors) == ("web", True, [])
    assert parse("sandboxes[3].namespaces", types=["uts"], state="absent")[1] == ["sandboxes[3].namespaces.state: there is no such option"]
    assert parse("sandboxes[3].namespaces", types=["utz"])[1][0].startswith("sandboxes[3].namespaces.types[0]: 'utz' is not one of ")


def test_what_is_not_declared_any_more():
    spec = parse("x", types=["uts", "net"], hostname="web", sysctls={"net.a": 1})[0]
    spec.drop(dict(hostname="old", domainname="old", loopback=False, time_offsets={}, sysctls={"net.a": 1, "net.b": 2, "user.c": 3}, owner="o"))
    assert spec.reset == ("domainname", "loopback", "owner", "sysctls/net/b")


@pytest.mark.parametrize("options, error", [
    (dict(name=value, types=["net"]), "name: ") for value in (
        "", "../x", "a/b", ".hidden", "-x", "a b", "a\nb", "a\0b", "x" * 65, "ü", None, 7, ["web"])
] + [
    (dict(types=value), "types") for value in (None, [], ["network"], ["net", 3], "nett", [None], {"net": 1})
] + [
    (dict(types=["uts"], hostname=value), "hostname: ") for value in ("", "a b", "x" * 65, "a\n", "-x", 5, "ä")
] + [
    (dict(types=["uts"], domainname="a/b"), "domainname: "),
    (dict(types=["net"], hostname="web"), "hostname: belongs to a namespace of type uts"),
    (dict(types=["uts"], loopback=True), "loopback: belongs"),
    (dict(types=["net"], loopback="perhaps"), "loopback: "),
    (dict(types=["net"], uid_map=["0 1 1"]), "uid_map: belongs"),
    (dict(types=["net"], time_offsets={"boottime": 1}), "time_offsets: belongs"),
    (dict(types=["user"]), "uid_map: is needed"),
    (dict(types=["user"], owner="other", **MAPS), "owner: this set has"),
    (dict(types=["net"], owner="web"), "owner: a set cannot"),
    (dict(types=["net"], owner="../x"), "owner: "),
    (dict(types=["net"], cgroup="/abs"), "cgroup: "),
    (dict(types=["net"], cgroup="a//b"), "cgroup: "),
    (dict(types=["net"], cgroup="a/../b"), "cgroup: "),
    (dict(types=["net"], on_mismatch="maybe"), "on_mismatch: "),
    (dict(types=["net"], state="gone"), "state: "),
    (dict(types=["net"], force="maybe"), "force: "),
    (dict(types=["net"], sysctls=["net.a"]), "sysctls: "),
    (dict(types=["net"], sysctls={"net.a": None}), "sysctls.net.a: "),
    (dict(types=["net"], sysctls={"net.a": "  "}), "sysctls.net.a: the value is empty"),
    (dict(types=["net"], sysctls={"net.a": "x\0y"}), "sysctls.net.a: "),
    (dict(types=["net"], sysctls={"net.a": "1", "net/a": "2"}), "sysctls.net/a: is declared twice"),
    (dict(types=["net"], sysctls={"user.max_net_namespaces": 1}), "sysctls.user/max_net_namespaces: belongs to a namespace of type user"),
    (dict(types=["uts"], sysctls={"kernel.hostname": "x"}), "sysctls.kernel.hostname: use the option hostname"),
] + [
    (dict(types=["net", "ipc"], sysctls={key: 1}), "sysctls") for key in (
        "kernel.panic", "kernel.core_pattern", "vm.swappiness", "fs.file-max", "fs.mqueue.a.b", "net", "net.", "net..a", "net/../kernel/panic",
        "net/./a", "../net/a", "/net/a", "net.a\n", "net.a b", "net.ä", "", "kernel.shmmax.x", "x" * 300, 5, "net.a\0")
] + [
    (dict(types=["time"], time_offsets=value), "time_offsets") for value in (
        {"realtime": 1}, {"boottime": "soon"}, {"boottime": 1.5}, {"boottime": True}, {"monotonic": 10 ** 30}, {"monotonic": "--5"},
        {"monotonic": None}, [1], "1")
])
def test_refused(options, error):
    options = dict({"name": "web"}, **options)
    errors = parse(**options)[1]
    assert errors and any(each.startswith(error) for each in errors), errors
    assert all("\n" not in each and "\0" not in each for each in errors)


@pytest.mark.parametrize("value", [
    [], ["0 0"], ["0 0 0"], ["a b c"], ["-1 0 1"], ["0 0 1 1"], [5], [None], ["0 0 1e9"], "0 0 1", {"inside": 0},
    [dict(inside=0, outside=0)], [dict(inside=0, outside=0, count=1, more=1)], [dict(inside=True, outside=0, count=1)],
    ["0 0 4294967296"], ["4294967295 0 1"], ["0 4294967290 100"], ["0 0 10", "5 100 1"], ["0 100 10", "50 105 1"],
    ["%d %d 1" % (n, n) for n in range(341)], ["%d %d 1" % (n * 1000000, n * 1000000) for n in range(300)],
])
def test_maps_that_the_kernel_would_refuse(value):
    problems = Problems()
    assert model.id_map(value, "uid_map", problems) is None
    assert problems.errors and all(each.startswith("uid_map") and "\n" not in each for each in problems.errors)


def test_the_largest_maps():
    problems = Problems()
    assert model.id_map(["0 0 4294967295"], "m", problems) == [[0, 0, 4294967295]]
    assert len(model.id_map(["%d %d 1" % (n, n) for n in range(340)], "m", problems)) == 340
    assert not problems.errors


@settings(max_examples=300, deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
    st.sampled_from(["inside", "outside", "count", "boottime", "net.a"]) | st.text(), inner, max_size=3), max_leaves=6),
    st.sampled_from(sorted(model.OPTIONS)))
def test_any_value_gives_a_spec_or_one_line_errors(value, key):
    spec, errors = parse(**dict({"name": "web", "types": ["uts", "net", "user", "time"]}, **{key: value}))
    assert all("\n" not in each for each in errors)
    if not errors:
        assert model.map_text(spec.uid_map or []).count("\n") == len(spec.uid_map or [])
