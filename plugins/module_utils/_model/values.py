# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The words of the options: names, paths, sizes, times. Each parser returns the normal form or adds a problem and returns None."""

from __future__ import annotations

NAME_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-")
MAX = "max"  # the kernel's own word for "no limit"
_SIZES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40, "P": 1 << 50}
_TIMES = {"us": 1, "ms": 1000, "s": 1000000, "m": 60000000, "h": 3600000000}  # in microseconds
_LIMIT = (1 << 63) - 1


def quoted(value):
    """A value as it is shown in an error: short, one line."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def is_name(value):
    """`[A-Za-z0-9][A-Za-z0-9_.-]{0,63}`, which excludes `.`, `..`, slashes and anything a shell or the kernel could misread."""
    return isinstance(value, str) and 1 <= len(value) <= 64 and value[0].isalnum() and NAME_CHARACTERS.issuperset(value)


def name(value, path, problems):
    """The name of an object."""
    if is_name(value):
        return value
    problems.add(path, "%s is not a name. Use 1 to 64 of the characters A-Z a-z 0-9 _ . - with a letter or digit first" % quoted(value))
    return None


def cgroup_path(value, path, problems):
    """Names joined by slashes, relative to the cgroup root."""
    if isinstance(value, str) and 0 < len(value) <= 1024 and all(is_name(part) for part in value.split("/")):
        return value
    problems.add(path, "%s is not a cgroup path. Use names joined by /, such as bulkhead/web" % quoted(value))
    return None


def absolute(value, path, problems):
    """An absolute path without empty, `.` or `..` parts and without control characters."""
    if isinstance(value, str) and value[:1] == "/" and len(value) < 256 and value.isascii() and value.isprintable() and not (
            "//" in value or "/." in value or value[-1] == "/"):
        return value  # as nearly all are
    if not isinstance(value, str) or not value.startswith("/"):
        problems.add(path, "%s is not an absolute path" % quoted(value))
    elif not value.isprintable():  # surrogates are not, so that what follows can be encoded
        problems.add(path, "%s has a control character" % quoted(value))
    elif len(value.encode()) > 4095:
        problems.add(path, "the path is longer than 4095 bytes")
    elif any(part in (".", "..") for part in value.split("/")):
        problems.add(path, "%s has a part . or .. in it. Give the plain path" % quoted(value))
    elif any(len(part.encode()) > 255 for part in value.split("/")):
        problems.add(path, "the path has a part of more than 255 bytes")
    else:
        return "/" + "/".join(part for part in value.split("/") if part)
    return None


def integer(value, path, problems, low=0, high=_LIMIT):
    """A whole number within bounds, also as text (templates give text); true and false are none."""
    number = None
    if isinstance(value, int) and not isinstance(value, bool):
        number = value
    elif isinstance(value, str) and _digits(value.strip()):
        number = int(value.strip())
    if number is None:
        problems.add(path, "%s is not a whole number" % quoted(value))
    elif not low <= number <= high:
        problems.add(path, "%d is not within %d and %d" % (number, low, high) if abs(number) <= _LIMIT else "the number is too large")
    else:
        return number
    return None


def size(value, path, problems, allow_max=False):
    """Bytes: `512`, `64K`, `256M`, `4G` (powers of 1024); `max` where that is a value."""
    if allow_max and value == MAX:
        return MAX
    number = _scaled(value, _SIZES, upper=True)
    if number is None:
        problems.add(path, "%s is not a size. Use a number with K, M, G or T%s" % (quoted(value), ", or max" if allow_max else ""))
    return number


def time_us(value, path, problems, low=0, high=_LIMIT):
    """Microseconds: `50us`, `100ms`, `10s`, `5m`, `1h`; a bare number is seconds."""
    number = _scaled("%ds" % value if isinstance(value, int) and not isinstance(value, bool) else
                     value.strip() + "s" if isinstance(value, str) and _digits(value.strip()) else value, _TIMES)
    if number is None:
        problems.add(path, "%s is not a time. Use a number with us, ms, s, m or h" % quoted(value))
    elif not low <= number <= high:
        problems.add(path, "%s is out of range: use %s to %s" % (quoted(value), show_time(low), show_time(high)))
    else:
        return number
    return None


def show_time(microseconds):
    """The shortest text of a time."""
    for unit, scale in (("s", 1000000), ("ms", 1000)):
        if microseconds % scale == 0:
            return "%d%s" % (microseconds // scale, unit)
    return "%dus" % microseconds


def choice(value, path, problems, choices):
    """One of a list of words."""
    if value in choices and isinstance(value, str):
        return value
    problems.add(path, "%s is not one of %s" % (quoted(value), ", ".join(choices)))
    return None


def boolean(value, path, problems):
    """A truth value, also in YAML's and Ansible's words."""
    if isinstance(value, bool):
        return value
    word = str(value).lower() if isinstance(value, (str, int)) else ""
    if word in ("yes", "on", "true", "1"):
        return True
    if word in ("no", "off", "false", "0"):
        return False
    problems.add(path, "%s is not true or false" % quoted(value))
    return None


def mode(value, path, problems, high=0o7777):
    """File permission bits as octal text (`0755`, `755`); a number is taken as YAML read it, so only text is free of doubt."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= high:
        return value
    if isinstance(value, str) and value and len(value) <= 5 and all(char in "01234567" for char in value) and int(value, 8) <= high:
        return int(value, 8)
    problems.add(path, "%s is not an octal mode such as '0755'" % quoted(value))
    return None


