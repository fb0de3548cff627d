"""Metrics over seeds and instances, and which configurations are significantly worse than the best."""

from __future__ import annotations

import math

import numpy as np
import pytest
from helpers.made_posteriors import make

from rango.decisions import Costs, Posteriors, holm, paired_bootstrap
from rango.decisions.stated_costs import StatedCosts
from rango.errors import InputError
from rango.results.statistics import SharedInstances, Standing, check_selection, fitting_costs, losses, measure, rank


def system(*rows: tuple[float, float], labels: tuple[int, ...], ids: str, groups: str | None = None) -> Posteriors:
    return Posteriors.from_probabilities(rows, labels, ids, groups)


HALF = (0.5, 0.5)
ONE = system(HALF, (0.25, 0.75), labels=(0, 1), ids="ab", groups="xx")
OTHER = system((0.75, 0.25), HALF, labels=(1, 0), ids="bc", groups="xy")


def test_shared_instances_are_each_once_in_the_order_of_the_first_system() -> None:
    shared = SharedInstances.of([ONE, OTHER])
    assert (shared.ids, shared.labels.tolist(), shared.groups) == (("a", "b", "c"), [0, 1, 0], ("x", "x", "y"))
    assert shared.rows(OTHER).tolist() == [1, 2]
    assert SharedInstances.of([ONE]).rows(ONE).tolist() == [0, 1]
    # Without groups anywhere there are none; with groups in one system, an instance of another is its own group.
    bare = system(HALF, labels=(0,), ids="d")
    assert SharedInstances.of([bare]).groups is None
    assert SharedInstances.of([ONE, bare]).groups == ("x", "x", "d")


def test_losses_are_means_over_the_seeds_that_have_the_instance() -> None:
    shared = SharedInstances.of([ONE, OTHER])
    loss = losses({0: ONE, 1: OTHER}, select="cross_entropy", instances=shared, costs=None)
    ln = math.log
    assert loss == pytest.approx([ln(2), (ln(4 / 3) + ln(4)) / 2, ln(2)])
    # With abstention at 0.3 every posterior below 0.7 is refused.
    costs = StatedCosts(abstain=0.3)
    assert losses({0: ONE}, select="expected_cost", instances=shared.of([ONE]), costs=costs).tolist() == [0.3, 0.0]


def test_costs_that_do_not_fit_are_zero_and_one() -> None:
    three = StatedCosts(costs=((0, 2, 2), (2, 0, 2), (2, 2, 0)), classes=("a", "b", "c"), decisions=("a", "b", "c"))
    assert fitting_costs(make(k=3), three).matrix.max() == 2
    for costs in (three, None):
        assert fitting_costs(ONE, costs).matrix.tolist() == Costs.zero_one(2).matrix.tolist()


def test_metrics_of_costs_are_measured_where_the_costs_fit() -> None:
    names = ["nce", "normalised_expected_cost"]
    three = StatedCosts(costs=((0, 2, 2), (2, 0, 2), (2, 2, 0)), classes=("a", "b", "c"), decisions=("a", "b", "c"))
    for costs, measured in ((None, ["nce"]), (three, ["nce"]), (StatedCosts(abstain=0.3), names)):
        cells = measure(
            [{0: ONE}], instances=SharedInstances.of([ONE]), metrics=names, costs=costs, replicates=0, seed=0
        )
        assert [list(cell) for cell in cells] == [measured]


def test_the_interval_is_that_of_the_mean_and_the_spread_that_of_the_seeds() -> None:
    first, second = make(n=200), make(n=200, sharpness=0.3)
    shared = SharedInstances.of([first, second])
    options = {"instances": shared, "metrics": ["nce"], "costs": None, "replicates": 300, "seed": 1}
    (both,) = measure([{0: first, 1: second}], **options)  # type: ignore[arg-type]
    (alone,) = measure([{0: first}], **options)  # type: ignore[arg-type]
    assert both["nce"].mean == pytest.approx((first.nce() + second.nce()) / 2)
    assert both["nce"].spread == pytest.approx(abs(first.nce() - second.nce()) / math.sqrt(2))
    assert (alone["nce"].values, alone["nce"].spread) == ((first.nce(),), None)
    for cell in (both["nce"], alone["nce"]):
        assert cell.low is not None
        assert cell.high is not None
        assert cell.low < cell.mean < cell.high


