# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What one document declares of a host's sandboxes: defaults, derived names and paths, and every error with its place."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.bulkhead.isolation.plugins.module_utils._model import sandbox as model
from ansible_collections.bulkhead.isolation.plugins.module_utils._model import upgrade
from ansible_collections.bulkhead.isolation.plugins.module_utils._model import values
from ansible_collections.bulkhead.isolation.plugins.module_utils._model import values
from ansible_collections.bulkhead.isolation.plugins.module_utils._model.errors import Problems

TYPES = ["net", "uts", "ipc", "mnt", "pid", "cgroup"]
SLEEP = {"name": "sleep", "command": ["/bin/sleep", "1"]}
WEB = {"name": "web", "namespaces": {"types": TYPES}, "cgroup": {"pids_max": 9}, "overlay": {"lower": ["/base"]}, "services": [SLEEP]}


def parse(*entries, **options):
    problems = Problems()
    specs = model.parse(dict(sandboxes=list(entries), **options), "", problems)
    return specs, problems.errors


def one(**changes):
    """The Spec of WEB with changes, which must be good."""
    specs, errors = parse({key: value for key, value in dict(WEB, **changes).items() if value is not ...})
    assert not errors, errors
    return specs[0]


def errors_of(**changes):
    return parse({key: value for key, value in dict(WEB, **changes).items() if value is not ...})[1]


# -- what follows from the name

def test_names_and_paths_follow_from_the_name():
    spec = one()
    assert (spec.key, spec.state, spec.purged) == ("web", "present", False)
    assert spec.cgroup.name == "bulkhead/web" and spec.cgroup.exact
    assert (spec.namespaces.name, spec.namespaces.cgroup, spec.namespaces.exact) == ("web", "bulkhead/web", True)
    assert spec.overlay.path == "/run/bulkhead/mnt/web"
    assert (spec.overlay.upper, spec.overlay.work) == ("/var/lib/bulkhead/uppers/web/upper", "/var/lib/bulkhead/uppers/web/work")
    assert spec.root.base is spec.overlay and spec.root.name == "web" and spec.root.types == frozenset(TYPES)
    service = spec.services[0]
    assert service.name == "web/sleep" and service.whole and service.prepared
    assert (service.declared["namespace"], service.declared["cgroup"]) == ("web", "bulkhead/web") and "root" not in service.declared


def test_upper_and_work_of_ones_own():
    spec = one(overlay={"lower": ["/a", "/b"], "upper": "/data/upper", "work": "/data/work"})
    assert (spec.overlay.lower, spec.overlay.upper, spec.overlay.work) == (["/a", "/b"], "/data/upper", "/data/work")


def test_a_read_only_overlay_has_no_upper():
    spec = one(overlay={"lower": ["/base"], "read_only": True})
    assert (spec.overlay.upper, spec.overlay.work, spec.root.read_only) == (None, None, True)


def test_a_directory_as_root():
    spec = one(overlay=..., root="/srv/jail")
    assert spec.overlay is None and spec.root.base == "/srv/jail"
    spec = one(overlay=..., root="/srv/jail", namespaces={"types": ["uts"]})
    assert spec.root is None and spec.services[0].declared["root"] == "/srv/jail" and not spec.services[0].prepared


def test_without_a_mount_namespace_the_overlay_is_the_root_of_its_services():
    spec = one(namespaces={"types": ["uts", "net"]})
    assert spec.root is None and spec.services[0].declared["root"] == spec.overlay.path == "/run/bulkhead/mnt/web"
    spec = one(namespaces=...)
    assert spec.namespaces is None and spec.services[0].declared["namespace"] is None


def test_the_least():
    spec = parse({"name": "web"})[0][0]
    assert (spec.namespaces, spec.overlay, spec.root, spec.services) == (None, None, None, []) and spec.cgroup.name == "bulkhead/web"


def test_what_is_in_the_root_goes_to_the_root():
    spec = one(bind=[{"source": "/a", "target": "/b"}], tmpfs=[{"target": "/c", "size": "1M"}], devices=["/dev/fuse"], masked_paths=["/m"],
               read_only_paths=["/r"])
    assert [want.target for want in spec.root.bind + spec.root.tmpfs] == ["/b", "/c"]
    assert (spec.root.devices[0][0], spec.root.masked_paths, spec.root.read_only_paths) == ("fuse", ["/m"], ["/r"])


