# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An image that another tool has made, four layers with whiteouts, is the same tree here as that tool unpacks, entry by entry."""

from __future__ import annotations

import os
import shutil
import subprocess

import drive
import pytest

from module_utils._kernel import manifest

BASE = "/run/umoci"
LAYOUT = BASE + "/layout"


def umoci(*words):
    subprocess.run(["umoci", *words], check=True, capture_output=True, cwd=BASE)


def write(path, text, mode=0o644, owner=(0, 0)):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as stream:
        stream.write(text)
    os.chown(path, *owner)
    os.chmod(path, mode)
    os.utime(path, ns=(0, 1234567890987654321))


def lowest(top):
    write(top + "/etc/passwd", "root")
    write(top + "/usr/bin/su", "su", 0o4755)
    write(top + "/usr/bin/wall", "wall", 0o2755, (0, 5))
    write(top + "/var/spool/a/b/c", "c")
    write(top + "/var/cache/one", "one")
    write(top + "/srv/doomed/deep/file", "x")
    write(top + "/n\xe4me with \\ and\nnewline", "odd")
    os.chmod(top + "/var/spool/a", 0o1777)
    os.link(top + "/usr/bin/wall", top + "/usr/bin/write")
    os.symlink("usr/bin", top + "/bin")
    os.symlink("/nowhere/at/all", top + "/etc/dangling")
    os.chown(top + "/etc/dangling", 12, 13, follow_symlinks=False)
    os.mkfifo(top + "/run-pipe", 0o620)
    os.mknod(top + "/null", 0o20666, os.makedev(1, 3))
    os.setxattr(top + "/etc/passwd", "user.origin", b"lowest\0")
    os.setxattr(top + "/usr/bin/wall", "security.capability", b"\1\0\0\2" + b"\0\x20" + bytes(14))
    os.setxattr(top + "/var/cache", "user.kind", b"cache")


def second(top):
    os.unlink(top + "/var/cache/one")
    shutil.rmtree(top + "/srv/doomed")
    write(top + "/srv/new", "new", 0o600, (33, 33))
    os.chown(top + "/var/spool", 8, 8)


def third(top):
    os.unlink(top + "/etc/dangling")
    write(top + "/etc/dangling", "a file now")
    shutil.rmtree(top + "/var/spool/a")
    write(top + "/var/spool/a", "a file, too")
    os.unlink(top + "/bin")
    write(top + "/bin/sh", "a directory now", 0o755)


def fourth(top):
    write(top + "/srv/doomed/again", "back")
    os.unlink(top + "/run-pipe")
    write(top + "/usr/bin/su", "another")


@pytest.fixture(autouse=True)
def place(leaves_nothing):
    os.makedirs(BASE)
    yield
    drive.converge("overlay", dict(path=BASE + "/mnt", state="absent"))
    for name in ("umoci", "back"):
        drive.converge("image", dict(name=name, state="absent"))
    shutil.rmtree(BASE)


def make():
    umoci("init", "--layout", LAYOUT)
    umoci("new", "--image", LAYOUT + ":t")
    for change in (lowest, second, third, fourth):
        umoci("unpack", "--image", LAYOUT + ":t", BASE + "/bundle")
        change(BASE + "/bundle/rootfs")
        umoci("repack", "--image", LAYOUT + ":t", BASE + "/bundle")
        shutil.rmtree(BASE + "/bundle")
    umoci("config", "--image", LAYOUT + ":t", "--config.user", "33:33", "--config.env", "LANG=C.UTF-8", "--config.workingdir", "/srv",
          "--config.entrypoint", "/bin/sh", "--config.cmd", "-c", "--config.exposedports", "80/tcp", "--config.label", "made=here")
    umoci("unpack", "--image", LAYOUT + ":t", BASE + "/bundle")


