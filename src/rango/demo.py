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

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rango.console import Screen
from rango.errors import InputError
from rango.files import holds_files, read_yaml, write_yaml
from rango.language.options import PretrainConfig
from rango.options import FinetuneConfig, LoRA, ScoringOptions, TaskOptions
from rango.tasks import load_task, simulated_narratives
from rango.training.run_folder import Run, RunWriter, check_output

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
    untrained = {"architecture_of": str(base), "seed": seed}
    # All folders are checked before the first minute of work, and before torch is loaded.
    for folder, config in pretraining.items():
        _check_model(folder, PRETRAINED, {"config": config.model_dump(mode="json")})
    _check_model(twin, UNTRAINED, untrained)
    for folder, settings in adapting.items():
        check_output(folder, settings, task)

    from rango.language.pretrain import pretrain
    from rango.models.loading import load_model
    from rango.reports.run.page import write_report
    from rango.scoring.scorer import evaluate
    from rango.training.evaluate import measure
    from rango.training.finetune import finetune

    def adapt(folder: Path) -> Run:
        model = load_model(adapting[folder].model, dtype="float32", device="cpu")
        return finetune(model, task, out=folder, config=adapting[folder], screen=screen)

    narratives = list(simulated_narratives(NARRATIVE_LINES, seed=seed))
    screen.say("1/4  Pre-training a tiny language model on narratives of a simulated world")
    pretrain(narratives, out=base, config=pretraining[base], screen=screen)
    screen.say("2/4  Counting a trigram over the same narratives")
    pretrain(narratives, out=ngram, config=pretraining[ngram], screen=screen)
    screen.say("3/4  Adapting the language model with LoRA to questions about that world")
    run = adapt(out)
    screen.say("4/4  Control: adapting the same model without pre-training")
    _write_untrained(base, twin, untrained)
    # The other models are measured beside the run's own states, on the same resampled instances.
    writer = RunWriter(run.path, run.record)
    scoring = ScoringOptions(form="cloze")
    writer.write_posteriors(
        "ngram", "test", evaluate(load_model(ngram, device="cpu"), task.test, task=task, options=scoring)
    )
    writer.write_posteriors("control", "test", adapt(control).posteriors("adapted"))
    order = ("ngram", "base", "adapted", "calibrated", "control", "floor")
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


def _write_untrained(base: Path, out: Path, record: Mapping[str, Any]) -> None:
    """A model of the same architecture and tokenizer with random weights; it appears when all of it is written."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    if (out / UNTRAINED).is_file():
        return
    work = out.parent / f".{out.name}.unfinished"
    shutil.rmtree(work, ignore_errors=True)
    torch.manual_seed(record["seed"])
    network = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base))  # type: ignore[no-untyped-call]
    AutoTokenizer.from_pretrained(base).save_pretrained(work)
    network.save_pretrained(work)
    write_yaml(work / UNTRAINED, record)
    if out.is_dir():
        out.rmdir()  # it was empty, as checked
    work.rename(out)
