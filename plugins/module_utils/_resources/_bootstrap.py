# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A distribution as an image: its own tool makes a root file system below the store, which becomes a layer as any directory does.

The tool (`_bootstrap_tools.py`) runs in a mount and a pid namespace that end with us, however that is. There its room lies over our directory, where the user
_apt, as whom apt fetches, reaches it, and where nothing of the store is seen.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import time

from .._kernel import manifest
from .._kernel.tarstream import FILE, ArchiveError
from . import _store
from ._bootstrap_tools import TOOLS, Room, distribution

# Times of what is made, not unpacked, where tools ask for one. Not 0: a password that was set then has to be changed.
_EPOCH = "946684800"
_ALONE = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child=KILL", "--mount-proc",
          "sh", "-c", 'mount --bind "$1" "$2" && shift 2 && exec "$@"', "sh"]
_TOLD = 6  # lines of output in an error
# Needed only while it is made, or not the same each time; what else the tool itself leaves it says.
_LEFT = re.compile(b"(dev|proc|run|sys|tmp|var/tmp)/.*|var/log/.*\\.log|var/cache/ldconfig/aux-cache")
_OF_THE_HOST = {b"etc/resolv.conf": b"", b"etc/hostname": b"localhost\n", b"etc/machine-id": b"uninitialized\n"}


def key(spec):
    """What makes it: the same declaration is the same image."""
    return "sha256:" + hashlib.sha256(json.dumps(spec.bootstrap, sort_keys=True).encode()).hexdigest()


def known(host, spec):
    """The layers that the same declaration has given an image, if they are all there; None."""
    for image in _store.images(host).values():
        made_from = image.get("made_from") or {}
        if made_from.get("type") == "bootstrap" and made_from.get("digest") == key(spec) and set(image["layers"]) <= set(_store.layers(host)):
            return image["layers"]
    return None


def require(host, spec):
    """Refuse what could not be run, before anything is touched."""
    tool = TOOLS[spec.bootstrap["tool"]]
    for program, package in tool.programs.items():
        if shutil.which(program) is None:
            if not host.check:
                raise ArchiveError("%s is not installed" % program, advice=_advice(program, package))
            host.warn("%s is not installed yet; an earlier task is expected to do that." % program)
            return
    tool.sources(host, spec.bootstrap)


def _advice(program, package):
    if program == "apk" and "debian" in distribution():
        return "Debian has no package of it: name another tool, or import an archive of such a system"
    return "Install the package %s" % package


def room_name():
    """The name of a directory of the store that make() may make."""
    return ".new-%d-bootstrap" % os.getpid()


def make(host, spec, name):
    """(the descriptor of a root file system in a new room of the store, its Choice). Whoever asks removes the room."""
    room = "%s/%s" % (_store.layers_of(host), name)
    os.makedirs(_store.layers_of(host), mode=0o700, exist_ok=True)
    os.mkdir(room, 0o755)
    os.mkdir(room + "/tmp", 0o700)
    begun, tool = time.time_ns(), TOOLS[spec.bootstrap["tool"]]
    environment = dict(_proxies(host), LC_ALL="C.UTF-8", DEBIAN_FRONTEND="noninteractive", SOURCE_DATE_EPOCH=_EPOCH, TMPDIR=host.lib + "/tmp")
    for command in tool.commands(spec.bootstrap, tool.sources(host, spec.bootstrap), Room(room, host.lib)):
        status, out, err = host.run(_ALONE + [room, host.lib] + command, env=environment)
        told = [_printable(line.strip()) for line in (out + "\n" + err).splitlines() if line.strip()]
        if status not in tool.good:
            raise ArchiveError("%s ended with %d: %s" % (spec.bootstrap["tool"], status, " | ".join(told[-_TOLD:])),
                               advice="Mend that; it can be run by hand as well")
        for line in told:
            if "scriptlet failed" in line:  # which is no failure to those who install rpm packages
                host.warn("%s said while it made image %s: %s" % (spec.bootstrap["tool"], spec.name, line))
    root = os.open(room + "/root", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    return root, Choice(root, begun, tool.left)


def _proxies(host):
    """What the host's apt is told of proxies; the tool's apt reads a configuration of its own."""
    try:
        status, text, dummy = host.run(["apt-config", "dump", "--format", "%f\t%v%n", "Acquire"])
    except OSError:
        return {}
    found = dict(line.split("\t", 1) for line in text.splitlines() if "\t" in line) if not status else {}
    return {kind + "_proxy": found["Acquire::%s::Proxy" % kind] for kind in ("http", "https") if found.get("Acquire::%s::Proxy" % kind)}


def _printable(text):
    return "".join(char if char.isprintable() else "?" for char in text)


class Choice:
    """What ``manifest.walk`` and ``_tree.Tree`` are to make of what a tool has made: the same of the same packages, whenever it was.

    What was written since ``begun`` (nanoseconds) gets the time of the newest file that a package brought.
    """

    def __init__(self, root, begun, left):
        self._left = left
        self._newest = max([entry.stat.st_mtime_ns for entry in manifest.walk(root, self.choose) if entry.stat.st_mtime_ns < begun
                            and stat.S_ISREG(entry.stat.st_mode) and entry.path not in _OF_THE_HOST], default=0)

    def choose(self, path, found, other):
        """(is it taken, is what is in it looked at)"""
        taken = not _LEFT.fullmatch(path) and not self._left.fullmatch(path)
        return taken, taken

    def shape(self, member, entry):
        member.mtime = min(member.mtime, self._newest)
        data = _OF_THE_HOST.get(member.name)
        if data is not None:
            member.kind, member.link, member.size, member.mtime, member.mode = FILE, b"", len(data), self._newest, 0o644
        return data

    def done(self):
        """Nobody else has written to it."""
