from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from rango.decisions import CostBalance, Costs, Estimate, Posteriors, cost_balance
from rango.decisions.calibration import calibration_loss
from rango.errors import InputError
from rango.reports.run.findings import (
    adaptation_finding,
    calibration_finding,
    chance_error,
    change,
    cost_finding,
    floor_finding,
    mcnemar_sentence,
    recalibration_gain,
    resolution_sentence,
    usable_finding,
    verdict_sentences,
)


def entry(
    value: float | None, low: float | None = None, high: float | None = None, direction: str = "lower"
) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "n": 100, "direction": direction}


def made_metrics(nce: tuple[float, float, float], error: tuple[float, float, float]) -> dict[str, Any]:
    return {
        "base": {"nce": entry(0.9), "error_rate": entry(0.5)},
        "adapted": {"nce": entry(0.9 + nce[0]), "error_rate": entry(0.5 + error[0])},
        "difference": {"nce": entry(*nce), "error_rate": entry(*error)},
    }


SAME = (0.0, -0.02, 0.02)
DOWN, UP, OPEN = (-0.2, -0.3, -0.1), (0.2, 0.1, 0.3), (-0.1, -0.3, 0.1)


@pytest.mark.parametrize(
    ("nce", "error", "tone", "headline"),
    [
        (DOWN, DOWN, "good", "Adaptation helped"),
        (DOWN, OPEN, "good", "Adaptation helped; the error rate did not change significantly"),
        (DOWN, SAME, "good", "Adaptation helped; the error rate stayed the same"),
        (DOWN, UP, "good", "Adaptation helped, yet the error rate rose"),
        (UP, UP, "bad", "Adaptation made the posteriors worse"),
        (UP, DOWN, "bad", "Adaptation made the posteriors worse, yet the error rate fell"),
        (OPEN, OPEN, "unclear", "Adaptation has no significant effect on NCE"),
        (
            OPEN,
            DOWN,
            "unclear",
            "Adaptation has no significant effect on NCE, yet the error rate fell",
        ),
    ],
)
def test_verdict_on_adaptation(nce: Any, error: Any, tone: str, headline: str) -> None:
    finding = adaptation_finding(made_metrics(nce, error))
    assert (finding.tone, finding.headline) == (tone, headline)


def test_difference_is_told_with_ends_and_interval() -> None:
    _, sentence = verdict_sentences({"test": made_metrics(DOWN, OPEN)})
    assert sentence == (
        "Adaptation helped; the error rate did not change significantly. "
        "NCE fell from 0.900 to 0.700: −0.200 (95% interval −0.300 to −0.100). "
        "Error rate fell from 0.500 to 0.400: −0.100 (95% interval −0.300 to +0.100)."
    )


def test_mcnemar_in_words() -> None:
    base = Posteriors.from_probabilities([[0.9, 0.1]] * 12, [0] * 2 + [1] * 10)
    adapted = Posteriors.from_probabilities([[0.9, 0.1]] + [[0.1, 0.9]] * 11, [0] * 2 + [1] * 10)
    # 10 against 1 discordant pairs: 2 (C(11, 0) + C(11, 1)) / 2^11 = 0.01172.
    assert mcnemar_sentence(base, adapted) == (
        "Of the 12 instances, 10 are right after adaptation only and 1 before it only "
        "(McNemar's exact test of equal error rates: p = 0.012)."
    )
    with pytest.raises(InputError, match="instances"):
        mcnemar_sentence(base, adapted.take([0]))


def test_higher_is_better_for_accuracy() -> None:
    finding = change({"difference": {"accuracy": entry(0.1, 0.05, 0.15, "higher")}}, "accuracy")
    assert finding == ("good", "Accuracy rose: +0.100 (95% interval +0.050 to +0.150).")


def test_without_an_interval_nothing_can_be_told() -> None:
    assert change({"difference": {"nce": entry(-0.1)}}, "nce") == ("unclear", "NCE fell: −0.100.")


def test_without_a_difference_the_reason_is_told() -> None:
    finding = adaptation_finding({"base": {"nce": entry(0.9)}})
    assert finding.tone == "unclear"
    assert finding.detail == "The paired difference base → adapted is not in metrics.json."


