# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Services as runit keeps them: one directory each below STATE/service, talked to through runsv's own fifos and status file.

    run       becomes the entry (setsid, and where there is a pid namespace nsenter and tini, then enter); finish sweeps up and says
              whether runsv restarts it; check is the health check; control/t sends another stop signal; log/run is svlogd
    spec.json what the next start reads; started.json is a link to what the running process was started with
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from shlex import quote

from .._model.errors import BulkheadError
from . import common, entry, scan, tools

FILES = ("run", "finish", "check", "control/t", "log/run", "spec.json", "health.json", "options.json", "down", "log/config")
KILL_WAIT = 10.0  # seconds that a killed service may take to be gone
_RUN, _FINISH = 1, 2  # states in supervise/status
tool = tools.tool
OWN_CGROUP = False  # the entry joins one of ours
directory, started = common.directory, common.started
_TAI = 4611686018427387914  # second 0 of Unix time as runsv counts
_TICK = 0.01  # seconds by which the time of a file may be behind

# Kills what the last start left behind: its session, or where it had a cgroup of its own all of that.
_SWEEP = """\
if read -r session < session; then
    for pid in %s; do
        pid=${pid#/proc/}
        if read -r line < "/proc/$pid/stat"; then
            set -- ${line##*) }
            if [ "$4" = "$session" ]; then kill -9 "$pid"; fi
        fi
    done
    rm -f session
fi 2> /dev/null
"""
_SWEEP_CGROUP = """\
if [ -e session ]; then
    echo 1 > %s
    rm -f session
fi 2> /dev/null
"""


def log_directory(host, name):
    return "%s/%s" % (host.log, name.replace("/", ":"))


def log_file(host, name):
    """Where the newest lines of its log are, as a file; None where they are in none."""
    return log_directory(host, name) + "/current"


def require(host, name, pid):
    """Refuse a host that lacks what services need; with a pid namespace that is more."""
    tools.require("runsvdir", "runsv", "svlogd", *(("setsid", "nsenter", "tini") if pid else ()))


def expect(host, names):
    """These are going to be asked about: here nothing is saved by knowing that."""


def within(host, group, words):
    """The words that run ``words`` in a cgroup beside its services: the entry joins it by itself."""
    return words


def checking(host, name):
    """The words that run its health check."""
    return entry.command(host, directory(host, name) + "/health.json")


def render(host, unit, dump):
    """{relative path: text} of its directory; ``dump`` writes JSON. Needs nothing of the host but the places of its tools."""
    home = directory(host, unit.name)
    spec = dict(unit.spec, started=home + "/started.json", die_with_parent=bool(unit.pid_pin))
    words = entry.command(host, home + "/spec.json")
    if unit.pid_pin:  # whoever waits for a process in there must be outside: tini, which passes signals on
        setsid, nsenter, tini = (tool(name, host.check) for name in ("setsid", "nsenter", "tini"))
        words = [setsid, nsenter, "--pid=" + unit.pid_pin, "--no-fork", "--", tini, "-s", "--"] + words
    sweep = _SWEEP_CGROUP % quote(unit.kill) if unit.kill else _SWEEP % (
        "$(cat %s)" % quote(unit.tasks) if unit.tasks else "/proc/[0-9]*")
    head = "#!/bin/sh\n# %s, made by bulkhead\n" % unit.name
    again = {"always": "", "no": "echo d > supervise/control\n",
             "on-failure": 'if [ "$code" = 0 ]; then echo d > supervise/control; fi\n'}[unit.restart]
    files = {
        "run": head + sweep + "echo $$ > session\nexec 2>&1%s\nexec %s\n" % (
            "" if unit.log else " > /dev/null", " ".join(quote(word) for word in words)),
        "finish": head + "code=$1\n{ read -r session < session; } 2> /dev/null\necho \"$1 $2 $session\" > ended\n" + sweep + again + "exit 0\n",
        "spec.json": dump(spec),
        "options.json": dump(unit.options),
    }
    if unit.health:
        files["health.json"] = dump(unit.health)
        files["check"] = head + "exec %s\n" % " ".join(quote(word) for word in entry.command(host, home + "/health.json"))
    if unit.stop_signal != "TERM":
        files["control/t"] = head + "exec kill -s %s \"$(cat supervise/pid)\"\n" % unit.stop_signal
    if unit.log:
        files["log/run"] = head + "exec %s -tt %s\n" % (tool("svlogd", host.check), quote(log_directory(host, unit.name)))
        files["log/config"] = "s%d\nn%d\n" % (unit.log["size"], unit.log["files"])
    if unit.down:
        files["down"] = ""
    return files


