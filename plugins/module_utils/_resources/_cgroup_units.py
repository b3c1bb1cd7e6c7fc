# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whose a slice is, by its unit file."""

from __future__ import annotations

import os

from .._kernel.cgroupfs import UNIFIED
from .._supervisor import systemctl

NOUN = "cgroup"


def ours(host, name):
    """Is there a unit file of ours for a cgroup?"""
    return (systemctl.read(host, systemctl.slice_unit(name)) or "").startswith(systemctl.MADE)


def owned(host, name, found):
    """A slice is ours by its unit file; one without by the claim that was made with it (somebody removed the file)."""
    if ours(host, name):
        return True
    claim = host.claims.read(NOUN, name)
    identity = claim.get("identity") if claim else None
    return claim is not None and (identity is None or identity.get(UNIFIED) == found.get(UNIFIED))


def nobodys(host, trees, name):
    """Has systemd made it up as a parent, and does nobody else live in it?"""
    unit = systemctl.slice_unit(name)
    told = systemctl.show(host, [unit])[unit]
    return not told["FragmentPath"] and not told["DropInPaths"] and systemctl.read(host, unit) is None and (
        name.startswith("bulkhead/") or not trees.populated(name))


def units(host):
    """The names of the cgroups that there are unit files of ours for."""
    try:
        entries = os.listdir(host.units)
    except (FileNotFoundError, NotADirectoryError):
        return []
    names = [systemctl.slice_name(entry) for entry in sorted(entries) if entry.endswith(".slice") and not entry.startswith(".")]
    return [name for name in names if ours(host, name)]


def describe(host, name):
    """What `cgroup_info` tells of a slice beside the kernel's view."""
    unit = systemctl.slice_unit(name)
    told = systemctl.show(host, [unit])[unit]
    return {"unit": unit, "unit_file": told["FragmentPath"] or None, "drop_ins": systemctl.words(told["DropInPaths"])}
