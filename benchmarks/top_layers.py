"""What keeping the states below the first adapted layer gives, where only the top layers are adapted.

    python benchmarks/top_layers.py [--layers 8] [--top 2] [--rounds 5] [--threads 2] [--dtype float32]

Phi's architecture (hidden 512, vocabulary 51,200) with random weights, LoRA of rank 8 on q and v of the top layers,
batches of 16 instances of 50 to 70 tokens with three letters, objective `choice`. Steps of a later epoch, whose batches
hold other instances together than those of the first one, with kept states and without in turn. Gradients of both are
compared first. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from measuring import conditions, record
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, PhiConfig, PreTrainedTokenizerFast

from rango.models.adapter import add_bank
from rango.models.loading import load_model
from rango.options import FinetuneConfig
from rango.scoring.probe import probe_reader
from rango.scoring.trees import TokenTree
from rango.training.kept_states import KeptStates, keep_states
from rango.training.run_writer import RunWriter
from rango.training.trainer import accumulate_gradients
from rango.training.training_run import BankData, TrainingRun

VOCABULARY = 51_200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("layers", 8), ("top", 2), ("rounds", 5), ("batches", 4), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--dtype", default="float32")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    setting = conditions(dtype=args.dtype, device="cpu", threads=args.threads)
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        sizes = {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8}
        config = PhiConfig(**sizes, num_hidden_layers=args.layers, vocab_size=VOCABULARY)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        words = Tokenizer(models.WordLevel({f"w{number}": number for number in range(VOCABULARY)}, unk_token="w0"))
        PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(folder)
        model = load_model(folder, dtype=args.dtype, device="cpu")
        draw = np.random.default_rng(0)
        trees = [
            TokenTree(str(n), tuple(draw.integers(9, 50_000, length).tolist()), ((1,), (2,), (3,)), (1, 1, 1), 0)
            for n, length in enumerate(draw.integers(50, 70, 16 * args.batches).tolist())
        ]
        first = args.layers - args.top
        lora = {"layers": f"{first}-{args.layers - 1}"}
        options = FinetuneConfig.build({"model": "m", "task": "t", "objective": "choice", "steps": 999, "lora": lora})
        (adapter,) = add_bank(model, [(options.lora, 0)])
        for parameter in adapter.parameters():  # B begins at zero, where A has no gradient
            torch.nn.init.normal_(parameter, std=0.02)
        reader = probe_reader(model)
        data = BankData(reader, "letter", trees, trees[:4], ())
        run = TrainingRun("run", options, adapter, RunWriter(Path(folder), {}), data)
        kept = keep_states(run)
        assert kept is not None

        def step(number: int, kept: KeptStates | None) -> tuple[float, list[torch.Tensor]]:
            batch = [run.trees[member] for member in run.plan.step(number)]
            started = time.perf_counter()
            accumulate_gradients(reader, [run], [batch], kept=kept)
            seconds = time.perf_counter() - started
            gradients = [p.grad for p in adapter.parameters() if p.grad is not None]
            for parameter in adapter.parameters():
                parameter.grad = None
            return seconds, gradients

        steps = range(args.batches, 2 * args.batches)
        difference = 0.0
        for number in steps:
            pairs = zip(step(number, kept)[1], step(number, None)[1], strict=True)
            difference = max(difference, *(float((a - b).abs().max() / b.abs().max()) for a, b in pairs))
        seconds: dict[str, list[float]] = {"plain": [], "kept": []}
        for _ in range(args.rounds):
            seconds["plain"].append(sum(step(number, None)[0] for number in steps))
            seconds["kept"].append(sum(step(number, kept)[0] for number in steps))
        size = sum(states.numel() * states.element_size() for states in kept.states.values()) / len(trees)
    ratio = statistics.median(a / b for a, b in zip(seconds["plain"], seconds["kept"], strict=True))
    print(f"top {args.top} of {args.layers}: {ratio:.2f} times as fast, {size / 1024:.0f} KiB of states an instance")
    print(f"gradients differ by {difference:.1e} of the largest")
    record("top_layers", {**vars(args), "ratio": ratio, "difference": difference, "seconds": seconds}, setting)


if __name__ == "__main__":
    main()
