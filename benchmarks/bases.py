"""Memory and speed of training on a base in several types and bits, with and without gradient checkpointing.

    python benchmarks/bases.py [--shape small|phi-2|mistral-7b] [--model FOLDER] [--bases float32 bfloat16 int8 nf4]
                               [--tokens 256] [--instances 8] [--steps 5] [--checkpointing off|on|both]
                               [--programs rango peft unsloth]

LoRA of rank 8 on q and v of a network with random weights, `--instances` sequences of `--tokens` tokens in each step,
loaded and stepped as a run does, with a loss on every token. Beside it the same network and sequences trained by PEFT
and transformers' Trainer, for nf4 with bitsandbytes' own layers, and by Unsloth where it is installed. The base
`offload` keeps the layers in main memory (`--offload` of the commands; Rango alone has it). Each row is a
process of its own: memory is the peak of what torch has allocated on a GPU, and without one the peak of the process
beyond what it had before the model. Tokens/s are of the median step after one to warm up. Share: 4 FLOP a token for
each weight of layers and head, against the rate of a product of matrices here, and on a GPU that of its data sheet.
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

# Unsloth replaces parts of transformers, which it can only do before they are imported.
if "unsloth" in sys.argv[-3:]:
    import unsloth  # noqa: F401

import torch
from measuring import conditions, data_sheet_rate, record, synchronise
from memory import largest_resident_set
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PhiConfig,
    PreTrainedTokenizerFast,
)

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
    from functools import partial

    from rango.models.adapter import add_bank
    from rango.models.loading import load_model
    from rango.options import FinetuneConfig
    from rango.scoring.probe import probe_reader
    from rango.scoring.trees import TokenTree
    from rango.training.distributed import launched
    from rango.training.run_writer import RunWriter
    from rango.training.sharding import load_sharded
    from rango.training.trainer import accumulate_gradients
    from rango.training.training_run import BankData, TrainingRun

    quantise = base if base in ("int8", "nf4") else "none"
    dtype = base if base in ("float32", "bfloat16") else "bfloat16" if CUDA else "float32"
    settings = {"model": "random", "task": "none", "dtype": dtype, "quantise": quantise, "objective": "tokens"}
    config = FinetuneConfig.build({**settings, "steps": args.steps, "gradient_checkpointing": checkpointing})
    offload = base == "offload"
    with launched("auto", alone=offload) as (alone, device):
        load = partial(load_model, args.folder, dtype=config.dtype, quantise=config.quantise)
        model = load_sharded(load, device, alone, offload=True) if offload else load()
        reader = probe_reader(model)
        (adapter,) = add_bank(model, [(config.lora, 0)])
        trees = [TokenTree(str(n), tuple(ids[:-1]), ((ids[-1],),), (1,), 0) for n, ids in enumerate(sequences(args))]
        data = BankData(reader, "cloze", trees, trees, ())
        run = TrainingRun("run", config, adapter, RunWriter(args.folder, {}), data)
        seconds = []
        for _ in range(args.steps + 1):
            started = time.perf_counter()
            (loss,) = accumulate_gradients(reader, [run], [trees])
            run.update(loss, trees)
            synchronise()
            seconds.append(time.perf_counter() - started)
    return seconds


def train_with_peft(args: argparse.Namespace, base: str, checkpointing: bool) -> list[float]:
    """Seconds of each step of PEFT and transformers' Trainer on the same sequences."""
    import peft
    from transformers import BitsAndBytesConfig

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
    return train_with_trainer(args, network, checkpointing)


def train_with_unsloth(args: argparse.Namespace, base: str, checkpointing: bool) -> list[float]:
    """Seconds of each step of Unsloth's network in transformers' Trainer."""
    from unsloth import FastLanguageModel

    network, _ = FastLanguageModel.from_pretrained(
        str(args.folder), max_seq_length=args.tokens, dtype=torch.bfloat16, load_in_4bit=base == "nf4"
    )
    network = FastLanguageModel.get_peft_model(
        network,
        r=8,
        lora_alpha=16,
        lora_dropout=0.0,
        target_modules=["q_proj", "v_proj"],
        use_gradient_checkpointing="unsloth" if checkpointing else False,
    )
    return train_with_trainer(args, network, checkpointing)


