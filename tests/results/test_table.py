from __future__ import annotations

import math

import numpy as np
import pytest
from helpers.studies_made import THESIS, changes_study, make_outcome, make_system, make_truth, placement_study
from hypothesis import given, settings
from hypothesis import strategies as st

from rango.decisions import Costs, Posteriors, entropy, holm, paired_bootstrap, summarise, summarise_difference
from rango.decisions.stated_costs import StatedCosts
from rango.errors import InputError
from rango.results.outcomes import Outcome
from rango.results.table import study_table
from rango.studies.axes import axis_text, varied_axes
from rango.studies.study import belongs

LOG2 = math.log(2)


def hand(*rows: tuple[float, float], labels: tuple[int, ...] = (0, 1)) -> Posteriors:
    return Posteriors.from_probabilities(rows, labels, [f"i{row}" for row in range(len(rows))])


def test_means_and_spreads_by_hand() -> None:
    # Seed 0: losses ln 2 and ln 4, one error; seed 1: ln 2 twice, with the first choice taken on ties.
    first = hand((0.5, 0.5), (0.75, 0.25))
    second = hand((0.5, 0.5), (0.5, 0.5))
    table = study_table([Outcome({"rank": 8}, {0: first, 1: second})], select="nce", replicates=0)
    (row,) = table.rows
    # Its NCE is 1.25: what is worth less than the priors has no mark.
    assert (row.seeds, row.n, row.mark, row.p, row.against_base) == ((0, 1), 2, "", None, None)
    entropy = row.cells["cross_entropy"]
    assert entropy.values == pytest.approx((1.5 * LOG2, LOG2))
    assert entropy.mean == pytest.approx(1.25 * LOG2)
    assert entropy.spread == pytest.approx(0.25 * LOG2 * math.sqrt(2))
    assert (entropy.low, entropy.high) == (None, None)
    assert row.cells["nce"].mean == pytest.approx(1.25)
    assert row.cells["error_rate"].mean == pytest.approx(0.5)
    assert row.cells["accuracy"].mean == pytest.approx(0.5)
    assert row.cells["brier"].values == pytest.approx(((0.5 + 2 * 0.75**2) / 2, 0.5))


def test_the_interval_is_that_of_the_mean_over_seeds_by_an_independent_loop() -> None:
    truth = make_truth(60, seed=3)
    seeds = {s: make_system(truth, scale=0.7, noise=0.6, seed=s) for s in range(3)}
    table = study_table([Outcome({}, seeds)], select="nce", replicates=200, seed=7)
    order = np.argsort(truth.labels, kind="stable")
    drawn: dict[str, list[float]] = {"nce": [], "accuracy": [], "ece": []}
    # Replicates of NCE are divided by the loss of the full sample's frequencies, corrected by its jackknife.
    frequencies = np.bincount(truth.labels) / 60
    without = [entropy(np.bincount(np.delete(truth.labels, row)) / 59) for row in range(60)]
    correction = 59 * (entropy(frequencies) - float(np.mean(without)))
    for replicate in range(200):
        stream = np.random.Generator(np.random.PCG64(np.random.SeedSequence(7, spawn_key=(replicate,))))
        rows = order[stream.integers(0, 60, size=60)]
        constant = float(-np.log(frequencies[truth.labels[rows]]).mean()) + correction
        for name, values in drawn.items():
            systems = [system.take(rows) for system in seeds.values()]
            of_seeds = [s.cross_entropy() / constant if name == "nce" else getattr(s, name)() for s in systems]
            values.append(float(np.mean(of_seeds)))
    for name, values in drawn.items():
        cell = table.rows[0].cells[name]
        assert (cell.low, cell.high) == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])), abs=1e-12)


def test_one_seed_has_the_interval_of_its_system_and_no_spread() -> None:
    system = make_system(make_truth(80), scale=0.8, noise=0.4, seed=1)
    row = study_table([Outcome({}, {4: system})], select="brier", replicates=300, seed=2).rows[0]
    for name, estimate in summarise(system, replicates=300, seed=2, metrics=tuple(row.cells)).items():
        cell = row.cells[name]
        assert cell.spread is None
        assert (cell.mean, cell.low, cell.high) == pytest.approx((estimate.value, estimate.low, estimate.high))


