# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the head of a file that is to be mounted says of it: taken, or refused with a reason in one line."""

from __future__ import annotations

import struct

import pytest
from ansible_collections.bulkhead.isolation.plugins.module_utils._kernel import fsimage
from ansible_collections.bulkhead.isolation.plugins.module_utils._kernel.tarstream import ArchiveError
from hypothesis import given, settings
from hypothesis import strategies as st


class Bytes:
    """As a streams.Region of a file is."""

    def __init__(self, data):
        self.data, self.size = data, len(data)

    def read(self, at, count):
        return self.data[at:at + count]


def squashfs(entries=7, size=4096, version=(4, 0)):
    head = bytearray(4096)
    struct.pack_into("<4sI", head, 0, b"hsqs", entries)
    struct.pack_into("<HH", head, 28, *version)
    struct.pack_into("<Q", head, 40, size)
    return head


def erofs(entries=7, blocks=1, bits=12, devices=0):
    head = bytearray(4096)
    struct.pack_into("<I", head, 1024, 0xE0F5E1E2)
    struct.pack_into("<BBHQ", head, 1036, bits, 0, 36, entries)
    struct.pack_into("<I", head, 1060, blocks)
    struct.pack_into("<H", head, 1110, devices)
    return head


def test_good():
    assert fsimage.entries(Bytes(squashfs()), "squashfs") == 7 and fsimage.entries(Bytes(erofs()), "erofs") == 7


@pytest.mark.parametrize("data, kind, words", [
    (b"", "squashfs", "no squashfs"), (b"", "erofs", "no erofs"), (squashfs()[:90], "squashfs", "no squashfs"), (erofs()[:1100], "erofs", "no erofs"),
    (squashfs(), "erofs", "no erofs"), (erofs(), "squashfs", "no squashfs"), (squashfs(size=4097), "squashfs", "of 4097 bytes there are 4096"),
    (squashfs(version=(3, 1)), "squashfs", "version 3.1"), (erofs(blocks=2), "erofs", "of 8192 bytes there are 4096"), (erofs(bits=17), "erofs", "2^17"),
    (erofs(devices=1), "erofs", "other files"),
])
def test_bad(data, kind, words):
    with pytest.raises(ArchiveError, match=words.replace("^", r"\^")):
        fsimage.entries(Bytes(data), kind)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([squashfs, erofs]), st.binary(max_size=200), st.integers(0, 4000))
def test_any(make, noise, at):
    data = make()
    data[at:at + len(noise)] = noise
    for kind in ("squashfs", "erofs"):
        try:
            assert fsimage.entries(Bytes(data), kind) >= 0
        except ArchiveError as exc:
            assert exc.words().isprintable()
