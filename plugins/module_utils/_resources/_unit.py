# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From what is declared of a service to what the supervisor and the entry read."""

from __future__ import annotations

import hashlib
import json
import os

from .._kernel import caps, seccomp
from .._model.errors import BulkheadError
from .._supervisor import pick
from .._supervisor.common import Unit

# Which option a key of the entry's spec comes from: a difference there needs a restart of what runs.
OPTION = {"namespaces": "namespace", "pid_namespace": "namespace", "die_with_parent": "namespace", "unshare_cgroup": "namespace",
          "slice": "cgroup", "ambient": "ambient_capabilities"}
NOT_COMPARED = ("name", "started", "stdin")


def dump(value):
    """JSON that is equal when the values are."""
    return json.dumps(value, sort_keys=True)


def build(host, name, options, pins):
    """The `_supervisor/common.py: Unit` of a service. ``options``: every option; ``pins``: {type: path} of the namespaces to join."""
    pins = dict(pins)
    pid_pin = pins.pop("pid", None)
    leaf = name.rpartition("/")[2]
    joins = host.cgroups().join_files(options["cgroup"], leaf) if options["cgroup"] else []
    own = [path for path in joins if path.endswith("/%s/cgroup.procs" % leaf)]
    # Who is born in a cgroup that the supervisor makes is to see that one as the top, not the one that the namespace was made in.
    unshare = bool(pick(host).OWN_CGROUP and not joins and pins.pop("cgroup", None))
    spec = {
        "name": name, "command": options["command"], "root": options["root"], "namespaces": pins, "pid_namespace": pid_pin,
        "cgroup": joins, "stdin": "null",
        "capabilities": bits(options["capabilities"]), "ambient": bits(options["ambient_capabilities"]),
        "seccomp": filter_path(host, options), "log": options["log"]["enabled"],
    }
    for key in ("user", "group", "groups", "environment", "cwd", "umask", "no_new_privs", "rlimits", "nice", "oom_score_adj"):
        spec[key] = options[key]
    if unshare:
        spec["unshare_cgroup"] = True
    log = options["log"]
    return Unit(
        name=name, spec=spec, health=_health(host, name, options, spec, pid_pin), pid_pin=pid_pin,
        stop_signal=options["stop_signal"], stop_timeout=options["stop_timeout"], restart=options["restart"], enabled=options["enabled"],
        group=None if joins else options["cgroup"],
        log={"size": log["max_size"], "files": log["max_files"]} if log["enabled"] else None,
        tasks=joins[0] if joins else None, kill=own[0].replace("cgroup.procs", "cgroup.kill") if own else None)


def _health(host, name, options, spec, pid_pin):
    """The entry spec of the check: the service's own with another command, or a probe from within its net namespace."""
    health = options["health"]
    if not health:
        return None
    timeout = max(1, -(-health["timeout"] // 1000000))
    if health.get("command"):
        check = dict(spec, name=name + " for its health check", command=health["command"], timeout=timeout, die_with_parent=False)
        check["namespaces"] = dict(spec["namespaces"], pid=pid_pin)
        check["cgroup"] = host.cgroups().join_files(options["cgroup"], "exec") if options["cgroup"] else []
        return check
    where = health.get("tcp") or health["http"]
    probe = {"host": where[0], "port": where[1], "timeout": timeout, "path": where[2] if health.get("http") else None}
    return {"name": name + " for its health check", "probe": probe, "namespaces": {"net": spec["namespaces"].get("net")},
            "capabilities": [], "timeout": timeout + 1}


def restart_keys(old, new):
    """The options whose difference between two entry specs (dicts) only a restart carries into the running process."""
    keys = {key for key in set(old) | set(new) if key not in NOT_COMPARED and old.get(key) != new.get(key)}
    return sorted({OPTION.get(key, key) for key in keys})


def bits(names):
    return sorted(caps.BITS[name] for name in names)


# -- seccomp

def filter_path(host, options):
    """Where the filter for these options lies, by what it is made from; None without one. It is made by make_filter()."""
    if options["seccomp"] == "off":
        return None
    key = ("filter", dump(options["seccomp"]), tuple(options["capabilities"]))
    return host.cached(key, lambda: _filter_path(host, options))


def _filter_path(host, options):
    word, source = _source(host, options)
    digest = hashlib.sha256(dump(source).encode()).hexdigest()[:16]
    return "%s/bin/seccomp-%s-%s" % (host.state, word, digest)


def require_filter(host, options):
    """Refuse what make_filter() could not make."""
    path = filter_path(host, options)
    if path is not None and not os.path.exists(path):
        try:
            seccomp.library()
        except seccomp.Unable as exc:
            raise BulkheadError("Cannot make a seccomp filter: %s" % exc)


def make_filter(host, options):
    """Compile it unless it is there."""
    path = filter_path(host, options)
    if path is None or os.path.exists(path):
        return
    word, source = _source(host, options)
    try:
        data = seccomp.compile_default(options["capabilities"]) if word == "default" else seccomp.compile_names(source)
    except seccomp.Unable as exc:
        raise BulkheadError("Cannot make a seccomp filter: %s" % exc)
    temporary = path + ".new"
    with open(temporary, "wb") as stream:
        stream.write(data)
    os.rename(temporary, path)


def _source(host, options):
    """(word, what the filter is made from)."""
    wanted = options["seccomp"]
    if wanted == "default":
        return "default", [sorted(one) for one in seccomp.default(options["capabilities"])]
    if isinstance(wanted, list):
        names, word = wanted, "inline"
    else:
        path, word = "%s/seccomp/%s" % (host.etc, wanted), wanted
        try:
            with open(path, encoding="utf-8") as stream:
                names = [name for line in stream for name in line.partition("#")[0].split()]
        except (OSError, ValueError) as exc:
            raise BulkheadError("Cannot use the seccomp list %s: %s: %s. Put the names of system calls there, or use default or off."
                                % (wanted, path, getattr(exc, "strerror", None) or exc))
    names = sorted(set(names))
    try:
        wrong = host.cached(("seccomp", tuple(names)), lambda: seccomp.unknown(names))
    except seccomp.Unable as exc:
        raise BulkheadError("Cannot use the seccomp list %s: %s" % (word, exc))
    if wrong:
        raise BulkheadError("Cannot use the seccomp list %s: %s: no such system calls." % (word, ", ".join(wrong[:5])), unknown=wrong)
    return word, names
