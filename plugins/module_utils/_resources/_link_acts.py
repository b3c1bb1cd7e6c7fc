# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is done to interfaces, for all of a run at once: a stage after the other, each with as few datagrams as can be.

Links that go are put into one group and removed by it, as the kernel then waits once for all (0.4 ms each instead of 16). Then come
the messages for the host's own namespace, then those for each namespace that interfaces are in.
"""

from __future__ import annotations

import errno

from .._kernel import netlink, nsfs
from .._kernel import netmessages as nm
from .._model.errors import BulkheadError
from . import _hostnet

GROUP = 0x62680000  # of the host ends that are there
_GOING = GROUP + 1
_AT_ONCE = 128  # namespaces that are open at the same time, two descriptors each


class Act:
    """One change of one interface. Its parts are taken in this order, of all acts together:

    ``goes``                 the name of a link of the host that is removed
    ``leaves(index, home)``  messages for the interface's namespace by which it leaves it; ``home`` is a descriptor of the host's
    ``outside(netns)``       messages for the host's namespace; ``netns`` is a descriptor of the interface's
    ``before(index)``        what is no message, called in the interface's namespace: that which must be there for ``inside``
    ``inside(index)``        messages for the interface's namespace
    ``after(index)``         as ``before``

    ``begin()`` is called ahead of all of it. ``pin`` is where the interface's namespace is pinned; ``index`` of the interface in it, found
    by ``name`` where it is None.
    ``error`` is why it could not be done; what it had done by then has been taken back by ``clean``, an Act, where it made a link.
    """

    __slots__ = ("begin", "pin", "name", "index", "goes", "leaves", "outside", "before", "inside", "after", "clean", "error", "done")

    def __init__(self, pin=None, name=None, index=None, goes=None, leaves=None, outside=None, before=None, inside=None, after=None, clean=None, begin=None):
        self.begin, self.pin, self.name, self.index, self.goes, self.leaves = begin, pin, name, index, goes, leaves
        self.outside, self.before, self.inside, self.after = outside, before, inside, after
        self.clean, self.error, self.done = clean, None, False

    @property
    def enters(self):
        return self.pin is not None and any((self.leaves, self.outside, self.before, self.inside, self.after))

    def failed(self, exc, first=False):
        """The first error counts. When the first message was refused, the link is not ours to clean up."""
        if self.error is None:
            self.error = exc
            if first:
                self.clean = None


def add(host, plan, words, act, back=None, ahead=True, done=None, forget=None):
    """Add an act to a plan as a step; ``back`` is the act that takes it back. ``ahead``: it is done with those of all other plans.
    ``done()`` is called when it is done, ``forget()`` when there is nothing of it.
    """

    def apply():
        try:
            finish(host, act)
        except OSError as exc:
            if forget is not None and (act.clean is None or act.clean.error is None):
                forget()
            if getattr(exc, "lacks", None):
                raise BulkheadError("Cannot %s: the kernel has no %s. Install the module of it, or a kernel that has one." % (words, exc.lacks)) from exc
            raise
        if done is not None:
            done()

    def undo():
        if act.done and act.error is None:
            finish(host, back)
            if forget is not None:
                forget()

    plan.add(words, apply, back and undo, do if ahead else None, act if ahead else None)


def finish(host, act):
    """What the step of an act has to do still: all of it, or to tell what went wrong."""
    if not act.done:
        do(host, [act])
    if act.error is not None:
        raise act.error


def do(host, acts):
    """Do them. Errors are kept in the acts, for their steps to tell."""
    acts = [act for act in acts if not act.done]
    for act in acts:
        act.done = True
        if act.begin is not None:
            act.begin()
    try:
        with netlink.open(proc=host.proc) as net:
            _remove(host, net, [act for act in acts if act.goes is not None])
            for start in range(0, len(acts), _AT_ONCE):
                _chunk(host, net, acts[start:start + _AT_ONCE])
    except OSError as exc:  # of no message but of all of it; where pyroute2 is missing nothing was sent
        for act in acts:
            act.failed(exc, first=exc.errno == errno.ENOPKG)
    host.drop("host's network")
    cleaners = [act.clean for act in acts if act.error is not None and act.clean is not None]
    if cleaners:
        do(host, cleaners)


def _remove(host, net, acts):
    """16 ms for one and for many. Where all of ours go, they are in one group already."""
    if not acts:
        return
    ours = {link["name"] for link in _hostnet.links(host).values() if link["group"] == GROUP}
    group = GROUP if ours == {act.goes for act in acts} else _GOING
    messages = [nm.set_link(act.goes, group=group) for act in acts] if group == _GOING else []
    try:
        net.send(messages)
    except netlink.NetlinkError as exc:
        for each in [exc] + exc.others:
            if each.errno != errno.ENODEV:  # it is gone already
                acts[_index(messages, each.message)].failed(each)
    try:
        net.send([nm.delete_group(group)])
    except netlink.NetlinkError as exc:
        for act in acts:
            act.failed(exc)


def _chunk(host, net, acts):
    spaces = {}
    try:
        for act in acts:
            if act.enters and act.pin not in spaces:
                try:
                    spaces[act.pin] = netlink.open(act.pin, host.proc)
                except OSError as exc:
                    spaces[act.pin] = exc
            if act.enters and isinstance(spaces[act.pin], OSError):
                act.failed(spaces[act.pin], first=True)
        for pin, space in spaces.items():
            if isinstance(space, OSError):
                continue
            leaving = [act for act in acts if act.leaves and act.pin == pin and act.error is None]
            _number(space, leaving)
            _send(space, [(act, act.leaves(act.index, net.fd)) for act in leaving if act.error is None])
        _send(net, [(act, act.outside(spaces[act.pin].fd if act.pin else None)) for act in acts if act.outside and act.error is None], making=True)
        for pin, space in spaces.items():
            if not isinstance(space, OSError):
                _inside(host, pin, space, [act for act in acts if act.pin == pin and act.error is None])
    finally:
        for space in spaces.values():
            if not isinstance(space, OSError):
                space.close()


def _inside(host, pin, space, acts):
    """All that is to be done in one namespace. Calls come in groups, so that each group enters it once."""
    if any(act.before for act in acts):
        _call(host, pin, [(act, act.before) for act in acts if act.before])
    _number(space, [act for act in acts if (act.inside or act.after) and act.error is None])
    _send(space, [(act, act.inside(act.index)) for act in acts if act.inside and act.error is None])
    if any(act.after for act in acts):
        _call(host, pin, [(act, act.after) for act in acts if act.after and act.error is None])


def _number(space, acts):
    """The indexes of interfaces that got them from the kernel."""
    for act in acts:
        if act.index is None and act.name is not None:
            link = space.link(act.name)
            if link is None:
                act.failed(OSError(errno.ENODEV, "there is no interface %s in it any more" % act.name))
            else:
                act.index = link["index"]


def _call(host, pin, calls):
    with nsfs.visit({"net": pin}, host.proc):
        for act, call in calls:
            try:
                call(act.index)
            except OSError as exc:
                act.failed(exc, first=call is act.before)


def _send(net, pairs, making=False):
    """Send the messages of [(act, messages)] together, and tell each act of its own errors."""
    messages, owners = [], []
    for act, own in pairs:
        messages += own
        owners += [(act, place == 0) for place in range(len(own))]
    try:
        net.send(messages)
    except netlink.NetlinkError as exc:
        for each in [exc] + exc.others:
            act, first = owners[_index(messages, each.message)]
            act.failed(each, first and making)


def _index(messages, message):
    """Where that very message is: two may be equal."""
    return next(place for place, each in enumerate(messages) if each is message)
