# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is declared of one service: its command, what it enters, what it keeps of root's powers, how it is supervised."""

from __future__ import annotations

from .._kernel import caps
from . import values
from .root import RootSpec

STATES = ("started", "stopped", "restarted", "absent")
RESTARTS = ("no", "on-failure", "always")
SIGNALS = ("TERM", "HUP", "INT", "QUIT", "USR1", "USR2", "WINCH", "ABRT", "ALRM", "KILL")
RLIMITS = ("as", "core", "cpu", "data", "fsize", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss", "rtprio", "rttime",
           "sigpending", "stack")
# Belong to the one prepared root of a sandbox, or make one for this service alone.
ROOT_OPTIONS = ("bind", "tmpfs", "devices", "masked_paths", "read_only_paths")
# How to go about it: neither compared nor recorded.
RULES = ("state", "on_change", "on_mismatch", "force", "remove_data")
# What root inside is left with unless `capabilities` says otherwise: enough for a server that starts as root, takes a port below
# 1024 and becomes another user. Nothing of it reaches beyond files, processes and ids that are its own.
CAPABILITIES = ["chown", "dac_override", "fowner", "fsetid", "kill", "net_bind_service", "setgid", "setuid"]
DEFAULTS = {
    "root": None, "command": None, "user": "root", "group": None, "groups": None, "environment": {}, "cwd": "/", "umask": 0o022,
    "namespace": None, "cgroup": None, "capabilities": CAPABILITIES, "ambient_capabilities": [], "no_new_privs": True,
    "seccomp": "default", "rlimits": {}, "stop_signal": "TERM", "stop_timeout": 10000000, "restart": "on-failure",
    "log": {"enabled": True, "max_size": 1 << 20, "max_files": 10}, "health": None, "nice": None, "oom_score_adj": None,
    "enabled": True, "bind": [], "tmpfs": [], "devices": [], "masked_paths": None, "read_only_paths": None,
}
HEALTH = {"interval": 10000000, "timeout": 5000000, "retries": 3, "start_period": 0}
OPTIONS = ("name",) + tuple(DEFAULTS) + RULES
# Inside a sandbox these follow from it.
_GIVEN = ("root", "namespace", "cgroup", "on_change", "on_mismatch", "force", "remove_data") + ROOT_OPTIONS
_CAN_START = ("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_")
_ID_MAX = 0xFFFFFFFE


