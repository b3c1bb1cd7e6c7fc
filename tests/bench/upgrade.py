# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The switch of a sandbox to another image that was built: how long it does not answer (gap.py), against a restart of its service."""

from __future__ import annotations

import sys

import measure

SWITCH = 50  # milliseconds that it may take beside the service's own stop and start


def rows(work, lower):
    found = measure.answer([sys.executable, "gap.py"], cwd=measure.HERE)
    yield measure.row("no answer: switch to another image, of a restart + %d ms" % SWITCH, 1, found["switch"], found["restart"],
                      allowed=lambda value: value + SWITCH)
