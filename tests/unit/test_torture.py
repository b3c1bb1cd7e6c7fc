# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where the fault tests break what is sent to systemd: at what changes something, not at what asks or greets."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import socket
import struct

import pytest
from ansible_collections.bulkhead.isolation.plugins.module_utils._kernel import dbus

PATH = os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(__file__))), "torture", "calls.py")
spec = importlib.util.spec_from_file_location("torture_calls", PATH)
calls = importlib.util.module_from_spec(spec)
spec.loader.exec_module(calls)
MANAGER = "org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"


def point(data):
    """What classify() makes of a sendto(2) of the data on a socket of ours, read from our own memory."""
    buffer = ctypes.create_string_buffer(data, len(data))
    with socket.socket(socket.AF_UNIX) as ours:
        return calls.classify(os.getpid(), 44, [ours.fileno(), ctypes.addressof(buffer), len(data), 0, 0, 0], False)


@pytest.mark.parametrize("member, signature, arguments, shown", [
    ("StopUnit", "ss", ("a.slice", "replace"), "dbus StopUnit"), ("StartUnit", "ss", ("x" * 5000, "replace"), "dbus StartUnit"),
    ("ListJobs", "", (), None), ("ListUnitsByPatterns", "asas", ([], ["StartUnit"]), None)])
def test_messages(member, signature, arguments, shown):
    message = dbus._message(300, *MANAGER, member, signature, *arguments)
    assert point(message) == (shown and ("sendto", shown))


def test_others():
    assert point(b"\0AUTH EXTERNAL 30\r\n") is None and point(b"BEGIN\r\n") is None
    assert point(b"a request to somebody else") == ("sendto", "socket")
    assert point(struct.pack("IHHII", 16, 16, 0, 0, 0)) == ("sendto", "rtnetlink 16")
    assert point(struct.pack("IHHII", 16, 18, 0, 0, 0)) is None
