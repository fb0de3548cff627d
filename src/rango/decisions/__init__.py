"""What posteriors are worth and what to do with them: costs, scoring rules, calibration, intervals. On arrays only.

Here stand what other rooms and programs call; the types of what it returns are in the files.
"""

from rango.decisions.baseline import Baseline
from rango.decisions.bootstrap import Resampling
from rango.decisions.calibration import calibration_loss, fit_calibrator
from rango.decisions.calibrators import CALIBRATORS, Affine, Bias, Calibrator, Matrix, Temperature, Vector
from rango.decisions.costs import Costs, bayes_decisions, expected_costs, naive_cost
from rango.decisions.decision_log import DecisionLog
from rango.decisions.gates import Gate, GateChoice, GatedDecisions, gate
from rango.decisions.judging import Judgement, judge, judge_out_of_bag
from rango.decisions.metrics import (
    METRICS,
    Direction,
    Estimate,
    Metric,
    Rule,
    brier_rule,
    cost_rule,
    entropy,
    error_rule,
    logarithmic_rule,
)
from rango.decisions.monitoring import Monitoring, monitor
from rango.decisions.pairing import average_posteriors
from rango.decisions.posteriors import Posteriors
from rango.decisions.posteriors_io import read_posteriors, write_posteriors
from rango.decisions.priors import adapt_priors, reweight_posteriors
from rango.decisions.recalibration import identity_calibrator, recalibrate
from rango.decisions.reliability import reliability_bins
from rango.decisions.risk import (
    CostBalance,
    bayes_threshold,
    cost_balance,
    decide,
    risk_coverage,
    risk_curve,
    threshold_curve,
)
from rango.decisions.sample_size import SamplePlan, plan_sample, resolution, temperature_instances
from rango.decisions.sequential import SequentialTest, betting_test
from rango.decisions.significance import holm, mcnemar, paired_bootstrap
from rango.decisions.stated_costs import StatedCosts
from rango.decisions.summary import compare, measurable, summarise, summarise_difference, summarise_prior_only

__all__ = [
    "CALIBRATORS",
    "METRICS",
    "Affine",
    "Baseline",
    "Bias",
    "Calibrator",
    "CostBalance",
    "Costs",
    "DecisionLog",
    "Direction",
    "Estimate",
    "Gate",
    "GateChoice",
    "GatedDecisions",
    "Judgement",
    "Matrix",
    "Metric",
    "Monitoring",
    "Posteriors",
    "Resampling",
    "Rule",
    "SamplePlan",
    "SequentialTest",
    "StatedCosts",
    "Temperature",
    "Vector",
    "adapt_priors",
    "average_posteriors",
    "bayes_decisions",
    "bayes_threshold",
    "betting_test",
    "brier_rule",
    "calibration_loss",
    "compare",
    "cost_balance",
    "cost_rule",
    "decide",
    "entropy",
    "error_rule",
    "expected_costs",
    "fit_calibrator",
    "gate",
    "holm",
    "identity_calibrator",
    "judge",
    "judge_out_of_bag",
    "logarithmic_rule",
    "mcnemar",
    "measurable",
    "monitor",
    "naive_cost",
    "paired_bootstrap",
    "plan_sample",
    "read_posteriors",
    "recalibrate",
    "reliability_bins",
    "resolution",
    "reweight_posteriors",
    "risk_coverage",
    "risk_curve",
    "summarise",
    "summarise_difference",
    "summarise_prior_only",
    "temperature_instances",
    "threshold_curve",
    "write_posteriors",
]
