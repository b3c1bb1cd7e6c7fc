# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the limits of I/O do to a workload that reads and writes a real disk past the cache."""

from __future__ import annotations

import pytest
from guest import near, shares

MIB = 1 << 20


@pytest.mark.proves("io_max")
@pytest.mark.parametrize("verb, word, bytes_in_stat", [
    ("read", "rbps", "rbytes"), pytest.param("write", "wbps", "wbytes", marks=pytest.mark.core)])
def test_io_max_holds_a_disk_to_its_rate(guest, group, disk, verb, word, bytes_in_stat):
    (path, dummy), device = disk
    limited = group(io_max=[{"device": "/var/tmp", word: "2M"}])
    limited.start("disk", "disk", verb, path, 8 * MIB)
    done = guest.line("disk")
    assert near(done["moved"] / done["seconds"], 2 * MIB)
    line = [each for each in guest.read(limited.file("io.stat"))[0].splitlines() if each.startswith(device + " ")][0]
    moved = int(dict(word.split("=") for word in line.split()[1:])[bytes_in_stat])
    assert 8 * MIB <= moved < 9 * MIB  # and the little that was read of the file system itself


@pytest.mark.proves("io_max")
@pytest.mark.parametrize("verb, word", [("read", "riops"), ("write", "wiops")])
def test_io_max_holds_a_disk_to_its_number(guest, group, disk, verb, word):
    (path, dummy), dummy = disk
    limited = group(io_max=[{"device": "/var/tmp", word: 50}])
    limited.start("disk", "disk", verb, path, 150 * 4096, 4096)
    done = guest.line("disk")
    assert near(done["moved"] / 4096 / done["seconds"], 50)


@pytest.fixture
def cost(guest, disk):
    """The kernel shares by io.cost: what the host's administrator sets up once, here as if the disk did 2 MB in a second."""
    device = disk[1]
    model = "ctrl=user model=linear rbps=2000000 rseqiops=100 rrandiops=100 wbps=2000000 wseqiops=100 wrandiops=100"
    guest.write("/sys/fs/cgroup/io.cost.model", "%s %s" % (device, model))
    guest.write("/sys/fs/cgroup/io.cost.qos", "%s enable=1 ctrl=user min=100.00 max=100.00" % device)
    yield
    guest.write("/sys/fs/cgroup/io.cost.qos", "%s enable=0" % device)


@pytest.mark.proves("io_weight")
def test_io_weight_shares(group, disk, cost):
    groups = [group("bulkhead/light", io_weight=100), group("bulkhead/heavy", io_weight=300)]
    for each, path in zip(groups, disk[0]):
        for number in (1, 2):
            each.start("%s %d" % (each.name, number), "churn", "read", path, 65536)
    light, heavy = shares(groups, "io.stat", "rbytes")
    assert near(heavy / light, 3)


@pytest.mark.proves("io_latency")
def test_io_latency_is_not_in_debians_kernels(refused):
    line = refused("cgroup", name="bulkhead/t", io_latency=[{"device": "/var/tmp", "target": "10ms"}])
    assert "io_latency needs io.latency, which this kernel does not have" in line
