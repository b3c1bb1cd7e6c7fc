# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An overlay at a path of the host or of a pinned mount namespace: found, compared, mounted, replaced, unmounted.

Overlayfs ignores every option of a remount and says that all went well, so a change is always a new overlay in the place
of the old one; only the flags of the mount itself change in place.
"""

from __future__ import annotations

import contextlib
import errno
import os

from .._kernel import holders, inside, overlayfs, syscalls, trees
from .._model.errors import BulkheadError
from .._model.overlay import OverlaySpec, key_of
from . import _layers

NOUN = "overlay"


def parse(options, path, problems):
    return OverlaySpec.from_options(options, path, problems)


class Found:
    """What is at the path of an overlay: ``stack`` are the mounts there, the one that is reached last."""

    __slots__ = ("path", "stack", "mount", "layers", "promised")

    def __init__(self, host, namespace, path):
        self.promised = False
        self.path, table = _look(host, namespace, path)
        if table is None:
            self.promised, self.stack = True, []
        else:
            top, self.stack = table.top(self.path), []
            while top is not None and top.target == self.path:
                self.stack.insert(0, top)
                top = table.by_id.get(top.parent)
        self.mount = self.stack[-1] if self.stack else None
        self.layers = _layers.read(host, self.mount) if self.is_overlay else None

    @property
    def is_overlay(self):
        return self.mount is not None and self.mount.fstype == "overlay"


def pin_of(host, namespace):
    return "%s/mntns/%s" % (host.state, namespace)


def _look(host, namespace, path):
    """(where the path leads, the mount table there); no table when the namespace is only promised by an earlier task."""
    if namespace is None:
        return os.path.realpath(path), host.mounts()
    pin = pin_of(host, namespace)
    if _is_namespace(pin):
        with inside.Inside(pin, host.proc) as there:
            try:
                fd = trees.resolve(there.root, path)
            except OSError:
                return path, host.cached(("mounts", namespace), there.table)
            try:
                return os.readlink("self/fd/%d" % fd, dir_fd=there.procfs), host.cached(("mounts", namespace), there.table)
            finally:
                os.close(fd)
    if ("namespace", namespace) in host.promised or getattr(host, "check", False):
        host.warn("The namespace %s does not exist yet; an earlier task is expected to make it." % namespace)
        return path, None
    raise BulkheadError("Cannot use overlay %s: no mount namespace %s is pinned. Make it with bulkhead.isolation.namespace."
                        % (path, namespace))


def _is_namespace(path):
    """Is a namespace pinned here, or does a plain file lie there?"""
    try:
        return syscalls.fs_magic(path) == 0x6E736673
    except OSError:
        return False


def _tag(mount):
    return [mount.device, mount.id]


def _owned(host, key, mount):
    claim = host.claims.read(NOUN, key)
    if claim is None:
        return False
    return claim.get("identity") is None or _tag(mount) in claim["identity"].get("mounts", ())


def _place(spec):
    return spec.path if spec.namespace is None else "%s in namespace %s" % (spec.path, spec.namespace)


def plan(host, spec, plan):
    """Everything between the overlay as it is and as declared."""
    found = Found(host, spec.namespace, spec.path)
    foreign = [mount for mount in found.stack if not _owned(host, spec.key, mount)]
    if spec.state == "mounted":
        _plan_mounted(host, spec, plan, found, foreign)
    else:
        _plan_gone(host, spec, plan, found, foreign)


def _plan_mounted(host, spec, plan, found, foreign):
    layers, differences = wanted(host, spec, found.layers if found.is_overlay else None)
    flags = _flags(spec, found.mount if found.is_overlay else None)
    stacked = found.is_overlay and len(found.stack) > 1
    if found.is_overlay and not differences and not spec.reset and not stacked:
        if not foreign:
            plan.record(NOUN, spec.key, dict(spec.declared, state="mounted"), merge=True)
        _plan_flags(host, spec, plan, found, foreign)
        _plan_leftovers(layers, plan)
        return
    if found.mount is not None:
        _may_replace(host, spec, found, foreign, differences)
    replaced = [mount.device for mount in found.stack]
    _layers.check(host, _place(spec), layers, replaced, spec.reset)
    _check_path(host, spec, layers)
    _layers.plan_directories(host, layers, plan)
    if spec.namespace is None and not os.path.isdir(spec.path):
        plan.add("make directory %s" % spec.path, lambda: _layers.make(found.path), lambda: os.rmdir(found.path))
    for key, (before, after) in differences.items():
        plan.differ(key, before, after)
    build = _Build(host, spec, found, layers, flags)
    same_upper = found.is_overlay and found.layers.upper and layers.upper == found.layers.upper
    if found.mount is None:
        plan.differ("state", "unmounted", "mounted")
        _plan_reset(spec, plan, layers)
        plan.add("mount overlay on %s" % _place(spec), build.mount, build.unmount)
    elif same_upper or spec.reset or len(found.stack) > 1 or not found.is_overlay:
        # Never two overlays on one upper: the old one goes first.
        plan.add("unmount overlay from %s" % _place(spec), build.unmount_old, build.mount_old)
        _plan_reset(spec, plan, layers)
        plan.add("mount overlay on %s" % _place(spec), build.mount, build.unmount)
    else:
        plan.add("replace overlay on %s" % _place(spec), build.replace)
    _plan_leftovers(layers, plan, made=spec.reset)
    plan.record(NOUN, spec.key, dict(spec.declared, state="mounted"), merge=True)
    host.promised.add((NOUN, spec.key))


def wanted(host, spec, shown):
    """(the Layers to mount, {key: (before, after)} of what is declared and different). What is not declared stays as shown."""
    layers, differences = spec.layers(), {}
    if shown is None:
        return layers, differences
    claim = host.claims.read(NOUN, spec.key)
    remembered = ((claim or {}).get("identity") or {}).get("layers", {})
    for key in ("lower", "data", "upper", "work"):
        declared, before = getattr(spec, key), getattr(shown, key)
        if declared is None and not (spec.whole and before):
            setattr(layers, key, before)
            continue
        mine = [path for path in (declared if isinstance(declared, list) else [declared]) if path]
        theirs = [path for path in (before if isinstance(before, list) else [before]) if path]
        if mine != theirs and [_layers.identity(path) or path for path in mine] != [_layers.identity(path) or path for path in theirs]:
            differences[key] = (before, declared)
        else:
            moved = [path for path in theirs if path in remembered and remembered[path] != _layers.identity(path)]
            if moved:
                differences[key] = (["%s (as it was)" % path for path in moved], moved)
    known = _layers.known(host)
    for key, value in shown.options.items():
        if key in spec.options:
            if not overlayfs.same_option(key, spec.options[key], value, known, layers.upper):
                differences[key] = (value, spec.options[key])
        elif value != known[key] and not (key == "redirect_dir" and overlayfs.same_option(key, known[key], value, known, layers.upper)):
            if key != "uuid" and not spec.whole:
                layers.options[key] = value
            elif key not in ("uuid", "xino", "redirect_dir") and not _implied(key, value, spec.options):
                differences[key] = (value, known[key])
    return layers, differences


def _implied(key, value, options):
    """Options that bring others with them."""
    return (key == "metacopy" and value == "on" and options.get("verity") in ("on", "require")
            or key == "index" and value == "on" and options.get("nfs_export") == "on")


def _flags(spec, mount):
    """The attributes that the mount shall have: declared, else as they are."""
    now = set(mount.options) if mount is not None else set()
    flags = syscalls.MOUNT_ATTR_RDONLY if (("ro" in now) if spec.read_only is None else spec.read_only) else 0
    for key, bit in overlayfs.ATTRIBUTES.items():
        if spec.attributes.get(key, key in now):
            flags |= bit
    return flags


def _plan_flags(host, spec, plan, found, foreign):
    now = {key: key in found.mount.options for key in overlayfs.ATTRIBUTES}
    now["read_only"] = "ro" in found.mount.options
    declared = dict(spec.attributes)
    if spec.read_only is not None and (spec.read_only or found.layers.upper):
        declared["read_only"] = spec.read_only
    changes = {key: (now[key], value) for key, value in sorted(declared.items()) if now[key] != value}
    if not changes:
        return
    if foreign and not spec.force:
        raise _foreign(spec, "differs in %s" % ", ".join(changes))
    for key, (before, after) in changes.items():
        plan.differ(key, before, after)
    flags, old = _flags(spec, found.mount), _flags(_Undeclared, found.mount)

    def change(value):
        with _there(host, spec):
            overlayfs.set_attributes(found.path, value)
    plan.add("set %s of overlay on %s" % (", ".join(changes), _place(spec)), lambda: change(flags), lambda: change(old))


class _Undeclared:
    read_only, attributes = None, {}


def _foreign(spec, why):
    return BulkheadError("Cannot change what is mounted on %s: it was not made by us and %s. Unmount it, or set force: true."
                         % (_place(spec), why))


def _may_replace(host, spec, found, foreign, differences):
    """Refuse to take away what is mounted there, unless the Spec allows it and nobody uses it."""
    if foreign and not spec.force:
        if not found.is_overlay:
            raise _foreign(spec, "is no overlay but %s" % found.mount.fstype)
        if len(found.stack) > 1:
            raise _foreign(spec, "%d mounts are stacked there" % len(found.stack))
        raise _foreign(spec, "differs in %s" % ", ".join(sorted(differences)) if differences else "would be reset")
    if differences and spec.on_mismatch != "recreate":
        raise BulkheadError("Cannot change overlay on %s in place: it differs in %s. Set on_mismatch: recreate to replace the mount."
                            % (_place(spec), ", ".join("%s (%s, declared %s)" % (key, _short(pair[0]), _short(pair[1]))
                                                       for key, pair in sorted(differences.items()))))
    _refuse_in_use(host, spec, found, "replace")


def _short(value):
    text = str(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _refuse_in_use(host, spec, found, verb):
    for mount in found.stack:
        major, minor = mount.device.split(":")
        device = os.makedev(int(major), int(minor))
        copies = [who for who, other, layers in _layers.overlays(host) if other.device == mount.device and who != pin_of(host, spec.namespace)]
        users = holders.processes(host.proc, device) if mount.fstype == "overlay" else []
        if users and not spec.lazy:
            names = ", ".join("%s (pid %d: %s)" % (holders.command(host.proc, pid), pid, what) for pid, what in users[:3])
            raise BulkheadError("Cannot %s overlay on %s: %d processes use it: %s. Stop them, or set lazy: true." % (
                verb, _place(spec), len(users), names), holders=[{"pid": pid, "holds": what} for pid, what in users])
        mine = _own_copies(host, spec, copies)
        if verb == "replace" and found.layers is not None and found.layers.upper and mine:
            raise BulkheadError("Cannot replace overlay on %s: another mount namespace keeps a copy of it (%s). Unmount it there."
                                % (_place(spec), ", ".join("pid %d" % who if isinstance(who, int) else str(who) for who in mine[:3])))


def _own_copies(host, spec, copies):
    """Of the namespaces that show a mount, those that an unmount here does not reach: other than our own, and not ours by propagation."""
    if spec.namespace is not None:
        home = [os.stat(pin_of(host, spec.namespace)).st_ino]
    else:
        home = [os.stat(host.proc + "/self/ns/mnt").st_ino]
    found = []
    for who in copies:
        try:
            inode = os.stat("%s/%d/ns/mnt" % (host.proc, who) if isinstance(who, int) else who).st_ino
        except OSError:
            continue
        if inode not in home:
            found.append(who)
    return found


def _check_path(host, spec, layers):
    if spec.namespace is not None:
        return
    real, parent = os.path.realpath(spec.path), os.path.dirname(spec.path)
    try:
        os.stat(spec.path)
        if not os.path.isdir(spec.path):
            raise _layers.refusal(_place(spec), "the mount point is not a directory", "Name a directory")
    except FileNotFoundError:
        if os.path.lexists(spec.path) or not (os.path.isdir(parent) or _layers.ours(host, spec.path)):
            raise _layers.refusal(_place(spec), "there is no directory %s to make the mount point in" % parent, "Make it first") from None
    except OSError as exc:
        raise _layers.refusal(_place(spec), "the mount point cannot be reached: %s" % os.strerror(exc.errno), "Correct the path") from None
    for path in (layers.upper, layers.work):
        if path and (real + "/").startswith(os.path.realpath(path) + "/"):
            raise _layers.refusal(_place(spec), "the mount point is inside %s" % path, "Name another")


def _plan_reset(spec, plan, layers):
    if spec.reset:
        for path in (layers.upper, layers.work):
            if path and os.path.isdir(path):
                plan.add("empty %s" % path, lambda path=path: _layers.set_aside(path), lambda path=path: _layers.put_back(path))


def _plan_leftovers(layers, plan, made=False):
    paths = [path + _layers.DISCARDED for path in (layers.upper, layers.work) if path and os.path.isdir(path)] if made else []
    for path in paths or _layers.leftovers((layers.upper, layers.work)):
        plan.add("remove %s" % path, lambda path=path: _layers.discard(path))


def _plan_gone(host, spec, plan, found, foreign):
    if foreign and not spec.force:
        raise _foreign(spec, "is %s" % found.mount.fstype)
    recorded = host.records.options(NOUN, spec.key) or {}
    upper = spec.upper or (found.layers.upper if found.layers else None) or recorded.get("upper")
    work = spec.work or (found.layers.work if found.layers else None) or recorded.get("work")
    if found.stack:
        _refuse_in_use(host, spec, found, "unmount")
        plan.differ("state", "mounted", spec.state)
        build = _Build(host, spec, found, found.layers, 0)
        plan.add("unmount overlay from %s" % _place(spec), build.unmount_old, build.mount_old)
    if spec.reset and upper:
        _layers.check(host, _place(spec), overlayfs.Layers([], upper, work or upper), [mount.device for mount in found.stack], True)
        _plan_reset(spec, plan, overlayfs.Layers([], upper, work))
        _plan_leftovers(overlayfs.Layers([], upper, work), plan, made=True)
    if spec.state == "unmounted":
        if recorded or found.stack:
            plan.record(NOUN, spec.key, {"state": "unmounted"}, merge=True)
        return
    if upper and os.path.isdir(upper) and (spec.remove_data or _layers.ours(host, upper)):
        _layers.check(host, _place(spec), overlayfs.Layers([], upper, work or upper), [mount.device for mount in found.stack], True)
    _layers.plan_removal(host, upper, work, spec.remove_data, plan)
    if spec.namespace is None and os.path.isdir(spec.path) and not os.path.islink(spec.path) and _removable(found):
        plan.add("remove directory %s" % spec.path, lambda: os.rmdir(found.path), lambda: _layers.make(found.path))
    plan.record(NOUN, spec.key, None)


def _removable(found):
    """An empty mount point; what an overlay covers is looked at when it is gone."""
    if found.stack:
        parent = os.path.dirname(found.path)
        return os.path.isdir(parent) and _covered_is_empty(found.path)
    try:
        return not os.listdir(found.path)
    except OSError:
        return False


def _covered_is_empty(path):
    """Look below a mount without unmounting it: through a clone of the parent's mount that leaves its children out."""
    try:
        fd = syscalls.open_tree(syscalls.AT_FDCWD, os.path.dirname(path), syscalls.OPEN_TREE_CLONE)
    except OSError:
        return False
    try:
        directory = os.open(os.path.basename(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
    except OSError:
        return False
    finally:
        os.close(fd)
    try:
        return trees.is_empty(directory)
    finally:
        os.close(directory)


@contextlib.contextmanager
def _there(host, spec):
    """In the mount namespace of the overlay."""
    if spec.namespace is None:
        yield None
    else:
        with inside.Inside(pin_of(host, spec.namespace), host.proc) as there:
            yield there


class _Build:
    """The acts of a plan, with what they need."""

    def __init__(self, host, spec, found, layers, flags):
        self.host, self.spec, self.found, self.layers, self.flags = host, spec, found, layers, flags

    def _make(self, layers, flags):
        """A detached mount, or None where the kernel has none and it must be mounted in place."""
        try:
            return overlayfs.detached(layers, flags, _layers.short_links(self.host), _layers.stage(self.host))
        except OSError as exc:
            if exc.errno != errno.ENOSYS:
                raise
            if self.spec.namespace is not None:
                raise BulkheadError("Cannot mount overlay on %s: this kernel has no detached mounts (open_tree, Linux 5.2), which a "
                                    "pinned namespace needs. Mount it on the host." % _place(self.spec)) from exc
            return None

    def _attach(self, layers, flags, beneath=False):
        """Claim, then mount: the claim has the identity before anything is to be seen."""
        host, spec, path = self.host, self.spec, self.found.path
        fd = self._make(layers, flags)
        if fd is None:
            host.claims.complete(NOUN, spec.key, None)
            overlayfs.mount_at(path, layers, flags, _layers.short_links(host))
            fd = os.open(path, syscalls.O_PATH | os.O_CLOEXEC)
            try:
                self._claim([_identity(host, fd)], layers)
            finally:
                os.close(fd)
            return False
        try:
            old = [_tag(mount) for mount in self.found.stack] if beneath else []
            self._claim([_identity(host, fd)] + old, layers)
            with _there(host, spec) as there:
                target = trees.make_dirs(there.root, path) if there else os.open(path, syscalls.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    if not beneath:
                        syscalls.move_mount(fd, target)
                        return True
                    try:
                        syscalls.move_mount(fd, target, flags=syscalls.MOVE_MOUNT_BENEATH)
                        syscalls.umount(path, syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW)
                    except OSError as exc:
                        if exc.errno not in (errno.EINVAL, errno.EBUSY):  # before Linux 6.5, or not possible with this propagation
                            raise
                        syscalls.umount(path, syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW)
                        os.close(target)
                        target = os.open(path, syscalls.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                        syscalls.move_mount(fd, target)
                finally:
                    os.close(target)
            self._claim([_identity(host, fd)], layers)
        finally:
            os.close(fd)
        return True

    def _claim(self, mounts, layers):
        self.host.claims.complete(NOUN, self.spec.key, {"mounts": mounts, "layers": _layers.identities(layers)})

    def mount(self):
        self._attach(self.layers, self.flags)

    def unmount(self):
        self._unmount(1)
        self.host.claims.drop(NOUN, self.spec.key)

    def replace(self):
        if self._make_detached_possible():
            self._attach(self.layers, self.flags, beneath=True)
        else:
            self._unmount(len(self.found.stack))
            self._attach(self.layers, self.flags)
        self._drop_links(self.found.layers)

    def _make_detached_possible(self):
        try:
            os.close(syscalls.open_tree(syscalls.AT_FDCWD, "/", 0))
            return True
        except OSError as exc:
            if exc.errno != errno.ENOSYS:
                raise
            return False

    def unmount_old(self):
        self._unmount(len(self.found.stack))
        self.host.claims.drop(NOUN, self.spec.key)
        if self.found.layers is not None:
            self._drop_links(self.found.layers)

    def mount_old(self):
        if self.found.layers is not None:
            self._attach(self.found.layers, _flags(_Undeclared, self.found.mount))

    def _unmount(self, count):
        flags = syscalls.UMOUNT_NOFOLLOW | (syscalls.MNT_DETACH if self.spec.lazy else 0)
        with _there(self.host, self.spec):
            for dummy in range(count):
                try:
                    syscalls.umount(self.found.path, flags)
                except OSError as exc:
                    if exc.errno != errno.EINVAL:  # somebody else was faster
                        raise

    def _drop_links(self, layers):
        """Remove short names that no overlay shows any more."""
        links = _layers.short_links(self.host)
        if not os.path.isdir(links):
            return
        self.host.forget()
        text = [mount.super_options for who, mount, dummy in _layers.overlays(self.host)]
        for name in os.listdir(links):
            if not any(name in options for options in text):
                os.unlink("%s/%s" % (links, name))
        if not os.listdir(links):
            os.rmdir(links)
        self.host.forget()


def _identity(host, fd):
    """[MAJOR:MINOR, mount id] of an open mount, as mountinfo will show them."""
    device = os.fstat(fd).st_dev
    return ["%d:%d" % (os.major(device), os.minor(device)), trees.mount_id(fd, host.proc)]


def show(host, key):
    """An overlay as the _info module shows it; ``key`` is (namespace or None, path). None when none is mounted there."""
    namespace, path = key
    found = Found(host, namespace, path)
    if not found.is_overlay:
        return None
    layers = found.layers
    return {
        "path": found.path, "namespace": namespace, "state": "mounted", "lower": layers.lower, "data": layers.data,
        "upper": layers.upper, "work": layers.work, "read_only": "ro" in found.mount.options,
        "options": dict(layers.options, **{name: name in found.mount.options for name in overlayfs.ATTRIBUTES}),
        "device": found.mount.device, "stacked": len(found.stack), "ours": _owned(host, key_of(namespace, path), found.mount),
        "raw": found.mount.super_options,
    }


def names(host, namespace=None):
    """The paths of all overlays of the host's mount table, or of a pinned namespace's."""
    table = host.mounts() if namespace is None else _look(host, namespace, "/")[1]
    return sorted({mount.target for mount in table.mounts if mount.fstype == "overlay"}) if table else []


def result(host, params, outcome):
    """What a module returns beside the usual."""
    return {"overlay": show(host, (params.get("namespace"), params["path"]))}


def info(host, params):
    """What the _info module returns."""
    namespace = params.get("namespace")
    paths = [params["path"]] if params.get("path") else names(host, namespace)
    return {"overlays": [found for found in (show(host, (namespace, path)) for path in paths) if found is not None]}
