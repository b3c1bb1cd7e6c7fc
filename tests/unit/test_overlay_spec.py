# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What may be declared of an overlay and of a prepared root, and each error with its path."""

from __future__ import annotations

import pytest
from ansible_collections.bulkhead.isolation.plugins.module_utils._model.errors import Problems
from ansible_collections.bulkhead.isolation.plugins.module_utils._model.overlay import OverlaySpec, key_of
from ansible_collections.bulkhead.isolation.plugins.module_utils._model.root import MASKED, READ_ONLY, RootSpec

GOOD = dict(path="/m", lower=["/a", "/b"], upper="/u/upper", work="/u/work")


def errors(**more):
    problems = Problems()
    OverlaySpec.from_options({key: value for key, value in dict(GOOD, **more).items() if value is not None}, "o", problems)
    return problems.errors


def test_good():
    assert errors() == []
    assert errors(upper=None, work=None, lower="/a") == []
    assert errors(options={"index": True, "redirect_dir": False, "volatile": "yes", "xino": "auto", "nodev": True}) == []
    assert errors(state="absent", lower=None, upper=None, work=None) == []


@pytest.mark.parametrize("more,path", [
    (dict(path=None), "o.path"), (dict(path="m"), "o.path"), (dict(path="/"), "o.path"), (dict(path="/a/../b"), "o.path"), (dict(path="/a\nb"), "o.path"),
    (dict(path="/a\0"), "o.path"), (dict(path="/" + "x" * 300), "o.path"), (dict(path=3), "o.path"), (dict(path="/u/upper/x"), "o.path"),
    (dict(lower=None), "o.lower"), (dict(lower=[]), "o.lower"), (dict(lower=["/a", "/a"]), "o.lower[1]"), (dict(lower=["a"]), "o.lower[0]"),
    (dict(lower=[{}]), "o.lower[0]"), (dict(lower={"a": 1}), "o.lower"), (dict(lower=["/l%d" % n for n in range(501)]), "o.lower"),
    (dict(lower=["/l%d" % n for n in range(300)], data=["/d%d" % n for n in range(201)]), "o.lower"),
    (dict(upper=None), "o.upper"), (dict(work=None), "o.work"), (dict(work="/u/upper"), "o.work"), (dict(work="/u/upper/w"), "o.work"),
    (dict(upper="/u/work/u"), "o.work"), (dict(upper="/a"), "o.upper"), (dict(namespace="a/b"), "o.namespace"), (dict(namespace=""), "o.namespace"),
    (dict(state="present"), "o.state"), (dict(on_mismatch="maybe"), "o.on_mismatch"), (dict(reset="perhaps"), "o.reset"),
    (dict(reset=True, upper=None, work=None), "o.reset"), (dict(bogus=1), "o.bogus"), (dict(read_only=2), "o.read_only"),
    (dict(options=[1]), "o.options"), (dict(options={"index": "auto"}), "o.options.index"), (dict(options={"lowerdir": "/x"}), "o.options.lowerdir"),
    (dict(options={"volatile": "maybe"}), "o.options.volatile"), (dict(options={"userxattr": True, "metacopy": "on"}), "o.options.metacopy"),
    (dict(options={"nfs_export": "on", "index": "off"}), "o.options.index"), (dict(options={"nfs_export": "on", "metacopy": "on"}), "o.options.metacopy"),
    (dict(options={"verity": "on", "metacopy": "off"}), "o.options.metacopy"), (dict(options={"redirect_dir": ["on"]}), "o.options.redirect_dir"),
    (dict(options={"metacopy": "on", "redirect_dir": "nofollow"}), "o.options.redirect_dir"), (dict(options={3: 4}), "o.options"),
])
def test_each_error_has_its_path(more, path):
    found = errors(**more)
    assert found and any(error.startswith(path + ":") for error in found), found
    assert all("\n" not in error and "\0" not in error and len(error) < 600 for error in found)


def test_keys_are_file_names():
    keys = [key_of(None, "/a/b"), key_of("web", "/a/b"), key_of(None, "/a:b"), key_of(None, "/a%3ab"), key_of(None, "/" + "x/" * 900),
            key_of(None, "/" + "x/" * 901)]
    assert len(set(keys)) == len(keys) and keys[:2] == ["/a/b", "web/a/b"] and all(len(key) <= 200 and ":" not in key for key in keys)


def test_a_sandbox_fills_in():
    defaults = {"path": "/run/bulkhead/mnt/web", "upper": "/up", "work": "/wk"}
    spec = OverlaySpec.from_options({"lower": ["/a"]}, "o", Problems(), defaults=defaults)
    assert (spec.path, spec.upper, spec.work, spec.whole, spec.sandbox) == ("/run/bulkhead/mnt/web", "/up", "/wk", True, "web")
    spec = OverlaySpec.from_options({"lower": ["/a"], "read_only": True}, "o", Problems(), defaults=defaults)
    assert spec.upper is None and spec.work is None


