# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the prepared root of a sandbox is declared to be: one ordered list of mounts, which making and comparing both read."""

from __future__ import annotations

from .._kernel.syscalls import MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY
from . import values

RO, NOSUID, NODEV, NOEXEC = MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC
QUIET = NOSUID | NODEV | NOEXEC
WORDS = ((RO, "ro"), (NOSUID, "nosuid"), (NODEV, "nodev"), (NOEXEC, "noexec"))

# What tells about, or reaches, the host although it is not namespaced; the lists of the OCI runtimes.
MASKED = ("/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi",
          "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware")
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
# name, device number, mode
NODES = (("null", (1, 3), 0o666), ("zero", (1, 5), 0o666), ("full", (1, 7), 0o666), ("random", (1, 8), 0o666),
         ("urandom", (1, 9), 0o666), ("tty", (5, 0), 0o666))
LINKS = (("ptmx", "pts/ptmx"), ("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"), ("stdout", "/proc/self/fd/1"),
         ("stderr", "/proc/self/fd/2"), ("core", "/proc/kcore"))
NAMED = ("hosts", "resolv.conf")  # of a sandbox on a network, in its /etc
TMPFS_SIZE = 64 << 20  # bytes, where none is declared: a tmpfs is memory
_BIND = ("source", "target", "read_only", "recursive", "nosuid", "nodev", "noexec")
_TMPFS = ("target", "size", "mode", "nosuid", "nodev", "noexec")
_DEVICE = ("path", "source", "mode")


class Want:
    """One mount of the root.

    ``kind``: proc, sysfs, tmpfs, devpts, mqueue, cgroup2, bind, mask, read_only. ``live``: it can be made, changed and removed
    in the living namespace; the others come and go with the root. ``data`` are the options of a file system. ``follow``: where the
    target is a link that leads nowhere yet, what it leads to is made.
    """

    __slots__ = ("target", "kind", "flags", "source", "data", "recursive", "live", "follow")

    def __init__(self, target, kind, flags, source=None, data="", recursive=False, live=False, follow=False):
        self.target, self.kind, self.flags, self.source, self.data = target, kind, flags, source, data
        self.recursive, self.live, self.follow = recursive, live, follow

    @property
    def name(self):
        return {"mask": "mask of %s", "read_only": "read-only %s", "bind": "bind on %s"}.get(self.kind, self.kind + " on %s") % self.target

    @property
    def words(self):
        return [word for bit, word in WORDS if self.flags & bit]


class RootSpec:
    """The root of a sandbox.

    ``base`` is an OverlaySpec or the path of a directory; ``types`` are the namespaces that it has, and ``maps`` the
    (uid_map, gid_map) of its user namespace, by which the files of the base are shown there. ``named``: it is on a network, whose
    names it is shown.
    """

    __slots__ = ("name", "base", "types", "maps", "named", "bind", "tmpfs", "devices", "masked_paths", "read_only_paths")

    @classmethod
    def from_options(cls, options, path, problems, name=None, base=None, types=(), maps=None):
        spec = cls()
        spec.name, spec.base, spec.types, spec.named = name, base, frozenset(types or ()), False
        spec.maps = maps if "user" in spec.types and maps and None not in maps else None
        spec.bind = _each(options, "bind", path, problems, _bind)
        spec.tmpfs = _each(options, "tmpfs", path, problems, _tmpfs)
        spec.devices = _each(options, "devices", path, problems, _device)
        spec.masked_paths = _each(options, "masked_paths", path, problems, values.absolute)
        spec.read_only_paths = _each(options, "read_only_paths", path, problems, values.absolute)
        spec._check(path, problems)
        return spec

    def _check(self, path, problems):
        seen = {}
        for key in ("bind", "tmpfs"):
            for index, want in enumerate(getattr(self, key)):
                where = "%s%s[%d].target" % (path + "." if path else "", key, index)
                if want is None:
                    continue
                top = want.target.split("/")[1]
                if want.target == "/" or top in ("proc", "sys") or want.target in ("/dev", "/dev/pts", "/dev/mqueue"):
                    problems.add(where, "%s is a mount of the root itself" % want.target)
                if seen.setdefault(want.target, where) != where:
                    problems.add(where, "%s is the target of %s already" % (want.target, seen[want.target]))
        names = [device[0] for device in self.devices if device]
        for index, name in enumerate(names):
            if name in names[:index]:
                problems.add("%s%s[%d]" % (path + "." if path else "", "devices", index), "/dev/%s is declared twice" % name)

    @property
    def read_only(self):
        """Is the root itself not to be written?"""
        return not isinstance(self.base, str) and bool(self.base.read_only or not self.base.upper)

    def wants(self, unified, group=None, names=None):
        """The ordered list of Wants; ``unified``: the host's cgroup tree is cgroup2 alone; ``group``: the directory of the sandbox's
        cgroup, where its cgroup namespace is rooted elsewhere; ``names``: that of its files of names. Masks of what is not there fall
        away later."""
        wants = [Want("/proc", "proc", QUIET), Want("/sys", "sysfs", QUIET | RO)]
        if group and "cgroup" in self.types:
            wants.append(Want("/sys/fs/cgroup", "bind", QUIET | RO, group, live=True))
        elif unified and "cgroup" in self.types:
            wants.append(Want("/sys/fs/cgroup", "cgroup2", QUIET | RO))
        else:  # the v1 hierarchies show the host's groups, and without a cgroup namespace so does v2
            wants.append(Want("/sys/fs/cgroup", "tmpfs", QUIET | RO, data="size=4k,mode=755"))
        wants.append(Want("/dev", "tmpfs", NOSUID | NOEXEC, data="size=64k,mode=755"))
        wants.append(Want("/dev/pts", "devpts", NOSUID | NOEXEC, data="newinstance,ptmxmode=0666,mode=620,gid=5"))
        if "ipc" in self.types:
            wants.append(Want("/dev/mqueue", "mqueue", QUIET))
        declared = sorted([want for want in self.bind + self.tmpfs if want is not None], key=lambda want: want.target)
        if not any(want.target == "/dev/shm" for want in declared):
            wants.append(Want("/dev/shm", "tmpfs", QUIET, data="mode=1777,size=%d" % TMPFS_SIZE))
        wants += declared
        if self.named:  # what is declared for the same place is there instead; and /etc/resolv.conf may be a link to a declared tmpfs
            wants += [Want("/etc/" + name, "bind", QUIET | RO, "%s/%s" % (names, name), live=True, follow=True) for name in NAMED
                      if not any(want.target == "/etc/" + name for want in declared)]
        wants += [Want(path, "read_only", RO, live=True) for path in _unique(READ_ONLY + tuple(self.read_only_paths))]
        wants += [Want(path, "mask", QUIET | RO, live=True) for path in _unique(MASKED + tuple(self.masked_paths))]
        return wants


