# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The table of docs/limits.md, made from the table of limits. `python3 tests/unit/limits_document.py` writes it."""

from __future__ import annotations

import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
START, END = "<!-- table -->\n", "<!-- end of table -->\n"


def table(rows):
    lines = ["| option | cgroup v2 | default | cgroup v1 | systemd |", "|---|---|---|---|---|"]
    for limit in rows.values():
        default = limit.default
        if isinstance(default, dict):
            default = " ".join(str(default[key]) for key in ("quota", "period"))
        elif isinstance(default, bool):
            default = int(default)
        old = "<br>".join("`%s`" % file for file in limit.v1[1]) if limit.v1 else "none"
        manager = "`%s` (%d)" % limit.systemd if limit.systemd else "none"
        lines.append("| `%s` | `%s` | %s | %s | %s |" % (limit.option, limit.file, "empty" if default == "" else "`%s`" % default, old, manager))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.path.insert(0, ROOT + "/plugins")
    from module_utils._model.limits import TABLE

    path = ROOT + "/docs/limits.md"
    with open(path, encoding="utf-8") as stream:
        head, rest = stream.read().split(START)
    with open(path, "w", encoding="utf-8") as stream:
        stream.write(head + START + table(TABLE) + END + rest.split(END)[1])
