"""Laws that every metric obeys, parity with scikit-learn and loops, and hand cases."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from rango.decisions import (
    METRICS,
    Costs,
    Posteriors,
    Rule,
    brier_rule,
    cost_rule,
    entropy,
    error_rule,
    fit_calibrator,
    logarithmic_rule,
    summarise,
)
from rango.decisions.arrays import log_softmax
from rango.decisions.metrics import brier_of_priors, ranked_rule
from rango.errors import InputError

seeds = st.integers(0, 100_000)
lawful = settings(deadline=None, max_examples=40)
NEEDS_COSTS = ("expected_cost", "normalised_expected_cost")
NORMALISED = ("nce", "normalised_brier", "normalised_expected_cost")
UNORDERED = [name for name, metric in METRICS.items() if not metric.needs_order]


def case(seed: int) -> tuple[Posteriors, Costs, np.ndarray]:
    """Posteriors with every class present, costs with an abstention, and target priors."""
    rng = np.random.default_rng(seed)
    k = int(rng.integers(2, 6))
    labels = np.concatenate([np.arange(k), rng.integers(0, k, 50)])
    scores = rng.normal(size=(len(labels), k)) * 2
    posteriors = Posteriors.from_scores(scores, labels, types=["score"] * len(labels))
    costs = Costs(rng.uniform(0.5, 3, size=(k, k)) * (1 - np.eye(k))).with_abstention(0.4)
    return posteriors, costs, rng.dirichlet(np.ones(k))


def measure(posteriors: Posteriors, name: str, costs: Costs, priors: np.ndarray | None = None) -> float:
    arguments = [costs] if name in NEEDS_COSTS else []
    if METRICS[name].needs_order:
        return posteriors.metric(name, priors=priors)
    return float(getattr(posteriors, name)(*arguments, priors=priors))


def rules(costs: Costs) -> list[Rule]:
    return [logarithmic_rule, brier_rule, error_rule, cost_rule(costs)]


def score_of_priors(priors: np.ndarray, *, rule: Rule) -> float:
    """Mean of a rule for the system that outputs the priors: Σ_k π_k rule(k, π), with 0 · ∞ = 0."""
    with np.errstate(divide="ignore"):
        losses = rule(np.log(np.tile(priors, (len(priors), 1))), np.arange(len(priors)))
    return float((priors[priors > 0] * losses[priors > 0]).sum())


def test_by_hand() -> None:
    posteriors = Posteriors(np.log([[0.8, 0.2], [0.4, 0.6], [0.3, 0.7]]), [0, 0, 1])
    assert posteriors.cross_entropy() == pytest.approx(-(np.log(0.8) + np.log(0.4) + np.log(0.7)) / 3)
    assert posteriors.brier() == pytest.approx((2 * 0.04 + 2 * 0.36 + 2 * 0.09) / 3)
    assert posteriors.error_rate() == pytest.approx(1 / 3)
    weighted = -(0.9 * (np.log(0.8) + np.log(0.4)) / 2 + 0.1 * np.log(0.7))
    assert posteriors.cross_entropy(priors=[0.9, 0.1]) == pytest.approx(weighted)
    assert posteriors.nce(priors=[0.9, 0.1]) == pytest.approx(weighted / -(0.9 * np.log(0.9) + 0.1 * np.log(0.1)))


@given(seeds)
@lawful
def test_parity_with_scikit_learn(seed: int) -> None:
    posteriors, _, priors = case(seed)
    y, q, k = posteriors.labels, np.exp(posteriors.log_posteriors), posteriors.n_choices
    weights = (priors / np.bincount(y, minlength=k))[y]
    assert posteriors.cross_entropy() == pytest.approx(sk.log_loss(y, q), rel=1e-12)
    assert posteriors.cross_entropy(priors=priors) == pytest.approx(sk.log_loss(y, q, sample_weight=weights))
    assert posteriors.accuracy() == pytest.approx(sk.accuracy_score(y, q.argmax(axis=1)))
    assert posteriors.error_rate(priors=priors) == pytest.approx(
        sk.zero_one_loss(y, q.argmax(1), sample_weight=weights)
    )
    brier = sk.brier_score_loss(y, q, scale_by_half=False, labels=np.arange(k))
    assert posteriors.brier() == pytest.approx(brier, rel=1e-12)


@given(seeds)
@lawful
def test_parity_with_loops(seed: int) -> None:
    posteriors, costs, priors = case(seed)
    logs, labels, k = posteriors.log_posteriors, posteriors.labels, posteriors.n_choices
    counts = [int((labels == c).sum()) for c in range(k)]
    loss = cost = brier = 0.0
    for row, y in zip(logs, labels.tolist(), strict=True):
        weight = priors[y] / counts[y]
        q = [float(np.exp(value)) for value in row]
        risks = [sum(q[c] * costs.matrix[c, d] for c in range(k)) for d in range(k + 1)]
        loss -= weight * row[y]
        cost += weight * costs.matrix[y, risks.index(min(risks))]
        brier += weight * sum(((c == y) - q[c]) ** 2 for c in range(k))
    assert posteriors.cross_entropy(priors=priors) == pytest.approx(loss)
    assert posteriors.expected_cost(costs, priors=priors) == pytest.approx(cost)
    assert posteriors.brier(priors=priors) == pytest.approx(brier)
    naive = min(sum(priors[c] * costs.matrix[c, d] for c in range(k)) for d in range(k + 1))
    assert posteriors.normalised_expected_cost(costs, priors=priors) == pytest.approx(cost / naive)


@given(seeds)
@lawful
def test_a_rule_is_best_at_the_true_posterior(seed: int) -> None:
    """Properness: for every distribution r, Σ_k r_k rule(k, q) is least at q = r."""
    rng = np.random.default_rng(seed)
    _, costs, _ = case(seed)
    k = len(costs.classes)
    r, others = rng.dirichlet(np.ones(k)), rng.dirichlet(np.ones(k), size=20)
    for rule in rules(costs):

        def expected(q: np.ndarray, rule: Rule = rule) -> float:
            return float(r @ rule(np.log(np.tile(q, (k, 1))), np.arange(k)))

        best = expected(r)
        assert all(best <= expected(q) + 1e-12 for q in others)
        assert best == pytest.approx(score_of_priors(r, rule=rule))


@given(seeds)
@lawful
def test_the_system_that_outputs_the_priors_scores_one(seed: int) -> None:
    posteriors, costs, _ = case(seed)
    for name in (*NORMALISED, "calibrated_nce"):
        assert measure(posteriors.prior_only(), name, costs) == pytest.approx(1.0, abs=1e-12)
    for rule in rules(costs):
        of_priors = score_of_priors(posteriors.priors(), rule=rule)
        assert posteriors.prior_only().score(rule) == pytest.approx(of_priors, abs=1e-12)


@given(seeds)
@lawful
def test_the_system_that_outputs_target_priors_scores_one_under_them(seed: int) -> None:
    posteriors, costs, priors = case(seed)
    constant = posteriors.replaced(np.log(np.tile(priors, (len(posteriors), 1))))
    for name in NORMALISED:
        assert measure(constant, name, costs, priors) == pytest.approx(1.0, abs=1e-12)


@given(seeds, st.sampled_from(UNORDERED), st.booleans())
@lawful
def test_relabelling_the_classes_changes_no_metric(seed: int, name: str, with_priors: bool) -> None:
    posteriors, costs, priors = case(seed)
    order = np.random.default_rng(seed).permutation(posteriors.n_choices)
    moved = Posteriors(posteriors.log_posteriors[:, order], np.argsort(order)[posteriors.labels])
    target, moved_target = (priors, priors[order]) if with_priors else (None, None)
    moved_costs = Costs(costs.matrix[order])
    expected = measure(posteriors, name, costs, target)
    assert measure(moved, name, moved_costs, moved_target) == pytest.approx(expected, rel=1e-9)


@given(seeds, st.sampled_from(list(METRICS)))
@lawful
def test_the_order_of_the_instances_changes_no_metric(seed: int, name: str) -> None:
    posteriors, costs, priors = case(seed)
    shuffled = posteriors.take(np.random.default_rng(seed).permutation(len(posteriors)))
    assert measure(shuffled, name, costs, priors) == pytest.approx(measure(posteriors, name, costs, priors))


@given(seeds, st.sampled_from(list(METRICS)))
@lawful
def test_empirical_priors_as_target_change_no_metric(seed: int, name: str) -> None:
    posteriors, costs, _ = case(seed)
    expected = measure(posteriors, name, costs)
    assert measure(posteriors, name, costs, posteriors.priors()) == pytest.approx(expected)


@given(seeds)
@lawful
def test_values_at_the_priors_agree(seed: int) -> None:
    priors = np.random.default_rng(seed).dirichlet(np.ones(4))
    assert float(entropy(priors)) == pytest.approx(score_of_priors(priors, rule=logarithmic_rule))
    assert float(brier_of_priors(priors)) == pytest.approx(score_of_priors(priors, rule=brier_rule))


def test_zero_priors_lose_nothing() -> None:
    priors = np.array([0.5, 0.5, 0.0])
    assert float(entropy(priors)) == pytest.approx(np.log(2))
    assert score_of_priors(priors, rule=logarithmic_rule) == pytest.approx(np.log(2))


def test_no_metric_is_forgotten() -> None:
    posteriors, costs, _ = case(0)
    assert all(np.isfinite(measure(posteriors, name, costs)) for name in METRICS)


def test_scores_are_exact_near_zero_and_one() -> None:
    sure = log_softmax(np.array([[0.0, -200.0]]))
    assert logarithmic_rule(sure, np.array([0]))[0] == pytest.approx(np.exp(-200))
    assert logarithmic_rule(sure, np.array([1]))[0] == pytest.approx(200)
    assert brier_rule(sure, np.array([0]))[0] == pytest.approx(2 * np.exp(-400))


def test_true_posteriors_of_the_simulated_task_meet_their_closed_form() -> None:
    tasks = pytest.importorskip("rango.tasks")
    task = tasks.load_task("simulated", train=10, validation=10, test=2000)
    truth = np.array([instance.log_posterior for instance in task.test])
    posteriors = Posteriors(truth, [instance.label for instance in task.test])
    q = np.exp(truth)
    logs = np.log(q, out=np.zeros_like(q), where=q > 0)
    closed = {
        "cross_entropy": (-(q * logs).sum(axis=1), logarithmic_rule),
        "brier": (1 - (q**2).sum(axis=1), brier_rule),
        "error_rate": (1 - q.max(axis=1), error_rule),
    }
    for name, (expected, rule) in closed.items():
        losses = rule(posteriors.log_posteriors, posteriors.labels)
        four_errors = 4 * losses.std() / np.sqrt(len(losses))
        assert getattr(posteriors, name)() == pytest.approx(expected.mean(), abs=four_errors)


def test_calibrated_nce_by_hand() -> None:
    """Posteriors of 0.99 that are right twice in three times are worth 2/3, as those of the priors: their NCE is 1."""
    posteriors = Posteriors(np.log([[0.99, 0.01], [0.99, 0.01], [0.01, 0.99]]), [0, 1, 1])
    assert posteriors.nce() == pytest.approx(-(np.log(0.01) + 2 * np.log(0.99)) / 3 / entropy(np.array([1 / 3, 2 / 3])))
    assert posteriors.calibrated_nce() == pytest.approx(1.0, abs=1e-9)
    # Where the more probable choice is the wrong one more often, the best temperature is infinite: a uniform posterior.
    inverted = Posteriors(np.log([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1]]), [1, 1, 0])
    assert inverted.calibrated_nce() == pytest.approx(np.log(2) / entropy(np.array([1 / 3, 2 / 3])))
    # A posterior of 0 at the label stays infinite; a choice that an instance lacks stays impossible.
    impossible = Posteriors(np.array([[0.0, -np.inf], [np.log(0.5), np.log(0.5)]]), [1, 0])
    assert impossible.calibrated_nce() == np.inf
    lacking = Posteriors.from_scores(np.array([[0.0, 0.0, -np.inf], [0.0, 0.0, 0.0]]), [0, 2])
    assert lacking.calibrated_nce() == pytest.approx((np.log(2) + np.log(3)) / 2 / np.log(2))


@given(seeds, st.floats(0.05, 20.0))
@lawful
def test_calibrated_nce_is_at_most_nce_and_blind_to_the_scale_of_the_scores(seed: int, factor: float) -> None:
    posteriors, _, _ = case(seed)
    assert posteriors.calibrated_nce() <= posteriors.nce() + 1e-12
    scaled = Posteriors.from_scores(factor * posteriors.log_posteriors, posteriors.labels)
    assert scaled.calibrated_nce() == pytest.approx(posteriors.calibrated_nce(), abs=1e-6)
    calibrated = fit_calibrator(posteriors, method="temperature").apply(posteriors)
    assert posteriors.calibrated_nce() == pytest.approx(calibrated.nce(), abs=1e-9)


def test_the_interval_of_calibrated_nce_is_that_of_fitting_again_in_each_resampling() -> None:
    """At the optimum the temperature moves the mean to second order only, so that losses are resampled as they are."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(400, 3)) * 1.5
    labels = [int(rng.choice(3, p=row)) for row in np.exp(log_softmax(truth))]
    posteriors = Posteriors.from_scores(3 * truth + rng.normal(size=truth.shape), labels)
    estimate = summarise(posteriors, metrics=["calibrated_nce"], replicates=1000)["calibrated_nce"]
    again = [posteriors.take(rng.integers(0, 400, 400)).calibrated_nce() for _ in range(400)]
    assert (estimate.low, estimate.high) == pytest.approx(tuple(np.quantile(again, [0.025, 0.975])), abs=0.02)


