# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Storage drivers: how the root of a sandbox is made of an image's layers and keeps what is written.

All that stands outside asks here for the driver of a sandbox, and of that what class Driver says; nobody asks which one it is.
"""

from __future__ import annotations

import os

from .._model.errors import BulkheadError


class Driver:
    """The interface. ``spec`` is a SandboxSpec whose image is read; ``name`` that of a sandbox; ``plan`` takes steps.

    Plans are made before anything is touched, in check mode too, and raise what stands against them. Nothing here is done while
    services of the sandbox run that write to its root, but find(), changes(), members() and measure().
    """

    name = None

    def probe(self, host):
        """None where this host can, else (reason, advice)."""
        raise NotImplementedError

    def find(self, host, name):
        """What there is of a root of this driver: a Root, or None."""
        raise NotImplementedError

    def base(self, host, spec):
        """What RootSpec.base gets: the OverlaySpec, or the path of the directory, which need not be there yet."""
        raise NotImplementedError

    def plan_make(self, host, spec, plan):
        """The root is there and ready (after a reboot, too: mounted, activated), of the layers that are declared and within its size.

        Where a root is there of other layers, the result is true: another takes its place, with what was written laid over the new
        layers. That is refused without spec.storage.on_mismatch == "recreate". (What overlay is made of is compared where it is mounted.)
        """
        raise NotImplementedError

    def refuse_stopped(self, host, name):
        """An error where the file system that a root is on answers nothing any more. For who means to go on with that root."""

    def plan_reset(self, host, spec, plan):
        """What was written goes, and the layers stay: is there anything? After plan_make(), which has the root of the right layers."""
        raise NotImplementedError

    def plan_removal(self, host, name, remove_data, plan, lazy=False):
        """The root goes; with data in it only where ``remove_data``. ``lazy``: who uses it ends before, by an earlier step."""
        raise NotImplementedError

    def changes(self, host, name):
        """{added, modified, deleted}: sorted paths, as `_kernel/changes.py: between` tells them; None where nothing can be written."""
        raise NotImplementedError

    def path(self, host, name):
        """The directory in which lies what was written, which need not be there."""
        raise NotImplementedError

    def members(self, host, name):
        """A context manager: what was written as the members of an archive, as `_tree.Tree` gives them, with whiteouts."""
        raise NotImplementedError

    def digest(self, host, name):
        """A text that is the same as long as what was written is, for who reads members() only when it has changed."""
        raise NotImplementedError

    def measure(self, host, name):
        """{"driver": its name, "written": bytes on the disk, "size": the limit in bytes or None}, as the kernel counts."""
        raise NotImplementedError

    def obstacle(self, host, name, other=False):
        """Why a copy of what is written would be another than that is, or, with ``other``, why it would be another over other layers:
        (reason, advice). None: it would not."""
        return None

    def copy(self, host, name, other, still):
        """Make what is written the root of another sandbox, which has none. An act. ``still``: a context manager in which nobody writes."""
        raise NotImplementedError

    def has_data(self, host, path):
        """Was anything written in a directory of movable(), or in one that was laid aside from it?"""
        raise NotImplementedError

    def movable(self, host, name):
        """The directories that hold what is written and can be renamed, services being stopped; without any, it cannot be kept beside."""
        return []

    def room(self, host, name):
        """The directory below which save() makes copies of a sandbox: on the file system that they are cheap on. It need not be there."""
        raise NotImplementedError

    def save(self, host, name, path, still):
        """Copy what is written into the new directory ``path``, which is in room(). An act: raises OSError. ``still``: as for copy()."""
        raise NotImplementedError

    def put_back(self, host, name, path, storage=None):
        """Make the root what it was when it was saved, in one rename; services are stopped, and the root's mounts go next. An act.

        What was there before goes at the end of the run.
        """
        raise NotImplementedError

    def take_back(self, host, name):
        """Undo put_back(). An act."""
        raise NotImplementedError

    def forget(self, host, path):
        """Remove a copy, whole or half-made; no error where it is not there. An act."""
        raise NotImplementedError


class Root:
    """What there is: ``layers`` its chain (digests of the store, else paths), the lowest first; ``size`` its limit in bytes or None;
    ``ready``: it can be used as it is, everything being mounted."""

    __slots__ = ("layers", "size", "ready")

    def __init__(self, layers, size=None, ready=True):
        self.layers, self.size, self.ready = layers, size, ready


def settle(host, spec):
    """Choose the driver of a sandbox and give its parts what it makes of them. None where its root is no root of layers."""
    if spec.overlay is None:
        return None
    chosen = _of(host, spec)
    base = chosen.base(host, spec)
    lower = list(spec.overlay.lower or ())
    if isinstance(base, str):
        spec.overlay = None
        for each in spec.services:
            each.layers = [base] + lower
            if not each.prepared:
                each.declared["root"] = base
    if spec.root is not None:
        spec.root.base = base
    return chosen


def _of(host, spec):
    """What is there stays; else what is declared; else the first that this host can."""
    there, wanted = existing(host, spec.key), spec.storage.driver
    if there is not None and wanted in (None, there.name):
        return there
    if there is not None:
        raise BulkheadError("Cannot change storage.driver of sandbox %s from %s to %s: what was written lies with the former. Commit the sandbox "
                            "to an image if it is to be kept, remove it with remove_data: true, and make it anew." % (spec.key, there.name, wanted))
    if wanted is not None:
        why = _driver(wanted).probe(host)
        if why:
            raise BulkheadError("Cannot make sandbox %s with storage.driver %s: %s. %s." % (spec.key, wanted, *why))
        return _driver(wanted)
    if spec.image is None or spec.options.get("storage") is None:
        return _driver("overlay")  # which says by itself what it lacks
    return next(each for each in map(_driver, ("overlay", "btrfs", "copy")) if each.name == "copy" or not each.probe(host))


def existing(host, name):
    """The driver that has a root of a sandbox, or what was written to one; None."""
    driver = _tree(host, name)
    if driver is not None:
        return driver
    if os.path.isdir("%s/uppers/%s/upper" % (host.lib, name)) or os.path.exists("%s/uppers/.%s.img" % (host.lib, name)):
        return _driver("overlay")
    recorded = host.records.options("sandboxes", name) or {}
    if not (recorded.get("image") or recorded.get("overlay")):
        return None
    declared = (recorded.get("storage") or {"driver": "overlay"}).get("driver")
    return None if declared in (None, "auto") else _driver(declared)


def of_name(host, name):
    """The driver of a sandbox that is recorded or was, or that a killed run was making; that of none is overlay's, which has nothing to show."""
    return existing(host, name) or _tree(host, name, half=True) or _driver("overlay")


def _tree(host, name, half=False):
    """The driver of a root below roots/, with ``half`` of what is left of one; mostly there is no such directory at all."""
    if not host.cached("roots", lambda: os.path.isdir(host.lib + "/roots")):
        return None
    from . import _storage_tree

    return _storage_tree.driver_of(host, name, half)


def named(name):
    """The driver of that name."""
    return _driver(name)


def _driver(name):
    """The one object of each."""
    if name == "overlay":
        from ._storage_overlay import DRIVER
    else:
        from ._storage_tree import drivers

        return drivers()[name]
    return DRIVER
