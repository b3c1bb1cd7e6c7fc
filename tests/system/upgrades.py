# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Images of a small web server that says which version it is, a sandbox of them, and clients that ask it over and over."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
import tempfile

import jail
from archives import Layout, directory, entry, symlink, tar

TYPES = ["net", "uts", "ipc", "mnt", "pid"]
SERVER = ["/bin/busybox", "httpd", "-f", "-p", "80", "-h", "/srv"]
HEALTH = {"http": "http://127.0.0.1/", "interval": "200ms", "retries": 3}
CLIENT = """
import select, socket, sys
while not select.select([sys.stdin], [], [], 0.002)[0]:
    try:
        with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20) as one:
            one.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
            data = b"".join(iter(lambda: one.recv(4096), b""))
        head, dummy, body = data.partition(b"\\r\\n\\r\\n")
        print(body.decode() if b" 200 " in head else "error: %r" % data, flush=True)
    except OSError as exc:
        print("error: %s" % exc, flush=True)
"""


def layers(version, more=()):
    """The archives of an image: a program that is the same in all, and a page."""
    with open("/bin/busybox", "rb") as stream:
        busybox = stream.read()
    lowest = tar(directory(b"bin"), entry(b"bin/busybox", busybox, mode=0o755), symlink(b"bin/sh", b"busybox"), directory(b"srv"), directory(b"proc"),
                 directory(b"sys"), directory(b"dev"), directory(b"etc"), directory(b"var"))
    return [lowest, tar(entry(b"srv/index.html", version.encode()), *more)]


def image(converge, place, version, name="web", config=None, more=()):
    """Have an image of a version under a name."""
    shutil.rmtree(place + "/layout", ignore_errors=True)
    path = Layout(place + "/layout", *layers(version, more), config=dict({"Cmd": SERVER}, **(config or {}))).done()
    converge("image", name=name, oci=path)


def sandbox(name="web", policy=None, **more):
    """The options of a task that declares it, published on port 8080 where it is on a network."""
    one = {"name": name, "image": "web", "namespaces": {"types": TYPES, "hostname": name}, "upgrade": {"upper": "keep"},
           "services": [{"name": "httpd", "health": HEALTH}]}
    one.update(more)
    return dict({"sandboxes": [{key: value for key, value in one.items() if value is not None}]}, **(policy or {}))


class Client:
    """Asks an address until it is told to end; from a net namespace, or from the host."""

    def __init__(self, address, port, place=None):
        enter = ["nsenter", "--net=/run/netns/" + place, "--"] if place else []
        self.answers = tempfile.NamedTemporaryFile("r", encoding="utf-8")
        with open(self.answers.name, "wb") as out:
            self.process = subprocess.Popen([*enter, sys.executable, "-c", CLIENT, address, str(port)], stdin=subprocess.PIPE, stdout=out)
        self.told = []

    def hears(self, version):
        """Wait until it is answered by a version."""
        def last():
            self.told += self.answers.read().split("\n")[:-1]
            return self.told and self.told[-1] == version
        jail.until(last)

    def end(self):
        """What it was told, in order, each once for as long as it was so."""
        self.process.communicate(b"end\n", timeout=60)
        self.told += self.answers.read().split("\n")[:-1]
        self.answers.close()
        return [answer for answer, group in itertools.groupby(self.told)]
