# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is said to systemctl and read from it, on an injected runner: names, one question for many units, files of units."""

from __future__ import annotations

import os

import pytest
from ansible_collections.bulkhead.isolation.plugins.module_utils._engine.host import Host
from ansible_collections.bulkhead.isolation.plugins.module_utils._model.errors import BulkheadError
from ansible_collections.bulkhead.isolation.plugins.module_utils._supervisor import systemctl


class Runner:
    """Answers like systemctl, and keeps what it was asked."""

    def __init__(self):
        self.calls, self.units, self.failure, self.loaded = [], {}, None, None

    def __call__(self, argv, data, env):
        if argv[1] == "list-units" and self.loaded is None:
            return 1, "", "It has no answer."
        self.calls.append(argv)
        if self.failure:
            return 1, "", self.failure
        if argv[1] == "--version":
            return 0, "systemd 252 (252.39-1~deb12u2)\n+PAM +AUDIT\n", ""
        if argv[1] == "list-units":
            return 0, "".join("%s loaded %s waiting Some words\n" % item for item in self.loaded.items()), ""
        if argv[1] == "show":
            return 0, "\n".join("Id=%s\nActiveState=%s\nControlGroup=/%s\nExecStart={ path=/a ; argv[]=/a=b }\n" % (
                unit, self.units.get(unit, "inactive"), unit) for unit in argv[argv.index("--") + 1:]), ""
        return 0, "", ""


@pytest.fixture
def host(tmp_path):
    host = Host(Runner(), units=str(tmp_path / "units"), bus=None)
    host.runner = host._run
    return host


@pytest.mark.parametrize("plain, escaped", [
    ("web", "web"), ("bulkhead/web", "bulkhead-web"), ("a-b", "a\\x2db"), ("a-b/c-d", "a\\x2db-c\\x2dd"), (".x", "\\x2ex"), ("x.y", "x.y"),
    ("a_b:c", "a_b:c"), ("ä", "\\xc3\\xa4"), ("a b", "a\\x20b"), ("a\\x2db", "a\\x5cx2db"), ("@x%", "\\x40x\\x25"),
])
def test_names_are_escaped_as_systemd_does(plain, escaped):
    assert systemctl.escape(plain) == escaped
    assert systemctl.unescape(escaped) == plain
    assert systemctl.slice_unit(plain) == escaped + ".slice" and systemctl.slice_name(escaped + ".slice") == plain
    assert systemctl.service_name(systemctl.service_unit(plain)) == plain


def test_units_have_the_projects_prefix_and_the_root_a_name_of_its_own():
    assert systemctl.service_unit("web/nginx") == "bulkhead-web-nginx.service"
    assert systemctl.slice_unit("") == "-.slice" and systemctl.slice_name("-.slice") == ""
    assert systemctl.service_name("ssh.service") is None and systemctl.service_name("bulkhead.service") is None


def test_a_name_that_systemd_does_not_take_is_refused():
    with pytest.raises(BulkheadError, match="255 characters"):
        systemctl.slice_unit("bulkhead/" + "-" * 70)


def test_the_version_is_asked_once(host):
    assert systemctl.version(host) == systemctl.version(host) == 252
    host.forget()
    assert systemctl.version(host) == 252 and len(host.runner.calls) == 1


def test_what_is_expected_is_asked_in_one_call(host):
    host.runner.units["b.slice"] = "active"
    systemctl.expect(host, ["a.slice", "b.slice"])
    found = systemctl.show(host, ["b.slice"])
    assert found == {"b.slice": dict(found["b.slice"], ActiveState="active", ControlGroup="/b.slice", MainPID="")}
    assert systemctl.show(host, ["a.slice", "b.slice"])["a.slice"]["ActiveState"] == "inactive"
    assert len(host.runner.calls) == 1 and host.runner.calls[0][-3:] == ["--", "b.slice", "a.slice"]


def test_what_is_known_ends_with_an_act_and_with_the_run(host):
    for act in (lambda: systemctl.start(host, "a.slice"), lambda: systemctl.drop(host, "a.slice"), lambda: systemctl.drop(host), host.forget):
        systemctl.show(host, ["a.slice"])
        asked = len(host.runner.calls)
        systemctl.show(host, ["a.slice"])
        assert len(host.runner.calls) == asked
        act()
        systemctl.show(host, ["a.slice"])
        assert host.runner.calls[-1][1] == "show" and len(host.runner.calls) > asked


