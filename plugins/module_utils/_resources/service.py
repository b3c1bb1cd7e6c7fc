# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A supervised service: its rendered files against what is declared, and its process against its rendered files."""

from __future__ import annotations

import json
import os
import time

from .._kernel import nsfs
from .._model.errors import BulkheadError, Problems
from .._model.service import DEFAULTS, ROOT_OPTIONS, ServiceSpec
from .._supervisor import entry, pick
from . import _identity, _own_root, _unit, namespace

NOUN = "service"


def parse(options, path, problems):
    return ServiceSpec.from_options(options, path, problems)


def expect(host, wanted):
    """These are going to be asked about."""
    pick(host).expect(host, wanted)


class Found:
    """What is there of a service: ``files`` as rendered (None: nothing), ``status`` as its supervisor tells it."""

    def __init__(self, host, name):
        supervisor = pick(host)
        self.name = name
        self.files = supervisor.read(host, name)
        self.status = supervisor.status(host, name) if self.files is not None else None
        self.options = _loads((self.files or {}).get("options.json"))
        self.spec = _loads((self.files or {}).get("spec.json"))
        self.pid = self.status["pid"] if self.status else None
        self.main_pid = supervisor.main_pid(host, name, self.status) if self.pid and self.status["state"] == "started" else None
        text = supervisor.started(host, name) if self.running else None
        self.started = _loads(text) if text else None

    @property
    def running(self):
        """Does its command run? One that is on its way in does not yet: starting it means to wait for it."""
        return self.main_pid is not None

    @property
    def effective(self):
        return dict(DEFAULTS, **{key: value for key, value in self.options.items() if key in DEFAULTS})

    def stale(self, host, wanted):
        """Options that the running process does not have as in ``wanted``, an entry spec; also when its namespaces were replaced."""
        keys = set(_unit.restart_keys(self.started, wanted)) if self.started else set()
        pins = dict(wanted["namespaces"], pid=wanted["pid_namespace"])
        for kind, path in pins.items() if self.main_pid else ():
            mine = nsfs.identity("%s/%d/ns/%s" % (host.proc, self.main_pid, kind))
            if path and mine is not None and mine != nsfs.identity(path):
                keys.add("namespace")
        return sorted(keys)


def found(host, name):
    """The Found of this run."""
    return host.cached((NOUN, name), lambda: Found(host, name))


def plan(host, spec, plan):
    """See `_engine/plan.py`."""
    if spec.state == "absent":
        plan_removal(host, spec.name, plan, spec.force)
        if not spec.whole:
            plan.record(NOUN, spec.name, None)
        return
    now = found(host, spec.name)
    base = {} if spec.whole else now.options or _recorded(host, spec.name)
    options = spec.effective(base)
    types, own = _types(host, spec, options, now, plan)
    _refuse(host, spec, options, types, own, plan)
    supervisor = pick(host)
    for require in (lambda: supervisor.require(host, spec.name, "pid" in types), lambda: _unit.require_filter(host, options)):
        try:
            require()
        except BulkheadError as exc:
            if not host.check:
                raise
            plan.warn("%s (An earlier task is expected to do so.)" % exc.message)
    if not now.running or any(options[key] != now.effective[key] for key in ("user", "group", "groups")):
        _identity.check(spec.name, options, spec.layers or _layers(options, types), spec.covered or [
            want.get("target", "") for key in ("bind", "tmpfs") for want in options[key]])
    pins, entered = {kind: nsfs.pin_path(host, options["namespace"], kind) for kind in types}, options
    if own:
        own, renew = _own_root.plan_it(host, spec, options, types, now, plan, lambda plan: plan_stop(host, spec.name, plan))
        spec.renew = spec.renew or renew
        pins["mnt"], entered = nsfs.pin_path(host, own["name"], "mnt"), dict(options, root=None)
    unit = _unit.build(host, spec.name, entered, pins)
    unit.down = spec.state == "stopped"
    unit.options = spec.declared if spec.whole else dict(base, **spec.declared)
    if own:
        unit.options = dict(unit.options, **{_own_root.KEY: own})
    files = supervisor.render(host, unit, _unit.dump)
    running = now.running and not spec.renew
    _Plan(host, spec, plan, now, options, unit, files, supervisor).steps(running)
    host.promised.add((NOUN, spec.name))
    if not spec.whole:
        plan.record(NOUN, spec.name, dict(spec.raw, state="stopped" if spec.state == "stopped" else "started"), merge=True)


