# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Archives that are made to do harm, or that can be read in two ways: each with what its refusal must name."""

from __future__ import annotations

import bz2
import gzip
import lzma

import archives
from archives import Layout, directory, entry, hard_link, header, record, symlink, tar

OUT = b"/run/hostile/out"  # a directory outside, with a file `precious`
A = entry(b"a", b"text")
ZEROS = bytes(1 << 20)

# name: (the archive, what the refusal names)
TARS = {
    "absolute path": (tar(entry(OUT + b"/new", b"x")), "/run/hostile/out/new"),
    "absolute path by a long name": (tar(entry(b"x", b"x", pax={"path": OUT + b"/new"})), "/run/hostile/out/new"),
    "absolute directory": (tar(directory(OUT + b"/new/")), "/run/hostile/out/new/"),
    "upwards": (tar(entry(b"../../../../out/new", b"x")), "../../../../out/new"),
    "upwards in the middle": (tar(directory(b"a"), entry(b"a/../../../b", b"x")), "a/../../../b"),
    "upwards at the end": (tar(directory(b"a"), directory(b"a/..")), "a/.."),
    "upwards by a prefix": (tar(entry(b"b", b"x", prefix=b"..")), "../b"),
    "upwards by a GNU long name": (tar(header(b"L", b"L", 6) + archives.padded(b"../b\0\0"), A), "../b"),
    "through a link": (tar(symlink(b"l", OUT), entry(b"l/new", b"x")), "l/new"),
    "through a link of links": (tar(symlink(b"k", b"l"), symlink(b"l", OUT), entry(b"k/new", b"x")), "k/new"),
    "through a link upwards": (tar(symlink(b"l", b"../../.."), directory(b"l/new")), "l/new"),
    "through a link to itself": (tar(symlink(b"l", b"l"), entry(b"l/new", b"x")), "l/new"),
    "through a link to /proc": (tar(symlink(b"l", b"/proc/self/root"), entry(b"l/run/hostile/out/new", b"x")), "l/run"),
    "a directory over a link": (tar(symlink(b"l", OUT), directory(b"l"), entry(b"l/new", b"x")), "'l'"),
    "a file over a link": (tar(symlink(b"l", OUT + b"/precious"), entry(b"l", b"x")), "'l'"),
    "a link over a directory": (tar(directory(b"d"), symlink(b"d", OUT), entry(b"d/new", b"x")), "'d'"),
    "below a file": (tar(A, entry(b"a/b", b"x")), "a/b"),
    "below a fifo": (tar(entry(b"p", kind=b"6"), entry(b"p/b", b"x")), "p/b"),
    "the root as a link": (tar(symlink(b".", OUT), entry(b"new", b"x")), "'.'"),
    "the root as a file": (tar(entry(b"./", b"x")), "'./'"),
    "a file twice": (tar(A, A), "'a'"),
    "a file twice, spelled otherwise": (tar(A, entry(b".//a", b"x")), ".//a"),
    "no name": (tar(entry(b"", b"x")), "''"),
    "NUL in a name": (tar(entry(b"x", b"x", pax={"path": b"a\0b"})), "a\\x00b"),
    "NUL in a target": (tar(entry(b"x", kind=b"2", pax={"linkpath": b"a\0b"})), "'x'"),
    "a link to nothing": (tar(symlink(b"l", b"")), "'l'"),
    "too long a part": (tar(entry(b"x", b"x", pax={"path": b"n" * 256})), "nnnn"),
    "too long a path": (tar(entry(b"x", b"x", pax={"path": b"d/" * 2048 + b"x"})), "d/d/d/"),
    "too deep": (tar(entry(b"x", b"x", pax={"path": b"d/" * 300 + b"x"})), "d/d/d/"),
    "hard link out": (tar(hard_link(b"h", OUT + b"/precious")), "'h'"),
    "hard link upwards": (tar(hard_link(b"h", b"../../../../etc/passwd")), "/etc/passwd"),
    "hard link to a link": (tar(symlink(b"l", OUT + b"/precious"), hard_link(b"h", b"l")), "'h'"),
    "hard link through a link": (tar(symlink(b"l", OUT), hard_link(b"h", b"l/precious")), "'h'"),
    "hard link to a directory": (tar(directory(b"d"), hard_link(b"h", b"d")), "'h'"),
    "hard link to itself": (tar(hard_link(b"h", b"h")), "'h'"),
    "hard link to what comes later": (tar(hard_link(b"h", b"a"), A), "'h'"),
    "hard link to nothing": (tar(hard_link(b"h", b"")), "'h'"),
    "hard link with content": (tar(A, hard_link(b"h", b"a", size=512), bytes(512)), "'h'"),
    "character device": (tar(entry(b"mem", kind=b"3", device=(1, 1))), "'mem'"),
    "block device": (tar(entry(b"disk", kind=b"4", device=(8, 0))), "'disk'"),
    "device 0:0": (tar(entry(b"w", kind=b"3")), "'w'"),
    "impossible device": (tar(entry(b"dev", kind=b"3", device=(1 << 12, 0))), "'dev'"),
    "set-user-ID": (tar(entry(b"su", b"x", mode=0o4755)), "'su'"),
    "set-group-ID": (tar(entry(b"sg", b"x", mode=0o2755)), "'sg'"),
    "capabilities": (tar(entry(b"ping", b"x", pax={"SCHILY.xattr.security.capability": b"\1\0\0\2" + bytes(16)})), "'ping'"),
    "trusted.overlay.redirect": (tar(directory(b"d", pax={"SCHILY.xattr.trusted.overlay.redirect": b"/etc"})), "'d'"),
    "trusted.overlay.opaque": (tar(directory(b"d", pax={"SCHILY.xattr.trusted.overlay.opaque": b"y"})), "'d'"),
    "trusted.overlay.metacopy": (tar(entry(b"m", b"x", pax={"SCHILY.xattr.trusted.overlay.metacopy": b""})), "'m'"),
    "user.overlay.opaque": (tar(directory(b"d", pax={"SCHILY.xattr.user.overlay.opaque": b"y"})), "'d'"),
    "security.ima": (tar(entry(b"i", b"x", pax={"SCHILY.xattr.security.ima": b"x"})), "'i'"),
    "system.posix_acl_access": (tar(entry(b"i", b"x", pax={"SCHILY.xattr.system.posix_acl_access": b"x"})), "'i'"),
    "an access control list": (tar(entry(b"i", b"x", pax={"SCHILY.acl.access": b"user::rwx"})), "'i'"),
    "an attribute without a name": (tar(entry(b"i", b"x", pax={"SCHILY.xattr.": b"x"})), "'i'"),
    "an attribute of a link": (tar(symlink(b"l", b"x", pax={"SCHILY.xattr.user.a": b"x"})), "'l'"),
    "a large attribute": (tar(entry(b"i", b"x", pax={"SCHILY.xattr.user.a": b"x" * 70000})), "'i'"),
    "GNU sparse": (tar(entry(b"s", kind=b"S", size=0)), "'s'"),
    "pax sparse": (tar(entry(b"s", b"0\n", pax={"GNU.sparse.major": b"1", "GNU.sparse.realsize": b"%d" % (1 << 60)})), "'s'"),
    "unknown type": (tar(entry(b"u", kind=b"V")), "'u'"),
    "multi-volume": (tar(entry(b"u", kind=b"M")), "'u'"),
    "whiteout without a name": (tar(entry(b".wh.")), "'.wh.'"),
    "whiteout of .": (tar(entry(b".wh..")), "'.wh..'"),
    "whiteout of ..": (tar(entry(b"d/.wh...")), "d/.wh..."),
    "whiteout of a whiteout": (tar(entry(b".wh..wh.a")), ".wh..wh.a"),
    "whiteout with content": (tar(entry(b".wh.a", b"x")), ".wh.a"),
    "whiteout as a directory": (tar(directory(b".wh.a")), ".wh.a"),
    "whiteout as a link": (tar(symlink(b".wh..wh..opq", OUT)), ".wh..wh..opq"),
    "whiteout of what is made": (tar(A, entry(b".wh.a")), ".wh.a"),
    "made after its whiteout": (tar(entry(b".wh.a"), A), "'a'"),
    "made below a whiteout": (tar(entry(b".wh.d"), entry(b"d/a", b"x")), "d/a"),
    "whiteout twice": (tar(entry(b".wh.a"), entry(b".wh.a")), ".wh.a"),
    "whiteout through a link": (tar(symlink(b"l", OUT), entry(b"l/.wh.precious")), "l/.wh.precious"),
    "opaque through a link": (tar(symlink(b"l", OUT), entry(b"l/.wh..wh..opq")), "l/.wh..wh..opq"),
    "negative owner": (tar(entry(b"o", b"x", uid_field=b"\xff" * 8)), "'o'"),
    "owner -1": (tar(entry(b"o", b"x", pax={"uid": b"%d" % ((1 << 32) - 1)})), "'o'"),
    "owner in words": (tar(entry(b"o", b"x", pax={"gid": b"root"})), "'o'"),
    "mode in words": (tar(entry(b"o", b"x", mode_field=b"rwxr-x\0")), "'o'"),
    "impossible time": (tar(entry(b"t", b"x", pax={"mtime": b"99999999999999"})), "'t'"),
    "time in words": (tar(entry(b"t", b"x", pax={"mtime": b"1.2.3"})), "'t'"),
    "negative size": (tar(entry(b"z", b"x", size_field=b"\xff" * 12)), "'z'"),
    "size in words": (tar(entry(b"z", b"x", size_field=b"0000000000x")), "'z'"),
    "a size beyond all": (tar(entry(b"z", b"x", pax={"size": b"%d" % (1 << 63)})), "'z'"),
    "a size beyond the limit": (tar(entry(b"z", b"x", pax={"size": b"%d" % (1 << 40)})), "'z'"),
    "a size beyond the archive": (tar(entry(b"z", b"x", size=1 << 20)), "'z'"),
    "a directory with content": (tar(directory(b"d", size=512), bytes(512)), "'d'"),
    "a link with content": (tar(symlink(b"l", b"x", size=512), bytes(512)), "'l'"),
    "two extended headers": (tar(header(b"p", b"x", 12) + archives.padded(record(b"path", b"b")[:12]), entry(b"a", b"x", pax={"path": b"c"})), "extended"),
    "extended header: a key twice": (tar(entry(b"x", pax=record(b"path", b"a") + record(b"path", b"b"))), "'path' twice"),
    "extended header: wrong length": (tar(entry(b"x", pax=b"99 path=a\n")), "extended"),
    "extended header: negative length": (tar(entry(b"x", pax=b"-1 path=a\n")), "extended"),
    "extended header: too large": (tar(header(b"p", b"x", 1 << 32), A), "%d bytes" % (1 << 32)),
    "long name: too large": (tar(header(b"L", b"L", 1 << 32), A), "%d bytes" % (1 << 32)),
    "long name twice": (tar(header(b"L", b"L", 2) + archives.padded(b"b\0"), header(b"L", b"L", 2) + archives.padded(b"c\0"), A), "two long names"),
    "a path for all entries": (tar(header(b"g", b"g", len(record(b"path", b"b"))) + archives.padded(record(b"path", b"b")), A), "'path'"),
    "an attribute for all entries": (tar(header(b"g", b"g", len(record(b"SCHILY.xattr.user.a", b"b"))) + archives.padded(
        record(b"SCHILY.xattr.user.a", b"b")), A), "user.a"),
    "wrong checksum": (tar(A, entry(b"b", b"x", checksum=b"000001\0 ")), "'a'"),
    "damaged in the middle": (tar(A)[:512] + b"x" * 512 + tar(A), "'a'"),
    "no archive at all": (b"x" * 4096, "no tar archive"),
    "empty": (b"", "cut short"),
    "without an end": (A, "no end"),
    "cut in a header": (tar(A, A)[:1300], "'a'"),
    "cut in content": (entry(b"z", ZEROS)[:8192], "'z'"),
    "cut in padding": (entry(b"z", b"x")[:600], "'z'"),
    "an end behind a long name": (tar(header(b"L", b"L", 2) + archives.padded(b"b\0")), "ends"),
    "something behind the end": (tar(A) + tar(entry(b"late", b"x")), "behind the end"),
    "gzip: cut short": (gzip.compress(tar(entry(b"z", ZEROS)))[:-12], "cut short"),
    "gzip: damaged": (gzip.compress(tar(A))[:-8] + b"12345678", "damaged"),
    "gzip: something behind it": (gzip.compress(tar(A)) + b"more", "damaged"),
    "xz: cut short": (lzma.compress(tar(A))[:-12], "cut short"),
    "xz: something behind it": (lzma.compress(tar(A)) + b"more", "compressed data"),
    "zstd: damaged": (b"\x28\xb5\x2f\xfd" + b"x" * 64, "damaged"),
    "bzip2": (bz2.compress(tar(*[entry(b"%d" % (number ** 9)) for number in range(2000)])), "no tar archive"),
}


