"""The loop of a search: what the earlier trials gave on validation decides the next one. Test is never looked at.

Each choice is a function of the search's seed, its number and the results before it, and is written down before it is
run. So a search that goes on after an interruption makes the choices of one that was never stopped.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rango.decisions import METRICS
from rango.errors import InputError
from rango.files import fingerprint, read_json, write_json
from rango.studies.axes import axis_text
from rango.studies.plan import Job, Plan, Planner
from rango.studies.store import Store
from rango.studies.study import Axes, Range, Search, Study
from rango.training.run_folder import read_log

_PRUNE_AFTER = 5  # trials that came to their end
_ASKS = 20  # of the sampler, for a configuration that was not tried yet


@dataclass(frozen=True)
class Trial:
    """One chosen configuration and what is known of it."""

    axes: Axes
    state: Literal["open", "complete", "pruned", "failed"]
    values: Mapping[int, float]
    """Step -> the selected metric on validation."""
    best: float | None
    """That of the checkpoint which the run keeps; another than the best of them where the base has its own `select`."""


@dataclass
class Searcher:
    """A search in a study folder."""

    study: Study
    store: Store
    tasks: dict[Any, Any] = field(default_factory=dict)

    @property
    def search(self) -> Search:
        """What is asked for."""
        assert self.study.search is not None
        return self.study.search

    @property
    def file(self) -> Path:
        """Where the choices are written down."""
        return self.store.path / "search.json"

    def check(self) -> None:
        """Plan every end of the space.

        Raises:
            InputError: values that no run accepts, all at once; a folder with another search; no Optuna.
        """
        _optuna()
        planner = self._planner(list(self.search.corners()))
        for job in planner.plan().jobs:
            if job.kind == "run" and job.config.regime == "all":
                raise InputError("search: regime is all, which validates nothing; use validation or retrain")
        for axes in self.search.corners():
            cell = planner.cells(axes)[0]
            if len(cell.sources) > 1 or cell.sources[0].state != "adapted":
                raise InputError(
                    "search: only lora and full have a validation value of their own; take those adaptations"
                )
        if self.file.is_file() and read_json(self.file)["asked"] != self._asked():
            raise InputError(
                f"{self.store.path} holds another search (all but its trials must stay the same); give another --out"
            )

    def _asked(self) -> str:
        kept = self.study.model_dump(mode="json", exclude={"name", "about", "references", "search", "metrics", "costs"})
        return fingerprint(repr(kept), self.search.model_copy(update={"trials": 1}).model_dump_json())

    def chosen(self) -> list[Axes]:
        """The choices that are written down."""
        return list(read_json(self.file)["trials"]) if self.file.is_file() else []

    def _planner(self, trials: Sequence[Axes]) -> Planner:
        listed = self.study.model_copy(update={"runs": tuple(trials), "search": None})
        return Planner(listed, self.store.path, tasks=self.tasks)

    def plan(self) -> Plan:
        """The plan with every trial chosen so far; before the first one is written down, with that."""
        return self._planner(self.chosen() or [self._ask([])]).plan()

    def trials(self, choices: Sequence[Axes]) -> list[Trial]:
        """Choices with what their runs' logs tell."""
        planner = self._planner(choices)
        plan = planner.plan()
        return [self._trial(axes, plan.job(planner.cells(axes)[0].sources[0].job)) for axes in choices]

    def _trial(self, axes: Axes, job: Job) -> Trial:
        status = self.store.status(job)
        values = {
            int(record["step"]): float(record["validation"][self.study.select])
            for record in read_log(self.store.folder(job))
            if record.get("validation")
        }
        best = values.get(self.store.record(job).get("best_step", -1))
        if status == "pruned" or (status == "done" and best is not None):
            return Trial(axes, "pruned" if status == "pruned" else "complete", values, best)
        return Trial(axes, "failed" if status in ("failed", "done") else "open", values, best)

    @property
    def _higher(self) -> bool:
        return METRICS[self.study.select].direction == "higher"

    def next(self, trials: Sequence[Trial]) -> Axes | None:
        """The next choice after these, never one that means an earlier one's run; None when the space holds no more."""
        tried = {self._job(trial.axes).id for trial in trials}
        asked = (self._ask(trials, again) for again in range(_ASKS))
        left = itertools.chain(asked, self.search.grid())
        return next((axes for axes in left if self._job(axes).id not in tried), None)

    def _ask(self, trials: Sequence[Trial], again: int = 0) -> Axes:
        """What the sampler chooses after these, with another seed each time it is asked again."""
        asked = self._history(trials, again).ask(self._distributions())
        found: dict[str, Any] = {}
        for name, axis in self.search.space.items():
            value = asked.params[name]
            found[name] = axis.rounded(value) if isinstance(axis, Range) else axis[value]
        return found

    def _job(self, axes: Axes) -> Job:
        """The run of a choice."""
        planner = self._planner([axes])
        plan = planner.plan()
        return plan.job(planner.cells(axes)[0].sources[0].job)

    def prunes(self, job: Job) -> Callable[[int, Mapping[str, float]], bool] | None:
        """What ends the run of a trial early; None where nothing does."""
        if not self.search.prune:
            return None
        earlier = [trial for trial in self.trials(self.chosen()) if trial.state == "complete"]
        reported: dict[int, float] = {step: value for step, value in self._log(job).items() if step > 0}

        def worse(step: int, values: Mapping[str, float]) -> bool:
            if step == 0:  # the base model: every trial begins there
                return False
            reported[step] = values[self.study.select]
            so_far = {known: value for known, value in reported.items() if known <= step}
            trial = _optuna().trial.create_trial(state=_optuna().trial.TrialState.RUNNING, intermediate_values=so_far)
            return bool(self._pruner().prune(self._history(earlier), trial))

        return worse

    def _log(self, job: Job) -> dict[int, float]:
        return dict(self._trial({}, job).values)

    @staticmethod
    def _pruner() -> Any:
        return _optuna().pruners.MedianPruner(n_startup_trials=_PRUNE_AFTER)

    def _history(self, trials: Sequence[Trial], again: int = 0) -> Any:
        """An Optuna study that knows these trials, with a sampler seeded for the next."""
        optuna = _optuna()
        parts = [self.search.seed, len(trials), *([again] if again else [])]
        seed = int(fingerprint(*map(str, parts))[:7], 16)
        samplers = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}
        history = optuna.create_study(
            direction="maximize" if self._higher else "minimize", sampler=samplers[self.search.sampler](seed=seed)
        )
        states = optuna.trial.TrialState
        for trial in trials:
            state = {"complete": states.COMPLETE, "pruned": states.PRUNED}.get(trial.state, states.FAIL)
            params = {
                name: trial.axes[name] if isinstance(axis, Range) else _place(axis, trial.axes[name])
                for name, axis in self.search.space.items()
            }
            history.add_trial(
                optuna.trial.create_trial(
                    state=state,
                    value=trial.best if trial.state == "complete" else None,
                    params=params,
                    distributions=self._distributions(),
                    intermediate_values={step: value for step, value in trial.values.items() if step > 0},
                )
            )
        return history

    def _distributions(self) -> dict[str, Any]:
        optuna, found = _optuna(), {}
        for name, axis in self.search.space.items():
            if not isinstance(axis, Range):
                # By number: a choice may be a list, which Optuna does not take.
                found[name] = optuna.distributions.CategoricalDistribution(tuple(range(len(axis))))
            elif axis.whole:
                found[name] = optuna.distributions.IntDistribution(axis.low, axis.high, log=axis.log)
            else:
                found[name] = optuna.distributions.FloatDistribution(axis.low, axis.high, log=axis.log)
        return found

    def run(self, work: Callable[[Plan], None]) -> None:
        """Choose and work until all trials are there. What fails is remembered and does not stop the rest."""
        while True:
            choices = self.chosen()
            if choices:
                plan = self.plan()
                self.store.write_plan(plan)
                work(plan)
            if len(choices) >= self.search.trials:
                return
            following = self.next(self.trials(choices) if choices else [])
            if following is None:
                return
            choices.append(following)
            write_json(self.file, {"asked": self._asked(), "trials": choices})

    def best_words(self) -> str:
        """Which trial is best by validation, and what it gave on test."""
        trials = self.trials(self.chosen())
        complete = [trial for trial in trials if trial.state == "complete" and trial.best is not None]
        others = f"{sum(t.state == 'pruned' for t in trials)} pruned, {sum(t.state == 'failed' for t in trials)} failed"
        if not complete:
            return f"no trial of {len(trials)} came to its end ({others})"
        key = (lambda trial: -trial.best) if self._higher else (lambda trial: trial.best)
        best = min(complete, key=key)
        test = getattr(self.store.posteriors(self._job(best.axes), "test", "adapted"), self.study.select)()
        axes = ", ".join(f"{name} {axis_text(value)}" for name, value in best.axes.items())
        number = f"{len(trials)} trials{', all of the space,' if len(trials) < self.search.trials else ''}"
        return (
            f"best of {number} by validation {self.study.select}: trial {trials.index(best)} ({axes}): "
            f"{best.best:.4f} on validation, {test:.4f} on test ({others})"
        )


def _place(values: Sequence[Any], value: Any) -> int:
    return next(number for number, known in enumerate(values) if axis_text(known) == axis_text(value))


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise InputError("search needs Optuna, which is not installed; pip install 'rango[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
