# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Storage driver devicemapper on a device mapper that is none: what is asked of it, and that nothing is left of a run that is killed anywhere."""

from __future__ import annotations

import contextlib
import errno
import os

import pytest
from ansible_collections.bulkhead.isolation.plugins.module_utils._engine.host import Host
from ansible_collections.bulkhead.isolation.plugins.module_utils._engine.plan import Plan
from ansible_collections.bulkhead.isolation.plugins.module_utils._kernel import devmapper, ext4, loopdev, syscalls
from ansible_collections.bulkhead.isolation.plugins.module_utils._model.errors import BulkheadError
from ansible_collections.bulkhead.isolation.plugins.module_utils._model.storage import StorageSpec
from ansible_collections.bulkhead.isolation.plugins.module_utils._resources import _storage_places, _storage_pool, _storage_thin, preflight
from fake_dmsetup import DeviceMapper, Killed

MIB = 1 << 20
PIECES = _storage_thin.PIECES


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """The device mapper; a file is its own loop device."""
    made = DeviceMapper(tmp_path)
    monkeypatch.setattr(preflight, "which", lambda name: "/sbin/" + name)
    monkeypatch.setattr(syscalls, "mount", made.mount)
    monkeypatch.setattr(syscalls, "umount", made.umount)
    monkeypatch.setattr(loopdev, "attached", lambda path, written: contextlib.nullcontext(path))
    monkeypatch.setattr(loopdev, "fit", lambda path: None)
    made.sizes, made.used = {}, 5 * MIB
    monkeypatch.setattr(ext4, "space", lambda path, sys: (made.sizes.get(path, 0), made.used))
    monkeypatch.setattr(ext4, "set_space", lambda path, sys, size: made.sizes.__setitem__(path, size))
    return made


@pytest.fixture
def host(kernel, tmp_path):
    lib = tmp_path / "lib"
    (lib / "roots").mkdir(parents=True)
    return Host(kernel.run, proc=kernel.proc, sys=kernel.sys, lib=str(lib))


def declared(host, **more):
    spec = StorageSpec()
    spec.driver, spec.pool, spec.pool_size = "devicemapper", host.lib + "/pool.img", 100 * MIB
    for key, value in more.items():
        setattr(spec, key, value)
    return spec


def place(host, name, base=False):
    path = "%s/roots/%s" % (host.lib, name)
    os.makedirs(path, exist_ok=True)
    if base:
        with open(path + "/base.json", "w", encoding="ascii"):
            pass
    return path


def base_of(host):
    path = place(host, ".bases-devicemapper/00", base=True)
    PIECES.create(host, path, declared(host))
    PIECES.seal(host, path)
    return path


def nothing(kernel, host):
    return not kernel.devices and not kernel.volumes and not kernel.mounts and os.listdir(host.lib) == ["roots"]


