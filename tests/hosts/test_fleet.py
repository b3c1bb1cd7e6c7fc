# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Images of a fleet, by Ansible and ssh as a fleet has them: made on one host, copied to another Debian as the layers that it lacks, bytes counted."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess

import pytest
import remote

LAYER = 6 << 20  # bytes that no compression of ssh makes fewer
STORE = "/var/lib/bulkhead"
LEFT = "find /var/tmp /tmp /home/tester /var/lib/bulkhead -name '*bulkhead-*' -o -name bundles -o -name '.new-*' -o -name '.old-*' -o -name '.*.json.*'"
PLAY = """
- hosts: all
  gather_facts: false
  vars:
    bulkhead_images:
      - {name: base, directory: /srv/fleet/0, from_host: builder}
      - name: shop
        from: base
        steps: STEPS
        config: {command: [/bin/shop], env: {A: b}, ports: [80/tcp]}
        from_host: builder
  tasks:
    - ansible.builtin.include_role: {name: bulkhead.isolation.image}
    - ansible.builtin.debug: {msg: "copied {{ bulkhead_image_copied | default({}) | to_json | b64encode }}."}
"""


@pytest.fixture(scope="module")
def fleet(machine, tmp_path_factory):
    """A builder, and a host of another Debian."""
    other = remote.Host([name for name in remote.SUITES if name != machine.name][0], "test-fleet-%d" % os.getpid())
    try:
        machine.reset()
        yield Fleet(machine, other, tmp_path_factory.mktemp("fleet"))
        machine.reset()
    finally:
        other.destroy()


class Fleet:
    """Both as an inventory, whose connections are an ordinary user's."""

    def __init__(self, builder, other, place):
        self.builder, self.other, self.place = builder, other, place
        os.makedirs(place / "ansible_collections" / "bulkhead")
        os.symlink(remote.ROOT, place / "ansible_collections" / "bulkhead" / "isolation")
        hosts = {name: {"ansible_host": host.machine.name, "ansible_ssh_common_args": "-F " + host.machine.process.path("ssh_config")}
                 for name, host in (("builder", builder), ("other", other))}
        common = {"ansible_user": "tester", "ansible_become": True, "ansible_pipelining": True, "ansible_timeout": 180,
                  "ansible_python_interpreter": "/usr/bin/python3"}
        (place / "inventory.json").write_text(json.dumps({"all": {"hosts": hosts, "vars": common}}))
        builder.run("mkdir -p /srv/fleet/0; for n in 0/zero 1 2 3; do head -c %d /dev/urandom >/srv/fleet/$n; done" % LAYER)

    def play(self, steps, *words):
        """(changed of each host, what was copied to the other one, bytes that came to it by its network) of a run of the role with so many steps."""
        told = [{"copy": {"src": "/srv/fleet/%d" % number, "dest": "/%d" % number}} for number in range(1, steps + 1)]
        (self.place / "play.yml").write_text(PLAY.replace("STEPS", json.dumps(told)))
        before = self.received()
        ended = subprocess.run(
            ["ansible-playbook", "--inventory", "inventory.json", "play.yml", *words], cwd=self.place, capture_output=True, text=True, check=False,
            env=dict(os.environ, ANSIBLE_COLLECTIONS_PATH=str(self.place), ANSIBLE_HOME=str(self.place / "home"), ANSIBLE_NOCOLOR="1"))
        assert ended.returncode == 0, ended.stdout + ended.stderr
        came = self.received() - before
        changed = {name: int(count) for name, count in re.findall(r"^(\w+) +: ok=\d+ +changed=(\d+)", ended.stdout, re.M)}
        copied = re.search(r'ok: \[other\] => \{\s+"msg": "copied ([\w+/=]+)\."', ended.stdout)
        assert self.left() == [], self.left()
        return changed, json.loads(subprocess.run(["base64", "-d"], input=copied[1], capture_output=True, text=True, check=True).stdout), came

    def received(self):
        return sum(int(count) for count in self.other.run("cat /sys/class/net/e*/statistics/rx_bytes").split())

    def left(self):
        """What of copying is on any of the three machines."""
        return [path for host in (self.builder, self.other) for path in host.run(LEFT).split()] + [
            path for path in os.listdir(self.place / "home") if "bulkhead" in path]

    def image(self, host):
        """(digest, layers, config) by what is on the disk, each layer by its content."""
        found = json.loads(host.run("cat %s/images/shop.json" % STORE))
        for layer in found["layers"]:
            assert host.run("sha256sum <%s/layers/%s/manifest" % (STORE, layer[7:])).split()[0] == layer[7:]
        text = json.dumps({"layers": found["layers"], "config": found["config"]}, sort_keys=True, separators=(",", ":"))
        assert found["digest"] == "sha256:" + hashlib.sha256(text.encode()).hexdigest()
        return found["digest"], found["layers"], found["config"]


def test_three_of_four_layers_are_there(fleet):
    """The fourth is copied, by its bytes on the wire; image and layers are the same on both, and then there is nothing to do."""
    changed, copied, came = fleet.play(2)
    assert [len(image["layers"]) for image in copied.values()] == [1, 2] and came > 3 * LAYER
    assert fleet.image(fleet.builder) == fleet.image(fleet.other)
    changed, copied, came = fleet.play(3, "--check")
    assert changed == {"builder": 1, "other": 1} and copied == {} and came < LAYER
    changed, copied, came = fleet.play(3)
    digest, layers, config = fleet.image(fleet.other)
    assert fleet.image(fleet.builder) == (digest, layers, config) and config["command"] == ["/bin/shop"] and len(layers) == 4
    assert copied["shop"]["layers"] == layers[3:] and LAYER < copied["shop"]["size"] < LAYER + 20000 and list(copied) == ["shop"]
    assert LAYER < came < 2 * LAYER
    print("%d bytes of %d were copied, %d came to the host" % (copied["shop"]["size"], 4 * LAYER, came))
    for words in (["--check"], []):
        changed, copied, came = fleet.play(3, *words)
        assert changed == {"builder": 0, "other": 0} and copied == {} and came < LAYER
    for host in (fleet.builder, fleet.other):
        answer = host.converge("image", name="shop", verify=True)
        assert "error" not in answer and not answer["changed"], answer
    for number in range(4):  # what is read of it is what it was made of
        name = "0/zero" if not number else str(number)
        layer = "%s/layers/%s/tree/%s" % (STORE, layers[number][7:], os.path.basename(name))
        assert fleet.other.run("sha256sum <" + layer) == fleet.builder.run("sha256sum </srv/fleet/" + name)
