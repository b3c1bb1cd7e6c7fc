# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What `storage:` of a sandbox may say, and what contradicts itself."""

from __future__ import annotations

import pytest
from ansible_collections.bulkhead.isolation.plugins.module_utils._model import sandbox
from ansible_collections.bulkhead.isolation.plugins.module_utils._model.errors import Problems
from ansible_collections.bulkhead.isolation.plugins.module_utils._model.storage import POOL


def parse(storage, **more):
    problems = Problems()
    options = dict(dict(name="web", image="web", namespaces=dict(types=["mnt"]), storage=storage), **more)
    specs = sandbox.parse(dict(sandboxes=[options]), "", problems)
    return specs[0].storage, problems.errors


@pytest.mark.parametrize("storage, found", [
    (None, dict(driver=None, size=None, limit=None, keep=True, pool=None)),
    ({}, dict(driver=None, keep=True)),
    (dict(driver="auto", limit="auto", size="1G"), dict(driver=None, limit=None, size=1 << 30)),
    (dict(driver="btrfs", size="64M"), dict(driver="btrfs", size=64 << 20)),
    (dict(driver="devicemapper"), dict(driver="devicemapper", pool=POOL)),
    (dict(driver="devicemapper", pool="/dev/vdb"), dict(pool="/dev/vdb")),
    (dict(size=4096, limit="tmpfs", keep=False), dict(size=4096, limit="tmpfs", keep=False)),
])
def test_what_is_meant(storage, found):
    spec, errors = parse(storage)
    assert not errors and {key: getattr(spec, key) for key in found} == found


@pytest.mark.parametrize("storage, words", [
    ("btrfs", "sandboxes[0].storage"),
    (dict(driver="zfs"), "sandboxes[0].storage.driver"),
    (dict(sice="1G"), "sandboxes[0].storage.sice"),
    (dict(size=0), "sandboxes[0].storage.size: 0 would leave nothing to write to"),
    (dict(size="lots"), "sandboxes[0].storage.size"),
    (dict(pool="/dev/vdb"), "sandboxes[0].storage.pool: belongs to driver: devicemapper"),
    (dict(driver="devicemapper", pool="vdb"), "sandboxes[0].storage.pool"),
    (dict(driver="btrfs", size="1G", limit="loop"), "sandboxes[0].storage.limit: driver btrfs has a limit of its own"),
    (dict(limit="loop"), "sandboxes[0].storage.limit: is how a size is kept"),
    (dict(size="1G", limit="tmpfs"), "sandboxes[0].storage.limit: a tmpfs is memory"),
    (dict(keep="maybe"), "sandboxes[0].storage.keep"),
])
def test_what_is_refused(storage, words):
    errors = parse(storage)[1]
    assert any(error.startswith(words) for error in errors), errors


@pytest.mark.parametrize("more, words", [
    (dict(image=None, root="/srv/root"), "sandboxes[0].storage: belongs to a root of layers"),
    (dict(image=None, overlay=dict(lower=["/srv/layer"])), "sandboxes[0].storage.driver: copy makes roots of images"),
    (dict(overlay=dict(read_only=True)), "sandboxes[0].overlay: belongs to storage.driver overlay"),
    (dict(namespaces=None, storage=dict(keep=False)), "sandboxes[0].storage.keep: false belongs to a prepared root"),
])
def test_what_goes_with_nothing_else(more, words):
    errors = parse(**dict(dict(storage=dict(driver="copy")), **more))[1]
    assert any(error.startswith(words) for error in errors), errors


@pytest.mark.parametrize("reset, words", [
    (["web"], None), (True, None), (False, None), (None, None), ("True", None), ("web", "reset: 'web' is"),
    (["other"], "reset[0]: 'other' is not among the sandboxes of this run"), ([5], "reset[0]: 5 is not a name"),
])
def test_reset(reset, words):
    problems = Problems()
    sandbox.parse(dict(sandboxes=[dict(name="web")], reset=reset), "", problems)
    assert problems.errors == [] if words is None else problems.errors[0].startswith(words)
