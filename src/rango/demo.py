"""The whole job on the embedded default: a simulated task whose true posterior is known, and a model made in place.

    1. pre-train a tiny Phi on narratives of the simulated world         OUT-base/
    2. count a trigram over the same narratives and tokens               OUT-ngram/
    3. adapt the first with LoRA to questions about that world           OUT/
    4. adapt a twin that was never pre-trained, as a control             OUT-control-base/, OUT-control/

The trigram tells what the last two tokens give away. The control tells what LoRA teaches from what it elicits: it has
the same questions, steps and trainable parameters.
Budgets are in tokens and steps, not seconds, so that the result depends on the seed and not on the machine's speed.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from pathlib import Path
from typing import Any

from rango.console import Screen, SignalGuard, end_with_parent
from rango.errors import InputError
from rango.files import holds_files, read_yaml, write_yaml
from rango.language.options import PretrainConfig
from rango.options import FinetuneConfig, LoRA, ScoringOptions, TaskOptions
from rango.tasks import Task, load_task, simulated_narratives
from rango.training.run_folder import Run
from rango.training.run_writer import RunWriter, check_output

PRETRAINED, UNTRAINED = "pretrain.yaml", "untrained.yaml"  # the records of the models
NARRATIVE_LINES = 70_000
SIZES = {"train": 5000, "validation": 300, "test": 2000}
BASE = PretrainConfig(
    hidden=96,
    layers=3,
    heads=4,
    vocabulary=800,
    context=128,
    tokens=1_300_000,
    batch_tokens=1024,
    learning_rate=3e-3,
    dtype="float32",
    device="cpu",
)
SETTINGS = {
    "form": "cloze",
    "objective": "answer",
    "learning_rate": 2e-3,
    "steps": 800,
    "batch": 16,
    "validate_every": 80,
    "lora": LoRA(rank=8, targets=("q", "k", "v", "o", "mlp")),
    "dtype": "float32",
    "device": "cpu",
}


def run_demo(out: Path, *, seed: int = 0, screen: Screen | None = None) -> Run:
    """Run the four parts and write OUT/report.html; a part that is complete already is not done again.

    The control needs nothing of the other parts, so a second process makes it meanwhile where there is a second core.

    Args:
        out: the run directory of the adapted model; the other parts stand beside it.
        seed: of pre-training, adaptation, and the choice of instances.
        screen: where progress is shown.

    Raises:
        InputError: one of the folders holds something else; nothing is done then.
        Interrupted: a signal came; repeating goes on.
    """
    screen = screen or Screen(quiet=True)
    task = load_task("simulated", TaskOptions.build({**SIZES, "data_seed": seed}))
    base, ngram, twin, control = (
        out.parent / f"{out.name}-{part}" for part in ("base", "ngram", "control-base", "control")
    )
    pretraining = {base: BASE.model_copy(update={"seed": seed}), ngram: PretrainConfig(model="ngram", tokenizer=base)}
    options = {**task.options.model_dump(), **SETTINGS, "task": task.name, "seed": seed}
    adapting = {run: FinetuneConfig.build({**options, "model": str(of)}) for run, of in ((out, base), (control, twin))}
    # All folders are checked before the first minute of work, and before torch is loaded.
    for folder, config in pretraining.items():
        _check_model(folder, PRETRAINED, {"config": config.model_dump(mode="json")})
    _check_model(twin, UNTRAINED, _untrained_record(pretraining[base]))
    for folder, settings in adapting.items():
        check_output(folder, settings, task)

    from rango.language.pretrain import pretrain
    from rango.models.loading import load_model
    from rango.reports.run.page import write_report
    from rango.scoring.scorer import evaluate
    from rango.training.measurement import measure

    narratives = list(simulated_narratives(NARRATIVE_LINES, seed=seed))
    making_control = (task, control, adapting[control], pretraining[base], narratives)
    with _in_another_process(_make_control, making_control) as wait:
        screen.say("1/4  Pre-training a tiny language model on narratives of a simulated world")
        pretrain(narratives, out=base, config=pretraining[base], screen=screen)
        screen.say("2/4  Counting a trigram over the same narratives")
        pretrain(narratives, out=ngram, config=pretraining[ngram], screen=screen)
        screen.say("3/4  Adapting the language model with LoRA to questions about that world")
        run = _adapt(task, out, adapting[out], screen)
        screen.say("4/4  Control: adapting the same model without pre-training")
        with SignalGuard("repeat the command to go on"):
            wait()
    # What the other process has not done is done here, with its progress and its errors on the screen.
    done = (control / "run.yaml").is_file() and Run(control).complete
    if done:
        screen.say(f"· {control} is made already")
    control_run = _make_control(*making_control, screen=None if done else screen)
    # The other models are measured beside the run's own states, on the same resampled instances.
    writer = RunWriter(run.path, run.record)
    scoring = ScoringOptions(form="cloze")
    counted = evaluate(load_model(ngram, device="cpu"), task.test, task=task, options=scoring)
    order = ("ngram", "base", "adapted", "calibrated", "control", "floor")
    with writer.amending():
        writer.write_posteriors("ngram", "test", counted)
        writer.write_posteriors("control", "test", control_run.posteriors("adapted"))
        writer.write_metrics({"test": measure({state: run.posteriors(state) for state in order}, seed=seed)})
    write_report(out)
    return Run(out)


def _check_model(folder: Path, record: str, expected: Mapping[str, Any]) -> None:
    """Raise InputError if the demo could neither write a model into the folder nor go on with the one in it."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file, where the demo writes a model; give another --out")
    if not holds_files(folder):
        return
    stored = read_yaml(folder / record) if (folder / record).is_file() else {}
    for key, value in expected.items():
        if stored.get(key) != value:
            raise InputError(
                f"{folder}, where the demo writes a model, already holds something else or that of another seed; give "
                "another --out, or delete it"
            )


