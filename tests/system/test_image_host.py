# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The running host as an image: a service of the host's own programs runs over it, and nothing that is the host's alone is in it."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess

import archives
import drive
import jail
import pytest

from module_utils._resources import _tree

BASE = "/run/hosted"
PROGRAMS = ["/bin/sh", "/usr/bin/id", "/usr/bin/sleep", "/usr/bin/dpkg-query"]
SECRET = "a-secret-of-the-host"
PLANTED = {  # {name: mode}
    "shadow": 0o640, "shadow-": 0o600, "gshadow": 0o640, "passwd-": 0o600, "ssh/ssh_host_ed25519_key": 0o600, "ssh/ssh_host_rsa_key": 0o644,
    "ssl/private/host.key": 0o644, "wireguard/wg0.conf": 0o644, "NetworkManager/system-connections/home": 0o600, "krb5.keytab": 0o600, "machine-id": 0o444,
    "wpa_supplicant/wpa.conf": 0o644, "sudoers": 0o440, "sudoers.d/me": 0o644, "fstab": 0o644, "tool/private.conf": 0o640, "tool/closed/file": 0o644,
    "apt/auth.conf.d/us": 0o644, "hosts": 0o644, "hostname": 0o644, "resolv.conf": 0o644,
}
OPTIONS = dict(namespaces=dict(types=["net", "uts", "ipc", "mnt", "pid"]))


def libraries():
    found = subprocess.run(["ldd"] + PROGRAMS, check=True, capture_output=True, text=True).stdout
    paths = set(re.findall(r"(/\S+) \(0x", found))
    return sorted({os.path.realpath(path) for path in paths} | {os.path.realpath(os.path.dirname(path)) + "/" + os.path.basename(path) for path in paths})


def said(**more):
    """Of this host a small part: all of /usr is too much for a test."""
    found = dict(exclude=["/usr", "/opt", "/var/lib/dpkg/info"], include=[os.path.realpath("/bin") + "/" + os.path.basename(path) for path in PROGRAMS]
                 + [os.path.realpath("/bin/sh")] + libraries())
    return {key: found.get(key, []) + more.get(key, []) for key in ("exclude", "include")}


def plant(name, text, mode=0o644):
    if os.path.lexists("/etc/" + name):
        os.unlink("/etc/" + name)
    os.chmod(archives.write("/etc/" + name, text.encode()), mode)
    os.chmod(os.path.dirname("/etc/" + name), 0o755)  # whatever the umask


@pytest.fixture(autouse=True)
def place(leaves_nothing):
    """/etc is the host's, with what a host has in it; what is written there is written over it, for this test alone."""
    os.makedirs(BASE + "/upper")
    os.makedirs(BASE + "/work")
    subprocess.run(["mount", "-t", "overlay", "-o", "lowerdir=/etc,upperdir=%s/upper,workdir=%s/work" % (BASE, BASE), "etc", "/etc"], check=True)
    for name, mode in PLANTED.items():
        plant(name, "root:%s:19000:0:99999:7:::\n" % SECRET if "shadow" in name else SECRET, mode)
    os.chmod("/etc/tool/closed", 0o700)
    os.makedirs("/etc/bulkhead", exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/etc/bulkhead"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/etc/netns"], check=True)
    yield
    jail.clear_images()
    for path in ("/etc/netns", "/etc/bulkhead", "/etc"):
        subprocess.run(["umount", path], check=True)
    shutil.rmtree(BASE)


def tree():
    return drive.info("image", name="base")["images"][0]["lower"][0]


@pytest.mark.proves("image")
def test_a_service_of_the_host(converge, full_cycle):
    present = dict(name="base", host=said())
    full_cycle("image", present, dict(name="base", state="absent"))
    answer = converge("image", **present)
    assert answer["actions"] == ["import image base from /"] and not converge("image", **present)["changed"]
    assert not converge("image", name="base", verify=True)["changed"]
    command = ["/bin/sh", "-c", "{ id -un; dpkg-query -W -f '${Status}' dpkg; ls; } >/tmp/told 2>&1; sleep 1000"]
    box = dict(OPTIONS, name="box", image="base", services=[dict(name="app", command=command, user="www-data")])
    converge("sandbox", sandboxes=[box])
    told = "/run/bulkhead/nothing"

    def said_so():
        nonlocal told
        for pid in filter(str.isdigit, os.listdir("/proc")):
            told = "/proc/%s/root/tmp/told" % pid
            if jail.text("/proc/%s/cmdline" % pid).startswith("sleep\x001000") and os.path.exists(told):
                return True
        return False

    jail.until(said_so)
    assert jail.text(told).splitlines()[:2] == ["www-data", "install ok installed/bin/sh: 1: ls: not found"]
    converge("sandbox", sandboxes=[dict(name="box", state="absent")], remove_data=True, kill=True)


