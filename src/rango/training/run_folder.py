"""A run directory as `Run` reads it: configuration, log, metrics and posteriors. Nothing in this file needs a model.

Its files are listed in docs/files.md; `run_writer` writes them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

from rango.checksums import check_digest
from rango.decisions import METRICS, Calibrator, Estimate, Gate, Posteriors, StatedCosts, read_posteriors
from rango.errors import InputError, LaterVersionError, unknown_name
from rango.files import (
    parse_json,
    read_json,
    read_text,
    read_yaml,
)
from rango.frames import is_frame
from rango.options import FinetuneConfig
from rango.rows import read_rows
from rango.showing import Grid, Shown, short

if TYPE_CHECKING:
    from narwhals.typing import IntoDataFrameT

    from rango.decisions import Costs
    from rango.models.loading import Model
    from rango.training.prediction import Predictions, Predictor

T = TypeVar("T")

# Sums in another order, and a temperature that was found by another number of steps.
_TOLERANCE = 1e-6
RECORD = "evaluation.yaml"  # what an evaluation has in place of run.yaml


class Run(Shown):
    """One run directory. Every property reads its file when it is first used, and raises InputError if it cannot."""

    def __init__(self, path: Path | str) -> None:
        """Open a run directory, or the output of `rango evaluate`, which has metrics and posteriors but no run.yaml.

        Raises:
            InputError: `path` is not a folder, is a study, or holds neither run.yaml nor metrics.json.
        """
        self.path = Path(path)
        if not self.path.is_dir():
            raise InputError(f"{path} is not a folder; give the folder of a run or of a study")
        if (self.path / "plan.json").is_file():
            raise InputError(f"{path} is a study; give one of its runs, a folder in {self.path / 'runs'}")
        if not any((self.path / name).is_file() for name in ("run.yaml", "metrics.json")):
            raise InputError(f"{path} holds neither run.yaml nor metrics.json; give the folder of a run or of a study")

    @property
    def record_file(self) -> Path:
        """run.yaml, or the evaluation.yaml of an evaluation."""
        return self.path / ("run.yaml" if (self.path / "run.yaml").is_file() else RECORD)

    @property
    def split(self) -> str:
        """The split that its page is about: test of a run, the one that was scored of an evaluation."""
        is_evaluation = self.record_file.name == RECORD and self.record_file.is_file()
        return _split_of(read_yaml(self.record_file)) if is_evaluation else "test"

    def _facts(self) -> Iterator[str]:
        yield repr(str(self.path))
        if not (self.path / "run.yaml").is_file():
            yield "an evaluation"
            return
        # A mapping that a person edited may lack anything: what is not there is not shown.
        config = self.record.get("config") or {}
        yield str(self.record.get("status", "unfinished"))
        yield f"{config.get('model', '?')} on {config.get('task', '?')}"
        if isinstance(seconds := self.record.get("seconds"), int | float):
            yield f"{seconds:.0f} s"

    def _grid(self) -> Grid | None:
        """What was measured of each state on the first split that has metrics."""
        states = next(iter(self.metrics.values()), {})
        names = ("nce", "error_rate", "normalised_expected_cost")
        kept = [name for name in names if any(name in estimates for estimates in states.values())]
        rows = []
        for state, estimates in states.items():
            cells = (estimates.get(name) for name in kept)
            rows.append([state, *("–" if cell is None else f"{short(cell.value)} {cell.span}" for cell in cells)])
        titles = [f"{METRICS[name].title} {METRICS[name].arrow}" for name in kept]
        return Grid(["", *titles], rows) if rows else None

    @cached_property
    def record(self) -> dict[str, Any]:
        """run.yaml: configuration, versions, fingerprints, notes, times."""
        if not (self.path / "run.yaml").is_file():
            raise InputError(f"{self.path} holds no run.yaml; expected the output folder of rango finetune")
        return read_record(self.path / "run.yaml")

    def part(self, key: str) -> dict[str, Any]:
        """A mapping of run.yaml, such as `config`; InputError if there is none."""
        part = self.record.get(key)
        if not isinstance(part, dict):
            raise InputError(f"{self.path / 'run.yaml'} has no {key}; expected a file that rango finetune wrote")
        return part

    @cached_property
    def config(self) -> FinetuneConfig:
        """The resolved configuration, equal to the one that the run was started with."""
        return FinetuneConfig.build(self.part("config"), where=str(self.path / "run.yaml"))

    @property
    def complete(self) -> bool:
        """Whether the run came to its end."""
        return self.record.get("status") == "complete"

    @cached_property
    def stated_costs(self) -> StatedCosts | None:
        """What mistakes cost, as it was stated to `rango finetune`, `rango evaluate` or `rango report`; None if not."""
        stated = read_yaml(self.record_file).get("costs") if self.record_file.is_file() else None
        return None if stated is None else StatedCosts.build(stated, where=f"{self.record_file}: costs")

    @cached_property
    def costs(self) -> Costs | None:
        """The stated costs with a row for each column of the stored posteriors; None where none were stated.

        Raises:
            InputError: there are no posteriors yet, or costs that do not fit them.
        """
        if self.stated_costs is None:
            return None
        file = next(iter(sorted((self.path / "posteriors").glob("*.parquet"))), None)
        if file is None:
            raise InputError(f"{self.path} has no posteriors yet, whose choices the costs are for; repeat its command")
        return self.stated_costs.for_posteriors(read_posteriors(file, need_labels=False))

    @property
    def failure(self) -> str | None:
        """Why the run ended without a result; None unless its status is `failed`."""
        return str(self.record.get("reason")) if self.record.get("status") == "failed" else None

    @cached_property
    def log(self) -> list[dict[str, Any]]:
        """log.jsonl: one record for each step; empty before the first."""
        return read_log(self.path)

    @cached_property
    def metrics(self) -> dict[str, dict[str, dict[str, Estimate]]]:
        """metrics.json as {split: {state: {metric: Estimate}}}.

        Raises:
            InputError: the run is not complete yet, or the file has another shape.
        """
        if not (self.path / "metrics.json").is_file():
            raise InputError(f"{self.path} has no metrics.json; the run is not complete, repeat its command to go on")
        stored = read_metrics(self.path / "metrics.json")
        try:
            return {
                split: {
                    state: {name: Estimate.from_dict(values) for name, values in metrics.items()}
                    for state, metrics in states.items()
                }
                for split, states in stored.items()
            }
        except (LookupError, TypeError) as error:  # a key that is missing, or that no estimate has
            reason = f"an estimate cannot be read ({error})"
            raise InputError(f"{self.path / 'metrics.json'}: {reason}; expected a file that Rango wrote") from None

    def posteriors(self, state: str, split: str = "test") -> Posteriors:
        """Stored posteriors of a model state (base, adapted, ...) on a split.

        Raises:
            InputError: there are none; the message names those that are stored.
        """
        file = posteriors_file(self.path, state, split)
        if not file.is_file():
            stored = sorted(other.stem for other in file.parent.glob("*.parquet"))
            raise InputError(f"{self.path} has no posteriors {split}-{state}; there are: {', '.join(stored) or 'none'}")
        # The posteriors of another run are whole too, and would be taken for this one's.
        check_listed(self.path, file.relative_to(self.path).as_posix())
        # An evaluation of instances without labels has posteriors to decide on; what needs labels asks for them.
        return read_posteriors(file, need_labels=False)

    def predictor(self, state: str | None = None, *, orders: int = 1) -> Predictor:
        """What answers for further rows: the adapted model with its calibrator, unless `state` says otherwise.

        Args:
            state: `calibrated`, `adapted` or `base`; when absent, calibrated where the run has a calibrator.
            orders: over how many orders of the options posteriors are averaged. The calibrator was fitted for one order
                and is not applied to a mean of several.

        Raises:
            InputError: the run is not complete, an unknown state, or a state that the run lacks; several orders in the
                cloze form, or of the state calibrated.
        """
        from rango.tasks.perturbations import check_orders
        from rango.training.prediction import Predictor

        if not self.complete:
            raise InputError(f"{self.path} is not complete; repeat its command to go on")
        calibrator, states = self.path / "calibrator.json", ("calibrated", "adapted", "base")
        if not 1 <= orders <= 1000:
            raise InputError(f"orders is {orders}; expected 1 to 1000")
        if orders > 1 and state == "calibrated":
            raise InputError(
                f"orders is {orders}, but the calibrator of {self.path} was fitted for one order of the options; give "
                "the state adapted, or leave orders out"
            )
        state = state or ("calibrated" if calibrator.is_file() and orders == 1 else "adapted")
        if state not in states:
            raise unknown_name("state", state, states)
        if state == "calibrated" and not calibrator.is_file():
            raise InputError(f"{self.path} has no calibrator.json; give the state adapted")
        form = self.record.get("form") or self.config.form
        check_orders(orders, form or "letter")
        return Predictor(
            source=self.path / "run.yaml",
            config=FinetuneConfig.build({**self.part("config"), "form": form}, where=str(self.path / "run.yaml")),
            adapter=None if state == "base" else self.path,
            calibrator=Calibrator.read(calibrator) if state == "calibrated" else None,
            table=self.record.get("table"),
            fingerprint=str(self.part("fingerprints").get("model")),
            costs=self.stated_costs,
            orders=orders,
        )

    @overload
    def predict(
        self,
        rows: IntoDataFrameT,
        *,
        costs: Costs | StatedCosts | None = ...,
        gate: Gate | None = ...,
        state: str | None = ...,
        orders: int = ...,
        device: str | None = ...,
        model: Model | None = ...,
    ) -> IntoDataFrameT: ...

    @overload
    def predict(
        self,
        rows: Path | str | Iterable[Mapping[str, Any]],
        *,
        costs: Costs | StatedCosts | None = ...,
        gate: Gate | None = ...,
        state: str | None = ...,
        orders: int = ...,
        device: str | None = ...,
        model: Model | None = ...,
    ) -> Predictions: ...

    def predict(
        self,
        rows: Any,
        *,
        costs: Costs | StatedCosts | None = None,
        gate: Gate | None = None,
        state: str | None = None,
        orders: int = 1,
        device: str | None = None,
        model: Model | None = None,
    ) -> Any:
        """Answers for rows that came later; their labels may be missing.

        A data frame of pandas, Polars or Arrow gives the same kind of frame, its columns and index kept, with the
        columns of `Predictions.table` behind them; everything else gives `Predictions`.

        Args:
            rows: with the columns of the task's own rows: a data frame, a file (JSONL, CSV, TSV, Parquet), or mappings.
            costs: what mistakes cost, matched to the choices by name; the run's when absent, or else 0-1 costs.
            gate: says which decisions are acted on, in a column `act`; it has its own costs, so give no others.
            state: as in `predictor`.
            orders: as in `predictor`.
            device: where to compute; as the run did when absent.
            model: the base model where it is loaded already; loaded as the run had it when absent.

        Raises:
            InputError: as `predictor` and `load_further`; a column that would be added stands in the rows.
        """
        from rango.training.prediction import predict_frame, predict_rows

        answer = predict_frame if is_frame(rows) else predict_rows
        return answer(self.predictor(state, orders=orders), rows, costs=costs, gate=gate, device=device, model=model)

    def contents(self, states: Sequence[str]) -> RunContents:
        """What a report shows, with posteriors of `states` on test, or on the split of an evaluation.

        A file that cannot be read is noted, not raised.
        """
        evaluation = self.record_file.name == RECORD and self.record_file.is_file()
        missing: dict[str, str] = {}

        def read(name: str, reader: Callable[[Path], T]) -> T | None:
            if not (self.path / name).exists():
                missing[name] = f"{name} is not in the run directory"
                return None
            try:
                return reader(self.path / name)
            except InputError as error:
                # A report names files relative to the run: it may travel to where the full path means nothing.
                missing[name] = str(error).replace(f"{self.path}/", "")
                return None

        # Read everything now, whether the report needs it or not: its notes name all that is missing.
        record = read(RECORD if evaluation else "run.yaml", read_yaml) or {}
        split = _split_of(record) if evaluation else "test"
        # Where a line is broken, the first pass notes which one and the second keeps the records before it.
        log: list[dict[str, Any]] | None = None
        if not evaluation:
            log = read("log.jsonl", lambda file: [_check_log_record(file, *numbered) for numbered in read_rows(file)])
            log = log or read("log.jsonl", lambda file: read_log(file.parent))
        metrics = read("metrics.json", read_metrics) or {}
        posteriors = {}
        for state in states:
            name = f"posteriors/{split}-{state}.parquet"
            stored = read(name, lambda _, state=state: self.posteriors(state, split))  # type: ignore[misc]
            if stored is not None and not stored.has_labels:
                missing[name] = f"{name} holds no labels, so that nothing can be measured"
            elif stored is not None:
                posteriors[state] = stored
        costs = read(self.record_file.name, lambda _: self.costs)
        # No table may show other numbers than those of the posteriors that stand beside it.
        for state, stored in posteriors.items():
            estimates = metrics.get(split, {}).get(state, {})
            # Where the record cannot be read, nobody knows under which costs its metrics were measured.
            known = [name for name in estimates if name in METRICS and (record or not METRICS[name].needs_costs)]
            values = {name: estimates[name].get("value") for name in known}
            try:
                fault = next(filter(None, compared_metrics(values, stored, costs)), "")
            except InputError as error:
                fault = str(error)
            if fault:
                missing["metrics.json"], metrics = f"metrics.json: {split}.{state}.{fault}", {}
                break
        return RunContents(record, tuple(log or ()), metrics, posteriors, missing, costs, split, evaluation)


def compared_metrics(values: Mapping[str, float | None], posteriors: Posteriors, costs: Costs | None) -> Iterator[str]:
    """For each stored value of a metric "" where the posteriors give it too, and otherwise what is wrong."""
    for name, value in values.items():
        if name not in METRICS:
            continue
        again = posteriors.metric(name, costs=costs if METRICS[name].needs_costs else None)
        stored = math.nan if value is None else value
        same = math.isclose(stored, again, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
        if same or (math.isnan(stored) and math.isnan(again)):
            yield ""
        else:
            yield (
                f"{name} is {stored:.6g}, and the posteriors give {again:.6g}; repeat the command that wrote it into "
                "another folder"
            )


def _split_of(record: Mapping[str, Any]) -> str:
    config = record.get("config")
    return str(config.get("split", "test")) if isinstance(config, Mapping) else "test"


def parse_state(text: str) -> tuple[Run, str | None]:
    """The run, and the state if one is named, of `RUN` or `RUN:STATE`; a folder whose name has a colon wins."""
    folder, colon, state = text.rpartition(":")
    if colon and not Path(text).exists():
        return Run(folder), state
    return Run(text), None


def read_record(path: Path) -> dict[str, Any]:
    """A run.yaml, with the kinds of value that its readers count on.

    Raises:
        InputError: it cannot be read, or a value is of another kind; the message names the key.
    """
    record = read_yaml(path)
    for key, (kind, expected) in _RECORD_KINDS.items():
        value = record.get(key)
        infinite = isinstance(value, float) and not math.isfinite(value)
        if value is not None and (not isinstance(value, kind) or isinstance(value, bool) or infinite):
            raise InputError(f"{path}: {key} is {value!r}; expected {expected}, as rango finetune writes it")
    return record


_MAPPING, _NUMBER, _COUNT = (dict, "keys and values"), ((int, float), "a number"), (int, "a whole number")
_RECORD_KINDS: Mapping[str, tuple[Any, str]] = {
    **dict.fromkeys(("config", "costs", "digests", "fingerprints", "letter_mass", "model", "table"), _MAPPING),
    **dict.fromkeys(("seconds", "trainable_parameters"), _NUMBER),
    **dict.fromkeys(("best_step", "steps"), _COUNT),
    "status": (str, "a word"),
    "notes": (list, "a list"),
}


@dataclass(frozen=True, eq=False)
class RunContents:
    """What `Run.contents` could read of a run directory; a part is empty where its file is missing or broken."""

    record: dict[str, Any]
    log: tuple[dict[str, Any], ...]
    metrics: dict[str, Any]
    """metrics.json as it is stored."""
    posteriors: dict[str, Posteriors]
    """State → its posteriors."""
    missing: dict[str, str]
    """File, relative to the run directory → why it could not be read."""
    costs: Costs | None = None
    """What mistakes cost, as `Run.costs`."""
    split: str = "test"
    """Whose posteriors these are."""
    evaluation: bool = False
    """Whether it is the folder of an evaluation, where nothing was trained."""


def check_listed(folder: Path, name: str) -> None:
    """Raise InputError where a file of a finished run or evaluation is not the one that its record lists."""
    for record in (folder / "run.yaml", folder / RECORD):
        listed = None
        # A record that cannot be read is told of by whoever needs it.
        try:
            listed = read_yaml(record).get("digests") if record.is_file() else None
        except LaterVersionError:
            raise  # then nothing in this folder is known to mean what it meant
        except InputError:
            pass
        if isinstance(listed, Mapping):
            check_digest(folder / name, listed, name=name, record=record)


def posteriors_file(path: Path, state: str, split: str) -> Path:
    """Where a run directory stores the posteriors of a state on a split."""
    return path / "posteriors" / f"{split}-{state}.parquet"


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of a run directory's log.jsonl; a crash may have cut off the last line, which is left out.

    Raises:
        InputError: the run is complete, and its record says that the file was another.
    """
    file = path / "log.jsonl"
    check_listed(path, file.name)
    if not file.is_file() or not file.stat().st_size:
        return []
    records = []
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        try:
            records.append(_check_log_record(file, number, parse_json(line, str(file), line=number)))
        except InputError:
            break  # each line is written with one call, so only the last can be cut
    return records


