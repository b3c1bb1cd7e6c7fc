# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Keys and peers of a wireguard, by wg(8). Keys are read from files of the host, and go nowhere but to wg."""

from __future__ import annotations

import errno

from .._kernel import nsfs
from .._model.errors import BulkheadError, reason
from ._link_changes import Change


class _Config:
    """What wg(8) shows or is to set; ``peers`` {public key: {preshared, endpoint, allowed: set, keepalive}}."""

    def __init__(self, private=None, port=None, peers=None):
        self.private, self.port, self.peers = private, port, peers or {}

    def text(self):
        lines = ["[Interface]"] + _lines(PrivateKey=self.private, ListenPort=self.port)
        for public, peer in self.peers.items():
            lines += ["[Peer]"] + _lines(PublicKey=public, PresharedKey=peer["preshared"], Endpoint=peer["endpoint"],
                                         AllowedIPs=", ".join(sorted(peer["allowed"])) or None, PersistentKeepalive=peer["keepalive"])
        return "\n".join(lines) + "\n"


def changes(host, spec, now):
    """The one Change, or none. What is not declared stays as it is."""
    before, after = _Config(), _declared(spec)
    if now.link is not None:
        with nsfs.visit({"net": now.space.path}, host.proc):
            before = _shown(host, spec)
    elif host.run(["wg", "--version"])[0] != 0:
        raise _error(spec, "the command wg is not there", "Install the package wireguard-tools")
    different = []
    if after.private != before.private:
        different.append("private_key_file")
    if after.port is None:
        after.port = before.port
    elif after.port != before.port:
        different.append("listen_port")
    if spec.peers is None:
        after.peers = before.peers
    else:
        former = {peer["public_key"]: peer["endpoint"] for peer in (spec.former and spec.former.peers) or ()}
        for public, peer in after.peers.items():
            old = before.peers.get(public)
            # A peer that roams is not called back: its endpoint counts where it is new, or has been declared anew.
            if old is not None and old["endpoint"] and (peer["endpoint"] is None or former.get(public) == peer["endpoint"]):
                peer["endpoint"] = old["endpoint"]
        if after.peers != before.peers:
            different.append("peers")
    if not different:
        return []
    back = before.text()
    return [Change("set %s of %s" % (", ".join(different), spec.key), "wireguard", _public(before) if now.link is not None else None, _public(after),
                   call=lambda unused: _set(host, spec, after.text()), uncall=lambda unused: _set(host, spec, back), last=True)]


def _declared(spec):
    peers = {peer["public_key"]: {"preshared": _key(spec, peer["preshared_key_file"]), "endpoint": peer["endpoint"],
                                  "allowed": set(peer["allowed_ips"] or ()), "keepalive": peer["keepalive"] or 0} for peer in spec.peers or ()}
    return _Config(_key(spec, spec.private_key_file), spec.listen_port, peers)


def _key(spec, path):
    if path is None:
        return None
    try:
        with open(path, encoding="ascii", errors="replace") as stream:
            text = stream.read(1000).strip()
    except OSError as exc:
        raise _error(spec, "its key cannot be read: %s" % reason(exc), "Make one with wg genkey") from exc
    if len(text) != 44 or not text.endswith("="):
        raise _error(spec, "there is no key of wireguard in %s" % path, "Make one with wg genkey")
    return text


def _shown(host, spec):
    """From `wg show NAME dump`, in the namespace that the caller is in."""
    status, output, errors = host.run(["wg", "show", spec.name, "dump"])
    if status:
        raise _error(spec, "wg shows nothing of it: %s" % (errors or output).strip(), "Install the package wireguard-tools")
    lines = [line.split("\t") for line in output.splitlines()]

    def known(word):
        return None if word in ("(none)", "off", "") else word

    peers = {public: {"preshared": known(preshared), "endpoint": known(endpoint), "allowed": set(filter(known, allowed.split(","))),
                      "keepalive": int(known(keepalive) or 0)}
             for public, preshared, endpoint, allowed, handshake, received, sent, keepalive in lines[1:]}
    return _Config(known(lines[0][0]), int(lines[0][2]), peers)


def _set(host, spec, text):
    """syncconf leaves the sessions of peers alone that do not change."""
    status, output, errors = host.run(["wg", "syncconf", spec.name, "/dev/stdin"], text)
    if status:
        raise OSError(errno.EIO, (errors or output).strip().partition("\n")[0] or "wg has failed")


def _public(config):
    """What may be shown of it."""
    return {"listen_port": config.port, "peers": {public: {"endpoint": peer["endpoint"], "allowed_ips": sorted(peer["allowed"]),
                                                           "keepalive": peer["keepalive"]} for public, peer in config.peers.items()}}


def _lines(**values):
    return ["%s = %s" % (key, value) for key, value in values.items() if value is not None]


def _error(spec, what, advice):
    return BulkheadError("Cannot set up interface %s: %s. %s." % (spec.key, what.rstrip("."), advice))
