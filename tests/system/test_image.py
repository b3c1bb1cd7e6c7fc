# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Images in the store: imported from each kind of source, shared, verified, kept while in use, removed."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import shutil
import subprocess
import tarfile

import archives
import drive
import pytest
from archives import Layout, directory, entry, hard_link, symlink, tar

from module_utils._engine import engine
from module_utils._kernel import syscalls
from module_utils._program import host as program

BASE = "/run/images"
LIB = "/var/lib/bulkhead"
XATTR = {"SCHILY.xattr.user.colour": b"blue\0green"}

LOWEST = tar(directory(b"./", mode=0o751, mtime=9), directory(b"etc", mtime=100),
             entry(b"etc/passwd", b"root", owner=(0, 42), mode=0o640, mtime=5, pax=XATTR),
             directory(b"var"), directory(b"var/log", mode=0o1777, owner=(1, 2), mtime=77), entry(b"var/log/old", b"old"), entry(b"var/log/older", b"older"),
             directory(b"opt"), entry(b"opt/gone", b"gone"), directory(b"opt/dir"), entry(b"opt/dir/file", b"x"),
             symlink(b"lib", b"usr/lib", owner=(3, 4), mtime=6), entry(b"pipe", kind=b"6", mode=0o622), hard_link(b"etc/passwd-", b"etc/passwd"))
MIDDLE = tar(entry(b"etc/group", b"group", pax={"mtime": b"12.345678901"}), entry(b"var/log/.wh.old"), directory(b"opt", mode=0o700),
             entry(b"opt/.wh..wh..opq"), entry(b"opt/new", b"new"))
TOP = tar(entry(b".wh.pipe"), entry(b"usr/lib/deep/file", b"deep"), entry(b"etc/passwd", b"changed", owner=(0, 42), mode=0o644))
SMALL = tar(directory(b"./"), entry(b"hello", b"hello"))


@pytest.fixture(autouse=True)
def place(leaves_nothing):
    os.makedirs(BASE)
    yield
    drive.converge("namespace", dict(name="keeps", state="absent", kill=True))
    for name in drive.resource("overlay").names(drive.new_host()):
        drive.converge("overlay", dict(path=name, state="absent", remove_data=True, force=True))
    for found in drive.info("image")["images"]:
        drive.converge("image", dict(name=found["name"], state="absent"))
    drive.converge("image", dict(prune=True))
    shutil.rmtree(BASE)


def stored():
    return sorted(os.listdir(LIB + "/layers")) if os.path.isdir(LIB + "/layers") else []


def image(name):
    found = drive.info("image", name=name)["images"]
    return found[0] if found else None


def three(path=BASE + "/three", **config):
    return Layout(path, LOWEST, MIDDLE, TOP, compress=gzip.compress, config=config).done()


def test_layers_and_whiteouts(converge, full_cycle):
    path = three(Cmd=["/bin/sh"], Entrypoint=["/init"], Env=["PATH=/bin", "A=b=c"], User="7:8", WorkingDir="/var", ExposedPorts={"80/tcp": {}},
                 Labels={"by": "it"}, Healthcheck={"Test": ["CMD-SHELL", "true"], "Interval": 5000000000, "Retries": 2}, StopSignal="SIGINT")
    full_cycle("image", dict(name="three", oci=path), dict(name="three", state="absent"))
    assert stored() == [] and os.stat(LIB + "/layers").st_mode & 0o777 == 0o700
    assert converge("image", name="three", oci=path)["actions"] == ["import image three from " + path]
    found = image("three")
    assert found["config"] == {
        "command": ["/bin/sh"], "entrypoint": ["/init"], "env": {"PATH": "/bin", "A": "b=c"}, "user": "7:8", "workdir": "/var", "ports": ["80/tcp"],
        "labels": {"by": "it"}, "stop_signal": "SIGINT", "health": {"command": ["/bin/sh", "-c", "true"], "interval": 5000000, "retries": 2}}
    assert [layer["entries"] for layer in found["layers"]] == [14, 8, 8] and found["size"] == found["unique_size"] == sum(
        layer["size"] for layer in found["layers"])
    converge("overlay", path=BASE + "/mnt", lower=found["lower"])
    top = BASE + "/mnt/"
    assert sorted(os.listdir(top)) == ["etc", "lib", "opt", "usr", "var"] and os.listdir(top + "opt") == ["new"] and os.listdir(top + "var/log") == ["older"]
    for name, mode, owner, mtime in (("", 0o751, (0, 0), 9), ("etc", 0o755, (0, 0), 100), ("etc/passwd", 0o644, (0, 42), 0), ("var/log", 0o1777, (1, 2), 77),
                                     ("etc/passwd-", 0o640, (0, 42), 5), ("opt", 0o700, (0, 0), 0), ("usr/lib/deep", 0o755, (0, 0), 0)):
        stat = os.stat(top + name)
        assert (stat.st_mode & 0o7777, (stat.st_uid, stat.st_gid), stat.st_mtime_ns) == (mode, owner, mtime * 10 ** 9), name
    assert os.stat(top + "etc/group").st_mtime_ns == 12345678901 and os.getxattr(top + "etc/passwd-", "user.colour") == b"blue\0green"
    assert os.readlink(top + "lib") == "usr/lib" and os.lstat(top + "lib").st_uid == 3


