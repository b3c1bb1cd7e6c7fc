# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What kernels from 5.10 to 6.18 show of an overlay, brought into one form and compared."""

from __future__ import annotations

import pytest
from ansible_collections.bulkhead.isolation.plugins.module_utils._kernel import mountinfo, overlayfs
from hypothesis import given, settings
from hypothesis import strategies as st

DEBIAN = dict(index="off", metacopy="off", nfs_export="off", redirect_dir="follow", redirect_off="follow", xino="off", uuid="auto", verity="off",
              userxattr=False, volatile=False)

# One line of each kernel: (release, mountinfo, lower, data, upper, work, options that are not the default)
LINES = [
    ("5.10", "420 29 0:57 / /srv/m rw,relatime shared:214 - overlay overlay "
     "rw,lowerdir=/srv/app:/srv/base,upperdir=/srv/u,workdir=/srv/w,index=on,xino=on,volatile",
     ["/srv/app", "/srv/base"], [], "/srv/u", "/srv/w", {"index": "on", "xino": "on", "volatile": True}),
    ("5.10", r"421 29 0:58 / /srv/a\040b ro,relatime - overlay overlay rw,lowerdir=/srv/x\134:y:/srv/c\134\054d:/srv/e\134\134f,redirect_dir=on",
     ["/srv/x:y", "/srv/c,d", "/srv/e\\f"], [], None, None, {"redirect_dir": "on"}),
    ("6.1", "512 31 0:61 / /srv/m rw,nosuid,nodev,relatime - overlay bulkhead rw,lowerdir=l1:l2,upperdir=u,workdir=w,userxattr,redirect_dir=nofollow",
     ["l1", "l2"], [], "u", "w", {"userxattr": True, "redirect_dir": "nofollow"}),
    ("6.1", "513 31 0:62 / /srv/m rw,relatime master:7 propagate_from:2 - overlay overlay "
     "rw,lowerdir=/a,upperdir=/u,workdir=/w,uuid=off,metacopy=on,redirect_dir=on",
     ["/a"], [], "/u", "/w", {"uuid": "off", "metacopy": "on", "redirect_dir": "on"}),
    ("6.6", "600 31 0:70 / /m ro,relatime - overlay overlay rw,lowerdir=/a:/b::/d1::/d2,redirect_dir=on,metacopy=on,verity=require",
     ["/a", "/b"], ["/d1", "/d2"], None, None, {"redirect_dir": "on", "metacopy": "on", "verity": "require"}),
    ("6.12", r"700 31 0:80 / /m rw,relatime - overlay none "
     r"rw,lowerdir+=/srv/x:y,lowerdir+=/srv/c\054d\134e,datadir+=/d,upperdir=/u,workdir=/w,uuid=on,nfs_export=on,index=on",
     ["/srv/x:y", "/srv/c,d\\e"], ["/d"], "/u", "/w", {"uuid": "on", "nfs_export": "on", "index": "on"}),
    ("6.18", r"77 71 0:42 / /mnt/m rw,relatime - overlay overlay "
     r"rw,lowerdir+=/mnt/l0,lowerdir+=/mnt/a\040b:c\054d\134e,upperdir=/mnt/u/upper,workdir=/mnt/u/work,index=on,uuid=on,fsync=volatile",
     ["/mnt/l0", "/mnt/a b:c,d\\e"], [], "/mnt/u/upper", "/mnt/u/work", {"index": "on", "uuid": "on", "volatile": True}),
    ("6.18", "80 77 0:44 / /mnt/m ro,relatime - overlay none ro,lowerdir+=/proc/self/fd/5,redirect_dir=on,uuid=null,override_creds",
     ["/proc/self/fd/5"], [], None, None, {"redirect_dir": "on", "uuid": "null"}),
]


@pytest.mark.parametrize("release,line,lower,data,upper,work,options", LINES, ids=lambda value: value if isinstance(value, str) and len(value) < 5 else "")
def test_lines_of_kernels(release, line, lower, data, upper, work, options):
    mount = mountinfo.Table(line).mounts[0]
    shown = overlayfs.parse(mount.super_options, DEBIAN)
    assert (shown.lower, shown.data, shown.upper, shown.work) == (lower, data, upper, work)
    assert {key: value for key, value in shown.options.items() if value != DEBIAN[key]} == options


