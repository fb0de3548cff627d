"""How many instances: what a number of them can show, and how many show what is asked, from a pilot's posteriors.

resolution              the smallest difference that today's instances would show with the stated power
plan_sample             the number of test instances that would show a difference of a given size
temperature_instances   the number of validation instances that fix a temperature to a given precision

Two systems are measured on the same instances, so that what counts is the spread σ of what an instance adds to their
difference: n instances show a difference δ at the two-sided level α with power 1 − β where

    n δ² = (z_{1−α/2} + z_{1−β})² σ².

A normalised metric is a mean divided by a function of the class frequencies; its σ is that of its linear approximation.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from rango.decisions.arrays import Array, row_pieces
from rango.decisions.calibration import fit_calibrator
from rango.decisions.calibrators import Temperature
from rango.decisions.costs import Costs
from rango.decisions.metrics import cost_rule, entropy, error_rule, logarithmic_rule
from rango.decisions.pairing import align_by_id
from rango.decisions.posteriors import Posteriors
from rango.errors import InputError, unknown_name

PlannedMetric: TypeAlias = Literal["nce", "error_rate", "expected_cost"]

POWER, LEVEL = 0.8, 0.95


@dataclass(frozen=True)
class SamplePlan:
    """How many test instances show a difference, and what difference the pilot's own would show."""

    metric: str
    difference: float
    """The difference to be seen, in the unit of the metric."""
    instances: int
    """Test instances that show it with the stated power."""
    pilot: int
    """Instances of the pilot."""
    resolution: float
    """The smallest difference that as many instances as the pilot's show with that power."""
    spread: float
    """σ: standard deviation of what one instance adds to the difference, with what its group shares."""
    paired: bool
    """Whether σ is of two systems on the same instances; else of one, as if the other's losses had nothing to do with
    them, which is the most that two equally good systems need."""
    power: float = POWER
    level: float = LEVEL

    def as_dict(self) -> dict[str, Any]:
        """The plan as JSON values."""
        return asdict(self)


def plan_sample(
    a: Posteriors,
    b: Posteriors | None = None,
    *,
    difference: float,
    metric: PlannedMetric = "nce",
    costs: Costs | None = None,
    power: float = POWER,
    level: float = LEVEL,
) -> SamplePlan:
    """The number of test instances that show a difference of a given size, from the posteriors of a pilot.

    Args:
        a: N instances with labels.
        b: a second system on the same instances; None where there is none yet: σ² is then 2 Var(loss of a).
        difference: δ > 0, in the unit of the metric.
        metric: "nce", "error_rate" or "expected_cost".
        costs: (K, D) for the expected cost.
        power: probability that a true difference of this size is seen.
        level: 1 − α.

    Raises:
        InputError: a difference, power or level out of range; an unknown metric; an expected cost without costs; fewer
            than two instances; infinite losses; systems on other instances or that never differ.

    Source: Cohen (1988), chapter 2; Miller (arXiv:2411.00640), section 5.

    >>> sure = Posteriors.from_probabilities([[0.8, 0.2]] * 50 + [[0.2, 0.8]] * 50, [0] * 40 + [1] * 50 + [0] * 10)
    >>> plan_sample(sure, difference=0.1, metric="error_rate").instances
    254
    """
    if not 0 < difference < math.inf:
        raise InputError(f"difference is {difference:g}; expected a number above 0, such as 0.02")
    spread, factor = _spread(a, b, metric, costs), _factor(power, level)
    if spread == 0:
        raise InputError(f"the pilot shows no spread of {metric}, so nothing can be planned from it; take a larger one")
    instances = math.ceil((factor * spread / difference) ** 2)
    return SamplePlan(
        metric, difference, instances, len(a), factor * spread / math.sqrt(len(a)), spread, b is not None, power, level
    )


def resolution(
    a: Posteriors,
    b: Posteriors | None = None,
    *,
    metric: PlannedMetric = "nce",
    costs: Costs | None = None,
    power: float = POWER,
    level: float = LEVEL,
) -> float:
    """The smallest difference that these instances show with the stated power; arguments as in `plan_sample`."""
    return _factor(power, level) * _spread(a, b, metric, costs) / math.sqrt(len(a))


