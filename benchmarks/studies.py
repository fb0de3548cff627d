"""A study of 12 runs against 12 `rango finetune` commands and 12 runs of transformers' Trainer with PEFT.

    python benchmarks/studies.py [--hidden 64] [--layers 2] [--steps 40] [--device cpu]
                                 [--ways off on finetune trainer] [--repeats 1]

Four placements of LoRA with three seeds each, on one task and one small Phi that the script pre-trains. Every side
reads the same instances in the same words, with the same rank, alpha, batch, steps, schedule and loss (the right
answer's tokens), and scores every choice of the test set. The study and each separate run are processes of their own,
as a person would start them; the separate runs are done in halves with the studies between, and everything as often as
--repeats says. On a CPU everything keeps to one core. What a side did beside wall time is shown with it: seconds of
CPU, error rate and NCE over its 12 runs. Rango's runs also score the base and the validation split, choose, calibrate,
bootstrap and write pages; the peer's do none of this. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RANK, ALPHA, BATCH, RATE = 8, 16, 16, 2e-3
PLACEMENTS = {
    "q": ["q_proj"],
    "q,v": ["q_proj", "v_proj"],
    "mlp": ["fc1", "fc2"],
    "q,k,v,o,mlp": ["q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"],
}
SEEDS = (0, 1, 2)
RUNS = [(placement, seed) for placement in PLACEMENTS for seed in SEEDS]


@dataclass
class Side:
    """What one way of doing the 12 runs took, and what it gave."""

    name: str
    wall: float = 0.0
    cpu: float = 0.0
    scores: list[tuple[float, float]] = field(default_factory=list)

    def command(self, words: Sequence[str]) -> None:
        """Run a command and add its time."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        started = time.perf_counter()
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        self.wall += time.perf_counter() - started
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        self.cpu += after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def summary(self) -> dict[str, float]:
        """Seconds, and means over the runs."""
        errors, nces = zip(*self.scores, strict=True)
        return {
            "wall_s": round(self.wall, 1),
            "cpu_s": round(self.cpu, 1),
            "error_rate": round(statistics.mean(errors), 4),
            "nce": round(statistics.mean(nces), 4),
        }


