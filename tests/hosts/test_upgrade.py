# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A sandbox of a host as a fleet has it goes to another image while a client asks it, stays where that one is ill, and goes back; with a reboot after each."""

from __future__ import annotations

import json

import pytest

# What is run on the host begins with this. Each call of the engine is a process of its own, as that of a module is.
BEGIN = """
import json
import os
import drive
import upgrades

PLACE = "/srv/upgrades"
WEB = upgrades.sandbox(network={"name": "lab", "publish": ["8080:80"]})
BACK = upgrades.sandbox(network={"name": "lab", "publish": ["8080:80"]}, state="rolled_back")
os.makedirs(PLACE, exist_ok=True)

def act(noun, check=False, **options):
    return drive.isolated(lambda: drive.converge(noun, options, check), 600)

def converge(noun, check=False, **options):
    answer = act(noun, check, **options)
    assert "error" not in answer, answer["error"]
    return answer

def both(options):
    said, did, quiet, again = [converge("sandbox", check, **options) for check in (True, False, True, False)]
    assert did["changed"] and said["actions"] == did["actions"] and said["diff"] == did["diff"], (said, did)
    assert not quiet["changed"] and not again["changed"], (quiet, again)

def asks(version):
    client = upgrades.Client("127.0.0.1", 8080)
    client.hears(version)
    return client

def seen():
    shown = drive.info("sandbox", names=["web"])["sandboxes"][0]
    pid = shown["services"][0]["pid"]
    with open("/proc/%d/root/srv/index.html" % pid) as page, open("/proc/%d/root/var/kept" % pid) as kept:
        return {"pid": pid, "page": page.read(), "kept": kept.read(), "version": shown["version"]}

def beside():
    places = ["/run/netns", "/run/bulkhead/ns", "/var/lib/bulkhead/uppers", "/etc/bulkhead/sandboxes.d", "/run/systemd/transient", "/etc/systemd/system"]
    return [name for place in places if os.path.isdir(place) for name in os.listdir(place) if ".trial" in name or "-trial" in name]
"""

FIRST = """
upgrades.image(converge, PLACE, "one")
converge("network", name="lab", subnets=["10.42.0.0/24"])
converge("sandbox", **WEB)
with open("/proc/%d/root/var/kept" % drive.info("sandbox", names=["web"])["sandboxes"][0]["services"][0]["pid"], "w") as stream:
    stream.write("by one")
os.sync()
client = asks("one")
upgrades.image(converge, PLACE, "two")
both(WEB)
client.hears("two")
print(json.dumps([client.end(), seen(), beside()]))
"""

ILL = """
client, before = asks("two"), seen()
upgrades.image(converge, PLACE, "ill", config={"Cmd": ["/bin/busybox", "sh", "-c", "echo it is broken; exec /bin/busybox sleep 1000"]})
said = act("sandbox", **WEB)
print(json.dumps([client.end(), before, seen(), said.get("error"), beside()]))
"""

BACKWARD = """
client = asks("two")
both(BACK)
client.hears("one")
print(json.dumps([client.end(), seen(), beside()]))
"""

AFTER = """
asks(%r).end()
print(json.dumps([seen(), converge("sandbox", **%s)]))
"""

GONE = """
both({"sandboxes": [{"name": "web", "state": "absent"}], "remove_data": True})
converge("network", name="lab", state="absent")
converge("image", name="web", state="absent")
converge("image", prune=True)
print(json.dumps([os.listdir("/var/lib/bulkhead/layers"), beside()]))
"""


@pytest.fixture
def ready(fresh_host):
    """A host with `bulkhead restore` at boot."""
    fresh_host.install("busybox-static")
    fresh_host.python("import drive; from module_utils._program import host; drive.engine.converge(drive.new_host(), host, {})")
    return fresh_host


def run(host, part):
    return json.loads(host.python(BEGIN + part, patience=1800).splitlines()[-1])


def reboot(host, version, options="WEB"):
    """It runs what it ran before, and there is nothing to do: what is seen of it."""
    host.reboot(settled=False)
    assert host.settle() == "running", host.run("systemctl --failed; journalctl -b -u bulkhead-restore")
    now, answer = run(host, AFTER % (version, options))
    assert now["page"] == version and now["kept"] == "by one" and not answer["changed"], (now, answer)
    return now, answer


@pytest.mark.proves("upgrade")
def test_upgrade_under_a_client_an_ill_one_and_rollback(ready):
    host = ready
    told, now, left = run(host, FIRST)
    assert told == ["one", "two"] and now["page"] == "two" and now["kept"] == "by one" and not left, (told, now, left)
    reboot(host, "two")
    told, before, now, error, left = run(host, ILL)
    assert error.startswith("Cannot upgrade sandbox web to image web: service httpd is not healthy. Its last words: it is broken."), error
    assert "The one before still runs." in error
    assert told == ["two"] and now == before and not left, (told, before, now, left)  # the same process
    reboot(host, "two", "{'sandboxes': []}")  # its image is the ill one still
    told, now, left = run(host, BACKWARD)
    assert told == ["two", "one"] and now["page"] == "one" and now["kept"] == "by one" and now["version"]["rolled_back"] and not left, (told, now, left)
    reboot(host, "one", "BACK")
    layers, left = run(host, GONE)
    assert not layers and not left and host.run("ls /etc/systemd/system | grep bulkhead-web || true") == ""
