# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask a page over and over, until another page has answered and then the first one again: ask.py URL.

Prints how often each page answered, without the numbers in it, in order, and how often none did.
"""

from __future__ import annotations

import re
import sys
import time
import urllib.request

LONG, LAST = 90, 50  # seconds after which it gives up; answers of the first page again


def page(url):
    """The text that is answered, with N for a number at its end; an error is one, too."""
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=30) as answer:
            return re.sub(r"\d+\.?$", "N", answer.read().decode("utf-8", "replace").strip())
    except (OSError, ValueError) as exc:
        return "no answer: %s" % exc


def main(url):
    """Runs of the same answer, as lines."""
    begin, longest, runs = time.monotonic(), 0.0, []
    while time.monotonic() - begin < LONG and not (len(runs) >= 3 and runs[-1][0] == runs[0][0] and runs[-1][1] >= LAST):
        asked = time.monotonic()
        text = page(url)
        longest = max(longest, time.monotonic() - asked)
        if runs and runs[-1][0] == text:
            runs[-1][1] += 1
        else:
            runs.append([text, 1])
        time.sleep(0.01)
    for text, count in runs:
        print("%6d times  %s" % (count, text))
    failed = sum(count for text, count in runs if text.startswith("no answer"))
    print("%6d times  no answer; the longest that it waited for one: %.2f s" % (failed, longest))


if __name__ == "__main__":
    main(*sys.argv[1:])