def test_lists_are_quoted_where_they_have_a_backslash():
    assert systemctl.words(r'/a/b.conf "/a/w\\x2db.slice.d/c.conf"') == ["/a/b.conf", r"/a/w\x2db.slice.d/c.conf"]


def test_very_many_names_are_several_calls(host):
    units = ["%s%05d.slice" % ("x" * 100, number) for number in range(2000)]
    assert set(systemctl.show(host, units)) == set(units)
    assert len(host.runner.calls) == 3


def test_an_answer_for_other_units_is_an_error(host):
    host._run = lambda argv, data, env: (int(argv[1] == "list-units"), "Id=a.slice\n", "")
    with pytest.raises(BulkheadError, match="1 of 2 units"):
        systemctl.show(host, ["a.slice", "b.slice"])


def test_unit_files_are_whole_and_reloaded_once(host):
    assert systemctl.read(host, "a.slice") is None
    systemctl.reload(host)
    assert host.runner.calls == []
    assert systemctl.write(host, "a.slice", "[Slice]\n") is True
    assert systemctl.write(host, "a.slice", "[Slice]\n") is False
    assert systemctl.read(host, "a.slice") == "[Slice]\n" and os.listdir(host.units) == ["a.slice"]
    assert os.stat(systemctl.path(host, "a.slice")).st_mode & 0o777 == 0o644
    systemctl.reload(host)
    systemctl.reload(host)
    assert [call[2:] for call in host.runner.calls] == [["daemon-reload"]]
    assert systemctl.remove(host, "a.slice") is True and systemctl.remove(host, "a.slice") is False
    systemctl.reload(host)
    assert len(host.runner.calls) == 2 and os.listdir(host.units) == []


def test_a_half_written_file_of_a_killed_run_goes(host):
    os.makedirs(host.units)
    for name in ("a.slice", ".a.slice.new"):
        with open(host.units + "/" + name, "w", encoding="utf-8") as stream:
            stream.write("half")
    systemctl.write(host, "a.slice", "[Slice]\n")
    assert os.listdir(host.units) == ["a.slice"]
    with open(host.units + "/.a.slice.new", "w", encoding="utf-8") as stream:
        stream.write("half")
    systemctl.remove(host, "a.slice")
    assert os.listdir(host.units) == []


def test_acts_are_one_call_for_all_units(host):
    systemctl.stop(host, "a.service", "b.service")
    systemctl.start(host, "a.service", no_block=True)
    systemctl.start(host)
    systemctl.set_properties(host, "a.slice", ["MemoryMax=1M", "CPUWeight=20"])
    assert [call[2:] for call in host.runner.calls] == [
        ["stop", "--", "a.service", "b.service"], ["start", "--no-block", "--", "a.service"],
        ["set-property", "--runtime", "--", "a.slice", "MemoryMax=1M", "CPUWeight=20"]]


def test_what_systemctl_says_is_the_reason(host):
    host.runner.failure = "Job for a.service failed.\nSee \"systemctl status a.service\" for details.\n"
    with pytest.raises(BulkheadError, match=r"^Cannot start a.service: Job for a.service failed. Look at systemctl status and journalctl -e.$"):
        systemctl.start(host, "a.service")


def test_what_is_neither_loaded_nor_has_a_file_is_not_asked_for(host, tmp_path):
    host.runner.loaded = {"a\\x2db.slice": "active"}
    (tmp_path / "units/with-drop-in.service.d").mkdir(parents=True)
    (tmp_path / "units/with-file.service").write_text("")
    units = ["a\\x2db.slice", "with-drop-in.service", "with-file.service", "never.service", "never.slice"]
    systemctl.expect(host, units)
    found = systemctl.show(host, units[:1])
    assert host.runner.calls[-1][host.runner.calls[-1].index("--") + 1:] == units[:3]
    found = systemctl.show(host, units)
    assert len(host.runner.calls) == 2 and set(found["never.slice"]) == set(systemctl.PROPERTIES)
    assert [found[unit]["LoadState"] for unit in units[3:]] == ["not-found"] * 2 and found["never.service"]["ActiveState"] == "inactive"
    systemctl.write(host, "never.service", "[Service]\n")
    systemctl.show(host, ["never.service"])
    assert len(host.runner.calls) == 2
    host.forget()
    systemctl.show(host, ["never.service"])
    assert len(host.runner.calls) == 3


def test_units_that_begin_alike_are_listed_by_that(host):
    host.runner.loaded = {}
    assert systemctl.states(host, ["bulk-a\\x2db.service", "bulk-a\\x2dc.service"]) == {}
    assert host.runner.calls[-1][-1] == "bulk-a\\\\x2d*"