@pytest.mark.parametrize("key", ["path", "state", "namespace", "reset", "remove_data", "on_mismatch", "force", "lazy", 5, (), None])
def test_what_follows_from_a_sandbox_is_not_declared(key):
    problems = Problems()
    defaults = {"path": "/run/bulkhead/mnt/web", "upper": "/up", "work": "/wk"}
    spec = OverlaySpec.from_options({"lower": ["/a"], key: "/x"}, "o", problems, defaults=defaults)
    assert len(problems.errors) == 1 and "no such option" in problems.errors[0], problems.errors
    assert (spec.path, spec.state, spec.namespace, spec.reset) == (defaults["path"], "mounted", None, False)


def root(types=("net", "mnt", "pid", "ipc", "cgroup"), **options):
    problems = Problems()
    spec = RootSpec.from_options(options, "s", problems, name="web", base="/srv/root", types=types)
    assert problems.errors == []
    return spec


def test_the_mounts_follow_from_the_types():
    def kinds(unified, **options):
        return {want.target: want.kind for want in root(**options).wants(unified) if not want.live}
    assert kinds(True) == {"/proc": "proc", "/sys": "sysfs", "/sys/fs/cgroup": "cgroup2", "/dev": "tmpfs", "/dev/pts": "devpts",
                           "/dev/mqueue": "mqueue", "/dev/shm": "tmpfs"}
    assert kinds(False)["/sys/fs/cgroup"] == "tmpfs"
    assert kinds(True, types=("mnt",))["/sys/fs/cgroup"] == "tmpfs" and "/dev/mqueue" not in kinds(True, types=("mnt",))
    assert "/dev/shm" not in kinds(True, tmpfs=[dict(target="/dev/shm", size="1M")])


def test_parents_come_first_and_masks_last():
    wants = root(bind=[dict(source="/x", target="/a/b/c"), dict(source="/y", target="/a")], tmpfs=[dict(target="/a/b")],
                 masked_paths=["/a/b/c/secret"], read_only_paths=["/etc"]).wants(False)
    order = [want.target for want in wants]
    assert order.index("/a") < order.index("/a/b") < order.index("/a/b/c") < order.index("/a/b/c/secret")
    assert set(MASKED) | set(READ_ONLY) | {"/etc"} <= set(order) and order[0] == "/proc"
    assert next(want for want in wants if want.target == "/a").words == ["nosuid", "nodev"]


@pytest.mark.parametrize("options,path", [
    (dict(bind=[dict(source="/x", target="/")]), "s.bind[0].target"), (dict(bind=[dict(source="/x", target="/proc/x")]), "s.bind[0].target"),
    (dict(bind=[dict(source="/x", target="/sys")]), "s.bind[0].target"), (dict(bind=[dict(source="x", target="/y")]), "s.bind[0].source"),
    (dict(bind=[dict(target="/y")]), "s.bind[0].source"), (dict(bind=[3]), "s.bind[0]"), (dict(bind="/x:/y"), "s.bind"),
    (dict(bind=[dict(source="/x", target="/y", bogus=1)]), "s.bind[0].bogus"),
    (dict(bind=[dict(source="/x", target="/y", read_only="so")]), "s.bind[0].read_only"),
    (dict(bind=[dict(source="/x", target="/y/../../z")]), "s.bind[0].target"), (dict(tmpfs=[dict(target="/dev")]), "s.tmpfs[0].target"),
    (dict(tmpfs=[dict(target="/x", size="12Q")]), "s.tmpfs[0].size"), (dict(tmpfs=[dict(target="/x", size=-1)]), "s.tmpfs[0].size"),
    (dict(tmpfs=[dict(target="/x", size=0)]), "s.tmpfs[0].size"), (dict(tmpfs=[dict(target="/x", mode="999")]), "s.tmpfs[0].mode"),
    (dict(tmpfs=[dict(target="/x")], bind=[dict(source="/y", target="/x")]), "s.tmpfs[0].target"), (dict(devices=["/etc/passwd"]), "s.devices[0]"),
    (dict(devices=["/dev/pts/1"]), "s.devices[0]"), (dict(devices=["/dev/fuse", "/dev/fuse"]), "s.devices[1]"), (dict(devices=["/dev"]), "s.devices[0]"),
    (dict(devices=[dict(path="/dev/x", mode="7777")]), "s.devices[0].mode"), (dict(masked_paths=["x"]), "s.masked_paths[0]"),
    (dict(read_only_paths=[None]), "s.read_only_paths[0]"),
])
def test_each_error_of_a_root_has_its_path(options, path):
    problems = Problems()
    RootSpec.from_options(options, "s", problems, name="web", base="/srv/root", types=("mnt",))
    assert any(error.startswith(path) for error in problems.errors), problems.errors