def read(host, name):
    """{relative path: text} of a service that is there, else None."""
    return common.read(host, name, FILES)


def names(host):
    """The names of all services of which something is there."""
    return sorted(common.names(host))


def remains(host, name):
    """Is there something of a service that was being made or removed when the run was killed?"""
    return not os.path.isdir(directory(host, name)) and any(
        os.path.isdir(path) for path in common.halves(host, name) + (log_directory(host, name),))


def write(host, name, files):
    """Make a directory appear whole, or bring one that is there up to date file by file, each by a rename."""
    home = directory(host, name)
    there = os.path.isdir(home)
    if not there and os.path.isdir(common.halves(host, name)[1]):
        _remove_gone(common.halves(host, name)[1])
    common.prepare(host, name)
    if files.get("log/config"):
        log = log_directory(host, name)
        os.makedirs(log, mode=0o750, exist_ok=True)
        common.put(log + "/config", files["log/config"], 0o600)
    common.write(host, name, files, FILES)
    if there:
        _control(home + "/log", b"h")  # svlogd reads its configuration again


def status(host, name):
    """{state: started, stopped or finishing, pid, want, since} of a service; None when runsv does not watch it."""
    home = directory(host, name)
    if not _watched(home):
        return None
    try:
        fd = os.open(home + "/supervise/status", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    data = os.read(fd, 20)
    os.close(fd)
    if len(data) < 20:
        return None
    pid = int.from_bytes(data[12:16], "little")
    state = data[19]
    return {"state": "started" if state == _RUN and pid else "finishing" if state == _FINISH else "stopped", "pid": pid or None,
            "want": "started" if data[17:18] == b"u" else "stopped",
            "since": int.from_bytes(data[0:8], "big") - _TAI + int.from_bytes(data[8:12], "big") / 1e9}


def main_pid(host, name, now):
    """The process of the command itself: the child of tini where there is one, else the process that runsv holds.

    None as long as it is on its way in: the entry links started.json (which sets its time of change) before it joins anything.
    """
    pid = now["pid"]
    try:
        entered = os.stat(directory(host, name) + "/started.json").st_ctime
    except OSError:
        return None
    if entered + _TICK < now["since"]:
        return None  # that was an earlier start
    if pid and os.path.basename(common.exe(host, pid)) == "tini":
        try:
            children = common.text("%s/%d/task/%d/children" % (host.proc, pid, pid)) or ""
        except ProcessLookupError:
            children = ""
        pid = int(children.split()[0]) if children.split() else None
    return pid if pid and common.exe(host, pid) not in ("", host.state + "/bin/python3") else None


def start_all(host, names):
    """Start services; {name: its error} of those that do not start."""
    failed = {}
    for name in names:
        try:
            start(host, name)
        except (BulkheadError, OSError) as exc:
            failed[name] = exc
    return failed


def start(host, name, wait=10.0):
    """Start it and wait until its command runs; raise when it does not, with its last words."""
    home = directory(host, name)
    running = (status(host, name) or {}).get("state") == "started"
    for path in ("ended",) if running else ("ended", "started.json"):
        try:
            os.unlink("%s/%s" % (home, path))
        except FileNotFoundError:
            pass
    before = common.text(home + "/session")  # a start whose end may still be told: not ours
    scan.ensure(host, tool("runsvdir"))
    scan.await_watch(host, home, _watched)
    _control(home, b"u")
    deadline = time.monotonic() + wait
    while time.monotonic() < deadline:
        now = status(host, name) or {"state": "stopped", "pid": None, "want": None}
        ended = common.text(home + "/ended")  # read last: what ended before `now` was running is in it
        if ended and not (before and ended.split()[2:] == before.split()):
            raise BulkheadError("Cannot start %s: %s." % (name, _ending(host, name)))
        if ended and now["want"] == "stopped":  # its finish took our order back
            _control(home, b"u")
        if now["state"] == "started" and main_pid(host, name, now):
            time.sleep(0.05)  # many a wrong configuration shows in the first moments
            if (status(host, name) or {}).get("pid") == now["pid"]:
                return
        time.sleep(0.01)
    raise BulkheadError("Cannot start %s: its command did not run within %d s. See %s/current." % (name, wait, log_directory(host, name)))


def stop(host, name, timeout=10.0):
    """Send the stop signal; kill what is there after ``timeout`` seconds."""
    home = directory(host, name)
    if not _watched(home):
        return
    _control(home, b"d")
    if not _await_down(host, name, timeout):
        _control(home, b"k")
        if not _await_down(host, name, KILL_WAIT):
            raise BulkheadError("Cannot stop %s: process %s is still there %d s after it was killed." % (
                name, (status(host, name) or {}).get("pid"), KILL_WAIT))
    try:
        os.unlink(home + "/started.json")
    except FileNotFoundError:
        pass


def forget(host, name):
    """Have runsv end, which takes notice of a log service only when it starts. The service must be stopped."""
    home = directory(host, name)
    _end_watch(home)
    if _watched(home):
        raise BulkheadError("Cannot end runsv of service %s: it did not end within %d s. Look at sv status %s." % (name, KILL_WAIT, home))
    if not os.path.exists(home + "/log/run"):
        shutil.rmtree(home + "/log", ignore_errors=True)


def _end_watch(home):
    """Have the runsv of a stopped service end, and with it svlogd."""
    deadline = time.monotonic() + KILL_WAIT
    while _watched(home) and time.monotonic() < deadline:
        _control(home, b"x")
        time.sleep(0.01)


def remove(host, name, timeout=10.0, keep_log=True):
    """Stop it and take its directory away, with its log where asked."""
    home = directory(host, name)
    temporary, gone = common.halves(host, name)
    shutil.rmtree(temporary, ignore_errors=True)
    if os.path.isdir(home):
        stop(host, name, timeout)
        if os.path.isdir(gone):  # what a killed run left
            _remove_gone(gone)
        os.rename(home, gone)
    _end_watch(gone)
    if not keep_log and os.path.isdir(log_directory(host, name)):
        shutil.rmtree(log_directory(host, name))
    if os.path.isdir(gone):  # last: as long as it is there, it is known that there is something left
        _remove_gone(gone)


def _remove_gone(gone):
    """Take a directory away that runsvdir does not see any more."""
    _end_watch(gone)
    for dummy in range(100):  # svlogd and runsv may still write their last status
        shutil.rmtree(gone, ignore_errors=True)
        if not os.path.isdir(gone):
            return
        time.sleep(0.02)
    raise BulkheadError("Cannot remove %s: something is still written to it. Is its runsv alive?" % gone)


def last_words(host, name):
    """The last line of its log, without the time, or ''."""
    lines = (common.text(log_directory(host, name) + "/current") or "").strip().splitlines()
    return lines[-1].partition(" ")[2].strip()[:300] if lines else ""


def _ending(host, name):
    code, number = ((common.text(directory(host, name) + "/ended") or "").split() + ["", ""])[:2]
    return common.ending(name, code, number, last_words(host, name))


def _await_down(host, name, seconds):
    deadline, pause = time.monotonic() + seconds, 0.002
    while True:
        now = status(host, name)
        if now is None or (now["state"] == "stopped" and not now["pid"]):
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
        pause = min(pause * 1.5, 0.05)


def _watched(home):
    """runsv keeps the reading end of supervise/ok open for as long as it lives."""
    try:
        os.close(os.open(home + "/supervise/ok", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as exc:
        if exc.errno in (errno.ENXIO, errno.ENOENT, errno.ENOTDIR):
            return False
        raise
    return True


def _control(home, words):
    try:
        fd = os.open(home + "/supervise/control", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        if exc.errno in (errno.ENXIO, errno.ENOENT):
            return False
        raise
    try:
        os.write(fd, words)
    except BrokenPipeError:  # it has just ended
        return False
    finally:
        os.close(fd)
    return True
