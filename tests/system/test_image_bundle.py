# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Bundles: an image goes from one store to another as those of its layers that are lacked there, and is the same image. Nothing of a bundle is trusted."""

from __future__ import annotations

import contextlib
import json
import os
import shutil

import archives
import drive
import filesystems
import jail
import pytest

from module_utils._model import bundle as document

BASE = "/run/bundle"
FILE = BASE + "/it.bundle"
LIB = "/var/lib/bulkhead"
BROUGHT = LIB + "/bundles/it"
CONFIG = {"Cmd": ["/bin/it", ""], "Env": ["A=b=c"], "Labels": {"a=b": "c"}, "ExposedPorts": {"80/tcp": {}}, "User": "33",
          "Healthcheck": {"Test": ["CMD", "/bin/true"], "Interval": 5000000000, "Retries": 3}}
ALLOW = dict(allow_setuid=True, allow_devices=True)


@pytest.fixture(autouse=True)
def place(leaves_nothing):
    os.makedirs(BASE)
    yield
    jail.clear_images()
    with elsewhere():
        jail.clear_images()
    for name in ("bundles", ".others", ".ours"):
        shutil.rmtree("%s/%s" % (LIB, name), ignore_errors=True)
    shutil.rmtree(BASE)
    assert not filesystems.loops()


@contextlib.contextmanager
def elsewhere():
    """The store of another host: here what is in ours is aside, and that is in its place."""
    def swap():
        for old, new in ((LIB, ".ours"), (LIB + "/.others", ""), (LIB + "/.ours", ".others")):
            for name in ("layers", "images"):
                os.makedirs("%s/%s" % (LIB, new), exist_ok=True)
                if os.path.isdir("%s/%s" % (old, name)):
                    os.rename("%s/%s" % (old, name), "%s/%s/%s" % (LIB, new, name))

    swap()
    try:
        yield
    finally:
        swap()


def layers(last=b"fourth"):
    """Four layers with all that a layer can hold."""
    capability = {"SCHILY.xattr.security.capability": b"\1\0\0\2" + b"\0\x20" + bytes(14), "mtime": b"-7.000000009"}
    return [
        archives.tar(archives.directory(b"etc", mode=0o1777, owner=(3, 4)), archives.entry(b"etc/passwd", b"root"), archives.directory(b"srv"),
                     archives.entry(b"srv/gone", b"x"), archives.directory(b"srv/hidden"), archives.entry(b"srv/hidden/deep", b"x")),
        archives.tar(archives.entry(b"bin/su", os.urandom(3000), mode=0o4755), archives.hard_link(b"bin/same", b"bin/su"),
                     archives.entry(b"bin/wall", b"w", capability), archives.symlink(b"bin/link", b"/nowhere/at/all", owner=(1, 2)),
                     archives.entry(b"pipe", kind=b"6", mode=0o620), archives.entry(b"null", kind=b"3", device=(1, 3), mode=0o666),
                     archives.entry(b"n\xe4me\nwith \\ and a length that no header of a tar archive has a place for" + b"x" * 60, b"odd")),
        archives.tar(archives.entry(b"srv/.wh.gone"), archives.entry(b"srv/hidden/.wh..wh..opq"), archives.entry(b"srv/hidden/new", b"n"),
                     archives.entry(b"etc/mark", b"m", {"SCHILY.xattr.user.colour": b"blue\0green"}, mtime=7)),
        archives.tar(archives.entry(b"last", last * 1000))]


def made(converge, *contents, name="it"):
    """The image in this store."""
    archives_made = archives.Layout(BASE + "/layout", *contents or layers(), config=CONFIG).done()
    converge("image", name=name, oci=archives_made, **ALLOW)
    shutil.rmtree(BASE + "/layout")
    return known(name)


def known(name="it"):
    return drive.info("image", name=name)["images"][0]


def digests(image):
    return [layer["digest"] for layer in image["layers"]]


def there():
    return sorted(name for name in os.listdir(LIB + "/layers")) if os.path.isdir(LIB + "/layers") else []


def packed(converge, *wanted, **more):
    converge("image", name="it", pack=dict(path=FILE, layers=list(wanted), **more))
    return FILE


