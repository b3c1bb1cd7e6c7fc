# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What of an image is refused before the host is looked at, and what documents of an image are taken for."""

from __future__ import annotations

import json

import pytest
from ansible_collections.bulkhead.isolation.plugins.module_utils._kernel.tarstream import ArchiveError
from ansible_collections.bulkhead.isolation.plugins.module_utils._model import oci
from ansible_collections.bulkhead.isolation.plugins.module_utils._model.errors import Problems
from ansible_collections.bulkhead.isolation.plugins.module_utils._model.image import ImageSpec
from ansible_collections.bulkhead.isolation.plugins.module_utils._resources import _bootstrap
from hypothesis import given, settings
from hypothesis import strategies as st

DIGEST = "sha256:" + "a" * 64


def parse(**options):
    problems = Problems()
    return ImageSpec.from_options(options, "", problems), problems.errors


def test_good():
    spec, errors = parse(name="web", oci="/srv/web", reference="1", platform="linux/arm64/v8", digest=DIGEST, limits={"size": "1G", "entries": "7"},
                         config={"env": {"A": 1}, "user": None, "command": ["/bin/sh"]})
    assert not errors and (spec.source, spec.path, spec.rules.size, spec.rules.entries) == ("oci", "/srv/web", 1 << 30, 7)
    assert spec.config == {"env": {"A": "1"}, "user": None, "command": ["/bin/sh"]} and not spec.allow_setuid
    assert not parse(prune=True)[1] and not parse(name="web", state="absent", prune=True)[1] and not parse(name="web", verify=True)[1]


def test_hosts_and_bootstraps():
    spec, errors = parse(name="web", host=True)
    assert not errors and spec.host == {"exclude": [], "include": []} and spec.path == "/" and spec.allow_setuid
    spec, errors = parse(name="web", host={"exclude": ["/opt", "/opt"], "include": ["/srv/a"]}, allow_setuid=False)
    assert not errors and spec.host == {"exclude": ["/opt"], "include": ["/srv/a"]} and not spec.allow_setuid
    spec, errors = parse(name="web", bootstrap={"suite": "trixie", "include": ["b", "a=1.0~rc1-2", "a=1.0~rc1-2"], "mirror": "copy:///srv/archive"})
    assert not errors and spec.path == "a bootstrap of trixie" and spec.allow_setuid and spec.bootstrap["mirror"] == ["copy:///srv/archive"]
    assert spec.bootstrap["include"] == ["a=1.0~rc1-2", "b"] and (spec.bootstrap["variant"], spec.bootstrap["tool"]) == ("minbase", "mmdebstrap")


@pytest.mark.parametrize("declared, tool, words", [
    ({"suite": "a"}, "mmdebstrap", "a bootstrap of a"), ({"suite": "a", "tool": "debootstrap"}, "debootstrap", "a bootstrap of a by debootstrap"),
    ({"release": 41, "packages": ["@core", "bash"]}, "dnf", "a bootstrap of 41 by dnf"),
    ({"tool": "zypper", "packages": ["pattern:base"]}, "zypper", "a bootstrap by zypper"),
    ({"tool": "zypper", "release": "15.6", "packages": ["a"], "repositories": ["https://a/$releasever"], "keyring": "/k"}, "zypper",
     "a bootstrap of 15.6 by zypper"),
    ({"tool": "apk", "packages": ["alpine-base", "a>1.0"], "repositories": ["file:///srv/a"], "unsigned": True}, "apk", "a bootstrap by apk"),
])
def test_the_tool_that_is_meant(declared, tool, words):
    spec, errors = parse(name="web", bootstrap=declared)
    assert not errors and (spec.bootstrap["tool"], spec.path, spec.allow_setuid) == (tool, words, True)


def test_the_key_of_a_bootstrap():
    """What has been made stays known when there are more tools and options."""
    key = _bootstrap.key(parse(name="web", bootstrap={"suite": "trixie", "include": ["b", "a"], "serial": 2, "mirror": "copy:///srv"})[0])
    assert key == "sha256:a5de5576bee847a9a6a48186bc9d80513f7a26dc6401a9d9b486baa7896d3727"


