"""Writing a run directory while a model trains, and whether a folder may become one. No model is needed here.

open_output   the run of the same configuration that a folder holds, None where it is free; all else is refused
RunWriter     each file whole or not at all; run.yaml says how far the run came
"""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rango import __version__
from rango.checksums import digests
from rango.decisions import METRICS, Calibrator, Estimate, Posteriors, write_posteriors
from rango.errors import InputError
from rango.files import holds_files, naming_file, write_json, write_text, write_yaml
from rango.options import FinetuneConfig, Split
from rango.output_folder import check_links
from rango.tasks.kept_texts import write_kept_texts
from rango.tasks.task import named
from rango.training.run_folder import RECORD, Run, posteriors_file, read_log

if TYPE_CHECKING:
    from rango.models.adapter import TrainableModel
    from rango.tasks import Task


@dataclass
class RunWriter:
    """Writes a run directory, each file whole or not at all. Nothing is on disk before `begin`."""

    path: Path
    record: dict[str, Any]
    """The content of run.yaml."""
    writes: bool = True
    """False in all but one of several processes: every method then changes `record` at most."""

    def begin(self, **changes: Any) -> None:
        """Write run.yaml with status `running`; a resumed run keeps the times that it has."""
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
            write_posteriors(posteriors_file(self.path, state, split), posteriors)

    def write_letter_mass(self, state: str, share: float) -> None:
        """Record the mean share of probability that a state puts on the letters."""
        self.write_record(letter_mass={**self.record.get("letter_mass", {}), state: share})

    def write_note(self, note: str) -> None:
        """Add a sentence to the notes of run.yaml; a resumed run may have it already."""
        notes = self.record.get("notes", [])
        self.write_record(notes=notes if note in notes else [*notes, note])

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
        log = self.path / "log.jsonl"
        with naming_file(log), log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def rewind_log(self, step: int) -> None:
        """Drop what was logged after `step`: a resumed run does those steps again."""
        if not self.writes:
            return
        kept = [record for record in read_log(self.path) if record["step"] <= step]
        write_text(self.path / "log.jsonl", "".join(json.dumps(record) + "\n" for record in kept))

    def finish(self, **changes: Any) -> None:
        """Write run.yaml with status `complete` and the digests of all files; remove what only a resume needed."""
        listed = {"digests": digests(self.path, result_files(self.path))} if self.writes else {}
        self._end(status="complete", **changes, **listed)

    @contextmanager
    def amending(self) -> Iterator[None]:
        """Let files of a complete run be written once more: until the block ends, its record lists no digests."""
        self.write_record(digests={})
        yield
        self.write_record(digests=digests(self.path, result_files(self.path)))

    def fail(self, reason: str) -> None:
        """Write run.yaml with status `failed` and the reason; repeating the command begins the run anew."""
        self._end(status="failed", reason=reason)

    def prune(self, step: int, **changes: Any) -> None:
        """Write run.yaml with status `pruned` and the step; repeating the command begins the run anew."""
        self._end(status="pruned", reason=f"pruned at step {step}", steps=step, **changes)

    def _end(self, **changes: Any) -> None:
        # The record comes first: after a crash between the two the state stays, until the command is repeated.
        self.write_record(**changes)
        if self.writes:
            remove_state(self.path)


def remove_state(folder: Path) -> None:
    """Remove from a run that has ended what only a resume needed."""
    state = folder / "state"
    try:
        shutil.rmtree(state)
    except FileNotFoundError:  # it was never written, or another process is removing it
        return
    except OSError as error:
        # The error names a file without its folder.
        raise OSError(error.errno, error.strerror, str(state)) from error


def result_files(folder: Path) -> list[str]:
    """The files of a run or an evaluation that hold results: not its record, nor pages, figures and what is hidden."""
    kept = ("adapter", "instances", "posteriors")
    files = [file for name in kept for file in sorted((folder / name).rglob("*")) if file.is_file()]
    names = [file.relative_to(folder).as_posix() for file in files if not file.name.startswith(".")]
    return [name for name in ("log.jsonl", "metrics.json", "calibrator.json") if (folder / name).is_file()] + names


def as_json(metrics: Mapping[str, Mapping[str, Mapping[str, Estimate]]]) -> dict[str, Any]:
    """{split: {state: {metric: Estimate}}} as the plain dictionaries of a metrics.json."""
    return {
        split: {
            state: {name: estimate.as_dict() for name, estimate in estimates.items()}
            for state, estimates in states.items()
        }
        for split, states in metrics.items()
    }


