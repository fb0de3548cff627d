"""Two systems on the same instances: McNemar's exact test."""

from __future__ import annotations

from dataclasses import dataclass

from rango.decisions import scoring_rules as rules
from rango.decisions.posteriors import Posteriors
from rango.decisions.summary import check_paired


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
