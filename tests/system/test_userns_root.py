# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Roots of sandboxes with a user namespace: real Debian layers, whose files have the ids inside that they are stored with."""

from __future__ import annotations

import copy
import json
import os
import stat
import subprocess
import sys
import time

import drive
import jail
import layers
import pytest

from module_utils._kernel import idmap, inside as visiting, overlayfs, syscalls

HERE = os.path.dirname(os.path.realpath(__file__))
TYPES = ["user", "net", "uts", "ipc", "mnt", "pid", "cgroup"]
MAP = ["0 100000 65536"]
UPPER = "/var/lib/bulkhead/uppers/web/upper"
GONE = {"sandboxes": [{"name": "web", "state": "absent"}], "remove_data": True}


@pytest.fixture(scope="session")
def debian():
    return layers.directory()


@pytest.fixture(autouse=True)
def all_gone(leaves_nothing):
    yield
    answer = drive.converge("sandbox", {"sandboxes": [], "purge": True, "remove_data": True, "kill": True})
    assert "error" not in answer, answer["error"]
    from module_utils._supervisor import entry, scan

    scan.shutdown(drive.new_host())
    entry.clear(drive.new_host())


@pytest.fixture
def declare(debian):
    """declare(key=value…): the options of a task with one sandbox; an `overlay` of the base unless a `root` is given."""

    def act(uid_map=None, gid_map=None, types=None, policy=None, **more):
        one = {"name": "web", "namespaces": {"types": types or TYPES, "uid_map": uid_map or MAP, "gid_map": gid_map or MAP}}
        if "root" not in more:
            one["overlay"] = {"lower": [debian + "/base"]}
        return dict({"sandboxes": [dict(one, **copy.deepcopy(more))]}, **(policy or {}))

    return act


@pytest.fixture
def tree(tmp_path):
    """A small directory root with owners of its own."""
    for name, owner in (("etc", 0), ("srv", 33), ("far", 70000)):
        os.mkdir(tmp_path / name)
        os.chown(tmp_path / name, owner, owner)
    os.chmod(tmp_path, 0o755)
    return str(tmp_path)


def inside(*command, uid=0):
    """What a command prints inside, entered with the tools of the host and not with ours."""
    pins = ["--%s=/run/bulkhead/ns/web/%s" % (kind, kind) for kind in ("user", "uts", "ipc", "pid", "cgroup")]
    ids = ["-S", str(uid), "-G", str(uid)]
    argv = ["nsenter", "--mount=/run/bulkhead/ns/web/mnt", "--net=/run/netns/web"] + pins + ids + ["--"] + list(command)
    ended = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def seen(path):
    """(st_uid, st_gid) inside, as the host's ids."""
    with visiting.Inside("/run/bulkhead/mntns/web"):
        found = os.stat(path)
    return found.st_uid, found.st_gid


def stored(path):
    found = os.lstat(UPPER + path)
    return found.st_uid, found.st_gid


def table():
    return visiting.table("/run/bulkhead/mntns/web")


def uid_of(pid):
    with open("/proc/%d/status" % pid, encoding="ascii") as stream:
        return [line.split()[1:] for line in stream if line.startswith(("Uid:", "Gid:"))]


def service(name):
    end = time.monotonic() + 20
    while True:
        found = [each for each in drive.resource("sandbox").show(drive.new_host(), "web")["services"] if each["name"] == "web/" + name][0]
        if found["pid"] or time.monotonic() > end:
            return found["pid"]
        time.sleep(0.05)


def test_every_state_is_predicted_made_and_kept(full_cycle, declare):
    full_cycle("sandbox", declare(services=[{"name": "sleep", "command": ["/bin/sleep", "10000"]}]), GONE)
    assert not os.path.exists("/var/lib/bulkhead/uppers/web")


def test_root_inside_is_root_over_the_image(converge, declare):
    assert converge("sandbox", **declare())["warnings"] == []
    assert inside("id", "-u") == "0"
    assert inside("stat", "-c", "%U:%G", "/", "/etc", "/etc/passwd").split() == ["root:root"] * 3
    assert inside("stat", "-c", "%U:%G %a", "/etc/shadow") == "root:shadow 640"
    inside("sh", "-c", "echo mine > /root/x && touch /root/y && chown www-data:shadow /root/y && mkdir -p /srv/deep/er && ln -s x /root/z")
    assert inside("stat", "-c", "%U:%G", "/root/x", "/root/y", "/srv/deep").split() == ["root:root", "www-data:shadow", "root:root"]
    inside("sh", "-c", "echo >> /etc/shadow; rm -r /var/mail; mv /etc/debian_version /etc/moved; chown 5:6 /etc/hosts || touch /etc/hosts")
    assert inside("stat", "-c", "%U:%G %a", "/etc/shadow") == "root:shadow 640"  # copied up with its owner
    assert seen("/root/x") == (100000, 100000) and seen("/root/y") == (100033, 100042)
    assert stored("/root/x") == stored("/srv/deep/er") == stored("/root/z") == stored("/etc/moved") == (0, 0)
    assert stored("/root/y") == (33, 42) and stored("/etc/shadow") == (0, 42)
    keeper = drive.resource("sandbox").show(drive.new_host(), "web")["namespaces"]["keeper"]
    assert uid_of(keeper) == [["100000"] * 4] * 2
    assert inside("su", "-s", "/bin/sh", "www-data", "-c", "id -un; touch /tmp/of-www") == "www-data"  # set-user-ID root works
    assert stored("/tmp/of-www") == (33, 33)
    assert stat.S_IMODE(os.stat("/var/lib/bulkhead/uppers/web").st_mode) == 0o700  # who is nobody here cannot reach what is stored as 0's
    assert not converge("sandbox", **declare())["changed"]


