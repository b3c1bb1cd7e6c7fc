# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Are the user and the groups of a service in its root? Asked before anything is touched, where the root can be read now.

The entry asks again, in the root as it then is, and has the last word.
"""

from __future__ import annotations

import errno
import os
import stat

from .._kernel import trees
from .._model.errors import BulkheadError

_MAX = 4 << 20  # bytes, as the entry


def check(name, options, layers, covered):
    """Refuse what is not there. ``layers``: directories that make up the root, top first; ``covered``: targets mounted over it."""
    if not layers or any((target + "/").startswith(("/etc/", "//")) for target in covered):
        return
    users = _table(layers, "/etc/passwd")
    user, group = options["user"], options["group"]
    known = None
    if users is not None:
        known = next((fields for fields in users if fields[0 if not user.isdigit() else 2:][:1] == [user]), None)
        if known is None and not user.isdigit() and user != "root":
            _refuse(name, "user", user, "passwd")
        if known is None and user not in ("root", "0") and group is None:
            raise BulkheadError("Cannot set up service %s: user %s is not in /etc/passwd of its root, so its group must be given. Give group." % (
                name, user))
    wanted = [one for one in [group] + (options["groups"] or []) if one is not None and not one.isdigit()]
    groups = _table(layers, "/etc/group") if wanted else None
    for one in wanted if groups is not None else ():
        if not any(fields[0] == one for fields in groups):
            _refuse(name, "group", one, "group")


def _refuse(name, what, word, file):
    raise BulkheadError("Cannot set up service %s: there is no %s %s in /etc/%s of its root. Name one that is there, or a number." % (
        name, what, word, file))


def _table(layers, path):
    """The lines of the topmost file as lists of fields; [] when no layer has one, None when that cannot be told from here."""
    for layer in layers:
        try:
            root = os.open(layer, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            if layer is layers[0] and len(layers) > 1:
                continue  # an upper that is still to be made
            return None
        except OSError:
            return None
        try:
            fd = trees.resolve(root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError as exc:
            if exc.errno == errno.ENOENT:
                continue
            return None
        finally:
            os.close(root)
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or found.st_size > _MAX:  # a whiteout, or what the entry will refuse
                return None
            return [line.split(":") for line in os.pread(fd, _MAX, 0).decode("utf-8", "surrogateescape").split("\n")]
        finally:
            os.close(fd)
    return []
