from __future__ import annotations

import io

import pytest
from helpers.studies_made import THESIS, calibration_table, make_outcome, make_truth, placement_study
from rich.console import Console

from rango.decisions import Posteriors
from rango.reports.study.findings import verdict_sentences
from rango.reports.study.sections import sections, shown_columns
from rango.reports.study.terminal import study_result_table
from rango.reports.tables import number
from rango.results.outcomes import Outcome
from rango.results.table import StudyTable, study_table


def printed(table: StudyTable, width: int) -> str:
    file = io.StringIO()
    Console(width=width, file=file, force_terminal=False).print(study_result_table(table, width=width))
    return file.getvalue()


@pytest.fixture(scope="module")
def placement() -> StudyTable:
    return study_table(placement_study(150), select="nce", references=THESIS, replicates=100)


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_it_fits_and_shows_what_matters(placement: StudyTable, width: int) -> None:
    text = printed(placement, width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert "…" not in text
    for row in placement.rows:
        cell = row.cells["nce"]
        assert f"{number(cell.low)} to {number(cell.high)}" in text
        if cell.spread is not None:
            assert f"{number(cell.mean)} ±{number(cell.spread)}" in text
    words = " ".join(text.split())
    for part in ("NCE ↓", "Accuracy ↑", "↓ lower is better", "95% intervals of the mean over 150 test instances"):
        assert part in words
    assert "mean of the seeds ± standard deviation over them" in words
    assert "★ best of each task by NCE" in words
    assert "phi-2 base [1]" in text
    assert "[2] as the reference thesis quotes it" in words


def test_wider_terminals_show_more(placement: StudyTable) -> None:
    assert "Cross-entropy" not in printed(placement, 60)
    assert "Brier" in printed(placement, 200)


def test_marks_stand_before_their_rows(placement: StudyTable) -> None:
    lines = printed(placement, 140).splitlines()
    for row in placement.rows:
        cell = row.cells["nce"]
        line = next(line for line in lines if f"{number(cell.low)} to {number(cell.high)}" in line)
        assert line[0] == {"best": "★", "tied": "≈", "worse": " "}[row.mark]


def test_the_metrics_that_a_study_names_come_first_and_fit_into_80_columns() -> None:
    table = calibration_table()
    assert [column.name for column in shown_columns(table)[:4]] == [
        "cross_entropy",
        "ece",
        "normalised_expected_cost",
        "error_rate",
    ]
    lines = printed(table, 80).splitlines()
    assert all(title in lines[0] for title in ("Cross-entropy ↓", "ECE ↓", "Norm. cost ↓"))
    assert max(map(len, lines)) <= 80
    words = " ".join(" ".join(lines).split())
    assert "costs: a wrong choice 1, abstaining 0.3" in words
    assert "dropout 0.1 (mc-dropout), 0 (other)" in words
    assert "best by cross-entropy" in words


def test_labels_stand_in_columns_in_all_rows_or_in_none() -> None:
    table = calibration_table()
    narrow, wide = printed(table, 80), printed(table, 150)
    for text in ("base model", "mc-dropout", "lora+calibration", "temperature", "ensemble+calibration", "affine"):
        assert text in narrow
    assert narrow.split()[0] == "configuration"
    first, *_ = (line for line in wide.splitlines() if "lora+calibration" in line)
    assert wide.splitlines()[0].index("calibrator") == first.index("temperature")
    assert "," not in wide.split("↓ lower is better")[0]


def test_a_single_configuration_has_a_name() -> None:
    text = printed(study_table([Outcome({}, {0: make_truth(9)})], select="nce", replicates=0), 80)
    assert "the configuration" in text


def test_bits_of_held_out_text_are_a_column_where_the_bases_differ() -> None:
    truth = make_truth(50)
    outcomes = [make_outcome({"model": name}, truth, scale=0.5, noise=0.2) for name in ("unigram", "lstm")]
    for outcome, bits in zip(outcomes, (1.234, 0.567), strict=True):
        outcome.facts["held_out_bits_per_byte"] = bits  # type: ignore[index]
    for width in (80, 140):
        text = printed(study_table(outcomes, select="nce", replicates=20), width)
        assert "Bits/byte ↓" in text
        assert "1.234" in next(line for line in text.splitlines() if "unigram" in line)
    for outcome in outcomes:
        outcome.facts["held_out_bits_per_byte"] = 1.0  # type: ignore[index]
    assert "Bits/byte" not in printed(study_table(outcomes, select="nce", replicates=20), 140)


def test_perplexities_are_shown_where_one_tokenizer_makes_them_compare() -> None:
    truth = make_truth(50)
    outcomes = [make_outcome({"model": name}, truth, scale=0.5, noise=0.2) for name in ("unigram", "lstm")]
    for bits, shown in ((0.5, True), (0.6, False)):  # bits per byte of the second: as the first's per nat, and not
        for outcome, nats, per_byte in zip(outcomes, (2.0, 1.0), (1.0, bits), strict=True):
            known = {"held_out_nats_per_token": nats, "held_out_bits_per_byte": per_byte}
            outcome.facts.update(known | {"held_out_perplexity": 7.389 if nats == 2.0 else 2.718})  # type: ignore[attr-defined]
        text = printed(study_table(outcomes, select="nce", replicates=0), 140)
        assert ("Perplexity ↓" in text, "7.389" in text) == (shown, shown)


def test_one_seed_no_interval_and_the_floor() -> None:
    truth = make_truth(50)
    outcomes = [make_outcome({"rank": rank}, truth, scale=0.5, noise=0.2, seeds=(1,), floor=True) for rank in (1, 2)]
    text = printed(study_table(outcomes, select="nce", replicates=0), 80)
    assert "one seed, so no spread over seeds · 50 test instances" in text
    assert "±" not in text
    assert "True posterior" in text
    assert "seeds  " not in text


def test_failures_and_different_numbers_are_told_in_the_row() -> None:
    truth = make_truth(50)
    outcomes = [
        make_outcome({"task": "a", "rank": 1}, truth, scale=0.5, noise=0.2),
        Outcome({"task": "a", "rank": 2}, {}, failures={0: "out of memory", 1: "out of memory"}),
        Outcome({"task": "b", "rank": 1}, {}, failures={0: "[red]no data[/red]"}),
        Outcome({"task": "c", "rank": 1}, {0: make_truth(40, name="c")}),
    ]
    table = study_table(outcomes, select="nce", replicates=10)
    text = printed(table, 100)
    assert [part.title for part in sections(table)] == ["a", "c", "b"]
    assert "a  50 instances" in text
    assert [line.split()[:3] for line in text.splitlines() if line.strip().startswith("no seed")] == [
        ["no", "seeds", "0,"],
        ["no", "seed", "0"],
    ]
    assert "(seed 0: [red]no data[/red])" in " ".join(text.split())
    assert verdict_sentences(table)[-1] == (
        "2 configurations lack seeds. a, rank 2 (seeds 0, 1: out of memory); b, rank 1 (seed 0: [red]no data[/red])."
    )


def test_infinite_values_have_their_sign() -> None:
    sure = Posteriors.from_probabilities([[0.0, 1.0], [0.9, 0.1], [0.2, 0.8]], [0, 0, 1])
    text = printed(study_table([Outcome({"a": 1}, {0: sure})], select="nce", replicates=0), 80)
    assert "∞" in text
    assert "Best by NCE: not known. No configuration has a finite value." in text
