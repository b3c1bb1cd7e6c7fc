# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A distribution as an image: its own tool makes a root file system below the store, which becomes a layer as any directory does.

The tool runs in a mount and a pid namespace that end with us, however that is. There its room lies over our directory, where the user
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

# Times of what is made, not unpacked, where tools ask for one. Not 0: a password that was set then has to be changed.
_EPOCH = "946684800"
_ALONE = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child=KILL", "--mount-proc",
          "sh", "-c", 'mount --bind "$1" "$2" && shift 2 && exec "$@"', "sh"]
_TOLD = 6  # lines of output in an error
# Needed only while it is made, or not the same each time.
_LEFT = re.compile(b"(dev|proc|run|sys|tmp)/.*|var/lib/dpkg/(lock.*|.*-old)|var/cache/debconf/.*-old|var/cache/apt/archives/lock|"
                   b"var/lib/apt/lists/.*|var/log/.*\\.log")
_OF_THE_HOST = {b"etc/resolv.conf": b"", b"etc/hostname": b"localhost\n"}


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
    tool = spec.bootstrap["tool"]
    if shutil.which(tool) is None:
        if not host.check:
            raise ArchiveError("%s is not installed" % tool, advice="Install it")
        host.warn("%s is not installed yet; an earlier task is expected to do that." % tool)
    elif not spec.bootstrap["mirror"]:
        mirrors(host, spec)


def room_name():
    """The name of a directory of the store that make() may make."""
    return ".new-%d-bootstrap" % os.getpid()


def make(host, spec, name):
    """(the descriptor of a root file system in a new room of the store, its Choice). Whoever asks removes the room."""
    room = "%s/%s" % (_store.layers_of(host), name)
    os.makedirs(_store.layers_of(host), mode=0o700, exist_ok=True)
    os.mkdir(room, 0o755)
    os.mkdir(room + "/tmp", 0o700)
    begun = time.time_ns()
    status, out, err = host.run(_ALONE + [room, host.lib] + _command(spec, host.lib + "/root", spec.bootstrap["mirror"] or mirrors(host, spec)), env=dict(
        _proxies(host), LC_ALL="C.UTF-8", DEBIAN_FRONTEND="noninteractive", SOURCE_DATE_EPOCH=_EPOCH, TMPDIR=host.lib + "/tmp"))
    if status:
        told = [line.strip() for line in (out + "\n" + err).splitlines() if line.strip()][-_TOLD:]
        raise ArchiveError("%s ended with %d: %s" % (spec.bootstrap["tool"], status, _printable(" | ".join(told))),
                           advice="Mend that; it can be run by hand as well")
    root = os.open(room + "/root", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    return root, Choice(root, begun)


def _command(spec, target, sources):
    said = spec.bootstrap
    words = [said["tool"], "--mode=root", "--format=directory", "--variant=" + said["variant"]]
    for option, value in (("include", ",".join(said["include"])), ("components", ",".join(said["components"])),
                          ("architectures", said["architecture"]), ("keyring", said["keyring"])):
        if value:
            words.append("--%s=%s" % (option, value))
    return words + ["--", said["suite"], target] + sources


def mirrors(host, spec):
    """Lines of a sources.list: where this host's own apt takes the suite from, with its updates, or else from where it takes its own."""
    suite, said = spec.bootstrap["suite"], " ".join(spec.bootstrap["components"])
    form = "\t".join("$(%s)" % word for word in ("REPO_URI", "RELEASE", "COMPONENT", "ORIGIN", "LABEL"))
    try:
        status, text, dummy = host.run(["apt-get", "indextargets", "--format", form, "Created-By: Packages"])
    except OSError:
        status, text = 1, ""
    found = [line.split("\t") for line in text.splitlines() if line.count("\t") == 4] if not status else []
    own, archive = {}, None
    for address, release, component, origin, label in found:
        if origin.lower() not in _distribution():
            continue
        if re.split("[-/]", release)[0] == suite:
            own.setdefault((address, release), []).append(component)
        if origin == label and archive is None:
            archive = address
    if own:
        return ["deb %s %s %s" % (address, release, said or " ".join(dict.fromkeys(components))) for (address, release), components in own.items()]
    if archive is None:
        raise ArchiveError("this host's apt knows no archive of its distribution", advice="Run apt-get update there, or name a mirror")
    return ["deb %s %s %s" % (archive, suite, said or "main")]


def _distribution():
    """Names of the host's distribution, in lower case."""
    try:
        with open("/etc/os-release", encoding="utf-8") as stream:
            words = dict(line.rstrip().split("=", 1) for line in stream if "=" in line)
    except OSError:
        return []
    return (words.get("ID", "") + " " + words.get("ID_LIKE", "")).replace('"', " ").lower().split()


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

    def __init__(self, root, begun):
        self._newest = max([entry.stat.st_mtime_ns for entry in manifest.walk(root, self.choose) if entry.stat.st_mtime_ns < begun
                            and stat.S_ISREG(entry.stat.st_mode) and entry.path not in _OF_THE_HOST], default=0)

    @staticmethod
    def choose(path, found, other):
        """(is it taken, is what is in it looked at)"""
        taken = not _LEFT.fullmatch(path)
        return taken, taken

    def shape(self, member, entry):
        member.mtime = min(member.mtime, self._newest)
        data = _OF_THE_HOST.get(member.name)
        if data is not None:
            member.kind, member.link, member.size, member.mtime, member.mode = FILE, b"", len(data), self._newest, 0o644
        return data

    def done(self):
        """Nobody else has written to it."""
