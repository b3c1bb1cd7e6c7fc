# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The unit file of a service (systemd.service(5)), and why each of its lines is there."""

from __future__ import annotations

from . import entry, systemctl, tools

TARGET = "multi-user.target"
_HEAD = systemctl.MADE + "; what a drop-in beside it says is added\n"
_AGAIN = {"no": "Restart=no\n", "always": "Restart=always\nRestartSec=1\n",
          # an end by one of these signals is a clean one to systemd, but not status 0
          "on-failure": "Restart=on-failure\nRestartSec=1\nRestartForceExitStatus=SIGHUP SIGINT SIGTERM SIGPIPE\n"}
_SECOND = 1000000  # microseconds


def render(host, unit, home, group):
    """The text. ``home``: the directory of what the entry reads; ``group``: the slice, None for that of all services."""
    words = entry.command(host, home + "/spec.json")
    if host.aside:  # the pins are where the engine works
        words = [tools.tool("nsenter", host.check), "--mount=%s/engine" % host.state, "--"] + words
    return "".join((
        _HEAD,
        "[Unit]\n",
        "Description=Bulkhead service %s\n" % unit.name,
        _order(unit, group),
        "AssertPathExists=%s/spec.json\n" % home,
        "StartLimitIntervalSec=0\n",
        "\n[Service]\n",
        "Type=notify\n",
        "NotifyAccess=main\n",
        "Slice=%s\n" % (group or "bulkhead.slice"),
        "ExecStart=%s\n" % " ".join(words),
        "ExecStopPost=/bin/sh -c 'echo 1 >%s'\n" % unit.kill if unit.kill else "",
        "KillMode=mixed\n",  # the command is asked to end; what it leaves behind is killed
        "KillSignal=SIG%s\n" % unit.stop_signal,
        "TimeoutStopSec=%s\n" % _time(unit.stop_timeout),
        _AGAIN[unit.restart],
        "OOMPolicy=continue\n",  # who survives is left to the limits of the sandbox, as is the number of tasks
        "TasksMax=infinity\n",
        "StandardOutput=%s\n" % ("journal" if unit.log else "null"),
        "StandardError=inherit\n",
        "SyslogIdentifier=%s\n" % unit.name,
        "\n[Install]\n",
        "WantedBy=%s\n" % TARGET,
    ))


def _order(unit, group):
    """What it is started after, and so ended before. Of each unit named here systemd tells the bus at every start (docs/performance.md).

    So a service in a sandbox leaves the default dependencies to those that it depends on: bulkhead.service, where the keeper of its pid
    namespace lives, is after all that they name, and at shutdown bulkhead.slice is stopped, and first of all what is in it.
    """
    kept = unit.pid_pin and group and group.startswith("bulkhead-")
    return "After=bulkhead.service bulkhead-restore.service\n" + ("DefaultDependencies=no\n" if kept else "")


def _time(microseconds):
    """As systemd reads it, where 0 would be for ever."""
    return "%ds" % (microseconds // _SECOND) if microseconds and not microseconds % _SECOND else "%dus" % max(1, microseconds)
