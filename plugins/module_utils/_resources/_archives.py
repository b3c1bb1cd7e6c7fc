# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the role brought to the host for an image: archives, archives/IMAGE/NAME below our directory, and bundles, bundles/IMAGE.

An archive that is the source of its image stays, so that it is fetched once and a damaged layer can be made again. All others go, and a
bundle with the import for which it was brought, whether that comes to its end or is refused.
"""

from __future__ import annotations

import errno
import os


def _top(host):
    return host.lib + "/archives"


def _bundles(host):
    return host.lib + "/bundles"


def _list(path):
    try:
        return sorted(os.listdir(path))
    except (FileNotFoundError, NotADirectoryError):
        return []


def plan(host, spec, plan):
    """A step that removes what was brought for an image and is not its source, or no more."""
    if spec.name is None or spec.state == "present" and spec.source is None:
        return
    folder, bundle = "%s/%s" % (_top(host), spec.name), "%s/%s" % (_bundles(host), spec.name)
    left = [path for path in ["%s/%s" % (folder, name) for name in _list(folder)] if spec.state == "absent" or path != spec.path]
    if os.path.lexists(bundle) and not (bundle == spec.path and ("image", spec.name) in host.promised):
        left.append(bundle)
    empty = [path for path in (folder, _top(host), _bundles(host)) if os.path.isdir(path) and not _list(path)]  # as a killed run leaves it
    if left or empty:
        plan.add("remove archives of image %s" % spec.name, lambda: _remove(host, spec.name, left))


def use_up(host, spec):
    """Remove a bundle that was brought."""
    if spec.source == "bundle" and spec.path == "%s/%s" % (_bundles(host), spec.name) and not host.check:
        _remove(host, spec.name, [spec.path])


def is_empty(host):
    return not os.path.isdir(_top(host)) and not os.path.isdir(_bundles(host))


def clear(host):
    """Remove all of them."""
    for image in _list(_top(host)):
        folder = "%s/%s" % (_top(host), image)
        _remove(host, image, ["%s/%s" % (folder, name) for name in _list(folder)])
    for image in _list(_bundles(host)):
        _remove(host, image, ["%s/%s" % (_bundles(host), image)])
    _drop(_top(host))
    _drop(_bundles(host))


def _remove(host, image, paths):
    for path in paths:
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
    for path in ("%s/%s" % (_top(host), image), _top(host), _bundles(host)):
        _drop(path)


def _drop(path):
    """Remove a directory, unless it has what is still a source."""
    try:
        os.rmdir(path)
    except OSError as exc:
        if exc.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
            raise
