# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""_kernel/ext4.py: a file system holds what it is told to, and one that has stopped is told from one that works."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess

import pytest

from module_utils._kernel import ext4, loopdev, syscalls

SHUTDOWN, NO_FLUSH = 0x8004587D, 2  # EXT4_IOC_SHUTDOWN, EXT4_GOING_FLAGS_NOLOGFLUSH
SIZE = 8 << 20
UPSTREAM = """
[defaults]
    base_features = sparse_super,large_file,filetype,resize_inode,dir_index,ext_attr
[fs_types]
    ext4 = {
        features = has_journal,extent,huge_file,flex_bg,metadata_csum,metadata_csum_seed,64bit,dir_nlink,extra_isize,orphan_file
    }
"""  # of e2fsprogs 1.47, also on Debian 13; Debian 12 has 1.47 without metadata_csum_seed and orphan_file


def run(argv):
    ended = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
    return ended.returncode, ended.stdout, ended.stderr


@pytest.mark.parametrize("journal", [True, False])
def test_the_host_does_not_say_what_takes_room_in_it(tmp_path, monkeypatch, journal):
    """All of it can be written but the blocks of its root and of lost+found, though mke2fs.conf asks for an orphan file of 2 MiB."""
    image, place = str(tmp_path / "image"), str(tmp_path / "place")
    (tmp_path / "mke2fs.conf").write_text(UPSTREAM, encoding="ascii")
    monkeypatch.setenv("MKE2FS_CONFIG", str(tmp_path / "mke2fs.conf"))
    assert ext4.make(run, ext4.TOOL, image, SIZE, journal) == (0, "")
    os.mkdir(place)
    loopdev.mount(image, place, "ext4", 0, "", written=True)
    try:
        ext4.set_space(place, "/sys", SIZE)
        size, used = ext4.space(place, "/sys")
        assert size == SIZE and used == 5 * ext4.BLOCK
        with pytest.raises(OSError, match="No space left"), open(place + "/big", "wb", buffering=0) as stream:
            while True:
                stream.write(bytes(ext4.BLOCK))
        assert os.stat(place + "/big").st_size == SIZE - used
    finally:
        syscalls.umount(place)


def test_one_that_has_stopped(tmp_path):
    """It is so by what an aborted journal does on some kernels; the next mount finds what was written before."""
    image, place = str(tmp_path / "image"), str(tmp_path / "place")
    with open(image, "wb") as stream:
        stream.truncate(32 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    os.mkdir(place)
    subprocess.run(["mount", "-o", "loop", image, place], check=True)
    try:
        with open(place + "/kept", "w", encoding="ascii") as stream:
            stream.write("kept")
            stream.flush()
            os.fsync(stream.fileno())
        assert not ext4.has_stopped(place)
        fd = os.open(place, os.O_RDONLY)
        fcntl.ioctl(fd, SHUTDOWN, struct.pack("I", NO_FLUSH))
        os.close(fd)
        assert ext4.has_stopped(place)
    finally:
        syscalls.umount(place)
    subprocess.run(["mount", "-o", "loop", image, place], check=True)
    try:
        assert not ext4.has_stopped(place)
        with open(place + "/kept", encoding="ascii") as stream:
            assert stream.read() == "kept"
        subprocess.run(["mount", "-o", "remount,ro", place], check=True)
        assert not ext4.has_stopped(place)
    finally:
        syscalls.umount(place)