class ServiceSpec:
    """A service as declared. ``declared``: {option: normal value} of what was named, fit for JSON; ``raw``: the same as it was written.

    ``whole``: a declaration is the whole (the composite), so what is not named is the default; else it is what was declared before.
    ``types``: the namespace types of a set that an earlier step of the same run makes, {kind: None}; None: ask the host.
    ``promised``: of "namespace", "cgroup", "root", what an earlier step makes. ``prepared``: the mount namespace has the root.
    ``renew``: an earlier step stops it, and it is to run again. ``layers``, ``covered``: of a sandbox, the directories of its root,
    top first, and what is mounted over them.
    """

    __slots__ = ("name", "declared", "raw", "state", "on_change", "on_mismatch", "force", "whole", "types", "promised", "prepared",
                 "renew", "sandbox", "layers", "covered")

    @property
    def key(self):
        return self.name

    @classmethod
    def from_options(cls, options, path, problems, sandbox=None):
        """Parse; every error becomes a problem with its path. ``sandbox``: the SandboxSpec that it belongs to."""
        spec = cls()
        known = OPTIONS if sandbox is None else tuple(key for key in OPTIONS if key not in _GIVEN)
        options = values.mapping(options, path or "chroot_service", problems, known)

        def at(key):
            return "%s.%s" % (path, key) if path else key

        def given(key, parse, *more):
            return None if options.get(key) is None else parse(options[key], at(key), problems, *more)

        spec.sandbox = None if sandbox is None else sandbox.key
        spec.name = _name(options.get("name"), at("name"), problems, spec.sandbox)
        spec.state = given("state", values.choice, STATES) or "started"
        spec.on_change = given("on_change", values.choice, ("report", "restart")) or "report"
        spec.on_mismatch = given("on_mismatch", values.choice, ("fail", "recreate")) or "fail"
        spec.force = given("force", values.boolean) or False
        spec.whole, spec.types, spec.promised, spec.prepared = sandbox is not None, None, frozenset(), False
        spec.renew, spec.layers, spec.covered = False, [], []
        spec.raw = {key: options[key] for key in DEFAULTS if options.get(key) is not None}
        spec.declared = {}
        for key, (parse, more) in PARSERS.items():
            if options.get(key) is not None:
                value = parse(options[key], at(key), problems, *more)
                if value is not None:
                    spec.declared[key] = value
        extra = {key: options[key] for key in ROOT_OPTIONS if options.get(key) is not None}
        if extra:
            RootSpec.from_options(extra, path, problems, name=spec.name, base="/")  # for its problems
        if sandbox is not None:
            spec._within(sandbox)
        if spec.state != "absent":
            spec._contradictions(at, problems)
        return spec

    def _within(self, sandbox):
        """What a sandbox says of each of its services."""
        self.promised = frozenset(("namespace", "cgroup", "root"))
        self.on_change = (sandbox.policy.get("on_change") if sandbox.policy else None) or "report"
        self.types = tuple(sandbox.namespaces.types or ()) if sandbox.namespaces is not None else ()
        self.prepared = "mnt" in self.types
        self.declared["namespace"] = sandbox.key if self.types else None
        self.declared["cgroup"] = sandbox.cgroup.name if sandbox.cgroup is not None else None
        overlay = sandbox.overlay
        if overlay is not None:
            self.layers = [path for path in [overlay.upper] + list(overlay.lower or ()) if path]
        elif isinstance(sandbox.options.get("root"), str):
            self.layers = [sandbox.options["root"]]
        for key in ("bind", "tmpfs"):
            wants = sandbox.options.get(key)
            self.covered += [want["target"] for want in (wants if isinstance(wants, list) else ())
                             if isinstance(want, dict) and isinstance(want.get("target"), str)]
        if not self.prepared:
            self.declared["root"] = overlay.path if overlay is not None else sandbox.options.get("root")

    def effective(self, base):
        """Every option: what is declared, else what ``base`` (declared before) has, else the default."""
        known = dict(DEFAULTS)
        if not self.whole:
            known.update({key: value for key, value in base.items() if key in DEFAULTS})
        known.update(self.declared)
        return known

    def _contradictions(self, at, problems):
        declared = self.declared
        kept = declared.get("capabilities", CAPABILITIES)
        for index, name in enumerate(declared.get("ambient_capabilities", ())):
            if name not in kept and ("capabilities" in declared or self.whole):
                problems.add("%s[%d]" % (at("ambient_capabilities"), index), "%s is not kept. Name it in capabilities too" % name)
        if self.whole and "command" not in declared:
            problems.add(at("command"), "is missing. Give the program and its arguments as a list")


def _name(value, path, problems, sandbox):
    if sandbox is not None:
        value = values.name(value, path, problems)
        return None if value is None else "%s/%s" % (sandbox, value)
    if isinstance(value, str) and value.count("/") == 1 and all(values.is_name(part) for part in value.split("/")):
        return value
    return values.name(value, path, problems)


# -- the parsers: each returns the normal form or adds a problem

def _command(value, path, problems):
    words = [values.text(word, "%s[%d]" % (path, index), problems) for index, word in enumerate(values.items(value, path, problems))]
    if not words or words[0] == "":
        problems.add(path, "is empty. Give the program and its arguments as a list")
        return None
    return words if None not in words else None


