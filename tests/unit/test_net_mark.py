# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""net_mark of a cgroup on fake trees: what nft is told by cgroup v1 and v2, and what net_cls.classid gets."""

from __future__ import annotations

import json
import re

import pytest
import test_cgroup
from ansible_collections.bulkhead.isolation.plugins.module_utils._kernel import nft
from ansible_collections.bulkhead.isolation.plugins.module_utils._model.errors import BulkheadError
from ansible_collections.bulkhead.isolation.plugins.module_utils._resources import _cgroup_mark
from test_cgroup import Machine

NAME = "bulkhead/web"


class Marks:
    """An nft that knows the table of marks alone: {handle: (words that match, mark, comment)}; None: it is not there."""

    def __init__(self):
        self.rules, self.last, self.refuse = None, 0, False

    def run(self, argv, data=None, env=None):
        if argv[1:3] == ["-n", "-j"]:
            return (1, "", "Error: No such file or directory\n") if self.rules is None else (0, json.dumps({"nftables": [
                {"rule": {"handle": handle, "comment": comment, "expr": [
                    {"match": {"op": "==", "left": {}, "right": word}}, {"mangle": {"key": {"meta": {"key": "mark"}}, "value": mark}}]}}
                for handle, (word, mark, comment) in self.rules.items()]}), "")
        if self.refuse:
            return 1, "", "Error: Could not process rule: Operation not supported\n"
        self.rules = self.rules or {}
        for line in data.splitlines():
            if line.startswith("delete table"):
                self.rules = None
            elif line.startswith("delete rule"):
                del self.rules[int(line.split()[-1])]
            elif line.startswith("add rule"):
                match = re.fullmatch(r'add rule inet bulkhead_marks output (?:meta cgroup (\d+)|socket cgroupv2 level (\d) "(.*)") '
                                     r'meta mark set (\d+) comment "(.*)"', line)
                assert match and (match[3] is None or match[3].count("/") + 1 == int(match[2])), line
                self.last += 1
                self.rules[self.last] = (match[3] or int(match[1]), int(match[4]), match[5])
        return 0, "", ""


@pytest.fixture
def marks(monkeypatch, tmp_path):
    (tmp_path / "nft").write_text("")
    (tmp_path / "nft").chmod(0o755)
    monkeypatch.setattr(nft, "PLACES", (str(tmp_path),))
    return Marks()


def machine(tmp_path, monkeypatch, mode, marks):
    made = Machine(tmp_path, monkeypatch, mode)
    monkeypatch.setattr(_cgroup_mark, "write", test_cgroup.cgroup.write)
    monkeypatch.setattr(_cgroup_mark, "_path", lambda trees, name: trees.path(name, "unified")[len(made.root) + 1:])
    plain = made.host

    def host():
        one = plain()
        one._run = marks.run
        one.drop("net marks")
        return one

    made.host = host
    return made


def test_by_cgroup_v2(tmp_path, monkeypatch, marks):
    one = machine(tmp_path, monkeypatch, "unified", marks)
    assert one.twice(name=NAME, net_mark=16)[-1] == "set net_mark of " + NAME
    assert list(marks.rules.values()) == [(NAME, 16, NAME)]
    assert one.twice(name=NAME, net_mark=17) == ["set net_mark of " + NAME]
    assert one.twice(name="bulkhead/db", net_mark=18)[-1] == "set net_mark of bulkhead/db"
    assert sorted(marks.rules.values()) == [("bulkhead/db", 18, "bulkhead/db"), (NAME, 17, NAME)]
    marks.rules[3] = (4711, 18, "bulkhead/db")  # of a cgroup that is no more
    assert one.twice(name="bulkhead/db", net_mark=18) == ["set net_mark of bulkhead/db"]
    assert one.twice(name="bulkhead/db", net_mark=0) == ["remove net_mark of bulkhead/db"]
    assert one.twice(name=NAME, state="absent") == ["remove cgroup " + NAME, "remove net_mark of " + NAME]
    assert marks.rules is None


def test_by_cgroup_v1(tmp_path, monkeypatch, marks):
    monkeypatch.setitem(test_cgroup.V1_FILES, "net_cls", {"net_cls.classid": "0\n"})
    one = machine(tmp_path, monkeypatch, "v1", marks)
    file = one.root + "/net_cls/" + NAME + "/net_cls.classid"
    one.twice(name=NAME, net_mark=0x10)
    assert open(file, encoding="ascii").read().strip() == "16" and list(marks.rules.values()) == [(16, 16, NAME)]
    with open(file, "w", encoding="ascii") as stream:
        stream.write("7\n")
    assert one.twice(name=NAME, net_mark=16) == ["set net_mark of " + NAME]
    one.twice(name=NAME, net_mark=0)
    assert open(file, encoding="ascii").read().strip() == "0" and marks.rules is None


def test_what_killed_runs_leave_is_brought_to_its_end(tmp_path, monkeypatch, marks):
    one = machine(tmp_path, monkeypatch, "unified", marks)
    one.twice(name=NAME)
    one.host().claims.begin("net_mark", NAME)  # about to set it
    assert one.twice(name=NAME, net_mark=16) == ["set net_mark of " + NAME]
    marks.rules = None  # the rule is gone, and its claim is not yet
    assert one.twice(name=NAME, state="absent") == ["remove cgroup " + NAME, "remove net_mark of " + NAME]
    assert one.host().claims.names("net_mark") == []


def test_without_means_it_is_refused_before_anything_is_made(tmp_path, monkeypatch, marks):
    one = machine(tmp_path, monkeypatch, "v1", marks)
    assert "net_mark needs the v1 controller net_cls or cgroup v2 alone" in one.refuse(name=NAME, net_mark=16)
    one = machine(tmp_path / "other", monkeypatch, "unified", marks)
    monkeypatch.setattr(nft, "PLACES", ())
    assert "nft is not installed. Install the package nftables." in one.refuse(name=NAME, net_mark=16)
    assert not one.log and marks.rules is None


def test_a_mark_that_nft_refuses_undoes_the_run(tmp_path, monkeypatch, marks):
    one = machine(tmp_path, monkeypatch, "unified", marks)
    marks.refuse = True
    with pytest.raises(BulkheadError, match="Cannot set net_mark of cgroup bulkhead/web: Could not process rule: Operation not supported. "):
        one.converge(name=NAME, net_mark=16)
    assert not (tmp_path / "cgroup" / NAME).exists()
