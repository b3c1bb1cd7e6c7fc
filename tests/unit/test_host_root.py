# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What of a host's root becomes an image: on a root that is made up, with something private in every place that has such."""

from __future__ import annotations

import os
import stat

import pytest
from ansible_collections.bulkhead.isolation.plugins.module_utils._engine.host import Host
from ansible_collections.bulkhead.isolation.plugins.module_utils._kernel import tarstream
from ansible_collections.bulkhead.isolation.plugins.module_utils._kernel.tarstream import ArchiveError
from ansible_collections.bulkhead.isolation.plugins.module_utils._resources import _host_root
from ansible_collections.bulkhead.isolation.plugins.module_utils._resources._tree import Tree

SECRET = b"a-secret-of-the-host"
HASH = "$y$j9T$" + SECRET.decode()
PUBLIC = {
    "usr/bin/tool": "x", "usr/lib/libx.so": "x", "usr/local/bin/own": "x", "usr/share/doc/tool/copyright": "x",
    "opt/app/run": "x", "etc/tool.conf": "x", "etc/ssh/sshd_config": "x", "etc/ssl/certs/ca.pem": "x", "var/lib/dpkg/status": "x",
    "var/lib/dpkg/info/tool.list": "/.\n/var\n/var/lib/tool\n/var/lib/tool/deep/er\n",
    "var/lib/apt/extended_states": "x", "var/cache/debconf/config.dat": "x", "lib64/ld.so": "x",
}
# Each is readable for everyone, as they are where somebody has slipped.
PRIVATE = (
    "etc/ssh/ssh_host_ed25519_key", "etc/ssh/ssh_host_rsa_key.pub", "etc/ssl/private/host.key", "etc/pki/tls/private/host.key",
    "etc/letsencrypt/live/a/key.pem", "etc/krb5.keytab", "etc/apache2/http.keytab", "etc/wireguard/wg0.conf",
    "etc/NetworkManager/system-connections/home", "etc/wpa_supplicant/wpa.conf", "etc/netplan/10.yaml", "etc/network/interfaces",
    "etc/network/interfaces.d/wlan", "etc/systemd/network/wg.netdev", "etc/ppp/chap-secrets", "etc/openvpn/a/key", "etc/ipsec.secrets",
    "etc/swanctl/private/a", "etc/passwd-", "etc/group-", "etc/shadow-", "etc/gshadow-", "etc/security/opasswd", "etc/sudoers", "etc/sudoers.d/admin",
    "etc/fstab", "etc/crypttab", "etc/cryptsetup-keys.d/a.key", "etc/apt/auth.conf", "etc/apt/auth.conf.d/a", "etc/kubernetes/admin.conf",
    "etc/rancher/k3s/k3s.yaml", "etc/docker/key.json", "etc/ceph/ceph.client.admin.keyring", "etc/iscsi/iscsid.conf",
    "etc/bulkhead/sandboxes.d/web.json", "etc/netns/web/hosts", "etc/systemd/system/bulkhead-web.service", "etc/munge/munge.key", "etc/bind/rndc.key",
    "etc/ansible/vault", "etc/exim4/passwd.client", "home/user/.ssh/id_ed25519", "home/user/file", "root/.bash_history", "srv/data", "tmp/file",
    "run/secrets/a", "mnt/disk/file", "boot/initrd", "dev/file", "var/lib/tool/data", "var/lib/tool/deep/er/data", "var/lib/docker/volumes/a",
    "var/log/syslog", "var/spool/cron/crontabs/root", "var/mail/user", "var/tmp/file", "var/backups/shadow.bak", "var/cache/debconf/passwords.dat",
    "var/lib/dpkg/status-old", "var/lib/apt/lists/auth", "var/lib/bulkhead/layers/a/x", "var/lib/dbus/machine-id", "var/www/site/config.php",
    "swapfile", "data/file", "usr/lost+found/file",
)
# What is not for everyone.
UNREADABLE = ("etc/redis/redis.conf", "etc/mysql/mine.cnf", "opt/app/key", "usr/local/etc/key", "usr/share/app/key", "var/lib/dpkg/odd")
REPLACED = {
    "etc/passwd": ("root:x:0:0:root:/root:/bin/sh\nold:%s:5:5::/:/bin/sh\n" % HASH, b"root:x:0:0:root:/root:/bin/sh\nold:x:5:5::/:/bin/sh\n"),
    "etc/group": ("root:x:0:\nold:%s:5:me\n" % HASH, b"root:x:0:\nold:x:5:me\n"),
    "etc/shadow": ("root:%s:19000:0:99999:7:::\ndaemon:*:19000:0:99999:7:::\nopen::1::::::\n" % HASH,
                   b"root:*:::::::\ndaemon:*:::::::\nopen:*:::::::\n"),
    "etc/gshadow": ("root:*::\nold:%s:me:you\n" % HASH, b"root:*::\nold:*:me:you\n"),
    "etc/machine-id": (SECRET.decode(), b""), "etc/hostname": (SECRET.decode(), b"localhost\n"),
    "etc/resolv.conf": ("nameserver 10.0.0.1 # " + SECRET.decode(), b""),
    "etc/hosts": ("10.0.0.2 " + SECRET.decode(), b"127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"),
}