def temperature_instances(posteriors: Posteriors, *, precision: float, level: float = LEVEL) -> int:
    """The number of validation instances that fix a temperature to ± `precision` of its value.

    With g_i = Σ_k q_ik s_ik − s_{i,y} and h_i = Var_{q_i}(s_i), q_i = softmax(a s_i), the fitted a has the variance
    mean(g²) / (N mean(h)²), whether or not the posteriors are calibrated; n makes z_{1−α/2} standard errors that share.

    Args:
        posteriors: a pilot, with labels; no posterior of 0 at a label.
        precision: half the width of the interval as a share of the temperature, such as 0.1.
        level: nominal coverage of the interval.

    Raises:
        InputError: a value out of range; no temperature fits.

    Source: White (1982), for the variance under a wrong model.
    """
    from scipy.special import ndtri

    if not 0 < precision < 1:
        raise InputError(f"precision is {precision:g}; expected a share between 0 and 1, such as 0.1")
    _factor(POWER, level)
    fitted = fit_calibrator(posteriors, method="temperature")
    assert isinstance(fitted, Temperature)
    logs, at_label = posteriors.log_posteriors, -posteriors.losses(logarithmic_rule)  # (N, K), (N,)
    if not np.isfinite(at_label).all():
        raise InputError("a label has posterior 0, which no temperature changes; mend the posteriors first")
    gradients, curvatures = np.empty(len(logs)), np.empty(len(logs))
    tempered = fitted.transform(logs)
    for rows in row_pieces(*logs.shape):
        shares = np.exp(tempered[rows])  # (n, K)
        # A choice that is impossible has no share in any mean.
        scores = np.where(np.isfinite(logs[rows]), logs[rows], 0.0)
        means = (shares * scores).sum(axis=1)
        gradients[rows] = means - at_label[rows]
        curvatures[rows] = (shares * np.square(scores - means[:, None])).sum(axis=1)
    steepness = fitted.scale * float(curvatures.mean())
    if steepness <= 0:
        raise InputError("the best temperature is infinite: these posteriors say nothing of the labels")
    # In units of a: the standard error of ln a is that of a divided by a.
    spread = _clustered(gradients, posteriors.groups) / steepness
    return math.ceil((float(ndtri((1 + level) / 2)) * spread / precision) ** 2)


def _factor(power: float, level: float) -> float:
    """z_{1−α/2} + z_{1−β}."""
    from scipy.special import ndtri

    if not 0.5 <= power < 1:
        raise InputError(f"power is {power}; expected a fraction from 0.5 to below 1, such as 0.8")
    if not 0.5 <= level < 1:
        raise InputError(f"level is {level}; expected a fraction from 0.5 to below 1, such as 0.95")
    return float(ndtri((1 + level) / 2) + ndtri(power))


def _spread(a: Posteriors, b: Posteriors | None, metric: str, costs: Costs | None) -> float:
    """σ of the difference in a metric, so that σ / √N is its standard error on N instances."""
    if metric not in get_args(PlannedMetric):
        raise unknown_name("metric", metric, get_args(PlannedMetric))
    if metric == "expected_cost" and costs is None:
        raise InputError("expected_cost needs costs; give a costs file, or abstain=0.3 (--costs)")
    if len(a) < 2:
        raise InputError(f"the pilot has {len(a)} instance; expected two or more")
    # What each instance adds: exact for means, linear in the class frequencies for what is normalised by them.
    adds = [_additions(system, metric, costs) for system in ([a] if b is None else [a, align_by_id(a, b)])]
    if b is None:
        return math.sqrt(2.0) * _clustered(adds[0], a.groups)
    return _clustered(adds[1] - adds[0], a.groups)


def _additions(posteriors: Posteriors, metric: str, costs: Costs | None) -> Array:
    """What each instance adds to the metric (N,), up to a constant: the influence function of the metric."""
    if metric == "error_rate":
        return posteriors.losses(error_rule)
    if metric == "expected_cost":
        assert costs is not None
        return posteriors.losses(cost_rule(posteriors.match_costs(costs)))
    losses, shares = posteriors.losses(logarithmic_rule), posteriors.priors()
    if not np.isfinite(losses).all():
        raise InputError("a label has posterior 0, so NCE is infinite; plan with error_rate, or mend the posteriors")
    normaliser = float(entropy(shares))
    if normaliser == 0:
        raise InputError("all labels are of one class, so that NCE is undefined; take a pilot of several classes")
    # The class frequencies are drawn too: an instance of a rare class raises the entropy that NCE is divided by.
    surprise = posteriors.votes.of_instances(-np.log(shares[posteriors.votes.labels]), len(posteriors)) - normaliser
    return np.asarray((losses - losses.mean() / normaliser * surprise) / normaliser, dtype=np.float64)


def _clustered(values: Array, groups: tuple[str, ...] | None) -> float:
    """√(N Var(mean of values)): the standard deviation, or with groups that of their sums, brought to one instance."""
    centred = values - values.mean()
    if groups is None:
        return float(values.std(ddof=1))
    _, index = np.unique(np.asarray(groups), return_inverse=True)
    sums = np.bincount(index, weights=centred)
    if len(sums) < 2:
        raise InputError("all instances are of one group; a pilot needs two groups or more")
    return math.sqrt(float(np.square(sums).sum()) / len(values) * len(sums) / (len(sums) - 1))