def test_a_base_and_roots_of_it(kernel, host):
    base = base_of(host)
    assert kernel.volumes == {0: None} and "bulkhead-0" not in kernel.devices and not kernel.mounts
    data = kernel.devices["bulkhead-data"][1].split()
    assert data[:3] == ["0", str((98 * MIB // 512 - 8192) // 128 * 128), "linear"] and data[4] == str(2048 + 8192)
    assert kernel.devices["bulkhead-pool"][1].endswith("128 0 2 error_if_no_space no_discard_passdown")
    assert os.stat(host.lib + "/pool.img").st_blocks * 512 >= 100 * MIB  # nobody else takes that
    one, two = place(host, "one"), place(host, "two")
    PIECES.snapshot(host, base, one, declared(host, size=7 * MIB + 1))
    PIECES.snapshot(host, base, two, declared(host))
    assert kernel.volumes == {0: None, 1: 0, 2: 0} and kernel.sizes == {  # layers are not counted
        one + "/tree": 12 * MIB + 4096, two + "/tree": (10 << 30) + 5 * MIB}
    assert PIECES.is_ready(host, one) and PIECES.size(host, one) == 7 * MIB + 4096
    os.makedirs(host.lib + "/roots/.saved/one")
    saved = place(host, ".saved/one/first")
    PIECES.snapshot(host, one, saved)
    PIECES.seal(host, saved)
    assert kernel.volumes[3] == 1 and set(kernel.mounts) == {one + "/tree", two + "/tree"} and _storage_pool.volume(saved)["size"] == 7 * MIB + 4096
    for path in (one, two, base, saved):
        assert not nothing(kernel, host)
        _storage_places.discard(host, PIECES, path)
    assert nothing(kernel, host)


def test_after_a_reboot(kernel, host):
    base, one = base_of(host), place(host, "one")
    PIECES.snapshot(host, base, one, declared(host))
    for name in ("bulkhead-1", "bulkhead-pool", "bulkhead-data", "bulkhead-metadata"):
        kernel.forget_mounts()
        kernel.run(["/sbin/dmsetup", "remove", "--retry", name])
    host.forget()
    assert not PIECES.is_ready(host, one) and PIECES.size(host, one) == 10 << 30
    plan = Plan()
    PIECES.plan_ready(host, "one", one, declared(host, size=8 * MIB), plan)
    assert plan.actions == ["mount root of sandbox one"] and not kernel.devices
    plan.steps[0].apply()
    assert PIECES.is_ready(host, one) and kernel.sizes[one + "/tree"] == 13 * MIB
    plan = Plan()
    PIECES.plan_ready(host, "one", one, declared(host, size=8 * MIB), plan)
    assert not plan.steps


def test_sizes(kernel, host):
    base, one = base_of(host), place(host, "one")
    PIECES.snapshot(host, base, one, declared(host, size=8 * MIB))
    plan = Plan()
    PIECES.plan_ready(host, "one", one, declared(host, size=9 * MIB), plan)
    plan.steps[0].apply()
    assert kernel.sizes[one + "/tree"] == 14 * MIB and _storage_pool.volume(one)["size"] == 9 * MIB
    plan.steps[0].undo()
    assert kernel.sizes[one + "/tree"] == 13 * MIB and _storage_pool.volume(one)["size"] == 8 * MIB
    kernel.used = 10 * MIB
    with pytest.raises(BulkheadError, match="to 4194304 bytes: it has 5242880 already. Set storage.size to more"):
        PIECES.plan_ready(host, "one", one, declared(host, size=4 * MIB), Plan())
    with pytest.raises(BulkheadError, match="storage.size is 1073741824 bytes, and the pool"):
        PIECES.plan_room(host, "two", declared(host, size=1 << 30), Plan())


def test_pool_grows_and_never_shrinks(kernel, host):
    base_of(host)
    plan = Plan()
    PIECES.plan_room(host, "one", declared(host, pool_size=200 * MIB), plan)
    assert plan.actions == ["enlarge pool %s/pool.img" % host.lib]
    plan.steps[0].apply()
    assert kernel.devices["bulkhead-data"][1].split()[1] == kernel.devices["bulkhead-pool"][1].split()[1] == str((198 * MIB // 512 - 8192) // 128 * 128)
    with pytest.raises(BulkheadError, match="thin pools do not shrink"):
        PIECES.plan_room(host, "one", declared(host), Plan())


@pytest.mark.parametrize("status, message", [
    ("0 1/1024 4703/4704 - rw discard_passdown error_if_no_space - 256", "is full to 99 percent. Remove what is not needed"),
    ("0 1000/1024 1/4704 - rw discard_passdown error_if_no_space - 256", "is full to 97 percent"),
    ("0 9/1024 4704/4704 - out_of_data_space discard_passdown error_if_no_space - 256", "is full to 100 percent"),
    ("0 1/1024 1/4704 - ro discard_passdown error_if_no_space needs_check 256", "does not work: its metadata needs to be checked"),
    ("0 1/1024 1/4704 - ro discard_passdown error_if_no_space - 256", "does not work: its metadata is full or damaged"),
    ("Fail", "does not work: it has failed"),
])
def test_pool_that_takes_no_more(kernel, host, status, message):
    base_of(host)
    kernel.status = status
    with pytest.raises(BulkheadError, match=message):
        PIECES.plan_room(host, "one", declared(host), Plan())


@pytest.mark.parametrize("status, warning", [
    ("0 1/1024 4200/4704 - rw discard_passdown error_if_no_space - 256", None),
    ("0 1/1024 4500/4704 - rw discard_passdown error_if_no_space - 256", "is full to 95 percent. Where it is full, nothing new can be written"),
    ("0 9/1024 4704/4704 - out_of_data_space discard_passdown error_if_no_space - 256", "is full to 100 percent"),
    ("0 1/1024 1/4704 - ro discard_passdown error_if_no_space needs_check 256", "does not work: its metadata needs to be checked"),
])
def test_a_run_and_who_looks_are_told_of_a_pool_that_runs_full(kernel, host, status, warning):
    base, one = base_of(host), place(host, "one")
    PIECES.snapshot(host, base, one, declared(host, size=8 * MIB))
    kernel.status = status
    PIECES.plan_ready(host, "one", one, declared(host, size=8 * MIB), Plan())
    told = host.warnings[:]
    assert [warning in each for each in told] == [True] if warning else not told
    host.warnings.clear()
    shown = PIECES.measured(host)["pool"]
    assert shown == {"path": host.lib + "/pool.img", "size": 94 * MIB,
                     "used": shown["used"], "promised": 8 * MIB}
    assert host.warnings == told


@pytest.mark.parametrize("stopped", [False, True])
def test_a_file_system_that_met_errors_is_told_of_and_one_that_has_stopped_is_refused(kernel, host, monkeypatch, stopped):
    base, one = base_of(host), place(host, "one")
    PIECES.snapshot(host, base, one, declared(host, size=8 * MIB))
    PIECES.refuse_stopped(host, "one", one)
    monkeypatch.setattr(_storage_thin, "_errors", lambda host, place: True)
    monkeypatch.setattr(ext4, "has_stopped", lambda path: stopped)
    plan = Plan()
    PIECES.plan_ready(host, "one", one, declared(host, size=8 * MIB), plan)
    assert ["has met errors" in each for each in plan.warnings] == [True] and not plan.steps
    if not stopped:
        PIECES.refuse_stopped(host, "one", one)
        return
    with pytest.raises(BulkheadError, match="Cannot use the root of sandbox one: its file system has stopped.* reboot"):
        PIECES.refuse_stopped(host, "one", one)
    kernel.forget_mounts()
    PIECES.refuse_stopped(host, "one", one)


def test_more_promised_than_there_is_is_told_where_a_root_is_made(kernel, host):
    base, one = base_of(host), place(host, "one")
    PIECES.snapshot(host, base, one, declared(host, size=60 * MIB))
    for name, size, warned in (("two", 30 * MIB, False), ("two", 30 * MIB, False), ("three", 20 * MIB, True)):
        plan = Plan()
        PIECES.plan_room(host, name, declared(host, size=size), plan)
        assert ["and %d are promised to its roots" % (110 * MIB) in each for each in plan.warnings] == [True] * warned


def test_refused_before_anything_is_made(kernel, host, tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("x")
    for path, message in ((precious, "it is a file that is there already. Name another."), ("/dev/no-such/disk", "there is no such device"),
                          (tmp_path, "it is neither a block device nor a file")):
        with pytest.raises(BulkheadError, match=message):
            PIECES.plan_room(host, "one", declared(host, pool=str(path)), Plan())
        with pytest.raises((BulkheadError, OSError)):
            PIECES.create(host, place(host, ".new-one"), declared(host, pool=str(path)))
        _storage_places.discard(host, PIECES, place(host, ".new-one"))
    with pytest.raises(BulkheadError, match="has [0-9]+ left. Set storage.pool_size"):
        PIECES.plan_room(host, "one", declared(host, pool_size=1 << 60), Plan())
    with pytest.raises(BulkheadError, match="Give it 67108864 at the least"):
        PIECES.plan_room(host, "one", declared(host, pool_size=MIB), Plan())
    assert precious.read_text() == "x" and nothing(kernel, host)
    base_of(host)
    with pytest.raises(BulkheadError, match="the pool of this host is .*pool.img, and it has one"):
        PIECES.plan_room(host, "one", declared(host, pool="/dev/no-such/disk"), Plan())


def test_volume_that_nobody_knows(kernel, host):
    base_of(host)
    kernel.volumes[1] = None
    PIECES.snapshot(host, place(host, ".bases-devicemapper/00"), place(host, "one"), declared(host))
    assert kernel.volumes == {0: None, 1: None, 2: 0} and "has a volume 1 that nobody knows" in host.warnings[0]


def test_pool_of_another(kernel, host):
    """A device that has got the name of the pool meanwhile is not touched."""
    base = base_of(host)
    value = _storage_pool.volume(base)
    _storage_pool.record(base, dict(value, identity="00"))
    with pytest.raises(BulkheadError, match="it is not there any more"):
        PIECES.remove(host, base)
    assert kernel.volumes == {0: None}


def survived(host, kernel, act, number):
    """Do it, and be killed at a call, if there are so many: was there such a call?"""
    left = [number]

    def before(words):
        if not left[0]:
            raise Killed
        left[0] -= 1

    kernel.before = before
    try:
        act()
        return False
    except Killed:
        return True
    finally:
        kernel.before = lambda words: None
        host.forget()


def look(host, path):
    with PIECES.opened(host, path) as fd:
        assert os.listdir(fd)


@pytest.mark.parametrize("what", ["create", "snapshot", "save", "seal", "remove", "last", "opened"])
def test_killed_at_each_call(kernel, host, what):
    """The next run takes away the place, and with it all that was made for it."""
    number = 0
    while True:
        base = one = None
        if what != "create":
            base = base_of(host)
        if what in ("save", "remove"):
            one = place(host, "one")
            PIECES.snapshot(host, base, one, declared(host))
        half = place(host, ".new-it", base=what in ("create", "seal"))
        if what == "seal":
            PIECES.create(host, half, declared(host))
        killed = survived(host, kernel, {
            "create": lambda: PIECES.create(host, half, declared(host)),
            "snapshot": lambda: PIECES.snapshot(host, base, half, declared(host)),
            "save": lambda: (PIECES.snapshot(host, one, half), PIECES.seal(host, half)),
            "seal": lambda: PIECES.seal(host, half),
            "remove": lambda: PIECES.remove(host, one),
            "last": lambda: PIECES.remove(host, base),
            "opened": lambda: look(host, base),
        }[what], number)
        for path in (half, one, base):
            if path:
                _storage_places.discard(host, PIECES, path)
        assert nothing(kernel, host), (what, number)
        if not killed:
            assert number >= 2
            return
        number += 1


def test_what_dmsetup_says_is_an_error_of_the_kernel():
    def run(words):
        return 1, "", "device-mapper: message ioctl on bulkhead-pool  failed: File exists\nCommand failed.\n"

    with pytest.raises(OSError) as caught:
        devmapper.message(run, "dmsetup", "bulkhead-pool", "create_thin 0")
    assert caught.value.errno == errno.EEXIST and "bulkhead-pool" in caught.value.strerror


def test_a_device_that_another_dmsetup_has_removed_meanwhile():
    devmapper.remove(lambda words: (1, "", "device-mapper: remove ioctl on x  failed: No such device or address\nCommand failed.\n"), "dmsetup", "x")