class _Plan:
    """The steps for one service that is to be there."""

    def __init__(self, host, spec, plan, now, options, unit, files, supervisor):
        self.host, self.spec, self.plan, self.now, self.options = host, spec, plan, now, options
        self.unit, self.files, self.supervisor, self.name = unit, files, supervisor, spec.name
        self.gathered, self.error = False, None

    def steps(self, running):
        plan, now, name = self.plan, self.now, self.name
        if now.files is None:
            self._differ({})
            plan.add("create service %s" % name, self._write, lambda: self.supervisor.remove(self.host, name, 1.0, keep_log=False),
                     gather=after_all)
        elif now.files != self.files:
            self._differ(now.effective)
            plan.add("configure service %s" % name, self._write, self._write_back)
        state = self.spec.state
        if state == "stopped":
            if now.status is not None and (now.running or now.status["want"] == "started"):
                plan.differ("state", "started", "stopped")
                plan.add("stop service %s" % name, self._stop, self._start)
            return
        keys = now.stale(self.host, _loads(self.files["spec.json"])) if running else []
        if state == "restarted" and running or keys and self.spec.on_change == "restart":
            plan.differ("process", now.main_pid, "started again")
            plan.add("restart service %s" % name, self._restart)
        elif running:
            plan.needs_restart(name, keys)
        else:
            if not now.running:
                plan.differ("state", "stopped" if now.files is not None else "absent", "started")
            plan.add("start service %s" % name, self._start, self._stop, gather=start_together, thing=self)

    def _differ(self, before):
        log = self.spec.raw.get("log")
        unused = [key for key in ("max_size", "max_files") if isinstance(log, dict) and log.get(key) is not None]
        if unused and self.supervisor.log_file(self.host, self.name) is None:
            self.plan.warn("The log of service %s is in the journal of this host, whose own limits hold: log.%s is not used." % (
                self.name, " and log.".join(unused)))
        for key in DEFAULTS:
            old, new = before.get(key), self.options[key]
            if old != new and not (not before and new in (None, [], {})):
                if key == "environment":
                    old, new = _veiled(old or {}, new, "(hidden)"), _veiled(new, old or {}, "(another value)")
                elif key == "umask":
                    old, new = None if old is None else "%04o" % old, "%04o" % new
                self.plan.differ(key, old, new)

    def _write(self):
        _unit.make_filter(self.host, self.options)
        self.supervisor.write(self.host, self.name, self.files)
        if not self.now.running and self.now.effective["log"]["enabled"] != self.options["log"]["enabled"]:
            self.supervisor.forget(self.host, self.name)

    def _write_back(self):
        self.supervisor.write(self.host, self.name, self.now.files)
        if self.now.running and not (self.supervisor.status(self.host, self.name) or {}).get("pid"):
            self.prepare()
            self.supervisor.start(self.host, self.name)

    def prepare(self):
        """What its start stands on."""
        entry.ensure(self.host)
        _unit.make_filter(self.host, self.options)
        if self.options["cgroup"]:
            for leaf in (self.name.rpartition("/")[2], "exec"):
                self.host.cgroups().make_leaf(self.options["cgroup"], leaf)

    def _start(self):
        if not self.gathered:
            start_together(self.host, [self])
        error, self.gathered, self.error = self.error, False, None
        if error is not None:
            self._stop()
            raise error
        if self.options["health"] and not self.host.booting:
            await_health(self.host, self.name, self.options["health"])

    def _stop(self):
        self.supervisor.stop(self.host, self.name, self.options["stop_timeout"] / 1e6)

    def _restart(self):
        self.supervisor.stop(self.host, self.name, self.now.effective["stop_timeout"] / 1e6)
        if (self.now.started or {}).get("log") != self.options["log"]["enabled"]:
            self.supervisor.forget(self.host, self.name)
        self._start()


