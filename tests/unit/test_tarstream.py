# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Archives as Python's tarfile writes them are read as it reads them; whatever is damaged is refused, or is another sound archive.

BULKHEAD_EXAMPLES=100000 takes that many examples of each.
"""

from __future__ import annotations

import gzip
import io
import lzma
import os
import random
import tarfile

import pytest
from ansible_collections.bulkhead.isolation.plugins.module_utils._kernel import manifest, streams, tarstream, unpack
from ansible_collections.bulkhead.isolation.plugins.module_utils._kernel.tarstream import ArchiveError
from hypothesis import given, settings
from hypothesis import strategies as st

EXAMPLES = settings(max_examples=int(os.environ.get("BULKHEAD_EXAMPLES", "300")), deadline=None)
KINDS = {tarfile.REGTYPE: "file", tarfile.DIRTYPE: "directory", tarfile.SYMTYPE: "symbolic link", tarfile.LNKTYPE: "hard link",
         tarfile.CHRTYPE: "character device", tarfile.BLKTYPE: "block device", tarfile.FIFOTYPE: "fifo"}
NAMES = st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)), min_size=1, max_size=200).filter(lambda name: name.strip("/"))


@st.composite
def infos(draw):
    info = tarfile.TarInfo(draw(NAMES))
    info.type = draw(st.sampled_from(sorted(KINDS)))
    info.mode, info.uid, info.gid = draw(st.integers(0, 0o7777)), draw(st.integers(0, 2 ** 32 - 2)), draw(st.integers(0, 2 ** 32 - 2))
    info.mtime = draw(st.integers(-2 ** 31, 2 ** 33))
    if info.type in (tarfile.SYMTYPE, tarfile.LNKTYPE):
        info.linkname = draw(NAMES)
    if info.type in (tarfile.CHRTYPE, tarfile.BLKTYPE):
        info.devmajor, info.devminor = draw(st.integers(0, 4095)), draw(st.integers(0, 2 ** 20 - 1))
    data = draw(st.binary(max_size=2000)) if info.type == tarfile.REGTYPE else b""
    info.size = len(data)
    return info, data


def read(data, size=700):
    """[(member, its content)], from chunks that end anywhere."""
    reader = tarstream.Reader(tarstream.Bytes(data[at:at + size] for at in range(0, len(data), size)))
    return [(member, b"".join(map(bytes, reader.data()))) for member in reader]


@EXAMPLES
@given(st.lists(infos(), max_size=6), st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]), st.integers(1, 2000))
def test_as_tarfile(entries, form, size):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as archive:
        for info, data in entries:
            archive.addfile(info, io.BytesIO(data))
    with tarfile.open(fileobj=io.BytesIO(stream.getvalue())) as archive:
        wanted = archive.getmembers()
    found = read(stream.getvalue(), size)
    assert len(found) == len(wanted) == len(entries)
    for (member, content), info, (dummy, data) in zip(found, wanted, entries):
        assert member.name.rstrip(b"/") == info.name.encode().rstrip(b"/") and content == data
        assert (member.kind, member.mode, member.uid, member.gid, member.mtime) == (KINDS[info.type], info.mode, info.uid, info.gid, info.mtime * 10 ** 9)
        if info.linkname:
            assert member.link.rstrip(b"/") == info.linkname.encode().rstrip(b"/")
        if info.isdev() and not info.isfifo():
            assert member.device == (info.devmajor, info.devminor)


@EXAMPLES
@given(st.lists(infos(), min_size=1, max_size=3), st.integers(0, 2 ** 32), st.sampled_from(["flip", "cut", "insert", "checked"]))
def test_damaged(entries, seed, how):
    """No traceback, whatever is done to it; and cut short it is never whole."""
    stream, generator = io.BytesIO(), random.Random(seed)
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, data in entries:
            archive.addfile(info, io.BytesIO(data))
    whole = bytearray(stream.getvalue().rstrip(b"\0") + bytes(1024))
    whole += bytes(-len(whole) % 512)
    at = generator.randrange(len(whole) - 1024)
    if how == "cut":
        with pytest.raises(ArchiveError):
            read(bytes(whole[:at]))
        return
    if how == "insert":
        whole[at:at] = generator.randbytes(generator.choice([1, 512]))
    else:
        whole[at] ^= 1 << generator.randrange(8)
    if how == "checked":  # a change that the checksum does not tell of
        block = at // 512 * 512
        header = whole[block:block + 512]
        whole[block + 148:block + 156] = b"%06o\0 " % (sum(header) - sum(header[148:156]) + 256)
    try:
        read(bytes(whole))
    except ArchiveError as exc:
        assert exc.words().isprintable()


@pytest.mark.parametrize("compress", [bytes, gzip.compress, lzma.compress], ids=["plain", "gzip", "xz"])
@EXAMPLES
@given(data=st.binary(max_size=4000))
def test_compressed(compress, data):
    packed = compress(data)
    if streams.Region(file(data)).compression() is None:
        plain = streams.Plain(streams.Region(file(b"skip" + packed + b"rest"), 4, len(packed)), 1 << 20, 100)
        assert b"".join(plain) == data and plain.digest() == streams.Region(file(packed)).digest()
        assert plain.diff_id() == streams.Region(file(data)).digest()


def file(data, kept=[]):  # pylint: disable=dangerous-default-value
    """A descriptor of a file with this content; the last few stay open."""
    fd = os.memfd_create("data")
    os.write(fd, data)
    kept.append(fd)
    if len(kept) > 8:
        os.close(kept.pop(0))
    return fd


def test_what_is_unpacked_is_what_the_manifest_tells(tmp_path):
    """One tree in two orders is one manifest; without the names of groups and other users it needs no root."""
    owner = os.getuid(), os.getgid()
    members = [tarstream.Member(b"b.d", "directory", 0o700, *owner, 5), tarstream.Member(b"b/x", "file", 0o640, *owner, 12345678901, 4),
               tarstream.Member(b"a", "hard link", link=b"b/x"), tarstream.Member(b"b d", "symbolic link", 0o777, *owner, 7, link=b"x\ny"),
               tarstream.Member(b"b", "directory", 0o711, *owner, 6), tarstream.Member(b".", "directory", 0o755, *owner, 1)]
    texts = []
    for order in (members, [members[4], members[1], members[0], members[5], members[2], members[3]]):
        top = tmp_path / str(len(texts))
        top.mkdir()
        root = os.open(top, os.O_RDONLY)
        made = unpack.Unpacker(root, unpack.Rules())
        for member in order:
            made.add(tarstream.Member(*[getattr(member, key) for key in tarstream.Member.__slots__]), iter([b"te", b"xt"]) if member.size else ())
        made.finish()
        made.close()
        told = manifest.of(root, made.known)
        assert told.text == manifest.of(root).text and told.size == 4 and told.entries == 6 and not made.leans
        texts.append(told.text.decode())
        os.close(root)
    assert texts[0] == texts[1]
    lines = texts[0].splitlines()
    assert [line.split()[0] for line in lines] == ["#mtree", ".", "./a", "./b", "./b\\040d", "./b.d", "./b/x"]
    assert lines[2].split()[1:3] == ["type=file", "mode=0640"] and "time=12.345678901" in lines[2] and lines[6] == "./b/x type=file hardlink=./a"
    assert lines[4].endswith("link=x\\012y")
    changed = texts[0].replace("mode=0711", "mode=0755").encode()
    assert manifest.difference(texts[0].encode(), changed) == ("./b", "differs in mode") and manifest.difference(changed, changed) is None
