# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Steps of a build: what is refused before the host is looked at, what their outcome depends on; layers that come twice."""

from __future__ import annotations

import json

import pytest
from ansible_collections.bulkhead.isolation.plugins.module_utils._model import build
from ansible_collections.bulkhead.isolation.plugins.module_utils._model.errors import Problems
from ansible_collections.bulkhead.isolation.plugins.module_utils._model.image import ImageSpec
from ansible_collections.bulkhead.isolation.plugins.module_utils._resources import _store
from hypothesis import given
from hypothesis import strategies as st


def parse(*steps):
    problems = Problems()
    return build.steps(list(steps), "steps", problems), problems.errors


def test_good():
    (line, words, copy, write), errors = parse(
        {"run": "a\nb  c", "env": {"A": 1}, "user": 33, "workdir": "/srv", "network": "none", "timeout": "90500ms", "bind": [{"src": "/a", "dest": "/b"}]},
        {"run": ["/bin/true", "x"]}, {"copy": {"src": "/a", "dest": "/", "mode": "644", "owner": "web"}}, {"write": {"dest": "/b", "content": ""}})
    assert not errors and line.command == ["/bin/sh", "-e", "-c", "a\nb  c"] and line.told == "run a b c" and line.env == {"A": "1"}
    assert (line.user, line.workdir, line.network, line.timeout, line.bind, line.sources) == ("33", "/srv", "none", 91, [("/a", "/b")], ["/a"])
    assert (words.command, words.user, words.workdir, words.network, words.timeout) == (["/bin/true", "x"], "root", "/", "host", None)
    assert (copy.told, copy.mode, copy.owner, copy.group, copy.sources) == ("copy /a to /", 0o644, "web", None, ["/a"])
    assert write.content == "" and write.sources == [] and write.told == "write /b"


@pytest.mark.parametrize("step, where", [
    ({}, ""), ("x", ""), ({"run": "a", "copy": {}}, ""), ({"run": ""}, ".run"), ({"run": " "}, ".run"), ({"run": []}, ".run"), ({"run": 5}, ".run"),
    ({"run": "a\0"}, ".run"), ({"run": ["a\0"]}, ".run[0]"), ({"run": "a", "env": {"A=": "b"}}, ".env.A="), ({"run": "a", "env": {"A": "\0"}}, ".env.A"),
    ({"run": "a", "user": "a b"}, ".user"), ({"run": "a", "workdir": "x"}, ".workdir"), ({"run": "a", "network": "bridge"}, ".network"),
    ({"run": "a", "timeout": "0s"}, ".timeout"), ({"run": "a", "bind": [{"src": "/a"}]}, ".bind[0].dest"), ({"run": "a", "cwd": "/"}, ".cwd"),
    ({"run": "a", "cgroup": "../a"}, ".cgroup"), ({"write": {"dest": "/a", "content": ""}, "cgroup": "a"}, ".cgroup"),
    ({"run": "a", "bind": [{"src": "/a", "dest": "/proc/x"}]}, ".bind[0].dest"), ({"run": "a", "bind": [{"src": "/a", "dest": "/"}]}, ".bind[0].dest"),
    ({"run": "a", "bind": [{"src": "/a", "dest": "/b"}, {"src": "/c", "dest": "/b"}]}, ".bind[1].dest"), ({"copy": {"src": "/a"}}, ".copy.dest"),
    ({"copy": {"dest": "/a"}}, ".copy.src"), ({"copy": {"src": "a", "dest": "/a"}}, ".copy.src"), ({"copy": {"src": "/a", "dest": "/../b"}}, ".copy.dest"),
    ({"copy": {"src": "/a", "dest": "/b", "mode": "9"}}, ".copy.mode"), ({"copy": {"src": "/a", "dest": "/b", "owner": -1}}, ".copy.owner"),
    ({"copy": {"src": "/a", "dest": "/b", "content": "x"}}, ".copy.content"), ({"write": {"dest": "/", "content": "x"}}, ".write.dest"),
    ({"write": {"dest": "/a"}}, ".write.content"), ({"write": {"dest": "/a", "content": "x"}, "user": "root"}, ".user"),
    ({"write": {"dest": "/a", "content": ["x"]}}, ".write.content"),
])
def test_bad(step, where):
    assert [error.split(": ")[0] for error in parse(step)[1]] == ["steps[0]" + where]


@pytest.mark.parametrize("options, where", [
    ({"name": "a", "from": "a"}, "from"), ({"name": "a", "from": "b/c"}, "from"), ({"name": "a", "steps": []}, "steps"),
    ({"name": "a", "tar": "/a", "steps": [{"run": "x"}]}, "steps"), ({"name": "a", "from": "b", "tar": "/a"}, "from"),
    ({"name": "a", "from": "b", "state": "absent"}, "from"), ({"name": "a", "from": "b", "digest": "sha256:" + "a" * 64}, "digest"),
    ({"name": "a", "from": "b", "steps": "x"}, "steps"), ({"name": "a", "from": "b", "steps": [{"run": "x"}] * 401}, "steps"),
])
def test_bad_image(options, where):
    problems = Problems()
    ImageSpec.from_options(options, "", problems)
    assert [error.split(": ")[0] for error in problems.errors] == [where]


def test_what_the_outcome_depends_on():
    """Every option but the time that a step may take and the place that something came from."""
    full = {"run": "a", "env": {"A": "1"}, "user": "web", "workdir": "/srv", "network": "none", "bind": [{"src": "/a", "dest": "/b"}]}
    others = dict(run="b", env={"A": "2"}, user="web2", workdir="/srv2", network="host", bind=[{"src": "/a", "dest": "/c"}])
    told = [json.dumps(parse(dict(full, **{key: value}))[0][0].canonical()) for key, value in others.items()]
    told += [json.dumps(parse(step)[0][0].canonical()) for step in (
        full, {"run": ["a"]}, {"copy": {"src": "/a", "dest": "/b"}}, {"copy": {"src": "/a", "dest": "/c"}},
        {"copy": {"src": "/a", "dest": "/b", "mode": "644"}}, {"copy": {"src": "/a", "dest": "/b", "owner": "a"}},
        {"write": {"dest": "/b", "content": ""}}, {"write": {"dest": "/b", "content": "x"}})]
    assert len(set(told)) == len(told)
    for step, same in ((full, dict(full, timeout=5)), (full, dict(full, cgroup="bounds")), (full, dict(full, bind=[{"src": "/z", "dest": "/b"}])),
                       ({"copy": {"src": "/a", "dest": "/b"}}, {"copy": {"src": "/z", "dest": "/b"}})):
        assert parse(step)[0][0].canonical() == parse(same)[0][0].canonical()


def shown(stack):
    """{name: its content} as an overlay shows layers, the lowest first, of which each is {name: content, None: removed}."""
    found = {}
    for layer in stack:
        found.update(layer)
    return {name: content for name, content in found.items() if content is not None}


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.none() | st.integers(0, 2), min_size=1).map(lambda layer: tuple(sorted(layer.items()))), max_size=6))
def test_a_layer_once(stack):
    once = _store.once(stack)
    assert len(set(once)) == len(once) and shown(map(dict, once)) == shown(map(dict, stack))
