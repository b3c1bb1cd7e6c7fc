# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is declared of one cgroup: its limits by the table, and what is no limit (frozen, processes, delegation, acts)."""

from __future__ import annotations

from . import values
from .errors import Problems
from .limits import BY_FILE, TABLE, hugetlb, raw

# Files that are acts or owned by the layout: they cannot be declared as values.
ACTS = frozenset(("cgroup.procs", "cgroup.threads", "cgroup.subtree_control", "cgroup.kill", "cgroup.freeze", "memory.reclaim",
                  "memory.peak", "memory.swap.peak", "pids.peak"))
PREFIXES = ("cgroup.", "cpu.", "cpuacct.", "cpuset.", "memory.", "io.", "blkio.", "pids.", "hugetlb.", "rdma.", "misc.", "dmem.",
            "freezer.", "devices.", "perf_event.", "net_cls.", "net_prio.", "debug.", "irq.")
KERNEL_FILES = frozenset(("tasks", "notify_on_release", "release_agent"))
DRIVERS = ("auto", "systemd", "cgroupfs")
STATES = ("present", "absent")
FLAGS = ("force", "kill", "allow_below_usage", "allow_undelegated")
RULES = ("state", "driver") + FLAGS  # how to go about it, not what is to be
OTHERS = ("name", "unified", "hugetlb", "frozen", "processes", "delegate", "memory_reclaim", "net_mark") + RULES
OPTIONS = tuple(TABLE) + OTHERS
PART = tuple(word for word in OPTIONS if word not in ("name", "state", "kill"))  # as a part of the composite
_UNRECORDED = frozenset(RULES + ("name", "processes", "memory_reclaim"))
_USUAL = {"driver": (None, "auto"), "allow_undelegated": (None, False)}  # rules that a restore needs, where they say more than this


