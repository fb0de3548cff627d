"""The folder of a study: what is done, what failed, and one index that can always be rebuilt from the runs.

STUDY/
  study.yaml  plan.json      what was asked, and what it resolves to
  models/NAME-ID/            small language models of the study
  bases/ID/                  posteriors of an unadapted base on validation and test, shared by the runs; held-out.yaml
  runs/ID/                   run directories
  banks/ID.json  .state.*    which runs are trained in one pass, and the state that a resume needs
  claims/  failures/ID.json  who works on what; what went wrong
  index.json                 one entry a job, rebuilt from the folders above
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rango.decisions import Posteriors, read_posteriors, write_posteriors
from rango.errors import InputError
from rango.files import read_json, read_yaml, write_json, write_text, write_yaml
from rango.studies.plan import MODELS, Job, Plan, own_model

Status = Literal["waiting", "started", "done", "failed", "pruned"]
HELD_OUT = "held-out.yaml"
ENDED: frozenset[Status] = frozenset({"done", "failed", "pruned"})
"""Nothing is left to do: it has its result, cannot have one, or was ended early by a search."""


@dataclass(frozen=True)
class Store:
    """One study folder. Several processes may use it at once: every file is written whole, claims keep them apart."""

    path: Path
    _records: dict[Path, tuple[tuple[int, ...], Mapping[str, Any]]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """run.yaml as it was last read, with what tells that version of the file from others."""

    @property
    def claims(self) -> Path:
        """The folder of claims."""
        return self.path / "claims"

    def is_claimed(self, name: str) -> bool:
        """Whether there is a claim on a item, be its owner alive or not."""
        return (self.claims / f"{name}.claim").is_file()

    def folder(self, job: Job) -> Path:
        """Where a job's results stand."""
        return self.path / ("bases" if job.kind == "base" else "runs") / job.id

    def model(self, job: Job, plan: Plan) -> str:
        """The model of a job; one of the study's own is looked for in this folder, which may have been moved."""
        name = own_model(job, plan)
        return job.config.model if name is None else str(self.path / MODELS / name)

    def posteriors_file(self, job: Job, split: str, state: str) -> Path:
        """The file of a job's posteriors."""
        return self.folder(job) / "posteriors" / f"{split}-{state}.parquet"

    def posteriors(self, job: Job, split: str, state: str) -> Posteriors:
        """Stored posteriors of a job.

        Raises:
            InputError: they are not there.
        """
        return read_posteriors(self.posteriors_file(job, split, state))

    def keep_held_out(self, job: Job, plan: Plan) -> None:
        """Keep beside a base's posteriors what its pre-training says of held-out text: tables do without the model."""
        record = Path(self.model(job, plan)) / "pretrain.yaml"
        found = read_yaml(record).get("held_out", {}) if record.is_file() else {}
        nats = float(found.get("held_out_nats_per_token", math.inf))
        if nats < 700:  # exp of much more is no number
            found = {"held_out_perplexity": round(math.exp(nats), 4), **found}
        write_yaml(self.folder(job) / HELD_OUT, found)

    def held_out(self, job: Job) -> dict[str, float]:
        """What is known of a base on held-out text; empty where nothing is."""
        file = self.folder(job) / HELD_OUT
        return {key: float(value) for key, value in read_yaml(file).items()} if file.is_file() else {}

    def write_posteriors(self, job: Job, split: str, state: str, posteriors: Posteriors) -> None:
        """Store posteriors of a job."""
        write_posteriors(self.posteriors_file(job, split, state), posteriors)

    def status(self, job: Job) -> Status:
        """How far a job is, as its files tell."""
        if self.failure_file(job.id).is_file():
            return "failed"
        if job.kind == "base":
            there = all(self.posteriors_file(job, split, "base").is_file() for split in ("validation", "test"))
            return "done" if there else "waiting"
        if self.is_trained(job):
            wanted = (self.posteriors_file(job, "test", f"mc-dropout-{count}") for count in job.samples)
            return "done" if all(file.is_file() for file in wanted) else "started"
        if self.record(job).get("status") == "pruned":
            return "pruned"
        return "started" if self.record(job) else "waiting"

    def is_trained(self, job: Job) -> bool:
        """Whether a run is complete; posteriors with dropout on may still be missing."""
        return self.record(job).get("status") == "complete"

    def record(self, job: Job) -> Mapping[str, Any]:
        """run.yaml of a job, empty before it is written. It is parsed again only after it was written again.

        A worker looks at every job before each item; a file is replaced as a whole, so its inode or time tells.
        """
        file = self.folder(job) / "run.yaml"
        try:
            # Opened, not only looked at: a network file system may answer a look from memory.
            with file.open("rb") as opened:
                found = os.fstat(opened.fileno())
            version = (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)
            if self._records.get(file, ((),))[0] != version:
                self._records[file] = version, read_yaml(file)
            return self._records[file][1]
        except (FileNotFoundError, InputError):
            return {}  # not there, or replaced at this very moment on a file system that shows it

    def relocate(self, job: Job) -> None:
        """Have a run begun before the folder was moved name the model where it is now, so that it can go on."""
        record = self.record(job)
        config = record.get("config")
        if isinstance(config, dict) and config.get("model") != job.config.model:
            write_yaml(self.folder(job) / "run.yaml", {**record, "config": {**config, "model": job.config.model}})

    def failure_file(self, identity: str) -> Path:
        """Where the reason of a failure stands."""
        return self.path / "failures" / f"{identity}.json"

    def write_failure(self, identity: str, reason: str, *, details: str = "") -> None:
        """Remember why a job failed."""
        write_json(self.failure_file(identity), {"reason": " ".join(reason.split()), "details": details})

    def failure(self, identity: str) -> str:
        """Why a job failed, in one line; empty when it did not."""
        file = self.failure_file(identity)
        return str(read_json(file)["reason"]) if file.is_file() else ""

    def forget_failures(self) -> int:
        """Drop every failure, so that those jobs are tried again; how many there were."""
        files = list((self.path / "failures").glob("*.json"))
        for file in files:
            file.unlink()
        return len(files)

    def take_up_pruned(self, jobs: Sequence[Job]) -> None:
        """Runs that a search ended early wait again: a grid wants them whole."""
        for job in jobs:
            if self.status(job) == "pruned":
                write_yaml(self.folder(job) / "run.yaml", {**self.record(job), "status": "running"})

    def write_plan(self, plan: Plan) -> None:
        """Store the plan: from here the folder can be read without the study file."""
        write_text(self.path / "plan.json", plan.model_dump_json(indent=1) + "\n")

    def read_plan(self) -> Plan:
        """The stored plan.

        Raises:
            InputError: there is none.
        """
        if not (self.path / "plan.json").is_file():
            raise InputError(f"{self.path} holds no plan.json; expected the output folder of rango study")
        return Plan.build(read_json(self.path / "plan.json"), where=str(self.path / "plan.json"))

    def rebuild_index(self, plan: Plan) -> Mapping[str, Any]:
        """Write index.json from the folders: id -> kind, status, reason, seconds, configuration."""
        index = {job.id: self._entry(job) for job in plan.jobs}
        write_json(self.path / "index.json", index)
        return index

    def _entry(self, job: Job) -> dict[str, Any]:
        record = self.record(job)
        entry = {
            "kind": job.kind,
            "status": self.status(job),
            "reason": self.failure(job.id) or record.get("reason"),
            "seconds": record.get("seconds"),
            "best_step": record.get("best_step"),
        }
        return {**entry, "config": json.loads(job.config.model_dump_json())}

    def counts(self, jobs: Sequence[Job]) -> dict[Status, int]:
        """How many jobs have each status."""
        found: dict[Status, int] = {"waiting": 0, "started": 0, "done": 0, "failed": 0, "pruned": 0}
        for job in jobs:
            found[self.status(job)] += 1
        return found
