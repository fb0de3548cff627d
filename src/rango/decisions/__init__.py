"""What posteriors are worth and what to do with them: costs, scoring rules, calibration, intervals. On arrays only."""

from rango.decisions.costs import Costs, bayes_decisions, expected_costs, naive_cost
from rango.decisions.estimates import DIRECTIONS, METRICS, Direction, Estimate
from rango.decisions.paired import McNemar, mcnemar
from rango.decisions.posteriors import Posteriors
from rango.decisions.posteriors_file import read_posteriors, write_posteriors
from rango.decisions.priors import reweight_posteriors
from rango.decisions.summary import summarise, summarise_difference

__all__ = [
    "DIRECTIONS",
    "METRICS",
    "Costs",
    "Direction",
    "Estimate",
    "McNemar",
    "Posteriors",
    "bayes_decisions",
    "expected_costs",
    "mcnemar",
    "naive_cost",
    "read_posteriors",
    "reweight_posteriors",
    "summarise",
    "summarise_difference",
    "write_posteriors",
]