class CgroupSpec:
    """A cgroup as declared. ``settings``: {key: (Limit, normal value)}, the key being the option or `hugetlb.SIZE.WORD`.

    ``exact``: a declaration is the whole (the composite), so devices not named return to the default, and so do the
    settings in ``reset`` ({key: Limit}, see drop()).
    """

    __slots__ = ("name", "settings", "frozen", "processes", "delegate", "reclaim", "net_mark", "state", "driver", "force", "kill",
                 "allow_below_usage", "allow_undelegated", "exact", "reset", "options")

    @property
    def key(self):
        return self.name

    @classmethod
    def from_options(cls, options, path, problems, name=None):
        """Parse; every error becomes a problem with its path. ``name``: given by the composite, which has no such option."""
        spec = cls()

        def at(key):
            return "%s.%s" % (path, key) if path else key

        options = values.mapping(options, path or "cgroup", problems, OPTIONS if name is None else PART)
        spec.options = {key: value for key, value in options.items() if key not in _UNRECORDED and value is not None}
        spec.options.update((key, options[key]) for key, usual in _USUAL.items() if options.get(key) not in usual)
        spec.exact, spec.reset = name is not None, {}
        spec.name = values.cgroup_path(options.get("name"), at("name"), problems) if name is None else name
        for part in (spec.name or "").split("/"):
            if part in KERNEL_FILES or part.startswith(PREFIXES):
                problems.add(at("name"), "%s is, or could become, a file of the kernel's in a cgroup. Choose another name" % values.quoted(part))
        spec.state = values.choice("present" if options.get("state") is None else options["state"], at("state"), problems, STATES)
        spec.driver = values.choice("auto" if options.get("driver") is None else options["driver"], at("driver"), problems, DRIVERS)
        for rule in FLAGS:
            value = options.get(rule)
            setattr(spec, rule, values.boolean(value, at(rule), problems) if value is not None else False)
        spec.settings = {}
        for option, limit in TABLE.items():
            if options.get(option) is not None:
                value = limit.parse(options[option], at(option), problems)
                if value is not None:
                    spec.settings[option] = (limit, value)
        spec._hugetlb(options.get("hugetlb"), at("hugetlb"), problems)
        spec._unified(options.get("unified"), at("unified"), problems)
        spec.frozen = values.boolean(options["frozen"], at("frozen"), problems) if options.get("frozen") is not None else None
        spec.processes = [values.integer(pid, "%s[%d]" % (at("processes"), index), problems, 1, 1 << 22)
                          for index, pid in enumerate(values.items(options.get("processes"), at("processes"), problems))]
        spec.reclaim = values.size(options["memory_reclaim"], at("memory_reclaim"), problems) if options.get("memory_reclaim") is not None else None
        spec.net_mark = values.integer(options["net_mark"], at("net_mark"), problems, 0, (1 << 32) - 1) if options.get("net_mark") is not None else None
        spec.delegate = _delegate(options.get("delegate"), at("delegate"), problems)
        spec._contradictions(at, problems)
        return spec

    def drop(self, recorded):
        """What ``recorded`` (the options of an earlier declaration) declared and this one does not returns to the kernel's default."""
        if recorded == self.options:
            return
        old = CgroupSpec.from_options(recorded or {}, "", Problems(), name=self.name)
        self.reset = {key: setting[0] for key, setting in old.settings.items() if key not in self.settings}
        if old.frozen is not None and self.frozen is None:
            self.frozen = False
        if old.net_mark is not None and self.net_mark is None:
            self.net_mark = 0
        if old.delegate and not self.delegate:
            self.delegate = {"user": 0, "group": 0}

    def value(self, option):
        """The declared normal value, or None."""
        return self.settings[option][1] if option in self.settings else None

    def _hugetlb(self, value, path, problems):
        for size, item in values.mapping(value, path, problems).items():
            if not isinstance(size, str) or not size[:-2].isdigit() or size[-2:] not in ("KB", "MB", "GB"):
                problems.add(path, "%s is not a page size. Use the kernel's word, such as 2MB or 1GB" % values.quoted(size))
                continue
            for word, number in values.mapping(item, "%s.%s" % (path, size), problems, ("max", "rsvd_max")).items():
                if word in ("max", "rsvd_max") and number is not None:
                    limit = hugetlb(size, word)
                    self.settings[limit.option] = (limit, limit.parse(number, "%s.%s.%s" % (path, size, word), problems))

    def _unified(self, value, path, problems):
        """A file that the table knows is its option; any other is compared as text."""
        for file, text in values.mapping(value, path, problems).items():
            here = "%s.%s" % (path, file) if isinstance(file, str) and file.isprintable() else path
            head, point, tail = file.partition(".") if isinstance(file, str) else ("", "", "")
            if not (head.isidentifier() and tail and values.NAME_CHARACTERS.issuperset(tail) and ".." not in file and len(file) < 100):
                problems.add(path, "%s is not a file of cgroup2, such as memory.oom.group" % values.quoted(file))
                continue
            if file in ACTS:
                problems.add(here, "this file is not a value to keep. There is an option for it, or it is the layout's own")
                continue
            if isinstance(text, bool):
                text = int(text)
            text = values.text(text, here, problems, 4096)
            if text is None:
                continue
            limit = BY_FILE.get(file) or raw(file)
            if limit.option in self.settings:
                problems.add(here, "this is %s, which is declared too. Keep one of them" % limit.option)
                continue
            if limit.kind in ("raw", "table", "quota", "devices"):
                number = limit.read(text)
                if number in (None, {}):
                    problems.add(here, "%s is not what the kernel takes for this file" % values.quoted(text))
            else:
                number = limit.parse(text + "us" if limit.kind == "time" else text, here, problems)
            if number is not None:
                self.settings[limit.option] = (limit, number)

    def _contradictions(self, at, problems):
        if "cpu_weight" in self.settings and "cpu_weight_nice" in self.settings:
            problems.add(at("cpu_weight_nice"), "cpu_weight is declared too, and both set the same weight. Keep one of them")
        if self.value("cpu_idle") and ("cpu_weight" in self.settings or "cpu_weight_nice" in self.settings):
            problems.add(at("cpu_idle"), "an idle cgroup has no weight. Remove cpu_weight and cpu_weight_nice, or cpu_idle")
        quota, burst = self.value("cpu_max"), self.value("cpu_max_burst")
        if quota and burst and quota["quota"] not in (None, values.MAX) and burst > quota["quota"]:
            problems.add(at("cpu_max_burst"), "%s is more than the quota of cpu_max, %s, which the kernel refuses" % (
                values.show_time(burst), values.show_time(quota["quota"])))


def _delegate(value, path, problems):
    value = values.mapping(value, path, problems, ("user", "group")) if value is not None else None
    if value is None:
        return None
    if value.get("user") is None:
        problems.add(path + ".user", "the user is missing. Give the name or number of who may make cgroups below")
    for word in ("user", "group"):
        item = value.get(word)
        if item is not None and not (isinstance(item, int) and not isinstance(item, bool) and 0 <= item < (1 << 32) - 1) and not (
                isinstance(item, str) and item and item.isprintable() and len(item) <= 256 and ":" not in item):
            problems.add("%s.%s" % (path, word), "%s is not a name or number" % values.quoted(item))
    return {word: value.get(word) for word in ("user", "group")}