def same(one, other):
    return [{key: value for key, value in image.items() if key != "source"} for image in (one, other)]


def test_one_of_four(converge, full_cycle):
    """Three layers are there already: one is packed and taken, and the image is the same to the last bit. Again, and nothing is needed."""
    full = layers()
    first = made(converge, *full)
    assert len(set(digests(first))) == 4
    pack = dict(name="it", pack=dict(path=FILE, layers=digests(first)[3:], owner=7))
    said, did, quiet, again = (converge("image", check=check, **pack) for check in (True, False, True, False))
    assert said["actions"] == did["actions"] == ["pack image it to " + FILE] and said["diff"] == did["diff"]
    assert not quiet["changed"] and not again["changed"]
    found = os.stat(FILE)
    assert (found.st_uid, found.st_mode & 0o7777) == (7, 0o400) and 6000 < found.st_size < 20000
    assert os.listdir(BASE) == ["it.bundle"]
    with elsewhere():
        made(converge, *full[:3], name="parent")
        options = dict(name="it", bundle=FILE, digest=first["digest"], allow_devices=True)
        full_cycle("image", options, dict(name="it", state="absent"))
        assert converge("image", **options)["actions"] == ["import image it from " + FILE]
        assert digests(known("parent")) == digests(first)[:3] and len(there()) == 4
        assert not converge("image", verify=True, **options)["changed"]
        second = known()
        for layer in first["layers"][:3]:
            layer["shared_by"] = ["parent"]
        first["unique_size"] = first["layers"][3]["size"]
        assert same(first, second)[0] == same(first, second)[1] and second["source"]["type"] == "bundle"
        os.unlink(FILE)
        for check in (True, False):
            assert not converge("image", check=check, **options)["changed"]


def test_all_of_them_and_none(converge):
    """A store that has nothing needs all; one that has all needs only what the image says of itself."""
    first = made(converge)
    converge("image", name="it", pack=dict(path=FILE))
    whole = os.stat(FILE).st_size
    with elsewhere():
        converge("image", name="it", bundle=FILE, allow_devices=True)
        assert same(first, known())[0] == same(first, known())[1]
        converge("image", name="it", config={"command": ["/bin/other"]})
        assert known()["digest"] != first["digest"]
    packed(converge)
    assert os.stat(FILE).st_size < 5000 < whole
    with elsewhere():  # what was said here of its services goes: it is the image that was packed, or it would have another digest
        for check in (True, False):
            assert converge("image", check=check, name="it", bundle=FILE, digest=first["digest"], allow_devices=True)["actions"] == [
                "import image it from " + FILE]
        assert same(first, known())[0] == same(first, known())[1] and len(there()) == 4
        assert not converge("image", name="it", bundle=FILE, allow_devices=True)["changed"]


def test_built_committed_and_declared(converge):
    """An image that was built, with a config that says of a key that it is empty, is the same elsewhere."""
    made(converge, name="base")
    converge("image", name="it", steps=[dict(write=dict(dest="/etc/built", content="x"))], config={"command": [], "env": {}, "user": "5"}, **{"from": "base"})
    first = known()
    converge("image", name="it", pack=dict(path=FILE))
    with elsewhere():
        converge("image", name="it", bundle=FILE, allow_devices=True)
        assert known()["digest"] == first["digest"] and known()["config"] == first["config"]
        converge("image", name="more", steps=[dict(write=dict(dest="/etc/more", content="x"))], **{"from": "it"})
        assert digests(known("more"))[:-1] == digests(first)


