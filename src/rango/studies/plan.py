"""From a study to the jobs it needs: what is computed once, what is shared, what a row of the table reads.

    configuration × seed ──▶ sources (job, state) ──▶ mean of their posteriors ──▶ calibrator ──▶ a cell
    job: the posteriors of an unadapted base (once per model, task and scoring), a fine-tuning run, or a baseline

Two configurations that read the same sources are the same row: where their axes differ, the axis means nothing there
(`none` has no rank) and its value is None.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from rango.config import Config
from rango.errors import InputError
from rango.files import fingerprint
from rango.options import BASELINES, AdaptationOptions, Baseline, FinetuneConfig, ScoringOptions, Selection, TaskOptions
from rango.studies.configurations import BASE_KEYS, base_values, row_axes, run_config
from rango.studies.pretrained_models import (
    ModelSpec,
    check_model,
    check_own_model,
    check_texts,
    needed_models,
    plan_models,
)
from rango.studies.study import Axes, Reference, StatedCost, Study
from rango.tasks import Task, load_task
from rango.tasks.task import unlabelled
from rango.training.run_writer import check_task

MODELS = "models"
# What `check_task` reads of a configuration.
_CHECKED = ("objective", "rule", "label_smoothing", "select", "regime")


class Source(Config):
    """Posteriors in the store: those that a job left under a state's name."""

    job: str
    state: str


class Cell(Config):
    """One configuration with one seed: the mean of its sources' posteriors, calibrated if asked."""

    seed: int
    sources: tuple[Source, ...]
    calibrator: str | None = None


class Row(Config):
    """One configuration: its axes and a cell for each seed."""

    axes: Mapping[str, Any]
    cells: tuple[Cell, ...]


class Job(Config):
    """A computation whose result is kept: `base` scores an unadapted model, `run` fine-tunes, others are baselines."""

    id: str
    kind: Literal["base", "run"] | Baseline
    config: FinetuneConfig
    group: str
    """Jobs of one group share model, task, type and device: a worker loads them once."""
    base: str
    """The job with the base posteriors; a base names itself, and so does a baseline, which needs none."""
    samples: tuple[int, ...] = ()
    """Numbers of MC dropout passes that some cell reads."""


class Plan(Config):
    """Everything a study folder needs to be computed, and to be read again without the study file."""

    name: str
    about: str
    select: Selection
    axes: tuple[str, ...]
    rows: tuple[Row, ...]
    jobs: tuple[Job, ...]
    models: Mapping[str, ModelSpec]
    """Folder under models/ -> how it is pre-trained."""
    references: tuple[Reference, ...]
    metrics: tuple[str, ...] = ()
    """The metrics that are shown first."""
    costs: StatedCost | None = None
    log_to: tuple[str, ...] = ()
    """Loggers of the runs."""
    notes: tuple[str, ...] = ()
    """Remarks of the tasks when they were loaded."""

    @cached_property
    def by_id(self) -> dict[str, Job]:
        """The jobs by their ids."""
        return {job.id: job for job in self.jobs}

    def job(self, identity: str) -> Job:
        """A job by its id; InputError in a plan.json that was changed and lacks it."""
        if identity not in self.by_id:
            raise InputError(f"plan.json has no job {identity!r}, which its rows read; run rango study again")
        return self.by_id[identity]


def plan_study(study: Study, out: Path) -> Plan:
    """Plan a study whose results are to stand in `out`.

    Raises:
        InputError: all that is wrong with its keys, values, tasks, models and texts at once.
    """
    return Planner(study, out).plan()