def text(value, path, problems, maximum=131072):
    """Text that can go through execve(2) and a file: no NUL."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        problems.add(path, "%s is not text" % quoted(value))
    elif "\0" in value:
        problems.add(path, "%s has a NUL character" % quoted(value))
    elif len(value) > maximum:
        problems.add(path, "the text is longer than %d characters" % maximum)
    else:
        return value
    return None


def items(value, path, problems):
    """A list, or nothing."""
    if value is None:
        return []
    if isinstance(value, (list, tuple)):
        return list(value)
    problems.add(path, "%s is not a list" % quoted(value))
    return []


def mapping(value, path, problems, known=None):
    """A dict whose keys are ``known`` words; every unknown key is a problem of its own."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        problems.add(path, "%s is not a dictionary" % quoted(value))
        return {}
    if known is not None:
        for key in value:
            if key not in known:
                problems.add("%s.%s" % (path, key) if isinstance(key, str) and key.isprintable() else path,
                             "there is no such option%s" % _like(key, known))
    return value


def merge(defaults, options):
    """``options`` over ``defaults``: dictionaries by key, everything else as a whole."""
    if not isinstance(defaults, dict) or not isinstance(options, dict):
        return options
    merged = dict(defaults)
    for key, value in options.items():
        merged[key] = merge(defaults.get(key), value) if isinstance(defaults.get(key), dict) else value
    return merged


def _like(key, known):
    close = [word for word in known if isinstance(key, str) and (word.startswith(key[:4]) or key.startswith(word[:4]))]
    return ". Did you mean %s?" % " or ".join(sorted(close)[:3]) if close else ""


def _digits(word):
    return word.isascii() and word.isdigit() and len(word) <= 20


def _scaled(value, scales, upper=False):
    if isinstance(value, int) and not isinstance(value, bool):
        return value if "" in scales and 0 <= value <= _LIMIT else None
    if not isinstance(value, str):
        return None
    word = value.strip()
    head = word.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    unit = word[len(head):]
    if upper:
        unit = unit.upper()
        for suffix in ("IB", "B"):
            if unit.endswith(suffix) and len(unit) > len(suffix):
                unit = unit[:-len(suffix)]
                break
    head = head.strip()
    whole, point, part = head.partition(".")
    if unit not in scales or not _digits(whole) or (point and not _digits(part)):
        return None
    number = int(whole) * scales[unit]
    if part:
        number += int(part) * scales[unit] // 10 ** len(part)
    return number if number <= _LIMIT else None
