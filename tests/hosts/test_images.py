# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Images on a host as a fleet has it: its own root as an image, a build over that by what is installed in it, and a sandbox of both over a reboot."""

from __future__ import annotations

import json

import pytest
import remote

SITE = "/srv/bulkhead-site"
STORE = "/var/lib/bulkhead"
# Modules of the kernel are a third of /usr, and no sandbox loads any.
HOST = {"name": "host", "host": {"exclude": ["/usr/lib/modules", "/usr/share/doc", "/usr/share/locale"]}}
SHOP = {"name": "shop", "from": "host", "steps": [
    {"run": "useradd --system --no-create-home shop && dpkg-query --show python3 >/etc/shop.version && id -u >/etc/shop.by", "network": "none"},
    {"copy": {"src": SITE, "dest": "/srv/www", "owner": "shop"}},
    {"write": {"dest": "/etc/shop.conf", "content": "root = /srv/www\n", "mode": "0640", "group": "shop"}}],
    "config": {"command": ["/usr/bin/python3", "-m", "http.server", "--bind", "127.0.0.1", "--directory", "/srv/www", "8000"], "user": "shop"}}
SANDBOX = {"name": "shop", "image": "shop", "namespaces": {"types": ["net", "uts", "ipc", "mnt", "pid", "cgroup"]},
           "services": [{"name": "web", "health": {"http": "http://127.0.0.1:8000/", "interval": "1s", "retries": 60}}]}
# What is the host's own and not the image's; what was built, and by whom.
LOOK = r"""
test ! -e /etc/ssh/ssh_host_ed25519_key; test ! -e /etc/sudoers.d/tester; test ! -e /home/tester; test ! -e /lib/modules; test ! -s /etc/machine-id
grep -vE '^[^:]+:\*:::::::$' /etc/shadow | cut -d : -f -2
grep -c '^tester:x:' /etc/passwd; cat /etc/shop.by /etc/shop.conf; stat -c '%U:%G %a' /srv/www/index.html /etc/shop.conf; cut -f 2 /etc/shop.version
"""


@pytest.fixture
def ready(fresh_host):
    """A host with `bulkhead restore` at boot."""
    fresh_host.python("import drive; from module_utils._program import host; drive.engine.converge(drive.new_host(), host, {})")
    fresh_host.run("mkdir {0}; echo 'a page of the shop' >{0}/index.html".format(SITE))
    return fresh_host


def check_run_check_run(host, noun, options):
    """The check says what the run does, and then there is nothing to do. The actions."""
    said, did, quiet, again = host.converges(noun, (True, False, True, False), patience=1800, **options)
    assert "error" not in did and said["actions"] == did["actions"] and said["diff"] == did["diff"], (said, did)
    assert not quiet["changed"] and not again["changed"], (quiet, again)
    return did["actions"]


def served(host):
    """What it answers in its net namespace, and what is seen in its root by who enters."""
    remote.until(lambda: host.attempt("nsenter --net=/run/netns/shop python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", 8000), 5)'")[0] == 0)
    page = host.run("nsenter --net=/run/netns/shop python3 -c 'import urllib.request as ask; print(ask.urlopen(\"http://127.0.0.1:8000/\").read().decode())'")
    pid = host.run("systemctl show --value --property=MainPID bulkhead-shop-web.service").strip()
    return page.strip(), host.run(["nsenter", "--target", pid, "--all", "/bin/sh", "-eu", "-c", LOOK]).splitlines()


@pytest.mark.proves("image")
@pytest.mark.proves("image after a reboot")
def test_the_host_and_a_build_over_it_and_a_reboot(ready):
    """Check mode says what is made. What a sandbox runs of it is there after a reboot, with nothing left to do; what was declared absent is gone."""
    python = ready.run("dpkg-query --show python3").split()[1]
    assert check_run_check_run(ready, "image", HOST) == ["import image host from /"]
    assert len(check_run_check_run(ready, "image", SHOP)) == 3 + 1  # its steps, and their image
    check_run_check_run(ready, "sandbox", {"sandboxes": [SANDBOX]})
    wanted = ("a page of the shop", ["shop:!", "1", "0", "root = /srv/www", "shop:root 644", "root:shop 640", python])
    assert served(ready) == wanted
    layers = ready.run("ls %s/layers" % STORE).split()
    assert len(layers) == 4
    ready.reboot(settled=False)
    assert ready.settle() == "running", ready.run("systemctl --failed; journalctl -b -u bulkhead-restore")
    assert served(ready) == wanted
    for noun, options in (("image", HOST), ("image", SHOP), ("sandbox", {"sandboxes": [SANDBOX]})):
        answer = ready.converge(noun, check=True, patience=1800, **options)
        assert "error" not in answer and not answer["changed"], json.dumps(answer)
    ready.run("echo 'another page' >%s/index.html" % SITE)
    assert len(check_run_check_run(ready, "image", SHOP)) == 2 + 1  # that step and the one after it
    assert len(ready.run("ls %s/layers" % STORE).split()) == 6  # what was there is in use
    assert check_run_check_run(ready, "sandbox", {"sandboxes": [{"name": "shop", "state": "absent"}], "remove_data": True, "kill": True})
    for name in ("shop", "host"):
        check_run_check_run(ready, "image", {"name": name, "state": "absent"})
    check_run_check_run(ready, "image", {"prune": True})
    assert ready.run("cd %s && find layers images uppers -mindepth 1" % STORE) == ""
