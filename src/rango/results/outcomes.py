"""What a study found: posteriors on test for each configuration and seed, read from its folder without any model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rango.decisions import Posteriors, average_posteriors, fit_calibrator
from rango.decisions.stated_costs import StatedCosts
from rango.errors import InputError
from rango.studies.axes import ADAPTATION
from rango.studies.configurations import BASE_KEYS
from rango.studies.plan import Cell, Plan, Row
from rango.studies.store import Store
from rango.studies.study import Reference
from rango.training.run_folder import read_log

REPORT = "report.html"
"""The page of a run or of a study, in its folder."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """One configuration of a study with the test posteriors of each of its seeds."""

    axes: Mapping[str, object]
    """Axis (a dotted key, such as "lora.targets") → value, in the study's order."""
    posteriors: Mapping[int, Posteriors]
    """Seed → posteriors on test; an ensemble has one entry, a configuration of which every seed failed has none."""
    floor: Posteriors | None = None
    """The true posterior of the same instances, where it is known."""
    logs: Mapping[int, tuple[dict[str, Any], ...]] = field(default_factory=dict)
    """Seed → records of log.jsonl; empty where nothing was trained."""
    facts: Mapping[str, float] = field(default_factory=dict)
    """Numbers beside the metrics: trainable_parameters, seconds, held_out_nats_per_token."""
    failures: Mapping[int, str] = field(default_factory=dict)
    """Seed → why it has no posteriors, in words."""
    base: str = ""
    """The job of the base model that its runs began with; "" where none is known."""
    pages: Mapping[str, str] = field(default_factory=dict)
    """What a run is to this configuration ("seed 0") → its page, relative to the study's folder, where it has one."""


@dataclass(frozen=True, eq=False)
class StudyResult:
    """A study as its tables and figures see it."""

    name: str
    about: str
    select: str
    outcomes: tuple[Outcome, ...]
    references: tuple[Reference, ...]
    metrics: tuple[str, ...] = ()
    """What is shown first."""
    costs: StatedCosts | None = None
    """What decisions cost."""
    bases: tuple[Outcome, ...] = ()
    """The base models of the runs that no configuration stands for: what the others are compared with."""


def read_outcomes(path: Path) -> StudyResult:
    """Read a study folder, whether or not all of its runs are finished.

    Raises:
        InputError: it is none.
    """
    store = Store(path)
    plan = store.read_plan()
    outcomes = tuple(_read_outcome(store, plan, row) for row in plan.rows)
    bases = _unlisted_bases(store, plan)
    return StudyResult(plan.name, plan.about, plan.select, outcomes, plan.references, plan.metrics, plan.costs, bases)


def _read_outcome(store: Store, plan: Plan, row: Row) -> Outcome:
    posteriors: dict[int, Posteriors] = {}
    failures: dict[int, str] = {}
    logs: dict[int, tuple[dict[str, Any], ...]] = {}
    # A seed that has no posteriors yet, or none that can be used, leaves its reason instead.
    for cell in row.cells:
        reason = _why_missing(store, plan, cell)
        if not reason:
            try:
                posteriors[cell.seed] = read_cell(store, plan, cell)
            except InputError as error:
                # Posteriors that cannot be used, such as a 0 that a matrix cannot move, stop no other cell.
                reason = str(error)
        if reason:
            failures[cell.seed] = reason
        elif log := tuple(read_log(store.folder(plan.job(cell.sources[0].job)))):
            logs[cell.seed] = log

    # Facts are means over what was trained, and the base model's loss on held-out text where it is known.
    jobs = [plan.job(source.job) for cell in row.cells for source in cell.sources]
    base = plan.job(jobs[0].base)
    records = [store.record(job) for job in jobs if job.kind != "base"]
    facts: dict[str, float] = {}
    for key in ("trainable_parameters", "seconds"):
        values = [record[key] for record in records if record.get(key) is not None]
        if values:
            facts[key] = sum(values) / len(values)
    floor = store.posteriors(base, "test", "floor") if store.posteriors_file(base, "test", "floor").is_file() else None
    facts |= store.held_out(base)
    return Outcome(row.axes, posteriors, floor, logs, facts, failures, base.id, _pages(store, plan, row))


def _pages(store: Store, plan: Plan, row: Row) -> dict[str, str]:
    """The pages of a row's runs, of those that have been written."""
    pages: dict[str, str] = {}
    for cell in row.cells:
        for number, source in enumerate(cell.sources):
            member = f", member {number}" if len(cell.sources) > 1 else ""
            page = store.folder(plan.job(source.job)) / REPORT
            if page.is_file():
                pages[f"seed {cell.seed}{member}"] = page.relative_to(store.path).as_posix()
    return pages


def _unlisted_bases(store: Store, plan: Plan) -> tuple[Outcome, ...]:
    """The base models that runs began with and that are no configuration of the study, which need not list `none`."""
    listed = {cell.sources[0].job for row in plan.rows for cell in row.cells if cell.calibrator is None}
    # Each base was scored once for all runs that began with it.
    rows_of: dict[str, list[Row]] = {}
    for row in plan.rows:
        jobs = [plan.job(source.job) for cell in row.cells for source in cell.sources]
        for identity in dict.fromkeys(job.base for job in jobs if job.kind == "run" and job.base not in listed):
            rows_of.setdefault(identity, []).append(row)
    outcomes = []
    for identity, rows in rows_of.items():
        base, first = plan.job(identity), rows[0].axes
        try:
            posteriors = {0: store.posteriors(base, "test", "base")}
        except InputError:
            continue  # not scored yet, or damaged: then its runs say so
        axes = {
            name: first.get(name)
            for name in plan.axes
            if name in BASE_KEYS and all(row.axes.get(name) == first.get(name) for row in rows)
        }
        outcomes.append(Outcome({**axes, ADAPTATION: "none"}, posteriors, facts=store.held_out(base), base=identity))
    return tuple(outcomes)


def read_cell(store: Store, plan: Plan, cell: Cell) -> Posteriors:
    """The test posteriors of a cell: the mean of its sources, calibrated on validation if asked.

    Raises:
        InputError: they cannot be calibrated in that way, or a file of them is damaged.
    """

    def mean(split: str) -> Posteriors:
        return average_posteriors([store.posteriors(plan.job(s.job), split, s.state) for s in cell.sources])

    if cell.calibrator is None:
        return mean("test")
    return fit_calibrator(mean("validation"), method=cell.calibrator).apply(mean("test"))  # type: ignore[arg-type]


def _why_missing(store: Store, plan: Plan, cell: Cell) -> str:
    """Why a cell cannot be read yet; empty when it can."""
    for source in cell.sources:
        job = plan.job(source.job)
        status = store.status(job)
        if status == "failed":
            return store.failure(job.id)
        if status == "pruned":  # a search ended it early
            return str(store.record(job).get("reason"))
        if status != "done":
            return "not finished yet"
        for split in ("test", "validation")[: 2 if cell.calibrator else 1]:
            if not store.posteriors_file(job, split, source.state).is_file():
                return f"no {split} posteriors of state {source.state}"
    return ""
