"""The page of a run or an evaluation: one self-contained HTML file, from the files of its directory alone.

`render_page` lists the parts in the order of the page: headline and findings, table, figures, single instances, what
was run. A file that is missing or broken costs its own part only, and the page says why.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rango.decisions import METRICS, Costs, Gate, Posteriors, judge
from rango.decisions import gate as choose_gate
from rango.errors import InputError
from rango.files import write_text
from rango.output_folder import check_links
from rango.reports.language import Language, _, integer, localised, speaking
from rango.reports.run import classes, figures, findings, instances
from rango.reports.run.robustness import Robustness, read_robustness
from rango.reports.style import render
from rango.reports.svg import Drawing, drawing
from rango.reports.tables import (
    STATES,
    Metrics,
    Table,
    column_named,
    duration,
    estimate,
    estimate_notes,
    number,
    result_rows,
    state_named,
)
from rango.studies.axes import dotted_items
from rango.tasks.kept_texts import KeptText, kept_texts_file, read_kept_texts
from rango.training.measurement import balance_of_contents, deployed_state
from rango.training.run_folder import Run, RunContents
from rango.training.systems import read_system

_CHIEF = ("nce", "error_rate")
"""The metrics of the headline and of the figure of states."""

_CURVES = ("train_loss", "nce", "error_rate")
"""The train loss and the validation metrics whose curves are drawn."""

_EXPECTED = ("run.yaml", "log.jsonl", "metrics.json", "posteriors/test-base.parquet", "posteriors/test-adapted.parquet")
"""The files that every run should have; posteriors of other states, such as the floor, exist for some tasks only."""


def write_report(run_dir: Path, *, language: Language = "en") -> Path:
    """Write report.html of a run or an evaluation from the files of its folder; no model is needed.

    These are run.yaml or evaluation.yaml, log.jsonl, metrics.json and posteriors/*.parquet.
    The page names missing parts with the reason. The same files give the same bytes. What is stored in the files, such
    as notes, stays as it is in any language.

    Returns:
        The path of the page.

    Raises:
        InputError: the folder does not exist or is not a run.
    """
    path = run_dir / "report.html"
    check_links(run_dir, path.name)
    contents = Run(run_dir).contents([state.key for state in STATES])
    texts: dict[str, KeptText] = {}
    file = kept_texts_file(run_dir, contents.split)
    if file.is_file():
        try:
            texts = read_kept_texts(file)
        except InputError as error:
            contents.missing["instances"] = str(error).replace(f"{run_dir}/", "")
    gate = _gate_of(run_dir, contents)
    with speaking(language):
        probed = None
        try:
            probed = read_robustness(run_dir)
        except InputError as error:
            contents.missing["probe"] = str(error).replace(f"{run_dir}/", "")
        name = run_dir.resolve().name
        write_text(path, render_page(contents, name=name, texts=texts, gate=gate, probed=probed))
    return path


def _gate_of(folder: Path, contents: RunContents) -> Gate | None:
    """The gate that the stated costs choose on validation for the state that one would deploy.

    None where no costs are stated, none of their decisions passes on, or there are no such posteriors on validation.
    """
    run = Run(folder)
    state = deployed_state(contents.posteriors)
    if contents.costs is None or contents.split != "test" or state not in contents.posteriors:
        return None
    try:
        fitting, _notes = read_system(f"{folder}:{state}", split="validation")
        chosen = choose_gate(fitting, costs=run.stated_costs, replicates=0)
        # Refuses posteriors of other choices.
        chosen.decide(contents.posteriors[state])
    except InputError:
        return None
    return chosen


def render_page(
    run: RunContents,
    *,
    name: str = "run",
    texts: Mapping[str, KeptText] | None = None,
    gate: Gate | None = None,
    probed: Robustness | None = None,
) -> str:
    """The page of a run as HTML; every text from the run is escaped.

    Args:
        run: what its files hold.
        name: of its folder, for the title.
        texts: what was asked of the instances, by id, as far as it is known.
        gate: chosen on validation for the costs of the run, for the state that one would deploy.
        probed: what `rango probe` found out of the run.
    """
    record, posteriors, missing, texts = run.record, run.posteriors, run.missing, texts or {}
    model, config = _mapping(record, "model"), _mapping(record, "config")
    measured = run.metrics.get(run.split)
    states: Metrics = measured if isinstance(measured, Mapping) else {}
    table = result_rows(run.metrics, split=run.split, with_costs=run.costs is not None) if states else None
    verdict: list[findings.Finding] = []
    if states:
        balance = balance_of_contents(run)
        verdict = [findings.usable_finding(states, balance=balance)]
        if balance is not None:
            verdict.append(findings.cost_finding(balance, findings.model_words(deployed_state(posteriors))))
        # An evaluation is of one model: there is nothing before it to compare with, and often no floor.
        if not run.evaluation:
            verdict.append(findings.adaptation_finding(states, balance))
        # Real tasks have no floor that could be known.
        if "floor" in states and (not run.evaluation or "adapted" in states):
            verdict.append(findings.floor_finding(states))
        raw = "base" if run.evaluation and "adapted" not in states else "adapted"
        reason = missing.get(f"posteriors/{run.split}-{raw}.parquet", "")
        verdict.append(findings.calibration_finding(posteriors.get(raw), raw, reason=reason))
    # Comparisons of instances need the posteriors before and after adaptation.
    both = (posteriors["base"], posteriors["adapted"]) if {"base", "adapted"} <= set(posteriors) else None
    # Of a file that not every run has, only damage is worth a note.
    expected = ("metrics.json",) if run.evaluation else _EXPECTED
    reasons = [why for file, why in missing.items() if file in expected or "is not in the run directory" not in why]
    # The state that one would deploy: its mistakes are the ones that matter.
    deployed = deployed_state(posteriors)
    content = {
        "name": name,
        "split": run.split,
        "measured_on": instances_words(run.split),
        "evaluation": run.evaluation,
        "model": _short_name(model.get("name") or config.get("model") or _("an unnamed model")),
        "task": _short_name(config.get("task") or _("an unnamed task")),
        "summary": list(_summary(record)),
        "complete": record.get("status", "complete") == "complete",
        "headline": [
            _before_and_after(states, metric, "prior" if run.evaluation else "base", deployed) for metric in _CHIEF
        ],
        "findings": verdict,
        "table": table,
        "csv": table_csv(table) if table else "",
        "paired": _paired(*both) if both else "",
        "intervals": list(interval_drawings(table)) if table else (),
        "curves": [] if run.evaluation else list(_curve_drawings(run)),
        "reliability": list(_reliability_drawings(run)),
        **posteriors_parts(posteriors, deployed, texts, run.costs, gate),
        "probed": probed,
        "selections": instances.extreme_instances(*both) if both else {},
        "facts": [*_facts(record), *_choices_of_step(run.log)],
        "notes": [*_notes(record.get("notes")), *estimate_notes(states), *reasons],
    }
    return render(
        "run/page.html",
        content,
        script="run/explorer.js",
        script_json=instances.as_script_json,
        question=lambda identity: instances.shown_text(texts, identity),
    )


def posteriors_parts(
    states: Mapping[str, Posteriors],
    acting: str,
    texts: Mapping[str, KeptText],
    costs: Costs | None,
    gate: Gate | None = None,
) -> dict[str, Any]:
    """What any page shows of posteriors: decisions, classes, mistakes, and what its script needs.

    Args:
        states: posteriors by state or by the name of a system.
        acting: whose mistakes and classes are shown.
        texts: what was asked, by id.
        costs: of decisions; None for 0-1 costs.
        gate: chosen for these costs on other instances.
    """
    own = states.get(acting)
    # Which class is taken for which, and what is a mistake, is known only where one choice is right.
    hard = own if own is not None and own.targets is None else None
    return {
        "decisions": list(_decision_drawings(states, own, gate)),
        "judged": gate and gate.choice,
        "deployed": state_named(acting).title,
        "coverages": classes.coverages(own) if own else [],
        "classes": classes.class_rows(hard) if hard else [],
        "are_classes": own is not None and own.column_names is not None,
        "confusion": _confusion(hard) if hard else None,
        "confusions": classes.frequent_confusions(hard) if hard else [],
        "mistakes": instances.surest_mistakes(hard, texts) if hard else [],
        "mistake_count": int((hard.log_posteriors.argmax(axis=1) != hard.labels).sum()) if hard else 0,
        "explorer": instances.explorer_data(states, texts, costs),
    }


def table_csv(table: Table) -> str:
    """The table of results as CSV, a line for each state and metric."""
    lines = ["state,metric,value,low,high,n,direction"]
    for row in table.rows:
        for column, cell in zip(table.columns, row.cells, strict=True):
            if cell is not None:
                bounds = ",".join("" if bound is None else repr(bound) for bound in (cell.low, cell.high))
                lines.append(f"{row.state.key},{column.name},{cell.value!r},{bounds},{cell.n},{cell.direction}")
    return "\n".join(lines)


def _confusion(posteriors: Posteriors) -> list[tuple[str, list[tuple[int, float, int]]]] | None:
    """A row for each class: its name, and per decision the count, its share of the row and a shade from 0 to 9.

    None where the columns are no classes, or too many to be read.
    """
    names = posteriors.column_names
    if names is None or len(names) > classes.MOST_CLASSES:
        return None
    rows = []
    for name, counts in zip(names, classes.confusion(posteriors).tolist(), strict=True):
        shares = [count / max(1, sum(counts)) for count in counts]
        rows.append((name, [(n, share, round(9 * share)) for n, share in zip(counts, shares, strict=True)]))
    return rows


def instances_words(split: str) -> str:
    """The instances of a split inside a sentence: "test instances"."""
    words = {
        "test": _("test instances"),
        "validation": _("validation instances"),
        "train": _("training instances"),
        "shared": _("shared instances"),
    }
    return words.get(split) or _("%(split)s instances", split=split)


def _mapping(record: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A mapping of run.yaml, empty if it is something else: a record that was edited by hand still has a page."""
    value = record.get(key)
    return value if isinstance(value, Mapping) else {}


def _short_name(value: object) -> str:
    """A name for the title: a Hub id (owner/name) as it is, the last part of a longer path."""
    name = str(value)
    return name if name.count("/") <= 1 and not name.startswith(("/", ".")) else name.rstrip("/").rpartition("/")[2]


def _summary(record: Mapping[str, Any]) -> Iterator[str]:
    """The run in a few words: what was adapted, how, on what, how long it took."""
    config, model = _mapping(record, "config"), _mapping(record, "model")
    lora = _mapping(config, "lora")
    if config.get("adapter"):
        yield _("adapter of %(run)s", run=config["adapter"])
    if config.get("split"):
        yield _("%(name)s split", name=config["split"])
    if config.get("adaptation") == "full":
        yield _("full fine-tuning")
    elif lora:
        targets = lora.get("targets") or ()
        names = ", ".join(map(str, targets)) if isinstance(targets, list | tuple) else str(targets)
        yield _("LoRA of rank %(rank)s on %(targets)s", rank=lora.get("rank"), targets=names)
    trainable, parameters = record.get("trainable_parameters"), model.get("parameters")
    if isinstance(trainable, int) and isinstance(parameters, int) and parameters:
        share = _("{}%").replace("{}", localised(f"{100 * trainable / parameters:.2g}"))
        yield _(
            "%(trained)s of %(total)s parameters trained (%(share)s)",
            trained=integer(trainable),
            total=integer(parameters),
            share=share,
        )
    if config.get("objective"):
        yield _("objective %(name)s", name=config["objective"])
    if form := config.get("form") or record.get("form"):
        yield _("%(name)s form", name=form)
    if config.get("seed") is not None:
        yield _("seed %(number)s", number=config["seed"])
    if model.get("device"):
        yield f"{model['device']}, {str(model.get('dtype', '')).removeprefix('torch.')}".rstrip(", ")
    if isinstance(record.get("seconds"), int | float) and math.isfinite(record["seconds"]):
        yield duration(float(record["seconds"]))


def _before_and_after(states: Metrics, metric: str, *keys: str) -> tuple[str, str, str]:
    """The title of a metric and its values in two states."""
    before, after = (estimate(states, state, metric) for state in keys)
    return column_named(metric).title, number(before.value if before else None), number(after.value if after else None)


def _paired(base: Posteriors, adapted: Posteriors) -> str:
    try:
        return findings.mcnemar_sentence(base, adapted)
    except InputError as error:
        return _("No paired test of base and adapted model: %(reason)s.", reason=error)


def interval_drawings(table: Table) -> Iterator[Drawing]:
    """One figure of states for each chief metric that the table has, so that a phone can stack them."""
    for column in table.columns:
        if column.name in _CHIEF:
            draw = partial(figures.state_intervals, table, column.name)
            title = _("%(metric)s of each state with its interval", metric=column.title)
            yield drawing(title, draw, prefix=f"states-{column.name}")


def _curve_drawings(run: RunContents) -> Iterator[Drawing]:
    """Train loss and the chief validation metrics against steps."""
    if not run.log:
        yield Drawing(_("Learning curves"), None, run.missing.get("log.jsonl", "log.jsonl holds no records"))
        return
    # The logarithmic losses are in nats; a Brier loss has no unit.
    unit = "nats" if _mapping(run.record, "config").get("rule", "logarithmic") == "logarithmic" else ""
    # A curve without points, such as NCE on instances of one class, is a sentence with the reason instead.
    titles = (_("Train loss"), _("Validation NCE"), _("Validation error rate"))
    for name, title in zip(_CURVES, titles, strict=True):
        yield drawing(title, partial(figures.learning_curve, run.log, name, loss_unit=unit), prefix=f"curve-{name}")


def _reliability_drawings(run: RunContents) -> Iterator[Drawing]:
    """Before and after adaptation, and after calibration where there was one."""
    for state in ("base", "adapted", "calibrated"):
        title = _("Reliability diagram, %(state)s", state=state_named(state).title.lower())
        if state in run.posteriors:
            draw = partial(figures.reliability_diagram, run.posteriors[state], state)
            yield drawing(title, draw, prefix=f"reliability-{state}")
        elif state != "calibrated" and not run.evaluation:
            yield Drawing(title, None, run.missing[f"posteriors/test-{state}.parquet"])


def _decision_drawings(
    posteriors: Mapping[str, Posteriors], acting: Posteriors | None, gate: Gate | None
) -> Iterator[Drawing]:
    """Answering only where the model is sure, what abstaining may cost, a gate; none without a model's posteriors."""
    if acting is None:
        return
    # What nobody would act on makes the figures hard to read.
    states = {key: p for key, p in posteriors.items() if key not in ("prior", "control", "ngram")}
    title = _("Error rate against coverage")
    yield drawing(title, partial(figures.risk_coverage_curves, states), prefix="coverage")
    family = figures.abstention_costs(acting.n_choices)
    draw = partial(figures.cost_curves, states, family=family, label=_("cost of abstaining (an error costs 1)"))
    yield drawing(_("Normalised expected cost against the cost of abstaining"), draw, prefix="abstaining")
    judgement = None if gate is None else judge(gate, acting, replicates=0)
    title = _("Error of what is acted on against coverage, with its interval")
    yield drawing(title, partial(figures.gate_curve, gate, judgement, acting), prefix="gate")


def _facts(record: Mapping[str, Any]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """What run.yaml says as groups of key and value, without digests: each of its mappings, then the rest together."""
    config = _mapping(record, "config")
    if config:
        # In the file the keys stand in the order of the options; a reader looks for model and task first.
        first = {key: config[key] for key in ("model", "task") if key in config}
        yield _("Configuration"), _pairs({**first, **config})
    # What a later version of Rango adds to run.yaml is shown too: no list of keys is kept here.
    for key, value in record.items():
        # Digests are for `rango verify`; 64 characters of each file would fill pages that nobody reads.
        if isinstance(value, Mapping) and value and key not in ("config", "digests"):
            yield key.replace("_", " ").capitalize(), _pairs(value)
    rest = {key: value for key, value in record.items() if not isinstance(value, Mapping) and key != "notes"}
    if rest:
        yield _("Run"), _pairs(rest)


def _choices_of_step(log: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """The step at which each metric of the log is best, the first of equal ones: what another `select` would choose."""
    pairs = []
    for metric in (metric for metric in METRICS.values() if metric.on_validation):
        # An undefined value is never the best; a log of an earlier version lacks metrics that are new.
        measured = {record["step"]: (record.get("validation") or {}).get(metric.name, math.nan) for record in log}
        values = {step: value for step, value in measured.items() if math.isfinite(value)}
        if values:
            best = (max if metric.direction == "higher" else min)(values, key=values.__getitem__)
            pairs.append((metric.name, f"{best} ({number(values[best])})"))
    if pairs:
        yield _("Best step by each metric on validation"), pairs


def _pairs(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Dotted key and value of a nested mapping, as on the command line."""
    pairs = []
    for key, value in dotted_items(values):
        if isinstance(value, list | tuple):
            text = ", ".join(map(str, value)) or _("none")
        elif key.endswith("parameters") and isinstance(value, int):
            text = integer(value)
        else:
            text = _("none") if value is None else str(value)
        pairs.append((key, text))
    return pairs


def _notes(value: object) -> list[str]:
    """The notes of run.yaml, which may be absent or one text."""
    if value is None:
        return []
    return [str(note) for note in value] if isinstance(value, list | tuple) else [str(value)]
