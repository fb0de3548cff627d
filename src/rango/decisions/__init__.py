"""What posteriors are worth and what to do with them: costs, scoring rules, calibration, intervals. On arrays only."""

from rango.decisions.calibration import fit_calibrator
from rango.decisions.calibration_error import ReliabilityBins, reliability_bins
from rango.decisions.calibrators import (
    CALIBRATORS,
    Affine,
    Bias,
    Calibrator,
    FitReport,
    Histogram,
    Isotonic,
    Matrix,
    Temperature,
    Vector,
)
from rango.decisions.costs import Costs, bayes_decisions, expected_costs, naive_cost
from rango.decisions.deciding import Decisions, decide
from rango.decisions.decomposition import CalibrationLoss, calibration_loss
from rango.decisions.ensembles import average_posteriors
from rango.decisions.estimates import DIRECTIONS, METRICS, Direction, Estimate
from rango.decisions.metrics import (
    accuracy,
    brier,
    cross_entropy,
    ece,
    epsr,
    error_rate,
    expected_cost,
    nce,
    normalised_brier,
    normalised_epsr,
    normalised_expected_cost,
)
from rango.decisions.paired import Comparison, McNemar, compare, mcnemar
from rango.decisions.planning import (
    OverSeeds,
    over_seeds,
    paired_error_deviation,
    sample_size,
    unpaired_error_deviation,
)
from rango.decisions.posteriors import Posteriors
from rango.decisions.posteriors_file import read_posteriors, write_posteriors
from rango.decisions.priors import PriorAdaptation, adapt_priors, adapt_priors_recalibrated, reweight_posteriors
from rango.decisions.resampling import Resampling
from rango.decisions.risk import RiskCurve, ThresholdCurve, bayes_threshold, risk_curve, threshold_curve
from rango.decisions.scoring_rules import (
    Rule,
    brier_rule,
    cost_rule,
    entropy,
    error_rule,
    logarithmic_rule,
    score_of_priors,
)
from rango.decisions.selective import RiskCoverage, risk_coverage
from rango.decisions.significance import PairedDifference, holm, paired_bootstrap
from rango.decisions.summary import summarise, summarise_difference, summarise_prior_only

__all__ = [
    "CALIBRATORS",
    "DIRECTIONS",
    "METRICS",
    "Affine",
    "Bias",
    "CalibrationLoss",
    "Calibrator",
    "Comparison",
    "Costs",
    "Decisions",
    "Direction",
    "Estimate",
    "FitReport",
    "Histogram",
    "Isotonic",
    "Matrix",
    "McNemar",
    "OverSeeds",
    "PairedDifference",
    "Posteriors",
    "PriorAdaptation",
    "ReliabilityBins",
    "Resampling",
    "RiskCoverage",
    "RiskCurve",
    "Rule",
    "Temperature",
    "ThresholdCurve",
    "Vector",
    "accuracy",
    "adapt_priors",
    "adapt_priors_recalibrated",
    "average_posteriors",
    "bayes_decisions",
    "bayes_threshold",
    "brier",
    "brier_rule",
    "calibration_loss",
    "compare",
    "cost_rule",
    "cross_entropy",
    "decide",
    "ece",
    "entropy",
    "epsr",
    "error_rate",
    "error_rule",
    "expected_cost",
    "expected_costs",
    "fit_calibrator",
    "holm",
    "logarithmic_rule",
    "mcnemar",
    "naive_cost",
    "nce",
    "normalised_brier",
    "normalised_epsr",
    "normalised_expected_cost",
    "over_seeds",
    "paired_bootstrap",
    "paired_error_deviation",
    "read_posteriors",
    "reliability_bins",
    "reweight_posteriors",
    "risk_coverage",
    "risk_curve",
    "sample_size",
    "score_of_priors",
    "summarise",
    "summarise_difference",
    "summarise_prior_only",
    "threshold_curve",
    "unpaired_error_deviation",
    "write_posteriors",
]
