# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The mark of what a cgroup sends: one nftables rule for each such cgroup, in a table of ours that is there while it has rules.

A rule bears the cgroup's name in its comment. By cgroup v2 it matches the cgroup itself, also for what is below it; a cgroup that
was made anew is another one, which shows in that nft no longer finds a path for the rule. By v1 it matches net_cls.classid,
which we set to the mark. Rules are written as text, as nft has no JSON for `socket cgroupv2 level` (up to 1.1.3).
"""

from __future__ import annotations

from .._kernel import nft
from .._kernel.cgroupfs import UNIFIED, read, write
from .._model.errors import BulkheadError

NOUN = "net_mark"  # of the claims that say which cgroups have a rule
FAMILY, TABLE, CHAIN = "inet", "bulkhead_marks", "output"
_HEAD = "add table {0} {1}\nadd chain {0} {1} {2} {{ type route hook output priority mangle; }}\n".format(FAMILY, TABLE, CHAIN)


class _Rule:
    """A rule as it is: what it matches, the mark, its handle."""

    def __init__(self, keys):
        expressions = {name: value for each in keys["expr"] for name, value in each.items()}
        self.match = expressions.get("match", {}).get("right")
        self.mark = expressions.get("mangle", {}).get("value")
        self.handle = keys["handle"]


def mark_of(host, name):
    """The mark of a cgroup, 0 for none."""
    rules = _rules(host).get(name, ())
    return rules[0].mark if rules else 0


def plan(host, trees, spec, plan):
    """Add what is between the declared mark and the rules that there are; of an absent cgroup none are to be left."""
    name, mark = spec.name, spec.net_mark if spec.state == "present" else 0
    if not mark and host.claims.read(NOUN, name) is None:
        return
    trees = trees.at(name)
    classid = _classid(trees, name) if mark or spec.state == "present" else None
    before = _rules(host).get(name, [])
    wanted = [(mark if classid else _path(trees, name), mark)] if mark else []
    number = int(read(classid, "0").strip() or 0) if classid else mark
    if mark and [(rule.match, rule.mark) for rule in before] == wanted and number == mark and trees.exists(name):
        return  # without a mark the claim is left to be taken away
    step = "%s net_mark of %s" % ("set" if mark else "remove", name)
    plan.differ("net_mark", before[0].mark if before else 0, mark)

    def change(value):
        if classid and trees.exists(name):
            write(classid, str(value))
        if value:
            host.claims.begin(NOUN, name)
        _set(host, name, ("meta cgroup %d" % value if classid else 'socket cgroupv2 level %d "%s"' % (
            _path(trees, name).count("/") + 1, _path(trees, name))) + " meta mark set %d" % value if value else None)
        if not value:
            host.claims.drop(NOUN, name)

    def undo():
        change(before[0].mark if before and trees.exists(name) else 0)

    plan.add(step, lambda: change(mark), undo)


def _classid(trees, name):
    """The file of the v1 controller, or None where cgroup v2 is alone."""
    home = trees.home("net_cls")
    if home is not None:
        return trees.path(name, home) + "/net_cls.classid"
    if trees.mode != "unified":
        raise BulkheadError("Cannot set up cgroup %s: net_mark needs the v1 controller net_cls or cgroup v2 alone. Remove what this host "
                            "cannot do." % name)
    return None


def _path(trees, name):
    """As nft takes it, below /sys/fs/cgroup."""
    return trees.path(name, UNIFIED).replace("/sys/fs/cgroup/", "", 1)


def _rules(host):
    """{name of a cgroup: [rules]}"""
    return host.cached("net marks", lambda: _read(host))


def _read(host):
    found = {}
    try:
        listed = nft.table(host.run, FAMILY, TABLE)
    except nft.NftError as exc:
        if not (host.check and exc.missing):
            raise _error("read the marks of cgroups", exc) from exc
        listed = None
    for each in listed or ():
        if "rule" in each:
            found.setdefault(each["rule"].get("comment"), []).append(_Rule(each["rule"]))
    return found


def _set(host, name, words):
    """Replace the rules of a cgroup by one, or by none; the table goes with its last rule."""
    host.drop("net marks")
    rules = _rules(host)
    lines = ["delete rule %s %s %s handle %d" % (FAMILY, TABLE, CHAIN, rule.handle) for rule in rules.get(name, ())]
    if words:
        lines.append('add rule %s %s %s %s comment "%s"' % (FAMILY, TABLE, CHAIN, words, name))
    elif not set(rules) - {name}:
        lines = ["delete table %s %s" % (FAMILY, TABLE)]
    try:
        nft.script(host.run, _HEAD + "\n".join(lines) + "\n")
    except nft.NftError as exc:
        raise _error("set net_mark of cgroup %s" % name, exc) from exc
    finally:
        host.drop("net marks")


def _error(verb, exc):
    advice = "Install the package nftables." if exc.missing else "See `nft list table %s %s`, and dmesg for what the kernel lacks." % (FAMILY, TABLE)
    return BulkheadError("Cannot %s: %s. %s" % (verb, str(exc).rstrip("."), advice))