def after_all(host, entries):
    """Nothing but to wait until the plans beside have come so far: each mount that shows while unit files are written has systemd list all again."""


def start_together(host, entries):
    """Start many services at once. Why one does not start is its own, and left for its step to raise."""
    ready = {}
    for each in entries:
        each.gathered = True
        try:
            each.prepare()
            ready[each.name] = each
        except (BulkheadError, OSError) as exc:
            each.error = exc
    try:
        failed = pick(host).start_all(host, list(ready)) if ready else {}
    except (BulkheadError, OSError) as exc:
        failed = dict.fromkeys(ready, exc)
    for name, error in failed.items():
        ready[name].error = error


def plan_stop(host, name, plan):
    """Stop it, if it runs, so that what it lives in can be replaced; a later plan of the same run starts it."""
    now = found(host, name)
    if now.status is not None and (now.running or now.status["want"] == "started"):
        plan.add("stop service %s" % name, lambda: pick(host).stop(host, name, now.effective["stop_timeout"] / 1e6),
                 lambda: pick(host).start(host, name))


def plan_removal(host, name, plan, force=False):
    """Stop it and remove it with its log, and with the mount namespace that it has of its own."""
    now = found(host, name)
    own = now.options.get(_own_root.KEY) or _own_root.left(host, name)
    if now.files is None:
        if pick(host).remains(host, name):
            plan.add("remove what is left of service %s" % name, lambda: pick(host).remove(host, name, 1.0, keep_log=False))
        if own:
            _own_root.plan_removal(host, own["name"], plan, force)
        return
    plan.differ("state", "started" if now.running else "stopped", "absent")
    plan.add("remove service %s" % name,
             lambda: pick(host).remove(host, name, now.effective["stop_timeout"] / 1e6, keep_log=False))
    if own:
        _own_root.plan_removal(host, own["name"], plan, force)


# -- what can be refused before anything is touched

def _types(host, spec, options, now, plan):
    """(types of the namespaces to join, whether it has a mount namespace of its own besides)."""
    if spec.types is not None:
        return spec.types, False
    name = options["namespace"]
    wanted = bool(now.options.get(_own_root.KEY) or any(options[key] for key in ROOT_OPTIONS))
    if name is None:
        return (), wanted
    pins = namespace.found(host, name).pins
    dead = [kind for kind, pin in pins.items() if pin.state not in ("alive", "absent")]
    types = tuple(kind for kind, pin in pins.items() if pin.alive)
    if dead and not host.check:
        raise BulkheadError("Cannot set up service %s: the %s of namespaces %s is %s. Mend it with the module namespace." % (
            spec.name, dead[0], name, pins[dead[0]].state))
    if not types:
        if not host.check and (namespace.NOUN, name) not in host.promised:
            raise BulkheadError("Cannot set up service %s: there are no namespaces %s. Make them first, with the module namespace." % (
                spec.name, name))
        plan.warn("The namespaces %s do not exist yet. Make them before the service %s." % (name, spec.name))
    # the files of a user namespace's root have to be mapped, which takes a mount
    wanted = wanted or "user" in types and "mnt" not in types
    if wanted and not _own_root.prepared(host, name):
        return tuple(kind for kind in types if kind != "mnt"), True
    return types, False


def _layers(options, types):
    """The directories of its root that can be read on the host."""
    return [options["root"]] if options["root"] and "mnt" not in types else []