def test_a_layer_is_once(converge):
    converge("image", name="one", oci=Layout(BASE + "/one", LOWEST, MIDDLE).done())
    inodes = {name: os.stat("%s/layers/%s/tree" % (LIB, name)).st_ino for name in stored()}
    converge("image", name="two", oci=three())
    assert {name: os.stat("%s/layers/%s/tree" % (LIB, name)).st_ino for name in stored()}.items() >= inodes.items()  # not unpacked again
    one, two = image("one"), image("two")
    assert [layer["shared_by"] for layer in two["layers"]] == [["one"], ["one"], []] and two["unique_size"] == two["layers"][2]["size"]
    assert one["layers"][0]["digest"] == two["layers"][0]["digest"] and one["unique_size"] == 0
    assert converge("image", name="two", state="absent")["changed"] and sorted(inodes) == stored()
    # The same tree from another kind of source is the same layer.
    converge("image", name="copy", directory=one["lower"][-1])
    assert image("copy")["layers"][0]["digest"] == one["layers"][0]["digest"] and stored() == sorted(inodes)


@pytest.mark.parametrize("compress", [bytes, gzip.compress, lzma.compress, lambda data: gzip.compress(data[:700]) + gzip.compress(data[700:]),
                                      lambda data: subprocess.run(["zstd"], input=data, capture_output=True, check=True).stdout],
                         ids=["plain", "gzip", "xz", "gzip of two members", "zstd"])
def test_compression(converge, full_cycle, compress):
    converge("image", name="plain", tar=archives.write(BASE + "/plain.tar", LOWEST))
    path = archives.write(BASE + "/archive", compress(LOWEST))
    full_cycle("image", dict(name="tar", tar=path), dict(name="tar", state="absent"))
    path = archives.docker(BASE + "/docker", LOWEST, MIDDLE, TOP)
    with open(path, "rb") as stream:
        archives.write(path, compress(stream.read()))
    full_cycle("image", dict(name="docker", docker=path), dict(name="docker", state="absent"))
    converge("image", name="tar", tar=BASE + "/archive")
    converge("image", name="docker", docker=path)
    assert image("tar")["layers"][0] == dict(image("plain")["layers"][0], shared_by=["docker", "plain"])
    assert image("docker")["layers"][0]["digest"] == image("tar")["layers"][0]["digest"]
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as stream:
        stream.add(three(), "./")
    converge("image", name="oci", oci=archives.write(BASE + "/oci.tar", compress(packed.getvalue())))
    assert image("oci")["lower"] == image("docker")["lower"]


