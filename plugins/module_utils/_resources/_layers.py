# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The directories that an overlay is made of: are they fit for it, and making and removing them."""

from __future__ import annotations

import errno
import os
import re

from .._kernel import holders, mountinfo, overlayfs, syscalls, trees
from .._kernel.holders import identity
from .._model.errors import BulkheadError, reason
from . import _uses

NO_UPPER = ("overlay", "nfs", "nfs4", "vfat", "exfat", "squashfs", "erofs", "iso9660", "proc", "sysfs", "cgroup", "cgroup2", "9p", "ceph")
_MOUNTED = re.compile(r"/layers/[0-9a-f]{64}/tree$")
DISCARDED = ".bulkhead-discarded"  # suffix of an upper or work that a reset has replaced and not yet removed


def known(host):
    """The defaults of the overlay driver, once per run."""
    return host.cached("overlay defaults", lambda: overlayfs.defaults(host.sys))


def short_links(host):
    return host.state + "/links"


def stage(host):
    return host.state + "/mntns/.overlay"


def read(host, mount):
    """The Layers of a Mount, with full names."""
    return overlayfs.full_names(overlayfs.parse(mount.super_options, known(host)), short_links(host))


def known_by(path):
    """What a layer is remembered by; of one of the store that is mounted its file, as the mount comes and goes."""
    return _MOUNTED.search(path) and identity(os.path.dirname(path) + "/file") or identity(path)


def identities(layers):
    return {path: known_by(path) for path in layers.lower + layers.data + [layers.upper, layers.work] if path}


def refusal(what, why, advice, verb="mount"):
    return BulkheadError("Cannot %s overlay %s: %s. %s." % (verb, what, why, advice))


def check(host, what, layers, replaced=(), reset=False, own=None, verb="mount"):
    """Refuse layers that the kernel would refuse, or, worse, would take with undefined behaviour.

    ``what`` names the overlay; ``replaced`` are the MAJOR:MINOR of overlays that go away before this one is made, and ``own``
    is the sandbox whose mount namespace goes away before. ``verb`` says what is refused.
    """
    def no(why, advice):
        return refusal(what, why, advice, verb)

    seen = {}
    for path in layers.lower + layers.data:
        try:
            if not os.path.isdir(path):
                os.stat(path)
                raise no("the layer %s is not a directory" % path, "Give a directory")
        except OSError as exc:
            if host.check and isinstance(exc, FileNotFoundError):
                host.warn("The layer %s does not exist yet; an earlier task is expected to make it." % path)
                continue
            raise no("the layer %s cannot be used: %s" % (path, reason(exc).split(" (")[0]), "Make it first")
        real = _uses.real(host, path)
        for other, name in seen.items():
            if _within(real, other) or _within(other, real):
                raise no("the layers %s and %s are one inside the other" % (name, path), "Give separate directories")
        seen[real] = path
        _depth(host, no, path, real)
    if layers.upper:
        _check_upper(host, no, layers, seen, reset)
    why = _uses.conflict(host, overlays(host), what, layers, replaced, own)
    if why:
        raise no(*why)


def _within(path, parent):
    return (path + "/").startswith(parent.rstrip("/") + "/")


def _depth(host, no, path, real):
    mount = host.mounts().holder(real)
    if mount is None or mount.fstype != "overlay":
        return
    for below in read(host, mount).lower:
        under = host.mounts().holder(os.path.realpath(below))
        if under is not None and under.fstype == "overlay":
            raise no("the layer %s is an overlay over an overlay, and the kernel stacks two at most" % path,
                     "Use its layers instead")