@pytest.mark.parametrize("kind", ["squashfs", "erofs"])
def test_file_systems(converge, refuse, kind):
    """A layer that is a file travels as that file, and is mounted."""
    archives.write(BASE + "/tree/etc/one", b"one")
    path = filesystems.make(kind, BASE + "/it." + kind, BASE + "/tree")
    converge("image", name="it", **{kind: path})
    first = known()
    converge("image", name="it", pack=dict(path=FILE))
    with elsewhere():
        converge("image", name="it", bundle=FILE)
        assert digests(known()) == digests(first) and known()["digest"] == first["digest"] and known()["layers"][0]["mounted"]
        with open(known()["lower"][0] + "/etc/one", encoding="utf-8") as stream:
            assert stream.read() == "one"
        converge("image", name="it", state="absent")
        write(FILE, [(digests(first)[0], kind)], {}, {digests(first)[0]: b"no file system" * 1000})
        assert there() == [] and "Cannot import" in refuse("image", name="it", bundle=FILE)
        with open(path, "r+b") as stream:  # one that can be mounted, but is another one
            stream.seek(-1, 2)
            stream.write(b"x")
        with open(path, "rb") as stream:
            write(FILE, [(digests(first)[0], kind)], {}, {digests(first)[0]: stream.read()})
        assert "is not what its digest says" in refuse("image", name="it", bundle=FILE) and there() == []


def write(path, told, config, contents, data=None):
    """A bundle as nobody but an enemy writes it."""
    entries = [archives.entry(document.NAME.encode(), data if data is not None else document.document(told, config))]
    return archives.write(path, archives.tar(*entries, *(archives.entry(document.file_of(digest).encode(), content) for digest, content in contents.items())))


def nothing_there(refuse, wanted, checks=(True, False), **options):
    """It is refused, where it need not be unpacked for that in check mode, too, and nothing stays."""
    for check in checks:
        message = refuse("image", check=check, **dict(dict(name="it", bundle=FILE), **options))
        assert message.startswith("Cannot import image it from %s: " % FILE) and wanted in message and message.isprintable(), message
    assert there() == [] and not os.listdir(LIB + "/images")


GOOD = "sha256:" + "a" * 64
DOCUMENTS = {
    "not JSON": (b"{", "is not JSON"), "no object": (b"[]", "is not an object"), "twice": (b'{"bundle":1,"bundle":1}', "a key twice"),
    "another form": (json.dumps({"bundle": 2, "layers": [], "config": {}}), "of another form"),
    "true": (json.dumps({"bundle": True, "layers": [], "config": {}}), "of another form"),
    "more": (json.dumps({"bundle": 1, "layers": [], "config": {}, "more": 1}), "of another form"),
    "no list": (json.dumps({"bundle": 1, "layers": {}, "config": {}}), "of another form"),
}
for _key, _layers in {"a layer of text": ["x"], "of more": [{"digest": GOOD, "filesystem": None, "x": 1}],
                      "of a path": [{"digest": "../../etc", "filesystem": None}],
                      "of ext4": [{"digest": GOOD, "filesystem": "ext4"}], "no layer": [None], "of a list": [{"digest": GOOD, "filesystem": []}],
                      "twice the same": [{"digest": GOOD, "filesystem": None}] * 2, "one that is nowhere": [{"digest": GOOD, "filesystem": None}]}.items():
    DOCUMENTS[_key] = (json.dumps({"bundle": 1, "layers": _layers, "config": {}}), "layer")
for _config in ([], None, {"x": 1}, {"command": "x"}, {"command": [1]}, {"command": None}, {"env": []}, {"env": {"A": 1}}, {"user": ["x"]}, {"user": "a\0b"},
                {"health": {}}, {"health": {"command": []}}, {"health": {"command": ["x"], "retries": -1}}, {"health": {"command": ["x"], "shell": 1}},
                {"health": {"command": ["x"], "interval": True}}, {"labels": {"a": ["b"]}}):
    DOCUMENTS["config %s" % json.dumps(_config)] = (json.dumps({"bundle": 1, "layers": [], "config": _config}), "config of another form")


@pytest.mark.parametrize("name", DOCUMENTS)
def test_hostile_document(converge, refuse, name):
    os.makedirs(LIB + "/images", exist_ok=True)
    data, wanted = DOCUMENTS[name]
    write(FILE, [], {}, {}, data if isinstance(data, bytes) else data.encode())
    nothing_there(refuse, wanted)