@pytest.mark.parametrize("key,declared,shown,upper,same", [
    ("redirect_dir", "off", "follow", "/u", True), ("redirect_dir", "off", "on", None, True), ("redirect_dir", "follow", "on", None, True),
    ("redirect_dir", "follow", "on", "/u", False), ("redirect_dir", "nofollow", "follow", "/u", False), ("redirect_dir", "on", "on", "/u", True),
    ("xino", "on", "off", "/u", True), ("xino", "on", "auto", "/u", False), ("uuid", "auto", "on", "/u", True), ("uuid", "on", "null", None, True),
    ("uuid", "on", "null", "/u", False), ("uuid", "off", "null", "/u", True), ("index", "on", "off", "/u", False), ("volatile", True, True, "/u", True),
])
def test_same_option(key, declared, shown, upper, same):
    assert overlayfs.same_option(key, declared, shown, DEBIAN, upper) is same


def test_defaults_are_read(tmp_path):
    parameters = tmp_path / "module" / "overlay" / "parameters"
    parameters.mkdir(parents=True)
    for name, value in (("index", "Y"), ("redirect_dir", "N"), ("redirect_always_follow", "N"), ("xino_auto", "Y")):
        (parameters / name).write_text(value + "\n", encoding="ascii")
    known = overlayfs.defaults(str(tmp_path))
    assert (known["index"], known["redirect_dir"], known["redirect_off"], known["xino"], known["metacopy"]) == ("on", "nofollow", "nofollow", "auto", "off")
    assert overlayfs.defaults("/nowhere")["redirect_dir"] == "follow"


PATHS = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=20).map(lambda name: "/" + name.replace("/", "_"))


def shown_by_kernel(text):
    """seq_show_option() escapes these, and nothing else, in octal."""
    return "".join("\\%03o" % ord(char) if char in ", \t\n\\" else char for char in text)


@settings(max_examples=300, deadline=None)
@given(st.lists(PATHS, min_size=1, max_size=6), st.lists(PATHS, max_size=3), PATHS, PATHS)
def test_round_trip(lower, data, upper, work):
    layers = overlayfs.Layers(lower, upper, work, data, {"index": "on"})
    fields = overlayfs._split(overlayfs.option_string(layers), ",")
    single = ",".join("%s=%s" % (key, shown_by_kernel(value)) for key, equals, value in (field.partition("=") for field in fields))
    single_by_one = ",".join(["lowerdir+=" + shown_by_kernel(path) for path in lower] + ["datadir+=" + shown_by_kernel(path) for path in data] +
                             ["upperdir=" + shown_by_kernel(upper), "workdir=" + shown_by_kernel(work), "index=on"])
    for text in (single, single_by_one):
        found = overlayfs.parse("rw," + text, DEBIAN)
        assert (found.lower, found.data, found.upper, found.work, found.options["index"]) == (lower, data, upper, work, "on")


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=200))
def test_any_text_is_parsed_without_error(text):
    overlayfs.parse(text, DEBIAN)


def test_short_links(tmp_path):
    links = str(tmp_path)
    names = [overlayfs.link_name("/some/long/path/%d" % number, links) for number in range(500)]
    assert len(set(names)) == 500 and all(len(name) == 6 for name in names)
    assert overlayfs.link_name("/some/long/path/7", links) == names[7]
    layers = overlayfs.full_names(overlayfs.Layers(names[:2], names[2], "/work"), links)
    assert layers.lower == ["/some/long/path/0", "/some/long/path/1"] and layers.upper == "/some/long/path/2" and layers.work == "/work"


def test_a_taken_link_is_not_reused(tmp_path):
    name = overlayfs.link_name("/one", str(tmp_path))
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("/other")
    assert overlayfs.link_name("/one", str(tmp_path)) != name


def test_what_fits():
    assert overlayfs.fits(overlayfs.Layers(["/x" * 1000] * 500, "/u", "/w"))
    assert not overlayfs.fits(overlayfs.Layers(["/x" * 1000] * 600, "/u", "/w"))