def test_whole_groups_are_drawn() -> None:
    truth = make_truth(40)
    groups = [f"g{row // 4}" for row in range(40)]
    grouped = Posteriors(truth.log_posteriors, truth.labels, truth.ids, groups)
    row = study_table([Outcome({}, {0: grouped})], select="nce", replicates=200).rows[0]
    expected = summarise(grouped, replicates=200)["nce"]
    assert (row.cells["nce"].low, row.cells["nce"].high) == pytest.approx((expected.low, expected.high))


def test_seeds_with_their_own_test_instances_are_drawn_by_instance() -> None:
    truth = make_truth(90)
    seeds = {0: truth.take(range(0, 60)), 1: truth.take(range(30, 90))}
    row = study_table([Outcome({}, seeds)], select="nce", replicates=50).rows[0]
    assert row.n == 90
    cell = row.cells["nce"]
    assert cell.mean == pytest.approx((seeds[0].nce() + seeds[1].nce()) / 2)
    assert cell.low is not None
    assert cell.low < cell.mean < (cell.high or 0)


def planted(n: int = 500) -> list[Outcome]:
    """The best, its twin with a whisper of noise, one clearly worse, one clearly better than the base, and the base."""
    truth = make_truth(n, seed=11)
    scales = {"best": 1.0, "twin": 0.995, "worse": 0.3}
    outcomes = [
        Outcome({"adaptation": name}, {s: make_system(truth, scale=scale, noise=0.05, seed=s) for s in range(2)}, truth)
        for name, scale in scales.items()
    ]
    base = make_system(truth, scale=0.05, noise=0.3, seed=9)
    return [Outcome({"adaptation": "none"}, {0: base}), *outcomes]


@pytest.mark.parametrize("select", ["nce", "cross_entropy", "brier", "normalised_brier"])
def test_a_planted_tie_is_kept_and_a_planted_difference_told(select: str) -> None:
    table = study_table(planted(), select=select, replicates=200)
    marks = [row.mark for row in table.rows]
    assert sorted(marks[1:3]) == ["best", "tied"]
    assert (marks[0], marks[3]) == ("worse", "worse")
    assert [row.against_base for row in table.rows] == [None, "better", "better", "better"]
    (block,) = table.blocks
    assert (block.base, block.n, block.rows) == (0, 500, (0, 1, 2, 3))
    assert block.floor["nce"] == pytest.approx(make_truth(500, seed=11).nce())


def test_p_values_are_those_of_the_paired_bootstrap_corrected_by_holm() -> None:
    outcomes = planted(120)
    table = study_table(outcomes, select="accuracy", replicates=400, seed=5)
    (block,) = table.blocks
    best = table.rows[block.best or 0]
    loss = [
        np.mean([(p.log_posteriors.argmax(axis=1) != p.labels) for p in outcome.posteriors.values()], axis=0)
        for outcome in outcomes
    ]
    assert best.cells["accuracy"].mean == max(row.cells["accuracy"].mean for row in table.rows)
    others = [place for place in block.rows if place != block.best]
    expected = holm(
        [paired_bootstrap(loss[place], loss[block.best or 0], replicates=400, seed=5).p for place in others]
    )
    assert [table.rows[place].p for place in others] == pytest.approx(expected.tolist())
    assert best.p is None


def test_equal_configurations_are_never_told_apart() -> None:
    system = make_truth(30)
    table = study_table([Outcome({"a": place}, {0: system}) for place in range(3)], select="nce", replicates=20)
    assert [row.mark for row in table.rows] == ["best", "tied", "tied"]
    assert [row.p for row in table.rows] == [None, 1.0, 1.0]


@settings(max_examples=15, deadline=None)
@given(st.permutations(range(4)))
def test_the_order_of_configurations_changes_no_number(order: list[int]) -> None:
    outcomes = planted(40)
    table = study_table(outcomes, select="nce", replicates=30)
    other = study_table([outcomes[place] for place in order], select="nce", replicates=30)
    for place, row in zip(order, other.rows, strict=True):
        assert row.cells["nce"].mean == table.rows[place].cells["nce"].mean
        assert row.mark == table.rows[place].mark


