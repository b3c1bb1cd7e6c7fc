# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A bootstrap as an image: by mmdebstrap and debootstrap themselves, of an archive that is made here, as a private host has no network."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess

import archives
import drive
import jail
import pytest


BASE = "/tmp/bulkhead-archive"  # the user _apt reads it
STORE = "/var/lib/bulkhead/layers"
CONTROL = "Package: %s\nVersion: %s\nArchitecture: all\nMaintainer: nobody <nobody@example.org>\nDescription: a test\n%s"


def package(name, version, files, more=""):
    """(what Packages says of it, its file)"""
    top = "%s/%s" % (BASE, name)
    for path, data in files.items():
        os.chmod(archives.write("%s/%s" % (top, path), data), 0o755)
    archives.write(top + "/DEBIAN/control", (CONTROL % (name, version, more)).encode())
    for where, names, there in os.walk(top, topdown=False):
        os.chmod(where, 0o755)
        for each in there + [""]:
            os.utime(os.path.join(where, each), (1000000000, 1000000000))
    path = "%s/pool/%s_%s_all.deb" % (BASE, name, version)
    os.makedirs(BASE + "/pool", exist_ok=True)
    subprocess.run(["dpkg-deb", "--build", "--root-owner-group", "-Zgzip", top, path], check=True, capture_output=True,
                   env=dict(os.environ, SOURCE_DATE_EPOCH="1000000000"))
    with open(path, "rb") as stream:
        data = stream.read()
    return CONTROL % (name, version, more) + "Filename: pool/%s\nSize: %d\nSHA256: %s\n" % (
        os.path.basename(path), len(data), hashlib.sha256(data).hexdigest())


def archive(version="1"):
    with open("/bin/busybox", "rb") as stream:
        busybox = stream.read()
    told = [package("base", version, {"bin/busybox": busybox, "bin/version": version.encode(), "etc/group": b"root:x:0:\nweb:x:7:\n",
                                      "etc/passwd": b"root:x:0:0::/:/bin/sh\nweb:x:7:7::/:/bin/sh\n"}),
            package("extra", "1", {"srv/page": b"a page"}), package("other", "1", {"srv/other": b"x"})]
    listed = archives.write(BASE + "/dists/test/main/binary-%s/Packages" % archives.ARCHITECTURE, "\n".join(told).encode())
    with open(listed, "rb") as stream:
        data = stream.read()
    release = "Suite: test\nCodename: test\nArchitectures: %s\nComponents: main\nDate: Thu, 01 Jan 2015 00:00:00 UTC\nSHA256:\n %s %d %s\n"
    archives.write(BASE + "/dists/test/Release", (release % (
        archives.ARCHITECTURE, hashlib.sha256(data).hexdigest(), len(data), os.path.relpath(listed, BASE + "/dists/test"))).encode())
    subprocess.run(["chmod", "-R", "a+rX", BASE], check=True)


@pytest.fixture(autouse=True)
def place(leaves_nothing):
    shutil.rmtree(BASE, ignore_errors=True)
    archive()
    yield
    jail.clear_images()
    shutil.rmtree(BASE)


def of(name="base", **more):
    found = dict(dict(suite="test", variant="extract", include=["base", "extra"], mirror="deb [trusted=yes] copy://%s test main" % BASE), **more)
    return dict(name=name, bootstrap=found)


def image(name="base"):
    return drive.info("image", name=name)["images"][0]


def test_a_bootstrap(converge, full_cycle):
    full_cycle("image", of(), dict(name="base", state="absent"))
    answer = converge("image", **of())
    assert answer["actions"] == ["import image base from a bootstrap of test"]
    tree = image()["lower"][0]
    assert jail.text(tree + "/srv/page") == "a page" and not os.path.exists(tree + "/srv/other") and os.listdir(tree + "/dev") == []
    assert not os.path.exists(tree + "/etc/resolv.conf") or jail.text(tree + "/etc/resolv.conf") == ""
    assert image()["source"]["type"] == "bootstrap" and not [name for name in os.listdir(STORE) if name.startswith(".")]
    box = dict(name="box", image="base", namespaces=dict(types=["net", "uts", "ipc", "mnt", "pid"]),
               services=[dict(name="web", command=["/bin/busybox", "httpd", "-f", "-p", "8080", "-h", "/srv"], user="web")])
    converge("sandbox", sandboxes=[box])
    asked = ["ip", "netns", "exec", "box", "busybox", "wget", "-q", "-O", "-", "http://127.0.0.1:8080/page"]
    assert jail.until(lambda: subprocess.run(asked, capture_output=True, check=False).stdout) == b"a page"
    converge("sandbox", sandboxes=[dict(name="box", state="absent")], remove_data=True, kill=True)


