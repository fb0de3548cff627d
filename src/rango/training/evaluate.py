"""`rango evaluate`: posteriors and metrics of a model on one split, and the metrics of a run's states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rango.console import Screen
from rango.decisions import (
    Calibrator,
    Estimate,
    Posteriors,
    fit_calibrator,
    summarise,
    summarise_difference,
    summarise_prior_only,
    write_posteriors,
)
from rango.errors import InputError
from rango.files import holds_files, read_yaml, write_json, write_yaml
from rango.models.adapter import Adapter, TrainableModel
from rango.models.loading import Model
from rango.models.peft_format import load_adapter
from rango.options import EvaluateConfig, Form, Split, TaskOptions
from rango.scoring.probe import probe_reader
from rango.scoring.scorer import DropoutPasses, as_posteriors, check_dropout, score_split
from rango.scoring.trees import encode
from rango.tasks import TASKS, Instance, Task, few_shot, load_task, true_log_posteriors
from rango.training.run_folder import Run, as_json, versions


def measure(states: Mapping[str, Posteriors], *, seed: int = 0) -> dict[str, dict[str, Estimate]]:
    """Every metric of every state with its 95 % bootstrap interval, and of the prior-only system.

    `prior` outputs the class frequencies of the same instances whatever the input: its NCE is 1 by definition.
    `difference` is adapted minus base on the same resampled instances.
    """
    any_state = next(iter(states.values()))
    found = {"prior": summarise_prior_only(any_state, seed=seed)}
    found |= {state: summarise(posteriors, seed=seed) for state, posteriors in states.items()}
    if "base" in states and "adapted" in states:
        found["difference"] = summarise_difference(states["base"], states["adapted"], seed=seed)
    return found


def true_posteriors(instances: Sequence[Instance]) -> Posteriors | None:
    """The posteriors that the instances' labels were drawn from; None where they are not known."""
    if any(instance.log_posterior is None for instance in instances):
        return None
    return as_posteriors(true_log_posteriors(instances), instances)


def calibrated_posteriors(
    validation: Posteriors, test: Posteriors, *, form: Form
) -> tuple[Calibrator | None, Posteriors, str | None]:
    """Test posteriors after a calibrator fitted on validation, and a note where the fit needs one.

    Letters are classes with a place each, so an affine calibrator may correct a preference for one of them. The order
    of a cloze task's choices means nothing: one temperature. Without a fit, the posteriors come back as they are.
    """
    try:
        calibrator = fit_calibrator(validation, method="affine" if form == "letter" else "temperature")
    except InputError as error:
        return None, test, f"calibration on validation is not possible: {error}"
    report = calibrator.report
    note = None if report is None or report.converged else f"the {calibrator.method} calibrator did not converge"
    return calibrator, calibrator.apply(test), note


_SCORING = ("form", "normalise", "shots", "shots_seed", "dtype")
_DATA = tuple(TaskOptions.model_fields)


def run_of(adapter: Path | None) -> Run | None:
    """The run that an adapter belongs to (RUN, RUN/adapter/best, RUN/adapter/last); None for one from elsewhere.

    Raises:
        InputError: a run.yaml without a configuration.
    """
    if adapter is None:
        return None
    folder = adapter.parent.parent if adapter.parent.name == "adapter" else adapter
    if not (folder / "run.yaml").is_file():
        return None
    run = Run(folder)
    if not isinstance(run.record.get("config"), dict):
        raise InputError(f"{folder / 'run.yaml'} has no config; expected the output folder of rango finetune")
    return run


def as_the_run(config: EvaluateConfig) -> tuple[EvaluateConfig, tuple[str, ...]]:
    """The evaluation with all that it leaves open done as the adapter's run did it, and a sentence that says so.

    The form, the normalisation, the shots and the type of the weights; on the run's own task also its data, sizes and
    data_seed: another form asks the adapter what it was not trained to answer, and another cut may test on what it was
    trained on. What is given explicitly stays.

    Raises:
        InputError: a run.yaml that cannot be read.
    """
    run = run_of(config.adapter)
    if run is None:
        return config, ()
    there = {**dict(run.config), "form": run.record.get("form") or run.config.form}
    names = (*_SCORING, *(_DATA if _is_task_of(run, config.task) else ()))
    taken = {name: there[name] for name in names if name not in config.model_fields_set}
    told = [f"{name} {value}" for name, value in taken.items() if value != getattr(config, name)]
    complete = EvaluateConfig.build({**config.model_dump(exclude_unset=True), **taken})
    return complete, (f"as in {run.path / 'run.yaml'}: {', '.join(told)}",) if told else ()


def check_data(task: Task, config: EvaluateConfig) -> tuple[str, ...]:
    """Refuse data that hold what the adapter was trained on; returns what should be said of data that are not its own.

    Raises:
        InputError: the run's task has changed since, or is cut in another way and instances to evaluate share a context
            with some that the run has seen. `other_data` lets both pass.
    """
    run = run_of(config.adapter)
    then = run.record.get("fingerprints", {}).get("task") if run is not None else None
    if run is None or then == task.fingerprint:
        return ()
    if not _is_task_of(run, config.task):
        return (f"the adapter of {run.path} was trained on another task, {run.config.task}",)
    if config.other_data:
        return (f"not the data of {run.path}: instances that it was trained on may be among these",)
    asked = _data_of(run)
    if asked is None:
        raise InputError(
            f"{config.task} is not what {run.path} was trained on (fingerprint {then}, now {task.fingerprint}): it has "
            "changed since, and training instances may be among these; put it back, or give --other-data"
        )
    _check_unseen(run, asked, task, config)
    return ()


