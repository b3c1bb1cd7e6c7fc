# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Services as systemd keeps them: a unit file each, rendered whole; what is beside it (drop-ins, `systemctl set-property`) is its user's.

The main process enters, and with a pid namespace has a sibling of its own take its place (MAINPID=), so that systemd waits for the
command itself and nothing of Python stays. It is READY=1 in the last moment before it becomes the command.
The directory below STATE/service has what the entry reads; restore makes it again at boot, before any of these units starts.
"""

from __future__ import annotations

import json
import os
import shutil
import time

from .._kernel import cgroupfs
from .._model.errors import BulkheadError
from . import common, entry, many, systemctl, tools, unit_file

OWN_CGROUP = True
OLDEST = 246  # BARRIER=1, by which the entry knows that systemd has learnt of the main process
UNIT, WANTED, LOADED = "unit", "wanted", "loaded"  # in what is rendered: the unit file; started at boot; as systemd has it in memory
FILES = ("spec.json", "health.json", "options.json")
AT_ONCE = 8  # services whose entries run at the same time: each is a Python for a moment
PATIENCE = 10.0  # seconds from READY=1 until the command is executed
_SECOND = 1000000  # microseconds
_RESERVED = "bulkhead-restore.service"  # see boot.py
_EXIT = "98e322203f7a4ed290d09fe03c09fe15"  # of the message that a process of a unit has failed
_KILLED = ("2", "3", "killed", "dumped")  # as systemctl and as the journal say it
directory, started = common.directory, common.started


def require(host, name, pid):
    """Refuse a host that lacks what services need, and a name whose unit is somebody else's."""
    tools.require("systemctl", "systemd-run", "journalctl", "nsenter")
    if systemctl.version(host) < OLDEST:
        raise BulkheadError("Cannot manage services: this host has systemd %d. %d is the first that can be told of the process of a command "
                            "in a namespace." % (systemctl.version(host), OLDEST))
    unit = systemctl.service_unit(name)
    text = systemctl.read(host, unit)
    if unit == _RESERVED:
        raise BulkheadError("Cannot set up service %s: %s is the unit that restores sandboxes at boot. Choose another name." % (name, unit))
    if text is not None and not text.startswith(systemctl.MADE) and not os.path.isdir(directory(host, name)):
        raise BulkheadError("Cannot set up service %s: %s is there and not made by bulkhead. Remove it, or choose another name." % (
            name, systemctl.path(host, unit)))


def render(host, unit, dump):
    """{name: text}: the files of its directory, and WANTED, LOADED and UNIT. Needs nothing of the host but the places of its tools."""
    home = directory(host, unit.name)
    group = unit.group and systemctl.slice_unit(unit.group)
    spec = dict(unit.spec, started=home + "/started.json", notify=True, slice=group)
    if unit.pid_pin:
        spec["namespaces"] = dict(spec["namespaces"], pid=unit.pid_pin)
    files = {"spec.json": dump(spec), "options.json": dump(unit.options), LOADED: "", UNIT: unit_file.render(host, unit, home, group)}
    if unit.health:
        files["health.json"] = dump(dict(unit.health, slice=None if unit.health.get("probe") else group))
    if unit.enabled and not unit.down:
        files[WANTED] = ""
    return files


# -- what is there

def read(host, name):
    """The same as render() gives, as it is there; None without unit file and directory."""
    unit = systemctl.service_unit(name)
    files, text = common.read(host, name, FILES), systemctl.read(host, unit)
    if files is None and (text is None or not text.startswith(systemctl.MADE)):
        return None
    files = files or {}
    if text is not None:
        files[UNIT] = text
        if _shown(host, name)["NeedDaemonReload"] != "yes":
            files[LOADED] = ""
    if os.path.lexists(_wants(host, unit)):
        files[WANTED] = ""
    return files


def _wants(host, unit):
    """The link that starts it at boot, as `systemctl enable` makes it."""
    return systemctl.path(host, "%s.wants/%s" % (unit_file.TARGET, unit))


def names(host):
    """The names of all services of which something is there."""
    found = common.names(host)
    for place in (host.units, "%s/%s.wants" % (host.units, unit_file.TARGET)):
        for unit in os.listdir(place) if os.path.isdir(place) else ():
            name = systemctl.service_name(unit)
            if name and name not in found and unit != _RESERVED:
                if place != host.units or (systemctl.read(host, unit) or "").startswith(systemctl.MADE):
                    found.add(name)
    return sorted(found)


def remains(host, name):
    """Is there something of a service that was being made or removed when the run was killed?"""
    return read(host, name) is None and (any(os.path.isdir(path) for path in common.halves(host, name))
                                         or os.path.lexists(_wants(host, systemctl.service_unit(name))))


def expect(host, names):
    """What is asked of one of them is asked of all."""
    systemctl.expect(host, [systemctl.service_unit(name) for name in names])


def _shown(host, name, fresh=False):
    unit = systemctl.service_unit(name)
    if fresh:
        systemctl.drop(host, unit)
    return systemctl.show(host, [unit])[unit]


