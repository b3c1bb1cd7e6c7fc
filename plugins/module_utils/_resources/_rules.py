# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The firewall of networks: one table `inet bulkhead`, whose rules never change (`_skeleton.py`), and sets whose elements do.

Each element bears the name of its owner (`_model/rules.py`). The owners of a run are compared exactly, those of others are
left alone. For `network` and `interface`:

    _rules.expect(host, things)     once, in find(), with all that the run declares: so that of two members one may take in the
                                    same run what the other gives up. A thing is a Net, a Member or an Absent.
    _rules.plan(host, plan, thing)  in plan(): adds the steps. The rules of all plans are set by one transaction ahead of all
                                    other steps, so nothing is open for a moment; those of an Absent go after all other steps.
    _rules.used(host)               who has which address, MAC and published port, of the kernel and of what was expected.
    _rules.owners(host)             whose elements are in the kernel, to find what is left of things that are gone.

The devices that are in `opened` are a thing as well: `Opened(devices)`, whose owner is the host.
Where the table is gone or was changed by hand it is made anew whole, with the elements that are in the kernel and those of
what is recorded: `recorded(host)` of `network.py` and `interface.py` return the Nets and Members of all records for that
(of sandboxes too; addresses as last allocated).
"""

from __future__ import annotations


class Absent:
    """Of this owner nothing is to be left."""

    def __init__(self, owner):
        self.owner = owner

    def elements(self):
        return {}


class Opened:
    """Devices whose forwarding we turned on: what comes in there and is not for a network of ours is dropped. All of them, or none."""

    owner = "*"

    def __init__(self, devices):
        self.devices = devices

    def elements(self):
        return {"opened": {(device,): None for device in self.devices}}


class Used:
    """``addresses`` {address: owner}, ``macs`` {mac: owner}, ``published`` {(protocol, port): {(host address, or "" for all of IPv4
    or all of IPv6, family): owner}}."""

    def __init__(self):
        self.addresses, self.macs, self.published = {}, {}, {}


def expect(host, things):
    """What this run declares, all of it, before the first plan()."""
    raise NotImplementedError


def plan(host, plan, thing):
    """Add what is missing, and the difference as `rules`. Refuses what another owner has (an address, a MAC, a published port), and
    a port that a process of the host listens on. Warns where somebody else's firewall would drop what this one lets through.

    Steps: `set rules of lab`, `remove rules of web/eth0`, and where needed, once in a run, `make rules anew`.
    """
    raise NotImplementedError


def used(host):
    """A Used."""
    raise NotImplementedError


def owners(host):
    """{owner: {set: {value: data}}} of what is in the kernel; {} where the table is not there."""
    raise NotImplementedError
