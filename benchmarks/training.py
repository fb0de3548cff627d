"""Steps of LoRA against transformers' Trainer with PEFT: the same network, the same instances in the same batches.

    python benchmarks/training.py [--task socialiqa --data DIR] [--model FOLDER] [--objectives choice answer tokens]
                                  [--rounds 5] [--steps 4] [--threads 2] [--dtype float32] [--device cpu]

Without --model: Phi's architecture (hidden 512, 8 layers, vocabulary 51,200) with random weights and a tokenizer made
from the task's own words. LoRA of rank 8 on q and v, letter form, batches of 16 instances sorted by length. The peer
gets every batch as Rango made it, padded to its longest row, and reads trunk and right answer: with the loss on the
answer beside `choice` and `answer`, on every token beside `tokens`. Rounds alternate; the first step of each warms up
and is not counted. The losses of both sides on the first batch, before any update, show whether the work is the same
(`choice` is a loss of its own). Share: 4 FLOP for each frozen weight of a layer and token read, and for each weight of
the head and scored position, against the rate at which the machine multiplies matrices. Peaks of memory are those of
processes of their own, beyond what they held before the network. Ends with one line of JSON, which is also
appended to benchmarks/results/training.json.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from measuring import conditions, matrix_rate, record, synchronise
from memory import largest_resident_set
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, PhiConfig, PreTrainedTokenizerFast

from rango.models.adapter import add_bank
from rango.models.loading import Model, load_model
from rango.options import FinetuneConfig
from rango.scoring.probe import probe_reader
from rango.scoring.trees import TokenTree, encode
from rango.tasks import Task, load_task
from rango.training.objectives import SCORED
from rango.training.run_writer import RunWriter
from rango.training.schedule import BatchPlan
from rango.training.trainer import accumulate_gradients
from rango.training.training_run import BankData, TrainingRun

BATCH = 16


def write_model(folder: Path, task: Task) -> None:
    """A Phi with random weights, and a tokenizer of 8,000 tokens from the task's training instances."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 8, "num_attention_heads": 8}
    config = PhiConfig(**sizes, vocab_size=51_200, attn_implementation="sdpa")
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    prompts = (task.prompt(instance, "letter") for instance in task.train)
    texts = (prompt.trunk + prompt.branches[0] for prompt in prompts)
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=8000, initial_alphabet=alphabet))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)


class RangoSide:
    """The trainer's own step, on batches in their order."""

    def __init__(self, model: Model, trees: Sequence[TokenTree], objective: str, folder: str, dtype: str) -> None:
        config = FinetuneConfig.build(
            {"model": "m", "task": "t", "objective": objective, "steps": 10_000, "dtype": dtype}
        )
        (adapter,) = add_bank(model, [(config.lora, 0)])
        self.reader = probe_reader(model)
        data = BankData(self.reader, "letter", trees, trees, ())
        self.run = TrainingRun("run", config, adapter, RunWriter(Path(folder), {}), data)

    def steps(self, batches: Sequence[Sequence[TokenTree]]) -> tuple[list[float], list[float], float]:
        """Seconds and seconds of processor of each step, and the first loss."""
        losses, wall, cpu = [], [], []
        for trees in batches:
            started = time.perf_counter(), time.process_time()
            (loss,) = accumulate_gradients(self.reader, [self.run], [trees])
            self.run.update(loss, trees)
            synchronise()
            wall.append(time.perf_counter() - started[0])
            cpu.append(time.process_time() - started[1])
            losses.append(loss)
        return wall, cpu, losses[0]


