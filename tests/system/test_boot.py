# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Restore at boot where the host's own supervisor is runit: a real runsvdir starts it, after the run-time state is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import drive
import pytest
from module_utils._engine import engine
from module_utils._program import host as whole_host, whole
from module_utils._supervisor import boot
from test_program import destroy_run_time_state, fixture_root, fixture_sandboxes, fixture_supervisor_ends, sleepers  # noqa: F401  pylint: disable=unused-import


@pytest.fixture(name="runsvdir")
def fixture_runsvdir(tmp_path, monkeypatch):
    """runsvdir() starts the host's own on a directory of services, as its boot does."""
    monkeypatch.setattr(boot, "CRON_RUNS", str(tmp_path / "no-cron"))
    (tmp_path / "services").mkdir()
    started = []

    def start():
        started.append(subprocess.Popen(["runsvdir", "-P", str(tmp_path / "services")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        return tmp_path / "services" / boot.RUNIT

    yield start
    for each in started:
        each.send_signal(signal.SIGHUP)  # with its services
        each.wait(10)


def host_module(check=False, **options):
    host = drive.new_host()
    outcome = engine.converge(host, whole_host, options, check)
    return outcome.changed, whole_host.result(host, options, outcome)["host"]


def wait_for(condition, patience=30):
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def ended(home):
    """Has it run, and is it left alone now?"""
    shown = subprocess.run(["sv", "status", str(home)], capture_output=True, text=True, check=False).stdout
    return shown.startswith("down:")


def test_the_host_s_runit_restores(runsvdir, sandboxes, converge, tmp_path):
    program = str(tmp_path / "bulkhead")
    home = runsvdir()
    wait_for(lambda: boot.place(drive.new_host()) == "runit")
    assert host_module(True, program=program)[0] and not home.exists()
    assert host_module(program=program) == (True, {"program": program, "supervisor": host_module(True, program=program)[1]["supervisor"],
                                                   "boot": "runit"})
    assert not host_module(True, program=program)[0] and not host_module(program=program)[0]
    wait_for(lambda: ended(home))
    assert not converge("sandbox", **sandboxes)["changed"]
    destroy_run_time_state()
    assert not sleepers()
    runsvdir()
    wait_for(lambda: sleepers() == {"web": 33, "cache": 33})
    wait_for(lambda: ended(home))
    assert not converge("sandbox", **sandboxes)["changed"]
    names = [{"name": each["name"], "state": "absent"} for each in sandboxes["sandboxes"]]
    converge("sandbox", sandboxes=names, kill=True, remove_data=True)
    assert host_module(state="absent", program=program, remove_data=True)[0]
    assert not home.exists() and not os.path.exists(program)
    assert not host_module(True, state="absent", program=program, remove_data=True)[0]


@pytest.mark.parametrize("how", ["absent", "purge", "host", "torn"])
def test_what_could_not_be_restored_can_be_removed(sandboxes, root, converge, how):
    """Nothing of it is there but record and data; claims went with the reboot."""
    destroy_run_time_state()
    os.rename(root, root + ".away")
    if how == "torn":
        with open("/etc/bulkhead/sandboxes.d/web.json", "w", encoding="utf-8") as stream:
            stream.write('{"options": {"na')
    host = drive.new_host()
    done, failed = whole.restore(host)
    assert sorted(record.name for record, message in failed) == ["cache", "web"] and not sleepers(), (done, failed)
    assert sorted(os.listdir("/run/bulkhead/failed")) == ["cache", "web"]
    if how == "host":
        assert all(host_module(check, state="absent", remove_data=True, program="/run/none")[0] for check in (True, False))
    else:
        wanted = dict(sandboxes=[], purge=True, remove_data=True) if how == "purge" else dict(
            sandboxes=[{"name": name, "state": "absent"} for name in ("web", "cache")], remove_data=True)
        assert converge("sandbox", check=True, **wanted)["changed"]
        assert converge("sandbox", **wanted)["changed"] and not converge("sandbox", **wanted)["changed"]
    for left in ("/etc/bulkhead/sandboxes.d", "/var/lib/bulkhead/uppers", "/run/bulkhead/failed"):
        assert not os.path.exists(left) or os.listdir(left) == [], (left, os.listdir(left))
    assert whole.restore(drive.new_host()) == ([], [])
