"""What follows from a result, in sentences: adaptation, priors, the true posterior, calibration.

Each finding has a tone: good or bad where the whole 95 % interval lies on one side of the reference, otherwise unclear.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from rango.decisions import CostBalance, Estimate, Posteriors, mcnemar
from rango.decisions.calibration import calibration_loss
from rango.decisions.metrics import reliability_bins
from rango.errors import InputError
from rango.reports.tables import Metrics, column_named, estimate, interval, number, split_metrics
from rango.training.measurement import deployed_state

Tone = Literal["good", "bad", "unclear"]
"""Good, bad, or unclear: these data do not decide it."""


@dataclass(frozen=True)
class Finding:
    """One sentence of the verdict: its subject, its tone, the headline, the numbers behind it."""

    about: str
    tone: Tone
    headline: str
    detail: str

    @property
    def sentence(self) -> str:
        """Headline and numbers as running text; what loses to a constant decision is a warning."""
        warns = self.about == "costs" and self.tone != "good"
        return f"{'Warning: ' * warns}{self.headline}. {self.detail}"


def verdict(states: Metrics, balance: CostBalance | None = None) -> list[Finding]:
    """Whether the model is worth acting on, also under stated costs, and whether adaptation helped.

    One without the other misleads: a model may be much better than it was, and still worse than ignoring the question.

    Args:
        states: the metrics of one split.
        balance: what acting on the model that one would deploy costs, where costs are stated.
    """
    findings = [usable_finding(states, balance=balance)]
    if balance is not None:
        findings.append(cost_finding(balance, f"the {deployed_state(states)} model"))
    if states.get("difference"):
        findings.append(adaptation_finding(states, balance))
    return findings


def verdict_sentences(
    metrics: Mapping[str, Any], *, split: str = "test", balance: CostBalance | None = None
) -> list[str]:
    """The verdict in words for the terminal.

    Raises:
        InputError: the split is not in the metrics.
    """
    return [finding.sentence for finding in verdict(split_metrics(metrics, split=split), balance)]


def cost_finding(balance: CostBalance, system: str = "these posteriors") -> Finding:
    """Does acting on a system cost less than the best decision that is the same for every instance?"""
    always = f"always deciding {balance.constant!r}"
    tone: Tone = {"less": "good", "more": "bad", "unclear": "unclear"}[balance.side]  # type: ignore[assignment]
    compared = {
        "less": f"costs significantly less than {always}",
        "more": f"costs significantly more than {always}",
        "unclear": f"does not cost significantly less than {always}",
    }[balance.side]
    detail = (
        f"It costs {number(balance.real.value)} on average{_bounds(balance.real)}, the posteriors promise "
        f"{number(balance.promised)}, and {always} costs {number(balance.constant_cost)}"
    )
    if not math.isnan(balance.ratio.value):
        detail += f": {number(balance.ratio.value)} times that{_bounds(balance.ratio)}"
    for name, share in balance.abstained.items():
        detail += f"; {name!r} is decided for {share:.0%} of the instances"
    return Finding("costs", tone, f"Under these costs acting on {system} {compared}", f"{detail}.")


def _bounds(cell: Estimate) -> str:
    span = interval(cell)
    return f" (95% interval {span})" if span else ""


def adaptation_finding(states: Metrics, balance: CostBalance | None = None) -> Finding:
    """Did adaptation help? NCE decides; the error rate stands beside it."""
    nce, error = change(states, "nce"), change(states, "error_rate")
    if nce is None:
        reason = _undefined(states, "difference", "nce") or (
            "The paired difference base → adapted is not in metrics.json."
        )
        return Finding("adaptation", "unclear", "Whether adaptation helped is not known", reason)
    tone = nce[0]
    headline = {
        "good": "Adaptation helped",
        "bad": "Adaptation made the posteriors worse",
        "unclear": "Adaptation has no significant effect on NCE",
    }[tone]
    # Better than it was is no success where the priors alone are better still.
    if tone == "good" and usable_finding(states, "adapted").tone == "bad":
        tone, headline = "bad", "Adaptation helped, but not enough: the posteriors are worth less than the priors"
    elif tone == "good" and balance is not None and balance.side == "more":
        tone, headline = "bad", f"Adaptation helped, but not enough: always deciding {balance.constant!r} costs less"
    # Where the error rate has another outcome than NCE, the headline must not hide it.
    if error is not None and error[0] != nce[0]:
        unchanged = "stayed the same" if " stayed" in error[1] else "did not change significantly"
        headline += {
            "good": ", yet the error rate fell",
            "bad": ", yet the error rate rose",
            "unclear": f"; the error rate {unchanged}",
        }[error[0]]
    return Finding("adaptation", tone, headline, " ".join(part[1] for part in (nce, error) if part))


def change(states: Metrics, metric: str) -> tuple[Tone, str] | None:
    """The paired difference base → adapted of a metric, as tone and sentence; None where it was not computed."""
    difference = estimate(states, "difference", metric)
    if difference is None:
        return None
    title = column_named(metric).title
    before, after = (estimate(states, state, metric) for state in ("base", "adapted"))
    span = interval(difference, sign=True)
    bounds = f" (95% interval {span})" if span else ""
    if number(difference.value) == number(0.0):
        # A difference that is 0 to three decimals is no change worth a tone, even if its interval excludes 0.
        return "unclear", f"{title} stayed{f' at {number(after.value)}' if after else ' the same'}{bounds}."
    verb = "fell" if difference.value < 0 else "rose"
    path = f" from {number(before.value)} to {number(after.value)}" if before and after else ""
    sentence = f"{title} {verb}{path}: {number(difference.value, sign=True)}{bounds}."
    return _tone(difference, 0.0), sentence


def _tone(cell: Estimate, reference: float) -> Tone:
    """Good or bad where the whole interval is better or worse than the reference; unclear if there is no interval."""
    if cell.low is None or cell.high is None or cell.low <= reference <= cell.high:
        return "unclear"
    return "good" if (cell.low > reference) == (cell.direction == "higher") else "bad"


def _undefined(states: Metrics, state: str, metric: str) -> str:
    """Why a metric that is in metrics.json has no value, as a sentence; "" where it has one, or is absent."""
    entry = states.get(state, {}).get(metric)
    if not isinstance(entry, Mapping) or entry.get("value") is not None or not entry.get("note"):
        return ""
    # A note begins with what the value is instead; that of a difference first names one of the two.
    return f"{column_named(metric).title} is {str(entry['note']).removeprefix('first: ').removeprefix('second: ')}."


def usable_finding(states: Metrics, state: str | None = None, *, balance: CostBalance | None = None) -> Finding:
    """Is the model worth acting on? NCE against the priors (1), and errors against always the commonest class.

    Args:
        states: the metrics of one split.
        state: which model; when absent the one that would be deployed, which is the calibrated one where there is one.
        balance: what acting on it costs, where costs are stated: what loses to a constant decision is not usable.
    """
    state = state or deployed_state(states)
    name = f"The {state} model"
    nce = estimate(states, state, "nce")
    if nce is None:
        reason = _undefined(states, state, "nce") or "NCE is not in metrics.json."
        return Finding("use", "unclear", f"{name} is not shown to be usable", reason)
    if math.isinf(nce.value):
        detail = "At least one right choice was given probability 0, which costs infinity; nothing is clipped."
        return Finding("use", "bad", f"{name} is not usable: it rules out a right answer", detail)
    span = interval(nce)
    detail = f"NCE {number(nce.value)}{f' (95% interval {span})' if span else ''}, where 1 is the priors alone"
    tones = [_tone(nce, 1.0)]
    words = {"good": "better than the priors", "bad": "worse than the priors", "unclear": "not better than the priors"}
    reasons = [words[tones[0]]]
    error, of_priors = estimate(states, state, "error_rate"), estimate(states, "prior", "error_rate")
    if error is not None and of_priors is not None:
        tones.append(_tone(error, of_priors.value))
        span = interval(error)
        detail += f"; error rate {number(error.value)}{f' ({span})' if span else ''}, "
        detail += f"always the commonest class {number(of_priors.value)}"
        words = {
            "good": "than always the commonest class",
            "bad": "it errs more often than always the commonest class does",
            "unclear": "it errs no less often than always the commonest class does",
        }
        # "better than the priors and than always …" where both are good, a sentence of its own elsewhere.
        good = tones == ["good", "good"]
        reasons.append(words[tones[1]] if good or tones[1] != "good" else "it errs less often than the commonest class")
    tone: Tone = "bad" if "bad" in tones else "good" if set(tones) == {"good"} else "unclear"
    verdict = {"good": "is usable", "bad": "is not usable", "unclear": "is not shown to be usable"}[tone]
    joined = f" {'and' if tone == 'good' or tones[0] != 'good' else 'but'} ".join(reasons)
    if tone == "good" and balance is not None and balance.side != "less":
        tone = "bad" if balance.side == "more" else "unclear"
        verdict = f"is {'not' if tone == 'bad' else 'not shown to be'} usable under these costs"
        joined += f", but not than always deciding {balance.constant!r}"
    return Finding("use", tone, f"{name} {verdict}: {joined}", f"{detail}.")


def floor_finding(states: Metrics) -> Finding:
    """How far from perfect? The share of the distance from the priors (1) to the floor that is closed."""
    floor, adapted = estimate(states, "floor", "nce"), estimate(states, "adapted", "nce")
    if floor is None or adapted is None or floor.value >= 1:
        reason = "The true posterior of this task is not known, so neither is the distance to the best possible."
        return Finding("floor", "unclear", "The floor is not known", reason)
    closed = 100 * (1.0 - adapted.value) / (1.0 - floor.value)
    detail = f"NCE went from 1 (the priors) to {number(adapted.value)}; the true posterior has {number(floor.value)}"
    error = estimate(states, "floor", "error_rate")
    detail += f" and an error rate of {number(error.value)}." if error else "."
    if closed <= 0:
        return Finding("floor", "bad", "It is no nearer to the floor than the priors are", detail)
    if _tone(adapted, 1.0) == "unclear" and adapted.low is not None:
        return Finding("floor", "unclear", "It is not significantly nearer to the floor than the priors are", detail)
    return Finding("floor", "good", f"It closes {closed:.0f}% of the distance from the priors to the floor", detail)


def mcnemar_sentence(base: Posteriors, adapted: Posteriors) -> str:
    """Who errs where, with McNemar's exact p-value, in one sentence.

    Raises:
        InputError: the two do not hold the same instances.
    """
    test = mcnemar(base, adapted)
    p = f"p = {test.p:.3f}" if test.p >= 0.001 else "p < 0.001"
    return (
        f"Of the {test.n:,} instances, {test.only_b_right:,} are right after adaptation only and {test.only_a_right:,} "
        f"before it only (McNemar's exact test of equal error rates: {p})."
    )


def calibration_finding(posteriors: Posteriors | None, *, reason: str = "") -> Finding:
    """Are the posteriors calibrated? ECE against the ECE of calibrated posteriors, and in which direction they err."""
    if posteriors is None:
        return Finding("calibration", "unclear", "Whether its posteriors are calibrated is not known", f"{reason}.")
    ece, bound = posteriors.ece(), chance_error(posteriors)
    detail = (
        f"ECE {number(ece)}; posteriors that are calibrated stay below {number(bound)} in 95 of 100 samples like this."
    )
    gain = recalibration_gain(posteriors)
    if ece <= bound:
        return Finding("calibration", "good", "No evidence that its posteriors are miscalibrated", f"{detail}{gain}")
    gap = float(np.exp(posteriors.log_posteriors.max(axis=1)).mean()) - posteriors.accuracy()
    direction, place = ("over", "above") if gap > 0 else ("under", "below")
    detail += f" Its mean confidence is {number(abs(gap))} {place} its accuracy.{gain}"
    return Finding("calibration", "bad", f"Its posteriors are not calibrated: {direction}confident", detail)


def chance_error(posteriors: Posteriors, *, replicates: int = 200, seed: int = 0, level: float = 0.95) -> float:
    """The ECE that calibrated posteriors of this sample stay below with probability `level`.

    ECE is never 0 in a finite sample. Answers are drawn from the posteriors themselves, for which the posteriors are
    calibrated by construction, and the ECE is measured on each draw: a Monte Carlo test of calibration.
    """
    generator = np.random.default_rng(seed)
    logs = posteriors.log_posteriors  # (N, K)
    top, confidence = logs.argmax(axis=1), np.exp(logs.max(axis=1))  # (N,)
    errors = np.empty(replicates)
    for replicate in range(replicates):
        right = generator.random(len(top)) < confidence
        # The bins see only whether the most probable choice is right, so any other choice stands for a wrong one.
        errors[replicate] = reliability_bins(logs, np.where(right, top, (top + 1) % logs.shape[1])).error
    return float(np.quantile(errors, level))


def recalibration_gain(posteriors: Posteriors) -> str:
    """What recalibration would gain, as a sentence with a space before it; "" where it cannot be measured."""
    try:
        # One temperature only: where the order of choices is arbitrary, there are no classes that a bias could shift.
        loss = calibration_loss(posteriors, method="temperature")
    except InputError:
        return ""
    if not (loss.converged and math.isfinite(loss.loss)):
        return ""
    how = " Recalibration by a temperature (5-fold cross-validation) would"
    if loss.loss <= 0:
        return f"{how} gain nothing."
    return f"{how} lower the cross-entropy by {number(loss.loss)} nats, {100 * loss.relative:.1f}% of it."
