# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Interfaces with the kernel and the pyroute2 of a Debian: the types and limits that the development machine's kernel lacks, udev, a reboot."""

from __future__ import annotations

import json

import pytest

# One Python on the host for all of it, as each start of one costs seconds there.
TYPES = """
import json
import subprocess
import sys
import drive


def command(*words):
    ended = subprocess.run(words, capture_output=True, text=True)
    assert not ended.returncode, (words, ended.stderr)
    return ended.stdout


def inside(*words):
    return command("nsenter", "--net=/run/netns/web", *words)


def cycle(**options):
    one = dict({"namespace": "web", "name": "eth0"}, **options)
    answers = [drive.converge("interface", {"interfaces": [one]}, check) for check in (True, False, True, False)]
    assert not any("error" in answer for answer in answers), answers
    assert answers[0]["actions"] == answers[1]["actions"] and [answer["changed"] for answer in answers] == [True, True, False, False], answers
    shown = drive.info("interface", namespace="web")["interfaces"]
    assert [each["type"] for each in shown] == [one["type"]] and shown[0]["owned"], shown
    inside("ip", "address", "flush", "dev", "eth0")
    mended = drive.converge("interface", {"interfaces": [one]})
    assert mended["changed"] and shown[0]["addresses"] == drive.info("interface", namespace="web")["interfaces"][0]["addresses"], mended
    return shown[0]


def gone():
    answers = [drive.converge("interface", {"interfaces": [{"namespace": "web", "name": "eth0", "state": "absent"}]}) for again in (1, 2)]
    assert [(answer["changed"], answer.get("error")) for answer in answers] == [(True, None), (False, None)], answers
    assert inside("ip", "-o", "link").count("\\n") == 1


assert "error" not in drive.converge("namespace", {"name": "web", "types": ["net"]})
command("ip", "link", "add", "card", "type", "veth", "peer", "name", "far")
command("ip", "link", "set", "card", "up")
command("ip", "link", "set", "far", "up")
private, peer = (command("sh", "-c", "umask 077; wg genkey | tee /root/%s.key | wg pubkey" % name).strip() for name in ("own", "peer"))
said = {}
for kind, options in {
        "vlan": {"parent": "card", "vlan_id": 7}, "ipvlan": {"parent": "card", "mode": "l3"}, "macvlan": {"parent": "card", "mode": "private"},
        "vxlan": {"vni": 7, "remote": "192.0.2.9"}, "dummy": {}, "tap": {},
        "wireguard": {"private_key_file": "/root/own.key", "listen_port": 51820, "peers": [
            {"public_key": peer, "endpoint": "192.0.2.9:51820", "allowed_ips": ["10.9.0.2/32"], "keepalive": 25}]}}.items():
    said[kind] = cycle(type=kind, addresses=["10.9.0.1/24"], **options)
    if kind == "wireguard":
        assert private in inside("wg", "show", "eth0", "public-key") and peer in inside("wg", "show", "eth0", "allowed-ips")
        more = {"namespace": "web", "name": "eth0", "type": kind, "private_key_file": "/root/own.key", "peers": []}
        done = drive.converge("interface", {"interfaces": [more]})
        assert done["actions"] == ["set peers of web/eth0"] and inside("wg", "show", "eth0", "peers") == "", done
        assert open("/root/own.key").read().strip() not in json.dumps(done)
    gone()
command("ip", "link", "delete", "far")
print(json.dumps(said))
"""

NETEM = """
import json
import subprocess
import drive

bandwidth = {"transmit": {"rate": "5mbit", "delay": "40ms", "jitter": "1ms", "loss": "0.5%"}, "receive": {"delay": "20ms"}}
one = {"namespace": "web", "name": "eth0", "network": "lab", "bandwidth": bandwidth}
assert "error" not in drive.converge("namespace", {"name": "web", "types": ["net"]})
assert "error" not in drive.converge("network", {"name": "lab", "subnets": ["10.42.0.0/24", "fd00:42::/64"]})
answers = [drive.converge("interface", {"interfaces": [one]}, check) for check in (True, False, True, False)]
assert [answer["changed"] for answer in answers] == [True, True, False, False], answers
for damage in (["nsenter", "--net=/run/netns/web", "tc", "qdisc", "delete", "dev", "eth0", "parent", "1:1"],
               ["nsenter", "--net=/run/netns/web", "tc", "qdisc", "delete", "dev", "eth0", "root"]):
    subprocess.run(damage, check=True)
    done = drive.converge("interface", {"interfaces": [one]})
    assert done["actions"] == ["set bandwidth.transmit of web/eth0"], done
assert not drive.converge("interface", {"interfaces": [one]})["changed"]
shown = drive.info("interface", namespace="web")["interfaces"][0]
sent = subprocess.run(["nsenter", "--net=/run/netns/web", "python3", "-c", '''
import socket, time
one = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
one.settimeout(5)
times = []
for number in range(20):
    begun = time.monotonic()
    one.sendto(bytes([8, 0]) + (0xf7ff - number).to_bytes(2, "big") + bytes(2) + number.to_bytes(2, "big"), ("10.42.0.1", 0))
    try:
        one.recv(200)
        times.append(time.monotonic() - begun)
    except OSError:
        pass
print(min(times))
'''], capture_output=True, text=True, check=True).stdout
print(json.dumps({"shown": shown, "round": float(sent), "macs": subprocess.run(["ip", "-j", "link"], capture_output=True, text=True).stdout}))
"""


RESTORE = """
import json
import drive
from module_utils._program import whole

done, failed = whole.restore(drive.new_host())
assert not failed, [message for record, message in failed]
print(json.dumps(drive.info("interface", namespace="web")["interfaces"]))
"""


@pytest.fixture(scope="module")
def ready(machine):
    """The host with the packages that the role network installs."""
    machine.reset()
    machine.install("wireguard-tools")
    yield machine
    machine.reset()


def test_each_type_that_a_debian_has(ready):
    said = json.loads(ready.python(TYPES, patience=900))
    assert said["vlan"]["vlan_id"] == 7 and said["vlan"]["parent"] == "card" and said["ipvlan"]["mode"] == "l3" and said["macvlan"]["mode"] == "private"
    assert all(each["addresses"] == ["10.9.0.1/24"] for each in said.values())


def test_delay_loss_udev_and_a_reboot(ready):
    said = json.loads(ready.python(NETEM, patience=900))
    transmit, receive = said["shown"]["bandwidth"]["transmit"], said["shown"]["bandwidth"]["receive"]
    assert (transmit["rate"], transmit["delay"], transmit["loss"]) == ("5mbit", 40000, 0.5) and receive["delay"] == 20000
    assert 0.058 < said["round"]  # there and back; how much more it is, is the emulated machine's
    before = said["shown"]
    ready.run("udevadm settle")
    assert not ready.converge("interface", interfaces=[{"namespace": "web", "name": "eth0", "network": "lab"}])["changed"]
    macs = {each["ifname"]: each["address"] for each in json.loads(ready.run("ip -j link"))}
    assert macs == {each["ifname"]: each["address"] for each in json.loads(said["macs"])}  # udev has left them as they were made
    ready.reboot()
    again = json.loads(ready.python(RESTORE, patience=600))
    assert [(each["addresses"], each["mac"], each["bandwidth"]["receive"]["delay"]) for each in again] == [(before["addresses"], before["mac"], 20000)]
