# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What may be declared of a service, what is refused with its path, and what it is rendered to."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.bulkhead.isolation.plugins.module_utils._kernel import caps
from ansible_collections.bulkhead.isolation.plugins.module_utils._model import service as model
from ansible_collections.bulkhead.isolation.plugins.module_utils._model.errors import Problems
from ansible_collections.bulkhead.isolation.plugins.module_utils._supervisor import common, runit

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=20)
    | st.sampled_from(["-1", "4294967295", "default", "off", "/", "..", "12Q"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.text(max_size=8) | st.sampled_from(["command", "tcp", "http", "soft", "nofile", "target"]), inner, max_size=3),
    max_leaves=6)


def parse(path="", **options):
    problems = Problems()
    spec = model.ServiceSpec.from_options(options, path, problems)
    return spec, problems.errors


def test_a_whole_declaration():
    spec, errors = parse(
        name="web", command=["/usr/sbin/nginx", "-g", "daemon off;"], user=33, group="www-data", groups=["b", 7], environment={"A": 1, "B": True},
        cwd="/srv//www/", umask="027", namespace="web", cgroup="bulkhead/web", capabilities=["CAP_CHOWN", "kill", "chown"],
        ambient_capabilities=["kill"], no_new_privs="no", seccomp=False, rlimits={"nofile": [1, "2"], "core": "max", "as": {"soft": 5, "hard": "unlimited"}},
        stop_signal="sigquit", stop_timeout="3s", restart=False, log={"max_size": "64K"}, health={"http": "http://[::1]:8080/x?y#z", "interval": "2s"},
        nice=-5, oom_score_adj="7", root="/srv/web", bind=[{"source": "/a", "target": "/b"}])
    assert not errors
    assert spec.declared == {
        "command": ["/usr/sbin/nginx", "-g", "daemon off;"], "user": "33", "group": "www-data", "groups": ["7", "b"], "environment": {"A": "1", "B": "true"},
        "cwd": "/srv/www", "umask": 0o27, "namespace": "web", "cgroup": "bulkhead/web", "capabilities": ["chown", "kill"],
        "ambient_capabilities": ["kill"], "no_new_privs": False, "seccomp": "off", "rlimits": {"nofile": [1, 2], "core": [-1, -1], "as": [5, -1]},
        "stop_signal": "QUIT", "stop_timeout": 3000000, "restart": "no", "log": {"enabled": True, "max_size": 65536, "max_files": 10},
        "health": {"http": ["::1", 8080, "/x?y"], "interval": 2000000, "timeout": 5000000, "retries": 3, "start_period": 0}, "nice": -5,
        "oom_score_adj": 7, "root": "/srv/web", "bind": [{"source": "/a", "target": "/b"}]}
    assert json.loads(json.dumps(spec.declared)) == spec.declared


@pytest.mark.parametrize(("option", "value", "word"), [
    ("name", "a/b/c", "name"), ("name", "../a", "name"), ("name", "a\n", "name"), ("name", "x" * 300, "name"), ("command", [], "command"),
    ("command", [""], "command"), ("command", ["a\0b"], "command[0]"), ("command", "nginx -g", "command"), ("user", "-1", "user"),
    ("user", "4294967295", "user"), ("user", "007", "user"), ("user", "a:b", "user"), ("user", " root", "user"), ("user", "", "user"),
    ("user", -1, "user"), ("user", True, "user"), ("user", "\u0663", "user"), ("group", "1e3", "group"), ("groups", ["ok", "-2"], "groups[1]"),
    ("environment", {"A=B": "c"}, "environment.A=B"), ("environment", {"": "c"}, "environment"), ("environment", {"A": "b\0c"}, "environment.A"),
    ("environment", {"A": ["b"]}, "environment.A"), ("environment", {"1A": "b"}, "environment.1A"), ("cwd", "../etc", "cwd"), ("cwd", "/a/../b", "cwd"),
    ("umask", "999", "umask"), ("umask", "1777", "umask"), ("namespace", "a/b", "namespace"), ("cgroup", "/a", "cgroup"),
    ("capabilities", ["sys_everything"], "capabilities[0]"), ("capabilities", [7], "capabilities[0]"), ("seccomp", "../x", "seccomp"),
    ("seccomp", ["read"], "seccomp"), ("seccomp", ["execve", "a b"], "seccomp[1]"), ("rlimits", {"files": 1}, "rlimits.files"),
    ("rlimits", {"nofile": [2, 1]}, "rlimits.nofile"), ("rlimits", {"nofile": "lots"}, "rlimits.nofile"), ("rlimits", {"core": [1, 2, 3]}, "rlimits.core"),
    ("stop_signal", "STOP", "stop_signal"), ("stop_signal", 9, "stop_signal"), ("stop_timeout", "12Q", "stop_timeout"), ("stop_timeout", "-1s", "stop_timeout"),
    ("restart", "sometimes", "restart"), ("log", {"max_size": "1"}, "log.max_size"), ("log", {"where": "x"}, "log.where"), ("health", {}, "health"),
    ("health", {"tcp": 1, "http": "http://1.1.1.1/"}, "health"), ("health", {"tcp": 70000}, "health.tcp"), ("health", {"tcp": "host:80"}, "health.tcp"),
    ("health", {"http": "https://127.0.0.1/"}, "health.http"), ("health", {"http": "http://example.com/"}, "health.http"),
    ("health", {"http": "http://127.0.0.1/a b"}, "health.http"), ("health", {"http": "http://127.0.0.1/\r\nX: y"}, "health.http"),
    ("health", {"tcp": 80, "interval": "0"}, "health.interval"), ("health", {"tcp": 80, "retries": 0}, "health.retries"), ("nice", 20, "nice"),
    ("oom_score_adj", -1001, "oom_score_adj"), ("state", "present", "state"), ("on_change", "ignore", "on_change"),
    ("bind", [{"source": "/a"}], "bind[0].target"),
    ("bind", "x", "bind"), ("tmpfs", [{"target": "/proc/x"}], "tmpfs[0].target"), ("devices", ["/etc/passwd"], "devices[0].path"),
])
def test_refused(option, value, word):
    options = dict({"name": "web", "command": ["x"], "root": "/srv"}, **{option: value})
    dummy, errors = parse(**options)
    assert errors and any(error.startswith(word + ":") or error.startswith(word + " ") for error in errors), errors
    assert all("\n" not in error for error in errors)
    dummy, errors = parse(path="sandboxes[3].services[0]", **options)
    assert any(error.startswith("sandboxes[3].services[0]." + word) for error in errors)


