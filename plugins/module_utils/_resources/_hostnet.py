# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The host's own network, read once in a run: links, addresses, routes, and the sysctls of its devices."""

from __future__ import annotations

import errno

from .._kernel import netlink, nsfs

MARK = "bulkhead "  # what the ifalias of everything of ours on the host begins with


def links(host):
    """{name: link}, as `netlink.py: Net.links` shows them."""
    return _found(host)[0]


def addresses(host):
    """The addresses of all links."""
    return _found(host)[1]


def routes(host):
    """The routes of all tables but `local`."""
    return _found(host)[2]


def _found(host):
    return host.cached("host's network", lambda: _read(host))


def _read(host):
    with netlink.open(proc=host.proc) as net:
        return {link["name"]: link for link in net.links()}, list(net.addresses()), list(net.routes())


def read(host, what, *arguments):
    """What else there is to be asked: fdb, neighbours, ..."""
    with netlink.open(proc=host.proc) as net:
        return list(getattr(net, what)(*arguments))


def need(host):
    """Refuse before anything is touched where nothing could be sent. In check mode an earlier task may be to install what it needs."""
    try:
        netlink.need()
    except OSError as exc:
        if exc.errno != errno.ENOPKG or not host.check:
            raise
        host.warn("Cannot change the host's network: %s. An earlier task is expected to do so." % exc.strerror)


def send(host, messages):
    """Change something."""
    try:
        with netlink.open(proc=host.proc) as net:
            net.send(messages)
    finally:
        forget(host)


def forget(host):
    """Steps have changed it."""
    host.drop("host's network")


def member(link):
    """`NAMESPACE/INTERFACE` of a link that is the host's end of an interface of ours, else None."""
    alias = link["alias"] or ""
    name = alias[len(MARK):]
    return name if alias.startswith(MARK) and "/" in name and " " not in name else None


def sysctl(host, key):
    """The value of net/..., None where there is no such thing: a device that is gone, a kernel without IPv6."""
    try:
        return nsfs.read_sysctl(key, host.proc)
    except FileNotFoundError:
        return None


def set_sysctl(host, key, value):
    """Write one; of a device that has gone meanwhile there is nothing to write."""
    try:
        nsfs.write_sysctl(key, value, host.proc)
    except FileNotFoundError:
        pass