def _bomb():
    return gzip.compress(tar(entry(b"bomb", bytes(160 << 20))))


# name: (the archive, limits, what the refusal names)
BOMBS = {
    "ratio": (_bomb, {"ratio": 200}, "1:200"),
    "zeros behind the end": (lambda: gzip.compress(tar(A) + bytes(160 << 20)), {"ratio": 200}, "1:200"),
    "size": (_bomb, {"ratio": 2000, "size": "100M"}, "%d bytes" % (100 << 20)),
    "one file": (_bomb, {"ratio": 2000, "file_size": "100M"}, "'bomb'"),
    "entries": (lambda: tar(*[entry(b"f%d" % number) for number in range(101)]), {"entries": 100}, "100 entries"),
    "implicit directories": (lambda: tar(*[entry(b"%d/x" % number) for number in range(101)]), {"entries": 100}, "100 entries"),
}


def layout(change):
    def make(path):
        made = Layout(path, tar(A))
        change(made)
        return made.done()
    return make


def _wrong_blob(number):
    """Overwrite the blob of a layer by something of the same size."""
    def change(made):
        layer = made.manifest["layers"][number]
        archives.write("%s/blobs/sha256/%s" % (made.path, layer["digest"][7:]), bytes(layer["size"]))
    return change


def _update(part, **values):
    return lambda made: {"config": made.config, "layer": made.manifest["layers"][0], "index": made.index, "entry": made.entry, "layout": made.layout}.get(
        part, made.manifest).update(values)


