"""A run directory: what is written while training and read by everything after it. Nothing in it needs the model."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Mapping
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rango.decisions import Calibrator, Estimate, Posteriors, read_posteriors, write_posteriors
from rango.errors import InputError
from rango.files import holds_files, read_json, read_text, read_yaml, write_json, write_text, write_yaml
from rango.options import FinetuneConfig

if TYPE_CHECKING:
    from rango.models.adapter import TrainableModel


_VERSIONED = ("rango", "torch", "transformers", "tokenizers", "numpy", "scipy")


class Run:
    """One run directory (its files are listed in docs/files.md); every property is read when asked for."""

    def __init__(self, path: Path | str) -> None:
        """Open a run directory.

        Raises:
            InputError: there is no run.yaml in it.
        """
        self.path = Path(path)
        if not (self.path / "run.yaml").is_file():
            raise InputError(f"{self.path} holds no run.yaml; expected the output folder of rango finetune")

    @cached_property
    def record(self) -> dict[str, Any]:
        """run.yaml: configuration, versions, fingerprints, notes, times."""
        return read_yaml(self.path / "run.yaml")

    @cached_property
    def config(self) -> FinetuneConfig:
        """The resolved configuration, equal to the one the run was started with."""
        return FinetuneConfig.build(self.part("config"), where=str(self.path / "run.yaml"))

    def part(self, key: str) -> dict[str, Any]:
        """A mapping of run.yaml, such as `config`; errors when it is not there."""
        part = self.record.get(key)
        if not isinstance(part, dict):
            raise InputError(f"{self.path / 'run.yaml'} has no {key}; expected a file that rango finetune wrote")
        return part

    @property
    def complete(self) -> bool:
        """Whether the run came to its end."""
        return self.record.get("status") == "complete"

    @property
    def failure(self) -> str | None:
        """Why the run ended without a result; None unless its status is `failed`."""
        return str(self.record.get("reason")) if self.record.get("status") == "failed" else None

    @cached_property
    def log(self) -> list[dict[str, Any]]:
        """log.jsonl: one record per step; empty before the first."""
        return read_log(self.path)

    @cached_property
    def metrics(self) -> dict[str, dict[str, dict[str, Estimate]]]:
        """metrics.json as {split: {state: {metric: Estimate}}}.

        Raises:
            InputError: the run is not complete yet.
        """
        if not (self.path / "metrics.json").is_file():
            raise InputError(f"{self.path} has no metrics.json; the run is not complete, repeat its command to go on")
        return {
            split: {
                state: {name: Estimate.from_dict(values) for name, values in metrics.items()}
                for state, metrics in states.items()
            }
            for split, states in read_json(self.path / "metrics.json").items()
        }

    def posteriors(self, state: str, split: str = "test") -> Posteriors:
        """Stored posteriors of a model state (base, adapted, ...) on a split.

        Raises:
            InputError: there are none; names those that there are.
        """
        path = self.path / "posteriors" / f"{split}-{state}.parquet"
        if not path.is_file():
            there = sorted(file.stem for file in path.parent.glob("*.parquet"))
            raise InputError(f"{self.path} has no posteriors {split}-{state}; there are: {', '.join(there) or 'none'}")
        return read_posteriors(path)


def read_log(path: Path) -> list[dict[str, Any]]:
    """The whole records of log.jsonl; a last line cut off by a crash is left out."""
    file = path / "log.jsonl"
    if not file.is_file() or not file.stat().st_size:
        return []
    records = []
    for line in read_text(file).splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


class RunWriter:
    """Writes a run directory, each file whole or not at all."""

    def __init__(self, path: Path, record: dict[str, Any], *, writes: bool = True) -> None:
        self.path = path
        self.record = record
        self.writes = writes
        """Of several processes only one does; for the others every method does nothing."""

    def begin(self, **changes: Any) -> None:
        """Write run.yaml with status `running`; on a resumed run, keep the times that are there."""
        self.record.pop("reason", None)
        self.write_record(status="running", **changes)

    def write_record(self, **changes: Any) -> None:
        """Change keys of run.yaml."""
        self.record.update(changes)
        if self.writes:
            write_yaml(self.path / "run.yaml", self.record)

    def write_posteriors(self, state: str, split: str, posteriors: Posteriors) -> None:
        """Store posteriors/SPLIT-STATE.parquet."""
        if self.writes:
            write_posteriors(self.path / "posteriors" / f"{split}-{state}.parquet", posteriors)

    def has_posteriors(self, state: str, split: str) -> bool:
        """Whether posteriors/SPLIT-STATE.parquet is there."""
        return (self.path / "posteriors" / f"{split}-{state}.parquet").is_file()

    def write_letter_mass(self, state: str, share: float) -> None:
        """Note the mean share of probability that a state puts on the letters."""
        self.write_record(letter_mass={**self.record.get("letter_mass", {}), state: share})

    def write_metrics(self, metrics: Mapping[str, Mapping[str, Mapping[str, Estimate]]]) -> None:
        """Store metrics.json."""
        if self.writes:
            write_json(self.path / "metrics.json", as_json(metrics))

    def write_adapter(self, adapter: TrainableModel, which: str) -> None:
        """Store adapter/best or adapter/last."""
        if self.writes:
            adapter.save(self.path / "adapter" / which)

    def write_calibrator(self, calibrator: Calibrator) -> None:
        """Store calibrator.json."""
        if self.writes:
            calibrator.write(self.path / "calibrator.json")

    def append_log(self, record: Mapping[str, Any]) -> None:
        """Add one line to log.jsonl; one write call, so that a crash can only cut the last line."""
        if not self.writes:
            return
        with (self.path / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def rewind_log(self, step: int) -> None:
        """Drop what was logged after `step`: a resumed run does those steps again."""
        if not self.writes:
            return
        kept = [record for record in read_log(self.path) if record["step"] <= step]
        write_text(self.path / "log.jsonl", "".join(json.dumps(record) + "\n" for record in kept))

    def finish(self, **changes: Any) -> None:
        """Write run.yaml with status `complete` and remove what only a resume needed."""
        self.write_record(status="complete", **changes)
        self._remove_state()

    def fail(self, reason: str) -> None:
        """Write run.yaml with status `failed` and the reason; asked for again, the run begins anew."""
        self.write_record(status="failed", reason=reason)
        self._remove_state()

    def prune(self, step: int, **changes: Any) -> None:
        """Write run.yaml with status `pruned` and the step; asked for again, the run begins anew."""
        self.write_record(status="pruned", reason=f"pruned at step {step}", steps=step, **changes)
        self._remove_state()

    def _remove_state(self) -> None:
        if self.writes:
            shutil.rmtree(self.path / "state", ignore_errors=True)


def as_json(metrics: Mapping[str, Mapping[str, Mapping[str, Estimate]]]) -> dict[str, Any]:
    """Nested estimates as plain dictionaries."""
    return {
        split: {
            state: {name: estimate.as_dict() for name, estimate in found.items()} for state, found in states.items()
        }
        for split, states in metrics.items()
    }


def versions() -> dict[str, str]:
    """Versions of what decides a result."""
    return {"python": platform.python_version(), **{name: version(name) for name in _VERSIONED}}


def open_output(path: Path, config: FinetuneConfig, fingerprints: Mapping[str, str]) -> Run | None:
    """Whether `path` may become (None) or already is (the run) the output of this configuration.

    Raises:
        InputError: it holds something else, a run of another configuration, or of another model or data.
    """
    if path.exists() and not path.is_dir():
        raise InputError(f"--out {path} is a file; give a folder that does not exist yet")
    if not holds_files(path):
        return None
    if not (path / "run.yaml").is_file():
        raise InputError(f"--out {path} already holds other files; give a folder that does not exist yet")
    run = Run(path)
    _check_configuration(path, run.part("config"), config.model_dump(mode="json"))
    _check_configuration(path, run.part("fingerprints"), dict(fingerprints))
    return run


def _check_configuration(path: Path, there: Mapping[str, Any], asked: Mapping[str, Any], prefix: str = "") -> None:
    for key in {**there, **asked}:
        old, new = there.get(key), asked.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            _check_configuration(path, old, new, prefix=f"{prefix}{key}.")
        elif old != new:
            raise InputError(
                f"--out {path} already holds another run: its {prefix}{key} is {old!r}, asked is {new!r}; "
                "give another folder, or the same configuration to go on"
            )
