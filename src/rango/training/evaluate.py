"""`rango evaluate`: posteriors and metrics of a model on one split, with or without an adapter."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rango.console import Screen
from rango.decisions import Estimate, Posteriors, StatedCosts
from rango.errors import InputError
from rango.models.adapter import Adapter
from rango.models.loading import Model
from rango.models.peft_format import load_adapter
from rango.options import EvaluateConfig
from rango.output_folder import only_writer
from rango.scoring.orders import score_orders
from rango.scoring.probe import probe_reader
from rango.scoring.scorer import DropoutPasses, as_posteriors, check_dropout, score_split
from rango.scoring.trees import encode
from rango.tasks import Instance, Task, few_shot, true_log_posteriors
from rango.tasks.perturbations import check_orders
from rango.tasks.task import unlabelled
from rango.tasks.text_runs import pretraining_notes
from rango.training.distributed import ProcessGroup
from rango.training.evaluation_of_run import calibrator_for, check_data, check_evaluation_output
from rango.training.measurement import measure
from rango.training.run_writer import versions, write_evaluated
from rango.training.sharding import check_passes


def write_evaluation(
    model: Model,
    task: Task,
    *,
    out: Path,
    config: EvaluateConfig,
    screen: Screen,
    notes: Sequence[str] = (),
    costs: StatedCosts | None = None,
) -> dict[str, dict[str, Estimate]]:
    """Score one split and write posteriors/SPLIT-STATE.parquet, metrics.json and evaluation.yaml.

    STATE is `base`, or `adapted` with an adapter, and `calibrated` where the adapter's run has a calibrator for what is
    evaluated. Metrics are those of a run, for these states, the prior-only system and, where it is known, the true
    posterior (`floor`). `notes` are shown before the scoring. `costs` of decisions are kept in evaluation.yaml.

    Several processes share the scoring (`launched`); the main one measures and writes, and the others return nothing.

    Raises:
        InputError: bad data or adapter, data that the adapter's run has seen (see `other_data`), or `out` holds other
            files; nothing is written then.
    """
    check_evaluation_output(out, config)
    with only_writer(out) if ProcessGroup.current().is_main else contextlib.nullcontext():
        return _write_evaluation(model, task, out=out, config=config, screen=screen, notes=notes, costs=costs)


def _write_evaluation(
    model: Model,
    task: Task,
    *,
    out: Path,
    config: EvaluateConfig,
    screen: Screen,
    notes: Sequence[str],
    costs: StatedCosts | None,
) -> dict[str, dict[str, Estimate]]:
    check_evaluation_output(out, config)  # again: its last writer may have ended only now
    notes = (*notes, *check_data(task, config))
    check_orders(config.orders, config.form or task.default_form)
    calibrator, about_calibration = calibrator_for(task, config)
    fingerprints = {"model": model.fingerprint, "task": task.fingerprint}
    # The shots leave the training split, so its instances are those of the task that has them in its prompts.
    task = few_shot(task, shots=config.shots, seed=config.shots_seed)
    instances = task.split(config.split)
    check_not_empty(instances, shots=config.shots)
    notes = (*notes, *pretraining_notes(model.name, instances, split=config.split))
    form = config.form or task.default_form
    adapter = load_adapter(model, config.adapter) if config.adapter is not None else None
    try:
        dropout = None
        if config.mc_dropout is not None:
            if not isinstance(adapter, Adapter):
                raise InputError(
                    f"mc_dropout is {config.mc_dropout} but {config.adapter} is a fully fine-tuned model, which has no "
                    "adapter whose dropout could be on; leave mc_dropout out"
                )
            check_dropout(adapter)
            dropout = DropoutPasses(adapter, config.mc_dropout, config.seed)
        reader = probe_reader(model)
        trees = encode(model, instances, task=task, form=form)
        check_passes(reader, trees, ProcessGroup.current())
        notes = (*notes, *about_calibration)
        # Everything that can be refused has been: only now is anything shown.
        if unlabelled(instances):
            notes = (*notes, "the instances have no labels: posteriors are written, and nothing is measured")
        for note in (*notes, *model.notes, *(adapter.notes if adapter else ()), *reader.notes, *task.notes):
            screen.say(f"· {note}")
        screen.say(f"Scoring {config.split} ({len(trees):,} instances) ...")
        if dropout is not None:
            screen.say(f"· {dropout.count} passes with the adapter's dropout of {dropout.adapter.lora.dropout:g}")
        if config.orders > 1:
            screen.say(f"· up to {config.orders} passes: the mean over orders of the options")
        processes = ProcessGroup.current()
        score = partial(score_split, dropout=dropout, scorer=processes.score)
        scored = score_orders(
            reader, instances, task=task, options=config, orders=config.orders, seed=config.seed, trees=trees,
            screen=screen, score=score,
        )  # fmt: skip
    finally:
        if adapter is not None:
            adapter.remove()
    if not processes.is_main:
        return {}
    states = {"base" if adapter is None else "adapted": scored.posteriors}
    if calibrator is not None:
        states["calibrated"] = calibrator.apply(scored.posteriors)
    floor = true_posteriors(instances)
    if floor is not None:
        states["floor"] = floor
    metrics = {} if unlabelled(instances) else measure(states, seed=config.seed, costs=costs)
    # Write only now that everything is computed: an evaluation is whole or begun anew.
    record = {
        "status": "running",
        "config": config.model_dump(mode="json"),
        "form": form,
        "fingerprints": fingerprints,
        "versions": versions(),
        "seconds": round(scored.seconds, 2),
        "tokens": scored.tokens,
        **({} if costs is None else {"costs": costs.as_dict()}),
    }
    if scored.letter_mass is not None:
        record["letter_mass"] = round(scored.letter_mass, 6)
    write_evaluated(out, record, states, metrics, task=task, split=config.split)
    return metrics


def check_not_empty(instances: Sequence[Instance], *, shots: int) -> None:
    """Raise InputError if the split holds no instances, or the shots left none of it."""
    if not instances and not shots:
        raise InputError("the split holds no instances; give a table that has rows of it")
    if not instances:
        raise InputError(f"the {shots} shots are the whole training split; ask for fewer, or for more instances")


def true_posteriors(instances: Sequence[Instance]) -> Posteriors | None:
    """The posteriors that the instances' labels were drawn from; None where they are not known."""
    if any(instance.log_posterior is None for instance in instances):
        return None
    return as_posteriors(true_log_posteriors(instances), instances)
