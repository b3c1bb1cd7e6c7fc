# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is declared of one set of namespaces: its types, and what is set inside them or fixed when they are made."""

from __future__ import annotations

from . import values
from .errors import Problems

TYPES = ("user", "cgroup", "ipc", "uts", "net", "pid", "time", "mnt")
STATES = ("present", "absent")
MISMATCH = ("fail", "recreate")
RULES = ("state", "on_mismatch", "force", "kill")  # how to go about it, not what is to be
OPTIONS = ("name", "types", "hostname", "domainname", "sysctls", "uid_map", "gid_map", "time_offsets", "loopback", "cgroup",
           "owner") + RULES
NEEDS = {"hostname": "uts", "domainname": "uts", "uid_map": "user", "gid_map": "user", "time_offsets": "time", "loopback": "net"}

_IPC = frozenset(("shmmax", "shmall", "shmmni", "shm_rmid_forced", "shm_next_id", "msgmax", "msgmnb", "msgmni", "msg_next_id",
                  "sem", "sem_next_id", "auto_msgmni"))
_MAP_LINES, _PAGE = 340, 4096  # user_namespaces(7)
_IDS = (1 << 32) - 1  # (uid_t) -1 is no id
_SECONDS = 4611686018  # KTIME_SEC_MAX / 2 of the kernel: larger offsets are ERANGE


class NamespaceSpec:
    """A set as declared. What was not declared is None, and then not compared; ``loopback`` is brought up at the making.

    ``sysctls``: {"net/ipv4/ip_forward": text}. Maps: [[inside, outside, count], ...] in order. ``time_offsets``: {clock: seconds}.
    ``exact``: a declaration is the whole (the composite), so types that it does not name are taken away, and what is in
    ``reset`` (keys, and sysctls as `sysctls/KEY`), which was declared once and is not any more, returns to what is new.
    ``furnish`` and ``root_stale`` are the composite's hooks for a prepared root, ``made`` and ``renewed`` what the plan answers
    it, see `_resources/namespace.py`.
    """

    __slots__ = ("name", "types", "hostname", "domainname", "sysctls", "uid_map", "gid_map", "time_offsets", "loopback", "cgroup",
                 "owner", "state", "on_mismatch", "force", "kill", "exact", "furnish", "root_stale", "made", "renewed", "reset",
                 "options")

    @property
    def key(self):
        return self.name

    @classmethod
    def from_options(cls, options, path, problems, name=None):
        """Parse; every error becomes a problem with its path. ``name``: given by the composite, which has no such option."""
        spec = cls()

        def at(key):
            return "%s.%s" % (path, key) if path else key

        options = values.mapping(options, path or "namespace", problems,
                                 OPTIONS if name is None else tuple(word for word in OPTIONS if word not in RULES + ("name",)))

        def given(key, parse, *more):
            return None if options.get(key) is None else parse(options[key], at(key), problems, *more)

        spec.exact, spec.furnish, spec.root_stale = name is not None, None, False
        spec.made, spec.renewed, spec.reset = [], [], ()
        spec.name = values.name(options.get("name"), at("name"), problems) if name is None else name
        spec.state = given("state", values.choice, STATES) or "present"
        spec.on_mismatch = given("on_mismatch", values.choice, MISMATCH) or "fail"
        spec.force, spec.kill = given("force", values.boolean) or False, given("kill", values.boolean) or False
        spec.types = given("types", _types)
        spec.hostname, spec.domainname = given("hostname", _host), given("domainname", _host)
        spec.sysctls = given("sysctls", _sysctls)
        spec.uid_map, spec.gid_map = given("uid_map", id_map), given("gid_map", id_map)
        spec.time_offsets = given("time_offsets", _offsets)
        spec.loopback = given("loopback", values.boolean)
        spec.cgroup = given("cgroup", values.cgroup_path)
        spec.owner = given("owner", values.name)
        spec.options = {key: options[key] for key in OPTIONS if key not in RULES + ("name",) and options.get(key) is not None}
        if spec.sysctls:
            spec.options["sysctls"] = spec.sysctls
        if spec.state == "present":
            spec._contradictions(at, problems)
        return spec

    def drop(self, recorded):
        """Note what the recorded declaration had and this one has not."""
        recorded = recorded or {}
        dropped = [key for key in ("hostname", "domainname", "loopback", "time_offsets", "owner")
                   if recorded.get(key) is not None and getattr(self, key) is None and NEEDS.get(key, self.types[0]) in self.types]
        for key in _sysctls(recorded.get("sysctls"), "", Problems()):
            if key not in (self.sysctls or {}) and sysctl_type(key) in self.types:
                dropped.append("sysctls/" + key)
        self.reset = tuple(dropped)

    def _contradictions(self, at, problems):
        if self.types is None:
            problems.add(at("types"), "is missing or wrong. Name the types, such as [net, uts, ipc]")
            return
        for key, kind in NEEDS.items():
            if getattr(self, key) is not None and kind not in self.types:
                problems.add(at(key), "belongs to a namespace of type %s, which types does not name" % kind)
        for key in self.sysctls or ():
            if sysctl_type(key) not in self.types:
                problems.add("%s.%s" % (at("sysctls"), key),
                             "belongs to a namespace of type %s, which types does not name" % sysctl_type(key))
        if "user" in self.types:
            for key in ("uid_map", "gid_map"):
                if self.options.get(key) is None:
                    problems.add(at(key), "is needed for the type user. Give a list such as ['0 100000 65536']")
            if self.owner is not None:
                problems.add(at("owner"), "this set has a user namespace of its own, which owns the others. Leave one of the two out")
        if self.owner is not None and self.owner == self.name:
            problems.add(at("owner"), "a set cannot be owned by itself. Add user to its types")