def test_by_what_is_declared(converge):
    """What the archive has meanwhile does not matter until the declaration is another; the same packages are the same layer."""
    converge("image", **of())
    first = image()["layers"]
    shutil.rmtree(BASE)
    assert not converge("image", **of())["changed"] and not converge("image", check=True, **of())["changed"]
    assert converge("image", **of("same"))["changed"] and image("same")["layers"][0]["shared_by"] == ["base"]  # without the archive
    archive()
    converge("image", **of(serial="2"))
    assert [layer["digest"] for layer in image()["layers"]] == [layer["digest"] for layer in first]
    shutil.rmtree(BASE)
    archive("2")
    predicted = converge("image", check=True, **of(serial="3"))
    assert converge("image", **of(serial="3"))["diff"] == predicted["diff"] and image()["layers"] != first
    assert jail.text(image()["lower"][0] + "/bin/version") == "2"


def test_refused(converge, refuse, monkeypatch):
    message = refuse("image", **of(include=["base", "no-such-package"]))
    assert message.startswith("Cannot import image base from a bootstrap of test: mmdebstrap ended with ") and "no-such-package" in message
    assert not os.listdir(STORE) and drive.info("image")["images"] == []
    shutil.rmtree(BASE + "/pool")
    assert "mmdebstrap ended with" in refuse("image", **of()) and not os.listdir(STORE)
    monkeypatch.setenv("PATH", "/nowhere")
    assert refuse("image", **of()) == "Cannot import image base from a bootstrap of test: mmdebstrap is not installed. Install the package mmdebstrap."
    assert "is not installed yet" in converge("image", check=True, **of())["warnings"][0] and not os.listdir(STORE)


SCRIPT = """mirror_style release
download_style apt
finddebs_style from-indices
variants - minbase
keyring /nowhere
work_out_debs () { required=base; base=; }
first_stage_install () { extract $required $base; mkdir -p "$TARGET/etc/apt" "$TARGET/var/log"; }
second_stage_install () { cp /etc/hostname /etc/resolv.conf "$TARGET/etc"; /bin/busybox id -u >"$TARGET/etc/by-script"; }
"""


def signed(name="ours"):
    """A key, its public half in BASE/NAME.gpg, and the archive signed with it."""
    home = {"GNUPGHOME": BASE + "/gnupg"}
    os.makedirs(home["GNUPGHOME"], mode=0o700, exist_ok=True)
    release = BASE + "/dists/test/Release"
    for words in (["--passphrase", "", "--quick-gen-key", name, "rsa2048", "sign", "never"], ["--output", "%s/%s.gpg" % (BASE, name), "--export", name],
                  ["--yes", "--local-user", name, "--output", release + ".gpg", "--detach-sign", release]):
        subprocess.run(["gpg", "--batch", "--quiet"] + words, check=True, capture_output=True, env=dict(os.environ, **home))
    subprocess.run(["gpgconf", "--kill", "gpg-agent"], check=True, env=dict(os.environ, **home))


def test_by_debootstrap(converge, full_cycle, refuse, monkeypatch):
    """With a script of its own for a suite that no script of it knows."""
    shutil.copytree("/usr/share/debootstrap", BASE + "/debootstrap", symlinks=True)
    archives.write(BASE + "/debootstrap/scripts/test", SCRIPT.encode())
    monkeypatch.setenv("DEBOOTSTRAP_DIR", BASE + "/debootstrap")
    signed("theirs")
    signed("ours")
    plain = of(tool="debootstrap", variant="minbase", include=["extra"], mirror="file://" + BASE)
    ours = dict(plain, bootstrap=dict(plain["bootstrap"], keyring=BASE + "/ours.gpg"))
    full_cycle("image", ours, dict(name="base", state="absent"))
    assert converge("image", **ours)["actions"] == ["import image base from a bootstrap of test by debootstrap"]
    tree = image()["lower"][0]
    assert sorted(os.path.relpath(os.path.join(where, name), tree) for where, dummy, names in os.walk(tree) for name in names) == [
        "bin/busybox", "bin/version", "etc/apt/sources.list", "etc/by-script", "etc/group", "etc/hostname", "etc/passwd", "etc/resolv.conf", "srv/page"]
    assert jail.text(tree + "/etc/hostname") == "localhost\n" and jail.text(tree + "/etc/resolv.conf") == ""
    first = image()["layers"][0]["digest"]
    converge("image", **dict(ours, bootstrap=dict(ours["bootstrap"], serial="2")))
    assert image()["layers"][0]["digest"] == first
    for other in (plain, dict(plain, bootstrap=dict(plain["bootstrap"], keyring=BASE + "/theirs.gpg"))):
        assert "debootstrap ended with" in refuse("image", **other)
    converge("image", **dict(plain, bootstrap=dict(plain["bootstrap"], unsigned=True)))
