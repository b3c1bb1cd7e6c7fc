# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The words of the options: every parser returns the normal form, or adds one problem with its path, and never raises."""

from __future__ import annotations

import pytest
from ansible_collections.bulkhead.isolation.plugins.module_utils._model import values
from ansible_collections.bulkhead.isolation.plugins.module_utils._model.errors import BulkheadError, Problems, reason
from hypothesis import given, settings
from hypothesis import strategies as st

ANYTHING = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(), st.lists(st.integers()),
                     st.dictionaries(st.text(), st.integers()))
PARSERS = {
    "name": values.name, "cgroup_path": values.cgroup_path, "absolute": values.absolute, "integer": values.integer,
    "size": values.size, "time_us": values.time_us, "boolean": values.boolean, "mode": values.mode, "text": values.text,
}


def parsed(parser, value, **more):
    problems = Problems()
    return parser(value, "here", problems, **more), problems.errors


@pytest.mark.parametrize("value, expected", [
    (512, 512), ("512", 512), ("64K", 65536), ("256M", 268435456), ("4G", 4294967296), ("1.5G", 1610612736), ("1GiB", 1 << 30),
    ("10MB", 10 << 20), (" 8k ", 8192), ("0", 0),
])
def test_sizes(value, expected):
    assert parsed(values.size, value) == (expected, [])


@pytest.mark.parametrize("value", ["-1", -1, "1e999", "12Q", "", "K", "1.", ".5M", "1.5.5M", "max", True, None, "9" * 30, "²", "٣M", "1 2", "0x10",
                                   "9223372036854775808", "8388608T", [], {}, 1.5])
def test_sizes_that_are_none(value):
    result, errors = parsed(values.size, value)
    assert result is None and len(errors) == 1 and errors[0].startswith("here: ")


def test_max_is_a_size_only_where_it_is_allowed():
    assert parsed(values.size, "max", allow_max=True) == ("max", [])


@pytest.mark.parametrize("value, expected", [("50us", 50), ("100ms", 100000), ("10s", 10000000), ("5m", 300000000), (3, 3000000), ("3", 3000000),
                                             ("1.5s", 1500000), ("1h", 3600000000)])
def test_times(value, expected):
    assert parsed(values.time_us, value) == (expected, [])


@pytest.mark.parametrize("value", ["10", "web", "a.b-c_d", "A" * 64])
def test_names(value):
    assert parsed(values.name, value) == (value, [])


@pytest.mark.parametrize("value", ["", ".", "..", ".a", "-a", "_a", "a/b", "a b", "a\n", "a\0", "A" * 65, "x" * 300, "é", "a:b", None, 7, ["a"]])
def test_names_that_are_none(value):
    result, errors = parsed(values.name, value)
    assert result is None and len(errors) == 1 and "\n" not in errors[0]


@pytest.mark.parametrize("value", ["/a/b", "bulkhead/../x", "a//b", "a/", "", "a/b\n", "../a", "x/" * 600 + "x"])
def test_cgroup_paths_that_are_none(value):
    assert parsed(values.cgroup_path, value)[0] is None


@pytest.mark.parametrize("value, expected", [("/", "/"), ("/a//b/", "/a/b"), ("/srv/é", "/srv/é"), ("/" + "a" * 255, "/" + "a" * 255)])
def test_absolute_paths(value, expected):
    assert parsed(values.absolute, value) == (expected, [])


@pytest.mark.parametrize("value", ["a", "", "/a/../b", "/./a", "/a\nb", "/a\0b", "/" + "a" * 256, "/" + "a/" * 2100, 7, None])
def test_absolute_paths_that_are_none(value):
    assert parsed(values.absolute, value)[0] is None


@pytest.mark.parametrize("value, expected", [("0755", 0o755), ("755", 0o755), (493, 493)])
def test_modes(value, expected):
    assert parsed(values.mode, value) == (expected, [])


def test_unknown_keys_are_problems_that_name_the_nearest_word():
    problems = Problems()
    values.mapping({"memory_mx": 1, "x\n": 2}, "cgroup", problems, known=("memory_max", "pids_max"))
    assert problems.errors == ["cgroup.memory_mx: there is no such option. Did you mean memory_max?", "cgroup: there is no such option"]


@pytest.mark.parametrize("parser", PARSERS)
@settings(max_examples=200, deadline=None)
@given(value=ANYTHING)
def test_no_parser_raises_and_each_refusal_is_one_line_with_its_path(parser, value):
    result, errors = parsed(PARSERS[parser], value)
    assert (result is None) == bool(errors)
    assert all(error.startswith("here: ") and error.isprintable() for error in errors)


@settings(max_examples=300, deadline=None)
@given(number=st.integers(0, 1 << 50), unit=st.sampled_from(["", "K", "M", "G"]))
def test_sizes_scale_exactly(number, unit):
    scale = {"": 1, "K": 1024, "M": 1024 ** 2, "G": 1024 ** 3}[unit]
    result, errors = parsed(values.size, "%d%s" % (number, unit))
    assert result == (number * scale if number * scale < 1 << 63 else None)


def test_all_problems_come_at_once():
    problems = Problems()
    problems.add("a", "is wrong")
    problems.add("b[1]", "is wrong\ntoo")
    with pytest.raises(BulkheadError) as caught:
        problems.raise_if_any()
    assert caught.value.keys["errors"] == ["a: is wrong", "b[1]: is wrong\\ntoo"]
    assert "\n" not in caught.value.message and "2 errors" in caught.value.message


def test_the_reason_of_a_kernel_error_names_its_object():
    assert reason(OSError(16, "Device or resource busy", "/x")) == "Device or resource busy (/x)"
