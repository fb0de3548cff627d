"""The first hour of an engineer, and of somebody who looks rather than reads: the tutorial itself, with fewer steps.

The long tutorials are carried out in full by `make test-all` (test_doc_pages.py).
"""

from __future__ import annotations

import csv
import runpy
from pathlib import Path

import pytest
from helpers.doc_pages import DOCS, ROOT, Reader, blocks, copy_examples

from rango import Run
from rango.decisions import Costs

# What takes time in the tutorial, and instead of it what takes none.
SMALLER = {
    "python tickets.py": "python tickets.py && head -500 old_tickets.txt > few.txt && mv few.txt old_tickets.txt",
    "--hidden 128": "--hidden 32",
    "--layers 2 --vocabulary 800": "--layers 1 --vocabulary 400",
    "--tokens 300000": "--tokens 4000",
    "--steps 400 --validate-every 50": "--steps 4 --validate-every 4",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the engineer's tutorial leaves."""
    path = tmp_path_factory.mktemp("tickets")
    copy_examples(path)
    page = DOCS / "tutorial" / "engineer.md"
    text = "".join(block.text for block in blocks(page))
    # A setting that the tutorial no longer has would make this test slow, and nobody would see why.
    assert [words for words in SMALLER if words not in text] == [], "the tutorial has other settings now"
    Reader(path, smaller=SMALLER).follow(page)
    return path


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_each_new_ticket_has_a_decision_and_no_label_was_invented(folder: Path, tmp_path: Path) -> None:
    runpy.run_path(str(ROOT / "examples" / "tickets.py"))["write"](tmp_path)
    assert (folder / "new_tickets.csv").read_bytes() == (tmp_path / "new_tickets.csv").read_bytes()
    tickets, decided = rows(folder / "new_tickets.csv"), rows(folder / "decisions.csv")
    assert "category" not in tickets[0]
    assert "category" not in decided[0]
    # Every row and column as it came, in the same order.
    assert [{name: row[name] for name in tickets[0]} for row in decided] == tickets
    costs = Costs.from_yaml(folder / "costs.yaml")
    for row in decided:
        shares = [float(row[f"probability_{name}"]) for name in costs.classes]
        assert sum(shares) == pytest.approx(1, abs=1e-4)
        risks = {
            decision: sum(share * cost for share, cost in zip(shares, column, strict=True))
            for decision, column in zip(costs.decisions, costs.matrix.T, strict=True)
        }
        # Rounded probabilities may turn a draw; the cost of what was decided is still the least.
        assert risks[row["decision"]] == pytest.approx(min(risks.values()), abs=1e-3)


def test_cheaper_passing_on_passes_on_no_fewer(folder: Path) -> None:
    cautious = rows(folder / "cautious.csv")
    assert len(cautious) == len(rows(folder / "decisions.csv"))
    assert any(row["decision"] == "abstain" for row in cautious)


def test_the_gate_sends_tickets_to_a_person_or_acts(folder: Path) -> None:
    gated = rows(folder / "gated.csv")
    assert [row["ticket"] for row in gated] == [row["ticket"] for row in rows(folder / "new_tickets.csv")]
    assert {row["act"] for row in gated} <= {"yes", "no"}


def test_the_run_keeps_the_costs_and_its_page_says_first_whether_it_is_usable(folder: Path) -> None:
    run = Run(folder / "runs" / "tickets")
    costs = Costs.from_yaml(folder / "costs.yaml")
    assert run.costs is not None
    assert run.costs.matrix.tolist() == costs.matrix.tolist()
    page = (run.path / "report.html").read_text(encoding="utf-8")
    body = page[page.index("<body") :]
    assert 0 < body.index("usable") < body.index("<svg")
    assert "pass on" in body
