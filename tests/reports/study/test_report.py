from __future__ import annotations

import re
from pathlib import Path

import pytest
from helpers.studies_made import THESIS, placement_study

from rango.cli import main
from rango.reports.study import report as study_report
from rango.reports.study.report import write_study
from rango.results.outcomes import Outcome, StudyResult
from rango.results.table import table_csv
from rango.studies.study import Reference
from rango.studies.study_costs import StudyCosts

HOSTILE = "<script>alert('x')</script>"


@pytest.fixture(scope="module")
def study() -> StudyResult:
    all_of_it = placement_study(60, logs=True)
    outcomes = [*all_of_it[:3], *all_of_it[8:11]]
    outcomes[1] = Outcome(**{**vars(outcomes[1]), "facts": {"seconds": 95.4, "trainable_parameters": 9216.0}})
    axes = {"task": "hellaswag", "adaptation": HOSTILE, "lora.targets": None}
    outcomes.append(Outcome(axes, {}, failures={0: f"{HOSTILE} memory"}))
    references = (*THESIS, Reference(HOSTILE, {}, "nce", 0.5, HOSTILE))
    return StudyResult("placement & co", "Where should LoRA go?", "nce", tuple(outcomes), references)


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
    assert (tmp_path / "a/table.csv").read_text() == table_csv(first.table.table)

    page = first.page.read_text()
    text = " ".join(re.sub(r"<[^>]+>", " ", re.sub(r"<(style|svg).*?</\1>", "", page, flags=re.DOTALL)).split())
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert not re.search(r'(src|href)="(?!#)', page), "the page needs nothing from elsewhere"
    for part in (
        "placement &amp; co study",
        "Where should LoRA go?",
        "7 configurations 14 results 60 test instances selected by NCE",
        "socialiqa: best by NCE",
        "1 configuration lacks seeds.",
        "as the reference thesis quotes it",
        "1 min 35 s",
        "9,216",
        "no result: seed 0:",
    ):
        assert part in text
    assert page.count("<figure>") == 8
    assert page.count('title="best"') == 2
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))


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
    small = StudyResult("s", "", "nce", outcomes, (), ("ece", "expected_cost"), StudyCosts(abstain=0.3))
    shown = write_study(tmp_path, small, replicates=0)
    table = shown.table.table
    assert table.first == ("ece", "expected_cost")
    assert "expected_cost" in table_csv(table).splitlines()[0].split(",")
    page = " ".join(re.sub(r"<[^>]+>", " ", shown.page.read_text()).split())
    assert page.index("ECE ↓") < page.index("Exp. cost ↓") < page.index("NCE ↓")
    assert "costs: a wrong choice 1, abstaining 0.3" in page
