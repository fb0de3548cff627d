"""Figures as functions: each takes posteriors, a run or a study, and returns a matplotlib figure that a notebook shows.

Those of a report, with the same colours. To keep one: `figure.savefig("reliability.pdf")`. Systems are named as in
`rango.metrics`; several of them are a mapping of names, and `base`, `adapted` and `calibrated` have their own colours.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from rango.decisions import Costs, Posteriors
from rango.decisions.metrics import METRICS
from rango.errors import InputError, unknown_name
from rango.options import Split
from rango.reports.run.figures import (
    abstention_costs,
    cost_curves,
    curve_names,
    learning_curve,
    reliability_diagram,
    risk_coverage_curves,
    state_intervals,
    threshold_plot,
)
from rango.reports.study.figures import study_figures
from rango.reports.study.report import StudyReport
from rango.reports.style import Figure
from rango.reports.tables import STATES, result_rows
from rango.results.outcomes import read_outcomes
from rango.results.table import table_of_study
from rango.training.run_folder import Run
from rango.training.run_writer import as_json
from rango.training.systems import AnyCosts, System, read_costs, read_system

__all__ = ["cost_curve", "learning_curves", "reliability", "risk_coverage", "states", "study", "thresholds"]


def reliability(system: System, *, name: str = "adapted", bins: int = 15) -> Figure:
    """Accuracy against confidence of the most probable choice, with counts and consistency bars.

    Args:
        system: with labels.
        name: its title; that of a state gives it the state's colour.
        bins: of equal width over [0, 1].

    Raises:
        InputError: as `rango.metrics`.
    """
    return reliability_diagram(read_system(system)[0], name, bins=bins)


def risk_coverage(systems: System | Mapping[str, System], *, costs: AnyCosts | None = None) -> Figure:
    """Mean loss of the most confident share of instances against that share.

    Args:
        systems: with labels: one, or several by name.
        costs: of decisions; 0-1 costs when absent, where the loss is the error rate.

    Raises:
        InputError: as `rango.metrics`.
    """
    posteriors = _by_name(systems)
    return risk_coverage_curves(posteriors, costs=_matrix(costs, posteriors))


def cost_curve(
    systems: System | Mapping[str, System],
    *,
    family: Mapping[float, Costs] | None = None,
    label: str = "cost of passing an instance on (an error costs 1)",
    normalised: bool = True,
) -> Figure:
    """Expected cost of the Bayes decisions as the costs vary, beside the best constant decision.

    Args:
        systems: with labels: one, or several by name.
        family: what varies -> the costs; when absent the cost of passing an instance on, where an error costs 1.
        label: of the axis of what varies.
        normalised: divide by the best constant decision, which is then the line at 1.

    Raises:
        InputError: as `rango.metrics`; an empty family.
    """
    posteriors = _by_name(systems)
    if family is None:
        family = abstention_costs(next(iter(posteriors.values())).n_choices)
    if not family:
        raise InputError("the family of costs is empty; give at least one")
    return cost_curves(posteriors, family=family, label=label, normalised=normalised)


def thresholds(systems: System | Mapping[str, System], *, costs: AnyCosts | None = None) -> Figure:
    """Two classes: expected cost against the threshold on the posterior of the second.

    Args:
        systems: with labels: one, or several by name.
        costs: (2, 2); 0-1 costs when absent.

    Raises:
        InputError: as `rango.metrics`; not two classes.
    """
    posteriors = _by_name(systems)
    return threshold_plot(posteriors, costs=_matrix(costs, posteriors) or Costs.zero_one(2))


def learning_curves(run: Run | str | os.PathLike[str], *, metric: str | None = None) -> Figure:
    """A validation metric of a run against its steps, with the checkpoint that was chosen.

    Args:
        run: a run or its folder; it need not be complete.
        metric: a validation metric, or `train_loss`; the metric that chose the checkpoint when absent.

    Raises:
        InputError: the folder is no run, or its log has no value of the metric.
    """
    opened = run if isinstance(run, Run) else Run(Path(run))
    names = curve_names(opened.log)
    chosen = metric or (opened.config.select if opened.config.select in names else "train_loss")
    if names and chosen not in names:
        raise unknown_name("metric in the log", chosen, names)
    return learning_curve(opened.log, chosen, loss_unit="nats" if opened.config.rule == "logarithmic" else "")


def states(run: Run | str | os.PathLike[str], *, metric: str = "nce", split: Split = "test") -> Figure:
    """The states of a run (base, adapted, calibrated, …) with their intervals, beside the priors.

    Args:
        run: a complete run or evaluation, or its folder.
        metric: a key of `rango.decisions.METRICS`.
        split: on which they were measured.

    Raises:
        InputError: the run is not complete, an unknown metric, or one that no state has.
    """
    if metric not in METRICS:
        raise unknown_name("metric", metric, METRICS)
    opened = run if isinstance(run, Run) else Run(Path(run))
    table = result_rows(as_json(opened.metrics), split=split, columns=[metric])
    if not table.columns:
        raise InputError(f"no state of {opened.path} has a value of {metric} on {split}; give another metric")
    return state_intervals(table, metric)


def study(folder: StudyReport | str | os.PathLike[str], *, replicates: int = 1000) -> dict[str, Figure]:
    """The figures of a study by name: `configurations` or `by-AXIS`, and `curves` where there are logs.

    Args:
        folder: of the study, or the report that `rango.study` returned.
        replicates: bootstrap replicates of the intervals.

    Raises:
        InputError: the folder is no study.
    """
    path = folder.page.parent if isinstance(folder, StudyReport) else Path(folder)
    read = read_outcomes(path)
    table = table_of_study(read, replicates=replicates)
    return study_figures(table, read.outcomes)


def _by_name(systems: System | Mapping[str, System]) -> dict[str, Posteriors]:
    """The posteriors of systems by their names; those of a single one under the state that it most likely is."""
    if isinstance(systems, Mapping):
        return {name: read_system(system)[0] for name, system in systems.items()}
    text = str(systems) if isinstance(systems, str | os.PathLike) else ""
    known = {state.key for state in STATES}
    return {next((key for key in known if text.endswith(f":{key}")), "adapted"): read_system(systems)[0]}


def _matrix(costs: AnyCosts | None, posteriors: Mapping[str, Posteriors]) -> Costs | None:
    stated, _ = read_costs(costs)
    first = next(iter(posteriors.values()), None)
    return None if stated is None or first is None else stated.for_posteriors(first)