def _identity(value, path, problems):
    """A user or group: a name as in the root's own files, or a number in digits."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if isinstance(value, str) and value.isascii() and 1 <= len(value) <= 256:
        if value.isdigit():
            if str(int(value)) == value and int(value) <= _ID_MAX:
                return value
            problems.add(path, "%s is not an id. Use 0 to %d" % (values.quoted(value), _ID_MAX))
            return None
        if value[0] in _CAN_START and values.NAME_CHARACTERS.issuperset(value.rstrip("$")) and value.count("$") <= 1:
            return value
    problems.add(path, "%s is not the name or number of a user or group" % values.quoted(value))
    return None


def _groups(value, path, problems):
    found = [_identity(one, "%s[%d]" % (path, index), problems) for index, one in enumerate(values.items(value, path, problems))]
    return sorted(set(found)) if None not in found else None


def _environment(value, path, problems):
    found = {}
    for name, text in values.mapping(value, path, problems).items():
        here = "%s.%s" % (path, name) if isinstance(name, str) and name and name.isprintable() else path
        if not (isinstance(name, str) and name.isascii() and name.isprintable() and name and "=" not in name and not name[0].isdigit()):
            problems.add(here, "%s is not the name of a variable" % values.quoted(name))
            continue
        if isinstance(text, bool):
            text = "true" if text else "false"
        if not isinstance(text, (str, int, float)) or "\0" in str(text):
            problems.add(here, "the value is not text")  # and is not shown: it may be a secret
        elif len(str(text)) > 131000:
            problems.add(here, "the value is longer than 131000 characters")
        else:
            found[name] = str(text)
    return found


def _capabilities(value, path, problems):
    found = set()
    for index, name in enumerate(values.items(value, path, problems)):
        bit = caps.bit(name)
        if bit is None:
            problems.add("%s[%d]" % (path, index), "%s is not a capability. Use names such as net_bind_service" % values.quoted(name))
        else:
            found.add(caps.NAMES[bit])
    return sorted(found)


def _seccomp(value, path, problems):
    """default, off, the name of a list of the host's, or a list of system calls."""
    if value is False or value == "off":
        return "off"
    if isinstance(value, (list, tuple)):
        calls = sorted(set(one for one in value if isinstance(one, str)))
        for index, one in enumerate(value):
            if not (isinstance(one, str) and one.isascii() and one.replace("_", "a").isalnum() and len(one) < 64):
                problems.add("%s[%d]" % (path, index), "%s is not the name of a system call" % values.quoted(one))
        if not any(one in calls for one in ("execve", "execveat")):
            problems.add(path, "the list has no execve, so the command could not be run")
        return calls
    if values.is_name(value):
        return value
    problems.add(path, "%s is neither default, off, the name of a list, nor a list of system calls" % values.quoted(value))
    return None


def _rlimits(value, path, problems):
    found = {}
    for name, pair in values.mapping(value, path, problems, RLIMITS).items():
        here = "%s.%s" % (path, name)
        if name not in RLIMITS:
            continue
        if isinstance(pair, dict):
            values.mapping(pair, here, problems, ("soft", "hard"))
            pair = [pair.get("soft"), pair.get("hard")]
        elif not isinstance(pair, (list, tuple)):
            pair = [pair, pair]
        if len(pair) != 2:
            problems.add(here, "a limit is one number, or a soft and a hard one")
            continue
        numbers = [-1 if one in ("max", "unlimited", -1) else values.integer(one, here, problems) for one in pair]
        if None in numbers:
            continue
        if numbers[1] != -1 and not 0 <= numbers[0] <= numbers[1]:
            problems.add(here, "the soft limit is above the hard one")
            continue
        found[name] = numbers
    return found


def _signal(value, path, problems):
    word = value.upper() if isinstance(value, str) else value
    return values.choice(word[3:] if isinstance(word, str) and word.startswith("SIG") else word, path, problems, SIGNALS)


def _restart(value, path, problems):
    return values.choice("no" if value is False else value, path, problems, RESTARTS)  # YAML reads no as false


def _log(value, path, problems):
    if isinstance(value, bool):
        value = {"enabled": value}
    value = values.mapping(value, path, problems, ("enabled", "max_size", "max_files"))
    found = dict(DEFAULTS["log"])
    if value.get("enabled") is not None:
        found["enabled"] = values.boolean(value["enabled"], path + ".enabled", problems)
    if value.get("max_size") is not None:
        found["max_size"] = values.size(value["max_size"], path + ".max_size", problems)
        if found["max_size"] is not None and not 4096 <= found["max_size"] <= 1 << 30:
            problems.add(path + ".max_size", "is not within 4K and 1G")
    if value.get("max_files") is not None:
        found["max_files"] = values.integer(value["max_files"], path + ".max_files", problems, 2, 1000)
    return found


