# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How the project says no: one sentence of the form `Cannot <verb> <object>: <reason>. <what to do>`."""

from __future__ import annotations


class BulkheadError(Exception):
    """A refusal or a failure in one line; ``keys`` are structured results that go out with it."""

    def __init__(self, message, **keys):
        super().__init__(message)
        self.message = message
        self.keys = keys


class Problems:
    """Collects every input error of a run, each with its path, before anything is touched."""

    def __init__(self):
        self.errors = []

    def add(self, path, text):
        self.errors.append("%s: %s" % (path, _one_line(text)))

    def raise_if_any(self):
        if len(self.errors) == 1:
            raise BulkheadError("Cannot use the options: %s" % self.errors[0], errors=self.errors)
        if self.errors:
            raise BulkheadError("Cannot use the options: %d errors: %s" % (len(self.errors), "; ".join(self.errors)), errors=self.errors)


def reason(exc):
    """The words of an exception: the kernel's for an OSError, with its object, else the exception's own."""
    if isinstance(exc, BulkheadError):
        return exc.message
    if isinstance(exc, OSError) and exc.strerror:
        return exc.strerror if exc.filename is None else "%s (%s)" % (exc.strerror, _one_line(exc.filename))
    return _one_line(str(exc) or type(exc).__name__)


def _one_line(value):
    text = value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
