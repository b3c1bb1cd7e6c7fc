# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""OverlayFS: what a mountinfo line says of one, in a normal form, and making one as a detached mount.

Source: Documentation/filesystems/overlayfs.rst and fs/overlayfs/params.c, Linux 5.10 to 6.18.
"""

from __future__ import annotations

import errno
import os
import stat
import zlib

from . import manifest, syscalls
from .mountinfo import unescape

MAXIMUM_LAYERS = 500  # OVL_MAX_STACK
_STRING = 255         # the longest value that fsconfig(2) takes
_PAGE = 4095          # the longest option string of mount(2)

# Each option with its values; of those that the kernel hides when they equal the default, the module parameter that is it.
OPTIONS = {
    "index": ("on", "off"), "metacopy": ("on", "off"), "nfs_export": ("on", "off"),
    "redirect_dir": ("on", "off", "follow", "nofollow"), "xino": ("on", "off", "auto"),
    "uuid": ("on", "off", "null", "auto"), "verity": ("on", "off", "require"), "userxattr": (True, False), "volatile": (True, False),
}
_LEFT_BELOW = tuple(space + ".overlay." + word for space in ("trusted", "user") for word in ("redirect", "metacopy"))
ATTRIBUTES = {"nosuid": syscalls.MOUNT_ATTR_NOSUID, "nodev": syscalls.MOUNT_ATTR_NODEV, "noexec": syscalls.MOUNT_ATTR_NOEXEC}


class Layers:
    """What an overlay is made of. Paths, top layer first; ``options`` has the keys of OPTIONS."""

    __slots__ = ("lower", "data", "upper", "work", "options")

    def __init__(self, lower, upper=None, work=None, data=(), options=None):
        self.lower, self.data, self.upper, self.work = list(lower), list(data), upper, work
        self.options = dict(options or {})


def defaults(sysfs="/sys"):
    """The defaults of this kernel, as /sys/module/overlay/parameters has them (the file system may be built without)."""
    def parameter(name, otherwise="N"):
        try:
            with open("%s/module/overlay/parameters/%s" % (sysfs, name), encoding="ascii") as stream:
                return stream.read().strip() in ("Y", "1")
        except OSError:
            return otherwise == "Y"
    words = {False: "off", True: "on"}
    follow = "follow" if parameter("redirect_always_follow", "Y") else "nofollow"
    return {
        "index": words[parameter("index")], "metacopy": words[parameter("metacopy")], "nfs_export": words[parameter("nfs_export")],
        "redirect_dir": "on" if parameter("redirect_dir") else follow, "redirect_off": follow,
        "xino": "auto" if parameter("xino_auto") else "off", "uuid": "auto", "verity": "off", "userxattr": False, "volatile": False,
    }


def parse(super_options, known):
    """The Layers that the super options of a mountinfo line tell; ``known`` are the defaults(), for options not shown.

    Layers come as one ``lowerdir=a:b::data`` (colons and backslashes in names escaped by a backslash) or one by one;
    commas and blanks are octal in both. ``redirect_dir=off`` becomes what it means.
    """
    shown, single = Layers([]), False
    for field in _split(super_options, ","):
        key, equals, value = field.partition("=")
        value = unescape(value)
        if key == "lowerdir":
            single = True
            parts = _split(value, ":")
            lower = parts[:parts.index("")] if "" in parts else parts
            shown.lower = [_plain(part) for part in lower]
            shown.data = [_plain(part) for part in parts[len(lower):] if part]
        elif key == "lowerdir+":
            shown.lower.append(value)
        elif key == "datadir+":
            shown.data.append(value)
        elif key == "upperdir":
            shown.upper = value
        elif key == "workdir":
            shown.work = value
        elif key == "fsync":
            shown.options["volatile"] = value == "volatile"
        elif key in OPTIONS:
            shown.options[key] = value if equals else True
    if single:
        shown.upper, shown.work = shown.upper and _plain(shown.upper), shown.work and _plain(shown.work)
    for key in OPTIONS:
        shown.options.setdefault(key, known[key])
    return shown


def same_option(key, declared, shown, known, upper):
    """Whether a declared value of an option is what the kernel shows.

    A read-only overlay shows ``follow`` as ``on``; xino is not shown at all when all layers are on one file system,
    ``uuid=auto`` becomes what it found, and ``null`` stands for
    what cannot be had (off with several file systems, on without an upper).
    """
    if key == "redirect_dir":
        def meaning(value):
            value = known["redirect_off"] if value == "off" else value
            return "on" if value == "follow" and not upper else value
        return meaning(declared) == meaning(shown)
    if key == "xino" and shown == known["xino"]:
        return True
    if key == "uuid" and ("auto" in (declared, shown) or shown == "null" and (declared == "off" or not upper)):
        return True
    return declared == shown


def _split(text, separator):
    """Split where the separator is not escaped by a backslash; the escapes stay."""
    if "\\" not in text:
        return text.split(separator)
    parts, current, escaped = [], "", False
    for char in text:
        if char == separator and not escaped:
            parts.append(current)
            current = ""
        else:
            current += char
        escaped = char == "\\" and not escaped
    return parts + [current]


def _plain(text):
    """Undo backslash escapes."""
    if "\\" not in text:
        return text
    out, escaped = "", False
    for char in text:
        if char == "\\" and not escaped:
            escaped = True
        else:
            out, escaped = out + char, False
    return out


def _escaped(path):
    return path.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")


def option_string(layers, name=lambda path: path):
    """The data of mount(2)."""
    lower = ":".join(_escaped(name(path)) for path in layers.lower)
    if layers.data:
        lower += "::" + "::".join(_escaped(name(path)) for path in layers.data)
    words = ["lowerdir=" + lower]
    if layers.upper:
        words += ["upperdir=" + _escaped(name(layers.upper)), "workdir=" + _escaped(name(layers.work))]
    for key, value in sorted(layers.options.items()):
        if value is not False:
            words.append(key if value is True else "%s=%s" % (key, value))
    return ",".join(words)


def _too_long(layers):
    return len(os.fsencode(option_string(layers))) > _PAGE


def wants_links(layers):
    """Whether mount(2) could be told of these layers by short links only."""
    return _too_long(layers)


def fits(layers):
    """Whether the kernel can be told of these layers at all by mount(2), if need be by short links: 7 bytes for each name."""
    return not _too_long(layers) or 7 * (len(layers.lower) + len(layers.data)) + 200 <= _PAGE


def detached(layers, attributes, links, stage):
    """The descriptor of a mount of these layers that is attached nowhere: closed, it is gone.

    Newer kernels take each layer as a descriptor (6.13) or a name (6.8). Where names are too long for fsconfig(2) or
    the kernel knows only one string, mount(2) makes it at the private directory ``stage`` and it is cloned from there;
    ``links`` is a directory for short names. OSError ENOSYS: this kernel has no detached mounts, use mount_at().
    """
    if not can_detach():
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), "open_tree")
    try:
        context = syscalls.fsopen("overlay")
    except OSError as exc:
        if exc.errno != errno.ENOSYS:
            raise
    else:
        try:
            if _tell(context, layers):
                syscalls.fsconfig_create(context)
                return syscalls.fsmount(context, attributes)
        except OSError as exc:
            raise _explained(exc, context) from exc
        finally:
            os.close(context)
    os.makedirs(stage, mode=0o700, exist_ok=True)
    _unmount_all(stage)  # a killed run may have left one
    mount_at(stage, layers, attributes, links)
    try:
        return syscalls.open_tree(syscalls.AT_FDCWD, stage, syscalls.OPEN_TREE_CLONE)
    finally:
        _unmount_all(stage)
        os.rmdir(stage)


def can_detach():
    """Whether this kernel has open_tree(2) and move_mount(2). Asked before a staged mount: `volatile` mounts but once."""
    try:
        os.close(syscalls.open_tree(syscalls.AT_FDCWD, "/", 0))
        return True
    except OSError as exc:
        if exc.errno != errno.ENOSYS:
            raise
        return False


def _unmount_all(path):
    try:
        while True:
            syscalls.umount(path, syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW)
    except OSError as exc:
        if exc.errno != errno.EINVAL:  # not a mount point (any more)
            raise


def release():
    """(major, minor) of this kernel, where its behaviour cannot be asked for."""
    words = os.uname().release.split(".")
    return int(words[0]), int("".join(char for char in words[1] if char.isdigit()) or 0)


def _tell(context, layers):
    """Configure an fsopen(2) context; False when the kernel or the lengths want mount(2) instead."""
    version = release()
    syscalls.fsconfig_string(context, "source", "overlay")
    by_fd = version >= (6, 13)
    keyed = [("lowerdir+", path) for path in layers.lower] + [("datadir+", path) for path in layers.data]
    top = [("upperdir", layers.upper), ("workdir", layers.work)] if layers.upper else []
    if version < (6, 8):
        single = option_string(Layers(layers.lower, data=layers.data))[len("lowerdir="):]
        # Before 6.5 the strings are pasted together for the old parser, which takes a comma for the end.
        if any(len(os.fsencode(path)) > _STRING or "," in path or "\\" in path for path in [single] + [path for key, path in top]):
            return False
        keyed = [("lowerdir", single)]
    elif not by_fd and any(len(os.fsencode(path)) > _STRING for key, path in keyed + top):
        return False
    for key, path in keyed + top:
        if not by_fd:
            syscalls.fsconfig_string(context, key, path)
            continue
        fd = os.open(path, syscalls.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            syscalls.fsconfig_fd(context, key, fd)
        finally:
            os.close(fd)
    for key, value in layers.options.items():
        if value is True:
            syscalls.fsconfig_flag(context, key)
        elif value is not False:
            syscalls.fsconfig_string(context, key, value)
    return True


def _explained(exc, context):
    """The error with what the kernel logged about it, such as "overlay: Unknown parameter 'x'"."""
    said = [line[2:] for line in syscalls.fs_messages(context) if line[:2] in ("e ", "w ")]
    return OSError(exc.errno, "%s: %s" % (os.strerror(exc.errno), "; ".join(said))) if said else exc


def mount_at(path, layers, attributes, links):
    """mount(2): the overlay attached at ``path`` at once. With names too long, by short links in the directory ``links``."""
    if not _too_long(layers):
        syscalls.mount("overlay", path, "overlay", 0, option_string(layers))
    else:
        os.makedirs(links, mode=0o700, exist_ok=True)
        data = option_string(layers, lambda name: link_name(name, links))
        here = os.open(".", syscalls.O_PATH | os.O_CLOEXEC)
        try:
            os.chdir(links)
            syscalls.mount("overlay", path, "overlay", 0, data)
        finally:
            os.fchdir(here)
            os.close(here)
    if attributes:
        set_attributes(path, attributes)


def set_attributes(path, attributes):
    """Make these, and no others, the attributes of the mount at ``path``: of the mount alone, not of the file system below it."""
    # RDONLY, NOSUID, NODEV and NOEXEC have the same values as flags of mount(2) and as attributes of fsmount(2).
    syscalls.mount(None, path, None, syscalls.MS_REMOUNT | syscalls.MS_BIND | attributes)


def link_name(path, links):
    """The six-letter link to ``path`` in ``links``, made if missing: unique, so it can be read back from mountinfo."""
    seed, alphabet = path, "abcdefghijklmnopqrstuvwxyz234567"
    while True:
        number = zlib.crc32(os.fsencode(seed))
        name = "".join(alphabet[number >> shift & 31] for shift in range(0, 30, 5))
        try:
            os.symlink(path, "%s/%s" % (links, name))
        except FileExistsError:
            if os.readlink("%s/%s" % (links, name)) != path:
                seed += "\0"
                continue
        return name


def full_names(layers, links):
    """Replace short link names, as mountinfo shows them, by the paths that they stand for."""
    def full(name):
        if name is None or name.startswith("/"):
            return name
        try:
            return os.readlink("%s/%s" % (links, name))
        except OSError:
            return name
    layers.lower, layers.data = [full(name) for name in layers.lower], [full(name) for name in layers.data]
    layers.upper, layers.work = full(layers.upper), full(layers.work)
    return layers


def volatile_leftover(work):
    """The mark that an overlay mounted with ``volatile`` leaves: its upper may be torn and cannot be mounted again."""
    mark = "%s/work/incompat/volatile" % work
    return mark if os.path.lexists(mark) else None


def left_below(upper):
    """The path of something in an upper (descriptor) whose content is still in the layers, at a place that it names: a directory that was
    renamed, or a file of which the owner was changed alone. None where there is nothing. It may be in use."""
    for entry in manifest.walk(upper, moving=True):
        if stat.S_ISDIR(entry.stat.st_mode) or stat.S_ISREG(entry.stat.st_mode):
            try:
                names = os.listxattr(b"/proc/self/fd/%d/%s" % (entry.parent, entry.name), follow_symlinks=False)
            except OSError as exc:
                if exc.errno not in manifest.GONE + (errno.EOPNOTSUPP,):
                    raise
                continue
            if any(name in _LEFT_BELOW for name in names):
                return "/" + os.fsdecode(entry.path)
    return None