def test_unchanged_by_digest(converge, refuse):
    """What has the same digest is the same, wherever it lies; a plain archive is not even read when its times are as they were."""
    archive = archives.write(BASE + "/a.tar", SMALL)
    converge("image", name="it", tar=archive)
    os.utime(archive)
    assert not converge("image", name="it", tar=archive)["changed"]
    assert not converge("image", name="it", tar=archives.write(BASE + "/b.tar", SMALL))["changed"]
    assert converge("image", name="it", tar=archives.write(BASE + "/b.tar", tar(entry(b"other", b"x"))), check=True)["changed"]
    assert converge("image", name="it", oci=three(), check=True)["diff"]["after"]["source"]["type"] == "oci"
    digest = archives.digest(SMALL)
    assert not converge("image", name="it", tar=archive, digest=digest)["changed"]
    assert "its digest is " + digest in refuse("image", name="it", tar=archive, digest="sha256:" + "0" * 64)
    made = Layout(BASE + "/oci", SMALL)
    made.done()
    manifest = made.index["manifests"][0]["digest"]
    assert converge("image", name="it", oci=BASE + "/oci", digest=manifest)["changed"]
    shutil.copytree(BASE + "/oci", BASE + "/oci2")
    assert not converge("image", name="it", oci=BASE + "/oci2", digest=manifest)["changed"]
    top = BASE + "/dir"
    archives.write(top + "/file", b"text")
    assert converge("image", name="dir", directory=top)["changed"] and not converge("image", name="dir", directory=top)["changed"]
    os.chmod(top + "/file", 0o600)
    assert converge("image", name="dir", directory=top, check=True)["changed"]
    os.chmod(top + "/file", 0o644)  # other times, the same content
    assert not converge("image", name="dir", directory=top)["changed"]
    converge("image", name="dir", state="absent")


def test_which_of_an_index(converge, refuse):
    made = Layout(BASE + "/index", SMALL)
    made.done()
    other = Layout(BASE + "/other", tar(entry(b"arm", b"x")))
    other.config.update(architecture="arm64" if archives.ARCHITECTURE != "arm64" else "amd64", variant="v8")
    other.done()
    shutil.copytree(BASE + "/other/blobs", BASE + "/index/blobs", dirs_exist_ok=True)
    entries = [dict(made.index["manifests"][0], annotations={}, platform={"os": "linux", "architecture": archives.ARCHITECTURE}),
               dict(other.index["manifests"][0], annotations={}, platform={
                   "os": "linux", "architecture": other.config["architecture"], "variant": "v8"}),
               dict(other.index["manifests"][0], annotations={}, platform={"os": "unknown", "architecture": "unknown"})]
    below = made.blob({"schemaVersion": 2, "mediaType": archives.INDEX, "manifests": entries}, archives.INDEX)
    archives.write(BASE + "/index/index.json", {"schemaVersion": 2, "manifests": [
        dict(below, annotations={"org.opencontainers.image.ref.name": "multi"}),
        dict(entries[0], annotations={"io.containerd.image.name": "example.org/it:one"})]})
    path = BASE + "/index"
    converge("image", name="multi", oci=path, reference="multi")
    assert os.listdir(image("multi")["lower"][0]) == ["hello"]
    for options in (dict(reference="one"), dict(reference="example.org/it:one"), dict(reference=entries[0]["digest"]),
                    dict(digest=below["digest"], reference="multi")):
        assert not converge("image", name="multi", oci=path, **options)["changed"], options
    assert converge("image", name="multi", oci=path, reference="multi", platform="linux/%s/v8" % other.config["architecture"])["changed"]
    assert os.listdir(image("multi")["lower"][0]) == ["arm"]
    assert "has no image none" in refuse("image", name="multi", oci=path, reference="none")
    assert "not for linux/s390x" in refuse("image", name="multi", oci=path, platform="linux/s390x")
    two = Layout(BASE + "/two", SMALL)
    two.done()
    two.entry = {"annotations": {"org.opencontainers.image.ref.name": "second"}}
    two.manifest["annotations"] = {"a": "b"}
    two.done()
    assert "several images: latest, second" in refuse("image", name="two", oci=BASE + "/two")


