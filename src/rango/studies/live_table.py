"""What a person sees while a study runs: how many jobs are where, and what is being done at this moment."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from rango.studies.queue import WorkItem, locked_ids, work_items
from rango.studies.store import ENDED, Status, Store

_ROWS = 12
_LOG_SECONDS = 60.0
_TAIL = 1 << 18
"""Bytes at the end of a log in which the last validation is looked for."""


@dataclass
class LiveTable:
    """Shows the jobs of a study: a live table on a terminal; in a log a line where one begins or ends, and a minute."""

    store: Store
    plan: Plan
    console: Console
    search: bool = False
    """Whether the plan grows while it is worked on."""
    clock: Callable[[], float] = time.monotonic
    _seen: dict[str, Status] = field(default_factory=dict)
    """Status of each job and of each of the study's own models when it was last looked at."""
    _since: dict[str, float] = field(default_factory=dict)
    """Item that is being done -> when that was first seen."""
    _read: int = 0
    """When the plan that is known was written, in ns."""
    _live: Live | None = None

    def __post_init__(self) -> None:
        """Name the jobs, and remember what is done already."""
        self.names = job_names(self.plan)
        self._seen = dict(self._statuses())
        self._begun = self._logged = self.clock()
        if self.console.is_terminal:
            self._live = Live(console=self.console, auto_refresh=False, transient=True)
            self._live.start()

    def stop(self) -> None:
        """Take the live table off the screen."""
        if self._live is not None:
            self._live.stop()

    def __call__(self) -> None:
        """Look at the folder and show what is new."""
        file = self.store.path / "plan.json"
        if self.search and file.is_file() and (written := file.stat().st_mtime_ns) != self._read:
            self.plan, self._read = self.store.read_plan(), written
            self.names = job_names(self.plan)
        for name, status in list(self._statuses()):
            if status != self._seen.get(name, "waiting") and status in ENDED:
                self._print_ended(name, status)
            self._seen[name] = status
        if self._live is not None:
            self._live.update(self.table(), refresh=True)
        else:
            self._log()

    def _log(self) -> None:
        """Lines for what has begun and, once a minute, for how far everything is."""
        known = set(self._since)
        working = self._working()
        for name, *_ in (entry for item in working if item.id not in known for entry in self._entries(item)):
            self._print(f"  begun  {name}")
        if self.clock() - self._logged < _LOG_SECONDS:
            return
        self._logged = self.clock()
        self._print(self._summary(working).plain)
        for name, _, *words in (entry for item in working for entry in self._entries(item)):
            self._print(f"  {name}: {', '.join(filter(None, words))}")

    def _statuses(self) -> Iterator[tuple[str, Status]]:
        """How far each model and job is."""
        for name in self.plan.models:
            done, failed = self.store.has_model(name), self.store.failure(name)
            yield name, "done" if done else "failed" if failed else "waiting"
        for job in self.plan.jobs:
            seen = self._seen.get(job.id, "waiting")
            yield job.id, seen if seen == "done" else self.store.status(job)  # done stays, failed may be tried again

    def _print_ended(self, name: str, status: Status) -> None:
        words = f"  {status:6} {self.names.get(name) or model_name(name)}"
        if status == "failed":
            words += f": {self.store.failure(name)}"
        else:
            own = self.store.path / MODELS / name / "pretrain.yaml"
            record = read_yaml(own) if name in self.plan.models else self.store.record(self.plan.job(name))
            if (seconds := record.get("seconds")) is not None:
                words += f" ({float(seconds):.0f} s)"
        self._print(words)

    def _print(self, words: str) -> None:
        # A log is read by programs too: one line each, however long.
        self.console.print(words, markup=False, highlight=False, soft_wrap=True)

    def _working(self) -> list[WorkItem]:
        """What is being done at this moment."""
        # What an earlier start left half-finished has a lock file too; working are those whose process is alive.
        held = locked_ids(self.store)
        working = [item for item in work_items(self.plan, self.store) if item.id in held] if held else []
        self._since = {item.id: self._since.get(item.id, self.clock()) for item in working}
        return working

    def _summary(self, working: Sequence[WorkItem]) -> Text:
        """How many jobs are where, and for how long the study has run."""
        running = {job.id for item in working for job in self._unfinished(item)}
        counts = Counter(self._seen.get(job.id, "waiting") for job in self.plan.jobs)
        waiting = counts["waiting"] + counts["started"] - len(running)
        line = Text(f"{self.plan.name}  ", style="bold")
        line.append(f"{counts['done']} of {len(self.plan.jobs)} done · {len(running)} running · {waiting} waiting")
        # Nothing runs while workers load torch or train a model that is no job: a reader must see that all is well.
        if models := sum(item.kind == "model" for item in working):
            line.append(f" · {models} model{'s' * (models > 1)} pre-training")
        elif waiting and not working:
            line.append(" · workers are getting ready")
        if counts["pruned"]:
            line.append(f" · {counts['pruned']} pruned")
        if counts["failed"]:
            line.append(f" · {counts['failed']} failed", style="red")
        line.append(f" · {_minutes(self.clock() - self._begun)}", style="dim")
        return line

    def table(self) -> Group:
        """How far things are, as a renderable."""
        working = self._working()
        # Under that line a row for each thing that is being done, as many as a screen has room for.
        rows = Table.grid(padding=(0, 2))
        entries = [entry for item in working for entry in self._entries(item)]
        for name, bar, *words in entries[:_ROWS]:
            rows.add_row(
                Text(name, overflow="ellipsis", no_wrap=True), bar, *(Text(each, style="dim") for each in words)
            )
        more = [Text(f"and {len(entries) - _ROWS} more", style="dim")] if len(entries) > _ROWS else []
        return Group(self._summary(working), rows, *more)

    def _unfinished(self, item: WorkItem) -> list[Job]:
        return [job for job in item.jobs if self._seen.get(job.id) not in ENDED]

    def _entries(self, item: WorkItem) -> Iterator[tuple[str, ProgressBar, str, str]]:
        """A name, a bar, how far, and what else is known, for each thing that an item does at once."""
        passed = self.clock() - self._since[item.id]
        if item.kind == "model":
            options = self.plan.models[item.id].options
            budget = 60 * (options.minutes or 0)
            size = f"{options.tokens:,} tokens" if options.tokens else f"{options.minutes:g} min" if budget else ""
            yield model_name(item.id), _bar(passed, budget), _minutes(passed), f"pre-training {size}".rstrip()
        elif item.kind == "base":
            yield self.names.get(item.id, item.id), _bar(), _minutes(passed), "scoring"
        elif item.kind in ("tfidf", "probe"):
            yield self.names.get(item.id, item.id), _bar(), _minutes(passed), "fitting"
        else:
            for job in self._unfinished(item):
                step, nce = _log_end(self.store.folder(job) / "log.jsonl")
                # A run that counts epochs knows its steps when it has begun: then its record has them.
                total = self.store.record(job).get("most_steps") or job.config.steps
                validation = "" if nce is None else f"validation NCE {nce:.3f}"
                far = f"step {step}" if total is None else f"{step}/{total}"
                yield self.names.get(job.id, job.id), _bar(step, total or 0), far, validation


