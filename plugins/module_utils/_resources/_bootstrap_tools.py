# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What makes root file systems of distributions, each tool behind one description: what it needs, what it is run with, what it leaves.

All of them verify signatures, if the declaration does not say otherwise, and none of them asks.
"""

from __future__ import annotations

import os
import re

from .._kernel.tarstream import ArchiveError

# With the scripts of packages in mind, which want these: what mmdebstrap and debootstrap do themselves. And a home with what is to be read there.
_FURNISHED = ["sh", "-ec", """
root=$1/root home=$1/tmp/home
shift
[ ! -d "$home" ] || mount --bind "$home" /root
mount -t tmpfs -o mode=0755 none "$root/dev"
for each in null zero full random urandom tty; do
    : >"$root/dev/$each"
    mount --bind "/dev/$each" "$root/dev/$each"
done
ln -s /proc/self/fd "$root/dev/fd"
mount -t proc none "$root/proc"
HOME=/root exec "$@"
""", "sh"]
_DEB = re.compile(b"var/lib/dpkg/(lock.*|.*-old)|var/cache/debconf/.*-old|var/lib/apt/lists/.*|"
                  b"var/cache/apt/(archives/(lock|partial/.*|.*\\.deb)|(src)?pkgcache\\.bin)")
# The database itself is whole without its -shm. Both tools note when they did what; dnf with it, and zypper beside, what was asked for by name.
_RPM = re.compile(b"usr/lib/sysimage/(rpm/(\\.rpm\\.lock|rpmdb\\.sqlite-shm)|libdnf5/transaction_history\\..*)|var/cache/(dnf|libdnf5|yum|zypp)/.*|"
                  b"var/lib/dnf/.*|var/lib/zypp/AutoInstalled|var/log/(dnf|hawkey|zypp).*|var/lib/bulkhead(/.*)?")
_APK = re.compile(b"var/cache/apk/.*|(usr/)?lib/apk/db/lock")
_RPM_DATABASE = "usr/lib/sysimage/rpm"  # where today's distributions have it; those of yesterday find it by a link
_APK_KEYS = "/etc/apk/keys"
_DNF_REPOSITORIES = "/etc/yum.repos.d,/etc/yum/repos.d,/etc/distro.repos.d,/usr/share/dnf5/repos.d"


class Tool:
    """``programs`` says which it needs, each with the package that brings it. ``sources(host, said)`` is what it takes from the host, ArchiveError
    where that is not there, and ``commands(said, sources, room)`` the command lines, after what they read has been written to the Room.

    ``left`` are the paths of what it needs only meanwhile, or what is not the same each time; ``good`` the statuses with which all is well.
    """

    def __init__(self, programs, sources, commands, left, good=(0,)):
        self.programs, self.sources, self.commands, self.left, self.good = programs, sources, commands, left, good


class Room:
    """The directory that a bootstrap is made in, the root file system in its ``root``: ``path`` in the store, ``seen`` in the tool's namespace."""

    def __init__(self, path, seen):
        self.path, self.seen = path, seen

    def directory(self, name):
        """Make a directory with all that are above it; the path that the tool sees."""
        parts = name.split("/")
        for count in range(1, len(parts) + 1):
            path = "%s/%s" % (self.path, "/".join(parts[:count]))
            if not os.path.isdir(path):
                os.mkdir(path)
                os.chmod(path, 0o755)
        return "%s/%s" % (self.seen, name)

    def write(self, name, data):
        """Write a file into a directory(); the path that the tool sees."""
        self.directory(os.path.dirname(name))
        with open("%s/%s" % (self.path, name), "wb") as stream:
            stream.write(data)
        return "%s/%s" % (self.seen, name)


def _said(*options):
    """--option=value for each pair that has a value."""
    return ["--%s=%s" % (option, value) for option, value in options if value]


# Debian and what derives from it


def _mmdebstrap(said, sources, room):
    return [["mmdebstrap", "--mode=root", "--format=directory", "--variant=" + said["variant"]] + _said(
        ("include", ",".join(said["include"])), ("components", ",".join(said["components"])), ("architectures", said["architecture"]),
        ("keyring", said["keyring"])) + ["--", said["suite"], room.seen + "/root"] + sources]


