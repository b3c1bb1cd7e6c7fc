# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The store of layers and images below /var/lib/bulkhead.

    layers/HEX/tree           a layer, under the digest of its manifest; the directory above is for root alone
    layers/HEX/manifest       what is in it, of which HEX is the sha256
    layers/HEX/layer.json     what is known of it beside
    layers/HEX/file           in place of the manifest: what is mounted on tree (`_mounted.py`); HEX is its sha256
    images/NAME.json          an image: its layers, the lowest first, its config, and what it was made from

What begins with a dot is in the making or on its way out: layers/.new-*, layers/.old-*, images/.NAME.json.{new,gone}. Whoever has
the lock and finds such knows that a run was killed, and takes it away with the layers that only it names.
"""

from __future__ import annotations

import errno
import json
import os
import re

from .._kernel import holders, loopdev, manifest, mountinfo, syscalls, trees
from . import _layers, _storage_places

_HEX = re.compile(r"layers/([0-9a-f]{64})(?![0-9a-f])")
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def layers_of(host):
    return host.lib + "/layers"


def images_of(host):
    return host.lib + "/images"


def place(host, digest):
    return "%s/%s" % (layers_of(host), digest.partition(":")[2])


def tree(host, digest):
    """The directory that an overlay takes."""
    return place(host, digest) + "/tree"


def short(digest):
    """A digest as it is told in names of steps and errors."""
    return digest[:19]


def names(host):
    return sorted(name[:-len(".json")] for name in _list(images_of(host)) if name.endswith(".json") and not name.startswith("."))


def image(host, name):
    """What images/NAME.json says; None when it is not there, or not whole."""
    return images(host).get(name)


def images(host):
    """{name: what its file says}."""
    def read():
        found = {name: _load("%s/%s.json" % (images_of(host), name)) for name in names(host)}
        return {name: value for name, value in found.items() if value is not None and isinstance(value.get("layers"), list)}
    return host.cached("images", read)


def layers(host):
    """{digest: what layer.json says} of all layers that are whole."""
    def read():
        found = {}
        for name in _list(layers_of(host)):
            known, path = None if name.startswith(".") else _load("%s/%s/layer.json" % (layers_of(host), name)), "%s/%s/file" % (layers_of(host), name)
            if known is not None and known.get("digest") == "sha256:" + name and (not known.get("filesystem") or os.path.exists(path)):
                found[known["digest"]] = known
        return found
    return host.cached("layers", read)


def forget(host):
    for key in ("images", "layers", "layers in use"):
        host.drop(key)


def by_diff_id(host, diff_id, lowers):
    """The digest of the layer that this archive gave before, over these layers; None."""
    for digest, known in layers(host).items():
        for source in known.get("sources", ()):
            if source["diff_id"] == diff_id and source["over"] in (None, lowers):
                return digest
    return None


def by_key(host, key, lowers, without=()):
    """The digest of the layer that a step of a build with this key gave before, over these layers; None. ``without``: not one of these."""
    for digest, known in layers(host).items():
        if digest not in without and {"key": key, "over": lowers} in known.get("built", ()):
            return digest
    return None


def once(digests):
    """Layers, the lowest first, each once: of one that comes again the upper hides all that the lower has."""
    return list(dict.fromkeys(reversed(digests)))[::-1]


def shared_by(host, digest):
    """The names of the images that have a layer."""
    return sorted(name for name, known in images(host).items() if digest in known["layers"])


def unused(host, without=()):
    """The digests of the layers that nothing needs; ``without``: images that are not counted, as they go."""
    wanted = {digest for name, known in images(host).items() if name not in without for digest in known["layers"]}
    return sorted(set(layers(host)) - wanted - set(in_use(host)))


def in_use(host):
    """{digest: where} of layers in a mount of any mount namespace, or in a declaration that is recorded."""
    return host.cached("layers in use", lambda: _in_use(host))


def _in_use(host):
    found = {}
    if not _list(layers_of(host)):
        return found
    pins = host.state + "/mntns"
    own = {mount.id: mount for mount in host.mounts().below(os.path.realpath(layers_of(host)))}  # of layers that are mounted
    devices = {mount.device: mount.target for mount in own.values()}
    for who, table in holders.tables(host.proc, ["%s/%s" % (pins, name) for name in _list(pins)]):
        for mount in table.mounts:
            places = [mount.root] if mount.fstype != "overlay" else _layers.read(host, mount).lower + _layers.read(host, mount).data
            if mount.device in devices and mount.id not in own:
                places.append(devices[mount.device])
            for path in places:
                for name in _HEX.findall(path):
                    found.setdefault("sha256:" + name, "the mount on %s (%s)" % (
                        mount.target, "pinned by " + who if isinstance(who, str) else "process %d" % who))
    for folder in _list(host.etc):
        noun = folder[:-2]
        for name in host.records.names(noun) if folder.endswith(".d") else ():
            for digest in _HEX.findall(json.dumps(host.records.options(noun, name))):
                found.setdefault("sha256:" + digest, "the declaration of %s" % name)
    for name, digests in _storage_places.chains(host):
        for digest in digests:
            found.setdefault(digest, "the root of %s" % name)
    return found


def damage(host, digest):
    """None, or what is wrong with a layer: (name, what is different). Every byte of it is read."""
    path = place(host, digest)
    try:
        fd = os.open(path + "/tree", _DIRECTORY)
    except OSError as exc:
        return ".", exc.strerror
    try:
        found = manifest.of(fd)
    except OSError as exc:
        name = exc.filename if isinstance(exc.filename, bytes) else b""
        return "./" + name.decode("utf-8", "backslashreplace"), exc.strerror
    finally:
        os.close(fd)
    if found.digest == digest:
        return None
    try:
        with open(path + "/manifest", "rb") as stream:
            wanted = stream.read()
    except OSError:
        wanted = b""
    return manifest.difference(wanted, found.text) or (".", "differs from its digest")


def leftovers(host):
    """(layers, images) that a killed run has left half-made or half-removed."""
    return ([name for name in _list(layers_of(host)) if name.startswith(".")], [name for name in _list(images_of(host)) if name.startswith(".")])


def sweep(host):
    """Take them away; an image's last, so that what it names is found again until it is gone."""
    forget(host)
    layers_left, images_left = leftovers(host)
    for name in layers_left:
        discard(host, name)
    for name in images_left:
        for digest in _only_of(host, name):
            remove_layer(host, digest)
        os.unlink("%s/%s" % (images_of(host), name))


