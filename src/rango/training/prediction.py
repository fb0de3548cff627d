"""Answers of a run for rows that came later: posteriors, the decision for each row, and what it is expected to cost.

rows ── load_further ──> instances ── score ──> posteriors ── calibrator ──> Predictions ── table ──> rows, more columns

What is wrong with rows or costs is found without a model: torch is loaded where scoring begins.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rango.console import Screen
from rango.decisions import Calibrator, Costs, Gate, Posteriors, StatedCosts, decide
from rango.decisions.risk import Decisions
from rango.errors import InputError
from rango.frames import Backend, add_columns, frame_rows, new_frame
from rango.options import FinetuneConfig
from rango.showing import Grid, Shown
from rango.tasks import Instance, Task, few_shot, load_task
from rango.tasks.registry import load_further
from rango.tasks.sources import Row, file_rows

if TYPE_CHECKING:
    from rango.models.loading import Model


@dataclass(frozen=True, eq=False, repr=False)
class Predictions(Shown):
    """What a run answers for N rows."""

    rows: tuple[Mapping[str, Any], ...]
    """The rows as they were given."""
    instances: tuple[Instance, ...]
    """What was asked for each row."""
    posteriors: Posteriors
    """Of all N rows, without labels."""
    costs: Costs
    """What the decisions are taken under; 0-1 costs where none were given."""
    notes: tuple[str, ...] = ()
    """What was used and what could not be checked, in words."""
    gate: Gate | None = None
    """What says which decisions are acted on; `costs` are then those of the decisions that act."""

    @cached_property
    def acts(self) -> NDArray[np.bool_] | None:
        """(N,) whether each decision is acted on; None without a gate."""
        return None if self.gate is None else self.gate.decide(self.posteriors).acts

    @cached_property
    def decisions(self) -> Decisions:
        """The Bayes decision of each row with its expected cost, and the runner-up."""
        return decide(self.posteriors, costs=self.costs)

    @cached_property
    def labelled(self) -> Posteriors | None:
        """The posteriors of the rows that have a label, to measure on; None where no row has one."""
        rows = [row for row, instance in enumerate(self.instances) if instance.label is not None]
        if not rows:
            return None
        having = [self.instances[row] for row in rows]
        return Posteriors(
            self.posteriors.log_posteriors[rows],
            np.array([instance.answer for instance in having]),
            ids=tuple(instance.id for instance in having),
            groups=tuple(instance.group for instance in having),
            choices=tuple(instance.choices for instance in having),
        )

    def to_frame(self, backend: Backend = "pandas") -> Any:
        """The rows of `table` as a data frame; `backend` is "pandas", "polars" or "pyarrow".

        Raises:
            InputError: as `table`; an unknown backend, or one that is not installed.
        """
        rows = list(self.table())
        names = dict.fromkeys(name for row in rows for name in row)
        return new_frame({name: [row.get(name) for row in rows] for name in names}, backend)

    def _facts(self) -> Iterator[str]:
        yield from self.decisions._facts()

    def _grid(self) -> Grid:
        return self.decisions._grid()

    def table(self) -> Iterator[dict[str, Any]]:
        """Each row with its own columns, one probability for each choice, and the columns of `Decisions.rows`.

        A decision for a choice has the choice's text. A row with fewer choices than others has None behind them.

        Raises:
            InputError: a row has a column that would be added.
        """
        columns = added_columns(self.rows, self.instances, gated=self.gate is not None)
        probabilities = np.exp(self.posteriors.log_posteriors)  # (N, K)
        places = {name: place for place, name in enumerate(self.costs.classes)} if not self.costs.named else {}
        acts = [["yes" if act else "no"] for act in self.acts] if self.acts is not None else [[]] * len(self.rows)
        for row, instance, values, decision, act in zip(
            self.rows, self.instances, probabilities, self.decisions.rows(), acts, strict=True
        ):
            count = len(instance.choices)
            shares = [float(value) if k < count else None for k, value in enumerate(values)]
            # Costs without names call a decision by its place, which means another text in each row.
            words = [decision[key] for key in ("decision", "runner_up")]
            words = [instance.choices[places[word]] if places.get(word, count) < count else word for word in words]
            added = (*shares, words[0], decision["expected_cost"], words[1], decision["runner_up_cost"], *act)
            yield {**row, **dict(zip(columns, added, strict=True))}


@dataclass(frozen=True, eq=False)
class Predictor:
    """What a run needs to answer: its configuration, form, adapter and calibrator. `Run.predictor` makes it."""

    source: Path
    """The run's folder, for messages."""
    config: FinetuneConfig
    """With the form that the run used."""
    adapter: Path | None
    """None for the base model."""
    calibrator: Calibrator | None
    table: Mapping[str, Any] | None
    fingerprint: str
    """Of the base model that the run adapted."""
    costs: StatedCosts | None = None
    """What was stated to the run, for decisions where nothing else is."""

    def predict(
        self,
        task: Task,
        rows: Iterable[Mapping[str, Any]],
        *,
        model: Model,
        costs: Costs | StatedCosts | None = None,
        gate: Gate | None = None,
        screen: Screen | None = None,
    ) -> Predictions:
        """Score rows with the run's model and decide.

        Args:
            task: the rows as a task, from `load_further`.
            rows: the rows themselves, which `Predictions` keeps.
            model: the run's base model.
            costs: matched to the choices by name; the run's when absent, and 0-1 costs where it has none.
            gate: says which decisions are acted on. Decisions are then taken under its costs without passing on, or
                under 0-1 costs where it has none.
            screen: where progress is shown; nowhere by default.

        Raises:
            InputError: another base model than the run's; costs of other classes; a row that cannot be encoded.
        """
        from rango.models.peft_format import load_adapter
        from rango.scoring.probe import probe_reader
        from rango.scoring.scorer import score_split

        if model.fingerprint != self.fingerprint:
            raise InputError(
                f"{model.name} has fingerprint {model.fingerprint}, but {self.source} adapted {self.config.model} with "
                f"{self.fingerprint}; give the model that it was trained on"
            )
        instances = task.test
        # Scoring takes a split with labels or without: here some rows may have them, and none is needed.
        bare = tuple(replace(instance, label=None) for instance in instances)
        if self.config.shots:
            trained_on = few_shot(
                load_task(self.config.task, self.config), shots=self.config.shots, seed=self.config.shots_seed
            )
            task = replace(task, shots=trained_on.shots)
        adapter = load_adapter(model, self.adapter) if self.adapter is not None else None
        try:
            reader = probe_reader(model)
            posteriors = score_split(reader, bare, task=task, options=self.config, screen=screen).posteriors
        finally:
            if adapter is not None:
                adapter.remove()
        if self.calibrator is not None:
            posteriors = self.calibrator.apply(posteriors)
        stated = self.stated(costs, gate)
        if stated is None:
            matrix = Costs.zero_one(posteriors.column_names or posteriors.n_choices)
        else:
            matrix = stated.for_posteriors(posteriors)
        notes = (*model.notes, *(adapter.notes if adapter is not None else ()), *reader.notes)
        return Predictions(tuple(rows), instances, posteriors, matrix, notes, gate)

    def stated(self, costs: Costs | StatedCosts | None, gate: Gate | None = None) -> StatedCosts | None:
        """The costs to decide under: those given, or else the run's; with a gate, the gate's own of what acts.

        Raises:
            InputError: costs beside a gate.
        """
        if gate is None:
            return self.costs if costs is None else StatedCosts.of(costs)
        if costs is not None:
            raise InputError("costs beside a gate (--costs, --gate), which has its own; leave one of them out")
        # The run's costs may name other decisions than those that the gate lets through.
        return None if gate.acting_costs is None else StatedCosts.of(gate.acting_costs)


