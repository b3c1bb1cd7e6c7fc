# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the tools of a bootstrap are run with and read, word by word: of apk, which no Debian has, that is all that is tested."""

from __future__ import annotations

import os

import pytest
from ansible_collections.bulkhead.isolation.plugins.module_utils._kernel.tarstream import ArchiveError
from ansible_collections.bulkhead.isolation.plugins.module_utils._model.errors import Problems
from ansible_collections.bulkhead.isolation.plugins.module_utils._model.image_sources import bootstrap
from ansible_collections.bulkhead.isolation.plugins.module_utils._resources import _bootstrap_tools as tools


class Host:
    check = False

    def __init__(self, **answers):
        self.warnings, self._answers = [], answers

    def run(self, argv, data=None, env=None):
        return self._answers.get(argv[0], (1, "", ""))

    def warn(self, text):
        self.warnings.append(text)


def of(tmp_path, host=None, **declared):
    """(the command lines as one text each, without what they all begin with; {file in the room: content})"""
    problems = Problems()
    said = bootstrap(declared, "bootstrap", problems)
    assert not problems.errors
    tool = tools.TOOLS[said["tool"]]
    room = str(tmp_path / "room")
    os.mkdir(room)
    commands = tool.commands(said, tool.sources(host or Host(), said), tools.Room(room, "/seen"))
    files = {}
    for where, dummy, names in os.walk(room):
        for name in names:
            path = os.path.join(where, name)
            if not os.path.islink(path):
                with open(path, encoding="utf-8") as stream:
                    files[os.path.relpath(path, room)] = stream.read()
    return [" ".join(word for word in words if word not in tools._FURNISHED) for words in commands], files  # pylint: disable=protected-access


def key(tmp_path, name="ours.pub"):
    path = tmp_path / name
    path.write_text("a key")
    return str(path)


def test_apk(tmp_path):
    told, files = of(tmp_path, tool="apk", packages=["b", "alpine-base"], repositories=["https://example.org/main", "file:///srv/more"],
                     keyring=key(tmp_path), architecture="x86_64")
    assert told == ["/seen apk --root=/seen/root --keys-dir=/seen/tmp/keys --repositories-file=/seen/tmp/repositories --no-cache --no-progress "
                    "--arch=x86_64 add --initdb alpine-base b"]
    assert files == {"tmp/keys/ours.pub": "a key", "tmp/repositories": "https://example.org/main\nfile:///srv/more\n"}


def test_apk_unsigned(tmp_path):
    told, files = of(tmp_path, tool="apk", packages=["b"], repositories=["file:///srv/a"], unsigned=True)
    assert " --allow-untrusted add --initdb b" in told[0] and files == {"tmp/repositories": "file:///srv/a\n"}
    assert os.listdir(tmp_path / "room/tmp/keys") == []


def test_apk_of_the_host(tmp_path, monkeypatch):
    (tmp_path / "keys").mkdir()
    key(tmp_path / "keys", "one.pub")
    monkeypatch.setattr(tools, "_APK_KEYS", str(tmp_path / "keys"))
    told, files = of(tmp_path, tool="apk", packages=["b"])
    assert "--repositories-file=/etc/apk/repositories " in told[0] and files == {"tmp/keys/one.pub": "a key"}


def test_dnf(tmp_path):
    told, files = of(tmp_path, release=41, packages=["bash"], repositories=["file:///srv/a"], keyring=key(tmp_path), architecture="aarch64")
    assert told[0].startswith("/seen dnf --assumeyes --installroot=/seen/root --releasever=41 ")
    assert told[0].endswith(" --setopt=reposdir=/seen/tmp/repositories --setopt=install_weak_deps=False --forcearch=aarch64 install bash")
    assert files == {"tmp/home/.rpmmacros": "%_dbpath /usr/lib/sysimage/rpm\n", "tmp/keys/0.key": "a key", "tmp/repositories/1.repo": (
        "[repository-1]\nname=file:///srv/a\nbaseurl=file:///srv/a\nenabled=1\ngpgcheck=1\ngpgkey=file:///seen/tmp/keys/0.key\n")}
    assert os.readlink(tmp_path / "room/root/var/lib/rpm") == "../../usr/lib/sysimage/rpm"


def test_dnf_of_the_host(tmp_path):
    told, files = of(tmp_path, release=41, packages=["bash"])
    assert " --setopt=reposdir=/etc/yum.repos.d," in told[0] and list(files) == ["tmp/home/.rpmmacros"]


def test_zypper_unsigned(tmp_path):
    told, files = of(tmp_path, tool="zypper", packages=["bash"], repositories=["file:///srv/a", "file:///srv/b"], unsigned=True)
    assert [line.rpartition("/seen/tmp/cache ")[2] for line in told] == [
        "--reposd-dir=/seen/tmp/repositories refresh", "--reposd-dir=/seen/tmp/repositories install --no-recommends --auto-agree-with-licenses bash"]
    assert files["tmp/repositories/2.repo"].endswith("baseurl=file:///srv/b\nenabled=1\ngpgcheck=0\n")


def test_debootstrap(tmp_path, monkeypatch):
    """Of what the host's apt says the suite itself, as it takes one only, wherever in the list that is."""
    listed = "\n".join("http://example.org/%s\t%s\tmain\tDebian\tDebian" % each for each in (("more", "trixie-updates"), ("debian", "trixie")))
    host = Host(**{"apt-get": (0, listed, "")})
    monkeypatch.setattr(tools, "distribution", lambda: ["debian"])
    told = of(tmp_path, host, tool="debootstrap", suite="trixie", variant="important", include=["a", "b"])[0]
    assert told == ["debootstrap --force-check-gpg --variant=- --include=a,b --components=main trixie /seen/root http://example.org/debian"]


@pytest.mark.parametrize("declared, reason", [
    ({"release": 1, "packages": ["a"], "repositories": ["file:///a"]}, "this host's rpm trusts no keys"),
    ({"tool": "apk", "packages": ["a"], "keyring": "/nowhere", "repositories": ["file:///a"]},
     "the keys in /nowhere cannot be read: No such file or directory"),
])
def test_refused(tmp_path, declared, reason):
    with pytest.raises(ArchiveError) as caught:
        of(tmp_path, **declared)
    assert caught.value.words() == reason
