"""Which figures stand on the page of a run, and what stands there where one cannot be drawn."""

from __future__ import annotations

from functools import partial

from rango.reports.decision_figures import abstention_costs, cost_curves, risk_coverage_curves
from rango.reports.figures import learning_curves, reliability_diagram, state_intervals
from rango.reports.inline import Drawing, drawing
from rango.reports.run_files import RunFiles
from rango.reports.tables import Table, state_named

CHIEF = ("nce", "error_rate")
"""The metrics of the headline and of the figure of states."""

_CURVES = {"train_loss": "Train loss", "nce": "Validation NCE", "error_rate": "Validation error rate"}


def interval_drawings(table: Table) -> list[Drawing]:
    """One figure of states for each chief metric that the table has, so that a phone can stack them."""
    return [
        drawing(
            f"{column.title} of each state with its interval",
            partial(state_intervals, table, metrics=[column.key]),
            prefix=f"states-{column.key}",
        )
        for column in table.columns
        if column.key in CHIEF
    ]


def curve_drawings(run: RunFiles) -> list[Drawing]:
    """Train loss and the chief validation metrics against steps."""
    if not run.log:
        return [Drawing("Learning curves", None, run.missing.get("log.jsonl", "log.jsonl holds no records"))]
    config = run.record.get("config")
    unit = "" if isinstance(config, dict) and config.get("rule") == "brier" else "nats"
    return [
        drawing(title, partial(learning_curves, run.log, curves=[name], loss_unit=unit), prefix=f"curve-{name}")
        for name, title in _CURVES.items()
    ]


def reliability_drawings(run: RunFiles) -> list[Drawing]:
    """Before and after adaptation, and after calibration where there was one."""
    states = ["base", "adapted", *(["calibrated"] if "calibrated" in run.posteriors else [])]
    drawings = []
    for state in states:
        title = f"Reliability diagram, {state_named(state).title.lower()}"
        if state in run.posteriors:
            draw = partial(reliability_diagram, {state: run.posteriors[state]})
            drawings.append(drawing(title, draw, prefix=f"reliability-{state}"))
        else:
            drawings.append(Drawing(title, None, run.missing[f"posteriors/test-{state}.parquet"]))
    return drawings


def decision_drawings(run: RunFiles) -> list[Drawing]:
    """Answering only where the model is sure, and what abstaining may cost; none without adapted posteriors."""
    if "adapted" not in run.posteriors:
        return []
    states = {key: p for key, p in run.posteriors.items() if key in ("base", "adapted", "calibrated", "floor")}
    family = abstention_costs(run.posteriors["adapted"].n_choices)
    label = "cost of abstaining (an error costs 1)"
    return [
        drawing("Error rate against coverage", partial(risk_coverage_curves, states), prefix="coverage"),
        drawing(
            "Normalised expected cost against the cost of abstaining",
            partial(cost_curves, states, family=family, label=label),
            prefix="abstaining",
        ),
    ]