def test_what_is_recorded_is_what_was_written():
    spec = one(state="present", cgroup={"memory_max": "1M"})
    assert spec.options == dict({key: value for key, value in WEB.items() if key != "state"}, cgroup={"memory_max": "1M"})


# -- networks

def test_a_network_is_an_interface_and_its_names_are_shown_in_the_root():
    spec = one(network="lab")
    assert [(each.key, each.type, each.network) for each in spec.interfaces] == [("web/eth0", "veth", "lab")]
    spec = one(network={"name": "lab", "publish": ["8080:80"], "addresses": ["10.42.0.5/24"]},
               interfaces=[{"name": "eth1", "network": "back"}, {"name": "sink", "type": "dummy"}])
    assert [each.key for each in spec.interfaces] == ["web/eth0", "web/eth1", "web/sink"]
    assert spec.interfaces[0].addresses == ["10.42.0.5/24"] and spec.options["network"]["name"] == "lab"
    wants = {want.target: want for want in spec.root.wants(True, names="/etc/netns/web")}
    for name in ("hosts", "resolv.conf"):
        want = wants["/etc/" + name]
        assert (want.source, want.words, want.live) == ("/etc/netns/web/" + name, ["ro", "nosuid", "nodev", "noexec"], True)


def test_without_a_network_a_sandbox_keeps_its_own_names():
    for spec in (one(), one(interfaces=[{"name": "sink", "type": "dummy"}])):
        assert not [want for want in spec.root.wants(True, names="/n") if want.target.startswith("/etc/")]


def test_what_is_declared_for_the_place_of_names_is_there_instead():
    wants = one(network="lab", bind=[{"source": "/srv/hosts", "target": "/etc/hosts"}], tmpfs=[{"target": "/run"}]).root.wants(True, names="/n")
    assert [(want.target, want.source) for want in wants if want.target in ("/etc/hosts", "/etc/resolv.conf", "/run")] == [
        ("/etc/hosts", "/srv/hosts"), ("/run", None), ("/etc/resolv.conf", "/n/resolv.conf")]  # in an image a link to /run


def test_a_default_network_is_one_for_all():
    specs, errors = parse({"name": "a"}, {"name": "b", "network": {"publish": ["80"]}}, {"name": "c", "network": None},
                          defaults={"namespaces": {"types": ["net"]}, "network": {"name": "lab"}})
    assert not errors and [len(spec.interfaces) for spec in specs] == [1, 1, 0]


@pytest.mark.parametrize(("changes", "path"), [
    ({"network": "l b"}, "network"), ({"network": 5}, "network"), ({"network": {"name": "l b"}}, "network.name"), ({"network": {"mtu": 1500}}, "network.name"),
    ({"network": {"name": "lab", "mtu": 1}}, "network.mtu"), ({"network": {"name": "lab", "colour": 1}}, "network.colour"),
    ({"network": "lab", "namespaces": {"types": ["uts"]}}, "network"), ({"interfaces": [{"name": "d", "type": "dummy"}], "namespaces": ...}, "interfaces"),
    ({"interfaces": [{"name": "a" * 16, "type": "dummy"}]}, "interfaces[0].name"), ({"interfaces": {}}, "interfaces"),
    ({"network": "lab", "interfaces": [{"name": "eth0", "type": "dummy"}]}, "interfaces[0].name"),
])
def test_one_error_of_a_network_with_its_path(changes, path):
    errors = errors_of(**changes)
    assert len(errors) == 1 and errors[0].startswith("sandboxes[0].%s: " % path), errors


def test_two_sandboxes_cannot_have_one_address_or_port():
    errors = parse(dict(WEB, network={"name": "lab", "addresses": ["10.42.0.5/24"], "publish": ["8080:80"]}),
                   dict(WEB, name="b", network={"name": "lab", "addresses": ["10.42.0.5/24"], "publish": ["8080:81"]}))[1]
    assert {error.split(": ")[0] for error in errors} == {"sandboxes[1].network.addresses", "sandboxes[1].network.publish"}


# -- the policy of a run

