"""Answers of a run for rows that came later: posteriors, the decision for each row, and what it is expected to cost.

rows ── load_further ──> instances ── score ──> posteriors ── calibrator ──> Predictions ── table ──> rows, more columns

What is wrong with rows or costs is found without a model: torch is loaded where scoring begins.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

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
from rango.tasks.task import named, truth_of

if TYPE_CHECKING:
    from rango.models.loading import Model


@dataclass(eq=False)
class Offered:
    """The choices of rows that are seen one after another, in the same memory however many rows there are."""

    longest: tuple[str, ...] = ()
    """The first of those that no row has more of."""
    shorter: tuple[str, ...] | None = None
    """Of a row that has the longest's first ones only."""
    other: tuple[str, ...] | None = None
    """Of a row that has others, so that columns are no classes."""

    @classmethod
    def of(cls, instances: Iterable[Instance]) -> Offered:
        """The choices of all these instances."""
        offered = cls()
        for instance in instances:
            offered.add(instance.choices)
        return offered

    def add(self, choices: tuple[str, ...]) -> None:
        """See the choices of one more row."""
        if choices == self.longest:
            return
        if len(choices) > len(self.longest):
            choices, self.longest = self.longest, choices
        if self.longest[: len(choices)] != choices:
            self.other = choices
        elif choices:
            self.shorter = choices

    @property
    def names(self) -> tuple[str, ...] | None:
        """The class that each column is; None where rows have choices of their own. As `Posteriors.column_names`."""
        return self.longest if self.other is None and len(set(self.longest)) == len(self.longest) else None

    @property
    def examples(self) -> list[tuple[str, ...]]:
        """What stands for the choices of all rows in a check: one of each kind."""
        return [choices for choices in (self.longest, self.shorter, self.other) if choices is not None]

    def added_columns(self, rows: Iterable[Mapping[str, Any]], *, gated: bool = False) -> tuple[str, ...]:
        """The columns that `Predictions.table` adds to rows: one for each choice, then those of the decisions.

        Raises:
            InputError: the rows have one of them already.
        """
        # Both spellings are read back by `rango metrics`: a class by its name, a choice by its place.
        if self.names is not None:
            shares = [f"probability_{name}" for name in self.names]
        else:
            shares = [f"posterior_{place}" for place in range(len(self.longest))]
        columns = (*shares, "decision", "expected_cost", "runner_up", "runner_up_cost", *(["act"] if gated else []))
        for row in rows:
            for name in columns:
                if name in row:
                    raise InputError(f"the rows have a column {name} already; rename it, or leave it out")
        return columns

    def standing(self) -> Posteriors:
        """Posteriors with the columns of all rows, one row for each of `examples`: for what columns alone decide."""
        logs = np.full((len(self.examples), len(self.longest)), -np.inf)
        for row, choices in enumerate(self.examples):
            logs[row, : len(choices)] = -np.log(len(choices))
        return Posteriors(logs, None, choices=self.examples)

    def among_all(self, posteriors: Posteriors) -> Posteriors:
        """Posteriors of a part of the rows with the columns, and the names of columns, that those of all rows have."""
        missing = len(self.longest) - posteriors.n_choices
        if not missing and posteriors.column_names == self.names:
            return posteriors
        logs = np.pad(posteriors.log_posteriors, ((0, 0), (0, missing)), constant_values=-np.inf)  # (N, K)
        # Names that only this part has would match costs and calibrators by name, and in other parts by place.
        names = None if self.names is None else [self.names] * len(posteriors)
        return Posteriors(logs, None, posteriors.ids, posteriors.groups, names)


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
    offered: Offered | None = None
    """The choices of all rows, where these are a part of them."""

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
        rows = [row for row, instance in enumerate(self.instances) if instance.is_labelled]
        if not rows:
            return None
        having = [self.instances[row] for row in rows]
        return Posteriors(
            self.posteriors.log_posteriors[rows],
            truth_of(having),
            ids=tuple(instance.id for instance in having),
            groups=tuple(instance.group for instance in having),
            choices=tuple(instance.choices for instance in having),
            types=tuple(instance.type for instance in having),
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
        offered = self.offered or Offered.of(self.instances)
        columns = offered.added_columns(self.rows, gated=self.gate is not None)
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


Answer: TypeAlias = Callable[[Task, Iterable[Mapping[str, Any]], Screen | None], Predictions]
"""Answers rows: the rows as a task from `load_further`, the rows themselves, and where progress is shown."""


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
    orders: int = 1
    """Over how many orders of the options posteriors are averaged; the calibrator is of one order."""

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
        offered = Offered.of(task.test)
        with self.answering(model, offered=offered, costs=costs, gate=gate) as answer:
            return answer(task, rows, screen)

    @contextlib.contextmanager
    def answering(
        self,
        model: Model,
        *,
        offered: Offered,
        costs: Costs | StatedCosts | None = None,
        gate: Gate | None = None,
    ) -> Iterator[Answer]:
        """The run's adapter on its base for the length of the block, and the function that answers rows with it.

        Rows may come in parts: a part is answered as it is among all of them. Arguments and errors are those of
        `predict`; `offered` holds the choices of all rows.
        """
        from rango.models.peft_format import load_adapter
        from rango.scoring.orders import score_orders
        from rango.scoring.probe import probe_reader

        if model.fingerprint != self.fingerprint:
            raise InputError(
                f"{model.name} has fingerprint {model.fingerprint}, but {self.source} adapted {self.config.model} with "
                f"{self.fingerprint}; give the model that it was trained on"
            )
        shots: tuple[Instance, ...] = ()
        if self.config.shots:
            own = load_task(self.config.task, self.config)
            shots = few_shot(own, shots=self.config.shots, seed=self.config.shots_seed).shots
        matrix = self.matrix(offered, costs, gate)
        adapter = load_adapter(model, self.adapter) if self.adapter is not None else None

        def answer(task: Task, rows: Iterable[Mapping[str, Any]], screen: Screen | None) -> Predictions:
            # Scoring takes a split with labels or without: here some rows may have them, and none is needed.
            bare = tuple(replace(instance, label=None, target=None) for instance in task.test)
            task = replace(task, shots=shots) if shots else task
            scored = score_orders(reader, bare, task=task, options=self.config, orders=self.orders, screen=screen)
            posteriors = offered.among_all(scored.posteriors)
            if self.calibrator is not None:
                posteriors = self.calibrator.apply(posteriors)
            if offered.names is None:
                matrix.check_columns(posteriors.ids, [instance.choices for instance in task.test])
            return Predictions(tuple(rows), task.test, posteriors, matrix, notes, gate, offered)

        try:
            reader = probe_reader(model)
            notes = (*model.notes, *(adapter.notes if adapter is not None else ()), *reader.notes)
            if self.orders > 1:
                notes = (*notes, f"up to {self.orders} passes: the mean over orders of the options")
            yield answer
        finally:
            if adapter is not None:
                adapter.remove()

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

    def matrix(self, offered: Offered, costs: Costs | StatedCosts | None, gate: Gate | None = None) -> Costs:
        """What rows with these choices are decided under: 0-1 costs where nothing is stated.

        Raises:
            InputError: as `stated`; costs of other choices.
        """
        stated = self.stated(costs, gate)
        return (
            Costs.zero_one(offered.names or len(offered.longest))
            if stated is None
            else stated.for_choices(offered.examples)
        )

    def check_choices(self, offered: Offered, costs: Costs | StatedCosts | None, gate: Gate | None = None) -> None:
        """Raise InputError where costs or a gate do not fit the choices of rows: before any of them is scored."""
        if gate is not None:
            gate.check_choices(offered.examples)
        self.matrix(offered, costs, gate)


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
    offered = Offered.of(task.test)
    offered.added_columns(values, gated=gate is not None)
    predictor.check_choices(offered, costs, gate)
    check_order(predictor.stated(costs, gate), task.test)
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
    names = Offered.of(predictions.instances).added_columns(predictions.rows, gated=gate is not None)
    return add_columns(frame, {name: [row[name] for row in rows] for name in names})


def check_costs(stated: StatedCosts, instances: Sequence[Instance]) -> None:
    """Raise InputError where costs do not fit the choices of instances: before any of them is scored."""
    stated.for_choices({instance.choices for instance in instances})
    check_order(stated, instances)


def check_order(stated: StatedCosts | None, instances: Sequence[Instance]) -> None:
    """Raise InputError where costs are distances between levels and the choices of an instance are no levels."""
    unordered = next((instance for instance in instances if instance.type != "score"), None)
    if stated is not None and stated.distance is not None and unordered is not None:
        raise InputError(
            f"costs are distance={stated.distance}, but the choices of {named(unordered)} have no order; give the "
            "table `type: score`"
        )
