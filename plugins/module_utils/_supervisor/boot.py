# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What runs `bulkhead restore` at boot: a unit of systemd's, else a line of cron's, else a service of the host's own runit that ends.

Services are units that come after ours, so that they find what they stand on; systemd starts them. Elsewhere restore starts them itself.
"""

from __future__ import annotations

import os
import re
import shutil

from .._model.errors import BulkheadError
from . import subtree, systemctl

UNIT = "bulkhead-restore.service"
CRON = "/etc/cron.d/bulkhead"
CRON_RUNS = "/run/crond.pid"  # of Debian's cron and of cronie; one that is installed and does not run would restore nothing
RUNIT = "bulkhead-restore"
_MARK = systemctl.MADE
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PLAIN = re.compile("[A-Za-z0-9/._+@:-]+")  # what needs no quoting in any of the three

# After those that, when they start, turn forwarding on for the whole host or set its rules.
UNIT_TEXT = _MARK + """
[Unit]
Description=Bulkhead: the sandboxes of this host are made again
Wants=bulkhead.service
After=bulkhead.service remote-fs.target docker.service firewalld.service
Before=multi-user.target
RequiresMountsFor=/etc/bulkhead /var/lib/bulkhead /var/log/bulkhead

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=%s restore
TimeoutStartSec=15min

[Install]
WantedBy=multi-user.target
"""
CRON_TEXT = _MARK + """, to make again after a reboot what /etc/bulkhead records
PATH=%s
@reboot root %s restore 2>&1 | logger -t bulkhead
"""
# Where our places are mounted already, this is no boot: the service is new, or its runsvdir has been started again.
RUNIT_RUN = "#!/bin/sh\n" + _MARK + """, to make again after a reboot what /etc/bulkhead records
exec 2>&1
if mountpoint -q %s; then exit 0; fi
exec %s restore
"""
RUNIT_FINISH = "#!/bin/sh\n" + _MARK + ": once is enough\necho d > supervise/control\n"


def place(host):
    """Which of them this host has: systemd, cron, runit, or None."""
    if host.systemd:
        return "systemd"
    if os.path.isdir(os.path.dirname(CRON)) and os.path.exists(CRON_RUNS):
        return "cron"
    return "runit" if _runit(host) else None


def files(host, kind, program):
    """{path: (text, mode)} of what is to be there."""
    if kind is None:
        return {}
    if not _PLAIN.fullmatch(program):
        raise BulkheadError("Cannot run %s at boot: its path has characters that mean something there. Give a path of letters, digits "
                            "and ._+@:- in program." % program)
    if kind == "systemd":
        return {systemctl.path(host, subtree.UNIT): (subtree.render(systemctl.version(host)), 0o644),
                systemctl.path(host, UNIT): (UNIT_TEXT % program, 0o644)}
    if kind == "cron":
        return {CRON: (CRON_TEXT % (_PATH, program), 0o644)}
    home = "%s/%s" % (_runit(host), RUNIT)  # the file that starts it comes last
    return {home + "/finish": (RUNIT_FINISH, 0o755), home + "/run": (RUNIT_RUN % (host.state, program), 0o755)}


def plan(host, program, plan):
    """Have it there and enabled, in one place only: the host's init may have been another."""
    kind = place(host)
    wanted = files(host, kind, program)
    before = len(plan.steps)
    for path, (text, mode) in wanted.items():
        now = _found(path)
        if now != (text, mode):
            plan.differ(path, None if now is None else "another version", "made")
            plan.add("write %s" % path, lambda each=(path, text, mode): _write(host, *each), None if now else lambda path=path: _remove(host, path))
    for unit in (subtree.UNIT, UNIT) if kind == "systemd" else ():
        if not _enabled(host, unit):
            plan.differ(unit, "disabled", "enabled")
            plan.add("enable %s" % unit, lambda unit=unit: systemctl.enable(host, unit), lambda unit=unit: _disable(host, unit))
    if kind == "systemd" and len(plan.steps) > before:  # once for all; what a killed run leaves unread, the next boot reads
        plan.add("let systemd read the units", lambda: systemctl.reload(host))
    _plan_removal(host, plan, [path for path in found(host) if path not in wanted and path not in map(os.path.dirname, wanted)])


