# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A sandbox that stands still while it is copied, and goes on afterwards whatever happens to us.

A child waits for our end and thaws then. Should both be killed, a claim tells the next run of that sandbox.
"""

from __future__ import annotations

import contextlib
import os
import signal

from .._model.errors import BulkheadError, reason
from .._model.sandbox import PREFIX

NOUN = "frozen"  # of claims
_PATIENCE = 10.0  # seconds


@contextlib.contextmanager
def frozen(host, name):
    """Nothing of the sandbox runs meanwhile. One that is frozen already stays so."""
    group, trees = PREFIX + name, host.cgroups().at(PREFIX + name)
    if not trees.exists(group) or not trees.populated(group) or trees.frozen(group):
        yield
        return
    if not trees.freezable():
        raise BulkheadError("Cannot freeze sandbox %s: this host's cgroups have no freezer. Stop its services first." % name)
    guard, thawed = _Guard(trees, group), False
    try:
        host.claims.complete(NOUN, name, None)
        try:
            if not trees.freeze(group, True, _PATIENCE):
                raise BulkheadError("Cannot freeze sandbox %s: not all of its processes stood still within %d seconds. Run again." % (name, _PATIENCE))
            yield
        finally:
            _thaw(host, name)
            thawed = True
    finally:
        guard.end(thawed)


def plan(host, name, plan):
    """A step that thaws a sandbox that a killed run has left frozen."""
    if name in host.cached("left frozen", lambda: set(host.claims.names(NOUN))):
        plan.add("thaw sandbox %s" % name, lambda: _thaw(host, name))


def _thaw(host, name):
    group, trees = PREFIX + name, host.cgroups().at(PREFIX + name)
    if trees.exists(group):
        try:
            trees.freeze(group, False, _PATIENCE)
        except OSError as exc:
            raise BulkheadError("Cannot thaw sandbox %s: %s. Run again." % (name, reason(exc))) from exc
    host.claims.drop(NOUN, name)


class _Guard:
    """A child that thaws a cgroup when we are gone."""

    def __init__(self, trees, group):
        read, self._write = os.pipe()
        self._pid = os.fork()
        if not self._pid:
            self._wait(read, trees, group)
        os.close(read)

    def _wait(self, read, trees, group):
        """No exception may leave: the frames above belong to the parent."""
        try:
            os.close(self._write)
            os.setsid()  # what kills a whole group of processes does not kill this one
            for each in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                signal.signal(each, signal.SIG_IGN)
            if os.read(read, 1) != b"x":
                trees.freeze(group, False, 0)
        finally:
            os._exit(0)

    def end(self, thawed):
        """Let it go; it thaws where we could not."""
        try:
            os.write(self._write, b"x" if thawed else b"")
        except OSError:
            pass  # it is gone
        os.close(self._write)
        try:
            os.waitpid(self._pid, 0)
        except ChildProcessError:
            pass
