# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Archives that were brought to the host for an image, by the role: archives/IMAGE/NAME below our directory.

One that is the source of its image stays, so that it is fetched once and a damaged layer can be made again. All others go, and a bundle
with the import for which it was brought, whether that comes to its end or is refused.
"""

from __future__ import annotations

import errno
import os


def _top(host):
    return host.lib + "/archives"


def _list(path):
    try:
        return sorted(os.listdir(path))
    except (FileNotFoundError, NotADirectoryError):
        return []


def plan(host, spec, plan):
    """A step that removes what was brought for an image and is not its source, or no more."""
    if spec.name is None or spec.state == "present" and spec.source is None:
        return
    folder = "%s/%s" % (_top(host), spec.name)
    needed = spec.path if spec.state == "present" and (spec.source != "bundle" or ("image", spec.name) in host.promised) else None
    left = [name for name in _list(folder) if "%s/%s" % (folder, name) != needed]
    empty = [path for path in (folder, _top(host)) if os.path.isdir(path) and not _list(path)]  # as a killed run leaves it
    if left or empty:
        plan.add("remove archives of image %s" % spec.name, lambda: _remove(host, spec.name, left))


def use_up(host, spec):
    """Remove a bundle that was brought."""
    folder, name = os.path.split(spec.path)
    if spec.source == "bundle" and folder == "%s/%s" % (_top(host), spec.name) and not host.check:
        _remove(host, spec.name, [name])


def is_empty(host):
    return not os.path.isdir(_top(host))


def clear(host):
    """Remove all of them."""
    for name in _list(_top(host)):
        _remove(host, name, _list("%s/%s" % (_top(host), name)))
    _drop(_top(host))


def _remove(host, image, names):
    folder = "%s/%s" % (_top(host), image)
    for name in names:
        try:
            os.unlink("%s/%s" % (folder, name))
        except FileNotFoundError:
            pass
    _drop(folder)
    _drop(_top(host))


def _drop(path):
    """Remove a directory, unless it has what is still a source."""
    try:
        os.rmdir(path)
    except OSError as exc:
        if exc.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
            raise
