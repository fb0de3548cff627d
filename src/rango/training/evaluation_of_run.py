"""What an evaluation takes from the run that made its adapter. Nothing in this file needs a model.

A mistake in the data or in the adapter's folder is thus found before torch is loaded.
"""

from __future__ import annotations

from pathlib import Path

from rango.decisions import Calibrator, StatedCosts
from rango.errors import InputError
from rango.files import holds_files, read_yaml
from rango.options import EvaluateConfig, Split, TaskOptions
from rango.output_folder import check_links
from rango.tasks import TASKS, Task, load_task
from rango.training.prediction import check_costs
from rango.training.run_folder import RECORD, Run

SCORING_KEYS = ("form", "normalise", "shots", "shots_seed", "dtype", "quantise")
"""What an evaluation takes over from the adapter's run whatever the task."""


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
    run.part("config")
    return run


def as_the_run(config: EvaluateConfig) -> tuple[EvaluateConfig, tuple[str, ...]]:
    """Fill what an evaluation leaves open with what the adapter's run used; a sentence says what that changed.

    These are the model and the task, the form, the normalisation, the shots and the type of the weights, and on the
    run's own task also its data, sizes and data_seed. Another form would ask the adapter what it was not trained to
    answer, and another cut may test on what it was trained on. What is given explicitly stays.

    Raises:
        InputError: a run.yaml that cannot be read; no model or no task, and no run to take them from.
    """
    run = run_of(config.adapter)
    if run is None:
        for name in ("model", "task"):
            if not getattr(config, name):
                where = f"{config.adapter} is an adapter without its run" if config.adapter else "there is no --adapter"
                raise InputError(f"{name.upper()} is missing, and {where}; give MODEL and TASK, or --adapter RUN")
        return config, ()
    named = {name: getattr(run.config, name) for name in ("model", "task") if not getattr(config, name)}
    config = EvaluateConfig.build({**config.model_dump(exclude_unset=True), **named})
    # Where the configuration left the form to the task, the record has the one that was used.
    of_run = {**dict(run.config), "form": run.record.get("form") or run.config.form}
    names = (*SCORING_KEYS, *(TaskOptions.model_fields if _is_task_of(run, config.task) else ()))
    taken = {name: of_run[name] for name in names if name not in config.model_fields_set}
    changed = [f"{name} {value}" for name, value in named.items()]
    changed += [f"{name} {value}" for name, value in taken.items() if value != getattr(config, name)]
    complete = EvaluateConfig.build({**config.model_dump(exclude_unset=True), **taken})
    return complete, (f"as in {run.path / 'run.yaml'}: {', '.join(changed)}",) if changed else ()


def check_data(task: Task, config: EvaluateConfig) -> tuple[str, ...]:
    """Check that the data hold nothing that the adapter was trained on; return a note where they are not its own.

    Raises:
        InputError: the run's task has changed since, or is cut in another way and instances to evaluate share a context
            with some that the run has seen. `other_data` lets both pass.
    """
    # Equal fingerprints mean the same instances in the same splits.
    run = run_of(config.adapter)
    then = run.part("fingerprints").get("task") if run is not None else None
    if run is None or then == task.fingerprint:
        return ()
    if not _is_task_of(run, config.task):
        return (f"the adapter of {run.path} was trained on another task, {run.config.task}",)
    if config.other_data:
        return (f"not the data of {run.path}: instances that it was trained on may be among these",)
    trained_on = _load_task_of(run)
    if trained_on is None:
        raise InputError(
            f"{config.task} is not what {run.path} was trained on (fingerprint {then}, now {task.fingerprint}): it has "
            "changed since, and training instances may be among these; put it back, or give --other-data"
        )
    # Validation instances chose the checkpoint: they are no test either.
    seen_splits: dict[Split, tuple[Split, ...]] = {
        "train": (),
        "validation": ("train",),
        "test": ("train", "validation"),
    }
    seen = {instance.group for split in seen_splits[config.split] for instance in trained_on.split(split)}
    instances = task.split(config.split)
    shared = sum(instance.group in seen for instance in instances)
    if shared:
        changed = [name for name in TaskOptions.model_fields if getattr(config, name) != getattr(run.config, name)]
        differs = ", ".join(f"{name} is {getattr(config, name)}, there {getattr(run.config, name)}" for name in changed)
        raise InputError(
            f"{shared:,} of the {len(instances):,} {config.split} instances have contexts that {run.path} was trained "
            f"or validated on ({differs}); leave that out to evaluate on its own {config.split} split, or give "
            "--other-data"
        )
    return ()