def train_with_trainer(args: argparse.Namespace, network: Any, checkpointing: bool) -> list[float]:
    """Seconds of each step of transformers' Trainer."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    rows = [{"input_ids": ids, "labels": ids} for ids in sequences(args)]
    seconds: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.started = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            synchronise()
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


PROGRAMS = {"rango": train_with_rango, "peft": train_with_peft, "unsloth": train_with_unsloth}


def measure(args: argparse.Namespace, program: str, base: str, checkpointing: bool) -> dict[str, Any]:
    """One row, in this process."""
    before = 0.0 if CUDA else megabytes()
    seconds = statistics.median(PROGRAMS[program](args, base, checkpointing)[1:])
    return {
        "program": program,
        "base": base,
        "gradient_checkpointing": checkpointing,
        "megabytes": round(megabytes() - before),
        "tokens_per_second": round(args.instances * args.tokens / seconds),
    }


def flop_per_token(folder: str) -> float:
    """4 for each weight of layers and head: forward, and the gradient of what it read."""
    with torch.device("meta"):
        network: Any = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    inside = sum(p.numel() for name, p in network.named_parameters() if p.ndim == 2 and ".layers." in name)
    return 4.0 * (inside + network.get_output_embeddings().weight.numel())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--model", help="a checkpoint instead of random weights of a shape")
    parser.add_argument("--bases", nargs="+", default=["float32", "bfloat16", "int8", "nf4"])
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--instances", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--checkpointing", choices=["off", "on", "both"], default="both")
    parser.add_argument("--programs", nargs="+", choices=list(PROGRAMS), default=["rango"])
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--row", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.row:
        base, checkpointing, program = args.row
        print(json.dumps(measure(args, program, base, checkpointing == "True")))
        return
    device = "cuda" if CUDA else "cpu"
    setting = conditions(dtype="bfloat16" if CUDA else "float32", device=device)
    rows = []
    with tempfile.TemporaryDirectory() as written:
        folder = args.model or written
        if args.model is None:
            write_model(Path(folder), args.shape)
        flop, sheet = flop_per_token(folder), data_sheet_rate(device)
        print("program  base      checkpointing      MB  tokens/s    share  of the data sheet")
        for base in args.bases:
            for program in args.programs if base != "offload" else ["rango"]:
                for checkpointing in {"off": (False,), "on": (True,), "both": (False, True)}[args.checkpointing]:
                    row = ["--row", base, str(checkpointing), program]
                    command = [sys.executable, *sys.argv, "--folder", folder, *row]
                    done = subprocess.run(command, capture_output=True, text=True, check=False)
                    name = f"{program:8} {base:9} {checkpointing!s:13}"
                    if done.returncode:
                        print(f"{name} failed: {done.stderr.strip().splitlines()[-1]}", flush=True)
                        continue
                    figures = json.loads(done.stdout.splitlines()[-1])
                    used = flop * figures["tokens_per_second"]
                    figures["share"] = round(used / (1e9 * setting["matrix_gflops"]), 3)
                    figures["share_of_data_sheet"] = None if sheet is None else round(used / sheet, 3)
                    rows.append(figures)
                    print(
                        f"{name} {figures['megabytes']:7} {figures['tokens_per_second']:9} {figures['share']:8} "
                        f"{figures['share_of_data_sheet']}",
                        flush=True,
                    )
    options = {key: getattr(args, key) for key in ("shape", "model", "tokens", "instances", "steps")}
    record("bases", {**options, "rows": rows}, setting)


if __name__ == "__main__":
    main()
