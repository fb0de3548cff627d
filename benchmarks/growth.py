"""Growth of everything before and around the network, from a thousand instances to a million.

    python benchmarks/growth.py [--sizes 1000 10000 100000 1000000] [--stages read encode again fetch score measure]

Each size has a process of its own and a table of its own: made-up reviews of 8 words with two classes, letter form, and
a network of one layer, so that what is counted is Rango's own work.

    read      the table, from JSONL to a task with its splits (with near-duplicates looked for between them)
    encode    instances to tokens, which are kept in the cache from 20,000 instances on
    again     the same, found in the cache
    fetch     the plan of an epoch, and 200 batches of 16 trees from all over the file
    score     as many as `--scored` of the instances
    measure   posteriors of all instances from random scores, written, read back and measured with intervals

Seconds are those of the processor, over all threads: other programs on the machine do not lengthen them much. Memory is
what the process holds for itself at the end of a stage, beyond what it held before (MiB; pages of a mapped file are the
system's, and it may drop them). Slope: the exponent p of seconds ~ N^p between two sizes. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import conditions, record
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PhiConfig, PreTrainedTokenizerFast

from rango.decisions import read_posteriors, write_posteriors
from rango.models.loading import load_model
from rango.options import ScoringOptions, TaskOptions
from rango.scoring.probe import probe_reader
from rango.scoring.scorer import as_posteriors, score
from rango.scoring.trees import encode, input_lengths
from rango.tasks import load_task
from rango.training.measurement import measure
from rango.training.schedule import BatchPlan

STAGES = ("read", "encode", "again", "fetch", "score", "measure")
_DRAW = random.Random(1)
WORDS = sorted({"".join(_DRAW.choices("abcdefghijklmnopqrstuvwxyz", k=_DRAW.randint(3, 8))) for _ in range(4000)})


def write_table(folder: Path, size: int) -> None:
    """Reviews of 8 words, all of them different texts."""
    folder.mkdir()
    keys = {"prompt": "Review: {text}\nGood?", "choices": ["no", "yes"], "label": "label", "label_is": "index"}
    (folder / "task.yaml").write_text(json.dumps(keys))
    draw = random.Random(0)
    with (folder / "rows.jsonl").open("w") as file:
        for number in range(size):
            text = " ".join(draw.choices(WORDS, k=8))
            file.write(json.dumps({"text": text, "label": number % 2}) + "\n")


def write_model(folder: Path) -> None:
    """A network of one layer, and a tokenizer of whole words."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    AutoModelForCausalLM.from_config(PhiConfig(**sizes, vocab_size=5000)).save_pretrained(folder)
    words = [*WORDS, "Review", "Good", "Answer", "A", "B", "no", "yes", "?", ":", "."]
    tokenizer = Tokenizer(models.WordLevel({"[?]": 0} | {word: n for n, word in enumerate(words, 1)}, unk_token="[?]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)


def memory() -> float:
    """MiB that this process holds for itself: resident, and not mapped from a file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1024


def run(size: int, stages: list[str], folder: Path, scored: int) -> None:
    """Take one size through the stages, in this process; prints a JSON object for each."""
    torch.set_num_threads(1)
    model = load_model(folder / "model", device="cpu")
    reader = probe_reader(model)
    random_scores = np.random.default_rng(0).normal(size=(size, 2))
    # What is imported when it is first needed is not counted.
    warm = load_task(folder / "warm", TaskOptions(train=100, validation=20, test=20))
    write_posteriors(folder / "warm.parquet", as_posteriors(random_scores[: len(warm.train)], warm.train))
    trees = encode(model, warm.train, task=warm, form="letter")
    score(reader, trees, options=ScoringOptions(), form="letter")
    task: Any = warm

    def timed(name: str, work: Callable[[], Any], count: int) -> Any:
        held, cpu, wall = memory(), time.process_time(), time.perf_counter()
        result = work()
        seconds, elapsed = time.process_time() - cpu, time.perf_counter() - wall
        row = {"stage": name, "size": size, "count": count, "seconds": seconds, "wall": elapsed}
        print(json.dumps({**row, "mib": memory() - held}), flush=True)
        return result

    def fetch() -> None:
        plan = BatchPlan(input_lengths(trees), batch=16, batch_tokens=None, seed=0)
        for step in range(min(200, plan.steps_per_epoch)):
            reader.collate([trees[number] for number in plan.step(step)], read="choices", as_trees=True)

    def measured() -> None:
        posteriors = as_posteriors(random_scores[: len(task.train)], task.train)
        write_posteriors(folder / "test.parquet", posteriors)
        measure({"base": read_posteriors(folder / "test.parquet")})

    options = TaskOptions(train=size, validation=size // 10, test=size // 10)
    task = timed("read", lambda: load_task(folder / "table", options), size)
    trees = timed("encode", lambda: encode(model, task.train, task=task, form="letter"), len(task.train))
    if "again" in stages:
        trees = timed("again", lambda: encode(model, task.train, task=task, form="letter"), len(task.train))
    if "fetch" in stages:
        timed("fetch", fetch, len(task.train))
    if "score" in stages:
        chosen = trees[:scored]
        timed("score", lambda: score(reader, chosen, options=ScoringOptions(), form="letter"), len(chosen))
    if "measure" in stages:
        timed("measure", measured, len(task.train))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--stages", nargs="+", default=list(STAGES), choices=STAGES)
    parser.add_argument("--scored", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # of one size, whose process this is
    args = parser.parse_args()
    if args.folder is not None:
        run(args.sizes[0], args.stages, args.folder, args.scored)
        return
    setting = conditions(dtype="float32", device="cpu")
    rows: list[dict[str, Any]] = []
    print("| stage | instances | seconds | µs each | slope | MiB | bytes each |\n|---|---|---|---|---|---|---|")
    for size in args.sizes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_model(folder / "model")
            write_table(folder / "warm", 200)
            write_table(folder / "table", size)
            command = [sys.executable, __file__, "--folder", name, "--sizes", str(size), "--scored", str(args.scored)]
            process = subprocess.Popen(
                [*command, "--stages", *args.stages],
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "RANGO_CACHE": str(folder / "cache")},
            )
            assert process.stdout is not None
            for line in filter(lambda line: line.startswith("{"), process.stdout):
                row = json.loads(line)
                before = [earlier for earlier in rows if earlier["stage"] == row["stage"]]
                row["slope"] = (
                    math.log(row["seconds"] / before[-1]["seconds"]) / math.log(row["count"] / before[-1]["count"])
                    if before and row["count"] != before[-1]["count"]
                    else None
                )
                rows.append(row)
                slope = "" if row["slope"] is None else f"{row['slope']:.2f}"
                each = f"{row['seconds'] / row['count'] * 1e6:.1f} | {slope} | {row['mib']:.0f}"
                bytes_each = row["mib"] * 2**20 / row["count"]
                print(
                    f"| {row['stage']} | {row['count']:,} | {row['seconds']:.2f} | {each} | {bytes_each:.0f} |",
                    flush=True,
                )
            if process.wait():
                raise SystemExit(f"the process of {size:,} instances ended with {process.returncode}")
    record("growth", {"rows": rows}, setting)


if __name__ == "__main__":
    main()
