"""What every benchmark says of its machine, and where its line of JSON goes.

    from measuring import conditions, matrix_rate, record

    setting = conditions(dtype=args.dtype, device=args.device, threads=args.threads)  # printed, and kept for the record
    record("training", {**vars(args), **result}, setting)  # benchmarks/results/training.json

Ratios are of two programs in one run; shares are of the rate at which this machine multiplies matrices in the type that
was used. Machines differ by a factor of ten in bfloat16, so `fast_type` measures which type to take, for both sides.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(os.environ.get("BENCHMARK_RESULTS", Path(__file__).parent / "results"))
PACKAGES = ("torch", "transformers", "peft", "trl", "litgpt", "lm_eval", "unsloth", "vllm", "bitsandbytes", "rango-lm")


def synchronise() -> None:
    """Wait for the GPU, where there is one: its work is only queued."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def matrix_rate(dtype: str, device: str) -> float:
    """FLOP/s of a product of the size of a layer's, the best of 10: what the machine can do, not what it did."""
    rows, width = (8192, 8192) if device == "cuda" else (1024, 2048)
    left, right = (
        torch.randn(size, device=device, dtype=getattr(torch, dtype)) for size in ((rows, width), (width, width))
    )
    seconds = []
    for _ in range(10):
        synchronise()
        started = time.perf_counter()
        left @ right
        synchronise()
        seconds.append(time.perf_counter() - started)
    return 2 * rows * width * width / min(seconds)


def fast_type(device: str) -> str:
    """float32 or bfloat16: which of them this machine multiplies faster."""
    return max(("float32", "bfloat16"), key=lambda dtype: matrix_rate(dtype, device))


# FLOP/s of dense bfloat16 by the vendors' data sheets: published shares are of these, which no matrix product reaches.
DATA_SHEET = {"H200": 989e12, "H100": 989e12, "A100": 312e12}


def data_sheet_rate(device: str) -> float | None:
    """The data sheet's rate of this GPU in bfloat16, where it is known."""
    name = torch.cuda.get_device_name() if device == "cuda" else ""
    return next((rate for part, rate in DATA_SHEET.items() if part in name), None)


def machine(device: str) -> str:
    """The processor or the GPU by name, with what decides its speed."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    kinds = {"avx2", "avx512f", "avx512_bf16", "amx_bf16"} & set(facts.get("flags", "").split())
    return f"{facts.get('model name', platform.machine())}, {os.cpu_count()} cores, {' '.join(sorted(kinds))}"


def conditions(*, dtype: str, device: str, threads: int | None = None) -> dict[str, Any]:
    """What a figure depends on beside the program: printed in one line, and part of the record."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    setting = {
        "machine": machine(device),
        "device": device,
        "dtype": dtype,
        "threads": threads or torch.get_num_threads(),
        "matrix_gflops": round(matrix_rate(dtype, device) / 1e9),
        "load": round(os.getloadavg()[0], 1),
        "versions": versions,
    }
    print(
        f"{setting['machine']}; {dtype}, {setting['threads']} threads, load {setting['load']} before; "
        f"{setting['matrix_gflops']} GFLOP/s in a product of matrices; "
        + ", ".join(f"{package} {version}" for package, version in versions.items())
    )
    return setting


def record(name: str, result: dict[str, Any], setting: dict[str, Any], *, folder: Path = RESULTS) -> None:
    """Print the result as one line of JSON, with conditions, date and commit, and append it to `folder/name.json`."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=Path(__file__).parent, capture_output=True, text=True
    )
    when = {"benchmark": name, "date": time.strftime("%Y-%m-%d"), "commit": described.stdout.strip()}
    line = json.dumps({**when, **setting, **result}, default=str)
    print(line)
    folder.mkdir(exist_ok=True)
    with (folder / f"{name}.json").open("a") as file:
        file.write(line + "\n")