def calibrator_for(task: Task, config: EvaluateConfig) -> tuple[Calibrator | None, tuple[str, ...]]:
    """The calibrator of the adapter's run, where it was fitted for what is evaluated; a note where it was not.

    It belongs to the best checkpoint, to the run's own form and normalisation, and to its task. On the instances that
    it was fitted on, calibrated posteriors would look better than they are.
    """
    run = run_of(config.adapter)
    if run is None or config.adapter is None or not (run.path / "calibrator.json").is_file():
        return None, ()
    form = run.record.get("form") or run.config.form
    why = ""
    if config.adapter.name == "last" and config.adapter.parent.name == "adapter":
        why = "it was fitted for the best checkpoint, and this is the last one"
    elif not _is_task_of(run, config.task):
        why = f"it was fitted for another task, {run.config.task}"
    elif config.split == "validation":
        why = "it was fitted on the validation split, which would flatter it"
    elif config.mc_dropout is not None:
        why = "it was fitted for one pass without dropout"
    elif config.orders > 1:
        why = "it was fitted for one order of the options"
    elif ((config.form or task.default_form), config.normalise) != (form, run.config.normalise):
        why = f"it was fitted for form {form} and normalise {run.config.normalise}"
    if why:
        return None, (f"the calibrator of {run.path} is not applied: {why}",)
    return Calibrator.read(run.path / "calibrator.json"), (f"calibrated by {run.path / 'calibrator.json'}",)


def costs_for(task: Task, config: EvaluateConfig, stated: StatedCosts | None) -> StatedCosts | None:
    """What mistakes cost in an evaluation: what is stated, else what the adapter's run states for its own task.

    Raises:
        InputError: costs that do not fit the choices of the split.
    """
    run = run_of(config.adapter)
    if stated is None and run is not None and _is_task_of(run, config.task):
        stated = run.stated_costs
    if stated is not None:
        check_costs(stated, task.split(config.split))
    return stated


def _is_task_of(run: Run, name: str) -> bool:
    """Whether a task's name or path means the task of a run; the path of a table may be written in another way."""
    if name in TASKS or run.config.task in TASKS:
        return name == run.config.task
    # A table may be given as its folder or as a file in it, or may have been copied elsewhere.
    folders = []
    for table in (name, run.config.task):
        path = Path(table).resolve()
        folders.append(path.parent if path.is_file() else path)
    return folders[0] == folders[1] or _load_task_of(run, name) is not None


def _load_task_of(run: Run, name: str | None = None) -> Task | None:
    """The task that a run was trained on, loaded again (from `name`, if given); None if that gives another or fails."""
    try:
        task = load_task(name or run.config.task, run.config)
    except InputError:
        return None
    return task if task.fingerprint == run.part("fingerprints").get("task") else None


def check_evaluation_output(out: Path, config: EvaluateConfig) -> None:
    """Raise InputError where `out` holds anything but an evaluation with this configuration."""
    if out.is_file():
        raise InputError(f"--out {out} is a file; give a folder that does not exist yet")
    check_links(out)
    if not holds_files(out):
        return
    if not (out / RECORD).is_file() or read_yaml(out / RECORD).get("config") != config.model_dump(mode="json"):
        raise InputError(f"--out {out} already holds other files; give a folder that does not exist yet")