@dataclass
class Planner:
    """Resolves every configuration of a study, loads every task once to check it, and collects every mistake."""

    study: Study
    out: Path
    jobs: dict[str, Job] = field(default_factory=dict)
    mistakes: list[str] = field(default_factory=list)
    tasks: dict[tuple[str, str], Task | InputError] = field(default_factory=dict)
    """Each task that was asked for, or why it cannot be loaded."""
    checked: set[str] = field(default_factory=set)
    """What runs with tasks that can be trained on: a large task is looked at once."""
    used: set[str] = field(default_factory=set)
    """Folders under models/ that some configuration names."""

    @cached_property
    def models(self) -> dict[str, tuple[str, ModelSpec]]:
        """Name -> (folder, specification) of the models that the study pre-trains."""
        return plan_models(self.study.models)

    @contextlib.contextmanager
    def _collecting(self) -> Iterator[None]:
        """Take the mistakes of this block down, and go on behind it."""
        try:
            yield
        except InputError as error:
            self.mistakes += error.mistakes

    def plan(self) -> Plan:
        """Plan the study.

        Raises:
            InputError: all mistakes of all configurations, each once.
        """
        self.study, mistakes = self.study.without_mistakes()
        self.mistakes += mistakes
        study, rows = self.study, dict[tuple[Any, ...], Row]()

        # Configurations whose cells read the same are one row, with None where their axes differ.
        for axes in study.combinations():
            cells = self.cells(axes)
            if not cells:
                continue
            key = tuple((cell.sources, cell.calibrator) for cell in cells)
            values = row_axes(study, axes)
            # A calibrator that is left open is chosen by the prompt form; the row names the one that is used.
            if "calibrator" in values and cells[0].calibrator:
                values["calibrator"] = cells[0].calibrator
            if key in rows:
                same = rows[key].axes
                values = {name: value if values.get(name) == value else None for name, value in same.items()}
            rows[key] = Row(axes=values, cells=cells)

        # Models and costs are checked when it is known which of them the configurations use.
        models = needed_models(dict(self.models.values()), self.used)
        tasks = [task for task in self.tasks.values() if isinstance(task, Task)]
        with self._collecting():
            check_texts(models, self.out / MODELS)
        with self._collecting():
            if study.costs is not None:
                study.costs.check_fits({task.n_choices for task in tasks})
        if self.mistakes:
            first, *rest = dict.fromkeys(self.mistakes)
            raise InputError(f"study {study.name}: {first}", *rest)
        return Plan(
            name=study.name,
            about=study.about,
            select=study.select,
            axes=study.axes,
            rows=tuple(rows.values()),
            jobs=tuple(self.jobs.values()),
            models=models,
            references=study.references,
            metrics=study.metrics,
            costs=study.costs,
            log_to=study.log_to,
            notes=tuple(dict.fromkeys(note for task in tasks for note in task.notes)),
        )

    def cells(self, axes: Axes) -> tuple[Cell, ...]:
        """The cells of one configuration; none when it is wrong. Seeds that change nothing are one cell."""
        # What the file says, as dotted keys: the study's own (how to adapt) and those of `rango finetune`.
        values = {**base_values(self.study), **axes}
        if isinstance(values.get("data"), str):
            values["data"] = values["data"].replace("{task}", str(values.get("task")))
        own = {key: values.pop(key) for key in list(values) if key in AdaptationOptions.model_fields}
        # The name of an own model becomes the path where it will stand once it is pre-trained.
        model = str(values.get("model", ""))
        if str(own.get("adaptation")).removesuffix("+calibration") in ("tfidf", "encoder"):
            values.pop("model", None)  # neither reads it
        elif model in self.models:
            folder = self.models[model][0]
            self.used.add(folder)
            values["model"] = str(self.out / MODELS / folder)
            with self._collecting():
                check_own_model(model, self.models[model][1], quantise=values.get("quantise") or "none")
        else:
            with self._collecting():
                check_model(model, own=self.models, quantise=values.get("quantise") or "none")
        where = ", ".join(f"{key} {value}" for key, value in axes.items()) or "base"
        try:
            options = AdaptationOptions.build(own, where="")
            cells = [self._cell(options, values, seed, where) for seed in self.study.seeds]
        except InputError as error:
            self.mistakes += error.mistakes
            # A task that cannot be loaded is reported too. Its other options may be what is wrong, so it gets its data.
            with self._collecting():
                data = {key: values[key] for key in ("data",) if key in values}
                self._task(str(values.get("task", "")), TaskOptions.build(data, where=""))
            return ()
        same = all(cell.sources == cells[0].sources for cell in cells)
        return (cells[0],) if same else tuple(cells)

    def _cell(self, options: AdaptationOptions, values: Mapping[str, Any], seed: int, where: str) -> Cell:
        config = run_config(options, values, seed=seed, where=where)
        task = self._task(config.task, config)
        if options.way in ("none", "few-shot"):
            sources = [Source(job=self._base(config), state="base")]
        elif options.way in BASELINES:
            sources = [Source(job=self._baseline(options.way, config), state="fitted")]
        elif options.way == "ensemble":
            # Seed s has members of its own, so that the spread over seeds of an ensemble means what it says.
            seeds = [seed * options.members + member for member in range(options.members)]
            members = [config.model_copy(update={"seed": each}) for each in seeds]
            sources = [Source(job=self._run(member), state="adapted") for member in members]
        elif options.way == "mc-dropout":
            if not config.lora.dropout:
                raise InputError(f"{where}: mc-dropout needs lora.dropout above 0; it is {config.lora.dropout}")
            sources = [Source(job=self._run(config, samples=options.samples), state=f"mc-dropout-{options.samples}")]
        else:
            sources = [Source(job=self._run(config), state="adapted")]
        calibrator = None
        if options.calibrated:
            # An affine calibrator needs columns that mean one thing: letters, or for words and texts classes.
            if options.way not in ("tfidf", "encoder"):
                by_form = "affine" if (config.form or task.default_form) == "letter" else "auto"
            else:
                by_form = "temperature" if task.classes is None else "affine"
            # Choices that are each instance's own leave `auto` nothing but a temperature.
            if by_form == "auto" and task.classes is None:
                by_form = "temperature"
            calibrator = options.calibrator or by_form
        return Cell(seed=seed, sources=tuple(sources), calibrator=calibrator)

    def _task(self, name: str, options: TaskOptions) -> Task:
        """The task, loaded once; one that cannot be loaded is one mistake, not one for each configuration."""
        # A run's configuration has the task's options and others, which do not matter here.
        key = (name, options.model_dump_json(include=set(TaskOptions.model_fields)))
        if key not in self.tasks:
            try:
                self.tasks[key] = loaded = load_task(name, options)
                if unlabelled(loaded.test):
                    raise InputError(
                        f"the test instances of {name} have no labels, by which a study compares; give a table that "
                        "has them, or adapt to this one with rango finetune"
                    )
            except InputError as error:
                self.tasks[key] = error
        task = self.tasks[key]
        if isinstance(task, InputError):
            raise task
        return task

    def _base(self, config: FinetuneConfig) -> str:
        """The job that scores the base on the instances that this configuration is tested on.

        Its id is a hash of these instances: training sizes share a base, and changed data makes another.
        """
        task = self._task(config.task, config)
        scoring = config.model_dump_json(include=set(ScoringOptions.model_fields))
        parts = [self._identity(config.model), config.dtype, config.device, config.quantise, scoring]
        parts += [config.task, task.fingerprint_of("validation", "test")]
        if config.shots:
            parts.append(task.fingerprint_of("train"))
        identity = fingerprint("base", *parts)
        if identity not in self.jobs:
            plain = FinetuneConfig.build({name: getattr(config, name) for name in BASE_KEYS - {"seed"}})
            self.jobs[identity] = Job(id=identity, kind="base", config=plain, group=self._group(plain), base=identity)
        return identity

    def _run(self, config: FinetuneConfig, *, samples: int | None = None) -> str:
        """The fine-tuning run of a configuration. Its id is a hash of that configuration, whatever the code."""
        # A run looks at these too; here they are found before the first hour.
        reads = config.model_dump_json(include={"task", *TaskOptions.model_fields, *_CHECKED})
        if reads not in self.checked:
            check_task(config, self._task(config.task, config))
            self.checked.add(reads)
        base = self._base(config)
        # An own model stands under its identity, not under a path that changes when the folder is moved.
        named = config.model_copy(update={"model": self._identity(config.model)})
        identity = fingerprint("run", named.model_dump_json())
        # Rows that read the same run may each want their number of passes with dropout.
        earlier = self.jobs[identity].samples if identity in self.jobs else ()
        samples_of_all = tuple(sorted({*earlier, *((samples,) if samples else ())}))
        self.jobs[identity] = Job(
            id=identity, kind="run", config=config, group=self._group(config), base=base, samples=samples_of_all
        )
        return identity

    def _baseline(self, kind: Baseline, config: FinetuneConfig) -> str:
        """The job that fits a baseline. Its id is a hash of its configuration and of all instances."""
        if kind == "encoder":
            if config.model in self.models:
                raise InputError(
                    f"encoder is {config.model}, one of the study's own models, which predict the next word; give the "
                    "Hub id or folder of an encoder"
                )
            check_model(config.model, own=())
        elif importlib.util.find_spec("sklearn") is None:
            raise InputError(
                f"adaptation {kind} needs scikit-learn, which is not installed; pip install 'rango-lm[baselines]'"
            )
        named = config.model_copy(update={"model": self._identity(config.model)})
        identity = fingerprint(kind, named.model_dump_json(), self._task(config.task, config).fingerprint)
        group = self._group(config)
        self.jobs[identity] = Job(id=identity, kind=kind, config=config, group=group, base=identity)
        return identity

    def _group(self, config: FinetuneConfig) -> str:
        task = config.model_dump_json(include=set(TaskOptions.model_fields))
        model = self._identity(config.model), config.dtype, config.device, config.quantise
        return fingerprint(config.task, task, *model)

    def _identity(self, model: str) -> str:
        """The model's name, without the folder of this study: a study that is moved keeps its runs."""
        return model.removeprefix(f"{self.out / MODELS}/") if model.startswith(str(self.out)) else model


def groups(jobs: Sequence[Job]) -> Iterator[tuple[str, list[Job]]]:
    """Jobs by group, in the order of the plan."""
    by_group: dict[str, list[Job]] = {}
    for job in jobs:
        by_group.setdefault(job.group, []).append(job)
    yield from by_group.items()


def own_model(job: Job, plan: Plan) -> str | None:
    """The folder under models/ of the model that the study pre-trains for this job; None for a model from elsewhere."""
    path = Path(job.config.model)
    return path.name if path.name in plan.models and path.parent.name == MODELS else None