@pytest.mark.parametrize("options, where", [
    ({"host": False}, "host"), ({"host": ["/a"]}, "host"), ({"host": {"exclude": ["opt"]}}, "host.exclude[0]"),
    ({"host": {"include": ["/"]}}, "host.include[0]"),
    ({"host": {"include": ["/proc/1"]}}, "host.include[0]"), ({"host": {"include": "/a"}}, "host.include"), ({"host": {"includes": []}}, "host.includes"),
    ({"host": {"include": ["/a"], "exclude": ["/a"]}}, "host.include"), ({"host": True, "digest": DIGEST}, "digest"), ({"bootstrap": {}}, "bootstrap.suite"),
    ({"bootstrap": {"suite": "--help"}}, "bootstrap.suite"), ({"bootstrap": {"suite": "a", "include": ["-x"]}}, "bootstrap.include[0]"),
    ({"bootstrap": {"suite": "a", "include": ["a,b"]}}, "bootstrap.include[0]"), ({"bootstrap": {"suite": "a", "include": "a"}}, "bootstrap.include"),
    ({"bootstrap": {"suite": "a", "mirror": "/etc/shadow"}}, "bootstrap.mirror[0]"), ({"bootstrap": {"suite": "a", "mirror": "--x"}}, "bootstrap.mirror[0]"),
    ({"bootstrap": {"suite": "a", "mirror": ["deb x y\nz"]}}, "bootstrap.mirror[0]"), ({"bootstrap": {"suite": "a", "variant": "tiny"}}, "bootstrap.variant"),
    ({"bootstrap": {"suite": "a", "tool": "yum"}}, "bootstrap.tool"), ({"bootstrap": {"suite": "a", "keyring": "a"}}, "bootstrap.keyring"),
    ({"bootstrap": {"suite": "a", "architecture": "a b"}}, "bootstrap.architecture"), ({"bootstrap": {"suite": "a", "script": "b"}}, "bootstrap.script"),
    ({"bootstrap": {"suite": "a", "packages": ["b"]}}, "bootstrap.packages"), ({"bootstrap": {"suite": "a", "unsigned": True}}, "bootstrap.unsigned"),
    ({"bootstrap": {"packages": ["b"]}}, "bootstrap.tool"), ({"bootstrap": {"release": "a"}}, "bootstrap.packages"),
    ({"bootstrap": {"release": 1.5, "packages": ["b"]}}, "bootstrap.release"), ({"bootstrap": {"release": "a", "packages": []}}, "bootstrap.packages"),
    ({"bootstrap": {"release": "a", "packages": ["/srv/b.rpm"]}}, "bootstrap.packages[0]"),
    ({"bootstrap": {"release": "a", "packages": ["b.rpm"]}}, "bootstrap.packages[0]"),
    ({"bootstrap": {"tool": "apk", "packages": ["b.apk"]}}, "bootstrap.packages[0]"),
    ({"bootstrap": {"tool": "apk", "packages": ["--allow-untrusted"]}}, "bootstrap.packages[0]"),
    ({"bootstrap": {"release": "a", "packages": ["b"], "repositories": ["/srv"]}}, "bootstrap.repositories[0]"),
    ({"bootstrap": {"release": "a", "packages": ["b"], "repositories": ["file:///a\ngpgcheck=0"]}}, "bootstrap.repositories[0]"),
    ({"bootstrap": {"release": "a", "packages": ["b"], "unsigned": True}}, "bootstrap.unsigned"),
    ({"bootstrap": {"release": "a", "packages": ["b"], "keyring": "/k"}}, "bootstrap.keyring"),
    ({"bootstrap": {"release": "a", "packages": ["b"], "repositories": ["file:///a"], "keyring": "/k", "unsigned": True}}, "bootstrap.unsigned"),
    ({"bootstrap": {"tool": "zypper", "packages": ["b"], "architecture": "c"}}, "bootstrap.architecture"),
    ({"bootstrap": {"tool": "debootstrap", "suite": "a", "variant": "extract"}}, "bootstrap.variant"),
    ({"bootstrap": {"tool": "debootstrap", "suite": "a", "mirror": "deb a b"}}, "bootstrap.mirror[0]"),
    ({"bootstrap": {"tool": "debootstrap", "suite": "a", "mirror": ["file:///a", "file:///b"]}}, "bootstrap.mirror"),
    ({"bootstrap": {"suite": "a", "serial": ["x"]}}, "bootstrap.serial"), ({"bootstrap": {"suite": "a", "components": [5]}}, "bootstrap.components[0]"),
])
def test_bad_hosts_and_bootstraps(options, where):
    errors = parse(name="a", **options)[1]
    assert [error.split(": ")[0] for error in errors] == [where]


