from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.studies_made import THESIS, changes_study, ladder_study, make_outcome, make_truth, placement_study
from matplotlib.axes import Axes

from rango.decisions import Posteriors
from rango.decisions.stated_costs import StatedCosts
from rango.reports.study.figures import curve_names, study_curves, study_figures
from rango.reports.study.sections import numeric_axis
from rango.reports.style import save_figure
from rango.results.outcomes import Outcome
from rango.results.table import StudyTable, study_table


def titles(table: StudyTable, outcomes: list[Outcome]) -> list[str]:
    return list(study_figures(table, outcomes))


@pytest.fixture(scope="module")
def placement() -> tuple[StudyTable, list[Outcome]]:
    outcomes = placement_study(60, logs=True)
    return study_table(outcomes, select="nce", references=THESIS, replicates=50), outcomes


@pytest.fixture(scope="module")
def ladder() -> tuple[StudyTable, list[Outcome]]:
    outcomes = ladder_study(60, logs=True)
    return study_table(outcomes, select="nce", replicates=50), outcomes


def test_names_give_dots_one_column_per_task(placement: tuple[StudyTable, list[Outcome]]) -> None:
    table, outcomes = placement
    figures = study_figures(table, outcomes)
    assert list(figures) == ["configurations", "curves"]
    axes = figures["configurations"].axes
    assert [ax.get_title(loc="left") for ax in axes] == ["socialiqa", "hellaswag", "", ""]
    assert [ax.get_xlabel() for ax in axes[::2]] == ["Accuracy (higher is better)", "NCE (lower is better)"]
    labels = [label.get_text() for label in axes[0].get_yticklabels()]
    assert labels[::-1] == [
        *("base model", "q", "k", "v", "o", "q,v", "q,k,v,o", "mlp"),
        *("Prior only", "phi-2 base", "phi-2 adapted", "human"),
    ]
    # The dot of the first placement is its mean, its whisker the interval.
    row = next(row for row in table.rows if row.axes["lora.targets"] == ("q",))
    cell = row.cells["accuracy"]
    drawn = [np.asarray(line.get_xdata()).tolist() for line in axes[0].lines]
    assert [cell.low, cell.high] in drawn
    assert [cell.mean] in drawn
    assert list(cell.values) in drawn


def test_single_changes_give_differences_around_the_centre() -> None:
    table = study_table(changes_study(), select="nce", replicates=50)
    figures = study_figures(table)
    assert list(figures) == ["changes"]
    error, nce = figures["changes"].axes
    assert nce.get_xlabel() == "NCE, less that of the centre\n(below 0 is better)"
    assert [label.get_text() for label in error.get_yticklabels()][::-1] == [
        *("base model", "k", "rank 1", "learning rate 0.001", "train 64")
    ]
    changes = [row.cells["nce"].change for row in table.rows]
    drawn = {line.get_xdata()[0]: line.get_markerfacecolor() for line in nce.lines if line.get_marker() in "os"}  # type: ignore[index]
    assert list(drawn) == [change.value for change in changes if change is not None]
    full = [change.value for change in changes if change is not None and (change.p or 0) < 0.05]
    assert [value for value, face in drawn.items() if face != "white"] == full
    assert [line.get_xdata() for line in nce.lines][-1] == [0.0, 0.0]


def test_full_dots_are_not_significantly_worse_than_the_best(placement: tuple[StudyTable, list[Outcome]]) -> None:
    table, _ = placement
    ax = study_figures(table)["configurations"].axes[2]
    hollow = [line.get_xdata()[0] for line in ax.lines if line.get_markerfacecolor() == "white"]  # type: ignore[index]
    worse = [row.cells["nce"].mean for row in table.rows if row.block == 0 and row.mark == "worse"]
    assert sorted(hollow) == sorted(worse)