def _settled(host, name):
    """What systemd says of it; asked again where that may have changed by itself since."""
    shown = _shown(host, name)
    if shown["ActiveState"] in ("activating", "deactivating", "reloading") or shown["MainPID"] not in ("", "0") and not _alive(host, shown["MainPID"]):
        shown = _shown(host, name, fresh=True)
    return shown


def _alive(host, pid):
    return os.path.exists("%s/%s" % (host.proc, pid))


def status(host, name):
    """{state, pid, want, since} of a service; None when systemd knows no such unit."""
    shown = _settled(host, name)
    active, pid = shown["ActiveState"], int(shown["MainPID"] or 0) or None
    if shown["LoadState"] == "not-found" and active == "inactive":
        return None
    if active in ("active", "reloading") or active == "activating" and pid:
        state = "started"
    else:
        state = "finishing" if active == "deactivating" else "stopped"
    since = int(shown["ActiveEnterTimestampMonotonic"] or 0) / _SECOND
    return {"state": state, "pid": pid, "want": "started" if active in ("active", "reloading", "activating") else "stopped",
            "since": time.time() - time.clock_gettime(time.CLOCK_MONOTONIC) + since}


def main_pid(host, name, now):
    """The process of the command: the main process, once it is neither systemd's own nor nsenter nor our interpreter any more."""
    if now["pid"] is None or _shown(host, name)["ActiveState"] not in ("active", "reloading"):
        return None
    return now["pid"] if common.exe(host, now["pid"]) not in ("", host.state + "/bin/python3") else None


# -- acts

def write(host, name, files):
    """The directory first, as a unit without one is not started; then unit and link, which systemd reads at the end of the run."""
    unit, wants = systemctl.service_unit(name), _wants(host, systemctl.service_unit(name))
    shown = _shown(host, name)
    gone = common.halves(host, name)[1]
    if os.path.isdir(gone):
        shutil.rmtree(gone)
    common.prepare(host, name)
    common.write(host, name, files, FILES)
    changed = systemctl.write(host, unit, files[UNIT]) if UNIT in files else systemctl.remove(host, unit)
    if WANTED in files and os.path.realpath(wants) != os.path.realpath(systemctl.path(host, unit)):
        os.makedirs(os.path.dirname(wants), exist_ok=True)
        _unlink(wants)
        os.symlink(systemctl.path(host, unit), wants)
        changed = True
    elif WANTED not in files:
        changed = _unlink(wants) or changed
    # One that systemd has not looked at yet is read when it is started.
    if changed and shown["LoadState"] != "not-found" or shown["NeedDaemonReload"] == "yes":
        host.at_end(_reload, name)


def _reload(host, services):
    """Have systemd read what was written, once for all of them."""
    systemctl.reload(host, force=True)


def start(host, name, wait=PATIENCE):
    """Start it and wait until its command runs; raise when it does not, with its last words."""
    for error in start_all(host, [name], wait).values():
        raise error


def start_all(host, names, wait=PATIENCE):
    """Start services, a few at once; {name: its error} of those that do not start."""
    failed = {}
    for index in range(0, len(names), AT_ONCE):
        failed.update(_start_some(host, names[index:index + AT_ONCE], wait))
    return failed


def _start_some(host, names, wait):
    since, failed, said = time.time(), {}, None
    expect(host, names)
    for name in names:
        if _shown(host, name)["LoadState"] != "not-found":  # of others systemd knows nothing still
            systemctl.drop(host, systemctl.service_unit(name))
    expect(host, names)
    for name in names:
        try:
            _make_ready(host, name)
        except (BulkheadError, OSError) as exc:
            failed[name] = exc
    names = [name for name in names if name not in failed]
    units = {systemctl.service_unit(name): name for name in names}
    try:
        if host.booting:  # they come after us: they would be waited for forever
            many.queue(host, "start", list(units))
            return failed
        many.start(host, list(units), lambda unit: _runs(host, units[unit]))
    except BulkheadError as exc:
        said = exc.message  # whose it is shows when each is looked at
        if host.booting or len(names) == 1:
            return dict(failed, **{name: BulkheadError("Cannot start %s: %s." % (name, _ending(host, name, since, said))) for name in names})
    expect(host, [name for name in names if not _runs(host, name)])
    for pause, patience in ((0.0, wait), (0.05, 0.0)):  # many a wrong configuration shows in the first moments
        time.sleep(pause)
        for name in [each for each in names if each not in failed]:
            failed.update(_judged(host, name, since, patience, said))
    return failed


def _make_ready(host, name):
    """Have systemd as it is to be before a start."""
    shown = _shown(host, name)
    if shown["NeedDaemonReload"] == "yes":
        systemctl.reload(host, force=True)
    if shown["ActiveState"] not in ("active", "reloading"):
        _unlink(directory(host, name) + "/started.json")
        if not host.booting and (shown["ActiveState"] == "activating" or _restarted(shown)):
            stop(host, name)  # it fails again and again: the attempt under way is one in the state before, and failures are counted on


