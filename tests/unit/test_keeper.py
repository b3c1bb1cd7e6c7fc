# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The keeper's image. On this machine it is run by tests/system; of the other one only the form can be checked."""

from __future__ import annotations

import struct

import pytest

from ansible_collections.bulkhead.isolation.plugins.module_utils._kernel import keeper


@pytest.mark.parametrize("machine, number", [("x86_64", 62), ("aarch64", 183)])
def test_elf_header(machine, number):
    image = keeper.image(machine)
    (ident, kind, arch, version, entry, phoff, shoff, flags, ehsize, phentsize, phnum, shentsize, shnum, shstrndx) = struct.unpack_from(
        "<16sHHIQQQIHHHHHH", image)
    assert ident[:7] == b"\x7fELF\x02\x01\x01" and (kind, arch, version) == (2, number, 1)  # 64 bit, little endian; ET_EXEC
    assert (phoff, ehsize, phentsize, phnum, shoff, shnum) == (64, 64, 56, 2, 0, 0)
    kind, flags, offset, address, unused, in_file, in_memory, align = struct.unpack_from("<IIQQQQQQ", image, 64)
    assert (kind, flags, offset) == (1, 5, 0)  # PT_LOAD, readable and executable, not writable
    assert in_file == in_memory == len(image) and address % align == offset % align
    assert address + 176 == entry < address + len(image)
    kind, flags = struct.unpack_from("<II", image, 120)
    assert (kind, flags) == (0x6474E551, 6)  # PT_GNU_STACK without execution
    assert image.endswith(b"keeper\0") and len(image) < 512


def test_x86_64_code():
    code = keeper.image("x86_64")[176:]
    assert struct.pack("<I", 0x400000 + 176 + len(code) - 7) in code  # the address of the name
    assert code[:-7].endswith(b"\x0f\x05\xeb\xf7")  # syscall; jmp back to the mov before it
    assert code[-7 - 2 - 9 + 2:][:1] == b"\xb8"


def test_aarch64_code():
    code = keeper.image("aarch64")[176:-7]
    words = struct.unpack("<%dI" % (len(code) // 4), code)
    assert len(words) == 16 and words.count(0xD4000001) == 3  # svc 0
    assert [word & 31 for word in words if word >> 23 == 0x1A5] == [0, 1, 8, 0, 1, 8, 0, 1, 2, 3, 8]  # movz
    assert [(word >> 5) & 0xFFFF for word in words if word & 31 == 8 and word >> 23 == 0x1A5] == [167, 167, 73]
    name = 0x400000 + 176 + len(code)
    assert (words[5] >> 5) & 0xFFFF == name >> 16 and (words[6] >> 5) & 0xFFFF == name & 0xFFFF
    jump = words[-1] & 0x3FFFFFF
    assert words[-1] >> 26 == 5 and jump - (1 << 26) == -6  # to the first of the six instructions before
    assert words[15 - 6] == 0xD2800000


def test_other_machines_have_none():
    with pytest.raises(KeyError):
        keeper.image("vax")
