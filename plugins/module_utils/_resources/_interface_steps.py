# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The steps of one interface: its making with all that belongs to it, a change in place, its removal.

The claim is begun before the first message and completed after the last. Of a device it holds what the device was like on the host.
"""

from __future__ import annotations

from .._kernel import netmessages as nm
from .._kernel import nsfs
from .._model.interface import host_end
from . import _devices, _hostnet, _link_acts, _links, _ports

NOUN = _links.NOUN
_UNTOLD = ("up", "host_end", "port", "fdb", "neighbour", "answered")  # of a new link they go without saying


class Way:
    """How steps are taken: ``ahead`` with those of all other plans, or each when its turn comes, as where its namespace is made
    ``anew`` by a step before it.
    """

    def __init__(self, anew=False, ahead=True):
        self.anew, self.ahead = anew, ahead and not anew


def make(host, spec, space, plan, way, index, maker, changes, device):
    """One step, in which all of it comes. ``maker`` and ``index`` are of `_links.make`; ``device`` is the link of the host that is moved."""
    outside = [change for change in changes if change.outside]
    inner = [change for change in changes if not change.outside]
    place, born = {"pin": space.path, "name": _links.born_as(spec)}, _links.born_as(spec)
    plan.differ("type", None, spec.type)
    for change in changes:
        if change.key not in _UNTOLD:
            plan.differ(change.key, None, change.after)
    first = [change.call for change in inner if change.call and not change.last]
    back, claim, words = _link_acts.Act(leaves=lambda inner, home: [nm.delete_link(inner)], **place), {}, "create interface %s" % spec.key
    if spec.type == "tap":
        first.insert(0, lambda unused: _devices.make_tap(spec.name))
    elif spec.type == "device":
        origin = claim["origin"] = device and _devices.origin_of(device, spec.device)
        maker, words = device and _devices.move_in(device, spec), "move %s to %s" % (spec.device, spec.key)
        if device:
            back = _link_acts.Act(leaves=_devices.leave(origin), outside=_devices.settle(origin), **place)
    act = _link_acts.Act(
        index=index, clean=back,  # a veth is known as ours by the name of its other end
        begin=None if spec.type == "veth" else lambda: host.claims.complete(NOUN, spec.key, dict(claim, link=None)),
        goes=host_end(spec.key) if way.anew and host_end(spec.key) in _hostnet.links(host) else None,  # of the namespace that is no more
        outside=lambda netns: (maker(netns) if maker else []) + [message for change in outside for message in change.forth(None)],
        before=_all(first), inside=lambda index: ([nm.set_link(index, name=spec.name)] if born != spec.name else []) + [
            message for change in inner if change.forth for message in change.forth(index)],
        after=_all([change.call for change in inner if change.call and change.last]), **place)

    def done():
        host.claims.complete(NOUN, spec.key, dict(claim, link=[nsfs.identity(space.path)[1], act.index]))

    _link_acts.add(host, plan, words, act, _link_acts.Act(leaves=back.leaves, outside=back.outside, **place), way.ahead, done,
                   lambda: host.claims.drop(NOUN, spec.key))


def _all(calls):
    """One call of many; None of none."""
    def act(index):
        for call in calls:
            call(index)
    return act if calls else None


def change(host, spec, space, plan, way, index, one):
    """One change in place (`_link_changes.py: Change`)."""
    plan.differ(one.key, one.before, one.after)

    def act(messages, call):
        if one.outside:
            return _link_acts.Act(outside=messages)
        return _link_acts.Act(space.path, spec.name, index, inside=messages, **{"after" if one.last else "before": call})

    back = act(one.back, one.uncall) if one.back or one.uncall else None
    _link_acts.add(host, plan, one.words, act(one.forth, one.call), back, way.ahead)


def clear(host, spec, now, plan, way):
    """What a killed run, or a hand, has left: the end of a veth on the host, or a link that has not got its name yet."""
    if now.rest is None and now.stray is None:
        return
    act = _link_acts.Act(goes=now.rest and now.rest["name"])
    if now.stray is not None:
        act.pin, act.index, act.leaves = now.space.path, now.stray["index"], lambda index, home: [nm.delete_link(index)]
    plan.differ("leftover", host_end(spec.key), None)
    _link_acts.add(host, plan, "remove what is left of interface %s" % spec.key, act, ahead=way.ahead)


def remove(host, spec, now, plan, way):
    """The step that takes a link away, and what of it does not go with the link; a device goes back to where it came from."""
    former = spec.former if spec.former is not None else spec
    act = _link_acts.Act(name=spec.name)
    words, gone = "remove interface %s" % spec.key, namespace_wide(spec, now)
    if now.link is not None:
        plan.differ("type", former.type if spec.state == "absent" else now.link["kind"], None)
    messages = _ports.removal(host, former, _links.mac_of(former)) if spec.net is None else []  # else it goes on under that name
    act.outside = (lambda unused: messages) if messages else None
    if now.end is not None:
        act.goes = now.end["name"]
    elif now.link is not None and (now.origin is not None or former.type == "device"):
        words = "move %s back to the host" % spec.key
        act.index, (back, act.outside) = now.link["index"], _devices.move_back(host, spec, now)
        act.leaves = lambda index, home: gone + back(index, home)
    elif now.link is not None:
        act.index = now.link["index"]
        act.leaves = lambda index, home: gone + [nm.delete_link(index)]
    if gone and act.leaves is None:
        act.name, act.leaves = None, lambda unused, home: gone
    if act.leaves is not None:
        act.pin = now.space.path
    _link_acts.add(host, plan, words, act, ahead=way.ahead, done=lambda: host.claims.drop(NOUN, spec.key))


def left(host, spec, now):
    """Is there something still of an interface whose link is gone?"""
    return bool(namespace_wide(spec, now) or spec.former is not None and _ports.removal(host, spec.former, _links.mac_of(spec.former)))


def namespace_wide(spec, now):
    """What does not go with the link: rules, and routes that lead nowhere. As messages."""
    former = spec.former
    if former is None or not now.space.alive:
        return []
    messages = []
    if former.rules:
        there = {(rule["family"], rule["priority"]) for rule in now.space.rules if rule["protocol"] == 4}
        messages += [nm.delete_rule(rule["family"], rule["priority"], source=rule["from"], to=rule["to"], mark=rule["mark"], table=rule["table"])
                     for rule in former.rules if (rule["family"], rule["priority"]) in there]
    nowhere = [route for route in former.routes or () if route["type"] != "unicast"]
    if nowhere:
        there = {(route["family"], route["to"], route["table"], route["type"]) for route in now.space.routes}
        messages += [nm.delete_route(route["to"], family=route["family"], metric=route["metric"], table=route["table"], kind=route["type"])
                     for route in nowhere if (route["family"], route["to"], route["table"], route["type"]) in there]
    return messages