@pytest.mark.parametrize(
    ("cell", "tone", "headline"),
    [
        (entry(0.9, 0.8, 0.99), "good", "The adapted model is usable: better than the priors"),
        (entry(1.1, 1.01, 1.2), "bad", "The adapted model is not usable: worse than the priors"),
        (
            entry(0.9, 0.8, 1.0),
            "unclear",
            "The adapted model is not shown to be usable: not significantly better than the priors",
        ),
        (entry(float("inf")), "bad", "The adapted model is not usable: it rules out a right answer"),
        (entry(None), "unclear", "The adapted model is not shown to be usable"),
    ],
)
def test_verdict_against_the_priors(cell: dict[str, Any], tone: str, headline: str) -> None:
    finding = usable_finding({"adapted": {"nce": cell}})
    assert (finding.tone, finding.headline) == (tone, headline)


def test_distance_to_the_floor() -> None:
    finding = floor_finding({"adapted": {"nce": entry(0.46)}, "floor": {"nce": entry(0.4), "error_rate": entry(0.2)}})
    assert finding.headline == "It closes 90% of the distance from the priors to the floor"
    assert (
        finding.detail
        == "NCE went from 1 (the priors) to 0.460; the true posterior has 0.400 and an error rate of 0.200."
    )


def test_farther_from_the_floor_than_the_priors() -> None:
    finding = floor_finding({"adapted": {"nce": entry(2.5)}, "floor": {"nce": entry(0.4)}})
    assert (finding.tone, finding.headline) == ("bad", "It is no nearer to the floor than the priors are")
    assert finding.detail == "NCE went from 1 (the priors) to 2.500; the true posterior has 0.400."


def test_no_difference_at_all() -> None:
    same = {"base": {"nce": entry(0.9)}, "adapted": {"nce": entry(0.9)}, "difference": {"nce": entry(0.0, 0.0, 0.0)}}
    assert change(same, "nce") == ("unclear", "NCE stayed at 0.900.")


@pytest.mark.parametrize("tiny", [4e-5, -4e-5])
def test_a_difference_that_is_written_as_nothing_is_no_change(tiny: float) -> None:
    ends = {"base": {"nce": entry(1.019)}, "adapted": {"nce": entry(1.019 + tiny)}}
    unsure = {**ends, "difference": {"nce": entry(tiny, -0.02, 0.01)}}
    assert change(unsure, "nce") == ("unclear", "NCE stayed at 1.019 (95% interval −0.020 to +0.010).")
    sure = {**ends, "difference": {"nce": entry(tiny, tiny, tiny)}}
    assert change(sure, "nce") == ("unclear", "NCE stayed at 1.019.")


def test_the_verdict_says_so_where_a_model_that_got_better_is_still_worse_than_its_priors() -> None:
    metrics = made_metrics(DOWN, DOWN)
    metrics["base"]["nce"], metrics["adapted"]["nce"] = entry(1.4), entry(1.2, 1.1, 1.3)
    first, second = verdict_sentences({"test": metrics})
    assert second.startswith(
        "Adaptation helped, but not enough: the posteriors are worth less than the priors. NCE fell from 1.400 to 1.200"
    )
    assert adaptation_finding(metrics).tone == "bad"
    assert first.startswith("The adapted model is not usable: worse than the priors")
    assert "NCE 1.200 (95% interval 1.100 to 1.300), where 1 is the priors alone" in first


@pytest.mark.parametrize(
    ("who", "note"), [("", "undefined: nothing normalises"), ("second: ", "infinite: 3 are wrong")]
)
def test_a_metric_without_a_value_says_why(who: str, note: str) -> None:
    without = {**entry(None), "note": f"{who}{note}"}
    metrics = {"adapted": {"nce": without}, "difference": {"nce": without}}
    assert adaptation_finding(metrics).detail == f"NCE is {note}."
    assert usable_finding(metrics).detail == f"NCE is {note}."