@contextmanager
def _in_another_process(target: Callable[..., object], arguments: Sequence[object]) -> Iterator[Callable[[], None]]:
    """Begin work that can be repeated in a process of its own, if a core is free for it; gives what waits for its end.

    The process ends with the block, also by an error or a signal, and with this process. What it has not done by then,
    and what went wrong in it, is left to the caller, who does the same work again and so goes on with it.
    """
    if len(os.sched_getaffinity(0)) < 2:
        yield lambda: None
        return
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_work_quietly, args=(os.getpid(), target, arguments), daemon=True)
    process.start()
    try:
        yield process.join
    finally:
        process.terminate()
        process.join()


def _work_quietly(parent: int, target: Callable[..., object], arguments: Sequence[object]) -> None:
    end_with_parent(parent)
    with Path(os.devnull).open("w") as nowhere, redirect_stderr(nowhere), suppress(Exception, KeyboardInterrupt):
        target(*arguments)


def _make_control(
    task: Task,
    out: Path,
    config: FinetuneConfig,
    pretraining: PretrainConfig,
    narratives: Sequence[str],
    *,
    screen: Screen | None = None,
) -> Run:
    """Adapt the network with which pre-training begins: the same tokenizer, architecture and random weights."""
    from rango.language.corpus import end_of_text, make_tokenizer, read_sources
    from rango.language.networks import build_network

    twin = Path(config.model)
    if not (twin / UNTRAINED).is_file():
        work = twin.parent / f".{twin.name}.unfinished"
        shutil.rmtree(work, ignore_errors=True)
        tokenizer = make_tokenizer(pretraining, read_sources(narratives))
        sized = pretraining.model_copy(update={"vocabulary": len(tokenizer)})
        build_network(sized, end_of_text=end_of_text(tokenizer)).save_pretrained(work)
        tokenizer.save_pretrained(work)
        write_yaml(work / UNTRAINED, _untrained_record(pretraining))
        if twin.is_dir():
            twin.rmdir()  # it was empty, as checked
        work.rename(twin)  # the model appears when all of it is written
    return _adapt(task, out, config, screen or Screen(quiet=True))


def _untrained_record(pretraining: PretrainConfig) -> dict[str, Any]:
    return {"untrained": pretraining.model_dump(mode="json")}


def _adapt(task: Task, out: Path, config: FinetuneConfig, screen: Screen) -> Run:
    from rango.models.loading import load_model
    from rango.training.finetune import finetune

    model = load_model(config.model, dtype="float32", device="cpu")
    return finetune(model, task, out=out, config=config, screen=screen)