@pytest.fixture
def root(tmp_path):
    def write(path, data, mode=0o644):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(data if isinstance(data, bytes) else data.encode())
        (tmp_path / path).chmod(mode)

    for path, data in PUBLIC.items():
        write(path, data)
    for path in PRIVATE:
        write(path, SECRET)
    for path in UNREADABLE:
        write(path, SECRET, 0o640)
    for path, (data, dummy) in REPLACED.items():
        write(path, data, 0o640 if "shadow" in path else 0o644)
    write("etc/closed/open", SECRET)
    (tmp_path / "etc/closed").chmod(0o750)
    for path, target in (("bin", "usr/bin"), ("var/run", "/run"), ("etc/os-release", "../usr/lib/os-release"), ("initrd.img", "boot/initrd")):
        (tmp_path / path).symlink_to(target)
    return tmp_path


def taken(root, check=False, **said):
    """{name: (Member, content)}; what is excluded and included as `exclude` and `include`."""
    host = Host()
    host.check = check
    choice = _host_root.Choice(host, {"exclude": said.get("exclude", []), "include": said.get("include", [])}, str(root))
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        tree = Tree(fd, False, choice)
        return {member.name.decode(): (member, b"".join(tree.data())) for member in tree}, choice.key(), host.warnings
    finally:
        os.close(fd)


def test_what_is_taken(root):
    found = taken(root)[0]
    assert set(PUBLIC) <= set(found) and {"bin", "var/run", "etc/os-release"} <= set(found)
    for path in PRIVATE + UNREADABLE + ("etc/closed/open", "initrd.img", "data", "lost+found", "var/lib/bulkhead", "etc/bulkhead"):
        assert path not in found, path
    assert [name for name, (member, data) in found.items() if SECRET in data or SECRET in member.link] == []
    for path, (dummy, data) in REPLACED.items():
        assert found[path][1] == data and found[path][0].size == len(data), path
    assert found["etc/shadow"][0].mode == 0o640


def test_the_skeleton(root):
    (root / "tmp").chmod(0o1777)
    (root / "root").chmod(0o700)
    (root / "usr/bin/tool").chmod(0o4754)
    (root / "usr/share/doc").chmod(0o700)
    found = taken(root)[0]
    empty = {name for name, (member, dummy) in found.items() if member.kind == tarstream.DIRECTORY and not any(other.startswith(name + "/") for other in found)}
    for path in ("boot", "dev", "home", "mnt", "root", "run", "srv", "tmp", "var/tmp", "var/mail", "var/lib/docker", "var/lib/tool/deep/er", "var/spool/cron",
                 "etc/closed", "etc/ssl/private", "etc/sudoers.d", "etc/redis"):
        assert path in empty, path
    assert found["usr/bin/tool"][0].mode == 0o4754 and "usr/share/doc/tool/copyright" in found
    assert found["tmp"][0].mode == 0o1777 and found["root"][0].mode == 0o700
    assert {found[path][0].mtime for path in ("tmp", "etc", "var", "var/lib", "etc/ssh")} == {0} and found["usr/bin"][0].mtime


