"""The loop of a search: what the earlier trials gave on validation decides the next one. Test is never looked at.

    search.json (choices so far) ──▶ plan ──▶ their runs ──▶ logs: validation ──▶ Optuna chooses ──▶ search.json

Each choice is a function of the search's seed, its number and the results before it, and is written down before it is
run. So a search that goes on after an interruption makes the choices of one that was never stopped.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
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


State = Literal["open", "complete", "pruned", "failed"]


@dataclass(frozen=True)
class Trial:
    """One chosen configuration and what is known of it."""

    axes: Axes
    state: State
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
    """Tasks that are loaded, kept from one plan to the next."""

    def __post_init__(self) -> None:
        """Set what the search is for, and where its choices are written down."""
        assert self.study.search is not None
        self.search: Search = self.study.search
        self.file = self.store.path / "search.json"
        self.higher = METRICS[self.study.select].direction == "higher"

    def check(self) -> None:
        """Plan every end of the space.

        Raises:
            InputError: values that no run accepts, all at once; a folder with another search; no Optuna.
        """
        _optuna()
        planner = self._planner(list(self.search.corners()))
        # A trial is worth its value on validation, which every end of the space must have.
        for job in planner.plan().jobs:
            if job.kind == "run" and job.config.regime == "all":
                raise InputError("search: regime is all, which validates nothing; use validation or retrain")
        for axes in self.search.corners():
            cell = planner.cells(axes)[0]
            if len(cell.sources) > 1 or cell.sources[0].state != "adapted":
                raise InputError(
                    "search: only lora and full have a validation value of their own; take those adaptations"
                )
        if self.file.is_file() and self._stored().get("asked") != self._identity():
            raise InputError(
                f"{self.store.path} holds another search (all but its trials must stay the same); give another --out"
            )

    def _identity(self) -> str:
        """A hash of everything that decides the choices; more trials only make a search longer."""
        free = {"name", "about", "references", "search", "metrics", "costs", "log_to"}
        kept = self.study.model_dump(mode="json", exclude=free)
        return fingerprint(repr(kept), self.search.model_copy(update={"trials": 1}).model_dump_json())

    def run(self, work: Callable[[Plan], None]) -> None:
        """Choose and work until all trials are there. What fails is remembered and does not stop the rest."""
        while True:
            choices = self.chosen()
            # Choices that are written down come first: an earlier start may have been stopped in the middle of one.
            if choices:
                plan = self.plan()
                self.store.write_plan(plan)
                work(plan)
            if len(choices) >= self.search.trials:
                return
            following = self.next(self.trials(choices))
            if following is None:
                return
            choices.append(following)
            write_json(self.file, {"asked": self._identity(), "trials": choices})

    def chosen(self) -> list[Axes]:
        """The choices that are written down."""
        return list(self._stored()["trials"]) if self.file.is_file() else []

    def _stored(self) -> dict[str, Any]:
        """The content of search.json; InputError where it is damaged."""
        stored = read_json(self.file)
        trials = stored.get("trials") if isinstance(stored, dict) else None
        if not isinstance(trials, list) or not all(isinstance(axes, dict) for axes in trials):
            raise InputError(f"{self.file} holds no trials; delete it to begin the search anew")
        return stored  # type: ignore[no-any-return]

    def plan(self) -> Plan:
        """The plan with every trial chosen so far; before the first one is written down, with that."""
        return self._planner(self.chosen() or [self._ask([])]).plan()

    def _planner(self, choices: Sequence[Axes]) -> Planner:
        listed = self.study.model_copy(update={"runs": tuple(choices), "search": None})
        return Planner(listed, self.store.path, tasks=self.tasks)

    def _runs(self, choices: Sequence[Axes]) -> list[Job]:
        """The run of each choice."""
        if not choices:
            return []
        planner = self._planner(choices)
        plan = planner.plan()
        return [plan.job(planner.cells(axes)[0].sources[0].job) for axes in choices]

    def trials(self, choices: Sequence[Axes]) -> list[Trial]:
        """Choices with the results in the logs of their runs."""
        trials = []
        for axes, job in zip(choices, self._runs(choices), strict=True):
            status, values = self.store.status(job), self._values(job)
            best = values.get(self.store.record(job).get("best_step", -1))
            state: State = "open"
            if status == "pruned":
                state = "pruned"
            elif status in ("done", "failed"):
                state = "complete" if status == "done" and best is not None else "failed"
            trials.append(Trial(axes, state, values, best))
        return trials

    def _values(self, job: Job) -> dict[int, float]:
        """Step -> the selected metric on validation, from the log of a run."""
        validated = [record for record in read_log(self.store.folder(job)) if record.get("validation")]
        return {int(record["step"]): float(record["validation"][self.study.select]) for record in validated}

    def next(self, trials: Sequence[Trial]) -> Axes | None:
        """The next choice after these, never one that means an earlier one's run; None when the space holds no more."""
        tried = {job.id for job in self._runs([trial.axes for trial in trials])}
        # A sampler may choose what was tried; where it goes on doing so, the first of the grid that was not is taken.
        candidates = itertools.chain((self._ask(trials, again) for again in range(_ASKS)), self.search.grid())
        return next((axes for axes in candidates if self._runs([axes])[0].id not in tried), None)

    def _ask(self, trials: Sequence[Trial], again: int = 0) -> Axes:
        """What the sampler chooses after these, with another seed each time it is asked again."""
        params = self._history(trials, again).ask(self._distributions()).params
        return {
            name: axis.rounded(params[name]) if isinstance(axis, Range) else axis[params[name]]
            for name, axis in self.search.space.items()
        }

    def prunes(self, job: Job) -> Callable[[int, Mapping[str, float]], bool] | None:
        """What ends the run of a trial early; None where nothing does."""
        if not self.search.prune:
            return None
        optuna = _optuna()
        earlier = [trial for trial in self.trials(self.chosen()) if trial.state == "complete"]
        reported = {step: value for step, value in self._values(job).items() if step > 0}

        def is_worse(step: int, values: Mapping[str, float]) -> bool:
            if step == 0:  # the base model: every trial begins there
                return False
            reported[step] = values[self.study.select]
            # A run that goes on after an interruption must not see values that it had reached later.
            so_far = {known: value for known, value in reported.items() if known <= step}
            trial = optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING, intermediate_values=so_far)
            pruner = optuna.pruners.MedianPruner(n_startup_trials=_PRUNE_AFTER)
            return bool(pruner.prune(self._history(earlier), trial))

        return is_worse

    def _history(self, trials: Sequence[Trial], again: int = 0) -> Any:
        """An Optuna study that knows these trials, with a sampler seeded for the next."""
        optuna = _optuna()
        parts = [self.search.seed, len(trials), *([again] if again else [])]
        seed = int(fingerprint(*map(str, parts))[:7], 16)
        samplers = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}
        history = optuna.create_study(
            direction="maximize" if self.higher else "minimize", sampler=samplers[self.search.sampler](seed=seed)
        )
        states, distributions = optuna.trial.TrialState, self._distributions()
        # Optuna keeps no state of its own here: it gets the earlier trials anew each time.
        for trial in trials:
            params: dict[str, Any] = {}
            for name, axis in self.search.space.items():
                value = trial.axes[name]
                if not isinstance(axis, Range):  # the number of the choice
                    value = [axis_text(each) for each in axis].index(axis_text(value))
                params[name] = value
            history.add_trial(
                optuna.trial.create_trial(
                    state={"complete": states.COMPLETE, "pruned": states.PRUNED}.get(trial.state, states.FAIL),
                    value=trial.best if trial.state == "complete" else None,
                    params=params,
                    distributions=distributions,
                    intermediate_values={step: value for step, value in trial.values.items() if step > 0},
                )
            )
        return history

    def _distributions(self) -> dict[str, Any]:
        kinds, distributions = _optuna().distributions, {}
        for name, axis in self.search.space.items():
            if not isinstance(axis, Range):
                # By number: a choice may be a list, which Optuna does not take.
                distributions[name] = kinds.CategoricalDistribution(tuple(range(len(axis))))
            else:
                kind = kinds.IntDistribution if axis.whole else kinds.FloatDistribution
                distributions[name] = kind(axis.low, axis.high, log=axis.log)
        return distributions

    def best_words(self) -> str:
        """Which trial is best by validation, and what it gave on test."""
        trials = self.trials(self.chosen())
        complete = [trial for trial in trials if trial.state == "complete"]
        others = f"{sum(t.state == 'pruned' for t in trials)} pruned, {sum(t.state == 'failed' for t in trials)} failed"
        if not complete:
            return f"no trial of {len(trials)} came to its end ({others})"
        best = (max if self.higher else min)(complete, key=lambda trial: trial.best or 0.0)
        (run,) = self._runs([best.axes])
        test = self.store.posteriors(run, "test", "adapted").metric(self.study.select)
        axes = ", ".join(f"{name} {axis_text(value)}" for name, value in best.axes.items())
        number = f"{len(trials)} trials{', all of the space,' if len(trials) < self.search.trials else ''}"
        return (
            f"best of {number} by validation {self.study.select}: trial {trials.index(best)} ({axes}): "
            f"{best.best:.4f} on validation, {test:.4f} on test ({others})"
        )


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise InputError("search needs Optuna, which is not installed; pip install 'rango-lm[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
