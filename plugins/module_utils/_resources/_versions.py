# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The versions of a sandbox: which image it runs with, and which it ran with before, as a record of its own.

    {"now": VERSION, "previous": VERSION, "fresh": true, "rolled_back": true, "next": {"version": VERSION, "kind": …, "uppers": …}}

A version is what an image was when the sandbox came to it: {"image": its name, "digest", "lower": its layers as an overlay takes them,
"config"}. That its layers are named here keeps them in the store, whatever the image has become. ``fresh``: the read-write layer of
the version before is kept beside that of now (`_kept.py`). ``next`` is there while it goes from one to the other.
"""

from __future__ import annotations

NOUN = "versions"  # /etc/bulkhead/versions.d


class Stays:
    """What `_upgrade.py: Upgrade` is to the plan of a sandbox, where no version changes."""

    lets, anew = frozenset(), False

    def plan_hold(self, plan):
        """Nothing."""

    plan_written = plan_last = plan_hold


def names(host):
    """The sandboxes of which versions are recorded."""
    return host.cached(NOUN, lambda: set(host.records.names(NOUN)))


def known(host, name):
    """What is recorded of a sandbox; {} where it never had an image."""
    return host.records.options(NOUN, name) or {}


def write(host, name, options):
    """Now, for who may be killed before the end of the run."""
    host.records.write_all({(NOUN, name): (options, False)})
    host.drop(NOUN)


def of_image(host, name):
    """What an image of the store is now; None where there is none."""
    from . import _store  # more code, for the one who has images

    image = _store.image(host, name)
    if image is None:
        return None
    return {"image": name, "digest": image["digest"], "lower": [_store.tree(host, digest) for digest in reversed(_store.once(image["layers"]))],
            "config": image["config"]}


def chain(version):
    """The digests of its layers, the lowest first."""
    return ["sha256:" + path.split("/")[-2] for path in reversed(version["lower"])]


def same(one, other):
    """Are they one, under whatever name?"""
    return bool(one and other) and (one["lower"], one["config"]) == (other["lower"], other["config"])


def words(version):
    """Its image and what that was."""
    return " ".join(each for each in (version["image"], version["digest"]) if each)


def show(host, name):
    """As the modules show it: {image, digest, previous, rolled_back}; None where there is no image."""
    found = known(host, name)
    if not found.get("now"):
        return None
    shown = {key: found["now"][key] for key in ("image", "digest")}
    previous = found.get("previous")
    shown["previous"] = {key: previous[key] for key in ("image", "digest")} if previous else None
    shown["rolled_back"] = bool(found.get("rolled_back"))
    return shown
