# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What all supervisors have in common: the Unit that they render, and the directory below STATE/service that each service has.

    spec.json     what the next start reads; started.json is a link to what the running process was started with
    options.json  what was declared
    health.json   what the health check reads
"""

from __future__ import annotations

import os
import shutil


class Unit:
    """A service as it is to be rendered.

    ``name``; ``spec``: the entry's (`_program/enter.py`), with `started` left to us; ``health``: the entry spec of its check or None;
    ``pid_pin``: the pid namespace to be born in, or None; ``stop_signal``: its name without SIG; ``stop_timeout``: the microseconds
    until it is killed; ``restart``: no, on-failure or always; ``log``: {size, files} or None for none; ``tasks``: a file that lists the
    processes of its cgroup, or None; ``kill``: the cgroup.kill of its own cgroup, or None; ``group``: the cgroup that it is to be in
    where the supervisor makes it one, or None; ``enabled``: whether it starts at boot; ``down``: whether the supervisor leaves it
    stopped; ``options``: what was declared.
    """

    __slots__ = ("name", "spec", "health", "pid_pin", "stop_signal", "stop_timeout", "restart", "log", "tasks", "kill", "group", "enabled",
                 "down", "options")

    def __init__(self, **values):
        for name in self.__slots__:
            setattr(self, name, values.get(name))


def directory(host, name):
    return "%s/service/%s" % (host.state, name.replace("/", ":"))


def halves(host, name):
    """Where a directory is while it is made, and while it is removed."""
    return tuple("%s/service/%s-%s" % (host.state, word, name.replace("/", ":")) for word in (".new", ".gone"))


def names(host):
    """The names of all services that have a directory, or a half of one."""
    try:
        entries = os.listdir(host.state + "/service")
    except OSError:
        return set()
    found = {entry.partition("-")[2] if entry.startswith((".new-", ".gone-")) else entry for entry in entries}
    return {entry.replace(":", "/") for entry in found}


def started(host, name):
    """The text of the spec that the running process was started with, or None."""
    return text(directory(host, name) + "/started.json")


def read(host, name, paths):
    """{relative path: text} of the directory of a service, None when there is none."""
    home, found = directory(host, name), {}
    try:
        there = os.listdir(home)
    except (FileNotFoundError, NotADirectoryError):
        return None
    for path in paths:
        if path.partition("/")[0] in there:
            content = text("%s/%s" % (home, path))
            if content is not None:
                found[path] = content
    return found


def prepare(host, name):
    """First of all, so that what a killed run leaves is found by the name of this half. Nothing where the directory is there."""
    if not os.path.isdir(directory(host, name)):
        half = halves(host, name)[0]
        shutil.rmtree(half, ignore_errors=True)
        os.makedirs(half, mode=0o700)


def write(host, name, files, paths):
    """Make the directory appear whole after prepare(), or bring the files ``paths`` in it up to date, each by a rename."""
    home = directory(host, name)
    if os.path.isdir(home):
        for path in paths:
            if path in files:
                if text(home + "/" + path) != files[path]:
                    os.makedirs(os.path.dirname(home + "/" + path), mode=0o700, exist_ok=True)
                    put(home + "/" + path, files[path], _mode(path))
            elif os.path.lexists(home + "/" + path):
                os.unlink(home + "/" + path)
        return
    half = halves(host, name)[0]
    for path in paths:
        if path in files:
            os.makedirs(os.path.dirname(half + "/" + path), mode=0o700, exist_ok=True)
            put(half + "/" + path, files[path], _mode(path))
    os.rename(half, home)


def text(path):
    """The text of a file, None when there is none. (open() with an encoding takes three times as long.)"""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    parts = []
    try:
        while not parts or parts[-1]:
            parts.append(os.read(fd, 1 << 18))
    finally:
        os.close(fd)
    return b"".join(parts).decode("utf-8", "surrogateescape")


def put(path, content, mode):
    """Write a file whole, by a rename."""
    temporary = "%s/.%s.new" % (os.path.dirname(path), os.path.basename(path))
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    with os.fdopen(fd, "w", encoding="utf-8", errors="surrogateescape") as stream:
        os.fchmod(fd, mode)
        stream.write(content)
    os.rename(temporary, path)


def exe(host, pid):
    """The program that a process runs, '' when that cannot be told."""
    try:
        return os.readlink("%s/%d/exe" % (host.proc, pid))
    except OSError:
        return ""


def ending(name, code, number, words):
    """How it ended, as the reason of a failed start: its status or the signal (code -1), and its last words."""
    words = "".join(char if char.isprintable() else "?" for char in words).rstrip(".")
    own = "Cannot enter %s: " % name
    if words.startswith(own):  # the entry's, not the command's
        return words[len(own):]
    told = "it ended by signal %s" % number if code == "-1" else "it ended with status %s" % (code or "unknown")
    return told + (": " + words if words else "")


def _mode(path):
    return 0o600 if path.endswith((".json", "config", "down")) else 0o700
