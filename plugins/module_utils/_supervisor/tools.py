# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The programs of the host that services stand on, and the packages that have them."""

from __future__ import annotations

import os

from .._model.errors import BulkheadError

PACKAGES = {"runsvdir": "runit", "runsv": "runit", "svlogd": "runit", "tini": "tini", "nsenter": "util-linux", "setsid": "util-linux",
            "systemctl": "systemd", "systemd-run": "systemd", "journalctl": "systemd"}
TOOL_PATHS = ("/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/sbin", "/usr/local/bin")


def tool(name, check=False):
    """The path of a program of the host, or an error that names its package; in check mode where it will be."""
    for place in TOOL_PATHS:
        path = "%s/%s" % (place, name)
        if os.access(path, os.X_OK):
            return path
    if check:
        return "/usr/bin/" + name
    raise BulkheadError("Cannot manage services: %s is not installed. Install the package %s." % (name, PACKAGES[name]))


def require(*names):
    """Refuse a host that lacks one of them."""
    for name in names:
        tool(name)
