"""What a person sees while a study runs: how many jobs are where, and what the running ones are doing."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rango.studies.outcomes import axis_text
from rango.studies.plan import Job, Plan
from rango.studies.store import ENDED, Status, Store
from rango.training.run import read_log

_ROWS = 12


def job_names(plan: Plan) -> dict[str, str]:
    """A few words for each job: the axes' values of the first row that reads it, and its seed."""
    names = {job.id: "base model" for job in plan.jobs if job.kind == "base"}
    for row in plan.rows:
        values = ", ".join(
            f"{key.rpartition('.')[2].replace('_', ' ')} {axis_text(value)}"
            for key, value in row.axes.items()
            if value is not None
        )
        for cell in row.cells:
            for source in cell.sources:
                if source.job not in names:
                    names[source.job] = f"{values or 'run'}, seed {plan.job(source.job).config.seed}"
    return names


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
    _live: Live | None = None

    def __post_init__(self) -> None:
        """Name the jobs, and remember what is done already."""
        self.names = job_names(self.plan)
        self._seen = {job.id: self.store.status(job) for job in self.plan.jobs}
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
        for job in self.plan.jobs:
            if self._seen[job.id] in ENDED:
                continue
            status = self.store.status(job)
            if status != self._seen[job.id] and status in ENDED:
                self._tell(job, status)
            self._seen[job.id] = status
        if self._live is not None:
            self._live.update(self.table(), refresh=True)

    def _follow(self) -> None:
        """Read the plan again: a search makes it longer."""
        if self.search and (self.store.path / "plan.json").is_file():
            self.plan = self.store.read_plan()
            self.names = job_names(self.plan)
            self._seen = {job.id: self._seen.get(job.id, "waiting") for job in self.plan.jobs}

    def _tell(self, job: Job, status: Status) -> None:
        words = f"  {status:6} {self.names.get(job.id, job.id)}"
        if status == "failed":
            words += f": {self.store.failure(job.id)}"
        elif job.kind == "run":
            words += f" ({self.store.record(job).get('seconds', 0):.0f} s)"
        self.console.print(words, markup=False, highlight=False)

    def table(self) -> Group:
        """How far things are, as a renderable."""
        counts = dict.fromkeys(("done", "started", "waiting", "failed", "pruned"), 0)
        for status in self._seen.values():
            counts[status] += 1
        total = len(self._seen)
        elapsed = int(time.monotonic() - self._begun)
        line = Text(f"{self.plan.name}  ", style="bold")
        line.append(f"{counts['done']} of {total} done · {counts['started']} running · {counts['waiting']} waiting")
        if counts["pruned"]:
            line.append(f" · {counts['pruned']} pruned")
        if counts["failed"]:
            line.append(f" · {counts['failed']} failed", style="red")
        line.append(f" · {elapsed // 60}:{elapsed % 60:02}", style="dim")
        rows = Table.grid(padding=(0, 2))
        running = [job for job in self.plan.jobs if self._seen[job.id] == "started"]
        for job in running[:_ROWS]:
            step, of, nce = self._progress(job)
            rows.add_row(
                Text(self.names.get(job.id, job.id), overflow="ellipsis", no_wrap=True),
                ProgressBar(total=max(of, 1), completed=step, width=12),
                Text(f"{step}/{of or '?'}", style="dim"),
                Text("" if nce is None else f"validation NCE {nce:.3f}", style="dim"),
            )
        return Group(line, rows)

    def _progress(self, job: Job) -> tuple[int, int, float | None]:
        """Steps done, steps in all, and the last validation's NCE."""
        log = read_log(self.store.folder(job))
        nce: float | None = None
        for record in reversed(log):
            validation: Mapping[str, float] | None = record.get("validation")
            if validation:
                nce = validation["nce"]
                break
        steps = job.config.steps or 0
        return (int(log[-1]["step"]) if log else 0), steps, nce