def write_evaluated(
    out: Path,
    record: Mapping[str, Any],
    states: Mapping[str, Posteriors],
    metrics: Mapping[str, Mapping[str, Estimate]],
    *,
    task: Task,
    split: Split,
) -> None:
    """Write the files of an evaluation: its record, the posteriors of each state on a split, and their metrics.

    The record comes first: a repeated command knows by it that the files of a killed one are its own. Metrics of an
    earlier evaluation must not stand beside these posteriors.
    """
    write_yaml(out / RECORD, dict(record))
    (out / "metrics.json").unlink(missing_ok=True)
    for state, posteriors in states.items():
        write_posteriors(posteriors_file(out, state, split), posteriors)
    write_kept_texts(out, task, split)
    write_json(out / "metrics.json", as_json({split: metrics}))
    listed = digests(out, result_files(out))
    write_yaml(out / RECORD, {**record, "status": "complete", "digests": listed})


def versions() -> dict[str, str]:
    """Versions of the programs that decide a result."""
    packages = ("torch", "transformers", "tokenizers", "numpy", "scipy")
    return {"python": platform.python_version(), "rango": __version__, **{name: version(name) for name in packages}}


def open_output(path: Path, config: FinetuneConfig, fingerprints: Mapping[str, str]) -> Run | None:
    """The run of this configuration that `path` holds already; None where a new one may be written.

    Raises:
        InputError: `path` holds something else, a run of another configuration, model or data, or links out of it.
    """
    if path.exists() and not path.is_dir():
        raise InputError(f"--out {path} is a file; give a folder that does not exist yet")
    check_links(path)
    if not holds_files(path):
        return None
    if not (path / "run.yaml").is_file():
        raise InputError(f"--out {path} already holds other files; give a folder that does not exist yet")
    # The configuration comes first: a key that differs tells a person more than a fingerprint.
    run = Run(path)
    _check_equal(path, run.part("config"), config.model_dump(mode="json"))
    _check_equal(path, run.part("fingerprints"), dict(fingerprints))
    return run


def check_output(path: Path, config: FinetuneConfig, task: Task) -> Run | None:
    """As `open_output`, before the model is loaded: a run of another model is not noticed yet."""
    stored = Run(path).part("fingerprints") if (path / "run.yaml").is_file() else {}
    return open_output(path, config, {**stored, "task": task.fingerprint})


def check_task(config: FinetuneConfig, task: Task) -> None:
    """Raise InputError where objective, rule or selection cannot take what is right about instances."""
    if config.objective != "choice" and (config.rule != "logarithmic" or config.label_smoothing):
        given = f"label_smoothing is {config.label_smoothing:g}" if config.label_smoothing else f"rule is {config.rule}"
        raise InputError(
            f"{given} and objective is {config.objective}, which would ignore it; take the objective choice, or leave "
            "it out"
        )
    for instance in task.validation:
        if METRICS[config.select].needs_order and instance.type != "score":
            raise InputError(
                f"select is {config.select}, which is for ordered levels, but {named(instance)} is of the type "
                f"{instance.type}; select nce, or give the table `type: score`"
            )
    for instance in task.train:
        if config.objective != "choice" and instance.target is not None:
            raise InputError(
                f"objective is {config.objective}, which reads one right answer, but {named(instance)} has soft "
                "labels; take the objective choice"
            )
        if config.objective == "choice" and config.rule == "ranked" and instance.type != "score":
            raise InputError(
                f"rule is ranked, which is for ordered levels, but {named(instance)} is of the type {instance.type}; "
                "give the table `type: score`, or take the rule brier"
            )
    _check_selection(config, task)


def _check_selection(config: FinetuneConfig, task: Task) -> None:
    """Raise InputError where no checkpoint has an NCE, calibrated or not, to select by.

    NCE divides by the entropy of the priors, which is 0 where all right answers have one label.
    """
    # The regime `all` never selects. Soft labels are of no single class.
    labels = {instance.label for instance in task.validation if instance.target is None}
    if len(labels) == 1 and any(instance.target is not None for instance in task.validation):
        return
    if config.regime != "all" and config.select in ("nce", "calibrated_nce") and len(labels) == 1:
        count = len(task.validation)
        who = f"all {count:,} validation instances have" if count > 1 else "the one validation instance has"
        raise InputError(
            f"select is {config.select}, but {who} label {labels.pop()}, so that NCE is undefined; give more "
            "validation instances, or select cross_entropy"
        )


def is_newer(model: str, run: Run) -> bool:
    """Whether a file of a model on this machine was written after the run ended; a model of the Hub never is."""
    path = Path(model)
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path] * path.is_file()
    ended = (run.path / "run.yaml").stat().st_mtime
    return any(file.stat().st_mtime > ended for file in files)


def _check_equal(path: Path, stored: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> None:
    """Raise InputError naming the first dotted key in which a stored run differs from the wanted one."""
    for key in {**stored, **wanted}:
        old, new = stored.get(key), wanted.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            _check_equal(path, old, new, prefix=f"{prefix}{key}.")
        elif old != new:
            raise InputError(
                f"--out {path} already holds another run: its {prefix}{key} is {old!r}, asked is {new!r}; "
                "give another folder, or the same configuration to go on"
            )