def test_without_a_floor_the_reason_is_told() -> None:
    finding = floor_finding({"adapted": {"nce": entry(0.46)}})
    assert finding.tone == "unclear"
    assert finding.detail.startswith("The true posterior of this task is not known")


def test_the_truth_shows_no_sign_of_miscalibration(states: dict[str, Posteriors]) -> None:
    assert calibration_finding(states["floor"]).tone == "good"


def test_under_and_overconfidence_are_distinguished(states: dict[str, Posteriors]) -> None:
    truth = states["floor"]
    flat = Posteriors.from_scores(0.4 * truth.log_posteriors, truth.labels)
    sharp = Posteriors.from_scores(2.5 * truth.log_posteriors, truth.labels)
    words = "model is {}confident: its posteriors are not calibrated"
    assert calibration_finding(flat).headline == f"The adapted {words.format('under')}"
    assert calibration_finding(sharp, "base").headline == f"The base {words.format('over')}"
    assert calibration_finding(None, reason="no file").tone == "unclear"


def test_what_the_instances_can_show_is_listed_for_each_metric(states: dict[str, Posteriors]) -> None:
    pair = {"base": states["base"], "adapted": states["adapted"]}
    assert re.search(r"difference of [\d.]+ in NCE and [\d.]+ in error rate four times", resolution_sentence(pair))
    costs = Costs.zero_one(states["base"].n_choices)
    with_costs = resolution_sentence(pair, costs)
    assert re.search(r"[\d.]+ in NCE, [\d.]+ in error rate and [\d.]+ in expected cost four times", with_costs)


def test_what_recalibration_would_gain_is_written(states: dict[str, Posteriors]) -> None:
    gain = calibration_loss(states["adapted"], method="temperature")
    words = f"would lower the cross-entropy by {gain.loss:.3f} nats, {100 * gain.relative:.1f}% of it."
    assert words in calibration_finding(states["adapted"]).detail
    assert recalibration_gain(states["adapted"].take([0])) == ""
    saturated = Posteriors.from_probabilities([[1.0, 0.0]] * 10, [0, 1] * 5)
    assert recalibration_gain(saturated) == ""


def test_chance_error_holds_its_level() -> None:
    generator = np.random.default_rng(5)
    inside = 0
    for trial in range(60):
        shares = generator.dirichlet(np.ones(3), size=300)
        labels = (generator.random((300, 1)) > shares.cumsum(axis=1)).sum(axis=1).clip(0, 2)
        posteriors = Posteriors.from_probabilities(shares, labels)
        inside += posteriors.ece() <= chance_error(posteriors, replicates=100, seed=trial)
    # 95 % of 60 is 57; below 51 has a probability of 1 in 10,000.
    assert inside >= 51


@pytest.mark.parametrize(
    ("nce", "error", "tone", "headline"),
    [
        ((18.8, 17.0, 20.0), (0.9, 0.85, 0.95), "bad", "worse than the priors, and it errs more often than always"),
        ((0.9, 0.85, 0.95), (0.9, 0.85, 0.95), "bad", "better than the priors, but it errs more often than always"),
        ((0.9, 0.85, 0.95), (0.62, 0.58, 0.66), "unclear", "better than the priors, but it does not err significantly"),
        ((0.9, 0.85, 0.95), (0.5, 0.45, 0.55), "good", "better than the priors and than always the commonest class"),
        ((1.2, 1.1, 1.3), (0.5, 0.45, 0.55), "bad", "worse than the priors, but it errs less often than always"),
    ],
)
def test_errors_beyond_those_of_the_priors_are_no_good_news(nce: Any, error: Any, tone: str, headline: str) -> None:
    metrics = {
        "prior": {"nce": entry(1.0), "error_rate": entry(0.6)},
        "adapted": {"nce": entry(*nce), "error_rate": entry(*error)},
    }
    finding = usable_finding(metrics)
    assert finding.tone == tone
    assert headline in finding.headline
    assert "always the commonest class 0.600" in finding.detail
    # What would be deployed is judged: the calibrated model where there is one.
    calibrated = {**metrics, "calibrated": {"nce": entry(0.7, 0.6, 0.8), "error_rate": entry(0.3, 0.2, 0.4)}}
    assert usable_finding(calibrated).headline.startswith("The calibrated model is usable")