def test_policy_reaches_the_parts():
    specs = parse(WEB, on_mismatch="recreate", on_change="restart", purge=True, remove_data=False)[0]
    assert specs.policy == {"on_mismatch": "recreate", "on_change": "restart", "purge": True, "remove_data": False, "kill": None, "force": None, "reset": None,
                            "restore": None}
    assert specs[0].namespaces.on_mismatch == "recreate" and specs[0].services[0].on_change == "restart"
    assert parse(WEB)[0][0].namespaces.on_mismatch == "fail"


# -- how it comes to another image

def test_an_upgrade_is_declared():
    spec = parse(dict(WEB, image="web", overlay=None, upgrade={"upper": "keep", "drain": "250ms"}))[0][0].upgrade
    assert (spec.upper, spec.trial, spec.drain, spec.retry, spec.back) == ("keep", None, 250000, False, False)
    assert parse(WEB)[0][0].upgrade.upper == "refuse"
    rolled = parse(dict(WEB, image="web", overlay=None, state="rolled_back"))[0][0]
    assert (rolled.state, rolled.upgrade.back) == ("present", True) and "state" not in rolled.options


@pytest.mark.parametrize(("changes", "path"), [
    ({"upgrade": {"upper": "new"}}, "upgrade.upper"), ({"upgrade": {"trial": "perhaps"}}, "upgrade.trial"), ({"upgrade": 1}, "upgrade"),
    ({"upgrade": {"drain": "x"}}, "upgrade.drain"), ({"upgrade": {"colour": 1}}, "upgrade.colour"), ({"name": "web.trial"}, "name"),
    ({"name": "web.previous"}, "name"),
    ({"image": None, "upgrade": {"upper": "keep"}}, "upgrade"), ({"image": None, "state": "rolled_back"}, "state"),
])
def test_one_error_of_an_upgrade_with_its_path(changes, path):
    errors = errors_of(**dict({"image": "web", "overlay": None}, **changes))
    assert len(errors) == 1 and errors[0].startswith("sandboxes[0].%s: " % path), errors


def test_a_trial_is_of_the_same_declaration_but_has_nothing_that_only_one_can_have():
    options = {"name": "web", "image": "web", "upgrade": {"upper": "keep"}, "overlay": {"upper": "/a", "work": "/b", "options": {"index": True}},
               "network": {"name": "lab", "addresses": ["10.0.0.2/24"], "publish": ["80"], "egress": {"policy": "deny"}},
               "interfaces": [{"name": "eth1", "network": "back"}, {"name": "wg0", "type": "wireguard"}], "services": [{"name": "nginx"}],
               "storage": {"driver": "auto", "size": "1G"}, "cgroup": {"pids_max": 4}}
    assert upgrade.declaration("web", options, "copy") == {
        "name": "web.trial", "image": "web", "overlay": {"options": {"index": True}}, "network": {"name": "lab", "egress": {"policy": "deny"}},
        "interfaces": [{"name": "eth1", "network": "back"}], "services": [{"name": "nginx", "enabled": False}], "storage": {"driver": "copy"},
        "cgroup": {"pids_max": 4}}
    assert upgrade.declaration("web", {"name": "web", "network": "lab"}, "overlay")["network"] == {"name": "lab"}


@pytest.mark.parametrize(("changes", "why"), [
    ({}, None), ({"bind": [{"source": "/a", "target": "/b", "read_only": True}]}, None), ({"namespaces": {"types": ["mnt"]}}, "net namespace of the host"),
    ({"bind": [{"source": "/a", "target": "/b"}]}, "bind on /b"), ({"name": "a" * 60}, "too long"),
])
def test_why_there_cannot_be_two_at_once(changes, why):
    specs, errors = parse(dict({"name": "web", "image": "web", "namespaces": {"types": ["net", "mnt"]}}, **changes))
    found = upgrade.obstacle(specs[0])
    assert not errors and (found is None if why is None else why in found)


def test_absent_needs_no_parts():
    specs, errors = parse({"name": "web", "state": "absent"})
    assert not errors and specs[0].state == "absent" and specs[0].options == {"name": "web"}
    gone = model.SandboxSpec.absent("old", specs.policy)
    assert (gone.key, gone.state, gone.purged) == ("old", "absent", True)


# -- defaults

