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

from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from rango.decisions import Posteriors
from rango.files import write_yaml
from rango.models import LoRA, load_model
from rango.reports import write_report
from rango.scoring import ScoringOptions, evaluate
from rango.tasks import Task, TaskOptions, load_task, simulated_narratives
from rango.training import FinetuneConfig, PretrainConfig, Run, Screen, finetune, pretrain
from rango.training.measures import measure
from rango.training.run import RunWriter

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
    """Run the four parts and write OUT/report.html; what is there already is not done again.

    Args:
        out: the run directory of the adapted model; the other parts stand beside it.
        seed: of pre-training, adaptation, and the choice of instances.
        screen: where progress is shown.

    Raises:
        InputError: a folder that holds something else.
        Interrupted: a signal came; repeating goes on.
    """
    screen = screen or Screen(quiet=True)
    task = load_task("simulated", TaskOptions.build({**SIZES, "data_seed": seed}))
    base, ngram, twin = (out.parent / f"{out.name}-{suffix}" for suffix in ("base", "ngram", "control-base"))
    narratives = list(simulated_narratives(NARRATIVE_LINES, seed=seed))
    screen.say("1/4  Pre-training a tiny language model on narratives of a simulated world")
    pretrain(narratives, out=base, config=BASE.model_copy(update={"seed": seed}), screen=screen)
    screen.say("2/4  Counting a trigram over the same narratives")
    pretrain(narratives, out=ngram, config=PretrainConfig(model="ngram", tokenizer=base), screen=screen)
    screen.say("3/4  Adapting the language model with LoRA to questions about that world")
    run = _adapt(base, task, out, seed, screen)
    screen.say("4/4  Control: adapting the same model without pre-training")
    _write_untrained(base, twin, seed=seed)
    control = _adapt(twin, task, out.parent / f"{out.name}-control", seed, screen)
    others = {
        "ngram": evaluate(load_model(ngram, device="cpu"), task.test, task=task, options=ScoringOptions(form="cloze")),
        "control": control.posteriors("adapted"),
    }
    _add_states(run, others, seed)
    write_report(out)
    return Run(out)


def _adapt(base: Path, task: Task, out: Path, seed: int, screen: Screen) -> Run:
    model = load_model(base, dtype="float32", device="cpu")
    config = FinetuneConfig.build(
        {**task.options.model_dump(), **SETTINGS, "model": model.name, "task": task.name, "seed": seed}
    )
    return finetune(model, task, out=out, config=config, screen=screen)


def _write_untrained(base: Path, out: Path, *, seed: int) -> None:
    """A model of the same architecture and tokenizer with random weights."""
    if (out / "config.json").is_file():
        return
    torch.manual_seed(seed)
    network = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base))  # type: ignore[no-untyped-call]
    AutoTokenizer.from_pretrained(base).save_pretrained(out)
    network.save_pretrained(out)
    write_yaml(out / "untrained.yaml", {"architecture_of": str(base), "seed": seed})


def _add_states(run: Run, others: Mapping[str, Posteriors], seed: int) -> None:
    """Measure other models beside the run's own states, on the same resampled instances."""
    writer = RunWriter(run.path, run.record)
    for state, posteriors in others.items():
        writer.write_posteriors(state, "test", posteriors)
    order = ("ngram", "base", "adapted", "calibrated", "control", "floor")
    writer.write_metrics({"test": measure({state: run.posteriors(state) for state in order}, seed=seed)})