def test_hostile_layers(converge, refuse):
    """What is in a layer, and which layer it is said to be, is not believed, nor is the image's digest."""
    first = made(converge, archives.tar(archives.entry(b"one", b"1")), archives.tar(archives.entry(b"two", b"2")))
    told = [(digest, None) for digest in digests(first)]
    converge("image", name="it", pack=dict(path=FILE))
    with open(FILE, "rb") as stream:
        good = stream.read()
    with elsewhere():
        os.makedirs(LIB + "/images", exist_ok=True)
        one, two = archives.tar(archives.entry(b"one", b"1")), archives.tar(archives.entry(b"two", b"2"))
        for contents, wanted in (
                ({told[0][0]: one, told[1][0]: archives.tar(archives.entry(b"two", b"3"))}, "its layer %s is not what its digest says" % told[1][0]),
                ({told[0][0]: two, told[1][0]: one}, "its layer %s is not what" % told[0][0]),
                ({told[0][0]: archives.tar(archives.entry(b"../one", b"1")), told[1][0]: two}, "'../one'"),
                ({told[0][0]: archives.tar(archives.entry(b"/one", b"1")), told[1][0]: two}, "'/one'"),
                ({told[0][0]: b"no archive" * 100, told[1][0]: two}, "no tar archive"),
                ({told[0][0]: one}, "its layer %s is neither in it nor in the store" % told[1][0]),
                ({told[0][0]: one, told[1][0]: two, GOOD: one}, "it has what is no layer of its image")):
            write(FILE, told, {}, contents)
            nothing_there(refuse, wanted, (False,))
        # the same layers the other way round, or with another config: another image
        for order, config in ((told[::-1], first["config"]), (told, {"command": ["/bin/evil"]})):
            write(FILE, order, config, {told[0][0]: one, told[1][0]: two})
            nothing_there(refuse, "not the one that is declared", digest=first["digest"])
        for cut in (0, 100, 512, 1000, 2000, len(good) // 2, len(good) - 1024, len(good) - 513):
            archives.write(FILE, good[:cut])
            nothing_there(refuse, "", digest=first["digest"])
        archives.write(FILE, good.replace(b"two\0", b"twO\0", 1))
        nothing_there(refuse, "damaged", (False,))
        for path in (BASE, BASE + "/none"):
            assert "Cannot import" in refuse("image", name="it", bundle=path)
        archives.write(FILE, good)
        converge("image", name="it", bundle=FILE, digest=first["digest"])
        assert known()["digest"] == first["digest"]


def test_what_is_not_allowed(converge, refuse):
    """Devices, and where that is said set-user-ID files, are refused as everywhere, in layers that come and in those that are there."""
    first = made(converge)
    converge("image", name="it", pack=dict(path=FILE))
    with elsewhere():
        os.makedirs(LIB + "/images", exist_ok=True)
        nothing_there(refuse, "'null' is a character device", (False,))
        nothing_there(refuse, "allow_setuid", (False,), allow_setuid=False, allow_devices=True)
        converge("image", name="it", bundle=FILE, allow_devices=True)
        assert "allow_setuid" in refuse("image", name="it", bundle=FILE, digest=first["digest"], allow_setuid=False, allow_devices=True)
        assert "allow_devices" in refuse("image", name="more", bundle=FILE)


def test_damaged(converge, refuse):
    """A layer that was tampered with in the store is found, and made again of a bundle that has it; one that was damaged where it was packed is refused."""
    first = made(converge)
    packed(converge, *digests(first)[:1])
    converge("image", name="it", pack=dict(path=BASE + "/all"))
    with elsewhere():
        converge("image", name="it", bundle=BASE + "/all", allow_devices=True)
        options = dict(name="it", verify=True, allow_devices=True, digest=first["digest"])
        archives.write(first["layers"][3]["path"] + "/last", b"changed")
        damaged = {layer["digest"]: layer["damaged"] for layer in drive.info("image", verify=True)["layers"] if layer["damaged"]}
        assert list(damaged) == digests(first)[3:] and "./last differs in" in damaged[digests(first)[3]]
        assert {layer["damaged"] for layer in drive.info("image")["layers"]} == {None}
        for bundle, advice in ((FILE, "Pack it with that layer"), (BASE + "/none", "Bring a bundle with that layer")):
            message = refuse("image", bundle=bundle, **options)
            assert "./last differs in" in message and advice in message, message
        assert converge("image", bundle=BASE + "/all", **options)["actions"] == ["import image it from %s/all" % BASE]
        for check in (True, False):
            assert not converge("image", check=check, bundle=BASE + "/none", **options)["changed"]
    archives.write(first["layers"][3]["path"] + "/last", b"tampered with where it was made")
    packed(converge, *digests(first)[3:])
    with elsewhere():
        converge("image", name="it", state="absent")
        made(converge, *layers()[:1], name="other")
        assert "neither in it nor in the store" in refuse("image", name="it", bundle=FILE, allow_devices=True)


def test_packed_where_others_write(converge, refuse):
    """What is at the place is neither followed nor believed: a link, a bundle of somebody else's, one that is another, one that is cut short."""
    first = made(converge)
    for make in (lambda: os.symlink("/etc/passwd", FILE), lambda: os.mkdir(FILE), lambda: os.mkfifo(FILE), lambda: archives.write(FILE, b"mine")):
        make()
        for check in (True, False):
            assert "something else is there" in refuse("image", check=check, name="it", pack=dict(path=FILE))
        os.rmdir(FILE) if os.path.isdir(FILE) and not os.path.islink(FILE) else os.unlink(FILE)
    os.symlink("/etc/passwd", BASE + "/.it.bundle.bulkhead-new")  # as it is while it is written
    packed(converge)
    assert os.listdir(BASE) == ["it.bundle"]
    with open(FILE, "rb") as stream:
        small = stream.read()
    for spoil in (lambda: os.chown(FILE, 5, 5), lambda: os.chmod(FILE, 0o644), lambda: os.truncate(FILE, 2000), lambda: converge(
            "image", name="it", pack=dict(path=FILE)), lambda: archives.write(FILE, small.replace(b"/bin/it", b"/bin/IT"))):
        spoil()
        assert converge("image", name="it", check=True, pack=dict(path=FILE, layers=[]))["changed"]
        packed(converge)
        with open(FILE, "rb") as stream:
            assert stream.read() == small and os.fstat(stream.fileno()).st_mode & 0o7777 == 0o400
    assert "has no layer %s" % GOOD in refuse("image", name="it", pack=dict(path=FILE, layers=[GOOD]))
    assert "no directory" in refuse("image", name="it", pack=dict(path=BASE + "/none/it"))
    answer = converge("image", check=True, name="new", directory="/run/later", pack=dict(path=FILE))
    assert answer["actions"] == ["import image new from /run/later", "pack image new to " + FILE]
    assert drive.resource("image").result(drive.new_host(), dict(name="it", pack=dict(path=FILE)), None)["packed"] == {
        "path": FILE, "layers": [], "size": len(small)}
    assert digests(first) == digests(known())


def test_brought(converge, refuse):
    """A bundle that was brought for an image goes with its import: when that has ended, when it was refused, and when a run before was killed."""
    first = made(converge)
    converge("image", name="it", pack=dict(path=FILE))
    with elsewhere():
        options = dict(name="it", bundle=BROUGHT, digest=first["digest"], allow_devices=True)
        answers = []
        answers.append(converge("image", check=True, **options))  # as it has not been brought then
        os.makedirs(os.path.dirname(BROUGHT))
        shutil.copy(FILE, BROUGHT)
        answers += [converge("image", check=True, **options), converge("image", **options)]
        assert [answer["actions"] for answer in answers] == [["import image it from " + BROUGHT]] * 3
        assert not os.path.exists(LIB + "/bundles") and not converge("image", **options)["changed"]
        os.makedirs(os.path.dirname(BROUGHT))
        shutil.copy(FILE, BROUGHT)
        assert converge("image", **options)["actions"] == ["remove archives of image it"] and not os.path.exists(LIB + "/bundles")
        converge("image", name="it", state="absent")
        for spoil in (lambda: os.truncate(BROUGHT, 2000), lambda: write(BROUGHT, [(GOOD, None)], {}, {GOOD: archives.tar()})):
            os.makedirs(os.path.dirname(BROUGHT))
            shutil.copy(FILE, BROUGHT)
            os.chmod(BROUGHT, 0o600)
            spoil()
            assert "Cannot import" in refuse("image", **dict(options, digest=None))
            assert not os.path.exists(LIB + "/bundles")
    assert not os.path.exists(LIB + "/bundles")