def test_numbers_give_lines_on_a_log_axis(ladder: tuple[StudyTable, list[Outcome]]) -> None:
    table, outcomes = ladder
    assert numeric_axis(table) == "train"
    figures = study_figures(table, outcomes)
    assert list(figures) == ["by-train", "curves"]
    error, nce = figures["by-train"].axes
    assert nce.get_xscale() == "log"
    assert nce.get_xlabel() == "training instances"
    labels = [line.get_label() for line in nce.lines]
    ways = ["base model", "few-shot", "calibration", "lora", "lora+calibration"]
    assert labels == [*ways, "Prior only", "True posterior"]
    by_name = dict(zip(labels, nce.lines, strict=True))
    np.testing.assert_allclose(np.asarray(by_name["Prior only"].get_ydata()), 1.0)
    assert set(np.asarray(by_name["True posterior"].get_ydata()).tolist()) == {table.blocks[0].floor["nce"]}
    expected = [row.cells["nce"].mean for row in table.rows if row.axes["adaptation"] == "lora"]
    assert np.asarray(by_name["lora"].get_ydata()).tolist() == expected
    assert np.asarray(by_name["lora"].get_xdata()).tolist() == [16, 64, 256, 1024, 5000]
    # The constant decision's error is a line too.
    (prior,) = (line for line in error.lines if line.get_label() == "Prior only")
    assert set(np.asarray(prior.get_ydata()).tolist()) == {table.blocks[0].prior["error_rate"]}


def test_curves_are_means_over_seeds_with_the_seeds_behind(placement: tuple[StudyTable, list[Outcome]]) -> None:
    table, outcomes = placement
    assert curve_names(table, outcomes) == ["nce", "train_loss"]
    one = next(outcome for outcome in outcomes if outcome.logs)
    figure = study_curves(table, [one], names=["nce"])
    assert figure is not None
    *seeds, mean = figure.axes[0].lines
    values = [[r["validation"]["nce"] for r in log if "validation" in r] for log in one.logs.values()]
    assert [np.asarray(line.get_ydata()).tolist() for line in seeds] == values
    np.testing.assert_allclose(np.asarray(mean.get_ydata()), np.mean(values, axis=0))


def test_seeds_that_stopped_early_are_averaged_where_all_are(placement: tuple[StudyTable, list[Outcome]]) -> None:
    table, outcomes = placement
    one = next(outcome for outcome in outcomes if outcome.logs)
    short = Outcome(one.axes, one.posteriors, logs={0: one.logs[0][:30], 1: one.logs[1]})
    figure = study_curves(table, [short], names=["nce"])
    assert figure is not None
    assert np.asarray(figure.axes[0].lines[-1].get_xdata()).tolist() == [20, 40, 60]


def test_of_many_configurations_only_the_best_have_a_colour(ladder: tuple[StudyTable, list[Outcome]]) -> None:
    table, outcomes = ladder
    figure = study_curves(table, outcomes)
    assert figure is not None
    (legend,) = figure.legends
    shown = [text.get_text() for text in legend.get_texts()]
    assert "others" in shown
    assert len(shown) <= 11


def test_nothing_measured_gives_no_figure_and_infinite_values_no_dot() -> None:
    failed = Outcome({"a": 1}, {}, failures={0: "x"})
    assert study_figures(study_table([failed], select="nce")) == {}
    sure = Posteriors.from_probabilities([[0.0, 1.0], [0.1, 0.9], [0.8, 0.2]], [0, 1, 0])
    table = study_table([Outcome({"a": "x"}, {0: sure})], select="nce", replicates=20)
    ax = study_figures(table, [], metrics=("nce",))["configurations"].axes[0]
    assert [np.asarray(line.get_xdata()).round(9).tolist() for line in ax.lines] == [[1, 1], [1]], "the priors alone"


