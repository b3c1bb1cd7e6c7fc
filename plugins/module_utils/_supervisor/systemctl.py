# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Talking to systemd: names of units, their files, and `systemctl`. It stands on nothing of ours but the host object.

What is asked of units is asked at once for all that are expected, and kept until it is dropped; by the bus where there is one
(manager.py): each call of systemctl takes as much of systemd as the start of a service. docs/performance.md has the figures.
Sources: systemd.unit(5), systemctl(1), the unit name rules in src/basic/unit-name.c.
"""

from __future__ import annotations

import os
import re
import shlex

from .._model.errors import BulkheadError
from . import fresh, manager

MADE = "# made by bulkhead"  # how the first line of a unit file of ours begins
# Asked of every unit, so that all who ask share one call.
PROPERTIES = ("LoadState", "ActiveState", "FragmentPath", "DropInPaths", "NeedDaemonReload", "ControlGroup", "MainPID", "ExecMainCode",
              "ExecMainStatus", "NRestarts", "ActiveEnterTimestampMonotonic")
_UNKNOWN = {"LoadState": "not-found", "ActiveState": "inactive", "MainPID": "0", "NRestarts": "0", "NeedDaemonReload": "no",
            "ActiveEnterTimestampMonotonic": "0"}  # of a unit that systemd knows nothing of
_READ = {"LoadState": "loaded", "DropInPaths": "", "NeedDaemonReload": "no"}  # of one whose file it has as that is
_LENGTH = 255  # of the name of a unit
_ROOM = 100000  # bytes of names in one call; the kernel takes two million


# -- names

def escape(text):
    """One part of a name, as systemd-escape(1) makes it: `-` nests slices and stands for `/`, so it becomes `\\x2d`."""
    return "".join(
        "-" if char == 0x2F else
        chr(char) if chr(char) in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789:_" or (char == 0x2E and index) else
        "\\x%02x" % char
        for index, char in enumerate(text.encode("utf-8", "surrogateescape")))


def unescape(text):
    """The inverse of escape()."""
    plain = re.sub(rb"\\x([0-9a-f]{2})", lambda found: bytes((int(found.group(1), 16),)), text.replace("-", "/").encode())
    return plain.decode("utf-8", "surrogateescape")


def slice_unit(name):
    """The slice of a cgroup: `bulkhead/web` -> `bulkhead-web.slice`; '' is the root."""
    return _unit(escape(name) if name else "-", ".slice", name)


def service_unit(name):
    """The unit of a service: `web/nginx` -> `bulkhead-web-nginx.service`."""
    return _unit("bulkhead-" + escape(name), ".service", name)


def service_name(unit):
    """The inverse of service_unit(); None for a unit that is not named so."""
    if unit.startswith("bulkhead-") and unit.endswith(".service"):
        return unescape(unit[len("bulkhead-"):-len(".service")])
    return None


def slice_name(unit):
    """The inverse of slice_unit()."""
    return "" if unit == "-.slice" else unescape(unit[:-len(".slice")])


def slice_group(unit):
    """Where the cgroup of a slice is, unless systemd says otherwise: `a-b.slice` -> `/a.slice/a-b.slice`."""
    parts = unit[:-len(".slice")].split("-")
    return "".join("/%s.slice" % "-".join(parts[:depth]) for depth in range(1, len(parts) + 1))


def _unit(stem, suffix, name):
    if len(stem) + len(suffix) > _LENGTH:
        raise BulkheadError("Cannot name a unit of systemd for %s: the name would have more than %d characters. Use a shorter one." % (name, _LENGTH))
    return stem + suffix


# -- asking

def version(host):
    """The number of systemd's version."""
    if host.systemd_version is None:
        status, output, errors = host.run(["systemctl", "--version"])
        number = re.match(r"systemd (\d+)", output)
        if status or not number:
            raise BulkheadError("Cannot ask systemd for its version: %s. Look at systemctl --version." % _words(output, errors, status))
        host.systemd_version = int(number.group(1))
    return host.systemd_version


def expect(host, units):
    """These units are going to be asked about in this run: the next question asks all of them at once."""
    host.cached("systemd expected", dict).update(dict.fromkeys(units))


def show(host, units):
    """{unit: {property: text}} of units, loaded or not; what is known already is not asked again.

    A unit that there is no file of has the LoadState `not-found`, a slice of that kind that runs `loaded`.
    """
    known = host.cached("systemd shown", dict)
    ask = dict.fromkeys(unit for unit in units if unit not in known)
    if ask:
        ask.update((unit, None) for unit in host.cached("systemd expected", dict) if unit not in known)
        loaded_now = states(host, list(ask)) if len(ask) > 1 else None
        for unit in _unknown(host, list(ask), loaded_now) if loaded_now is not None else ():
            known[unit] = dict(dict.fromkeys(PROPERTIES, ""), **_UNKNOWN)
            del ask[unit]
        known.update(_by_bus(host, list(ask), loaded_now or {}) or {})
        for part in _parts([unit for unit in ask if unit not in known]):
            known.update(_show(host, part))
    return {unit: known[unit] for unit in units}