def _check_upper(host, no, layers, lowers, reset):
    mounts, places = [], []
    for path in (layers.upper, layers.work):
        if os.path.lexists(path) and not os.path.isdir(path):
            raise no("%s is not a directory" % path, "Remove it or name another")
        parent = path if os.path.isdir(path) else os.path.dirname(path)
        if not os.path.isdir(parent) and not ours(host, path):
            raise no("there is no directory %s to make %s in" % (parent, os.path.basename(path)), "Make it first")
        real = _uses.real(host, path)
        places.append(real)
        for lower, name in lowers.items():
            if _within(real, lower) or _within(lower, real):
                raise no("%s and the layer %s are one inside the other" % (path, name), "Give separate directories")
        mounts.append(host.mounts().holder(real))
    first, second = mounts
    if _within(places[0], places[1]) or _within(places[1], places[0]):
        raise no("upper and work are one inside the other", "Give separate directories")
    if first is not None and second is not None:
        # Ours below /var/lib/bulkhead may get a mount of their own between now and then, both the same.
        if first.id != second.id:
            raise no("upper %s and work %s are on different mounts" % (layers.upper, layers.work),
                     "Put both on one file system")
        if first.fstype in NO_UPPER:
            raise no("upper %s is on %s, which cannot hold one" % (layers.upper, first.fstype),
                     "Put it on a local file system such as ext4, xfs or tmpfs")
        if "ro" in first.options or first.super_options.split(",")[0] == "ro":
            raise no("upper %s is on a read-only mount" % layers.upper, "Put it where it can be written")
    if reset:
        return
    mark = overlayfs.volatile_leftover(layers.work)
    if mark:
        raise no("its upper was in use with volatile and may be torn (%s)" % mark, "Discard it with reset: true")
    try:
        strange = sorted(set(os.listdir(layers.work)) - {"work", "index"})
    except FileNotFoundError:
        strange = []
    if strange:
        raise no("the work directory %s is not empty (%r)" % (layers.work, strange[0]), "Name an empty directory")


def overlays(host):
    """[(who, Mount, Layers)] of all overlays in all mount namespaces, once per run."""
    def scan():
        pins = host.state + "/mntns"
        names = [name for name in _list(pins) if not name.startswith(".")]
        return [(who, mount, read(host, mount)) for who, table in holders.tables(host.proc, ["%s/%s" % (pins, name) for name in names])
                for mount in table.mounts if mount.fstype == "overlay"]
    return host.cached("overlays", scan)


def drop_links(host):
    """Remove short names that no overlay shows any more."""
    links = short_links(host)
    if not os.path.isdir(links):
        return
    host.forget()
    text = [mount.super_options for who, mount, layers in overlays(host)]
    for name in os.listdir(links):
        if not any(name in options for options in text):
            os.unlink("%s/%s" % (links, name))
    remove_if_empty(links)
    host.forget()


def _list(path):
    try:
        return os.listdir(path)
    except OSError:
        return []


def ours(host, path):
    """Below our own /var/lib/bulkhead, where missing parents are made and empty directories are removed."""
    return path.startswith(host.lib + "/") or path.startswith(host.state + "/")


def plan_mounts(host, lower, plan):
    """Steps that mount those of these layers that are files in the store, and are not mounted."""
    if any(path.startswith(host.lib + "/layers/") for path in lower):
        from . import _mounted  # more code, for the one who has images

        _mounted.plan_lower(host, lower, plan)


def plan_directories(host, layers, plan):
    """Steps that make a missing upper and work."""
    for path in (layers.upper, layers.work) if layers.upper else ():
        if not os.path.isdir(path) and ("directory", path) not in host.promised:
            plan.add("make directory %s" % path, lambda path=path: make(path), lambda path=path: _unmake(host, path, layers.work))


def _unmake(host, path, work):
    """Take back a directory that this run has made: with the kernel's own in a work directory, with mount points in an upper."""
    if path == work or not has_data(path):
        discard(host, path)
    else:
        raise OSError(errno.ENOTEMPTY, "there is data in it")
    remove_if_empty(own_parent(host, path))


def make(path):
    """Missing parents are for root alone: what is stored below may be set-user-ID for whoever reaches it."""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    os.makedirs(path, mode=0o755, exist_ok=True)


