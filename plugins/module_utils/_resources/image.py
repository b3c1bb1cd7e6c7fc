# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An image in the store: found, compared with its source by digests, imported, verified, removed; and layers that nobody needs."""

from __future__ import annotations

from .._kernel.tarstream import ArchiveError
from .._model.errors import BulkheadError
from .._model.image import SOURCES, ImageSpec
from . import _archives, _build, _export, _import, _mounted, _pack, _sandbox_image, _storage_bases, _store
from ._sources import Source

NOUN = "image"


def parse(options, path, problems):
    return ImageSpec.from_options(options, path, problems)


def plan(host, spec, plan):
    """Everything between the store as it is and as declared."""
    if any(_store.leftovers(host)):
        plan.add("remove what a killed run has left in the store", lambda: _store.sweep(host))
    if spec.state == "absent":
        _plan_absent(host, spec, plan)
    elif spec.name is not None:
        _plan_present(host, spec, plan)
    _archives.plan(host, spec, plan)
    if spec.prune:
        _plan_prune(host, spec, plan)


def _refusal(spec, exc, verb="import"):
    text = "Cannot %s image %s%s: %s." % (verb, spec.name, " from %s" % spec.path if spec.path else "", exc.words())
    return BulkheadError("%s %s." % (text, exc.advice or "Take another archive, or mend it"))


def _plan_present(host, spec, plan):
    known = _store.image(host, spec.name)
    if spec.source is None and known is None:
        raise BulkheadError("Cannot make image %s: there is none, and no source is named. Name one: %s." % (
            spec.name, ", ".join(SOURCES)))
    damaged = _damaged(host, known["layers"], spec.verify) if known else {}
    if spec.source is None:
        if damaged:
            raise BulkheadError("Cannot use image %s: %s. Name its source, to have it made again." % (spec.name, "; ".join(damaged.values())))
        own = known["own_config"]
    elif spec.source == "from":
        _refuse_busy(host, spec, damaged)
        _mounted.plan_mounts(host, (_store.image(host, spec.path) or {}).get("layers", ()), plan)
        own = _build.plan(host, spec, plan, known, damaged)
    else:
        if spec.source == "commit":
            spec.path = _sandbox_image.written(host, spec.commit)
        try:
            own = _plan_source(host, spec, plan, known, damaged)
        except ArchiveError as exc:
            _archives.use_up(host, spec)
            raise _refusal(spec, exc) from exc
    if own is not None and spec.source != "from":
        _mounted.plan_mounts(host, known["layers"], plan)
    declared = known["declared_config"] if known and spec.config is None else spec.config
    if own is not None and (own, declared) != (known["own_config"], known["declared_config"]):
        changed = _import.named(spec.name, known["layers"], own, declared, known["made_from"])
        plan.differ("config", known["config"], changed["config"])
        plan.add("set config of image %s" % spec.name, lambda: _store.write_image(host, spec.name, changed),
                 lambda: _store.write_image(host, spec.name, known))
        own = None
    if spec.export:
        _export.plan(host, spec, plan, imported=own is None)
    if spec.pack:
        _pack.plan(host, spec, plan, imported=own is None)


def _damaged(host, layers, verify):
    """{digest: what is wrong with it}; what is there is read with verify only."""
    found = {}
    for digest in dict.fromkeys(layers):
        if digest not in _store.layers(host):
            found[digest] = "its layer %s is missing" % _store.short(digest)
        elif verify:
            wrong = (_mounted if _store.layers(host)[digest].get("filesystem") else _store).damage(host, digest)
            if wrong:
                found[digest] = "its layer %s is damaged: %s %s" % (_store.short(digest), *wrong)
    return found


def _plan_source(host, spec, plan, known, damaged):
    """The config of the image when it stays, None when it is imported."""
    packed = spec.source == "bundle"  # whose digest is the image's own, whatever that was made from here
    if packed and known and not damaged and known["digest"] == spec.digest:
        return _stays(host, spec, known)
    with Source(host, spec) as source:
        if packed and damaged and not host.check and not source.exists():
            raise ArchiveError("; ".join(damaged.values()), advice="Bring a bundle with that layer")
        if host.check and not source.exists():
            plan.warn("%s does not exist yet; an earlier task is expected to make it." % spec.path)
            plan.add("import image %s from %s" % (spec.name, spec.path), lambda: None)
            host.promised.add((NOUN, spec.name))
            return None
        key, made_from = source.key(), known["made_from"] if known else {}
        same = bool(known) and not damaged and not packed and all(made_from.get(word) == value for word, value in spec.made_from.items())
        if same and key is not None and key == made_from["key"] and (spec.digest is None or spec.digest in made_from["digests"]):
            return _stays(host, spec, known)
        content = source.content()
    if spec.digest is not None and spec.digest not in content.digests:
        raise ArchiveError("its digest is %s, not the one that is declared" % content.digest, advice="Correct digest, or bring the right source")
    if known and not damaged and (known["digest"] if packed else made_from["type"] == spec.source and made_from["digest"]) == content.digest:
        return _stays(host, spec, known)
    for layer in content.layers if packed else ():
        if layer.region is None and layer.tree in damaged:
            raise ArchiveError("%s, and it is not in it" % damaged[layer.tree], advice="Pack it with that layer")
    _refuse_busy(host, spec, damaged)
    plan.differ("source", {"type": made_from["type"], "digest": made_from["digest"]} if known else None, {"type": spec.source, "digest": content.digest})
    if damaged:
        plan.differ("damaged", sorted(damaged.values()), [])

    _mounted.plan_mounts(host, [layer.tree for layer in content.layers if layer.tree not in damaged], plan)
    config = spec.config if spec.config is not None else known["declared_config"] if known and not packed else {}

    def act():
        try:
            _import.bring(host, spec, content, key, config, damaged)
        except ArchiveError as exc:
            raise _refusal(spec, exc) from exc
        finally:
            _archives.use_up(host, spec)

    plan.add("import image %s from %s" % (spec.name, spec.path), act, lambda: _store.put_back(host, spec.name, known))
    host.promised.add((NOUN, spec.name))
    return None


