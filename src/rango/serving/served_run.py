"""The runs that are served: their names, what each was trained to answer, and how good its own test says it is

[NAME=]RUN[:STATE] ... ── read_served ──> {NAME: ServedRun}, all on one base
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from rango.decisions import Gate, Posteriors, StatedCosts
from rango.errors import InputError
from rango.files import FULL_RECORD, check_adapter_folder
from rango.serving.questions import TrainedTask
from rango.tasks import Instance, few_shot, load_task
from rango.tasks.registry import task_words
from rango.tasks.table_config import TableConfig
from rango.training.prediction import Predictor
from rango.training.run_folder import Run, parse_state

_METRICS = ("nce", "ece", "error_rate", "cross_entropy")
"""What a model's list entry says of its test."""


@dataclass(frozen=True, eq=False)
class ServedRun:
    """A run under the name that requests use."""

    name: str
    run: Run
    predictor: Predictor
    state: str
    """calibrated, adapted or base."""
    gate: Gate | None = None
    """What says which decisions are acted on."""

    @property
    def costs(self) -> StatedCosts | None:
        """What its own questions are decided under; None for 0-1 costs."""
        return self.predictor.stated(None, self.gate)

    @cached_property
    def _stored(self) -> Posteriors:
        return self.run.posteriors(self.state)

    @cached_property
    def task(self) -> TrainedTask:
        """What it was trained to answer, from its record and its posteriors on test."""
        config, table = self.predictor.config, self.predictor.table
        words = task_words(config.task, table=table)
        form = config.form
        if form is None:
            raise InputError(f"{self.run.path}: run.yaml does not say the form; repeat the run with this version")
        foreign = None if config.prompt == "own" else f"the run was trained with the words of {config.prompt}"
        read = None if table is None else TableConfig.build(dict(table), where=str(self.predictor.source))
        stored = self._stored
        # A table of several types has yes-or-no questions beside others, which need not be its most choices.
        typed = zip(stored.choices or (), stored.types or (), strict=False)
        pairs = {choices for choices, kind in typed if kind == "yes_no"}
        yes_no = pairs.pop() if len(pairs) == 1 else None
        return TrainedTask(words, form, stored.column_names, stored.n_choices, read, foreign, yes_no)

    @cached_property
    def shots(self) -> tuple[Instance, ...]:
        """The answered instances that stand before every question."""
        config = self.predictor.config
        if not config.shots:
            return ()
        return few_shot(load_task(config.task, config), shots=config.shots, seed=config.shots_seed).shots

    @property
    def is_full(self) -> bool:
        """Whether every parameter was trained, so that it shares no base with others."""
        adapter = self.predictor.adapter
        return adapter is not None and (check_adapter_folder(adapter) / FULL_RECORD).is_file()

    @cached_property
    def entry(self) -> dict[str, Any]:
        """What `GET /v1/models` says of it: the format's three keys, and under `rango` how good it was on its test."""
        config = self.predictor.config
        test = self.run.metrics.get("test", {}).get(self.state, {})
        estimates = {name: test[name] for name in _METRICS if name in test}
        how = "base model" if self.predictor.adapter is None else "every parameter" if self.is_full else "LoRA"
        calibrated = "not calibrated"
        if self.predictor.calibrator is not None:
            calibrated = f"calibrated ({self.predictor.calibrator.method})"
        ended = datetime.fromtimestamp((self.run.path / "run.yaml").stat().st_mtime, tz=UTC)
        return {
            "name": self.name,
            "description": f"{how} of {config.model} for {config.task}, {self.task.form} form, {calibrated}",
            "release_date": ended.date().isoformat(),
            "rango": {
                "state": self.state,
                "form": self.task.form,
                "classes": None if self.task.classes is None else list(self.task.classes),
                "prompt": None if self.task.table is None else self.task.table.prompt,
                "costs": None if self.costs is None else self.costs.words,
                "gate": None if self.gate is None else self.gate.aim,
                "test": {
                    name: {"value": each.value, "low": each.low, "high": each.high, "n": each.n}
                    for name, each in estimates.items()
                },
            },
        }


def read_served(sources: Sequence[str], gate: Gate | None = None) -> dict[str, ServedRun]:
    """The runs of `[NAME=]RUN[:STATE]`, by name; the name is that of the folder where none is given.

    Raises:
        InputError: no runs, a run that is not complete, two of one name, or runs of different bases; a gate of other
            choices than a run's.
    """
    if not sources:
        raise InputError("there is no run to serve; give the folder of at least one")
    served: dict[str, ServedRun] = {}
    for source in sources:
        named = re.fullmatch(r"([A-Za-z0-9][\w.:-]*)=(.+)", source)
        run, state = parse_state(source if named is None else named[2])
        name = run.path.resolve().name if named is None else named[1]
        if name in served:
            raise InputError(f"two runs are called {name}; give one of them another name: {name}-2={source}")
        predictor = run.predictor(state)
        state = state or ("calibrated" if predictor.calibrator is not None else "adapted")
        served[name] = ServedRun(name, run, predictor, state, gate)
        if gate is not None:
            classes = served[name].task.classes
            gate.check_choices([classes or ("",) * served[name].task.n_choices])
        served[name].entry  # noqa: B018 - what cannot be read is found before a model is loaded
    _check_one_base(served)
    return served


def _check_one_base(served: Mapping[str, ServedRun]) -> None:
    first = next(iter(served.values()))
    for name, run in served.items():
        if run.is_full and len(served) > 1:
            raise InputError(f"{name} is fully fine-tuned, a whole model of its own; serve it alone")
        for what in ("fingerprint", "config.quantise", "config.dtype"):
            one, other = first.predictor, run.predictor
            for part in what.split("."):
                one, other = getattr(one, part), getattr(other, part)
            if one != other:
                word = "base" if what == "fingerprint" else what.removeprefix("config.")
                raise InputError(
                    f"{first.name} has {word} {one} and {name} has {other}: runs are served together on one base; "
                    "serve them apart"
                )
