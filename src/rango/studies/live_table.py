"""What a person sees while a study runs: how many jobs are where, and what is being done at this moment."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rango.files import read_yaml
from rango.studies.axes import TASK, Names, axis_text, short_name, varied_axes
from rango.studies.plan import MODELS, Job, Plan
from rango.studies.queue import WorkItem, has_model, is_stale, work_items
from rango.studies.store import ENDED, Status, Store

_ROWS = 12
_TAIL = 1 << 18
"""Bytes at the end of a log in which the last validation is looked for."""


def job_names(plan: Plan) -> dict[str, str]:
    """A few words for each job: what tells the first row that reads it from others, and its seed."""
    among = [row.axes for row in plan.rows]
    titled = TASK in varied_axes(among)
    names, called = _base_names(plan), Names(among)
    for row in plan.rows:
        if len(among) > 1:
            name = called.of(row.axes)
        else:
            told = [(key, value) for key, value in row.axes.items() if value is not None]
            name = ", ".join(f"{short_name(key, plan.axes)} {axis_text(value)}" for key, value in told) or "run"
        task = f"{axis_text(row.axes.get(TASK))}: " if titled else ""
        for cell in row.cells:
            for source in cell.sources:
                names.setdefault(source.job, f"{task}{name}, seed {plan.job(source.job).config.seed}")
    return names


def _base_names(plan: Plan) -> dict[str, str]:
    """Of several bases each is told by what it is scored with."""
    bases = [job for job in plan.jobs if job.kind == "base"]
    options = [{**job.config.model_dump(mode="json"), "model": Path(job.config.model).name} for job in bases]
    told = varied_axes(options)
    names = {}
    for job, values in zip(bases, options, strict=True):
        parts = [f"{short_name(key, told)} {axis_text(values[key])}" for key in told if key != TASK]
        task = f"{values[TASK]}: " if TASK in told else ""
        names[job.id] = task + ", ".join(["base model", *parts])
    return names


def model_name(folder: str) -> str:
    """What the study calls one of its own models; the folder has an identity at its end."""
    return f"model {folder.rpartition('-')[0]}"


@dataclass
class Watch:
    """Shows the jobs of a study: a live table on a terminal, a line for each finished job elsewhere."""

    store: Store
    plan: Plan
    console: Console
    search: bool = False
    """Whether the plan grows while it is worked on."""
    _begun: float = field(default_factory=time.monotonic)
    _seen: dict[str, Status] = field(default_factory=dict)
    """Of jobs and of the study's own models."""
    _since: dict[str, float] = field(default_factory=dict)
    """WorkItem that is being done -> when that was first seen."""
    _totals: dict[str, int] = field(default_factory=dict)
    _read: int = 0
    """When the plan that is known was written, in ns."""
    _live: Live | None = None

    def __post_init__(self) -> None:
        """Name the jobs, and remember what is done already."""
        self.names = job_names(self.plan)
        self._seen = dict(self._statuses())
        if self.console.is_terminal:
            self._live = Live(console=self.console, auto_refresh=False, transient=True)
            self._live.start()

    def stop(self) -> None:
        """Take the live table off the screen."""
        if self._live is not None:
            self._live.stop()

    def __call__(self) -> None:
        """Look at the folder and show what is new."""
        self._follow()
        for name, status in list(self._statuses()):
            if status != self._seen.get(name, "waiting") and status in ENDED:
                self._tell(name, status)
            self._seen[name] = status
        if self._live is not None:
            self._live.update(self.table(), refresh=True)

    def _statuses(self) -> Iterator[tuple[str, Status]]:
        """How far each model and job is; what is done stays so, what failed may be tried again."""
        for name in self.plan.models:
            yield name, "done" if has_model(self.store, name) else "failed" if self.store.failure(name) else "waiting"
        for job in self.plan.jobs:
            seen = self._seen.get(job.id, "waiting")
            yield job.id, seen if seen == "done" else self.store.status(job)

    def _follow(self) -> None:
        """Read the plan again where it has changed: a search makes it longer."""
        file = self.store.path / "plan.json"
        if not self.search or not file.is_file() or (written := file.stat().st_mtime_ns) == self._read:
            return
        self.plan, self._read = self.store.read_plan(), written
        self.names = job_names(self.plan)

    def _tell(self, name: str, status: Status) -> None:
        words = f"  {status:6} {self.names.get(name) or model_name(name)}"
        if status == "failed":
            words += f": {self.store.failure(name)}"
        elif (seconds := self._seconds(name)) is not None:
            words += f" ({seconds:.0f} s)"
        # A log is read by programs too: one line each, however long.
        self.console.print(words, markup=False, highlight=False, soft_wrap=True)

    def _seconds(self, name: str) -> float | None:
        """How long a model or a run took."""
        if name in self.plan.models:
            found = read_yaml(self.store.path / MODELS / name / "pretrain.yaml").get("seconds")
        else:
            found = self.store.record(self.plan.job(name)).get("seconds")
        return None if found is None else float(found)

    def table(self) -> Group:
        """How far things are, as a renderable."""
        working = self._working()
        running = {job.id for item in working if item.kind != "measure" for job in self._left(item)}
        counts: dict[Status, int] = dict.fromkeys(("done", "started", "waiting", "failed", "pruned"), 0)
        for job in self.plan.jobs:
            counts[self._seen.get(job.id, "waiting")] += 1
        left = counts["waiting"] + counts["started"] - len(running)
        elapsed = time.monotonic() - self._begun
        line = Text(f"{self.plan.name}  ", style="bold")
        line.append(f"{counts['done']} of {len(self.plan.jobs)} done · {len(running)} running · {left} waiting")
        if counts["pruned"]:
            line.append(f" · {counts['pruned']} pruned")
        if counts["failed"]:
            line.append(f" · {counts['failed']} failed", style="red")
        line.append(f" · {_minutes(elapsed)}", style="dim")
        rows = Table.grid(padding=(0, 2))
        shown = [row for item in working for row in self._rows(item)]
        for name, bar, *words in shown[:_ROWS]:
            rows.add_row(
                Text(name, overflow="ellipsis", no_wrap=True), bar, *(Text(each, style="dim") for each in words)
            )
        more = [Text(f"and {len(shown) - _ROWS} more", style="dim")] if len(shown) > _ROWS else []
        return Group(line, rows, *more)

    def _working(self) -> list[WorkItem]:
        """What is being done now, by workers that are alive: what an earlier start left half-finished is not."""
        claimed = {file.stem for file in self.store.claims.glob("*.claim") if not is_stale(file)}
        found = [item for item in work_items(self.plan, self.store) if item.id in claimed] if claimed else []
        now = time.monotonic()
        self._since = {item.id: self._since.get(item.id, now) for item in found}
        return found

    def _left(self, item: WorkItem) -> list[Job]:
        return [job for job in item.jobs if self._seen.get(job.id) not in ENDED]

    def _rows(self, item: WorkItem) -> Iterator[tuple[str, ProgressBar, str, str]]:
        """A name, a bar, how far, and what else is known, for each thing that a item does at once."""
        passed = time.monotonic() - self._since[item.id]
        if item.kind == "model":
            options = self.plan.models[item.id].options
            budget = 60 * (options.minutes or 0)
            size = f"{options.tokens:,} tokens" if options.tokens else f"{options.minutes:g} min" if budget else ""
            yield model_name(item.id), _bar(passed, budget), _minutes(passed), f"pre-training {size}".rstrip()
        elif item.kind == "base":
            yield self.names.get(item.id, item.id), _bar(), _minutes(passed), "scoring"
        elif item.kind == "measure":
            yield f"{len(item.jobs)} runs", _bar(), _minutes(passed), "measuring how many to train in one pass"
        else:
            for job in self._left(item):
                yield self._row(job)

    def _row(self, job: Job) -> tuple[str, ProgressBar, str, str]:
        step, nce = _log_end(self.store.folder(job) / "log.jsonl")
        total = self._total(job)
        validation = "" if nce is None else f"validation NCE {nce:.3f}"
        far = f"step {step}" if total is None else f"{step}/{total}"
        return self.names.get(job.id, job.id), _bar(step, total or 0), far, validation

    def _total(self, job: Job) -> int | None:
        """Steps in all; of a run that counts epochs its record says it, once the run has begun."""
        if job.id not in self._totals:
            found = self.store.record(job).get("most_steps")
            if found is None:
                return job.config.steps
            self._totals[job.id] = int(found)
        return self._totals[job.id]


def _bar(done: float = 0.0, total: float = 0.0) -> ProgressBar:
    """A bar; one that only moves where nobody knows how much there is to do."""
    return (
        ProgressBar(total=total, completed=min(done, total), width=12) if total else ProgressBar(pulse=True, width=12)
    )


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def _log_end(file: Path) -> tuple[int, float | None]:
    """The last step of a log and its last validation NCE; not more is read of a long one than its end."""
    try:
        with file.open("rb") as log:
            log.seek(max(0, file.stat().st_size - _TAIL))
            lines = log.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return 0, None
    step: int | None = None
    for line in reversed(lines):
        try:
            record: Mapping[str, float | Mapping[str, float]] = json.loads(line)
        except json.JSONDecodeError:
            continue  # cut off at either end
        found = record.get("validation")
        if step is None:
            step = int(record["step"])  # type: ignore[arg-type]
        if isinstance(found, Mapping):
            return step, found["nce"]
    return step or 0, None