def test_ids_that_are_not_root_have_no_more_than_their_own(converge, declare):
    converge("sandbox", **declare())
    refused = subprocess.run(["nsenter", "--user=/run/bulkhead/ns/web/user", "--mount=/run/bulkhead/mntns/web", "-S", "33", "-G", "33",
                              "cat", "/etc/shadow"], capture_output=True, text=True, check=False)
    assert refused.returncode and "Permission denied" in refused.stderr


def test_a_service_of_another_user_and_one_of_root(converge, declare, debian):
    options = declare(services=[
        {"name": "redis", "user": "redis", "command": ["/usr/bin/redis-server", "--dir", "/var/lib/redis", "--port", "6379", "--daemonize", "no"]},
        {"name": "sleep", "command": ["/bin/sleep", "10000"]}])
    options["sandboxes"][0]["overlay"]["lower"] = [debian + "/redis", debian + "/base"]
    converge("sandbox", **options)
    redis = int(inside("id", "-u", "redis"))
    assert uid_of(service("sleep"))[0] == ["100000"] * 4
    assert uid_of(service("redis"))[0] == [str(100000 + redis)] * 4
    assert inside("stat", "-c", "%U:%G", "/var/lib/redis") == "redis:redis"
    inside("sh", "-c", "i=0; until redis-cli ping; do i=$((i+1)); test $i -lt 100; sleep 0.1; done; redis-cli set key value; redis-cli save")
    assert stored("/var/lib/redis/dump.rdb")[0] == redis
    assert not converge("sandbox", **options)["changed"]


def test_other_maps_need_leave_and_keep_the_data(converge, refuse, declare):
    converge("sandbox", **declare())
    inside("sh", "-c", "echo precious > /root/data; chown 33:33 /root/data")
    other = dict(uid_map=["0 300000 1000", "1000 500000 10"], gid_map=["0 400000 65536"])
    error = refuse("sandbox", **declare(**other))
    assert "uid_map" in error and "on_mismatch: recreate" in error
    again = declare(policy={"on_mismatch": "recreate"}, **other)
    predicted = converge("sandbox", check=True, **again)
    assert predicted["actions"] == converge("sandbox", **again)["actions"]
    assert inside("cat", "/root/data") == "precious" and inside("stat", "-c", "%U:%G", "/root/data") == "www-data:www-data"
    assert seen("/root/data") == (300033, 400033) and stored("/root/data") == (33, 33)
    assert not converge("sandbox", **again)["changed"]


def test_a_root_whose_ids_are_not_shown_is_stale(converge, declare, monkeypatch):
    """As one that was made before, or by other means."""
    from module_utils._model.root import RootSpec

    parse = RootSpec.from_options.__func__
    with monkeypatch.context() as patch:
        patch.setattr(RootSpec, "from_options", classmethod(lambda cls, *args, **keys: parse(cls, *args, **dict(keys, maps=None))))
        converge("sandbox", **declare())
    assert inside("stat", "-c", "%U", "/") == "nobody"
    again = declare(policy={"on_mismatch": "recreate"})
    predicted = converge("sandbox", check=True, **again)
    done = converge("sandbox", **again)
    assert predicted["actions"] == done["actions"]
    assert inside("stat", "-c", "%U", "/") == "root"
    assert not converge("sandbox", **again)["changed"]


