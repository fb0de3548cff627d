"""The page of a run: one self-contained HTML file, from the files of the run alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rango.decisions import Posteriors
from rango.errors import InputError
from rango.files import write_text
from rango.reports.calibration import calibration_finding
from rango.reports.instances import Selection, telling_instances
from rango.reports.page_figures import (
    CHIEF,
    curve_drawings,
    decision_drawings,
    interval_drawings,
    reliability_drawings,
)
from rango.reports.run_files import RunFiles, read_run
from rango.reports.tables import (
    Metrics,
    column_named,
    estimate,
    estimate_notes,
    number,
    result_rows,
)
from rango.reports.templates import render
from rango.reports.words import Finding, adaptation_finding, floor_finding, mcnemar_sentence, priors_finding


def write_report(run_dir: Path) -> Path:
    """Write RUN/report.html from run.yaml, log.jsonl, metrics.json and posteriors/*.parquet; no model is needed.

    Missing parts are named on the page with the reason. The same files give the same bytes.

    Returns:
        The path of the page.

    Raises:
        InputError: the folder does not exist or is not a run.
    """
    path = run_dir / "report.html"
    write_text(path, render_page(read_run(run_dir)))
    return path


def render_page(run: RunFiles) -> str:
    """The page of a run as HTML; every text from the run is escaped."""
    return render("page.html", _content(run))


def _content(run: RunFiles) -> dict[str, Any]:
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


def _findings(run: RunFiles, states: Metrics) -> tuple[Finding, ...]:
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


def _missing(run: RunFiles) -> list[str]:
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