def test_a_mean_that_is_not_finite_says_why() -> None:
    wrong = system((0.0, 1.0), (0.0, 1.0), (0.5, 0.5), labels=(0, 0, 1), ids="abc")
    (cells,) = measure(
        [{3: wrong}], instances=SharedInstances.of([wrong]), metrics=["nce", "brier"], costs=None, replicates=0, seed=0
    )
    assert cells["nce"].note == "infinite at seed 3: posterior 0 at the label of 2 instances"
    assert (cells["nce"].spread, cells["brier"].note) == (None, None)
    same = system(HALF, labels=(0,), ids="a")
    (cells,) = measure(
        [{0: same}], instances=SharedInstances.of([same]), metrics=["nce"], costs=None, replicates=0, seed=0
    )
    assert cells["nce"].note == "undefined at seed 0: the priors lose nothing, so nothing normalises"


def made_losses(*means: float, n: int = 200) -> list[np.ndarray]:
    """Losses of configurations that differ by noise and by their means."""
    rng = np.random.default_rng(0)
    shared = rng.exponential(size=n)
    return [shared + mean + 0.1 * rng.normal(size=n) for mean in means]


def instances_of(n: int) -> SharedInstances:
    return SharedInstances(tuple(map(str, range(n))), np.zeros(n, dtype=np.int64), None)


def test_ranks_by_paired_bootstrap_and_holm() -> None:
    loss = made_losses(0.0, 0.005, 0.3, 0.3)
    means = [float(each.mean()) for each in loss]
    standings = rank(loss, means, base=[3, 3, 3, None], instances=instances_of(200), replicates=500, seed=0)
    best = int(np.argmin(means))
    assert [each.mark for each in standings].count("best") == 1
    assert (standings[best].mark, standings[best].p) == ("best", None)
    assert {standings[row].mark for row in range(4) if row != best} == {"tied", "worse"}
    others = [row for row in range(4) if row != best]
    p_values = [paired_bootstrap(loss[row], loss[best], replicates=500, seed=0).p for row in others]
    assert [standings[row].p for row in others] == holm(p_values).tolist()
    assert [each.against_base for each in standings] == ["better", "better", "open", None]


def test_an_infinite_loss_is_worse_without_a_test_and_nan_is_not_ranked() -> None:
    loss = [*made_losses(0.0, n=20), np.array([np.inf] + [0.0] * 19), np.array([np.inf] * 20)]
    means = [float(loss[0].mean()), math.inf, math.nan]
    standings = rank(loss, means, base=[None] * 3, instances=instances_of(20), replicates=10, seed=0)
    assert standings == [Standing("best"), Standing("worse", 0.0), Standing()]


def test_equal_losses_are_tied_and_nothing_finite_ranks_nothing() -> None:
    (loss,) = made_losses(0.0, n=20)
    standings = rank([loss, loss], [1.0, 1.0], base=[None, 0], instances=instances_of(20), replicates=10, seed=0)
    assert standings == [Standing("best"), Standing("tied", 1.0, "open")]
    lost = np.full(20, np.inf)
    assert rank([lost], [math.inf], base=[None], instances=instances_of(20), replicates=10, seed=0) == [Standing()]


@pytest.mark.parametrize(
    ("select", "message"),
    [
        ("ece", "select is 'ece', which is no mean over instances; expected one of error_rate"),
        ("brire", "unknown metric to select by 'brire': did you mean 'brier'"),
        ("expected_cost", "select is 'expected_cost' but there are no costs; give costs or select by nce"),
    ],
)
def test_what_cannot_select_is_named(select: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_selection(select, costs=None)
    check_selection("expected_cost", costs=StatedCosts(abstain=0.3))
