# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The running system as an image: what of its root is taken, and in which form.

Taken is what makes a system run, and of the rest an empty skeleton. Left out is what is the host's own: what not everyone on it may
read (but programs, where a system has them), whatever its name, and what is listed in PRIVATE. Names here are relative to the root, in bytes.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat

from .._kernel import manifest
from .._kernel.tarstream import FILE, ArchiveError
from ._names import LOCAL

WHOLE = (b"bin", b"etc", b"lib", b"lib32", b"lib64", b"libo32", b"libx32", b"opt", b"sbin", b"usr")
EMPTY = (b"boot", b"dev", b"home", b"media", b"mnt", b"proc", b"root", b"run", b"srv", b"sys", b"tmp", b"var")
# Of /var: directories, two deep here and as far as packages have them, and the databases of the package managers with what goes by them.
NESTS = (b"var/cache", b"var/db", b"var/lib", b"var/log", b"var/spool")
STATE = (b"var/cache/debconf", b"var/lib/alternatives", b"var/lib/apt/extended_states", b"var/lib/dnf", b"var/lib/dpkg", b"var/lib/emacsen-common",
         b"var/lib/pacman", b"var/lib/pam", b"var/lib/rpm", b"var/lib/sgml-base", b"var/lib/shells.state", b"var/lib/systemd/deb-systemd-helper-enabled",
         b"var/lib/ucf", b"var/lib/xml-core")
# What is the host's own though everyone may read it, or might by a slip: keys, passwords, what grants powers, networks, disks, and what
# would change by itself. A * is any characters, / too.
PRIVATE = (
    "etc/passwd-", "etc/group-", "etc/shadow-", "etc/gshadow-", "etc/subuid-", "etc/subgid-", "etc/.pwd.lock", "etc/security/opasswd",
    "etc/sudoers", "etc/sudoers.d/*", "etc/doas.conf", "etc/polkit-1/rules.d/*", "etc/ssh/ssh_host_*", "etc/ssl/private/*", "etc/pki/tls/private/*",
    "etc/letsencrypt", "etc/acme*", "etc/krb5kdc", "etc/*.keytab", "etc/ldap.secret", "etc/*-ldap.secret", "etc/nslcd.conf", "etc/sssd",
    "etc/wireguard", "etc/openvpn", "etc/ipsec.secrets", "etc/ipsec.d/private/*", "etc/swanctl", "etc/tinc", "etc/ppp/*-secrets", "etc/wpa_supplicant",
    "etc/iwd", "etc/NetworkManager/system-connections/*", "etc/netplan/*", "etc/network/interfaces", "etc/network/interfaces.d/*", "etc/systemd/network/*",
    "etc/fstab", "etc/crypttab", "etc/cryptsetup-keys.d", "etc/iscsi", "etc/nvme/host*", "etc/ceph/*", "etc/smbcredentials*", "etc/samba/*.tdb",
    "etc/davfs2/secrets", "etc/auto.*", "etc/apt/auth.conf", "etc/apt/auth.conf.d/*", "etc/docker/key.json", "etc/containers/auth.json", "etc/kubernetes",
    "etc/rancher", "etc/cloud", "etc/puppetlabs", "etc/salt/pki", "etc/chef", "etc/ansible", "etc/exim4/passwd.client", "etc/postfix/sasl*", "etc/msmtprc",
    "etc/ssmtp", "etc/dovecot/private", "etc/mysql/debian.cnf", "etc/munge", "etc/*rndc.key", "etc/chrony/chrony.keys", "etc/chrony.keys", "etc/ntp.keys",
    "etc/snmp", "etc/corosync/authkey", "etc/pacemaker/authkey", "etc/hostid", "etc/adjtime", "etc/systemd/system/*bulkhead*", "*/lost+found",
    "var/cache/debconf/passwords.dat", "var/cache/debconf/*-old", "var/lib/dpkg/*-old", "var/lib/dpkg/lock*", "var/lib/dpkg/updates/*",
)
_PRIVATE = re.compile("|".join(re.escape(each).replace(r"\*", ".*") for each in PRIVATE).encode(), re.DOTALL).fullmatch
_FIELDS = re.compile(rb"(?m)^([^:\n]+):[^:\n]*")


def _locked(data):
    """shadow(5) without passwords and what goes by them."""
    return b"".join(line.split(b":")[0] + b":*:::::::\n" for line in data.splitlines() if b":" in line)


# What is there in another form than on the host: a function of the host's file.
REPLACED = {
    b"etc/passwd": lambda data: _FIELDS.sub(rb"\1:x", data), b"etc/group": lambda data: _FIELDS.sub(rb"\1:x", data),
    b"etc/shadow": _locked, b"etc/gshadow": lambda data: _FIELDS.sub(rb"\1:*", data),
    b"etc/hostname": lambda data: b"localhost\n", b"etc/hosts": lambda data: LOCAL.encode(),
    b"etc/machine-id": lambda data: b"", b"etc/resolv.conf": lambda data: b"",
}
_ACCOUNTS = (b"etc/passwd", b"etc/group", b"etc/shadow", b"etc/gshadow")  # of these with mode and owner as they are


