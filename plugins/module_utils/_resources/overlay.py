# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An overlay at a path of the host or of a pinned mount namespace: found, compared, mounted, replaced, unmounted.

Overlayfs ignores every option of a remount and says that all went well, so a change is always a new overlay in the place
of the old one; only the flags of the mount itself change in place.
"""

from __future__ import annotations

import os

from .._kernel import holders, mountinfo, overlayfs, syscalls, trees
from .._model.errors import BulkheadError, reason
from .._model.overlay import OverlaySpec, key_of
from . import _layers, _uses
from ._mounting import NOUN, Build, Found, Undeclared, flags_of, look, owned, pin_of, place, visiting


def parse(options, path, problems):
    return OverlaySpec.from_options(options, path, problems)


def plan(host, spec, plan):
    """Everything between the overlay as it is and as declared."""
    found = Found(host, spec.namespace, spec.path, required=spec.state == "mounted")
    foreign = [mount for mount in found.stack if not owned(host, spec.key, mount)]
    if spec.state == "mounted":
        _plan_mounted(host, spec, plan, found, foreign)
    else:
        _plan_gone(host, spec, plan, found, foreign)


def _plan_mounted(host, spec, plan, found, foreign):
    layers, differences = wanted(host, spec, found.layers if found.is_overlay else None)
    _layers.plan_mounts(host, layers.lower, plan)
    flags = flags_of(spec, found.mount if found.is_overlay else None)
    stacked = found.is_overlay and len(found.stack) > 1
    if found.is_overlay and not differences and not spec.reset and not stacked:
        if not foreign:
            plan.record(NOUN, spec.key, dict(spec.declared, state="mounted"), merge=True)
        _plan_attributes(host, spec, plan, found, foreign)
        _plan_leftovers(host, layers, plan)
        return
    if found.mount is not None:
        _may_replace(host, spec, found, foreign, differences)
    replaced = [mount.device for mount in found.stack]
    _layers.check(host, place(spec), layers, replaced, spec.reset)
    _check_path(host, spec, layers)
    _warn_unseen(host, spec, found, plan)
    _layers.plan_directories(host, layers, plan)
    if spec.namespace is None and not os.path.isdir(spec.path):
        plan.differ("path", None, spec.path)
        plan.add("make directory %s" % spec.path, lambda: _layers.make(found.path), lambda: os.rmdir(found.path))
    for key, (before, after) in differences.items():
        plan.differ(key, before, after)
    build = Build(host, spec, found, layers, flags)
    same_upper = found.is_overlay and found.layers.upper and layers.upper == found.layers.upper
    if found.mount is None:
        plan.differ("state", "unmounted", "mounted")
        _differ_whole(plan, None, layers)
        _plan_reset(host, spec, plan, layers, found)
        plan.add("mount overlay on %s" % place(spec), build.mount, build.unmount)
    elif same_upper or spec.reset or len(found.stack) > 1 or not found.is_overlay:
        # Never two overlays on one upper: the old one goes first.
        plan.add("unmount overlay from %s" % place(spec), build.unmount_old, build.mount_old)
        _plan_reset(host, spec, plan, layers, found)
        plan.add("mount overlay on %s" % place(spec), build.mount, build.unmount)
    else:
        plan.add("replace overlay on %s" % place(spec), build.replace)
    _plan_leftovers(host, layers, plan, made=spec.reset)
    plan.record(NOUN, spec.key, dict(spec.declared, state="mounted"), merge=True)
    host.promised.add((NOUN, spec.key))


def _differ_whole(plan, before, after):
    """What an overlay is made of, where it comes or goes as a whole."""
    for key in ("lower", "data", "upper", "work"):
        pair = [getattr(layers, key) or None if layers is not None else None for layers in (before, after)]
        if pair != [None, None]:
            plan.differ(key, *pair)


def wanted(host, spec, shown, remembered=None):
    """(the Layers to mount, {key: (before, after)} of what is declared and different). What is not declared stays as shown.

    ``remembered``: the identities of the layers when it was mounted; by default those of the claim.
    """
    layers, differences = spec.layers(), {}
    if shown is None:
        return layers, differences
    if remembered is None:
        remembered = ((host.claims.read(NOUN, spec.key) or {}).get("identity") or {}).get("layers", {})
    for key in ("lower", "data", "upper", "work"):
        declared, before = getattr(spec, key), getattr(shown, key)
        if declared is None and not (spec.whole and before):
            setattr(layers, key, before)
            continue
        mine = [path for path in (declared if isinstance(declared, list) else [declared]) if path]
        theirs = [path for path in (before if isinstance(before, list) else [before]) if path]
        if mine != theirs and [_layers.known_by(path) or path for path in mine] != [_layers.known_by(path) or path for path in theirs]:
            differences[key] = (before, declared)
        else:
            moved = [path for path in theirs if path in remembered and remembered[path] != _layers.known_by(path)
                     and ("directory", path) not in host.promised]  # what it lies on is mounted again before
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


def _plan_attributes(host, spec, plan, found, foreign):
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
    flags, old = flags_of(spec, found.mount), flags_of(Undeclared, found.mount)

    def change(value):
        with visiting(host, spec):
            overlayfs.set_attributes(found.path, value)
    plan.add("set %s of overlay on %s" % (", ".join(changes), place(spec)), lambda: change(flags), lambda: change(old))


def _foreign(spec, why):
    return BulkheadError("Cannot change what is mounted on %s: it was not made by us and %s. Unmount it, or set force: true."
                         % (place(spec), why))


def _may_replace(host, spec, found, foreign, differences):
    """Refuse to take away what is mounted there, unless the Spec allows it and nobody uses it."""
    if foreign and not spec.force:
        if not found.is_overlay:
            raise _foreign(spec, "is no overlay but %s" % found.mount.fstype)
        if len(found.stack) > 1:
            raise _foreign(spec, "%d mounts are stacked there" % len(found.stack))
        raise _foreign(spec, "differs in %s" % ", ".join(sorted(differences)) if differences else "would be reset")
    if differences and spec.on_mismatch != "recreate" and not foreign:
        raise BulkheadError("Cannot change overlay on %s in place: it differs in %s. Set on_mismatch: recreate to replace the mount."
                            % (place(spec), ", ".join(
                                "%s (%s, declared %s)" % (key, _short(pair[0]), _short(pair[1])) for key, pair in sorted(differences.items()))))
    _refuse_in_use(host, spec, found, "replace")


def _short(value):
    text = str(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _refuse_in_use(host, spec, found, verb):
    for mount in found.stack:
        major, minor = mount.device.split(":")
        device = os.makedev(int(major), int(minor))
        users = holders.processes(host.proc, device) if mount.fstype == "overlay" else []
        if users and not spec.lazy:
            names = ", ".join("%s (pid %d: %s)" % (holders.command(host.proc, pid), pid, what) for pid, what in users[:3])
            raise BulkheadError("Cannot %s overlay on %s: %d processes use it: %s. Stop them, or set lazy: true." % (
                verb, place(spec), len(users), names), holders=[{"pid": pid, "holds": what} for pid, what in users])
        if verb == "replace" and found.layers is not None and found.layers.upper:
            kept = _copies(host, spec, mount)
            if kept:
                raise BulkheadError("Cannot replace overlay on %s: another mount namespace keeps a copy of it (%s). Unmount it there."
                                    % (place(spec), ", ".join("pid %d" % who if isinstance(who, int) else str(who) for who in kept[:3])))


def _copies(host, spec, mount):
    """Who shows a mount in another mount namespace and keeps it when it is unmounted here.

    An unmount reaches the copies whose parents are peers or slaves of the parent of what is unmounted, at the same place, if
    nothing is mounted on them.
    """
    shown = {who for who, other, layers in _layers.overlays(host) if other.device == mount.device}
    home = _layers.identity(pin_of(host, spec.namespace) if spec.namespace else host.proc + "/self/ns/mnt")
    others = {who: _uses.table_of(host, who) for who in shown if _uses.namespace_of(host, who) != home}
    if not others:
        return []
    table = look(host, spec.namespace, spec.path)[1]
    parent = table.by_id.get(mount.parent)
    here, tags, kept = parent and mountinfo.place_on(parent, mount.target), _reached(parent, others.values()), []
    for who, table in others.items():
        for other in table.mounts:
            if other.device == mount.device and other.fstype == "overlay":
                over = table.by_id.get(other.parent)
                if over is None or not tags.intersection(over.propagation) or mountinfo.place_on(over, other.target) != here or \
                        any(each.parent == other.id for each in table.mounts):
                    kept.append(who)
    return kept


def _reached(parent, tables):
    """The tags of mounts that get what happens on this one: its peers and slaves, and theirs."""
    groups = {tag.partition(":")[2] for tag in (parent.propagation if parent else ()) if tag.startswith("shared:")}
    while True:
        slaves = {"master:" + group for group in groups}
        more = {tag.partition(":")[2] for table in tables for mount in table.mounts if slaves.intersection(mount.propagation)
                for tag in mount.propagation if tag.startswith("shared:")}
        if more <= groups:
            return slaves | {"shared:" + group for group in groups}
        groups |= more


def _check_path(host, spec, layers):
    if spec.namespace is not None:
        return
    real, parent = os.path.realpath(spec.path), os.path.dirname(spec.path)
    try:
        os.stat(spec.path)
        if not os.path.isdir(spec.path):
            raise _layers.refusal(place(spec), "the mount point is not a directory", "Name a directory")
    except FileNotFoundError:
        if os.path.lexists(spec.path) or not (os.path.isdir(parent) or _layers.ours(host, spec.path)):
            raise _layers.refusal(place(spec), "there is no directory %s to make the mount point in" % parent, "Make it first") from None
    except OSError as exc:
        raise _layers.refusal(place(spec), "the mount point cannot be reached: %s" % os.strerror(exc.errno), "Correct the path") from None
    for path in (layers.upper, layers.work):
        if path and (real + "/").startswith(os.path.realpath(path) + "/"):
            raise _layers.refusal(place(spec), "the mount point is inside %s" % path, "Name another")


def _warn_unseen(host, spec, found, plan):
    """Where the engine works aside, what is mounted on a private mount stays there; all of ours lies on such."""
    if host.aside and spec.namespace is None and not _layers.ours(host, found.path):
        over = host.mounts().holder(os.path.dirname(found.path))
        if over is not None and not over.shared:
            plan.warn("The overlay on %s is seen by services and sandboxes only, not on the host itself: %s is a private mount there. "
                      "Make that shared to see it (mount --make-shared)." % (place(spec), over.target))


def _plan_reset(host, spec, plan, layers, found):
    if spec.reset:
        for path in (layers.upper, layers.work):
            if path and os.path.isdir(path):
                _layers.refuse_mounts(host.mounts(), path, "empty", found.stack)
                plan.add("empty %s" % path, lambda path=path: _layers.set_aside(host, path), lambda path=path: _layers.put_back(path))


def _plan_leftovers(host, layers, plan, made=False):
    """Steps that remove what a reset has set aside, be it the one of this plan or one that was killed."""
    for path in (layers.upper, layers.work):
        if path and (made and os.path.isdir(path) or os.path.lexists(path + _layers.DISCARDED)):
            _layers.plan_discard(host, path + _layers.DISCARDED, plan)


def _plan_gone(host, spec, plan, found, foreign):
    if foreign and not spec.force:
        raise _foreign(spec, "is %s" % found.mount.fstype)
    recorded = host.records.options(NOUN, spec.key) or {}
    upper = spec.upper or (found.layers.upper if found.layers else None) or recorded.get("upper")
    work = spec.work or (found.layers.work if found.layers else None) or recorded.get("work")
    if found.stack:
        _refuse_in_use(host, spec, found, "unmount")
        plan.differ("state", "mounted", spec.state)
        _differ_whole(plan, found.layers, None)
        build = Build(host, spec, found, found.layers, 0)
        plan.add("unmount overlay from %s" % place(spec), build.unmount_old, build.mount_old)
    elif host.claims.read(NOUN, spec.key) is not None:
        plan.add("forget overlay on %s" % place(spec), lambda: host.claims.drop(NOUN, spec.key))

    def given_up(verb):
        layers = overlayfs.Layers([], upper, work or upper)
        _layers.check(host, place(spec), layers, [mount.device for mount in found.stack], True, spec.sandbox, verb)

    if spec.reset and upper:
        given_up("reset")
        _plan_reset(host, spec, plan, overlayfs.Layers([], upper, work), found)
        _plan_leftovers(host, overlayfs.Layers([], upper, work), plan, made=True)
    if spec.state == "unmounted":
        if recorded or found.stack:
            plan.record(NOUN, spec.key, {"state": "unmounted"}, merge=True)
        return
    if upper and os.path.isdir(upper) and (spec.remove_data or _layers.ours(host, upper)):
        given_up("remove")
    _layers.plan_removal(host, upper, work, spec.remove_data, plan, found.stack)
    if spec.namespace is None and os.path.isdir(spec.path) and not os.path.islink(spec.path) and _removable(found):
        plan.differ("path", spec.path, None)
        plan.add("remove directory %s" % spec.path, lambda: _layers.remove_if_empty(found.path), lambda: _layers.make(found.path))
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
        return True  # this kernel cannot tell; the step leaves it when it is not empty
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


def show(host, key):
    """An overlay as the _info module shows it; ``key`` is its path or (namespace, path). None when none is mounted there."""
    namespace, path = (None, key) if isinstance(key, str) else key
    found = Found(host, namespace, path, required=False)
    if not found.is_overlay:
        return None
    layers = found.layers
    return {
        "path": found.path, "namespace": namespace, "state": "mounted", "lower": layers.lower, "data": layers.data,
        "upper": layers.upper, "work": layers.work, "read_only": "ro" in found.mount.options,
        "options": dict(layers.options, **{name: name in found.mount.options for name in overlayfs.ATTRIBUTES}),
        "device": found.mount.device, "stacked": len(found.stack), "ours": owned(host, key_of(namespace, path), found.mount),
        "raw": found.mount.super_options,
    }


def names(host, namespace=None):
    """The paths of all overlays of the host's mount table, or of a pinned namespace's."""
    table = host.mounts() if namespace is None else look(host, namespace, "/", required=False)[1]
    return sorted({mount.target for mount in table.mounts if mount.fstype == "overlay"}) if table else []


def result(host, params, outcome):
    """What a module returns beside the usual."""
    namespace, path = params.get("namespace"), params["path"]
    return {"overlay": show(host, (namespace, path)) or {"path": path, "namespace": namespace, "state": "unmounted"}}


def info(host, params):
    """What the _info module returns."""
    namespace = params.get("namespace")
    paths = [params["path"]] if params.get("path") else names(host, namespace)
    shown = [found for found in (show(host, (namespace, path)) for path in paths) if found is not None]
    for each in shown if params.get("changes") else ():
        each["changes"] = changes(each)
    return {"overlays": shown}


def changes(shown):
    """What the upper has changed against the layers; None without an upper. ``shown`` has `upper` and `lower`."""
    if not shown or not shown["upper"]:
        return None
    from .._kernel import changes as kernel  # for the one who asks

    try:
        return kernel.between(shown["upper"], shown["lower"])
    except OSError as exc:
        raise BulkheadError("Cannot compare %s with its layers: %s. Mend that, or leave changes out." % (shown["upper"], reason(exc))) from exc