def _check_log_record(file: Path, line: int, record: Any) -> dict[str, Any]:
    """A record of a log that has its step, and numbers on validation; InputError for any other."""
    validation = record.get("validation") or {} if isinstance(record, dict) else None
    numbers = validation.values() if isinstance(validation, dict) else (None,)
    if not isinstance(record, dict) or not all(map(_is_number, numbers)):
        raise InputError(f"{file}:{line}: is no record of a step; expected a line that rango finetune wrote")
    step = record.get("step")
    if not isinstance(step, int) or not 0 <= step < 2**53:
        raise InputError(f"{file}:{line}: step is {step!r}; expected a whole number from 0")
    return record


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def read_metrics(path: Path) -> dict[str, Any]:
    """A metrics.json, checked down to its numbers so that no reader of it has to.

    Raises:
        InputError: a level is not a mapping, or a value is not a number; the message names the place. Or the record
            beside the file says that it was another.
    """
    check_listed(path.parent, path.name)
    metrics = read_json(path)
    if not isinstance(metrics, dict):
        raise InputError(f"{path} holds a {type(metrics).__name__}; expected a JSON object")
    # Each pass goes one level down: `level` maps dotted places such as test.base.nce to what stands there.
    level = {str(split): states for split, states in metrics.items()}
    for below in ("states", "metrics", "numbers"):
        for place, inner in level.items():
            if not isinstance(inner, dict):
                raise InputError(f"{path}: {place} is a {type(inner).__name__}; expected an object of {below}")
        level = {f"{place}.{key}": value for place, inner in level.items() for key, value in inner.items()}
    for place, value in level.items():
        name = place.rpartition(".")[2]
        if name in ("value", "low", "high") and value is not None and not _is_number(value):
            raise InputError(f"{path}: {place} is {value!r}; expected a number")
        if name == "n" and not (isinstance(value, int) and value >= 0):
            raise InputError(f"{path}: {place} is {value!r}; expected a whole number")
        if name in ("direction", "note") and not isinstance(value, str | None):
            raise InputError(f"{path}: {place} is {value!r}; expected a text")
    return metrics