def damages(tree):
    def flip():
        stat = os.stat(tree + "/etc/passwd")
        with open(tree + "/etc/passwd", "r+b") as stream:
            stream.write(bytes([ord("r") ^ 1]))
        os.utime(tree + "/etc/passwd", ns=(0, stat.st_mtime_ns))
    return {"./etc/passwd differs in content": flip, "./etc differs in mode": lambda: os.chmod(tree + "/etc", 0o750),
            "./etc differs in time": lambda: os.utime(tree + "/etc", ns=(0, 100000000001)), "./lib differs in link": lambda: (
                os.unlink(tree + "/lib"), os.symlink("usr/bin", tree + "/lib"), os.chown(tree + "/lib", 3, 4, follow_symlinks=False),
                os.utime(tree + "/lib", ns=(0, 6 * 10 ** 9), follow_symlinks=False)),
            "./etc/passwd differs in xattr.user.colour": lambda: os.setxattr(tree + "/etc/passwd", "user.colour", b"red"),
            "./var/log differs in xattr.trusted.overlay.opaque": lambda: os.setxattr(tree + "/var/log", "trusted.overlay.opaque", b"y"),
            "./var/log differs in uid": lambda: os.chown(tree + "/var/log", 0, 2), "./pipe is missing": lambda: os.unlink(tree + "/pipe"),
            "./new was added": lambda: os.mknod(tree + "/new"), ". No such file": lambda: os.rename(tree, tree + ".away")}


@pytest.mark.parametrize("words", damages(""))
def test_verify(converge, refuse, words):
    path = archives.write(BASE + "/it.tar", LOWEST)
    converge("image", name="it", tar=path)
    assert not converge("image", name="it", verify=True)["changed"] and not converge("image", name="it", tar=path, verify=True)["changed"]
    tree = image("it")["lower"][0]
    parent = os.stat(tree)
    damages(tree)[words]()
    if os.path.isdir(tree):
        os.utime(tree, ns=(0, parent.st_mtime_ns))
    assert words in refuse("image", name="it", verify=True)
    assert not converge("image", name="it", tar=path)["changed"]  # only looked at when asked to
    predicted = converge("image", name="it", tar=path, verify=True, check=True)
    assert words in predicted["diff"]["before"]["damaged"][0]
    assert converge("image", name="it", tar=path, verify=True)["diff"] == predicted["diff"]
    assert not converge("image", name="it", tar=path, verify=True)["changed"]


def test_missing_layer(converge, refuse):
    path = three()
    converge("image", name="it", oci=path)
    shutil.rmtree(os.path.dirname(image("it")["lower"][0]))
    assert "is missing" in refuse("image", name="it") and converge("image", name="it", oci=path)["changed"]
    assert not converge("image", name="it", oci=path, verify=True)["changed"]


def test_in_use(converge, refuse):
    """A layer that is mounted, in whatever namespace, or recorded stays, and goes when it no longer is."""
    converge("image", name="it", oci=three())
    lower = image("it")["lower"]
    converge("overlay", path=BASE + "/mnt", lower=lower[1:])
    converge("namespace", name="keeps", types=["mnt"])
    os.mkdir(BASE + "/empty")
    converge("overlay", path="/mnt", namespace="keeps", lower=lower[:1] + [BASE + "/empty"])
    os.chmod(lower[1] + "/opt/new", 0o600)
    assert "in use by the mount on" in refuse("image", name="it", oci=three(), verify=True)
    answer = converge("image", name="it", state="absent")
    assert len(answer["warnings"]) == 3 and "stays, as it is in use" in answer["warnings"][0] and image("it") is None and len(stored()) == 3
    assert not converge("image", prune=True)["changed"]
    assert [layer["unused"] for layer in drive.info("image")["layers"]] == [False] * 3
    converge("namespace", name="keeps", state="absent", kill=True)
    drive.new_host().records.drop("overlay", "keeps:mnt")
    converge("overlay", path="/mnt", namespace="keeps", state="absent")
    converge("overlay", path=BASE + "/mnt", state="unmounted")
    assert len(converge("image", prune=True)["diff"]["before"]["unused_layers"]) == 1  # the others are in the record of the overlay
    converge("overlay", path=BASE + "/mnt", state="absent")
    assert converge("image", prune=True, check=True)["changed"] and converge("image", prune=True)["changed"] and stored() == []


