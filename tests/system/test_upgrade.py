# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A sandbox goes to another image while clients ask it, comes back where that one is not healthy, and is rolled back."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess

import archives
import drive
import jail
import pytest
from test_sandbox_network import address, links
from test_snapshot import slowly
from upgrades import HEALTH, Client, image, sandbox

from module_utils._engine.engine import converge as act
from module_utils._engine.records import Records
from module_utils._program import host as program
from module_utils._program import whole
from module_utils._resources import sandbox as resource

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
    drive.reap()
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

@pytest.mark.proves("upgrade")
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


@pytest.mark.proves("upgrade")
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


PAIRS = """
for f in 0 1 2 3 4 5 6 7 8 9; do [ -e /var/$f ] || echo 0 > /var/$f; done
n=$(/bin/busybox cat /var/0); turned=0; last=$n
for f in 0 1 2 3 4 5 6 7 8 9; do m=$(/bin/busybox cat /var/$f)
  [ "$m" = "$last" ] || { [ "$m" = $((last - 1)) ] && [ $turned = 0 ] && turned=1 && last=$m; } || { echo "torn: $m after $last"; exit 9; }
done
while :; do n=$((n+1)); for f in 0 1 2 3 4 5 6 7 8 9; do echo $n > /var/.new; /bin/busybox mv /var/.new /var/$f; done; done
"""  # ten files get one number after the other; who starts over what is not of one moment, ends


def test_a_trial_is_over_what_is_of_one_moment(converge, lab, monkeypatch):
    """A service writes all the time, and starts over nothing that is torn; of the upper on an ext4 most is copied before it stands still."""
    writes = dict(services=[{"name": "httpd", "health": HEALTH}, {"name": "writes", "command": ["/bin/sh", "-c", PAIRS]}],
                  storage={"size": "16M", "limit": "loop"})
    slowly(monkeypatch)
    bring(converge, "zero")
    converge("sandbox", **sandbox(network=NETWORK, **writes))
    for version in ("one", "two", "three", "four"):
        jail.until(lambda: read("var/9") not in (None, "0\n"))
        bring(converge, version)
        done = converge("sandbox", **sandbox(network=NETWORK, **writes))
        assert "try image web beside sandbox web" in done["actions"] and page() == version
    assert int(read("var/9")) > 4 and nothing_beside()


# -- what is refused

def test_what_is_refused_before_anything_is_touched(converge, refuse, lab):
    assert "nothing" not in refuse("sandbox", **sandbox(image="none"))
    bring(converge, "one")
    assert refuse("sandbox", **sandbox(state="rolled_back")).startswith("Cannot roll back sandbox web: ")
    converge("sandbox", **sandbox(network=NETWORK))
    assert "first version" in refuse("sandbox", **sandbox(network=NETWORK, state="rolled_back"))
    before = server(), kernel()
    bring(converge, "two")
    for more, why in (
            ({"upgrade": None}, "upgrade.upper is refuse. Set upgrade.upper to keep or fresh, or on_mismatch: recreate"),
            ({"bind": [{"source": PLACE, "target": "/var/place"}]},
             "its bind on /var/place can be written to, and both would. Mend that, or set upgrade.trial: false")):
        assert why in refuse("sandbox", check=True, **sandbox(network=NETWORK, **more))
        assert why in refuse("sandbox", **sandbox(network=NETWORK, **more))
        assert (server(), kernel()) == before and nothing_beside()
        host, options = drive.new_host(), sandbox(network=NETWORK, **more)
        assert resource.result(host, options, act(host, resource, options)) == {"sandboxes": [{"name": "web", "changed": False}]}
    message = refuse("sandbox", **sandbox(name="web.trial"))
    assert "web.trial is kept for the trial of an upgrade of web" in message
    converge("namespace", name="web.trial", types=["uts"])
    assert "there are namespaces web.trial already" in refuse("sandbox", **sandbox(network=NETWORK))
    converge("namespace", name="web.trial", state="absent")
    both(converge, **sandbox(network=NETWORK, bind=[{"source": PLACE, "target": "/var/place"}], upgrade={"upper": "keep", "trial": False}))
    assert page() == "two"


def test_as_before_where_no_upgrade_is_declared(converge, refuse):
    bring(converge, "one")
    converge("sandbox", **sandbox(upgrade=None))
    write("var/kept", "by one")
    bring(converge, "two")
    refuse("sandbox", **sandbox(upgrade=None))
    done = both(converge, **sandbox(upgrade=None, policy={"on_mismatch": "recreate"}))
    assert [each["web"]["image"].split(" sha256:")[0] for each in done["diff"].values()] == ["web", "web"] and len(set(map(str, done["diff"].values()))) == 2
    assert page() == "two" and read("var/kept") == "by one" and not any("try image" in action for action in done["actions"])
    both(converge, **sandbox(upgrade=None, state="rolled_back"))
    assert page() == "one" and nothing_beside()