def test_blocks_are_tasks_on_the_same_instances() -> None:
    table = study_table(placement_study(60), select="nce", references=THESIS, replicates=0)
    assert [block.task for block in table.blocks] == ["socialiqa", "hellaswag"]
    assert [sum(row.mark == "best" for row in table.rows if row.block == block) for block in (0, 1)] == [1, 1]
    assert table.varied == ("task", "adaptation", "lora.targets")
    other = [Outcome({"a": 1}, {0: make_truth(20)}), Outcome({"a": 2}, {0: make_truth(21)})]
    assert len(study_table(other, select="nce", replicates=0).blocks) == 2


def test_an_infinite_cross_entropy_stays_infinite_and_is_told() -> None:
    sure = hand((0.0, 1.0), (0.1, 0.9), (0.9, 0.1), labels=(0, 1, 0))
    fair = hand((0.6, 0.4), (0.4, 0.6), (0.6, 0.4), labels=(0, 1, 0))
    table = study_table([Outcome({"a": 1}, {0: sure, 1: fair}), Outcome({"a": 2}, {0: fair})], select="nce")
    row = table.rows[0]
    assert row.cells["nce"].mean == math.inf
    assert row.cells["nce"].spread is None
    assert row.cells["nce"].note == "infinite at seed 0: posterior 0 at the label of 1 instance"
    assert (row.mark, row.p) == ("worse", 0.0)
    assert row.cells["brier"].spread is not None
    assert [row.mark for row in study_table([Outcome({}, {0: sure})], select="nce").rows] == [""]


def test_one_class_only_leaves_nce_undefined_and_says_so() -> None:
    system = hand((0.6, 0.4), (0.7, 0.3), labels=(0, 0))
    row = study_table([Outcome({}, {0: system})], select="nce", replicates=10).rows[0]
    assert math.isnan(row.cells["nce"].mean)
    assert "undefined at seed 0" in (row.cells["nce"].note or "")
    assert (row.cells["nce"].low, row.mark) == (None, "")


def test_a_configuration_that_failed_keeps_its_row_and_its_reason() -> None:
    truth = make_truth(30)
    good = make_outcome({"rank": 1}, truth, scale=0.5, noise=0.1)
    lost = Outcome({"rank": 2}, {}, failures={0: "out of memory", 1: "loss is NaN"})
    half = Outcome({"rank": None}, {0: truth}, failures={1: "killed"})
    table = study_table([good, lost, half], select="nce", replicates=10)
    row = table.rows[1]
    assert (row.cells, row.n, row.block, row.mark, row.seeds) == ({}, None, None, "", ())
    assert table.failed == (table.rows[1], table.rows[2])
    assert table.rows[2].seeds == (0,)
    nothing = study_table([lost], select="nce")
    assert nothing.blocks == ()


def test_costs_are_measured_where_they_fit() -> None:
    three, four = make_truth(40), make_truth(40, choices=4, name="h")
    outcomes = [Outcome({"task": "a"}, {0: three}), Outcome({"task": "b"}, {0: four})]
    costs = Costs([[0, 1, 1], [5, 0, 1], [1, 1, 0]])
    table = study_table(
        outcomes, select="normalised_expected_cost", costs=StatedCosts.build(costs.as_dict()), replicates=20
    )
    cell = table.rows[0].cells["normalised_expected_cost"]
    assert cell.mean == pytest.approx(three.normalised_expected_cost(costs))
    assert "normalised_expected_cost" not in table.rows[1].cells
    assert [row.mark for row in table.rows] == ["best", ""]
    with pytest.raises(InputError, match="costs have 2 classes but the tasks have 3, 4 choices; give one row for each"):
        study_table(outcomes, select="nce", costs=StatedCosts.build(Costs.zero_one(2).as_dict()))


