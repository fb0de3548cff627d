"""Two systems on the same instances: every difference with its interval, McNemar's exact test, and a sentence."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from numpy.typing import ArrayLike

from rango.decisions import scoring_rules as rules
from rango.decisions.costs import Costs
from rango.decisions.estimates import Estimate
from rango.decisions.posteriors import Posteriors
from rango.decisions.summary import check_paired, summarise, summarise_difference


@dataclass(frozen=True)
class McNemar:
    """Who errs where, and how surprising the imbalance is if both err equally often."""

    both_right: int
    only_a_right: int
    only_b_right: int
    both_wrong: int
    p: float
    """Two-sided exact p-value of only_a_right against only_b_right."""

    @property
    def n(self) -> int:
        """The number of instances."""
        return self.both_right + self.only_a_right + self.only_b_right + self.both_wrong


def mcnemar(a: Posteriors, b: Posteriors) -> McNemar:
    """McNemar's exact test of equal error rates on the same instances.

    p = min(1, 2 P(X ≤ min(n_a, n_b))) with X ~ Binomial(n_a + n_b, 1/2), where n_a and n_b count the instances that
    only one of the two gets right.

    Raises:
        InputError: ids or labels that differ (names the first that does).

    Source: McNemar (1947), in the exact form.
    """
    from scipy.special import bdtr

    check_paired(a, b)
    a_wrong = rules.error_rule(a.log_posteriors, a.labels) == 1
    b_wrong = rules.error_rule(b.log_posteriors, b.labels) == 1
    only_a, only_b = int((~a_wrong & b_wrong).sum()), int((a_wrong & ~b_wrong).sum())
    p = min(1.0, 2 * float(bdtr(min(only_a, only_b), only_a + only_b, 0.5))) if only_a + only_b else 1.0
    return McNemar(int((~a_wrong & ~b_wrong).sum()), only_a, only_b, int((a_wrong & b_wrong).sum()), p)


@dataclass(frozen=True)
class Comparison:
    """Two systems, a and b, on the same instances."""

    a: dict[str, Estimate]
    b: dict[str, Estimate]
    difference: dict[str, Estimate]
    """metric(b) − metric(a), with paired bootstrap intervals."""
    mcnemar: McNemar
    level: float
    """Nominal coverage of the intervals."""

    def sentence(self, *, names: tuple[str, str] = ("the first", "the second")) -> str:
        """What the comparison says, in words, of the normalised cross-entropy and the error rate."""
        return f"{self._of_nce(*names)} {self._of_errors(*names)}"

    def as_dict(self) -> dict[str, Any]:
        """The comparison as JSON values."""
        parts = {"a": self.a, "b": self.b, "difference": self.difference}
        entries: dict[str, Any] = {
            part: {name: estimate.as_dict() for name, estimate in found.items()} for part, found in parts.items()
        }
        return {**entries, "mcnemar": asdict(self.mcnemar), "level": self.level, "sentence": self.sentence()}

    def _of_nce(self, a: str, b: str) -> str:
        found = self.difference["nce"]
        n = f"On {found.n:,} shared instances"
        if not math.isfinite(found.value) or found.low is None or found.high is None:
            return (
                f"{n} the normalised cross-entropies of {a} and {b} cannot be compared ({found.note or 'no interval'})."
            )
        interval = f"{found.value:+.4f}, {self.level:.0%} interval {found.low:+.4f} to {found.high:+.4f}"
        if found.low <= 0 <= found.high:
            return f"{n} the normalised cross-entropies of {a} and {b} cannot be told apart ({interval})."
        word = "lower (better)" if found.value < 0 else "higher (worse)"
        return f"{n} the normalised cross-entropy of {b} is {word} than that of {a} ({interval})."

    def _of_errors(self, a: str, b: str) -> str:
        test = self.mcnemar
        rates = f"{self.a['error_rate'].value:.4f} and {self.b['error_rate'].value:.4f}"
        only = f"only {a} is right on {test.only_a_right:,}, only {b} on {test.only_b_right:,}"
        p = "p < 0.0001" if test.p < 1e-4 else f"p = {test.p:.4f}"
        word = "differ" if test.p < 1 - self.level else "cannot be told apart"
        return f"Their error rates, {rates}, {word}: {only} (exact McNemar {p})."


def compare(
    a: Posteriors,
    b: Posteriors,
    *,
    costs: Costs | None = None,
    priors: ArrayLike | None = None,
    replicates: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Comparison:
    """Every metric of two systems and of their difference (b − a), resampled on shared instances, and McNemar's test.

    Arguments as in `summarise`.

    Raises:
        InputError: ids or labels that differ (names the first that does); as `summarise`.

    >>> import numpy as np
    >>> a = Posteriors(np.log([[0.8, 0.2], [0.6, 0.4], [0.3, 0.7]]), [0, 1, 1])
    >>> compare(a, a, replicates=100).mcnemar.p
    1.0
    """
    return Comparison(
        summarise(a, costs=costs, priors=priors, replicates=replicates, seed=seed, level=level),
        summarise(b, costs=costs, priors=priors, replicates=replicates, seed=seed, level=level),
        summarise_difference(a, b, costs=costs, priors=priors, replicates=replicates, seed=seed, level=level),
        mcnemar(a, b),
        level,
    )
