# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is declared of the sources of an image that are more than a path: the running host, and a bootstrap of a distribution."""

from __future__ import annotations

import re

from . import values

HOST = ("exclude", "include")
BOOTSTRAP = ("suite", "variant", "include", "components", "mirror", "architecture", "keyring", "tool", "serial")
VARIANTS = ("minbase", "apt", "essential", "required", "important", "standard", "buildd", "debootstrap", "custom", "extract")
TOOLS = ("mmdebstrap",)
# What the kernel and running services show there is no part of an image.
NEVER = ("/proc", "/sys", "/dev", "/run")

_WORDS = {
    "suite": (re.compile(r"[A-Za-z0-9][A-Za-z0-9./+-]*"), "a suite such as trixie"),
    "include": (re.compile(r"[A-Za-z0-9][A-Za-z0-9.+:=~/-]*"), "the name of a package"),
    "components": (re.compile(r"[A-Za-z0-9][A-Za-z0-9./+-]*"), "a component such as main"),
    "architecture": (re.compile(r"[a-z0-9][a-z0-9-]*"), "an architecture such as amd64"),
    # Anything else would be the name of a file of the host, or an option.
    "mirror": (re.compile(r"[a-z][a-z0-9+.-]*://[!-~]+|deb(-src)? [ -~]+"), "a URL or a line of a sources.list"),
}


def host(value, path, problems):
    """{exclude, include}, lists of plain absolute paths; true is neither."""
    if value is True or isinstance(value, str) and value.lower() in ("yes", "on", "true"):
        return {key: [] for key in HOST}
    if not isinstance(value, dict):
        problems.add(path, "%s is neither true nor a dictionary with %s" % (values.quoted(value), " and ".join(HOST)))
        return None
    found = {key: [] for key in HOST}
    for key, given in values.mapping(value, path, problems, HOST).items():
        if given is None or key not in HOST:
            continue
        for index, item in enumerate(values.items(given, "%s.%s" % (path, key), problems)):
            where = "%s.%s[%d]" % (path, key, index)
            place = values.absolute(item, where, problems)
            if place is None:
                continue
            if place == "/":
                problems.add(where, "this is all of the host. Name what is in it")
            elif key == "include" and (place + "/").startswith(tuple(each + "/" for each in NEVER)):
                problems.add(where, "what %s shows is no part of an image" % "/".join(place.split("/")[:2]))
            else:
                found[key].append(place)
    for place in found["include"]:
        if place in found["exclude"]:
            problems.add(path + ".include", "%s is excluded, too" % place)
    return {key: sorted(set(places)) for key, places in found.items()}


def bootstrap(value, path, problems):
    """All of BOOTSTRAP, with what was not said as its default, or None."""
    options = values.mapping(value, path, problems, BOOTSTRAP)
    found = {"variant": "minbase", "tool": TOOLS[0], "include": [], "components": [], "mirror": []}
    for key in BOOTSTRAP:
        given, where = options.get(key), "%s.%s" % (path, key)
        if given is None:
            found.setdefault(key, None)
        elif key in ("variant", "tool"):
            found[key] = values.choice(given, where, problems, VARIANTS if key == "variant" else TOOLS)
        elif key == "keyring":
            found[key] = values.absolute(given, where, problems)
        elif key == "serial":
            found[key] = values.text(given, where, problems, 100)
        elif key in ("include", "components", "mirror"):
            listed = [given] if key == "mirror" and isinstance(given, str) else values.items(given, where, problems)
            found[key] = [_word(item, "%s[%d]" % (where, index), problems, key) for index, item in enumerate(listed)]
        else:
            found[key] = _word(given, where, problems, key)
    if options.get("suite") is None:
        problems.add(path + ".suite", "this is required")
    found["include"] = sorted({word for word in found["include"] if word})
    return found


def _word(value, path, problems, key):
    form, what = _WORDS[key]
    if isinstance(value, str) and len(value) <= 500 and form.fullmatch(value):
        return value
    problems.add(path, "%s is not %s" % (values.quoted(value), what))
    return None
