"""How many threads a small model can feed: seconds of a training step with one thread and with all, beside other work.

    python benchmarks/threads.py [--hidden 64 96 128 256 384 512] [--tokens 1024] [--steps 15] [--demo]

A step is forward and backward of a Phi network with random weights (3 layers, vocabulary 800) over `--tokens` tokens.
It is measured on idle cores, beside one and beside two processes that compute without pause; one thread and all threads
take turns, medians of the steps. `chosen` is what `rango.models.loading.feedable_threads` gives it. With --demo
the whole demo is timed instead, as a command of its own, beside none, one and two busy processes. Ends with one line of
JSON.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import PhiConfig, PhiForCausalLM

from rango.models.loading import feedable_threads


def compute_without_pause() -> None:
    value = 0
    while True:
        value = (value * 31 + 7) % 1_000_003


@contextmanager
def beside(processes: int) -> Iterator[None]:
    """So many processes that keep a core busy each, ended afterwards."""
    busy = [multiprocessing.Process(target=compute_without_pause, daemon=True) for _ in range(processes)]
    for process in busy:
        process.start()
    try:
        time.sleep(0.5 if busy else 0.0)  # until they compute
        yield
    finally:
        for process in busy:
            process.kill()
            process.join()


def make_network(hidden: int) -> PhiForCausalLM:
    torch.manual_seed(0)
    config = PhiConfig(
        vocab_size=800,
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=3,
        num_attention_heads=max(2, hidden // 32),
        max_position_embeddings=128,
    )
    return PhiForCausalLM(config)


def step_seconds(network: PhiForCausalLM, tokens: torch.Tensor, threads: int) -> float:
    torch.set_num_threads(threads)
    started = time.perf_counter()
    network.zero_grad()
    network(input_ids=tokens, labels=tokens).loss.backward()
    return time.perf_counter() - started


def measure_steps(arguments: argparse.Namespace, most: int) -> list[dict[str, Any]]:
    rows = []
    for hidden in arguments.hidden:
        network = make_network(hidden)
        tokens = torch.randint(0, 800, (max(1, arguments.tokens // 128), min(128, arguments.tokens)))
        for processes in (0, 1, 2):
            with beside(processes):
                seconds: dict[int, list[float]] = {1: [], most: []}
                for _ in range(2 + arguments.steps):
                    for threads, measured in seconds.items():
                        measured.append(step_seconds(network, tokens, threads))
            one, many = (1000 * statistics.median(measured[2:]) for measured in (seconds[1], seconds[most]))
            rows.append(
                {
                    "hidden": hidden,
                    "busy": processes,
                    "one_ms": round(one, 1),
                    "all_ms": round(many, 1),
                    "ratio": round(many / one, 2),
                    "chosen": feedable_threads(network, most),
                }
            )
            print(" ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
    return rows


def measure_demo() -> list[dict[str, Any]]:
    rows = []
    for processes in (0, 1, 2):
        with beside(processes), tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            command = [sys.executable, "-m", "rango", "demo", "--quiet", "--out", str(Path(folder) / "demo")]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            rows.append({"busy": processes, "seconds": round(time.perf_counter() - started, 1)})
        rows[-1]["ratio"] = round(rows[-1]["seconds"] / rows[0]["seconds"], 2)
        print(" ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--hidden", type=int, nargs="+", default=[64, 96, 128, 256, 384, 512])
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--demo", action="store_true")
    arguments = parser.parse_args()
    most = torch.get_num_threads()
    load = os.getloadavg()[0]
    print(f"{most} threads, load before {load:.1f}")
    rows = measure_demo() if arguments.demo else measure_steps(arguments, most)
    print(json.dumps({"benchmark": "threads", "threads": most, "load": load, "rows": rows}))


if __name__ == "__main__":
    main()