def test_the_longest_path_decides(root):
    found = taken(root, exclude=["/usr/share", "/opt", "/etc/redis/none"], include=[
        "/opt/app/key", "/etc/redis", "/srv", "/var/lib/tool", "/usr/share/doc/tool", "/etc/wireguard", "/etc/hosts"])[0]
    assert {"opt", "opt/app", "opt/app/key", "etc/redis/redis.conf", "srv/data", "var/lib/tool/data", "usr/share/doc/tool/copyright",
            "etc/wireguard/wg0.conf"} <= set(found)
    assert "opt/app/run" not in found and "etc/mysql/mine.cnf" not in found and "etc/ssh/ssh_host_ed25519_key" not in found
    assert found["etc/hosts"][1] == REPLACED["etc/hosts"][0].encode()
    # What is listed as private stays out of a place that is included as a whole, and what is ours always.
    found = taken(root, include=["/etc", "/var"])[0]
    assert "etc/redis/redis.conf" in found and "var/log/syslog" in found and found["etc/shadow"][1] == REPLACED["etc/shadow"][1]
    assert not {"etc/ssh/ssh_host_ed25519_key", "etc/sudoers", "var/lib/bulkhead", "etc/bulkhead", "etc/netns"} & set(found)
    with pytest.raises(ArchiveError, match="there is no /none"):
        taken(root, include=["/none"])
    assert "does not exist yet" in taken(root, check=True, include=["/none"])[2][0]


def test_the_key(root):
    """It is another when what is taken is, and the same when something else is."""
    key = taken(root)[1]
    for path in PRIVATE[:3] + UNREADABLE:
        (root / path).write_bytes(b"other")
    (root / "tmp/new").mkdir()
    (root / "etc/shadow").write_text(REPLACED["etc/shadow"][0].replace(HASH, "$6$new"))
    os.replace(root / "etc/netplan/10.yaml", root / "etc/netplan/20.yaml")
    (root / "etc/hosts").unlink()
    (root / "etc/hosts").symlink_to("/run/hosts")
    assert taken(root)[1] == key
    for path, act, argument in (("etc/tool.conf", "write_bytes", b"y"), ("usr/bin/tool", "chmod", 0o755), ("opt/new", "mkdir", 0o755),
                                ("etc/passwd", "write_bytes", b"new:x:1:1::/:/bin/sh\n"), ("tmp", "chmod", 0o1777)):
        getattr(root / path, act)(argument)
        assert taken(root)[1] != key
        key = taken(root)[1]


def test_changed_while_it_is_read(root):
    host = Host()
    for path, act, argument in (("usr/bin/tool", "write_bytes", b"longer"), ("usr/zz", "mkdir", 0o755)):
        choice = _host_root.Choice(host, {"exclude": [], "include": []}, str(root))
        choice.key()
        fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        tree = Tree(fd, False, choice)
        try:
            with pytest.raises((ArchiveError, OSError), match="changed while it was read"):
                for member in tree:
                    if member.name == b"usr/bin/tool":
                        getattr(root / path, act)(argument)
                    for dummy in tree.data():
                        pass
        finally:
            os.close(fd)


def test_attributes_are_filtered(root):
    os.setxattr(root / "etc/tool.conf", "user.colour", b"blue")
    entry, dummy = taken(root)[0]["etc/tool.conf"]
    assert entry.xattrs == {b"user.colour": b"blue"} and not stat.S_ISUID & entry.mode
