# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A sandbox goes to another image while clients ask it, comes back where that one is not healthy, and is rolled back."""

from __future__ import annotations

import os
import shutil
import subprocess

import archives
import drive
import jail
import pytest
from test_sandbox_network import address, links
from upgrades import Client, image, sandbox

PLACE = "/run/upgrades"
LAB = {"name": "lab", "subnets": ["10.42.0.0/24"]}
NETWORK = {"name": "lab", "publish": ["8080:80"]}


@pytest.fixture(autouse=True)
def place(leaves_nothing):
    os.makedirs(PLACE)
    yield
    answer = drive.converge("sandbox", {"sandboxes": [], "purge": True, "remove_data": True, "kill": True})
    assert "error" not in answer, answer["error"]
    host = drive.new_host()
    for name in host.records.names("interface"):
        drive.converge("interface", {"interfaces": [dict(zip(("namespace", "name"), name.split("/")), state="absent")]})
    for name in host.records.names("network"):
        drive.converge("network", {"name": name, "state": "absent", "force": True})
    assert links() == ["lo"] and not subprocess.run(["nft", "list", "ruleset"], capture_output=True, check=True).stdout
    jail.clear_images()
    assert not os.path.isdir("/etc/bulkhead/versions.d") or not os.listdir("/etc/bulkhead/versions.d")
    shutil.rmtree(PLACE)


@pytest.fixture
def lab(converge):
    converge("network", **LAB)
    converge("namespace", name="peer", types=["net"])
    converge("interface", interfaces=[{"namespace": "peer", "name": "eth0", "network": "lab"}])


@pytest.fixture
def asks():
    """asks(address, port, place): a client that asks over and over, and has been answered once."""
    clients = []

    def act(*words):
        clients.append(Client(*words))
        clients[-1].hears("one")
        return clients[-1]

    yield act
    for client in clients:
        if client.process.poll() is None:
            client.end()


def bring(converge, version, **more):
    image(converge, PLACE, version, **more)


def both(converge, **options):
    """Check, run, check, run: what the run answers."""
    predicted = converge("sandbox", check=True, **options)
    done = converge("sandbox", **options)
    assert done["changed"] and predicted["actions"] == done["actions"] and predicted["diff"] == done["diff"]
    for check in (True, False):
        again = converge("sandbox", check=check, **options)
        assert not again["changed"], again["actions"]
    return done


def shown(name="web"):
    return drive.info("sandbox", names=[name])["sandboxes"][0]


def kernel():
    """What the modules show of it, but for what is used at the moment."""
    return {key: value for key, value in shown().items() if key != "cgroup"}


def server(name="web"):
    return shown(name)["services"][0]["pid"]


def page(name="web"):
    return jail.text("/proc/%d/root/srv/index.html" % server(name))


def write(path, text, name="web"):
    """As if the service had written it."""
    archives.write("/proc/%d/root/%s" % (server(name), path), text.encode())


def read(path, name="web"):
    try:
        return jail.text("/proc/%d/root/%s" % (server(name), path))
    except FileNotFoundError:
        return None


def nothing_beside():
    """No trial, no connection that waits, no note of an upgrade on its way."""
    found = subprocess.run(["nsenter", "--net=/run/netns/web", "nft", "list", "ruleset"], capture_output=True, check=True).stdout
    there = [name for place in ("/run/netns", "/run/bulkhead/ns", "/var/lib/bulkhead/uppers", "/etc/bulkhead/sandboxes.d", "/run/bulkhead/made/cgroup",
                                "/run/bulkhead/service") if os.path.isdir(place) for name in os.listdir(place) if ".trial" in name]
    record = jail.text("/etc/bulkhead/versions.d/web.json") if os.path.exists("/etc/bulkhead/versions.d/web.json") else ""
    return found == b"" and not there and not os.path.exists("/run/bulkhead/made/held/web.json") and '"next"' not in record


# -- what comes off