def peer(spec: dict[str, Any]) -> None:
    """One run of Trainer + PEFT, as a person would write it: loss on the right answer, then all choices."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

    device = spec["device"]
    tokenizer = AutoTokenizer.from_pretrained(spec["model"])
    base = AutoModelForCausalLM.from_pretrained(spec["model"], dtype=torch.float32)
    torch.manual_seed(spec["seed"])
    lora = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=PLACEMENTS[spec["placement"]], task_type="CAUSAL_LM")
    model = get_peft_model(base, lora)

    def tokens(trunk: str, branch: str) -> tuple[list[int], int]:
        return tokenizer(trunk + branch)["input_ids"], len(tokenizer(trunk)["input_ids"])

    def pad(rows: Sequence[tuple[list[int], int]]) -> dict[str, torch.Tensor]:
        width = max(len(ids) for ids, _ in rows)
        ids = torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in rows])
        mask = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in rows])
        answer = torch.tensor([[cut <= place < len(ids) for place in range(width)] for ids, cut in rows])
        return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(~answer, -100)}

    data = json.loads(Path(spec["data"]).read_text())
    train = [tokens(each["trunk"], each["branches"][each["label"]]) for each in data["train"]]
    arguments = TrainingArguments(
        output_dir=spec["out"],
        per_device_train_batch_size=BATCH,
        max_steps=spec["steps"],
        learning_rate=RATE,
        lr_scheduler_type="cosine",
        warmup_steps=max(1, round(0.05 * spec["steps"])),
        seed=spec["seed"],
        use_cpu=device == "cpu",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    Trainer(model=model, args=arguments, train_dataset=train, data_collator=pad).train()  # type: ignore[arg-type]

    model.eval()
    paths = [tokens(each["trunk"], branch) for each in data["test"] for branch in each["branches"]]
    scores: list[float] = []
    with torch.inference_mode():
        for start in range(0, len(paths), 4 * BATCH):
            batch = {key: value.to(model.device) for key, value in pad(paths[start : start + 4 * BATCH]).items()}
            labels = batch.pop("labels")[:, 1:]
            terms = model(**batch).logits[:, :-1].log_softmax(dim=-1)
            terms = terms.gather(2, labels.clamp(min=0)[:, :, None])[:, :, 0]
            scores += terms.masked_fill(labels < 0, 0.0).sum(dim=1).tolist()
    width = len(data["test"][0]["branches"])
    rows = torch.tensor(scores, dtype=torch.float64).reshape(-1, width).log_softmax(dim=1)
    Path(spec["out"], "scores.json").write_text(json.dumps(rows.tolist()))


@dataclass
class Bench:
    """The folder of the benchmark: model, data, and the results of each side."""

    folder: Path
    arguments: argparse.Namespace

    def __post_init__(self) -> None:
        """Pre-train the model and put the task into words."""
        from rango.console import Screen
        from rango.language.options import PretrainConfig
        from rango.language.pretrain import pretrain
        from rango.tasks import load_task, simulated_narratives

        asked = self.arguments
        sizes = {"hidden": asked.hidden, "layers": asked.layers, "heads": 4, "vocabulary": 800, "context": 128}
        rates = {"batch_tokens": 1024, "learning_rate": 3e-3, "dtype": "float32", "device": asked.device}
        config = PretrainConfig.build({**sizes, **rates, "tokens": asked.pretrain_tokens})
        self.model = pretrain(
            simulated_narratives(20_000), out=self.folder / "model", config=config, screen=Screen(quiet=True)
        )
        self.sizes = {"train": asked.train, "validation": 50, "test": asked.test}
        self.task = load_task("simulated", **self.sizes)
        self.data = self.folder / "data.json"
        self.data.write_text(json.dumps({split: self._words(split) for split in ("train", "test")}))

    def _words(self, split: Any) -> list[dict[str, Any]]:
        prompts = [(self.task.prompt(each, "cloze"), each.label) for each in self.task.split(split)]
        return [{"trunk": prompt.trunk, "branches": prompt.branches, "label": label} for prompt, label in prompts]

    def keys(self) -> dict[str, Any]:
        """The configuration that all runs share, as keys of `rango finetune`."""
        steps = self.arguments.steps
        keys = {"form": "cloze", "normalise": "none", "objective": "answer", **self.sizes, "steps": steps}
        keys |= {"batch": BATCH, "learning_rate": RATE, "validate_every": steps}
        return {**keys, "dtype": "float32", "device": self.arguments.device}

    def study(self, side: Side, bank: str, repeat: int) -> None:
        """The 12 runs as one study."""
        base = {"model": str(self.model), "task": "simulated", **self.keys(), "lora": {"rank": RANK, "alpha": ALPHA}}
        study = {"name": "twelve", "base": base, "vary": {"lora.targets": list(PLACEMENTS)}, "seeds": list(SEEDS)}
        file, out = self.folder / "twelve.yaml", self.folder / f"study-{bank}-{repeat}"
        file.write_text(json.dumps(study))
        side.command([*RANGO, "study", str(file), "--out", str(out), "--bank", bank, "--quiet"])
        side.scores = [self.rango_scores(run) for run in sorted((out / "runs").iterdir())]

    def finetune(self, side: Side, runs: Sequence[tuple[str, int]]) -> None:
        """Some of the 12 as separate commands."""
        flags = [f"--{key.replace('_', '-')}={value}" for key, value in self.keys().items()]
        flags += [f"--lora.rank={RANK}", f"--lora.alpha={ALPHA}", "--quiet"]
        for placement, seed in runs:
            out = self.folder / f"finetune-{placement}-{seed}"
            shutil.rmtree(out, ignore_errors=True)
            words = ["finetune", str(self.model), "simulated", "--out", str(out)]
            side.command([*RANGO, *words, *flags, f"--lora.targets={placement}", f"--seed={seed}"])
            side.scores.append(self.rango_scores(out))

    def trainer(self, side: Side, runs: Sequence[tuple[str, int]]) -> None:
        """Some of the 12 with Trainer + PEFT."""
        from rango.decisions import Posteriors

        labels = [each.label for each in self.task.test]
        for placement, seed in runs:
            out = self.folder / f"peer-{placement}-{seed}"
            spec = {"model": str(self.model), "data": str(self.data), "out": str(out), "placement": placement}
            spec |= {"seed": seed, "steps": self.arguments.steps, "device": self.arguments.device}
            side.command([sys.executable, __file__, "--peer", json.dumps(spec)])
            scores = json.loads((out / "scores.json").read_text())
            measured = Posteriors(scores, labels)
            side.scores.append((measured.error_rate(), measured.nce()))

    def rango_scores(self, run: Path) -> tuple[float, float]:
        """Error rate and NCE of the adapted model on test, from a run's posteriors."""
        from rango.decisions import read_posteriors

        adapted = read_posteriors(run / "posteriors" / "test-adapted.parquet")
        return adapted.error_rate(), adapted.nce()