def test_defaults_are_merged_by_key_and_lists_are_replaced():
    defaults = {"namespaces": {"types": TYPES}, "cgroup": {"pids_max": 5, "memory_max": "1M", "cpu_max": {"quota": "50ms", "period": "100ms"}},
                "overlay": {"lower": ["/nginx", "/base"]}, "tmpfs": [{"target": "/tmp"}]}
    before = copy.deepcopy(defaults)
    specs, errors = parse({"name": "a"}, {"name": "b", "cgroup": {"pids_max": 6, "cpu_max": {"quota": "10ms"}}, "overlay": {"lower": ["/base"]}, "tmpfs": []},
                          {"name": "c", "cgroup": {"cpu_max": "max"}, "tmpfs": None}, defaults=defaults)
    assert not errors and defaults == before
    assert [spec.cgroup.value("pids_max") for spec in specs] == [5, 6, 5] and [spec.cgroup.value("memory_max") for spec in specs] == [1 << 20] * 3
    assert [spec.cgroup.value("cpu_max")["quota"] for spec in specs] == [50000, 10000, "max"]
    assert [spec.overlay.lower for spec in specs] == [["/nginx", "/base"], ["/base"], ["/nginx", "/base"]]
    assert [len(spec.root.tmpfs) for spec in specs] == [1, 0, 0]
    assert specs[0].namespaces.types == specs[2].namespaces.types


def test_nothing_takes_a_default_away():
    specs, errors = parse({"name": "a", "cgroup": {"pids_max": None}, "overlay": None}, defaults={"cgroup": {"pids_max": 5}, "overlay": {"lower": ["/b"]}})
    assert not errors and specs[0].cgroup.value("pids_max") is None and specs[0].overlay is None


@pytest.mark.parametrize(("defaults", "path"), [
    ("text", "defaults: "), ([1], "defaults: "), ({"name": "x"}, "defaults.name: "), ({"state": "absent"}, "defaults.state: "),
    ({"colour": 1}, "defaults.colour: "),
])
def test_bad_defaults(defaults, path):
    errors = parse(defaults=defaults)[1]
    assert len(errors) == 1 and errors[0].startswith(path)


VALUES = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
    st.sampled_from("abc"), inner, max_size=3), max_leaves=8)
TREES = st.dictionaries(st.sampled_from("abcd"), VALUES, max_size=4)


@settings(max_examples=100, deadline=None)
@given(TREES, TREES)
def test_merging_is_sound(first, second):
    before = copy.deepcopy((first, second))
    assert values.merge({}, first) == first == values.merge(first, {}) == values.merge(first, first)
    merged = values.merge(first, second)
    assert set(merged) == set(first) | set(second)
    for key, value in second.items():
        assert merged[key] == (values.merge(first.get(key), value) if isinstance(first.get(key), dict) else value)
    for key in set(first) - set(second):
        assert merged[key] == first[key]
    assert (first, second) == before and values.merge(merged, second) == merged


# -- errors, each with its place

@pytest.mark.parametrize(("changes", "path"), [
    ({"name": "../x"}, "name"), ({"name": ...}, "name"), ({"name": "a/b"}, "name"), ({"state": "started"}, "state"), ({"colour": 1}, "colour"),
    ({"cgroup": {"memory_max": "12Q"}}, "cgroup.memory_max"), ({"cgroup": {"name": "x"}}, "cgroup.name"), ({"cgroup": 5}, "cgroup"),
    ({"cgroup": {"state": "absent"}}, "cgroup.state"), ({"cgroup": {"io_max": [{"device": "8:0"}]}}, "cgroup.io_max[0]"),
    ({"namespaces": {"types": TYPES + ["moon"]}}, "namespaces.types[6]"), ({"namespaces": {"types": TYPES, "state": "absent"}}, "namespaces.state"),
    ({"namespaces": {"types": TYPES, "sysctls": {"kernel.panic": 1}}}, "namespaces.sysctls.kernel.panic"),
    ({"overlay": {"lower": ["/a", "x"]}}, "overlay.lower[1]"), ({"overlay": {}}, "overlay.lower"),
    ({"overlay": {"lower": ["/a"], "upper": "/u"}}, "overlay.work"),
    ({"overlay": {"lower": ["/a"], "options": {"index": 5}}}, "overlay.options.index"), ({"root": "/x"}, "root"), ({"overlay": ..., "root": "x"}, "root"),
    ({"services": [{"name": "a"}]}, "services[0].command"), ({"services": [SLEEP, SLEEP]}, "services[1].name"), ({"services": {}}, "services"),
    ({"services": [SLEEP, dict(SLEEP, name="b", capabilities=["chown", "fly"])]}, "services[1].capabilities[1]"),
    ({"services": [dict(SLEEP, root="/")]}, "services[0].root"), ({"services": [dict(SLEEP, bind=[])]}, "services[0].bind"),
    ({"services": [dict(SLEEP, namespace="x")]}, "services[0].namespace"), ({"services": [dict(SLEEP, name=["x"])]}, "services[0].name"),
    ({"bind": [{"source": "/a", "target": "x"}]}, "bind[0].target"), ({"tmpfs": [{"target": "/t", "size": "x"}]}, "tmpfs[0].size"),
    ({"devices": ["/etc/passwd"]}, "devices[0].path"), ({"masked_paths": ["x"]}, "masked_paths[0]"),
    ({"tmpfs": [{"target": "/t"}], "namespaces": {"types": ["uts"]}}, "tmpfs"), ({"bind": [{"source": "/a", "target": "/b"}], "overlay": ...}, "bind"),
])
def test_one_error_with_its_path(changes, path):
    errors = errors_of(**changes)
    assert len(errors) == 1 and errors[0].startswith("sandboxes[0].%s: " % path), errors