def set_aside(host, path):
    """Give a directory up in one rename, with an empty one of the same mode and owner in its place."""
    refuse_mounts(mountinfo.read(host.proc), path, "empty")  # one that is mounted since the plan was made, too
    aside = path + DISCARDED
    if os.path.lexists(aside):
        discard(host, aside)
    found = os.stat(path)
    os.rename(path, aside)
    try:
        os.mkdir(path, 0o700)
        os.chown(path, found.st_uid, found.st_gid)
        os.chmod(path, found.st_mode & 0o7777)
    except OSError:
        put_back(path)
        raise


def put_back(path):
    """Undo set_aside()."""
    aside = path + DISCARDED
    if os.path.lexists(aside):
        os.rename(aside, path)  # over the empty one


def refuse_mounts(table, path, verb="remove", gone=()):
    """Refuse to remove what has a mount in it: the removal would stop there, half-way. Those in ``gone`` will be away by then."""
    ids = {mount.id for mount in gone}
    for mount in table.inside(os.path.realpath(path)):
        if mount.id not in ids:
            raise BulkheadError("Cannot %s %s: %s (%s) is mounted in it. Unmount that first." % (verb, path, mount.target, mount.fstype))


def discard(host, path):
    """Remove a directory with everything in it; no error when it is not there. What is mounted in it is looked for before,
    where there is something to lose: of mount points alone, one in use stays and is the error."""
    try:
        data = has_data(path)
    except OSError:  # EXDEV: there is a mount
        data = True
    if data:
        refuse_mounts(mountinfo.read(host.proc), path)
    parent = os.open(os.path.dirname(path), syscalls.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        trees.remove_tree(parent, os.path.basename(path))
    finally:
        os.close(parent)


def leftovers(paths):
    """What a reset that was killed has left."""
    return [path + DISCARDED for path in paths if path and os.path.lexists(path + DISCARDED)]


def has_data(upper):
    """Does a directory exist and hold more than mount points? One that cannot be looked at is no empty one: that is an error."""
    try:
        fd = os.open(upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        return trees.has_data(fd)
    finally:
        os.close(fd)


def plan_removal(host, upper, work, remove_data, plan, gone=()):
    """Steps that remove upper and work: with data only when told to, elsewhere than below our own directory likewise.

    ``gone`` are the mounts that an earlier step takes away.
    """
    for path in leftovers((upper, work)):
        plan_discard(host, path, plan, gone)
    if not upper or not (remove_data or (ours(host, upper) and not has_data(upper))):
        return
    for path in (upper, work):
        if path and os.path.isdir(path) and (remove_data or ours(host, path)):
            plan_discard(host, path, plan, gone)
            plan.differ("upper" if path == upper else "work", path, None)
    parent = own_parent(host, upper)
    names = {os.path.basename(path) + suffix for path in (upper, work) if path for suffix in ("", DISCARDED)}
    if parent and os.path.isdir(parent) and not set(_list(parent)) - names:
        plan.add("remove directory %s" % parent, lambda: remove_if_empty(parent))


def plan_discard(host, path, plan, gone=()):
    """A step that removes a directory with everything in it, refused when something is mounted there."""
    refuse_mounts(host.mounts(), path, gone=gone)
    plan.add("remove %s" % path, lambda: discard(host, path))


def own_parent(host, path):
    """The directory uppers/NAME of ours that holds an upper, which goes with it; else None."""
    parent = os.path.dirname(path)
    return parent if os.path.dirname(parent) == host.lib + "/uppers" and not os.path.ismount(parent) else None  # a limit is mounted on it


def remove_if_empty(path):
    """Remove a directory that may be gone or have got something in it."""
    try:
        if path:
            os.rmdir(path)
    except OSError as exc:
        if exc.errno not in (errno.ENOTEMPTY, errno.ENOENT):
            raise
