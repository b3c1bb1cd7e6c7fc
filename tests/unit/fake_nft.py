# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An nft that keeps its tables in memory: it takes transactions, whole or not at all, and lists what they made, as nft 1.0.6 does."""

from __future__ import annotations

import copy
import json


class Refused(Exception):
    """What nft says."""


class Nft:
    """``tables``: {(family, name): [objects]}; ``log``: the transactions that were taken."""

    def __init__(self, folder, monkeypatch, nft):
        self.tables, self.log = {}, []
        (folder / "nft").write_text("")
        (folder / "nft").chmod(0o755)
        monkeypatch.setattr(nft, "PLACES", (str(folder),))

    def run(self, argv, data=None, env=None):
        try:
            if argv[1:] == ["-j", "-f", "-"]:
                self._transact(json.loads(data)["nftables"])
                return 0, "", ""
            return 0, json.dumps({"nftables": [{"metainfo": {"version": "1.0.6"}}] + self._list(argv[4:])}), ""
        except Refused as exc:
            return 1, "", "internal:0:0-0: Error: %s\n\nwhere it is\n" % exc

    def table(self):
        """Ours, or None."""
        return self.tables.get(("inet", "bulkhead"))

    def _list(self, words):
        if words == ["chains"]:
            return [each for objects in self.tables.values() for each in objects if "chain" in each]
        if words[0] == "table" and tuple(words[1:]) in self.tables:
            return self.tables[tuple(words[1:])]
        raise Refused("No such file or directory")

    def _transact(self, commands):
        before = copy.deepcopy(self.tables)
        try:
            for command in commands:
                (verb, thing), = command.items()
                (kind, keys), = thing.items()
                getattr(self, "_%s_%s" % (verb, kind if kind in ("table", "element") else "object"))(kind, keys)
        except Refused:
            self.tables = before
            raise
        self.log.append(commands)

    def _add_table(self, kind, keys):
        self.tables.setdefault((keys["family"], keys["name"]), [{"table": dict(keys, handle=1)}])

    def _delete_table(self, kind, keys):
        if not self.tables.pop((keys["family"], keys["name"]), None):
            raise Refused("Could not process rule: No such file or directory")

    def _add_object(self, kind, keys):
        objects = self.tables[keys["family"], keys["table"]]
        objects.append({kind: dict(keys, handle=len(objects) + 1)})

    def _elements(self, keys):
        for each in self.tables.get((keys["family"], keys["table"]), ()):
            for kind in ("set", "map"):
                if each.get(kind, {}).get("name") == keys["name"]:
                    return each[kind].setdefault("elem", [])
        raise Refused("Could not process rule: No such file or directory")

    def _add_element(self, kind, keys):
        there = self._elements(keys)
        for item in keys["elem"]:
            if "refuse me" in json.dumps(item):
                raise Refused("Could not resolve hostname")
            if any(_key(each) == _key(item) for each in there):
                raise Refused("Could not process rule: File exists")
            there.append(item)

    def _delete_element(self, kind, keys):
        there = self._elements(keys)
        for item in keys["elem"]:
            found = [each for each in there if _key(each) == _key(item)]
            if not found:
                raise Refused("Could not process rule: No such file or directory")
            there.remove(found[0])


def _key(item):
    item = item[0] if isinstance(item, list) else item
    return json.dumps(item["elem"]["val"] if isinstance(item, dict) and "elem" in item else item)