class Choice:
    """What ``manifest.walk`` and ``_sources.Tree`` are to make of a root. ``said``: {exclude, include}, of which the longest path decides."""

    def __init__(self, host, said, root="/"):
        self._root = root
        self._own = {os.fsencode(path.lstrip("/")) for path in (host.lib, host.etc, host.log, host.state, host.names, "/var/cache/bulkhead")}
        above = root.rstrip("/") + "/"
        self._mounted = {os.fsencode(mount.target[len(above):]) for mount in host.mounts().mounts if mount.target.startswith(above)}
        self._included = {os.fsencode(path[1:]) for path in said["include"]}
        self._said = sorted([(os.fsencode(path[1:]), key == "include") for key in said for path in said[key]], key=lambda pair: -len(pair[0]))
        self._told = None
        self._packaged = frozenset(_packaged(root))
        self._ways = {above for path in self._included for above in _above(path)}
        self._var = {above for path in STATE + tuple(self._packaged) for above in _above(path)}.union(STATE)
        for path in sorted(self._included):
            if not os.path.lexists(os.path.join(os.fsencode(root), path)):
                if not host.check:
                    raise ArchiveError("there is no /%s, which is to be included" % os.fsdecode(path), advice="Correct include, or make it first")
                host.warn("/%s does not exist yet; an earlier task is expected to make it." % os.fsdecode(path))

    def choose(self, path, found, other):
        """(is it taken, is what is in it looked at)"""
        if path in self._own:
            return False, False
        way, directory = path in self._ways, stat.S_ISDIR(found.st_mode)
        place, said = self._of(path) if self._said else (None, None)
        if said:
            taken = entered = path == place or not _PRIVATE(path)
        elif said is False:
            taken = entered = False
        else:
            taken, entered = self._usual(path, found, directory)
        if way:
            return directory, True
        # Of files an overlay, as the root of a live system is, shows the devices that its layers lie on: these say nothing.
        if (other and directory or path in self._mounted) and not (path in self._included or path in WHOLE or path in REPLACED or path in self._var):
            return taken and directory, False
        return taken, entered

    def _of(self, path):
        for place, said in self._said:
            if path == place or path.startswith(place + b"/"):
                return place, said
        return None, None

    def _usual(self, path, found, directory):
        if path in REPLACED:
            return True, False
        if _PRIVATE(path):
            return False, False
        top, below, dummy = path.partition(b"/")
        if top in WHOLE or path.startswith(STATE) and self._of_state(path):
            system = top not in (b"etc", b"opt", b"var") and not path.startswith(b"usr/local/")
            if directory:
                return True, system or found.st_mode & 0o005 == 0o005
            return stat.S_ISLNK(found.st_mode) or bool(found.st_mode & (0o115 if system else 0o004)), False
        if top == b"var" and below:
            shallow = path.count(b"/") == 1 or path.rpartition(b"/")[0] in NESTS
            return shallow and (directory or stat.S_ISLNK(found.st_mode)) or directory and path in self._packaged, path in NESTS or path in self._var
        return top in EMPTY and not below and (directory or stat.S_ISLNK(found.st_mode)), path == b"var"

    @staticmethod
    def _of_state(path):
        return any(path == place or path.startswith(place + b"/") for place in STATE)

    def shape(self, member, entry):
        """Change a Member to what the image has in its place; its content where that is another."""
        live = not member.name.startswith((b"usr", b"opt")) and member.name not in self._included
        if stat.S_ISDIR(entry.stat.st_mode) and live:
            member.mtime = 0  # it says when something of what is not taken came or went
        member.xattrs = {key: value for key, value in member.xattrs.items()
                         if key == b"security.capability" or key.startswith(b"user.") and not key.startswith(b"user.overlay.")}
        data = self._replaced(member.name, entry)
        if data is not None:
            if member.name not in _ACCOUNTS:
                member.mode, member.uid, member.gid = 0o644, 0, 0
            member.kind, member.link, member.mtime, member.size, member.xattrs = FILE, b"", 0, len(data), {}
        return data

    def _replaced(self, path, entry):
        """The content of what is another in the image; None for all else."""
        if path not in REPLACED or path in self._included:
            return None
        return REPLACED[path](b"".join(entry.chunks()) if stat.S_ISREG(entry.stat.st_mode) else b"")

    def key(self):
        """A digest of what the tree is, as it was when this was first asked."""
        self._told = self._told or self._key()
        return self._told

    def done(self):
        """All was read: is it still what it was?"""
        if self._key() != self.key():
            raise ArchiveError("it was changed while it was read", advice="Import it when nothing is being installed")

    def _key(self):
        """Without the content of files being read, but where it is another in the image."""
        told, fd = hashlib.sha256(), os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for entry in manifest.walk(fd, self.choose):
                found, path = entry.stat, entry.path
                told.update(b"%d %s" % (len(path), path))
                replaced = self._replaced(path, entry)
                if replaced is None or path in _ACCOUNTS:
                    told.update(b" %o %d %d" % (found.st_mode, found.st_uid, found.st_gid))
                if replaced is not None:
                    told.update(replaced)
                elif not stat.S_ISDIR(found.st_mode) or path.startswith((b"usr", b"opt")):
                    told.update(b" %d %d %d %d %d %d" % (
                        found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_nlink))
        except OSError as exc:
            raise ArchiveError(exc.strerror, exc.filename if isinstance(exc.filename, bytes) else None) from exc
        finally:
            os.close(fd)
        return "sha256:" + told.hexdigest()


def _above(path):
    """b"a", b"a/b" of b"a/b/c"."""
    return [path[:at] for at in range(len(path)) if path[at:at + 1] == b"/"]


def _packaged(root):
    """What packages of dpkg have below /var."""
    folder = os.path.join(root, "var/lib/dpkg/info")
    for name in os.listdir(folder) if os.path.isdir(folder) else ():
        if name.endswith(".list"):
            with open(os.path.join(folder, name), "rb") as stream:
                yield from re.findall(rb"(?m)^/(var/.+)$", stream.read())