def plan_removal(host, plan):
    """Take it away, wherever it is. (bulkhead.service goes with the last who lives in it.)"""
    if _enabled(host, UNIT):
        plan.differ(UNIT, "enabled", "disabled")
        plan.add("disable %s" % UNIT, lambda: _disable(host, UNIT))
    _plan_removal(host, plan, found(host))


def _plan_removal(host, plan, paths):
    for path in paths:
        plan.differ(path, "made", None)
        plan.add("remove %s" % path, lambda path=path: _remove(host, path))


def found(host):
    """The files, and of a service of runit's the directory, that are there and ours."""
    paths = [systemctl.path(host, UNIT), CRON]
    home = "%s/%s" % (_runit(host), RUNIT)
    return [path for path in paths if _MARK in (_text(path) or "")] + (
        [home] if any(_MARK in (_text("%s/%s" % (home, name)) or "") for name in ("run", "finish")) else [])


def _runit(host):
    """The directory of the runsvdir that is not ours, if it outlasts a reboot."""
    for pid in os.listdir(host.proc):
        if not pid.isdigit():
            continue
        try:
            with open("%s/%s/cmdline" % (host.proc, pid), "rb") as stream:
                words = [os.fsdecode(word) for word in stream.read().split(b"\0")]
            if os.path.basename(words[0]) != "runsvdir" or not os.path.samestat(os.stat("%s/%s/root" % (host.proc, pid)), os.stat("/")):
                continue
        except OSError:
            continue
        directory = next((word for word in words[1:] if word.startswith("/")), host.state)
        if directory != host.state + "/service" and not os.path.realpath(directory).startswith(("/run/", "/dev/")):
            return os.path.realpath(directory)
    return None


def _found(path):
    """(text, mode) of a file of ours, None when there is none; somebody else's is neither replaced nor removed."""
    text = _text(path)
    if text is None and not os.path.lexists(path):
        return None
    if text is None or _MARK not in text:
        raise BulkheadError("Cannot manage %s: something else is there. Remove it." % path)
    return text, os.stat(path).st_mode & 0o7777


def _text(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read() or _MARK  # a power cut may leave an empty one
    except OSError:
        return None


def _write(host, path, text, mode):
    if os.path.dirname(path) == host.units:
        systemctl.write(host, os.path.basename(path), text)
        os.chmod(path, mode)
        return
    directory, name = os.path.split(path)
    os.makedirs(directory, mode=0o755, exist_ok=True)
    temporary = "%s/.%s.new" % (directory, name)  # cron and runsvdir pass by names with a dot in front
    with open(temporary, "w", encoding="utf-8") as stream:
        stream.write(text)
        os.fchmod(stream.fileno(), mode)
    os.rename(temporary, path)


def _remove(host, path):
    if os.path.dirname(path) == host.units:
        if os.path.basename(path) == UNIT and os.path.lexists(path):
            systemctl.stop(host, UNIT)  # it remains active since the boot, and would stay loaded without its file
        if systemctl.remove(host, os.path.basename(path)):
            systemctl.reload(host)
            systemctl.reset_failed(host, os.path.basename(path))
    elif os.path.isdir(path) or os.path.basename(os.path.dirname(path)) == RUNIT:
        # Its runsv ends when runsvdir misses the directory, and what that keeps in it goes with it.
        shutil.rmtree(path if os.path.isdir(path) else os.path.dirname(path), ignore_errors=True)
    elif os.path.lexists(path):
        os.unlink(path)


def _enabled(host, unit):
    return os.path.islink("%s/multi-user.target.wants/%s" % (host.units, unit))


def _disable(host, unit):
    systemctl.disable(host, unit)
    systemctl.reload(host)