def test_types_are_named():
    assert errors_of(namespaces={"hostname": "a"})[0].startswith("sandboxes[0].namespaces.types: is missing")


def test_all_errors_of_all_sandboxes():
    errors = parse(dict(WEB, name="we b", cgroup={"memory_max": "12Q"}), WEB, dict(WEB, services=[dict(SLEEP, user="a b")]))[1]
    assert [error.split(": ")[0] for error in errors] == [
        "sandboxes[0].name", "sandboxes[0].cgroup.memory_max", "sandboxes[2].services[0].user", "sandboxes[2].name"]


def test_names_are_there_once():
    assert parse({"name": "a"}, {"name": "b"}, {"name": "a"})[1] == ["sandboxes[2].name: a is declared twice (also sandboxes[0])"]
    assert parse({"name": "a"}, {"name": "a", "state": "absent"})[1] == ["sandboxes[1].name: a is declared twice (also sandboxes[0])"]
    assert not parse({"name": "a"}, {"name": "A"})[1]


def test_each_has_its_own_upper():
    shared = {"lower": ["/base"], "upper": "/u", "work": "/w"}
    errors = parse({"name": "a", "overlay": shared}, {"name": "b", "overlay": dict(shared, work="/x")},
                   {"name": "c", "overlay": dict(shared, upper="/u/", work="/y")})[1]
    assert len([error for error in errors if "/u is the upper of a too" in error]) == 2
    assert not parse({"name": "a", "overlay": {"lower": ["/base"]}}, {"name": "b", "overlay": {"lower": ["/base"]}})[1]


@pytest.mark.parametrize("value", ["text", 5, {"name": "web"}, True])
def test_the_list_is_a_list(value):
    problems = Problems()
    assert model.parse({"sandboxes": value}, "", problems) == [] and problems.errors[0].startswith("sandboxes: ")


@pytest.mark.parametrize("value", ["text", 5, [], None])
def test_an_entry_is_a_dictionary(value):
    assert parse(value)[1][0].startswith("sandboxes[0]")


def test_an_error_in_the_defaults_is_told_once_where_it_was_written():
    problems = Problems()
    model.parse({"defaults": {"cgroup": {"memory_max": "12Q"}, "namespaces": {"types": ["uts"]}},
                 "sandboxes": [{"name": "a"}, {"name": "b", "cgroup": {"pids_max": -1}}, {"name": "c", "cgroup": {"memory_max": "13Q"}}]}, "", problems)
    assert [error.split(": ")[0] for error in problems.errors] == [
        "defaults.cgroup.memory_max", "sandboxes[1].cgroup.pids_max", "sandboxes[2].cgroup.memory_max"]


def test_what_is_declared_of_an_absent_one_is_read_too():
    problems = Problems()
    model.parse({"sandboxes": [{"name": "a", "state": "absent", "cgroup": {"memory_max": "12Q"}, "services": 5}]}, "", problems)
    assert [error.split(": ")[0] for error in problems.errors] == ["sandboxes[0].cgroup.memory_max", "sandboxes[0].services"]
