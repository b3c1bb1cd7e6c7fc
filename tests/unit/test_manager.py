# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""systemd by the bus: what goes over the wire, in both byte orders, to a bus of our own; and what is done without one."""

from __future__ import annotations

import socket
import struct
import threading

import pytest
from ansible_collections.bulkhead.isolation.plugins.module_utils._engine.host import Host
from ansible_collections.bulkhead.isolation.plugins.module_utils._kernel import dbus
from ansible_collections.bulkhead.isolation.plugins.module_utils._model.errors import BulkheadError
from ansible_collections.bulkhead.isolation.plugins.module_utils._supervisor import manager, many, systemctl

UNIT = "/org/freedesktop/systemd1/unit/"


def packed(order, signature, values):
    """A body written by other code than the one under test: what struct and the specification say, for the types used here."""
    data = bytearray()

    def put(kind, value):
        if kind == "s":
            data.extend(bytes(-len(data) % 4) + struct.pack(order + "I", len(value)) + value.encode() + b"\0")
        elif kind == "v":
            data.extend(bytes((len(value[0]), )) + value[0].encode() + b"\0")
            put(*value)
        elif kind[0] == "a":
            data.extend(bytes(-len(data) % 4) + bytes(4))
            at = len(data)
            data.extend(bytes(-len(data) % (8 if kind[1] == "(" else 4)))
            begin = len(data)
            for each in value:
                put(kind[1:], each)
            data[at - 4:at] = struct.pack(order + "I", len(data) - begin)
        elif kind[0] == "(":
            data.extend(bytes(-len(data) % 8))
            for one, each in zip(kind[1:-1], value):
                put(one, each)
        else:
            form = {"b": "I", "u": "I", "t": "Q"}[kind]
            data.extend(bytes(-len(data) % struct.calcsize(form)) + struct.pack(order + form, value))

    for kind, value in zip(dbus._split(signature), values):
        put(kind, value)
    return bytes(data)


class FakeBus:
    """Takes one connection after the other; ``answer(path, member, arguments)`` gives (signature, values), or an error's (name, text)."""

    def __init__(self, path, order="<"):
        self.order, self.asked, self.path = order, [], path
        self.answer = lambda path, member, arguments: ("", [])
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen()
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        self.listener.close()

    def serve(self):
        while True:
            try:
                client = self.listener.accept()[0]
            except OSError:
                return
            with client, client.makefile("rwb") as stream:
                if stream.readline().startswith(b"\0AUTH EXTERNAL "):
                    stream.write(b"OK 0123\r\n")
                    stream.flush()
                    assert stream.readline() == b"BEGIN\r\n"
                    while self.serve_one(stream):
                        stream.flush()

    def serve_one(self, stream):
        head = stream.read(16)
        if len(head) < 16:
            return False
        body, serial, fields = struct.unpack("=4xIII", head)
        rest = stream.read(fields + -fields % 8)
        known = dict(dbus._Reader("=", head + rest, 12).read("a(yv)"))
        arguments = dbus._Reader("=", stream.read(body)).read_all(known.get(8, ""))
        if known[3] != "Hello":
            self.asked.append((known[1], known[3], arguments))
        signature, values = ("s", [":1.5"]) if known[3] == "Hello" else self.answer(known[1], known[3], arguments)
        failed = isinstance(values, str)
        body = packed(self.order, "s", [values]) if failed else packed(self.order, signature, values)
        told = [(5, ("u", serial)), (8, ("g", "s" if failed else signature))] + ([(4, ("s", signature))] if failed else [])
        fields = bytearray()
        for code, (kind, value) in told:
            fields += bytes(-len(fields) % 8) + bytes((code, 1)) + kind.encode() + b"\0"
            if kind == "g":
                fields += bytes((len(value),)) + value.encode() + b"\0"
            else:
                fields += packed(self.order, kind, [value])
        signal = struct.pack(self.order + "cBBBIII", b"l" if self.order == "<" else b"B", 4, 0, 1, 0, 1, 0)  # which nobody waits for
        stream.write(signal + struct.pack(self.order + "cBBBIII", signal[:1], 3 if failed else 2, 0, 1, len(body), 7, len(fields)) + fields
                     + bytes(-len(fields) % 8) + body)
        return True


@pytest.fixture(params=["<", ">"])
def bus(request, tmp_path):
    found = FakeBus(str(tmp_path / "bus"), request.param)
    yield found
    found.close()


@pytest.fixture
def host(bus):
    return Host(lambda argv, data, env: pytest.fail("%s was run" % argv), bus=bus.path)


def test_units_are_listed_and_queued_in_one_connection(bus, host):
    bus.answer = lambda path, member, arguments: {
        "ListUnitsByPatterns": ("a(ssss)", [[["a-b.slice", "Words", "loaded", "active"], ["a-c.service", "", "loaded", "failed"]]]),
        "ListJobs": ("a(us)", [[[7, "a-c.service"]]])}.get(member) or (
            ("org.freedesktop.systemd1.UnitMasked", "Unit m.service is masked.") if arguments[0] == "m.service" else ("s", ["/job/1"]))
    assert systemctl.states(host, ["a-b.slice", "a-c.service"]) == {"a-b.slice": "active", "a-c.service": "failed"}
    assert bus.asked == [("/org/freedesktop/systemd1", "ListUnitsByPatterns", [[], ["a-*"]])]
    assert manager.jobs(host) == ["a-c.service"]
    units = ["u%d.service" % number for number in range(150)] + ["m.service"]
    assert manager.queue(host, "start", units) == {"m.service": "Unit m.service is masked."}
    assert [call[1:] for call in bus.asked[2:]] == [("StartUnit", [unit, "replace"]) for unit in units]