def test_changes_in_place(converge, declare, tmp_path):
    os.chown(tmp_path, 100033, 100033)
    os.chmod(tmp_path, 0o755)
    converge("sandbox", **declare())
    keeper = drive.resource("sandbox").show(drive.new_host(), "web")["namespaces"]["keeper"]
    more = dict(bind=[{"source": str(tmp_path), "target": "/new/place"}], tmpfs=[{"target": "/cache/fast", "size": "1M", "mode": "0750"}],
                devices=["/dev/fuse" if os.path.exists("/dev/fuse") else "/dev/kmsg", {"path": "/dev/sub/nothing", "source": "/dev/null"}],
                masked_paths=["/etc/hostname"])
    options = declare(**more)
    predicted = converge("sandbox", check=True, **options)
    done = converge("sandbox", **options)
    assert predicted["actions"] == done["actions"] and len(done["actions"]) >= 5 and done["restart_required"] == []
    assert inside("stat", "-c", "%U", "/new", "/new/place", "/cache", "/cache/fast").split() == ["root", "www-data", "root", "root"]
    inside("sh", "-c", "echo x > /dev/sub/nothing && test -c /dev/sub/nothing && touch /cache/fast/y && test ! -s /etc/hostname")
    inside("touch", "/new/place/x", uid=33)
    assert os.stat(tmp_path / "x").st_uid == 100033  # binds show the ids of the host
    assert not converge("sandbox", **options)["changed"]
    options["sandboxes"][0]["tmpfs"][0].update(size="2M", mode="0755")
    assert converge("sandbox", **options)["changed"] and not converge("sandbox", **options)["changed"]
    with visiting.Inside("/run/bulkhead/mntns/web") as there:  # damage: a device is gone
        os.fchdir(there.procfs)
        fd = os.open("/dev/zero", syscalls.O_PATH)
        syscalls.umount("self/fd/%d" % fd, syscalls.MNT_DETACH)
        os.close(fd)
    mended = converge("sandbox", **options)
    assert mended["actions"][0] == "make device /dev/zero in the root of web" and inside("head", "-c1", "/dev/zero") == "\0"
    assert converge("sandbox", **declare())["changed"]
    assert inside("sh", "-c", "test ! -e /dev/sub/nothing && stat -f -c %T /new/place /cache/fast").split() == ["overlayfs"] * 2
    assert not converge("sandbox", **declare())["changed"]
    assert drive.resource("sandbox").show(drive.new_host(), "web")["namespaces"]["keeper"] == keeper


def test_a_device_s_mode_is_the_host_s(refuse, declare):
    assert "Leave its mode out" in refuse("sandbox", **declare(devices=[{"path": "/dev/kmsg", "mode": "0600"}]))


def test_a_directory_is_shown_by_an_idmapped_mount(full_cycle, converge, declare, tree):
    full_cycle("sandbox", declare(root=tree), GONE)
    converge("sandbox", **declare(root=tree))
    assert "idmapped" in table().top("/").options
    assert seen("/") == seen("/etc") == (100000, 100000)
    assert seen("/srv") == (100033, 100033) and seen("/far") == (65534, 65534)
    assert os.stat(tree + "/dev").st_uid == 0  # a mount point that was missing
    assert not converge("sandbox", **declare(root=tree))["changed"]


@pytest.mark.parametrize("version", [(6, 17), (6, 12), (6, 6)])
def test_ways_to_tell_the_kernel(converge, declare, monkeypatch, debian, version):
    """By descriptor, by names one by one, and in one string."""
    monkeypatch.setattr(overlayfs, "release", lambda: version)
    options = declare()
    options["sandboxes"][0]["overlay"]["lower"] = [debian + "/redis", debian + "/base"]
    converge("sandbox", **options)
    shown = drive.resource("root").show(drive.new_host(), "web")
    assert (shown["lower"], shown["upper"]) == ([debian + "/redis", debian + "/base"], UPPER)
    assert inside("stat", "-c", "%U", "/").split() == ["root"]
    assert not converge("sandbox", **options)["changed"]


def test_names_too_long_for_one_string_and_odd_ones(converge, declare, tmp_path, debian, monkeypatch):
    monkeypatch.setattr(overlayfs, "release", lambda: (6, 6))
    many = [str(tmp_path / ("x%02d,:" % number + "y" * 200)) for number in range(24)]
    for path in many:
        os.mkdir(path)
        with open(path + "/of-" + os.path.basename(path)[:3], "w", encoding="ascii"):
            pass
    options = declare()
    options["sandboxes"][0]["overlay"]["lower"] = many + [debian + "/base"]
    converge("sandbox", **options)
    assert len(inside("sh", "-c", "stat -c %U /of-x*").split()) == 24
    assert not converge("sandbox", **options)["changed"]


