"""A bank of LoRA runs against the same runs one after the other: seconds per step and peak memory.

    python benchmarks/bank.py [--runs 6] [--hidden 96] [--layers 3] [--model FOLDER] [--batch 16] [--steps 12]
                              [--device cpu] [--same-seed]

Random weights of the Phi architecture (the demo's base by default), questions of the simulated task, up to eight runs
of different ranks, placements, learning rates and seeds. Both ways step in turn, in one process; each number is a
median of the steps' seconds. With --same-seed all read the same batches, so that no row is padded for another run.
Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from measuring import conditions, record, synchronise
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PhiConfig, PhiForCausalLM, PreTrainedTokenizerFast

from rango.models.adapter import add_bank
from rango.models.loading import Model, load_model
from rango.options import FinetuneConfig
from rango.scoring.probe import probe_reader
from rango.scoring.trees import encode
from rango.tasks import Task, load_task
from rango.training.bank import TrainingJob
from rango.training.run_writer import RunWriter
from rango.training.trainer import accumulate_gradients
from rango.training.training_run import BankData, TrainingRun

EIGHT: list[dict[str, Any]] = [
    {"lora": {"rank": 1, "targets": "q"}, "learning_rate": 1e-3},
    {"lora": {"rank": 8, "targets": "q,v"}, "learning_rate": 2e-3},
    {"lora": {"rank": 16, "targets": "q,k,v,o"}, "learning_rate": 1e-3},
    {"lora": {"rank": 4, "targets": "mlp"}, "learning_rate": 5e-4},
    {"lora": {"rank": 8, "targets": "q,k,v,o,mlp"}, "learning_rate": 2e-3},
    {"lora": {"rank": 2, "targets": "o"}, "learning_rate": 1e-3},
    {"lora": {"rank": 32, "targets": "q,v"}, "learning_rate": 5e-4},
    {"lora": {"rank": 8, "targets": "q,k,v,o"}, "learning_rate": 2e-3},
]


def write_model(folder: Path, task: Task, arguments: argparse.Namespace) -> Path:
    texts = [task.prompt(instance, "cloze").trunk for instance in task.train]
    texts += [choice for instance in task.train for choice in instance.choices]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=800, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>").save_pretrained(folder)
    torch.manual_seed(0)
    config = PhiConfig(
        vocab_size=arguments.vocabulary,
        hidden_size=arguments.hidden,
        intermediate_size=4 * arguments.hidden,
        num_hidden_layers=arguments.layers,
        num_attention_heads=max(4, arguments.hidden // 64),
        max_position_embeddings=256,
        bos_token_id=0,
        eos_token_id=0,
    )
    PhiForCausalLM(config).save_pretrained(folder)
    return folder


def make_jobs(model: Model, task: Task, arguments: argparse.Namespace) -> list[TrainingJob]:
    shared = {"model": model.name, "task": task.name, "form": "cloze", "objective": arguments.objective}
    shared |= {"batch": arguments.batch, "steps": 1000, **task.options.model_dump()}
    return [
        TrainingJob(
            Path(f"run-{number}"),
            FinetuneConfig.build({**shared, **one, "seed": 0 if arguments.same_seed else number}),
        )
        for number, one in enumerate(EIGHT[: arguments.runs])
    ]


def step_seconds(data: BankData, members: Sequence[TrainingRun], step: int) -> float:
    """One whole optimizer step of the members, together."""
    started = time.perf_counter()
    batches = []
    for member in members:
        member.progress.step = step
        batches.append(member.batch())
    losses = accumulate_gradients(data.reader, members, batches)
    for member, loss, trees in zip(members, losses, batches, strict=True):
        member.update(loss, trees)
    synchronise()
    return time.perf_counter() - started


def peak_bytes(device: torch.device) -> int:
    """Since the last reset on a GPU; of the process so far on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(model: Model, task: Task, jobs: Sequence[TrainingJob], steps: int) -> dict[str, Any]:
    trees = encode(model, task.train, task=task, form="cloze")
    data = BankData(probe_reader(model), "cloze", trees, (), ())
    adapters = add_bank(model, [(job.config.lora, job.config.seed) for job in jobs])
    members = [
        TrainingRun(str(number), job.config, adapter, RunWriter(job.out, {}), data)
        for number, (job, adapter) in enumerate(zip(jobs, adapters, strict=True))
    ]
    memory = {}
    for name, groups in (("apart", [[member] for member in members]), ("bank", [members])):  # the smaller first
        if model.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        for group in groups:
            step_seconds(data, group, 0)
        memory[name] = peak_bytes(model.device)
    apart, bank = [], []
    for step in range(1, steps + 1):
        apart.append(sum(step_seconds(data, [member], step) for member in members))
        bank.append(step_seconds(data, members, step))
    for adapter in adapters:
        adapter.remove()
    return {
        "apart_ms": round(1000 * statistics.median(apart), 2),
        "bank_ms": round(1000 * statistics.median(bank), 2),
        "ratio": round(statistics.median(apart) / statistics.median(bank), 3),
        "apart_peak_mb": round(memory["apart"] / 2**20, 1),
        "bank_peak_mb": round(memory["bank"] / 2**20, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, choices=range(2, len(EIGHT) + 1), default=6)
    parser.add_argument("--model", help="a checkpoint instead of random weights")
    parser.add_argument("--hidden", type=int, default=96)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--vocabulary", type=int, default=800)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--objective", default="answer")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--same-seed", action="store_true")
    arguments = parser.parse_args()
    setting = conditions(dtype=arguments.dtype, device=arguments.device)
    task = load_task("simulated", train=2000, validation=50, test=50)
    with tempfile.TemporaryDirectory() as folder:
        source = arguments.model or write_model(Path(folder), task, arguments)
        model = load_model(source, device=arguments.device, dtype=arguments.dtype)
        jobs = make_jobs(model, task, arguments)
        shape = model.network.config
        arguments.hidden, arguments.layers = shape.hidden_size, shape.num_hidden_layers
        figures = measure(model, task, jobs, arguments.steps)
    print(f"hidden {arguments.hidden}, {arguments.layers} layers, batch {arguments.batch}, {arguments.objective}")
    print(
        f"{arguments.runs} runs, one step each: apart {figures['apart_ms']} ms, bank {figures['bank_ms']} ms, "
        f"ratio {figures['ratio']}"
    )
    print(f"peak memory: apart {figures['apart_peak_mb']} MB, bank {figures['bank_peak_mb']} MB")
    record("bank", {**vars(arguments), **figures}, setting)


if __name__ == "__main__":
    main()
