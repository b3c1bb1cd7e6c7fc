# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The program `bulkhead` as one file: a zip archive of the very sources that are running, with a first line that names Python.

The sources are asked of their importers, so that it makes no difference whether they run from a checkout, from the archive that
Ansible sends, or from the program itself. Equal sources give equal bytes: sorted, undated, not compressed (zlib's output varies).
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import pkgutil
import zipfile

PACKAGE = "bulkhead"
MARK = b"bulkhead/_program/main.py"  # the name of an entry, which stands in every version of the file
MAIN = """import sys

from bulkhead import _once  # first: it makes the imports after it cheaper
from bulkhead._program.main import main

status = main(sys.argv[1:])
_once.keep()
sys.exit(status)
"""


def build(interpreter):
    """The bytes of the program for this Python; -IS: isolated, and without site, which takes longer than most verbs."""
    content = io.BytesIO()
    content.write(("#!%s -IS\n" % interpreter).encode())
    with zipfile.ZipFile(content, "a") as archive:
        for name, text in sorted(files().items()):
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.create_system, entry.external_attr = 3, 0o100644 << 16
            archive.writestr(entry, text.encode())
    return content.getvalue()


def files():
    """{name in the archive: text}. The packages are the engine; of the files beside them, only _once knows nothing of Ansible."""
    top = __name__.rsplit("._program.", 1)[0]
    found = {"__main__.py": MAIN, PACKAGE + "/__init__.py": ""}
    for part in pkgutil.iter_modules(importlib.import_module(top).__path__):
        if part.name == "_once":
            found[PACKAGE + "/_once.py"] = _source("%s._once" % top)
        elif part.ispkg:
            package = "%s.%s" % (top, part.name)
            found["%s/%s/__init__.py" % (PACKAGE, part.name)] = _source(package)
            for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
                found["%s/%s/%s.py" % (PACKAGE, part.name, module.name)] = _source("%s.%s" % (package, module.name))
    return found


def _source(name):
    """The text of a module, whatever it is imported from."""
    return importlib.util.find_spec(name).loader.get_source(name) or ""
