"""The memory that training takes, measured and estimated: `rango models --memory` beside the peak of a real process.

    python benchmarks/memory.py [--device cpu] [--only NAME ...]

Each row is a checkpoint with random weights, the command that estimates, and a process that loads the checkpoint and
takes three optimizer steps by the trainer's own code. Measured is the process's largest resident set on a CPU, and what
torch allocated at most on a GPU. Prints a table of MiB, estimated / measured - 1, and ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from tokenizers import Tokenizer, models
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedTokenizerFast

from rango.models.adapter import add_adapter
from rango.models.full_finetuning import add_full
from rango.models.loading import load_model
from rango.options import FinetuneConfig, MemoryOptions
from rango.scoring.probe import probe_reader
from rango.scoring.trees import TokenTree
from rango.training.memory import rows_of
from rango.training.objectives import MicroBatch
from rango.training.trainer import accumulate_gradients

MEDIUM = {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 8}
LLAMA = {**MEDIUM, "num_key_value_heads": 4, "vocab_size": 16_000, "max_position_embeddings": 1024}
GPT2 = {"n_embd": 512, "n_layer": 8, "n_head": 8, "vocab_size": 16_000}
TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4}
ALL = ["q", "k", "v", "o", "mlp", "head"]
ROWS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "llama, lora q,v": ("llama", LLAMA, {}),
    "llama, lora all, r 64": ("llama", LLAMA, {"lora": {"rank": 64, "targets": ALL}}),
    "llama, lora, 8,192 tokens": ("llama", LLAMA, {"tokens": 8192}),
    "llama, lora, rows of 512": ("llama", LLAMA, {"length": 512}),
    "llama, lora, every token": ("llama", LLAMA, {"objective": "tokens"}),
    "llama, lora, bfloat16": ("llama", LLAMA, {"dtype": "bfloat16"}),
    "llama, full": ("llama", LLAMA, {"adaptation": "full"}),
    "gpt2, lora q,v": ("gpt2", GPT2, {}),
    "phi3, lora mlp": ("phi3", {**LLAMA, "pad_token_id": 0}, {"lora": {"targets": ["mlp"]}}),
    "gemma2, lora q,v,head": ("gemma2", {**LLAMA, "head_dim": 64}, {"lora": {"targets": ["q", "v", "head"]}}),
    "gpt_neox, full, tokens": (
        "gpt_neox",
        {key: value for key, value in LLAMA.items() if key != "num_key_value_heads"},
        {"adaptation": "full", "objective": "tokens"},
    ),
    "phi tiny, lora q,v": ("phi", {**TINY, "vocab_size": 1000}, {}),
    "llama, lora, checkpointing": ("llama", LLAMA, {"gradient_checkpointing": True}),
    "gpt2, full, checkpointing": ("gpt2", GPT2, {"adaptation": "full", "gradient_checkpointing": True}),
    "llama, lora, nf4": ("llama", LLAMA, {"quantise": "nf4"}),
    "gpt2, lora, int8": ("gpt2", GPT2, {"quantise": "int8"}),
}


def write_random(folder: Path, architecture: str, sizes: dict[str, Any]) -> None:
    """A checkpoint with random weights and a tokenizer of as many words as it has rows."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(CONFIG_MAPPING[architecture](**sizes)).save_pretrained(folder)
    words = {f"w{number}": number for number in range(sizes["vocab_size"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)


def train(folder: str, options: MemoryOptions) -> int:
    """Take three steps in this process; returns the peak in bytes."""
    model = load_model(folder, dtype=options.dtype, device=options.device, quantise=options.quantise)
    adapter: Any = add_full(model) if options.adaptation == "full" else add_adapter(model, options.lora, seed=0)
    reader = probe_reader(model)
    branch = max(2, options.length // 16)
    draw = torch.Generator().manual_seed(0)
    shared = {name: getattr(options, name) for name in ("objective", "gradient_checkpointing", "lora")}
    config = FinetuneConfig(model=folder, task="simulated", **shared)
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-4)
    run: Any = SimpleNamespace(config=config, adapter=adapter)
    run.micro_batch = lambda trees: MicroBatch(reader, trees, options.objective)
    if model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for _ in range(3):
        trees = []
        for _ in range(rows_of(options)):
            read = 3 if options.objective == "choice" else 1
            sizes = (options.length - read * (branch - 1), branch, branch, branch)
            ids = [tuple(torch.randint(5, 900, (size,), generator=draw).tolist()) for size in sizes]
            trees.append(TokenTree("t", ids[0], tuple(ids[1:]), (1, 1, 1), 0))
        accumulate_gradients(reader, [run], [trees])
        torch.nn.utils.clip_grad_norm_(adapter.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    if model.device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return largest_resident_set()


def estimated(folder: str, changes: dict[str, Any]) -> int:
    """The bytes that the command names: its heap has not the gaps of a process that has made a model."""
    settings = {key: value for key, value in changes.items() if key != "lora"}
    settings |= {f"lora.{key}": value for key, value in changes.get("lora", {}).items()}
    flags = []
    for key, value in settings.items():
        flags += [f"--{key.replace('_', '-')}"]
        flags += [] if value is True else [",".join(value) if isinstance(value, list) else str(value)]
    command = [sys.executable, "-m", "rango", "models", folder, "--memory", "--json", *flags]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    total: int = json.loads(output)["memory"]["total"]
    return total


def largest_resident_set() -> int:
    """The most bytes that this process had in memory so far.

    Linux counts what the parent had before this program was started in `ru_maxrss`, so there the kernel's own file is
    read.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        (kibibytes,) = (line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(kibibytes) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    """Measure and estimate every row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", nargs="*", help="rows whose names hold one of these")
    parser.add_argument("--train", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train:
        print(train(arguments.train[0], MemoryOptions.model_validate_json(arguments.train[1])))
        return
    print(f"{'':28}{'estimated':>10}{'measured':>10}{'off':>8}   MiB, {arguments.device}")
    results = {}
    for name, (architecture, sizes, changes) in ROWS.items():
        if arguments.only and not any(part in name for part in arguments.only):
            continue
        options = MemoryOptions.build({"device": arguments.device, **changes})
        with tempfile.TemporaryDirectory() as folder:
            write_random(Path(folder), architecture, sizes)
            total = estimated(folder, {"device": arguments.device, **changes})
            command = [sys.executable, __file__, "--train", folder, options.model_dump_json()]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        measured = int(output.split()[-1])
        results[name] = {"estimated": total, "measured": measured}
        print(f"{name:28}{total / 2**20:>10,.0f}{measured / 2**20:>10,.0f}{total / measured - 1:>+8.1%}", flush=True)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