def job_names(plan: Plan) -> dict[str, str]:
    """A few words for each job: the axes that distinguish the first row that reads it, and its seed."""
    # Several bases are named by the options that differ among them.
    bases = [job for job in plan.jobs if job.kind == "base"]
    options = [{**job.config.model_dump(mode="json"), "model": Path(job.config.model).name} for job in bases]
    varied = varied_axes(options)
    names: dict[str, str] = {}
    for job, values in zip(bases, options, strict=True):
        parts = [f"{short_name(key, varied)} {axis_text(values[key])}" for key in varied if key != TASK]
        task = f"{values[TASK]}: " if TASK in varied else ""
        names[job.id] = task + ", ".join(["base model", *parts])
    # A run has the name of the first row that reads it; the only row of a study is named by all its axes.
    configurations = [row.axes for row in plan.rows]
    several_tasks, namer = TASK in varied_axes(configurations), Names(configurations)
    for row in plan.rows:
        if len(configurations) > 1:
            name = namer.of(row.axes)
        else:
            stated = [(key, value) for key, value in row.axes.items() if value is not None]
            name = ", ".join(f"{short_name(key, plan.axes)} {axis_text(value)}" for key, value in stated) or "run"
        task = f"{axis_text(row.axes.get(TASK))}: " if several_tasks else ""
        for cell in row.cells:
            for source in cell.sources:
                job = plan.job(source.job)
                # Words and states are fitted without chance.
                seed = "" if job.kind in ("tfidf", "probe") else f", seed {job.config.seed}"
                names.setdefault(job.id, f"{task}{name}{seed}")
    return names


def model_name(folder: str) -> str:
    """What the study calls one of its own models; the folder's name ends in an identity."""
    return f"model {folder.rpartition('-')[0]}"


def _bar(done: float = 0.0, total: float = 0.0) -> ProgressBar:
    """A bar; one that only pulses where nobody knows how much there is to do."""
    if not total:
        return ProgressBar(pulse=True, width=12)
    return ProgressBar(total=total, completed=min(done, total), width=12)


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def _log_end(file: Path) -> tuple[int, float | None]:
    """The last step of a log and its last validation NCE; of a long log only the end is read."""
    try:
        with file.open("rb") as log:
            log.seek(max(0, file.stat().st_size - _TAIL))
            lines = log.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return 0, None
    step: int | None = None
    # Backwards: the last line has the step, the last one with a validation its NCE.
    for line in reversed(lines):
        try:
            record: Mapping[str, float | Mapping[str, float]] = json.loads(line)
        except json.JSONDecodeError:
            continue  # cut off at either end
        validation = record.get("validation")
        if step is None:
            step = int(record["step"])  # type: ignore[arg-type]
        if isinstance(validation, Mapping):
            return step, validation["nce"]
    return step or 0, None
