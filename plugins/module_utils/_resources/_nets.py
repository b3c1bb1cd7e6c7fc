# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The net namespaces of many new sets, made and pinned in one go before the sets are born, which then join them.

A pin at /run/netns is a mount that pid 1 sees. systemd reads the whole mount table when it has changed, but five times a second at most:
pinned with the births in between, that is once for each set; in one go, a few times for all.

It is a matter of cost only. A set whose net namespace is not there gets one at its birth, where is said why that cannot be.
"""

from __future__ import annotations

import signal

from .._kernel import nsfs
from .._kernel import syscalls as sc
from . import _pins


class Net:
    """The one of a set. ``claim``: what that says while the set is made; ``made``: it is there, and ours."""

    __slots__ = ("name", "claim", "made")

    def __init__(self, name, claim):
        self.name, self.claim, self.made = name, claim, False


def together(host, nets):
    """Make them, as far as that goes. Of one there is nothing to gather.

    The files come first, so that what is found mounted on them, also after a child that was killed, is known as ours.
    """
    if len(nets) < 2:
        return
    reserved = []
    for net in nets:
        try:
            host.claims.complete("namespace", net.name, net.claim)
            reserved.append((net, _pins.reserve_net(host, net.name)))
        except OSError:  # its birth has the same in its way
            pass
    try:
        nsfs.child({}, lambda: _pin(host, [path for net, path in reserved]))
    except OSError:  # what it made is there, and is looked for; the others are born without
        pass
    for net, path in reserved:
        try:
            net.made = nsfs.look(path, "net").alive
            if not net.made:
                nsfs.unpin(path)
        except OSError:  # an empty file of ours, which the birth takes away
            pass


def _pin(host, paths):
    """Be in one new net namespace after the other, and bind each to its file."""
    sc.prctl(sc.PR_SET_PDEATHSIG, signal.SIGKILL)
    for path in paths:
        sc.unshare(sc.CLONE_NEWNET)
        sc.mount(host.proc + "/self/ns/net", path, None, sc.MS_BIND)
