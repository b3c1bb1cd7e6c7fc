# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The places of our own on the host, made under the lock before the first step.

They are mounts of their own because the cost of a mount grows with the number of mounts beside it, and because what lies
below /run must vanish at a reboot also where /run is no tmpfs. Propagation is explicit: an unmount of a pin or of an
overlay must reach copies in other mount namespaces (shared); a mount namespace can be pinned on a private mount only.
"""

from __future__ import annotations

import os

from .._kernel import syscalls as sc
from . import aside

_NODEV = sc.MS_NOSUID | sc.MS_NODEV
_PLAIN = _NODEV | sc.MS_NOEXEC


def parts(host):
    """(path, mount flags, propagation) of each, in order. bin is executed from, so the first has no MS_NOEXEC."""
    return (
        (host.state, _NODEV, sc.MS_PRIVATE),
        (host.state + "/ns", _PLAIN, sc.MS_SHARED),
        (host.state + "/mntns", _PLAIN, sc.MS_PRIVATE),
        (host.state + "/mnt", _PLAIN, sc.MS_SHARED),
    )


def ensure(host):
    """Make what is missing. A run that is killed here leaves a mount with fewer directories, which the next completes.

    Returns whether that took us aside (`aside.py`), where what was planned before has to be planned again.
    """
    moved = host.aside and not aside.inside(host)
    if moved:
        _ensure_part(host, *parts(host)[0])
        aside.make(host)
    for part in parts(host):
        _ensure_part(host, *part)
    for directory in ("made", "service", "bin"):
        path = "%s/%s" % (host.state, directory)
        if not os.path.isdir(path):
            os.makedirs(path, mode=0o700 if directory == "made" else 0o755, exist_ok=True)
    library = os.path.realpath(host.lib)  # a link to a larger disk is as good; the mount table names where it leads
    mount = host.mounts().top(library)
    if mount is None:
        os.makedirs(library, mode=0o755, exist_ok=True)
        sc.mount(library, library, None, sc.MS_BIND | sc.MS_REC)  # roots may lie on another file system
    if mount is None or host.aside and mount.shared:
        # What is mounted below it there is of no concern to pid 1; a disk that the host mounts there (on roots, say) is of concern to us.
        sc.mount(None, library, None, sc.MS_SLAVE if host.aside else sc.MS_PRIVATE)
        host.forget()
    return moved


def _ensure_part(host, path, flags, propagation):
    mount = host.mounts().top(path)
    if mount is None:
        os.makedirs(path, mode=0o755, exist_ok=True)
        sc.mount("bulkhead", path, "tmpfs", flags, "mode=0755")
    if mount is None or mount.shared != (propagation == sc.MS_SHARED):
        sc.mount(None, path, None, propagation)
        host.forget()


def clear(host):
    """Undo ensure() on a host that has nothing of ours left; what is still in use says so by EBUSY."""
    paths = [part[0] for part in reversed(parts(host))] + [os.path.realpath(host.lib)]
    if host.aside:
        if aside.inside(host):  # where what is below /run/bulkhead is mounted; that itself goes with the namespace
            _clear(host, [path for path in paths if path != host.state])
        aside.remove(host)
    _clear(host, paths)


def _clear(host, paths):
    for path in paths:
        while _made_here(host, path):
            # The bind shows the directory that it hides, so who still has it open loses nothing by its going.
            sc.umount(path, sc.UMOUNT_NOFOLLOW | (sc.MNT_DETACH if path == host.lib else 0))
            host.forget()


def _made_here(host, path):
    """Is what is mounted there of the kind that ensure() makes? Anything else is the administrator's."""
    mount = host.mounts().top(path)
    if mount is None:
        return False
    if path != os.path.realpath(host.lib):
        return mount.fstype == "tmpfs" and mount.source == "bulkhead"
    below = host.mounts().by_id.get(mount.parent)  # a bind on itself shows the directory that it hides
    return below is not None and mount.device == below.device and mount.root == below.root.rstrip("/") + path[len(below.target.rstrip("/")):]
