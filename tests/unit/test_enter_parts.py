# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The parsers of the entry, and the filter's program."""

from __future__ import annotations

import json
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.bulkhead.isolation.plugins.module_utils._kernel import seccomp
from ansible_collections.bulkhead.isolation.plugins.module_utils._program import enter

JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=20),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3), max_leaves=8)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(max_size=8), JSON, max_size=4))
def test_load_is_json(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "spec.json"
    path.write_text(json.dumps(value))
    assert enter.load(str(path)) == value


@pytest.mark.parametrize("text", ["", "{", "[]", "1", '{"a": 1} x', '{"a": 1}{"b": 2}', "\0", "{'a': 1}"])
def test_load_refuses(tmp_path, text):
    path = tmp_path / "spec.json"
    path.write_text(text)
    with pytest.raises((ValueError, StopIteration)):
        enter.load(str(path))


@settings(max_examples=500, deadline=None)
@given(st.text(max_size=12) | st.integers(min_value=-10, max_value=1 << 34).map(str))
def test_number(text):
    """CVE-2026-30892: what is not plain digits of a 32-bit id other than -1 is no id."""
    plain = text.isascii() and text.isdigit() and (text == "0" or text[0] != "0") and int(text) <= 0xFFFFFFFE
    if plain:
        assert enter.number(text, "it") == int(text)
    else:
        with pytest.raises(enter.Refused):
            enter.number(text, "it")


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300), st.binary(max_size=300), st.sampled_from([None, "web", "33", "0", "no-one"]), st.sampled_from([None, "g", "5"]))
def test_identity_of_any_files(passwd, group, user, wanted):
    """Whatever the root's files hold: an identity of ids, or a refusal."""
    files = {"/etc/passwd": b"web:x:33:34::/srv:/\n" + passwd, "/etc/group": b"g:x:7:web\n" + group}
    lines = {path: [line.split(":") for line in data.decode("utf-8", "surrogateescape").split("\n")] for path, data in files.items()}
    original, enter.id_file = enter.id_file, lines.__getitem__
    try:
        found = enter.identity({"user": user, "group": wanted, "groups": None})
    except enter.Refused:
        return
    finally:
        enter.id_file = original
    uid, gid, groups, dummy, home = found
    assert all(0 <= one < 0xFFFFFFFF for one in [uid, gid] + groups) and home.startswith("/")
    if user == "web":
        assert uid == 33 and gid == {None: 34, "g": 7, "5": 5}[wanted]


def run(program, number, arguments=(), arch=0xC000003E):
    """A small machine for classic BPF: what a filter returns for a call."""
    data = struct.pack("=IIQ", number, arch, 0) + b"".join(struct.pack("=Q", word) for word in tuple(arguments) + (0,) * (6 - len(arguments)))
    code, at, a = [struct.unpack_from("=HBBI", program, offset) for offset in range(0, len(program), 8)], 0, 0
    while True:
        operation, true, false, k = code[at]
        at += 1
        if operation == 0x20:
            a = struct.unpack_from("=I", data, k)[0]
        elif operation == 0x06:
            return k
        elif operation == 0x05:
            at += k
        elif operation == 0x54:
            a &= k
        else:
            at += true if {0x15: a == k, 0x25: a > k, 0x35: a >= k, 0x45: bool(a & k)}[operation] else false


@pytest.fixture(scope="module")
def program():
    if seccomp.os.uname().machine != "x86_64":
        pytest.skip("the numbers below are those of x86_64")
    return seccomp.compile_default([])


ALLOW, EPERM, NOSYS = 0x7FFF0000, 0x00050001, 0x00050026


@pytest.mark.parametrize(("number", "arguments", "expected"), [
    (0, (), ALLOW), (59, (), ALLOW), (257, (), ALLOW), (439, (), ALLOW),
    (165, (), EPERM), (272, (), EPERM), (308, (), EPERM), (321, (), EPERM), (101, (), EPERM), (250, (), EPERM), (248, (), EPERM),
    (425, (), EPERM), (323, (), EPERM), (435, (), NOSYS), (9999, (), NOSYS), (161, (), EPERM), (304, (), EPERM),
    (16, (0, 0x5401), ALLOW), (16, (0, 0x5412), EPERM), (16, (0, 0x100005412), EPERM), (16, (0, 0x541C), EPERM), (41, (2, 1), ALLOW), (41, (40, 1), EPERM),
    (41, ((1 << 32) + 40, 1), EPERM), (41, (38, 5), EPERM), (56, (17,), ALLOW), (56, (0x10000011,), EPERM), (56, (0x3D0F00,), ALLOW), (56, (0x20011,), EPERM),
    (135, (0xFFFFFFFF,), ALLOW), (135, (0,), ALLOW), (135, (0x40000,), NOSYS),
])
def test_default_list(program, number, arguments, expected):
    assert run(program, number, arguments) == expected


def test_other_architectures(program):
    i386 = 0x40000003
    assert run(program, 3, arch=i386) == ALLOW and run(program, 54, (0, 0x5412), arch=i386) == EPERM and run(program, 102, arch=i386) != ALLOW
    assert run(program, 21, arch=i386) == EPERM  # mount
    for call in (0x40000000, 0x40000000 | 165, 0x40000000 | 59):  # x32
        assert run(program, call) != ALLOW
    assert run(program, 0, arch=0xC00000B7) != ALLOW  # a stranger


def test_capabilities_open_their_calls(program):
    kept = seccomp.compile_default(["sys_admin", "sys_chroot", "sys_ptrace"])
    for number in (165, 272, 308, 161, 101):
        assert run(program, number) == EPERM and run(kept, number) == ALLOW
    assert run(kept, 175) == EPERM and run(kept, 250) == EPERM and run(kept, 56, (0x10000011,)) == ALLOW


def test_named_list(program):
    few = seccomp.compile_names(["read", "execve"])
    assert run(few, 0) == ALLOW and run(few, 59) == ALLOW and run(few, 1) == EPERM and run(few, 56) == EPERM and run(few, 135) == EPERM


def test_lists():
    allowed, refused = seccomp.default([])
    assert not allowed & refused and len(seccomp.COMMON) == len(set(seccomp.COMMON)) and not set(seccomp.NEVER) & allowed
    assert seccomp.unknown(["read", "nonsense"]) == ["nonsense"]
