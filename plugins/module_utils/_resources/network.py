# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Networks: a bridge with the gateways' addresses, forwarding to it and from it, and its part of our nftables table."""

from __future__ import annotations

from .._model.errors import Problems
from .._model.network import NetworkSpec

NOUN = "network"


def alias(name):
    """What the bridge of a network is marked with on the host (ifalias)."""
    return "bulkhead network %s" % name


def declared(host, name):
    """The whole of a network that is recorded, a NetworkSpec with every default applied; None when there is none."""
    def read():
        options = host.records.options(NOUN, name)
        if options is None:
            return None
        spec = NetworkSpec.from_options({"name": name}, "", Problems())
        return spec.over(options)
    return host.cached((NOUN, "declared", name), read)
