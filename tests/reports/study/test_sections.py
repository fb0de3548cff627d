from __future__ import annotations

import math

import pytest
from helpers.studies_made import THESIS, calibration_table, changes_study, make_outcome, make_truth, placement_study

from rango.decisions import Posteriors
from rango.reports.study.sections import (
    caption_parts,
    full_label,
    label_of,
    mark_words,
    numeric_axis,
    sections,
    shown_axes,
    shown_columns,
    sources,
    span_text,
    value_text,
)
from rango.results.outcomes import Outcome
from rango.results.statistics import MetricOverSeeds
from rango.results.table import study_table
from rango.studies.axes import short_name
from rango.studies.study import Reference


def test_what_selects_comes_first_and_twins_are_not_both_shown() -> None:
    table = study_table([Outcome({}, {0: make_truth(9)})], select="brier", replicates=0)
    assert [column.name for column in shown_columns(table)] == ["brier", "error_rate", "nce", "cross_entropy", "ece"]


def test_what_an_adaptation_lacks_is_not_part_of_a_name() -> None:
    table = calibration_table()
    assert [label_of(row, table) for row in table.rows] == [
        "base model",
        "mc-dropout",
        "lora+calibration, temperature",
        "ensemble+calibration, temperature",
        "ensemble+calibration, affine",
    ]


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


def test_short_names() -> None:
    assert short_name("learning_rate", ["learning_rate"]) == "learning rate"


def test_lines_stand_in_the_order_of_the_study_then_the_yardsticks_then_each_system_of_a_source_once() -> None:
    truth = make_truth(30)
    outcomes = [make_outcome({"a": name}, truth, scale=0.5, noise=0.2, floor=True) for name in "xy"]
    stated = [Reference("phi-2", {}, "accuracy", 0.6, "s"), Reference("phi-2", {}, "nce", 0.9, "s")]
    base = make_outcome({"adaptation": "none"}, truth, scale=0.1, noise=0.2)
    (part,) = sections(study_table(outcomes, select="nce", references=stated, replicates=0, bases=[base]))
    assert [(line.kind, line.title) for line in part.lines] == [
        ("configuration", "x"),
        ("configuration", "y"),
        ("base", "Base model"),
        ("prior", "Prior only"),
        ("floor", "True posterior"),
        ("reference", "phi-2"),
    ]
    assert {name: cell.mean for name, cell in part.lines[-1].cells.items()} == {"accuracy": 0.6, "nce": 0.9}
    assert (part.title, part.n) == ("", None)


def test_several_base_models_have_their_names() -> None:
    truth = make_truth(30)
    outcomes = [
        make_outcome({"model": model, "adaptation": way}, truth, scale=0.5, noise=0.2)
        for model, way in (("lstm", "lora"), ("phi", "lora"), ("phi", "none"))
    ]
    base = make_outcome({"model": "lstm", "adaptation": "none"}, truth, scale=0.1, noise=0.2)
    (part,) = sections(study_table(outcomes, select="nce", replicates=0, bases=[base]))
    assert [line.title for line in part.lines if line.is_base] == ["base model", "Base model, lstm"]


def test_a_reference_stands_in_the_section_of_its_task_and_sources_are_numbered() -> None:
    parts = sections(study_table(placement_study(20), select="nce", references=THESIS, replicates=0))
    names = {part.title: [line.title for line in part.lines if line.kind == "reference"] for part in parts}
    assert names == {"socialiqa": ["phi-2 base", "phi-2 adapted", "human"], "hellaswag": ["phi-2 base"]}
    assert sources(parts) == {"reference thesis, table 4.1": 1, "as the reference thesis quotes it": 2}


def test_what_has_no_result_stands_with_its_task_or_in_a_section_of_its_own() -> None:
    truth = make_truth(20)
    outcomes = [
        Outcome({"task": "a", "rank": 1}, {}, failures={0: "memory"}),
        Outcome({"task": "b", "rank": 1}, {}, failures={0: "memory"}),
        Outcome({"task": "a", "rank": 2}, {0: truth}),
    ]
    table = study_table(outcomes, select="nce", replicates=0)
    parts = sections(table)
    assert [(part.title, [(line.title, line.failed) for line in part.lines]) for part in parts] == [
        ("a", [("rank 1", (0,)), ("rank 2", ()), ("Prior only", ())]),
        ("b", [("rank 1", (0,))]),
    ]
    assert full_label(table.rows[1], table) == "b, rank 1"


@pytest.mark.parametrize(
    ("values", "axis"),
    [((1, 8), None), ((1, 8, 64), "rank"), ((1, 8, None), None), ((1, 8, 64, None), "rank"), ((1, 8, "all"), None)],
)
def test_lines_need_three_numbers_on_an_axis(values: tuple[object, ...], axis: str | None) -> None:
    outcomes = [Outcome({"rank": value}, {0: make_truth(9)}) for value in values]
    assert numeric_axis(study_table(outcomes, select="nce", replicates=0)) == axis


def test_the_caption_says_what_the_numbers_are() -> None:
    truth = make_truth(40)
    outcomes = [make_outcome({"a": name}, truth, scale=scale, noise=0.2) for name, scale in (("x", 0.1), ("y", 2.0))]
    table = study_table(outcomes, select="accuracy", replicates=10)
    assert caption_parts(table, shown_columns(table)[:2]) == [
        "↑ higher is better",
        "↓ lower is better",
        "mean of 3 seeds ± standard deviation over them",
        "95% intervals of the mean over 40 test instances",
        "Prior only: the class frequencies as the posterior of every instance",
    ]
    assert mark_words(study_table([outcomes[0]], select="nce", replicates=10)) == "★ best by NCE"
    alike = [Outcome({"a": name}, outcomes[0].posteriors) for name in "xy"]
    assert mark_words(study_table(alike, select="nce", replicates=10)) == (
        "★ best by NCE, ≈ not significantly worse than the best (paired bootstrap, Holm-corrected, 5%)"
    )
    never = Posteriors.from_probabilities([[0.0, 1.0]], [0])
    assert mark_words(study_table([Outcome({}, {0: never})], select="cross_entropy", replicates=0)) == ""


def test_the_text_of_a_cell() -> None:
    cell = MetricOverSeeds(0.2104, 0.0123, 0.19, 0.23, (0.2, 0.22))
    assert (value_text(cell), span_text(cell)) == ("0.210 ±0.012", "0.190 to 0.230")
    alone = MetricOverSeeds(math.nan, None, 0.1, 0.2, (math.nan,))
    assert (value_text(alone), span_text(alone)) == ("–", "")


def test_where_one_thing_changes_at_a_time_the_change_is_the_name_of_a_row() -> None:
    table = study_table(changes_study(40), select="nce", replicates=0)
    assert shown_axes(table) == ()
    (section,) = sections(table)
    assert [line.title for line in section.lines if line.kind == "configuration"] == [
        *("base model", "centre", "k", "rank 1", "learning rate 0.001", "train 64")
    ]
    assert "centre: q,v, rank 8, learning rate 0.0005, train 5000" in caption_parts(table, shown_columns(table))
    assert numeric_axis(table) is None