def _by_bus(host, units, active):
    """show() by the bus; None without one. Of a unit whose file systemd has as it is it is not asked what that says; nor is
    anything of a slice that is ``active`` besides ({unit: its state})."""
    read = {unit: dict(_READ, FragmentPath=path(host, unit)) for unit in units if fresh.is_read(host, unit)}
    found = manager.show(host, [unit for unit in units if unit not in read], PROPERTIES)
    slices = [unit for unit in read if unit.endswith(".slice") and active.get(unit) == "active"]
    more = manager.show(host, [unit for unit in read if unit not in slices], [name for name in PROPERTIES if name not in _READ and name != "FragmentPath"])
    if found is None or more is None:
        return None
    fresh.remember(host, {unit: fresh.stamp(host, unit) for unit, values in found.items()
                          if values["FragmentPath"] == path(host, unit) and all(values[name] == value for name, value in _READ.items())})
    more.update((unit, dict(dict.fromkeys(PROPERTIES, ""), ActiveState="active", ControlGroup=slice_group(unit))) for unit in slices)
    found.update((unit, dict(more[unit], **values)) for unit, values in read.items())
    return found


def _unknown(host, units, loaded_now):
    """Those that systemd has not loaded and finds no file of."""
    there = fresh.entries(host)
    return [unit for unit in units if unit not in loaded_now and unit not in there and unit + ".d" not in there]


def is_new(host, unit):
    """Has systemd been found to know nothing of it? Then it reads its file when it is started."""
    return host.cached("systemd shown", dict).get(unit, {}).get("LoadState") == "not-found"


def states(host, units):
    """{unit: its active state} of those that are loaded, in one answer that costs systemd little; None when it has none."""
    pattern = os.path.commonprefix(list(units)).replace("\\", "\\\\") + "*"
    found = manager.states(host, pattern)
    if found is not None:
        return found
    status, output, dummy = host.run(["systemctl", "list-units", "--all", "--full", "--plain", "--no-legend", "--no-pager", "--", pattern])
    lines = [line.split(None, 3) for line in output.splitlines()]
    return None if status else {line[0]: line[2] for line in lines if len(line) > 2}


def loaded(host, unit):
    """Does systemd have it in memory? To ask for properties of one that it has not would have it read that, and list all unit files again."""
    found = states(host, [unit])
    return found is None or unit in found


def words(text):
    """A property that is a list, such as DropInPaths, whose words are quoted where they have a backslash."""
    return shlex.split(text)


def drop(host, *units):
    """Something was done to these units (to any, if none is named): what is known of them may be wrong."""
    known, expected = host.cached("systemd shown", dict), host.cached("systemd expected", dict)
    for unit in units or list(known):
        known.pop(unit, None)
    for unit in units:  # what is asked once more of one is of no use of the others
        expected.pop(unit, None)


def _show(host, units):
    status, output, errors = host.run(["systemctl", "show", "--no-pager", "--property=" + ",".join(PROPERTIES), "--"] + units)
    blocks = [block for block in output.split("\n\n") if block.strip()]
    if status or len(blocks) != len(units):
        raise BulkheadError("Cannot ask systemd for %s: %s. Look at systemctl status." % (
            ", ".join(units[:3]), _words("", errors, status) if status or errors else "it answered for %d of %d units" % (len(blocks), len(units))))
    found = {}
    for unit, block in zip(units, blocks):
        values = dict.fromkeys(PROPERTIES, "")
        for line in block.splitlines():
            word, equals, value = line.partition("=")
            if word in values:
                values[word] = value
        found[unit] = values
    return found


def _parts(units):
    """The names cut into lists that one command line takes."""
    part, size = [], 0
    for unit in units:
        if part and size + len(unit) > _ROOM:
            yield part
            part, size = [], 0
        part.append(unit)
        size += len(unit) + 1
    if part:
        yield part


# -- files of units

def path(host, unit):
    return "%s/%s" % (host.units, unit)


