from __future__ import annotations

import io

import pytest
from helpers.studies_made import THESIS, ladder_study, make_outcome, make_truth, placement_study
from rich.console import Console

from rango.decisions import Posteriors
from rango.reports.study.findings import verdict_sentences
from rango.reports.study.sections import label_of, sections, shown_columns
from rango.reports.study.terminal import study_result_table
from rango.reports.tables import number
from rango.results.outcomes import Outcome
from rango.results.table import StudyTable, study_table
from rango.studies.axes import short_name
from rango.studies.study_costs import StudyCosts


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


def test_what_selects_comes_first_and_twins_are_not_both_shown() -> None:
    table = study_table([Outcome({}, {0: make_truth(9)})], select="brier", replicates=0)
    assert [column.key for column in shown_columns(table)] == ["brier", "error_rate", "nce", "cross_entropy", "ece"]


def overconfidence() -> StudyTable:
    """A study that names its metrics, with an axis that follows from the adaptation and labels too wide for 80."""
    truth = make_truth(120)
    ways = [
        ("none", 0.0, None),
        ("mc-dropout", 0.1, None),
        ("lora+calibration", 0.0, "temperature"),
        ("ensemble+calibration", 0.0, "temperature"),
        ("ensemble+calibration", 0.0, "affine"),
    ]
    outcomes = []
    for place, way in enumerate(ways):
        axes = dict(zip(("adaptation", "lora.dropout", "calibrator"), way, strict=True))
        seeds = (0, 1) if place else (0,)
        outcomes.append(make_outcome(axes, truth, scale=0.2 + 0.1 * place, noise=0.2, seeds=seeds))
    return study_table(
        outcomes,
        select="cross_entropy",
        metrics=["cross_entropy", "ece", "normalised_expected_cost"],
        costs=StudyCosts(abstain=0.3),
        replicates=20,
    )


def test_the_metrics_that_a_study_names_come_first_and_fit_into_80_columns() -> None:
    table = overconfidence()
    assert [column.key for column in shown_columns(table)[:4]] == [
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


def test_what_an_adaptation_lacks_is_not_part_of_a_name() -> None:
    table = overconfidence()
    assert [label_of(row, table) for row in table.rows] == [
        "base model",
        "mc-dropout",
        "lora+calibration, temperature",
        "ensemble+calibration, temperature",
        "ensemble+calibration, affine",
    ]


def test_labels_stand_in_columns_in_all_rows_or_in_none() -> None:
    table = overconfidence()
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


def test_of_several_bases_the_adapted_one_is_named() -> None:
    truth = make_truth(60)
    rows = [("lstm", "none"), ("phi", "none"), ("phi", "lora")]
    axes = [{"model": model, "adaptation": adaptation} for model, adaptation in rows]
    table = study_table([make_outcome(each, truth, scale=0.5, noise=0.2) for each in axes], select="nce", replicates=20)
    assert [label_of(row, table) for row in table.rows] == ["base model, lstm", "base model, phi", "phi, lora"]


def test_what_follows_from_the_adaptation_is_not_repeated_in_a_name() -> None:
    """Full fine-tuning has its own learning rate here: its name says "full" and no more."""
    truth = make_truth(60)
    rows = [("lora", 1e-3, 16), ("lora", 1e-3, 64), ("full", 1e-4, 16), ("full", 1e-4, 64)]
    keys = ("adaptation", "learning_rate", "train")
    outcomes = [make_outcome(dict(zip(keys, row, strict=True)), truth, scale=0.5, noise=0.1) for row in rows]
    table = study_table(outcomes, select="nce", replicates=0)
    assert [label_of(row, table) for row in table.rows] == [
        "lora, train 16",
        "lora, train 64",
        "full, train 16",
        "full, train 64",
    ]
    rates = [
        make_outcome(outcomes[0].axes | {"learning_rate": rate}, truth, scale=rate, noise=0.1) for rate in (0.5, 1.0)
    ]
    table = study_table([*rates, outcomes[2]], select="nce", replicates=0)
    assert label_of(table.rows[0], table).startswith("lora, learning rate 0.5")


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


def test_verdicts_in_words() -> None:
    first, _ = verdict_sentences(study_table(placement_study(250), select="nce", replicates=50))
    assert first == (
        "socialiqa: best by NCE: q,v (0.657). Not told from it: v; q,k,v,o; mlp. "
        "Everything is better than the base model."
    )
    (ladder,) = verdict_sentences(study_table(ladder_study(250), select="error_rate", replicates=50))
    assert ladder == (
        "Best by error rate: lora+calibration, train 5000 (0.284). Not told from it: lora, train 256; "
        "lora, train 1024; lora, train 5000; lora+calibration, train 1024. "
        "Better than the base model: 13 of 20 configurations; "
        "not told from the base model: 7 of 20 configurations."
    )


def test_verdicts_of_small_studies() -> None:
    truth = make_truth(300)
    one = make_outcome({"adaptation": "lora"}, truth, scale=0.9, noise=0.1, seeds=(0,))
    base = make_outcome({"adaptation": "none"}, truth, scale=0.1, noise=0.1, seeds=(0,))
    assert verdict_sentences(study_table([one], select="nce", replicates=9))[0].endswith(
        " of lora. Nothing to hold it against."
    )
    both = verdict_sentences(study_table([base, one], select="nce", replicates=99))[0]
    assert both.startswith("Best by NCE: lora (0.")
    assert both.endswith("Every other configuration is told from it. lora: better than the base model.")
    same = Outcome({"adaptation": "lora"}, base.posteriors)
    assert verdict_sentences(study_table([base, same], select="nce", replicates=9))[0].endswith(
        "No other configuration is told from it. lora: not told from the base model."
    )
    empty = verdict_sentences(study_table([Outcome({}, {}, failures={0: "x"})], select="nce"))
    assert empty == ("No result. Seed 0: x.",)
    half = verdict_sentences(study_table([Outcome({}, {0: truth}, failures={1: "x"})], select="nce", replicates=0))
    assert half[-1] == "Seeds are missing. Seed 1: x."


def test_short_names() -> None:
    assert short_name("learning_rate", ["learning_rate"]) == "learning rate"
