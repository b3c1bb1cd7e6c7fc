# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Interfaces: links in named net namespaces, with addresses, routes, bandwidth and what the firewall knows of them.

For the composite, whose Specs come from `_model/interface.py: of_sandbox` and are checked against each other, all of a run at
once, by `check_list`:

    interface.find(host, specs, gone)                    once, in find(); ``gone``: names of sandboxes that are to go
    interface.plan_for(host, name, specs, plan, anew)    all interfaces of a sandbox; call it after its namespaces are planned
    interface.plan_removal(host, name, plan)             before its namespaces are removed, after its services are stopped
    interface.recorded_specs(host)                       of all records, with ``spec.resolved`` as it was last allocated
    interface.shown(host, name)                          those in a namespace, as `interface_info` shows them

After find() ``spec.resolved`` is the list of addresses with prefix that an interface has when the run is done.
"""

from __future__ import annotations

from .._model.interface import parse

NOUN = "interface"

__all__ = ("NOUN", "expand", "find", "info", "parse", "plan", "plan_for", "plan_removal", "recorded", "recorded_specs", "result", "shown")


def find(host, specs, gone=()):
    """Read the host once, give addresses and MACs to all, and tell the firewall what is to come.

    ``gone`` are namespaces whose interfaces all go. Of one with exact Specs, those that these do not name go, too.
    """
    raise NotImplementedError


def expand(host, specs):
    """With purge: what this module recorded and the list does not name is to go."""
    raise NotImplementedError


def plan(host, spec, plan):
    """See `_engine/plan.py`."""
    raise NotImplementedError


def plan_for(host, name, specs, plan, anew):
    """All interfaces of a sandbox, and the removal of those of ours in its namespace that ``specs`` does not name.

    ``anew``: its net namespace is made, or made again, by a step before these: nothing of what is in it now counts, and the
    links are made when the steps are taken, not ahead. The rules of the firewall are set ahead in any case.
    ``spec.drop(recorded options of that interface)`` is called before, where there are some.
    """
    raise NotImplementedError


def plan_removal(host, name, plan):
    """Take all interfaces of ours in a namespace away, and what the firewall and the records know of them; devices that were
    moved in go back. For all plans of a run the links are removed at once, at the end.
    """
    raise NotImplementedError


def recorded_specs(host):
    """The Specs of all records, those of sandboxes too, with ``resolved``."""
    raise NotImplementedError


def recorded(host):
    """The Members of all records, for rules that have to be made anew (`_rules.py`)."""
    raise NotImplementedError


def shown(host, name):
    """The interfaces of a namespace but lo, as `interface_info` shows them: [dict], sorted by name."""
    raise NotImplementedError


def result(host, params, outcome):
    """What the module returns beside the common keys."""
    raise NotImplementedError


def info(host, params):
    """What the _info module returns."""
    raise NotImplementedError