def read(host, unit):
    """The text of a unit file of ours (or of somebody who chose the same name), None when there is none. Read once per run.

    A power cut may leave an empty file of one that was just written. By its name it is ours, with nothing said in it.
    """
    known = host.cached("systemd files", dict)
    if unit not in known:
        try:
            descriptor = os.open(path(host, unit), os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            known[unit] = None
        else:
            with os.fdopen(descriptor, "rb") as stream:
                known[unit] = stream.read().decode("utf-8", "surrogateescape") or (MADE if unit.startswith("bulkhead") else "")
    return known[unit]


def write(host, unit, text):
    """Put a unit file there, whole, by a rename; returns whether it was another before. systemd sees it after reload()."""
    if read(host, unit) == text:
        return False
    os.makedirs(host.units, mode=0o755, exist_ok=True)
    target = path(host, unit)
    partial = "%s/.%s.new" % (host.units, unit)
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    except OSError as exc:
        if len(partial) - len(host.units) < _LENGTH:
            raise
        raise BulkheadError("Cannot write %s: %s. Use a shorter name." % (target, exc.strerror)) from exc
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape") as stream:
            os.fchmod(descriptor, 0o644)
            stream.write(text)
        os.rename(partial, target)
    except OSError as exc:
        exc.filename = partial  # write(2) does not say of what
        _unlink(partial)
        raise
    host.units_changed = True
    host.cached("systemd files", dict)[unit] = text
    if not is_new(host, unit):
        drop(host, unit)
    return True


def remove(host, unit):
    """Take a unit file away; returns whether there was one."""
    _unlink("%s/.%s.new" % (host.units, unit))  # of a run that was killed
    gone = _unlink(path(host, unit))
    host.cached("systemd files", dict)[unit] = None
    if gone:
        host.units_changed = True
        drop(host, unit)
    return gone


def reload(host, force=False):
    """Let systemd read its unit files again, when some were written since it last did."""
    if host.units_changed or force:
        command(host, "read the unit files again", "daemon-reload")
        host.units_changed = False
        drop(host)


# -- acts

def start(host, *units, no_block=False):
    """Start units, and wait until they are, unless ``no_block``: who is part of the boot would wait for itself. See many.py."""
    act(host, "start", units, ["--no-block"] if no_block else [])


def stop(host, *units, no_block=False):
    act(host, "stop", units, ["--no-block"] if no_block else [])


def restart(host, *units, no_block=False):
    act(host, "restart", units, ["--no-block"] if no_block else [])


def enable(host, *units):
    """Start units at boot. The units' symlinks are made without reading all units again; reload() is the caller's."""
    act(host, "enable", units, ["--no-reload", "--quiet"])
    host.units_changed = True


def disable(host, *units):
    act(host, "disable", units, ["--no-reload", "--quiet"])
    host.units_changed = True


def kill(host, unit, signal, whom="all"):
    """Send a signal, such as SIGTERM, to the processes of a unit: all, main or control."""
    command(host, "send %s to %s" % (signal, unit), "kill", "--signal=" + signal, "--kill-whom=" + whom, "--", unit)


def freeze(host, unit):
    act(host, "freeze", (unit,), [])


def thaw(host, unit):
    act(host, "thaw", (unit,), [])


def reset_failed(host, *units):
    """Forget that units failed, so that nothing of them stays loaded. Those that are not loaded are left out by systemd."""
    if units:
        host.run(["systemctl", "reset-failed", "--"] + list(units))
        drop(host, *units)


def set_properties(host, unit, assignments):
    """Change properties of a running unit at once, until the next boot: [`MemoryMax=1M`, …]. It leaves drop-ins below /run."""
    command(host, "set %s of %s" % (", ".join(dict.fromkeys(each.partition("=")[0] for each in assignments)), unit),
            "set-property", "--runtime", "--", unit, *assignments)
    drop(host, unit)


def settings(host):
    """Where `systemctl set-property` keeps what it was told, for good and until the next boot."""
    return host.units + ".control", "/run/systemd/system.control"


def remove_settings(host, unit, properties):
    """Take away what `systemctl set-property` has left on disk for these properties, for good or until the next boot."""
    for root in settings(host):
        directory = "%s/%s.d" % (root, unit)
        gone = [name for name in properties if _unlink("%s/50-%s.conf" % (directory, name))]
        if gone:
            host.units_changed = True
            drop(host, unit)
            if not os.listdir(directory):
                os.rmdir(directory)


def act(host, verb, units, options):
    """One call for all of them, or as many as the command line takes."""
    for part in _parts(list(units)):
        try:
            command(host, "%s %s" % (verb, ", ".join(part[:5]) + (", …" if len(part) > 5 else "")), verb, *options, "--", *part)
        finally:
            drop(host, *part)


def command(host, what, *words):
    """Run systemctl; what it says when it fails is the reason."""
    status, output, errors = host.run(["systemctl", "--no-ask-password"] + list(words))
    if status:
        raise BulkheadError("Cannot %s: %s. Look at systemctl status and journalctl -e." % (what, _words(output, errors, status)), rc=status)
    return output


def _words(output, errors, status):
    """What a command said, as the reason in a sentence."""
    lines = [line.strip() for line in (errors.strip() or output.strip()).splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith(("See ", "Warning: "))] or lines
    text = " ".join(lines)[:500].rstrip(".")
    return "".join(char if char.isprintable() else "?" for char in text) or "it ended with status %d" % status


def _unlink(target):
    try:
        os.unlink(target)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True