def test_a_gain_towards_the_floor_must_be_significant() -> None:
    metrics = {"adapted": {"nce": entry(0.98, 0.9, 1.06)}, "floor": {"nce": entry(0.4)}}
    finding = floor_finding(metrics)
    assert (finding.tone, finding.headline) == (
        "unclear",
        "It is not significantly nearer to the floor than the priors are",
    )


def balance(side: str, ratio: float = 0.8) -> CostBalance:
    """What acting costs where always passing on costs 0.3."""
    real = Estimate(0.3 * ratio, 0.3 * ratio - 0.05, 0.3 * ratio + 0.05, 100, "lower")
    shown = Estimate(ratio, ratio - 0.1, ratio + 0.1, 100, "lower")
    return CostBalance(0.2, real, shown, "pass on", 0.3, {"pass on": 0.25}, side)  # type: ignore[arg-type]


def test_costs_are_compared_with_the_best_constant_decision_by_name() -> None:
    finding = cost_finding(balance("less"), "the calibrated model")
    assert finding.tone == "good"
    assert finding.sentence == (
        "Under these costs acting on the calibrated model costs significantly less than always deciding 'pass on'. "
        "It costs 0.240 on average (95% interval 0.190 to 0.290), the posteriors promise 0.200, and always deciding "
        "'pass on' costs 0.300: 0.800 times that (95% interval 0.700 to 0.900); 'pass on' is decided for 25% of the "
        "instances."
    )
    worse, unclear = cost_finding(balance("more", 1.5)), cost_finding(balance("unclear", 1.05))
    assert worse.sentence.startswith("Warning: Under these costs acting on these posteriors costs significantly more")
    assert unclear.sentence.startswith("Warning: Under these costs acting on these posteriors does not cost signif")
    assert (worse.tone, unclear.tone) == ("bad", "unclear")
    # Where the constant decision costs nothing there is no ratio to show.
    free = cost_balance(Posteriors(np.log([[0.9, 0.1], [0.2, 0.8]]), [0, 1]), costs=Costs([[0, 0], [1, 0]]))
    assert "times that" not in cost_finding(free).sentence
    # Without an interval nothing is said about significance.
    untested = cost_balance(Posteriors(np.log([[0.9, 0.1], [0.2, 0.8]]), [0, 1]), costs=Costs.zero_one(2), replicates=0)
    assert cost_finding(untested).headline == (
        "Under these costs it is not known whether acting on these posteriors costs significantly less than always "
        "deciding '0': there is no interval"
    )


def test_nothing_that_loses_to_a_constant_decision_is_called_good() -> None:
    metrics = {
        **made_metrics(DOWN, DOWN),
        "prior": {"nce": entry(1.0), "error_rate": entry(0.6)},
        "calibrated": {"nce": entry(0.7, 0.6, 0.8), "error_rate": entry(0.3, 0.2, 0.4)},
    }
    for side, tone, words in (
        ("less", "good", "is usable: better than the priors and than always the commonest class"),
        ("more", "bad", "is not usable under these costs: better than the priors and than always the commonest class"),
        ("unclear", "unclear", "is not shown to be usable under these costs: better than the priors"),
    ):
        finding = usable_finding(metrics, balance=balance(side))
        assert (finding.tone, words in finding.headline) == (tone, True)
        assert finding.headline.endswith(", but not than always deciding 'pass on'") == (side != "less")
    adapted = {**metrics["adapted"], "nce": entry(0.7, 0.6, 0.8), "error_rate": entry(0.3, 0.2, 0.4)}
    helped = adaptation_finding({**metrics, "adapted": adapted}, balance("more"))
    assert (helped.tone, helped.headline) == (
        "bad",
        "Adaptation helped, but not enough: always deciding 'pass on' costs less",
    )
    sentences = verdict_sentences({"test": metrics}, balance=balance("more"))
    assert [sentence.split()[0] for sentence in sentences] == ["The", "Warning:", "Adaptation"]
