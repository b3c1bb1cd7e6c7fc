# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is declared of the sources of an image that are more than a path: the running host, and a bootstrap of a distribution."""

from __future__ import annotations

import re

from . import values

HOST = ("exclude", "include")
# What each tool takes of a bootstrap; ``tool`` and ``serial`` go with all of them.
_SUITE = ("suite", "variant", "include", "components", "mirror", "architecture", "keyring")
BOOTSTRAP = {
    "mmdebstrap": _SUITE,
    "debootstrap": _SUITE + ("unsigned",),
    "dnf": ("release", "packages", "repositories", "architecture", "keyring", "unsigned"),
    "zypper": ("release", "packages", "repositories", "keyring", "unsigned"),
    "apk": ("packages", "repositories", "architecture", "keyring", "unsigned"),
}
_ALWAYS = ("tool", "serial")
_REQUIRED = {"mmdebstrap": ("suite",), "debootstrap": ("suite",), "dnf": ("release", "packages"), "zypper": ("packages",), "apk": ("packages",)}
_LISTS = ("include", "components", "mirror", "packages", "repositories")
VARIANTS = {
    "mmdebstrap": ("minbase", "apt", "essential", "required", "important", "standard", "buildd", "debootstrap", "custom", "extract"),
    "debootstrap": ("minbase", "buildd", "important"),
}
# What the kernel and running services show there is no part of an image.
NEVER = ("/proc", "/sys", "/dev", "/run")

_URL = r"[a-z][a-z0-9+.-]*://[!-~]+"
_WORDS = {
    "suite": (r"[A-Za-z0-9][A-Za-z0-9./+-]*", "a suite such as trixie"),
    "include": (r"[A-Za-z0-9][A-Za-z0-9.+:=~/-]*", "the name of a package"),
    "components": (r"[A-Za-z0-9][A-Za-z0-9./+-]*", "a component such as main"),
    "architecture": (r"[a-z0-9][a-z0-9_-]*", "an architecture such as amd64 or x86_64"),
    # Anything else would be the name of a file of the host, or an option.
    "mirror": (_URL + r"|deb(-src)? [ -~]+", "a URL or a line of a sources.list"),
    "release": (r"[A-Za-z0-9][A-Za-z0-9._-]*", "a release such as 41"),
    # A file would be installed without a look at its signature.
    "packages": (r"@?[A-Za-z0-9][A-Za-z0-9._+:=<>~^@-]*(?<!\.rpm)(?<!\.apk)", "the name of a package"),
    "repositories": (_URL, "a URL"),
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
    """What the tool takes, with what was not said as its default."""
    options = values.mapping(value, path, problems, tuple(dict.fromkeys(_ALWAYS + sum(BOOTSTRAP.values(), ()))))
    tool = _tool(options, path, problems)
    found = {"tool": tool, "serial": None}
    if options.get("serial") is not None:
        found["serial"] = values.text(options["serial"], path + ".serial", problems, 100)
    for key in BOOTSTRAP[tool]:
        given = options.get(key)
        found[key] = _DEFAULTS.get(key) if given is None else _option(key, given, "%s.%s" % (path, key), problems, tool)
        if key in _LISTS:
            found[key] = found[key] or []
        if key in _REQUIRED[tool] and given in (None, []):
            problems.add("%s.%s" % (path, key), "this is required")
    for key in ("include", "packages"):
        if key in found:
            found[key] = sorted({word for word in found[key] if word})
    if found.get("unsigned") and not (found.get("repositories") or found.get("mirror")):
        problems.add(path + ".unsigned", "this goes with what is taken from elsewhere than where the host itself does")
    elif found.get("unsigned") and found["keyring"]:
        problems.add(path + ".unsigned", "a keyring is named, too")
    elif found.get("keyring") and found.get("repositories") == []:
        problems.add(path + ".keyring", "this goes with repositories")
    for key in options:
        if options[key] is not None and key not in found and any(key in known for known in BOOTSTRAP.values()):
            problems.add("%s.%s" % (path, key), "this does not go with %s" % tool)
    return found


_DEFAULTS = {"variant": "minbase", "unsigned": False}


def _tool(options, path, problems):
    """The one that is named, or the one that what is declared is for."""
    if options.get("tool") is not None:
        return values.choice(options["tool"], path + ".tool", problems, tuple(BOOTSTRAP)) or "mmdebstrap"
    if options.get("suite") is None and options.get("release") is not None:
        return "dnf"
    if options.get("suite") is None and (options.get("packages") or options.get("repositories")):
        problems.add(path + ".tool", "this is required where neither a suite nor a release is named. Name dnf, zypper or apk")
        return "apk"
    return "mmdebstrap"


def _option(key, given, where, problems, tool):
    if key == "variant":
        return values.choice(given, where, problems, VARIANTS[tool])
    if key == "keyring":
        return values.absolute(given, where, problems)
    if key == "unsigned":
        return values.boolean(given, where, problems)
    if key not in _LISTS:
        return _word(given, where, problems, key)
    listed = [given] if key == "mirror" and isinstance(given, str) else values.items(given, where, problems)
    if key == "mirror" and tool == "debootstrap":
        key = "repositories"
        if len(listed) > 1:
            problems.add(where, "%s takes one" % tool)
    return [_word(item, "%s[%d]" % (where, index), problems, key) for index, item in enumerate(listed)]


def _word(value, path, problems, key):
    form, what = _WORDS[key]
    if key == "release" and isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if isinstance(value, str) and len(value) <= 500 and re.fullmatch(form, value):
        return value
    problems.add(path, "%s is not %s" % (values.quoted(value), what))
    return None


def bootstrap_words(found):
    """What a bootstrap is called."""
    kind = found.get("suite") or found.get("release")
    return "a bootstrap%s%s" % (" of " + kind if kind else "", " by " + found["tool"] if found["tool"] != "mmdebstrap" else "")
