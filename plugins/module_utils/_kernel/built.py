# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the running kernel is built with, from its configuration and the lists of its modules: to refuse by name before anything is
touched what it can never do. Asking by doing would load modules.
"""

from __future__ import annotations

import os


def lacks(option, module=None, release=None, proc="/proc", sys="/sys", boot="/boot", lib="/lib/modules"):
    """Is the kernel known to have neither this option (`BRIDGE`, without CONFIG_) nor a module that could be loaded for it?

    False where nothing tells: then the doing does. ``module`` is None of options that are in no module of their own.
    """
    if module is not None and os.path.isdir("%s/module/%s" % (sys, module.replace("-", "_"))):  # in its file it has hyphens
        return False
    release = release or os.uname().release
    config = _config(release, proc, boot)
    if config is not None:
        value = config.get(option)
        if value != "m" or module is None:
            return value is None
    lists = [_text("%s/%s/modules.%s" % (lib, release, name)) for name in ("dep", "builtin")]
    if module is None or not any(lists):
        return config is not None and module is not None  # a module that is nowhere to be loaded from
    return not any("/%s.ko" % module in text for text in lists)


def _config(release, proc, boot):
    """{option: y or m} of the kernel's configuration; None where it is not to be had."""
    text = _text("%s/config-%s" % (boot, release))
    if not text:
        try:
            import gzip  # 3 ms, where there is no other way

            with gzip.open(proc + "/config.gz", "rt", encoding="ascii", errors="replace") as stream:
                text = stream.read()
        except (ImportError, OSError, EOFError):
            return None
    return dict(line[len("CONFIG_"):].split("=", 1) for line in text.splitlines() if line.startswith("CONFIG_") and "=" in line)


def _text(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""
