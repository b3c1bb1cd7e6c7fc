# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Connections to a sandbox that wait while its services are not there: nobody is refused, and TCP asks again by itself.

In the net namespace of the sandbox a small table of the firewall drops what opens a connection, whichever interface it comes by:
published ports, members of its networks, the host. What is open goes on, and so does what is inside. The table is gone with the
namespace; a claim says that it is there, for who comes after a run that was killed.
"""

from __future__ import annotations

import time

from .._kernel import nft, nsfs, sockets

NOUN = "held"
_TABLE = "bulkhead_held"
_HELD = """table inet %(name)s
delete table inet %(name)s
table inet %(name)s {
    chain held {
        type filter hook input priority 0; policy accept;
        iifname "lo" accept
        tcp flags & (syn | ack) == syn drop
        meta l4proto udp ct state new drop
    }
}
""" % {"name": _TABLE}
_PAUSE = 0.005  # seconds


def names(host):
    """The sandboxes whose connections wait, or of which a killed run left that behind."""
    return host.cached("held", lambda: set(host.claims.names(NOUN)))


def hold(host, name, seconds):
    """From now on connections wait; those that are open have so many seconds to end."""
    pin = nsfs.look(nsfs.pin_path(host, name, "net"), "net")
    if not pin.alive:
        return
    host.claims.begin(NOUN, name)
    try:
        with nsfs.visit({"net": pin.path}, host.proc):
            nft.script(host.run, _HELD)
            end = time.monotonic() + seconds
            while sockets.callers(host.proc) and time.monotonic() < end:
                time.sleep(_PAUSE)
    except nft.NftError as exc:
        host.warn("Connections to sandbox %s are refused while its services are not there: %s." % (name, exc))


def release(host, name):
    """No error where nothing is held."""
    pin = nsfs.look(nsfs.pin_path(host, name, "net"), "net")
    if pin.alive and host.claims.read(NOUN, name) is not None:
        with nsfs.visit({"net": pin.path}, host.proc):
            nft.drop_table(_TABLE)
    host.claims.drop(NOUN, name)
