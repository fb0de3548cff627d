"""The folder of a study: what is done, what failed, and one index that can always be rebuilt from the runs.

STUDY/
  study.yaml  plan.json      what was asked, and what it resolves to
  models/NAME-ID/            small language models of the study
  bases/ID/                  posteriors of an unadapted base on validation and test, shared by the runs; held-out.yaml
  runs/ID/                   run directories
  baselines/ID/              posteriors of a baseline on validation and test, run.yaml; of an encoder also its log
  banks/ID.json  .state.*    which runs are trained in one pass, and the state that a resume needs
  locks/  failures/ID.json   who works on what; what went wrong
  index.json                 one entry for each job, rebuilt from the folders above
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rango.decisions import Posteriors, read_posteriors, write_posteriors
from rango.errors import InputError
from rango.files import read_json, read_yaml, write_json, write_yaml
from rango.studies.plan import MODELS, Job, Plan, own_model
from rango.training.run_folder import read_record

Status = Literal["waiting", "started", "done", "failed", "pruned"]
ENDED: frozenset[Status] = frozenset({"done", "failed", "pruned"})
"""Nothing is left to do: the job has its result, cannot have one, or was ended early by a search."""

HELD_OUT = "held-out.yaml"


@dataclass(frozen=True)
class Store:
    """One study folder. Several processes may use it at once: every file is written whole, locks keep them apart."""

    path: Path
    _records: dict[Path, tuple[tuple[int, ...], Mapping[str, Any]]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """run.yaml as it was last read, with what identifies that version of the file."""

    @property
    def locks(self) -> Path:
        """The folder of the items' locks."""
        return self.path / "locks"

    def lock_file(self, identity: str) -> Path:
        """The lock of an item. It exists while its owner works, and stays when the owner was killed."""
        return self.locks / f"{identity}.lock"

    @property
    def banks(self) -> Path:
        """The folder of banks."""
        return self.path / "banks"

    def bank_state(self, identity: str) -> Path:
        """The file that the resume of a bank needs."""
        return self.banks / f"{identity}.state.safetensors"

    def folder(self, job: Job) -> Path:
        """Where a job's results stand."""
        return self.path / {"base": "bases", "run": "runs"}.get(job.kind, "baselines") / job.id

    def model(self, job: Job, plan: Plan) -> str:
        """The model of a job; one of the study's own is looked for in this folder, which may have been moved."""
        name = own_model(job, plan)
        return job.config.model if name is None else str(self.path / MODELS / name)

    def has_model(self, name: str) -> bool:
        """Whether one of the study's own models is complete: its folder appears when everything is in it."""
        return (self.path / MODELS / name / "config.json").is_file()

    # --- how far a job is ---

    def status(self, job: Job) -> Status:
        """How far a job is, as its files say."""
        if self.failure_file(job.id).is_file():
            return "failed"
        if job.kind == "base":
            scored = all(self.posteriors_file(job, split, "base").is_file() for split in ("validation", "test"))
            return "done" if scored else "waiting"
        if self.is_trained(job):
            files = [self.posteriors_file(job, "test", f"mc-dropout-{count}") for count in job.samples]
            return "done" if all(file.is_file() for file in files) else "started"
        if self.record(job).get("status") == "pruned":
            return "pruned"
        return "started" if self.record(job) else "waiting"

    def is_trained(self, job: Job) -> bool:
        """Whether a run's training or a baseline is complete; dropout posteriors of a run may still be missing."""
        return self.record(job).get("status") == "complete"

    def counts(self, jobs: Sequence[Job]) -> Counter[Status]:
        """How many jobs have each status."""
        return Counter(self.status(job) for job in jobs)

    def record(self, job: Job) -> Mapping[str, Any]:
        """run.yaml of a job, empty before it is written. It is parsed again only after it was written again.

        A worker looks at every job before each item. A file is replaced as a whole, so its inode or time changes.
        """
        file = self.folder(job) / "run.yaml"
        try:
            # Opened, not only looked at: a network file system may answer a look from memory.
            with file.open("rb") as opened:
                stat = os.fstat(opened.fileno())
            version = (stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_size)
            if self._records.get(file, ((),))[0] != version:
                self._records[file] = version, read_record(file)
            return self._records[file][1]
        except (FileNotFoundError, InputError):
            return {}  # not written yet, or replaced at this very moment on a file system that shows it

    def relocate(self, job: Job) -> None:
        """Rewrite the model path of a run that was begun before the study folder was moved, so that it can go on."""
        record = self.record(job)
        config = record.get("config")
        if isinstance(config, dict) and config.get("model") != job.config.model:
            write_yaml(self.folder(job) / "run.yaml", {**record, "config": {**config, "model": job.config.model}})

    def resume_pruned(self, jobs: Sequence[Job]) -> None:
        """Have runs that a search ended early trained to their end: a grid wants them whole."""
        for job in jobs:
            if self.status(job) == "pruned":
                write_yaml(self.folder(job) / "run.yaml", {**self.record(job), "status": "running"})

    # --- failures ---

    def failure_file(self, identity: str) -> Path:
        """Where the reason of a failure stands."""
        return self.path / "failures" / f"{identity}.json"

    def write_failure(self, identity: str, reason: str, *, details: str = "") -> None:
        """Remember why a job or model failed."""
        write_json(self.failure_file(identity), {"reason": " ".join(reason.split()), "details": details})

    def failure(self, identity: str) -> str:
        """Why a job or model failed, in one line; empty when it did not."""
        file = self.failure_file(identity)
        if not file.is_file():
            return ""
        content = read_json(file)
        return str(content.get("reason")) if isinstance(content, dict) else f"{file} is damaged; --retry removes it"

    def forget_failures(self) -> None:
        """Drop every failure, so that those jobs are tried again."""
        for file in (self.path / "failures").glob("*.json"):
            file.unlink()

    # --- results ---

    def posteriors_file(self, job: Job, split: str, state: str) -> Path:
        """The file of a job's posteriors."""
        return self.folder(job) / "posteriors" / f"{split}-{state}.parquet"

    def posteriors(self, job: Job, split: str, state: str) -> Posteriors:
        """Stored posteriors of a job.

        Raises:
            InputError: the file is missing or damaged.
        """
        return read_posteriors(self.posteriors_file(job, split, state))

    def write_posteriors(self, job: Job, split: str, state: str, posteriors: Posteriors) -> None:
        """Store posteriors of a job."""
        write_posteriors(self.posteriors_file(job, split, state), posteriors)

    def keep_held_out(self, job: Job, plan: Plan) -> None:
        """Copy what pre-training found on held-out text beside a base's posteriors: tables do without the model."""
        record = Path(self.model(job, plan)) / "pretrain.yaml"
        held_out = _numbers(record, read_yaml(record).get("held_out") or {}) if record.is_file() else {}
        nats = held_out.get("held_out_nats_per_token", math.inf)
        if nats < 700:  # exp of much more is no number
            held_out = {"held_out_perplexity": round(math.exp(nats), 4), **held_out}
        write_yaml(self.folder(job) / HELD_OUT, held_out)

    def held_out(self, job: Job) -> dict[str, float]:
        """A base's figures on held-out text; empty where none are known."""
        file = self.folder(job) / HELD_OUT
        return _numbers(file, read_yaml(file)) if file.is_file() else {}

    # --- the plan and the index ---

    def write_plan(self, plan: Plan) -> None:
        """Store the plan: from here the folder can be read without the study file."""
        write_json(self.path / "plan.json", plan.model_dump(mode="json"), sealed=True)

    def read_plan(self) -> Plan:
        """Read the stored plan.

        Raises:
            InputError: there is none.
        """
        if not (self.path / "plan.json").is_file():
            raise InputError(f"{self.path} holds no plan.json; expected the output folder of rango study")
        return Plan.build(read_json(self.path / "plan.json"), where=str(self.path / "plan.json"))

    def rebuild_index(self, plan: Plan) -> Mapping[str, Any]:
        """Write index.json from the folders: id -> kind, status, reason, seconds, best step and configuration."""
        index = {}
        for job in plan.jobs:
            record = self.record(job)
            index[job.id] = {
                "kind": job.kind,
                "status": self.status(job),
                "reason": self.failure(job.id) or record.get("reason"),
                "seconds": record.get("seconds"),
                "best_step": record.get("best_step"),
                "config": json.loads(job.config.model_dump_json()),
            }
        write_json(self.path / "index.json", index)
        return index


def _numbers(file: Path, values: Any) -> dict[str, float]:
    """A mapping of a file, all of whose values are numbers; InputError for any other."""
    try:
        return {key: float(value) for key, value in values.items()}
    except (AttributeError, TypeError, ValueError):
        raise InputError(f"{file}: {values!r} are no numbers by name; expected a file that Rango wrote") from None