def test_a_cost_of_abstaining_fits_every_task_and_marks_the_best_by_an_independent_loop() -> None:
    truths = {"a": make_truth(200), "b": make_truth(200, choices=4, name="h")}
    outcomes = [
        make_outcome({"task": task, "rank": rank}, truth, scale=scale, noise=0.2)
        for task, truth in truths.items()
        for rank, scale in ((1, 0.2), (2, 0.9))
    ]
    costs = StatedCosts(abstain=0.3)
    table = study_table(
        outcomes, select="normalised_expected_cost", metrics=["ece", "expected_cost"], costs=costs, replicates=99
    )
    assert (table.first, table.costs) == (("ece", "expected_cost"), costs)
    for row, outcome in zip(table.rows, outcomes, strict=True):
        found = []
        for system in outcome.posteriors.values():
            q = np.exp(system.log_posteriors)
            sure, wrong = q.max(axis=1) > 0.7, q.argmax(axis=1) != system.labels
            found.append(float(np.where(sure, wrong, 0.3).mean()))
        assert row.cells["expected_cost"].values == pytest.approx(found)
        # Whoever never chooses pays 0.3.
        assert row.cells["normalised_expected_cost"].values == pytest.approx([value / 0.3 for value in found])
    assert [row.mark for row in table.rows] == ["worse", "best", "worse", "best"]


def test_metrics_to_show_first_must_be_known() -> None:
    outcome = Outcome({}, {0: make_truth(9)})
    with pytest.raises(InputError, match="unknown metric 'nec': did you mean 'nce'"):
        study_table([outcome], select="nce", metrics=["nec"])
    with pytest.raises(InputError, match="metrics has expected_cost but there are no costs; give costs"):
        study_table([outcome], select="nce", metrics=["ece", "expected_cost"])


