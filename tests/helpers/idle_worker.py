"""A worker process that has nothing to do, and imports nothing that takes long."""

from __future__ import annotations

import signal
from pathlib import Path


def run_worker(path: str, _number: int, _count: int, _parent: int) -> None:
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    (Path(path) / "blocked").write_text(" ".join(signal.Signals(number).name for number in blocked))
