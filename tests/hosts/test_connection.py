# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Ansible inside a sandbox of a host that is reached by ssh: as root there, as an ordinary user by sudo, and as one who may enter one sandbox only."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import remote

TARGET = os.path.join(remote.ROOT, "tests", "integration", "targets", "sandbox_connection")
PROGRAM = "/usr/local/bin/bulkhead"
ROOT = "/srv/connection"
CONVERGE = """
import sys, drive
from module_utils._program import host
drive.engine.converge(drive.new_host(), host, dict(program=sys.argv[1], state=sys.argv[2], remove_data=sys.argv[2] == "absent"))
"""
TYPES = ["uts", "ipc", "mnt", "pid", "net", "cgroup"]


@pytest.fixture
def controller(host, tmp_path):
    """controller(command, *words, **variables of the hosts inside): (exit status, output) of one of Ansible's commands."""
    with open(TARGET + "/root.sh", encoding="utf-8") as stream:
        host.run(["sh", "-s", ROOT], stream.read())
    host.python(CONVERGE, PROGRAM, "present")
    service = {"name": "idle", "command": ["/usr/bin/sleep", "1000000"], "user": "www", "group": "www"}
    boxes = [{"name": name, "namespaces": {"types": TYPES, "hostname": "inside"}, "overlay": {"lower": [ROOT]}, "services": [service],
              "bind": [{"source": "/usr", "target": "/usr", "read_only": True}]} for name in ("it-inside", "it-other")]
    answer = host.converge("sandbox", sandboxes=boxes)
    assert "error" not in answer and not answer["warnings"], answer

    def run(command, *words, **variables):
        way = dict(ansible_connection="bulkhead.isolation.sandbox", ansible_host=host.machine.name, ansible_user="tester", bulkhead_program=PROGRAM,
                   ansible_ssh_common_args="-F " + host.machine.process.path("ssh_config"), ansible_timeout=180, bulkhead_sandbox="it-inside",
                   ansible_python_interpreter="/usr/bin/python3")
        names = {"piped": dict(ansible_pipelining=True), "copied": dict(ansible_pipelining=False),
                 "service": dict(bulkhead_sandbox="it-inside/idle", bulkhead_sandbox_user="www")}
        outside = dict(ansible_connection="local", ansible_python_interpreter=sys.executable)
        (tmp_path / "inventory.json").write_text(json.dumps({"all": {
            "vars": {"sandbox_top": str(tmp_path)}, "hosts": {"outside": outside},
            "children": {"inside": {"hosts": names, "vars": dict(way, **variables)}}}}))
        tools = os.path.dirname(sys.executable)
        ended = subprocess.run(
            [tools + "/" + command, "--inventory", str(tmp_path / "inventory.json"), *words], cwd=TARGET, text=True, timeout=1800, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=dict(os.environ, ANSIBLE_COLLECTIONS_PATH=os.path.join(remote.ROOT, "build"), ANSIBLE_HOME=str(tmp_path / "home"), NO_COLOR="1",
                     LC_ALL="C.UTF-8", PATH=tools + ":" + os.environ["PATH"]))
        return ended.returncode, " ".join(ended.stdout.split())

    subprocess.run([sys.executable, os.path.join(remote.ROOT, "scripts", "tree.py")], check=True)
    yield run
    host.python(CONVERGE, PROGRAM, "absent")
    host.run(["rm", "-rf", ROOT])


def test_a_play_inside(controller, tmp_path):
    (tmp_path / "bytes").write_bytes(os.urandom(1000000))
    (tmp_path / "bytes.none").write_bytes(b"")
    status, output = controller("ansible-playbook", "inside.yml", "--limit", "piped,service")  # `copied` is the same but for more commands, of seconds each
    assert status == 0 and output.count("failed=0") == 2, output[-4000:]


def test_who_may_enter_one_sandbox_only(controller, host):
    """A line of sudoers is all that somebody needs, and it gives nothing but that sandbox."""
    raw = ("-m", "ansible.builtin.raw", "-a", "hostname; id -u")
    host.run("useradd --create-home tenant && cp -a /home/tester/.ssh /home/tenant/ && chown -R tenant: /home/tenant/.ssh")
    try:
        for granted, sandbox, words in (
                (False, "it-inside", "Cannot enter it-inside: its host lets nobody but root do so without a password"),
                (True, "it-inside", "inside 0"),
                (True, "it-other", "Cannot enter it-other: its host lets nobody but root do so without a password"),
                (True, "it-inside/idle", "Cannot enter it-inside/idle: its host lets nobody")):
            if granted:
                host.run("umask 227; echo 'tenant ALL=NOPASSWD: %s run it-inside *' >/etc/sudoers.d/tenant" % PROGRAM)
            status, output = controller("ansible", "piped", *raw, ansible_user="tenant", bulkhead_sandbox=sandbox)
            assert words in output and ("UNREACHABLE" in output) == (status != 0) == words.startswith("Cannot"), output
    finally:
        host.attempt("rm -f /etc/sudoers.d/tenant; userdel --remove tenant")
