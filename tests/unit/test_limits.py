# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The table of limits: parsing, the kernel's text, conversions to v1, and the document that is made of it."""

from __future__ import annotations

import os
import sys

import pytest
from ansible_collections.bulkhead.isolation.plugins.module_utils._model import limits
from ansible_collections.bulkhead.isolation.plugins.module_utils._model.cgroup import OPTIONS, CgroupSpec
from ansible_collections.bulkhead.isolation.plugins.module_utils._model.errors import Problems
from ansible_collections.bulkhead.isolation.plugins.module_utils._model.limits import MAX, TABLE
from hypothesis import given, settings
from hypothesis import strategies as st

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
BUDGET = settings(max_examples=int(os.environ.get("BULKHEAD_EXAMPLES", "200")), deadline=None)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.from_regex(r"[-0-9.,:%KMGTmuse ]{0,8}", fullmatch=True)
    | st.sampled_from([MAX, "1.5", "50%", "1e999", "12Q", "-1", "0-3,5", "254:0", "/dev/vda", "\0", "a\nb"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=6) | st.sampled_from(["device", "rbps", "quota", "period", "max"]), inner, max_size=3),
    max_leaves=6)


def parse(option, value):
    problems = Problems()
    return TABLE[option].parse(value, option, problems), problems.errors


@pytest.mark.parametrize(("option", "value", "normal"), [
    ("cpu_max", 1.5, {"quota": 150000, "period": 100000}),
    ("cpu_max", "1.5", {"quota": 150000, "period": 100000}),
    ("cpu_max", 2, {"quota": 200000, "period": 100000}),
    ("cpu_max", "50%", {"quota": 50000, "period": 100000}),
    ("cpu_max", {"quota": "50ms", "period": "100ms"}, {"quota": 50000, "period": 100000}),
    ("cpu_max", {"quota": "50ms"}, {"quota": 50000, "period": 100000}),
    ("cpu_max", MAX, {"quota": MAX, "period": 100000}),
    ("cpu_max_burst", "10ms", 10000),
    ("memory_max", "512M", 536870912),
    ("memory_max", 536870912, 536870912),
    ("memory_max", MAX, MAX),
    ("memory_oom_group", "yes", True),
    ("cpu_uclamp_min", "12.5%", "12.50"),
    ("cpu_uclamp_max", 100, MAX),
    ("cpuset_cpus", "3,0-1,2,7", "0-3,7"),
    ("cpuset_cpus", 0, "0"),
    ("cpuset_cpus", [0, 2], "0,2"),
    ("cpuset_cpus", "", ""),
    ("cpu_weight_nice", "-5", -5),
    ("pids_max", "128", 128),
    ("io_max", [{"device": "254:0", "rbps": "20M", "wiops": 500}], {"254:0": {"rbps": 20971520, "wiops": 500}}),
    ("io_latency", [{"device": "/dev/vda", "target": "10ms"}], {"/dev/vda": {"target": 10000}}),
    ("rdma_max", {"mlx4_0": {"hca_handle": 2}}, {"mlx4_0": {"hca_handle": 2}}),
    ("misc_max", {"sev": MAX}, {"sev": MAX}),
    ("dmem_max", {"drm/0000:03:00.0/vram0": "1G"}, {"drm/0000:03:00.0/vram0": 1 << 30}),
])
def test_normal_form(option, value, normal):
    assert parse(option, value) == (normal, [])


@pytest.mark.parametrize(("option", "value"), [
    ("cpu_max", -1), ("cpu_max", 0), ("cpu_max", "0.5%"), ("cpu_max", True), ("cpu_max", "1e999"), ("cpu_max", float("inf")), ("cpu_max", {"period": "1s"}),
    ("cpu_max", {"quota": "1us"}), ("cpu_max", {"quota": "5ms", "period": "2s"}), ("cpu_max", {"quota": "5ms", "other": 1}), ("cpu_max", []),
    ("cpu_weight", 0), ("cpu_weight", 10001), ("cpu_weight", True), ("cpu_weight_nice", 20), ("cpu_weight_nice", "--5"),
    ("memory_max", "-1"), ("memory_max", "12Q"), ("memory_max", "1e999"), ("memory_max", ""), ("memory_max", -5),
    ("cpu_uclamp_min", 101), ("cpu_uclamp_min", "x"), ("cpuset_cpus", "3-1"), ("cpuset_cpus", "a"), ("cpuset_cpus", "1-"), ("cpuset_cpus", "99999"),
    ("pids_max", -1), ("pids_max", 4194305), ("io_max", [{"device": "254:0"}]), ("io_max", [{"rbps": 1}]), ("io_max", [{"device": "vda", "rbps": 1}]),
    ("io_max", [{"device": "254:0", "rbps": 0}]), ("io_max", [{"device": "254:0", "riops": 1 << 32}]), ("io_max", {"device": "254:0"}),
    ("io_max", [{"device": "254:0", "rbps": 1}, {"device": "254:0", "wbps": 1}]), ("io_max", [{"device": "/dev/../etc", "rbps": 1}]),
    ("cpuset_partition", "other"), ("memory_oom_group", 2), ("rdma_max", {"a b": {"hca_handle": 1}}), ("rdma_max", {"a": 5}), ("misc_max", {"\n": 5}),
])
def test_refused_in_one_line(option, value):
    errors = parse(option, value)[1]
    assert errors and all(error.startswith(option) and "\n" not in error for error in errors)


