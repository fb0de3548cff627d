from __future__ import annotations

import re
from pathlib import Path

import pytest
from helpers.studies_made import hostile_study

from rango.cli import main
from rango.decisions.stated_costs import StatedCosts
from rango.reports.study import report as study_report
from rango.reports.study.report import write_study
from rango.results.outcomes import StudyResult
from rango.results.table import table_csv


@pytest.fixture(scope="module")
def study() -> StudyResult:
    return hostile_study()


def test_all_files_are_written_and_the_same_each_time(tmp_path: Path, study: StudyResult) -> None:
    first, second = (write_study(tmp_path / name, study, replicates=40) for name in ("a", "b"))
    names = [str(path.relative_to(tmp_path / "a")) for path in first.files]
    assert names == [
        "table.csv",
        "table.tex",
        *(f"figures/{name}.{ending}" for name in ("configurations", "curves") for ending in ("png", "pdf")),
        "report.html",
    ]
    for one, other in zip(first.files, second.files, strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert (tmp_path / "a/table.csv").read_text() == table_csv(first.table)


def test_report_of_a_study_folder(
    tmp_path: Path, study: StudyResult, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = StudyResult("s", "", "nce", study.outcomes[:3], ())
    (tmp_path / "study.yaml").write_text("base: {}\n")
    monkeypatch.setattr(study_report, "read_outcomes", lambda _: small)
    assert main(["report", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "★" in printed
    assert printed.rstrip().endswith(str(tmp_path / "report.html"))
    assert (tmp_path / "figures/configurations.pdf").is_file()


def test_metrics_and_costs_come_from_the_folder(tmp_path: Path, study: StudyResult) -> None:
    outcomes = study.outcomes[:3]
    small = StudyResult("s", "", "nce", outcomes, (), ("ece", "expected_cost"), StatedCosts(abstain=0.3))
    shown = write_study(tmp_path, small, replicates=0)
    table = shown.table
    assert table.first == ("ece", "expected_cost")
    assert "expected_cost" in table_csv(table).splitlines()[0].split(",")
    page = " ".join(re.sub(r"<[^>]+>", " ", shown.page.read_text()).split())
    assert page.index("ECE ↓") < page.index("Exp. cost ↓") < page.index("NCE ↓")
    assert "costs: a wrong choice 1, abstaining 0.3" in page