def test_no_request_fails_while_it_is_upgraded_and_rolled_back(converge, lab, asks):
    bring(converge, "one")
    converge("sandbox", **sandbox(network=NETWORK))
    write("var/kept", "by one")
    clients = [asks("127.0.0.1", 8080), asks(address("web"), 80, "peer"), asks("10.42.0.1", 8080, "peer")]
    bring(converge, "two")
    both(converge, **sandbox(network=NETWORK))
    assert page() == "two" and read("var/kept") == "by one" and nothing_beside()
    for client in clients:
        client.hears("two")
    both(converge, **sandbox(network=NETWORK, state="rolled_back"))
    assert page() == "one" and read("var/kept") == "by one" and nothing_beside()
    for client in clients:
        client.hears("one")
        assert client.end() == ["one", "two", "one"]


def test_a_fresh_layer_and_back(converge, lab):
    bring(converge, "one")
    converge("sandbox", **sandbox(network=NETWORK))
    write("var/kept", "by one")
    bring(converge, "two")
    fresh = {"upper": "fresh"}
    both(converge, **sandbox(network=NETWORK, upgrade=fresh))
    assert page() == "two" and read("var/kept") is None
    write("var/kept", "by two")
    both(converge, **sandbox(network=NETWORK, upgrade=fresh, state="rolled_back"))
    assert page() == "one" and read("var/kept") == "by one"
    again = converge("sandbox", **sandbox(network=NETWORK, upgrade=fresh))
    assert not again["changed"] and "was rolled back" in again["warnings"][0] and page() == "one"
    retry = sandbox(network=NETWORK, upgrade={"upper": "fresh", "retry": True})
    both(converge, **retry)
    assert page() == "two" and read("var/kept") is None
    converge("sandbox", **sandbox(network=NETWORK, upgrade=fresh, state="rolled_back"))
    assert read("var/kept") == "by one" and nothing_beside()
    bring(converge, "three")
    both(converge, **sandbox(network=NETWORK, upgrade={"upper": "keep"}))
    assert page() == "three" and read("var/kept") == "by one"
    assert sorted(os.listdir("/var/lib/bulkhead/uppers/web")) == ["upper", "work"]


def test_a_new_image_that_is_not_healthy_touches_nothing(converge, refuse, lab, asks):
    bring(converge, "one")
    converge("sandbox", **sandbox(network=NETWORK))
    write("var/kept", "by one")
    client, before = asks("127.0.0.1", 8080), (server(), kernel())
    bring(converge, "two", config={"Cmd": ["/bin/busybox", "sh", "-c", "echo it is broken; exec /bin/busybox sleep 1000"]})
    message = refuse("sandbox", **sandbox(network=NETWORK))
    assert message.startswith("Cannot upgrade sandbox web to image web: service httpd is not healthy. Its last words: it is broken. "
                              "The one before still runs."), message
    assert (server(), kernel()) == before and page() == "one" and read("var/kept") == "by one" and nothing_beside()
    assert links() == sorted(links()) and len(links()) == 4
    assert client.end() == ["one"]
    bring(converge, "one")
    assert not converge("sandbox", **sandbox(network=NETWORK))["changed"] and server() == before[0]


def test_what_is_not_healthy_in_its_place_is_brought_back(converge, refuse, lab, asks):
    """Its health depends on an address that the trial does not have."""
    health = {"command": ["/bin/sh", "-c", "/bin/busybox ip addr | /bin/busybox grep -q 10.42.0.9/ && /bin/busybox test -e /srv/bad && exit 1; exit 0"],
              "interval": "100ms", "retries": 2}
    declared = dict(network=dict(NETWORK, addresses=["10.42.0.9/24"]), services=[{"name": "httpd", "health": health}])
    bring(converge, "one")
    converge("sandbox", **sandbox(**declared))
    write("var/kept", "by one")
    client = asks("127.0.0.1", 8080)
    bring(converge, "two", more=(archives.entry(b"srv/bad"),))
    for upper in ("keep", "fresh"):
        message = refuse("sandbox", **sandbox(upgrade={"upper": upper}, **declared))
        assert "service httpd is not healthy" in message and "Undone: begin the upgrade of sandbox web" in message, message
        assert page() == "one" and read("var/kept") == "by one" and nothing_beside() and address("web") == "10.42.0.9"
        assert sorted(os.listdir("/var/lib/bulkhead/uppers/web")) == ["upper", "work"]
    assert set(client.end()) <= {"one", "two"}
    bring(converge, "one")
    assert not converge("sandbox", **sandbox(**declared))["changed"]