def test_properties_are_worded_as_systemctl_does(bus, host):
    values = {"StateChangeTimestampMonotonic": ("t", 1 << 40), "ActiveState": ("s", "active"), "MainPID": ("u", 12),
              "NeedDaemonReload": ("b", 1), "DropInPaths": ("as", ["/a/b.conf", "/a b/c.conf"]), "ControlGroup": ("s", "/x")}
    bus.answer = lambda path, member, arguments: ("v", [values[arguments[1]]])
    found = manager.show(host, ["a-b.slice", "1.service"], list(values)[1:])
    assert found["1.service"] == {"ActiveState": "active", "MainPID": "12", "NeedDaemonReload": "yes", "ControlGroup": "/x",
                                  "DropInPaths": "/a/b.conf '/a b/c.conf'"}
    assert found["a-b.slice"]["MainPID"] == "" and systemctl.words(found["a-b.slice"]["DropInPaths"]) == ["/a/b.conf", "/a b/c.conf"]
    assert {path for path, dummy, dummy in bus.asked} == {UNIT + "a_2db_2eslice", UNIT + "_31_2eservice"}
    assert {kind for path, dummy, (kind, name) in bus.asked if name == "ControlGroup"} == {
        "org.freedesktop.systemd1.Slice", "org.freedesktop.systemd1.Service"}


def test_a_unit_that_changes_while_it_is_asked_about_is_asked_again(bus, host):
    times = iter([1, 2, 3, 3])
    states = iter(["activating", "active"])
    bus.answer = lambda path, member, arguments: ("v", [("t", next(times)) if arguments[1].startswith("StateChange") else ("s", next(states))])
    assert manager.show(host, ["a.service"], ["ActiveState"]) == {"a.service": {"ActiveState": "active"}}


def test_without_a_bus_and_without_systemd_on_it_systemctl_is_asked(bus, host):
    ran = []
    host._run = lambda argv, data, env: ran.append(argv[1:3]) or (0, "a.slice loaded active x\n", "")
    bus.answer = lambda path, member, arguments: ("org.freedesktop.DBus.Error.ServiceUnknown", "Nobody has that name.")
    assert systemctl.states(host, ["a.slice"]) == {"a.slice": "active"} and len(bus.asked) == 1
    host.bus = bus.path + "-that-is-not-there"
    assert systemctl.states(host, ["a.slice"]) == {"a.slice": "active"}
    many.queue(host, "stop", ["a.slice", "b.slice"])
    assert ran == [["list-units", "--all"]] * 2 + [["--no-ask-password", "stop"]]


def test_a_start_asks_for_jobs_until_systemd_has_none_of_them(bus, host):
    jobs = iter([["b.service", "z.service"], ["z.service"]])
    bus.answer = lambda path, member, arguments: ("a(us)", [[[1, unit] for unit in next(jobs)]]) if member == "ListJobs" else ("s", ["/job/1"])
    many.start(host, ["a.service", "b.service"], lambda unit: True)
    assert [call[1] for call in bus.asked] == ["StartUnit", "StartUnit", "ListJobs", "ListJobs"]


def test_what_the_kernel_does_not_show_is_looked_for_with_systemd(bus, host):
    bus.answer = lambda path, member, arguments: {
        "ListJobs": ("a(us)", [[]]), "ListUnitsByPatterns": ("a(ssss)", [[["a.service", "", "", "active"], ["c.service", "", "", "failed"]]])}.get(
            member, ("s", ["/job/1"]))
    with pytest.raises(BulkheadError, match=r"^Cannot start c\.service: "):
        many.start(host, ["a.service", "c.service"], lambda unit: False)
    many.start(host, ["a.service", "b.service"], lambda unit: unit == "b.service")


def test_those_beside_one_that_is_refused_are_waited_for(bus, host):
    jobs = iter([["a.service"], []])
    bus.answer = lambda path, member, arguments: ("a(us)", [[[1, unit] for unit in next(jobs)]]) if member == "ListJobs" else (
        "org.freedesktop.systemd1.UnitMasked", "Unit m.service is masked.") if arguments[0] == "m.service" else ("s", ["/job/1"])
    with pytest.raises(BulkheadError, match=r"^Cannot start m\.service: Unit m\.service is masked\. Look at "):
        many.start(host, ["a.service", "m.service"], lambda unit: unit == "a.service")
    assert next(jobs, None) is None


def test_a_stop_that_somebody_undoes_is_an_error(bus, host):
    state = ["active"]
    bus.answer = lambda path, member, arguments: {"ListJobs": ("a(us)", [[]]), "ListUnitsByPatterns": (
        "a(ssss)", [[["a.service", "", "", state[0]]]])}.get(member, ("s", ["/job/1"]))
    with pytest.raises(BulkheadError, match=r"^Cannot stop a\.service: somebody has started it again"):
        many.stop(host, ["a.service"])
    state[0] = "failed"
    many.stop(host, ["a.service"])
    many.stop(host, [])


def test_a_bus_that_ends_the_connection_is_none(tmp_path):
    path, listener = str(tmp_path / "bus"), socket.socket(socket.AF_UNIX)
    with listener:
        listener.bind(path)
        listener.listen()

        def refuse():
            listener.accept()[0].close()

        thread = threading.Thread(target=refuse)
        thread.start()
        with pytest.raises(OSError):
            dbus.Bus(path)
        thread.join()