RANGO = [sys.executable, "-c", "import sys; from rango.cli import main; sys.exit(main())"]


WAYS = {
    "off": "study, banks off",
    "on": "study, banks on",
    "finetune": "rango finetune x 12",
    "trainer": "Trainer + PEFT x 12",
}


def measure(bench: Bench, repeat: int) -> dict[str, Side]:
    """The chosen ways once each, the separate runs in halves with the studies between."""
    sides = {way: Side(WAYS[way]) for way in bench.arguments.ways}
    half = RUNS[::2], RUNS[1::2]
    turns: list[tuple[str, Callable[[Side], None]]] = [
        ("finetune", lambda side: bench.finetune(side, half[0])),
        ("off", lambda side: bench.study(side, "off", repeat)),
        ("trainer", lambda side: bench.trainer(side, half[0])),
        ("on", lambda side: bench.study(side, "on", repeat)),
        ("finetune", lambda side: bench.finetune(side, half[1])),
        ("trainer", lambda side: bench.trainer(side, half[1])),
    ]
    for way, turn in turns:
        if way in sides:
            turn(sides[way])
            print(f"  {way}: load {os.getloadavg()[0]:.1f}, {time.strftime('%H:%M:%S')}", file=sys.stderr, flush=True)
    return sides


def show(repeats: Sequence[dict[str, Side]], arguments: argparse.Namespace) -> dict[str, Any]:
    """A table of the medians over the repeats; returns them."""
    print(f"hidden {arguments.hidden}, {arguments.layers} layers, 12 runs of {arguments.steps} steps of {BATCH},")
    print(f"{arguments.train} training and {arguments.test} test instances, {len(repeats)} times")
    print(f"{'':22}{'wall s':>8}{'CPU s':>8}{'error':>8}{'NCE':>8}{'finetune x 12 /':>17}{'Trainer x 12 /':>16}")
    result: dict[str, Any] = {}
    for way in arguments.ways:
        summaries = [sides[way].summary() for sides in repeats]
        figures = {key: round(statistics.median(each[key] for each in summaries), 4) for key in summaries[0]}
        for other in ("finetune", "trainer"):
            if other in arguments.ways:
                ratios = [sides[other].wall / sides[way].wall for sides in repeats]
                figures[f"{other}_ratio"] = round(statistics.median(ratios), 2)
        result[way] = figures
        print(
            f"{WAYS[way]:22}{figures['wall_s']:8.1f}{figures['cpu_s']:8.1f}{figures['error_rate']:8.3f}"
            f"{figures['nce']:8.3f}{figures.get('finetune_ratio', math.nan):17.2f}"
            f"{figures.get('trainer_ratio', math.nan):16.2f}"
        )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--train", type=int, default=600)
    parser.add_argument("--test", type=int, default=300)
    parser.add_argument("--pretrain-tokens", type=int, default=300_000)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peer:
        peer(json.loads(arguments.peer))
        return
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    if arguments.device == "cpu":
        # One core for this process and all that it starts: no side is helped by threads of its own.
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        os.environ |= {"OMP_NUM_THREADS": "1"}
    from measuring import conditions, record

    setting = conditions(dtype="float32", device=arguments.device)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), arguments)
        repeats = [measure(bench, repeat) for repeat in range(arguments.repeats)]
    del arguments.peer
    record("studies", {**vars(arguments), **show(repeats, arguments)}, setting)


if __name__ == "__main__":
    main()
