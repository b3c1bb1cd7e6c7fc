# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who keeps services running on this host."""

from __future__ import annotations

from .._model.errors import BulkheadError


def pick(host):
    """The supervisor of a host: a module with render, read, start, stop, status and remove."""
    if host.systemd:
        raise BulkheadError("Cannot manage services on this host: its init is systemd, which this release does not drive yet. "
                            "Use a host with runit or without a service manager.")
    from . import runit
    return runit