def test_upper_and_layers_elsewhere(converge, declare, tmp_path, debian):
    """The upper's common directory has a layer below it, by a symbolic link, and on a mount of its own."""
    os.makedirs(tmp_path / "a/layer/opt/new")
    os.makedirs(tmp_path / "b")
    os.makedirs(tmp_path / "mounted")
    os.symlink("a", tmp_path / "link")
    syscalls.mount("test", str(tmp_path / "mounted"), "tmpfs", 0, "mode=755")
    try:
        os.makedirs(tmp_path / "mounted/layer/opt/other")
        options = declare()
        options["sandboxes"][0]["overlay"].update(lower=[str(tmp_path / "link/layer"), str(tmp_path / "mounted/layer"), debian + "/base"],
                                                  upper=str(tmp_path / "a/upper"), work=str(tmp_path / "b/work"))
        converge("sandbox", **options)
        assert inside("stat", "-c", "%U", "/opt/new", "/opt/other", "/opt").split() == ["root"] * 3
        inside("touch", "/opt/new/x")
        assert os.stat(tmp_path / "a/upper/opt/new/x").st_uid == 0
        assert not converge("sandbox", **options)["changed"]
        converge("sandbox", **GONE)
    finally:
        syscalls.umount(str(tmp_path / "mounted"))


def test_refused_by_name_before_anything_is_touched(refuse, declare, tmp_path, monkeypatch, debian):
    assert "user needs mnt" in refuse("sandbox", **declare(types=["user", "uts"]))
    assert "nothing for the id 0" in refuse("sandbox", **declare(uid_map=["1 100000 10"]))
    low = tmp_path / "low"
    low.mkdir()
    syscalls.mount("overlay", str(low), "overlay", 0, "lowerdir=%s:%s" % (debian + "/redis", debian + "/nginx"))
    try:
        for options in (declare(root=str(low)), declare()):
            if "overlay" in options["sandboxes"][0]:
                options["sandboxes"][0]["overlay"]["lower"].insert(0, str(low))
            for check in (True, False):
                error = refuse("sandbox", check=check, **options)
                assert error.startswith("Cannot prepare the root of web: %s is on overlay, which" % low), error
    finally:
        syscalls.umount(str(low))
    monkeypatch.setattr(overlayfs, "release", lambda: (5, 18))
    assert "Linux 5.19" in refuse("sandbox", **declare())
    assert not os.path.exists(UPPER) and not os.path.exists("/run/bulkhead/ns/web")


def test_refused_on_a_kernel_without_idmapped_mounts(declare, tree):
    for options in (declare(), declare(root=tree)):
        ended = subprocess.run([HERE + "/../alone", "--block", "mount_setattr", sys.executable, HERE + "/drive.py", "sandbox", json.dumps(options)],
                               capture_output=True, text=True, check=True)
        answer = json.loads(ended.stdout)
        assert answer["error"].startswith("Cannot prepare the root of web: this kernel cannot show /") and "Linux 5.12" in answer["error"]
        assert not answer["changed"]


def test_the_own_root_of_a_single_service(converge, tmp_path):
    path = jail.make(tmp_path)
    os.chown(tmp_path / "var", 33, 33)
    converge("namespace", name="u", types=["user", "pid", "net"], uid_map=MAP, gid_map=MAP)
    options = dict(name="own", root=path, namespace="u", user="root", capabilities=[], tmpfs=[{"target": "/made/scratch"}], bind=jail.BINDS,
                   command=["/bin/sh", "-c", "stat -c '%u %n' / /var /made /made/scratch /dev > /tmp/out;"
                            " touch /made/scratch/x && mv /tmp/out /tmp/done; sleep 1000"])
    try:
        converge("service", **options)
        assert jail.until(lambda: os.path.exists(path + "/tmp/done"))
        assert jail.text(path + "/tmp/done").split() == ["0", "/", "33", "/var", "0", "/made", "0", "/made/scratch", "0", "/dev"]
        assert os.stat(path + "/tmp/done").st_uid == os.stat(path + "/made").st_uid == 0
        assert not converge("service", **options)["changed"]
    finally:
        jail.clear()


def test_files_are_made_as_somebody_and_all_is_as_before(tmp_path):
    before = [line for line in open("/proc/self/status", encoding="ascii") if line.startswith(("Uid", "Gid", "Cap"))]
    with pytest.raises(KeyError), idmap.Acting(100000, 100001):
        (tmp_path / "x").write_text("x")
        with open("/proc/self/status", encoding="ascii") as stream:
            assert [line for line in stream if line.startswith("CapEff")] == [line for line in before if line.startswith("CapEff")]
        raise KeyError
    found = os.stat(tmp_path / "x")
    assert (found.st_uid, found.st_gid) == (100000, 100001)
    assert [line for line in open("/proc/self/status", encoding="ascii") if line.startswith(("Uid", "Gid", "Cap"))] == before


def test_a_user_namespace_for_a_moment():
    descriptors, children = len(os.listdir("/proc/self/fd")), os.listdir("/proc/self/task")
    with pytest.raises(OSError):
        idmap.user_namespace("0 0 0\n", "0 0 1\n")
    fd = idmap.user_namespace("0 100000 10\n", "0 100000 10\n")
    os.close(fd)
    assert len(os.listdir("/proc/self/fd")) == descriptors and os.listdir("/proc/self/task") == children
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