def predict_rows(
    predictor: Predictor,
    rows: Path | str | Iterable[Mapping[str, Any]],
    *,
    costs: Costs | StatedCosts | None,
    gate: Gate | None = None,
    device: str | None,
    model: Model | None,
) -> Predictions:
    """`Run.predict`: rows of a file or in memory become a task, which is checked before a model is loaded."""
    from rango.models.loading import load_model

    config = predictor.config
    if isinstance(rows, Path | str):
        numbered = list(file_rows(Path(rows)))
    else:
        numbered = [Row(number, f"row {number}", dict(row)) for number, row in enumerate(rows, start=1)]
    task = load_further(config.task, numbered, table=predictor.table, source=predictor.source, prompts=config.prompt)
    values = [row.values for row in numbered]
    # Before the seconds that a model takes.
    added_columns(values, task.test, gated=gate is not None)
    if gate is not None:
        gate.check_choices([instance.choices for instance in task.test])
    if (stated := predictor.stated(costs, gate)) is not None:
        check_costs(stated, task.test)
    if model is None:
        where = device or config.device
        model = load_model(config.model, dtype=config.dtype, device=where, quantise=config.quantise)
    return predictor.predict(task, values, model=model, costs=costs, gate=gate)


def predict_frame(
    predictor: Predictor,
    frame: Any,
    *,
    costs: Costs | StatedCosts | None,
    gate: Gate | None = None,
    device: str | None,
    model: Model | None,
) -> Any:
    """`Run.predict` of a data frame: the same kind of frame, with the columns of `Predictions.table` behind its own."""
    predictions = predict_rows(predictor, frame_rows(frame), costs=costs, gate=gate, device=device, model=model)
    rows = list(predictions.table())
    names = added_columns(predictions.rows, predictions.instances, gated=gate is not None)
    return add_columns(frame, {name: [row[name] for row in rows] for name in names})


def added_columns(
    rows: Iterable[Mapping[str, Any]], instances: Sequence[Instance], *, gated: bool = False
) -> tuple[str, ...]:
    """The columns that `Predictions.table` adds to the rows: one for each choice, then those of the decisions.

    Raises:
        InputError: the rows have one of them already.
    """
    names = max((instance.choices for instance in instances), key=len)
    # Both spellings are read back by `rango metrics`: a class by its name, a choice by its place.
    if all(names[: len(instance.choices)] == instance.choices for instance in instances):
        shares = [f"probability_{name}" for name in names]
    else:
        shares = [f"posterior_{place}" for place in range(len(names))]
    columns = (*shares, "decision", "expected_cost", "runner_up", "runner_up_cost", *(["act"] if gated else []))
    for row in rows:
        for name in columns:
            if name in row:
                raise InputError(f"the rows have a column {name} already; rename it, or leave it out")
    return columns


def check_costs(stated: StatedCosts, instances: Sequence[Instance]) -> None:
    """Raise InputError where costs do not fit the choices of instances: before any of them is scored."""
    stated.for_choices({instance.choices for instance in instances})