@pytest.mark.parametrize("options, where", [
    ({}, "name"), ({"name": "a/b"}, "name"), ({"prune": True, "state": "absent"}, "name"), ({"oci": "/a", "prune": True}, "name"),
    ({"name": "a", "oci": "a"}, "oci"), ({"name": "a", "oci": "/a", "tar": "/b"}, "tar"), ({"name": "a", "squashfs": "a"}, "squashfs"),
    ({"name": "a", "squashfs": "/a", "erofs": "/b"}, "erofs"),
    ({"name": "a", "erofs": "/a", "platform": "linux/arm"}, "platform"), ({"name": "a", "squashfs": "/a", "steps": []}, "steps"),
    ({"name": "a", "oci": "/a", "state": "absent"}, "oci"),
    ({"name": "a", "tar": "/a", "reference": "x"}, "reference"), ({"name": "a", "directory": "/a", "platform": "linux/arm"}, "platform"),
    ({"name": "a", "oci": "/a", "platform": "linux"}, "platform"), ({"name": "a", "digest": DIGEST}, "digest"),
    ({"name": "a", "oci": "/a", "digest": "sha256:A"}, "digest"), ({"name": "a", "oci": "/a", "digest": 5}, "digest"),
    ({"name": "a", "limits": {"size": "x"}}, "limits.size"), ({"name": "a", "limits": {"ratio": 0}}, "limits.ratio"),
    ({"name": "a", "limits": {"sizes": 1}}, "limits.sizes"), ({"name": "a", "config": {"cmd": []}}, "config.cmd"),
    ({"name": "a", "config": {"env": {"A=": "b"}}}, "config.env"), ({"name": "a", "config": {"command": "x"}}, "config.command"),
    ({"name": "a", "config": {"command": ["\0"]}}, "config.command[0]"), ({"name": "a", "state": "gone"}, "state"),
    ({"name": "a", "verify": "maybe"}, "verify"), ({"name": "a", "source": "/a"}, "image.source"),
])
def test_bad(options, where):
    errors = parse(**options)[1]
    assert [error.split(": ")[0] for error in errors] == [where]


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from([DIGEST, "layers", 2]), lambda inner: st.lists(
    inner, max_size=3) | st.dictionaries(st.sampled_from(["schemaVersion", "mediaType", "manifests", "layers", "config", "digest", "size", "platform", "urls",
                                                          "annotations", "rootfs", "diff_ids", "type", "os", "Cmd", "Env", "Healthcheck", "Test", "Labels",
                                                          "RepoTags", "Config", "Layers"]), inner, max_size=6), max_leaves=20)


@settings(max_examples=500, deadline=None)
@given(JSON)
def test_documents(value):
    """Whatever a document holds, it is taken, or refused with a reason in one line."""
    for act in (lambda: oci.select(lambda entry, what: b"{}", oci.document(data, "it"), "it", None, "linux/amd64"),
                lambda: oci.parts(oci.document(data, "it"), "it"), lambda: oci.config(oci.document(data, "it"), "it"),
                lambda: oci.docker(oci.document(data, "it", list), None)):
        data = json.dumps(value).encode()
        try:
            act()
        except ArchiveError as exc:
            assert exc.words().isprintable()
