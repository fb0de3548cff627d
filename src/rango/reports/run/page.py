"""Single instances worth a look: where adaptation gained or lost most, and where the model was surest and wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rango.decisions import Posteriors
from rango.errors import InputError
from rango.files import write_text
from rango.reports.run.figures import (
    abstention_costs,
    cost_curves,
    learning_curves,
    reliability_diagram,
    risk_coverage_curves,
    state_intervals,
)
from rango.reports.run.findings import (
    Finding,
    adaptation_finding,
    calibration_finding,
    floor_finding,
    mcnemar_sentence,
    priors_finding,
)
from rango.reports.style import Drawing, drawing
from rango.reports.tables import (
    STATES,
    Metrics,
    Table,
    column_named,
    estimate,
    estimate_notes,
    number,
    result_rows,
    state_named,
)
from rango.reports.templates import render
from rango.training.run_folder import Run, RunContents


@dataclass(frozen=True)
class Choice:
    """One choice of an instance: its words, whether it is right, its posterior before and after."""

    text: str
    right: bool
    before: float
    after: float


@dataclass(frozen=True)
class Shown:
    """One instance with its choices."""

    id: str
    choices: tuple[Choice, ...]


@dataclass(frozen=True)
class Selection:
    """A few instances under one heading."""

    title: str
    instances: tuple[Shown, ...]


def telling_instances(base: Posteriors, adapted: Posteriors, *, count: int = 3) -> tuple[Selection, ...]:
    """The largest gains and losses of the right choice's posterior, and the surest mistakes; ties in file order.

    Empty where the two files do not hold the same instances with words for their choices.
    """
    if adapted.choices is None or base.ids != adapted.ids or not np.array_equal(base.labels, adapted.labels):
        return ()
    before, after = np.exp(base.log_posteriors), np.exp(adapted.log_posteriors)
    rows = np.arange(len(adapted.labels))
    gain = after[rows, adapted.labels] - before[rows, adapted.labels]
    confidence = after.max(axis=1) * (after.argmax(axis=1) != adapted.labels)

    def shown(row: int) -> Shown:
        words = adapted.choices[row] if adapted.choices else ()
        label = int(adapted.labels[row])
        return Shown(
            adapted.ids[row],
            tuple(
                Choice(text, k == label, float(before[row, k]), float(after[row, k])) for k, text in enumerate(words)
            ),
        )

    def best(title: str, value: np.ndarray) -> Selection:
        order = np.argsort(-value, kind="stable")[:count]
        return Selection(title, tuple(shown(int(row)) for row in order if value[row] > 0))

    selections = (
        best("Largest gains", gain),
        best("Largest losses", -gain),
        best("Surest mistakes", confidence),
    )
    return tuple(selection for selection in selections if selection.instances)


CHIEF = ("nce", "error_rate")
"""The metrics of the headline and of the figure of states."""

_CURVES = {"train_loss": "Train loss", "nce": "Validation NCE", "error_rate": "Validation error rate"}


def interval_drawings(table: Table) -> list[Drawing]:
    """One figure of states for each chief metric that the table has, so that a phone can stack them."""
    return [
        drawing(
            f"{column.title} of each state with its interval",
            partial(state_intervals, table, metrics=[column.name]),
            prefix=f"states-{column.name}",
        )
        for column in table.columns
        if column.name in CHIEF
    ]


def curve_drawings(run: RunContents) -> list[Drawing]:
    """Train loss and the chief validation metrics against steps."""
    if not run.log:
        return [Drawing("Learning curves", None, run.missing.get("log.jsonl", "log.jsonl holds no records"))]
    config = run.record.get("config")
    unit = "" if isinstance(config, dict) and config.get("rule") == "brier" else "nats"
    return [
        drawing(title, partial(learning_curves, run.log, curves=[name], loss_unit=unit), prefix=f"curve-{name}")
        for name, title in _CURVES.items()
    ]


def reliability_drawings(run: RunContents) -> list[Drawing]:
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


def decision_drawings(run: RunContents) -> list[Drawing]:
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


def write_report(run_dir: Path) -> Path:
    """Write RUN/report.html from run.yaml, log.jsonl, metrics.json and posteriors/*.parquet; no model is needed.

    Missing parts are named on the page with the reason. The same files give the same bytes.

    Returns:
        The path of the page.

    Raises:
        InputError: the folder does not exist or is not a run.
    """
    path = run_dir / "report.html"
    write_text(path, render_page(Run(run_dir).contents([state.key for state in STATES])))
    return path


def render_page(run: RunContents) -> str:
    """The page of a run as HTML; every text from the run is escaped."""
    return render("run/page.html", _content(run))


def _content(run: RunContents) -> dict[str, Any]:
    found = run.metrics.get("test")
    states: Metrics = found if isinstance(found, Mapping) else {}
    table = result_rows(run.metrics) if states else None
    record = run.record
    return {
        "model": _short(
            _mapping(record, "model").get("name") or _mapping(record, "config").get("model") or "an unnamed model"
        ),
        "task": _short(_mapping(record, "config").get("task") or "an unnamed task"),
        "summary": list(_summary(record)),
        "complete": record.get("status", "complete") == "complete",
        "headline": [_headline(states, metric) for metric in CHIEF],
        "findings": _findings(run, states) if states else (),
        "table": table,
        "paired": _paired(run.posteriors),
        "intervals": interval_drawings(table) if table is not None else (),
        "curves": curve_drawings(run),
        "reliability": reliability_drawings(run),
        "acting": decision_drawings(run),
        "selections": _selections(run.posteriors),
        "facts": list(_facts(record)),
        "notes": [*_texts(record.get("notes")), *estimate_notes(states), *_missing(run)],
    }


def _findings(run: RunContents, states: Metrics) -> tuple[Finding, ...]:
    return (
        adaptation_finding(states),
        priors_finding(states),
        floor_finding(states),
        calibration_finding(
            run.posteriors.get("adapted"), reason=run.missing.get("posteriors/test-adapted.parquet", "")
        ),
    )


def _headline(states: Metrics, metric: str) -> tuple[str, str, str]:
    before, after = (estimate(states, state, metric) for state in ("base", "adapted"))
    return column_named(metric).title, number(before.value if before else None), number(after.value if after else None)


def _paired(posteriors: Mapping[str, Posteriors]) -> str:
    if "base" not in posteriors or "adapted" not in posteriors:
        return ""
    try:
        return mcnemar_sentence(posteriors["base"], posteriors["adapted"])
    except InputError as error:
        return f"No paired test of base and adapted model: {error}."


def _selections(posteriors: Mapping[str, Posteriors]) -> tuple[Selection, ...]:
    if "base" not in posteriors or "adapted" not in posteriors:
        return ()
    return telling_instances(posteriors["base"], posteriors["adapted"])


def _missing(run: RunContents) -> list[str]:
    """Reasons for missing parts that every run should have; states such as the floor exist for some tasks only."""
    expected = (
        "run.yaml",
        "log.jsonl",
        "metrics.json",
        "posteriors/test-base.parquet",
        "posteriors/test-adapted.parquet",
    )
    return [
        reason
        for part, reason in run.missing.items()
        if part in expected or "is not in the run directory" not in reason
    ]


def _facts(record: Mapping[str, Any]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Everything in run.yaml as groups of key and value: its mappings each by name, what stands alone together."""
    config = _mapping(record, "config")
    if config:
        first = {key: config[key] for key in ("model", "task") if key in config}
        yield "Configuration", list(flat({**first, **config}))
    for key, value in record.items():
        if isinstance(value, Mapping) and value and key != "config":
            yield key.replace("_", " ").capitalize(), list(flat(value))
    alone = {k: v for k, v in record.items() if not isinstance(v, Mapping) and k != "notes"}
    if alone:
        yield "Run", list(flat(alone))


def _mapping(record: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = record.get(key)
    return value if isinstance(value, Mapping) else {}


def _short(value: object) -> str:
    """A name for the title: a Hub id (owner/name) as it is, the last part of a longer path."""
    name = str(value)
    return name if name.count("/") <= 1 and not name.startswith(("/", ".")) else name.rstrip("/").rpartition("/")[2]


def _summary(record: Mapping[str, Any]) -> Iterator[str]:
    """The run in a few words: what was adapted, how, on what, how long it took."""
    config, model = _mapping(record, "config"), _mapping(record, "model")
    lora = _mapping(config, "lora")
    if config.get("adaptation") == "full":
        yield "full fine-tuning"
    elif lora:
        targets = lora.get("targets") or ()
        named = targets if isinstance(targets, str) else ", ".join(map(str, targets))
        yield f"LoRA of rank {lora.get('rank')} on {named}"
    trainable, parameters = record.get("trainable_parameters"), model.get("parameters")
    if isinstance(trainable, int) and isinstance(parameters, int) and parameters:
        yield f"{trainable:,} of {parameters:,} parameters trained ({100 * trainable / parameters:.2g}%)"
    if config.get("objective"):
        yield f"objective {config['objective']}"
    form = config.get("form") or record.get("form")
    if form:
        yield f"{form} form"
    if config.get("seed") is not None:
        yield f"seed {config['seed']}"
    if model.get("device"):
        yield f"{model['device']}, {str(model.get('dtype', '')).removeprefix('torch.')}".rstrip(", ")
    if isinstance(record.get("seconds"), int | float):
        yield duration(float(record["seconds"]))


def duration(seconds: float) -> str:
    """Seconds in words.

    >>> duration(8.2), duration(95), duration(3700)
    ('8.2 s', '1 min 35 s', '1 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted key and value of a nested mapping, as on the command line.

    >>> list(flat({"lora": {"rank": 8, "targets": ["q", "v"]}, "data": None}))
    [('lora.rank', '8'), ('lora.targets', 'q, v'), ('data', 'none')]
    """
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple):
            yield f"{prefix}{key}", ", ".join(map(str, value)) or "none"
        elif str(key).endswith("parameters") and isinstance(value, int):
            yield f"{prefix}{key}", f"{value:,}"
        else:
            yield f"{prefix}{key}", "none" if value is None else str(value)


def _texts(value: object) -> list[str]:
    if value is None:
        return []
    return [str(item) for item in value] if isinstance(value, list | tuple) else [str(value)]