def _refuse(host, spec, options, types, own, plan):
    name = spec.name
    if options["command"] is None:
        raise BulkheadError("Cannot set up service %s: it has no command yet. Give command." % name)
    outside = [one for one in options["ambient_capabilities"] if one not in options["capabilities"]]
    if outside:
        raise BulkheadError("Cannot set up service %s: ambient_capabilities has %s, which capabilities does not keep. Name it there too." % (
            name, ", ".join(outside)))
    if options["root"] is None and "mnt" not in types and not own and "root" not in spec.promised and (options["namespace"] is None or types):
        raise BulkheadError("Cannot set up service %s: it has no root. Give root, or a namespace of type mnt." % name)
    if options["root"] is not None and "mnt" not in types and "root" not in spec.promised and not os.path.isdir(options["root"]):
        if not host.check:
            raise BulkheadError("Cannot set up service %s: its root %s is no directory. Make it first." % (name, options["root"]))
        plan.warn("The root %s of service %s does not exist yet; an earlier task is expected to make it." % (options["root"], name))
    shared = [key for key in ROOT_OPTIONS if options[key]]
    if shared and not own:
        raise BulkheadError("Cannot set up service %s: %s belongs to the root of namespaces %s, which all its services share. "
                            "Declare it with the sandbox." % (name, shared[0], options["namespace"]))
    group = options["cgroup"]
    if group and "cgroup" not in spec.promised and ("cgroup", group) not in host.promised and not host.cgroups().exists(group):
        if not host.check:
            raise BulkheadError("Cannot set up service %s: there is no cgroup %s. Make it first, with the module cgroup." % (name, group))
        plan.warn("The cgroup %s does not exist yet. Make it before the service %s." % (group, name))


# -- health

def check(host, name):
    """Does its health check succeed now? None when it has none, or does not run."""
    now = Found(host, name)
    if not now.running or "health.json" not in now.files:
        return None
    return host.run(pick(host).checking(host, name))[0] == 0


def await_health(host, name, health):
    """Wait until the check succeeds, for the start period and then ``retries`` intervals; warn when it does not."""
    deadline, pause = time.monotonic() + (health["start_period"] + health["retries"] * health["interval"]) / 1e6, 0.05
    while True:
        healthy = check(host, name)
        if healthy or time.monotonic() > deadline:
            break
        time.sleep(min(pause, max(0.0, deadline - time.monotonic())))
        pause = min(pause * 1.6, health["interval"] / 1e6)
    _healthy(host)[name] = bool(healthy)
    if not healthy:
        host.warn("Service %s was started and is not healthy. Its last words: %s" % (name, pick(host).last_words(host, name) or "none"))


def _healthy(host):
    """{name: what its check said after the start} of this run."""
    return vars(host).setdefault("healthy", {})


# -- shown

def names(host):
    return pick(host).names(host)


def pid(host, name):
    """The process that its supervisor holds, all others of it being its descendants; None when it does not run."""
    return found(host, name).pid


def show(host, name, healthy=None):
    """A service as `chroot_service_info` shows it; None when there is none. Values of its environment stay out."""
    now = found(host, name)
    if now.files is None:
        return None
    shown = {key: value for key, value in now.effective.items() if key not in ROOT_OPTIONS or value}
    shown["environment"] = sorted(shown["environment"])
    shown["umask"] = "%04o" % shown["umask"]
    shown.update(name=name, state="started" if now.running else "stopped", pid=now.main_pid, supervised_pid=now.pid if now.running else None,
                 since=int(now.status["since"]) if now.running else None, log_file=None, healthy=healthy,
                 restart_required=now.stale(host, now.spec) if now.running else [])
    if shown["log"]["enabled"]:
        shown["log_file"] = pick(host).log_file(host, name)
    return shown


def result(host, params, outcome):
    """What the module returns beside the common keys."""
    name = params["name"]
    healthy = _healthy(host)[name] if name in _healthy(host) else None if host.check else check(host, name)
    return {NOUN: show(host, name, healthy) or {"name": name, "state": "absent"}}


def info(host, params):
    """What the _info module returns."""
    wanted = [params["name"]] if params.get("name") else names(host)
    expect(host, wanted)
    return {"services": [shown for shown in (show(host, name, check(host, name)) for name in wanted) if shown is not None]}


# -- helpers

def _recorded(host, name):
    """What was declared before, where nothing is rendered any more (after a reboot)."""
    raw = host.records.options(NOUN, name)
    if not raw:
        return {}
    return ServiceSpec.from_options(dict(raw, name=name), "", Problems()).declared


def _veiled(environment, other, differs):
    """Names with what may be told of their values: whether they are the same on both sides."""
    return {key: "(hidden)" if key not in other else "(same)" if other[key] == value else differs for key, value in environment.items()}


def _loads(text):
    try:
        value = json.loads(text) if text else {}
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
