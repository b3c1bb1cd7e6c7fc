# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The steps by which an image is made over another: a command that is run, files that are copied, a file that is written."""

from __future__ import annotations

from . import values
from .service import PARSERS

KINDS = ("run", "copy", "write")
NETWORKS = ("host", "none")
_RUN = ("run", "env", "user", "workdir", "network", "bind", "timeout", "cgroup")
_COPY = ("src", "dest", "owner", "group", "mode")
_WRITE = ("dest", "content", "owner", "group", "mode")
_BIND = ("src", "dest")
_SHELL = ["/bin/sh", "-e", "-c"]  # -e: of several lines, the first that fails ends it
MOST = 400  # steps; an overlay takes 500 layers


class Step:
    """``kind`` is one of KINDS; ``told`` what it does in a few words, as results and errors name it.

    run: ``command`` (words), ``env``, ``user``, ``workdir``, ``network``, ``bind`` [(src on the host, dest)], ``timeout`` in seconds or None,
    ``cgroup`` or None.
    copy: ``src`` on the host; write: ``content``; both: ``dest``, ``owner``, ``group`` (names of the image, or numbers), ``mode``.
    """

    __slots__ = ("kind", "told", "command", "env", "user", "workdir", "network", "bind", "timeout", "cgroup", "src", "dest", "content", "owner",
                 "group", "mode")

    @property
    def sources(self):
        """What on the host its outcome depends on."""
        return [self.src] if self.kind == "copy" else [src for src, dest in self.bind]

    def canonical(self):
        """All that its outcome depends on, but what is on the host: fit for JSON. How long it may take, and how much, is no part of it."""
        keys = ("command", "env", "user", "workdir", "network") if self.kind == "run" else ("dest", "content", "owner", "group", "mode")
        # Where a file was copied from does not matter, only what it was.
        return dict({key: getattr(self, key) for key in keys}, kind=self.kind, bind=[dest for src, dest in self.bind])


def steps(value, path, problems):
    """The Steps of a list."""
    found = [_step(item, "%s[%d]" % (path, index), problems) for index, item in enumerate(values.items(value, path, problems))]
    if len(found) > MOST:
        problems.add(path, "%d steps are more than %d" % (len(found), MOST))
    return found


def _step(item, path, problems):
    step = Step()
    given = values.mapping(item, path, problems, _RUN + ("copy", "write"))
    kinds = [kind for kind in KINDS if given.get(kind) is not None]
    if len(kinds) != 1:
        if isinstance(item, dict):
            problems.add(path, "give one of run, copy and write")
        return None
    step.kind, step.bind, step.cgroup = kinds[0], [], None
    if step.kind == "run":
        _run(step, given, path, problems)
        return step
    for key in given:
        if key in _RUN:
            problems.add("%s.%s" % (path, key), "this goes with run")
    path = "%s.%s" % (path, step.kind)
    given = values.mapping(given[step.kind], path, problems, _COPY if step.kind == "copy" else _WRITE)
    step.dest = _needed(given, "dest", path, problems, values.absolute)
    if step.kind == "copy":
        step.src, step.content = _needed(given, "src", path, problems, values.absolute), None
    else:
        step.src, step.content = None, _needed(given, "content", path, problems, values.text, 16 << 20)
        if step.dest == "/":
            problems.add(path + ".dest", "/ is no file")
    for key in ("owner", "group"):
        setattr(step, key, None if given.get(key) is None else PARSERS["user"][0](given[key], "%s.%s" % (path, key), problems))
    step.mode = None if given.get("mode") is None else values.mode(given["mode"], path + ".mode", problems)
    step.told = "copy %s to %s" % (step.src, step.dest) if step.kind == "copy" else "write %s" % step.dest
    return step


def _run(step, given, path, problems):
    command = given["run"]
    if not isinstance(command, (str, list, tuple)):
        problems.add(path + ".run", "%s is neither a line for a shell nor a list of words" % values.quoted(command))
        command = step.command = None
    elif isinstance(command, str):
        command = values.text(command, path + ".run", problems)
        if command is not None and not command.strip():
            problems.add(path + ".run", "is empty")
        step.command = _SHELL + [command]
    else:
        step.command = PARSERS["command"][0](command, path + ".run", problems)
        command = " ".join(step.command or ())
    step.told = "run " + _short(command or "")
    for key, option in (("env", "environment"), ("user", "user"), ("workdir", "cwd")):
        value = given.get(key)
        setattr(step, key, None if value is None else PARSERS[option][0](value, "%s.%s" % (path, key), problems))
    step.env, step.user, step.workdir = step.env or {}, step.user or "root", step.workdir or "/"
    step.network = "host" if given.get("network") is None else values.choice(given["network"], path + ".network", problems, NETWORKS)
    if given.get("cgroup") is not None:
        step.cgroup = values.cgroup_path(given["cgroup"], path + ".cgroup", problems)
    step.timeout = None
    if given.get("timeout") is not None:
        time = values.time_us(given["timeout"], path + ".timeout", problems, 1000000, 86400 * 1000000)
        step.timeout = time and -(-time // 1000000)
    for index, item in enumerate(values.items(given.get("bind"), path + ".bind", problems)):
        where = "%s.bind[%d]" % (path, index)
        item = values.mapping(item, where, problems, _BIND)
        src, dest = (_needed(item, key, where, problems, values.absolute) for key in _BIND)
        if dest is not None and (dest == "/" or dest.split("/")[1] in ("proc", "sys", "dev")):
            problems.add(where + ".dest", "%s is a mount of the root itself" % dest)
        if dest in [each[1] for each in step.bind]:
            problems.add(where + ".dest", "%s is declared twice" % dest)
        step.bind.append((src, dest))


def _needed(given, key, path, problems, parse, *more):
    if given.get(key) is None:
        problems.add("%s.%s" % (path, key), "this is required")
        return None
    return parse(given[key], "%s.%s" % (path, key), problems, *more)


def _short(text):
    """In one line, and not too long."""
    text = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return text if len(text) <= 60 else text[:57] + "..."
