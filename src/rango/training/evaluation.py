"""`rango evaluate`: posteriors and metrics of a model on one split, written to a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rango.decisions import Estimate, write_posteriors
from rango.errors import InputError
from rango.files import holds_files, read_yaml, write_json, write_yaml
from rango.models import Adaptation, Adapter, Model, load_adapter
from rango.scoring import encode, make_reader, mean_posteriors, score, score_samples
from rango.scoring.dropout import refuse_no_dropout
from rango.tasks import Instance, Task, few_shot
from rango.training.evaluation_of_run import refuse_other_data
from rango.training.measures import measure, true_posteriors
from rango.training.options import EvaluateConfig
from rango.training.progress import Screen
from rango.training.run import as_json, versions

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
    _refuse_other_files(out, config)
    notes = (*notes, *refuse_other_data(task, config))
    fingerprints = {"model": model.fingerprint, "task": task.fingerprint}
    task = few_shot(task, shots=config.shots, seed=config.shots_seed)
    instances = task.split(config.split)
    refuse_empty(instances, shots=config.shots)
    form = config.form or task.default_form
    adapter = load_adapter(model, config.adapter) if config.adapter is not None else None
    try:
        if adapter is not None and config.mc_dropout is not None:
            _refuse_no_masks(adapter, config)
        reader = make_reader(model)
        trees = encode(model, instances, task=task, form=form)
        for note in (*notes, *model.notes, *reader.notes, *task.notes):
            screen.say(f"· {note}")
        screen.say(f"Scoring {config.split} ({len(trees):,} instances) ...")
        if config.mc_dropout is None or not isinstance(adapter, Adapter):
            samples = [score(reader, trees, options=config, form=form)]
        else:
            screen.say(f"· {config.mc_dropout} passes with the adapter's dropout of {adapter.lora.dropout:g}")
            samples = score_samples(
                reader, trees, adapter=adapter, samples=config.mc_dropout, seed=config.seed, options=config, form=form
            )
    finally:
        if adapter is not None:
            adapter.remove()
    states = {"base" if adapter is None else "adapted": mean_posteriors(samples, instances)}
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
        "seconds": round(sum(scores.seconds for scores in samples), 2),
        "tokens": sum(scores.tokens for scores in samples),
    }
    masses = [float(scores.letter_mass.mean()) for scores in samples if scores.letter_mass is not None]
    if masses:
        record["letter_mass"] = round(sum(masses) / len(masses), 6)
    write_yaml(out / RECORD, record)
    write_json(out / "metrics.json", as_json({config.split: metrics}))
    return metrics


def refuse_empty(instances: Sequence[Instance], *, shots: int) -> None:
    """Raise InputError if the shots left nothing of the training split."""
    if not instances:
        raise InputError(f"the {shots} shots are the whole training split; ask for fewer, or for more instances")


def _refuse_no_masks(adapter: Adaptation, config: EvaluateConfig) -> None:
    if not isinstance(adapter, Adapter):
        raise InputError(
            f"mc_dropout is {config.mc_dropout} but {config.adapter} is a fully fine-tuned model, which has no adapter "
            "whose dropout could be on; leave mc_dropout out"
        )
    refuse_no_dropout(adapter)


def _refuse_other_files(out: Path, config: EvaluateConfig) -> None:
    if out.is_file():
        raise InputError(f"--out {out} is a file; give a folder that does not exist yet")
    if not holds_files(out):
        return
    if not (out / RECORD).is_file() or read_yaml(out / RECORD).get("config") != config.model_dump(mode="json"):
        raise InputError(f"--out {out} already holds other files; give a folder that does not exist yet")
