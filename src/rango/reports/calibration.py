"""Whether posteriors are calibrated, as a finding of the verdict."""

from __future__ import annotations

import math

import numpy as np

from rango.decisions import Posteriors
from rango.decisions.calibration_error import reliability_bins
from rango.decisions.decomposition import calibration_loss
from rango.errors import InputError
from rango.reports.tables import number
from rango.reports.words import Finding


def chance_error(posteriors: Posteriors, *, replicates: int = 200, seed: int = 0, level: float = 0.95) -> float:
    """The ECE that calibrated posteriors of this sample stay below with probability `level`.

    ECE is never 0 in a finite sample. Answers are drawn from the posteriors themselves, for which the posteriors are
    calibrated by construction, and the ECE is measured on each draw: a Monte Carlo test of calibration.
    """
    generator = np.random.default_rng(seed)
    logs = posteriors.log_posteriors
    top, confidence = logs.argmax(axis=1), np.exp(logs.max(axis=1))
    errors = np.empty(replicates)
    for replicate in range(replicates):
        right = generator.random(len(top)) < confidence
        # The bins see only whether the most probable choice is right.
        errors[replicate] = reliability_bins(logs, np.where(right, top, (top + 1) % logs.shape[1])).error
    return float(np.quantile(errors, level))


def recoverable(posteriors: Posteriors) -> str:
    """What recalibration would gain, as a sentence with a space before it; "" where it cannot be measured."""
    try:
        # One temperature: the order of choices may be arbitrary, and then there are no classes to shift.
        found = calibration_loss(posteriors, method="temperature")
    except InputError:
        return ""
    if not (found.converged and math.isfinite(found.loss)):
        return ""
    how = " Recalibration by a temperature (5-fold cross-validation) would"
    if found.loss <= 0:
        return f"{how} gain nothing."
    return f"{how} lower the cross-entropy by {number(found.loss)} nats, {100 * found.relative:.1f}% of it."


def calibration_finding(posteriors: Posteriors | None, *, reason: str = "") -> Finding:
    """Are the posteriors calibrated? ECE against the ECE of calibrated posteriors, and in which direction they err."""
    if posteriors is None:
        return Finding("calibration", "open", "Whether its posteriors are calibrated is not known", f"{reason}.")
    ece, bound = posteriors.ece(), chance_error(posteriors)
    lost = recoverable(posteriors)
    gap = float(np.exp(posteriors.log_posteriors.max(axis=1)).mean()) - posteriors.accuracy()
    detail = (
        f"ECE {number(ece)}; posteriors that are calibrated stay below {number(bound)} in 95 of 100 samples like this."
    )
    if ece <= bound:
        headline = "No sign that its posteriors are not calibrated"
        return Finding("calibration", "good", headline, f"{detail}{lost}")
    direction = "over" if gap > 0 else "under"
    detail += f" Its mean confidence is {number(abs(gap))} {'above' if gap > 0 else 'below'} its accuracy.{lost}"
    return Finding("calibration", "bad", f"Its posteriors are not calibrated: {direction}confident", detail)