def test_no_secret_is_in_it(converge):
    plant("tool/mounted/here", "x")
    plant("tool/file", "x")
    for command in ("mount -t tmpfs tmpfs /srv", "mount --bind /etc/wireguard /etc/tool/mounted", "mount --bind /etc/fstab /etc/tool/file"):
        subprocess.run(command.split(), check=True)
    try:
        archives.write("/srv/data", SECRET.encode())
        converge("image", name="base", host=said(include=["/etc/tool/closed"], exclude=["/etc/tool/closed/file"]))
    finally:
        subprocess.run(["umount", "/srv", "/etc/tool/mounted", "/etc/tool/file"], check=True)
    assert subprocess.run(["grep", "-rl", SECRET, os.path.dirname(tree())], capture_output=True, check=False).stdout == b""
    assert os.listdir(tree() + "/srv") == os.listdir(tree() + "/etc/tool/mounted") == [] and not os.path.lexists(tree() + "/etc/tool/file")
    assert os.listdir(tree() + "/etc/tool/closed") == [] and not os.path.lexists(tree() + "/etc/sudoers")
    assert jail.text(tree() + "/etc/shadow") == "root:*:::::::\n" and jail.text(tree() + "/etc/machine-id") == ""
    found = os.stat(tree() + "/etc/shadow")
    assert found.st_mode & 0o777 == 0o640
    # That the test would have seen it: what is asked for by name is taken.
    converge("image", name="base", host=said(include=["/etc/tool/private.conf"]))
    assert jail.text(tree() + "/etc/tool/private.conf") == SECRET


def test_what_changes(converge):
    """Of the host only what is in the image."""
    present = dict(name="base", host=said())
    converge("image", **present)
    plant("shadow", "root:another:1::::::\n", 0o640)
    plant("tool/private.conf", "another", 0o640)
    os.mkdir("/tmp/bulkhead-new")
    os.rmdir("/tmp/bulkhead-new")
    assert not converge("image", **present)["changed"]
    plant("tool/public.conf", "1")
    predicted = converge("image", check=True, **present)
    assert predicted["changed"] and converge("image", **present)["diff"] == predicted["diff"] and jail.text(tree() + "/etc/tool/public.conf") == "1"
    assert not converge("image", **present)["changed"]


def test_refused(converge, refuse):
    assert "there is no /none" in refuse("image", name="base", host=said(include=["/none"]))
    assert "does not exist yet" in converge("image", check=True, name="base", host=said(include=["/none"]))["warnings"][0]
    plant("tool/su", "x", 0o4755)
    assert "'etc/tool/su'" in refuse("image", name="base", host=said(), allow_setuid=False)
    assert drive.info("image")["images"] == [] and os.listdir("/var/lib/bulkhead/layers") == []
    converge("image", name="base", host=said())
    assert os.stat(tree() + "/etc/tool/su").st_mode & 0o7777 == 0o4755
    assert "is set-user-ID" in refuse("image", name="base", host=said(), allow_setuid=False)


def test_content_is_shared_where_that_can_be(converge, monkeypatch):
    """By a kernel that does: its answer is acted. The layer is the same, and nothing was written."""
    converge("image", name="copied", host=said())
    digest = drive.info("image", name="copied")["images"][0]["digest"]
    shared = []

    def ioctl(fd, number, source):
        assert number == 0x40049409
        shared.append(source)
        os.sendfile(fd, source, 0, os.fstat(source).st_size)

    monkeypatch.setattr(_tree.fcntl, "ioctl", ioctl)
    plant("tool/new", "x")  # so that it is made again
    converge("image", name="base", host=said())
    os.unlink("/etc/tool/new")
    converge("image", name="base", host=said())
    monkeypatch.undo()
    assert len(shared) > 100 and drive.info("image", name="base")["images"][0]["digest"] == digest
    assert not converge("image", name="base", verify=True)["changed"] and fcntl.ioctl is _tree.fcntl.ioctl
