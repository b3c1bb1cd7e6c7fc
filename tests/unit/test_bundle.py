# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How bundles are declared, and what a bundle says of its image: the same comes out, and of what is in no such form nothing."""

from __future__ import annotations

import pytest
from ansible_collections.bulkhead.isolation.plugins.module_utils._kernel import tarwrite
from ansible_collections.bulkhead.isolation.plugins.module_utils._kernel.tarstream import ArchiveError, Bytes, Reader
from ansible_collections.bulkhead.isolation.plugins.module_utils._model import bundle
from ansible_collections.bulkhead.isolation.plugins.module_utils._model.errors import Problems
from ansible_collections.bulkhead.isolation.plugins.module_utils._model.image import ImageSpec
from hypothesis import given, settings
from hypothesis import strategies as st

DIGEST = "sha256:" + "a" * 64
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
DIGESTS = st.binary(min_size=32, max_size=32).map(lambda value: "sha256:" + value.hex())
HEALTH = st.fixed_dictionaries({"command": st.lists(TEXT, min_size=1, max_size=3)}, optional={
    key: st.integers(0, 1 << 60) for key in ("interval", "timeout", "start_period", "retries")})
CONFIG = st.fixed_dictionaries({}, optional=dict(
    {key: st.lists(TEXT, max_size=3) for key in ("entrypoint", "command", "ports", "volumes")},
    **{key: st.dictionaries(TEXT, TEXT, max_size=3) for key in ("env", "labels")}, **{key: TEXT for key in ("user", "workdir", "stop_signal")}, health=HEALTH))


def parse(**options):
    problems = Problems()
    return ImageSpec.from_options(options, "", problems), problems.errors


@given(st.lists(st.tuples(DIGESTS, st.sampled_from([None, "squashfs", "erofs"])), max_size=4, unique_by=lambda layer: layer[0]), CONFIG)
@settings(max_examples=100)
def test_there_and_back(layers, config):
    assert bundle.parse(bundle.document(layers, config)) == (layers, config)


@given(st.binary(max_size=200) | st.recursive(st.none() | st.booleans() | st.integers() | TEXT, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(
    TEXT | st.sampled_from(["command", "health", "env", "user"]), inner, max_size=3)).map(lambda config: bundle.document([(DIGEST, None)], config)))
@settings(max_examples=200)
def test_anything(data):
    """It is a config that an image can have, or it is refused in words."""
    try:
        layers, config = bundle.parse(data)
    except ArchiveError:
        return
    assert layers == [(DIGEST, None)] and isinstance(config, dict) and bundle.document(layers, config) == data


@pytest.mark.parametrize("size", [0, 1, 8 ** 11 - 1, 8 ** 11, (1 << 62) - 1])
def test_headers_are_of_one_length(size):
    """Whatever the size, and a reader reads it."""
    data = tarwrite.file_header("layers/" + "a" * 64, size)
    assert len(data) == 1536
    member = next(iter(Reader(Bytes([data]))))
    assert (member.name, member.size, member.mode) == (b"layers/" + b"a" * 64, size, 0o600)


def test_bundles():
    spec, errors = parse(name="web", bundle="/srv/web", digest=DIGEST, pack={"path": "/srv/out", "layers": [DIGEST], "owner": "1000"})
    assert not errors and (spec.source, spec.path) == ("bundle", "/srv/web") and spec.allow_setuid and not spec.allow_devices
    assert (spec.pack.path, spec.pack.layers, spec.pack.owner) == ("/srv/out", [DIGEST], 1000)
    pack = parse(name="web", pack={"path": "/srv/out"})[0].pack
    assert pack.layers is None and pack.owner == 0
    assert parse(name="web", pack={"path": "/srv/out", "layers": []})[0].pack.layers == []


@pytest.mark.parametrize("options, where", [
    ({"bundle": "web"}, "bundle"), ({"bundle": "/a", "config": {}}, "config"), ({"bundle": "/a", "oci": "/b"}, "bundle"),
    ({"bundle": "/a", "reference": "1"}, "reference"), ({"pack": {}}, "pack.path"), ({"pack": "/a"}, "pack"), ({"pack": {"path": "a"}}, "pack.path"),
    ({"pack": {"path": "/a", "layers": ["x"]}}, "pack.layers[0]"),
    ({"pack": {"path": "/a", "layers": DIGEST}}, "pack.layers"), ({"pack": {"path": "/a", "owner": "root"}}, "pack.owner"),
    ({"pack": {"path": "/a", "owner": -1}}, "pack.owner"), ({"pack": {"path": "/a", "owner": (1 << 32) - 1}}, "pack.owner"),
    ({"pack": {"path": "/a", "mode": 1}}, "pack.mode"), ({"pack": {"path": "/a"}, "state": "absent"}, "pack"),
])
def test_bad_bundles(options, where):
    assert [error.split(": ")[0] for error in parse(name="a", **options)[1]][:1] == [where]