def doomed(host):
    """The layers that sweep() removes: they are there, and no plan may count on them."""
    return {digest for name in leftovers(host)[1] for digest in _only_of(host, name)}


def _only_of(host, name):
    named = (_load("%s/%s" % (images_of(host), name)) or {}).get("layers", ())
    return set(unused(host)).intersection(named if isinstance(named, list) else ())


def remove_layer(host, digest):
    """Out of its name in one rename, then away."""
    name = digest.partition(":")[2]
    aside = ".old-" + name
    if os.path.lexists("%s/%s" % (layers_of(host), aside)):
        discard(host, aside)
    os.rename(place(host, digest), "%s/%s" % (layers_of(host), aside))
    discard(host, aside)
    forget(host)


def discard(host, name):
    """Remove a directory below layers/, whatever is in it."""
    unmount(host, "%s/%s" % (layers_of(host), name))
    fd = os.open(layers_of(host), _DIRECTORY)
    try:
        trees.remove_tree(fd, name)
    finally:
        os.close(fd)


def unmount(host, path):
    """Unmount the layer in a directory below layers/, if it is one that is mounted. Plans refuse what is in use; who comes later keeps what he has."""
    for mount in mountinfo.read(host.proc).at(os.path.realpath(path) + "/tree") if os.path.ismount(path + "/tree") else ():
        if mount.fstype in loopdev.KINDS:
            syscalls.umount(path + "/tree", syscalls.UMOUNT_NOFOLLOW | syscalls.MNT_DETACH)


def is_empty(host):
    """Is there neither an image nor a layer, whole or not?"""
    return not _list(images_of(host)) and not _list(layers_of(host))


def clear(host):
    """Remove all images, and all layers that nothing needs."""
    for name in names(host):
        give_up(host, name)
    sweep(host)
    for digest in unused(host):
        remove_layer(host, digest)


def give_up(host, name):
    """Make an image one that is on its way out: sweep() does the rest."""
    os.rename("%s/%s.json" % (images_of(host), name), "%s/.%s.json.gone" % (images_of(host), name))
    forget(host)


def put_back(host, name, known):
    """The image as it was, or none; layers that only the new one has go with it."""
    give_up(host, name)
    if known:
        write_image(host, name, known)
    sweep(host)