def _runs(host, name):
    """Does the kernel show its command in the cgroup that its unit has? Then systemd need not be asked."""
    group = json.loads(common.text(directory(host, name) + "/spec.json") or "{}").get("slice") or "bulkhead.slice"
    pids = cgroupfs.read("%s%s/%s/cgroup.procs" % (host.cgroup, systemctl.slice_group(group), systemctl.service_unit(name))).split()
    return bool(pids) and all(common.exe(host, int(pid)) not in ("", host.state + "/bin/python3") for pid in pids)


def _judged(host, name, since, wait, said):
    """{} when its command runs, else {name: the error}. Waits while it is on its way in."""
    if _runs(host, name):
        return {}
    shown = _shown(host, name)
    pid, deadline = shown["MainPID"], time.monotonic() + wait
    while shown["ActiveState"] == "active" and shown["NRestarts"] == "0" and _alive(host, pid):
        if common.exe(host, int(pid)) not in ("", host.state + "/bin/python3"):
            return {}
        if time.monotonic() > deadline:
            return {name: BulkheadError("Cannot start %s: its command did not run within %d s. Look at systemctl status %s." % (
                name, PATIENCE, systemctl.service_unit(name)))}
        time.sleep(0.005)
    return {name: BulkheadError("Cannot start %s: %s." % (name, _ending(host, name, since, said)))}


def _ending(host, name, since, otherwise=None):
    """Why it is not running. By now it may have been started again, and then only the journal knows how it ended first.

    An end with status 0 is in neither: such a unit is forgotten, and not worth a line.
    """
    shown = _shown(host, name, fresh=True)
    words = last_words(host, name, since)  # first, for that has the journal complete
    code, number = shown["ExecMainCode"], shown["ExecMainStatus"]
    if code in ("", "0") or shown["NRestarts"] != "0":
        told = json.loads(_journal(host, since, "json", "MESSAGE_ID=" + _EXIT, "UNIT=" + systemctl.service_unit(name)) or "{}")
        code, number = told.get("EXIT_CODE"), told.get("EXIT_STATUS")
        if code is None and otherwise:
            return otherwise.rstrip(".")
    return common.ending(name, "-1" if code in _KILLED else number or "0", number, words)


def stop(host, name, timeout=10.0):
    """Stop it; its unit has the signal and the time after which it is killed."""
    shown = _shown(host, name, fresh=True)
    unit = systemctl.service_unit(name)
    if shown["ActiveState"] not in ("inactive", "failed"):
        many.stop(host, [unit])
        shown = _shown(host, name, fresh=True) if systemctl.loaded(host, unit) else dict(shown, ActiveState="inactive", NRestarts="0")
    if shown["ActiveState"] == "failed" or _restarted(shown):  # how it ended is in the journal; to be stopped is what was wanted
        systemctl.reset_failed(host, unit)
    _unlink(directory(host, name) + "/started.json")


def _restarted(shown):
    return shown["NRestarts"] not in ("", "0")


def forget(host, name):
    """Nothing is remembered: each start opens its log anew."""


def remove(host, name, timeout=10.0, keep_log=True):
    """Stop it and take link, unit and directory away. What the journal has stays until it is rotated."""
    unit = systemctl.service_unit(name)
    stop(host, name, timeout)
    loaded = systemctl.loaded(host, unit)
    _unlink(_wants(host, unit))
    systemctl.remove(host, unit)
    for path in common.halves(host, name) + (directory(host, name),):
        if os.path.isdir(path):
            shutil.rmtree(path)
    if loaded:
        host.at_end(_reload, name)


def checking(host, name):
    """The words that run its health check: a command in a scope beside the service, a probe from where we are."""
    path = directory(host, name) + "/health.json"
    group = json.loads(common.text(path) or "{}").get("slice")
    words = entry.command(host, path)
    return _scope(group, "Health check of Bulkhead service %s" % name) + words if group else words


def within(host, group, words):
    """In a scope of the sandbox's slice; a cgroup of our own the entry joins by itself."""
    if group is None or host.cgroups().join_files(group, "exec"):
        return words
    return _scope(systemctl.slice_unit(group), "Command in cgroup %s" % group) + words


def _scope(unit, description):
    return [tools.tool("systemd-run"), "--scope", "--quiet", "--collect", "--slice=" + unit, "--description=" + description, "--"]


# -- its log

def log_directory(host, name):
    """None: it is in the journal."""


def log_file(host, name):
    """None: it is in the journal."""


def last_words(host, name, since=None):
    """The last line that it wrote, since a time where given, or ''."""
    host.run(["journalctl", "--quiet", "--sync"])
    lines = _journal(host, since, "cat", "_SYSTEMD_UNIT=" + systemctl.service_unit(name)).splitlines()
    return lines[-1].strip()[:300] if lines else ""


def _journal(host, since, form, *matches):
    """The newest entry of the journal that matches, '' when there is none."""
    after = ["--since=@%.3f" % since] if since else []
    return host.run(["journalctl", "--quiet", "--no-pager", "--output=" + form, "--lines=1"] + after + list(matches))[1].strip()


def _unlink(path):
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True