def _refuse_busy(host, spec, damaged):
    busy = [digest for digest in damaged if digest in _store.layers(host) and digest in _store.in_use(host)]
    if busy:
        raise BulkheadError("Cannot mend image %s: %s, and it is in use by %s. Remove that first." % (
            spec.name, damaged[busy[0]], _store.in_use(host)[busy[0]]))
    _mounted.refuse_busy(host, damaged)


def _stays(host, spec, known):
    """It is what is declared, if that allows what is in it."""
    for digest in known["layers"]:
        _import.allowed(spec, _store.layers(host)[digest])
    return known["own_config"]


def _plan_absent(host, spec, plan):
    if spec.name not in _store.names(host):
        return
    for name in host.records.names("sandboxes"):
        if (host.records.options("sandboxes", name) or {}).get("image") == spec.name:
            raise BulkheadError("Cannot remove image %s: sandbox %s is declared with it. Remove that first." % (spec.name, name))
    known = _store.image(host, spec.name) or {"layers": [], "digest": None}
    going = set(_store.unused(host, [spec.name])).intersection(known["layers"])
    for digest in dict.fromkeys(known["layers"]):
        if digest in _store.in_use(host) and not [name for name in _store.shared_by(host, digest) if name != spec.name]:
            plan.warn("The layer %s of image %s stays, as it is in use: by %s. The option prune removes it later."
                      % (_store.short(digest), spec.name, _store.in_use(host)[digest]))
    _mounted.refuse_busy(host, going)
    plan.differ("state", "present", "absent")
    plan.differ("layers", known["layers"], None)

    def act():
        _store.give_up(host, spec.name)
        _store.sweep(host)
        host.at_end(_storage_bases.tidy, spec.name)
    plan.add("remove image %s%s" % (spec.name, " and layer " + ", ".join(map(_store.short, sorted(going))) if going else ""), act)


def _plan_prune(host, spec, plan):
    """What is of no image: now, and what the steps before leave so."""
    if _storage_bases.unused(host):
        plan.add("remove bases of roots that nothing needs", lambda: _storage_bases.tidy(host))
    renewed = [spec.name] if (NOUN, spec.name) in host.promised else []
    going = _store.unused(host, renewed + ([spec.name] if spec.state == "absent" else []))
    if spec.state == "absent":
        known = _store.image(host, spec.name) or {"layers": []}
        going = [digest for digest in going if digest not in known["layers"]]
    going = [digest for digest in going if digest not in spec.kept]
    if not going:
        return
    _mounted.refuse_busy(host, going)
    plan.differ("unused_layers", going, [])

    def act():
        for digest in _store.unused(host):
            _store.remove_layer(host, digest)
        host.at_end(_storage_bases.tidy, None)
    plan.add("remove unused layers", act)


def plan_none(host, plan):
    """No image, and no layer that nothing needs."""
    if not _store.is_empty(host) or not _archives.is_empty(host):
        plan.differ("images", _store.names(host), [])

        def act():
            _store.clear(host)
            _archives.clear(host)
            _storage_bases.tidy(host)
        plan.add("remove all images", act)


def unmount(host):
    """What a reboot would take: the mounts of layers. They stay in the store."""
    _mounted.clear(host)


def show(host, name):
    """An image as the _info module shows it; None when there is none."""
    known = _store.image(host, name)
    if known is None:
        return None
    layers = [_show_layer(host, digest, name) for digest in known["layers"]]
    once = {layer["digest"]: layer for layer in layers}.values()
    made_from = known["made_from"]
    return {
        "name": name, "state": "present", "digest": known["digest"], "layers": layers, "config": known["config"],
        "lower": [layer["path"] for layer in reversed(layers)], "size": sum(layer["size"] for layer in once),
        "unique_size": sum(layer["size"] for layer in once if not layer["shared_by"]),
        "source": {key: made_from.get(key) for key in ("type", "path", "digest", "reference", "platform")},
    }


def _show_layer(host, digest, name=None):
    known = _store.layers(host).get(digest) or {"size": 0, "entries": 0}
    return {"digest": digest, "size": known["size"], "entries": known["entries"], "path": _store.tree(host, digest),
            "filesystem": known.get("filesystem"), "mounted": _mounted.wrong(host, digest) is None if known.get("filesystem") else None,
            "shared_by": [other for other in _store.shared_by(host, digest) if other != name]}


def result(host, params, outcome):
    """What a module returns beside the usual."""
    name, pack = params.get("name"), params.get("pack")
    return dict({"image": (show(host, name) or {"name": name, "state": "absent"}) if name else None},
                **{"packed": _pack.result(host, name, pack["path"])} if pack else {})


def info(host, params):
    """What the _info module returns."""
    wanted = [params["name"]] if params.get("name") else _store.names(host)
    unused, layers = set(_store.unused(host)), sorted(_store.layers(host))
    damaged = _damaged(host, layers, params.get("verify"))
    return {"images": [found for found in (show(host, name) for name in wanted) if found is not None],
            "layers": [dict(_show_layer(host, digest), unused=digest in unused, in_use_by=_store.in_use(host).get(digest), damaged=damaged.get(digest))
                       for digest in layers]}