class Arrival:
    """Layers and an image on their way into the store: nothing has its name before all of it is on the disk."""

    def __init__(self, host):
        self.host, self._waiting, self._known, self._made = host, {}, {}, []
        for path in (layers_of(host), images_of(host)):
            os.makedirs(path, mode=0o700, exist_ok=True)

    def room(self):
        """The path of a new directory for a layer, with an empty tree in it."""
        path = "%s/.new-%d-%d" % (layers_of(self.host), os.getpid(), len(self._made))
        os.mkdir(path, 0o700)
        self._made.append(path)
        os.mkdir(path + "/tree", 0o755)
        return path

    def tree(self, digest):
        """Where the tree of a layer is now, be it in the store already or on its way."""
        return self._waiting[digest] + "/tree" if digest in self._waiting else tree(self.host, digest)

    def layer(self, path, found, known):
        """A tree is unpacked in a room(): ``found`` is its manifest, ``known`` goes into layer.json. Its digest."""
        if found.digest in self._waiting:
            discard(self.host, os.path.basename(path))
            known = _with_more(self._known[found.digest], known)
            path = self._waiting[found.digest]
        else:
            write(path + "/manifest", found.text)
            self._waiting[found.digest] = path
        self._known[found.digest] = known
        _dump(path + "/layer.json", dict(known, digest=found.digest, entries=found.entries, size=found.size))
        return found.digest

    def mounted(self, path, digest, known):
        """A file is mounted in a room(): its digest."""
        self._waiting[digest], self._known[digest] = path, known
        _dump(path + "/layer.json", dict(known, digest=digest))
        return digest

    def commit(self, name, known, replace=()):
        """Give everything its name: the layers, then the image. ``replace``: layers in the store that are damaged."""
        partial = "%s/.%s.json.new" % (images_of(self.host), name)
        _dump(partial, known)
        flush(layers_of(self.host))
        for digest, path in self._waiting.items():
            if digest in replace and os.path.lexists(place(self.host, digest)):
                remove_layer(self.host, digest)
            if os.path.lexists(place(self.host, digest)):
                self._remember(digest, path)
                discard(self.host, os.path.basename(path))
            else:
                os.rename(path, place(self.host, digest))
        flush(layers_of(self.host))
        os.rename(partial, "%s/%s.json" % (images_of(self.host), name))
        flush(images_of(self.host))
        forget(self.host)

    def _remember(self, digest, path):
        """A layer that is there already has come from another archive or step, too."""
        old = layers(self.host)[digest]
        new = _with_more(old, _load(path + "/layer.json"))
        if new != old:
            _describe(self.host, digest, new)

    def clear(self):
        """After a failure: away with what has no name."""
        for path in self._made:
            if os.path.lexists(path):
                discard(self.host, os.path.basename(path))


def _with_more(known, other):
    """What is known of a layer, with where else it has come from."""
    return dict(known, **{word: known.get(word, []) + [each for each in other.get(word, ()) if each not in known.get(word, ())]
                          for word in ("sources", "built")})


def _describe(host, digest, known):
    partial = place(host, digest) + "/layer.json.new"
    _dump(partial, known)
    os.rename(partial, place(host, digest) + "/layer.json")


def disown(host, digest):
    """A damaged layer is no more what its steps gave."""
    if digest in layers(host):
        _describe(host, digest, dict(layers(host)[digest], built=[]))
        host.drop("layers")


def write_image(host, name, known):
    """Replace the file of an image, or remove it where there is nothing to write."""
    path, partial = "%s/%s.json" % (images_of(host), name), "%s/.%s.json.new" % (images_of(host), name)
    _dump(partial, known)
    flush(images_of(host))
    os.rename(partial, path)
    forget(host)


def flush(path):
    """The file system of a directory to its disk."""
    fd = os.open(path, _DIRECTORY)
    try:
        syscalls.syncfs(fd)
    finally:
        os.close(fd)


def write(path, data):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        while data:
            data = data[os.write(fd, data):]
    finally:
        os.close(fd)


def _dump(path, value):
    write(path, json.dumps(value, sort_keys=True).encode())


def _load(path):
    try:
        with open(path, "rb") as stream:
            value = json.loads(stream.read())
    except FileNotFoundError:
        return None
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _list(path):
    try:
        return sorted(os.listdir(path))
    except OSError as exc:
        if exc.errno in (errno.ENOENT, errno.ENOTDIR):
            return []
        raise