def test_one_bad_value_does_not_flatten_the_others() -> None:
    truth = make_truth(60)
    sure = Posteriors.from_scores(-20 * truth.log_posteriors, truth.labels, truth.ids)
    for axis, values in (("rank", (1, 2, 4, 8)), ("way", ("w", "x", "y", "z"))):
        outcomes = [make_outcome({axis: value}, truth, scale=0.5, noise=0.3) for value in values[:3]]
        outcomes.append(Outcome({axis: values[3]}, {0: sure}))
        table = study_table(outcomes, select="nce", replicates=20)
        (figure,) = study_figures(table, metrics=("nce",)).values()
        ax = figure.axes[0]
        bad = table.rows[3].cells["nce"].mean
        end = (ax.get_ylim() if axis == "rank" else ax.get_xlim())[1]
        assert bad > 20
        assert 1.0 < end < 2.0, "the priors are shown"
        assert [f"{bad:.3f}" in text.get_text() for text in ax.texts] == [True]
        # An accuracy has an end of its own, and is never cut.
        (figure,) = study_figures(table, metrics=("accuracy",)).values()
        assert [text.get_text() for text in figure.axes[0].texts] == []


def test_an_unlisted_base_and_the_priors_are_drawn_but_not_the_calibration_error_of_the_priors() -> None:
    truth = make_truth(60)
    outcomes = [make_outcome({"rank": rank}, truth, scale=0.5, noise=0.3) for rank in (1, 2, 4)]
    base = make_outcome({"adaptation": "none"}, truth, scale=0.1, noise=0.3, seeds=(0,))
    for places, name in ((slice(None), "by-rank"), (slice(2), "configurations")):
        table = study_table(outcomes[places], select="nce", replicates=20, bases=[base])
        for metric, shown in (("nce", ["Base model", "Prior only"]), ("ece", ["Base model"])):
            ax = study_figures(table, metrics=(metric,))[name].axes[0]
            labels = [str(line.get_label()) for line in ax.lines] if name == "by-rank" else row_names(ax)[2:]
            assert [label for label in labels if not label.startswith("_")] == shown


def row_names(ax: Axes) -> list[str]:
    return [label.get_text() for label in ax.get_yticklabels()][::-1]


def test_two_values_of_a_number_are_names() -> None:
    truth = make_truth(40)
    outcomes = [make_outcome({"rank": rank}, truth, scale=0.5, noise=0.3) for rank in (1, 8)]
    table = study_table(outcomes, select="nce", replicates=10)
    assert numeric_axis(table) is None
    labels = study_figures(table)["configurations"].axes[0].get_yticklabels()
    assert [label.get_text() for label in labels] == ["Prior only", "rank 8", "rank 1"]


@pytest.mark.parametrize("ending", ["png", "pdf", "svg"])
def test_files_are_the_same_each_time(tmp_path: Path, ladder: tuple[StudyTable, list[Outcome]], ending: str) -> None:
    for name in ("a", "b"):
        save_figure(study_figures(ladder[0])["by-train"], tmp_path / f"{name}.{ending}")
    assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"b.{ending}").read_bytes()


def test_the_metrics_that_a_study_names_are_drawn() -> None:
    truth = make_truth(40)
    outcomes = [make_outcome({"a": name}, truth, scale=0.5, noise=0.2) for name in "xy"]
    names = ["cross_entropy", "ece", "normalised_expected_cost", "brier"]
    table = study_table(outcomes, select="nce", metrics=names, costs=StatedCosts(abstain=0.3), replicates=20)
    assert [ax.get_xlabel() for ax in study_figures(table)["configurations"].axes] == [
        "Cross-entropy (lower is better)",
        "ECE (lower is better)",
        "Normalised expected cost (lower is better)",
    ]


def test_configurations_of_the_same_runs_are_one_curve() -> None:
    truth = make_truth(40)
    plain = make_outcome({"adaptation": "lora"}, truth, scale=0.5, noise=0.2, logs=True)
    other = make_outcome({"adaptation": "full"}, truth, scale=0.4, noise=0.2, logs=True)
    calibrated = Outcome({"adaptation": "lora+calibration"}, plain.posteriors, logs=plain.logs)
    outcomes = [plain, other, calibrated]
    figure = study_curves(study_table(outcomes, select="nce", replicates=0), outcomes)
    assert figure is not None
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["lora", "full"]
    assert figure.axes[0].get_ylabel() == "validation NCE"
