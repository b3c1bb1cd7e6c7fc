# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Repositories of small rpm packages, made by Debian's own rpmbuild and createrepo_c, and keys to sign them with."""

from __future__ import annotations

import os
import shutil
import subprocess

import archives

BASE = "/tmp/bulkhead-rpms"
SPEC = """
Name: %(name)s
Version: %(version)s
Release: 1
Summary: a test
License: none
BuildArch: noarch
AutoReqProv: no
%(more)s
%%description
a test
%%install
%(install)s
%(scripts)s
%%files
%(files)s
"""
DEFINED = {"__os_install_post": "%{nil}", "debug_package": "%{nil}", "_binary_payload": "w1.gzdio", "_buildhost": "localhost",
           "use_source_date_epoch_as_buildtime": "1", "clamp_mtime_to_source_date_epoch": "1", "_binaries_in_noarch_packages_terminate_build": "0"}


def run(*argv, **env):
    """With a home where the tools of rpm may make a database, as they do."""
    done = subprocess.run(argv, check=False, capture_output=True, text=True, env=dict(os.environ, HOME=BASE, SOURCE_DATE_EPOCH="1000000000") | env)
    assert done.returncode == 0, done.stderr


def package(name, files, version="1", more="", scripts=""):
    """Build one into BASE/repository. ``files``: {path: (content, what %files says before its name)}."""
    install = []
    for path, (content, dummy) in files.items():
        source = archives.write("%s/sources/%s%s" % (BASE, name, path), content)
        install.append("mkdir -p %%{buildroot}%s; cp %s %%{buildroot}%s; chmod 755 %%{buildroot}%s" % (os.path.dirname(path), source, path, path))
    spec = archives.write("%s/%s.spec" % (BASE, name), (SPEC % dict(
        name=name, version=version, more=more, scripts=scripts, install="\n".join(install),
        files="\n".join("%s %s" % (said, path) for path, (dummy, said) in files.items()))).encode())
    defined = dict(DEFINED, _topdir=BASE + "/build", _rpmdir=BASE + "/repository")
    run("rpmbuild", "-bb", *[word for key, value in defined.items() for word in ("--define", "%s %s" % (key, value))], spec)


def repository(version="1"):
    """Some packages, of which base needs extra and has a script that sees what it was promised."""
    with open("/bin/busybox", "rb") as stream:
        busybox = stream.read()
    shutil.rmtree(BASE + "/repository", ignore_errors=True)
    script = ("%post -p /bin/sh\nexec >/dev/null </dev/null\nset -e\nread line </proc/self/status\n[ \"$HOME\" = /root ]\n"
              "/bin/busybox id -u >/etc/by-script\n")
    package("base", {"/bin/busybox": (busybox, ""), "/bin/sh": (busybox, ""), "/bin/version": (version.encode(), "%attr(644, root, root)"),
                     "/srv/page": (b"a page", "%attr(640, root, web)")}, version, "Requires: extra", script)
    package("extra", {"/etc/passwd": (b"root:x:0:0::/:/bin/sh\nweb:x:7:7::/:/bin/sh\n", ""), "/etc/group": (b"root:x:0:\nweb:x:7:\n", ""),
                      "/bin/su": (b"su", "%attr(4755, root, root)")})
    package("other", {"/srv/other": (b"other", "")})
    package("slow", {"/bin/sleep": (busybox, "")}, scripts="%post -p /bin/sh\necho >/srv/begun\n/bin/sleep 1000\n", more="Requires: base")
    package("fails", {"/srv/fail": (b"", "")}, scripts="%post -p /bin/sh\necho these words; exit 3\n", more="Requires: base")
    run("createrepo_c", "--quiet", BASE + "/repository")


def keys(*names):
    """A key for each name: the public one in BASE/NAME.asc."""
    home = BASE + "/gnupg"
    os.makedirs(home, mode=0o700)
    for name in names:
        run("gpg", "--batch", "--quiet", "--passphrase", "", "--quick-gen-key", name, "rsa2048", "sign", "never", GNUPGHOME=home)
        run("gpg", "--batch", "--armor", "--output", "%s/%s.asc" % (BASE, name), "--export", name, GNUPGHOME=home)


def sign(name):
    """Sign the packages and the list of them."""
    home, where = BASE + "/gnupg", BASE + "/repository"
    found = [os.path.join(top, each) for top, dummy, there in os.walk(where) for each in there if each.endswith(".rpm")]
    run("rpmsign", "--define", "_gpg_name " + name, "--define", "__gpg /usr/bin/gpg", "--addsign", *found, GNUPGHOME=home)
    run("createrepo_c", "--quiet", where)
    run("gpg", "--batch", "--local-user", name, "--armor", "--detach-sign", where + "/repodata/repomd.xml", GNUPGHOME=home)


def stop_agent():
    run("gpgconf", "--kill", "gpg-agent", GNUPGHOME=BASE + "/gnupg")
