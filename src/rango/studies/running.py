"""Running a study: plan, say what there is to do, work, and leave a folder that can be read without the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from rango.errors import InputError
from rango.files import write_yaml
from rango.studies.plan import Job, Plan, own_model, plan_study
from rango.studies.searching import Searcher
from rango.studies.store import Store
from rango.studies.study import Study
from rango.studies.units import form_banks, has_model
from rango.studies.workers import Workers

Bank = Literal["auto", "on", "off"]
_SHOWN_SHARES = 6

_OURS = {
    "study.yaml",
    "plan.json",
    "runs",
    "bases",
    "models",
    "claims",
    "logs",
    "banks",
    "index.json",
    "failures",
    "search.json",
}


def prepare(study: Study, out: Path) -> tuple[Plan, Store]:
    """Plan a study and check that `out` may hold it; nothing is written.

    Raises:
        InputError: mistakes in the study, all at once; `out` holds something else.
    """
    if out.is_file():
        raise InputError(f"--out {out} is a file; give a folder")
    others = sorted(entry.name for entry in out.iterdir() if not entry.name.startswith(".")) if out.is_dir() else []
    if others and not (out / "plan.json").is_file() and set(others) - _OURS:
        raise InputError(f"--out {out} already holds other files ({others[0]}); give a folder that does not exist yet")
    store = Store(out)
    if study.search is None:
        return plan_study(study, out), store
    searcher = Searcher(study, store)
    searcher.check()
    return searcher.plan(), store


def refuse_parallel_search(study: Study, *, workers: int = 1, ray: str | None = None) -> None:
    """Raise InputError where a search is to run on several workers or on Ray: each trial builds on the earlier ones."""
    if study.search is not None and (workers > 1 or ray is not None):
        raise InputError("a search runs its trials one after the other; leave --workers and --ray out")


def describe(plan: Plan, store: Store) -> list[str]:
    """What there is to do, in sentences."""
    runs = [job for job in plan.jobs if job.kind == "run"]
    bases = [job for job in plan.jobs if job.kind == "base"]
    cells = sum(len(row.cells) for row in plan.rows)
    done = store.counts(runs)
    lines = [
        f"{plan.name}: {_count(len(plan.rows), 'configuration')}, {_count(cells, 'result')} over all seeds",
        f"  {_count(len(runs), 'fine-tuning run')}: {done['done']} there already, {done['started']} to go on with, "
        f"{done['waiting']} to start, {done['failed']} failed",
        f"  {_count(len(bases), 'scoring')} of a base model, shared: {store.counts(bases)['done']} there already",
        *_shares(plan, runs),
    ]
    if plan.models:
        there = sum(has_model(store, name) for name in plan.models)
        lines.append(f"  {_count(len(plan.models), 'language model')} to pre-train: {there} there already")
    failed = [job for job in plan.jobs if store.status(job) == "failed"]
    lines += [f"  failed: {job.id}: {store.failure(job.id)} (--retry tries it again)" for job in failed]
    return [*lines, *(f"· {note}" for note in plan.notes)]


def _shares(plan: Plan, runs: Sequence[Job]) -> Iterator[str]:
    """Which runs share a base: how many there are for each model and task."""

    def name(run: Job) -> str:
        own = own_model(run, plan)
        return Path(run.config.model).name if own is None else own.rpartition("-")[0]

    found = Counter((name(run), Path(run.config.task).name) for run in runs)
    for (model, task), count in found.most_common(_SHOWN_SHARES):
        yield f"  {_count(count, 'run')} on the base {model} for {task}"
    rest = found.total() - sum(count for _, count in found.most_common(_SHOWN_SHARES))
    if rest:
        yield f"  {_count(rest, 'run')} on {_count(len(found) - _SHOWN_SHARES, 'other base')}"


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'s' * (number != 1)}"


def run_study(
    study: Study,
    plan: Plan,
    store: Store,
    *,
    workers: int = 1,
    bank: Bank = "auto",
    retry: bool = False,
    watch: Callable[[], None] = lambda: None,
) -> None:
    """Do what is left of a prepared study. What fails is remembered and does not stop the rest.

    Args:
        study: for the record in the folder.
        plan: what `prepare` returned.
        store: likewise.
        workers: processes on this machine.
        bank: train runs that share a base in one pass: auto (where a short measurement says that it pays), on, off.
        retry: try again what failed.
        watch: called a few times a second.

    Raises:
        Interrupted: a signal; everything is saved.
    """
    refuse_parallel_search(study, workers=workers)
    begin(study, plan, store, workers=workers, bank=bank, retry=retry)
    try:
        Workers(store, plan, workers, watch).run()
    finally:
        store.rebuild_index(store.read_plan())  # a search has made it longer


def begin(study: Study, plan: Plan, store: Store, *, workers: int, bank: Bank, retry: bool) -> None:
    """Write what workers read: study, plan and banks."""
    write_yaml(store.path / "study.yaml", study.model_dump(mode="json", exclude_defaults=True))
    store.write_plan(plan)
    if retry:
        store.forget_failures()
    if study.search is None:
        store.take_up_pruned([job for job in plan.jobs if job.kind == "run"])
    if bank != "off" and study.search is None:
        form_banks(plan, store, workers=workers, measure=bank == "auto")
