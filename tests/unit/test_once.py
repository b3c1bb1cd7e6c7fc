# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""_once.py: in a zip archive each of our files is compiled once in a call, and not at all in the next."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile

import pytest

UTILS = os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "..", "plugins", "module_utils")
PACKAGE = "ansible_collections/bulkhead/isolation/plugins/module_utils"
BODY = """
def fail():
    raise ValueError("here")  # the line that a traceback shows
"""
RUN = """
import builtins, sys, traceback
sys.path.insert(0, sys.argv[1])
import importlib
compiled, real = [], builtins.compile
def count(source, name, *rest, **words):
    if "_part" in name:
        compiled.append(name)
    return real(source, name, *rest, **words)
builtins.compile = count
once = importlib.import_module("{0}._once")
once.STORE = sys.argv[2]
part = importlib.import_module("{0}._part.body")
once.keep()
print(len(compiled))
try:
    part.fail()
except ValueError:
    traceback.print_exc(file=sys.stdout)
""".format(PACKAGE.replace("/", "."))


def archive(path, body=BODY):
    with zipfile.ZipFile(path, "w") as made:
        for count in range(1, 6):
            made.writestr("/".join(PACKAGE.split("/")[:count]) + "/__init__.py", "")
        made.write(UTILS + "/_once.py", PACKAGE + "/_once.py")
        made.writestr(PACKAGE + "/_part/__init__.py", "")
        made.writestr(PACKAGE + "/_part/body.py", body)
    return str(path)


def call(path, store):
    ended = subprocess.run([sys.executable, "-c", RUN, path, str(store)], capture_output=True, text=True, check=True)
    count, dummy, trace = ended.stdout.partition("\n")
    return int(count), trace


@pytest.mark.skipif(sys.version_info < (3, 10), reason="Python 3.9 imports by load_module(), which keeps nothing")
def test_compiled_once_and_kept(tmp_path):
    store = tmp_path / "code"
    first, trace = call(archive(tmp_path / "a.zip"), store)
    assert first == 2  # _part/__init__.py and _part/body.py, once each
    assert 'raise ValueError("here")  # the line that a traceback shows' in trace
    assert os.stat(store).st_mode & 0o777 == 0o700
    again, trace = call(archive(tmp_path / "b.zip"), store)
    assert again == 0
    assert 'raise ValueError("here")  # the line that a traceback shows' in trace


def test_changed_source_is_compiled(tmp_path):
    store = tmp_path / "code"
    call(archive(tmp_path / "a.zip"), store)
    dummy, trace = call(archive(tmp_path / "b.zip", BODY.replace("here", "there")), store)
    assert "ValueError: there" in trace


def test_without_our_places_nothing_is_kept(tmp_path):
    store = tmp_path / "absent" / "code"
    for name in ("a.zip", "b.zip"):
        dummy, trace = call(archive(tmp_path / name), store)
        assert "ValueError: here" in trace
    assert not store.parent.exists()
