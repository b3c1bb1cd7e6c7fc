# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The mount namespace that the engine works in where systemd is init.

There each mount that pid 1 sees becomes a unit, and each service with mounts of its own starts from a copy of it. So what only we
look at is mounted aside: in a copy of the host's mounts whose propagation is left as it is. A mount on a shared one (an overlay
at a path of the host, a pin in /run/netns, a disk) shows on both sides whoever makes it; what lies on the private mounts below
/run/bulkhead shows on this side only.

It is pinned at /run/bulkhead/engine as pid 1 sees that path, and no process lives in it.
"""

from __future__ import annotations

import os

from .._kernel import nsfs
from .._kernel import syscalls as sc
from .._model.errors import BulkheadError, reason

NAME = "engine"


def pin(host):
    """The pin as it is found from any mount namespace: copies of the host's mounts have none of it."""
    return "%s/1/root%s/%s" % (host.proc, host.state, NAME)


def inside(host):
    """Are we in it?"""
    return host.aside and _is_here(host, nsfs.identity(pin(host)))


def _is_here(host, identity):
    return identity is not None and identity == nsfs.identity(host.proc + "/self/ns/mnt")


def join(host):
    """Go where the engine works, wherever we were started: aside when that is there, else to the mounts of pid 1.

    Called before anything of the host is looked at. Returns whether we moved, and then all that was read is of elsewhere.
    """
    if not host.aside:
        return False
    try:
        moved = nsfs.look(pin(host), "mnt").alive and _join(host, pin(host))
        if inside(host) and _whole(host):
            return moved
        return _join(host, host.proc + "/1/ns/mnt") or moved
    except OSError as exc:
        raise BulkheadError("Cannot join the mount namespace of the engine: %s. Run this as root of the host itself, where pid 1 is its systemd."
                            % reason(exc)) from exc


def _whole(host):
    """Is it /run/bulkhead of the host that we see here? Without that it is nothing to go on with, and is made anew."""
    return nsfs.identity(host.state) == nsfs.identity("%s/1/root%s" % (host.proc, host.state))


def _join(host, path):
    if _is_here(host, nsfs.identity(path)):
        return False
    home, target = (os.open(each, os.O_RDONLY | os.O_CLOEXEC) for each in (host.proc + "/self/ns/mnt", path))
    try:
        code, here = _code(), _directory()
        sc.setns(target, sc.CLONE_NEWNS)
        if _code() != code:
            sc.setns(home, sc.CLONE_NEWNS)
            os.chdir(here)
            raise BulkheadError("Cannot join the mount namespace of the engine: the program that is to run there lies in a directory that "
                                "only its caller sees (PrivateTmp=, perhaps). Run it where the host's own files are seen.")
        try:
            os.chdir(here)
        except OSError:  # setns(2) has left us at the root
            pass
    finally:
        os.close(home)
        os.close(target)
    host.forget()
    return True


def _code():
    """The identity of the file that our code is in, or of this one: more of it is loaded when it is needed."""
    return nsfs.identity(getattr(__spec__.loader, "archive", __file__))


def _directory():
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return "/"


def make(host):
    """Make it, pin it last, and join it. Under the lock, among the mounts of pid 1, where /run/bulkhead is a private one."""
    path = "%s/%s" % (host.state, NAME)
    nsfs.unpin(path)  # one that was no longer whole, or the file that a killed run has left
    floor = nsfs.mount_id(host.proc + "/self/ns/mnt")
    nsfs.child({}, lambda: nsfs.unshare_mounts(floor, host.proc), lambda pid: nsfs.make_pin("%s/%d/ns/mnt" % (host.proc, pid), path))
    join(host)


def remove(host):
    """Back to the mounts of pid 1, and take the pin away. It ends with the last who is in it."""
    if inside(host):
        _join(host, host.proc + "/1/ns/mnt")
    nsfs.unpin("%s/%s" % (host.state, NAME))
