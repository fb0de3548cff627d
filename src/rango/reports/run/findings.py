"""What follows from a result, in sentences: adaptation, priors, the true posterior, calibration.

Each finding has a tone: good or bad where the whole 95 % interval lies on one side of the reference, otherwise unclear.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from rango.decisions import CostBalance, Costs, Estimate, Posteriors, mcnemar, resolution
from rango.decisions.calibration import calibration_loss
from rango.decisions.reliability import reliability_bins
from rango.decisions.sample_size import PlannedMetric
from rango.errors import InputError
from rango.reports.language import _, integer, localised, percent
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


def model_words(state: str) -> str:
    """The model in a state inside a sentence: "the adapted model"."""
    words = {
        "base": _("the base model"),
        "adapted": _("the adapted model"),
        "calibrated": _("the calibrated model"),
    }
    return words.get(state) or _("the %(state)s model", state=state)


def _sentence_start(words: str) -> str:
    """The words with a capital letter in front; `capitalize` would make the names of models small."""
    return words[:1].upper() + words[1:]


def verdict(states: Metrics, balance: CostBalance | None = None) -> list[Finding]:
    """Whether the model is worth acting on, also under stated costs, and whether adaptation helped.

    One without the other misleads: a model may be much better than it was, and still worse than ignoring the question.

    Args:
        states: the metrics of one split.
        balance: what acting on the model that one would deploy costs, where costs are stated.
    """
    findings = [usable_finding(states, balance=balance)]
    if balance is not None:
        findings.append(cost_finding(balance, model_words(deployed_state(states))))
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


def cost_finding(balance: CostBalance, system: str | None = None) -> Finding:
    """Does acting on a system cost less than the best decision that is the same for every instance?"""
    words = {"system": system or _("these posteriors"), "constant": balance.constant}
    tone: Tone = {"less": "good", "more": "bad", "unclear": "unclear"}[balance.side]  # type: ignore[assignment]
    headline = {
        "less": _(
            "Under these costs acting on %(system)s costs significantly less than always deciding %(constant)r", **words
        ),
        "more": _(
            "Under these costs acting on %(system)s costs significantly more than always deciding %(constant)r", **words
        ),
        "unclear": _(
            "Under these costs acting on %(system)s does not cost significantly less than always deciding %(constant)r",
            **words,
        ),
        "untested": _(
            "Under these costs it is not known whether acting on %(system)s costs significantly less than always "
            "deciding %(constant)r: there is no interval",
            **words,
        ),
    }["untested" if balance.real.low is None and balance.side == "unclear" else balance.side]
    detail = _(
        "It costs %(real)s on average%(bounds)s, the posteriors promise %(promised)s, and always deciding %(constant)r "
        "costs %(least)s",
        real=number(balance.real.value),
        bounds=_bounds(balance.real),
        promised=number(balance.promised),
        constant=balance.constant,
        least=number(balance.constant_cost),
    )
    if not math.isnan(balance.ratio.value):
        ratio = number(balance.ratio.value)
        detail += _(": %(ratio)s times that%(bounds)s", ratio=ratio, bounds=_bounds(balance.ratio))
    for name, share in balance.abstained.items():
        detail += _("; %(decision)r is decided for %(share)s of the instances", decision=name, share=percent(share))
    return Finding("costs", tone, headline, f"{detail}.")


def _bounds(cell: Estimate, *, sign: bool = False) -> str:
    span = interval(cell, sign=sign)
    return " " + _("(95%% interval %(span)s)", span=span) if span else ""


def adaptation_finding(states: Metrics, balance: CostBalance | None = None) -> Finding:
    """Did adaptation help? NCE decides; the error rate stands beside it."""
    nce, error = change(states, "nce"), change(states, "error_rate")
    if nce is None:
        reason = _undefined(states, "difference", "nce") or _(
            "The paired difference base → adapted is not in metrics.json."
        )
        return Finding("adaptation", "unclear", _("Whether adaptation helped is not known"), reason)
    tone = nce[0]
    headline = {
        "good": _("Adaptation helped"),
        "bad": _("Adaptation made the posteriors worse"),
        "unclear": _("Adaptation has no significant effect on NCE"),
    }[tone]
    # Better than it was is no success where the priors alone are better still.
    if tone == "good" and usable_finding(states, "adapted").tone == "bad":
        tone = "bad"
        headline = _("Adaptation helped, but not enough: the posteriors are worth less than the priors")
    elif tone == "good" and balance is not None and balance.side == "more":
        tone, name = "bad", balance.constant
        headline = _("Adaptation helped, but not enough: always deciding %(constant)r costs less", constant=name)
    # Where the error rate has another outcome than NCE, the headline must not hide it.
    if error is not None and error[0] != nce[0]:
        same = number(estimate(states, "difference", "error_rate").value) == number(0.0)  # type: ignore[union-attr]
        unchanged = (
            _("; the error rate stayed the same") if same else _("; the error rate did not change significantly")
        )
        headline += {
            "good": _(", yet the error rate fell"),
            "bad": _(", yet the error rate rose"),
            "unclear": unchanged,
        }[error[0]]
    return Finding("adaptation", tone, headline, " ".join(part[1] for part in (nce, error) if part))


def change(states: Metrics, metric: str) -> tuple[Tone, str] | None:
    """The paired difference base → adapted of a metric, as tone and sentence; None where it was not computed."""
    difference = estimate(states, "difference", metric)
    if difference is None:
        return None
    before, after = (estimate(states, state, metric) for state in ("base", "adapted"))
    fields = {
        "metric": column_named(metric).title,
        "before": number(before.value) if before else "",
        "after": number(after.value) if after else "",
        "change": number(difference.value, sign=True),
        "bounds": _bounds(difference, sign=True),
    }
    if number(difference.value) == number(0.0):
        # A difference that is 0 to three decimals is no change worth a tone, even if its interval excludes 0.
        at = _("%(metric)s stayed at %(after)s%(bounds)s.", **fields)
        return "unclear", at if after else _("%(metric)s stayed the same%(bounds)s.", **fields)
    if difference.value < 0:
        path = _("%(metric)s fell from %(before)s to %(after)s: %(change)s%(bounds)s.", **fields)
        bare = _("%(metric)s fell: %(change)s%(bounds)s.", **fields)
    else:
        path = _("%(metric)s rose from %(before)s to %(after)s: %(change)s%(bounds)s.", **fields)
        bare = _("%(metric)s rose: %(change)s%(bounds)s.", **fields)
    return _tone(difference, 0.0), path if before and after else bare


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
    reason = str(entry["note"]).removeprefix("first: ").removeprefix("second: ")
    return _("%(metric)s is %(reason)s.", metric=column_named(metric).title, reason=reason)


def usable_finding(states: Metrics, state: str | None = None, *, balance: CostBalance | None = None) -> Finding:
    """Is the model worth acting on? NCE against the priors (1), and errors against always the commonest class.

    Args:
        states: the metrics of one split.
        state: which model; when absent the one that would be deployed, which is the calibrated one where there is one.
        balance: what acting on it costs, where costs are stated: what loses to a constant decision is not usable.
    """
    state = state or deployed_state(states)
    model = _sentence_start(model_words(state))
    nce = estimate(states, state, "nce")
    if nce is None:
        reason = _undefined(states, state, "nce") or _("NCE is not in metrics.json.")
        return Finding("use", "unclear", _("%(model)s is not shown to be usable", model=model), reason)
    if math.isinf(nce.value):
        detail = _("At least one right choice was given probability 0, which costs infinity; nothing is clipped.")
        headline = _("%(model)s is not usable: it rules out a right answer", model=model)
        return Finding("use", "bad", headline, detail)
    detail = _("NCE %(value)s%(bounds)s, where 1 is the priors alone", value=number(nce.value), bounds=_bounds(nce))
    tones = [_tone(nce, 1.0)]
    words = {
        "good": _("better than the priors"),
        "bad": _("worse than the priors"),
        "unclear": _("not significantly better than the priors"),
    }
    reasons = [words[tones[0]]]
    error, of_priors = estimate(states, state, "error_rate"), estimate(states, "prior", "error_rate")
    if error is not None and of_priors is not None:
        tones.append(_tone(error, of_priors.value))
        span = interval(error)
        bounds = f" ({span})" if span else ""
        detail += _(
            "; error rate %(value)s%(bounds)s, always the commonest class %(constant)s",
            value=number(error.value),
            bounds=bounds,
            constant=number(of_priors.value),
        )
        words = {
            "good": _("it errs less often than always giving the commonest class"),
            "bad": _("it errs more often than always giving the commonest class"),
            "unclear": _("it does not err significantly less often than always giving the commonest class"),
        }
        # "better than the priors and than always …" where both are good, a sentence of its own elsewhere.
        both = tones == ["good", "good"]
        reasons.append(_("than always the commonest class") if both else words[tones[1]])
    tone: Tone = "bad" if "bad" in tones else "good" if set(tones) == {"good"} else "unclear"
    # A good reason and one that is not stand against each other.
    link = _("and") if (tones[0] == "good") == (tones[-1] == "good") else _("but")
    joined = f"{' ' if tone == 'good' else ', '}{link} ".join(reasons)
    fields = {"model": model, "reasons": joined}
    headline = {
        "good": _("%(model)s is usable: %(reasons)s", **fields),
        "bad": _("%(model)s is not usable: %(reasons)s", **fields),
        "unclear": _("%(model)s is not shown to be usable: %(reasons)s", **fields),
    }[tone]
    if tone == "good" and balance is not None and balance.side != "less":
        tone = "bad" if balance.side == "more" else "unclear"
        fields["reasons"] += _(", but not than always deciding %(constant)r", constant=balance.constant)
        headline = {
            "bad": _("%(model)s is not usable under these costs: %(reasons)s", **fields),
            "unclear": _("%(model)s is not shown to be usable under these costs: %(reasons)s", **fields),
        }[tone]
    return Finding("use", tone, headline, f"{detail}.")


def floor_finding(states: Metrics) -> Finding:
    """How far from perfect? The share of the distance from the priors (1) to the floor that is closed."""
    floor, adapted = estimate(states, "floor", "nce"), estimate(states, "adapted", "nce")
    if floor is None or adapted is None or floor.value >= 1:
        reason = _("The true posterior of this task is not known, so neither is the distance to the best possible.")
        return Finding("floor", "unclear", _("The floor is not known"), reason)
    closed = (1.0 - adapted.value) / (1.0 - floor.value)
    fields = {"adapted": number(adapted.value), "floor": number(floor.value)}
    error = estimate(states, "floor", "error_rate")
    if error is None:
        detail = _("NCE went from 1 (the priors) to %(adapted)s; the true posterior has %(floor)s.", **fields)
    else:
        detail = _(
            "NCE went from 1 (the priors) to %(adapted)s; the true posterior has %(floor)s and an error rate of "
            "%(error)s.",
            **fields,
            error=number(error.value),
        )
    if closed <= 0:
        return Finding("floor", "bad", _("It is no nearer to the floor than the priors are"), detail)
    if _tone(adapted, 1.0) == "unclear" and adapted.low is not None:
        headline = _("It is not significantly nearer to the floor than the priors are")
        return Finding("floor", "unclear", headline, detail)
    headline = _("It closes %(share)s of the distance from the priors to the floor", share=percent(closed))
    return Finding("floor", "good", headline, detail)


def mcnemar_sentence(base: Posteriors, adapted: Posteriors) -> str:
    """Who errs where, with McNemar's exact p-value, in one sentence.

    Raises:
        InputError: the two do not hold the same instances.
    """
    test = mcnemar(base, adapted)
    return _(
        "Of the %(count)s instances, %(after)s are right after adaptation only and %(before)s before it only "
        "(McNemar's exact test of equal error rates: %(p)s).",
        count=integer(test.n),
        after=integer(test.only_b_right),
        before=integer(test.only_a_right),
        p=p_text(test.p),
    )


def p_text(p: float) -> str:
    """A p-value in words: "p = 0.012", or "p < 0.001" below."""
    return f"p = {p_number(p)}" if p >= 0.001 else f"p {p_number(p)}"


def p_number(p: float) -> str:
    """A p-value where its column says what it is: "0.012", or "< 0.001" below."""
    return localised(f"{p:.3f}") if p >= 0.001 else f"< {localised('0.001')}"


def calibration_finding(posteriors: Posteriors | None, state: str = "adapted", *, reason: str = "") -> Finding:
    """Are the posteriors of a state calibrated? ECE against that of calibrated ones, and the direction of the error."""
    model = _sentence_start(model_words(state))
    if posteriors is None:
        headline = _("%(model)s: it is not known whether its posteriors are calibrated", model=model)
        return Finding("calibration", "unclear", headline, f"{reason}.")
    ece, bound = posteriors.ece(), chance_error(posteriors)
    detail = _(
        "ECE %(value)s; posteriors that are calibrated stay below %(bound)s in 95 of 100 samples like this.",
        value=number(ece),
        bound=number(bound),
    )
    gain = recalibration_gain(posteriors)
    if ece <= bound:
        headline = _("%(model)s: no evidence that its posteriors are miscalibrated", model=model)
        return Finding("calibration", "good", headline, f"{detail}{gain}")
    gap = float(np.exp(posteriors.log_posteriors.max(axis=1)).mean()) - posteriors.accuracy()
    size = number(abs(gap))
    if gap > 0:
        headline = _("%(model)s is overconfident: its posteriors are not calibrated", model=model)
        where = _("Its mean confidence is %(gap)s above its accuracy.", gap=size)
    else:
        headline = _("%(model)s is underconfident: its posteriors are not calibrated", model=model)
        where = _("Its mean confidence is %(gap)s below its accuracy.", gap=size)
    return Finding("calibration", "bad", headline, f"{detail} {where}{gain}")


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
    if loss.loss <= 0:
        return " " + _("Recalibration by a temperature (5-fold cross-validation) would gain nothing.")
    return " " + _(
        "Recalibration by a temperature (5-fold cross-validation) would lower the cross-entropy by %(gain)s nats, "
        "%(share)s of it.",
        gain=number(loss.loss),
        share=percent(loss.relative, digits=1),
    )


def resolution_sentence(systems: Mapping[str, Posteriors], costs: Costs | None = None) -> str:
    """What these instances can show: a difference below it proves nothing by not being seen (see `resolution`).

    Args:
        systems: the first, and others on the same instances; of several the least precise difference counts.
        costs: of decisions, where they are stated.
    """
    first, *others = systems.values()
    titles: dict[PlannedMetric, str] = {"nce": _("NCE"), "error_rate": _("error rate")}
    if costs is not None:
        titles["expected_cost"] = _("expected cost")
    parts = []
    for metric, title in titles.items():
        try:
            least = max(resolution(first, other, metric=metric, costs=costs) for other in others)
        except InputError:  # an infinite loss, or instances of one class
            continue
        if least > 0:  # two that never differ show nothing
            parts.append(_("%(value)s in %(metric)s", value=number(least), metric=title))
    if not parts:
        return _("Resolution: these instances cannot show a difference of any size.")
    return _(
        "Resolution: %(n)s instances show a true difference of %(differences)s four times out of five; a smaller one "
        "may go unseen (rango plan says how many it needs).",
        n=integer(len(first)),
        differences=f" {_('and')} ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts),
    )
