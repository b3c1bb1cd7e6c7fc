# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A sandbox comes from the version of its image that it runs with to another one, or back to the one before.

    1. The new one is tried beside the one that runs (`_trial.py`), where that is wanted and a service has a health check.
    2. Where it goes from and to is noted (`_versions.py`), for who comes after a run that was killed.
    3. New connections wait (`_held.py`), those that are open end, the services are stopped.
    4. What was written stays, or is kept beside (`_kept.py`), and root and services are made by the plan of the sandbox, as ever.
    5. The services are healthy: connections are let in. They are not, or a step fails: by a run within the step the sandbox is brought
       back to its former declaration over its former version, in the same way.

What it runs with is what the kernel shows, and where nothing runs what is recorded; what it is to run with is what the image is now, or
what is recorded, at a restore and after a rollback.
"""

from __future__ import annotations

import contextlib

from .._engine import engine
from .._model.errors import BulkheadError
from .._model.upgrade import obstacle
from .._supervisor import pick
from . import _held, _kept, _sandbox_image, _storage, _store, _trial, _versions, service
from ._trial import plan_sweep
from ._versions import NOUN

_WORDS = {"keep": "upgrade", "fresh": "upgrade", "back": "rollback", "return": "return"}


def begin(host, spec, plan):
    """Give a sandbox the version that it is to run with: an Upgrade, which may have nothing to do. The first steps of its plan."""
    plan_sweep(host, spec.key, plan)
    found = Upgrade(host, spec)
    if spec.image is None:
        plan.record(NOUN, spec.key, None)
    elif found.choose(plan):
        _sandbox_image.fill(host, spec, found.wanted)
        found.plan_first(plan)
    return found


def plan_removal(host, name, plan):
    """What is noted of it goes with a sandbox that is removed."""
    if name in _held.names(host):
        plan.add("forget that connections to sandbox %s wait" % name, lambda: host.claims.drop(_held.NOUN, name))
    plan.record(NOUN, name, None)


class Upgrade(_versions.Stays):
    """``kind``: None where the version stays; keep, fresh; back: to the version before; return: to the former one, for who did not get
    through. ``now`` and ``wanted`` are versions, ``known`` what is recorded of them. ``begun`` is what a killed run was about, ``stale``
    the same where this run is about something else; ``inodes`` are of the directories that change places (`_kept.py`).
    """

    def __init__(self, host, spec):
        self.host, self.spec, self.name = host, spec, spec.key
        self.kind = self.now = self.wanted = self.trial = self.begun = self.stale = None
        self.known, self.inodes = {}, {}

    # -- which version

    def choose(self, plan):
        """False where that is not known yet, in check mode."""
        host, spec = self.host, self.spec
        image = spec.upgrade.version or _sandbox_image.version(host, spec)
        if image is None:
            return False
        self.known = _versions.known(host, self.name)
        self.begun = self.known.get("next")
        self.wanted = self._wanted(image, plan)
        recorded = self.known.get("now")
        if recorded and not self.begun and recorded["lower"] == self.wanted["lower"]:
            self.now = recorded
            return True
        lower = self._shown()
        if lower is None or recorded and lower == recorded["lower"]:
            self.now = recorded
        elif lower == self.wanted["lower"]:
            self.now = self.wanted
        else:
            self.now = {"image": (host.records.options("sandboxes", self.name) or {}).get("image"), "digest": None, "lower": lower, "config": {}}
        if self.begun and _versions.same(recorded, self.wanted):
            self.kind = "return"  # it has not come to the other
        elif self.now is not None and self.now["lower"] != self.wanted["lower"]:
            self.kind = self._kind()
        if self.kind and self.begun and (self.kind != self.begun["kind"] or not _versions.same(self.begun["version"], self.wanted)):
            self.stale = self.begun
        return True

    def _wanted(self, image, plan):
        rules, known, now = self.spec.upgrade, self.known, self.known.get("now")
        if rules.version or not now:
            if rules.back:
                raise BulkheadError("Cannot roll back sandbox %s: it was not upgraded since it is known. Declare the image that it is to have." % self.name)
            return image
        if self.spec.policy["restore"]:
            return now
        if rules.back:
            if not known.get("previous"):
                raise BulkheadError("Cannot roll back sandbox %s: it runs with the first version of its image that is known. Declare the image that it "
                                    "is to have." % self.name)
            return now if known.get("rolled_back") else known["previous"]
        if known.get("rolled_back") and _versions.same(image, known["previous"]) and not rules.retry:
            plan.warn("Sandbox %s was rolled back from what image %s is, and runs with the version before. Bring another image, or set "
                      "upgrade.retry: true to try this one again." % (self.name, self.spec.image))
            return now
        return image

    def _shown(self):
        """The layers that it runs with, as an overlay takes them; None where it does not run."""
        root = _storage.of_name(self.host, self.name).find(self.host, self.name)
        return None if root is None else [_store.tree(self.host, each) if each.startswith("sha256:") else each for each in reversed(root.layers)]

    def _kind(self):
        spec, rules = self.spec, self.spec.upgrade
        if rules.version:
            return "return"
        if rules.back:
            return "back"
        if rules.upper == "refuse" and spec.policy["on_mismatch"] != "recreate":
            raise BulkheadError("Cannot upgrade sandbox %s to what image %s is now: it runs with other layers, and upgrade.upper is refuse. Set "
                                "upgrade.upper to keep or fresh, or on_mismatch: recreate; what was written is kept with keep and recreate." % (
                                    self.name, self.spec.image), keys=["image"])
        return "keep" if rules.upper == "refuse" else rules.upper

    # -- steps

    @property
    def lets(self):
        """What of its root may differ without on_mismatch: recreate."""
        if self.kind is None:
            return frozenset()
        return {"root", "overlay.lower", "overlay.upper", "overlay.work"} if self.begun else {"overlay.lower"}

    @property
    def anew(self):
        """Must there be another root, be it that the one that is there cannot be told from it?"""
        return bool(self.kind) and (self.kind != "return" or self._moves)

    @property
    def _tries(self):
        """Is it to be tried beside?"""
        rules = self.spec.upgrade
        wanted = rules.upper != "refuse" if rules.trial is None else rules.trial
        return wanted and self.kind in ("keep", "fresh") and not self._resumed and any(
            each.declared.get("health") and each.state != "stopped" for each in self.spec.services)

    @property
    def _resumed(self):
        """Does it go on where a killed run was, whose trial came off?"""
        return bool(self.begun) and not self.stale and self.begun["tried"]

    def plan_first(self, plan):
        """The trial, and the note."""
        host, spec = self.host, self.spec
        if self.kind is None:
            if self.begun:  # its root is that of the new version, and whether that is healthy was perhaps not seen
                plan.add("go on with the %s of sandbox %s" % (_WORDS[self.begun["kind"]], self.name), lambda: None, instead=self._bring_back)
            return
        spec.storage.on_mismatch = spec.overlay.on_mismatch = "recreate"
        driver = _storage.of_name(host, self.name)
        if not self._moves and self.kind != "return" and spec.storage.keep and spec.policy["reset"] is not True and \
                self.name not in (spec.policy["reset"] or ()):
            why = driver.obstacle(host, self.name, other=True)
            if why:
                raise BulkheadError("Cannot %s sandbox %s with what was written: %s. %s, or set upgrade.upper: fresh." % (
                    _WORDS[self.kind].replace("rollback", "roll back"), self.name, *why), keys=["image"])
        if self._moves:
            self.inodes = (self.begun or {}).get("inodes") or _kept.inodes(self._paths())
        plan.differ("image", self.now and _versions.words(self.now), _versions.words(self.wanted))
        if self._tries:
            why = obstacle(spec)
            if why:
                raise BulkheadError("Cannot try image %s beside sandbox %s: %s. Mend that, or set upgrade.trial: false to upgrade without a trial." % (
                    spec.image, self.name, why))
            _trial.foreseen(host, spec)
            self.trial = _trial.Trial(spec, driver, self.wanted, self.kind == "keep" and spec.storage.keep)
            plan.add("try image %s beside sandbox %s" % (spec.image, self.name), self._try, gather=_trial.hold_all, thing=self.trial)
        plan.add("begin the %s of sandbox %s" % (_WORDS[self.kind], self.name), self._note, self._forget,
                 instead=self._bring_back if self.kind != "return" else None)

    @property
    def _moves(self):
        """Does what is written change places?"""
        return self._lays_aside or self.kind == "back" and bool(self.known.get("fresh")) or bool(self.stale and self.stale["inodes"])

    @property
    def _lays_aside(self):
        """Is it kept for who comes back? What goes whenever a root is made anew is not."""
        return self.kind == "fresh" and self.spec.storage.keep

    @property
    def _driver(self):
        return _storage.of_name(self.host, self.name)

    def _paths(self):
        return self._driver.movable(self.host, self.name)

    def _try(self):
        if self.trial.error is not None:
            raise BulkheadError("Cannot upgrade sandbox %s to image %s: %s. The one before still runs." % (
                self.name, self.spec.image, str(self.trial.error).rstrip(".")))

    def _note(self):
        if self.kind != "return":
            begun = {"version": self.wanted, "kind": self.kind, "inodes": self.inodes, "tried": True}
            _versions.write(self.host, self.name, dict(self.known, now=self.now, next=begun))

    def _forget(self):
        _versions.write(self.host, self.name, self.known or None)

    def plan_hold(self, plan):
        """Before its services are stopped."""
        if self.kind:
            plan.add("hold connections to sandbox %s" % self.name, lambda: _held.hold(self.host, self.name, self.spec.upgrade.drain / 1e6),
                     lambda: _held.release(self.host, self.name))

    def plan_written(self, plan):
        """After they are stopped."""
        if self.kind and self._moves:
            plan.add("%s what was written in sandbox %s" % ("lay aside" if self._lays_aside else "bring back", self.name), self._move)

    def _move(self):
        if self.stale:
            _kept.bring_back(self.host, self._driver, self.stale["inodes"], self.stale["kind"] == "fresh")
        if self._lays_aside:
            _kept.lay_aside(self.host, self._driver, self.inodes)
        elif self.kind == "back" and self.known.get("fresh"):
            _kept.change_places(self.inodes)
        self.host.drop("mounts")  # what is mounted in a directory goes with it

    def plan_last(self, plan):
        """When all of it is there."""
        if self.wanted is None:
            return
        if self.kind or self.begun or self.name in _held.names(self.host):
            plan.add("let connections in to sandbox %s" % self.name, self._settle)
        plan.record(NOUN, self.name, self._after())

    @property
    def _way(self):
        """Its kind, or that of what a killed run has brought as far as the new root."""
        return self.begun["kind"] if self.kind is None and self.begun else self.kind

    def _healthy(self, name):
        """What its check said after its start, in this run or in one that was killed."""
        health = service.Found(self.host, name).effective.get("health") if self.kind is None and name not in self.host.healthy else None
        if health and not self.host.booting:
            service.await_health(self.host, name, health)
        return self.host.healthy.get(name)

    def _settle(self):
        host, spec, kind = self.host, self.spec, self._way
        if kind == "back" or kind and kind != "return" and spec.upgrade.upper != "refuse":
            for each in spec.services:
                if each.state != "stopped" and self._healthy(each.name) is False:
                    raise BulkheadError("Cannot %s sandbox %s to image %s: service %s is not healthy. Its last words: %s." % (
                        "roll back" if kind == "back" else "upgrade", self.name, self.wanted["image"], each.name.partition("/")[2],
                        (pick(host).last_words(host, each.name) or "none").rstrip(".")))
        _held.release(host, self.name)
        if kind in ("keep", "fresh"):
            _kept.forget(host, self._driver, self._paths(), (_kept.OLDER,) if kind == "fresh" else (_kept.OLDER, _kept.PREVIOUS))

    def _after(self):
        """What is recorded when all is done."""
        known, kind = {key: value for key, value in self.known.items() if key != "next"}, self._way
        if kind == "return" or _versions.same(known.get("now"), self.wanted):
            return dict(known, now=self.wanted)
        former = known.get("now") or self.now
        if not former or _versions.same(former, self.wanted):
            return {"now": self.wanted}
        if kind == "back":
            return dict(known, now=self.wanted, previous=former, rolled_back=True)
        return {"now": self.wanted, "previous": former, "fresh": kind == "fresh" and self.spec.storage.keep}

    # -- back

    def _bring_back(self):
        """The former declaration over the former version, by a run within the step that failed."""
        host = self.host
        host.finish()  # what was left for the end must not come after what is done now
        host.forget()
        former = self.now if self.kind else self.known["now"]
        begun = dict(_versions.known(host, self.name).get("next") or {}, tried=False)
        with contextlib.suppress(OSError):  # on a full disk, too: then a later run goes by what is noted already
            _versions.write(host, self.name, dict(self.known, now=former, next=begun))

        def change(spec):
            spec.upgrade.version = former

        options = host.records.options("sandboxes", self.name) or self.spec.options
        other = host.another()
        outcome = engine.converge_within(other, _trial.Given(change), [dict(options, name=self.name)])
        host.forget()
        for text in other.warnings:
            host.warn(text)
        for each in outcome.errors:
            raise each.error
