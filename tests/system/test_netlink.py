# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The netlink adapter on this kernel with the pyroute2 at hand: its contract, and what a socket of another namespace is."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

import netlink_contract as contract
from module_utils._kernel import netlink, netmessages as ask


@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.__name__[6:])
def test_contract(check):
    with contract.Pair() as (host, net):
        check(host, net)


def test_a_socket_of_a_pinned_namespace_leaves_the_process_where_it_was():
    here = os.readlink("/proc/self/ns/net")
    with contract.Pair() as (dummy, net):
        net.send([ask.new_link("br7", "bridge")])
        place = "/proc/self/fd/%d" % net.fd
        between = os.readlink("/proc/self/ns/net")
        before = set(os.listdir("/proc/self/fd"))
        with netlink.open(place) as other:
            assert other.link("br7")["kind"] == "bridge"
            assert os.readlink("/proc/self/ns/net") == between
            assert os.fstat(other.fd).st_ino == os.fstat(net.fd).st_ino
        assert set(os.listdir("/proc/self/fd")) == before
        with pytest.raises(OSError):
            netlink.open("/dev/null")
        with pytest.raises(FileNotFoundError):
            netlink.open("/run/netns/none")
        assert set(os.listdir("/proc/self/fd")) == before
    assert os.readlink("/proc/self/ns/net") == here


def python(code, *words, flags=()):
    """What a fresh Python prints that has imported the adapter."""
    plugins = os.path.join(os.path.dirname(os.path.dirname(contract.HERE)), "plugins")
    code = "import sys; sys.path.insert(0, sys.argv[1])\nfrom module_utils._kernel import netlink, netmessages as ask\n" + code
    return subprocess.run([sys.executable, *flags, "-c", code, plugins, *words], check=True, stdout=subprocess.PIPE, text=True).stdout


def test_reading_does_not_import_pyroute2():
    """A run that changes nothing is spared the 0.2 s."""
    python("with netlink.open() as net:\n"
           "    net.links(), net.addresses(), net.routes(), net.rules(), net.neighbours(), net.fdb(), net.qdiscs(), net.link('lo')\n"
           "    assert 'pyroute2' not in sys.modules\n"
           "    net.send([ask.set_link('lo', up=True)])\n"
           "    assert 'pyroute2' in sys.modules\n")


def test_without_pyroute2_it_says_what_to_install():
    said = python("sys.modules['pyroute2'] = None\nnet = netlink.open()\nassert net.link('lo')\n"
                  "try:\n    net.send([ask.set_link('lo', up=True)])\nexcept OSError as exc:\n    print(exc.strerror)\n")
    assert said == "there is no Python module pyroute2 for %s: install python3-pyroute2, 0.5.14 or newer\n" % sys.executable


def test_a_python_without_site_finds_it_where_packages_are():
    """As the program on the host is started."""
    folder = os.path.dirname(os.path.dirname(importlib.util.find_spec("pyroute2").origin))
    code = "import site\nsite.getsitepackages = lambda: [sys.argv[2]]\nnetlink.open().send([ask.set_link('lo', up=True)])\nprint('sent')\n"
    assert python(code, folder, flags=["-IS"]) == "sent\n"
