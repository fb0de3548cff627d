"""The main job: adapt a model to a task, keep the best checkpoint, and measure base and adapted on the test split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rango.decisions import Posteriors
from rango.errors import InputError
from rango.models import Adaptation, Model, add_bank, add_full
from rango.scoring import encode, make_reader
from rango.tasks import Task, few_shot
from rango.tasks.task import SPLITS
from rango.training.bank import BankJob, OnValidation, refuse_unbankable
from rango.training.checkpoint import load_state
from rango.training.evaluation import refuse_empty
from rango.training.job import Job, make_members
from rango.training.member import Member
from rango.training.objectives import DivergenceError
from rango.training.options import FinetuneConfig
from rango.training.progress import Screen
from rango.training.ranks import Ranks
from rango.training.run import Run, open_output
from rango.training.signals import SignalGuard


def finetune(
    model: Model,
    task: Task,
    *,
    out: Path | str,
    config: FinetuneConfig | None = None,
    base: Mapping[str, Posteriors] | None = None,
    screen: Screen | None = None,
    on_validation: OnValidation | None = None,
    **overrides: Any,
) -> Run:
    """Adapt `model` to `task`, by LoRA or by full fine-tuning, and write a run directory.

    The model's network is given back as it was.

    Repeating an unfinished run goes on from its last saved state, with the same result as if it had never stopped;
    a finished one is returned as it is.

    Args:
        model: the base model.
        task: with train, validation and test splits.
        out: the run directory.
        config: everything else; built from `overrides` when absent.
        base: the base model's posteriors on `test` and `validation` where they are known; computed when absent.
        screen: where progress is shown; nowhere by default.
        on_validation: called with the step and the validation metrics; where it returns True the run ends there with
            status `pruned`: checkpoints and log are kept, nothing is measured on test. Asked for again, it begins anew.
        **overrides: keys of FinetuneConfig, for example `steps=200, lora={"rank": 4}`.

    Raises:
        InputError: bad configuration or data; nothing is written then.
        DivergenceError: the loss became infinite; the best checkpoint is kept.
        Interrupted: SIGINT or SIGTERM; everything is saved.
    """
    config = config or FinetuneConfig.build(
        {**task.options.model_dump(), "model": model.name, "task": task.name, **overrides}
    )
    job = BankJob(Path(out), config, on_validation)
    state = job.out / "state" / "state.safetensors"
    (run,) = finetune_bank(model, task, [job], state=state, base=base, screen=screen)
    if run.failure is not None:
        raise DivergenceError(run.failure)
    return run


def finetune_bank(
    model: Model,
    task: Task,
    jobs: Sequence[BankJob],
    *,
    state: Path,
    base: Mapping[str, Posteriors] | None = None,
    screen: Screen | None = None,
) -> list[Run]:
    """Train several runs in one pass over one frozen base, each with the result it would have alone.

    Runs that are complete are left as they are. A run whose loss diverges ends with status `failed` (`Run.failure`);
    the others go on. Repeating goes on from `state`, one file for the whole bank, and so ends as if never stopped.

    Args:
        model: the base model.
        task: with train, validation and test splits.
        jobs: where each run goes and its configuration; see `bankable` for what they may differ in.
        state: the file for a resume; removed when the bank is done.
        base: as in `finetune`.
        screen: where progress is shown; nowhere by default.

    Returns:
        The runs, in the order of `jobs`.

    Raises:
        InputError: jobs that cannot be one bank, a state of another bank, bad data; nothing is written then.
        Interrupted: SIGINT or SIGTERM; everything is saved.
    """
    screen = screen or Screen(quiet=True)
    refuse_unbankable(jobs)
    fingerprints = {"model": model.fingerprint, "task": task.fingerprint}
    there = [open_output(job.out, job.config, fingerprints) for job in jobs]
    left = []
    for job, run in zip(jobs, there, strict=True):
        if run is not None and run.complete:
            screen.say(f"{job.out} is complete with this configuration: nothing to do.")
        else:
            left.append((job, run))
    if left:
        _refuse_other_base(base, task)
        _train(model, task, left, state, base or {}, screen)
    return [Run(job.out) for job in jobs]


def _train(
    model: Model,
    task: Task,
    left: Sequence[tuple[BankJob, Run | None]],
    state: Path,
    base: Mapping[str, Posteriors],
    screen: Screen,
) -> None:
    config, fingerprint = left[0][0].config, task.fingerprint
    form = config.form or task.default_form
    # In training the shots are ordinary tokens of every trunk: the adapter changes their keys, so none can be kept.
    task = few_shot(task, shots=config.shots, seed=config.shots_seed)
    refuse_empty(task.train, shots=config.shots)
    for bank_job, _ in left:
        _refuse_undefined_selection(bank_job.config, task)
    reader = make_reader(model)
    trees = {name: encode(model, task.split(name), task=task, form=form) for name in SPLITS}
    ranks = Ranks.current()
    job = Job(model, task, fingerprint, form, reader, trees, screen, ranks)
    adapters: Sequence[Adaptation]
    if config.adaptation == "full":
        adapters = [add_full(model)]
    else:
        adapters = add_bank(model, [(bank_job.config.lora, bank_job.config.seed) for bank_job, _ in left])
    try:
        members = make_members(job, left, adapters)
        _refuse_other_bank(state, members)
        ranks.wait()  # all have looked at what is there before the first writes
        advice = f"the run in {left[0][0].out} is saved; repeat the command to go on"
        with SignalGuard(advice) as guard:
            job.run(members, state, base, guard)
    finally:
        for adapter in adapters:
            adapter.remove()


def _refuse_undefined_selection(config: FinetuneConfig, task: Task) -> None:
    """NCE divides by the entropy of the priors: no checkpoint has one where all right answers stand in one place."""
    labels = {instance.label for instance in task.validation}
    if config.regime != "all" and config.select == "nce" and len(labels) == 1:
        count = len(task.validation)
        who = f"all {count:,} validation instances have" if count > 1 else "the one validation instance has"
        raise InputError(
            f"select is nce, but {who} label {labels.pop()}, so that NCE is undefined; give more validation instances, "
            "or select cross_entropy"
        )


def _refuse_other_bank(state: Path, members: Sequence[Member]) -> None:
    if not state.is_file():
        return
    saved = load_state(state).progress
    missing = [member.writer.path for member in members if member.key not in saved]
    if missing and len(members) == 1:
        raise InputError(
            f"{state} is the state of another run, or of another version's; delete it to begin this run anew"
        )
    if missing:
        raise InputError(
            f"{state} is the state of another bank: it lacks the run of {missing[0]}; give another state file, or the "
            "runs that it was begun with"
        )


def _refuse_other_base(base: Mapping[str, Posteriors] | None, task: Task) -> None:
    for name, posteriors in (base or {}).items():
        if name not in ("test", "validation"):
            raise InputError(f"base has posteriors for {name!r}; expected test and validation")
        ids = tuple(instance.id for instance in task.split(name))
        if posteriors.ids != ids:
            raise InputError(
                f"base posteriors on {name} are of other instances ({len(posteriors.ids)}, the first "
                f"{posteriors.ids[0]!r}) than the task's ({len(ids)}, the first {ids[0]!r}); compute them for this task"
            )