def step_clock(wall: list[float], cpu: list[float], losses: list[float]) -> Any:
    """A callback for a Trainer that appends the seconds, the seconds of processor and the loss of each step."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.started = time.perf_counter(), time.process_time()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            synchronise()
            wall.append(time.perf_counter() - self.started[0])
            cpu.append(time.process_time() - self.started[1])

        def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
            if "loss" in logs:
                losses.append(logs["loss"])

    return Clock()


class PeerSide:
    """transformers' Trainer with PEFT's LoRA, given whole batches."""

    def __init__(self, folder: str, objective: str, dtype: str, device: str) -> None:
        from peft import LoraConfig, get_peft_model

        self.every_token, self.device = objective == "tokens", device
        network = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).to(device)
        lora = LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
        self.network = get_peft_model(network, lora)

    def _collate(self, batches: Sequence[Sequence[TokenTree]]) -> dict[str, torch.Tensor]:
        rows = [([*tree.trunk, *tree.branches[tree.answer]], len(tree.trunk)) for tree in batches[0]]
        width = max(len(ids) for ids, _ in rows)
        ids = torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in rows])
        mask = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in rows])
        first = [0 if self.every_token else cut for _, cut in rows]
        scored = torch.tensor(
            [[at <= place < len(ids) for place in range(width)] for at, (ids, _) in zip(first, rows, strict=True)]
        )
        return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(~scored, -100)}

    def steps(self, batches: Sequence[Sequence[TokenTree]]) -> tuple[list[float], list[float], float]:
        """As the other side."""
        from transformers import Trainer, TrainingArguments

        wall: list[float] = []
        cpu: list[float] = []
        losses: list[float] = []
        arguments = TrainingArguments(
            output_dir=tempfile.mkdtemp(),
            per_device_train_batch_size=1,  # of whole batches
            max_steps=len(batches),
            learning_rate=2e-4,
            logging_steps=1,
            train_sampling_strategy="sequential",
            use_cpu=self.device == "cpu",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
        )
        arguments.logging_nan_inf_filter = False
        trainer = Trainer(
            model=self.network,
            args=arguments,
            train_dataset=list(batches),  # type: ignore[arg-type]
            data_collator=self._collate,
            callbacks=[step_clock(wall, cpu, losses)],
        )
        # The Trainer prints what it logs.
        stdout, sys.stdout = sys.stdout, open(os.devnull, "w")  # noqa: PTH123, SIM115
        try:
            trainer.train()
        finally:
            sys.stdout = stdout
        return wall, cpu, losses[0]


def work(model: Model, reader: Any, batches: Sequence[Sequence[TokenTree]], objective: Any) -> list[tuple[int, float]]:
    """Tokens that each batch holds without padding, and the FLOP that its frozen weights take."""
    network: Any = model.network
    layers = sum(
        p.numel() for name, p in network.named_parameters() if p.ndim == 2 and ".layers." in name and "lora" not in name
    )
    head = network.get_output_embeddings().weight.numel()
    counts = []
    for trees in batches:
        batch = reader.collate(trees, read=SCORED[objective], as_trees=all(reader.as_tree(tree) for tree in trees))
        one_token = all(len(branch) == 1 for tree in trees for branch in tree.branches)
        columns = 0 if objective == "choice" and one_token else len(batch.rows)  # rows of the head for letters are few
        counts.append((batch.token_count, 4.0 * layers * batch.token_count + 4.0 * head * columns))
    return counts


def peak(args: argparse.Namespace, side: str, objective: str) -> int:
    """MiB that a process of its own took beyond its start, for one side and three steps of the longest batches."""
    words = [sys.executable, __file__, "--peak", side, "--objectives", objective, "--model", args.model]
    words += ["--task", args.task, "--dtype", args.dtype, "--threads", str(args.threads), "--device", args.device]
    words += ["--data", args.data] if args.data else []
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1])


def compare(args: argparse.Namespace, task: Task, objective: str) -> dict[str, Any]:
    """Both sides in alternating rounds."""
    model = load_model(args.model, dtype=args.dtype, device=args.device)
    trees = encode(model, task.train, task=task, form="letter")
    plan = BatchPlan([len(tree.trunk) for tree in trees], batch=BATCH, batch_tokens=None, seed=0)
    batches = [[trees[number] for number in numbers] for numbers in plan.epoch(0)]
    rounds = [batches[at * args.steps : (at + 1) * args.steps] for at in range(args.rounds)]
    mine = RangoSide(model, trees, objective, tempfile.mkdtemp(), args.dtype)
    peer = PeerSide(args.model, objective, args.dtype, args.device)
    rate = matrix_rate(args.dtype, args.device)
    counts = work(model, mine.reader, [batch for part in rounds for batch in part[1:]], objective)
    result: dict[str, Any] = {"objective": objective, "matrix_gflops": round(rate / 1e9)}
    for name, side in (("rango", mine), ("peer", peer)):
        result[name] = {"wall": [], "cpu": [], "side": side}
    for part in rounds:
        for name in ("rango", "peer"):
            wall, cpu, loss = result[name]["side"].steps(part)
            result[name]["wall"] += wall[1:]
            result[name]["cpu"] += cpu[1:]
            result[name].setdefault("first_loss", round(loss, 4))
    for name in ("rango", "peer"):
        row = result[name]
        del row["side"]
        seconds, processor = row.pop("wall"), row.pop("cpu")
        row["instances_per_s"] = round(BATCH / statistics.median(seconds), 2)
        row["tokens_per_s"] = round(sum(tokens for tokens, _ in counts) / sum(seconds))
        row["cpu_s_per_step"] = round(statistics.median(processor), 3)
        row["share"] = round(sum(flop for _, flop in counts) / sum(seconds) / rate, 3)
        row["peak_mib"] = None if args.no_peak else peak(args, name, objective)
    result["ratio"] = round(result["rango"]["instances_per_s"] / result["peer"]["instances_per_s"], 2)
    result["cpu_ratio"] = round(result["peer"]["cpu_s_per_step"] / result["rango"]["cpu_s_per_step"], 2)
    return result


def measure_peak(args: argparse.Namespace, task: Task) -> None:
    """In a process of its own: three steps of one side on the longest instances."""
    before = largest_resident_set() if args.device == "cpu" else 0
    model = load_model(args.model, dtype=args.dtype, device="cpu" if args.peak == "peer" else args.device)
    trees = sorted(encode(model, task.train, task=task, form="letter"), key=lambda tree: -len(tree.trunk))
    batches = [trees[at : at + BATCH] for at in range(0, 3 * BATCH, BATCH)]
    (objective,) = args.objectives
    if args.peak == "rango":
        side: Any = RangoSide(model, trees, objective, tempfile.mkdtemp(), args.dtype)
    else:
        del model
        side = PeerSide(args.model, objective, args.dtype, args.device)
    side.steps(batches)
    used = largest_resident_set() - before if args.device == "cpu" else torch.cuda.max_memory_allocated()
    print(round(used / 2**20))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="simulated")
    parser.add_argument("--data")
    parser.add_argument("--model")
    parser.add_argument("--objectives", nargs="+", default=["choice", "answer", "tokens"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-peak", action="store_true")
    parser.add_argument("--peak", choices=["rango", "peer"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    sizes = {"train": 1000, "validation": 20, "test": 20}
    task = load_task(args.task, data=args.data, **sizes) if args.data else load_task(args.task, **sizes)
    model = args.model
    with tempfile.TemporaryDirectory() as folder:
        if args.model is None:
            write_model(Path(folder), task)
            args.model = folder
        elif not Path(args.model).is_dir():
            # A name that only Rango resolves: the peer gets a folder of the same weights.
            named = load_model(args.model)
            named.network.save_pretrained(folder)
            named.tokenizer.save_pretrained(folder)
            args.model = folder
        if args.peak:
            return measure_peak(args, task)
        print(f"{args.task}, letter form, batch {BATCH}")
        setting = conditions(dtype=args.dtype, device=args.device, threads=args.threads)
        results = [compare(args, task, objective) for objective in args.objectives]
    for result in results:
        print(f"{result['objective']}: {result['ratio']} times the peer ({result['cpu_ratio']} by processor time)")
        for name in ("rango", "peer"):
            print(f"  {name:6s} {result[name]}")
    shape = "Phi 512 x 8, vocabulary 51,200" if model is None else model
    asked = {"task": args.task, "model": shape, "rounds": args.rounds, "steps": args.steps, "results": results}
    record("training", asked, setting)


if __name__ == "__main__":
    main()
