"""How much faster is scoring with shots whose keys and values are kept than with shots read again for every instance?

    python benchmarks/few_shot.py [--instances 40] [--shots 0,2,4,8,16] [--form cloze]

A Phi model with random weights (hidden 256, 4 layers) scores the simulated task in both ways, in turn, in one process
after one warm-up each. Prints instances per second, the ratio, the tokens read and the largest difference between the
two ways' scores in nats; ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from transformers import AutoModelForCausalLM, PhiConfig

from rango.language.corpus import read_sources, train_tokenizer
from rango.models.loading import Model, load_model
from rango.options import Form, ScoringOptions
from rango.scoring.probe import probe_reader
from rango.scoring.scorer import Scores, score
from rango.scoring.trees import encode
from rango.tasks import Task, few_shot, load_task, simulated_narratives

REPETITIONS = 3


def make_model(folder: Path) -> Model:
    tokenizer = train_tokenizer(read_sources(list(simulated_narratives(2000, seed=0))), 800)
    torch.manual_seed(0)
    config = PhiConfig(
        vocab_size=len(tokenizer), hidden_size=256, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=8,
        max_position_embeddings=2048, initializer_range=0.1, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return load_model(folder, dtype="float32", device="cpu")


def measure(model: Model, task: Task, shots: int, form: Form) -> dict[str, float]:
    asked = few_shot(task, shots=shots, seed=0)
    trees = encode(model, asked.test, task=asked, form=form)
    reader = probe_reader(model)
    readers = {"kept": reader, "again": replace(reader, reads_prefix=False)}
    seconds: dict[str, list[float]] = {way: [] for way in readers}
    found: dict[str, Scores] = {}
    for repetition in range(REPETITIONS + 1):
        for way, chosen in readers.items():
            found[way] = score(chosen, trees, options=ScoringOptions(), form=form)
            if repetition:
                seconds[way].append(found[way].seconds)
    medians = {way: statistics.median(times) for way, times in seconds.items()}
    finite = np.isfinite(found["again"].values)
    return {
        "shots": shots,
        "kept": len(trees) / medians["kept"],
        "again": len(trees) / medians["again"],
        "ratio": medians["again"] / medians["kept"],
        "tokens_kept": found["kept"].tokens,
        "tokens_again": found["again"].tokens,
        "difference": float(np.abs(found["kept"].values[finite] - found["again"].values[finite]).max()),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--instances", type=int, default=40)
    parser.add_argument("--shots", default="0,2,4,8,16")
    parser.add_argument("--form", choices=("cloze", "letter"), default="cloze")
    asked = parser.parse_args()
    task = load_task("simulated", train=64, validation=8, test=asked.instances)
    print(f"{asked.instances} instances of the simulated task, {asked.form} form, {torch.get_num_threads()} threads")
    print("shots  kept, instances/s  again, instances/s  ratio  tokens kept  tokens again  largest difference, nats")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        model = make_model(Path(folder))
        for shots in map(int, asked.shots.split(",")):
            row = measure(model, task, shots, asked.form)
            rows.append(row)
            print(
                f"{shots:5d}  {row['kept']:17.1f}  {row['again']:18.1f}  {row['ratio']:5.2f}  {row['tokens_kept']:11,}"
                f"  {row['tokens_again']:12,}  {row['difference']:24.1e}"
            )
    print(json.dumps({"few_shot": rows}))


if __name__ == "__main__":
    main()