@BUDGET
@given(st.sampled_from(sorted(TABLE)), ANYTHING)
def test_any_value_is_normal_or_a_problem(option, value):
    normal, errors = parse(option, value)
    assert all("\n" not in error and error.startswith(option) for error in errors)
    if not errors and normal is not None:
        lines = TABLE[option].lines(normal)
        assert all("\n" not in line and "\0" not in line for line in lines)
        if lines and not (TABLE[option].kind == "devices" and any(key.startswith("/") for key in normal)):
            assert TABLE[option].read("\n".join(lines)) == normal  # the kernel's text of a value is that value


@BUDGET
@given(st.dictionaries(st.sampled_from(OPTIONS) | st.text(max_size=5), ANYTHING, max_size=6))
def test_any_options_are_a_spec_or_problems(options):
    problems = Problems()
    spec = CgroupSpec.from_options(options, "sandboxes[0].cgroup", problems, name="bulkhead/web")
    assert all(error.startswith("sandboxes[0].cgroup") and "\n" not in error for error in problems.errors)
    if not problems.errors:
        spec.drop({"memory_max": "1M"})


@BUDGET
@given(st.sampled_from(sorted(TABLE)), st.text(max_size=40))
def test_reading_never_fails(option, text):
    TABLE[option].read(text)


@BUDGET
@given(st.integers(1, 10000))
def test_v1_weights(weight):
    for option, exact in (("cpu_weight", True), ("io_weight", False)):
        encode, decode = TABLE[option].v1[2:]
        there = decode(dict(encode(weight)))
        assert there == weight if exact else abs(there - weight) <= 10
        assert decode(dict(encode(there))) == there


@pytest.mark.parametrize("limit", [limit for limit in TABLE.values() if limit.v1 and not limit.keyed], ids=lambda limit: limit.option)
def test_v1_defaults_survive(limit):
    texts = dict(limit.v1[2](limit.default))
    assert set(texts) == set(limit.v1[1]) and limit.v1[3](texts) == limit.default


def test_v1_io_max_goes_to_four_files():
    encode, decode = TABLE["io_max"].v1[2:]
    lines = encode({"8:0": {"rbps": 5, "wiops": MAX}})
    assert lines == [("blkio.throttle.read_bps_device", "8:0 5"), ("blkio.throttle.write_iops_device", "8:0 0")]
    texts = dict.fromkeys(TABLE["io_max"].v1[1], "")
    texts["blkio.throttle.read_bps_device"] = "8:0 5\n8:16 6\n"
    assert decode(texts)["8:16"] == {"rbps": 6, "wbps": MAX, "riops": MAX, "wiops": MAX}


def test_sizes_are_rounded_as_the_kernel_does():
    assert TABLE["memory_max"].settle(limits.PAGE + 1) == limits.PAGE
    assert limits.hugetlb("2MB", "max").settle((2 << 20) + 5) == 2 << 20
    assert limits.hugetlb("2MB", "rsvd_max").file == "hugetlb.2MB.rsvd.max"


def test_no_file_twice():
    assert len({limit.file for limit in limits.ROWS}) == len(limits.ROWS) == len(TABLE)


def test_the_document_is_the_table():
    sys.path.insert(0, os.path.join(ROOT, "tests", "unit"))
    with open(os.path.join(ROOT, "docs", "limits.md"), encoding="utf-8") as stream:
        assert document() in stream.read(), "docs/limits.md is not what the table says: python3 tests/unit/limits_document.py"


def document():
    from limits_document import table

    return table(TABLE)