def _loop(made):
    """Two indexes cannot name each other by digest; one that lies about its size can be any. So: many, one in the other."""
    below = {"schemaVersion": 2, "manifests": []}
    for dummy in range(8):
        below = {"schemaVersion": 2, "manifests": [made.blob(below, archives.INDEX)]}
    made.index["manifests"] = below["manifests"]


def _replaced(made):
    name = made.manifest["layers"][0]["digest"][7:]
    archives.os.unlink("%s/blobs/sha256/%s" % (made.path, name))
    archives.os.symlink("/etc/shadow", "%s/blobs/sha256/%s" % (made.path, name))


def _fifo(made):
    name = made.manifest["layers"][0]["digest"][7:]
    archives.os.unlink("%s/blobs/sha256/%s" % (made.path, name))
    archives.os.mkfifo("%s/blobs/sha256/%s" % (made.path, name))


# name: (what writes the layout at a path, what the refusal names)
LAYOUTS = {
    "layer: other content": (layout(_wrong_blob(0)), "sha256:"),
    "layer: wrong size": (layout(_update("layer", size=1)), "bytes, not 1"),
    "layer: negative size": (layout(_update("layer", size=-1)), "size"),
    "layer: another's digest": (layout(_update("layer", digest="sha256:" + "0" * 64)), "0000"),
    "layer: a path as digest": (layout(_update("layer", digest="sha256:../../../../etc/shadow")), "digest"),
    "layer: digest of md5": (layout(_update("layer", digest="md5:" + "0" * 32)), "digest"),
    "layer: to be fetched": (layout(_update("layer", urls=["http://example.org/"])), "elsewhere"),
    "layer: unknown kind": (layout(_update("layer", mediaType="application/octet-stream")), "octet-stream"),
    "layer: not to be distributed": (layout(_update("layer", mediaType="application/vnd.oci.image.layer.nondistributable.v1.tar")), "nondistributable"),
    "layer: a link out": (layout(_replaced), "cannot be read"),
    "layer: a fifo": (layout(_fifo), "regular"),
    "config: another diff_id": (layout(_update("config", rootfs={"type": "layers", "diff_ids": ["sha256:" + "1" * 64]})), "1111"),
    "config: too few diff_ids": (layout(_update("config", rootfs={"type": "layers", "diff_ids": []})), "1 layers"),
    "config: no rootfs": (layout(_update("config", rootfs=None)), "rootfs"),
    "config: another architecture": (layout(_update("config", architecture="s390x")), "s390x"),
    "config: a command of numbers": (layout(_update("config", config={"Cmd": [1]})), "Cmd"),
    "config: environment as text": (layout(_update("config", config={"Env": "A=b"})), "Env"),
    "manifest: other version": (layout(_update("manifest", schemaVersion=1)), "schemaVersion"),
    "manifest: an index, too": (layout(_update("manifest", manifests=[])), "manifests"),
    "manifest: says it is an index": (layout(_update("manifest", mediaType=archives.INDEX)), "another kind"),
    "manifest: no layers": (layout(_update("manifest", layers={})), "layers"),
    "manifest: config of a chart": (layout(_update("manifest", config={
        "mediaType": "application/vnd.cncf.helm.config.v1+json", "digest": "sha256:" + "0" * 64, "size": 2})), "helm"),
    "manifest: no JSON": (layout(lambda made: setattr(made, "manifest", b"{]")), "JSON"),
    "manifest: a key twice": (layout(lambda made: setattr(made, "manifest", b'{"schemaVersion": 2, "schemaVersion": 2}')), "twice"),
    "manifest: nested deep": (layout(lambda made: setattr(made, "manifest", b"[" * 100000)), "JSON"),
    "manifest: too large": (layout(lambda made: setattr(made, "manifest", b" " * (5 << 20))), "bytes"),
    "entry: wrong size": (layout(_update("entry", size=7)), "digest"),
    "entry: unknown kind": (layout(_update("entry", mediaType="text/html")), "text/html"),
    "entry: another platform": (layout(_update("entry", platform={"os": "plan9", "architecture": "mips"})), "plan9"),
    "index: nested": (layout(_loop), "deep"),
    "index: layers in it": (layout(_update("index", layers=[])), "layers"),
    "index: version as text": (layout(_update("index", schemaVersion="2")), "schemaVersion"),
    "layout: other version": (layout(_update("layout", imageLayoutVersion="2.0.0")), "imageLayoutVersion"),
}