def test_unknown_option():
    assert parse(name="web", colour="red")[1] == ["chroot_service.colour: there is no such option"]


def test_all_at_once():
    dummy, errors = parse(name="..", command=[], user="-1", nice=99)
    assert len(errors) == 4


def test_no_value_of_the_environment_in_an_error():
    dummy, errors = parse(name="web", environment={"A": ["s3cret"], "B": "s3cret\0"})
    assert len(errors) == 2 and "s3cret" not in "".join(errors)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(model.OPTIONS), ANYTHING, max_size=6))
def test_anything_is_a_problem_or_fit_for_json(options):
    problems = Problems()
    spec = model.ServiceSpec.from_options(options, "", problems)
    assert all("\n" not in error for error in problems.errors)
    json.dumps(spec.declared)
    if not problems.errors:
        assert spec.effective({})["stop_timeout"] >= 0


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=14) | st.integers().map(str))
def test_a_user_is_digits_or_a_name(text):
    spec, errors = parse(name="web", user=text)
    if not errors:
        user = spec.declared["user"]
        assert user == text and (not user[0].isdigit() or 0 <= int(user) < 0xFFFFFFFF and str(int(user)) == user)


def test_base_and_whole():
    spec = parse(name="web", umask="077")[0]
    assert spec.effective({"user": "nobody", "own_root": 1})["user"] == "nobody" and "own_root" not in spec.effective({"own_root": 1})
    spec.whole = True
    assert spec.effective({"user": "nobody"})["user"] == "root"


def test_capabilities():
    assert caps.bit("CAP_SYS_ADMIN") == caps.bit("sys_admin") == 21 and caps.bit("none") is None and caps.bit(None) is None
    assert caps.names([0, 63]) == ["63", "chown"] and caps.members(0b101) == ["chown", "dac_read_search"]
    assert not set(model.CAPABILITIES) & caps.POWERFUL


# -- rendering

class FakeHost:
    state, log, proc, check = "/run/bulkhead", "/var/log/bulkhead", "/proc", False


@pytest.fixture
def tools(monkeypatch):
    monkeypatch.setattr(runit, "tool", lambda name, check=False: "/usr/bin/" + name)


def unit(**keys):
    keys = dict({"name": "web", "spec": {"command": ["x"]}, "stop_signal": "TERM", "restart": "no", "options": {}}, **keys)
    return runit.render(FakeHost, common.Unit(**keys), json.dumps)


def test_run_without_namespaces(tools):
    files = unit(log={"size": 4096, "files": 2})
    assert files["run"].splitlines()[-1] == "exec /run/bulkhead/bin/python3 -IS /run/bulkhead/bin/enter /run/bulkhead/service/web/spec.json"
    assert json.loads(files["spec.json"])["started"] == "/run/bulkhead/service/web/started.json"
    assert files["log/run"].endswith("exec /usr/bin/svlogd -tt /var/log/bulkhead/web\n") and files["log/config"] == "s4096\nn2\n"
    assert not {"check", "down", "control/t"} & set(files)


def test_run_in_a_pid_namespace(tools):
    last = unit(name="web/nginx", pid_pin="/run/bulkhead/ns/web/pid")["run"].splitlines()[-1]
    assert last.startswith("exec /usr/bin/setsid /usr/bin/nsenter --pid=/run/bulkhead/ns/web/pid --no-fork "
                           "-- /usr/bin/tini -s -- /run/bulkhead/bin/python3 -IS ")
    assert last.endswith("/run/bulkhead/service/web:nginx/spec.json")


def test_the_rest(tools):
    files = unit(health={"a": 1}, stop_signal="QUIT", down=True, kill="/sys/fs/cgroup/a/b/cgroup.kill", restart="on-failure")
    assert files["check"].endswith("/health.json\n") and "kill -s QUIT" in files["control/t"] and files["down"] == ""
    assert "echo 1 > /sys/fs/cgroup/a/b/cgroup.kill" in files["finish"] and 'if [ "$code" = 0 ]' in files["finish"]
    assert "> /dev/null" in files["run"] and "log/run" not in files
