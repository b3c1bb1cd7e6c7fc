# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where the namespaces of a set are pinned, and how a pin is made and taken away."""

from __future__ import annotations

import errno
import fcntl
import os

from .._kernel import nsfs
from .._kernel import syscalls as sc


def pin(host, name, kind, source):
    """Bind a namespace's file, /proc/PID/ns/TYPE, where the pin of this set belongs; returns its identity."""
    path = nsfs.pin_path(host, name, kind)
    if kind == "net":
        _ready_netns(host)
    elif name != nsfs.TEMPLATE and not os.path.isdir("%s/ns/%s" % (host.state, name)):
        os.mkdir("%s/ns/%s" % (host.state, name), 0o755)
    if kind == "mnt" and name != nsfs.TEMPLATE:
        link(host, name)
    try:
        nsfs.make_pin(source, path)
    except OSError as exc:
        if kind == "mnt" and exc.errno == errno.EINVAL:
            raise OSError(errno.EINVAL, "the kernel does not let the mount namespace that we are in pin this one; "
                                        "is %s a private mount?" % os.path.dirname(path)) from exc
        raise
    return nsfs.identity(path)


def reserve_net(host, name):
    """The path of the file for a net namespace that is to be pinned; it is new."""
    path = nsfs.pin_path(host, name, "net")
    _ready_netns(host)
    nsfs.reserve_pin(path)
    return path


def link(host, name):
    """Mount namespaces are pinned elsewhere, on a private mount; a link shows where."""
    path = "%s/ns/%s/mnt" % (host.state, name)
    nsfs.unpin(path)
    os.symlink("../../mntns/" + name, path)


def linked(host, name):
    try:
        return os.readlink("%s/ns/%s/mnt" % (host.state, name)) == "../../mntns/" + name
    except OSError:
        return False


def unpin(host, name, kinds):
    """Take these pins of a set away, whatever they hold, and what is empty then."""
    for kind in kinds:
        nsfs.unpin(nsfs.pin_path(host, name, kind))
    if name == nsfs.TEMPLATE:
        return
    if not os.path.lexists(nsfs.pin_path(host, name, "mnt")):
        nsfs.unpin("%s/ns/%s/mnt" % (host.state, name))
    try:
        os.rmdir("%s/ns/%s" % (host.state, name))
    except OSError as exc:
        if exc.errno not in (errno.ENOENT, errno.ENOTEMPTY):
            raise


def _ready_netns(host):
    """/run/netns as ip-netns(8) wants it: a shared mount, so that pins and their removal reach every mount namespace."""
    mount = host.mounts().top(host.netns)
    if mount is not None and mount.shared:
        return
    os.makedirs(host.netns, mode=0o755, exist_ok=True)
    fd = os.open(host.netns, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)  # ip-netns(8) does the same under this lock
        if mount is None and host.aside:
            _move_in_netns(host)
        elif mount is None:
            sc.mount(host.netns, host.netns, None, sc.MS_BIND | sc.MS_REC)
            sc.mount(None, host.netns, None, sc.MS_REC | sc.MS_PRIVATE)
        sc.mount(None, host.netns, None, sc.MS_REC | sc.MS_SHARED)
    finally:
        os.close(fd)
    host.drop("mounts")


def _move_in_netns(host):
    """The same where /run is shared with the host's own mounts, as it must be on both sides.

    Bound in place it would be one more of the mounts that show all of /run, and each pin would be there twice; made private after
    that, it would be shared with nobody. So it is bound elsewhere, made private there, and moved: the kernel then makes a copy on
    the other side and shares the two.
    """
    point = host.state + "/mntns/.netns"
    nsfs.unpin(point)  # of a run that was killed
    os.mkdir(point, 0o700)
    sc.mount(host.netns, point, None, sc.MS_BIND | sc.MS_REC)
    sc.mount(None, point, None, sc.MS_REC | sc.MS_PRIVATE)
    sc.mount(point, host.netns, None, sc.MS_MOVE)
    os.rmdir(point)