def _debootstrap(said, sources, room):
    """It knows one suite of one archive."""
    words = sources[0].split()
    address, components = (words[1], words[3:]) if words[0] == "deb" else (words[0], said["components"])
    return [["debootstrap", "--no-check-gpg" if said["unsigned"] else "--force-check-gpg"] + _said(
        ("variant", {"important": "-"}.get(said["variant"], said["variant"])), ("include", ",".join(said["include"])),
        ("components", ",".join(components)), ("arch", said["architecture"]), ("keyring", said["keyring"])) + [said["suite"], room.seen + "/root", address]]


def _mirrors(host, said):
    """Lines of a sources.list: where this host's own apt takes the suite from, with its updates, or else from where it takes its own."""
    if said["mirror"]:
        return said["mirror"]
    suite, components = said["suite"], " ".join(said["components"])
    form = "\t".join("$(%s)" % word for word in ("REPO_URI", "RELEASE", "COMPONENT", "ORIGIN", "LABEL"))
    try:
        status, text, dummy = host.run(["apt-get", "indextargets", "--format", form, "Created-By: Packages"])
    except OSError:
        status, text = 1, ""
    found = [line.split("\t") for line in text.splitlines() if line.count("\t") == 4] if not status else []
    own, archive = {}, None
    for address, release, component, origin, label in found:
        if origin.lower() not in distribution():
            continue
        if re.split("[-/]", release)[0] == suite:
            own.setdefault((address, release), []).append(component)
        if origin == label and archive is None:
            archive = address
    if own:
        return ["deb %s %s %s" % (address, release, components or " ".join(dict.fromkeys(listed)))
                for (address, release), listed in sorted(own.items(), key=lambda item: item[0][1] != suite)]
    if archive is None:
        raise ArchiveError("this host's apt knows no archive of its distribution", advice="Run apt-get update there, or name a mirror")
    return ["deb %s %s %s" % (archive, suite, components or "main")]


def distribution():
    """Names of the host's distribution, in lower case."""
    try:
        with open("/etc/os-release", encoding="utf-8") as stream:
            words = dict(line.rstrip().split("=", 1) for line in stream if "=" in line)
    except OSError:
        return []
    return (words.get("ID", "") + " " + words.get("ID_LIKE", "")).replace('"', " ").lower().split()


# Distributions of rpm


def _dnf(said, keys, room):
    where = _rpm_room(said, _key_files(keys, room), room)
    config = ["--config=/etc/dnf/dnf.conf"] if os.path.exists("/etc/dnf/dnf.conf") else []
    return [_FURNISHED + [room.seen, "dnf", "--assumeyes", "--installroot=%s/root" % room.seen, "--releasever=" + said["release"]] + config + [
        "--setopt=reposdir=" + (where or _DNF_REPOSITORIES), "--setopt=install_weak_deps=False"] + _said(("forcearch", said["architecture"]))
        + ["install"] + said["packages"]]


def _zypper(said, keys, room):
    """The keys go into the database of the new root, for zypper trusts those; its own option to import keys would trust any that a repository has."""
    files = _key_files(keys, room)
    where = _rpm_room(said, files, room)
    # What was verified once is taken from its cache, whoever asks: so it gets an own one each time, which it has in part below the new root.
    start = ["env", "ZYPP_LOGFILE=%s/tmp/log" % room.seen, "ZYPPTMPDIR=%s/tmp" % room.seen, "zypper", "--non-interactive", "--installroot=%s/root" % room.seen,
             "--cache-dir=%s/tmp/cache" % room.seen] + _said(("releasever", said["release"]), ("reposd-dir", where))
    commands = [["rpm", "--root=%s/root" % room.seen, "--import", path] for path in files]
    commands += [start + ["refresh"], start + ["install", "--no-recommends", "--auto-agree-with-licenses"] + said["packages"]]
    return [_FURNISHED + [room.seen] + command for command in commands]


