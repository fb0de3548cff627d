"""`--bank auto`: whether runs are better trained in one pass or one after the other, by memory and a measurement.

The choice changes how long it takes, and of what comes out the last bits only: nothing is trained here, nothing is
written. On a CPU the same study must give the same bits whenever it is computed, so there the choice is a function of
model, data and configuration (from measurements made once, docs/benchmarks.md) and not of a stopwatch.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rango.models.adapter import add_bank
from rango.models.loading import Model
from rango.scoring.forward import Reader
from rango.scoring.probe import probe_reader
from rango.scoring.trees import TokenTree, encode
from rango.tasks import Task
from rango.training.bank import BankJob, bankable, run_key
from rango.training.run_folder import RunWriter
from rango.training.trainer import accumulate_gradients
from rango.training.training_run import Data, TrainingRun

_WORTH = 1.05
"""A bank must be this many times faster, as it also holds back the first result until the last is there."""

_FREE_SHARE = 0.8
"""Of the free memory, what a bank may fill."""

_LIGHT = 5e7
"""Multiply-adds in the frozen matrices for a step of one run, below which a CPU core spends most of it on overhead that
a bank shares."""

_BATCHES = 32
"""Batches of training instances that are looked at: what `BatchPlan` sorts together."""


@dataclass(frozen=True)
class BankChoice:
    """How many of some runs to train in one pass, and why."""

    size: int
    """1: one after the other."""
    reason: str
    ratio: float | None = None
    """Seconds of a step of each run on its own, summed, over seconds of a step of the bank; None if not measured."""


def choose_bank(model: Model, task: Task, jobs: Sequence[BankJob], *, measure: bool | None = None) -> BankChoice:
    """Choose how many runs to train in one pass.

    Args:
        model: the base.
        task: with the training instances.
        jobs: the runs, alike enough for one bank.
        measure: two steps in banks of all runs, of half of them and of two, and alone, and take the fastest way
            (smaller banks can be faster where the activations of all leave the caches); otherwise go by the arithmetic
            of a step. Only off a CPU when None.

    Raises:
        InputError: instances that cannot be encoded, a placement that the architecture lacks.
    """
    if len(jobs) < 2:
        return BankChoice(1, "one run needs no bank")
    reason = bankable([job.config for job in jobs])
    if reason is not None:
        return BankChoice(1, f"trained apart: {reason}")
    config = jobs[0].config
    form = config.form or task.default_form
    trees = encode(model, task.train[: _BATCHES * config.batch], task=task, form=form)
    rows = min(config.micro_batch or config.batch, len(trees))
    each = step_bytes(model, trees, rows)
    size = min(len(jobs), int(_FREE_SHARE * free_bytes(model.device) // each))
    if size < 2:
        return BankChoice(1, f"trained apart: a step of each takes about {_gigabytes(each)} and two do not fit")
    if not (model.device.type != "cpu" if measure is None else measure):
        return _by_arithmetic(model, trees, rows, size)
    data = Data(probe_reader(model), form, trees, (), ())
    ratios: dict[int, float] = {}
    for tried in sorted({size, -(-size // 2), 2}):
        try:
            ratios[tried] = _measure(model, data, jobs[:tried])
        except torch.cuda.OutOfMemoryError:
            break
    return _best(ratios, asked=len(jobs), each=each)


def _best(ratios: Mapping[int, float], *, asked: int, each: int) -> BankChoice:
    if not ratios:
        return BankChoice(1, "trained apart: two together do not fit into the GPU's memory")
    size = max(ratios, key=lambda tried: ratios[tried])
    ratio = ratios[size]
    if ratio < _WORTH:
        found = ", ".join(f"{tried} together {ratios[tried]:.2f}" for tried in ratios)
        return BankChoice(1, f"trained apart: a step is not {_WORTH} times faster ({found})", ratio)
    what = f"{size} together: a step is {ratio:.2f} times faster than one after the other"
    limit = f"; at most {max(ratios)} fit with {_gigabytes(each)} each" if max(ratios) < asked else ""
    return BankChoice(size, what + limit, ratio)


def _by_arithmetic(model: Model, trees: Sequence[TokenTree], rows: int, size: int) -> BankChoice:
    """Together where a step is light: rows x mean tokens x 12 L h^2 multiply-adds (L: layers, h: hidden size)."""
    config: Any = model.network.config.get_text_config()
    tokens = rows * sum(tree.input_length for tree in trees) / len(trees)
    work = tokens * 12 * config.num_hidden_layers * config.hidden_size**2
    if work < _LIGHT:
        return BankChoice(
            size, f"{size} together: a step is light ({work:.1g} multiply-adds), a bank shares its overhead"
        )
    return BankChoice(
        1, f"trained apart: a step takes {work:.1g} multiply-adds; on a CPU a bank pays below {_LIGHT:.0e}"
    )


def step_bytes(model: Model, trees: Sequence[TokenTree], rows: int) -> int:
    """Bytes that one run's forward pass keeps for its backward pass, at most.

    s b h L (34 + 5 a s / h) for 16-bit numbers (arXiv:2205.05198, eq. 2), s: tokens of the longest row, b: rows,
    h: hidden size, L: layers, a: heads. The estimate is of full training; LoRA keeps less.
    """
    config: Any = model.network.config.get_text_config()
    tokens = max(tree.input_length for tree in trees)
    hidden, layers, heads = config.hidden_size, config.num_hidden_layers, config.num_attention_heads
    numbers = tokens * rows * hidden * layers * (34 + 5 * heads * tokens / hidden)
    return int(numbers * model.dtype.itemsize / 2)


def free_bytes(device: torch.device) -> int:
    """Memory that is free where the network computes; on a CPU without /proc/meminfo, 4 GB."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        for line in meminfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 4 * 2**30


def _measure(model: Model, data: Data, jobs: Sequence[BankJob]) -> float:
    """Seconds of all runs' steps alone over seconds of the bank's steps, the two in turn."""
    adapters = add_bank(model, [(job.config.lora, job.config.seed) for job in jobs])
    try:
        members = [
            TrainingRun(run_key(job.config), job.config, adapter, RunWriter(job.out, {}), data)
            for job, adapter in zip(jobs, adapters, strict=True)
        ]
        with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
            _time(data.reader, [members], step=0)  # the first pass of a kind pays for allocations
            _time(data.reader, [members[:1]], step=0)
            together, apart = 0.0, 0.0
            for step in range(2):
                together += _time(data.reader, [members], step=step)
                apart += _time(data.reader, [[member] for member in members], step=step)
    finally:
        for adapter in adapters:
            adapter.remove()
    return apart / together


def _time(reader: Reader, groups: Sequence[Sequence[TrainingRun]], *, step: int) -> float:
    """Seconds for the gradients of one step of all members, group by group."""
    device = reader.model.device
    started = time.perf_counter()
    for members in groups:
        for member in members:
            member.progress.step = step
        accumulate_gradients(reader, members, [member.batch() for member in members])
        for member in members:
            member.optimizer.zero_grad(set_to_none=True)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def _gigabytes(number: int) -> str:
    return f"{number / 2**30:.2g} GB"