def _check_unseen(run: Run, trained_on: Task, task: Task, config: EvaluateConfig) -> None:
    # Validation instances chose the checkpoint: they are no test either.
    seen_splits: dict[Split, tuple[Split, ...]] = {
        "train": (),
        "validation": ("train",),
        "test": ("train", "validation"),
    }
    seen = {instance.group for split in seen_splits[config.split] for instance in trained_on.split(split)}
    instances = task.split(config.split)
    shared = sum(instance.group in seen for instance in instances)
    if not shared:
        return
    changed = [name for name in _DATA if getattr(config, name) != getattr(run.config, name)]
    differs = ", ".join(f"{name} is {getattr(config, name)}, there {getattr(run.config, name)}" for name in changed)
    raise InputError(
        f"{shared:,} of the {len(instances):,} {config.split} instances have contexts that {run.path} was trained or "
        f"validated on ({differs}); leave that out to evaluate on its own {config.split} split, or give --other-data"
    )


def _is_task_of(run: Run, name: str) -> bool:
    """Whether a task's name or path means the task of a run; the path of a table may be written in another way."""
    if name in TASKS or run.config.task in TASKS:
        return name == run.config.task
    return _folder(name) == _folder(run.config.task) or _data_of(run, name) is not None


def _folder(table: str) -> Path:
    path = Path(table).resolve()
    return path.parent if path.is_file() else path


def _data_of(run: Run, name: str | None = None) -> Task | None:
    """The task that a run was trained on, loaded again (from `name`, if given); None if it is not there any more."""
    try:
        task = load_task(name or run.config.task, run.config.pick(TaskOptions))
    except InputError:
        return None
    return task if task.fingerprint == run.record.get("fingerprints", {}).get("task") else None


RECORD = "evaluation.yaml"


def write_evaluation(
    model: Model, task: Task, *, out: Path, config: EvaluateConfig, screen: Screen, notes: Sequence[str] = ()
) -> dict[str, dict[str, Estimate]]:
    """Score one split and write posteriors/SPLIT-STATE.parquet, metrics.json and evaluation.yaml.

    STATE is `base`, or `adapted` with an adapter. Metrics are those of a run, for this one state, the prior-only system
    and, where it is known, the true posterior (`floor`). `notes` are said before the scoring.

    Raises:
        InputError: bad data or adapter, data that the adapter's run has seen (see `other_data`), or `out` holds other
            files; nothing is written then.
    """
    _check_files(out, config)
    notes = (*notes, *check_data(task, config))
    fingerprints = {"model": model.fingerprint, "task": task.fingerprint}
    task = few_shot(task, shots=config.shots, seed=config.shots_seed)
    instances = task.split(config.split)
    check_not_empty(instances, shots=config.shots)
    form = config.form or task.default_form
    adapter = load_adapter(model, config.adapter) if config.adapter is not None else None
    try:
        if adapter is not None and config.mc_dropout is not None:
            _check_masks(adapter, config)
        reader = probe_reader(model)
        trees = encode(model, instances, task=task, form=form)
        for note in (*notes, *model.notes, *reader.notes, *task.notes):
            screen.say(f"· {note}")
        screen.say(f"Scoring {config.split} ({len(trees):,} instances) ...")
        dropout = None
        if config.mc_dropout is not None and isinstance(adapter, Adapter):
            screen.say(f"· {config.mc_dropout} passes with the adapter's dropout of {adapter.lora.dropout:g}")
            dropout = DropoutPasses(adapter, config.mc_dropout, config.seed)
        scored = score_split(reader, instances, task=task, options=config, trees=trees, dropout=dropout)
    finally:
        if adapter is not None:
            adapter.remove()
    states = {"base" if adapter is None else "adapted": scored.posteriors}
    floor = true_posteriors(instances)
    if floor is not None:
        states["floor"] = floor
    metrics = measure(states, seed=config.seed)
    for state, posteriors in states.items():
        write_posteriors(out / "posteriors" / f"{config.split}-{state}.parquet", posteriors)
    record = {
        "config": config.model_dump(mode="json"),
        "form": form,
        "fingerprints": fingerprints,
        "versions": versions(),
        "seconds": round(scored.seconds, 2),
        "tokens": scored.tokens,
    }
    if scored.letter_mass is not None:
        record["letter_mass"] = round(scored.letter_mass, 6)
    write_yaml(out / RECORD, record)
    write_json(out / "metrics.json", as_json({config.split: metrics}))
    return metrics


def check_not_empty(instances: Sequence[Instance], *, shots: int) -> None:
    """Raise InputError if the shots left nothing of the training split."""
    if not instances:
        raise InputError(f"the {shots} shots are the whole training split; ask for fewer, or for more instances")


def _check_masks(adapter: TrainableModel, config: EvaluateConfig) -> None:
    if not isinstance(adapter, Adapter):
        raise InputError(
            f"mc_dropout is {config.mc_dropout} but {config.adapter} is a fully fine-tuned model, which has no adapter "
            "whose dropout could be on; leave mc_dropout out"
        )
    check_dropout(adapter)


def _check_files(out: Path, config: EvaluateConfig) -> None:
    if out.is_file():
        raise InputError(f"--out {out} is a file; give a folder that does not exist yet")
    if not holds_files(out):
        return
    if not (out / RECORD).is_file() or read_yaml(out / RECORD).get("config") != config.model_dump(mode="json"):
        raise InputError(f"--out {out} already holds other files; give a folder that does not exist yet")
