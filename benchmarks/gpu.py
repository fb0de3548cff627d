"""Everything that is asked of a GPU, in one call of less than ten minutes: Phi-2's shape with random weights, bfloat16.

    python benchmarks/gpu.py [--out FOLDER] [--data DIR] [--only NAME ...] [--seconds 570]
    python benchmarks/gpu.py --rehearse      # every part on a CPU, in small

Each part is a command of its own with a limit of seconds, so that one that fails or hangs costs no other its turn. What
the parts print is in `FOLDER/gpu.log` as it comes, with how each ended; figures are lines of JSON in a file for each
benchmark. Parts stand in the order of what is wanted most. Peers that are not installed are left out: TRL, LitGPT and
lm-evaluation-harness (`make bench-peers`), Unsloth.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

HERE = Path(__file__).parent


def parts(args: argparse.Namespace, folder: str) -> dict[str, tuple[int, list[str]]]:
    """For each part the seconds it may take and its command, without the Python."""
    have = {name for name in ("trl", "litgpt", "lm_eval", "unsloth") if importlib.util.find_spec(name)}
    small = args.rehearse
    device, dtype = ("cpu", "float32") if small else ("cuda", "bfloat16")
    where = ["--device", device, "--dtype", dtype]
    data = ["--task", "socialiqa", "--data", str(args.data / "socialiqa")] if args.data else []
    programs = ["rango", "peft", *(["unsloth"] if "unsloth" in have else [])]
    sides = ["trainer", *sorted(have & {"trl", "litgpt"})]
    # The longest sequences fill the card: there the share of its rate is asked; four of them are 16,384 tokens a step.
    length = ["--tokens", "64" if small else "4096", "--instances", "2" if small else "4"]
    steps = ["--steps", "2" if small else "5"]
    rounds = ["--rounds", "1" if small else "5", "--steps", "2" if small else "12", "--warm-up", "1" if small else "6"]
    bases = ["bases.py", "--model", folder, *steps, "--programs", *programs, "--bases"]
    seven = ["bases.py", *(bases[1:3] if small else ["--shape", "mistral-7b"]), *bases[3:]]
    training = ["training_peers.py", "--model", folder, *data, *where, *rounds]
    compiled = ["default"] if small else ["default", "reduce-overhead"]
    bank = ["bank.py", "--runs", "8", "--model", folder, *where, "--steps", "2" if small else "10"]
    harness = ["--harness", sys.executable, "--data", str(args.data), "--rounds", "2", "--whole-rounds", "0"]
    harness += ["--instances", "20"] if small else ["--batch-size", "256"]
    planned = {
        "long": (120, [*bases, "float32" if small else "bfloat16", *length, "--checkpointing", "off"]),
        "short": (150, [*training, "--objectives", "choice", "answer", "--sides", *sides]),
        "compiled": (90, [*training, "--objectives", "choice", "--sides", "--compiled", *compiled]),
        "bank": (60, [*bank, "--batch", "2" if small else "16"]),
        "scoring": (90, ["scoring.py", "--model", folder, *where, *harness]),
        "nf4": (120, [*bases, "nf4", "offload", "--tokens", "64" if small else "512", "--checkpointing", "off"]),
        "memory": (60, ["memory.py", "--device", device, "--only", "phi tiny" if small else "lora q,v"]),
        "seven": (120, [*seven, "nf4", "--tokens", "64" if small else "512", "--checkpointing", "off"]),
        "studies": (200, ["studies.py", "--device", device]),
    }
    if small:
        planned["studies"][1].extend(
            ["--steps", "2", "--train", "40", "--test", "20", "--pretrain-tokens", "4000", "--hidden", "16"]
        )
    if not args.data or "lm_eval" not in have:
        del planned["scoring"]
    return planned


def write_model(folder: Path, small: bool) -> None:
    """A Phi of random weights with a tokenizer made from the words of a task, which every part reads."""
    import torch
    from bases import SHAPES
    from training import write_model as write_small
    from transformers import AutoModelForCausalLM, PhiConfig

    from rango.tasks import load_task

    write_small(folder, load_task("simulated", train=1000, validation=20, test=20))
    tiny = PhiConfig(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4)
    torch.manual_seed(0)
    with torch.device("cpu" if small else "cuda"):
        network = AutoModelForCausalLM.from_config(tiny if small else SHAPES["phi-2"], dtype=torch.bfloat16)
    network.save_pretrained(folder)


def run(command: list[str], log: IO[str], seconds: float) -> str:
    """How a part ended; it and all that it started are over by then."""
    process = subprocess.Popen(
        [sys.executable, "-u", *command], stdout=log, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        code = process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return f"stopped after {seconds:.0f} s"
    return "done" if code == 0 else f"failed with exit code {code}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"))
    parser.add_argument("--data", type=Path, help="a folder with the tasks' data; else the simulated task is read")
    parser.add_argument("--only", nargs="+", help="parts to run; all without it")
    parser.add_argument("--seconds", type=float, default=570.0, help="for everything, the model's writing included")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, in small and without the parts' limits")
    args = parser.parse_args()
    started = time.monotonic()
    args.out.mkdir(parents=True, exist_ok=True)
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "BENCHMARK_RESULTS": str(args.out)}
    with tempfile.TemporaryDirectory() as folder, (args.out / "gpu.log").open("w") as log:

        def say(line: str) -> None:
            print(line, flush=True)
            log.write(f"== {line}\n")
            log.flush()

        write_model(Path(folder), args.rehearse)
        planned = {name: each for name, each in parts(args, folder).items() if not args.only or name in args.only}
        say(f"model written after {time.monotonic() - started:.0f} s; parts: {', '.join(planned)}")
        for name, (limit, command) in planned.items():
            rest = args.seconds - (time.monotonic() - started)
            if rest < 20:
                say(f"{name}: no time left")
                continue
            began = time.monotonic()
            say(f"{name}: {' '.join(command)}")
            ended = run([str(HERE / command[0]), *command[1:]], log, rest if args.rehearse else min(limit, rest))
            say(f"{name}: {ended} after {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