def test_ordered_levels_by_hand() -> None:
    """Cumulative posteriors 0.5, 0.75, 1 beside 1, 1, 1 and 0, 0, 1; the medians are level 0 and level 1."""
    logs = np.log([[0.5, 0.25, 0.25], [0.4, 0.2, 0.4]])
    posteriors = Posteriors(logs, [0, 2], types=["score", "score"])
    first, second = 0.25 + 0.0625, 0.16 + 0.36
    assert posteriors.metric("ranked_probability_score") == pytest.approx((first + second) / 2)
    assert posteriors.metric("mean_absolute_error") == pytest.approx((0 + 1) / 2)
    # A level that an instance does not have adds nothing: both sums are 1 there.
    padded = np.log([[0.6, 0.4, 1.0]])
    padded[0, 2] = -np.inf
    assert ranked_rule(padded, np.array([1]))[0] == pytest.approx(0.36)
    # Two levels are half a Brier score.
    assert ranked_rule(padded[:, :2], np.array([1])) == pytest.approx(brier_rule(padded[:, :2], np.array([1])) / 2)


@given(seeds)
@lawful
def test_the_true_posterior_is_the_floor_of_scores_of_levels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    target, other = rng.dirichlet(np.ones(5), size=2)
    at_target, elsewhere = (Posteriors(np.log([system]), [target], types=["score"]) for system in (target, other))
    for name in ("ranked_probability_score", "mean_absolute_error"):
        assert at_target.metric(name) <= elsewhere.metric(name) + 1e-12
    by_sums = np.square(np.cumsum(other)[:-1] - np.cumsum(target)[:-1]).sum()
    gap = elsewhere.metric("ranked_probability_score") - at_target.metric("ranked_probability_score")
    assert gap == pytest.approx(by_sums)


def test_scores_of_levels_are_refused_where_the_choices_have_no_order() -> None:
    unordered = Posteriors(np.log([[0.5, 0.5]]), [0])
    with pytest.raises(InputError, match="mean_absolute_error is for ordered levels; give every instance"):
        unordered.metric("mean_absolute_error")
    assert not {"mean_absolute_error", "ranked_probability_score"} & set(summarise(unordered, replicates=0))
