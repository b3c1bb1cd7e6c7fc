# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rates, delay and loss: what leaves through an end of a link waits in queueing disciplines of ours (tc(8)).

``transmit`` is at the interface in its namespace, ``receive`` at the end of its veth that is on the host, as what leaves there comes in
at the interface. A rate is a tbf; delay and loss are a netem, below the tbf where there are both.
"""

from __future__ import annotations

from .._kernel import built
from .._kernel import netmessages as nm
from .._model import addresses
from .._model.errors import BulkheadError
from ._link_changes import Change

_HANDLES = {"root": "1:", "1:1": "2:"}
_LEAST_BURST = 32768  # bytes: 22 full packets, or a half of what a card is given at once
_QUEUED = 0.05  # seconds of the rate that may wait before packets are dropped
_PACKETS = 1000  # of netem, the kernel's own choice


def changes(host, spec, found, side, wanted, outer=None):
    """Changes of one end. ``found`` are the qdiscs that are there now, ``wanted`` what is declared of this side (None: nothing is to be
    there). ``outer`` is the index of the end that is on the host, None for the one inside."""
    tree = _tree(wanted)
    current = {qdisc["parent"]: qdisc for qdisc in found if qdisc["parent"] in _HANDLES}
    if _same(tree, current):
        return []
    _refuse_lacking(host, spec, tree)
    root = current.get("root")
    kept = root if root is not None and _ours(root) else None  # what somebody else has set there is not put back as it was
    return [Change("set bandwidth.%s of %s" % (side, spec.key) if tree else "remove bandwidth.%s of %s" % (side, spec.key), "bandwidth." + side,
                   _words(current), _words({qdisc["parent"]: qdisc for qdisc in tree}),
                   lambda index: _messages(outer or index, current, tree),
                   lambda index: _messages(outer or index, {qdisc["parent"]: dict(qdisc, handle=_HANDLES[qdisc["parent"]]) for qdisc in tree},
                                           list(current.values()) if kept else []), outside=outer is not None)]


def show(found):
    """What there is at one end in the words of the option; None where there is nothing of ours."""
    shown = {}
    for qdisc in found:
        if qdisc["kind"] == "tbf":
            shown.update(rate=addresses.show_rate(qdisc["options"]["rate"] * 8), burst=qdisc["options"]["burst"])
        elif qdisc["kind"] == "netem":
            shown.update({key: round(qdisc["options"][key]) for key in ("delay", "jitter") if qdisc["options"].get(key)})
            shown.update({"loss": qdisc["options"]["loss"]} if qdisc["options"].get("loss") else {})
        if qdisc["kind"] in ("tbf", "netem") and qdisc["parent"] == "root":
            shown.update(bytes=qdisc["stats"]["bytes"], packets=qdisc["stats"]["packets"], drops=qdisc["stats"]["drops"],
                         overlimits=qdisc["stats"]["overlimits"])
    return shown or None


def _tree(wanted):
    """The qdiscs that are to be there, [{kind, parent, options}]."""
    tree = []
    if wanted and wanted["rate"] is not None:
        rate = wanted["rate"] // 8
        burst = wanted["burst"] or max(_LEAST_BURST, rate // 100)
        tree.append({"kind": "tbf", "parent": "root", "options": {"rate": rate, "burst": burst, "limit": burst + max(int(rate * _QUEUED), _LEAST_BURST)}})
    if wanted and (wanted["delay"] is not None or wanted["loss"] is not None):
        options = {key: wanted[key] or 0 for key in ("delay", "jitter", "loss")}
        packets = (wanted["rate"] or 0) / 8 * options["delay"] / 1e6 / 1500  # that are on their way at that rate
        tree.append({"kind": "netem", "parent": "1:1" if tree else "root", "options": dict(options, limit=max(_PACKETS, int(packets * 2)))})
    return tree


def _ours(qdisc):
    return qdisc["handle"] == _HANDLES[qdisc["parent"]] and qdisc["kind"] in ("tbf", "netem")


def _same(tree, current):
    if not tree:
        return not any(_ours(qdisc) for qdisc in current.values())
    return len(tree) == len([qdisc for qdisc in current.values() if qdisc["parent"] == "root" or _ours(qdisc)]) and all(
        _fits(qdisc, current.get(qdisc["parent"])) and nm.same_options(qdisc["options"], current[qdisc["parent"]]["options"]) for qdisc in tree)


def _fits(qdisc, found):
    """Is there one of its kind, so that it is changed in place?"""
    return None not in (qdisc, found) and found["kind"] == qdisc["kind"] and found["handle"] == _HANDLES[qdisc["parent"]]


def _messages(index, current, tree):
    messages = []
    wanted = {qdisc["parent"]: qdisc for qdisc in tree}
    # From below a tbf none is taken away alone: that would leave it with one that drops all.
    if any(parent in current and not _fits(wanted.get(parent), current[parent]) for parent in _HANDLES):
        messages.append(nm.delete_qdisc(index))
    return messages + [nm.set_qdisc(index, qdisc["kind"], qdisc["options"], _HANDLES[qdisc["parent"]], qdisc["parent"]) for qdisc in tree]


def _words(qdiscs):
    return {qdisc["kind"]: qdisc["options"] for parent, qdisc in sorted(qdiscs.items())} or None


def _refuse_lacking(host, spec, tree):
    for qdisc in tree:
        option, module = ("NET_SCH_" + qdisc["kind"].upper(), "sch_" + qdisc["kind"])
        if host.cached(("lacks", option), lambda: built.lacks(option, module, proc=host.proc, sys=host.sys)):
            what = "rates" if qdisc["kind"] == "tbf" else "delay and loss"
            raise BulkheadError("Cannot set the bandwidth of interface %s: the kernel has no %s, which %s need. Install a kernel with the module "
                                "%s (CONFIG_%s), or leave them out." % (spec.key, qdisc["kind"], what, module, option))
