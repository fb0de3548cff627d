"""Processes of one run: started by torchrun, or as torchrun starts them from a server that imports once."""

from __future__ import annotations

import multiprocessing
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from rango.training.distributed import launched

SOURCE = Path(__file__).resolve().parents[2] / "src"


def torchrun(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a file or `-m MODULE` in two processes of torchrun, which imports everything three times over."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *arguments]
    paths = [str(SOURCE), str(Path(__file__).parents[1])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    return subprocess.run(  # the limit is for a hang: it must not be waited for
        [str(part) for part in command], env=environment, capture_output=True, text=True, timeout=240, check=False
    )


def start(work: Callable[..., None], size: int, *arguments: object, limit: float = 120) -> list[int | None]:
    """Do `work(*arguments, group, device)` in `size` processes; returns their exit codes, None for one that hung."""
    context = multiprocessing.get_context("forkserver")
    # What takes seconds to import; before Python 3.13 the server does not see the path of the tests.
    context.set_forkserver_preload(["rango.training.finetune", "rango.training.sharding", "transformers.models.auto"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [
        context.Process(target=_process, args=(work, rank, size, port, arguments), daemon=True) for rank in range(size)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(limit)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    return codes


def _process(work: Callable[..., None], rank: int, size: int, port: int, arguments: tuple[object, ...]) -> None:
    variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in variables.items()}, MASTER_ADDR="127.0.0.1")
    torch.set_num_threads(1)
    with launched("cpu") as (group, device):
        work(*arguments, group, device)