def _rpm_room(said, files, room):
    """The directory of the repositories that are declared, in a form that both tools read; None where the host's own are meant."""
    # Debian's rpm has its database in the home of who runs it.
    room.write("tmp/home/.rpmmacros", ("%%_dbpath /%s\n" % _RPM_DATABASE).encode())
    for name in ("root/dev", "root/proc", "root/var/lib", "root/" + _RPM_DATABASE):
        room.directory(name)
    os.symlink("../../" + _RPM_DATABASE, room.path + "/root/var/lib/rpm")
    if not said["repositories"]:
        return None
    trust = "gpgcheck=0" if said["unsigned"] else "gpgcheck=1\ngpgkey=" + " ".join("file://" + path for path in files)
    for count, address in enumerate(said["repositories"], 1):
        text = "[repository-%d]\nname=%s\nbaseurl=%s\nenabled=1\n%s\n" % (count, address, address, trust)
        room.write("tmp/repositories/%d.repo" % count, text.encode())
    return room.seen + "/tmp/repositories"


def _key_files(keys, room):
    return [room.write("tmp/keys/%d.key" % count, data) for count, (dummy, data) in enumerate(keys)]


def _rpm_keys(host, said):
    """[(name, content)] of the keys that packages are to be signed with: those that are named, or those that the host's own rpm trusts."""
    if said["unsigned"]:
        return []
    if said["keyring"]:
        return _read_keys(host, said["keyring"])
    status, text = 1, ""
    try:
        if os.path.isdir(host.run(["rpm", "--eval", "%{_dbpath}"])[1].strip()):  # to ask for something makes one
            status, text, dummy = host.run(["rpm", "--query", "gpg-pubkey", "--queryformat", "%{description}\n"])
    except OSError:
        pass
    if status and said["repositories"]:
        raise ArchiveError("this host's rpm trusts no keys", advice="Name a keyring, or set unsigned: true to have nothing verified")
    return [] if status else [("host", text.encode())]


# Alpine


def _apk(said, keys, room):
    for name, data in keys:  # it finds a key by the name of its file
        room.write("tmp/keys/" + name, data)
    where = "/etc/apk/repositories"
    if said["repositories"]:
        where = room.write("tmp/repositories", "".join(address + "\n" for address in said["repositories"]).encode())
    for name in ("root/dev", "root/proc", "tmp/keys"):
        room.directory(name)
    return [_FURNISHED + [room.seen, "apk", "--root=%s/root" % room.seen, "--keys-dir=%s/tmp/keys" % room.seen, "--repositories-file=" + where,
                          "--no-cache", "--no-progress"] + (["--allow-untrusted"] if said["unsigned"] else []) + _said(("arch", said["architecture"]))
            + ["add", "--initdb"] + said["packages"]]


def _apk_keys(host, said):
    return [] if said["unsigned"] else _read_keys(host, said["keyring"] or _APK_KEYS)


def _read_keys(host, path):
    """[(name, content)] of a file, or of all files of a directory."""
    try:
        names = sorted(os.listdir(path)) if os.path.isdir(path) else [None]
        found = []
        for name in names:
            with open(path if name is None else "%s/%s" % (path, name), "rb") as stream:
                found.append((name or os.path.basename(path), stream.read()))
    except OSError as exc:
        if isinstance(exc, FileNotFoundError) and host.check:
            host.warn("%s does not exist yet; an earlier task is expected to bring it." % path)
            return []
        raise ArchiveError("the keys in %s cannot be read: %s" % (path, exc.strerror), advice="Name a keyring") from exc
    if not found:
        raise ArchiveError("there are no keys in %s" % path, advice="Name a keyring")
    return found


TOOLS = {
    "mmdebstrap": Tool({"mmdebstrap": "mmdebstrap"}, _mirrors, _mmdebstrap, _DEB),
    "debootstrap": Tool({"debootstrap": "debootstrap"}, _mirrors, _debootstrap, _DEB),
    "dnf": Tool({"dnf": "dnf"}, _rpm_keys, _dnf, _RPM),
    "zypper": Tool({"zypper": "zypper", "rpm": "rpm"}, _rpm_keys, _zypper, _RPM, good=(0, 102, 103, 107)),  # it says: restart something, a script has failed
    "apk": Tool({"apk": "apk-tools"}, _apk_keys, _apk, _APK),
}
