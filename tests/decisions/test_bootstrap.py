"""Resampling, metrics of many resamplings at once, and the intervals made of them."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from helpers.made_posteriors import make

from rango.decisions import Costs, Resampling, fit_calibrator, measurable
from rango.decisions.bootstrap import LossTable, percentile_interval

COSTS = Costs([[0, 1, 2], [2, 0, 1], [1, 3, 0]]).with_abstention(0.5)
PRIORS = np.array([0.2, 0.3, 0.5])


@pytest.mark.parametrize("priors", [None, PRIORS])
@pytest.mark.parametrize(("group_size", "within"), [(0, False), (4, False), (4, True)])
def test_replicates_are_the_metrics_of_the_drawn_instances(
    priors: np.ndarray | None, group_size: int, within: bool
) -> None:
    posteriors = make(n=101, group_size=group_size)
    calibrated = fit_calibrator(posteriors, method="temperature").apply(posteriors)
    resampling = Resampling(posteriors.labels, seed=3, groups=posteriors.groups, within=within)
    table = LossTable(posteriors, metrics=measurable(posteriors), costs=COSTS)
    (counts,) = resampling.counts(5)
    values = table.sums(counts).metrics(measurable(posteriors), costs=COSTS, priors=priors)
    for replicate in range(5):
        drawn = posteriors.take(resampling.indices(replicate))
        for name in measurable(posteriors):
            expected = drawn.metric(name, costs=COSTS, priors=priors)
            if name == "calibrated_nce":
                # Its temperature is that of all instances; that of the drawn ones, of one weight, gives less.
                assert priors is not None or values[name][replicate] >= expected - 1e-9
                expected = calibrated.take(resampling.indices(replicate)).nce(priors=priors)
            assert values[name][replicate] == pytest.approx(expected, rel=1e-10), name


def test_whole_groups_are_drawn() -> None:
    posteriors = make(n=60, group_size=3)
    resampling = Resampling(posteriors.labels, groups=posteriors.groups)
    counts = np.bincount(resampling.indices(0), minlength=60).reshape(-1, 3)
    assert (counts == counts[:, :1]).all()
    assert counts.sum() == 60
    within = Resampling(posteriors.labels, groups=posteriors.groups, within=True)
    inner = np.bincount(within.indices(0), minlength=60).reshape(-1, 3)
    assert (inner.sum(axis=1) == counts.sum(axis=1)).all()
    assert not (inner == inner[:, :1]).all()


def test_a_replicate_does_not_depend_on_how_many_there_are() -> None:
    resampling = Resampling(make(n=50).labels, seed=7)
    few = np.concatenate([block.copy() for block in resampling.counts(3)])
    many = np.concatenate([block.copy() for block in resampling.counts(9)])
    assert (few == many[:3]).all()
    assert (many.sum(axis=1) == 50).all()
    assert not (many[0] == many[1]).all()


def test_blocks_cover_all_replicates_when_one_fills_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    resampling = Resampling(make(n=50).labels)
    (whole,) = [block.copy() for block in resampling.counts(3)]
    monkeypatch.setattr("rango.decisions.bootstrap._BLOCK", 60)
    monkeypatch.setattr("rango.decisions.bootstrap._LARGEST_BLOCK", 60)
    blocks = [block.copy() for block in resampling.counts(3)]
    assert [len(block) for block in blocks] == [1, 1, 1]
    assert (np.concatenate(blocks) == whole).all()


def test_many_instances_are_drawn_a_cell_after_the_other_with_the_law_of_plain_draws(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """N draws from N instances have means 1, variances 1 − 1/N and covariances −1/N, across cells as within them."""
    monkeypatch.setattr("rango.decisions.bootstrap._CELL", 7)
    resampling = Resampling(make(n=20).labels, seed=1)
    counts = np.concatenate([block.copy() for block in resampling.counts(20_000)])
    assert (counts.sum(axis=1) == 20).all()
    in_class_order = np.bincount(resampling.indices(3), minlength=20)[resampling.order]
    assert in_class_order.tolist() == counts[3].tolist()
    # Five standard errors: of a mean 0.007, of a variance 0.012, of a covariance 0.007.
    assert counts.mean(axis=0) == pytest.approx(np.ones(20), abs=0.035)
    assert np.cov(counts.T) == pytest.approx(np.eye(20) - 1 / 20, abs=0.06)
    whole_cells = counts[:, :7].sum(axis=1)
    assert np.var(whole_cells) == pytest.approx(20 * 0.35 * 0.65, rel=0.05)


@pytest.mark.parametrize("cores", [1, 3])
def test_many_instances_are_measured_on_several_cores_with_the_same_result(
    cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The blocks come in their order, each with all its replicates, whichever core is done first."""
    resampling, threads = Resampling(make(n=50).labels), set[str]()
    monkeypatch.setattr("rango.decisions.bootstrap._LARGEST_BLOCK", 100)
    expected = [block.copy() for block in resampling.counts(9)]
    monkeypatch.setattr("rango.decisions.bootstrap._MANY_INSTANCES", 50)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)))

    def measure(counts: np.ndarray) -> np.ndarray:
        threads.add(threading.current_thread().name)
        time.sleep(0.001 * counts[0, 0])
        return counts.copy()

    blocks = resampling.of_blocks(measure, 9)
    assert [block.tolist() for block in blocks] == [block.tolist() for block in expected]
    assert [len(block) for block in blocks] == [2, 2, 2, 2, 1]
    assert (len(threads) > 1) == (cores > 1)

    def fail(counts: np.ndarray) -> None:
        raise KeyboardInterrupt(len(counts))

    with pytest.raises(KeyboardInterrupt):
        resampling.of_blocks(fail, 9)


def test_percentiles_are_numpys() -> None:
    values = np.random.default_rng(0).normal(size=999)
    assert percentile_interval(values, level=0.9) == pytest.approx(tuple(np.quantile(values, [0.05, 0.95])))


def test_intervals_of_the_infinite_and_the_undefined() -> None:
    assert percentile_interval(np.array([1.0, 2.0, np.inf, np.inf]), level=0.99) == (pytest.approx(1.015), np.inf)
    assert percentile_interval(np.array([1.0, np.nan]), level=0.9) is None
    assert percentile_interval(np.array([1.0] * 99 + [np.nan]), level=0.9) == (1.0, 1.0)