def test_a_sandbox_without_namespaces(converge):
    """An overlay on the host, which no trial can be beside, and no connection held to."""
    plain = {"namespaces": None, "services": None, "upgrade": {"upper": "fresh"}}
    bring(converge, "one")
    converge("sandbox", **sandbox(**plain))
    archives.write("/run/bulkhead/mnt/web/var/kept", b"by one")
    bring(converge, "two")
    both(converge, **sandbox(**plain))
    assert jail.text("/run/bulkhead/mnt/web/srv/index.html") == "two" and not os.path.exists("/run/bulkhead/mnt/web/var/kept")
    both(converge, **sandbox(state="rolled_back", **plain))
    assert jail.text("/run/bulkhead/mnt/web/srv/index.html") == "one" and jail.text("/run/bulkhead/mnt/web/var/kept") == "by one"


# -- what stays

def test_what_a_version_before_needs_is_kept_and_a_reboot_brings_back_what_ran(converge, refuse, lab):
    bring(converge, "one")
    converge("sandbox", **sandbox(network=NETWORK))
    write("var/kept", "by one")
    bring(converge, "two")
    converge("sandbox", **sandbox(network=NETWORK))
    bring(converge, "three")
    both_before = len(os.listdir("/var/lib/bulkhead/layers"))
    converge("image", prune=True)
    assert len(os.listdir("/var/lib/bulkhead/layers")) == both_before  # one, two and three
    converge("sandbox", **sandbox(network=NETWORK, state="rolled_back"))
    assert page() == "one" and shown()["version"]["rolled_back"]
    drive.resource("sandbox")
    reboot()
    done, failed = whole.restore(drive.new_host())
    assert done and not failed, failed
    jail.until(server)
    assert page() == "one" and read("var/kept") == "by one"  # whatever the image is now
    assert whole.restore(drive.new_host()) == ([], [])
    both(converge, **sandbox(network=NETWORK))
    assert page() == "three" and shown()["version"]["previous"]["image"] == "web"
    converge("sandbox", sandboxes=[{"name": "web", "state": "absent"}], remove_data=True)
    converge("image", prune=True)
    assert len(os.listdir("/var/lib/bulkhead/layers")) == 2


def reboot():
    act(drive.new_host(), program, {"state": "absent", "clear": True})


@pytest.mark.parametrize("driver", ["copy"])
def test_a_root_of_another_storage_driver(converge, refuse, lab, driver):
    options = dict(network=NETWORK, storage={"driver": driver})
    bring(converge, "one")
    converge("sandbox", **sandbox(**options))
    write("var/kept", "by one")
    bring(converge, "bad", config={"Cmd": ["/bin/busybox", "false"]})
    before = server(), kernel()
    assert refuse("sandbox", **sandbox(**options)) == ("Cannot upgrade sandbox web to image web: Cannot start web.trial/httpd: it ended with status 1. "
                                                       "The one before still runs.")
    assert (server(), kernel()) == before and nothing_beside() and sorted(os.listdir("/var/lib/bulkhead/roots")) == [".bases-copy", "web"]
    bring(converge, "two")
    both(converge, **sandbox(**options))
    assert page() == "two" and read("var/kept") == "by one" and nothing_beside()
    both(converge, **sandbox(state="rolled_back", **options))
    assert page() == "one" and read("var/kept") == "by one" and nothing_beside()


# -- killed

POINTS = ["_trial._unwell", "_trial._remove", "_held.hold", "_kept.lay_aside", "_kept.os.mkdir", "namespace._remove", "root.furnish", "service.await_health",
          "_held.release", "_kept.forget"]
IN_THE_SWITCH = {"namespace._remove": 2, "root.furnish": 2, "service.await_health": 2}  # the first time is in the trial


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("on", [True, False])
def test_killed_anywhere_it_goes_on_or_back(converge, lab, asks, point, on):
    fresh = sandbox(network=NETWORK, upgrade={"upper": "fresh"})
    bring(converge, "one")
    converge("sandbox", **fresh)
    write("var/kept", "by one")
    bring(converge, "two")
    drive.killed("sandbox", point, fresh, IN_THE_SWITCH.get(point, 1))
    if on:
        both(converge, **fresh)
        assert page() == "two" and read("var/kept") is None and nothing_beside()
        both(converge, **sandbox(network=NETWORK, state="rolled_back"))
    else:
        bring(converge, "one")
        predicted = converge("sandbox", check=True, **fresh)
        assert converge("sandbox", **fresh)["actions"] == predicted["actions"]
        assert not converge("sandbox", **fresh)["changed"]
    assert page() == "one" and read("var/kept") == "by one" and nothing_beside()
    asks("127.0.0.1", 8080).end()