def entries(path):
    """{name: what the manifest says of it}; the root's time is of when it was unpacked."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        lines = manifest.of(fd).text.decode().splitlines()[1:]
    finally:
        os.close(fd)
    found = dict(line.split(" ", 1) for line in lines)
    found["."] = " ".join(word for word in found["."].split() if not word.startswith("time="))
    return found


def test_the_same_tree(converge):
    make()
    converge("image", name="umoci", oci=LAYOUT, allow_setuid=True, allow_devices=True)
    image = drive.info("image", name="umoci")["images"][0]
    converge("overlay", path=BASE + "/mnt", lower=image["lower"])
    theirs, ours = entries(BASE + "/bundle/rootfs"), entries(BASE + "/mnt")
    assert len(image["layers"]) == 4 and len(theirs) > 20
    assert {name: (theirs.get(name), ours.get(name)) for name in set(theirs) | set(ours) if theirs.get(name) != ours.get(name)} == {}
    assert image["config"] == {"user": "33:33", "env": {"LANG": "C.UTF-8"}, "workdir": "/srv", "entrypoint": ["/bin/sh"], "command": ["-c"],
                               "ports": ["80/tcp"], "labels": {"made": "here"}}
    assert not converge("image", name="umoci", oci=LAYOUT, allow_setuid=True, allow_devices=True, verify=True)["changed"]


def test_exported(converge, full_cycle, refuse):
    """What we export is what umoci unpacks and skopeo copies, and imported again it is the same image, digest for digest."""
    make()
    allow = dict(allow_setuid=True, allow_devices=True)
    converge("image", name="umoci", oci=LAYOUT, **allow)
    out = BASE + "/out"
    predicted = converge("image", name="umoci", export=out, check=True)
    assert predicted["actions"] == ["export image umoci to " + out] == converge("image", name="umoci", export=out)["actions"]
    assert not converge("image", name="umoci", export=out)["changed"]
    umoci("unpack", "--image", out + ":umoci", BASE + "/again")
    theirs, back = entries(BASE + "/bundle/rootfs"), entries(BASE + "/again/rootfs")
    assert {name: (theirs.get(name), back.get(name)) for name in set(theirs) | set(back) if theirs.get(name) != back.get(name)} == {}
    converge("image", name="back", oci=out, **allow)
    first, second = (drive.info("image", name=name)["images"][0] for name in ("umoci", "back"))
    assert first["digest"] == second["digest"] and first["lower"] == second["lower"]
    with open(out + "/index.json", "rb") as stream:
        index = stream.read()
    shutil.rmtree(out)
    converge("image", name="back", export=out)
    with open(out + "/index.json", "rb") as stream:  # the same but for its name
        assert stream.read().replace(b'"back"', b'"umoci"') == index
    assert converge("image", name="umoci", config={"user": "1"}, export=out)["actions"] == ["set config of image umoci", "export image umoci to " + out]
    os.rename(out, BASE + "/.out.bulkhead-new")  # what a killed run leaves
    converge("image", name="umoci", export=out)
    assert sorted(os.listdir(BASE)) == ["again", "bundle", "layout", "out"]
    write(out + "/mine", "x")
    assert "something else is there" in refuse("image", name="umoci", export=out)
    assert "no directory" in refuse("image", name="umoci", export=BASE + "/none/out")


def test_skopeo_reads_it(converge):
    make()
    converge("image", name="umoci", oci=LAYOUT, allow_setuid=True, allow_devices=True, export=BASE + "/out")
    converge("image", name="umoci", export=BASE + "/out")
    for target in ("dir:" + BASE + "/copied", "docker-archive:" + BASE + "/copied.tar:it:latest"):
        subprocess.run(["skopeo", "copy", "--insecure-policy", "oci:%s/out:umoci" % BASE, target], check=True, capture_output=True)
    converge("image", name="back", docker=BASE + "/copied.tar", allow_setuid=True, allow_devices=True)
    first, second = (drive.info("image", name=name)["images"][0] for name in ("umoci", "back"))
    assert first["lower"] == second["lower"] and first["config"] == second["config"]
