"""Memory and speed of training on a base in several types and bits, with and without gradient checkpointing.

    python benchmarks/bases.py [--shape small|phi-2|mistral-7b] [--bases float32 bfloat16 int8 nf4] [--tokens 256]
                               [--instances 8] [--steps 5] [--peft]

LoRA of rank 8 on q and v of a network with random weights, `--instances` sequences of `--tokens` tokens in each step,
loaded and stepped as a run does. With --peft the same network and sequences are also trained by PEFT and transformers'
Trainer, for nf4 with bitsandbytes' own layers. Each row is a process of its own: memory is the peak of what torch has
allocated on a GPU, and without one the peak of the process beyond what it had before the model. Tokens/s are of the
median step after one to warm up. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from memory import largest_resident_set
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, PhiConfig, PreTrainedTokenizerFast

SHAPES: dict[str, Any] = {
    "small": LlamaConfig(
        vocab_size=8192, hidden_size=768, intermediate_size=2048, num_hidden_layers=8, num_attention_heads=12
    ),
    "phi-2": PhiConfig(hidden_size=2560, intermediate_size=10240, num_hidden_layers=32, num_attention_heads=32),
    "mistral-7b": MistralConfig(vocab_size=32000),
}
CUDA = torch.cuda.is_available()


def write_model(folder: Path, shape: str) -> None:
    """A checkpoint of random weights in bfloat16, with a tokenizer of bytes."""
    torch.manual_seed(0)
    with torch.device("cuda" if CUDA else "cpu"):
        network = AutoModelForCausalLM.from_config(SHAPES[shape], dtype=torch.bfloat16)
    network.save_pretrained(folder)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(alphabet)}, merges=[]))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)


def megabytes() -> float:
    """The peak of memory so far."""
    return (torch.cuda.max_memory_allocated() if CUDA else largest_resident_set()) / 2**20


def sequences(args: argparse.Namespace) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(3, 250, (args.instances, args.tokens), generator=generator).tolist()


def train_with_rango(args: argparse.Namespace, base: str, checkpointing: bool) -> list[float]:
    """Seconds of each step."""
    from rango.models.adapter import add_bank
    from rango.models.loading import load_model
    from rango.options import FinetuneConfig
    from rango.scoring.probe import probe_reader
    from rango.scoring.trees import TokenTree
    from rango.training.run_writer import RunWriter
    from rango.training.trainer import accumulate_gradients
    from rango.training.training_run import BankData, TrainingRun

    quantise = base if base in ("int8", "nf4") else "none"
    dtype = base if quantise == "none" else "bfloat16" if CUDA else "float32"
    settings = {"model": "random", "task": "none", "dtype": dtype, "quantise": quantise, "objective": "tokens"}
    config = FinetuneConfig.build({**settings, "steps": args.steps, "gradient_checkpointing": checkpointing})
    model = load_model(args.folder, dtype=config.dtype, quantise=config.quantise)
    reader = probe_reader(model)
    (adapter,) = add_bank(model, [(config.lora, 0)])
    trees = [TokenTree(str(n), tuple(ids[:-1]), ((ids[-1],),), (1,), 0) for n, ids in enumerate(sequences(args))]
    run = TrainingRun("run", config, adapter, RunWriter(args.folder, {}), BankData(reader, "cloze", trees, trees, ()))
    seconds = []
    for _ in range(args.steps + 1):
        started = time.perf_counter()
        (loss,) = accumulate_gradients(reader, [run], [trees])
        run.update(loss, trees)
        seconds.append(time.perf_counter() - started)
    return seconds


def train_with_peft(args: argparse.Namespace, base: str, checkpointing: bool) -> list[float]:
    """Seconds of each step of PEFT and transformers' Trainer on the same sequences."""
    import peft
    from transformers import BitsAndBytesConfig, Trainer, TrainerCallback, TrainingArguments

    dtype = torch.bfloat16 if CUDA or base == "bfloat16" else torch.float32
    options: dict[str, Any] = {"dtype": dtype, "device_map": {"": 0 if CUDA else "cpu"}}
    if base == "nf4":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
        )
    elif base == "int8":
        options["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True)
    network = AutoModelForCausalLM.from_pretrained(args.folder, **options)
    if checkpointing:
        network.enable_input_require_grads()
    network = peft.get_peft_model(network, peft.LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"]))
    rows = [{"input_ids": ids, "labels": ids} for ids in sequences(args)]
    seconds: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.started = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            if CUDA:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - self.started)

    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=args.instances,
        max_steps=args.steps + 1,
        gradient_checkpointing=checkpointing,
        use_cpu=not CUDA,
        bf16=False,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    Trainer(model=network, args=arguments, train_dataset=rows, callbacks=[Clock()]).train()
    return seconds


def measure(args: argparse.Namespace, program: str, base: str, checkpointing: bool) -> dict[str, Any]:
    """One row, in this process."""
    before = 0.0 if CUDA else megabytes()
    train = train_with_rango if program == "rango" else train_with_peft
    seconds = statistics.median(train(args, base, checkpointing)[1:])
    return {
        "program": program,
        "base": base,
        "gradient_checkpointing": checkpointing,
        "megabytes": round(megabytes() - before),
        "tokens_per_second": round(args.instances * args.tokens / seconds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--bases", nargs="+", default=["float32", "bfloat16", "int8", "nf4"])
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--instances", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--peft", action="store_true")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--row", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.row:
        print(json.dumps(measure(args, args.row[0], args.row[1], args.row[2] == "True")))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder), args.shape)
        print("program  base      checkpointing      MB  tokens/s")
        for base in args.bases:
            for program in ("rango", "peft") if args.peft else ("rango",):
                for checkpointing in (False, True):
                    row = ["--row", program, base, str(checkpointing)]
                    command = [sys.executable, *sys.argv, "--folder", folder, *row]
                    done = subprocess.run(command, capture_output=True, text=True, check=False)
                    name = f"{program:8} {base:9} {checkpointing!s:13}"
                    if done.returncode:
                        print(f"{name} failed: {done.stderr.strip().splitlines()[-1]}")
                        continue
                    rows.append(json.loads(done.stdout.splitlines()[-1]))
                    print(f"{name} {rows[-1]['megabytes']:7} {rows[-1]['tokens_per_second']:9}", flush=True)
    device = torch.cuda.get_device_name() if CUDA else "cpu"
    print(json.dumps({"benchmark": "bases", "shape": args.shape, "device": device, "rows": rows}))


if __name__ == "__main__":
    main()
