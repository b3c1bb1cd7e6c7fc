# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Something made and removed over and over, in this process, with a look at what there is more than before."""

from __future__ import annotations

import gc
import glob
import os
import time

import drive
import leftovers


def act(task):
    answer = drive.converge(*task)
    assert "error" not in answer, answer["error"]
    assert answer["changed"], answer


def dying():
    """Cgroups that were removed but are still held by the kernel, where it counts them."""
    counts = []
    for path in glob.glob("/sys/fs/cgroup/cgroup.stat") + glob.glob("/sys/fs/cgroup/unified/cgroup.stat"):
        with open(path) as stream:
            counts += [int(line.split()[1]) for line in stream if line.startswith("nr_dying_descendants")]
    return sum(counts)


def resident():
    """Bytes that this process keeps in memory."""
    with open("/proc/self/statm") as stream:
        return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def cycle(make, remove, times):
    """In this process, so that its own descriptors and memory tell too."""
    for dummy in range(5):
        act(make)
        act(remove)
    gc.collect()
    before, memory = leftovers.Snapshot(), resident()
    for dummy in range(times):
        act(make)
        act(remove)
    gc.collect()
    left = before.settled()
    assert not left, "\n".join(left)
    end = time.monotonic() + 30
    while dying() and time.monotonic() < end:
        time.sleep(0.2)
    assert not dying()
    assert resident() - memory < 8 << 20
