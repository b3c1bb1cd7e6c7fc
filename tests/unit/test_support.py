# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""docs/support.md says what tests have shown: each row has tests on both kinds of hosts, and each `no` has its reason."""

from __future__ import annotations

import pytest
import support_document as support

FOUND = support.load(support.ROOT + "/docs/support.json")


@pytest.mark.parametrize("folder", support.PLACES.values())
def test_each_row_has_a_test_and_each_proof_a_row(folder):
    assert support.proofs(folder) == set(support.ROWS)


def test_document_is_made_from_what_was_found():
    with open(support.ROOT + "/docs/support.md", encoding="utf-8") as stream:
        text = stream.read()
    assert support.START + support.table(FOUND) + support.END in text, "run python3 tests/unit/support_document.py"


@pytest.mark.parametrize("kind", support.KINDS)
def test_nothing_is_kept_that_has_no_row(kind):
    assert set(FOUND.get(kind, {})) <= set(support.ROWS)


@pytest.mark.parametrize("kind", support.KINDS)
@pytest.mark.parametrize("row", support.ROWS)
def test_each_no_has_its_reason(kind, row):
    word, reason = support.cell(FOUND.get(kind, {}).get(row))
    assert word != "no" or (reason.endswith(".") and "\n" not in reason)


def test_cells():
    def cell(*outcomes):
        return support.cell({str(number): {"outcome": word, "reason": reason} for number, (word, reason) in enumerate(outcomes)})

    assert cell() == cell(("passed", None), ("failed", None)) == cell(("skipped", None)) == ("not proved", None)
    assert cell(("passed", None), ("passed", None)) == ("yes", None)
    assert cell(("refused", "It is so.")) == ("no", "It is so.")