def _health(value, path, problems):
    value = values.mapping(value, path, problems, ("command", "tcp", "http") + tuple(HEALTH))
    kinds = [kind for kind in ("command", "tcp", "http") if value.get(kind) is not None]
    if len(kinds) != 1:
        problems.add(path, "give one of command, tcp and http")
        return None
    found = {}
    if kinds == ["command"]:
        found["command"] = _command(value["command"], path + ".command", problems)
    else:
        found[kinds[0]] = (_tcp if kinds == ["tcp"] else _http)(value[kinds[0]], "%s.%s" % (path, kinds[0]), problems)
    for key, default in HEALTH.items():
        if value.get(key) is None:
            found[key] = default
        elif key == "retries":
            found[key] = values.integer(value[key], path + ".retries", problems, 1, 1000)
        else:
            low = 0 if key == "start_period" else 1000000 if key == "timeout" else 10000
            found[key] = values.time_us(value[key], "%s.%s" % (path, key), problems, low, 3600000000)
    return found


def _tcp(value, path, problems):
    """[address, port] from a port, or ADDRESS:PORT."""
    host, port = "127.0.0.1", value
    if isinstance(value, str) and ":" in value:
        host, dummy, port = value.rpartition(":")
    port = values.integer(port, path, problems, 1, 65535)
    host = _literal(host, path, problems)
    return [host, port] if None not in (host, port) else None


def _http(value, path, problems):
    """[address, port, path] from a URL; no name service is asked inside, so the host is an address or localhost."""
    if not isinstance(value, str) or not value.startswith("http://") or not value.isascii() or not value.isprintable() or " " in value:
        problems.add(path, "%s is not a URL such as http://127.0.0.1/ (https is not spoken: ask by command)" % values.quoted(value))
        return None
    where, slash, rest = value[len("http://"):].partition("/")
    host, colon, port = where.rpartition(":") if ":" in where.rpartition("]")[2] else (where, "", "80")
    port = values.integer(port, path, problems, 1, 65535)
    host = _literal(host, path, problems)
    return [host, port, "/" + rest.partition("#")[0]] if None not in (host, port) else None


def _literal(host, path, problems):
    import socket

    word = host[1:-1] if host[:1] == "[" and host[-1:] == "]" else host
    if word == "localhost":
        return "127.0.0.1"
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, word)
        except (OSError, ValueError):
            continue
        return word
    problems.add(path, "%s is not an IP address. Nothing inside looks up names for a check" % values.quoted(host))
    return None


def _listed(value, path, problems):
    """Kept as it was written: the prepared root parses it."""
    return values.items(value, path, problems)


PARSERS = {
    "root": (values.absolute, ()), "command": (_command, ()), "user": (_identity, ()), "group": (_identity, ()), "groups": (_groups, ()),
    "environment": (_environment, ()), "cwd": (values.absolute, ()), "umask": (values.mode, (0o777,)), "namespace": (values.name, ()),
    "cgroup": (values.cgroup_path, ()), "capabilities": (_capabilities, ()), "ambient_capabilities": (_capabilities, ()),
    "no_new_privs": (values.boolean, ()), "seccomp": (_seccomp, ()), "rlimits": (_rlimits, ()), "stop_signal": (_signal, ()),
    "stop_timeout": (values.time_us, (0, 3600000000)), "restart": (_restart, ()), "log": (_log, ()), "health": (_health, ()),
    "nice": (values.integer, (-20, 19)), "oom_score_adj": (values.integer, (-1000, 1000)), "enabled": (values.boolean, ()),
    "bind": (_listed, ()), "tmpfs": (_listed, ()), "devices": (_listed, ()), "masked_paths": (_listed, ()), "read_only_paths": (_listed, ()),
}