def test_replaced_and_pruned(converge):
    path = BASE + "/it.tar"
    converge("image", name="it", tar=archives.write(path, SMALL))
    for prune, left in ((False, 2), (True, 1)):
        archives.write(path, tar(entry(b"other%d" % prune, b"x")))
        check, run = (converge("image", name="it", tar=path, prune=prune, check=each) for each in (True, False))
        assert check["actions"] == run["actions"] and check["diff"] == run["diff"] and len(stored()) == left
        assert not converge("image", name="it", tar=path, prune=prune)["changed"]


def test_config(converge):
    path = three(Cmd=["/bin/sh"], User="7")
    converge("image", name="it", oci=path)
    first = image("it")
    answer = converge("image", name="it", oci=path, config={"command": ["/bin/true"], "user": None, "env": {"A": 1}})
    assert answer["actions"] == ["set config of image it"] and image("it")["config"] == {"command": ["/bin/true"], "env": {"A": "1"}}
    assert image("it")["digest"] != first["digest"] and image("it")["layers"] == first["layers"]
    assert not converge("image", name="it", oci=path, config={"command": ["/bin/true"], "user": None, "env": {"A": 1}})["changed"]
    assert not converge("image", name="it", oci=path)["changed"] and not converge("image", name="it", verify=True)["changed"]  # not named: left alone
    assert converge("image", name="it", tar=archives.write(BASE + "/it.tar", SMALL))["changed"] and image("it")["config"]["env"] == {"A": "1"}
    assert converge("image", name="it", oci=path, config={})["changed"] and image("it") == first


def test_what_is_allowed(converge, refuse):
    path = archives.write(BASE + "/it.tar", tar(entry(b"su", b"x", mode=0o4755, owner=(5, 6)), entry(b"null", kind=b"3", device=(1, 3), mode=0o666), entry(
        b"ping", b"x", pax={"SCHILY.xattr.security.capability": b"\1\0\0\2" + b"\0\x20" + bytes(14)}), directory(b"mail", mode=0o2775)))
    assert "'su'" in refuse("image", name="it", tar=path, allow_devices=True) and "'null'" in refuse("image", name="it", tar=path, allow_setuid=True)
    converge("image", name="it", tar=path, allow_devices=True, allow_setuid=True)
    tree = image("it")["lower"][0]
    assert os.stat(tree + "/su").st_mode == 0o104755 and os.stat(tree + "/null").st_rdev == os.makedev(1, 3)
    assert os.getxattr(tree + "/ping", "security.capability")
    for options, name in ((dict(), "'su'"), (dict(allow_setuid=True), "'null'")):  # what is there already is not allowed to another task
        assert name in refuse("image", name="it", tar=path, **options)
    assert not converge("image", name="it", tar=path, allow_devices=True, allow_setuid=True)["changed"]


def test_a_store_that_cannot_hold_it(converge, refuse):
    """What a file system has no place for is named with it, of a file and of a directory, and nothing of it stays."""
    syscalls.mount("ours", LIB, "ramfs", 0, "mode=755")
    try:
        for name, each in (("file", entry(b"file", b"x", pax=XATTR)), ("dir", directory(b"dir", pax=XATTR))):
            assert refuse("image", name="it", tar=archives.write(BASE + "/" + name, tar(entry(b"first", b"x"), each))) == (
                "Cannot import image it from %s/%s: its entry '%s' has the extended attribute 'user.colour', and the file system of %s (ramfs) cannot "
                "hold it. Put the store on one that can, such as ext4, xfs or btrfs." % (BASE, name, name, LIB))
        assert stored() == [] and image("it") is None
        assert converge("image", name="it", tar=archives.write(BASE + "/plain", SMALL))["changed"]
        converge("image", name="it", state="absent")
    finally:
        syscalls.umount(LIB, syscalls.MNT_DETACH)