def _types(value, path, problems):
    """The types in the order in which they are joined, each once."""
    words = values.items([value] if isinstance(value, str) else value, path, problems)
    for index, word in enumerate(words):
        values.choice(word, "%s[%d]" % (path, index), problems, TYPES)
    if not words:
        problems.add(path, "the list is empty. Name at least one of %s" % ", ".join(TYPES))
    return [kind for kind in TYPES if kind in words] or None


def _host(value, path, problems):
    """What sethostname(2) takes, of characters that DNS and every program bear."""
    if isinstance(value, str) and 1 <= len(value) <= 64 and value[0].isalnum() and values.NAME_CHARACTERS.issuperset(value):
        return value
    problems.add(path, "%s is not a host or domain name of 1 to 64 of the characters A-Z a-z 0-9 - . _" % values.quoted(value))
    return None


def sysctl_type(key):
    """The type of namespace that a sysctl belongs to, or None when it is one of the whole host's."""
    head, slash, tail = key.partition("/")
    if head in ("net", "user") and tail:
        return head
    if (head == "kernel" and tail in _IPC) or (key.startswith("fs/mqueue/") and key.count("/") == 2):
        return "ipc"
    return None


def _word(part):
    return part not in ("", ".", "..") and part.isascii() and part.isprintable() and " " not in part


def _sysctls(value, path, problems):
    found = {}
    for key, text in values.mapping(value, path, problems).items():
        here = "%s.%s" % (path, key) if isinstance(key, str) and key.isprintable() else path
        parts = key.split("/" if "/" in key else ".") if isinstance(key, str) else ()
        normal = "/".join(parts)
        if len(normal) > 200 or not all(_word(part) for part in parts):
            problems.add(here, "%s is not the name of a sysctl, such as net.ipv4.ip_forward" % values.quoted(key))
        elif normal in ("kernel/hostname", "kernel/domainname"):
            problems.add(here, "use the option %s" % parts[1])
        elif sysctl_type(normal) is None:
            problems.add(here, "this sysctl belongs to no namespace: it would change the whole host. Allowed are net.*, user.*, "
                               "fs.mqueue.* and kernel.{shm*,msg*,sem}")
        elif normal in found:
            problems.add(here, "is declared twice")
        else:
            text = values.text(int(text) if isinstance(text, bool) else text, here, problems, 4000)
            if text is not None and not text.strip():
                problems.add(here, "the value is empty")
            elif text is not None:
                found[normal] = " ".join(text.split())
    return found


def id_map(value, path, problems):
    """[[inside, outside, count], ...] from dictionaries or the kernel's own lines."""
    before, found = len(problems.errors), []
    for index, item in enumerate(values.items(value, path, problems)):
        here = "%s[%d]" % (path, index)
        if isinstance(item, str):
            words = item.split()
            if len(words) != 3:
                problems.add(here, "%s is not a line of the form 'inside outside count'" % values.quoted(item))
                continue
            item = dict(zip(("inside", "outside", "count"), words))
        item = values.mapping(item, here, problems, ("inside", "outside", "count"))
        line = [values.integer(item.get(key), "%s.%s" % (here, key), problems, 1 if key == "count" else 0, _IDS)
                for key in ("inside", "outside", "count")]
        if None not in line:
            found.append(line)
            for start in line[:2]:
                if start + line[2] > _IDS:
                    problems.add(here, "%d and %d more ids go beyond %d, the largest id" % (start, line[2], _IDS - 1))
    if len(problems.errors) > before:
        return None
    if not found:
        problems.add(path, "the list is empty. Give a list such as ['0 100000 65536']")
    elif len(found) > _MAP_LINES:
        problems.add(path, "has %d entries, and the kernel takes at most %d" % (len(found), _MAP_LINES))
    elif len(map_text(found)) >= _PAGE:
        problems.add(path, "takes %d bytes, and the kernel takes less than a page of %d" % (len(map_text(found)), _PAGE))
    for side, word in ((0, "inside"), (1, "outside")):
        ranges = sorted((line[side], line[2]) for line in found)
        for (start, count), (following, unused) in zip(ranges, ranges[1:]):
            if start + count > following:
                problems.add(path, "the %s ids %d to %d are mapped twice" % (
                    word, following, min(start + count, following + unused) - 1))
                break
    return found if len(problems.errors) == before else None


def map_text(lines):
    """A map as it is written to /proc/PID/uid_map."""
    return "".join("%d %d %d\n" % tuple(line) for line in lines)


def _offsets(value, path, problems):
    value = values.mapping(value, path, problems, ("monotonic", "boottime"))
    found = {}
    for clock in ("monotonic", "boottime"):
        seconds, sign = value.get(clock, 0), 1
        if isinstance(seconds, str) and seconds.startswith("-"):
            seconds, sign = seconds[1:], -1
        elif isinstance(seconds, int) and seconds < 0:
            seconds, sign = -seconds, -1
        seconds = values.integer(seconds, "%s.%s" % (path, clock), problems, 0, _SECONDS)
        found[clock] = sign * seconds if seconds is not None else None
    return None if None in found.values() else found