@pytest.mark.parametrize("point", ["_kept.lay_aside", "_kept.os.mkdir", "root.furnish", "_held.release"])
@pytest.mark.parametrize("on", [True, False])
def test_killed_where_the_root_is_a_plain_tree(converge, lab, point, on):
    options = dict(network=NETWORK, storage={"driver": "copy"}, upgrade={"upper": "fresh"})
    bring(converge, "one")
    converge("sandbox", **sandbox(**options))
    write("var/kept", "by one")
    bring(converge, "two")
    drive.killed("sandbox", point, sandbox(**options))
    if on:
        both(converge, **sandbox(**options))
        assert page() == "two" and read("var/kept") is None and nothing_beside()
        both(converge, **sandbox(state="rolled_back", **options))
    else:
        bring(converge, "one")
        converge("sandbox", **sandbox(**options))
        assert not converge("sandbox", **sandbox(**options))["changed"]
    assert page() == "one" and read("var/kept") == "by one" and nothing_beside()


@pytest.mark.parametrize("point", ["_held.hold", "_kept.change_places", "root.furnish", "_held.release"])
def test_a_rollback_that_is_killed(converge, lab, point):
    fresh = dict(network=NETWORK, upgrade={"upper": "fresh"})
    bring(converge, "one")
    converge("sandbox", **sandbox(**fresh))
    write("var/kept", "by one")
    bring(converge, "two")
    converge("sandbox", **sandbox(**fresh))
    write("var/kept", "by two")
    drive.killed("sandbox", point, sandbox(state="rolled_back", **fresh))
    both(converge, **sandbox(state="rolled_back", **fresh))
    assert page() == "one" and read("var/kept") == "by one" and nothing_beside()
    assert jail.text("/var/lib/bulkhead/uppers/web/upper.previous/var/kept") == "by two"


def about_to_fall_ill(converge, upper):
    """The declaration of a sandbox that runs, and has written, and whose image stands for a version now that is ill."""
    declared = sandbox(services=[{"name": "httpd", "health": ILL}], upgrade={"upper": upper, "trial": False})
    bring(converge, "one")
    converge("sandbox", **declared)
    write("var/kept", "by one")
    bring(converge, "two", more=(archives.entry(b"srv/bad"),))
    return declared


ILL = {"command": ["/bin/busybox", "test", "!", "-e", "/srv/bad"], "interval": "100ms", "retries": 2}


@pytest.mark.parametrize("upper", ["keep", "fresh"])
@pytest.mark.parametrize("point", ["service.await_health", "_upgrade.pick"])
def test_what_was_killed_before_it_was_found_ill_is_brought_back(converge, refuse, point, upper):
    declared = about_to_fall_ill(converge, upper)
    drive.killed("sandbox", point, declared)
    message = refuse("sandbox", **declared)
    assert "service httpd is not healthy" in message and "Undone: go on with the upgrade of sandbox web" in message, message
    assert page() == "one" and read("var/kept") == "by one" and nothing_beside()
    assert "Undone: begin the upgrade of sandbox web" in refuse("sandbox", **declared)
    bring(converge, "one")
    assert not converge("sandbox", **declared)["changed"]


@pytest.mark.parametrize("upper", ["keep", "fresh"])
def test_what_is_ill_is_brought_back_on_a_full_disk(converge, refuse, monkeypatch, upper):
    declared = about_to_fall_ill(converge, upper)
    write_all, left = Records.write_all, [1]

    def full(self, entries):
        left[0] -= bool(entries)
        if entries and left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/etc/bulkhead")
        return write_all(self, entries)

    monkeypatch.setattr(Records, "write_all", full)
    assert "service httpd is not healthy" in refuse("sandbox", **declared)
    monkeypatch.undo()
    assert page() == "one" and read("var/kept") == "by one"
    assert "service httpd is not healthy" in refuse("sandbox", **declared)
    bring(converge, "one")
    converge("sandbox", **declared)
    assert not converge("sandbox", **declared)["changed"] and page() == "one" and read("var/kept") == "by one" and nothing_beside()


def test_a_power_cut_in_the_middle(converge, lab):
    fresh = sandbox(network=NETWORK, upgrade={"upper": "fresh"})
    bring(converge, "one")
    converge("sandbox", **fresh)
    write("var/kept", "by one")
    bring(converge, "two")
    drive.killed("sandbox", "root.furnish", fresh, IN_THE_SWITCH["root.furnish"])
    assert shown()["unfinished"] == ["going to image web", "connections wait"]
    reboot()
    done, failed = whole.restore(drive.new_host())
    assert done and not failed, failed
    jail.until(server)
    assert page() == "one" and read("var/kept") == "by one" and nothing_beside()
    both(converge, **fresh)
    assert page() == "two" and read("var/kept") is None


def test_a_power_cut_in_a_trial(converge, lab):
    bring(converge, "one")
    converge("sandbox", **sandbox(network=NETWORK))
    bring(converge, "two")
    drive.killed("sandbox", "_trial._unwell", sandbox(network=NETWORK))
    assert shown()["unfinished"] == ["trial"]
    reboot()
    done, failed = whole.restore(drive.new_host())
    assert done and not failed, failed
    assert page() == "one" and nothing_beside() and not shown()["unfinished"]