def test_a_directory_of_the_host(converge, refuse):
    top = BASE + "/dir"
    archives.write(top + "/sub/file", b"text")
    archives.write(top + "/sub.d/file", b"text")
    os.link(top + "/sub/file", top + "/a-name")
    os.link(top + "/sub/file", top + "/sub.d/name")
    os.symlink("/etc/shadow", top + "/link")
    os.setxattr(top + "/sub", "user.a", b"b")
    os.truncate(archives.write(top + "/holes", b""), 1 << 20)
    subprocess.run(["python3", "-c", "import socket; socket.socket(socket.AF_UNIX).bind('%s/socket')" % top], check=True)
    converge("image", name="dir", directory=top)
    tree = image("dir")["lower"][0]
    assert sorted(os.listdir(tree)) == ["a-name", "holes", "link", "sub", "sub.d"] and os.stat(tree + "/a-name").st_nlink == 3
    assert not converge("image", name="dir", directory=top, verify=True)["changed"]
    converge("overlay", path=top + "/sub.d", lower=[tree, BASE])
    assert "'sub.d' another file system" in refuse("image", name="other", directory=top)
    converge("overlay", path=top + "/sub.d", state="absent")


def test_archives_go_with_the_image(converge):
    """Of what the role has brought for an image the source stays, until the image goes."""
    folder = LIB + "/archives/it"
    path = archives.write(folder + "/second", SMALL)
    archives.write(folder + "/first", LOWEST)
    archives.write(LIB + "/archives/other/first", LOWEST)
    answer = converge("image", name="it", tar=path, check=True)
    assert answer["actions"] == ["import image it from " + path, "remove archives of image it"]
    assert converge("image", name="it", tar=path)["actions"] == answer["actions"] and os.listdir(folder) == ["second"]
    assert not converge("image", name="it", tar=path)["changed"] and not converge("image", name="it", verify=True)["changed"]
    assert converge("image", name="it", state="absent", check=True)["actions"][-1] == "remove archives of image it"
    converge("image", name="it", state="absent")
    assert os.listdir(LIB + "/archives") == ["other"] and not converge("image", name="it", state="absent")["changed"]
    converge("image", name="other", state="absent")
    assert not os.path.exists(LIB + "/archives")


def test_two_at_once(converge):
    path = three()
    answers = drive.at_once([("image", dict(name="it", oci=path))] * 6 + [("image", dict(name="same", oci=path))] * 2)
    assert not [answer["error"] for answer in answers if "error" in answer]
    assert [answer["changed"] for answer in answers[:6]].count(True) == 1 and [answer["changed"] for answer in answers[6:]].count(True) == 1
    assert len(stored()) == 3


def test_what_a_killed_run_left(converge):
    converge("image", name="it", oci=three())
    os.makedirs(LIB + "/layers/.new-1-0/tree/sub")
    os.rename(LIB + "/images/it.json", LIB + "/images/.it.json.gone")
    answer = converge("image", prune=True, check=True)
    assert answer["actions"][0] == "remove what a killed run has left in the store" and stored()[0] == ".new-1-0"
    assert converge("image", prune=True)["changed"] and stored() == [] and os.listdir(LIB + "/images") == []
    assert not converge("image", prune=True)["changed"]


def test_check_on_a_bare_host(converge):
    """What an earlier task of the play would have brought is planned as if it were there."""
    answer = converge("image", name="it", tar=BASE + "/later.tar", export=BASE + "/out", check=True)
    assert answer["actions"] == ["import image it from %s/later.tar" % BASE, "export image it to %s/out" % BASE]
    assert "does not exist yet" in answer["warnings"][0]


def test_all_go_with_the_host(converge):
    converge("image", name="it", oci=three())
    os.makedirs(LIB + "/layers/.new-1-0/tree")
    archives.write(LIB + "/archives/it/first", SMALL)
    host = drive.new_host()
    for options, left in ((dict(state="absent"), 4), (dict(state="absent", remove_data=True), 0)):
        outcome = engine.converge(host, program, options)
        assert ("remove all images" in outcome.joined("actions")) == (left == 0) and len(stored()) == left
    assert not engine.converge(drive.new_host(), program, dict(state="absent", remove_data=True)).changed
    assert not os.path.exists(LIB + "/images") and not os.path.exists(LIB + "/layers")
    assert not os.path.exists(LIB + "/archives")