@pytest.mark.parametrize(
    ("select", "words"),
    [
        ("ece", "select is 'ece', which is no mean over instances; expected one of error_rate, nce, cross_entropy"),
        ("nec", "unknown metric to select by 'nec': did you mean 'nce'"),
        ("expected_cost", "select is 'expected_cost' but there are no costs; give costs or select by nce"),
    ],
)
def test_metrics_that_cannot_select(select: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        study_table([Outcome({}, {0: make_truth(5)})], select=select)


def test_bad_arguments() -> None:
    with pytest.raises(InputError, match="the study has no configurations; expected at least one outcome"):
        study_table([], select="nce")
    with pytest.raises(InputError, match=r"replicates is -1; expected 0 \(no intervals\) or more"):
        study_table([Outcome({}, {0: make_truth(5)})], select="nce", replicates=-1)


def test_each_configuration_has_the_base_that_is_most_like_it() -> None:
    truth = make_truth(200)
    weak, strong = (make_system(truth, scale=s, noise=0.05, seed=0) for s in (0.1, 0.8))
    middle = make_system(truth, scale=0.4, noise=0.05, seed=0)
    outcomes = [
        Outcome({"model": "small", "adaptation": "none"}, {0: weak}),
        Outcome({"model": "large", "adaptation": "none"}, {0: strong}),
        Outcome({"model": "small", "adaptation": "lora"}, {0: middle}),
        Outcome({"model": "large", "adaptation": "lora"}, {0: middle}),
    ]
    table = study_table(outcomes, select="nce", replicates=100)
    assert [row.against_base for row in table.rows] == [None, None, "better", "worse"]


@pytest.mark.parametrize("select", ["nce", "accuracy"])
def test_nothing_is_marked_where_no_configuration_is_better_than_the_priors(select: str) -> None:
    truth = make_truth(200)
    wrong = Posteriors.from_scores(-truth.log_posteriors, truth.labels, truth.ids)
    constant = truth.prior_only()
    outcomes = [Outcome({"a": "wrong"}, {0: wrong}), Outcome({"a": "constant"}, {0: constant})]
    table = study_table(outcomes, select=select, replicates=50)
    assert [(row.mark, row.p) for row in table.rows] == [("", None), ("", None)]
    assert table.blocks[0].best is None
    better = Outcome({"a": "better"}, {0: truth})
    assert [row.mark for row in study_table([*outcomes, better], select=select, replicates=50).rows][-1] == "best"


def test_an_unlisted_base_is_measured_and_compared_and_never_marked() -> None:
    truth = make_truth(300)
    strong, middle, weak = (make_system(truth, scale=s, noise=0.05, seed=0) for s in (0.8, 0.5, 0.1))
    outcomes = [
        Outcome({"model": "a", "rank": 1}, {0: middle}, base="A"),
        Outcome({"model": "a", "rank": 2}, {0: weak}, base="A"),
        Outcome({"model": "b", "rank": 1}, {0: middle}, base="B"),
    ]
    bases = [
        Outcome({"model": name, "adaptation": "none"}, {0: system}, base=name.upper())
        for name, system in (("a", middle), ("b", strong))
    ]
    elsewhere = Outcome({"model": "c", "adaptation": "none"}, {0: make_truth(20)})
    alone = study_table(outcomes, select="nce", replicates=100)
    table = study_table(outcomes, select="nce", replicates=100, bases=[*bases, elsewhere])
    # The p-values of the configurations are the same: a base adds no comparison with the best.
    assert [(row.mark, row.p) for row in table.rows] == [(row.mark, row.p) for row in alone.rows]
    assert [row.against_base for row in alone.rows] == [None, None, None]
    assert [row.against_base for row in table.rows] == ["open", "worse", "worse"]
    (block,) = table.blocks
    assert [row.axes["model"] for row in block.bases] == ["a", "b"]
    own = study_table([Outcome({}, {0: strong})], select="nce", replicates=100).rows[0]
    assert block.bases[1].cells["nce"] == own.cells["nce"]
    assert table.axes == alone.axes == ("model", "rank")
    kinds = [(kind, row.cells["nce"].mean) for kind, row in block.yardsticks]
    assert kinds == [
        ("base", pytest.approx(middle.nce())),
        ("base", pytest.approx(strong.nce())),
        ("prior", pytest.approx(1.0)),
    ]


def test_axes_in_words() -> None:
    assert axis_text([None, 1.5]) == "none,1.5"
    assert axis_text(frozenset({"q"})) == "q"
    assert varied_axes([{"a": 1, "b": 2}, {"a": 1}]) == ("b",)
    assert [belongs(THESIS[0], task) for task in ("socialiqa", "hellaswag", None)] == [True, False, True]


def test_changes_are_paired_differences_from_the_centre_corrected_together() -> None:
    outcomes = changes_study()
    table = study_table(outcomes, select="nce", replicates=100, seed=4)
    assert table.has_centre
    base, centre, *changed = table.rows
    assert all(cell.change is None for cell in centre.cells.values())
    of_centre = outcomes[1].posteriors[0]
    p_values = []
    for row, outcome in zip((base, *changed), (outcomes[0], *outcomes[2:]), strict=True):
        system = outcome.posteriors[0]
        expected = summarise_difference(of_centre, system, metrics=["nce", "error_rate"], replicates=100, seed=4)
        for name, estimate in expected.items():
            change = row.cells[name].change
            assert change is not None
            assert change.value == pytest.approx(estimate.value, abs=1e-12)
            assert (change.low, change.high) == pytest.approx((estimate.low, estimate.high), abs=1e-12)
        losses = [-each.log_posteriors[np.arange(len(each)), each.labels] for each in (of_centre, system)]
        # 50 replicates for each of the five comparisons are more than 100.
        p_values.append(paired_bootstrap(*losses, replicates=250, seed=4).p)
    changes = [row.cells["nce"].change for row in (base, *changed)]
    assert [change.p for change in changes if change] == pytest.approx(holm(p_values).tolist())
    # What moves much is significant, a rank or a learning rate that move next to nothing are not worth a mark.
    assert [change.p < 0.05 for change in changes if change and change.p is not None][1::3] == [True, True]


def test_a_grid_has_no_centre() -> None:
    table = study_table(placement_study(40), select="nce", replicates=20)
    assert not table.has_centre
    assert all(cell.change is None for row in table.rows for cell in row.cells.values())


def test_changes_without_intervals_and_beside_what_is_infinite() -> None:
    outcomes = changes_study(60)
    last = outcomes[-1]
    logs = np.array(last.posteriors[0].log_posteriors)
    logs[0] = np.where(np.arange(3) == last.posteriors[0].labels[0], -np.inf, np.log(0.5))
    sure = Outcome(last.axes, {0: Posteriors(logs, last.posteriors[0].labels, last.posteriors[0].ids)})
    table = study_table([*outcomes[:-1], sure], select="error_rate", replicates=0)
    change = table.rows[2].cells["nce"].change
    assert change is not None
    assert (change.low, change.high, change.p) == (None, None, None)
    # Of an infinite NCE there is no difference, of its error rate there is.
    assert table.rows[-1].cells["nce"].change is None
    assert table.rows[-1].cells["error_rate"].change is not None
