"""`rango serve` with a stand-in for the model that can be held: serve_slowly.py PORT GO LOG.

A batch is answered when the file GO is there, and says by GO.begun that it has begun. Only the model is another: the
command, the server, the queue and the log are those that are tested.
"""

from __future__ import annotations

import sys
import time
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class HeldEngine:
    """Gives the same answer to everything, as soon as it may."""

    notes = ()

    go: str

    def __init__(self, model: Any, runs: Any) -> None:  # noqa: ARG002
        self.runs = runs

    def run(self, name: str) -> Any:
        return self.runs[name]

    def prepare(self, request: Any) -> Any:
        return request

    def answer(self, jobs: Sequence[Any]) -> list[dict[str, Any]]:
        Path(f"{self.go}.begun").touch()
        while not Path(self.go).exists():
            time.sleep(0.01)
        answer = {"type": "noul", "noul": 0.5, "confidence": 0.5, "calibrated": False}
        row = {"probability_a": 0.5, "probability_b": 0.5, "decision": "a", "expected_cost": 0.5}
        usage = {"input_tokens": 1, "output_tokens": 0}
        return [
            {"model": job.model, "usage": usage, "answers": dict.fromkeys(job.questions, answer),
             "logged": dict.fromkeys(job.questions, row)}
            for job in jobs
        ]  # fmt: skip


def stand_in(name: str, **contents: Any) -> None:
    module = types.ModuleType(name)
    module.__dict__.update(contents)
    sys.modules[name] = module


if __name__ == "__main__":
    port, HeldEngine.go, log = sys.argv[1:]
    config = types.SimpleNamespace(model="fake", quantise="none", dtype="auto")
    served = types.SimpleNamespace(
        name="slow", entry={"description": "fake"}, predictor=types.SimpleNamespace(config=config)
    )
    # Not where the file is only imported: whoever does that would serve stand-ins from then on.
    stand_in("rango.serving.engine", Engine=HeldEngine)
    stand_in("rango.models.loading", load_model=lambda *_, **__: None)
    stand_in("rango.serving.served_run", read_served=lambda *_: {"slow": served})
    import rango.cli.serve
    from rango.cli import main

    rango.cli.serve.check_source = rango.cli.serve.check_at_hand = lambda *_: None  # type: ignore[assignment]
    sys.exit(main(["serve", "slow", "--port", port, "--log", log]))
