# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Root directories for services under test: the host's /usr read-only in a tree of their own."""

from __future__ import annotations

import os
import sys
import time

import drive

from module_utils._supervisor import entry, scan

BINDS = [dict(source=path, target=path, read_only=True)
         for path in sorted({"/usr", os.path.realpath(sys.base_prefix)}, reverse=True) if path == "/usr" or not path.startswith("/usr")]


def make(path):
    """A directory with what a service needs, into which /usr is bound."""
    os.makedirs(path, exist_ok=True)
    os.chmod(path, 0o755)
    for name in ("usr", "etc", "tmp", "proc", "sys", "dev", "run", "var"):
        os.makedirs("%s/%s" % (path, name), exist_ok=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        if os.path.islink("/" + name):
            os.symlink("usr/" + name, "%s/%s" % (path, name))
    write(path, "etc/passwd", "root:x:0:0:root:/root:/bin/sh\nweb:x:1033:1034::/var:/bin/sh\nodd:x:-1:0::/:/bin/sh\n"
          "big:x:4294967295:0::/:/bin/sh\n")
    write(path, "etc/group", "root:x:0:\nweb:x:1034:\nmore:x:1035:web,root\nodd:x:1e3:\n")
    return str(path)


def write(path, name, text):
    with open("%s/%s" % (path, name), "w", encoding="utf-8") as stream:
        stream.write(text)


def text(path):
    with open(path, encoding="utf-8", errors="replace") as stream:
        return stream.read()


def until(condition, patience=20.0):
    """Wait for something that another process brings about; returns it."""
    end = time.monotonic() + patience
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)


def clear():
    """Take away every sandbox, service, set of namespaces and cgroup, and the supervisor itself."""
    host = drive.new_host()
    for name in host.records.names("sandboxes"):
        answer = drive.converge("sandbox", dict(sandboxes=[dict(name=name, state="absent")], kill=True))
        assert "error" not in answer, answer
    for name in drive.resource("service").names(host):
        answer = drive.converge("service", dict(name=name, state="absent", force=True))
        assert "error" not in answer, answer
    for name in drive.resource("namespace").names(host):
        drive.converge("namespace", dict(name=name, state="absent", kill=True, force=True))
    for name in host.claims.names("cgroup"):
        drive.converge("cgroup", dict(name=name, state="absent", kill=True))
    scan.shutdown(host)


def clear_images():
    """The same, with all images and layers, and the entry of services."""
    clear()
    entry.clear(drive.new_host())
    for found in drive.info("image")["images"]:
        drive.converge("image", dict(name=found["name"], state="absent"))
    drive.converge("image", dict(prune=True))