def _unique(paths):
    return list(dict.fromkeys(path for path in paths if path))


def _each(options, key, path, problems, parse):
    where = path + "." + key if path else key
    return [parse(item, "%s[%d]" % (where, index), problems) for index, item in enumerate(values.items(options.get(key), where, problems))]


def _flags(options, path, problems, **defaults):
    flags = 0
    for key, bit in (("read_only", RO), ("nosuid", NOSUID), ("nodev", NODEV), ("noexec", NOEXEC)):
        if key in defaults:
            value = options.get(key)
            if defaults[key] if value is None else values.boolean(value, "%s.%s" % (path, key), problems):
                flags |= bit
    return flags


def _bind(item, path, problems):
    item = values.mapping(item, path, problems, _BIND)
    source, target = (values.absolute(item.get(key), "%s.%s" % (path, key), problems) for key in ("source", "target"))
    flags = _flags(item, path, problems, read_only=False, nosuid=True, nodev=True, noexec=False)
    recursive = values.boolean(item.get("recursive", False), path + ".recursive", problems)
    return Want(target, "bind", flags, source, recursive=bool(recursive), live=True) if source and target else None


def _tmpfs(item, path, problems):
    item = values.mapping(item, path, problems, _TMPFS)
    target = values.absolute(item.get("target"), path + ".target", problems)
    size = values.size(item["size"], path + ".size", problems) if item.get("size") is not None else TMPFS_SIZE
    mode = values.mode(item["mode"], path + ".mode", problems) if item.get("mode") is not None else 0o755
    if size == 0:
        problems.add(path + ".size", "0 would be no limit at all")
    flags = _flags(item, path, problems, nosuid=True, nodev=True, noexec=False)
    return Want(target, "tmpfs", flags, data="size=%d,mode=%o" % (size or 0, mode or 0), live=True) if target else None


def _device(item, path, problems):
    """(name below /dev, source on the host, mode or None)."""
    item = values.mapping({"path": item} if isinstance(item, str) else item, path, problems, _DEVICE)
    target = values.absolute(item.get("path"), path + ".path", problems)
    source = values.absolute(item["source"], path + ".source", problems) if item.get("source") is not None else target
    mode = values.mode(item["mode"], path + ".mode", problems, 0o777) if item.get("mode") is not None else None
    if target is None or source is None:
        return None
    parts = target.split("/")
    if len(parts) < 3 or parts[1] != "dev" or parts[2] in ("pts", "shm", "mqueue", "ptmx", "fd"):
        problems.add(path + ".path", "%s is not a place for a device. Name one below /dev" % target)
        return None
    return "/".join(parts[2:]), source, mode
