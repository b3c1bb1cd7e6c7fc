# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What makes a module call cheaper: our files are compiled once, not twice in every call, and garbage is left to the end.
Imported before the files that it is to speed up.

Ansible runs a module from a zip archive. Python's zipimport asks its loader for a file's name before it runs the file, and
finds the name out by compiling the file, which it then compiles again. Ours knows the name; and it keeps the code on the host
for the next call, as Python does in __pycache__ for files of a directory. From a directory this file does nothing.

A call lives for less than a second, and what it leaves in reference cycles goes with its process. To look for that takes a
tenth of the call, most of it at the end, when Python looks at all that it ever loaded: so nothing is looked at.
"""

from __future__ import annotations

import atexit
import gc
import importlib.util
import marshal
import os
import sys
import zipimport

STORE = "/run/bulkhead/code"  # root's alone, and gone at a reboot
_compiled = {}  # path in STORE: code


class Importer(zipimport.zipimporter):
    """The importer of the packages beside this file. Python 3.9 runs a file without asking for get_code()."""

    def get_filename(self, fullname):
        end = "/__init__.py" if self.is_package(fullname) else ".py"
        return "%s/%s%s%s" % (self.archive, self.prefix, fullname.rpartition(".")[2], end)

    def get_code(self, fullname):
        file = self.get_filename(fullname)
        source = self.get_data(file)
        name = file[len(self.archive) + 1:]  # the archive has another name in the next call; tracebacks ask get_source()
        path = "%s/%s" % (STORE, importlib.util.source_hash(name.encode() + source).hex())  # of this version of Python, too
        try:
            with open(path, "rb") as stream:
                return marshal.loads(stream.read())
        except OSError:
            _compiled[path] = code = compile(source, name, "exec", dont_inherit=True)
            return code


def keep():
    """Keep what this call compiled, where the host has our places; a host without them has no objects of ours to speak of."""
    try:
        if _compiled and not os.path.isdir(STORE):
            os.mkdir(STORE, 0o700)
        for path, code in _compiled.items():
            partial = "%s.%d" % (path, os.getpid())
            with open(partial, "wb") as stream:
                stream.write(marshal.dumps(code))
            os.rename(partial, path)
    except OSError:
        pass


def _hook(path):
    if not (path + "/").startswith(_HERE + "/"):
        raise ImportError(path)
    return Importer(path)


if isinstance(__spec__.loader, zipimport.zipimporter):
    _HERE = __file__.rpartition("/")[0]
    sys.path_hooks.insert(0, _hook)
    sys.path_importer_cache.pop(_HERE, None)
    gc.disable()
    gc.freeze()
    atexit.register(gc.freeze)
