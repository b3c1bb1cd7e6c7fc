# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""systemd's manager by the system bus, for what is asked often and for many units.

systemctl has a connection to systemd itself, and each of them takes as much of it as the start of a service: it sets up all that it
knows for the new client. The bus is connected already. Where there is none, each function returns None, and systemctl it is.
Source: org.freedesktop.systemd1(5).
"""

from __future__ import annotations

import shlex

from .._kernel import dbus

_NAME, _PATH = "org.freedesktop.systemd1", "/org/freedesktop/systemd1"
_OF_A_SERVICE = ("MainPID", "ExecMainCode", "ExecMainStatus", "NRestarts")
_WITH_CGROUP = ("Service", "Slice", "Scope", "Mount", "Socket", "Swap")
_CHANGED = "StateChangeTimestampMonotonic"
_AGAIN = 5  # times that a unit is asked about which changes while it is
_OF_THE_BUS = "org.freedesktop.DBus."  # how errors begin that are not the manager's own


def _calls(host, calls):
    """The answers to calls (path, interface, member, signature, argument…): values, or a BusError of the manager's."""
    if not host.bus:
        return None
    try:
        with dbus.Bus(host.bus) as bus:
            answers = bus.calls(_NAME, calls)
    except OSError:
        return None
    if any(isinstance(each, dbus.BusError) and each.name.startswith(_OF_THE_BUS) for each in answers):
        return None
    return answers


def _ask(host, *call):
    """The one value that the manager answers a call (member, signature, argument…) with."""
    answers = _calls(host, [(_PATH, _NAME + ".Manager") + call])
    return None if answers is None or isinstance(answers[0], dbus.BusError) else answers[0][0]


def states(host, pattern):
    """{unit: its active state} of those that are loaded and have such a name."""
    found = _ask(host, "ListUnitsByPatterns", "asas", [], [pattern])
    return None if found is None else {unit[0]: unit[3] for unit in found}


def read_since(host):
    """When systemd was last told to read all units again, in microseconds since the boot; 0 for never."""
    found = _calls(host, [(_PATH, "org.freedesktop.DBus.Properties", "Get", "ss", _NAME + ".Manager", "UnitsLoadTimestampMonotonic")])
    return None if found is None or isinstance(found[0], dbus.BusError) else found[0][0]


def jobs(host):
    """The units that have something queued or under way."""
    found = _ask(host, "ListJobs", "")
    return None if found is None else [job[1] for job in found]


def queue(host, verb, units):
    """Have units started or stopped, and wait for none of them: {unit: why not} of those that are refused."""
    member = {"start": "StartUnit", "stop": "StopUnit"}[verb]
    if not units:
        return {}
    answers = _calls(host, [(_PATH, _NAME + ".Manager", member, "ss", unit, "replace") for unit in units])
    return None if answers is None else {unit: str(each) for unit, each in zip(units, answers) if isinstance(each, dbus.BusError)}


def show(host, units, properties):
    """{unit: {property: text}}, as `systemctl show` words them, and of one moment for each unit."""
    found, left = {}, list(units)
    for dummy in range(_AGAIN if left else 0):
        asked = [(unit, name, _interface(unit, name)) for unit in left for name in (_CHANGED,) + tuple(properties) + (_CHANGED,)
                 if _interface(unit, name)]
        answers = _calls(host, [(_object(unit), "org.freedesktop.DBus.Properties", "Get", "ss", kind, name) for unit, name, kind in asked])
        if answers is None or any(isinstance(each, dbus.BusError) for each in answers):
            return None
        times = {}
        for (unit, name, dummy_kind), (value,) in zip(asked, answers):
            if name == _CHANGED:
                times.setdefault(unit, set()).add(value)
            else:
                found.setdefault(unit, dict.fromkeys(properties, ""))[name] = _text(value)
        left = [unit for unit in left if len(times[unit]) > 1]
        if not left:
            break
    return found


def _object(unit):
    """Where a unit is on the bus."""
    return _PATH + "/unit/" + "".join(char if char.isascii() and char.isalnum() and (index or not char.isdigit()) else "".join(
        "_%02x" % byte for byte in char.encode()) for index, char in enumerate(unit))


def _interface(unit, name):
    """The interface that has a property of a unit, None where no unit of its kind has it."""
    kind = unit.rpartition(".")[2].capitalize()
    if name in _OF_A_SERVICE and kind != "Service" or name == "ControlGroup" and kind not in _WITH_CGROUP:
        return None
    return "%s.%s" % (_NAME, kind if name in _OF_A_SERVICE or name == "ControlGroup" else "Unit")


def _text(value):
    if isinstance(value, bool):
        return "yes" if value else "no"
    return shlex.join(value) if isinstance(value, list) else str(value)
