# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Records as older releases wrote them are read: what they declare is made again, and a task that says the same finds it so."""

from __future__ import annotations

import json
import os
import shutil

import boxes
import drive
import pytest
from module_utils._program import whole

TREE = boxes.BASE + "/tree"
SERVICE = {"command": ["/bin/busybox", "sleep", "1000"]}
# /etc/bulkhead after tasks of 0.1.0, to the letter but for the paths.
RECORDS = {
    "cgroup.d/bulkhead:old.json": {"cpu_max": "50%", "pids_max": "20"},
    "namespace.d/old.json": {"hostname": "old", "types": ["uts", "net", "pid"]},
    "overlay.d/:run:bulkhead:mnt:old.json": {
        "lower": [TREE], "on_mismatch": "fail", "path": "/run/bulkhead/mnt/old", "state": "mounted", "upper": "/var/lib/bulkhead/uppers/old/upper",
        "work": "/var/lib/bulkhead/uppers/old/work"},
    "service.d/s.json": dict(SERVICE, root=TREE, state="started"),
    "sandboxes.d/web.json": {
        "cgroup": {"pids_max": 30}, "name": "web", "namespaces": {"types": ["net", "uts", "ipc", "mnt", "pid", "cgroup"]}, "overlay": {"lower": [TREE]},
        "services": [dict(SERVICE, name="z")]},
}


@pytest.fixture(name="records")
def fixture_records():
    for name in ("bin", "etc", "proc", "sys", "dev", "run", "tmp"):
        os.makedirs("%s/%s" % (TREE, name))
    shutil.copy("/bin/busybox", TREE + "/bin")
    for name, options in RECORDS.items():
        os.makedirs("/etc/bulkhead/" + os.path.dirname(name), exist_ok=True)
        with open("/etc/bulkhead/" + name, "w", encoding="utf-8") as stream:
            json.dump({"options": options}, stream)
    yield
    boxes.take_away(remove_data=True)
    shutil.rmtree(boxes.BASE)


def test_records_of_the_first_release(records, converge):
    host = drive.new_host()
    done, failed = whole.restore(host)
    assert done and not failed, failed
    assert {(record.noun, record.name): whole.state(drive.new_host(), record) for record in whole.recorded(drive.new_host())} == {
        ("cgroup", "bulkhead/old"): ("present", ""), ("namespace", "old"): ("present", ""), ("overlay", "/run/bulkhead/mnt/old"): ("present", ""),
        ("service", "s"): ("present", "started"), ("sandbox", "web"): ("present", "z started")}
    again = {"sandbox": {"sandboxes": [RECORDS["sandboxes.d/web.json"]]}, "service": dict(RECORDS["service.d/s.json"], name="s"),
             "overlay": RECORDS["overlay.d/:run:bulkhead:mnt:old.json"], "namespace": dict(RECORDS["namespace.d/old.json"], name="old"),
             "cgroup": dict(RECORDS["cgroup.d/bulkhead:old.json"], name="bulkhead/old")}
    for noun, options in again.items():
        answer = converge(noun, **options)
        assert not answer["changed"] and not answer["restart_required"], answer
